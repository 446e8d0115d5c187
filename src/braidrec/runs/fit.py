"""Train one model, of whatever task its backbone is for, into a run directory (see `braidrec.runs.directory`)."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from braidrec.arguments import instance_of, path_of
from braidrec.config import RunConfig, RunRequest, check_names, own_phases, resolve, said_by_size, size_of
from braidrec.data.dataset import Dataset
from braidrec.data.fingerprint import Fingerprint
from braidrec.errors import ConfigError, RunError, remedy
from braidrec.memory import there_is
from braidrec.registry import TASKS, LogSize
from braidrec.runs.directory import (
    begun,
    claim,
    digest_of,
    ended,
    read_run,
    read_stage,
    refuse_other,
    save_catalogue,
    save_model,
    save_record,
)
from braidrec.runs.doubts import doubts
from braidrec.runs.knowledge import KnowledgeBases
from braidrec.runs.run import Catalogue, Run, load
from braidrec.shown import tell
from braidrec.strict import parse
from braidrec.task import Plan
from braidrec.threads import as_begun, noting_waits
from braidrec.training.checkpoint import archive_digest
from braidrec.training.contracts import CheckpointEvery, Hardware, PhaseResult
from braidrec.training.devices import device_of
from braidrec.training.loop import AnyPhase, train
from braidrec.training.seeding import own_randomness
from braidrec.training.stages import Fitted, check_phases, fitted_phase, make_phase


class FitWarning(UserWarning):
    """Of a run that `fit` trained or loaded: one of ``Run.warnings``."""


_log = logging.getLogger(__name__)
_EXAMPLES = {"model": 'dim": 64', "training": 'max_epochs": 2'}


def fit(
    dataset: Dataset,
    *,
    path: Path | str,
    backbone: str | None = None,
    enhance: str | Sequence[str] | None = None,
    knowledge: Path | str | Sequence[Path | str] | None = None,
    task: str | None = None,
    preset: str = "ours",
    seed: int = 42,
    negatives: int | None = None,
    by_size: bool = True,
    model: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    show_progress: bool = True,
) -> Run:
    """Train ``backbone``, with ``enhance`` (one name or several) or plain, and return the run.

    The backbone says what is learned: to rank what was clicked above what was not (such as din), the next item of a sequence
    (such as sasrec), or what goes with what somebody has (such as ease); `braidrec list` has them all.  Without any, a log of
    positives alone gets ease, which reads text where there is a knowledge base, and one with labels or ratings din.
    ``task`` settles it where two tasks have the name.
    model, training: single settings on top of the preset, such as ``model={"dim": 64}``; see `braidrec.config`.
    by_size: whether preset ``ours`` chooses the order of samples, batches, rate and epochs by the size of the log, where
    ``model`` and ``training`` do not: ``Run.config`` has them, ``Run.sized`` says them.
    A run that was interrupted at ``path`` goes on where it stopped; a finished one with the same settings is loaded.
    Warns (`FitWarning`) of a stage that still improved at its end and of a simple ranking that is better on validation.
    Raises ConfigError for unknown settings, for an enhancer without a knowledge base, and for a folder that holds
    something else; RunError when the data or the knowledge base changed since an interrupted run began, or while another
    process trains there.
    """
    instance_of(dataset, Dataset, "dataset", "open a prepared folder with Dataset.open(path)")
    for name, given in (("model", model), ("training", training)):
        if given is not None:
            instance_of(given, Mapping, name, f'write single settings, such as {name}={{"{_EXAMPLES[name]}}}')
    several = isinstance(knowledge, Sequence) and not isinstance(knowledge, str)
    values = {
        "data": str(dataset.path),
        "knowledge": None
        if knowledge is None
        else [str(path_of(each, "knowledge")) for each in knowledge]  # type: ignore[union-attr]
        if several
        else str(path_of(knowledge, "knowledge")),
        "task": task,
        "backbone": backbone,
        "enhance": enhance,
        "preset": preset,
        "seed": seed,
        "negatives": negatives,
        "by_size": by_size,
        "model": dict(model or {}),
        "training": dict(training or {}),
    }
    request = with_default(parse(RunRequest, values, "fit"), dataset)
    config = _by_size(request, "fit", dataset)
    run = fit_config(config, path_of(path, "path"), dataset=dataset, show_progress=show_progress)
    for text in run.warnings:
        warnings.warn(f"{run.path}: {text}", FitWarning, stacklevel=2)
    return run


def prepare_fit(request: RunRequest, where: str) -> tuple[RunConfig, Dataset]:
    """The settings by the size of the log that the request names, and that log: what `fit_config` takes.

    Raises ConfigError for names and keys before any data are looked at, DataError where there are none.
    """
    check_names(request, where)
    dataset = Dataset.open(request.data)
    request = with_default(request, dataset)
    return _by_size(request, where, dataset), dataset


def _by_size(request: RunRequest, where: str, data: Dataset) -> RunConfig:
    """What is trained on is known by settings, so these are resolved first."""
    return resolve(request, where, size_of(resolve(request, where), data))


def with_default(request: RunRequest, data: Dataset) -> RunRequest:
    """The same; where it says nothing of what is learned, and the log holds positives alone, with the task for these."""
    said = (request.task, request.backbone, request.negatives)
    if request.enhance or any(each is not None for each in said):
        return request
    schema = data.schema
    tasks = [name for name, each in TASKS.usable().items() if each.of_positives]
    if schema.rating is not None or schema.label is not None or not tasks:
        return request
    return request.model_copy(update={"task": tasks[0]})


@own_randomness()
def fit_config(config: RunConfig, path: Path, *, dataset: Dataset | None = None, show_progress: bool = True) -> Run:
    """Train what ``config`` says into ``path``.  Nothing is written there before data, knowledge and settings are checked.

    One process trains in a folder at a time; a second one is refused, or loads what the first one has finished by then.
    """
    try:
        refuse_other(path, config)
    except ConfigError:
        if ended(path):  # settings by the size of the log are others where the log is: that is what is to be said
            _same_data(path, config, dataset)
        raise
    if ended(path):
        return _finished(path, config, dataset)
    device = device_of(config.training.accelerator)
    dataset = dataset or Dataset.open(config.data)
    task = config.chosen.task.room()
    bases = KnowledgeBases.open(config.knowledge, config.title) if task.reads_text(config) else None
    if bases is not None:
        bases.tell_changes(dataset)
    text = None if bases is None else bases.matrix(dataset)
    read = digest_of(text)
    people = bases.people(dataset) if bases is not None and config.reads_people else None
    inputs = {"data": dataset.fingerprint, "knowledge": read} | ({} if people is None else {"people": digest_of(people)})
    size = size_of(config, dataset)
    own = {name: config.training.phases[name] for name in own_phases(config, size)}  # a preset may speak of others
    with _enough_memory(path):
        plan: Plan = task.plan(config, dataset, text, people=people, show_progress=show_progress)
        if bases is not None:
            bases.refuse_strange(dataset)
        del text, people  # held by what reads them, which may take them to another device
        check_phases(config.training.model_copy(update={"phases": own}), plan.names, config.title)
        phases = _phases(config, plan)
    starts = _check_starts(plan, dataset, bases)
    _check_unused(config, plan, size)
    inputs |= starts
    former = {"data": dataset.former_fingerprint, **dict.fromkeys(starts)}  # an earlier version noted none of these
    with claim(path, config, inputs, former=former) as finished:
        if finished:  # by a process that was faster
            return _finished(path, config, dataset)
        say = tell if show_progress else _log.warning
        waits = noting_waits(say) if device.type == "cpu" else nullcontext()
        with _enough_memory(path), as_begun(path / "training", say), waits:
            result = train(
                phases,
                path / "training",
                hardware=Hardware(accelerator=config.training.accelerator, precision=config.training.precision),
                seed=config.seed,
                checkpoint_every=CheckpointEvery(seconds=config.training.checkpoint_seconds),
                show_progress=show_progress,
                source=begun(path),
            )
        for phase in result.phases:
            _keep(path, phase)
        model = plan.keep()
        catalogue = Catalogue.of_dataset(dataset)
        save_model(path, model.saved())
        save_catalogue(path, catalogue.ids, catalogue.titles)
        record = save_record(
            path,
            config,
            dataset,
            result,
            plan.choices,
            [] if bases is None else bases.identities,
            reads_text=model.reads_text,
            taken=starts,
            sized=said_by_size(config, size),
            warnings=doubts(config, plan, phases, result.phases),
        )
    model.module.to(device)
    return Run(path, config, record, model, catalogue, dataset)


def _enough_memory(path: Path) -> AbstractContextManager[None]:
    return there_is(
        f"{path}: training",
        "smaller values of model.dim, model.length or training.batch_size, or fewer negatives, ask for less",
    )


def _finished(path: Path, config: RunConfig, dataset: Dataset | None) -> Run:
    """The run at ``path``, which has these settings.  Raises RunError where it was trained on other data or other text."""
    held, record = read_run(path)
    dataset = _same_data(path, config, dataset)
    reads, given = config.chosen.task.room().reads_text(config), [Path(each) for each in config.knowledge]
    if reads and [each.resolve() for each in given] != [Path(each).resolve() for each in held.knowledge]:
        KnowledgeBases.open(given).check(record["knowledge"], path)
    return load(path, dataset=dataset)


def _same_data(path: Path, config: RunConfig, dataset: Dataset | None) -> Dataset | None:
    """The data that ``config`` names, where these are there.  Raises RunError where the run at ``path`` has others."""
    data = read_run(path)[1]["data"]
    if dataset is None and Path(config.data).exists():
        dataset = Dataset.open(config.data)
    if dataset is not None and not dataset.identity.matches(trained := Fingerprint.of_record(data)):
        raise RunError(
            f"{path}: holds a run that was trained on {data['name']} with fingerprint {trained.own}, but {dataset.path} has "
            f"{dataset.fingerprint}; choose another folder{remedy(' (path=...)', ' (--out)')}"
        )
    return dataset


def _check_unused(config: RunConfig, plan: Plan, size: LogSize | None) -> None:
    """Raise ConfigError for what the request, not its preset, sets for a stage that no optimiser trains here."""
    fitted = {stage.name for stage in plan.stages if isinstance(stage, Fitted)}
    for name, keys in own_phases(config, size).items():
        what = f"training.phases.{name}.{keys[0]}: the stage '{name}'"
        if name in plan.taken:
            raise ConfigError(
                f"{what} is taken over from {plan.taken[name]}, so nothing is trained by it; drop it, or train the stage "
                f"here: drop model.start_from.{name}"
            )
        if name in fitted:
            raise ConfigError(f"{what} is fitted at once, so nothing is trained by it; drop it")


def _phases(config: RunConfig, plan: Plan) -> list[AnyPhase]:
    """The plan's stages with data, optimisers and stop rules."""
    taken = {name: Path(run) / "weights" / name for name, run in plan.taken.items()}
    found: list[AnyPhase] = []
    for stage in plan.stages:
        if isinstance(stage, Fitted):
            found.append(fitted_phase(stage, plan.validate(stage), taken=taken))
            continue
        training = config.training.of_phase(stage.name)
        if plan.average_epochs is not None:
            training = training.model_copy(update={"average_epochs": plan.average_epochs})
        found.append(make_phase(stage, training, plan.batches(stage), plan.validate(stage), monitor=plan.monitor, taken=taken))
    return found


