"""NetMF: DeepWalk as a factorisation, of the logarithm of how often walks meet (Qiu et al., WSDM 2018).

    A (N, N) users and items    P = D^-1 A    W = sum_{r < T} P^r D^-1    M = vol(A) / (b T) P W
    Y = log max(M, 1) = U diag(s) U^T by its k largest |s|    vertices Z = U |s|^1/2    contexts Z diag(sign s)
    score(u, i) = z_u . z_i, or z_u . context_i, plus ``popularity`` times log n_i, n_i the users of i
Y says how much likelier a walk from u comes by i than a walk from anywhere, so that by itself it puts what is rare first;
log n_i turns it back towards how likely that is.  ``authors`` have neither that nor contexts.

Whose items are n walks to each of them first: their row of M is the mean of n rows of vol(A) / (b T) W, and their vector is
log max(row, 1) U diag(sign(s) |s|^-1/2).  Of somebody of training that is their row of Z, so nothing is kept of users and
somebody new is folded in exactly.  Explanation: each number of that row, by the items through which the walks behind it go.
Low rank (where two matrices of nodes are larger than ``memory_gib``, or by ``rank``): P by the h largest singular values of
D_u^-1/2 X D_i^-1/2 and, as a graph of two sides has them, their negatives, which the authors' form of this kind leaves out; Y
is then made in blocks of rows and never kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field as Setting
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.contracts import MatrixModel, Parts
from braidrec.collaborative.graph import Graph
from braidrec.collaborative.models.graph_filter import normalised
from braidrec.collaborative.sizes import GIB
from braidrec.errors import ConfigError
from braidrec.evaluation.closed_form import gram_times, leading_vectors
from braidrec.registry import Spec
from braidrec.strict import LONGEST, Depth, Strict, Width, because
from braidrec.training.stages import AnyStage, Fitted

OWN_RANK = 256  # where the exact form does not fit
_ROUNDS = 2  # of subspace iteration on Y
_ROWS = 2048  # of Y at a time, in the form of low rank
NODES = 50_000  # whose pairs a core goes through in minutes


class NetMFConfig(Strict):
    """window: T    negatives: b    by, popularity: see the scores above"""

    factors: Width = 128
    window: Depth = 10
    negatives: PositiveFloat = 1.0
    by: Literal["vertex", "context"] = "vertex"
    popularity: NonNegativeFloat = 0.0
    rank: int | None = Setting(default=None, ge=1, le=LONGEST)  # None: exact where it fits
    memory_gib: PositiveFloat = 8.0  # what matrices of nodes may take

    def idle(self) -> Mapping[str, str]:
        return because((self.rank is not None, f"rank = {self.rank}", "memory_gib"))


class NetMF(nn.Module, MatrixModel):
    """left (I + 1, N), or (I + 1, 2 h) with right (N, 2 h): rows of vol(A) / (b T) W
    back (N, k): from log max(row, 1) to a vector    vertices (I + 1, k)    signs (k,)    counts (I + 1,) n_i
    """

    left: Tensor
    right: Tensor | None
    back: Tensor
    vertices: Tensor
    signs: Tensor
    counts: Tensor

    def __init__(self, num_items: int, config: NetMFConfig):
        super().__init__()
        self.num_items, self.config = num_items, config
        for name in ("left", "right", "back", "vertices", "signs", "counts"):
            self.register_buffer(name, None)

    @property
    def remarks(self) -> Sequence[str]:
        if self.right is None or self.config.rank is not None:
            return ()
        nodes, rank = len(self.right), self.right.shape[1] // 2
        exact = f"the exact form holds two matrices of nodes, {_bytes(nodes):,} bytes for {nodes:,} users and items"
        return (f"NetMF of rank {rank}: {exact}; raise model.backbone.memory_gib where the machine has the memory",)

    @property
    def num_rows(self) -> int:
        return self.num_items + 1

    def scores(self, baskets: Baskets) -> Tensor:
        found = self.vectors(baskets) @ self._scored().T
        return found.add_(self._prior()) if self.config.popularity else found

    def vectors(self, baskets: Baskets) -> Tensor:
        """(b, k) of people; zeros for who has nothing that training knows."""
        return _logs(self._sums(baskets) / self._known(baskets)[:, None]) @ self.back

    def shares(self, items: Tensor, target: int) -> tuple[Tensor, Tensor | None]:
        """Without what popularity adds to the score, which is no item's."""
        each, known = self._sums(Baskets.alone(items)), self.counts[items] > 0
        whole = each.sum(0)
        worth = _logs(whole / known.sum().clamp_min(1)) * (self.back @ self._scored()[target])
        return each @ (worth / whole.clamp_min(torch.finfo(whole.dtype).tiny)), None

    def item_vectors(self) -> Mapping[str, Tensor]:
        return {"vertices": self.vertices}

    def _sums(self, baskets: Baskets) -> Tensor:
        found = baskets.times(self.left)
        return found if self.right is None else found @ self.right.T

    def _known(self, baskets: Baskets) -> Tensor:
        return baskets.times((self.counts[:, None] > 0).float()).squeeze(1).clamp_min(1)

    def _scored(self) -> Tensor:
        return self.vertices if self.config.by == "vertex" else self.vertices * self.signs

    def _prior(self) -> Tensor:
        return self.config.popularity * self.counts.clamp_min(1).log()


