"""The one file behind a run: what to train, on what, how.  Parsed once, at the edge."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field as Setting
from pydantic import ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from braidrec.errors import ConfigError, suggest
from braidrec.ranking.config import BACKBONES as RANKING_BACKBONES
from braidrec.ranking.config import Preset, RankingConfig, ranking_config
from braidrec.sequential.config import BACKBONES as SEQUENTIAL_BACKBONES
from braidrec.sequential.config import METHODS, SequentialConfig, sequential_config
from braidrec.strict import Strict, merge, parse

Task = Literal["ranking", "sequential"]
Backbone = Literal["deepfm", "dcn", "din", "sasrec", "gru4rec", "caser"]
Precision = Literal["32-true", "bf16-mixed"]

# A backbone's name says which task it is for, and with that what goes with it.
BACKBONES: Mapping[Task, Sequence[str]] = {"ranking": tuple(RANKING_BACKBONES), "sequential": tuple(SEQUENTIAL_BACKBONES)}
ENHANCERS: Mapping[Task, Sequence[str]] = {"ranking": ("disco",), "sequential": tuple(METHODS)}


class PhaseTraining(Strict):
    """What one phase does otherwise than the rest of its run; None is as the run says."""

    batch_size: int | None = Setting(default=None, ge=1)
    lr: float | None = Setting(default=None, gt=0)
    weight_decay: float | None = Setting(default=None, ge=0)
    max_epochs: int | None = Setting(default=None, ge=1)
    patience: int | None = Setting(default=None, ge=1)
    checks_per_epoch: int | None = Setting(default=None, ge=1)


class TrainingConfig(Strict):
    """How a model is trained; patience counts checks, weight decay is Adam's (L2) unless ``decoupled``."""

    batch_size: int = Setting(default=2048, ge=1)
    lr: float = Setting(default=1e-3, gt=0)
    weight_decay: float = Setting(default=1e-5, ge=0)
    decoupled: bool = False  # AdamW: decay is taken off the weights, not added to the gradient
    max_epochs: int = Setting(default=10, ge=1)
    patience: int = Setting(default=4, ge=1)
    checks_per_epoch: int = Setting(default=2, ge=1)
    clip_norm: float | None = Setting(default=None, gt=0)
    average_epochs: float = Setting(default=0.0, ge=0)  # weights kept are a running mean over about so many epochs
    precision: Precision = "32-true"
    accelerator: str = "cpu"
    tables: Literal["auto", "dense", "lazy"] = "auto"  # auto: by the measured crossover in table size
    checkpoint_seconds: float = Setting(default=60.0, gt=0)
    phases: Mapping[str, PhaseTraining] = Setting(default_factory=dict)  # by the phase's name, over the values above

    def of_phase(self, name: str) -> TrainingConfig:
        """What holds in the phase ``name``: its own values over the run's."""
        own = self.phases[name].model_dump(exclude_none=True) if name in self.phases else {}
        return self.model_copy(update={**own, "phases": {}})


class RunRequest(Strict):
    """The run file as a person writes it: names and a preset, then single settings on top."""

    data: str
    knowledge: str | None = None
    backbone: Backbone = "din"
    enhance: str | None = None  # one of the task's `ENHANCERS`
    preset: Preset = "ours"
    seed: int = Setting(default=42, ge=0)
    negatives: int | None = Setting(default=None, ge=1)  # ranking: per positive; default: as the data set was prepared
    model: dict[str, Any] = Setting(default_factory=dict)
    training: dict[str, Any] = Setting(default_factory=dict)

    @property
    def task(self) -> Task:
        return _task_of(self.backbone)

    @field_validator("enhance")
    @classmethod
    def _goes_with_the_backbone(cls, enhance: str | None, info: ValidationInfo) -> str | None:
        backbone = info.data.get("backbone")  # absent where it was refused itself
        if enhance is None or backbone is None or enhance in ENHANCERS[_task_of(backbone)]:
            return enhance
        accepted = ENHANCERS[_task_of(backbone)]
        others = [name for task, names in BACKBONES.items() if enhance in ENHANCERS[task] for name in names]
        remedy = f"; it goes with {', '.join(others)}" if others else suggest(enhance, accepted)
        raise PydanticCustomError(
            "enhancer",
            "backbone '{backbone}' can be enhanced by {accepted}{remedy}",
            {"backbone": backbone, "accepted": ", ".join(accepted), "remedy": remedy},
        )


def _task_of(backbone: Backbone) -> Task:
    return next(task for task, names in BACKBONES.items() if backbone in names)


