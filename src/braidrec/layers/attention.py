"""Attention of one candidate over a history of K behaviours, written so that a history is never copied as a whole.

`Behaviours` are a batch's histories over a table of its distinct items: `PerSample` where every sample has its own, `PerRun`
where targets of a user share a window, which is then read once for all of them.  Both give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from braidrec.data.history import History, SharedHistory
from braidrec.layers.hashing import own_buckets, run_buckets
from braidrec.layers.kept import ANEW, Anew
from braidrec.layers.mlp import BatchNorm, initialise


def gather(table: Tensor, index: Tensor) -> Tensor:
    """Rows of ``table`` (n, W) at ``index`` (B, K) -> (B, K, W).  Its backward pass is one indexed sum."""
    return table.index_select(0, index.reshape(-1)).view(*index.shape, table.shape[1])


def masked_softmax(logits: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Softmax over the entries where ``mask`` is True; a row without any gives zeros, never NaN."""
    empty = ~mask.any(dim=dim, keepdim=True)
    return logits.masked_fill(~mask, -torch.inf).masked_fill(empty, 0.0).softmax(dim=dim) * mask


_BLOCK = 1 << 18  # gathered floats worked on at a time: 1 MiB, which stays in a core's cache


class _Attend(torch.autograd.Function):
    """Softmax attention over gathered rows that never holds the gathered history as a whole.

    With X = table[index], A = softmax(Q X^T) over K and P = A X:  dS = A * (dA - sum_K A dA), dA = dP X^T + dA_out,
    dX = A^T dP + dS^T Q (one product of the joined factors), dQ = dS X.  Both passes walk the batch in blocks that fit
    the cache; the backward pass gathers again, which costs less than keeping B x K x W floats and reading them back.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, queries: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        pooled, weights = torch.empty_like(queries), queries.new_empty(len(index), queries.shape[1], index.shape[1])
        full = bool(mask.all())
        for at in _blocks(index, table.shape[1]):
            items = gather(table, index[at])
            scores = queries[at] @ items.transpose(1, 2)
            weights[at] = scores.softmax(dim=2) if full else masked_softmax(scores, mask[at, None, :], dim=2)
            torch.bmm(weights[at], items, out=pooled[at])
        ctx.save_for_backward(table, index, queries, weights)
        return pooled, weights

    @staticmethod
    def backward(ctx: Any, grad_pooled: Tensor, grad_weights: Tensor) -> tuple[Tensor, None, Tensor, None]:
        table, index, queries, weights = ctx.saved_tensors
        grad_table, grad_queries = torch.zeros_like(table), torch.empty_like(queries)
        sides = torch.cat([grad_pooled, queries], dim=1)  # (B, 2H, W), what dX is made of
        for at in _blocks(index, table.shape[1]):
            items, own = gather(table, index[at]), weights[at]
            scores = torch.baddbmm(grad_weights[at], grad_pooled[at], items.transpose(1, 2))
            scores.sub_((own * scores).sum(dim=2, keepdim=True)).mul_(own)
            grad_items = torch.cat([own, scores], dim=1).transpose(1, 2) @ sides[at]
            grad_table.index_add_(0, index[at].reshape(-1), grad_items.flatten(0, 1))
            torch.bmm(scores, items, out=grad_queries[at])
        return grad_table, None, grad_queries, None


def _blocks(index: Tensor, width: int) -> Iterator[slice]:
    """Runs of samples whose gathered history holds about `_BLOCK` floats."""
    count, step = len(index), max(1, _BLOCK // max(index.shape[1] * width, 1))
    return (slice(at, min(at + step, count)) for at in range(0, count, step))


def attend(table: Tensor, index: Tensor, queries: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """H heads of softmax attention over histories.

    table (n, W) distinct items, index (B, K) int64 into them, queries (B, H, W), mask (B, K) bool
    -> pooled (B, H, W), weights (B, H, K) that sum to 1 over K (to 0 where the mask is empty).
    Padded places take no part, whatever row they point to, as long as it is finite.
    """
    with torch.autocast(table.device.type, enabled=False):
        pooled, weights = _Attend.apply(table.float(), index, queries.float().contiguous(), mask)
    return pooled, weights


@dataclass(frozen=True)
class Attended:
    """What H heads made of B histories: behaviours pooled (B, H, w), and how much weight each signal got (B, H, R + 1).

    weights: (B, H, K) of the single behaviours, zero where padded, made when asked for
    side_by_side: (B, H, w + R + 1) both, where they were made so
    """

    pooled: Tensor
    by_signal: Tensor
    weights: Callable[[], Tensor]
    side_by_side: Tensor | None = None

    @property
    def both(self) -> Tensor:
        """(B, H, w + R + 1)"""
        return torch.cat([self.pooled, self.by_signal], dim=2) if self.side_by_side is None else self.side_by_side


@dataclass(frozen=True)
class Sequences:
    """The W distinct histories of a batch, for what goes through them in order: samples that begin at one event share one.

    index (W, K) int64 into the table, 0 behind the end    length (W,) int64
    of (B,) int64: which each sample reads the beginning of; None where each has its own, in their order
    """

    index: Tensor
    length: Tensor
    of: Tensor | None


class Behaviours(Protocol):
    """The histories of a batch.  index (B, K) int64 into the table, mask (B, K) bool, signals (B, K) int, per sample.

    user (B,) int: whose rows they are, where rows of one user stand together, so that what pairs rows across a batch can take
    partners from other users; None where they are drawn at random
    some (B,) bool: whether there is any behaviour    num_signals: R
    """

    @property
    def num_signals(self) -> int: ...

    @property
    def index(self) -> Tensor: ...

    @property
    def mask(self) -> Tensor: ...

    @property
    def signals(self) -> Tensor: ...

    @property
    def user(self) -> Tensor | None: ...

    @property
    def some(self) -> Tensor: ...

    @property
    def sequences(self) -> Sequences: ...

    def attend(self, rows: Tensor, queries: Tensor, parts: Sequence[int] = ()) -> Attended:
        """Softmax attention of queries (B, H, w) over what ``rows`` (n, W) of the table say of each behaviour.

        parts: which of the W / w stretches of a row each head reads; without them w = W
        """
        ...

    def mean(self, rows: Tensor) -> Attended:
        """Every behaviour with the same weight: H = 1."""
        ...

    def bucketed(self, rows: Tensor, codes: Tensor, asked: Tensor, buckets: int) -> tuple[Tensor, Tensor]:
        """Of the behaviours whose code is the sample's, in each of G groups: the mean direction of their sums, and the mean
        shares of their signals; see `braidrec.layers.hashing`.

        rows (n, W) and codes (n, G) int64 below ``buckets`` of the table, asked (B, G) of the samples -> (B, W), (B, R + 1)
        """
        ...


def behaviours(history: History | SharedHistory, index: Tensor, num_signals: int) -> Behaviours:
    """index: into the table, of the history's slots, in their shape."""
    if isinstance(history, History):
        return PerSample(index, history.mask, history.signals, num_signals)
    sizes = [run.items.numel() for run in history.runs]
    at = [own.view(run.items.shape) for own, run in zip(index.split(sizes), history.runs, strict=True)]
    return PerRun(history, at, index, num_signals)


