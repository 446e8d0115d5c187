"""ProNE: node vectors by a sparse factorisation, spread over the graph by a band-pass filter (Zhang et al., IJCAI 2019).

    A (N, N) users and items, C = D^-1 A    p_j ~ (column sum of C)^.75, adding up to 1
    F_ij = log C_ij - log p_j on edges, F ~ U diag(s) V^T of rank k    Z = F V diag(s)^-1/2, rows of length 1
    M = (1 - mu) I - (D + I)^-1 (A + I)    x_0 = Z,  x_1 = M^2 Z / 2 - Z,  x_i = (M^2 - 2) x_{i-1} - x_{i-2}
    Z' = I_0(theta) x_0 - 2 I_1(theta) x_1 + 2 sum_{1 < i < order} (-1)^i I_i(theta) x_i, modified Bessel functions
    G = (A + I) (Z - Z') = L diag(g) R^T    vectors L diag(g)^1/2 = G R diag(g)^-1/2, rows of length 1
    score(u, i) = z_u . z_i, plus ``popularity`` times log n_i, n_i the users of i; ``authors`` have no such term
Users and items are the two sides of A: the rows of Z of users and those of items are orthogonal, so that every ranking is the
filter's.  Z is the authors' U diag(s)^1/2, by one more product with F.

A node takes sums over its neighbours, and all else is its own.  So whose items are given goes through what a node of the graph
goes through, which gives somebody of training their very vector: nothing is kept of users, and 2 order + 1 rows of every item.
These sums are linear in what somebody has, which is how a score is explained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field as Setting
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.contracts import MatrixModel, Parts
from braidrec.collaborative.graph import Graph
from braidrec.collaborative.sizes import GIB
from braidrec.errors import ConfigError
from braidrec.registry import Spec
from braidrec.strict import DEEPEST, Strict, Width
from braidrec.training.stages import AnyStage, Fitted

_ROUNDS = 5  # of power iteration on F
_POWER = 0.75  # of p
_NONE = 1e-6  # of the largest singular value: what is no more than rounding


class ProNEConfig(Strict):
    """order, mu, theta: of the filter    popularity: see the scores above"""

    factors: Width = 128
    order: int = Setting(default=10, ge=2, le=DEEPEST)
    mu: float = 0.2
    theta: PositiveFloat = 0.5
    popularity: NonNegativeFloat = 0.0
    memory_gib: PositiveFloat = 8.0  # what the rows of items may take


class ProNE(nn.Module, MatrixModel):
    """rows (I + 1, (2 order + 1) k): of V diag(s)^-1/2, of log p times that, then of what each step takes sums of
    back (k, k): R diag(g)^-1/2    items (I + 1, k)    counts (I + 1,) n_i
    """

    rows: Tensor
    back: Tensor
    items: Tensor
    counts: Tensor

    def __init__(self, num_items: int, config: ProNEConfig):
        super().__init__()
        self.num_items, self.config = num_items, config
        for name in ("rows", "back", "items", "counts"):
            self.register_buffer(name, None)

    @property
    def num_rows(self) -> int:
        return self.num_items + 1

    def scores(self, baskets: Baskets) -> Tensor:
        found = self.vectors(baskets) @ self.items.T
        return found.add_(self._prior()) if self.config.popularity else found

    def vectors(self, baskets: Baskets) -> Tensor:
        """(b, k) of people, of length 1; zeros for who has nothing that training knows."""
        known = baskets.times((self.counts[:, None] > 0).float())
        return F.normalize(self._spread(baskets, known), dim=1)

    def shares(self, items: Tensor, target: int) -> tuple[Tensor, Tensor | None]:
        """Every item's rows on their way beside the others': what is not linear, lengths and numbers, is the whole's.

        Without what popularity adds to the score, which is no item's.
        """
        known = (self.counts[items] > 0).sum().float()
        whole = Baskets(items.new_tensor([0, len(items)]), items)
        length = self._first(whole, known).norm(dim=1).clamp_min(1e-12)
        parts = self._spread(Baskets.alone(items), known, length)
        return parts @ self.items[target] / parts.sum(0).norm().clamp_min(1e-12), None

    def item_vectors(self) -> Mapping[str, Tensor]:
        return {"vectors": self.items}

    def _first(self, baskets: Baskets, known: Tensor) -> Tensor:
        """(b, k) rows of F V diag(s)^-1/2, of people with ``known`` items."""
        width = len(self.back)
        sums = baskets.times(self.rows[:, : 2 * width])
        return -known.clamp_min(1).log() * sums[:, :width] - sums[:, width:]

    def _spread(self, baskets: Baskets, known: Tensor, length: Tensor | None = None) -> Tensor:
        """(b, k) before rows get length 1.  known (b, 1): how many items of each training knows    length (1,): of Z's row"""
        first = self._first(baskets, known)
        first = F.normalize(first, dim=1) if length is None else first / length
        width = len(self.back)
        sums = iter(baskets.times(self.rows[:, 2 * width :]).split(width, dim=1))
        return spread(first, lambda _: next(sums), 1 / (known + 1), self.config) @ self.back

    def _prior(self) -> Tensor:
        return self.config.popularity * self.counts.clamp_min(1).log()


