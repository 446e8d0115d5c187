"""The best items for many pasts at once: in blocks of pasts and of candidates, so that memory stays under a stated budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from braidrec.errors import RunError
from braidrec.evaluation.retrieval import GROUP, best
from braidrec.task import Floats, Model, Rows

BUDGET_BYTES = 1 << 28  # of one block's scores and what is made from them
PASTS = 512  # more at once make no model faster


def best_items(
    model: Model,
    pasts: Callable[[int, int], Sequence[Any]],
    count: int,
    candidates: Rows,
    k: int,
    *,
    exclude_seen: bool = True,
    budget_bytes: int = BUDGET_BYTES,
) -> Iterator[tuple[Rows, Floats]]:
    """Catalogue rows (m,) and scores (m,) of the k best ``candidates`` of each past, m <= k; ties: the smaller row first.

    pasts(first, last): the pasts numbered ``first`` .. ``last - 1`` of ``count``    candidates (n,) ascending, each once
    exclude_seen: what a past holds is no candidate of its own.  Raises RunError on a score that is not a number.
    """
    n = len(candidates)
    k = min(k, n)
    if not k:
        yield from ((np.zeros(0, np.int32), np.zeros(0, np.float32)) for _ in range(count))
        return
    wide = max(1, min(n, budget_bytes // 8))  # candidates at once
    row_bytes = 8 * wide + 48 * min(wide, k * GROUP)
    tall = max(1, min(PASTS, budget_bytes // row_bytes))  # pasts at once
    for first in range(0, count, tall):
        block = pasts(first, min(first + tall, count))
        values, rows = _best_of_block(model, block, candidates, k, wide, exclude_seen)
        for own, at in zip(values, rows, strict=True):
            kept = own > -math.inf
            yield at[kept].astype(np.int32), own[kept]


def _best_of_block(
    model: Model, block: Sequence[Any], candidates: Rows, k: int, wide: int, exclude_seen: bool
) -> tuple[Floats, Rows]:
    """(b, k) scores and catalogue rows, -inf behind the last candidate of a past."""
    values: list[Tensor] = []
    columns: list[Tensor] = []
    seen = [np.asarray(model.seen(past)) for past in block] if exclude_seen else [np.zeros(0, np.int32)]
    owner, met = np.repeat(np.arange(len(seen)), [len(own) for own in seen]), np.concatenate(seen)
    for begin in range(0, len(candidates), wide):
        part = candidates[begin : begin + wide]
        scores = np.array(model.scores(block, part))  # a copy: the model's own may be one row for all
        column = np.searchsorted(part, met)
        inside = part[np.minimum(column, len(part) - 1)] == met
        barred = owner[inside], column[inside]
        _check_numbers(scores[barred], scores, part)
        scores[barred] = -math.inf
        found, where = best(torch.from_numpy(scores), min(k, len(part)))
        _check_numbers(found.numpy(), scores, part)  # what is not a number would come first
        values.append(found)
        columns.append(where + begin)
    joined = torch.cat(values, dim=1)
    if len(values) > 1:
        joined, order = best(joined, min(k, joined.shape[1]))
        places = torch.cat(columns, dim=1).gather(1, order)
    else:
        places = columns[0]
    return joined.numpy(), candidates[places.numpy()]


def _check_numbers(some: Floats, scores: Floats, part: Rows) -> None:
    """Raise RunError where one of ``some`` is not a number, naming the first of ``part`` whose ``scores`` (b, n) hold such."""
    if np.isnan(some).any():
        row = int(part[int(np.isnan(scores).any(axis=0).argmax())])
        raise RunError(f"the score of the item in catalogue row {row} is not a number; a model that diverged cannot recommend")
