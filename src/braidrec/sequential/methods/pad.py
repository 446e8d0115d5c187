"""PAD: pre-train, align, disentangle (Wang et al., SIGIR 2025).

    e^r, e^a -> rows of two id tables    t = f_theta(x) -> text side    ENC -> the backbone, one copy per expert

1. pretrain   an id model alone:  L = BCE, equation (2)
2. align      v^a = phi([e^a; t]), E_align and its encoder start from phase 1:
              L = BCE(v^a) + gamma * MMD^2_K({t_i}, {e^a_i}), equation (15): text and ids become one distribution while the
              recommendation loss anchors both
3. experts    id, aligned and text experts behind a frequency gate, equations (16)-(18):  L = BCE of the mixed score

SMEM is PAD without phase 2.  Departures: rows of padding stay out of the MMD (``mmd_include_pad`` for parity); MMD is
averaged over chunks of 16 sequences, what one of the authors' processes saw; the gate starts uniform (``gate_init``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.data.sequences import SequenceBatch
from braidrec.objectives.info_nce import info_nce
from braidrec.objectives.mmd import mmd
from braidrec.objectives.next_item import binary_cross_entropy
from braidrec.objectives.step import Step
from braidrec.sequential.contracts import Distinct, DotProducts, Group, Stage, States, main_group
from braidrec.sequential.gates import BucketGate, ContextualGate, check_experts
from braidrec.sequential.maps import FusedMap, TextConfig
from braidrec.sequential.mixture import Mixture
from braidrec.sequential.model import Expert, SequenceModel, cross_entropy
from braidrec.sequential.parts import Parts
from braidrec.strict import Strict

ExpertName = Literal["id", "aligned", "text"]
Kernel = Literal["gaussian", "laplacian", "linear", "cosine", "info_nce"]
_GATE_DECAY = 0.01  # AdamW's own default, which the released code leaves in place for the gate


class PADConfig(Strict):
    """alignment: the four losses of RQ2 ("none" skips phase 2: SMEM)    kernel: RQ3    experts, frequency_gate: RQ5

    unseen: who judges catalogue items that training never met: the "trained" rows like any other item, or their "text"
    (id expert out, the gate renormalised, and the mean id row of the coldest bucket on the aligned side)
    """

    name: Literal["pad"] = "pad"
    alignment: Literal["anchored", "anchored_frozen", "non_anchored", "none"] = "anchored"
    gamma: float = Setting(default=0.2, ge=0)
    kernel: Kernel = "gaussian"
    scales: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0, 2.0)
    estimator: Literal["biased", "unbiased", "authors"] = "unbiased"
    legacy_cosine_sign: bool = False
    temperature: float = Setting(default=0.1, gt=0)  # of info_nce
    mmd_sequences: int = Setting(default=16, ge=1)  # sequences per chunk
    mmd_include_pad: bool = False
    text: TextConfig = TextConfig()
    fusion: Literal["concat", "add"] = "concat"
    experts: tuple[ExpertName, ...] = ("id", "aligned", "text")
    gate: Literal["bucket_sigmoid", "contextual"] = "bucket_sigmoid"
    gate_init: Literal["uniform", "authors"] = "uniform"
    frequency_gate: bool = True
    unseen: Literal["trained", "text"] = "trained"

    @property
    def title(self) -> str:
        return "SMEM" if self.alignment == "none" and len(self.experts) > 1 else "PAD"


class Alignment(nn.Module):
    """Phase 2: the aligned expert, and the distance between its two sides."""

    trained: Tensor | None

    def __init__(self, expert: Expert, config: PADConfig, parts: Parts):
        super().__init__()
        self.expert, self.config, self.loss = expert, config, parts.loss
        self.register_buffer("trained", parts.candidates, persistent=False)

    def step(self, batch: SequenceBatch) -> Step:
        distinct = Distinct.of(batch)
        ids, text = self._sides(distinct.rows)
        distance = self._distance(distinct, ids, text)
        if self.config.alignment == "non_anchored":
            return Step(lambda: {"alignment": distance})
        prediction = self._prediction(batch, distinct, self._map.fuse(distinct.rows, ids, text))
        return Step(lambda: {"prediction": prediction, "alignment": distance})

    def _sides(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and text (n, D) before they meet."""
        ids: Tensor = self._map.ids(rows)
        return ids.detach() if self.config.alignment == "anchored_frozen" else ids, self._map.text(rows)

    @property
    def _map(self) -> FusedMap:
        items = self.expert.items
        assert isinstance(items, FusedMap)
        return items

    def _prediction(self, batch: SequenceBatch, distinct: Distinct, vectors: Tensor) -> Tensor:
        real = batch.targets > 0
        if self.loss == "full_ce":
            rows = torch.arange(self._map.num_rows, device=batch.items.device)
            table = self._map.fuse(rows, *self._sides(rows))
            states = self.expert.read(table, batch.items.long(), batch.mask)[real]
            return cross_entropy(states, table, batch.targets[real].long(), self.trained)
        states = self.expert.read(vectors, distinct.items, batch.mask)[real]
        positive = (states * vectors[distinct.targets[real]]).sum(dim=-1)
        negative = (states[:, None] * vectors[distinct.negatives[real]]).sum(dim=-1)
        return binary_cross_entropy(positive, negative)

    def _distance(self, distinct: Distinct, ids: Tensor, text: Tensor) -> Tensor:
        """MMD^2 between the two sides of the batch's items, a chunk of sequences at a time; InfoNCE over distinct items."""
        if self.config.kernel == "info_nce":
            return info_nce(text[1:], ids[1:], temperature=self.config.temperature)
        chunk = self.config.mmd_sequences
        found = []
        for first in range(0, len(distinct.items), chunk):
            rows = slice(first, first + chunk)
            places = torch.cat([distinct.items[rows], distinct.targets[rows, -1:], distinct.negatives[rows].flatten(1)], dim=1)
            # the authors' negatives, too, have a column for the first item: of zeros, hence padding
            places = F.pad(places, (0, 1)).reshape(-1)
            if not self.config.mmd_include_pad:
                places = places[places > 0]
            if len(places) > 1:
                found.append(self._mmd(text[places], ids[places]))
        return torch.stack(found).mean()

    def _mmd(self, text: Tensor, ids: Tensor) -> Tensor:
        config = self.config
        assert config.kernel != "info_nce"
        return mmd(
            text,
            ids,
            kernel=config.kernel,
            scales=config.scales,
            estimator=config.estimator,
            legacy_cosine_sign=config.legacy_cosine_sign,
        )

    @torch.no_grad()
    def validation(self) -> dict[str, float]:
        """The distance over up to 1,024 items spread over the catalogue: what to watch where no recommendation is learned."""
        items = self._map
        device = items.ids.table.weight.device
        rows = torch.linspace(1, items.num_rows - 1, min(1_024, items.num_rows - 1), device=device).long()
        ids, text = items.ids(rows), items.text(rows)
        if self.config.kernel == "info_nce":
            return {"alignment": float(info_nce(text, ids, temperature=self.config.temperature))}
        return {"alignment": float(self._mmd(text, ids))}

    def states(self, items: Tensor, mask: Tensor) -> States:
        return States(self.expert.last(items, mask), items[:, -1].long())

    def catalogue(self) -> DotProducts:
        return DotProducts(self.expert.table())


