"""The contract suite: what every backbone, method and task must hold to, for ours and for those of other packages.

    from braidrec.testing import check_backbone
    from my_package.tower import SPEC

    def test_tower() -> None:
        check_backbone(SPEC, task="ranking")

Each check trains on a small planted world in a temporary folder, in seconds, and raises AssertionError with what is wrong.
That is on a CPU, where the same seed gives the same bytes; where there is a CUDA device, too, the model trains there once more,
and answers there as on the CPU but for rounding.
What it checks needs no installation: the spec is registered for as long as the check lasts.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from braidrec.config import RunConfig, RunRequest, resolve
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.planted import PlantedConfig, planted_world
from braidrec.errors import ConfigError
from braidrec.files import sha256
from braidrec.registry import TASKS, Spec, TaskSpec
from braidrec.runs.directory import load_model
from braidrec.runs.fit import fit_config
from braidrec.runs.knowledge import KnowledgeBases, build
from braidrec.runs.run import Run, load
from braidrec.task import Added, Floats, Model, Vectors
from braidrec.training.config import TrainingConfig
from braidrec.training.seeding import own_randomness, seed_everything
from braidrec.training.stages import Fitted, Stage

__all__ = ["check_backbone", "check_method", "check_model", "check_task"]

_WORLD = PlantedConfig(users=120, items=80, interactions=6_000, cold_fraction=0.1)
_DIM = 8
_TRAINING = {"max_epochs": 1, "checks_per_epoch": 1, "batch_size": 512}


def check_backbone(spec: Spec, task: str, *, model: Mapping[str, Any] | None = None) -> None:
    """A backbone alone, in ``task``.  model: settings that make it small; by default ``dim`` where the task has it."""
    with TASKS[task].backbones.holding(spec):
        _check(task, spec.name, (), model)


def check_model(spec: Spec, task: str, *, model: Mapping[str, Any] | None = None) -> None:
    """A whole model of ``task``, likewise; it takes no enhancer."""
    with TASKS[task].models.holding(spec):
        _check(task, spec.name, (), model)


def check_method(
    spec: Spec, task: str, *, backbones: Sequence[str] | None = None, model: Mapping[str, Any] | None = None
) -> None:
    """A method on every backbone of ``task``, or on those named."""
    with TASKS[task].methods.holding(spec):
        for backbone in TASKS[task].backbones if backbones is None else backbones:
            _check(task, backbone, (spec.name,), model)


def check_task(task: TaskSpec, *, model: Mapping[str, Any] | None = None) -> None:
    """A task: each of its backbones and models alone, and each method on the default backbone, or the first."""
    with TASKS.holding(task):
        assert task.default in task, f"task '{task.name}': its default '{task.default}' is none of its backbones"
        assert task.room().spec.name == task.name, f"task '{task.name}': its room calls itself '{task.room().spec.name}'"
        for name in (*task.backbones, *task.models):
            _check(task.name, name, (), model)
        for method in task.methods:  # the default may be a whole model, which takes none
            _check(task.name, task.default if task.default in task.backbones else next(iter(task.backbones)), (method,), model)


@own_randomness()
def _check(task: str, backbone: str, enhance: tuple[str, ...], model: Mapping[str, Any] | None) -> None:
    with tempfile.TemporaryDirectory(prefix="braidrec-check-") as name:
        folder, dataset = Path(name), _dataset(_splits(task, backbone, enhance))
        _check_presets(task, backbone, enhance)
        config = _config(task, backbone, enhance, model, folder)
        what = f"{config.title} ({task})"
        text = KnowledgeBases.open(config.knowledge).matrix(dataset) if TASKS[task].room().reads_text(config) else None
        _check_gradients(config, dataset, text, what)
        run = fit_config(config, folder / "first", dataset=dataset, show_progress=False)
        for metric, value in run.record["best"]["metrics"].items():
            assert math.isfinite(value), f"{what}: validation {metric} is {value}"
        _check_report(run, what)
        _check_answers(run, what)
        again = fit_config(config, folder / "again", dataset=dataset, show_progress=False)
        first, second = (sha256(each.path / "model.safetensors") for each in (run, again))
        assert first == second, f"{what}: the same seed gave other tensors the second time"
        _check_loaded(run, what)
        if torch.cuda.is_available():
            _check_cuda(run, what)
        if run.model.reads_text:
            _check_growth(run, dataset, text, what)


def _sized(task: TaskSpec, request: RunRequest) -> bool:
    """Whether ``dim`` is a setting of its task that changes the model."""
    config = resolve(request, "check")
    return "dim" in task.config_type().model_fields and "dim" not in (*config.chosen.backbone.unread, *config.all_idle)


@cache
def _folder() -> Path:
    """Of the small world, made once in a process and left to the system's temporary folder."""
    return Path(tempfile.mkdtemp(prefix="braidrec-check-world-"))


