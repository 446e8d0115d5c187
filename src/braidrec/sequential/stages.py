"""The stages that most methods are made of: one expert on the recommendation loss, and experts behind a gate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from braidrec.sequential.gates import BucketGate, ContextualGate, GateInit
from braidrec.sequential.mixture import Mixture
from braidrec.sequential.next_item import Expert, SequenceModel
from braidrec.sequential.parts import Parts
from braidrec.training.stages import Group, Stage, main_group

Starts = Mapping[str, Mapping[str, str]]
_GATE_DECAY = 0.01  # AdamW's own default, which PAD's released code leaves in place for the gate


def plain_stages(parts: Parts) -> list[Stage]:
    """A backbone without a method: the id model alone, which is PAD's first phase."""
    return [single_stage("pretrain", parts.id_expert(), parts)]


def single_stage(name: str, expert: Expert[Any], parts: Parts, starts: Starts | None = None) -> Stage:
    """One expert, all of it trained, on the recommendation loss."""
    model = SequenceModel(expert, loss=parts.loss, trained=parts.candidates)
    return Stage(name, model, {"prediction": 1.0}, [main_group(model)], starts or {}, reads_text=model.reads_text)


def mixture_stage(
    experts: Mapping[str, Expert[Any]],
    parts: Parts,
    starts: Starts,
    *,
    gate: Literal["bucket_sigmoid", "contextual"] = "bucket_sigmoid",
    gate_init: GateInit = "uniform",
    frequency_gate: bool = True,
    unseen: Literal["trained", "text"] = "trained",
) -> Stage:
    """Experts behind the gate, all of them trained, the gate with a weight decay of its own; for settings see `PADConfig`."""
    names = tuple(experts)
    buckets, bucket = (parts.num_buckets, parts.bucket) if frequency_gate else (1, (parts.bucket > 0).long())
    own = ContextualGate(names, buckets, parts.dim) if gate == "contextual" else BucketGate(names, buckets, init=gate_init)
    model = Mixture(
        experts,
        own,
        bucket,
        untrained=parts.untrained if unseen == "text" else None,
        loss=parts.loss,
        trained=parts.candidates,
    )
    apart = list(own.parameters())
    groups = [main_group(model, apart), Group("main.gate", apart, weight_decay=_GATE_DECAY)]
    return Stage("experts", model, {"prediction": 1.0}, groups, starts, reads_text=model.reads_text)
