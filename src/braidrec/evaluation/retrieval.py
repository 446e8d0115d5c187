"""Where each row's targets stand among all items of the catalogue: exact, in blocks, items met before taken out.

    rank = 1 + #{j : s_j > s_t} + #{j < t : s_j = s_t}        t a target, j every candidate, the row's other targets among them

A row is an event with its one target (next item), or a user with all their held-out items (ratio splits); which items of the
past are no candidates (all that came before, or those of training alone) is said when the rows are made.
Equal scores go by ascending item number, in the lists too.  A score of -inf says "no candidate": the padding column, items
outside ``candidates`` and items met before get it, and a model may give it.  A target without a score ranks last, I.
The scores of a block exist once; all that follows is one masking and a few passes over it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from braidrec.data.log import InteractionLog
from braidrec.errors import DataError
from braidrec.progress import progress

BLOCK_ROWS = 1_024  # more rows make no matrix product faster
BUDGET_BYTES = 1 << 30  # beside a million item vectors of width 64 and the interpreter this stays under 2 GB
GROUP = 32  # columns whose largest score stands for them
NARROW = 8_192  # columns that are sooner selected from as they are
CPU_CELLS, OTHER_CELLS = 1 << 19, 1 << 24  # scores compared at a time: what a core's cache holds; what fills an accelerator


class Scorer(Protocol):
    """All that evaluation knows of a model."""

    def scores(self, rows: NDArray[np.int64]) -> Tensor:
        """(b, I + 1) float32 scores of every item for the evaluation rows numbered ``rows`` (b,).

        Column 0 is padding and ignored.  The caller writes over the result and is done with it before it asks again, so a
        scorer may fill the same buffer each time.  A scorer that needs others of that size takes them beyond the budget.
        """
        ...


@dataclass(frozen=True)
class RetrievalRows:
    """N evaluation rows: a user, their targets, what a model may read, and what is no candidate.

    user (N,) int32    targets (T,) int32 catalogue rows 1..I, row by row, in each one at least and none twice
    target_start (N + 1,) int64
    past_items (M,) int32 catalogue rows, shared by all rows    first, last, seen_first, seen_last (N,) int64

    Row n has the targets ``targets[target_start[n]:target_start[n + 1]]``, reads ``past_items[first[n]:last[n]]``, oldest
    first, and bars ``past_items[seen_first[n]:seen_last[n]]`` from its candidates.
    Raises DataError on columns of different length, an item outside the catalogue, a row without target or with one twice, or
    a stretch outside its array.
    """

    user: NDArray[np.int32]
    targets: NDArray[np.int32]
    target_start: NDArray[np.int64]
    past_items: NDArray[np.int32]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    seen_first: NDArray[np.int64]
    seen_last: NDArray[np.int64]
    num_items: int

    def __post_init__(self) -> None:
        shapes = {name: getattr(self, name).shape for name in ("user", "first", "last", "seen_first", "seen_last")}
        if len(set(shapes.values())) > 1 or self.user.ndim != 1:
            raise DataError(f"evaluation rows: the columns have shapes {shapes}; all must be (N,)")
        for name, items, least in (("targets", self.targets, 1), ("past_items", self.past_items, 0)):
            outside = (items < least) | (items > self.num_items)
            if outside.any():
                at = int(np.argmax(outside))
                raise DataError(
                    f"evaluation rows: {name}[{at}] is {items[at]}; accepted: {least}..{self.num_items} (num_items)"
                )
        start, count = self.target_start, len(self.user)
        if start.shape != (count + 1,) or self.targets.ndim != 1 or start[0] != 0 or start[-1] != len(self.targets):
            raise DataError(
                f"evaluation rows: target_start has shape {start.shape} and runs {start[:1]}..{start[-1:]}; "
                f"accepted: ({count + 1},), from 0 to {len(self.targets)} (targets)"
            )
        empty = start[1:] <= start[:-1]
        if empty.any():
            raise DataError(f"evaluation rows: row {int(np.argmax(empty))} has no target; accepted: one or more in every row")
        if len(self.targets) > count:
            keys, times = np.unique(self.target_row * (self.num_items + 1) + self.targets, return_counts=True)
            if (times > 1).any():
                row, item = divmod(int(keys[np.argmax(times > 1)]), self.num_items + 1)
                raise DataError(f"evaluation rows: row {row} has the target {item} twice; accepted: each item once in a row")
        for what, first, last in (("past", self.first, self.last), ("seen part", self.seen_first, self.seen_last)):
            bad = (first < 0) | (last < first) | (last > len(self.past_items))
            if bad.any():
                row = int(np.argmax(bad))
                raise DataError(
                    f"evaluation rows: the {what} of row {row} is {first[row]}..{last[row]}; "
                    f"accepted: a stretch of the {len(self.past_items):,} past items"
                )

    def __len__(self) -> int:
        return len(self.user)

    @classmethod
    def single(
        cls,
        user: NDArray[np.int32],
        item: NDArray[np.int32],
        past_items: NDArray[np.int32],
        first: NDArray[np.int64],
        last: NDArray[np.int64],
        num_items: int,
        seen_last: NDArray[np.int64] | None = None,
    ) -> RetrievalRows:
        """Rows of one target ``item`` (N,) each; barred is all of the past, or what stands before ``seen_last`` (N,)."""
        if item.shape != user.shape:
            raise DataError(f"evaluation rows: user has shape {user.shape}, item {item.shape}; both must be (N,)")
        barred = last if seen_last is None else seen_last
        return cls(user, item, np.arange(len(item) + 1), past_items, first, last, first, barred, num_items)

    @classmethod
    def of(
        cls,
        log: InteractionLog,
        positions: NDArray[np.int64],
        num_items: int,
        *,
        seen_ends: NDArray[np.int64] | None = None,
    ) -> RetrievalRows:
        """The events at ``positions`` (N,) of the log as targets; their past is every earlier event of the same user
        that its history may hold (`InteractionLog.past`).

        seen_ends (U + 1,): how many of each user's first events are barred, such as `training_ends` for those of training
        alone; None bars all of the past.
        """
        user = log.user[positions]
        first = log.start[user]
        last = first + log.past[positions]
        barred = None if seen_ends is None else np.minimum(last, first + seen_ends[user])
        return cls.single(user, log.item[positions], log.slot_item, first, last, num_items, barred)

    @classmethod
    def by_user(
        cls, log: InteractionLog, positions: NDArray[np.int64], seen_positions: NDArray[np.int64], num_items: int
    ) -> RetrievalRows:
        """One row for each user of the events at ``positions``, users ascending; their items are its targets.

        The targets of a row are ascending, each item once.  Its past, all of it barred, are the user's events at
        ``seen_positions``, oldest first: those of training, or of training and validation.
        """
        width = num_items + 1
        keys = np.unique(log.user[positions].astype(np.int64) * width + log.item[positions])
        user, sizes = np.unique(keys // width, return_counts=True)
        seen = np.sort(seen_positions)
        owner = log.user[seen]
        order = np.argsort(owner, kind="stable")
        first, last = (np.searchsorted(owner[order], user, side) for side in ("left", "right"))
        targets, start = (keys % width).astype(np.int32), np.concatenate([[0], np.cumsum(sizes)])
        return cls(user.astype(np.int32), targets, start, log.item[seen[order]], first, last, first, last, num_items)

    @property
    def item(self) -> NDArray[np.int32]:
        """(N,) the target of each row.  Raises DataError where a row has several."""
        if len(self.targets) != len(self):
            raise DataError(f"{len(self):,} evaluation rows have {len(self.targets):,} targets; this needs one in each row")
        return self.targets

    @property
    def target_row(self) -> NDArray[np.int64]:
        """(T,) the row of each target."""
        return np.repeat(np.arange(len(self)), np.diff(self.target_start))

    def past(self, rows: NDArray[np.int64], length: int | None = None) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(owner, item) of every past event of ``rows`` (b,), or of their last ``length`` ones; owner is 0..b - 1."""
        first, last = self.first[rows], self.last[rows]
        if length is not None:
            first = np.maximum(first, last - length)
        return _gathered(self.past_items, first, last)

    def seen(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(owner, item) of everything that ``rows`` (b,) bar; owner is 0..b - 1."""
        return _gathered(self.past_items, self.seen_first[rows], self.seen_last[rows])


@dataclass(frozen=True)
class Ranking:
    """What `rank_targets` found for N rows with T targets.

    rank (T,) int64, from 1    top (N, K) int32 the K best candidates, best first, 0 where there are fewer
    masked (T,) bool: the target was no candidate (met before, say), so it is a miss whatever the model
    row (T,) int64: the row of each target, ascending
    """

    rank: NDArray[np.int64]
    top: NDArray[np.int32]
    masked: NDArray[np.bool_]
    row: NDArray[np.int64]

    def __post_init__(self) -> None:
        shapes = {name: getattr(self, name).shape for name in ("rank", "masked", "row")}
        if len(set(shapes.values())) > 1 or len(self.rank) < len(self.top):
            raise DataError(f"a ranking of {len(self.top):,} rows has {shapes}; all must be (T,), one target a row at least")

    @classmethod
    def single(cls, rank: NDArray[np.int64], top: NDArray[np.int32], masked: NDArray[np.bool_]) -> Ranking:
        """Of rows with one target each: rank and masked are (N,)."""
        return cls(rank, top, masked, np.arange(len(rank)))

    def __len__(self) -> int:
        return len(self.top)

    @property
    def reached(self) -> NDArray[np.int64]:
        """(T,) ranks, of targets that were no candidate beyond any k: the last of a small catalogue may be within k."""
        return np.where(self.masked, np.iinfo(np.int64).max, self.rank)

    @property
    def is_single(self) -> bool:
        """Whether every row has one target."""
        return len(self.rank) == len(self.top)


def rank_targets(
    scorer: Scorer,
    rows: RetrievalRows,
    *,
    mask_seen: bool = True,
    mask_target_if_seen: bool = True,
    candidates: NDArray[np.bool_] | None = None,
    top: int = 10,
    within: int | None = None,
    budget_bytes: int = BUDGET_BYTES,
    show_progress: bool = False,
) -> Ranking:
    """Rank of every target among all items, and the ``top`` best items of every row.

    mask_seen: what a row has seen is no candidate.  mask_target_if_seen: not even a target, which then ranks last
    (PAD's protocol); False spares the row's targets.
    candidates (I + 1,) bool: items that may be listed or ranked; None for all.
    within: ranks 1..within alone are wanted, and any other target gets the rank I; all that metrics at k <= within read, found
    in a list instead of by comparing every target with all items.  None ranks every target.
    budget_bytes: bound on the scores of a block and what is made from them row by row; a block has one row at least, and the
    comparison has a few MB of its own.

    The result depends on the scores alone, not on the size of the blocks (a matrix product, however, may round differently).
    Raises DataError on scores of another shape or dtype, on nan, naming row, user and item, and on ``within`` below 1.
    """
    width = rows.num_items + 1
    if within is not None and within < 1:
        raise DataError(f"ranks within {within}; accepted: 1 or more, or None for all")
    if candidates is not None and candidates.shape != (width,):
        raise DataError(
            f"candidates has shape {candidates.shape}; accepted: ({width},), one flag per catalogue row and padding"
        )
    barred = None if candidates is None else torch.from_numpy(~candidates | (np.arange(width) == 0))
    kept = max(1, min(max(top, within or 0), rows.num_items))  # one even where no list is wanted: it shows nan
    longest = int((rows.seen_last - rows.seen_first).max(initial=0) + np.diff(rows.target_start).max(initial=1) - 1)
    row_bytes = 4 * width + width // 4 + 48 * (longest + min(width, kept * GROUP))
    block = max(1, min(BLOCK_ROWS, budget_bytes // row_bytes))
    rank, masked, target_row = np.empty(len(rows.targets), np.int64), np.empty(len(rows.targets), np.bool_), rows.target_row
    lists = np.zeros((len(rows), top), np.int32)
    with torch.no_grad(), progress("ranking", len(rows), "rows", show=show_progress) as advance:
        for begin in range(0, len(rows), block):
            here = np.arange(begin, min(begin + block, len(rows)))
            scores = _checked(scorer.scores(here), (len(here), width))
            if barred is None:
                scores[:, 0] = -math.inf
            else:
                scores.masked_fill_(barred.to(scores.device), -math.inf)
            there = slice(*rows.target_start[[begin, begin + len(here)]])
            target, target_owner = rows.targets[there].astype(np.int64), target_row[there] - begin
            if mask_seen:
                owner, seen = rows.seen(here)
                flat = owner * width + seen
                if not mask_target_if_seen:
                    flat = flat[~np.isin(flat, target_owner * width + target)]
                scores.view(-1)[torch.from_numpy(flat).to(scores.device)] = -math.inf
            values, columns = best(scores, kept)
            _refuse_nan(values, columns, rows, begin)
            listed = columns.masked_fill_(values == -math.inf, 0)
            lists[here, : min(top, kept)] = listed[:, : min(top, kept)].cpu().numpy()
            pairs = (torch.from_numpy(target_owner).to(scores.device), torch.from_numpy(target).to(scores.device))
            missing = scores[pairs] == -math.inf
            place = _places(scores, *pairs) if within is None else _listed(listed[:, :within], *pairs, rows.num_items)
            masked[there] = missing.cpu().numpy()
            rank[there] = np.where(masked[there], rows.num_items, place.cpu().numpy())
            del scores  # before the next block's come
            advance(len(here))
    return Ranking(rank, lists, masked, target_row)


def _gathered(
    items: NDArray[np.int32], first: NDArray[np.int64], last: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """(owner, item) of the stretches first..last (b,) of ``items``, one after another; owner is 0..b - 1."""
    counts = last - first
    owner = np.repeat(np.arange(len(counts)), counts)
    slots = np.arange(len(owner)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    return owner, items[slots]


def _checked(scores: Tensor, shape: tuple[int, int]) -> Tensor:
    if scores.shape != shape or scores.dtype != torch.float32:
        raise DataError(f"the scorer gave {tuple(scores.shape)} of {scores.dtype}; accepted: {shape} of torch.float32")
    return scores.contiguous()


def _refuse_nan(values: Tensor, columns: Tensor, rows: RetrievalRows, begin: int) -> None:
    bad = values[:, 0].isnan()
    if bad.any():
        row = int(bad.int().argmax())
        raise DataError(
            f"evaluation row {begin + row} (user {rows.user[begin + row]}): the score of item {int(columns[row, 0])} is nan; "
            "a model that has diverged cannot be ranked"
        )


def _listed(lists: Tensor, owner: Tensor, target: Tensor, otherwise: int) -> Tensor:
    """Rank (t,) of ``target`` (t,) in the list ``owner`` (t,) of ``lists`` (b, K); ``otherwise`` where it is not there."""
    hits = lists[owner] == target[:, None]
    return torch.where(hits.any(1), hits.int().argmax(1) + 1, otherwise)


def _places(scores: Tensor, owner: Tensor, target: Tensor) -> Tensor:
    """Rank (t,) of column ``target`` (t,) in row ``owner`` (t,) of ``scores`` (b, I + 1).

    Every row owns one target at least, ascending.  Comparisons are made as 0/1 floats, whose sums are fast and exact: in place
    where each row has one target, so ``scores`` is lost; in a copy of the row for each target where some have more.
    """
    count, width = len(target), scores.shape[1]
    own = scores[owner, target][:, None]
    exact = torch.float64 if width > 1 << 24 else torch.float32
    place = torch.empty(count, dtype=torch.int64, device=scores.device)
    step = max(1, (CPU_CELLS if scores.is_cpu else OTHER_CELLS) // width)
    buffer = torch.empty(min(step, count), width, device=scores.device)
    copies = torch.empty_like(buffer) if count > len(scores) else None
    for begin in range(0, count, step):
        mine, here = own[begin : begin + step], slice(begin, begin + step)
        above = buffer[: len(mine)]
        part = scores[here] if copies is None else torch.index_select(scores, 0, owner[here], out=copies[: len(mine)])
        torch.gt(part, mine, out=above)
        level = part.ge_(mine)
        higher = above.sum(1, dtype=exact)
        tied = torch.nonzero(level.sum(1, dtype=exact) > higher + 1).squeeze(1)
        place[here] = higher.long() + 1
        if len(tied):
            earlier = torch.arange(width, device=scores.device) < target[begin + tied][:, None]
            place[begin + tied] += ((level[tied] - above[tied]) * earlier).sum(1, dtype=exact).long()
    return place


def best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of each row of ``scores`` (b, n), by score descending and then by column ascending: (values, columns).

    scores float32, left as they are; k is 1..n    values (b, k) float32    columns (b, k) int64
    Exact, and the same however rows are cut into blocks; beside the scores a row takes about n / 8 + 1,500 k bytes.
    nan counts as the largest, -0.0 equals 0.0.  Raises DataError on another dtype or k.
    """
    width = scores.shape[1]
    if scores.dtype != torch.float32 or not 1 <= k <= width:
        raise DataError(f"the best {k} of {tuple(scores.shape)} {scores.dtype}; accepted: 1..{width} of torch.float32")
    if width > NARROW:
        return _best(scores, k)
    # a selection by score alone leaves ties to chance: right where the k + 1 best are distinct numbers
    values, columns = scores.topk(min(k + 1, width), dim=1)
    unsure = values[:, 0].isnan() | (values[:, 1:] == values[:, :-1]).any(dim=1)
    values, columns = values[:, :k].contiguous(), columns[:, :k].contiguous()
    again = unsure.nonzero().squeeze(1)
    if len(again):
        values[again], columns[again] = _best(scores[again], k)
    return values, columns


def _best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`best` of rows with ties, or many columns.

    Columns stand in groups of 32.  The first k groups, by largest score descending and then by number, hold the answer, for an
    item of any other group has k items before it: the largest of each of the k.  So one pass over the scores leaves 32 k of
    them to sort, where a selection from all of many would cost as much as the matrix product.
    """
    width = scores.shape[1]
    if width <= k * GROUP:
        values, columns = scores, torch.arange(width, device=scores.device).expand(scores.shape)
    else:
        whole = width // GROUP
        largest = scores.new_empty(len(scores), -(-width // GROUP))
        torch.amax(scores[:, : whole * GROUP].unflatten(1, (whole, GROUP)), 2, out=largest[:, :whole])
        if whole * GROUP < width:
            torch.amax(scores[:, whole * GROUP :], 1, out=largest[:, whole])
        groups = best(largest, k)[1]
        columns = (groups[..., None] * GROUP + torch.arange(GROUP, device=scores.device)).flatten(1)
        values = scores.gather(1, columns.clamp_max(width - 1)).masked_fill_(columns >= width, -math.inf)
    # One whole number per column, all distinct: the score above, as bits that sort like it, the column below.
    bits = (values + 0.0).masked_fill_(values.isnan(), math.nan).view(torch.int32)  # + 0.0: -0.0 equals 0.0
    keys = ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32) - columns
    chosen = keys.topk(k, dim=1).indices
    return values.gather(1, chosen), columns.gather(1, chosen)
