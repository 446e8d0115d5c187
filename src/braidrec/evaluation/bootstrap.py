"""Cluster bootstrap of AUC: users are drawn with replacement, all rows of a user stay together.

With multiplicity w[u] of user u, and wins[u, v] the pairs (positive of u, negative of v) that are ranked right (a tie is
one half), the AUC of a resample is  w' wins w / ((w' positives) (w' negatives)):  one matrix serves every resample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from braidrec.errors import DataError
from braidrec.evaluation.metrics import Floats, Ints, tie_groups

MAX_CLUSTERS = 6_000  # a matrix of 6,000 x 6,000 float64 takes 288 MB
RESAMPLE_BLOCK = 256  # resamples evaluated by one matrix product
SCORE_BLOCKS = 512  # score blocks accumulated by one matrix product


@dataclass(frozen=True)
class Clusters:
    """The unit of resampling.  index (N,) cluster 0..count-1 of each row; users: distinct users before pooling."""

    index: Ints
    count: int
    users: int

    def sum(self, values: Floats) -> Floats:
        """Sum over the rows of each cluster (U,) of ``values`` (N,)."""
        return np.bincount(self.index, values, self.count).astype(np.float64, copy=False)


def cluster_by_user(users: ArrayLike, rows: int) -> Clusters:
    """One cluster per user; above 6,000 users, the k-th distinct user joins cluster k mod 6,000.

    users (N,) ids of any sortable type.  Raises DataError unless N = ``rows``.
    """
    ids = np.asarray(users)
    if ids.shape != (rows,):
        raise DataError(f"users has shape {ids.shape}, labels ({rows},); both must be (N,) for the same N rows")
    distinct, index = np.unique(ids, return_inverse=True)
    count = min(len(distinct), MAX_CLUSTERS)
    return Clusters(index % max(count, 1), count, len(distinct))


def add_pairs(wins: Floats, labels: Floats, scores: Floats, weights: Floats, cluster: Ints, sign: float) -> None:
    """Add ``sign`` times the pair matrix of one model to ``wins`` (U, U), in place.

    labels, scores, weights, cluster (N,).  The rows, sorted by score, are cut into blocks that split no tie: a matrix product
    counts the pairs between blocks, a comparison those within.  Without weights every sum is a multiple of 1/2, so exact.
    """
    num_clusters = len(wins)
    order = np.argsort(scores, kind="stable")
    group, cluster, weight, positive = tie_groups(scores)[order], cluster[order], weights[order], labels[order] == 1
    edges = _block_edges(group, size=max(64, num_clusters // 6))  # balances the two costs
    flat = wins.reshape(-1)
    below = np.zeros(num_clusters)
    for first in range(0, len(edges) - 1, SCORE_BLOCKS):
        bounds = edges[first : first + SCORE_BLOCKS + 1]
        rows = slice(bounds[0], bounds[-1])
        shape = (len(bounds) - 1, num_clusters)
        cell = np.repeat(np.arange(shape[0]), np.diff(bounds)) * num_clusters + cluster[rows]
        ups = np.bincount(cell, weight[rows] * positive[rows], shape[0] * num_clusters).reshape(shape)
        downs = np.bincount(cell, weight[rows] * ~positive[rows], shape[0] * num_clusters).reshape(shape)
        one_tie = group[bounds[:-1]] == group[bounds[1:] - 1]
        reached = np.cumsum(downs, axis=0)
        wins += sign * (ups.T @ (below + reached - downs + downs * one_tie[:, None] / 2))
        below = below + reached[-1]
        for start, stop in zip(bounds[:-1][~one_tie], bounds[1:][~one_tie], strict=True):
            up, down = start + np.flatnonzero(positive[start:stop]), start + np.flatnonzero(~positive[start:stop])
            won = (1 + np.sign(group[up, None] - group[down])) / 2 * weight[up, None] * weight[down]
            np.add.at(flat, (cluster[up, None] * num_clusters + cluster[down]).reshape(-1), sign * won.reshape(-1))


def resampled_auc(wins: Floats, positives: Floats, negatives: Floats, resamples: int, seed: int) -> Floats:
    """AUC (or, for a difference of pair matrices, difference of AUC) of each resample; nan where one class is missing.

    wins (U, U)    positives, negatives (U,) weight of each class per cluster
    """

    def evaluate(drawn: Floats) -> Floats:
        pairs = (drawn @ positives) * (drawn @ negatives)
        won = np.einsum("bu,bu->b", drawn @ wins, drawn)
        return _ratio(won, pairs)

    return _resampled(evaluate, len(wins), resamples, seed)


def resampled_mean(totals: Floats, weights: Floats, resamples: int, seed: int) -> Floats:
    """Weighted mean of each resample, from the totals (U,) and the weights (U,) of the clusters; nan without weight."""

    def evaluate(drawn: Floats) -> Floats:
        return _ratio(drawn @ totals, drawn @ weights)

    return _resampled(evaluate, len(totals), resamples, seed)


def _resampled(evaluate: Callable[[Floats], Floats], clusters: int, resamples: int, seed: int) -> Floats:
    if resamples < 1:
        raise DataError(f"resamples is {resamples}; accepted: 1 or more")
    return np.concatenate([evaluate(drawn) for drawn in _multiplicities(clusters, resamples, seed)])


def _ratio(part: Floats, whole: Floats) -> Floats:
    out = np.full(part.shape, np.nan)
    np.divide(part, whole, out=out, where=whole > 0)
    return out


def _multiplicities(clusters: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each cluster is drawn: blocks (b, U) of float64 counts, each row summing to U."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, RESAMPLE_BLOCK):
        block = min(RESAMPLE_BLOCK, resamples - start)
        drawn = rng.integers(clusters, size=(block, clusters)) + np.arange(block)[:, None] * clusters
        yield np.bincount(drawn.reshape(-1), minlength=block * clusters).reshape(block, clusters).astype(np.float64)


def _block_edges(group: Ints, size: int) -> Ints:
    """Row borders of blocks over sorted tie groups: each block is shorter than ``size`` rows or a single tie."""
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    marked = group[::size]  # the tie that holds every size-th row stands alone
    return np.unique(np.r_[0, starts[marked], np.r_[starts[1:], len(group)][marked], len(group)])
