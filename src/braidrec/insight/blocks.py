"""What vectors tell of their items' categories, and what two vectors of people share, block by block: numbers for arrays."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidrec.errors import DataError

Vectors = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Classified:
    """Micro averages over all items and categories, 0..1."""

    recall: float
    precision: float

    @property
    def f1(self) -> float:
        total = self.recall + self.precision
        return 2 * self.recall * self.precision / total if total else 0.0

    @classmethod
    def of(cls, labels: NDArray[Any], found: NDArray[Any]) -> Classified:
        """labels, found (n, c) of 0 and 1."""
        hits = float((labels * found).sum())
        return cls(hits / max(float(labels.sum()), 1.0), hits / max(float(found.sum()), 1.0))


def classified(
    vectors: Vectors,
    labels: NDArray[Any],
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    *,
    seed: int,
    linear: bool = False,
) -> Classified:
    """How well categories are told from vectors (n, D) by scikit-learn's MLPClassifier as it comes, or by logistic regression.

    labels (n, c) of 0 and 1    train, test: rows    Raises DataError where either holds none, or vectors are not finite.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.multioutput import MultiOutputClassifier
    from sklearn.neural_network import MLPClassifier

    if not len(train) or not len(test):
        raise DataError(f"{len(train):,} items to learn from and {len(test):,} to test on; accepted: one of each at least")
    if not np.isfinite(vectors[np.concatenate([train, test])]).all():
        raise DataError("item vectors hold NaN or infinity")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 passes are the library's own default
        if not linear:
            found = MLPClassifier(random_state=seed).fit(vectors[train], labels[train]).predict(vectors[test])
            return Classified.of(labels[test], found.reshape(len(test), -1))
        both = (labels[train].min(axis=0) != labels[train].max(axis=0)).nonzero()[0]  # what no item has cannot be learned
        model = MultiOutputClassifier(LogisticRegression(max_iter=1000)).fit(vectors[train], labels[train][:, both])
        found = np.zeros_like(labels[test])
        found[:, both] = model.predict(vectors[test])
    return Classified.of(labels[test], found)


def agreement(vectors: Vectors, group: NDArray[np.integer[Any]], neighbours: int = 10) -> float:
    """Mean share of the nearest ``neighbours`` by cosine that are of the item's own ``group`` (n,)."""
    unit = _unit(vectors)
    near = unit @ unit.T
    np.fill_diagonal(near, -np.inf)
    count = min(neighbours, len(vectors) - 1)
    nearest = np.argpartition(-near, count - 1, axis=1)[:, :count]
    return float((group[nearest] == group[:, None]).mean())


def silhouette(vectors: Vectors, group: NDArray[np.integer[Any]]) -> float:
    """Mean silhouette by cosine, -1..1: how much nearer items are to their own ``group`` (n,) than to the next one."""
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(vectors, group, metric="cosine"))


def cosines(vectors: Vectors, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n,) of pairs of rows."""
    unit = _unit(vectors)
    return np.asarray((unit[first] * unit[second]).sum(axis=1), np.float64)


def jaccard(matrix: Any, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n,) of what pairs of rows of a SciPy CSR matrix have: in both over in either, 0 where there is nothing."""
    held = (matrix > 0).astype(np.float64)
    both = np.asarray(held[first].multiply(held[second]).sum(axis=1)).ravel()
    counts = np.asarray(held.sum(axis=1)).ravel()
    return np.asarray(both / np.maximum(counts[first] + counts[second] - both, 1))


def rank_correlations(
    blocks: Mapping[str, Vectors],
    truths: Mapping[str, NDArray[np.float64]],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
) -> dict[str, dict[str, float]]:
    """Spearman's rho of each block's cosines with each truth (n,) over pairs of rows, by block and truth."""
    from scipy.stats import spearmanr

    near = {name: cosines(vectors, first, second) for name, vectors in blocks.items()}
    return {
        name: {truth: float(spearmanr(own, values).statistic) for truth, values in truths.items()} for name, own in near.items()
    }


def _unit(vectors: Vectors) -> NDArray[np.float64]:
    own = np.asarray(vectors, np.float64)
    return own / np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-12)
