"""What a method says of its training, without data: stages; and the one place where a stage becomes a phase of the loop.

A method lists `Stage`s (or `Fitted` ones, which need no optimiser).  Its task adds batches and validation, the run's
settings add rates and the stop rule: `make_phase`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from braidrec.errors import ConfigError, RunError, suggest
from braidrec.training.config import TrainingConfig
from braidrec.training.contracts import Batches, FittedPhase, OptimiserGroup, Phase, Start, StopRule, Validate


@dataclass(frozen=True)
class Group:
    """Parameters that share an optimiser, as a method names them; None: the phase's own value.

    name: "main" and "main.*" step on the weighted sum of losses, any other on its own loss and first (`OptimiserGroup`)
    """

    name: str
    parameters: Sequence[nn.Parameter]
    lr: float | None = None
    weight_decay: float | None = None
    steps: int = 1


@dataclass(frozen=True)
class Stage:
    """One phase of a method, without the data: what trains, on which losses, from which earlier weights.

    weights: loss name -> weight    starts: earlier stage -> prefix of names there -> prefix here
    groups: "main" and others; parameters in none are frozen
    monitor: of validation; None for what the task watches    mode: which way it is better
    train, valid: the parts of the split that it trains and validates on
    reads_text: whether its weights go with the item text vectors that it was trained on
    settings: what its weights go with besides, by key as a run file has it; a run that takes them over must have the same
    """

    name: str
    module: nn.Module
    weights: Mapping[str, float]
    groups: Sequence[Group]
    starts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    monitor: str | None = None
    mode: Literal["max", "min"] = "max"
    train: str = "train"
    valid: str = "valid"
    reads_text: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Fitted:
    """A stage that is fitted at once, without an optimiser: closed forms, counts, trees as text in a byte tensor.

    module: what the tensors of ``fit`` go into, by name (`put_fitted`)    fit: the tensors, once
    starts, valid, reads_text, settings: as of a `Stage`
    """

    name: str
    module: nn.Module
    fit: Callable[[], Mapping[str, Tensor]]
    starts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    valid: str = "valid"
    reads_text: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)


AnyStage = Stage | Fitted


@torch.no_grad()
def put_fitted(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put what was fitted, and is handed over, into the module or into the parts that dotted names lead to.

    A parameter, or a buffer of the same shape and type, takes the values where it is, so that whoever shares it has them too;
    any other tensor becomes a buffer.  Raises RunError for a parameter of another shape.
    """
    for name, tensor in tensors.items():
        owner, _, own = name.rpartition(".")
        part = module.get_submodule(owner)
        parameter = dict(part.named_parameters(recurse=False, remove_duplicate=False)).get(own)
        buffer = dict(part.named_buffers(recurse=False, remove_duplicate=False)).get(own)
        if parameter is None:
            if buffer is not None and (buffer.shape, buffer.dtype) == (tensor.shape, tensor.dtype):
                tensor = buffer.copy_(tensor)
            part.register_buffer(own, tensor)  # also one that was there: what is fitted is saved
        elif parameter.shape == tensor.shape:
            parameter.copy_(tensor)
        else:
            shapes = f"{tuple(tensor.shape)}, in the module {tuple(parameter.shape)}"
            raise RunError(f"what was fitted does not fit the module: '{name}' has shape {shapes}")


def put_trained(stage: AnyStage, tensors: Mapping[str, Tensor]) -> None:
    """Put the weights of a stage that is over into its module, fresh from its plan: also what an earlier, fitted stage had
    added to it.  Raises RunError where a weight of the module is not among them.
    """
    if isinstance(stage, Fitted):
        put_fitted(stage.module, tensors)
        return
    known = stage.module.state_dict().keys()
    if missing := sorted(known - tensors.keys()):
        raise RunError(f"the weights of stage '{stage.name}' lack '{missing[0]}'; they are of another model")
    stage.module.load_state_dict({name: tensors[name] for name in known})
    put_fitted(stage.module, {name: tensor for name, tensor in tensors.items() if name not in known})


def main_group(module: nn.Module, *apart: Sequence[nn.Parameter]) -> Group:
    """Everything that trains except what has a group of its own."""
    others = {id(parameter) for group in apart for parameter in group}
    return Group("main", [each for each in module.parameters() if each.requires_grad and id(each) not in others])


def make_phase(
    stage: Stage,
    training: TrainingConfig,
    batches: Batches,
    validate: Validate,
    *,
    monitor: str,
    taken: Mapping[str, Path] | None = None,
) -> Phase:
    """A stage with data, optimisers and stop rule.

    training: what holds in this phase    monitor: of the task, where the stage has none
    taken: stages whose weights come from elsewhere, by name: directories of saved weights
    """
    taken, steps = taken or {}, training.average_epochs * len(batches)
    return Phase(
        stage.name,
        stage.module,
        batches,
        [
            OptimiserGroup(
                group.name,
                group.parameters,
                training.lr if group.lr is None else group.lr,
                training.weight_decay if group.weight_decay is None else group.weight_decay,
                steps=group.steps,
                decoupled=training.decoupled and group.name.startswith("main"),
                rowwise=training.tables == "rowwise",
                table_lr=training.table_lr,
            )
            for group in stage.groups
        ],
        stage.weights,
        validate,
        monitor=stage.monitor or monitor,
        mode=stage.mode,
        stop=StopRule(
            max_epochs=training.max_epochs,
            min_epochs=training.min_epochs,
            patience=training.patience,
            checks_per_epoch=training.checks_per_epoch,
            epochs_per_check=training.epochs_per_check,
        ),
        clip_norm=training.clip_norm,
        averaging=max(0.0, 1.0 - 1.0 / steps) if steps else 0.0,
        starts_from=[Start(taken.get(name, name), names) for name, names in stage.starts.items()],
    )


def fitted_phase(stage: Fitted, validate: Validate, *, taken: Mapping[str, Path] | None = None) -> FittedPhase:
    """A fitted stage with its validation."""
    starts = [Start((taken or {}).get(name, name), names) for name, names in stage.starts.items()]
    return FittedPhase(stage.name, stage.module, stage.fit, validate, starts)


def left_to_train(stages: Sequence[AnyStage], taken: Mapping[str, str]) -> list[AnyStage]:
    """The stages without those whose weights come from another run.

    taken: stage -> run directory.  Raises ConfigError for a name that no other stage follows.
    """
    names = [stage.name for stage in stages]
    for name in taken:
        if name not in names[:-1]:
            raise ConfigError(
                f"model.start_from names the stage '{name}', which is none that another follows (this model has: "
                f"{', '.join(names[:-1]) or 'a single stage'})"
            )
    return [stage for stage in stages if stage.name not in taken]


def check_phases(training: TrainingConfig, names: Sequence[str], title: str) -> None:
    """Raise ConfigError for training settings of a phase that is not among ``names``, which are all that ``title`` has."""
    for name in training.phases:
        if name not in names:
            raise ConfigError(f"training.phases: {title} has no phase '{name}'{suggest(name, names)}")
