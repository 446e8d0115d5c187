"""What two views of the same rows share: maps of their spaces, how alike their structures are, and who is near from afar.

likeness   the correlation of both sides' cosines over all pairs of rows: 1 where one is the other turned, moved or scaled
flat       t-SNE of cosines (van der Maaten & Hinton 2008), for the eye alone: distances between groups mean nothing there
Far        pairs of users whom a graph holds apart, and how near a model puts them
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from braidrec.errors import DataError

Vectors = NDArray[np.float32]
Ints = NDArray[np.int64]
_PERPLEXITY = 30


def unit(vectors: NDArray[Any]) -> Vectors:
    """Rows at length 1; those of zeros stay so.  Raises DataError on numbers that are not finite."""
    rows = np.asarray(vectors, np.float32)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise DataError(f"vectors {rows.shape}: accepted: (n, D) finite numbers.  Did the training of these vectors diverge?")
    return cast(Vectors, rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def likeness(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Pearson's correlation of the cosines of all pairs of rows of ``first`` (n, D) with those of ``second`` (n, D'), n >= 3.

    Raises DataError where the rows are not as many, or too few.
    """
    if len(first) != len(second) or len(first) < 3:
        raise DataError(f"likeness of {len(first)} and {len(second)} rows: both must have the same 3 or more")
    pairs = np.triu_indices(len(first), 1)
    own, other = (similarity(side)[pairs] for side in (first, second))
    if own.std() == 0 or other.std() == 0:
        return 0.0
    return float(np.corrcoef(own, other)[0, 1])


def similarity(vectors: NDArray[Any]) -> Vectors:
    """(n, n) cosines."""
    rows = unit(vectors)
    return cast(Vectors, rows @ rows.T)


def flat(vectors: NDArray[Any], seed: int = 0) -> Vectors:
    """(n, 2) by t-SNE of cosine distances, started from principal components; n >= 4."""
    from sklearn.manifold import TSNE

    rows = unit(vectors)
    if len(rows) < 4:
        raise DataError(f"a map of {len(rows)} rows: accepted: 4 or more")
    perplexity = min(_PERPLEXITY, (len(rows) - 1) / 3)
    # of unit rows Euclidean distance orders as cosine does, and has the quicker neighbours
    found = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(rows)
    return cast(Vectors, found.astype(np.float32))


def groups(vectors: NDArray[Any], clusters: int, seed: int = 0) -> tuple[Ints, float]:
    """(n,) labels by k-means of rows at length 1, and their silhouette: 1 where groups are far apart, 0 where they blur."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    rows = unit(vectors)
    labels = KMeans(clusters, n_init=4, random_state=seed).fit_predict(rows)
    return labels.astype(np.int64), float(silhouette_score(rows, labels, metric="cosine"))


@dataclass(frozen=True)
class Far:
    """Pairs of rows whom a graph holds apart.

    first, second (P,) int64 rows    hops (P,) how far    likeness (P,) float32 cosines of what says that they are alike
    others: for each pair the rows that are as far from ``first`` as the least that was asked for
    """

    first: Ints
    second: Ints
    hops: Ints
    likeness: Vectors
    others: tuple[Ints, ...]

    def __len__(self) -> int:
        return len(self.first)


def far_pairs(
    edges: tuple[Ints, Ints], users: int, items: int, text: NDArray[Any], *, least: int = 6, pairs: int = 200, seed: int = 0
) -> Far:
    """Users of one component, ``least`` or more hops apart, most alike by ``text`` (U, S): one pair for each drawn user.

    edges: (E,) users 0 .. U - 1 and items 0 .. I - 1 of training    Raises DataError where nobody is so far from anybody.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    user, item = edges
    nodes = users + items
    graph = coo_array((np.ones(len(user), np.float32), (user, item + users)), shape=(nodes, nodes)).tocsr()
    rows, rng = unit(text), np.random.default_rng(seed)
    found: list[tuple[int, int, int, float, Ints]] = []
    order = rng.permutation(np.unique(user))
    for start in range(0, len(order), pairs):
        drawn = order[start : start + pairs]
        away = dijkstra(graph, directed=False, indices=drawn, unweighted=True)[:, :users]
        for source, distance in zip(drawn, away, strict=True):
            others = np.flatnonzero((distance >= least) & np.isfinite(distance))
            if len(others) and len(found) < pairs:
                alike = rows[others] @ rows[source]
                best = int(alike.argmax())
                found.append((int(source), int(others[best]), int(distance[others[best]]), float(alike[best]), others))
        if len(found) >= pairs:
            break
    if not found:
        raise DataError(f"no two of {users:,} users are {least} or more hops apart; lower `least`, or take a sparser log")
    first, second, hops, alike, rest = zip(*found, strict=True)
    return Far(np.array(first), np.array(second), np.array(hops), np.array(alike, np.float32), rest)


def nearness(vectors: NDArray[Any], far: Far) -> tuple[Vectors, Ints]:
    """(P,) cosine of each pair in ``vectors`` (U, D), and (P,) rank 1.. of the second among all who are as far."""
    rows = unit(vectors)
    cosines = np.einsum("pd,pd->p", rows[far.first], rows[far.second])
    ranks = [
        1 + int((rows[others] @ rows[source] > own + 1e-7).sum())
        for source, others, own in zip(far.first, far.others, cosines, strict=True)
    ]
    return cosines, np.array(ranks)
