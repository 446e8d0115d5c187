"""Feature interactions: factorisation machine and cross networks.  (B, T, D) fields or (B, n) flat vectors in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from braidrec.layers.mlp import initialise


def fm_second_order(fields: Tensor) -> Tensor:
    """Sum of all pairwise inner products (Rendle, ICDM 2010, eq. 1 by lemma 3.1).  fields (B, T, D) -> (B,)."""
    total = fields.sum(dim=1)
    return 0.5 * (total.square() - fields.square().sum(dim=1)).sum(dim=1)


class CrossVector(nn.Module):
    """DCN's cross network (Wang et al., ADKDD 2017, eq. 3): x_{l+1} = x_0 (w_l . x_l) + b_l + x_l.  (B, n) -> (B, n).

    Every layer adds a multiple of x_0 and a constant, so x_l = a_l x_0 + c_l with one number a_l per sample:
    a_{l+1} = a_l + a_l (w_l . x_0) + w_l . c_l and c_{l+1} = c_l + b_l.  All layers cost one product with x_0.
    """

    def __init__(self, width: int, layers: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(layers, width))
        self.bias = nn.Parameter(torch.zeros(layers, width))
        nn.init.xavier_normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        projected = x @ self.weight.T  # (B, layers): w_l . x_0
        constants = torch.cat([torch.zeros_like(self.bias[:1]), self.bias.cumsum(dim=0)])  # c_l
        scale = torch.ones(len(x), device=x.device, dtype=x.dtype)
        for layer, weight in enumerate(self.weight):
            scale = scale + scale * projected[:, layer] + weight @ constants[layer]
        return scale[:, None] * x + constants[-1]


class CrossMatrix(nn.Module):
    """DCN v2's cross network (Wang et al., WWW 2021, eq. 1): x_{l+1} = x_0 * (W_l x_l + b_l) + x_l.  (B, n) -> (B, n)."""

    def __init__(self, width: int, layers: int):
        super().__init__()
        self.layers = initialise(nn.ModuleList(nn.Linear(width, width) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        crossed = x
        for layer in self.layers:
            crossed = torch.addcmul(crossed, x, layer(crossed))
        return crossed


class CrossMix(nn.Module):
    """DCN-Mix (Wang et al., WWW 2021, eq. 4): low-rank experts behind a gate that all layers share.  (B, n) -> (B, n).

    x_{l+1} = x_l + sum_e G_e(x_l) x_0 * (U_e tanh(C_e tanh(V_e^T x_l)) + b_l), G = softmax over experts of Linear(n, 1).
    """

    def __init__(self, width: int, layers: int, experts: int, rank: int):
        super().__init__()
        self.u = nn.Parameter(torch.empty(layers, experts, width, rank))
        self.v = nn.Parameter(torch.empty(layers, experts, width, rank))
        self.c = nn.Parameter(torch.empty(layers, experts, rank, rank))
        self.bias = nn.Parameter(torch.zeros(layers, width))
        self.gate = nn.Linear(width, experts)
        for stack in (self.u, self.v, self.c):
            for matrix in stack.flatten(0, 1):
                nn.init.xavier_normal_(matrix)
        nn.init.xavier_normal_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, x: Tensor) -> Tensor:
        layers, experts, width, rank = self.u.shape
        crossed = x
        for layer in range(layers):
            gates = self.gate(crossed).softmax(dim=1)  # (B, experts)
            # One product for all experts: V side by side, C block-diagonal, U stacked and weighted by the gate.
            inner = torch.tanh(crossed @ self.v[layer].transpose(0, 1).reshape(width, experts * rank))
            inner = torch.tanh(torch.einsum("ber,eqr->beq", inner.view(-1, experts, rank), self.c[layer]))
            mixed = (inner * gates[:, :, None]).flatten(1) @ self.u[layer].transpose(1, 2).reshape(experts * rank, width)
            crossed = torch.addcmul(crossed, x, mixed + self.bias[layer])  # the gates sum to 1, so b_l comes once
        return crossed
