"""A row of a table, and where a table's cells are made: prepared data, knowledge bases, run directories, result files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from braidrec.config import RunConfig, RunRequest, resolve
from braidrec.errors import ConfigError, suggest
from braidrec.experiments.measures import Simple, Source
from braidrec.registry import TASKS, Metric, TaskSpec, task_of
from braidrec.runs.run import Run
from braidrec.strict import parse

OFFLINE = "offline"  # the text encoder that needs no download


@dataclass(frozen=True)
class Row:
    """One model of a table, or a ranking without learning, which ``backbone`` then names (popularity, item-knn, markov).

    data: which prepared variant it is trained on     against: name or names of the rows it is tested against
    published: by metric as printed, for rankings also (AUC, log loss)     model, training: settings over the preset
    starts: stage -> name of the row whose run of the same seed gives this stage, so that it is trained once
    encoder: who reads the items' text     ablation: keeps its own seeds when a table is asked for others
    task: where the backbone's name does not say it, as for rankings without learning
    fixed: whether seeds change nothing, so that its one cell goes with every seed of another row
    judged: the numbers that its cells keep, None for those of its task    tested: those of them that tests are of
    measure: what else a cell keeps of a run, among the numbers of its test part, such as what its vectors tell of items
    family: of a table's tests, which its own belong to; those of a named one also say what holds where seeds are drawn
    """

    name: str
    data: str
    backbone: str
    enhance: str | None = None
    preset: str = "ours"
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    against: str | tuple[str, ...] | None = None
    published: Mapping[str, float] | tuple[float, float] | None = None
    seeds: tuple[int, ...] = (1, 2, 3)
    note: str = ""
    starts: Mapping[str, str] = field(default_factory=dict)
    encoder: str = OFFLINE
    ablation: bool = False
    task: str | None = None
    fixed: bool = False
    judged: tuple[Metric, ...] = ()
    tested: tuple[str, ...] = ()
    measure: Callable[[Run], Mapping[str, float]] | None = None
    family: str = ""

    @property
    def of_task(self) -> TaskSpec:
        return TASKS[self.task] if self.task is not None else task_of(self.backbone, None)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return self.judged or self.of_task.metrics

    @property
    def simple(self) -> bool:
        """Whether it is measured without training; such a row has one cell, of seed 0, that goes with every seed."""
        return self.backbone not in self.of_task and self.backbone in self.of_task.baselines

    @property
    def once(self) -> bool:
        """Whether it has one cell, which goes with every seed."""
        return self.simple or self.fixed

    @property
    def cells(self) -> tuple[int, ...]:
        """The seeds of its cells."""
        return (0,) if self.simple else self.seeds[:1] if self.fixed else self.seeds

    @property
    def references(self) -> tuple[str, ...]:
        return (self.against,) if isinstance(self.against, str) else self.against or ()

    @property
    def printed(self) -> Mapping[str, float] | None:
        """The published numbers by metric."""
        if isinstance(self.published, tuple):
            return dict(zip((metric.key for metric in self.metrics), self.published, strict=True))
        return self.published

    @property
    def reads_text(self) -> bool:
        return not self.simple and bool(self.of_task.room().reads_text(self.config()))

    def config(self, **changes: Any) -> RunConfig:
        """Its settings, resolved, the folders named by what they hold; ``changes`` are keys of a `RunRequest`."""
        own = {
            "data": self.data,
            "task": self.task,
            "backbone": self.backbone,
            "enhance": self.enhance,
            "preset": self.preset,
            "model": dict(self.model),
            "training": dict(self.training),
        }
        return resolve(parse(RunRequest, own | changes, f"row '{self.name}'"), f"row '{self.name}'")


@dataclass(frozen=True)
class Workshop:
    """Where a table is made: prepared variants by name, their knowledge bases, run directories and result files.

    rows: by name, all that ``starts`` of a row may speak of.  A knowledge base by another encoder than the first lies beside
    it, its folder's name followed by the encoder's.
    """

    prepared: Mapping[str, Path]
    knowledge: Mapping[str, Path]
    runs: Path
    results: Path
    rows: Mapping[str, Row] = field(default_factory=dict)

    def run_path(self, row: Row, seed: int) -> Path:
        return self.runs / f"{row.name}-s{seed}"

    def cell_path(self, row: Row, seed: int) -> Path:
        return self.results / "cells" / f"{row.name}-s{seed}.json"

    def knowledge_path(self, row: Row) -> Path:
        folder = self.knowledge[row.data]
        return folder if row.encoder == OFFLINE else folder.with_name(f"{folder.name}-{encoder_name(row.encoder)}")

    def origin(self, row: Row, stage: str) -> Row:
        """The row that gives ``row`` a stage.  Raises ConfigError for a name that is not among ``rows``."""
        name = row.starts[stage]
        if name not in self.rows:
            raise ConfigError(f"row '{row.name}' starts its stage '{stage}' from the row '{name}'{suggest(name, self.rows)}")
        return self.rows[name]

    def source(self, row: Row, seed: int) -> Source:
        if row.simple:
            return Simple(row.of_task.name, row.backbone, self.prepared[row.data])
        return self.run_path(row, row.cells[0] if row.fixed else seed)

    def at_hand(self, row: Row, seeds: Iterable[int]) -> bool:
        """Whether the ranks or scores of the row can be read here, or made without training."""
        if row.simple:
            return row.data in self.prepared and (self.prepared[row.data] / "manifest.json").exists()
        return all((self.run_path(row, seed) / "run.json").exists() for seed in (row.cells if row.fixed else seeds))


def encoder_name(encoder: str) -> str:
    """What an encoder (a short name, a model's name or folder, a TOML file) adds to names of rows and folders."""
    return Path(encoder).name.removesuffix(".toml").lower()
