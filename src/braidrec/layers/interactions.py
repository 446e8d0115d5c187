"""Feature interactions: pairs, cross networks, attention over fields.  (B, T, D) fields or (B, n) flat vectors in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from braidrec.layers.mlp import initialise
from braidrec.layers.set_attention import set_attention


def fm_second_order(fields: Tensor) -> Tensor:
    """Sum of all pairwise inner products (Rendle, ICDM 2010, eq. 1 by lemma 3.1).  fields (B, T, D) -> (B,)."""
    total = fields.sum(dim=1)
    return 0.5 * (total.square() - fields.square().sum(dim=1)).sum(dim=1)


Pairs = Literal["all", "ids"]


def pairs_of(num_fields: int, num_extras: int, meet: Pairs = "all") -> Tensor:
    """Pairs i < j of F fields and the E extras behind them, by rows of the upper triangle: (2, P) int64.

    "ids" leaves out pairs of two extras.
    """
    pairs = torch.triu_indices(num_fields + num_extras, num_fields + num_extras, 1)
    return pairs if meet == "all" else pairs[:, pairs[0] < num_fields]


def pair_products(fields: Tensor, pairs: Tensor) -> Tensor:
    """Inner products <v_i, v_j>.  fields (B, T, D), pairs (2, P) -> (B, P)."""
    return (fields @ fields.transpose(1, 2)).flatten(1).index_select(1, pairs[0] * fields.shape[1] + pairs[1])


def weighted_pairs(fields: Tensor, pairs: Tensor, weights: Tensor) -> Tensor:
    """sum_ij r_ij <v_i, v_j> over distinct pairs: one product with the (T, T) matrix of r.

    fields (B, T, D), pairs (2, P), weights (P,) -> (B,).
    """
    size = fields.shape[1]
    matrix = weights.new_zeros(size * size).index_add(0, pairs[0] * size + pairs[1], weights).view(size, size)
    return ((matrix @ fields) * fields).sum(dim=(1, 2))


def field_aware_products(vectors: Tensor, pairs: Tensor) -> Tensor:
    """sum_{i<j} <v_{i->j}, v_{j->i}> (Juan et al., RecSys 2016, eq. 4).  vectors (B, T, T - 1, d), pairs (2, P) -> (B,).

    The vector of field f for field g stands at g where g comes before f, and at g - 1 behind it.
    """
    i, j, others = pairs[0], pairs[1], vectors.shape[2]
    slots = vectors.flatten(1, 2)
    return (slots.index_select(1, i * others + j - 1) * slots.index_select(1, j * others + i)).sum(dim=(1, 2))


class CIN(nn.Module):
    """Compressed interaction network (Lian et al., KDD 2018, eq. 6 and 7), summed over d.  (B, T, D) -> (B, sum of sizes).

    X^k_h = sum_ij W^k_hij X^{k-1}_i * X^0_j (+ b^k_h), p^k_h = sum_d X^k_hd, without an activation, so sums may change places:

    - the last layer is only summed, so its products are the inner products of X^{L-1} and X^0;
    - the first layer's products are symmetric, so T (T + 1) / 2 of them are made, weighted by W_ij + W_ji;
    - where T is small beside D the layer before the last is never made: its products meet X^0 first.

    Against a convolution over all H T products a pass takes a tenth of the time or less (100 rows, T = 10 and 18, D = 32).
    """

    def __init__(self, num_fields: int, sizes: Sequence[int], *, bias: bool = False):
        super().__init__()
        self.weights = nn.ParameterList()
        before = num_fields
        for size in sizes:
            weight = torch.empty(size, before * num_fields)
            nn.init.xavier_normal_(weight)
            self.weights.append(nn.Parameter(weight.view(size, before, num_fields)))
            before = size
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(size)) for size in sizes) if bias else None
        self.register_buffer("_half", torch.triu_indices(num_fields, num_fields), persistent=False)
        self.width = sum(sizes)

    _half: Tensor

    def forward(self, fields: Tensor) -> Tensor:
        first = fields.transpose(1, 2).contiguous()  # (B, D, T)
        rows, pooled, last = first, [], len(self.weights) - 1
        met: Tensor | None = None
        for layer, size in enumerate(len(weight) for weight in self.weights[:-1]):
            products, weight = self._products(layer, rows, first)  # (B, D, P), (P, H)
            if layer == last - 1 and 2 * fields.shape[1] * (fields.shape[2] + size) < fields.shape[2] * size:
                pooled.append(products.sum(dim=1) @ weight)
                met = fields @ products @ weight
            else:
                rows = products @ weight
                pooled.append(rows.sum(dim=1))
        met = fields @ rows if met is None else met  # (B, T, H)
        out = met.flatten(1) @ self.weights[-1].transpose(1, 2).flatten(1).T
        pooled.append(out if self.biases is None else out + fields.shape[2] * self.biases[-1])
        return torch.cat(pooled, dim=1)

    def _products(self, layer: int, rows: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """The products of a layer (B, D, P) and what weighs them (P, H); a bias weighs a product of ones."""
        weight, size = self.weights[layer], first.shape[2]
        if layer:
            products = [(rows[:, :, :, None] * first[:, :, None, :]).flatten(2)]
            factors = [weight.flatten(1).T]
        else:
            i, j = self._half
            products = [first[:, :, at : at + 1] * first[:, :, at:] for at in range(size)]
            factors = [(weight[:, i, j] + weight[:, j, i] * (i != j)).T]
        if self.biases is not None:
            products.append(torch.ones_like(first[:, :, :1]))
            factors.append(self.biases[layer][None])
        return torch.cat(products, dim=2), torch.cat(factors)


class FieldAttention(nn.Module):
    """Self-attention over fields (Song et al., CIKM 2019, eq. 5 to 8).  (B, T, D) -> (B, T, heads * width).

    out = ReLU([softmax(Q_h K_h^T / sqrt(width)) V_h ; for all heads] + residual), Q, K, V without bias; the residual is
    Z W_res, or Z itself with ``identity`` where the widths agree.  scale: whether to divide by the root
    """

    def __init__(self, dim: int, heads: int, width: int, *, scale: bool = True, identity: bool = False):
        super().__init__()
        self.heads, self.scale = heads, width**-0.5 if scale else 1.0
        self.out = heads * width
        parts = 3 if identity and dim == self.out else 4
        self.weight = nn.Parameter(torch.empty(parts * self.out, dim))  # W_q, W_k, W_v, W_res below one another
        for part in self.weight.view(parts, self.out, dim):
            nn.init.xavier_normal_(part)

    def forward(self, fields: Tensor) -> Tensor:
        queries, keys, values, residual = self._sides(fields)
        mixed = set_attention(queries, keys, values).unflatten(0, (self.heads, -1))
        return torch.relu(mixed.permute(1, 2, 0, 3).flatten(2) + residual)

    def attention(self, fields: Tensor) -> Tensor:
        """(B, heads, T, T), rows summing to 1."""
        queries, keys, *_ = self._sides(fields)
        return (queries @ keys.transpose(1, 2)).softmax(dim=2).unflatten(0, (self.heads, -1)).transpose(0, 1)

    def _sides(self, fields: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values (heads B, T, width), residual (B, T, heads * width)."""
        inside, rest = self.weight[: 3 * self.out], self.weight[3 * self.out :]
        sides = (fields @ inside.T).unflatten(2, (3 * self.heads, -1)).permute(2, 0, 1, 3).contiguous()
        queries, keys, values = sides.unflatten(0, (3, self.heads)).flatten(1, 2)
        return queries * self.scale, keys, values, fields @ rest.T if len(rest) else fields


class BilinearFusion(nn.Module):
    """Two streams into one logit (Mao et al., AAAI 2023, eq. 9 to 11).  first (B, m), second (B, n) -> (B,).

    b + w_1 . o_1 + w_2 . o_2 + sum_h o_1h^T W_h o_2h over heads that cut both streams alike; ``heads`` divides m and n.
    """

    def __init__(self, first: int, second: int, heads: int):
        super().__init__()
        self.linear = initialise(nn.Linear(first + second, 1))
        self.weight = nn.Parameter(torch.empty(heads, first // heads, second // heads))
        for matrix in self.weight:
            nn.init.xavier_normal_(matrix)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        heads = len(self.weight)
        left = torch.einsum("bhm,hmn->bhn", first.unflatten(1, (heads, -1)), self.weight)
        linear: Tensor = self.linear(torch.cat([first, second], dim=1)).squeeze(1)
        return linear + (left.flatten(1) * second).sum(dim=1)


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
