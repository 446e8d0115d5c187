"""One item map and one encoder: the plain next-item model, and each expert of a mixture.

y(u, t, j) = <ENC(v_{i_1}, ..., v_{i_t})_t, v_j>        equation (1) of PAD: the same item vectors on both sides, no bias
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, Literal, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidrec.data.sequences import SequenceBatch
from braidrec.layers.transformer import Packing
from braidrec.objectives.next_item import binary_cross_entropy, full_cross_entropy
from braidrec.sequential.contracts import Distinct, DotProducts, Encoder, ItemMap, NextItemModel, States
from braidrec.training.devices import place_of
from braidrec.training.step import Step

Loss = Literal["bce", "full_ce"]
Map = TypeVar("Map", bound=ItemMap)


class Expert(nn.Module, Generic[Map]):
    """An item map and the encoder that reads its vectors."""

    def __init__(self, items: Map, encoder: nn.Module):
        super().__init__()
        self.items: Map = items
        self.encoder = encoder

    def vectors(self, rows: Tensor) -> Tensor:
        """(n,) catalogue rows -> (n, D)."""
        return self.items(rows)

    def table(self) -> Tensor:
        """All item vectors (I + 1, D)."""
        return self.vectors(torch.arange(self.items.num_rows, device=place_of(self)))

    def read(self, vectors: Tensor, places: Tensor, mask: Tensor) -> Tensor:
        """States (B, K, D) of sequences whose items are ``vectors[places]``; places, mask (B, K)."""
        return self._encoder(F.embedding(places, vectors), mask)

    def last(self, items: Tensor, mask: Tensor) -> Tensor:
        """(B, K) catalogue rows -> (B, D), the state of the newest position."""
        rows, places = items.long().unique(return_inverse=True)
        return self._encoder.last(F.embedding(places, self.vectors(rows)), mask)

    @property
    def _encoder(self) -> Encoder:
        return cast(Encoder, self.encoder)


class OneExpert(nn.Module, NextItemModel):
    """A model that ranks by a single expert; how it is trained is the subclass's ``step``.

    trained (c,) int64: catalogue rows that are candidates of the full cross-entropy, ascending; None: all.  An item that
    training never met as a target would only ever be pushed away.
    """

    trained: Tensor | None
    stand_in = "the mean id row of the least met items where an id is fused with text"

    def __init__(self, expert: Expert[Any], loss: Loss, trained: Tensor | None):
        super().__init__()
        self.expert, self.loss = expert, loss
        self.register_buffer("trained", trained, persistent=False)

    @property
    def reads_text(self) -> bool:
        return self.expert.items.reads_text

    def states(self, items: Tensor, mask: Tensor) -> States:
        return States(self.expert.last(items, mask), items[:, -1].long())

    def catalogue(self) -> DotProducts:
        return DotProducts(self.expert.table())

    def spaces(self, rows: Tensor) -> Mapping[str, Tensor]:
        return self.expert.items.spaces(rows)

    def export(self) -> None:
        self.expert.items.export()

    def add(self, vectors: Tensor) -> None:
        self.expert.items.add(vectors)


class SequenceModel(OneExpert):
    """A single expert trained to name the next item: SASRec, GRU4Rec, Caser, and with other maps Hybrid and MoRec."""

    def __init__(self, expert: Expert[Any], *, loss: Loss = "bce", trained: Tensor | None = None):
        super().__init__(expert, loss, trained)

    @property
    def draws(self) -> bool:
        return self.loss == "bce"

    def step(self, batch: SequenceBatch) -> Step:
        expert, real = self.expert, Packing(batch.targets > 0)
        if self.loss == "full_ce":
            table = expert.table()
            states = real.pack(expert.read(table, batch.items.long(), batch.mask))
            loss = cross_entropy(states, table, real.pack(batch.targets).long(), self.trained)
            return Step(lambda: {"prediction": loss})
        distinct = Distinct.of(batch)
        vectors = expert.vectors(distinct.rows)
        states = real.pack(expert.read(vectors, distinct.items, batch.mask))
        loss = sampled_entropy(states, vectors, real.pack(distinct.targets), real.pack(distinct.negatives))
        return Step(lambda: {"prediction": loss})


def sampled_entropy(states: Tensor, vectors: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """Binary cross-entropy of each position's target against its drawn items.

    states (n, D)    vectors (m, D)    targets (n,), negatives (n, M): rows of ``vectors``
    """
    positive = (states * vectors[targets]).sum(dim=-1)
    negative = (states[:, None] * vectors[negatives]).sum(dim=-1)
    return binary_cross_entropy(positive, negative)


def cross_entropy(states: Tensor, table: Tensor, target: Tensor, trained: Tensor | None) -> Tensor:
    """Full cross-entropy over the items of ``trained`` (c,) catalogue rows, ascending, or over all but padding.

    states (n, S)    table (I + 1, S)    target (n,) catalogue rows, all of them in ``trained``
    """
    if trained is None:
        return full_cross_entropy(states, table, target)
    candidates = torch.cat([table[:1], table.index_select(0, trained)])
    return full_cross_entropy(states, candidates, torch.searchsorted(trained, target) + 1)


def monitors_of(states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean norms, detached, for the log."""
    return {f"norm_{name}": value.detach().norm(dim=-1).mean() for name, value in states.items()}
