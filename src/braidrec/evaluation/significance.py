"""Is one model better than another, beyond the luck of the users in the test set?

The statistic is the difference of AUC, log loss or a metric of ranks on all rows, averaged over seeds.  Users are resampled
with replacement, all of a user's rows together and the same draw for every seed and both models; the two-sided p inverts the
percentile interval, with one added to both counts (Davison & Hinkley 1997, sec. 4.4), so it is never 0.

Its seeds are those that were run.  `over_seeds` asks what other seeds would give, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtr, stdtrit

from braidrec.errors import DataError
from braidrec.evaluation.bootstrap import Clusters, add_pairs, cluster_by_user, resampled_auc, resampled_mean
from braidrec.evaluation.metrics import Floats, ScoreKind, auc, checked_rows, row_losses
from braidrec.evaluation.retrieval_report import RetrievalMetric, gains

ZERO = 1e-12  # differences below this are rounding, not evidence


@dataclass(frozen=True)
class PairedTest:
    """Model a minus model b; a better a has a positive difference, but in log loss (nats) a negative one.

    metric: "auc", "log_loss", or such as "ndcg@10"    low, high: 95 % interval
    difference: mean over seeds    per_seed: difference of each seed, in the given order
    resamples: those that held both classes    clusters: units resampled, fewer than ``users`` when users were pooled
    """

    metric: str
    difference: float
    per_seed: tuple[float, ...]
    low: float
    high: float
    p_value: float
    resamples: int
    clusters: int
    users: int

    @property
    def pooled(self) -> bool:
        """Whether several users share a cluster (more than 6,000 users)."""
        return self.clusters < self.users


def paired_test(
    labels: ArrayLike,
    users: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    *,
    metric: Literal["auc", "log_loss"] = "auc",
    kind: ScoreKind = "logits",
    weights: ArrayLike | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedTest:
    """Compare two models on the same N test rows, S seeds each.

    labels (N,) 0/1    users (N,) ids    scores_a, scores_b (S, N); ``kind`` (used by log_loss) says what they are
    weights (N,) sample weights, or None.  More than 6,000 users are pooled into 6,000 clusters.
    Raises DataError on rows that cannot be used, different numbers of seeds, or labels of a single class.
    """
    first, second = np.asarray(scores_a, np.float64), np.asarray(scores_b, np.float64)
    if first.ndim != 2 or first.shape != second.shape or not len(first):
        raise DataError(
            f"scores have shapes {first.shape} and {second.shape}; accepted: (S, N) for both models, with the same S >= 1 seeds"
        )
    for scores in (*first, *second):
        label, _, weight = checked_rows(labels, scores, weights)
    if not ((label * weight).any() and ((1 - label) * weight).any()):
        raise DataError(f"the {len(label):,} labels are of one class; a comparison needs rows of both")
    clusters = cluster_by_user(users, len(label))
    compare = _compare_auc if metric == "auc" else _compare_log_loss
    per_seed, values = compare(label, weight, clusters, first, second, kind, resamples, seed)
    values = values[~np.isnan(values)]
    if not len(values):
        raise DataError(f"none of {resamples:,} resamples of {clusters.count} users holds both classes; bring more users")
    return _summary(metric, per_seed, values, clusters)


def paired_rank_test(
    users: ArrayLike,
    ranks_a: ArrayLike,
    ranks_b: ArrayLike,
    *,
    metric: RetrievalMetric = "ndcg",
    k: int = 10,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedTest:
    """Compare two models by the ranks they give the targets of the same N rows, one target each, S seeds each.

    users (N,) ids    ranks_a, ranks_b (S, N) whole numbers from 1; the difference is one of mean gains within k.
    More than 6,000 users are pooled into 6,000 clusters.  Raises DataError on shapes that differ and on what is no rank.
    """
    pair = [gains(ranks, metric, k) for ranks in _same_rows("ranks", ranks_a, ranks_b)]
    return paired_gain_test(users, *pair, metric=f"{metric}@{k}", resamples=resamples, seed=seed)


def paired_gain_test(
    users: ArrayLike,
    gains_a: ArrayLike,
    gains_b: ArrayLike,
    *,
    metric: str,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedTest:
    """Compare two models by what they gain on each of the same N rows, S seeds each, as `row_gains` of any rows gives it.

    users (N,) ids    gains_a, gains_b (S, N), more is better; the difference is one of means    metric: its name
    More than 6,000 users are pooled into 6,000 clusters.  Raises DataError on shapes that differ and on a gain that is not
    finite.
    """
    first, second = (each.astype(np.float64, copy=False) for each in _same_rows("gains", gains_a, gains_b))
    gaps = first - second
    if not np.isfinite(gaps).all():
        seed_at, row = (int(axis[0]) for axis in np.nonzero(~np.isfinite(gaps)))
        raise DataError(
            f"gains: seed {seed_at}, row {row} is {first[seed_at, row]} and {second[seed_at, row]}; accepted: finite numbers"
        )
    clusters = cluster_by_user(users, gaps.shape[1])
    rows = clusters.sum(np.ones(gaps.shape[1]))
    values = resampled_mean(clusters.sum(gaps.mean(axis=0)), rows, resamples, seed)
    return _summary(metric, [float(gap) for gap in gaps.mean(axis=1)], values, clusters)


def _same_rows(what: str, a: ArrayLike, b: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    first, second = np.asarray(a), np.asarray(b)
    if first.ndim != 2 or first.shape != second.shape or not first.size:
        raise DataError(
            f"{what} have shapes {first.shape} and {second.shape}; accepted: (S, N) for both models, with the same S >= 1 "
            "seeds and N >= 1 rows"
        )
    return first, second


@dataclass(frozen=True)
class SeedTest:
    """A difference where users and seeds are both drawn at random.

    error: its standard error    degrees: of freedom    low, high: 95 % interval    p_value: two-sided, of Student's t
    """

    error: float
    degrees: float
    low: float
    high: float
    p_value: float


def over_seeds(difference: float, per_seed: Sequence[float], low: float, high: float, clusters: int) -> SeedTest | None:
    """What a `PairedTest` says where its seeds are a sample, too; None for a single seed, which says nothing of others.

    difference, per_seed, low, high, clusters: as of a `PairedTest`
    Users and seeds are crossed random effects: the variance of the mean is that over resampled users, taken from the width of
    the interval, and that of the seeds' differences over their number.  Each has its own degrees of freedom, clusters - 1 and
    S - 1, joined by Satterthwaite's rule (1946).  What users and seeds share is in both, so it errs on the side of caution.
    """
    if len(per_seed) < 2:
        return None
    users = ((high - low) / (2 * ndtri(0.975))) ** 2
    seeds = float(np.var(per_seed, ddof=1)) / len(per_seed)
    error = float(np.sqrt(users + seeds))
    if error <= ZERO:
        return SeedTest(0.0, float(clusters - 1), difference, difference, float(abs(difference) <= ZERO))
    degrees = float((users + seeds) ** 2 / (users**2 / max(clusters - 1, 1) + seeds**2 / (len(per_seed) - 1)))
    reach = float(stdtrit(degrees, 0.975)) * error
    p_value = float(2 * stdtr(degrees, -abs(difference) / error))
    return SeedTest(error, degrees, difference - reach, difference + reach, p_value)


def holm(p_values: Sequence[float] | Floats) -> Floats:
    """Holm's step-down correction (Holm 1979): adjusted p (m,), in the given order, for m tests of one table.

    The k-th smallest p is multiplied by m - k + 1, kept non-decreasing and at most 1.  Raises DataError outside [0, 1].
    """
    p = np.asarray(p_values, np.float64)
    bad = ~((p >= 0) & (p <= 1))
    if p.ndim != 1 or bad.any():
        raise DataError(f"p values {p.tolist()}; accepted: a list of numbers in [0, 1]")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def _compare_auc(
    label: Floats, weight: Floats, clusters: Clusters, first: Floats, second: Floats, kind: ScoreKind, resamples: int, seed: int
) -> tuple[list[float], Floats]:
    """AUC differences: of each seed, and of each resample.

    The class totals do not depend on the model, so the pair matrices of all seeds and both models add up to one.
    """
    wins = np.zeros((clusters.count, clusters.count))
    for a, b in zip(first, second, strict=True):
        add_pairs(wins, label, a, weight, clusters.index, 1.0)
        add_pairs(wins, label, b, weight, clusters.index, -1.0)
    wins /= len(first)
    per_seed = [auc(label, a, weight) - auc(label, b, weight) for a, b in zip(first, second, strict=True)]
    return per_seed, resampled_auc(wins, clusters.sum(weight * label), clusters.sum(weight * (1 - label)), resamples, seed)


def _compare_log_loss(
    label: Floats, weight: Floats, clusters: Clusters, first: Floats, second: Floats, kind: ScoreKind, resamples: int, seed: int
) -> tuple[list[float], Floats]:
    """Log loss differences: of each seed, and of each resample."""
    gaps = np.stack([row_losses(label, a, kind) - row_losses(label, b, kind) for a, b in zip(first, second, strict=True)])
    totals = clusters.sum(gaps.mean(axis=0) * weight)
    per_seed = [float(gap @ weight / weight.sum()) for gap in gaps]
    return per_seed, resampled_mean(totals, clusters.sum(weight), resamples, seed)


def _summary(metric: str, per_seed: Sequence[float], values: Floats, clusters: Clusters) -> PairedTest:
    low, high = np.quantile(values, (0.025, 0.975))
    return PairedTest(
        metric,
        difference=float(np.mean(per_seed)),
        per_seed=tuple(per_seed),
        low=float(low),
        high=float(high),
        p_value=_two_sided(values),
        resamples=len(values),
        clusters=clusters.count,
        users=clusters.users,
    )


def _two_sided(values: Floats) -> float:
    """p of "no difference" from the bootstrap differences (B,)."""
    rarer = min(np.count_nonzero(values <= ZERO), np.count_nonzero(values >= -ZERO))
    return float(min(1.0, 2 * (rarer + 1) / (len(values) + 1)))
