"""Full-catalogue ranking in numbers: what each row gains by its targets' ranks, and a model's report, slice by slice.

With one target per row, HR@k is recall@k, the best possible gain is 1, and nDCG@k is 1 / log2(rank + 1) within k.
With several, T_u of user u:  recall@k = hits / |T_u|    nDCG@k = sum over hits of 1 / log2(rank + 1), over the same sum of
the ranks 1..min(|T_u|, k)    HR@k = 1 where there is a hit    MRR@k = 1 / the best rank, within k
precision@k = hits / k    F1@k = 2 hits / (k + |T_u|)    ndcg_all@k: nDCG over the sum of the ranks 1..|T_u|, however small k is
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braidrec.errors import DataError, suggest
from braidrec.evaluation.bootstrap import Clusters, cluster_by_user, resampled_mean
from braidrec.evaluation.metrics import Floats
from braidrec.evaluation.report import (
    MIN_ROWS,
    NO_ROWS,
    Interval,
    Report,
    Shown,
    SliceResult,
    checked_min_rows,
    notes_on_few,
)
from braidrec.evaluation.slices import Mask, Slices

if TYPE_CHECKING:
    from braidrec.evaluation.retrieval import Ranking

RetrievalMetric = Literal["hr", "ndcg", "mrr", "recall", "precision", "f1", "ndcg_all"]
TITLES: dict[RetrievalMetric, str] = {
    "hr": "HR",
    "ndcg": "nDCG",
    "mrr": "MRR",
    "recall": "Recall",
    "precision": "Precision",
    "f1": "F1",
    "ndcg_all": "nDCG (all)",
}
ONE_TARGET: tuple[RetrievalMetric, ...] = ("hr", "ndcg", "mrr")  # the first two stand in a table's cells, the others below
MANY_TARGETS: tuple[RetrievalMetric, ...] = ("recall", "ndcg", "hr", "mrr")


def gains(ranks: ArrayLike, metric: RetrievalMetric, k: int) -> Floats:
    """What each row of one target gains, in the shape of ``ranks`` (from 1): 0 beyond rank k; within, by metric:

    ``hr``, ``recall`` 1    ``ndcg``, ``ndcg_all`` 1 / log2(rank + 1)    ``mrr`` 1 / rank    ``precision`` 1 / k
    ``f1`` 2 / (k + 1)
    The metric of a set of rows is the mean.
    Raises DataError on another metric, k < 1 or a rank that is no whole number from 1 on.
    """
    rank = np.asarray(ranks)
    if not np.issubdtype(rank.dtype, np.integer) or (rank < 1).any():
        raise DataError(f"ranks are {rank.dtype}, the least {rank.min(initial=1)}; accepted: whole numbers from 1 on")
    if k < 1:
        raise DataError(f"k = {k}; accepted: 1 or more")
    within = rank <= k
    if metric in ("hr", "recall"):
        return within.astype(np.float64)
    if metric in ("ndcg", "ndcg_all"):
        return within / np.log2(rank + 1.0)
    if metric in ("precision", "f1"):
        return within.astype(np.float64) * (1 / k if metric == "precision" else 2 / (k + 1))
    if metric == "mrr":
        return within / rank
    raise DataError(f"metric '{metric}' is unknown{suggest(metric, get_args(RetrievalMetric))}")


def row_gains(ranking: Ranking, metric: RetrievalMetric, k: int) -> Floats:
    """(N,) what each row gains by all its targets.

    With one target in every row these are `gains` of the ranks, to the last bit.  A target that was no candidate gains
    nothing, but counts in |T_u|.  Raises DataError on another metric or k < 1.
    """
    if ranking.is_single:
        return gains(ranking.reached, metric, k)
    counted = metric in ("precision", "f1")
    each = gains(ranking.reached, "recall" if counted else metric, k)
    if metric in ("hr", "mrr"):
        best = np.zeros(len(ranking))
        np.maximum.at(best, ranking.row, each)
        return best
    targets = np.bincount(ranking.row, minlength=len(ranking))
    if counted:
        hits = np.bincount(ranking.row, each, len(ranking))
        return hits / k if metric == "precision" else 2 * hits / (targets + k)
    possible = targets if metric == "recall" else _ideal(targets, k if metric == "ndcg" else int(targets.max(initial=1)))
    # the two sums add the same terms in another order, so a perfect row may come out a last bit above 1
    return np.minimum(np.bincount(ranking.row, each, len(ranking)) / possible, 1.0)


def _ideal(targets: NDArray[np.int64], k: int) -> Floats:
    """(N,) DCG of rows whose ``targets`` (N,) stand first."""
    reached = np.minimum(targets, k)
    return np.asarray(np.cumsum(1 / np.log2(np.arange(2.0, reached.max(initial=1) + 2)))[reached - 1], np.float64)


def coverage(top: NDArray[np.integer[Any]], num_items: int) -> float:
    """Share of the catalogue that stands in at least one of the lists ``top`` (N, K); 0 marks an empty place."""
    return len(np.unique(top[top > 0])) / num_items


def novelty(top: NDArray[np.integer[Any]], counts: NDArray[np.int64]) -> float:
    """Mean surprise, in bits, of the items listed in ``top`` (N, K): -log2((count + 1) / (total + I)), every place alike.

    counts (I + 1,) training events of each item.  One is added to each count, so items never met have a finite surprise.
    nan where no list holds an item.
    """
    listed = top[top > 0]
    if not len(listed):
        return math.nan
    return float(np.mean(math.log2(counts[1:].sum() + len(counts) - 1) - np.log2(counts[listed] + 1.0)))


def shown_at(k: int, lists: int, metrics: Sequence[RetrievalMetric] = ONE_TARGET) -> tuple[Shown, ...]:
    """What a table prints of ``metrics`` at ``k`` and of the lists of the first ``lists``."""
    cells = [Shown(f"{metric}@{k}", f"{TITLES[metric]}@{k}", unit="%", interval=2) for metric in metrics[:2]]
    below = [Shown(f"{metric}@{k}", f"{TITLES[metric]}@{k}", "below", "%") for metric in metrics[2:]]
    return (
        Shown("users", "users", "count"),
        *cells,
        *below,
        Shown("coverage", f"coverage@{lists}", "below", "%"),
        Shown("novelty", f"novelty@{lists}", "below", "bits", digits=2),
        Shown("masked", "out of reach", "below", "%"),
    )


def evaluate_retrieval(
    ranking: Ranking,
    users: ArrayLike,
    slices: Slices,
    counts: NDArray[np.int64],
    *,
    metrics: Sequence[RetrievalMetric] = ONE_TARGET,
    besides: Sequence[RetrievalMetric] = (),
    at: Sequence[int] = (1, 5, 10, 20),
    primary: int = 10,
    resamples: int = 1_000,
    seed: int = 0,
    min_rows: int = MIN_ROWS,
) -> Report:
    """``metrics`` at every k of ``at`` ("ndcg@10") on every slice of rows; for all rows also what the lists hold.

    besides: metrics that results keep, and no table prints of itself

    users (N,) ids, drawn with replacement for the 95 % intervals of the first two metrics at ``primary``
    counts (I + 1,) training events of each item    lists: "coverage" (share of items) and "novelty" (bits) of the first
    ``primary`` places, None where the lists are shorter or empty; "masked": share of targets that were no candidate
    A slice of fewer than ``min_rows`` rows is marked as few and has intervals of its own, where it has rows of two users.
    Raises DataError on lengths that differ, without a metric, on a ``primary`` that is not in ``at``, or on a ``min_rows``
    that is none.
    """
    if slices.rows != len(ranking):
        raise DataError(
            f"the slices cover {slices.rows:,} rows, the ranking {len(ranking):,}; cut the slices from the rows you rank"
        )
    if primary not in at:
        raise DataError(f"primary = {primary} is not among the k of the report; accepted: {', '.join(map(str, at))}")
    ids, least = np.asarray(users), checked_min_rows(min_rows)
    by_row = {f"{metric}@{k}": row_gains(ranking, metric, k) for metric in (*metrics, *besides) for k in at}

    def intervals(mask: Mask) -> dict[str, Interval]:
        """Of the first two metrics; none where resamples say nothing, for rows of one user."""
        clusters = cluster_by_user(ids[mask], int(mask.sum()))
        sure = [f"{metric}@{primary}" for metric in metrics[:2]] if clusters.count > 1 else []
        return {name: _interval(by_row[name][mask], clusters, resamples, seed) for name in sure}

    def result(name: str, mask: Mask) -> SliceResult:
        rows, people = int(mask.sum()), {"users": len(np.unique(ids[mask]))}
        few = rows < least
        if not rows:
            return SliceResult(name, rows, people, dict.fromkeys(by_row), NO_ROWS, few)
        values = {key: float(gain[mask].mean()) for key, gain in by_row.items()}
        return SliceResult(name, rows, people, values, few=few, intervals=intervals(mask) if few else {})

    results = tuple(result(name, mask) for name, mask in slices.masks.items())
    top = ranking.top[:, :primary]
    listed = top.shape[1] == primary and top.any()
    return Report(
        results,
        results[0].intervals if results[0].few else intervals(next(iter(slices.masks.values()))),
        {
            "coverage": coverage(top, len(counts) - 1) if listed else None,
            "novelty": novelty(top, counts) if listed else None,
            "masked": float(ranking.masked.mean()) if len(ranking.masked) else 0.0,
        },
        shown_at(primary, primary, metrics),
        notes_on_few(results, least),
    )


def _interval(gain: Floats, clusters: Clusters, resamples: int, seed: int) -> Interval:
    values = resampled_mean(clusters.sum(gain), clusters.sum(np.ones(len(gain))), resamples, seed)
    return Interval.of(values, clusters)
