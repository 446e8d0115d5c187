"""Next-item runs on a small world where an item tells what comes next, made once per test process and only when asked for."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import small_runs
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.schema import Field, Schema
from braidrec.data.settings import SplitConfig
from braidrec.data.tables import Tables
from braidrec.runs.fit import fit
from braidrec.runs.knowledge import build
from braidrec.runs.run import Run, load
from braidrec.strict import merge

LENGTH = 5
MODEL = {"dim": 8, "length": LENGTH, "buckets": 4, "loss": "full_ce", "trained_softmax": True}
BACKBONES: dict[str, dict[str, Any]] = {"sasrec": {"blocks": 1, "dropout": 0.0}, "gru4rec": {"dropout": 0.0}}
TRAINING = {"max_epochs": 4, "batch_size": 128, "lr": 0.01}
PHASES = {"pad": ("align", "experts"), "smem": ("experts",)}  # that a preset may have a rate for

NOUNS = ["harbour", "desert", "orchestra", "glacier"]  # a ring of items for each
ADJECTIVES = ["amber", "brisk", "crimson", "distant", "elder", "foggy", "golden", "hollow", "ivory"]
SIZE, ITEMS = len(ADJECTIVES), len(NOUNS) * len(ADJECTIVES)
LAUNCHED = 3  # the last items, met by nobody before the last event
SCHEMA = Schema(
    user="user", item="item", order="at", user_fields=(Field(name="user"),), item_fields=(Field(name="item"),), text=("title",)
)


@cache
def walks(seed: int = 0) -> list[list[int]]:
    """What each of 1,080 users met, items from 0 on, oldest first: 5 to 9 events along a ring, with leaps to what is liked."""
    rng, known = np.random.default_rng(seed), ITEMS - LAUNCHED
    found = []
    for user in range(1_080):
        walk = [int(known * rng.random() ** 4)]
        for _ in range(int(rng.integers(4, 9))):
            ring, place = divmod(walk[-1], SIZE)
            after = ring * SIZE + (place + 1) % SIZE
            walk.append(after if after < known and rng.random() < 0.8 else int(known * rng.random() ** 4))
        if user % 40 == 7:
            walk[-1] = known + user // 40 % LAUNCHED
        found.append(walk)
    return found


def title(item: int) -> str:
    ring, place = divmod(item, SIZE)
    return f"{ADJECTIVES[place]} {NOUNS[ring]}"


def tables(walked: list[list[int]], name: str = "rings") -> Tables:
    """``walked`` as a log; one more user, "shy", met nothing."""
    rows = [(f"u{user}", f"i{item}", at) for user, walk in enumerate(walked) for at, item in enumerate(walk)]
    log = pl.DataFrame(rows, schema=["user", "item", "at"], orient="row")
    items = pl.DataFrame({"item": [f"i{at}" for at in range(ITEMS)], "title": [title(at) for at in range(ITEMS)]})
    return Tables(name, SCHEMA, log, items, pl.DataFrame({"user": [*(f"u{user}" for user in range(len(walked))), "shy"]}))


def prepare(folder: Path, walked: list[list[int]], kind: str = "leave_last_two", min_history: int = 1) -> Dataset:
    split = SplitConfig(kind=kind, min_history=min_history)  # type: ignore[arg-type]
    return Dataset.prepare(tables(walked), folder, PrepareSettings(split=split))


@cache
def dataset() -> Dataset:
    return prepare(small_runs.root() / "rings", walks())


@cache
def knowledge() -> Path:
    build(dataset().path, small_runs.root() / "rings-knowledge", "tfidf")
    return small_runs.root() / "rings-knowledge"


def train(
    path: Path,
    data: Dataset | None = None,
    *,
    backbone: str = "sasrec",
    model: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    enhance: str | None = None,
    **changes: Any,
) -> Run:
    """Four short epochs; ``changes`` as `fit` takes them, model and training settings on top of small ones."""
    model = {**MODEL, "backbone": BACKBONES.get(backbone, {}), **(model or {})}
    settings = merge(training_settings(enhance), training or {})
    chosen = {"backbone": backbone, "enhance": enhance, "model": model, "training": settings, "seed": 1, **changes}
    return fit(data or dataset(), path=path, show_progress=False, **chosen)


def training_settings(enhance: str | None) -> dict[str, Any]:
    """One rate for every phase, whatever the preset says."""
    return {**TRAINING, "phases": {phase: {"lr": TRAINING["lr"]} for phase in PHASES.get(enhance or "", ())}}


@cache
def sasrec(seed: int = 1) -> Run:
    return train(small_runs.root() / f"sasrec-s{seed}", seed=seed)


@cache
def pad(seed: int = 1) -> Run:
    return train(small_runs.root() / f"sasrec-pad-s{seed}", seed=seed, enhance="pad", knowledge=knowledge())


@cache
def smem() -> Run:
    return train(small_runs.root() / "gru4rec-smem", backbone="gru4rec", enhance="smem", knowledge=knowledge())


@cache
def morec() -> Run:
    return train(small_runs.root() / "sasrec-morec", enhance="morec", knowledge=knowledge())


def copy_of(run: Run, path: Path) -> Run:
    """The same run in a folder that a test may change, without what evaluations left there."""
    shutil.copytree(run.path, path, ignore=shutil.ignore_patterns("outcome.*", "evaluation.*", "added"))
    return load(path)
