"""Histories as gathers: a window is cut per batch from the per-user index, so memory stays O(N) whatever its length."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from braidrec.data.log import InteractionLog
from braidrec.errors import DataError
from braidrec.files import mapped
from braidrec.progress import progress


@dataclass(frozen=True)
class History:
    """What a batch of B users did before.  All (B, K), padded on the right; padded slots hold row 0 and False.

    items int32 catalogue rows    signals int32 rows of the rating or label    mask bool, True on real behaviours
    Order: oldest first (`RecentHistory`), most similar first (`SemanticHistory`).
    """

    items: Tensor
    signals: Tensor
    mask: Tensor

    @property
    def slots(self) -> Tensor:
        """Items of the batch's histories, each slot of them once."""
        return self.items

    @property
    def runs(self) -> tuple[Run, ...]:
        """None here: every sample has a history of its own."""
        return ()

    def shared(self, count: int) -> SharedHistory:
        """Of one history (1, K): the same window for ``count`` samples."""
        window = self.mask.sum(dim=1).clamp_min(1)
        rows = torch.arange(count)[None]
        run = Run(
            self.items[:, : int(window)],
            self.signals[:, : int(window)],
            rows,
            torch.zeros_like(rows),
            self.mask.sum(dim=1, keepdim=True).expand(1, count),
        )
        same = torch.zeros(count, dtype=torch.int64)
        return SharedHistory((run,), rows[0], same.int(), same[:1], same, self.items.shape[1])


@dataclass(frozen=True)
class Run:
    """G windows of V events at most, each read by T consecutive targets of its user at most.

    items, signals (G, V) int32, padded on the right with 0    rows (G, T) int64 rows of the batch, the first in place of none
    first, last (G, T) int64: a target reads events first .. last - 1 of its window, none where last = first
    """

    items: Tensor
    signals: Tensor
    rows: Tensor
    first: Tensor
    last: Tensor

    @cached_property
    def band(self) -> Tensor:
        """(G, T, V) bool: what each target reads."""
        steps = torch.arange(self.items.shape[1], device=self.items.device)
        return (steps >= self.first[:, :, None]) & (steps < self.last[:, :, None])


@dataclass(frozen=True)
class SharedHistory:
    """The same histories, cut once for all targets of a user that stand together: T targets read T + K events, not T x K.

    runs: by their number of targets, so that short ends are padded to their like
    place (B,) int64: where each row stands among the targets of all runs, padded ones counted    user (B,) int32 whose it is
    leaders (R,) int64: the first row of every run    run_of (B,) int64: which of them leads each row
    `items`, `signals` and `mask` are those of a `History`, gathered when asked for.
    """

    runs: tuple[Run, ...]
    place: Tensor
    user: Tensor
    leaders: Tensor
    run_of: Tensor
    length: int

    @property
    def slots(self) -> Tensor:
        return torch.cat([run.items.flatten() for run in self.runs])

    @property
    def items(self) -> Tensor:
        return self.gathered(self.slots)

    @property
    def signals(self) -> Tensor:
        return self.gathered(torch.cat([run.signals.flatten() for run in self.runs]))

    @property
    def mask(self) -> Tensor:
        return self._gather[1]

    def gathered(self, slots: Tensor) -> Tensor:
        """(B, K) from what stands in the `slots` (S,) of all runs; 0 where padded."""
        places, mask = self._gather
        return slots[places] * mask

    @cached_property
    def windows(self) -> Windows:
        """Rows that begin at one event share a window, which ends with the latest of them."""
        begin, end = self._bounds
        first, of = begin.unique(return_inverse=True)
        longest = torch.zeros_like(first).scatter_reduce(0, of, end - begin, "amax")
        return Windows(first, longest, of)

    @cached_property
    def _bounds(self) -> tuple[Tensor, Tensor]:
        """(B,) each: the first of the `slots` that a row reads, and the one behind its last."""
        begins, ends, base = [], [], 0
        for run in self.runs:
            windows, width = run.items.shape
            at = base + width * torch.arange(windows, device=run.items.device)[:, None]
            begins.append((at + run.first).flatten())
            ends.append((at + run.last).flatten())
            base += windows * width
        return torch.cat(begins)[self.place], torch.cat(ends)[self.place]

    @cached_property
    def _gather(self) -> tuple[Tensor, Tensor]:
        """(B, K) each: slots, 0 where padded, and whether there is one."""
        begin, end = (bound[:, None] for bound in self._bounds)
        places = begin + torch.arange(self.length, device=begin.device)
        mask = places < end
        return places * mask, mask


