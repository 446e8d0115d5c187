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
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field as Setting
from torch import Tensor, nn

from braidrec.data.sequences import SequenceBatch
from braidrec.layers.transformer import Packing
from braidrec.objectives.info_nce import info_nce
from braidrec.objectives.mmd import mmd
from braidrec.registry import Spec
from braidrec.sequential.contracts import Distinct, spread_rows
from braidrec.sequential.gates import GateInit, check_experts
from braidrec.sequential.maps import OURS, FusedMap, TextConfig
from braidrec.sequential.next_item import Expert, OneExpert, cross_entropy, sampled_entropy
from braidrec.sequential.parts import Parts
from braidrec.sequential.stages import mixture_stage, plain_stages
from braidrec.strict import LONGEST, Strict
from braidrec.training.stages import Group, Stage, main_group
from braidrec.training.step import Step

ExpertName = Literal["id", "aligned", "text"]
Kernel = Literal["gaussian", "laplacian", "linear", "cosine", "info_nce"]


class PADConfig(Strict):
    """alignment: the four losses of RQ2 ("none" skips phase 2: SMEM)    kernel: RQ3    experts, frequency_gate: RQ5

    unseen: who judges catalogue items that training never met: the "trained" rows like any other item, or their "text"
    (id expert out, the gate renormalised, and the mean id row of the coldest bucket on the aligned side)
    """

    alignment: Literal["anchored", "anchored_frozen", "non_anchored", "none"] = "anchored"
    gamma: float = Setting(default=0.2, ge=0)
    kernel: Kernel = "gaussian"
    scales: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0, 2.0)
    estimator: Literal["biased", "unbiased", "authors"] = "unbiased"
    legacy_cosine_sign: bool = False
    temperature: float = Setting(default=0.1, gt=0)  # of info_nce
    mmd_sequences: int = Setting(default=16, ge=1, le=LONGEST)  # sequences per chunk
    mmd_include_pad: bool = False
    text: TextConfig = TextConfig()
    fusion: Literal["concat", "add"] = "concat"
    experts: tuple[ExpertName, ...] = ("id", "aligned", "text")
    gate: Literal["bucket_sigmoid", "contextual"] = "bucket_sigmoid"
    gate_init: GateInit = "uniform"
    frequency_gate: bool = True
    unseen: Literal["trained", "text"] = "trained"

    @property
    def title(self) -> str:
        return "SMEM" if self.alignment == "none" and len(self.experts) > 1 else "PAD"


class Alignment(OneExpert):
    """Phase 2: the aligned expert, and the distance between its two sides."""

    expert: Expert[FusedMap]

    def __init__(self, expert: Expert[FusedMap], config: PADConfig, parts: Parts):
        super().__init__(expert, parts.loss, parts.candidates)
        self.config = config

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
        return self.expert.items

    def _prediction(self, batch: SequenceBatch, distinct: Distinct, vectors: Tensor) -> Tensor:
        real = Packing(batch.targets > 0)
        if self.loss == "full_ce":
            rows = torch.arange(self._map.num_rows, device=batch.items.device)
            table = self._map.fuse(rows, *self._sides(rows))
            states = real.pack(self.expert.read(table, batch.items.long(), batch.mask))
            return cross_entropy(states, table, real.pack(batch.targets).long(), self.trained)
        states = real.pack(self.expert.read(vectors, distinct.items, batch.mask))
        return sampled_entropy(states, vectors, real.pack(distinct.targets), real.pack(distinct.negatives))

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
        rows = spread_rows(items.num_rows, device)
        ids, text = items.ids(rows), items.text(rows)
        if self.config.kernel == "info_nce":
            return {"alignment": float(info_nce(text, ids, temperature=self.config.temperature))}
        return {"alignment": float(self._mmd(text, ids))}


def stages(config: PADConfig, parts: Parts) -> list[Stage]:
    """The phases of PAD as data; the last stage's module is the model that is kept."""
    check_experts(config.experts, "enhance")
    found = plain_stages(parts)
    aligned = "aligned" in config.experts
    if aligned and config.alignment != "none":
        found.append(_align_stage(config, parts))
    unseen = config.unseen == "text"
    experts: dict[str, Expert[Any]] = {}
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
    mixed = mixture_stage(
        experts,
        parts,
        starts,
        gate=config.gate,
        gate_init=config.gate_init,
        frequency_gate=config.frequency_gate,
        unseen=config.unseen,
    )
    return [*found, mixed]


def _align_stage(config: PADConfig, parts: Parts) -> Stage:
    module = Alignment(parts.fused_expert(config.text, fusion=config.fusion), config, parts)
    starts: Mapping[str, Mapping[str, str]] = {
        "pretrain": {"expert.items.": "expert.items.ids.", "expert.encoder.": "expert.encoder."}
    }
    if config.alignment == "non_anchored":
        items = module._map
        own = Group("main", [*items.ids.parameters(), *items.text.parameters()])
        return Stage(
            "align", module, {"alignment": config.gamma}, [own], starts, monitor="alignment", mode="min", reads_text=True
        )
    frozen: Sequence[nn.Parameter] = list(module._map.ids.parameters()) if config.alignment == "anchored_frozen" else []
    weights = {"prediction": 1.0, "alignment": config.gamma}
    return Stage("align", module, weights, [main_group(module, frozen)], starts, reads_text=True)


def _reads_text(config: PADConfig) -> bool:
    return bool({"aligned", "text"} & set(config.experts))


_OURS = {**OURS, "fusion": "add", "unseen": "text"}
_EXPERTS = {"phases": {"experts": {"lr": 1e-4}}}

# `ours`: an id model that is fitted to the end leaves its text nothing to explain, so the first phase is short, and the later
# ones go in smaller steps.
SPEC = Spec(
    "pad",
    lambda config: config.title,
    PADConfig,
    stages,
    presets={
        "ours": _OURS,
        "paper": {},
        "authors": {"gate_init": "authors", "estimator": "authors", "mmd_include_pad": True},
    },
    training={
        "ours": {"phases": {"pretrain": {"max_epochs": 4}, "align": {"lr": 1e-3}, "experts": {"lr": 1e-3}}},
        "paper": {"phases": {"align": {"lr": 1e-4}, "experts": {"lr": 1e-4}}},
        "authors": _EXPERTS,
    },
    reads_text=_reads_text,
)
SMEM = Spec(
    "smem",
    lambda config: config.title,
    PADConfig,
    stages,
    presets={"ours": _OURS, "paper": {}, "authors": {"gate_init": "authors"}},
    training={"ours": {"phases": {"pretrain": {"max_epochs": 4}, "experts": {"lr": 1e-3}}}, "authors": _EXPERTS},
    values={"alignment": "none"},
    reads_text=_reads_text,
)
