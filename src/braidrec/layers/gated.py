"""Gates that close for good and still have a gradient, and a transformer over a set whose members they let in.

Hard concrete gates (Louizos et al., ICLR 2018): a concrete variable, stretched beyond [0, 1] and clamped to it, so that 0 and 1
have probability mass.  With logits a, temperature b, stretch (lo, hi) = (-.1, 1.1):

    drawn    m = clamp(sigmoid((ln u - ln(1 - u) + a) / b) (hi - lo) + lo)      u ~ U(0, 1)
    settled  m = clamp(sigmoid(a) (hi - lo) + lo)
    P(m > 0) = sigmoid(a - b ln(-lo / hi)),  whose sum is the expected number of open gates
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from braidrec.layers.mlp import initialise
from braidrec.layers.set_attention import set_attention

TEMPERATURE = 2 / 3
LOW, HIGH = -0.1, 1.1
LIMIT = math.log(100)  # of logits, beyond which a gate has no gradient left to come back by
_SHIFT = TEMPERATURE * math.log(-LOW / HIGH)
_CLOSED = 1e-9  # what a closed gate leaves of a member's attention


def drawn_gates(logits: Tensor, noise: Tensor) -> Tensor:
    """Gates of the shape of ``logits``; noise: uniform in (0, 1), likewise."""
    noise = noise.clamp(1e-6, 1 - 1e-6)
    return _stretched(torch.sigmoid((torch.logit(noise) + logits) / TEMPERATURE))


def settled_gates(logits: Tensor) -> Tensor:
    return _stretched(torch.sigmoid(logits))


def chance_of_open(logits: Tensor) -> Tensor:
    """P(m > 0) of drawn gates."""
    return torch.sigmoid(logits - _SHIFT)


def _stretched(values: Tensor) -> Tensor:
    return (values * (HIGH - LOW) + LOW).clamp(0, 1)


class GatedLayer(nn.Module):
    """x + Attention(LN x), x + FFN(LN x); heads have a width of their own, so they need not divide ``dim``.

    Heads stand in front of all rows throughout, as products then read and write what they need without a copy.
    """

    def __init__(self, dim: int, heads: int, head_width: int):
        super().__init__()
        self.heads, self.scale = heads, head_width**-0.5
        self.before_attention, self.before_rest = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value = (nn.Parameter(torch.empty(heads, dim, head_width)) for _ in range(3))
        self.out, self.bias = nn.Parameter(torch.empty(heads, head_width, dim)), nn.Parameter(torch.zeros(dim))
        for stack in (self.query, self.key, self.value, self.out):
            for matrix in stack:
                nn.init.xavier_normal_(matrix)
        self.rest = initialise(nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)))

    def forward(self, members: Tensor, favour: Tensor | None) -> Tensor:
        """members (n, F, d), favour (n, F) added to every query's logits of a member -> (n, F, d)."""
        count, size, _ = members.shape
        rows = self.before_attention(members).flatten(0, 1).expand(self.heads, -1, -1)
        query, key, value = (
            torch.bmm(rows, weight).view(self.heads * count, size, -1)
            for weight in (self.query * self.scale, self.key, self.value)
        )
        mixed = set_attention(query, key, value, favour).view(self.heads, count * size, -1)
        members = members + ((mixed @ self.out).sum(dim=0) + self.bias).view_as(members)
        out: Tensor = members + self.rest(self.before_rest(members))
        return out


class GatedEncoder(nn.Module):
    """A set and how far each member is let in -> one vector.  No positions: the order of members says nothing.

    gated: closed members get no attention (ln m is added to their logits) and no share of the mean; else every member does
    """

    def __init__(self, dim: int, *, layers: int, heads: int, head_width: int, gated: bool):
        super().__init__()
        self.gated = gated
        self.layers = nn.ModuleList(GatedLayer(dim, heads, head_width) for _ in range(layers))

    def forward(self, members: Tensor, gates: Tensor) -> Tensor:
        """members (n, F, d), already multiplied by gates (n, F) in [0, 1] -> (n, d); 0 where all are closed."""
        rows = self.rows(members, gates)
        if not self.gated:
            return rows.mean(dim=1)
        return (rows * gates[:, :, None]).sum(dim=1) / (gates.sum(dim=1, keepdim=True) + 1e-6)

    def rows(self, members: Tensor, gates: Tensor) -> Tensor:
        """(n, F, d): each member beside the others."""
        favour = torch.log(gates + _CLOSED) if self.gated else None
        for layer in self.layers:
            members = layer(members, favour)
        return members


class SetAttention(nn.Module):
    """H + softmax(H Wq (H Wk)^T / sqrt d) H Wv: one head, no bias, no positions; it keeps what each member was."""

    def __init__(self, dim: int):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.scale = dim**-0.5
        initialise(self)

    def forward(self, members: Tensor) -> Tensor:
        """(B, F, d) -> (B, F, d)."""
        return members + set_attention(self.query(members) * self.scale, self.key(members), self.value(members))
