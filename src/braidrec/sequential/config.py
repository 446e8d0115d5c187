"""What a sequence model is made of, and the named presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field as Setting

from braidrec.data.sequences import Windows
from braidrec.errors import ConfigError, suggest
from braidrec.sequential.backbones.caser import CaserConfig
from braidrec.sequential.backbones.gru4rec import GRU4RecConfig
from braidrec.sequential.backbones.sasrec import SASRecConfig
from braidrec.sequential.methods.ctrl import CTRLConfig
from braidrec.sequential.methods.disco import DisCoSRConfig
from braidrec.sequential.methods.hybrid import HybridConfig
from braidrec.sequential.methods.make import MAKEConfig
from braidrec.sequential.methods.morec import MoRecConfig
from braidrec.sequential.methods.pad import PADConfig
from braidrec.sequential.model import Loss
from braidrec.strict import Strict, merge, parse

Preset = Literal["ours", "paper", "authors", "textbook"]
Method = PADConfig | HybridConfig | MoRecConfig | CTRLConfig | MAKEConfig | DisCoSRConfig

BACKBONES: Mapping[str, str] = {"sasrec": "SASRec", "gru4rec": "GRU4Rec", "caser": "Caser"}
# What each name on the command line means: the method's config, and the settings that make it this model.
METHODS: Mapping[str, Mapping[str, Any]] = {
    "pad": {"name": "pad"},
    "smem": {"name": "pad", "alignment": "none"},
    "hybrid": {"name": "hybrid"},
    "morec": {"name": "morec"},
    "ctrl": {"name": "ctrl"},
    "make": {"name": "make"},
    "disco": {"name": "disco"},
}


class SequentialConfig(Strict):
    """One model: a backbone, perhaps a method, and how both are trained to name the next item.

    windows: "last" trains on each user's latest ``length`` targets (PAD), "all" on every target
    trained_softmax: with full_ce, only items that training met are candidates; nothing pushes the others away
    start_from: stage -> run directory whose stage of that name is taken over instead of being trained again
    """

    task: Literal["sequential"] = "sequential"
    dim: int = Setting(default=128, ge=2)
    length: int = Setting(default=20, ge=1)
    windows: Windows = "last"
    negatives: int = Setting(default=1, ge=1)  # drawn per position
    loss: Loss = "bce"
    trained_softmax: bool = False
    initial_std: float | None = Setting(default=None, gt=0)  # of fresh id rows; None: Xavier-normal
    buckets: int = Setting(default=10, ge=1)
    monitor: Literal["hr@10", "ndcg@10"] = "hr@10"
    backbone: Annotated[SASRecConfig | GRU4RecConfig | CaserConfig, Setting(discriminator="name")] = SASRecConfig()
    enhance: Annotated[Method, Setting(discriminator="name")] | None = None
    start_from: Mapping[str, str] = {}

    @property
    def title(self) -> str:
        return BACKBONES[self.backbone.name] + (f" + {self.enhance.title}" if self.enhance else "")

    @property
    def reads_text(self) -> bool:
        return self.enhance is not None and not (
            isinstance(self.enhance, PADConfig) and not {"aligned", "text"} & set(self.enhance.experts)
        )


_MODEL_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "ours": {"dim": 64, "loss": "full_ce", "trained_softmax": True, "monitor": "ndcg@10", "initial_std": 0.02},
    "paper": {},
    "authors": {},
    "textbook": {"length": 50, "dim": 64, "windows": "all", "monitor": "ndcg@10"},
}

_BACKBONE_PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "ours": {"sasrec": {"blocks": 2}},
    "textbook": {"sasrec": {"variant": "classic", "blocks": 2}},
}

# `ours` reads centred text through one hidden layer that may point anywhere, and adds it to the id row.
_TEXT = {"text": {"centre": True, "layers": 1, "final": "linear"}}

_METHOD_PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "ours": {
        "pad": {**_TEXT, "fusion": "add", "unseen": "text"},
        "smem": {**_TEXT, "fusion": "add", "unseen": "text"},
        "hybrid": {**_TEXT, "fusion": "add"},
        "make": {**_TEXT, "unseen": "text"},
        "morec": _TEXT,
        "ctrl": _TEXT,
        "disco": _TEXT,
    },
    "paper": {"disco": {"club_per_dimension": False, "club_floor": False}},
    "authors": {
        "pad": {"gate_init": "authors", "estimator": "authors", "mmd_include_pad": True},
        "smem": {"gate_init": "authors"},
        "make": {"gate_init": "authors"},
        "disco": {"club_per_dimension": False, "club_floor": False},
    },
}


def sequential_config(
    preset: Preset, backbone: str, enhance: str | None, changes: Mapping[str, Any], where: str
) -> SequentialConfig:
    """The preset's values for a backbone and a method, then ``changes`` (nested tables) on top.

    Raises ConfigError for an unknown name or key, with the nearest known one.
    """
    if backbone not in BACKBONES:
        raise ConfigError(f"{where}: unknown backbone '{backbone}'{suggest(backbone, BACKBONES)}")
    if enhance is not None and enhance not in METHODS:
        raise ConfigError(f"{where}: unknown enhancer '{enhance}'{suggest(enhance, METHODS)}")
    if preset not in _MODEL_PRESETS:
        raise ConfigError(f"{where}: unknown preset '{preset}'{suggest(preset, _MODEL_PRESETS)}")
    if enhance and preset == "textbook":
        raise ConfigError(
            f"{where}: preset 'textbook' is for backbones alone; with '{enhance}' use one of ours, paper, authors"
        )
    for key, chosen in (("backbone", backbone), ("enhance", METHODS[enhance]["name"] if enhance else None)):
        own = changes.get(key)
        if isinstance(own, Mapping) and own.get("name", chosen) != chosen:
            raise ConfigError(f"{where}: '{key}.name' = {own['name']!r}, but the run's {key} is {chosen!r}; choose it there")
    if changes.get("enhance") is not None and not enhance:
        raise ConfigError(f"{where}: 'enhance' has settings but no enhancer is chosen; choose one of {', '.join(METHODS)}")
    values: dict[str, Any] = {
        **_MODEL_PRESETS[preset],
        "backbone": {"name": backbone, **_BACKBONE_PRESETS.get(preset, {}).get(backbone, {})},
    }
    if enhance:
        values["enhance"] = {**METHODS[enhance], **_METHOD_PRESETS.get(preset, {}).get(enhance, {})}
    return parse(SequentialConfig, merge(values, changes), where)