def _splits(task: str, backbone: str, enhance: tuple[str, ...]) -> str:
    """The kind of split that has the parts which its models need."""
    specs = (TASKS[task].spec(backbone), *(TASKS[task].methods[name] for name in enhance))
    return "knowledge" if any(spec.parts for spec in specs) else "temporal"


@cache
def _dataset(split: str) -> Dataset:
    settings = PrepareSettings.model_validate({"split": {"kind": split}})
    return Dataset.prepare(planted_world(_WORLD).tables, _folder() / f"world-{split}", settings)


@cache
def _knowledge() -> str:
    build(_dataset("temporal").path, _folder() / "knowledge", "tfidf")
    return str(_folder() / "knowledge")


def _config(task: str, backbone: str, enhance: tuple[str, ...], model: Mapping[str, Any] | None, folder: Path) -> RunConfig:
    spec = TASKS[task]
    if model is None:
        names = {"data": "-", "task": task, "backbone": backbone, "enhance": enhance}
        model = {"dim": _DIM} if _sized(spec, RunRequest.model_validate(names)) else {}
    fitted = spec.spec(backbone).fitted
    request = RunRequest(
        data=str(_dataset(_splits(task, backbone, enhance)).path),
        knowledge=(_knowledge(),),
        task=task,
        backbone=backbone,
        enhance=enhance,
        seed=3,
        model=dict(model),
        training={"accelerator": "cpu"} | ({} if fitted else _TRAINING),
    )
    config = resolve(request, "check")
    phases: dict[str, Any] = {
        phase: {} for phase in config.training.phases
    }  # what a preset sets for single phases would make them long
    return config.model_copy(
        update={"training": TrainingConfig.model_validate({**config.training.model_dump(), "phases": phases})}
    )


def _check_presets(task: str, backbone: str, enhance: tuple[str, ...]) -> None:
    """Every preset resolves, and a key that is none is refused."""
    spec = TASKS[task]
    values: dict[str, Any] = {"data": "-", "task": task, "backbone": backbone, "enhance": enhance}
    for preset in spec.presets:
        if not (enhance and preset in spec.alone):
            resolve(RunRequest(**values, preset=preset), "check")
    for table in ("backbone", *enhance):
        refused = ""
        try:
            resolve(RunRequest(**values, model={table: {"no_such_key": 1}}), "check")
        except ConfigError as cause:
            refused = str(cause)
        assert "no_such_key" in refused, f"{table}: an unknown key is not refused by its name (said: {refused or 'nothing'})"


def _check_gradients(config: RunConfig, dataset: Dataset, text: Vectors | None, what: str) -> None:
    """Every parameter that an optimiser group trains gets a finite gradient from the losses that train it."""
    seed_everything(config.seed)
    plan = TASKS[config.task].room().plan(config, dataset, text, show_progress=False)
    assert [stage.name for stage in plan.stages] == list(plan.names), f"{what}: stages and names of the plan differ"
    for stage in plan.stages:
        if isinstance(stage, Fitted):
            continue
        _step(stage, next(iter(plan.batches(stage))), f"{what}, stage '{stage.name}'")


def _step(stage: Stage, batch: Any, what: str) -> None:
    stage.module.train()
    names = {id(parameter): name for name, parameter in stage.module.named_parameters()}
    step = stage.module.step(batch)  # type: ignore[operator]
    losses = step.losses()
    assert losses.keys() == stage.weights.keys(), f"{what}: losses {sorted(losses)}, weights {sorted(stage.weights)}"
    totals = {"main": torch.stack([weight * losses[name] for name, weight in stage.weights.items()]).sum()}
    for name, loss in step.first.items():
        totals[name] = loss()
    for group in stage.groups:
        total = totals["main" if group.name.startswith("main") else group.name]
        found = torch.autograd.grad(total, list(group.parameters), retain_graph=True, allow_unused=True)
        for parameter, gradient in zip(group.parameters, found, strict=True):
            name = names[id(parameter)]
            assert gradient is not None, f"{what}: no gradient reaches '{name}' of the group '{group.name}'"
            values = gradient.coalesce().values() if gradient.is_sparse else gradient
            assert bool(torch.isfinite(values).all()), f"{what}: the gradient of '{name}' is not finite"


def _check_report(run: Run, what: str) -> None:
    report = run.evaluate("test", show_progress=False, min_rows=1)
    for metric in run.config.chosen.task.metrics:
        value = report["all"].values.get(metric.key)
        assert value is not None, f"{what}: the report has no '{metric.key}'"
        assert math.isfinite(value), f"{what}: the report's '{metric.key}' is {value}"


def _asked(run: Run) -> list[Any]:
    """What the run answers: for a user with a past, for one without, for somebody new, and for nobody."""
    dataset = run.dataset
    known = dataset.user_ids[int(dataset.log.user[-1]) - 1]
    liked = dataset.item_ids[:3]
    return [
        run.recommend(known, k=5),
        run.recommend(known, k=3, exclude_seen=False, deny=liked),
        run.recommend(items=liked, k=5),
        run.recommend(items=[], k=5),
        run.score_items(known, liked).tolist(),
    ]


