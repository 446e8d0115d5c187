"""Training counts and buckets of equal mass: by hand, against a plain loop, and PAD's own edges."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_data import log_of, plain_tables

from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.intake.sources import public_dataset, read_public
from braidrec.data.popularity import frequency_buckets, train_counts, training_counts
from braidrec.data.sequences import training_ends
from braidrec.data.settings import SplitConfig
from braidrec.data.tables import Tables
from braidrec.errors import ConfigError, DataError


def counts_of(*values: int) -> np.ndarray:
    """Behind the padding entry."""
    return np.array([0, *values], np.int64)


def plain_buckets(counts: list[int], buckets: int) -> list[int]:
    """Fill a bucket until its own mass first reaches total / buckets; what is left belongs to the last."""
    total, found = sum(counts), [buckets] * len(counts)
    open_items: list[int] = []
    mass, number = 0, 1
    for item in sorted(range(len(counts)), key=lambda item: (-counts[item], item)):
        if number == buckets:
            break
        open_items.append(item)
        mass += counts[item]
        if mass * buckets >= total:
            for member in open_items:
                found[member] = number
            open_items, mass, number = [], 0, number + 1
    return found


def test_by_hand() -> None:
    # total 20, so a bucket closes at 5: {6}, {4, 3}, {3, 3}, and the rest with the items never met
    assert frequency_buckets(counts_of(3, 6, 0, 4, 3, 3, 1, 0), 4).tolist() == [0, 2, 1, 4, 2, 3, 3, 4, 4]
    assert frequency_buckets(counts_of(3, 6, 0, 4, 3, 3, 1, 0), 1).tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 1]


def test_ties_go_by_item_number() -> None:
    assert frequency_buckets(counts_of(2, 2, 2, 2), 4).tolist() == [0, 1, 2, 3, 4]
    assert frequency_buckets(counts_of(1, 2, 1, 2), 2).tolist() == [0, 2, 1, 2, 1]


def test_a_heavy_head_leaves_buckets_before_the_last_empty() -> None:
    assert frequency_buckets(counts_of(98, 1, 1, 0), 10).tolist() == [0, 1, 10, 10, 10]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60).filter(any), st.integers(1, 12))
def test_against_a_plain_loop(counts: list[int], buckets: int) -> None:
    found = frequency_buckets(counts_of(*counts), buckets)
    assert found.dtype == np.int32
    assert found.tolist() == [0, *plain_buckets(counts, buckets)]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=200).filter(any))
def test_every_closed_bucket_needs_its_last_item(counts: list[int]) -> None:
    table = counts_of(*counts)
    found, tenth = frequency_buckets(table), table.sum() / 10
    for number in range(1, 10):
        members = table[found == number]
        if len(members):
            assert members.sum() >= tenth > members.sum() - members.min()
    for number in range(1, 10):  # hotter buckets hold nothing rarer than colder ones
        hotter, colder = table[found == number], table[1:][found[1:] > number]
        if len(hotter) and len(colder):
            assert hotter.min() >= colder.max()


def test_counts_are_of_training_sequences() -> None:
    # user 1: items 3 3 5 | 4 2; user 2: item 5 | -; the first event counts, though it is no target
    log = log_of([(1, 3, 4), (2, 5, 4), (1, 3, 4), (1, 5, 4), (1, 4, 4), (1, 2, 4)])
    ends = np.zeros(log.num_users + 1, np.int64)
    ends[1:3] = 3, 1
    assert train_counts(log, ends, 9).tolist() == [0, 0, 0, 2, 0, 2, 0, 0, 0, 0]


ROWS = [(user, f"i{1 + (user * at) % 7}", 10 * at + user, 5) for user in (1, 2, 3) for at in range(8)]


@pytest.mark.parametrize(("kind", "least"), [("temporal", 2), ("leave_last_two", 1), ("ratio", 2), ("given", 5)])
def test_every_split_has_counts_of_each_of_its_parts(tmp_path: Path, kind: str, least: int) -> None:
    """What training met: of a cut by order all that came first, of any other the training part alone."""
    tables = plain_tables(ROWS)
    frame = tables.interactions.with_columns(part=pl.Series(["train", "train", "validation", "test"] * 6))
    schema = tables.schema.model_copy(update={"part": "part"})
    shares = {"ratios": (0.5, 0.25, 0.25)} if kind in ("temporal", "ratio") else {}
    split = SplitConfig.model_validate({"kind": kind, "min_history": least, **shares})
    dataset = Dataset.prepare(Tables("counts", schema, frame), tmp_path / "d", PrepareSettings(split=split))
    log, expected = dataset.log, {}
    for part in ("train", "valid", "test"):
        expected[part] = [0] * 8
        for at in dataset.split[part]:
            expected[part][log.item[at]] += 1
        assert dataset.item_counts(part).tolist() == expected[part]
        assert dataset.item_counts(part).dtype == np.int64
    assert dataset.item_counts().tolist() == expected["train"]
    found = training_counts(dataset)
    assert found.dtype == np.int64
    if kind in ("ratio", "given"):
        assert found.tolist() == expected["train"]
        return
    assert np.array_equal(found, train_counts(log, training_ends(dataset), dataset.num_items))
    held = np.concatenate([dataset.split["valid"], dataset.split["test"]])
    came_first = np.arange(held.min()) if kind == "temporal" else np.setdiff1d(np.arange(24), held)
    assert found.tolist() == np.bincount(log.item[came_first], minlength=8).tolist()
    assert found.sum() > dataset.item_counts().sum()  # each user's first events, too


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_buckets = 0; accepted: 1 or more"):
        frequency_buckets(counts_of(1), 0)
    with pytest.raises(DataError, match="none of the 2 items has a training event"):
        frequency_buckets(counts_of(0, 0))


def test_prime_pantry(tmp_path: Path) -> None:
    if not os.environ.get("BRAIDREC_DATA"):
        pytest.skip("BRAIDREC_DATA is unset: prime-pantry is not at hand")
    tables = read_public("prime-pantry", download=False)
    dataset = Dataset.prepare(tables, tmp_path / "pantry", public_dataset("prime-pantry").settings)
    counts = train_counts(dataset.log, training_ends(dataset), dataset.num_items)
    assert (dataset.num_users, dataset.num_items, len(dataset.log), counts.sum()) == (12_871, 8_347, 115_004, 89_262)
    assert (counts[1:] == 0).sum() == 909
    bucket = frequency_buckets(counts)
    edges = [0, 35, 100, 205, 361, 585, 898, 1357, 2074, 3348, 8347]  # in the authors' code
    assert np.bincount(bucket[1:], minlength=11)[1:].tolist() == np.diff(edges).tolist()
    masses = [int(counts[bucket == number].sum()) for number in range(1, 10)]
    assert min(masses) * 10 >= 89_262
