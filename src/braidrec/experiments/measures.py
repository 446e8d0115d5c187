"""What is measured and tested, task by task: AUC and log loss of rankings, hits, nDCG and MRR of next items.

A cell keeps what one run scored on the test part; an entry of a table is the mean and spread of its cells; a paired test
reads the runs themselves, row by row.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from braidrec.config import Task
from braidrec.data.dataset import Dataset
from braidrec.data.sequences import training_ends, training_events
from braidrec.evaluation.retrieval import Ranking, rank_targets
from braidrec.evaluation.retrieval_report import RetrievalMetric, RetrievalReport
from braidrec.evaluation.sequential_baselines import sequential_baselines
from braidrec.evaluation.significance import PairedTest, paired_rank_test, paired_test
from braidrec.runs.next_item import part_rows
from braidrec.runs.ranking import as_ranking, part_slices
from braidrec.runs.run import Run, load
from braidrec.runs.scoring import part_labels
from braidrec.runs.sequential import LISTED, as_sequential, report_of

SIMPLE = ("popularity", "item-knn", "markov")  # rankings without learning, in the order of `sequential_baselines`
BUCKETS = 10  # of the slices of a ranking without learning; a model brings its own number


@dataclass(frozen=True)
class Metric:
    """key: its name in cells and tables    scale: printed numbers are so many times larger
    relative: whether a gain is a share of the reference, or else a difference
    """

    key: str
    title: str
    scale: float = 1.0
    relative: bool = False


@dataclass(frozen=True)
class Simple:
    """A ranking without learning, by its name in `SIMPLE`, on a prepared data set."""

    name: str
    data: Path


Source = Path | Simple  # a run directory, or what needs none


class Measures(Protocol):
    """One task.  cell: entries of a run's JSON file    entry: the same of several seeds, as mean and spread
    value: one metric of a cell, on all test rows    tests: of one model's sources against another's, the same seeds in the
    same order; none where their test rows differ
    """

    @property
    def metrics(self) -> tuple[Metric, ...]: ...

    def cell(self, run: Run) -> dict[str, Any]: ...

    def entry(self, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]: ...

    def value(self, cell: Mapping[str, Any], key: str) -> float: ...

    def tests(self, first: Sequence[Source], second: Sequence[Source]) -> list[PairedTest]: ...


def measures() -> dict[Task, Measures]:
    """Fresh ones: they remember what they read of runs, so they should live no longer than a table takes to make."""
    return {"ranking": RankingMeasures(), "sequential": SequentialMeasures()}


def spread(values: Sequence[float | None]) -> dict[str, float] | None:
    """Mean and standard deviation of what is known, None where nothing is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"mean": statistics.fmean(known), "sd": statistics.stdev(known) if len(known) > 1 else 0.0}


class RankingMeasures:
    """AUC and log loss by slice; paired tests of AUC."""

    metrics = (Metric("auc", "AUC"), Metric("log_loss", "log loss"))

    def cell(self, run: Run) -> dict[str, Any]:
        report = as_ranking(run).evaluate("test")
        return {
            "training": run.record["training"],
            "best": run.record["best"],
            **_origin(run),
            "monitors": _last_monitors(run),
            "test": {each.name: [each.rows, each.auc, each.log_loss] for each in report.slices},
        }

    def entry(self, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "valid_auc": spread([cell["best"]["metrics"]["auc"] for cell in cells]),
            "test_auc": spread([cell["test"]["all"][1] for cell in cells]),
            "test_log_loss": spread([cell["test"]["all"][2] for cell in cells]),
            "test_auc_by_seed": [cell["test"]["all"][1] for cell in cells],
            "slices": {name: spread([cell["test"][name][1] for cell in cells]) for name in cells[0]["test"] if name != "all"},
            "samples_per_second": spread([cell["training"]["samples_per_second"] for cell in cells]),
        }

    def value(self, cell: Mapping[str, Any], key: str) -> float:
        return float(cell["test"]["all"][1 if key == "auc" else 2])

    def tests(self, first: Sequence[Source], second: Sequence[Source]) -> list[PairedTest]:
        sides = [[as_ranking(load(path)) for path in side if isinstance(path, Path)] for side in (first, second)]
        dataset = sides[0][0].dataset
        positions = [run.dataset.split["test"] for side in sides for run in side]
        if not all(np.array_equal(positions[0], each) for each in positions):
            return []
        users, _ = part_slices(dataset, "test", None)
        scores = [np.stack([run.scores(show_progress=False) for run in side]) for side in sides]
        return [paired_test(part_labels(dataset, "test", None), users, *scores)]


@dataclass(frozen=True)
class _Outcome:
    """Users, targets and ranks (N,) of the test part."""

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    rank: NDArray[np.int64]


