"""Small logs and tables for the tests of the data room, and plain Python counterparts of what the room does with arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import strategies as st

from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.log import InteractionLog
from braidrec.data.schema import Field, Schema
from braidrec.data.settings import SplitConfig
from braidrec.data.tables import Tables

Event = tuple[int, int, int]  # user row, item row, rating 1..5

USERS, ITEMS = 6, 9
events_lists = st.lists(st.tuples(st.integers(1, USERS), st.integers(1, ITEMS), st.integers(1, 5)), min_size=1, max_size=60)


def log_of(events: Sequence[Event], num_users: int = USERS) -> InteractionLog:
    """Events in log order, one second apart; label = rating above 3, signal = rating."""
    user, item, rating = (np.array(column) for column in zip(*events, strict=True))
    return InteractionLog.build(
        user.astype(np.int32),
        item.astype(np.int32),
        np.arange(len(events), dtype=np.int64),
        rating.astype(np.float32),
        (rating > 3).astype(np.float32),
        None,
        rating.astype(np.int32),
        num_users,
    )


def earlier(events: Sequence[Event], position: int) -> list[int]:
    """Positions of the same user's earlier events, oldest first."""
    return [at for at in range(position) if events[at][0] == events[position][0]]


SCHEMA = Schema(
    user="user",
    item="item",
    timestamp="time",
    rating="rating",
    user_fields=(Field(name="gender"), Field(name="age", kind="numeric", buckets=3), Field(name="hobbies", kind="multi")),
    item_fields=(
        Field(name="title"),
        Field(name="genres", kind="multi"),
        Field(name="price", kind="numeric", scale="log"),
    ),
    context_fields=(Field(name="device"), Field(name="hour", kind="numeric")),
    text=("title",),
    category="genres",
)
SETTINGS = PrepareSettings(split=SplitConfig(min_history=2))


def small_tables(num_users: int = 12, num_items: int = 20, per_user: int = 15, seed: int = 0) -> Tables:
    """A random log with every kind of field; item ids start at 100, user ids at 1, and two items are never met."""
    rng = np.random.default_rng(seed)
    count = num_users * per_user
    interactions = pl.DataFrame(
        {
            "user": rng.permutation(np.repeat(np.arange(1, num_users + 1), per_user)),
            "item": 100 + rng.integers(0, num_items - 2, count),
            "time": rng.integers(1_000_000, 1_000_400, count),
            "rating": rng.integers(1, 6, count),
            "device": [["phone", "desk", None][at] for at in rng.integers(0, 3, count)],
            "hour": rng.integers(0, 24, count).astype(float),
        }
    )
    genres = [["Drama", "Comedy", "War", "Horror"][: 1 + at % 4] if at else [] for at in range(num_items)]
    items = pl.DataFrame(
        {
            "item": 100 + np.arange(num_items),
            "title": [f"Film {at // 2}" for at in range(num_items)],
            "genres": ["|".join(row) for row in genres],
            "price": rng.uniform(1, 50, num_items),
        }
    )
    users = pl.DataFrame(
        {
            "user": np.arange(1, num_users + 1),
            "gender": ["F" if at % 3 else "M" for at in range(num_users)],
            "age": rng.integers(10, 80, num_users),
            "hobbies": [["chess|go", "go", "", "tennis"][at % 4] for at in range(num_users)],
        }
    )
    return Tables("small", SCHEMA, interactions, items, users)


def small_dataset(folder: Path, settings: PrepareSettings = SETTINGS, tables: Tables | None = None) -> Dataset:
    return Dataset.prepare(tables or small_tables(), folder / "small", settings)


def plain_tables(rows: Sequence[tuple[object, object, int, int]], clock: str = "timestamp") -> Tables:
    """(user, item, time, rating) rows without catalogues; ``clock`` names the role of the time column."""
    frame = pl.DataFrame(rows, schema=["user", "item", "time", "rating"], orient="row")
    return Tables("plain", Schema.model_validate({"user": "user", "item": "item", "rating": "rating", clock: "time"}), frame)