def _check_answers(run: Run, what: str) -> None:
    dataset, model = run.dataset, run.model
    user = int(dataset.log.user[-1])
    known = dataset.user_ids[user - 1]
    seen = {dataset.item_ids[row - 1] for row in dataset.log.item[dataset.log.user == user].tolist()}
    if len(seen) < dataset.num_items:
        for each in run.recommend(known, k=dataset.num_items):
            assert each.item not in seen, f"{what}: recommends '{each.item}', which user '{known}' has met"
    pasts = [model.past(row) for row in range(1, 6)] + [model.past(None, np.array([2, 3], np.int32)), model.past(None)]
    rows = np.arange(1, dataset.num_items + 1, dtype=np.int32)
    unseen = rows[~np.isin(rows, model.seen(model.past(user)))][:2]
    news = set(model.seen(model.past(user, unseen)).tolist())
    assert news == {*model.seen(model.past(user)).tolist(), *unseen.tolist()}, f"{what}: newer events are not behind the log's"
    whole = model.scores(pasts, rows)
    assert whole.shape == (len(pasts), len(rows)), f"{what}: scores are {whole.shape}"
    assert whole.dtype == np.float32, f"{what}: scores are {whole.dtype}"
    assert bool(np.isfinite(whole).all()), f"{what}: a score is not finite"
    alone = np.concatenate([model.scores([past], rows) for past in pasts])
    assert _close(whole, alone), f"{what}: a past alone is scored otherwise than among others"
    some = model.scores(pasts, rows[5:8])
    assert _close(whole[:, 5:8], some), f"{what}: an item is scored otherwise beside fewer others"
    if model.probabilities:
        assert bool(((whole >= 0) & (whole <= 1)).all()), f"{what}: a probability outside 0..1"


def _close(first: Floats, second: Floats) -> bool:
    """Whether they differ by no more than float32 sums in another order do."""
    return bool(np.allclose(first, second, rtol=1e-4, atol=1e-5))


def _check_loaded(run: Run, what: str) -> None:
    again = load(run.path, dataset=run.dataset, accelerator="cpu")
    assert _asked(run) == _asked(again), f"{what}: the loaded run answers otherwise than the one that was trained"
    saved = load_model(run.path)
    room = run.config.chosen.task.room()
    model: Model = room.load(run.config, saved, None)
    rows = np.arange(1, run.dataset.num_items + 1, dtype=np.int32)
    for liked in ((), (1, 4)):
        items = np.array(liked, np.int32)
        found, wanted = (each.scores([each.past(None, items)], rows) for each in (model, again.model))
        assert np.array_equal(found, wanted), f"{what}: without its data it scores somebody new otherwise"


def _check_cuda(run: Run, what: str) -> None:
    """It scores there as on the CPU but for rounding, and trains there: sums in no fixed order, so to other bits."""
    rows, there = (
        np.arange(1, run.dataset.num_items + 1, dtype=np.int32),
        load(run.path, accelerator="cuda", dataset=run.dataset),
    )
    pasts = [run.model.past(1), run.model.past(None, rows[1:3])]
    found, wanted = (model.scores(pasts, rows) for model in (there.model, run.model))
    assert np.allclose(found, wanted, rtol=1e-2, atol=1e-3), f"{what}: on the CUDA device it scores otherwise than on the CPU"
    training = run.config.training.model_copy(update={"accelerator": "cuda"})
    config = run.config.model_copy(update={"training": training})
    trained = fit_config(config, run.path.parent / "cuda", dataset=run.dataset, show_progress=False)
    for metric, value in trained.record["best"]["metrics"].items():
        assert math.isfinite(value), f"{what}: validation {metric} after training on the CUDA device is {value}"
    _check_report(trained, what)


def _check_growth(run: Run, dataset: Dataset, text: Vectors | None, what: str) -> None:
    """Items added give another model; the one that answered before answers as before."""
    model = run.model
    rows = np.arange(1, dataset.num_items + 1, dtype=np.int32)
    before = model.scores([model.past(None)], rows)
    assert text is not None, f"{what}: says that it reads text, and was trained without"
    fields, numbers, bags = dataset.encode_items(dataset.items.head(2))
    vectors = torch.from_numpy(np.array(text[1:3], np.float32))
    added = Added(vectors, torch.from_numpy(fields), torch.from_numpy(numbers), tuple(map(torch.from_numpy, bags)))
    grown = model.with_items(added)
    more = np.append(rows, [len(rows) + 1, len(rows) + 2]).astype(np.int32)
    found = grown.scores([grown.past(None), grown.past(None, np.array([len(rows) + 1], np.int32))], more)
    assert bool(np.isfinite(found).all()), f"{what}: the score of an added item is not finite"
    assert np.array_equal(before, model.scores([model.past(None)], rows)), f"{what}: adding items changed the model in place"