@dataclass(frozen=True)
class Windows:
    """The W distinct histories of a batch of shared ones, each read by rows that take all of it or only its beginning.

    begin (W,) int64: among the `SharedHistory.slots`    length (W,) int64: of the longest
    of (B,) int64: which each row reads
    """

    begin: Tensor
    length: Tensor
    of: Tensor


TARGETS = 32  # that share a window: more read fewer events each, and compare themselves with more that are not theirs


class RecentHistory:
    """The last ``length`` events before a sample (DisCo, section 4.1: 30).

    run: how many samples of one user follow one another in training; from 2 on histories come as `SharedHistory`
    """

    kind = "recent"

    def __init__(self, log: InteractionLog, length: int, run: int = 1):
        self.length, self.run = length, run
        self._user, self._rank = torch.from_numpy(log.user), torch.from_numpy(log.past)
        self._start = torch.from_numpy(log.start)
        self._item, self._signal = torch.from_numpy(log.slot_item), torch.from_numpy(log.slot_signal)
        self._steps = torch.arange(length)

    def before(self, positions: Tensor) -> History | SharedHistory:
        """Histories of the events at ``positions`` (B,) int64."""
        cut = self.window if self.run == 1 else self.shared
        return cut(self._user[positions], self._rank[positions])

    def ends(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Whose the events at ``positions`` (n,) are, and how many of that user's first events come before: (n,) int32 each."""
        return self._user[positions], self._rank[positions]

    def window(self, users: Tensor, ends: Tensor) -> History:
        """The last events among the first ``ends`` (B,) of each of ``users`` (B,) catalogue rows."""
        ends = ends.long()
        first = (ends - self.length).clamp_min(0)
        mask = self._steps < (ends - first)[:, None]
        slots = (self._start[users.long()] + first)[:, None] + self._steps
        slots *= mask  # slot 0 is padding
        flat = slots.view(-1)
        return History(
            self._item.index_select(0, flat).view(slots.shape), self._signal.index_select(0, flat).view(slots.shape), mask
        )

    def shared(self, users: Tensor, ends: Tensor) -> SharedHistory:
        """The same histories (B,), in windows of rows of one user that stand together, ``ends`` not falling.

        A window's targets end within `TARGETS` events of each other (or a fourth of ``length``, where that is more).
        """
        users, ends = users.long(), ends.long()
        reach = max(TARGETS, self.length // 4)
        breaks = torch.ones(len(users), dtype=torch.bool)
        breaks[1:] = (users[1:] != users[:-1]) | (ends[1:] < ends[:-1])
        begin = breaks.nonzero().squeeze(1)
        apart = (ends - ends[begin[breaks.cumsum(0) - 1]]) // reach
        breaks[1:] |= apart[1:] != apart[:-1]
        begin = breaks.nonzero().squeeze(1)
        count = torch.diff(begin, append=torch.tensor([len(users)]))
        low = (ends[begin] - self.length).clamp_min(0)
        span = ends[begin + count - 1] - low
        sizes = (count.double().log2() / 2).ceil().long()  # up to 1, 4, 16, 64 targets: each size costs a handful of calls
        place, runs, base = torch.empty_like(users), [], 0
        for size in sizes.unique().tolist():
            own = (sizes == size).nonzero().squeeze(1)
            first_row, low_own = begin[own][:, None], low[own][:, None]
            steps = torch.arange(int(count[own].max()))
            real = steps < count[own][:, None]
            rows = torch.where(real, first_row + steps, first_row)
            place[rows[real]] = base + real.flatten().nonzero().squeeze(1)
            base += rows.numel()
            across = torch.arange(max(int(span[own].max()), 1))
            slots = (self._start[users[first_row]] + low_own + across) * (across < span[own][:, None])  # slot 0 is padding
            last = torch.where(real, ends[rows] - low_own, 0)
            first = (last - self.length).clamp_min(0)
            flat = slots.flatten()
            items, signals = (part.index_select(0, flat).view(slots.shape) for part in (self._item, self._signal))
            runs.append(Run(items, signals, rows, first, last))
        return SharedHistory(tuple(runs), place, users.int(), begin, breaks.cumsum(0) - 1, self.length)


class SemanticHistory:
    """The ``length`` earlier events most similar in meaning to the candidate (what DisCo's released loader does).

    slots (N, K) int32: for each event the slots of the log's per-user index, 0 where there are fewer, usually a memory map.
    """

    kind = "semantic_topk"
    run = 1

    def __init__(self, log: InteractionLog, slots: NDArray[np.int32]):
        if len(slots) != len(log):
            raise DataError(f"semantic history: prepared for {len(slots):,} events, the log has {len(log):,}; prepare it again")
        self.length = slots.shape[1]
        self._slots = torch.from_numpy(slots)
        self._item, self._signal = torch.from_numpy(log.slot_item), torch.from_numpy(log.slot_signal)

    def before(self, positions: Tensor) -> History:
        slots = self._slots[positions]
        flat = slots.view(-1)
        return History(
            self._item.index_select(0, flat).view(slots.shape),
            self._signal.index_select(0, flat).view(slots.shape),
            slots > 0,
        )


HistorySource = RecentHistory | SemanticHistory

_BLOCK = 16_384  # rows at a time where a copy of all of them would be made
_STEPS = 1 << 20  # of similarity between 0 and 1
_LATER = -(1 << 62)  # below the key of every earlier event


@dataclass(frozen=True)
class Principal:
    """rows (I + 1, p) of length 1, row 0 zero    centre (S,) mean vector
    components (p, S), shift (p,): the projection and what it takes off; None where rows are no narrower than vectors
    """

    rows: NDArray[np.float32]
    centre: NDArray[np.float32]
    components: NDArray[np.float32] | None = None
    shift: NDArray[np.float32] | None = None


def principal(vectors: NDArray[np.float16] | NDArray[np.float32], width: int = 512) -> Principal:
    """Item vectors (I + 1, S) after PCA to at most ``width`` and scaling to length 1.

    Fitted on the item table alone: no label or interaction enters.  Besides what it returns it holds one float32 copy of
    ``vectors`` where there is a PCA, and none where there is not.
    """
    centred = vectors[1:].astype(np.float32) if vectors.shape[1] > width else None
    rows = np.zeros((len(vectors), vectors.shape[1] if centred is None else min(width, len(centred))), np.float32)
    components = shift = None
    body = found = rows[1:]
    if centred is None:
        body[...] = vectors[1:]
        centre = body.mean(axis=0)
        body -= centre
    else:
        from sklearn.decomposition import PCA

        centre = centred.mean(axis=0)
        centred -= centre
        own = PCA(n_components=body.shape[1], random_state=0, copy=False)
        found = own.fit_transform(centred)
        components, shift = own.components_, (own.mean_[None] @ own.components_.T)[0]
    for first in range(0, len(body), _BLOCK):
        part = found[first : first + _BLOCK]
        body[first : first + _BLOCK] = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
    return Principal(rows, centre, components, shift)


def principal_directions(vectors: NDArray[np.float32], width: int = 512) -> NDArray[np.float32]:
    """The rows of `principal`."""
    return principal(vectors, width).rows


def build_semantic_slots(
    log: InteractionLog, vectors: NDArray[np.float32], length: int, path: Path, *, show_progress: bool = True
) -> None:
    """Write the (N, length) int32 memory map behind `SemanticHistory` to ``path`` (.npy).

    vectors: (I + 1, p) rows of length 1.  Similarities (dot products, summed in double precision) are rounded to steps of
    2^-20; of equal ones the more recent event comes first, so the result does not depend on how the arithmetic was blocked.
    Work is per user and blocked by rows, so memory is bounded by ``block x longest history`` numbers.
    """
    slots = mapped(path, (len(log), length), "int32")
    block = 1024
    with progress("similar histories", len(log), "events", show=show_progress) as advance:
        for user in np.flatnonzero(log.history_length > 0):
            low, high = int(log.start[user]), int(log.start[user + 1])
            items = log.slot_item[low:high]
            own = torch.from_numpy(vectors[items]).double()
            for begin in range(0, high - low, block):
                end = min(begin + block, high - low)
                columns = torch.arange(end)
                past = torch.from_numpy(log.past[log.slot_event[low + begin : low + end]])
                # one whole number per pair, all distinct: the rounded similarity above, the time below
                keys = (own[begin:end] @ own[:end].T).mul_(_STEPS).round_().long().mul_(1 << 32).add_(columns)
                keys.masked_fill_(columns >= past[:, None], _LATER)
                best = keys.topk(min(length, end), dim=1)
                chosen = torch.where(best.values == _LATER, 0, low + best.indices).to(torch.int32)
                slots[log.slot_event[low + begin : low + end], : chosen.shape[1]] = chosen.numpy()
            advance(high - low)
    slots.flush()
