"""Frequency gates: how much each expert counts for a candidate, by how often training met that candidate.

Buckets are numbered 1 (hottest) .. n (coldest); 0 is padding.  One more row, n + 1, belongs to items that training never
met: the weights of bucket n without the id expert, made to sum to 1 again.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidrec.errors import ConfigError
from braidrec.layers.mlp import initialise

GateInit = Literal["uniform", "authors"]
_AUTHORS_OFFSET = -4.0  # gamma_2 of the released Prime Pantry script


class Gate(Protocol):
    """num_rows: n + 2, the rows of shares (n + 2, E), each summing to 1."""

    @property
    def num_rows(self) -> int: ...

    def fixed(self) -> Tensor | None:
        """The shares where they are the same for everybody; None where they depend on the user."""
        ...

    def by_user(self, states: Tensor) -> Tensor:
        """states (B, E D) of all experts, side by side -> (B, n + 2, E)."""
        ...


class BucketGate(nn.Module):
    """p_x(b) = sigmoid(a_x[b]) / sum_y sigmoid(a_y[b]), equation (17) as released: one number per expert and bucket.

    init: "uniform" starts every expert at 1/E; "authors" is the released start, which nearly switches the aligned expert off
    """

    def __init__(self, experts: tuple[str, ...], num_buckets: int, *, init: GateInit = "uniform"):
        super().__init__()
        rows = num_buckets + 1
        starts = {
            "id": torch.linspace(1, 0, rows),
            "aligned": torch.linspace(_AUTHORS_OFFSET, _AUTHORS_OFFSET - 1, rows),
            "text": torch.linspace(0, 1, rows),
        }
        columns = [starts[name] if init == "authors" else torch.zeros(rows) for name in experts]
        self.logits = nn.Parameter(torch.stack(columns, dim=1))
        self.id_column = experts.index("id") if "id" in experts and len(experts) > 1 else None

    @property
    def num_rows(self) -> int:
        return len(self.logits) + 1

    def forward(self) -> Tensor:
        """(n + 2, E), every row summing to 1."""
        return with_unseen(F.logsigmoid(self.logits), self.id_column)

    def fixed(self) -> Tensor:
        shares: Tensor = self()
        return shares

    def by_user(self, states: Tensor) -> Tensor:
        return self.fixed().expand(len(states), -1, -1)


class ContextualGate(nn.Module):
    """p(u, b) = softmax(W2 GELU(W1 [g_b; s_r; s_a; s_l])): the paper's words, where the experts' user vectors take part.

    The candidate enters through its bucket alone, so a user needs n + 1 evaluations, whatever the catalogue.
    """

    def __init__(self, experts: tuple[str, ...], num_buckets: int, dim: int, *, width: int = 16, hidden: int = 64):
        super().__init__()
        self.buckets = nn.Parameter(torch.randn(num_buckets + 1, width) * 0.02)
        self.network = initialise(
            nn.Sequential(nn.Linear(width + len(experts) * dim, hidden), nn.GELU(), nn.Linear(hidden, len(experts)))
        )
        self.id_column = experts.index("id") if "id" in experts and len(experts) > 1 else None

    @property
    def num_rows(self) -> int:
        return len(self.buckets) + 1

    def fixed(self) -> None:
        """They depend on the user."""

    def by_user(self, states: Tensor) -> Tensor:
        shares: Tensor = self(states)
        return shares

    def forward(self, states: Tensor) -> Tensor:
        """states (B, E D), without gradient -> (B, n + 2, E), every row summing to 1."""
        rows = len(self.buckets)
        context = states.detach()[:, None].expand(-1, rows, -1)
        buckets = self.buckets[None].expand(len(states), -1, -1)
        return with_unseen(self.network(torch.cat([buckets, context], dim=2)), self.id_column)


def with_unseen(weights: Tensor, id_column: int | None) -> Tensor:
    """Shares (..., n + 2, E) of log weights (..., n + 1, E); the row more is the coldest bucket's without the id expert.

    As logarithms, the others still share what is left where the id expert has taken all that float32 can tell.
    """
    cold = weights[..., -1:, :]
    if id_column is not None:
        others = torch.zeros(weights.shape[-1], device=weights.device)
        others[id_column] = -torch.inf
        cold = cold + others
    return F.softmax(torch.cat([weights, cold], dim=-2), dim=-1)


def check_experts(experts: tuple[str, ...], where: str) -> None:
    """Raises ConfigError for no expert or one that comes twice."""
    if not experts or len(set(experts)) < len(experts):
        raise ConfigError(f"{where}: experts = {list(experts)}; name at least one of id, aligned, text, each once")
