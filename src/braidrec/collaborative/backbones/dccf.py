"""DCCF: propagation by behaviour and by intents, and along edges that either finds likely (Ren et al., SIGIR 2023).

Each layer, of e (N, d), with intents C_U, C_I (d, Q) of users and items:
    g = A e    p = softmax(e C) C^T    r = K(g) e    q = K(p) e    next e = g + p + r + q + e;  x = sum of all layers
    K(h): w_ab = (cos(h_a, h_b) + 1) / 2 on the edges, rows divided by their sums
    contrast = sum over layers of InfoNCE(g, p) + InfoNCE(g, r) + InfoNCE(g, q), of the batch's users among one another, and of
    its positive items; each by the number of its rows
``shared_count`` divides those of items by the number of users, too, as RLMRec's public code does, which `authors` follows.
`textbook`: DCCF's own code, but for the L2 of the intents, which has a weight of its own there and none here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from braidrec.collaborative.config import OURS, PairwiseConfig
from braidrec.collaborative.contracts import Backbone, Parts, Propagated
from braidrec.collaborative.graph import Graph
from braidrec.collaborative.pairs import PairBatch
from braidrec.collaborative.propagation import Sparse, exact, neighbours
from braidrec.objectives.partition import contrast
from braidrec.registry import Spec
from braidrec.strict import Depth, Width, because


class DCCFConfig(PairwiseConfig):
    """intents: Q    contrast: weight of InfoNCE    contrast_temperature: of it"""

    depth: Depth = 2
    intents: Width = 128
    contrast: NonNegativeFloat = 1e-3
    contrast_temperature: PositiveFloat = 0.1
    shared_count: bool = False

    def idle(self) -> Mapping[str, str]:
        return {**super().idle(), **because((not self.contrast, "contrast = 0", "contrast_temperature shared_count"))}


class DCCF(nn.Module, Backbone):
    def __init__(self, config: DCCFConfig, parts: Parts):
        super().__init__()
        self.config = config
        self.of_users, self.of_items = (
            nn.Parameter(nn.init.xavier_uniform_(torch.empty(config.dim, config.intents))) for _ in range(2)
        )

    @property
    def weights(self) -> Mapping[str, float]:
        return {"contrast": self.config.contrast}

    def embed(self, nodes: Tensor, graph: Graph) -> Tensor:
        return self._layers(nodes, graph)[0]

    def step(self, nodes: Tensor, graph: Graph, batch: PairBatch, rng: torch.Generator) -> Propagated:
        found, views = self._layers(nodes, graph)
        users, items = batch.user.unique(), batch.item.unique()
        loss = nodes.new_zeros(())
        for rows in (users, items):
            share = torch.full((len(rows),), 1 / len(users if self.config.shared_count else rows), device=nodes.device)
            own = torch.arange(len(rows), device=nodes.device)
            for by_graph, *others in views:
                query = by_graph[rows]
                for other in others:
                    loss = loss + contrast(query, other[rows], own, self.config.contrast_temperature, share)
        return Propagated(found, {"contrast": loss})

    def _layers(self, nodes: Tensor, graph: Graph) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """The sum of all layers, and of each layer (g, p, r, q)."""
        matrix, views = graph.operator("symmetric", nodes.device), []
        found = layer = nodes
        for _ in range(self.config.depth):
            by_graph, by_intent = neighbours(matrix, layer), self.by_intents(layer, graph.num_users)
            likely = [likely_neighbours(matrix, view, layer) for view in (by_graph, by_intent)]
            views.append((by_graph, by_intent, *likely))
            layer = by_graph + by_intent + likely[0] + likely[1] + layer
            found = found + layer
        return found, views

    def by_intents(self, layer: Tensor, num_users: int) -> Tensor:
        """p (N, d)."""
        parts = ((layer[:num_users], self.of_users), (layer[num_users:], self.of_items))
        return torch.cat([torch.softmax(own @ intents, dim=1) @ intents.T for own, intents in parts])


def likely_neighbours(matrix: Sparse, views: Tensor, nodes: Tensor) -> Tensor:
    """K(views) nodes (N, d); a row of zeros for who has no edge."""
    found: Tensor = _LikelyNeighbours.apply(F.normalize(exact(views), dim=1), exact(nodes), matrix)
    return found


class _LikelyNeighbours(torch.autograd.Function):
    """out_a = sum_b w_ab x_b / z_a, w_ab = (v_a . v_b + 1) / 2, z_a = sum_b w_ab; nothing is kept for each edge but w.

    With G the gradient of out: dw_ab = (G_a . x_b - G_a . out_a) / z_a, dx = W (G / z), dv_a = sum_b (dw_ab + dw_ba) / 2 v_b.
    """

    @staticmethod
    def forward(ctx: Any, views: Tensor, nodes: Tensor, matrix: Sparse) -> Tensor:
        likely = matrix.valued_alike(matrix.products(views, views).add_(1).div_(2).clamp_min_(0))
        mass = likely.row_sums()
        per_mass = torch.where(mass > 0, 1 / mass, 0)[:, None]
        found = likely.times(nodes).mul_(per_mass)
        ctx.save_for_backward(views, nodes, found, per_mass)
        ctx.likely = likely
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        views, nodes, found, per_mass = ctx.saved_tensors
        likely: Sparse = ctx.likely
        own = grad * per_mass
        less = (own * found).sum(dim=1)
        edges = likely.products(own, nodes).sub_(less[likely.row])
        return likely.valued_alike((edges + edges[likely.turned]) / 2).times(views), likely.times(own), None


SPEC = Spec(
    "dccf",
    "DCCF",
    DCCFConfig,
    DCCF,
    presets={
        "authors": {
            "dim": 32,
            "loss": "bpr",
            "l2": 1e-4,
            "depth": 2,
            "intents": 128,
            "contrast": 1e-3,
            "contrast_temperature": 0.1,
            "shared_count": True,
        },
        "textbook": {
            "dim": 32,
            "loss": "bpr",
            "l2": 0.5,
            "l2_on": "batch",
            "depth": 2,
            "contrast": 1e-1,
            "contrast_temperature": 1.0,
        },
        "ours": {**OURS, "dim": 64},
    },
    training={"textbook": {"batch_size": 10_240}},
)
