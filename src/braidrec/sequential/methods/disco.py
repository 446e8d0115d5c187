"""DisCo-SR: DisCo's sufficiency and disentanglement on a sequence model, as PAD compares it; an adaptation, not the paper.

    v_i = phi_4([m_1(e^s_i); m_2(e^c_i); m_3(f_s(x_i)); m_4(f_c(x_i))])      s specific, c common; m_k small networks to D/4
    L = BCE + alpha * sum_k sufficiency_k + beta * sum_pairs vCLUB(chunk a; chunk b)

Pairs: (id specific, text specific), (id specific, id common), (text specific, text common).  vCLUB's q learns from detached
chunks by its own optimiser, first in every step.  Sufficiency is a bilinear discriminator between the mean chunk of the
history and the chunk of the candidate, positive against negative.  Departures from DisCo (Du et al., KDD 2024): its task is
CTR and its chunks are attention patterns over the history; here they are parts of an item vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.data.sequences import SequenceBatch
from braidrec.layers.mlp import initialise
from braidrec.layers.transformer import Packing
from braidrec.objectives.club import VClub
from braidrec.objectives.next_item import binary_cross_entropy
from braidrec.objectives.sufficiency import BilinearDiscriminator
from braidrec.registry import Spec
from braidrec.sequential.contracts import Distinct
from braidrec.sequential.maps import OURS, IdMap, TextConfig, TextMap
from braidrec.sequential.next_item import Expert, OneExpert, cross_entropy, sampled_entropy
from braidrec.sequential.parts import Parts
from braidrec.strict import Strict
from braidrec.training.stages import Group, Stage, main_group
from braidrec.training.step import Step

_PAIRS = ((0, 2), (0, 1), (2, 3))
ESTIMATORS = "estimators"


class DisCoSRConfig(Strict):
    """club_floor, club_per_dimension: the bounded form of the constraint, see `braidrec.objectives.club`."""

    text: TextConfig = TextConfig()
    sufficiency_weight: float = Setting(default=0.2, ge=0)
    disentangle_weight: float = Setting(default=0.2, ge=0)
    estimator_lr: float = Setting(default=1e-3, gt=0)
    club_per_dimension: bool = True
    club_floor: bool = True


class ChunkedMap(nn.Module):
    """An item vector made of four chunks of D/4."""

    reads_text: ClassVar[bool] = True

    def __init__(self, ids: tuple[IdMap, IdMap], text: tuple[TextMap, TextMap], dim: int):
        super().__init__()
        self.ids, self.text = nn.ModuleList(ids), nn.ModuleList(text)
        self.chunk = max(dim // 4, 1)
        self.cut = nn.ModuleList(initialise(nn.Sequential(nn.Linear(dim, self.chunk), nn.GELU())) for _ in range(4))
        self.join = initialise(nn.Sequential(nn.Linear(4 * self.chunk, dim), nn.GELU()))

    @property
    def num_rows(self) -> int:
        return cast(IdMap, self.ids[0]).num_rows

    def chunks(self, rows: Tensor) -> list[Tensor]:
        """Four of (n, D/4): id specific, id common, text specific, text common."""
        return [cut(part(rows)) for cut, part in zip(self.cut, [*self.ids, *self.text], strict=True)]

    def whole(self, rows: Tensor, chunks: list[Tensor]) -> Tensor:
        vectors: Tensor = self.join(torch.cat(chunks, dim=1))
        return vectors * (rows > 0)[:, None]

    def forward(self, rows: Tensor) -> Tensor:
        """(n,) -> (n, D)."""
        return self.whole(rows, self.chunks(rows))

    def spaces(self, rows: Tensor) -> Mapping[str, Tensor]:
        """The four chunks (n, D/4), and the whole vector (n, D)."""
        chunks = self.chunks(rows)
        names = ("id_specific", "id_common", "text_specific", "text_common")
        found = {name: chunk * (rows > 0)[:, None] for name, chunk in zip(names, chunks, strict=True)}
        return {**found, "whole": self.whole(rows, chunks)}

    def export(self) -> None:
        for part in self.text:
            cast(TextMap, part).export()

    def add(self, vectors: Tensor) -> None:
        for part in [*self.ids, *self.text]:
            cast(IdMap | TextMap, part).add(vectors)


class DisCoSR(OneExpert):
    """A single expert over chunked item vectors, with both constraints."""

    expert: Expert[ChunkedMap]

    def __init__(self, expert: Expert[ChunkedMap], config: DisCoSRConfig, parts: Parts):
        super().__init__(expert, parts.loss, parts.candidates)
        width = expert.items.chunk
        self.clubs = nn.ModuleList(
            VClub(width, per_dimension=config.club_per_dimension, floor=config.club_floor) for _ in _PAIRS
        )
        self.judges = nn.ModuleList(BilinearDiscriminator(width, width) for _ in range(4))

    def step(self, batch: SequenceBatch) -> Step:
        real, distinct = Packing(batch.targets > 0), Distinct.of(batch)
        chunks = self.expert.items.chunks(distinct.rows)
        vectors = self.expert.items.whole(distinct.rows, chunks)
        targets, negatives = real.pack(distinct.targets), real.pack(distinct.negatives)
        if self.loss == "full_ce":
            table = self.expert.table()
            states = real.pack(self.expert.read(table, batch.items.long(), batch.mask))
            prediction = cross_entropy(states, table, real.pack(batch.targets).long(), self.trained)
        else:
            states = real.pack(self.expert.read(vectors, distinct.items, batch.mask))
            prediction = sampled_entropy(states, vectors, targets, negatives)
        apart = [chunk[1:] for chunk in chunks]  # without padding
        pairs = [(cast(VClub, club), apart[a], apart[b]) for club, (a, b) in zip(self.clubs, _PAIRS, strict=True)]

        def losses() -> dict[str, Tensor]:
            return {
                "prediction": prediction,
                "sufficiency": self._sufficiency(distinct, batch.mask, real, chunks, targets, negatives[:, 0]),
                "disentangle": torch.stack([club.value(a, b) for club, a, b in pairs]).sum(),
            }

        def learning() -> Tensor:
            return torch.stack([club.learning_loss(a, b) for club, a, b in pairs]).sum()

        return Step(losses, {ESTIMATORS: learning})

    def _sufficiency(
        self, distinct: Distinct, mask: Tensor, real: Packing, chunks: list[Tensor], targets: Tensor, negatives: Tensor
    ) -> Tensor:
        """Sum over chunks: does the mean chunk of the items so far tell the next item's chunk from the drawn one's?"""
        terms = []
        weight = mask[..., None].float()
        for judge, chunk in zip(self.judges, chunks, strict=True):
            past = F.embedding(distinct.items, chunk) * weight
            mean = real.pack(past.cumsum(dim=1) / weight.cumsum(dim=1).clamp_min(1.0))
            terms.append(binary_cross_entropy(judge(mean, chunk[targets]), judge(mean, chunk[negatives])) / 2)
        return torch.stack(terms).sum()


def stages(config: DisCoSRConfig, parts: Parts) -> list[Stage]:
    ids = parts.id_expert().items, parts.id_expert().items
    text = parts.text_expert(config.text).items, parts.text_expert(config.text).items
    expert = Expert(ChunkedMap(ids, text, parts.dim), parts.make_encoder())
    module = DisCoSR(expert, config, parts)
    apart = [parameter for club in module.clubs for parameter in club.parameters()]
    weights = {
        "prediction": 1.0,
        "sufficiency": config.sufficiency_weight,
        "disentangle": config.disentangle_weight,
    }
    groups = [main_group(module, apart), Group(ESTIMATORS, apart, lr=config.estimator_lr, weight_decay=0.0)]
    return [Stage("train", module, weights, groups, reads_text=True)]


SPEC = Spec(
    "disco",
    "DisCo-SR",
    DisCoSRConfig,
    stages,
    presets={"ours": OURS, "authors": {"club_per_dimension": False, "club_floor": False}},
    training={"ours": {"lr": 1e-3}},
    reads_text=True,
)