def weights_by_signal(signals: Tensor, weights: Tensor, num_signals: int) -> Tensor:
    """How much of ``weights`` (..., H, K) each of few signals (..., K) got: (..., H, R + 1)."""
    hot = weights.new_zeros(*signals.shape, num_signals + 1).scatter_(-1, signals.long()[..., None], 1.0)
    return weights @ hot


@dataclass(frozen=True)
class PerSample:
    """Every sample has its own history: index, mask, signals (B, K)."""

    index: Tensor
    mask: Tensor
    signals: Tensor
    num_signals: int
    user: Tensor | None = None

    @property
    def some(self) -> Tensor:
        return self.mask.any(dim=1)

    @property
    def sequences(self) -> Sequences:
        return Sequences(self.index, self.mask.sum(dim=1), None)

    def attend(self, rows: Tensor, queries: Tensor, parts: Sequence[int] = ()) -> Attended:
        if not parts:
            return self._attended(*attend(rows, self.index, queries, self.mask))
        heads, width = list(range(len(parts))), queries.shape[2]
        placed = queries.new_zeros(len(queries), len(parts), rows.shape[1] // width, width)
        placed[:, heads, list(parts)] = queries  # each head reads its own stretch and sees zeros elsewhere
        pooled, weights = attend(rows, self.index, placed.flatten(2), self.mask)
        return self._attended(pooled.unflatten(2, (-1, width))[:, heads, list(parts)], weights)

    def mean(self, rows: Tensor) -> Attended:
        weights = (self.mask / self.mask.sum(dim=1, keepdim=True).clamp_min(1))[:, None]
        return self._attended(weights @ gather(rows, self.index), weights)

    def bucketed(self, rows: Tensor, codes: Tensor, asked: Tensor, buckets: int) -> tuple[Tensor, Tensor]:
        return own_buckets(rows, codes, asked, self.index, self.mask, self.signals, self.num_signals)

    def _attended(self, pooled: Tensor, weights: Tensor) -> Attended:
        return Attended(pooled, weights_by_signal(self.signals, weights, self.num_signals), lambda: weights)


@dataclass(frozen=True)
class PerRun:
    """Windows that targets of a user share: products of all its targets with all its events, of which each reads a band.

    at: per run of the history (G, V) int64 into the table    slots (S,): the same, flat
    """

    history: SharedHistory
    at: Sequence[Tensor]
    slots: Tensor
    num_signals: int

    @property
    def index(self) -> Tensor:
        return self.history.gathered(self.slots)

    @property
    def mask(self) -> Tensor:
        return self.history.mask

    @property
    def signals(self) -> Tensor:
        return self.history.signals

    @property
    def user(self) -> Tensor | None:
        return self.history.user

    @cached_property
    def some(self) -> Tensor:
        return torch.cat([(run.last > run.first).flatten() for run in self.history.runs])[self.history.place]

    @cached_property
    def _empty(self) -> bool:
        """Whether any sample is without a behaviour."""
        return not bool(self.some.all())

    @property
    def sequences(self) -> Sequences:
        windows = self.history.windows
        steps = torch.arange(self.history.length, device=self.slots.device)
        inside = steps < windows.length[:, None]
        return Sequences(self.slots[(windows.begin[:, None] + steps) * inside] * inside, windows.length, windows.of)

    @cached_property
    def _hot(self) -> list[Tensor]:
        """Per run (G, V, R + 1) float32: one where an event carries a signal."""
        runs = self.history.runs
        return [
            torch.zeros(*run.signals.shape, self.num_signals + 1, device=run.signals.device).scatter_(
                2, run.signals.long()[:, :, None], 1.0
            )
            for run in runs
        ]

    @cached_property
    def _barred(self) -> list[Tensor | None]:
        """Per run (G, T, V): -inf at what a target does not read, 0 everywhere for one that reads nothing; None for zeros."""
        found: list[Tensor | None] = []
        for run in self.history.runs:
            none = run.last == run.first
            if bool((none | (run.last - run.first == run.items.shape[1])).all()):
                found.append(None)
                continue
            inside = run.band | none[:, :, None]
            found.append(torch.zeros(inside.shape, device=inside.device).masked_fill_(~inside, -torch.inf))
        return found

    def attend(self, rows: Tensor, queries: Tensor, parts: Sequence[int] = ()) -> Attended:
        with torch.autocast(rows.device.type, enabled=False):
            rows, queries, width = rows.float(), queries.float(), queries.shape[2]
            found, kept = [], []
            for run, at, barred, hot in zip(self.history.runs, self.at, self._barred, self._hot, strict=True):
                asked = queries.index_select(0, run.rows.flatten()).unflatten(0, run.rows.shape).transpose(1, 2)
                both, weights = _Banded.apply(rows, asked, at, barred, hot, tuple(parts))
                found.append(both)
                kept.append(weights)
            both = self._rows(found)
            if self._empty:
                both = both * self.some[:, None, None]
            return Attended(both[:, :, :width], both[:, :, width:], lambda: self._weights(kept), both)

    def mean(self, rows: Tensor) -> Attended:
        found, kept = [], []
        for run, at, hot in zip(self.history.runs, self.at, self._hot, strict=True):
            weights = run.band / run.band.sum(dim=2, keepdim=True).clamp_min(1)
            found.append(
                (weights @ torch.cat([rows.index_select(0, at.flatten()).unflatten(0, at.shape), hot], dim=2))[:, None]
            )
            kept.append(weights[:, None])
        both, width = self._rows(found), rows.shape[1]
        return Attended(both[:, :, :width], both[:, :, width:], lambda: self._weights(kept), both)

    def bucketed(self, rows: Tensor, codes: Tensor, asked: Tensor, buckets: int) -> tuple[Tensor, Tensor]:
        places = self.at
        if len(codes) > len(self.slots) and not rows.requires_grad:  # of a whole catalogue the windows show little
            rows, codes = rows.index_select(0, self.slots), codes.index_select(0, self.slots)
            each = torch.arange(len(self.slots), device=self.slots.device).split([at.numel() for at in self.at])
            places = [own.view(at.shape) for own, at in zip(each, self.at, strict=True)]
        sides = torch.zeros(len(codes), codes.shape[1], buckets, dtype=rows.dtype, device=rows.device)
        sides.scatter_(2, codes[:, :, None], 1.0)
        found = []
        for run, at, hot in zip(self.history.runs, places, self._hot, strict=True):
            of_targets = asked.index_select(0, run.rows.flatten()).unflatten(0, run.rows.shape)
            found.append(run_buckets(rows, sides, of_targets, at, hot, run))
        both = (torch.cat([part.flatten(0, 1) for part in parts]) for parts in zip(*found, strict=True))
        pooled, shares = (part.index_select(0, self.history.place) for part in both)
        return pooled, shares

    def _rows(self, parts: Sequence[Tensor]) -> Tensor:
        """From (G, H, T, ...) of each run to rows of the batch (B, H, ...)."""
        every = [part.transpose(1, 2).flatten(0, 1) for part in parts]
        return (every[0] if len(every) == 1 else torch.cat(every)).index_select(0, self.history.place)

    def _weights(self, weights: Sequence[Tensor]) -> Tensor:
        """(B, H, K): of each target the stretch of its window that it reads."""
        steps = torch.arange(self.history.length, device=self.slots.device)
        parts = []
        for run, own in zip(self.history.runs, weights, strict=True):
            places = run.first[:, None, :, None] + steps
            inside = places < run.last[:, None, :, None]
            parts.append(own.gather(3, (places * inside).expand(-1, own.shape[1], -1, -1)) * inside)
        return self._rows(parts) * self.some[:, None, None]


class _Banded(torch.autograd.Function):
    """Softmax attention of the targets of G runs over their windows, and over what signals the events carry.

    rows (n, W), asked (G, H, T, w), at (G, V) into the rows, barred (G, T, V) or None, hot (G, V, R + 1)
    -> A [X, hot] (G, H, T, w + R + 1), A (G, H, T, V)

    With X = rows[at] (of each head its part), Z = [X, hot], A = softmax(Q X^T + barred) and P = A Z:
    dS = A * (dP Z^T - sum dP * P), dX = A^T dP + dS^T Q, dQ = dS X.  A window is gathered once, whatever the number of targets.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, asked: Tensor, at: Tensor, barred: Tensor | None, hot: Tensor, parts: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        shape, width = asked.shape, asked.shape[3]
        windows = rows.index_select(0, at.flatten()).view(*at.shape, -1, width)  # (G, V, W / w, w)
        heads = len(parts) or 1  # heads that read the same are targets of one head
        values = windows.new_empty(len(at), heads, at.shape[1], width + hot.shape[2])
        for head, part in enumerate(parts or (0,)):
            values[:, head, :, :width] = windows[:, :, part]
        values[..., width:] = hot[:, None]
        asked, values = asked.reshape(len(at) * heads, -1, width), values.flatten(0, 1)
        scores = asked @ values[..., :width].transpose(1, 2)
        if barred is not None:
            scores.view(*shape[:3], -1).add_(barred[:, None])
        weights = scores.softmax(dim=2)
        pooled = weights @ values
        ctx.save_for_backward(asked, values, weights, pooled, at)
        ctx.parts, ctx.shape, ctx.rows = parts or (0,), shape, rows.shape
        weights = weights.view(*shape[:3], -1)
        ctx.mark_non_differentiable(weights)
        ctx.set_materialize_grads(False)
        return pooled.view(*shape[:3], -1), weights

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        asked, values, weights, pooled, at = ctx.saved_tensors
        width = asked.shape[2]
        grad = grad.reshape(pooled.shape)
        scores = (grad @ values.transpose(1, 2)).sub_((grad * pooled).sum(dim=2, keepdim=True)).mul_(weights)
        grad_asked = scores @ values[..., :width]
        read = torch.baddbmm(scores.transpose(1, 2) @ asked, weights.transpose(1, 2), grad[..., :width])
        heads, stretches = read.unflatten(0, (len(at), -1)).unbind(1), range(ctx.rows[1] // width)
        if sorted(ctx.parts) == list(stretches):  # one head for each
            grad_windows = torch.stack([heads[ctx.parts.index(part)] for part in stretches], dim=2)
        else:
            grad_windows = read.new_zeros(*at.shape, len(stretches), width)
            for part, own in zip(ctx.parts, heads, strict=True):
                grad_windows[:, :, part] += own
        grad_rows = read.new_zeros(ctx.rows).index_add_(0, at.flatten(), grad_windows.flatten(2).flatten(0, 1))
        return grad_rows, grad_asked.view(ctx.shape), None, None, None, None


class BilinearAttention(nn.Module):
    """Softmax over k . (W q), the form behind the DisCo authors' "DIN" (bilinear, no MLP).

    target (B, Q), items (n, W) distinct item vectors, the behaviours among them -> pooled (B, 1, W)
    """

    def __init__(self, target_width: int, item_width: int):
        super().__init__()
        self.query = initialise(nn.Linear(target_width, item_width, bias=False))

    def forward(self, target: Tensor, items: Tensor, past: Behaviours) -> Attended:
        return past.attend(items, self.query(target)[:, None])


class Dice(nn.Module):
    """Data-adaptive activation (Zhou et al., KDD 2018, eq. 3).  (n, C) rows -> (n, C).

    p = sigmoid(BatchNorm(s)) without affine, out = p s + alpha (1 - p) s, one alpha per channel from 0.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm = BatchNorm(width, eps=1e-9, momentum=0.01, affine=False)
        self.alpha = nn.Parameter(torch.zeros(width))

    def forward(self, rows: Tensor) -> Tensor:
        gate = torch.sigmoid(self.norm(rows))
        return rows * (self.alpha + (1.0 - self.alpha) * gate)


class ActivationUnit(nn.Module):
    """DIN's attention (Zhou et al., KDD 2018, section 4.3): an MLP on [q, k, q - k, q * k] weighs each behaviour.

    The first layer is linear in its four parts, so W [q, k, q - k, q * k] = (W1 + W3) q + (W2 - W3) k + W4 (q * k): the
    first term is taken once per sample and the second once per distinct item, or by ``kept`` once for all of them.  Only real
    behaviours are computed.
    Shapes as in `BilinearAttention`; without ``softmax`` (the paper) weights need not sum to 1.
    """

    def __init__(self, width: int, *, hidden: int = 64, softmax: bool = False):
        super().__init__()
        self.softmax = softmax
        self.first = initialise(nn.Linear(4 * width, hidden))
        self.activation = Dice(hidden)
        self.last = initialise(nn.Linear(hidden, 1))

    def forward(self, target: Tensor, items: Tensor, past: Behaviours, kept: Anew = ANEW) -> Attended:
        index, mask = past.index, past.mask
        own, other, difference, product = self.first.weight.chunk(4, dim=1)
        from_target = target @ (own + difference).T + self.first.bias  # (B, hidden)
        from_items = kept.of(self, "items", lambda: items @ (other - difference).T)  # (n, hidden)
        behaviours = gather(items, index)  # (B, K, W)
        shifts = (gather(from_items, index) + from_target[:, None]).flatten(0, 1)
        hidden = torch.addmm(shifts, (behaviours * target[:, None]).flatten(0, 1), product.T).view(*index.shape, -1)
        if bool(mask.all()):
            logits = self.last(self.activation(hidden.flatten(0, 1))).view(mask.shape)
        else:
            logits = hidden.new_zeros(mask.shape).masked_scatter(mask, self.last(self.activation(hidden[mask])).squeeze(1))
        weights = masked_softmax(logits, mask, dim=1) if self.softmax else logits * mask
        single = weights[:, None, :]
        return Attended(single @ behaviours, weights_by_signal(past.signals, single, past.num_signals), lambda: single)