def spread(first: Tensor, around: Callable[[Tensor], Tensor], share: Tensor, config: ProNEConfig) -> Tensor:
    """G (n, k) of nodes with rows ``first`` of Z.

    around: of x (n, k), what it adds up to over the neighbours of each; asked 2 order - 1 times    share (n, 1) of (D + I)^-1
    """
    from scipy.special import iv

    def step(x: Tensor) -> Tensor:
        return (1 - config.mu) * x - share * (x + around(x))

    weights = iv(np.arange(config.order), config.theta).tolist()
    before, x = first, step(step(first)) / 2 - first
    smooth = weights[0] * before - 2 * weights[1] * x
    for turn in range(2, config.order):
        before, x = x, step(step(x)) - 2 * x - before
        smooth += 2 * (-1) ** turn * weights[turn] * x
    rest = first - smooth
    return rest + around(rest)


def factorised(graph: Graph, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Z (N, k) before rows get length 1, V diag(s)^-1/2 (N, k), and log p (N,), 0 for a node without an edge.

    No singular vector of F has both users and items in it, so F from users to items is factorised by itself, and back again.
    """
    from scipy.sparse import csr_array
    from sklearn.utils.extmath import randomized_svd

    edges, users = graph.adjacency("ones"), graph.num_users
    start, column = edges.crow_indices().numpy(), edges.col_indices().numpy()
    degrees = np.diff(start)
    own = np.repeat(degrees, degrees)
    reached = np.bincount(column, 1 / own, minlength=len(degrees)) ** _POWER
    likely = np.log(reached / reached.sum(), out=np.zeros_like(reached), where=reached > 0)
    matrix = csr_array((-np.log(own) - likely[column], column, start), shape=edges.shape)
    found = []
    for rows, columns in ((slice(users), slice(users, None)), (slice(users, None), slice(users))):
        side = matrix[rows, columns]
        _, values, right = randomized_svd(side, min(width, *side.shape), n_iter=_ROUNDS, random_state=0)
        vectors = np.zeros((len(degrees), len(values)))
        vectors[columns] = right.T
        found.append((values, vectors))
    values, vectors = (np.concatenate(part, axis=-1) for part in zip(*found, strict=True))
    best = np.argsort(-values, kind="stable")[:width]
    back = vectors[:, best] * np.where(values[best] > _NONE * values.max(), values[best].clip(_NONE) ** -0.5, 0.0)
    return tuple(torch.from_numpy(np.asarray(part, np.float32)) for part in (matrix @ back, back, likely))  # type: ignore[return-value]


def stages(config: ProNEConfig, parts: Parts) -> list[AnyStage]:
    def fit() -> Mapping[str, Tensor]:
        graph = parts.graph
        _check_bytes(config, graph)
        first, back, likely = factorised(graph, config.factors)
        edges, at = graph.adjacency("ones"), graph.num_users
        kept = [back[at:], (likely[:, None] * back)[at:]]

        def around(x: Tensor) -> Tensor:
            kept.append(x[at:].clone())
            return edges @ x

        degrees = torch.from_numpy(np.concatenate([graph.user_counts[1:], graph.item_counts[1:]]))
        found = spread(F.normalize(first, dim=1), around, 1 / (degrees[:, None] + 1).float(), config)
        if not torch.isfinite(found).all():
            raise ConfigError(
                f"prone: model.backbone.mu = {config.mu:g}, theta = {config.theta:g} and order = {config.order} make numbers "
                "that no float32 holds; take those nearer to 0, or a smaller order"
            )
        _, strength, right = torch.linalg.svd(found, full_matrices=False)
        turn = right.T * torch.where(strength > _NONE * strength[0], strength.clamp_min(1e-30) ** -0.5, 0.0)
        rows, items = (F.pad(part, (0, 0, 1, 0)) for part in (torch.cat(kept, dim=1), F.normalize(found @ turn, dim=1)[at:]))
        return {"rows": rows, "back": turn, "items": items, "counts": torch.from_numpy(graph.item_counts).float()}

    return [Fitted("fit", ProNE(parts.num_items, config), fit)]


def _check_bytes(config: ProNEConfig, graph: Graph) -> None:
    needed = 4 * (graph.num_items + 1) * (2 * config.order + 1) * config.factors
    if needed > config.memory_gib * GIB:
        raise ConfigError(
            f"prone: {2 * config.order + 1} rows of {config.factors} numbers for each of {graph.num_items:,} items, by which "
            f"people are folded in, take {needed:,} bytes, memory_gib = {config.memory_gib:g} allows "
            f"{int(config.memory_gib * GIB):,}; raise model.backbone.memory_gib where the machine has it, or take fewer "
            "factors or a smaller order"
        )


SPEC = Spec(
    "prone",
    "ProNE",
    ProNEConfig,
    stages,
    presets={"authors": {}, "ours": {"mu": 0.4, "theta": 5.0, "popularity": 0.15}},
    fitted=True,
    tried=tuple(
        {"popularity": popularity, "theta": theta, "factors": factors}
        for popularity in (0.1, 0.15, 0.2)
        for theta in (2.0, 5.0)
        for factors in (64, 128)
    ),
)
