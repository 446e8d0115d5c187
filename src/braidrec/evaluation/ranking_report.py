"""The report of a ranking of labelled rows: AUC and log loss, slice by slice."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from braidrec.errors import DataError
from braidrec.evaluation.bootstrap import Clusters, add_pairs, cluster_by_user, resampled_auc
from braidrec.evaluation.metrics import Floats, ScoreKind, auc, checked_rows, row_losses
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
    weights (N,) sample weights, or None.  A slice of fewer than ``min_rows`` rows is marked as few and has an interval of
    its own, where it has rows of two users; what cannot be computed is None, with the reason.
    Raises DataError on rows that cannot be used, on lengths that differ and on a ``min_rows`` that is none.
    """
    label, score, weight = checked_rows(labels, scores, weights)
    if slices.rows != len(label):
        raise DataError(f"the slices cover {slices.rows:,} rows, labels {len(label):,}; cut the slices from the rows you score")
    loss = None if kind == "scores" else row_losses(label, score, kind)
    ids, least = np.asarray(users), checked_min_rows(min_rows)

    def interval(mask: Mask) -> dict[str, Interval]:
        """Of the AUC; none where resamples say nothing: rows of one user, or never of both classes."""
        clusters = cluster_by_user(ids[mask], int(mask.sum()))
        values = _bootstrap(label[mask], score[mask], weight[mask], clusters, resamples, seed)
        return {"auc": Interval.of(values, clusters)} if clusters.count > 1 and len(values) else {}

    def result(name: str, mask: Mask) -> SliceResult:
        rows, counts = int(mask.sum()), {"positives": int(label[mask].sum())}
        few = rows < least
        if not rows:
            return SliceResult(name, rows, counts, {"auc": None, "log_loss": None}, NO_ROWS, few)
        total = weight[mask].sum()
        mean_loss = None if loss is None or not total else float(loss[mask] @ weight[mask] / total)
        area = auc(label[mask], score[mask], weight[mask])
        if math.isnan(area):
            reason = "one class only: no pair to rank"
            return SliceResult(name, rows, counts, {"auc": None, "log_loss": mean_loss}, reason, few)
        own = interval(mask) if few and name != first else {}
        return SliceResult(name, rows, counts, {"auc": area, "log_loss": mean_loss}, few=few, intervals=own)

    first = next(iter(slices.masks))
    results = tuple(result(name, mask) for name, mask in slices.masks.items())
    whole = interval(slices.masks[first]) if results[0]["auc"] is not None else {}
    return Report(results, whole, {}, SHOWN, notes_on_few(results, least))


def _bootstrap(label: Floats, score: Floats, weight: Floats, clusters: Clusters, resamples: int, seed: int) -> Floats:
    wins = np.zeros((clusters.count, clusters.count))
    add_pairs(wins, label, score, weight, clusters.index, 1.0)
    values = resampled_auc(wins, clusters.sum(weight * label), clusters.sum(weight * (1 - label)), resamples, seed)
    return values[~np.isnan(values)]
