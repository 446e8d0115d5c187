"""What the loop asks of a model and of its data, and what it gives back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from braidrec.errors import ConfigError
from braidrec.strict import MOST, Strict
from braidrec.training.config import Precision
from braidrec.training.step import Step

__all__ = [
    "Batch",
    "Batches",
    "CheckpointEvery",
    "FittedPhase",
    "Hardware",
    "OptimiserGroup",
    "Phase",
    "PhaseResult",
    "Start",
    "Step",
    "StopRule",
    "Trainable",
    "TrainingResult",
    "Validate",
]

# Called in evaluation mode without gradients: metric name -> value.
Validate = Callable[[nn.Module], Mapping[str, float]]


class Batch(Protocol):
    """Rows that travel together; its length is the number of rows."""

    def __len__(self) -> int: ...

    def to(self, device: torch.device | str) -> Any: ...


class Batches(Protocol):
    """A stateful source of batches cut from a seeded permutation, so its state is three numbers.

    state: {"seed", "epoch", "position"}; position = batches already given in this epoch
    iteration: the rest of the current epoch from ``position``; at its end epoch += 1 and position = 0
    length: batches per epoch, at least one
    """

    def __len__(self) -> int: ...

    def state(self) -> dict[str, int]: ...

    def restore(self, state: Mapping[str, int]) -> None: ...

    def __iter__(self) -> Iterator[Any]: ...


class Trainable(Protocol):
    """An nn.Module with ``step``.  Two methods are optional; the loop looks for them by name.

    lazy_rows(batch) -> Mapping[str, Tensor]: parameter name -> rows (n,) int64 that ``step(batch)`` will read, for every
        big table, that is every nn.Embedding(sparse=True); the loop brings those rows up to date before the step
    generators() -> Mapping[str, torch.Generator]: private random generators, looked for on every submodule, so that a
        checkpoint holds their state
    """

    def step(self, batch: Any) -> Step: ...


@dataclass(frozen=True)
class OptimiserGroup:
    """Parameters that share an optimiser; a parameter in no group is frozen.

    "main" and "main.*" (say "main.tables", at another rate) step on the phase's weighted sum of losses.  Any other group
    steps first, ``steps`` times a batch, on its own loss ``Step.first[name]``, and never receives the main gradient.
    Tables of nn.Embedding(sparse=True) are updated lazily, with ``rowwise`` by `RowAdagrad` at ``table_lr`` (None: ``lr``);
    everything else by fused Adam.

    weight_decay: added to the gradient as in Adam (Kingma & Ba 2015), or taken off the weights as in AdamW (Loshchilov &
    Hutter 2019) when ``decoupled``; lazy tables always take it off the weights, see `LazyAdam`.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    lr: float
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    steps: int = 1
    decoupled: bool = False
    rowwise: bool = False
    table_lr: float | None = None

    @property
    def is_main(self) -> bool:
        return self.name == "main" or self.name.startswith("main.")


class StopRule(Strict):
    """When a phase ends: after ``max_epochs``, or after ``patience`` checks in a row without a gain above ``min_delta``.

    min_epochs: before so many epochs are over, no number of checks without a gain ends it
    checks_per_epoch: validations in an epoch, evenly spaced, the last one at its end; models often peak inside an epoch.
    epochs_per_check: instead of them one at the end of epochs 1, 1 + n, 1 + 2n, .., and of the last one
    """

    max_epochs: int = Field(default=50, ge=1, le=MOST)
    min_epochs: int = Field(default=0, ge=0, le=MOST)
    patience: int = Field(default=10, ge=1, le=MOST)
    checks_per_epoch: int = Field(default=1, ge=1, le=MOST)
    epochs_per_check: int | None = Field(default=None, ge=1, le=MOST)
    min_delta: float = Field(default=0.0, ge=0)

    def within(self, size: int) -> set[int]:
        """After which of an epoch's ``size`` batches a check can follow, from 1 on."""
        checks = 1 if self.epochs_per_check is not None else self.checks_per_epoch
        return {math.ceil(size * turn / checks) for turn in range(1, checks + 1)}

    def in_epoch(self, epoch: int) -> bool:
        """Whether ``epoch``, from 1 on, has checks at all."""
        every = self.epochs_per_check or 1
        return (epoch - 1) % every == 0 or epoch == self.max_epochs


class Hardware(Strict):
    """Where training runs, in the words of lightning-fabric.  One process: ``devices`` is 1, or (n,) for device number n."""

    accelerator: str = "auto"
    precision: Precision = "32-true"
    devices: int | tuple[int, ...] = 1


class CheckpointEvery(Strict):
    """A checkpoint after so many batches or seconds, whichever comes first; one is also written when a phase ends."""

    batches: int | None = Field(default=None, ge=1, le=MOST)
    seconds: float | None = Field(default=600.0, gt=0)