def _check_starts(plan: Plan, dataset: Dataset, bases: KnowledgeBases | None) -> dict[str, str]:
    """Digests of the weights that are taken over, by what they are.

    Raises ConfigError when a stage of another run cannot be taken over: not there, of other data, text, shape or settings.
    """
    found = {}
    for name, other in plan.taken.items():
        where, folder = f"model.start_from.{name} = '{other}'", Path(other) / "weights" / name
        if not folder.is_dir():
            raise ConfigError(f"{where}: no run with the weights of a stage '{name}' is there")
        held, record = read_run(Path(other))
        if name in plan.reading and bases is not None:
            try:
                bases.check(record["knowledge"], where)
            except RunError as cause:
                raise ConfigError(f"{cause}; name the knowledge base that it was trained on, or train the stage here") from None
        trained = Fingerprint.of_record(record["data"])
        if not dataset.identity.matches(trained):
            raise ConfigError(
                f"{where}: trained on data with fingerprint {trained.own}, this run's has {dataset.fingerprint}, so its rows "
                "are other items; train the stage here, or bring a run of the same data"
            )
        tensors = read_stage(Path(other), record, name).files["model"]
        found[f"weights of stage '{name}'"] = archive_digest(folder)
        for stage in plan.stages:
            unfit = f"{where}: its weights do not fit stage '{stage.name}'"
            if name in stage.starts:
                _same_settings(plan.settings.get(name, {}), held, unfit)
            own = stage.module.state_dict()
            for old, new in stage.starts.get(name, {}).items():
                given = {new + key.removeprefix(old): tuple(part.shape) for key, part in tensors.items() if key.startswith(old)}
                wanted = {key: tuple(part.shape) for key, part in own.items() if key.startswith(new)}
                if odd := sorted(key for key in given | wanted if given.get(key) != wanted.get(key)):
                    raise ConfigError(
                        f"{unfit}: '{odd[0]}' is {given.get(odd[0])} there and {wanted.get(odd[0])} here; bring a run of the "
                        "same backbone and sizes, or train the stage here"
                    )
    return found


def _same_settings(settings: Mapping[str, object], other: RunConfig, unfit: str) -> None:
    """Raise ConfigError, beginning with ``unfit``, for the first of ``settings``, by key, that ``other`` has otherwise."""
    whole = other.model_dump()
    for key, mine in settings.items():
        theirs: Any = whole
        for part in key.split("."):
            theirs = theirs.get(part) if isinstance(theirs, Mapping) else None
        if theirs != mine:
            raise ConfigError(
                f"{unfit}: {key} is {theirs!r} there and {mine!r} here, where nothing would follow it; set it as it is there, "
                "or train the stage here"
            )


def _keep(path: Path, phase: PhaseResult) -> None:
    """Copy a phase's best weights to where they stay, in one step: what is there is whole, whenever the process dies."""
    kept, copy = path / "weights" / phase.name, path / "training" / "kept"
    best = path / "training" / "weights" / phase.weights
    if kept.exists() and archive_digest(kept) != archive_digest(best):
        shutil.rmtree(kept)
    if not kept.exists():
        shutil.rmtree(copy, ignore_errors=True)  # half of a copy that a killed process made
        shutil.copytree(best, copy)
        kept.parent.mkdir(exist_ok=True)
        os.replace(copy, kept)
