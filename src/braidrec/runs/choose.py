"""Which model and which text encoder suits a log: whatever is fitted at once, tried in turn and judged by validation alone.

First every model as it is, alone and over each text encoder; then, for the best of these, the settings that its own file lists
as worth trying.  Nothing is kept but the knowledge bases, which the command that wins needs; the test part is not looked at.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from braidrec.arguments import path_of
from braidrec.config import RunConfig, RunRequest, resolve
from braidrec.data.dataset import Dataset
from braidrec.errors import BraidError, ConfigError
from braidrec.progress import progress
from braidrec.registry import TASKS, Metric, Spec, TaskSpec
from braidrec.runs.fit import fit
from braidrec.runs.knowledge import KnowledgeBases, build
from braidrec.task import Plan, Task, Vectors
from braidrec.training.seeding import own_randomness, seed_everything, spawn
from braidrec.training.stages import Fitted, put_fitted

if TYPE_CHECKING:
    from rich.table import Table

ENCODERS = ("tfidf", "offline")  # where none is named: the floor, and what is packaged with the library
SEED = 42
REFINED = 3  # candidates of the first round whose settings are looked into


@dataclass(frozen=True)
class Tried:
    """One line of the table.

    model: its title    encoder: who read the text, "" where nobody did    metrics: of validation, None: ``trouble`` says why
    seconds: of the fit    command: that trains just this
    """

    model: str
    encoder: str
    settings: str
    metrics: Mapping[str, float] | None
    seconds: float
    command: str
    trouble: str = ""


@dataclass(frozen=True)
class Choices:
    """What was tried, the best first, and what could not be.

    metric: of the validation part, by which they stand in order    encoders: seconds that each one read for
    """

    data: str
    metric: Metric
    shown: tuple[Metric, ...]
    rows: tuple[Tried, ...]
    encoders: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Tried:
        """Raises ConfigError where nothing could be tried."""
        if not self.rows or self.rows[0].metrics is None:
            raise ConfigError(
                f"{self.data}: no model could be tried: {'; '.join(row.trouble for row in self.rows) or 'no time'}"
            )
        return self.rows[0]

    @property
    def command(self) -> str:
        """Of the winner."""
        return self.best.command

    def table(self) -> Table:
        from braidrec.runs.tables import plain_table

        lines = []
        for row in self.rows:
            found = [
                f"{(row.metrics or {}).get(metric.key, float('nan')):.4f}" if row.metrics else "-" for metric in self.shown
            ]
            lines.append((row.model, row.encoder, row.settings, *found, f"{row.seconds:.1f}", row.trouble))
        titles = [f"{metric.title}" for metric in self.shown]
        heads = ("model", "text read by", "settings", *titles, "seconds", "")
        if not any(row.trouble for row in self.rows):
            heads, lines = heads[:-1], [line[:-1] for line in lines]
        return plain_table(f"{self.data}, validation part", heads, lines)


@dataclass(frozen=True)
class _Candidate:
    """backbone with ``values`` over the preset; knowledge: the base that it reads, None where it reads none"""

    spec: Spec
    values: Mapping[str, Any]
    knowledge: Path | None
    encoder: str


def choose(
    dataset: Dataset | Path | str,
    *,
    encoders: Sequence[str | Path] | None = None,
    deep: bool = False,
    minutes: float = 5.0,
    knowledge: Path | str = "knowledge",
    runs: Path | str = "runs/choose",
    show_progress: bool = True,
    confirm: Callable[[str], bool] | None = None,
) -> Choices:
    """Try every model that is fitted at once, over each text encoder, and stand them in order by validation.

    encoders: as in `knowledge build`; one that fails is a line that says why, and the others go on.  None: TF-IDF and what is
    packaged, where items have text    deep: also train each task's default, into ``runs``
    minutes: begin nothing after so many    knowledge: the folder of the knowledge bases that are made
    Raises DataError for data without positives, ConfigError where ``minutes`` is no time.
    """
    if not minutes > 0:
        raise ConfigError(f"minutes = {minutes}; accepted: more than 0")
    data = dataset if isinstance(dataset, Dataset) else Dataset.open(dataset)
    if isinstance(encoders, str | Path):
        raise ConfigError(f"encoders = {str(encoders)!r} is one name; give a list of them, such as [{str(encoders)!r}]")
    tried: Sequence[str | Path] = (ENCODERS if data.schema.text else ()) if encoders is None else encoders
    task = next(spec for spec in TASKS.usable().values() if spec.of_positives)
    search = _Search(data, task, time.monotonic() + 60 * minutes, show_progress)
    bases = search.read_texts([str(each) for each in tried], path_of(knowledge, "knowledge"), confirm)
    search.run(bases)
    if deep:
        search.train_defaults(path_of(runs, "runs"))
    return search.choices()


class _Search:
    """The tries on one data set, until the time is up."""

    def __init__(self, data: Dataset, task: TaskSpec, until: float, show: bool):
        self.data, self.task, self.until, self.show = data, task, until, show
        self.room: Task = task.room()
        self.metric = task.metrics[0]
        self.tried: list[tuple[_Candidate, Tried]] = []
        self.failed: list[Tried] = []
        self.deep: list[Tried] = []
        self.read: dict[str, float] = {}
        self.left = 0
        self._vectors: tuple[Path, Vectors] | None = None

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.until

    def read_texts(self, encoders: Sequence[str], folder: Path, confirm: Callable[[str], bool] | None) -> dict[str, Path]:
        """Encoder -> its knowledge base.  What fails is a line of the table, whatever somebody's encoder raises."""
        found: dict[str, Path] = {}
        names = _names(encoders)
        for encoder, name in zip(encoders, names, strict=True):
            begun, base = time.monotonic(), folder / f"{self.data.name}-{name}"
            if self.is_over:
                self._fail("", name, "not read: the time is up")
                continue
            try:
                build(self.data.path, base, encoder, confirm=confirm)
                KnowledgeBases.open(base).matrix(self.data)
            except Exception as cause:  # the others go on
                self._fail("", name, f"{type(cause).__name__}: {cause}", time.monotonic() - begun)
                continue
            found[name] = base
            self.read[name] = time.monotonic() - begun
        return found

    def run(self, bases: Mapping[str, Path]) -> None:
        first = list(self._first(bases))
        with progress("trying", len(first), "models", show=self.show) as advance:
            for candidate in first:
                self._try(candidate)
                advance(1)
        best = sorted(self.tried, key=lambda each: -self._score(each[1]))[:REFINED]
        more = [replace(each, values=values) for each, _ in best for values in each.spec.tried if self._differs(each, values)]
        with progress("trying settings", len(more), "models", show=self.show) as advance:
            for candidate in more:
                self._try(candidate)
                advance(1)

    def train_defaults(self, folder: Path) -> None:
        """One run of each other task's default; it stands in order where its rows are those of the others."""
        for name, task in TASKS.usable().items():
            if name == self.task.name:
                continue
            request = RunRequest(data=str(self.data.path), task=name, backbone=task.default, seed=SEED)
            command, begun = _command(request), time.monotonic()
            if self.is_over:
                self.left += 1
                continue
            try:
                path = folder / self.data.name / task.default
                run = fit(self.data, path=path, task=name, backbone=task.default, seed=SEED, show_progress=self.show)
                metrics, note = self._alike(run)
            except BraidError as cause:
                self._fail(task.default, "", str(cause), time.monotonic() - begun, command)
                continue
            seconds = time.monotonic() - begun
            self.deep.append(Tried(run.record["title"], "", "", metrics, seconds, command, note))

    def choices(self) -> Choices:
        tried = sorted(
            [row for _, row in self.tried] + [row for row in self.deep if row.metrics], key=lambda row: -self._score(row)
        )
        rows = (*tried, *(row for row in self.deep if not row.metrics), *self.failed)
        notes = [f"text read by {name} in {seconds:.1f} s" for name, seconds in self.read.items()]
        if self.left:
            notes.append(f"the time was up before {self.left} more could be tried; give more --minutes")
        shown = tuple(metric for metric in self.task.metrics if metric.shown)
        return Choices(self.data.name, self.metric, shown, tuple(rows), self.read, tuple(notes))

    def _first(self, bases: Mapping[str, Path]) -> Iterator[_Candidate]:
        """Every model by its preset: alone where it needs no text, then over each encoder where it reads it."""
        models = [spec for spec in self.task.models.usable().values() if spec.fitted]
        for spec in models:
            if not self._config(_Candidate(spec, {}, None, "")).reads_text:
                yield _Candidate(spec, {}, None, "")
        for encoder, base in bases.items():
            for spec in models:
                candidate = _Candidate(spec, {}, base, encoder)
                if self._config(candidate).reads_text:
                    yield candidate

    def _differs(self, candidate: _Candidate, values: Mapping[str, Any]) -> bool:
        """Whether ``values`` are something new to try, and read text where the candidate does."""
        config = self._config(replace(candidate, values=values))
        return config.reads_text == (candidate.knowledge is not None) and config.model != self._config(candidate).model

    def _config(self, candidate: _Candidate) -> RunConfig:
        return resolve(self._request(candidate), "choose")

    def _request(self, candidate: _Candidate) -> RunRequest:
        base = () if candidate.knowledge is None else (str(candidate.knowledge),)
        return RunRequest(
            data=str(self.data.path),
            knowledge=base,
            task=self.task.name,
            backbone=candidate.spec.name,
            seed=SEED,
            model={"backbone": dict(candidate.values)} if candidate.values else {},
        )

    def _try(self, candidate: _Candidate) -> None:
        if self.is_over:
            self.left += 1
            return
        config, begun = self._config(candidate), time.monotonic()
        settings = ", ".join(f"{key} {value}" for key, value in candidate.values.items()) or "as they are"
        title, command = candidate.spec.title_of(config.model.backbone), _command(self._request(candidate))
        try:
            metrics, seconds = self._measured(config, candidate.knowledge)
        except (BraidError, MemoryError, RuntimeError) as cause:
            self._fail(title, candidate.encoder, str(cause) or "out of memory", time.monotonic() - begun, command, settings)
            return
        self.tried.append((candidate, Tried(title, candidate.encoder, settings, metrics, seconds, command)))

    @own_randomness()
    def _measured(self, config: RunConfig, knowledge: Path | None) -> tuple[Mapping[str, float], float]:
        """Validation metrics of a model that is fitted here and thrown away, and the seconds of its fit."""
        text = None if knowledge is None else self._matrix(knowledge)
        plan: Plan = self.room.plan(config, self.data, text, show_progress=False)
        begun = time.monotonic()
        with torch.no_grad():
            for stage in plan.stages:
                assert isinstance(stage, Fitted)
                seed_everything(spawn(config.seed, "phase", stage.name))  # as training does
                put_fitted(stage.module, stage.fit())
            seconds = time.monotonic() - begun
            last = plan.stages[-1]
            return plan.validate(last)(last.module.eval()), seconds

    def _matrix(self, knowledge: Path) -> Vectors:
        if self._vectors is None or self._vectors[0] != knowledge:
            self._vectors = knowledge, KnowledgeBases.open(knowledge).matrix(self.data)
        return self._vectors[1]

    def _alike(self, run: Any) -> tuple[Mapping[str, float] | None, str]:
        """The metrics of this search for a run of another task, where its rows are the same; else what it has, in words."""
        own = run.outcome("valid", show_progress=False)
        other = self.room.baseline(next(iter(self.task.baselines)), None, self.data, "valid")
        if other is None:
            return None, f"its own validation: {run.headline}"
        order, wanted = (np.lexsort((each.item, each.user)) for each in (own, other))
        alike = len(order) == len(wanted) and all(
            np.array_equal(getattr(own, name)[order], getattr(other, name)[wanted]) for name in ("user", "item")
        )
        if not alike or own.values.keys() != other.values.keys():
            return None, f"its own validation: {run.headline}"
        outcome = replace(other, values={name: each[order] for name, each in own.values.items()})
        report = self.room.report(outcome, None, self.data, "valid", min_rows=1)
        return {metric.key: float(report["all"][metric.key] or 0.0) for metric in self.task.metrics}, ""

    def _score(self, row: Tried) -> float:
        value = (row.metrics or {}).get(self.metric.key, float("-inf"))
        return value if self.metric.mode == "max" else -value

    def _fail(self, model: str, encoder: str, why: str, seconds: float = 0.0, command: str = "", settings: str = "") -> None:
        self.failed.append(Tried(model, encoder, settings, None, seconds, command, " ".join(why.split())))


def _names(encoders: Sequence[str]) -> list[str]:
    """One for each, from its file or model; with the folder before it where two would be called alike."""
    short = [Path(encoder).name.removesuffix(".toml").lower() for encoder in encoders]
    return [
        name if short.count(name) == 1 else "-".join(Path(encoder.removesuffix(".toml").lower()).parts).strip("-/")
        for encoder, name in zip(encoders, short, strict=True)
    ]


def _command(request: RunRequest) -> str:
    """The command line that trains what a request says."""
    parts = ["braidrec fit", "--data", shlex.quote(request.data)]
    for base in request.knowledge:
        parts += ["--knowledge", shlex.quote(base)]
    parts += ["--backbone", str(request.backbone), "--seed", str(request.seed)]
    values = request.model.get("backbone", {})
    for key, value in values.items():
        parts += ["--set", shlex.quote(f"model.backbone.{key}={value}")]
    if request.knowledge or values:  # a folder of its own, as that of the plain model may be taken
        told = [Path(base).name for base in request.knowledge] + [f"{key}-{value}" for key, value in values.items()]
        out = Path("runs") / Path(request.data).name / "-".join([str(request.backbone), *told])
        parts += ["--out", shlex.quote(str(out))]
    return " ".join(parts)
