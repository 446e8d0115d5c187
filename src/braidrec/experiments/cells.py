"""A table is a list of rows; a row is a model on a data set; a cell is one seed of it.

Each finished cell is one small JSON file with its settings, seed, time and commit, so a long table is made in pieces and
goes on where it stopped.  Selection is on validation; the test part is scored once per cell, with the best weights.  What is
measured is the task's (`braidrec.experiments.measures`).
"""

from __future__ import annotations

import json
import shlex
import statistics
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from braidrec.config import RunConfig, RunRequest, resolve
from braidrec.data.dataset import Dataset
from braidrec.errors import ConfigError, suggest
from braidrec.evaluation.significance import holm
from braidrec.experiments.measures import Cell, Outcomes, Simple, Source, entry_of, read_cell, run_cell, simple_cell, value_of
from braidrec.files import write_json
from braidrec.registry import TASKS, Metric, TaskSpec, task_of
from braidrec.runs.directory import environment
from braidrec.runs.fit import fit
from braidrec.runs.run import Run
from braidrec.strict import merge

OFFLINE = "offline"  # the text encoder that needs no download


@dataclass(frozen=True)
class Row:
    """One model of a table, or a ranking without learning, which ``backbone`` then names (popularity, item-knn, markov).

    data: which prepared variant it is trained on     against: name or names of the rows it is tested against
    published: by metric as printed, for rankings also (AUC, log loss)     model, training: settings over the preset
    starts: stage -> name of the row whose run of the same seed gives this stage, so that it is trained once
    encoder: who reads the items' text     ablation: keeps its own seeds when a table is asked for others
    task: where the backbone's name does not say it, as for rankings without learning
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

    @property
    def of_task(self) -> TaskSpec:
        return TASKS[self.task] if self.task is not None else task_of(self.backbone, None)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return self.of_task.metrics

    @property
    def simple(self) -> bool:
        """Whether it is measured without training; such a row has one cell, of seed 0, that goes with every seed."""
        return self.backbone not in self.of_task and self.backbone in self.of_task.baselines

    @property
    def cells(self) -> tuple[int, ...]:
        """The seeds of its cells."""
        return (0,) if self.simple else self.seeds

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

    def config(self) -> RunConfig:
        """Its settings, resolved, the folders named by what they hold."""
        return resolve(
            RunRequest(
                data=self.data,
                task=self.task,
                backbone=self.backbone,
                enhance=self.enhance,  # type: ignore[arg-type]
                preset=self.preset,
                model=dict(self.model),
                training=dict(self.training),
            ),
            f"row '{self.name}'",
        )


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
        return Simple(row.of_task.name, row.backbone, self.prepared[row.data]) if row.simple else self.run_path(row, seed)

    def at_hand(self, row: Row, seeds: Iterable[int]) -> bool:
        """Whether the ranks or scores of the row can be read here, or made without training."""
        if row.simple:
            return (self.prepared[row.data] / "manifest.json").exists()
        return all((self.run_path(row, seed) / "run.json").exists() for seed in seeds)


def encoder_name(encoder: str) -> str:
    """What an encoder (a short name, a model's name or folder, a TOML file) adds to names of rows and folders."""
    return Path(encoder).name.removesuffix(".toml").lower()


def make_cell(row: Row, seed: int, shop: Workshop) -> bool:
    """Train and evaluate one cell unless its file is there; True when it was made now."""
    file = shop.cell_path(row, seed)
    if file.exists():
        return False
    begun = time.monotonic()
    source = shop.source(row, seed)
    found = simple_cell(source) if isinstance(source, Simple) else run_cell(train_row(row, seed, shop))
    head = {
        "row": row.name,
        "seed": seed,
        "command": None if row.simple else command(row, seed),
        "commit": _commit(),
        "seconds": round(time.monotonic() - begun, 1),
    }
    write_json(file, head | found)
    return True


def train_row(row: Row, seed: int, shop: Workshop) -> Run:
    """The finished run of one cell: trained, gone on with, or loaded.  Runs that give it a stage come first."""
    starts = {}
    for stage in row.starts:
        giver = shop.origin(row, stage)
        train_row(giver, seed, shop)
        starts[stage] = str(shop.run_path(giver, seed))
    return fit(
        Dataset.open(shop.prepared[row.data]),
        path=shop.run_path(row, seed),
        backbone=row.backbone,
        enhance=row.enhance,
        knowledge=shop.knowledge_path(row) if row.reads_text else None,
        preset=row.preset,
        seed=seed,
        model=merge(row.model, {"start_from": starts}) if starts else row.model,
        training=row.training,
    )


def command(row: Row, seed: int) -> str:
    """The command line that trains the cell, the folders named by what they hold."""
    parts = [f"braidrec fit --data {row.data} --backbone {row.backbone} --preset {row.preset} --seed {seed}"]
    if row.enhance:
        parts.append(f"--enhance {row.enhance}")
    if row.reads_text:
        parts.append("--knowledge KNOWLEDGE" + ("" if row.encoder == OFFLINE else f"-{encoder_name(row.encoder).upper()}"))
    for table, values in (("model", row.model), ("training", row.training)):
        parts += [f"--set {shlex.quote(f'{key}={_toml(value)}')}" for key, value in _flat(table, values)]
    parts += [f"--set model.start_from.{stage}=RUNS/{name}-s{seed}" for stage, name in row.starts.items()]
    return " ".join(parts)


def summary(
    rows: Sequence[Row],
    shop: Workshop,
    *,
    earlier: Sequence[Mapping[str, Any]] = (),
    reference: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Every row with its seeds, mean, spread, published value and paired tests; rows without a cell are listed as not run.

    earlier: summaries made before, whose tests are kept for rows whose run directories are no longer here
    reference: row -> row that its gain is over, on the seeds that both have
    Tests are those of a row against each of its ``against`` that is in the table, on shared seeds; Holm's correction is over
    all tests of the table.
    """
    outcomes, by_name = Outcomes(), {row.name: row for row in rows}
    done = {row.name: [seed for seed in row.cells if shop.cell_path(row, seed).exists()] for row in rows}
    cells = {
        row.name: {seed: read_cell(shop.cell_path(row, seed), row.metrics) for seed in done[row.name]}
        for row in rows
        if done[row.name]
    }
    entries = {name: _entry(by_name[name], list(own.values())) for name, own in cells.items()}
    before = [{entry["row"]: entry for entry in each["rows"]} for each in earlier]
    tests: list[dict[str, Any]] = []
    for name, entry in entries.items():
        row = by_name[name]
        over = (reference or {}).get(name, name)
        if over != name and over in cells:
            entry["gain"] = _gain(row, by_name[over], cells)
        found = [
            each
            for other in row.references
            if other in cells
            for each in _tests(row, by_name[other], _shared(row, by_name[other], done), shop, outcomes, entries, before)
        ]
        if found:
            entry["against"] = found
            tests += found
    for test, adjusted in zip(tests, holm([test["p_value"] for test in tests]) if tests else [], strict=True):
        test["p_holm"] = float(adjusted)
    missing = [f"{row.name} s{seed}" for row in rows for seed in row.cells if seed not in done[row.name]]
    return {"environment": environment(), "rows": list(entries.values()), "not_run": missing}


def paired_tests(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The paired tests of a row in a summary, one per reference and metric; earlier summaries may hold a single one."""
    found = entry.get("against", [])
    return list(found) if isinstance(found, list) else [found]


def _entry(row: Row, cells: Sequence[Cell]) -> dict[str, Any]:
    return {
        "row": row.name,
        "data": row.data,
        "preset": row.preset,
        "vocabulary": cells[0]["vocabulary"],
        "knowledge": cells[0]["knowledge"],
        "note": row.note,
        "published": row.printed,
        "seeds": [cell["seed"] for cell in cells],
        **entry_of(cells, row.metrics),
        "command": cells[0]["command"],
    }


def _shared(row: Row, other: Row, done: Mapping[str, Sequence[int]]) -> list[int]:
    """Seeds that both rows have a cell of; one without learning goes with every seed."""
    own, others = done[row.name], done[other.name]
    if row.simple or other.simple:
        return list(others if row.simple and not other.simple else own)
    return [seed for seed in own if seed in others]


def _gain(row: Row, over: Row, cells: Mapping[str, Mapping[int, Cell]]) -> dict[str, Any]:
    """What ``row`` is better by, in print and here: a share of the reference, or a difference of AUC or log loss."""
    seeds = _shared(row, over, {each.name: list(cells[each.name]) for each in (row, over)})

    def mean(each: Row, key: str) -> float:
        own = cells[each.name]
        return statistics.fmean(value_of(own[0 if each.simple else seed], key) for seed in seeds)

    found: dict[str, Any] = {"over": over.name, "seeds": seeds}
    for metric in (each for each in row.metrics if each.shown):
        key, printed = metric.key, (row.printed or {}, over.printed or {})
        sides = {
            "published": (printed[0][key], printed[1][key]) if all(key in each for each in printed) else None,
            "measured": (mean(row, key), mean(over, key)) if seeds else None,
        }
        found[key] = {name: _better(*pair, relative=metric.relative) if pair else None for name, pair in sides.items()}
    return found


def _better(value: float, reference: float, *, relative: bool) -> float | None:
    if not relative:
        return value - reference
    return value / reference - 1 if reference else None


def _tests(
    row: Row,
    other: Row,
    seeds: list[int],
    shop: Workshop,
    outcomes: Outcomes,
    entries: Mapping[str, Mapping[str, Any]],
    before: Sequence[Mapping[str, Mapping[str, Any]]],
) -> list[dict[str, Any]]:
    """Paired tests on what the runs stored; where a run directory is gone, those of an earlier summary of the same cells."""
    if not seeds or row.of_task is not other.of_task:
        return []
    if shop.at_hand(row, seeds) and shop.at_hand(other, seeds):
        own, others = ([shop.source(each, seed) for seed in seeds] for each in (row, other))
        found = outcomes.tests(own, others, row.of_task.name)
        return [{"row": other.name, "seeds": seeds, **asdict(test)} for test in found]
    for old in before:
        if all(each.name in old for each in (row, other)) and all(
            _alike(_by_seed(old[each.name], seeds), _by_seed(entries[each.name], seeds)) for each in (row, other)
        ):
            kept = [dict(test) for test in paired_tests(old[row.name]) if test["row"] == other.name and test["seeds"] == seeds]
            if kept:
                return kept
    return []


def _by_seed(entry: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, list[float]]:
    """What an entry says of each of the seeds."""
    wanted = [at for at, seed in enumerate(entry["seeds"]) if seed in seeds or seed == 0]
    return {key: [values[at] for at in wanted] for key, values in entry.items() if key.endswith("_by_seed")}


def _alike(old: Mapping[str, list[float]], new: Mapping[str, list[float]]) -> bool:
    """Whether two entries say the same of the metrics that both have."""
    shared = old.keys() & new.keys()
    return bool(shared) and all(old[key] == new[key] for key in shared)


def _flat(prefix: str, values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        found += _flat(f"{prefix}.{key}", value) if isinstance(value, Mapping) else [(f"{prefix}.{key}", value)]
    return found


def _toml(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | list | tuple) else str(value)


def _commit() -> str:
    """The checkout's commit, "+" behind it when files differ; "unknown" outside a checkout."""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain", "src"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if dirty else "")
