"""The three rankings without learning: by hand, against plain loops, and their digits on Prime Pantry."""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braidrec.data.dataset import Dataset
from braidrec.data.intake.sources import public_dataset, read_public
from braidrec.data.popularity import frequency_buckets, train_counts
from braidrec.data.sequences import training_ends, training_events
from braidrec.errors import DataError
from braidrec.evaluation.retrieval import RetrievalRows, Scorer, rank_targets
from braidrec.evaluation.retrieval_report import gains
from braidrec.evaluation.sequential_baselines import ItemKNN, Markov, Popularity, sequential_baselines
from braidrec.evaluation.slices import retrieval_slices

Train = list[list[int]]  # one training sequence per user


def columns(train: Train) -> tuple[np.ndarray, np.ndarray]:
    user = np.repeat(np.arange(1, len(train) + 1), [len(sequence) for sequence in train])
    return user.astype(np.int32), np.array([item for sequence in train for item in sequence], np.int32)


def rows_of(pasts: list[list[int]], num_items: int) -> RetrievalRows:
    last = np.cumsum([len(past) for past in pasts], dtype=np.int64)
    first = last - [len(past) for past in pasts]
    flat = np.array([item for past in pasts for item in past], np.int32)
    one = np.ones(len(pasts), np.int32)
    return RetrievalRows.single(one, one, flat, first, last, num_items)


def scores(scorer: Scorer, rows: RetrievalRows) -> np.ndarray:
    found = scorer.scores(np.arange(len(rows)))
    return found.numpy()


TRAIN = [[1, 2, 2, 3], [2, 3, 1], [4, 2], [5]]  # popularity 2 4 2 1 1, items 6 and 7 never met


def test_popularity_by_hand() -> None:
    rows = rows_of([[1], []], 7)
    assert scores(Popularity(rows, *columns(TRAIN)), rows).tolist() == [[0, 2, 4, 2, 1, 1, 0, 0]] * 2


def test_markov_by_hand() -> None:
    rows = rows_of([[5, 2], [2, 1], [6], []], 7)
    found = scores(Markov(rows, *columns(TRAIN)), rows)
    prior = np.array([0, 2, 4, 2, 1, 1, 0, 0]) / 5
    follows = np.zeros((4, 8))
    follows[0, [2, 3]] = 1, 2  # 2 -> 2 once, 2 -> 3 by users 1 and 2
    follows[1, 2] = 1  # 1 ends user 2's sequence; user 3's first item does not follow it
    np.testing.assert_allclose(found, follows + prior, rtol=1e-6)


def test_item_knn_by_hand() -> None:
    rows = rows_of([[1, 2], [2, 2], [4, 6], []], 7)
    found = scores(ItemKNN(rows, *columns(TRAIN)), rows)
    # users with the item: 1 {1 2}, 2 {1 2 3}, 3 {1 2}, 4 {3}, 5 {4}
    s12 = s32 = 2 / math.sqrt(2 * 3)
    s13, s42 = 2 / math.sqrt(2 * 2), 1 / math.sqrt(1 * 3)
    expected = np.zeros((4, 8))
    expected[0, [1, 2, 3, 4]] = s12, s12, s13 + s32, s42
    expected[1, [1, 3, 4]] = 2 * s12, 2 * s32, 2 * s42  # a repeated input counts twice
    expected[2, 2] = s42
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_item_knn_reads_the_last_inputs_only() -> None:
    rows = rows_of([[1] + [5] * 20, [1] + [5] * 19], 7)
    found = scores(ItemKNN(rows, *columns(TRAIN)), rows)
    assert not found[0].any()  # nobody met item 5 with another
    assert found[1].any()
    assert scores(ItemKNN(rows, *columns(TRAIN), length=21), rows)[0].any()


