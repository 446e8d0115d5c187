"""What is kept of a model's test part, and how two models are held against each other, for every task alike.

A cell keeps what one run scored on the test part; an entry of a table is the mean and spread of its cells; a paired test
reads the runs themselves, row by row.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from braidrec.config import RunConfig
from braidrec.data.dataset import Dataset
from braidrec.errors import DataError, RunError
from braidrec.evaluation.report import Report
from braidrec.evaluation.significance import PairedTest
from braidrec.files import read_json
from braidrec.registry import TASKS, Metric
from braidrec.runs.run import Run, load
from braidrec.task import Outcome, Task, TestsMetrics

Cell = Mapping[str, Any]


@dataclass(frozen=True)
class Simple:
    """A ranking without learning, by its name among a task's baselines, on a prepared data set."""

    task: str
    name: str
    data: Path

    @property
    def room(self) -> Task:
        found: Task = TASKS[self.task].room()
        return found

    def outcome(self, dataset: Dataset) -> Outcome:
        """Raises DataError where it does not go with the test rows."""
        found = self.room.baseline(self.name, None, dataset, "test")
        if found is None:
            raise DataError(f"{dataset.name}: '{self.name}' says nothing about these test rows")
        return found


Source = Path | Simple  # a run directory, or what needs none


def run_cell(
    run: Run, metrics: Sequence[Metric], measure: Callable[[Run], Mapping[str, float]] | None = None
) -> dict[str, Any]:
    """A finished run as a cell.  measure: what else is kept among the numbers of the whole test part"""
    found = _of_report(run.evaluate("test", show_progress=False, min_rows=1), metrics)
    if measure is not None:
        found["test"]["all"] |= measure(run)
    return {
        "phases": run.record["phases"],
        "best": run.record["best"],
        "knowledge": ", ".join(each["encoder"] for each in run.record["knowledge"]) or None,
        "vocabulary": run.dataset.settings.vocabulary,
        "monitors": _last_monitors(run),
        **found,
        **run.model.facts(),
    }


def simple_cell(source: Simple, metrics: Sequence[Metric]) -> dict[str, Any]:
    """A ranking without learning as a cell."""
    dataset = Dataset.open(source.data)
    report = source.room.report(source.outcome(dataset), None, dataset, "test", min_rows=1)
    return {
        "phases": [],
        "best": None,
        "knowledge": None,
        "vocabulary": dataset.settings.vocabulary,
        **_of_report(report, metrics),
    }


def read_cell(file: Path, metrics: Sequence[Metric]) -> Cell:
    """A cell's file; earlier ones of ranking models held lists of (rows, metrics) by slice, and one phase."""
    cell = read_json(file, RunError)
    if "phases" in cell:
        return cell
    keys = [metric.key for metric in metrics]
    test = {
        name: {"rows": rows, **{key: value for key, value in zip(keys, values, strict=True) if value is not None}}
        for name, (rows, *values) in cell["test"].items()
    }
    phases = [{"name": "", "best": cell["best"], "training": cell["training"]}]
    return {**cell, "phases": phases, "test": test}


def value_of(cell: Cell, key: str) -> float:
    """One metric of a cell, on all test rows."""
    return float(cell["test"]["all"][key])


def entry_of(cells: Sequence[Cell], metrics: Sequence[Metric]) -> dict[str, Any]:
    """The cells of several seeds as mean and spread."""
    keys = [metric.key for metric in metrics]
    found: dict[str, Any] = {}
    for key in keys:
        values = [cell["test"]["all"].get(key) for cell in cells]
        found[f"valid_{key}"] = spread([(cell["best"] or {"metrics": {}})["metrics"].get(key) for cell in cells])
        found |= {f"test_{key}": spread(values), f"test_{key}_by_seed": values}
    found["slices"] = {
        name: {"rows": part["rows"]} | {key: spread([cell["test"][name].get(key) for cell in cells]) for key in keys}
        for name, part in cells[0]["test"].items()
        if name != "all"
    }
    found |= {key: spread([cell.get(key) for cell in cells]) for key in LISTS if key in cells[0]}
    found["training_seconds"] = spread([sum(each["training"]["seconds"] for each in cell["phases"]) for cell in cells])
    found["samples_per_second"] = spread(
        [cell["phases"][-1]["training"]["samples_per_second"] for cell in cells if cell["phases"]]
    )
    kept = {*_HEAD, *LISTS}
    return found | {key: _mean([cell[key] for cell in cells]) for key in cells[0] if key not in kept}


