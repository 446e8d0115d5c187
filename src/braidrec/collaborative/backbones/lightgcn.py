"""LightGCN: every node's vector is summed with those of its neighbours, near and far (He et al., SIGIR 2020).

    x = sum_{l=0..L} A^l e    A = D^-1/2 (user-item edges, both ways) D^-1/2    combine = "mean": / (L + 1)
While training each directed entry of A stays with probability ``keep``, without rescaling, the same ones in every layer.
`authors` is the form of RLMRec's public code (sum, keep .8, L2 of the whole table), `textbook` that of LightGCN's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.collaborative.config import OURS, PairwiseConfig
from braidrec.collaborative.contracts import Backbone, Parts, Propagated
from braidrec.collaborative.graph import Graph
from braidrec.collaborative.pairs import PairBatch
from braidrec.collaborative.propagation import Sparse, sum_of_powers
from braidrec.registry import Spec
from braidrec.strict import DEEPEST, because


class LightGCNConfig(PairwiseConfig):
    depth: int = Setting(default=3, ge=0, le=DEEPEST)
    keep: float = Setting(default=1.0, gt=0, le=1)
    combine: Literal["sum", "mean"] = "sum"

    def idle(self) -> Mapping[str, str]:
        return {**super().idle(), **because((not self.depth, "depth = 0", "keep combine"))}


class LightGCN(nn.Module, Backbone):
    def __init__(self, config: LightGCNConfig, parts: Parts):
        super().__init__()
        self.config = config

    def step(self, nodes: Tensor, graph: Graph, batch: PairBatch, rng: torch.Generator) -> Propagated:
        return Propagated(self._combined(graph.operator("symmetric", nodes.device).dropped(self.config.keep, rng), nodes))

    def embed(self, nodes: Tensor, graph: Graph) -> Tensor:
        return self._combined(graph.operator("symmetric", nodes.device), nodes)

    def _combined(self, matrix: Sparse, nodes: Tensor) -> Tensor:
        found = sum_of_powers(matrix, nodes, self.config.depth)
        return found / (self.config.depth + 1) if self.config.combine == "mean" else found


SPEC = Spec(
    "lightgcn",
    "LightGCN",
    LightGCNConfig,
    LightGCN,
    presets={
        "authors": {"dim": 32, "loss": "bpr", "l2": 1e-6, "depth": 3, "keep": 0.8},
        "textbook": {"dim": 64, "loss": "bpr", "l2": 1e-4, "l2_on": "batch", "depth": 3, "combine": "mean"},
        "ours": OURS,
    },
)
