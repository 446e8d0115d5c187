"""Rankings of labelled rows user by user: Recall, HR and nDCG within k of each user's own list.

A user's candidates are the user's own rows, nothing else; users whose rows have one label have nothing to rank and no value.
With P_u positives of user u, ranked by score:  recall@k = hits / P_u    HR@k = 1 where there is a hit
nDCG@k = sum over hits of 1 / log2(rank + 1), over the same sum of the ranks 1..min(P_u, k)
Rows of one score stand in any order alike: every value is the mean over their orders, so nothing is won by the rows' order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from braidrec.evaluation.metrics import Floats, Ints, checked_rows

UserMetric = Literal["recall@5", "hr@5", "ndcg@5", "recall@10", "hr@10", "ndcg@10"]
LONGEST = 10  # the largest k
USER_METRICS = cast(tuple[UserMetric, ...], get_args(UserMetric))


@dataclass(frozen=True)
class UserGains:
    """values: by metric, (U,) of the users whose rows have both labels    users: U    long_users: those with more than 10 rows

    left_users, left_rows: users whose rows have one label, and how many rows these are
    """

    values: dict[UserMetric, Floats]
    users: int
    long_users: int
    left_users: int
    left_rows: int

    def mean(self, metric: UserMetric) -> float | None:
        """Every user alike; None where no user has both labels."""
        return float(self.values[metric].mean()) if self.users else None


def user_gains(
    labels: ArrayLike, scores: ArrayLike, users: ArrayLike, metrics: Sequence[UserMetric] = USER_METRICS
) -> UserGains:
    """labels (N,) 0/1    scores (N,) any monotone scale    users (N,) ids of any sortable type

    Raises DataError on a label other than 0/1 or a score that is not finite.
    """
    label, score, _ = checked_rows(labels, scores, None)
    user = np.unique(np.asarray(users), return_inverse=True)[1]
    positives, rows = np.bincount(user, label), np.bincount(user)
    both = (positives > 0) & (positives < rows)
    kept = both[user]
    lists = _Lists.of(label[kept], score[kept], (np.cumsum(both) - 1)[user[kept]])
    values = {metric: lists.gains(*metric.split("@")) for metric in metrics}
    return UserGains(values, int(both.sum()), int((both & (rows > LONGEST)).sum()), int((~both).sum()), int((~kept).sum()))


@dataclass(frozen=True)
class _Lists:
    """Groups of rows of one user and one score, user by user, best first.

    user, rows, likes (G,) whose they are, how many rows and positives    before (G,) rows of the user above
    """

    user: Ints
    rows: Ints
    likes: Ints
    before: Ints

    @classmethod
    def of(cls, label: Floats, score: Floats, user: NDArray[np.intp]) -> _Lists:
        order = np.lexsort((-score, user))
        user, score = user[order], score[order]
        first = np.flatnonzero(np.r_[True, (user[1:] != user[:-1]) | (score[1:] != score[:-1])][: len(user)])
        own = user[first]
        rows = np.diff(np.r_[first, len(user)])
        begins = np.flatnonzero(np.r_[True, user[1:] != user[:-1]][: len(user)])
        likes = np.add.reduceat(label[order], first).astype(np.int64) if len(first) else np.zeros(0, np.int64)
        return cls(own.astype(np.int64), rows, likes, first - begins[own])

    def gains(self, metric: str, k: str) -> Floats:
        """(U,) of every user."""
        within = np.clip(int(k) - self.before, 0, self.rows)  # places of the group in the first k
        positives = np.bincount(self.user, self.likes)
        if metric == "recall":
            return np.bincount(self.user, self.likes * within / self.rows) / positives
        if metric == "hr":
            missed = np.bincount(self.user, _log_none(self.rows, self.likes, within))
            return np.asarray(-np.expm1(missed), np.float64)
        discount = np.r_[0.0, np.cumsum(1 / np.log2(np.arange(2.0, int(k) + 2)))]
        above = np.minimum(self.before, int(k))
        gained = np.bincount(self.user, self.likes / self.rows * (discount[above + within] - discount[above]))
        return gained / discount[np.minimum(positives, int(k)).astype(np.int64)]


def _log_none(rows: Ints, likes: Ints, within: Ints) -> Floats:
    """(G,) log of the chance that none of ``likes`` among ``rows`` in random order stands in the first ``within``."""
    others = rows - likes
    free = within <= others
    ways = gammaln(others + 1.0) - gammaln(np.where(free, others - within, 0) + 1.0)
    chance = ways - gammaln(rows + 1.0) + gammaln(rows - within + 1.0)
    none = np.where((likes == 0) | (within == 0), 0.0, np.minimum(chance, 0.0))
    return np.where(free, none, -np.inf)
