"""Where each row's target stands among all items of the catalogue: exact, in blocks, items met before taken out.

    rank = 1 + #{j : s_j > s_t} + #{j < t : s_j = s_t}        t the target, j every candidate

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
CPU_CELLS, OTHER_CELLS = 1 << 18, 1 << 24  # scores compared at a time: what a core's cache holds; what fills an accelerator


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
    """N evaluation rows: a user, the target, and what the user met before, as a stretch of one array shared by all.

    user (N,) int32    item (N,) int32 targets, 1..I    past_items (M,) int32 catalogue rows    first, last (N,) int64
    The past of row n is ``past_items[first[n]:last[n]]``, oldest first.
    Raises DataError on columns of different length, an item outside the catalogue or a stretch outside the array.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    past_items: NDArray[np.int32]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    num_items: int

    def __post_init__(self) -> None:
        shapes = {name: getattr(self, name).shape for name in ("user", "item", "first", "last")}
        if len(set(shapes.values())) > 1 or self.item.ndim != 1:
            raise DataError(f"evaluation rows: the columns have shapes {shapes}; all must be (N,)")
        for name, items, least in (("item", self.item, 1), ("past_items", self.past_items, 0)):
            outside = (items < least) | (items > self.num_items)
            if outside.any():
                at = int(np.argmax(outside))
                raise DataError(
                    f"evaluation rows: {name}[{at}] is {items[at]}; accepted: {least}..{self.num_items} (num_items)"
                )
        bad = (self.first < 0) | (self.last < self.first) | (self.last > len(self.past_items))
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(
                f"evaluation rows: the past of row {row} is {self.first[row]}..{self.last[row]}; "
                f"accepted: a stretch of the {len(self.past_items):,} past items"
            )

    def __len__(self) -> int:
        return len(self.item)

    @classmethod
    def of(cls, log: InteractionLog, positions: NDArray[np.int64], num_items: int) -> RetrievalRows:
        """The events at ``positions`` (N,) of the log as targets; their past is every earlier event of the same user."""
        user = log.user[positions]
        first = log.start[user]
        return cls(user, log.item[positions], log.slot_item, first, first + log.rank[positions], num_items)

    def past(self, rows: NDArray[np.int64], length: int | None = None) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(owner, item) of every past event of ``rows`` (b,), or of their last ``length`` ones; owner is 0..b - 1."""
        first, last = self.first[rows], self.last[rows]
        if length is not None:
            first = np.maximum(first, last - length)
        counts = last - first
        owner = np.repeat(np.arange(len(rows)), counts)
        slots = np.arange(len(owner)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
        return owner, self.past_items[slots]


@dataclass(frozen=True)
class Ranking:
    """What `rank_targets` found for N rows.

    rank (N,) int64, from 1    top (N, K) int32 the K best candidates, best first, 0 where there are fewer
    masked (N,) bool: the target was no candidate (met before, say), so the row is a miss whatever the model
    """

    rank: NDArray[np.int64]
    top: NDArray[np.int32]
    masked: NDArray[np.bool_]


def rank_targets(
    scorer: Scorer,
    rows: RetrievalRows,
    *,
    mask_seen: bool = True,
    mask_target_if_seen: bool = True,
    candidates: NDArray[np.bool_] | None = None,
    top: int = 10,
    budget_bytes: int = BUDGET_BYTES,
    show_progress: bool = False,
) -> Ranking:
    """Rank of every target among all items, and the ``top`` best items of every row.

    mask_seen: what a row's past holds is no candidate.  mask_target_if_seen: not even the target, which then ranks last
    (PAD's protocol); False spares it.  candidates (I + 1,) bool: items that may be listed or ranked; None for all.
    budget_bytes: bound on the scores of a block and what is made from them row by row; a block has one row at least, and the
    comparison has a few MB of its own.

    The result depends on the scores alone, not on the size of the blocks (a matrix product, however, may round differently).
    Raises DataError on scores of another shape or dtype, and on nan, naming row, user and item.
    """
    width = rows.num_items + 1
    if candidates is not None and candidates.shape != (width,):
        raise DataError(
            f"candidates has shape {candidates.shape}; accepted: ({width},), one flag per catalogue row and padding"
        )
    barred = None if candidates is None else torch.from_numpy(~candidates | (np.arange(width) == 0))
    kept = max(1, min(top, rows.num_items))  # one even where no list is wanted: it shows nan
    longest = int((rows.last - rows.first).max(initial=0))
    row_bytes = 4 * width + width // 4 + 48 * (longest + min(width, kept * GROUP))
    block = max(1, min(BLOCK_ROWS, budget_bytes // row_bytes))
    rank, masked = np.empty(len(rows), np.int64), np.empty(len(rows), np.bool_)
    lists = np.zeros((len(rows), top), np.int32)
    with torch.no_grad(), progress("ranking", len(rows), "rows", show=show_progress) as advance:
        for begin in range(0, len(rows), block):
            here = np.arange(begin, min(begin + block, len(rows)))
            scores = _checked(scorer.scores(here), (len(here), width))
            if barred is None:
                scores[:, 0] = -math.inf
            else:
                scores.masked_fill_(barred.to(scores.device), -math.inf)
            target = rows.item[here].astype(np.int64)
            if mask_seen:
                owner, seen = rows.past(here)
                flat = owner * width + seen
                if not mask_target_if_seen:
                    flat = flat[seen != target[owner]]
                scores.view(-1)[torch.from_numpy(flat).to(scores.device)] = -math.inf
            values, columns = _best(scores, kept)
            _refuse_nan(values, columns, rows, begin)
            best = columns.masked_fill_(values == -math.inf, 0)
            lists[here, : min(top, kept)] = best[:, : min(top, kept)].cpu().numpy()
            place, missing = _places(scores, torch.from_numpy(target).to(scores.device))
            masked[here] = missing.cpu().numpy()
            rank[here] = np.where(masked[here], rows.num_items, place.cpu().numpy())
            del scores  # before the next block's come
            advance(len(here))
    return Ranking(rank, lists, masked)


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


def _places(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Rank (b,) of column ``target`` (b,) in each row of ``scores`` (b, I + 1), and whether it is no candidate (b,) bool.

    Comparisons are made in place as 0/1 floats, whose sums are fast and exact; ``scores`` is lost.
    """
    count, width = scores.shape
    own = scores.gather(1, target[:, None])
    exact = torch.float64 if width > 1 << 24 else torch.float32
    place = torch.empty(count, dtype=torch.int64, device=scores.device)
    step = max(1, (CPU_CELLS if scores.is_cpu else OTHER_CELLS) // width)
    buffer = torch.empty(min(step, count), width, device=scores.device)
    for begin in range(0, count, step):
        part, mine = scores[begin : begin + step], own[begin : begin + step]
        above = buffer[: len(part)].copy_(part).gt_(mine).sum(1, dtype=exact)
        equal = part.eq_(mine)
        tied = torch.nonzero(equal.sum(1, dtype=exact) > 1).squeeze(1)
        place[begin : begin + step] = above.long() + 1
        if len(tied):
            wanted = target[begin + tied]
            earlier = torch.arange(width, device=scores.device) < wanted[:, None]
            place[begin + tied] += (equal[tied] * earlier).sum(1, dtype=exact).long()
    return place, own.squeeze(1) == -math.inf


def _best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of each row, by score descending and then by column ascending: their scores and columns (b, k).

    Columns stand in groups of 32.  The first k groups, by largest score descending and then by number, hold the answer, for an
    item of any other group has k items before it: the largest of each of the k.  So one pass over the scores leaves 32 k of
    them to sort, where a selection by score alone would cost as much as the matrix product and leave ties to chance.
    nan counts as the largest.
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
        groups = _best(largest, k)[1]
        columns = (groups[..., None] * GROUP + torch.arange(GROUP, device=scores.device)).flatten(1)
        values = scores.gather(1, columns.clamp_max(width - 1)).masked_fill_(columns >= width, -math.inf)
    # One whole number per column, all distinct: the score above, as bits that sort like it, the column below.
    bits = (values + 0.0).masked_fill_(values.isnan(), math.nan).view(torch.int32)  # + 0.0: -0.0 equals 0.0
    keys = ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32) - columns
    chosen = keys.topk(k, dim=1).indices
    return values.gather(1, chosen), columns.gather(1, chosen)
