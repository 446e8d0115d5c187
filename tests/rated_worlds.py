"""Ratings with a hidden taste for categories, hidden circles that no category tells, and something else; small and seeded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from braidrec.collaborative.contracts import Labels, Parts
from braidrec.collaborative.graph import Graph
from braidrec.collaborative.labels import Categories, categories_of
from braidrec.collaborative.models.sdrl import SDRL, SDRLConfig
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.schema import Field, Schema
from braidrec.data.settings import SplitConfig
from braidrec.data.tables import Tables
from small_runs import root

NAMES = ("Comedy", "Drama", "War")
GIVEN = PrepareSettings(split=SplitConfig(kind="given"))


@dataclass(frozen=True)
class World:
    """ratings (m, n) of 0 or 1..5, held (m, n) bool: taken out of training    category (n,)    circle (n,), of_circle (m,)"""

    ratings: np.ndarray
    held: np.ndarray
    category: np.ndarray
    circle: np.ndarray
    of_circle: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        users, items = self.ratings.shape
        return users + 1, items + 1

    @property
    def categories(self) -> Categories:
        of_items = np.zeros((self.shape[1], len(NAMES)), np.float32)
        of_items[np.arange(1, self.shape[1]), self.category] = 1
        return Categories(NAMES, of_items, np.arange(self.shape[1]) > 0)

    def parts(self, seed: int = 0) -> Parts:
        user, item = np.nonzero(np.where(self.held, 0, self.ratings))
        own = ((user + 1).astype(np.int32), (item + 1).astype(np.int32))
        labels = Labels(*own, self.ratings[user, item].astype(np.float32), lambda column, separator, without: self.categories)
        users, items = self.ratings.shape
        return Parts(items, Graph(*own, users, items), num_users=users, seed=seed, labels=labels)


def world(
    users: int = 60, items: int = 40, circles: int = 4, *, category: float = 0.3, circle: float = 0.4, seed: int = 0
) -> World:
    """Everybody prefers a category and belongs to a circle, which prefers some items of every category: how much, the chance of
    a rating says.
    """
    rng = np.random.default_rng(seed)
    kind, group = rng.integers(len(NAMES), size=items), rng.integers(circles, size=items)
    taste, of_circle = rng.integers(len(NAMES), size=users), rng.integers(circles, size=users)
    liked, near = kind[None] == taste[:, None], group[None] == of_circle[:, None]
    met = rng.random((users, items)) < np.minimum(0.05 + category * liked + circle * near, 1)
    ratings = np.where(met, np.clip(2 + liked + near + rng.integers(0, 2, size=met.shape), 1, 5), 0)
    return World(ratings, met & (rng.random(met.shape) < 0.15), kind, group, of_circle)


def model(own: World, seed: int = 0, **values: Any) -> SDRL:
    import torch

    torch.manual_seed(seed)
    return SDRL(config(**values), own.parts(seed))


def config(
    sizes: tuple[int, int, int] = (8, 4, 4), block: Mapping[str, Mapping[str, Any]] | None = None, **values: Any
) -> SDRLConfig:
    """Three small blocks; ``block``: what some of them have otherwise."""
    blocks = {
        "internal": {"size": sizes[0], "taught": "categories"},
        "external": {"size": sizes[1], "taught": "ratings"},
        "other": {"size": sizes[2]},
    }
    blocks = {name: {**own, **(block or {}).get(name, {})} for name, own in blocks.items()}
    return SDRLConfig.model_validate({"blocks": blocks, "hidden": 16, **values})


def rated_tables(own: World, genres: list[str | None] | None = None, name: str = "rated") -> Tables:
    """With a ready-made split: held pairs are validation and test in turn."""
    user, item = np.nonzero(own.ratings)
    held = own.held[user, item]
    part = np.where(held, np.where(np.cumsum(held) % 2 == 0, "valid", "test"), "train")
    log = pl.DataFrame({"user": user + 1, "item": item + 1, "stars": own.ratings[user, item].astype(float), "part": part})
    genres = [NAMES[at] for at in own.category] if genres is None else genres
    items = pl.DataFrame(
        {"item": np.arange(1, own.shape[1]), "title": [f"film {at}" for at in range(1, own.shape[1])], "genres": genres}
    )
    schema = Schema(
        user="user",
        item="item",
        rating="stars",
        positive_above=0.0,
        part="part",
        text=("title",),
        item_fields=(Field(name="genres", kind="multi", separator="|"),),
    )
    return Tables(name, schema, log, items)


def rated(own: World, genres: list[str | None] | None = None, name: str = "rated") -> Dataset:
    return Dataset.prepare(rated_tables(own, genres, name), root() / name, GIVEN, overwrite=True)


def categories_in(data: Dataset) -> Any:
    return partial(categories_of, data)
