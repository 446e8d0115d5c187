"""Logs as papers on implicit feedback cut them: each pair once, a core in which everybody has enough, shares at random."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidrec.data.cleaning import clean
from braidrec.data.settings import PrepareSettings
from braidrec.data.tables import Tables

PART = "part"


def core_in_parts(tables: Tables, *, core: int, seed: int, share: float = 0.2) -> Tables:
    """The k-core of distinct pairs, and a ready-made split of it: of each user's n pairs max(1, round(share n)) at random are
    test, as many validation, the rest training.  Items outside the core leave the catalogue.
    """
    import polars as pl

    schema = tables.schema
    pairs = clean(tables.interactions, schema, PrepareSettings(repeats="first", k_core=core)).interactions
    kept = pairs[schema.item].unique().implode()
    items = None if tables.items is None else tables.items.filter(pl.col(schema.item).is_in(kept))
    users = pairs[schema.user].to_numpy()
    parts = pl.Series(PART, shares(users, np.random.default_rng(seed), share))
    return replace(tables, interactions=pairs.with_columns(parts), items=items, schema=schema.model_copy(update={"part": PART}))


def rated_core_in_parts(tables: Tables, *, core: int, seed: int, test: float = 0.2) -> Tables:
    """The k-core of all ratings, each of them a positive, and a ready-made split of it: of each user's n ratings at random
    floor(test n) are test, one of the others is validation, the rest training (SDRL's 80/20).
    """
    import polars as pl

    schema = tables.schema.model_copy(update={"positive_above": 0.0, "part": PART})
    log = clean(tables.interactions, schema, PrepareSettings(k_core=core)).interactions
    items = (
        None if tables.items is None else tables.items.filter(pl.col(schema.item).is_in(log[schema.item].unique().implode()))
    )
    turn, counts = _turns(log[schema.user].to_numpy(), np.random.default_rng(seed))
    held = np.floor(test * counts + 1e-9)
    parts = pl.Series(PART, np.where(turn < held, "test", np.where(turn < held + 1, "valid", "train")))
    return replace(tables, interactions=log.with_columns(parts), items=items, schema=schema)


def rated_in_parts(
    tables: Tables, *, least: float = 3.0, core: int = 10, seed: int = 2023, ratios: tuple[float, float] = (0.6, 0.8)
) -> Tables:
    """The k-core of pairs rated ``least`` or better, all of them positives, shuffled as a whole and cut at ``ratios``.

    Not each user's own, so somebody with ten pairs has four to eight in training (RLMRec's files).  Who or what has no pair in
    training is in no part; items outside the core leave the catalogue.
    """
    import polars as pl

    schema = tables.schema
    assert schema.rating is not None
    liked = tables.interactions.filter(pl.col(schema.rating) >= least)
    pairs = clean(liked, schema, PrepareSettings(repeats="first", k_core=core)).interactions
    turn = np.random.default_rng(seed).permutation(len(pairs)) / len(pairs)
    parts = np.where(turn < ratios[0], "train", np.where(turn < ratios[1], "valid", "test"))
    pairs = pairs.with_columns(pl.Series(PART, parts))
    for name in (schema.user, schema.item):
        pairs = pairs.filter((pl.col(PART) == "train").any().over(name))
    kept = pairs[schema.item].unique().implode()
    items = None if tables.items is None else tables.items.filter(pl.col(schema.item).is_in(kept))
    own = schema.model_copy(update={"part": PART, "rating": None})
    return replace(tables, interactions=pairs.drop(schema.rating), items=items, schema=own)


def _turns(users: NDArray[Any], rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(N,) place of each pair among its user's in a random order, from 0, and (N,) how many these are."""
    _, own, counts = np.unique(users, return_inverse=True, return_counts=True)
    order = np.lexsort((rng.permutation(len(users)), own))
    turn = np.empty(len(users), np.int64)
    turn[order] = np.arange(len(users)) - (np.cumsum(counts) - counts)[own[order]]
    return turn, counts[own]


def shares(users: NDArray[Any], rng: np.random.Generator, share: float) -> NDArray[np.str_]:
    """(N,) train, valid or test of each pair."""
    turn, counts = _turns(users, rng)
    held = np.maximum(1, np.round(share * counts)).astype(np.int64)
    return np.where(turn < held, "test", np.where(turn < 2 * held, "valid", "train"))
