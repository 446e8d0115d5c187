"""GCCF: the vectors of all hops side by side, without weights between them (LR-GCCF; Chen et al., AAAI 2020).

    x = [e, B e, .., B^L e]    B = D^-1/2 (A + I) D^-1/2, D the degrees of A + I
`self_loop` = false leaves the loops out, as RLMRec's public code does, by an oversight, wherever a method joins this backbone.
Its layers own weights there that nothing reads and L2 shrinks; there are none here, which changes no vector.
`textbook`: LR-GCCF's own code puts its L2 on the final vectors of the batch, this on their rows of the table.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.collaborative.config import OURS, PairwiseConfig
from braidrec.collaborative.contracts import Backbone, Parts
from braidrec.collaborative.graph import Graph
from braidrec.collaborative.propagation import layers_of
from braidrec.registry import Spec
from braidrec.strict import DEEPEST, because


class GCCFConfig(PairwiseConfig):
    depth: int = Setting(default=2, ge=0, le=DEEPEST)
    self_loop: bool = True

    def idle(self) -> Mapping[str, str]:
        return {**super().idle(), **because((not self.depth, "depth = 0", "self_loop"))}


class GCCF(nn.Module, Backbone):
    def __init__(self, config: GCCFConfig, parts: Parts):
        super().__init__()
        self.config = config

    def width(self, dim: int) -> int:
        return dim * (self.config.depth + 1)

    def embed(self, nodes: Tensor, graph: Graph) -> Tensor:
        matrix = graph.operator("self_loops" if self.config.self_loop else "symmetric", nodes.device)
        return torch.cat(layers_of(matrix, nodes, self.config.depth), dim=1)


SPEC = Spec(
    "gccf",
    "GCCF",
    GCCFConfig,
    GCCF,
    presets={
        "authors": {"dim": 32, "loss": "bpr", "l2": 1e-6, "depth": 2},
        "textbook": {"dim": 64, "loss": "bpr", "l2": 2e-2, "l2_on": "batch", "depth": 3},
        "ours": {**OURS, "dim": 128},
    },
)