class RunConfig(Strict):
    """The same, resolved: every value that shaped the run, as saved in its directory."""

    data: str
    knowledge: str | None = None
    preset: Preset
    seed: int
    negatives: int | None = None
    model: Annotated[RankingConfig | SequentialConfig, Setting(discriminator="task")]
    training: TrainingConfig

    @property
    def task(self) -> Task:
        return self.model.task

    def check_phases(self, names: Sequence[str]) -> None:
        """Raise ConfigError for training settings of a phase that is not among ``names``, which are all that a model has."""
        for name in self.training.phases:
            if name not in names:
                raise ConfigError(f"training.phases: {self.model.title} has no phase '{name}'{suggest(name, names)}")


# Ranking.  `ours`: two epochs, since models of this kind overfit after one or two, and a running mean of the weights.
# `paper` and `authors` follow the spec (batch 256, patience 10 epochs, at most 50).
# Sequential.  `paper` and `authors`: AdamW at 1e-5, and at 1e-4 where PAD's experts are trained together.
_PAD = {"batch_size": 128, "lr": 1e-5, "max_epochs": 400, "decoupled": True, "weight_decay": 0.1, "checks_per_epoch": 1}
TRAINING_PRESETS: Mapping[Task, Mapping[Preset, Mapping[str, Any]]] = {
    "ranking": {
        "ours": {"batch_size": 1024, "lr": 7e-4, "average_epochs": 0.8, "max_epochs": 2},
        "paper": {"batch_size": 256, "lr": 5e-4, "max_epochs": 50, "patience": 10, "checks_per_epoch": 1},
        "authors": {"batch_size": 256, "lr": 1e-4, "max_epochs": 50, "patience": 10, "checks_per_epoch": 1},
        "textbook": {"batch_size": 2048, "weight_decay": 0.0},
    },
    "sequential": {
        "ours": {**_PAD, "lr": 3e-3, "max_epochs": 30, "patience": 3},
        "paper": {**_PAD, "patience": 10},
        "authors": {**_PAD, "patience": 20},
        "textbook": {
            "batch_size": 128,
            "lr": 1e-3,
            "max_epochs": 200,
            "patience": 10,
            "weight_decay": 0.0,
            "checks_per_epoch": 1,
        },
    },
}

# What a method changes.  `ours`: an id model that is fitted to the end leaves its text nothing to explain, so PAD's first
# phase is short, and the later ones go in smaller steps.
_EXPERTS = {"phases": {"experts": {"lr": 1e-4}}}
METHOD_TRAINING: Mapping[Preset, Mapping[str, Mapping[str, Any]]] = {
    "ours": {
        "pad": {"phases": {"pretrain": {"max_epochs": 4}, "align": {"lr": 1e-3}, "experts": {"lr": 1e-3}}},
        "smem": {"phases": {"pretrain": {"max_epochs": 4}, "experts": {"lr": 1e-3}}},
        "make": {"phases": {"experts": {"lr": 1e-3}}},
        "hybrid": {"lr": 1e-3},
        "disco": {"lr": 1e-3},
    },
    "paper": {"pad": _EXPERTS, "smem": _EXPERTS, "make": _EXPERTS},
    "authors": {"pad": _EXPERTS, "smem": _EXPERTS, "make": _EXPERTS},
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
    """Lay the request over its preset.  Raises ConfigError for unknown keys at any depth, and for what another task takes."""
    sequential = request.task == "sequential"
    if sequential and request.negatives is not None:
        raise ConfigError(
            f"{where}: negatives = {request.negatives} is drawn per positive of a ranking log; for '{request.backbone}' "
            "set model.negatives, the items drawn per position"
        )
    model = sequential_config if sequential else ranking_config
    own: Mapping[str, Any] = METHOD_TRAINING.get(request.preset, {}).get(request.enhance or "", {})
    preset = merge(TRAINING_PRESETS[request.task][request.preset], own if request.task == "sequential" else {})
    training = merge(preset, request.training)
    return RunConfig(
        data=request.data,
        knowledge=request.knowledge,
        preset=request.preset,
        seed=request.seed,
        negatives=request.negatives,
        model=model(request.preset, request.backbone, request.enhance, request.model, f"{where}: model"),
        training=parse(TrainingConfig, training, f"{where}: training"),
    )


def to_toml(config: RunConfig) -> str:
    """TOML text; keys that are None are left out, as TOML has no null."""
    import tomli_w

    return tomli_w.dumps(config.model_dump(exclude_none=True))


def from_toml(path: Path) -> RunConfig:
    """A resolved config as saved in a run directory."""
    values = _read_toml(path, "the run's config")
    if isinstance(values.get("model"), dict) and "task" not in values["model"]:
        raise ConfigError(
            f"{path}: written by an earlier version, for its model has no task; train it again, in another folder"
        )
    return parse(RunConfig, values, str(path))


def _read_toml(path: Path, what: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: {what} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
        raise ConfigError(f"{path}: not valid TOML ({cause})") from None
    except OSError as cause:
        raise ConfigError(f"{path}: {what} cannot be read ({cause.strerror})") from None
