"""Several experts behind a frequency gate: PAD's third phase, and every model that mixes experts.

y(u, t, j) = sum_x p_x(b(j)) <s_x(u, t), v^x_j>        equation (18): each candidate by the gate of its own bucket
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidrec.data.sequences import SequenceBatch
from braidrec.layers.transformer import Packing
from braidrec.objectives.next_item import binary_cross_entropy
from braidrec.sequential.contracts import Catalogue, Distinct, DotProducts, NextItemModel, States
from braidrec.sequential.gates import Gate
from braidrec.sequential.next_item import Expert, Loss, OneExpert, cross_entropy, monitors_of
from braidrec.training.step import Step


class Mixture(nn.Module, NextItemModel):
    """Experts by name, mixed by the gate.

    bucket (I + 1,) int64 frequency bucket of each item    untrained (I + 1,) bool items that training never met, which
    the id expert does not judge at evaluation; None: every catalogue item keeps its bucket
    trained: see `OneExpert`
    """

    stand_in = f"the coldest bucket's gate without the id expert, {OneExpert.stand_in}"
    gate: Gate
    bucket: Tensor
    untrained: Tensor
    trained: Tensor | None

    def __init__(
        self,
        experts: Mapping[str, Expert[Any]],
        gate: Gate,
        bucket: Tensor,
        *,
        untrained: Tensor | None = None,
        loss: Loss = "bce",
        trained: Tensor | None = None,
    ):
        super().__init__()
        self.experts = nn.ModuleDict(experts)
        self.gate, self.loss = gate, loss
        self.register_buffer("bucket", bucket.long(), persistent=False)
        blank = torch.zeros(len(bucket), dtype=torch.bool)
        self.register_buffer("untrained", blank if untrained is None else untrained, persistent=False)
        self.register_buffer("trained", trained, persistent=False)

    @property
    def parts(self) -> list[Expert[Any]]:
        return [cast(Expert[Any], each) for each in self.experts.values()]

    @property
    def draws(self) -> bool:
        return self.loss == "bce"

    @property
    def reads_text(self) -> bool:
        return any(expert.items.reads_text for expert in self.parts)

    def buckets(self) -> Tensor:
        """(I + 1,) rows of the gate: at evaluation the row behind the last bucket for items that training never met."""
        unseen = self.gate.num_rows - 1
        return self.bucket if self.training else torch.where(self.untrained, unseen, self.bucket)

    # ---- training

    def step(self, batch: SequenceBatch) -> Step:
        loss, monitors = self._loss(batch)
        return Step(lambda: {"prediction": loss}, monitors=monitors)

    def _loss(self, batch: SequenceBatch) -> tuple[Tensor, dict[str, Tensor]]:
        real = Packing(batch.targets > 0)
        if self.loss == "full_ce":
            tables = [expert.table() for expert in self.parts]
            places = batch.items.long()
            reads = [
                real.pack(expert.read(table, places, batch.mask)) for expert, table in zip(self.parts, tables, strict=True)
            ]
            monitors = monitors_of(dict(zip(self.experts, reads, strict=True)))
            states, target = torch.cat(reads, dim=1), real.pack(batch.targets).long()
            if (fixed := self.gate.fixed()) is not None:
                return cross_entropy(states, self._weighted(tables, fixed), target, self.trained), monitors
            scores = Bucketed(torch.stack(tables, dim=1), self.buckets(), self.gate).scores(States(states, target))
            scores[:, 0] = -torch.inf
            if self.trained is not None:
                left_out = torch.ones(scores.shape[1], dtype=torch.bool, device=scores.device)
                left_out[self.trained] = False
                scores = scores.masked_fill(left_out, -torch.inf)
            return F.cross_entropy(scores, target), monitors
        distinct = Distinct.of(batch)
        bucket = self.buckets()[distinct.rows]
        vectors = [expert.vectors(distinct.rows) for expert in self.parts]
        reads = [
            real.pack(expert.read(table, distinct.items, batch.mask)) for expert, table in zip(self.parts, vectors, strict=True)
        ]
        targets, negatives = real.pack(distinct.targets), real.pack(distinct.negatives)
        places = torch.cat([targets[:, None], negatives], dim=1)  # (n, 1 + M)
        each = torch.stack([(s[:, None] * v[places]).sum(dim=-1) for s, v in zip(reads, vectors, strict=True)], dim=-1)
        if (fixed := self.gate.fixed()) is not None:
            shares = fixed[bucket[places]]
        else:
            by_bucket = self.gate.by_user(torch.cat(reads, dim=1))
            shares = by_bucket.gather(1, bucket[places][..., None].expand(-1, -1, each.shape[-1]))
        logits = (shares * each).sum(dim=-1)
        loss = binary_cross_entropy(logits[:, 0], logits[:, 1:])
        return loss, monitors_of(dict(zip(self.experts, reads, strict=True)))

    def _weighted(self, tables: list[Tensor], gate: Tensor) -> Tensor:
        """(I + 1, E D): every expert's item vectors times its share, so that one inner product gives the mixed score.

        gate (n + 2, E): the shares by bucket
        """
        shares = gate[self.buckets()]
        return torch.cat([table * shares[:, at : at + 1] for at, table in enumerate(tables)], dim=1)

    # ---- evaluation

    def states(self, items: Tensor, mask: Tensor) -> States:
        return States(torch.cat([expert.last(items, mask) for expert in self.parts], dim=1), items[:, -1].long())

    def catalogue(self) -> Catalogue:
        tables = [expert.table() for expert in self.parts]
        if (fixed := self.gate.fixed()) is not None:
            return DotProducts(self._weighted(tables, fixed))
        return Bucketed(torch.stack(tables, dim=1), self.buckets(), self.gate)

    def spaces(self, rows: Tensor) -> Mapping[str, Tensor]:
        found: dict[str, Tensor] = {}
        for expert in self.parts:
            found |= expert.items.spaces(rows)
        return found

    def shares(self) -> Tensor | None:
        """(n, E) gate probability per bucket 1..n; None for a gate that depends on the user."""
        fixed = self.gate.fixed()
        return None if fixed is None else fixed[1:-1].detach()

    def facts(self) -> Mapping[str, Any]:
        """gate: share of each expert per frequency bucket, hottest first."""
        shares = self.shares()
        return {} if shares is None else {"gate": {"experts": list(self.experts), "shares": shares.tolist()}}

    # ---- items that come later

    def export(self) -> None:
        for expert in self.parts:
            expert.items.export()

    def add(self, vectors: Tensor) -> None:
        """Append items by their text vectors (m, S): coldest bucket, no id expert."""
        for expert in self.parts:
            expert.items.add(vectors)
        count, device = len(vectors), self.bucket.device
        self.bucket = torch.cat([self.bucket, torch.full((count,), self.gate.num_rows - 2, device=device)])
        self.untrained = torch.cat([self.untrained, torch.ones(count, dtype=torch.bool, device=device)])


@dataclass(frozen=True)
class Bucketed:
    """Scores by a gate that depends on the user.  vectors (I + 1, E, D), bucket (I + 1,) int64."""

    vectors: Tensor
    bucket: Tensor
    gate: Gate

    def scores(self, states: States, rows: Tensor | None = None) -> Tensor:
        vectors = self.vectors if rows is None else self.vectors.index_select(0, rows)
        bucket = self.bucket if rows is None else self.bucket.index_select(0, rows)
        experts, dim = vectors.shape[1], vectors.shape[2]
        shares = self.gate.by_user(states.vectors)
        own = states.vectors.view(-1, experts, dim)
        parts = [shares[:, bucket, at] * (own[:, at] @ vectors[:, at].T) for at in range(experts)]
        return torch.stack(parts).sum(dim=0)
