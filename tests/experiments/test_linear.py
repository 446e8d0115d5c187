"""Closed forms as experiments: their rows resolve, their splits are what is said, committed numbers reach what is marked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from braidrec.data.schema import Schema
from braidrec.data.tables import Tables
from braidrec.experiments.linear import EXPERIMENTS
from braidrec.experiments.material import VARIANTS, texts_of
from braidrec.experiments.shuffled import core_in_parts, shares
from braidrec.files import read_json

RESULTS = Path(__file__).parents[2] / "results"


def test_every_row_resolves_on_a_variant_that_can_be_made() -> None:
    for experiment in EXPERIMENTS:
        [data] = experiment.rows
        for row in experiment.table(data):
            assert row.data in VARIANTS, row.name
            assert row.config().task == "collaborative"
            assert row.reads_text == any(word in row.name for word in ("text-knn", "stack", "regularise")), row.name


def test_shares_are_of_each_user_s_own_pairs() -> None:
    users = np.repeat([7, 8, 9], [10, 4, 3])
    parts = shares(users, np.random.default_rng(0), 0.2)
    for user, held in ((7, 2), (8, 1), (9, 1)):
        own = parts[users == user]
        assert [(own == part).sum() for part in ("test", "valid", "train")] == [held, held, len(own) - 2 * held]
    assert (parts != shares(users, np.random.default_rng(1), 0.2)).any()


def test_a_core_has_enough_of_everybody_and_each_pair_once() -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"user": rng.integers(0, 60, 900), "item": rng.integers(0, 50, 900)})
    items = pl.DataFrame({"item": np.arange(50)})
    tables = Tables("made", Schema(user="user", item="item"), frame, items)
    found = core_in_parts(tables, core=8, seed=0)
    pairs = found.interactions
    assert pairs.select("user", "item").n_unique() == len(pairs)
    for name in ("user", "item"):
        assert pairs[name].value_counts()["count"].min() >= 8
    assert found.items is not None
    assert set(found.items["item"].to_list()) == set(pairs["item"].to_list())
    assert found.schema.part == "part"
    assert tables.schema.part is None


def test_the_texts_of_a_core_are_a_catalogue_of_their_own() -> None:
    assert {texts_of(f"prime-pantry-core-{seed}") for seed in range(3)} == {"prime-pantry-core"}
    assert texts_of("ml-1m-shuffled") == "ml-1m"


@pytest.mark.parametrize(
    ("row", "recall", "ndcg"),
    [
        ("popularity", 0.0318, 0.0182),
        ("item-knn", 0.1582, 0.1095),
        ("turbo-cf", 0.1613, 0.1056),
        ("gf-cf", 0.1680, 0.1100),
        ("ials", 0.1649, 0.1059),
        ("ease", 0.1692, 0.1192),
    ],
)
def test_the_committed_numbers_on_amazon_book_are_within_a_hundredth_of_the_trial(row: str, recall: float, ndcg: float) -> None:
    found = read_json(RESULTS / "linear-amazon-book-rlmrec-amazon-book.json", AssertionError)  # type: ignore[arg-type]
    [entry] = [each for each in found["rows"] if each["row"] == row]
    assert entry["test_recall@20"]["mean"] > 0.99 * recall
    assert entry["test_ndcg@20"]["mean"] > 0.99 * ndcg


def test_what_the_architecture_says_of_low_rank_is_the_committed_number() -> None:
    found = read_json(RESULTS / "linear-amazon-book-rlmrec-amazon-book.json", AssertionError)  # type: ignore[arg-type]
    low, exact = (
        f"{next(each for each in found['rows'] if each['row'] == row)['test_recall@20']['mean']:.4f}"[1:]
        for row in ("ease-rank-512", "ease")
    )
    said = (RESULTS.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert f"at rank 512: Recall@20 {low} against {exact}, `docs/results/linear.md`" in said


def test_on_prime_pantry_text_and_behaviour_together_are_above_each_alone() -> None:
    found = read_json(RESULTS / "linear-prime-pantry-prime-pantry.json", AssertionError)["over_splits"]  # type: ignore[arg-type]
    for encoder in ("tfidf", "minilm"):
        for form in ("stack", "regularise"):
            both = found[f"ease-{form}-{encoder}"]["test_recall@20"]["mean"]
            assert both > 0.127
            assert both > 1.1 * found[f"text-knn-{encoder}"]["test_recall@20"]["mean"]
            assert both > 1.3 * found["ease"]["test_recall@20"]["mean"]
