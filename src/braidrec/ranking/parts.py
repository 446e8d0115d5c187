"""What settings of a ranking model's parts say of them before anything is built, and which of them could change nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from braidrec.layers.mlp import Norm
from braidrec.strict import Strict

Replaced = Literal["nothing", "mean", "history"]


@dataclass(frozen=True)
class Beside:
    """What a model has besides one of its parts, as far as settings say it before anything is built.

    dim: D    extras: whether any stand beside a backbone's fields    mixed: whether they reach anything but its MLP
    own_history: as of `Sizes`
    mean, pooled: whether the mean history would be among the extras, and whether the backbone would pool the history itself, if
    no source took their place
    """

    dim: int
    extras: bool = False
    mixed: bool = True
    own_history: bool = True
    mean: bool = False
    pooled: bool = False


Idle = Mapping[str, str]  # key -> what keeps it from changing anything
NO_EXTRAS = "nothing stands beside the fields, neither the mean history nor patterns of an enhancer"
PATTERNS_INSTEAD = "an enhancer's patterns take the place of the history that this backbone reads by itself"


def idle_layers(mlp: Sequence[int], norm: Norm, dropout: float) -> Idle:
    """Of the settings of an MLP, what can change nothing where it has no hidden layer, but for dropout of its input."""
    if mlp or (norm == "ln_post" and dropout):
        return {}
    why = "mlp = () has no hidden layer"
    return {"norm": why} if norm == "ln_post" else {"norm": why, "dropout": why}


class BackboneConfig(Strict):
    """Settings of a backbone, and what they say of it before it is built."""

    @classmethod
    def of(cls, settings: object) -> BackboneConfig:
        """The settings of a backbone or a whole model; of a whole model whose settings say nothing, what holds by default."""
        return settings if isinstance(settings, BackboneConfig) else cls()

    @property
    def takes_mean(self) -> bool:
        """Whether the mean history stands beside its fields; not where it pools the history itself, or reads no extras."""
        return True

    @property
    def reads_history(self) -> bool:
        """Whether a user's history can reach it, by itself or as extras."""
        return True

    @property
    def pools_history(self) -> bool:
        """Whether it reads the behaviours by itself, unless patterns take that place."""
        return False

    @property
    def has_mlp(self) -> bool:
        """Whether it has an MLP that reads vectors which stand beside its fields for that alone."""
        return False

    @property
    def mixes_extras(self) -> bool:
        """Whether extras reach anything but such an MLP."""
        return True

    @property
    def reads_rates(self) -> bool:
        """Whether it reads time-causal rates whatever ``model.rates`` says."""
        return False

    def idle_beside(self, beside: Beside) -> Idle:
        """Which of these settings can change nothing as the others are, and why."""
        return {}

    def unread(self, beside: Beside) -> Idle:
        """Likewise of the task's own keys in [model]."""
        return {}


class MLPConfig(BackboneConfig):
    """Of a backbone whose MLP reads all that stands beside its fields, and which reads it nowhere else."""

    @property
    def has_mlp(self) -> bool:
        return True

    @property
    def mixes_extras(self) -> bool:
        return False


class PoolingConfig(MLPConfig):
    """Of one that, besides, pools the history itself."""

    @property
    def takes_mean(self) -> bool:
        return False

    @property
    def pools_history(self) -> bool:
        return True


class SourceConfig(Strict):
    """Settings of a pattern source, and what they say of it before it is built."""

    @classmethod
    def of(cls, settings: object) -> SourceConfig:
        """The settings of a source; of one whose settings say nothing, what holds by default."""
        return settings if isinstance(settings, SourceConfig) else cls()

    @property
    def takes_place_of(self) -> Replaced:
        """What else of the history its patterns make superfluous."""
        return "nothing"

    @property
    def deep(self) -> bool:
        """Whether its patterns are no fields, but vectors that a backbone's MLP alone reads."""
        return False

    @property
    def reads_history(self) -> bool:
        return True

    def idle_beside(self, beside: Beside) -> Idle:
        """Which of these settings can change nothing as the others are, and why."""
        return {}