LISTS = ("coverage", "novelty", "masked")  # numbers of whole lists, which a slice has none of
_HEAD = (
    "row",
    "seed",
    "command",
    "commit",
    "seconds",
    "device",
    "phases",
    "best",
    "training",
    "knowledge",
    "vocabulary",
    "monitors",
    "test",
    "format",
    "version",
    "digest",
    "digest_from",
    "settings",
    "unresolved",
    "data",
)


def spread(values: Sequence[float | None]) -> dict[str, float] | None:
    """Mean and standard deviation of what is known, None where nothing is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"mean": statistics.fmean(known), "sd": statistics.stdev(known) if len(known) > 1 else 0.0}


@dataclass
class Outcomes:
    """What the sources of a table made of their test rows, each read once; it should live no longer than the table takes."""

    _found: dict[Source, tuple[Outcome, RunConfig | None, Dataset]] = field(default_factory=dict)

    def tests(
        self, first: Sequence[Source], second: Sequence[Source], task: str, metrics: Sequence[str] = ()
    ) -> list[PairedTest]:
        """Paired tests of one model's sources against another's, the same seeds in the same order; none where rows differ.

        metrics: what is tested, where that is not what the task tests usually
        """
        room: Task = TASKS[task].room()
        sides = [[self._read(source) for source in side] for side in (first, second)]
        rows, config, dataset = sides[0][0]
        if not all(rows.same_rows(outcome) and _judged_alike(dataset, data) for side in sides for outcome, _, data in side):
            return []
        own, against = ([outcome for outcome, _, _ in side] for side in sides)
        if metrics and isinstance(room, TestsMetrics):
            return room.tests_of(metrics, own, against, dataset)
        tests = room.tests(own, against, config, dataset, "test")
        order = [metric.key for metric in room.spec.metrics]
        return sorted(tests, key=lambda test: order.index(test.metric) if test.metric in order else len(order))

    def _read(self, source: Source) -> tuple[Outcome, RunConfig | None, Dataset]:
        if source not in self._found:
            if isinstance(source, Simple):
                dataset = Dataset.open(source.data)
                self._found[source] = source.outcome(dataset), None, dataset
            else:
                run = load(source)
                self._found[source] = run.outcome("test", show_progress=False), run.config, run.dataset
        return self._found[source]


def _judged_alike(first: Dataset, second: Dataset) -> bool:
    """Whether the test rows of two data sets, if they are the same, have the same labels and weights."""
    if first.identity.matches(second.identity):
        return True
    parts = [(data.log, data.split["test"]) for data in (first, second)]
    labels = [log.label[rows] for log, rows in parts]
    weights = [np.ones(len(rows)) if log.weight is None else log.weight[rows] for log, rows in parts]
    return np.array_equal(labels[0], labels[1]) and np.array_equal(weights[0], weights[1])


def _of_report(report: Report, metrics: Sequence[Metric]) -> dict[str, Any]:
    keys = [metric.key for metric in metrics]
    test = {
        part.name: {"rows": part.rows} | {key: part.values[key] for key in keys if part.values.get(key) is not None}
        for part in report.slices
    }
    return {"test": test, **report.lists}


def _mean(values: Sequence[Any]) -> Any:
    """Numbers by their mean, lists and tables place by place, anything else as the first has it."""
    first = values[0]
    if isinstance(first, Mapping):
        return {key: _mean([value[key] for value in values]) for key in first}
    if isinstance(first, list):
        return [_mean(column) for column in zip(*values, strict=True)]
    return statistics.fmean(values) if isinstance(first, float) else first


def _last_monitors(run: Run) -> Mapping[str, float]:
    """Norms and losses of the last check, so that a run-away constraint is seen in the result file."""
    lines = (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    last = json.loads(lines[-1])
    return {**last["losses"], **last["monitors"]}
