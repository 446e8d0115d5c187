"""Rankings without learning, which every ranking table shows: popularity, item mean, item mean + the user's past residual.

Item statistics come from the training rows and stay as they are; a user's past is every earlier event of that user in the
log, validation and test events included, as in a model's history.  Under a split by time nothing comes from after a row.
(A split that is not by time trains on rows that are later than some test rows; so do these means, as any model would.)
Strengths of smoothing are chosen by AUC on validation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidrec.errors import DataError
from braidrec.evaluation.metrics import Floats, Ints, auc

STRENGTHS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)  # pseudo-observations of the prior
FIXED_POINT = 2.0**32


@dataclass(frozen=True)
class RankingLog:
    """All N events, oldest first, and the event positions of the three parts.

    user, item (N,) non-negative integers    label (N,) 0/1    train, valid, test (n,) positions, int64
    visible (N,) how many of its user's first events may be an event's past (`InteractionLog.visible`); None: all earlier ones
    Raises DataError on columns of different length, a label other than 0/1, or a position that is not an event.
    """

    user: NDArray[np.integer[Any]]
    item: NDArray[np.integer[Any]]
    label: NDArray[Any]
    train: NDArray[np.int64]
    valid: NDArray[np.int64]
    test: NDArray[np.int64]
    visible: NDArray[np.integer[Any]] | None = None

    def __post_init__(self) -> None:
        count = len(self.label)
        if not len(self.user) == len(self.item) == count:
            raise DataError(
                f"the log has {len(self.user):,} users, {len(self.item):,} items, {count:,} labels; they must agree"
            )
        if not np.isin(self.label, (0, 1)).all():
            row = int(np.argmin(np.isin(self.label, (0, 1))))
            raise DataError(f"the log: event {row} has label {self.label[row]}; accepted: 0 or 1")
        for name in ("user", "item"):
            ids = getattr(self, name)
            if not np.issubdtype(ids.dtype, np.integer) or (count and ids.min() < 0):
                raise DataError(f"the log: {name} is {ids.dtype} from {ids.min()}; accepted: integers from 0 on")
        for name in ("train", "valid", "test"):
            rows = getattr(self, name)
            if not len(rows) or rows.min() < 0 or rows.max() >= count:
                raise DataError(f"the log: {name} must hold positions in 0..{count - 1} and at least one of them")


@dataclass(frozen=True)
class Baseline:
    """Scores of the validation and test rows, in the order of their positions; a strength is None where there is none."""

    name: str
    valid: Floats
    test: Floats
    item_strength: float | None = None
    user_strength: float | None = None


def popularity(log: RankingLog) -> Baseline:
    """log(1 + training events of the item)."""
    count = np.log1p(np.bincount(log.item[log.train], minlength=int(log.item.max()) + 1))
    return Baseline("popularity", count[log.item[log.valid]], count[log.item[log.test]])


def item_mean(log: RankingLog) -> Baseline:
    """Share of positives of the item, drawn to the overall share by ``item_strength`` pseudo-events: a probability.

    (sum of labels + k * overall share) / (events + k) over training events.  Raises DataError on a one-class validation part.
    """
    means = {strength: _item_means(log, strength) for strength in STRENGTHS}
    best = max(STRENGTHS, key=lambda strength: _valid_auc(log, means[strength][log.valid]))
    return Baseline("item mean", means[best][log.valid], means[best][log.test], item_strength=best)


def item_mean_user_residual(log: RankingLog) -> Baseline:
    """Smoothed item mean + sum of the user's earlier (label - item mean) / (earlier events + ``user_strength``).

    Ranks rows; not a probability.  Raises DataError on a one-class validation part.
    """
    best, chosen = -1.0, None
    past = _Past.of(log.user, log.visible)
    for item_strength in STRENGTHS:
        mean = _item_means(log, item_strength)
        residual = past.sums(log.label - mean)
        for user_strength in STRENGTHS:
            score = mean + residual / (past.count + user_strength)
            reached = _valid_auc(log, score[log.valid])
            if reached > best:
                best = reached
                chosen = Baseline("item mean + user residual", score[log.valid], score[log.test], item_strength, user_strength)
    assert chosen is not None
    return chosen


def ranking_baselines(log: RankingLog) -> tuple[Baseline, ...]:
    """The three of them, weakest first."""
    return popularity(log), item_mean(log), item_mean_user_residual(log)


def _item_means(log: RankingLog, strength: float) -> Floats:
    """(N,) smoothed training mean of each event's item."""
    item, label = log.item[log.train], log.label[log.train].astype(np.float64)
    size = int(log.item.max()) + 1
    mean = (np.bincount(item, label, size) + strength * label.mean()) / (np.bincount(item, minlength=size) + strength)
    return np.asarray(mean[log.item], np.float64)


def _valid_auc(log: RankingLog, scores: Floats) -> float:
    reached = auc(log.label[log.valid], scores)
    if math.isnan(reached):
        raise DataError(
            f"all {len(log.valid):,} validation labels are of one class; no strength can be chosen, take a longer part"
        )
    return reached


@dataclass(frozen=True)
class _Past:
    """Sums over the earlier events of the same user, for every event at once."""

    order: Ints  # (N,) events by user, oldest first
    start: Ints  # (N,) where in ``order`` the user of each place begins
    count: Ints  # (N,) earlier events of each event's user that are its past

    @classmethod
    def of(cls, user: NDArray[np.integer[Any]], visible: NDArray[np.integer[Any]] | None = None) -> _Past:
        order = np.argsort(user, kind="stable")
        places = np.arange(len(user))
        new_user = np.r_[True, user[order][1:] != user[order][:-1]]
        start = np.maximum.accumulate(np.where(new_user, places, 0))
        count = np.empty(len(user), np.int64)
        count[order] = places - start
        return cls(order, start, count if visible is None else visible.astype(np.int64))

    def sums(self, values: Floats) -> Floats:
        """(N,) sum of the values of earlier events of the same user.

        The running sum passes over other users' events; in fixed point they cancel to the last bit, in floats they would not.
        """
        fixed = np.rint(values[self.order] * FIXED_POINT).astype(np.int64)
        before = np.cumsum(fixed) - fixed
        out = np.empty(len(values))
        out[self.order] = (before[self.start + self.count[self.order]] - before[self.start]) / FIXED_POINT
        return out