@dataclass
class SequentialMeasures:
    """HR@10, nDCG@10 and MRR@10 among all items by slice, however small, coverage and novelty; tests of HR and nDCG."""

    metrics = (Metric("hr@10", "HR@10", 100, relative=True), Metric("ndcg@10", "nDCG@10", 100, relative=True))
    kept = ("hr@10", "ndcg@10", "mrr@10")
    _outcomes: dict[Source, _Outcome] = field(default_factory=dict)

    def cell(self, run: Run) -> dict[str, Any]:
        own = as_sequential(run)
        gate = own.inspect_gate()
        return {
            "phases": run.record["phases"],
            "best": run.record["best"],
            **_origin(run),
            **self._of_report(own.evaluate("test", show_progress=False, min_rows=1)),
            **({"gate": gate} if gate else {}),
        }

    def simple_cell(self, source: Simple) -> dict[str, Any]:
        """The same of a ranking without learning."""
        dataset = Dataset.open(source.data)
        return {
            "phases": [],
            "best": None,
            "knowledge": None,
            "vocabulary": dataset.settings.vocabulary,
            **self._of_report(report_of(dataset, _simple_ranking(dataset, source.name), "test", BUCKETS, min_rows=1)),
        }

    def entry(self, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        valid = [(cell["best"] or {"metrics": {}})["metrics"] for cell in cells]
        gates = [cell["gate"] for cell in cells if "gate" in cell]
        found: dict[str, Any] = {f"valid_{each.key}": spread([one.get(each.key) for one in valid]) for each in self.metrics}
        for key in self.kept:
            values = [cell["test"]["all"][key] for cell in cells]
            found |= {f"test_{key}": spread(values), f"test_{key}_by_seed": values}
        found["slices"] = {
            name: {"rows": part["rows"]} | {key: spread([cell["test"][name].get(key) for cell in cells]) for key in self.kept}
            for name, part in cells[0]["test"].items()
            if name != "all"
        }
        found |= {key: spread([cell[key] for cell in cells]) for key in ("coverage", "novelty", "masked")}
        found["training_seconds"] = spread([sum(each["training"]["seconds"] for each in cell["phases"]) for cell in cells])
        if gates:
            shares = np.mean([gate["shares"] for gate in gates], axis=0)
            found["gate"] = {"experts": gates[0]["experts"], "shares": shares.tolist()}
        return found

    def value(self, cell: Mapping[str, Any], key: str) -> float:
        return float(cell["test"]["all"][key])

    def tests(self, first: Sequence[Source], second: Sequence[Source]) -> list[PairedTest]:
        sides = [[self._outcome(source) for source in side] for side in (first, second)]
        rows = sides[0][0]
        for each in (outcome for side in sides for outcome in side):
            if not (np.array_equal(each.user, rows.user) and np.array_equal(each.item, rows.item)):
                return []
        ranks = [np.stack([outcome.rank for outcome in side]) for side in sides]
        tested: tuple[RetrievalMetric, ...] = ("hr", "ndcg")
        return [paired_rank_test(rows.user, *ranks, metric=metric) for metric in tested]

    def _outcome(self, source: Source) -> _Outcome:
        if source not in self._outcomes:
            if isinstance(source, Simple):
                dataset = Dataset.open(source.data)
                ranking = _simple_ranking(dataset, source.name)
            else:
                run = as_sequential(load(source))
                dataset, ranking = run.dataset, run.ranks("test", show_progress=False)
            rows = part_rows(dataset, "test")
            self._outcomes[source] = _Outcome(rows.user, rows.item, ranking.rank)
        return self._outcomes[source]

    def _of_report(self, report: RetrievalReport) -> dict[str, Any]:
        test = {
            part.name: {"rows": part.rows} | {key: part.values[key] for key in self.kept if part.values is not None}
            for part in report.slices
        }
        return {"test": test, "coverage": report.coverage, "novelty": report.novelty, "masked": report.masked}


def _simple_ranking(dataset: Dataset, name: str) -> Ranking:
    rows = part_rows(dataset, "test")
    scorers = sequential_baselines(rows, *training_events(dataset.log, training_ends(dataset)))
    return rank_targets(scorers[SIMPLE.index(name)], rows, top=LISTED)


def _origin(run: Run) -> dict[str, Any]:
    """Who read the text, and over which part the vocabulary was made."""
    return {
        "knowledge": run.record["knowledge"] and run.record["knowledge"]["encoder"],
        "vocabulary": run.dataset.settings.vocabulary,
    }


def _last_monitors(run: Run) -> Mapping[str, float]:
    """Norms and losses of the last check, so that a run-away constraint is seen in the result file."""
    lines = (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    last = json.loads(lines[-1])
    return {**last["losses"], **last["monitors"]}
