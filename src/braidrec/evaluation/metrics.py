"""AUC and log loss in float64, with sample weights, for the scores of any model.

Sample weights count like repetition: weight 2 is the same row twice.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braidrec.errors import DataError

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
ScoreKind = Literal["logits", "probabilities", "scores"]  # "scores" rank rows but say nothing about probability

CLIP = 1e-7  # probabilities are kept this far from 0 and 1 in the log loss


def auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Chance that a random positive scores above a random negative; a tie counts one half (equal to averaged ranks).

    labels (N,) 0/1    scores (N,) any monotone scale    weights (N,) at least 0, or None for ones
    nan when only one class carries weight: no pair exists, so there is nothing to rank.
    Raises DataError, naming the first row, on a label other than 0/1, a score that is not finite or a bad weight.
    """
    label, score, weight = checked_rows(labels, scores, weights)
    group = tie_groups(score)
    positive = np.bincount(group, label * weight)
    negative = np.bincount(group, (1 - label) * weight)
    pairs = positive.sum() * negative.sum()
    if not pairs:
        return float("nan")
    below = np.cumsum(negative) - negative
    return float(positive @ (below + negative / 2) / pairs)


def log_loss(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Weighted mean of -log p(label) in nats, p clipped to [1e-7, 1 - 1e-7]; nan when no row carries weight.

    labels (N,) 0/1    probabilities (N,) of label 1, in [0, 1]    weights (N,) at least 0, or None for ones
    Raises DataError, naming the first row, on a value outside these ranges.
    """
    label, probability, weight = checked_rows(labels, probabilities, weights)
    losses = row_losses(label, probability, "probabilities")
    return float(losses @ weight / weight.sum()) if weight.sum() else float("nan")


def row_losses(labels: Floats, scores: Floats, kind: ScoreKind) -> Floats:
    """-log p(label) of each row (N,), clipped as in ``log_loss``; ``kind`` says what the scores are."""
    if kind == "scores":
        raise DataError("plain scores have no log loss; pass logits or probabilities and say which")
    if kind == "logits":
        probability = np.exp(-np.logaddexp(0.0, -scores))
    else:
        _refuse((scores < 0) | (scores > 1), "probabilities", scores, "a number in [0, 1]; for logits pass kind='logits'")
        probability = scores
    probability = np.clip(probability, CLIP, 1 - CLIP)
    return np.where(labels == 1, -np.log(probability), -np.log1p(-probability))


def tie_groups(scores: Floats) -> Ints:
    """(N,) dense rank of each score from 0; equal scores share it."""
    return np.unique(scores, return_inverse=True)[1]


def checked_rows(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None) -> tuple[Floats, Floats, Floats]:
    """Labels, scores and weights (ones when None) as float64 (N,), or DataError naming the first row that cannot be used."""
    label, score = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    weight = np.ones(label.shape) if weights is None else np.asarray(weights, np.float64)
    for name, values in (("scores", score), ("weights", weight)):
        if label.ndim != 1 or values.shape != label.shape:
            raise DataError(f"{name} has shape {values.shape}, labels {label.shape}; both must be (N,) for the same N rows")
    _refuse((label != 0) & (label != 1), "labels", label, "0 or 1")
    _refuse(~np.isfinite(score), "scores", score, "a finite number")
    _refuse(~(np.isfinite(weight) & (weight >= 0)), "weights", weight, "a finite number of at least 0")
    return label, score, weight


def _refuse(bad: NDArray[np.bool_], name: str, values: NDArray[Any], accepted: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"{name}: row {row} is {values[row]}, one of {int(bad.sum()):,} such rows; accepted: {accepted}")
