"""The report of a ranking of labelled rows: AUC and log loss, slice by slice."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from braidrec.errors import DataError
from braidrec.evaluation.bootstrap import Clusters, add_pairs, cluster_by_user, resampled_auc
from braidrec.evaluation.metrics import Floats, ScoreKind, auc, checked_rows, row_losses
from braidrec.evaluation.report import MIN_ROWS, Interval, Report, Shown, SliceResult
from braidrec.evaluation.slices import Mask, Slices

SHOWN = (Shown("positives", "positive", "count"), Shown("auc", "AUC", interval=4), Shown("log_loss", "log loss"))


def evaluate_ranking(
    labels: ArrayLike,
    scores: ArrayLike,
    slices: Slices,
    users: ArrayLike,
    *,
    kind: ScoreKind,
    weights: ArrayLike | None = None,
    resamples: int = 1_000,
    seed: int = 0,
    min_rows: int = MIN_ROWS,
) -> Report:
    """ "auc" and "log_loss" (nats) of every slice, with a bootstrap interval (rows clustered by user) for the AUC of all rows.

    labels (N,) 0/1    scores (N,), which ``kind`` calls logits, probabilities or (no log loss) scores    users (N,) ids
    weights (N,) sample weights, or None.  A slice of fewer than ``min_rows`` rows says "too few" in place of numbers.
    Raises DataError on rows that cannot be used or on lengths that differ.
    """
    label, score, weight = checked_rows(labels, scores, weights)
    if slices.rows != len(label):
        raise DataError(f"the slices cover {slices.rows:,} rows, labels {len(label):,}; cut the slices from the rows you score")
    loss = None if kind == "scores" else row_losses(label, score, kind)
    clusters = cluster_by_user(users, len(label))

    def result(name: str, mask: Mask) -> SliceResult:
        rows, counts = int(mask.sum()), {"positives": int(label[mask].sum())}
        if rows < min_rows:
            reason = f"too few: {rows:,} rows, {min_rows:,} wanted"
            return SliceResult(name, rows, counts, {"auc": None, "log_loss": None}, reason)
        total = weight[mask].sum()
        mean_loss = None if loss is None or not total else float(loss[mask] @ weight[mask] / total)
        area = auc(label[mask], score[mask], weight[mask])
        if math.isnan(area):
            return SliceResult(name, rows, counts, {"auc": None, "log_loss": mean_loss}, "one class only: no pair to rank")
        return SliceResult(name, rows, counts, {"auc": area, "log_loss": mean_loss})

    results = tuple(result(name, mask) for name, mask in slices.masks.items())
    intervals = {}
    if results[0]["auc"] is not None:
        intervals["auc"] = Interval.of(_bootstrap(label, score, weight, clusters, resamples, seed), clusters)
    return Report(results, intervals, {}, SHOWN)


def _bootstrap(label: Floats, score: Floats, weight: Floats, clusters: Clusters, resamples: int, seed: int) -> Floats:
    wins = np.zeros((clusters.count, clusters.count))
    add_pairs(wins, label, score, weight, clusters.index, 1.0)
    values = resampled_auc(wins, clusters.sum(weight * label), clusters.sum(weight * (1 - label)), resamples, seed)
    return values[~np.isnan(values)]
