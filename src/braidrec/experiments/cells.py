"""A table is a list of rows; a row is a model on a data set; a cell is one seed of it.

Each finished cell is one small JSON file with its settings, seed, time and commit, so a long table is made in pieces and
goes on where it stopped.  Selection is on validation; the test part is scored once per cell, with the best weights.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from braidrec.data.dataset import Dataset
from braidrec.errors import RunError
from braidrec.evaluation.significance import PairedTest, holm, paired_test
from braidrec.files import read_json, write_json
from braidrec.runs.fit import environment, fit
from braidrec.runs.run import Run, load, part_slices
from braidrec.runs.scoring import part_labels


@dataclass(frozen=True)
class Row:
    """One model of a table.

    data: which prepared variant it is trained on     against: name of the row it is tested against, None for a reference
    published: test AUC and log loss in the paper     model, training: settings over the preset
    """

    name: str
    data: str
    backbone: str
    enhance: str | None = None
    preset: str = "ours"
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    against: str | None = None
    published: tuple[float, float] | None = None
    seeds: tuple[int, ...] = (1, 2, 3)
    note: str = ""


@dataclass(frozen=True)
class Workshop:
    """Where a table is made: prepared variants by name, the knowledge base, run directories and result files."""

    prepared: Mapping[str, Path]
    knowledge: Mapping[str, Path]
    runs: Path
    results: Path

    def run_path(self, row: Row, seed: int) -> Path:
        return self.runs / f"{row.name}-s{seed}"

    def cell_path(self, row: Row, seed: int) -> Path:
        return self.results / "cells" / f"{row.name}-s{seed}.json"


def make_cell(row: Row, seed: int, shop: Workshop) -> bool:
    """Train and evaluate one cell unless its file is there; True when it was made now."""
    file = shop.cell_path(row, seed)
    if file.exists():
        return False
    begun = time.monotonic()
    dataset = Dataset.open(shop.prepared[row.data])
    run = fit(
        dataset,
        path=shop.run_path(row, seed),
        backbone=row.backbone,
        enhance=row.enhance,
        knowledge=shop.knowledge[row.data] if row.enhance or _semantic(row) else None,
        preset=row.preset,
        seed=seed,
        model=row.model,
        training=row.training,
    )
    report = run.evaluate("test")
    write_json(
        file,
        {
            "row": row.name,
            "seed": seed,
            "command": command(row, seed),
            "commit": _commit(),
            "seconds": round(time.monotonic() - begun, 1),
            "training": run.record["training"],
            "best": run.record["best"],
            "knowledge": run.record["knowledge"] and run.record["knowledge"]["encoder"],
            "vocabulary": dataset.settings.vocabulary,
            "monitors": _last_monitors(run),
            "test": {each.name: [each.rows, each.auc, each.log_loss] for each in report.slices},
        },
    )
    return True


def command(row: Row, seed: int) -> str:
    """The command line that trains the cell, the folders named by what they hold."""
    parts = [f"braidrec fit --data {row.data} --backbone {row.backbone} --preset {row.preset} --seed {seed}"]
    if row.enhance:
        parts.append(f"--enhance {row.enhance}")
    if row.enhance or _semantic(row):
        parts.append("--knowledge KNOWLEDGE")
    for table, values in (("model", row.model), ("training", row.training)):
        parts += [f"--set {key}={_toml(value)}" for key, value in _flat(table, values)]
    return " ".join(parts)


def summary(rows: Sequence[Row], shop: Workshop) -> dict[str, Any]:
    """Every row with its seeds, mean, spread, published value and paired test; rows without a cell are listed as not run."""
    done = {row.name: [seed for seed in row.seeds if shop.cell_path(row, seed).exists()] for row in rows}
    by_name = {row.name: row for row in rows}
    table, tests = [], []
    for row in rows:
        if not done[row.name]:
            continue
        cells = [read_json(shop.cell_path(row, seed), RunError) for seed in done[row.name]]
        entry = _entry(row, cells)
        table.append(entry)
        reference = by_name.get(row.against or "")
        shared = [seed for seed in done[row.name] if reference and seed in done[reference.name]]
        if reference and shared:
            found = _test(row, reference, shared, shop)
            if found is not None:
                entry["against"] = {"row": reference.name, "seeds": shared, **asdict(found)}
                tests.append((entry, found.p_value))
    for (entry, _), adjusted in zip(tests, holm([p_value for _, p_value in tests]) if tests else [], strict=True):
        entry["against"]["p_holm"] = float(adjusted)
    missing = [f"{row.name} s{seed}" for row in rows for seed in row.seeds if seed not in done[row.name]]
    return {"environment": environment(), "rows": table, "not_run": missing}


def _entry(row: Row, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def spread(values: Sequence[float | None]) -> dict[str, float] | None:
        known = [value for value in values if value is not None]
        if not known:
            return None
        return {"mean": statistics.fmean(known), "sd": statistics.stdev(known) if len(known) > 1 else 0.0}

    return {
        "row": row.name,
        "data": row.data,
        "preset": row.preset,
        "vocabulary": cells[0]["vocabulary"],
        "knowledge": cells[0]["knowledge"],
        "note": row.note,
        "published": row.published and {"auc": row.published[0], "log_loss": row.published[1]},
        "seeds": [cell["seed"] for cell in cells],
        "valid_auc": spread([cell["best"]["metrics"]["auc"] for cell in cells]),
        "test_auc": spread([cell["test"]["all"][1] for cell in cells]),
        "test_log_loss": spread([cell["test"]["all"][2] for cell in cells]),
        "test_auc_by_seed": [cell["test"]["all"][1] for cell in cells],
        "slices": {name: spread([cell["test"][name][1] for cell in cells]) for name in cells[0]["test"] if name != "all"},
        "samples_per_second": spread([cell["training"]["samples_per_second"] for cell in cells]),
        "command": cells[0]["command"],
    }


def _test(row: Row, reference: Row, seeds: Sequence[int], shop: Workshop) -> PairedTest | None:
    """The paired test on the runs' stored scores; None where run directories are gone or the test rows differ."""
    paths = [[shop.run_path(each, seed) for seed in seeds] for each in (row, reference)]
    if not all((path / "run.json").exists() for side in paths for path in side):
        return None
    sides: list[list[Run]] = [[load(path) for path in side] for side in paths]
    first = sides[0][0].dataset
    positions = [run.dataset.split["test"] for side in sides for run in side]
    if not all(np.array_equal(positions[0], each) for each in positions):
        return None
    users, _ = part_slices(first, "test", None)
    scores = [np.stack([run.scores(show_progress=False) for run in side]) for side in sides]
    return paired_test(part_labels(first, "test", None), users, *scores)


def _semantic(row: Row) -> bool:
    chosen = dict(row.model.get("history", {})).get("kind", "semantic_topk" if row.preset == "authors" else "recent")
    return bool(chosen == "semantic_topk")


def _last_monitors(run: Run) -> Mapping[str, float]:
    """Norms and losses of the last check, so that a run-away constraint is seen in the result file."""
    import json

    lines = (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    last = json.loads(lines[-1])
    return {**last["losses"], **last["monitors"]}


def _flat(prefix: str, values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        found += _flat(f"{prefix}.{key}", value) if isinstance(value, Mapping) else [(f"{prefix}.{key}", value)]
    return found


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


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
