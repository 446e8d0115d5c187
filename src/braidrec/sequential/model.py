"""One item map and one encoder: the plain next-item model, and each expert of a mixture.

y(u, t, j) = <ENC(v_{i_1}, ..., v_{i_t})_t, v_j>        equation (1) of PAD: the same item vectors on both sides, no bias
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidrec.data.sequences import SequenceBatch
from braidrec.objectives.next_item import binary_cross_entropy, full_cross_entropy
from braidrec.objectives.step import Step
from braidrec.sequential.contracts import Distinct, DotProducts, Encoder, ItemMap, States

Loss = Literal["bce", "full_ce"]


class Expert(nn.Module):
    """An item map and the encoder that reads its vectors."""

    def __init__(self, items: nn.Module, encoder: nn.Module):
        super().__init__()
        self.items, self.encoder = items, encoder

    def vectors(self, rows: Tensor) -> Tensor:
        """(n,) catalogue rows -> (n, D)."""
        return self._map(rows)

    def table(self) -> Tensor:
        """All item vectors (I + 1, D)."""
        device = next(self.parameters()).device
        return self.vectors(torch.arange(self._map.num_rows, device=device))

    def read(self, vectors: Tensor, places: Tensor, mask: Tensor) -> Tensor:
        """States (B, K, D) of sequences whose items are ``vectors[places]``; places, mask (B, K)."""
        return self._encoder(F.embedding(places, vectors), mask)

    def last(self, items: Tensor, mask: Tensor) -> Tensor:
        """(B, K) catalogue rows -> (B, D), the state of the newest position."""
        rows, places = items.long().unique(return_inverse=True)
        return self._encoder.last(F.embedding(places, self.vectors(rows)), mask)

    def export(self) -> None:
        """Reduce text to what the model makes of it."""
        self._map.export()

    def add(self, vectors: Tensor) -> None:
        """Append items by their text vectors (m, S)."""
        self._map.add(vectors)

    @property
    def _map(self) -> ItemMap:
        return cast(ItemMap, self.items)

    @property
    def _encoder(self) -> Encoder:
        return cast(Encoder, self.encoder)


class SequenceModel(nn.Module):
    """A single expert trained to name the next item: SASRec, GRU4Rec, Caser, and with other maps Hybrid and MoRec.

    trained (I + 1,) bool: items that are candidates of the full cross-entropy; None: all.  An item that training never
    met as a target would only ever be pushed away.
    """

    trained: Tensor | None

    def __init__(self, expert: Expert, *, loss: Loss = "bce", trained: Tensor | None = None):
        super().__init__()
        self.expert, self.loss = expert, loss
        self.register_buffer("trained", None if trained is None else trained.nonzero().squeeze(1), persistent=False)

    def step(self, batch: SequenceBatch) -> Step:
        expert, real = self.expert, batch.targets > 0
        if self.loss == "full_ce":
            table = expert.table()
            states = expert.read(table, batch.items.long(), batch.mask)[real]
            loss = cross_entropy(states, table, batch.targets[real].long(), self.trained)
            return Step(lambda: {"prediction": loss})
        distinct = Distinct.of(batch)
        vectors = expert.vectors(distinct.rows)
        states = expert.read(vectors, distinct.items, batch.mask)[real]
        positive = (states * vectors[distinct.targets[real]]).sum(dim=-1)
        negative = (states[:, None] * vectors[distinct.negatives[real]]).sum(dim=-1)
        return Step(lambda: {"prediction": binary_cross_entropy(positive, negative)})

    def states(self, items: Tensor, mask: Tensor) -> States:
        return States(self.expert.last(items, mask), items[:, -1].long())

    def catalogue(self) -> DotProducts:
        return DotProducts(self.expert.table())

    def export(self) -> None:
        """Reduce text to what the model makes of it."""
        self.expert.export()

    def add(self, vectors: Tensor) -> None:
        """Append items by their text vectors (m, S)."""
        self.expert.add(vectors)


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
