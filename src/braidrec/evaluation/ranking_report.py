"""The report of a ranking of labelled rows: AUC and log loss, slice by slice, and what stands first in each user's own list."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from braidrec.errors import DataError
from braidrec.evaluation.bootstrap import Clusters, add_pairs, cluster_by_user, resampled_auc
from braidrec.evaluation.by_user import LONGEST, USER_METRICS, UserGains, UserMetric, user_gains
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

_BELOW: dict[UserMetric, str] = {"recall@10": "Recall@10", "hr@10": "HR@10", "ndcg@10": "nDCG@10"}
SHOWN = (
    Shown("positives", "positive", "count"),
    Shown("auc", "AUC", interval=4),
    Shown("log_loss", "log loss"),
    *(Shown(name, f"{title} by user", "below", "%", digits=2) for name, title in _BELOW.items()),
)


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

    Besides "recall@k", "hr@k" and "ndcg@k" at 5 and 10, as `user_gains` has them: a user's candidates are the user's own rows
    of the slice, every user counts alike whatever the weights.  counts: "users" of the slice, "ranked_users" those with rows of
    both labels, "long_users" those of them with more rows than 10, "unranked_rows" those of the others, which are left out.

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
        rows, few = int(mask.sum()), int(mask.sum()) < least
        by_user = user_gains(label[mask], score[mask], ids[mask])
        counts = {"positives": int(label[mask].sum()), **_counts(by_user)}
        own: dict[str, float | None] = {metric: by_user.mean(metric) for metric in USER_METRICS}
        if not rows:
            return SliceResult(name, rows, counts, {"auc": None, "log_loss": None, **own}, NO_ROWS, few)
        total = weight[mask].sum()
        mean_loss = None if loss is None or not total else float(loss[mask] @ weight[mask] / total)
        area = auc(label[mask], score[mask], weight[mask])
        if math.isnan(area):
            reason = "one class only: no pair to rank"
            return SliceResult(name, rows, counts, {"auc": None, "log_loss": mean_loss, **own}, reason, few)
        sure = interval(mask) if few else {}
        return SliceResult(name, rows, counts, {"auc": area, "log_loss": mean_loss, **own}, few=few, intervals=sure)

    results = tuple(result(name, mask) for name, mask in slices.masks.items())
    whole = results[0].intervals if results[0].few or results[0]["auc"] is None else interval(next(iter(slices.masks.values())))
    return Report(results, whole, {}, SHOWN, (*_notes(results[0]), *notes_on_few(results, least)))


def _counts(found: UserGains) -> dict[str, int]:
    users = {"users": found.users + found.left_users, "ranked_users": found.users, "long_users": found.long_users}
    return users | {"unranked_rows": found.left_rows}


def _notes(whole: SliceResult) -> tuple[str, ...]:
    """What the numbers by user are of."""
    users, ranked, long, rows = (whole.counts[name] for name in ("users", "ranked_users", "long_users", "unranked_rows"))
    note = (
        f"by user: candidates are the user's own rows of this part, ties stand in any order alike; mean of {ranked:,} users, "
        f"{long:,} of them with more than {LONGEST} rows; without {rows:,} rows of {users - ranked:,} users with one label"
    )
    return (note,)


def _bootstrap(label: Floats, score: Floats, weight: Floats, clusters: Clusters, resamples: int, seed: int) -> Floats:
    wins = np.zeros((clusters.count, clusters.count))
    add_pairs(wins, label, score, weight, clusters.index, 1.0)
    values = resampled_auc(wins, clusters.sum(weight * label), clusters.sum(weight * (1 - label)), resamples, seed)
    return values[~np.isnan(values)]