@dataclass(frozen=True)
class Start:
    """Saved weights that a phase begins with.

    source: name of an earlier phase, or path of saved weights (a directory under some run's ``weights/``)
    names: prefix of tensor names there -> prefix here; tensors under no prefix are left out.  Empty: all, as they are named
    """

    source: str | Path
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Phase:
    """One stage of a run.

    name: of letters, digits, '-' and '_'; it names files    module: an nn.Module that is `Trainable`
    weights: loss name -> its weight in the main sum; exactly the losses that ``Step.losses`` returns
    validate: called in evaluation mode without gradients; metric name -> value, ``monitor`` among them
    clip_norm: largest norm of the gradient of the main groups together
    averaging: decay per step of a running mean of the main groups' weights, which validation sees and the phase ends with
        (Polyak and Juditsky 1992); 0 keeps the weights as stepped.  It touches every weight, so it excludes lazy tables
    starts_from: weights taken over in turn, copied before the first step; each tensor must have its place here, with that
        shape; what the module has besides keeps its initial values
    """

    name: str
    module: nn.Module
    batches: Batches
    groups: Sequence[OptimiserGroup]
    weights: Mapping[str, float]
    validate: Validate
    monitor: str = "auc"
    mode: Literal["max", "min"] = "max"
    stop: StopRule = field(default_factory=StopRule)
    clip_norm: float | None = None
    averaging: float = 0.0
    starts_from: Sequence[Start] = ()

    def __post_init__(self) -> None:
        self._check_groups()
        if not 0.0 <= self.averaging < 1.0:
            raise ConfigError(f"phase '{self.name}': averaging = {self.averaging}; a decay is from 0 up to, not including, 1")
        _check_name(self.name)
        if not len(self.batches):
            raise ConfigError(f"phase '{self.name}': its source has no batches")
        if not any(self.weights.values()):
            raise ConfigError(
                f"phase '{self.name}': weights = {dict(self.weights)}; at least one loss needs a weight above zero"
            )
        if not hasattr(self.module, "step"):
            raise ConfigError(f"phase '{self.name}': {type(self.module).__name__} has no method step(batch) -> Step")

    def _check_groups(self) -> None:
        names = [group.name for group in self.groups]
        if len(set(names)) < len(names) or not any(group.is_main for group in self.groups):
            raise ConfigError(f"phase '{self.name}': optimiser groups are {names}; each name once, 'main' among them")
        owners: dict[int, str] = {}
        own = {id(parameter): name for name, parameter in self.module.named_parameters()}
        for group in self.groups:
            at = f"phase '{self.name}', optimiser group '{group.name}'"
            if not group.parameters:
                raise ConfigError(f"{at}: no parameters")
            if group.steps < 1 or (group.is_main and group.steps > 1):
                raise ConfigError(f"{at}: steps = {group.steps}; 1 for main groups, 1 or more for the others")
            for parameter in group.parameters:
                if id(parameter) not in own:
                    raise ConfigError(f"{at}: a parameter of shape {tuple(parameter.shape)} is not part of the module")
                name = own[id(parameter)]
                if not parameter.requires_grad:
                    raise ConfigError(f"{at}: '{name}' does not require a gradient; leave it out of the group")
                if id(parameter) in owners:
                    raise ConfigError(f"{at}: '{name}' is already in group '{owners[id(parameter)]}'")
                owners[id(parameter)] = group.name


@dataclass(frozen=True)
class FittedPhase:
    """A phase that is fitted at once: the tensors of ``fit`` go into the module, by name, and are validated.

    starts_from: as of a `Phase`, taken over before ``fit`` is called
    """

    name: str
    module: nn.Module
    fit: Callable[[], Mapping[str, Tensor]]
    validate: Validate
    starts_from: Sequence[Start] = ()

    def __post_init__(self) -> None:
        _check_name(self.name)


def _check_name(name: str) -> None:
    if not name or not all(mark.isalnum() or mark in "-_" for mark in name):
        raise ConfigError(f"phase name {name!r}: it names files; use letters, digits, '-' and '_'")


@dataclass(frozen=True)
class PhaseResult:
    """How a phase went.  best_check counts from 1, best_step is the batches trained by then, metrics are those of that check.

    seconds and samples_per_second: training without validation.  weights: directory of the best weights in the run.
    A fitted phase has one check, and no steps or samples.
    """

    name: str
    best_check: int
    best_step: int
    best_metric: float
    metrics: Mapping[str, float]
    steps: int
    seconds: float
    samples_per_second: float
    weights: str


@dataclass(frozen=True)
class TrainingResult:
    """One result per phase, in order."""

    phases: tuple[PhaseResult, ...]
