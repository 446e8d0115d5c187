"""Runs on a small planted world, made once per test process and only when a test asks for them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from braidrec.config import RunRequest, resolve
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.planted import PlantedConfig, planted_world
from braidrec.data.schema import Field, Schema
from braidrec.data.settings import SplitConfig
from braidrec.data.tables import Tables
from braidrec.registry import Registry
from braidrec.runs.fit import fit
from braidrec.runs.knowledge import build
from braidrec.runs.run import Run, load

TRAINING = {"max_epochs": 1, "checks_per_epoch": 2, "batch_size": 1024}
MODEL = {"dim": 8, "history": {"length": 6}}


@cache
def root() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="braidrec-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def world_tables(seed: int = 0) -> Tables:
    """150 users, 120 items of which some are cold, and enough rows that the test part has over 1,000."""
    return planted_world(PlantedConfig(users=150, items=120, interactions=12_000, seed=seed)).tables


@cache
def dataset() -> Dataset:
    return Dataset.prepare(world_tables(), root() / "planted", PrepareSettings(sequences="all"))


@cache
def other_dataset() -> Dataset:
    return Dataset.prepare(world_tables(1), root() / "other", PrepareSettings(sequences="all"))


@cache
def knowledge() -> Path:
    build(dataset().path, root() / "knowledge", "tfidf")
    return root() / "knowledge"


def break_plug_in(monkeypatch: pytest.MonkeyPatch, names: Registry[Any]) -> None:
    """As if a package were installed whose ``lost`` of this registry cannot be imported."""
    point = EntryPoint("lost", "no_such_module_at_all:X", names.group)
    monkeypatch.setitem(vars(names), "_plugins", {**names._plugins, "lost": [point]})


def followed(values: Mapping[str, Any], **request: Any) -> dict[str, Any]:
    """Those of ``values`` for [model] that a run of this request would follow."""
    read = {key: value for key, value in request.items() if key in ("task", "backbone", "enhance", "preset", "model")}
    plain = resolve(RunRequest.model_validate({**read, "data": "-"}), "small")

    def kept(inside: Mapping[str, Any], above: str = "") -> dict[str, Any]:
        found = {key: kept(value, f"{above}{key}.") if isinstance(value, dict) else value for key, value in inside.items()}
        return {key: value for key, value in found.items() if f"{above}{key}" not in silent and value != {}}

    silent = {*plain.chosen.backbone.unread, *plain.all_idle}
    return kept(values)


def train(path: Path, data: Dataset | None = None, **changes: object) -> Run:
    """One short epoch; ``changes`` as `fit` takes them, model and training settings on top of small ones that it reads."""
    own: Any = changes.pop("model", {})
    model = {**followed(MODEL, **{**changes, "model": own}), **own}
    training = {**TRAINING, **changes.pop("training", {})}  # type: ignore[dict-item]
    return fit(data or dataset(), path=path, model=model, training=training, show_progress=False, **changes)  # type: ignore[arg-type]


TERMS = {"enhance": {"disentangle_weight": 0.01}}  # of DisCo's, which then has an optimiser of its own


@cache
def plain(seed: int = 1) -> Run:
    return train(root() / f"plain-s{seed}", seed=seed)


@cache
def disco(seed: int = 1) -> Run:
    return train(root() / f"disco-s{seed}", seed=seed, enhance="disco", knowledge=knowledge(), model=TERMS)


def copy_of(run: Run, path: Path) -> Run:
    """The same run in a folder that a test may change."""
    shutil.copytree(run.path, path, ignore=shutil.ignore_patterns("outcome.*", "evaluation.*", "added"))
    return load(path)


EVERY_FIELD = Schema(
    user="user",
    item="item",
    timestamp="time",
    rating="rating",
    weight="weight",
    user_fields=(Field(name="user"), Field(name="hobbies", kind="multi"), Field(name="age", kind="numeric")),
    item_fields=(
        Field(name="item"),
        Field(name="genres", kind="multi"),
        Field(name="price", kind="numeric", scale="log"),
        Field(name="year", kind="numeric", buckets=4),
    ),
    context_fields=(Field(name="device"), Field(name="hour", kind="numeric"), Field(name="tags", kind="multi")),
    text=("title", "genres"),
)


@cache
def rich_tables() -> Tables:
    """Every role and kind of column: context, bags, numbers with gaps, sample weights, integer ids, a user without events."""
    rng = np.random.default_rng(0)
    count, users, items = 2_000, 40, 60
    genres = np.array(["Drama", "Comedy", "War", "Horror"])
    interactions = pl.DataFrame(
        {
            "user": rng.integers(1, users + 1, count),
            "item": 100 + rng.integers(0, items, count),
            "time": np.arange(count) * 60 + 1_700_000_000,
            "rating": rng.integers(1, 6, count),
            "weight": rng.choice([0.5, 1.0, 2.0], count),
            "device": rng.choice(["phone", "desk", None], count).tolist(),
            "hour": rng.integers(0, 24, count).astype(float),
            "tags": rng.choice(["a|b", "b", "", "a|c|b"], count).tolist(),
        }
    )
    catalogue = pl.DataFrame(
        {
            "item": 100 + np.arange(items),
            "title": [f"Film number {at} [rec]" for at in range(items)],
            "genres": ["|".join(genres[: at % 4]) for at in range(items)],
            "price": [None if at % 7 == 0 else float(at) for at in range(items)],
            "year": [1950 + at for at in range(items)],
        }
    )
    people = pl.DataFrame(
        {
            "user": np.arange(1, users + 2),
            "hobbies": [["chess", "go"][: at % 3] for at in range(users + 1)],
            "age": [None if at % 5 == 0 else 20.0 + at for at in range(users + 1)],
        }
    )
    return Tables("rich", EVERY_FIELD, interactions, catalogue, people)


@cache
def rich() -> Dataset:
    return Dataset.prepare(rich_tables(), root() / "rich", PrepareSettings(split=SplitConfig(min_history=2)))


@cache
def rich_knowledge() -> Path:
    build(rich().path, root() / "rich-knowledge", "tfidf")
    return root() / "rich-knowledge"


@cache
def positives() -> Dataset:
    """A log without a single negative, ordered per user, as from an order history."""
    rng = np.random.default_rng(1)
    rows = [(f"u{user}", f"i{item}", at) for user in range(60) for at, item in enumerate(rng.permutation(50)[:12])]
    frame = pl.DataFrame(rows, schema=["user", "item", "order"], orient="row")
    schema = Schema(
        user="user", item="item", order="order", user_fields=(Field(name="user"),), item_fields=(Field(name="item"),)
    )
    settings = PrepareSettings(split=SplitConfig(kind="leave_last_two", min_history=1))
    return Dataset.prepare(Tables("positives", schema, frame), root() / "positives", settings)


def description(folder: Path) -> Path:
    """The planted world as two CSV files and the TOML file that describes them."""
    tables = world_tables()
    assert tables.items is not None
    tables.interactions.write_csv(folder / "log.csv")
    tables.items.write_csv(folder / "items.csv")
    file = folder / "mine.toml"
    file.write_text(
        """
name = "mine"
noun = "book"
[interactions]
file = "log.csv"
user = "user_id"
item = "item_id"
timestamp = "timestamp"
label = "click"
[items]
file = "items.csv"
id = "item_id"
text = ["title", "description"]
fields = [{name = "item_id"}, {name = "genre"}, {name = "publisher"}]
"""
    )
    return file
