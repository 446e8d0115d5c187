"""The one file behind a run: what to train, on what, how.  Parsed once, at the edge."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field as Setting

from braidrec.errors import ConfigError
from braidrec.ranking.config import Preset, RankingConfig, ranking_config
from braidrec.strict import Strict, merge, parse

Backbone = Literal["deepfm", "dcn", "din"]
Precision = Literal["32-true", "bf16-mixed"]


class TrainingConfig(Strict):
    """How a ranking model is trained; lr and weight decay belong to Adam (L2), patience counts checks."""

    batch_size: int = Setting(default=2048, ge=1)
    lr: float = Setting(default=1e-3, gt=0)
    weight_decay: float = Setting(default=1e-5, ge=0)
    max_epochs: int = Setting(default=10, ge=1)
    patience: int = Setting(default=4, ge=1)
    checks_per_epoch: int = Setting(default=2, ge=1)
    clip_norm: float | None = Setting(default=None, gt=0)
    average_epochs: float = Setting(default=0.0, ge=0)  # weights kept are a running mean over about so many epochs
    precision: Precision = "32-true"
    accelerator: str = "cpu"
    tables: Literal["auto", "dense", "lazy"] = "auto"  # auto: by the measured crossover in table size
    checkpoint_seconds: float = Setting(default=60.0, gt=0)


class RunRequest(Strict):
    """The run file as a person writes it: names and a preset, then single settings on top."""

    data: str
    knowledge: str | None = None
    backbone: Backbone = "din"
    enhance: Literal["disco"] | None = None
    preset: Preset = "ours"
    seed: int = Setting(default=42, ge=0)
    negatives: int | None = Setting(default=None, ge=1)  # per positive; default: as the data set was prepared
    model: dict[str, Any] = Setting(default_factory=dict)
    training: dict[str, Any] = Setting(default_factory=dict)


class RunConfig(Strict):
    """The same, resolved: every value that shaped the run, as saved in its directory."""

    data: str
    knowledge: str | None = None
    preset: Preset
    seed: int
    negatives: int | None = None
    model: RankingConfig
    training: TrainingConfig


# `ours`: two epochs, since models of this kind overfit after one or two, and a running mean of the weights.  `paper` and
# `authors` follow the spec (batch 256, patience 10 epochs, at most 50).
TRAINING_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "ours": {"batch_size": 1024, "lr": 7e-4, "average_epochs": 0.8, "max_epochs": 2},
    "paper": {"batch_size": 256, "lr": 5e-4, "max_epochs": 50, "patience": 10, "checks_per_epoch": 1},
    "authors": {"batch_size": 256, "lr": 1e-4, "max_epochs": 50, "patience": 10, "checks_per_epoch": 1},
    "textbook": {"batch_size": 2048, "weight_decay": 0.0},
}


def read_request(path: Path | None, changes: Mapping[str, Any]) -> RunRequest:
    """A run file, or nothing, with ``changes`` on top.  Raises ConfigError naming the file and the key."""
    if path is None:
        return parse(RunRequest, changes, "fit")
    return parse(RunRequest, merge(_read_toml(path, "the run file"), changes), str(path))


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """``a.b=value`` strings to nested tables; values are TOML, bare words are text."""
    merged: dict[str, Any] = {}
    for change in changes:
        key, found, text = change.partition("=")
        if not found or not all(part.strip() for part in key.split(".")):
            raise ConfigError(f"--set {change!r}: expected key=value, such as model.dim=64")
        try:
            value: Any = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        for part in reversed(key.split(".")):
            value = {part.strip(): value}
        merged = merge(merged, value)
    return merged


def resolve(request: RunRequest, where: str) -> RunConfig:
    """Lay the request over its preset.  Raises ConfigError for unknown keys at any depth."""
    training = merge(TRAINING_PRESETS[request.preset], request.training)
    return RunConfig(
        data=request.data,
        knowledge=request.knowledge,
        preset=request.preset,
        seed=request.seed,
        negatives=request.negatives,
        model=ranking_config(request.preset, request.backbone, request.enhance, request.model, f"{where}: model"),
        training=parse(TrainingConfig, training, f"{where}: training"),
    )


def to_toml(config: RunConfig) -> str:
    """TOML text; keys that are None are left out, as TOML has no null."""
    import tomli_w

    return tomli_w.dumps(config.model_dump(exclude_none=True))


def from_toml(path: Path) -> RunConfig:
    """A resolved config as saved in a run directory."""
    return parse(RunConfig, _read_toml(path, "the run's config"), str(path))


def _read_toml(path: Path, what: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: {what} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
        raise ConfigError(f"{path}: not valid TOML ({cause})") from None
    except OSError as cause:
        raise ConfigError(f"{path}: {what} cannot be read ({cause.strerror})") from None