@settings(deadline=None, max_examples=60)
@given(
    train=st.lists(st.lists(st.integers(1, 9), max_size=8), min_size=1, max_size=8).filter(any),
    pasts=st.lists(st.lists(st.integers(1, 9), max_size=30), min_size=1, max_size=5),
)
def test_against_plain_loops(train: Train, pasts: list[list[int]]) -> None:
    rows = rows_of(pasts, 9)
    popularity, knn, markov = (scores(baseline, rows) for baseline in sequential_baselines(rows, *columns(train)))
    count = [sum(sequence.count(item) for sequence in train) for item in range(10)]
    holders = [{user for user, sequence in enumerate(train) if item in sequence} for item in range(10)]
    follows = {(a, b): 0 for a in range(10) for b in range(10)}
    for sequence in train:
        for pair in itertools.pairwise(sequence):
            follows[pair] += 1

    def similarity(x: int, j: int) -> float:
        both = len(holders[x] & holders[j])
        return 0.0 if x == j or not both else both / math.sqrt(len(holders[x]) * len(holders[j]))

    for row, past in enumerate(pasts):
        for item in range(1, 10):
            assert popularity[row, item] == count[item]
            assert knn[row, item] == pytest.approx(sum(similarity(x, item) for x in past[-20:]), rel=1e-6)
            after = follows[past[-1], item] if past else 0
            assert markov[row, item] == pytest.approx(after + count[item] / (max(count) + 1), rel=1e-6)


def test_names_and_order() -> None:
    found = sequential_baselines(rows_of([[1]], 7), *columns(TRAIN))
    assert [baseline.name for baseline in found] == ["popularity", "item-kNN", "Markov"]


def test_scores_may_be_written_over() -> None:
    rows = rows_of([[2], [2]], 7)
    for baseline in sequential_baselines(rows, *columns(TRAIN)):
        before = scores(baseline, rows).copy()
        baseline.scores(np.arange(2)).fill_(-1)
        assert np.array_equal(scores(baseline, rows), before), baseline.name


@pytest.mark.parametrize("baseline", [Popularity, ItemKNN, Markov, sequential_baselines])
def test_no_training_events_are_refused(baseline: type[Popularity | ItemKNN | Markov]) -> None:
    user, item = columns(TRAIN)
    with pytest.raises(DataError, match="0 users, 0 items; accepted: as many of each, at least one"):
        baseline(rows_of([[1]], 7), *columns([[]]))
    with pytest.raises(DataError, match="8 users, 10 items; accepted: as many of each"):
        baseline(rows_of([[1]], 7), user[2:], item)


def test_prime_pantry(tmp_path: Path) -> None:
    if not os.environ.get("BRAIDREC_DATA"):
        pytest.skip("BRAIDREC_DATA is unset: prime-pantry is not at hand")
    tables = read_public("prime-pantry", download=False)
    dataset = Dataset.prepare(tables, tmp_path / "pantry", public_dataset("prime-pantry").settings)
    log, ends = dataset.log, training_ends(dataset)
    counts = train_counts(log, ends, dataset.num_items)
    assert (len(np.flatnonzero(counts[1:] <= 6)), len(np.flatnonzero(counts > 50))) == (5_535, 328)

    rows = RetrievalRows.of(log, dataset.split["test"], dataset.num_items)
    slices = retrieval_slices(rows.item, counts, frequency_buckets(counts))
    sizes = {name: int(mask.sum()) for name, mask in slices.masks.items()}
    assert [sizes[name] for name in ("all", "cold", "median", "warm", "unseen")] == [12_871, 4_421, 5_850, 2_600, 813]
    per_bucket = [530, 662, 726, 806, 896, 1_062, 1_193, 1_344, 1_847, 3_805]
    assert [sizes[f"bucket_{number}"] for number in range(1, 11)] == per_bucket

    found = []
    for baseline in sequential_baselines(rows, *training_events(log, ends)):
        ranking = rank_targets(baseline, rows)
        hits, gain = gains(ranking.rank, "hr", 10), gains(ranking.rank, "ndcg", 10)
        found.append((baseline.name, int(hits.sum()), f"{100 * hits.mean():.4f}", f"{100 * gain.mean():.4f}"))
        assert ranking.masked.sum() == 336
        listed = (ranking.top == rows.item[:, None]).any(axis=1)
        assert np.array_equal(listed, ranking.rank <= 10)  # lists and ranks tell the same story
    assert found == [
        ("popularity", 58, "0.4506", "0.2250"),
        ("item-kNN", 392, "3.0456", "1.7523"),
        ("Markov", 555, "4.3120", "2.9102"),
    ]

    valid = RetrievalRows.of(log, dataset.split["valid"], dataset.num_items)
    assert rank_targets(Popularity(valid, *training_events(log, ends)), valid).masked.sum() == 454
