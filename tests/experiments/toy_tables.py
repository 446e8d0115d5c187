"""PAD's rows on a planted world, made tiny: 150 users, 120 items, models of width 8 and one batch an epoch."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import small_runs
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.settings import SplitConfig
from braidrec.experiments import reproduce
from braidrec.experiments.cells import Row, Workshop
from braidrec.experiments.experiment import Experiment
from braidrec.experiments.pad import PANTRY_ROWS
from braidrec.runs.knowledge import build
from braidrec.strict import merge

DATA = "toy"
TRAINING = {"max_epochs": 1, "batch_size": 256}


@cache
def sequences() -> Dataset:
    """The planted world with everybody's last two events held out."""
    settings = PrepareSettings(split=SplitConfig(kind="leave_last_two", min_history=1))
    return Dataset.prepare(small_runs.world_tables(), small_runs.root() / DATA, settings)


@cache
def knowledge() -> Path:
    build(sequences().path, small_runs.root() / "toy-knowledge", "tfidf")
    return small_runs.root() / "toy-knowledge"


def small(row: Row) -> Row:
    if row.simple:
        return replace(row, data=DATA)
    model = {"dim": 8, "length": 6} | ({"backbone": {"blocks": 1}} if row.backbone == "sasrec" else {})
    return replace(row, data=DATA, model=merge(model, row.model), training=TRAINING)


def pool() -> dict[str, Row]:
    """All of PAD's rows by name."""
    return {name: small(row) for name, row in PANTRY_ROWS.items()}


def shop(path: Path) -> Workshop:
    return Workshop({DATA: sequences().path}, {DATA: knowledge()}, path / "runs", path / "results", pool())


def folders(path: Path) -> dict[str, Path]:
    """What `reproduce` takes: folders below ``path``, the data and its text vectors ready in two of them."""
    for name, ready in (("prepared", sequences().path), ("knowledge", knowledge())):
        (path / name).mkdir(parents=True, exist_ok=True)
        for folder in (DATA, f"{DATA}-tfidf"):
            if not (path / name / folder).exists():
                (path / name / folder).symlink_to(ready)
    return {name: path / name for name in ("prepared", "knowledge", "runs", "results")}


def experiment(id: str, names: tuple[str, ...] = (), **changes: object) -> Experiment:
    """One of PAD's with the tiny rows, all of its own ones or ``names``."""
    found: Experiment = replace(reproduce.EXPERIMENTS[id], rows={DATA: pool()}, **changes)  # type: ignore[arg-type]
    return replace(found, names=names) if names else found
