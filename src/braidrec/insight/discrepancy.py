"""How far two spaces of item vectors disagree: Kendall's tau of pair distances (PAD, SIGIR 2025, eq. 13 and Fig. 6), and
whether the near and far pairs of one space stand apart in another (Figs. 3 and 7).

    z_q, z'_q -> distance of pair q in space A, B    C, D -> concordant, discordant pairs of pairs
    G_top, G_bottom -> the pairs farthest from and nearest to one another by ID vectors

Only the order of distances within one space counts, so A and B may differ in width and scale.

Departures: tau-b by default, as in the authors' code, where the paper prints tau-a; they differ only with ties.  Pairs are
ranked by ID distance, as in the paper, where the code ranks them by text distance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braidrec.errors import ConfigError, DataError, suggest
from braidrec.evaluation.metrics import auc
from braidrec.insight.pairs import Ids, Pairs

Vectors: TypeAlias = NDArray[np.floating[Any]]
Distance = Literal["cosine", "euclidean"]
BLOCK_BYTES = 1 << 22  # gathered vectors on each side at a time: 200,000 pairs of width 4,096 would be 3 GB a side


@dataclass(frozen=True)
class Discrepancy:
    """Kendall's tau-b of the pair distances, bucket by bucket and over all pairs: 1 the same order, 0 unrelated, -1 reversed.

    buckets: those that have pairs, ascending    tau, pairs: of each bucket    tau_all, pairs_all: over all pairs
    A tau is None where there is no order to compare: fewer than two pairs, or one distance for all of them.
    """

    buckets: tuple[int, ...]
    tau: tuple[float | None, ...]
    pairs: tuple[int, ...]
    tau_all: float | None
    pairs_all: int


@dataclass(frozen=True)
class Separation:
    """The pairs' distances by ID and by text, and how well the text tells the far pairs from the near ones.

    auc: chance that a random pair of G_top is farther apart by text than one of G_bottom; .5: the text tells nothing
    id_distance, text_distance (Q,)    top, bottom (Q,) bool: G_top, G_bottom    distance: the measure used on both sides
    """

    auc: float
    id_distance: Vectors
    text_distance: Vectors
    top: NDArray[np.bool_]
    bottom: NDArray[np.bool_]
    distance: Distance


def kendall(distances_a: ArrayLike, distances_b: ArrayLike, *, variant: Literal["b", "a"] = "b") -> float:
    """Kendall's rank correlation of two lists of distances, exact in O(Q log Q).

    distances_a, distances_b (Q,) of the same pairs
    variant: "b" (default) = (C - D) / sqrt((P - T_a)(P - T_b)), P = Q (Q - 1) / 2 and T the pairs tied in one list (scipy);
        "a" = (C - D) / P as printed in the paper.  The same without ties.
    nan where it is undefined: Q < 2, or for "b" a list that holds one value only.
    Raises DataError on different shapes or a distance that is not finite, naming the first row, ConfigError on another variant.
    """
    a, b = np.asarray(distances_a), np.asarray(distances_b)
    if variant not in ("b", "a"):
        raise ConfigError(f"kendall: variant = {variant!r} is unknown (accepted: b, a)")
    if a.ndim != 1 or a.shape != b.shape:
        raise DataError(f"distances have shapes {a.shape} and {b.shape}; both must be (Q,) for the same Q pairs")
    for name, values in (("distances_a", a), ("distances_b", b)):
        bad = ~np.isfinite(values)
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(
                f"{name}: row {row} is {values[row]}, one of {int(bad.sum()):,} such rows; accepted: finite numbers"
            )
    if len(a) < 2:
        return float("nan")
    from scipy.stats import kendalltau  # slow to import

    tau = float(kendalltau(a, b).statistic)
    if variant == "b":
        return tau
    if np.isnan(tau):
        return 0.0  # one list is constant: no pair of pairs is concordant or discordant
    total = len(a) * (len(a) - 1) // 2
    untied = [total - int((ties * (ties - 1) // 2).sum()) for ties in (np.unique(x, return_counts=True)[1] for x in (a, b))]
    return round(tau * (untied[0] * untied[1]) ** 0.5) / total  # C - D is an integer


def cosine_distances(vectors: Vectors, pairs: Pairs, name: str = "vectors") -> Vectors:
    """(Q,) 1 - cos of each pair, in [0, 2]; in the width of the vectors, at least float32.

    vectors (I + 1, D), row 0 is never read    name: what to call them in an error
    Computed as half the squared distance of the unit vectors: no digits cancel between near vectors, so no ties arise.
    A zero vector has no direction: its distance to anything, itself included, is 1, as for cosine 0.
    Raises DataError on a pair outside 1..I or a value that is not finite, naming the row.
    """
    return _distances(vectors, pairs, name, _cosine)


def euclidean_distances(vectors: Vectors, pairs: Pairs, name: str = "vectors") -> Vectors:
    """(Q,) length of the difference of each pair; the rest as `cosine_distances`."""
    return _distances(vectors, pairs, name, _euclidean)


def discrepancy(vectors_a: Vectors, vectors_b: Vectors, pairs: Pairs, *, distance: Distance = "cosine") -> Discrepancy:
    """Kendall's tau-b between two spaces, per bucket and over all pairs.

    vectors_a (I + 1, D_a), vectors_b (I + 1, D_b), row 0 padding    distance: the measure on both sides
    Raises DataError on tables of different length and as `cosine_distances`, ConfigError on an unknown distance.
    """
    a, b = _both(("vectors_a", vectors_a), ("vectors_b", vectors_b), pairs, distance)
    buckets = [int(bucket) for bucket in np.unique(pairs.bucket)]
    masks = [pairs.bucket == bucket for bucket in buckets]
    return Discrepancy(
        tuple(buckets),
        tuple(_defined(kendall(a[mask], b[mask])) for mask in masks),
        tuple(int(mask.sum()) for mask in masks),
        _defined(kendall(a, b)),
        len(pairs),
    )


def separation(
    vectors_id: Vectors,
    vectors_text: Vectors,
    pairs: Pairs,
    share: float = 0.1,
    *,
    mask: NDArray[np.bool_] | None = None,
    distance: Distance = "cosine",
) -> Separation:
    """Does text distance tell the pairs that are far apart by ID (G_top) from those that are near (G_bottom)?

    vectors_id (I + 1, D), vectors_text (I + 1, S), row 0 padding    share: of the pairs in each group, rounded down
    mask (Q,) bool: the pairs to look at, such as those of cold items; None: all.  The groups are cut among these alone.
    Pairs at the same ID distance keep their order in ``pairs``, so the groups always have their size.
    Raises DataError when a group would be empty and as `discrepancy`, ConfigError on a share outside (0, .5].
    """
    if not 0 < share <= 0.5:
        raise ConfigError(f"separation: share = {share}; accepted: more than 0, at most 0.5 (two groups that do not overlap)")
    pairs = pairs if mask is None else pairs.where(mask)
    size = int(share * len(pairs) + 1e-9)
    if not size:
        raise DataError(f"separation: {len(pairs)} pairs leave no pair for a share of {share}; select more or raise the share")
    by_id, by_text = _both(("vectors_id", vectors_id), ("vectors_text", vectors_text), pairs, distance)
    order = np.argsort(by_id, kind="stable")
    top, bottom = np.zeros(len(pairs), bool), np.zeros(len(pairs), bool)
    bottom[order[:size]], top[order[-size:]] = True, True
    grouped = top | bottom
    return Separation(auc(top[grouped], by_text[grouped]), by_id, by_text, top, bottom, distance)


def _both(a: tuple[str, Vectors], b: tuple[str, Vectors], pairs: Pairs, distance: Distance) -> tuple[Vectors, Vectors]:
    """Distances of the pairs in two named spaces over one catalogue."""
    if distance not in get_args(Distance):
        raise ConfigError(f"distance = {distance!r} is unknown{suggest(distance, get_args(Distance))}")
    if len(a[1]) != len(b[1]):
        raise DataError(f"{a[0]} has {len(a[1])} rows, {b[0]} {len(b[1])}; both must be (I + 1, D) over the same catalogue")
    measure = cosine_distances if distance == "cosine" else euclidean_distances
    return measure(a[1], pairs, a[0]), measure(b[1], pairs, b[0])


def _distances(vectors: Vectors, pairs: Pairs, name: str, measure: Callable[[Vectors, Vectors], Vectors]) -> Vectors:
    if vectors.ndim != 2:
        raise DataError(f"{name} has shape {vectors.shape}; accepted: (I + 1, D), one row per item and row 0 for padding")
    for column, rows in (("behaviour", pairs.behaviour), ("item", pairs.item)):
        outside = (rows < 1) | (rows >= len(vectors))
        if outside.any():
            pair = int(np.argmax(outside))
            raise DataError(f"pairs: {column} of pair {pair} is {rows[pair]}; accepted: 1..{len(vectors) - 1} (rows of {name})")
    dtype = np.result_type(vectors.dtype, np.float32)
    distances = np.empty(len(pairs), dtype)
    rows_at_once = max(1, BLOCK_BYTES // max(1, vectors.shape[1] * dtype.itemsize))
    for begin in range(0, len(pairs), rows_at_once):
        block = slice(begin, begin + rows_at_once)
        distances[block] = measure(*(_rows(vectors, rows[block], name, dtype) for rows in (pairs.behaviour, pairs.item)))
    return distances


def _rows(vectors: Vectors, rows: Ids, name: str, dtype: np.dtype[Any]) -> Vectors:
    """vectors[rows] in ``dtype``, or DataError naming the first row that holds a value that is not finite."""
    taken = vectors[rows].astype(dtype, copy=False)
    bad = ~np.isfinite(taken).all(axis=1)
    if bad.any():
        row = int(rows[np.argmax(bad)])
        value = vectors[row][~np.isfinite(vectors[row])][0]
        raise DataError(
            f"{name}: row {row} holds {value}; accepted: finite numbers.  Did the training of these vectors diverge?"
        )
    return taken


def _cosine(a: Vectors, b: Vectors) -> Vectors:
    (a, zero_a), (b, zero_b) = _unit(a), _unit(b)
    apart = a - b
    half: Vectors = np.einsum("qd,qd->q", apart, apart) / 2
    return np.where(zero_a | zero_b, half.dtype.type(1), half)


def _unit(vectors: Vectors) -> tuple[Vectors, NDArray[np.bool_]]:
    """Rows of length 1, and which rows were zero (they stay so); divided by their largest entry first, against overflow."""
    largest = np.abs(vectors).max(axis=1, initial=0)
    zero = largest == 0
    vectors = vectors / np.where(zero, 1, largest)[:, None]
    length = np.sqrt(np.einsum("qd,qd->q", vectors, vectors))
    return vectors / np.where(zero, 1, length)[:, None], zero


def _euclidean(a: Vectors, b: Vectors) -> Vectors:
    apart = a - b
    return np.sqrt(np.einsum("qd,qd->q", apart, apart))


def _defined(tau: float) -> float | None:
    return None if np.isnan(tau) else tau
