"""What a ranking model is made of, and the named presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field as Setting

from braidrec.errors import ConfigError, suggest
from braidrec.layers.embedding import Initial
from braidrec.ranking.backbones.dcn import DCNConfig
from braidrec.ranking.backbones.deepfm import DeepFMConfig
from braidrec.ranking.backbones.din import DINConfig
from braidrec.ranking.methods.disco import DisCoConfig
from braidrec.strict import Strict, merge, parse

Preset = Literal["ours", "paper", "authors", "textbook"]
BackboneName = Literal["deepfm", "dcn", "din"]


class HistoryConfig(Strict):
    kind: Literal["recent", "semantic_topk"] = "recent"
    length: int = Setting(default=30, ge=1)
    mean: bool = True  # mean history as two extra fields, for backbones without a history of their own


class RankingConfig(Strict):
    """One model: a backbone, perhaps an enhancer, and what both read."""

    task: Literal["ranking"] = "ranking"
    dim: int = Setting(default=32, ge=2)
    initial: Initial = "xavier"
    unknown_rate: float = Setting(default=0.01, ge=0.0, lt=1.0)
    statistics: bool = False  # time-causal counts and rates as one more field
    backbone: Annotated[DeepFMConfig | DCNConfig | DINConfig, Setting(discriminator="name")] = DINConfig()
    enhance: DisCoConfig | None = None
    history: HistoryConfig = HistoryConfig()

    @property
    def title(self) -> str:
        return BACKBONES[self.backbone.name] + (" + DisCo" if self.enhance else "")


BACKBONES: Mapping[str, str] = {"deepfm": "DeepFM", "dcn": "DCN", "din": "DIN"}

# The norm each of the DisCo authors' backbones has in its MLP.
_AUTHORS_NORM = {"deepfm": "ln_post", "dcn": "ln_post", "din": "ln_post"}

_BACKBONE_PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "ours": {"deepfm": {}, "dcn": {"variant": "mix"}, "din": {"variant": "bilinear"}},
    "paper": {"deepfm": {}, "dcn": {"variant": "mix"}, "din": {"variant": "bilinear"}},
    "authors": {
        "deepfm": {"norm": _AUTHORS_NORM["deepfm"]},
        "dcn": {"variant": "mix", "norm": _AUTHORS_NORM["dcn"]},
        "din": {"variant": "bilinear", "norm": _AUTHORS_NORM["din"]},
    },
    "textbook": {"deepfm": {}, "dcn": {"variant": "v1"}, "din": {"variant": "paper", "history_fields": "all"}},
}

# What a backbone changes where patterns join it.
_JOINED_PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {"ours": {"deepfm": {"extras_in_fm": False}}}

_DISCO_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "ours": {"sufficiency_weight": 0.0},
    "paper": {"club_per_dimension": False, "club_floor": False, "replaces": "mean"},
    # What the released code sets out to do, without its bugs (listed in the method's file).
    "authors": {
        "club_per_dimension": False,
        "club_floor": False,
        "semantic_hidden": 0,
        "attention_bias": True,
        "attention_scale": False,
        "sufficiency_scope": "all",
        "sufficiency_anchor": "history",
        "disentangle_scope": "H+L",
        "sufficiency_weight": 0.2,
        "disentangle_weight": 0.2,
        "replaces": "history",
    },
}

_MODEL_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "ours": {},
    "paper": {},
    "authors": {"history": {"kind": "semantic_topk"}},
    "textbook": {"initial": "normal", "history": {"mean": False}},
}


def ranking_config(preset: Preset, backbone: str, enhance: str | None, changes: Mapping[str, Any], where: str) -> RankingConfig:
    """The preset's values for a backbone and an enhancer, then ``changes`` (nested tables) on top.

    Raises ConfigError for an unknown name or key, with the nearest known one.
    """
    if backbone not in BACKBONES:
        raise ConfigError(f"{where}: unknown backbone '{backbone}'{suggest(backbone, BACKBONES)}")
    if enhance not in (None, "disco"):
        raise ConfigError(f"{where}: unknown enhancer '{enhance}'{suggest(enhance, ['disco'])}")
    if preset not in _MODEL_PRESETS:
        raise ConfigError(f"{where}: unknown preset '{preset}'{suggest(preset, _MODEL_PRESETS)}")
    if enhance and preset not in _DISCO_PRESETS:
        raise ConfigError(
            f"{where}: preset '{preset}' is for backbones alone; with 'disco' use one of {', '.join(_DISCO_PRESETS)}"
        )
    own = changes.get("backbone")
    if isinstance(own, Mapping) and own.get("name", backbone) != backbone:
        raise ConfigError(f"{where}: 'backbone.name' = {own['name']!r}, but the backbone is '{backbone}'; choose it there")
    if changes.get("enhance") is not None and not enhance:
        raise ConfigError(f"{where}: 'enhance' has settings but no enhancer is chosen; choose enhance = 'disco' or drop them")
    values: dict[str, Any] = {
        **_MODEL_PRESETS[preset],
        "backbone": {"name": backbone, **_BACKBONE_PRESETS[preset][backbone]},
    }
    if enhance:
        values["enhance"] = dict(_DISCO_PRESETS[preset])
        values["backbone"] |= _JOINED_PRESETS.get(preset, {}).get(backbone, {})
    return parse(RankingConfig, merge(values, changes), where)