def stages(config: NetMFConfig, parts: Parts) -> list[AnyStage]:
    def fit() -> Mapping[str, Tensor]:
        graph, rank = parts.graph, low_rank(config, parts.graph.num_nodes)
        _check_pairs(graph, parts.device)
        own = graph, config, parts.device
        tensors, product = _exact(*own) if rank is None else _of_rank(*own, rank)
        values, vectors = leading_vectors(product, graph.num_nodes, config.factors, rounds=_ROUNDS, signed=True)
        root, signs = values.abs().sqrt(), values.sign()
        vertices = F.pad((vectors * root)[graph.num_users :], (0, 0, 1, 0))
        back = vectors * torch.where(root > 0, signs / root.clamp_min(torch.finfo(root.dtype).tiny), 0.0)
        counts = torch.from_numpy(graph.item_counts).float()
        found = {**tensors, "back": back, "vertices": vertices, "signs": signs, "counts": counts}
        return {name: tensor.cpu().contiguous() for name, tensor in found.items()}

    return [Fitted("fit", NetMF(parts.num_items, config), fit)]


def low_rank(config: NetMFConfig, nodes: int) -> int | None:
    """The rank that stands in for the exact form; None where this fits and nothing else is asked for."""
    return config.rank if config.rank is not None or _bytes(nodes) <= config.memory_gib * GIB else OWN_RANK


def _check_pairs(graph: Graph, device: torch.device | None) -> None:
    if graph.num_nodes > NODES and (device is None or device.type == "cpu"):
        raise ConfigError(
            f"netmf: {graph.num_users:,} users and {graph.num_items:,} items are {graph.num_nodes**2:,} pairs of nodes, each "
            f"of which it looks at several times; a CPU goes through those of {NODES:,} nodes at most: take prone, which looks "
            "at pairs that are there alone, or train where there is a GPU"
        )


def _bytes(nodes: int) -> int:
    return 2 * 4 * nodes**2


def _logs(rows: Tensor) -> Tensor:
    """log max(rows, 1) in the memory of ``rows``."""
    return rows.clamp_min_(1).log_()


_Form = tuple[dict[str, Tensor], Callable[[Tensor], Tensor]]


def _exact(graph: Graph, config: NetMFConfig, device: torch.device | None) -> _Form:
    """What a row of M is a mean of, and Y times any (N, n).

    A walk is on either side in turn, so powers of D_i^-1 X^T D_u^-1 X, walks of two steps from item to item, tell all.
    """
    matrix, at = graph.matrix[1:, 1:], graph.num_users
    back = matrix.T.tocsr()
    users, items = (_inverse(counts)[:, None] for counts in (graph.user_counts, graph.item_counts))
    none = last = np.diag(items[:, 0])
    whole = none.copy()
    for _ in range(config.window // 2):
        last = items * (back @ (users * (matrix @ last)))
        whole += last
    odd = whole - last
    even = whole if config.window % 2 else odd
    to_users = users * (matrix @ odd)  # (U, I): symmetric but for the degrees, so the walks from items to users by columns
    logs = np.empty((graph.num_nodes, graph.num_nodes), np.float32)
    logs[:at, :at] = users * (matrix @ np.ascontiguousarray(to_users.T))
    logs[:at, at:] = users * (matrix @ even)
    logs[at:, :at] = logs[:at, at:].T
    logs[at:, at:] = whole - none
    scale, left = _scale(graph, config), np.concatenate([to_users.T, even], axis=1)
    own = _logs(torch.from_numpy(logs).to(device).mul_(scale))
    kept = F.pad(torch.from_numpy(left), (0, 0, 1, 0)).mul_(scale)
    return {"left": kept}, lambda vectors: (own @ vectors.to(own)).cpu()


def _of_rank(graph: Graph, config: NetMFConfig, device: torch.device | None, rank: int) -> _Form:
    """The same of low rank."""
    inverse = torch.from_numpy(np.concatenate([_inverse(graph.user_counts), _inverse(graph.item_counts)])).to(device)
    smooth = normalised(graph.matrix)
    squares, items = leading_vectors(gram_times(smooth), smooth.shape[1], min(rank, graph.num_users, graph.num_items))
    values = squares.sqrt()
    users = torch.from_numpy(smooth @ items.numpy()) / values.clamp_min(torch.finfo(values.dtype).eps)
    sides = torch.cat([torch.cat([users[1:], sign * items[1:]]) for sign in (1, -1)], dim=1)
    basis = sides.to(inverse) * (inverse / 2).sqrt()[:, None]
    spectrum = torch.cat([values, -values]).to(basis)
    left = basis * (_scale(graph, config) * torch.stack([spectrum**turn for turn in range(config.window)]).sum(0))
    reached = (graph.adjacency("ones").to(inverse.device) @ left) * inverse[:, None]

    def product(vectors: Tensor) -> Tensor:
        own = vectors.to(basis)
        return torch.cat([(_logs(rows @ basis.T) @ own).cpu() for rows in reached.split(_ROWS)])

    return {"left": F.pad(left[graph.num_users :], (0, 0, 1, 0)), "right": basis}, product


def _inverse(counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """(n,) of D^-1 from counts (n + 1,) by catalogue rows; 0 for a node without an edge."""
    return np.where(counts[1:] > 0, 1 / np.maximum(counts[1:], 1), 0).astype(np.float32)


def _scale(graph: Graph, config: NetMFConfig) -> float:
    """vol(A) / (b T)"""
    return 2 * len(graph) / (config.negatives * config.window)


SPEC = Spec(
    "netmf",
    "NetMF",
    NetMFConfig,
    stages,
    presets={"authors": {}, "ours": {"factors": 64, "window": 4, "by": "context", "popularity": 0.5, "rank": 256}},
    fitted=True,
    tried=tuple(
        {"window": window, "factors": factors, "by": "context", "popularity": 0.5, "rank": rank}
        for window in (4, 10)
        for factors in (32, 64)
        for rank in (128, 256)
    ),
)
