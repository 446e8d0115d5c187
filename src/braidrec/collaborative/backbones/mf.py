"""MF: each node's own vector, without a graph (matrix factorisation; with loss = "bpr" BPR-MF of Rendle et al., UAI 2009)."""

from __future__ import annotations

from torch import Tensor, nn

from braidrec.collaborative.config import OURS, PairwiseConfig
from braidrec.collaborative.contracts import Backbone, Parts
from braidrec.collaborative.graph import Graph
from braidrec.registry import Spec


class MF(nn.Module, Backbone):
    def __init__(self, config: PairwiseConfig, parts: Parts):
        super().__init__()

    def embed(self, nodes: Tensor, graph: Graph) -> Tensor:
        return nodes


SPEC = Spec(
    "mf",
    lambda config: "BPR-MF" if config.loss == "bpr" else "MF",
    PairwiseConfig,
    MF,
    presets={
        "authors": {"dim": 32, "loss": "bpr", "l2": 1e-6},
        "textbook": {"dim": 64, "loss": "bpr", "l2": 1e-4, "l2_on": "batch"},
        "ours": OURS,
    },
)