def stages(config: PADConfig, parts: Parts) -> list[Stage]:
    """The phases of PAD as data; the last stage's module is the model that is kept."""
    check_experts(config.experts, "enhance")
    pretrain = pretrain_stage(parts)
    found = [pretrain]
    aligned = "aligned" in config.experts
    if aligned and config.alignment != "none":
        found.append(_align_stage(config, parts))
    unseen = config.unseen == "text"
    experts: dict[str, Expert] = {}
    starts: dict[str, dict[str, str]] = {}
    for name in config.experts:
        if name == "id":
            experts[name] = parts.id_expert()
            starts.setdefault("pretrain", {})["expert."] = "experts.id."
        elif name == "aligned":
            experts[name] = parts.fused_expert(config.text, fusion=config.fusion, unseen_by_text=unseen)
            if config.alignment == "none":
                starts.setdefault("pretrain", {})["expert.items."] = "experts.aligned.items.ids."
            else:
                starts.setdefault("align", {})["expert."] = "experts.aligned."
        else:
            experts[name] = parts.text_expert(config.text)
    found.append(mixture_stage("experts", experts, config, parts, starts))
    return found


def pretrain_stage(parts: Parts) -> Stage:
    """Phase 1: the id model alone."""
    model = SequenceModel(parts.id_expert(), loss=parts.loss, trained=parts.trained_only)
    return Stage("pretrain", model, {"prediction": 1.0}, [main_group(model)])


def _align_stage(config: PADConfig, parts: Parts) -> Stage:
    module = Alignment(parts.fused_expert(config.text, fusion=config.fusion), config, parts)
    starts: Mapping[str, Mapping[str, str]] = {
        "pretrain": {"expert.items.": "expert.items.ids.", "expert.encoder.": "expert.encoder."}
    }
    if config.alignment == "non_anchored":
        items = module._map
        own = Group("main", [*items.ids.parameters(), *items.text.parameters()])
        return Stage("align", module, {"alignment": config.gamma}, [own], starts, monitor="alignment", mode="min")
    frozen: Sequence[nn.Parameter] = list(module._map.ids.parameters()) if config.alignment == "anchored_frozen" else []
    weights = {"prediction": 1.0, "alignment": config.gamma}
    return Stage("align", module, weights, [main_group(module, frozen)], starts)


def mixture_stage(
    name: str,
    experts: Mapping[str, Expert],
    config: PADConfig,
    parts: Parts,
    starts: Mapping[str, Mapping[str, str]],
) -> Stage:
    """Experts behind the gate, all of them trained, the gate with a weight decay of its own."""
    names = tuple(experts)
    gate: BucketGate | ContextualGate
    buckets, bucket = (parts.num_buckets, parts.bucket) if config.frequency_gate else (1, (parts.bucket > 0).long())
    if config.gate == "contextual":
        gate = ContextualGate(names, buckets, parts.dim)
    else:
        gate = BucketGate(names, buckets, init=config.gate_init)
    model = Mixture(
        experts,
        gate,
        bucket,
        untrained=parts.untrained if config.unseen == "text" else None,
        loss=parts.loss,
        trained=parts.trained_only,
    )
    apart = list(gate.parameters())
    groups = [main_group(model, apart), Group("main.gate", apart, weight_decay=_GATE_DECAY)]
    return Stage(name, model, {"prediction": 1.0}, groups, starts)
