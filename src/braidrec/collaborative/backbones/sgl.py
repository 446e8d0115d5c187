"""SGL: LightGCN, and each node of the batch found again among all others in a second, thinned view (Wu et al., SIGIR 2021).

    x = sum_{l=0..L} A^l e    a, b: the same of two thinned graphs
    contrast = 1/B sum over batch of InfoNCE(a_u, b_u; all users) + InfoNCE(a_i, b_i; all items), i positive and negative items
drop = "edge": each directed entry of A stays with probability ``keep``, without rescaling, one draw a view; "walk": one draw
for each layer; "node": whole rows of e are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field as Setting
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from braidrec.collaborative.backbones.contrasts import of_batch
from braidrec.collaborative.config import OURS, PairwiseConfig
from braidrec.collaborative.contracts import Backbone, Parts, Propagated
from braidrec.collaborative.graph import Graph
from braidrec.collaborative.pairs import PairBatch
from braidrec.collaborative.propagation import Sparse, neighbours, sum_of_powers
from braidrec.registry import Spec
from braidrec.strict import DEEPEST, because


class SGLConfig(PairwiseConfig):
    """combine: "mean" divides x by L + 1, as SGL's own code does    contrast: weight of InfoNCE    contrast_temperature: of it
    of_negatives: whether negative items have a term, too
    """

    depth: int = Setting(default=3, ge=0, le=DEEPEST)
    combine: Literal["sum", "mean"] = "sum"
    drop: Literal["edge", "walk", "node"] = "edge"
    keep: float = Setting(default=0.8, gt=0, le=1)
    contrast: NonNegativeFloat = 0.1
    contrast_temperature: PositiveFloat = 0.2
    of_negatives: bool = True

    def idle(self) -> Mapping[str, str]:
        found = because(
            (not self.contrast, "contrast = 0", "drop keep contrast_temperature of_negatives"),
            (not self.negatives, "negatives = 0", "of_negatives"),
            (not self.depth, "depth = 0", "combine" if self.drop == "node" else "combine drop keep"),
        )
        return {**super().idle(), **found}


class SGL(nn.Module, Backbone):
    def __init__(self, config: SGLConfig, parts: Parts):
        super().__init__()
        self.config = config
        self.reads_negatives = config.of_negatives and config.contrast > 0

    @property
    def weights(self) -> Mapping[str, float]:
        return {"contrast": self.config.contrast}

    def step(self, nodes: Tensor, graph: Graph, batch: PairBatch, rng: torch.Generator) -> Propagated:
        config, matrix = self.config, graph.operator("symmetric", nodes.device)
        first, second = (self._view(matrix, nodes, rng) for _ in range(2))
        found = of_batch(first, second, batch, graph, config.contrast_temperature, negatives=config.of_negatives)
        return Propagated(self.embed(nodes, graph), {"contrast": found})

    def embed(self, nodes: Tensor, graph: Graph) -> Tensor:
        found = sum_of_powers(graph.operator("symmetric", nodes.device), nodes, self.config.depth)
        return found / (self.config.depth + 1) if self.config.combine == "mean" else found

    def _view(self, matrix: Sparse, nodes: Tensor, rng: torch.Generator) -> Tensor:
        config = self.config
        if config.drop == "edge":
            return sum_of_powers(matrix.dropped(config.keep, rng), nodes, config.depth)
        if config.drop == "node":
            kept = (torch.rand(len(nodes), 1, generator=rng) < config.keep).to(nodes.device)
            return sum_of_powers(matrix, nodes * kept, config.depth)
        found = layer = nodes
        for _ in range(config.depth):
            layer = neighbours(matrix.dropped(config.keep, rng), layer)
            found = found + layer
        return found


SPEC = Spec(
    "sgl",
    "SGL",
    SGLConfig,
    SGL,
    presets={
        "authors": {
            "dim": 32,
            "loss": "bpr",
            "l2": 1e-5,
            "depth": 3,
            "keep": 0.8,
            "contrast": 0.1,
            "contrast_temperature": 0.2,
        },
        "textbook": {
            "dim": 64,
            "loss": "bpr",
            "l2": 1e-4,
            "l2_on": "batch",
            "combine": "mean",
            "keep": 0.9,
            "contrast": 0.1,
            "contrast_temperature": 0.2,
            "of_negatives": False,
        },
        "ours": {**OURS, "dim": 64, "contrast": 0.01},
    },
)
