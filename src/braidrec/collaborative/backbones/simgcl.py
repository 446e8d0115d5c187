"""SimGCL: LightGCN, and each node of the batch found again under other noise (Yu et al., SIGIR 2022).

    x = sum_{l=0..L} A^l e    views: e + h_1 + .. + h_L, h_l = A h_{l-1} + eps sign(A h_{l-1}) n, h_0 = e
    n: uniform in [0, 1), each row at length 1
    contrast = 1/B sum over batch of InfoNCE(a_u, b_u; all users) + InfoNCE(a_i, b_i; all items), i positive items
``first_layer`` = false leaves e out of all sums, the views' and the scores', and combine = "mean" divides x by the number of
its layers, as SimGCL's own code does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from braidrec.collaborative.backbones.contrasts import of_batch
from braidrec.collaborative.config import OURS, PairwiseConfig
from braidrec.collaborative.contracts import Backbone, Parts, Propagated
from braidrec.collaborative.graph import Graph
from braidrec.collaborative.pairs import PairBatch
from braidrec.collaborative.propagation import Sparse, exact, neighbours, sum_of_powers
from braidrec.registry import Spec
from braidrec.strict import Depth, because


class SimGCLConfig(PairwiseConfig):
    """noise: eps    contrast: weight of InfoNCE    contrast_temperature: of it"""

    depth: Depth = 3
    noise: NonNegativeFloat = 0.2
    contrast: NonNegativeFloat = 0.1
    contrast_temperature: PositiveFloat = 0.2
    first_layer: bool = True
    combine: Literal["sum", "mean"] = "sum"

    def idle(self) -> Mapping[str, str]:
        found = because(
            (not self.contrast, "contrast = 0", "noise contrast_temperature"),
            (self.depth + self.first_layer == 1, "depth = 1 without first_layer is one layer", "combine"),
        )
        return {**super().idle(), **found}


class SimGCL(nn.Module, Backbone):
    def __init__(self, config: SimGCLConfig, parts: Parts):
        super().__init__()
        self.config = config

    @property
    def weights(self) -> Mapping[str, float]:
        return {"contrast": self.config.contrast}

    def step(self, nodes: Tensor, graph: Graph, batch: PairBatch, rng: torch.Generator) -> Propagated:
        config, matrix = self.config, graph.operator("symmetric", nodes.device)
        first, second = (noisy_sum(matrix, nodes, config.depth, config.noise, rng, self._own) for _ in range(2))
        return Propagated(
            self.embed(nodes, graph), {"contrast": of_batch(first, second, batch, graph, config.contrast_temperature)}
        )

    def embed(self, nodes: Tensor, graph: Graph) -> Tensor:
        matrix, depth = graph.operator("symmetric", nodes.device), self.config.depth
        if self.config.first_layer:
            found = sum_of_powers(matrix, nodes, depth)
        else:
            found = sum_of_powers(matrix, neighbours(matrix, nodes), depth - 1)
        return found / (depth + self.config.first_layer) if self.config.combine == "mean" else found

    @property
    def _own(self) -> float:
        return 1.0 if self.config.first_layer else 0.0


def noisy_sum(matrix: Sparse, nodes: Tensor, depth: int, noise: float, rng: torch.Generator, own: float = 1.0) -> Tensor:
    """A view (N, D): own e + h_1 + .. + h_L.  Noise has no gradient, so that of the sum is the sum's without noise."""
    found: Tensor = _NoisySum.apply(exact(nodes), matrix, depth, noise, rng, own)
    return found


class _NoisySum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, nodes: Tensor, matrix: Sparse, depth: int, noise: float, rng: torch.Generator, own: float) -> Tensor:
        ctx.matrix, ctx.depth, ctx.own = matrix, depth, own
        found, layer = own * nodes, nodes.contiguous()
        for _ in range(depth):
            layer = matrix.times(layer)
            drawn = F.normalize(torch.rand(layer.shape, generator=rng).to(layer.device), dim=1)
            layer.addcmul_(layer.sign(), drawn, value=noise)
            found += layer
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        found = grad.contiguous()
        for turn in range(ctx.depth):
            last = turn == ctx.depth - 1
            found = ctx.matrix.turned_times(found).add_(grad, alpha=ctx.own if last else 1.0)
        return found, None, None, None, None, None


SPEC = Spec(
    "simgcl",
    "SimGCL",
    SimGCLConfig,
    SimGCL,
    presets={
        "authors": {
            "dim": 32,
            "loss": "bpr",
            "l2": 1e-5,
            "depth": 3,
            "noise": 0.9,
            "contrast": 0.1,
            "contrast_temperature": 0.2,
        },
        "textbook": {
            "dim": 64,
            "loss": "bpr",
            "l2": 1e-4,
            "l2_on": "batch",
            "depth": 3,
            "noise": 0.1,
            "contrast": 0.5,
            "contrast_temperature": 0.2,
            "first_layer": False,
            "combine": "mean",
        },
        "ours": {**OURS, "dim": 64, "contrast": 0.01},
    },
)
