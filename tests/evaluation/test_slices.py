"""Slices of a small world, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from braidrec.errors import DataError
from braidrec.evaluation.slices import ranking_slices, retrieval_slices


def rows(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_by_hand() -> None:
    # 20 items; training frequency: 1..18 have 20 - item (19, 18, .., 2), 19 has 1, 20 has 0.  Tail = the two rarest: 20, 19.
    train_item = np.repeat(np.arange(1, 21), [*range(19, 1, -1), 1, 0])
    train_user = np.ones(len(train_item), np.int64)
    slices = ranking_slices(rows(1, 2, 1, 3), rows(1, 19, 20, 18), train_user, train_item, 20)
    expected = {
        "all": [1, 1, 1, 1],
        "seen_users": [1, 0, 1, 0],
        "unseen_users": [0, 1, 0, 1],
        "warm_items": [1, 1, 0, 1],
        "cold_items": [0, 0, 1, 0],
        "tail": [0, 1, 1, 0],
        "tail_seen": [0, 1, 0, 0],
    }
    assert list(slices.masks) == list(expected)
    for name, mask in slices.masks.items():
        assert mask.tolist() == [bool(value) for value in expected[name]], name
    assert slices.rows == 4


def test_tail_ties_go_by_item_number() -> None:
    items = np.arange(1, 31)
    slices = ranking_slices(np.ones(30, int), items, rows(1), rows(1), 30)  # all but item 1 never trained
    assert items[slices.masks["tail"]].tolist() == [2, 3, 4]
    assert not slices.masks["tail_seen"].any()


def test_a_tiny_catalogue_has_a_tail_of_one() -> None:
    slices = ranking_slices(rows(1, 1), rows(1, 2), rows(1, 1, 1), rows(1, 1, 2), 2)
    assert slices.masks["tail"].tolist() == [False, True]


def test_tail_ignores_test_frequency() -> None:
    test_item = rows(*[2] * 50, 1)
    slices = ranking_slices(np.ones(51, int), test_item, rows(1, 1), rows(1, 1), 10)
    assert slices.masks["tail"].tolist() == [True] * 50 + [False]  # popular in test, unknown in training


def test_bad_columns_are_refused() -> None:
    with pytest.raises(DataError, match=r"test rows: row 1 has item 4; accepted: 1\.\.3"):
        ranking_slices(rows(1, 1), rows(1, 4), rows(1), rows(1), 3)
    with pytest.raises(DataError, match=r"train rows: row 0 has item 0"):
        ranking_slices(rows(1), rows(1), rows(1), rows(0), 3)
    with pytest.raises(DataError, match=r"train rows: users have shape \(2,\), items \(1,\)"):
        ranking_slices(rows(1), rows(1), rows(1, 2), rows(1), 3)


def test_retrieval_slices_by_hand() -> None:
    # items 1..6 with 51, 50, 7, 6, 1, 0 training events, two to a bucket
    counts, bucket = rows(0, 51, 50, 7, 6, 1, 0), rows(0, 1, 1, 2, 2, 3, 3)
    slices = retrieval_slices(rows(6, 5, 4, 3, 2, 1, 1), counts, bucket)
    expected = {
        "all": [1, 1, 1, 1, 1, 1, 1],
        "warm": [0, 0, 0, 0, 0, 1, 1],
        "median": [0, 0, 0, 1, 1, 0, 0],
        "cold": [1, 1, 1, 0, 0, 0, 0],
        "unseen": [1, 0, 0, 0, 0, 0, 0],
        "bucket_1": [0, 0, 0, 0, 1, 1, 1],
        "bucket_2": [0, 0, 1, 1, 0, 0, 0],
        "bucket_3": [1, 1, 0, 0, 0, 0, 0],
    }
    assert list(slices.masks) == list(expected)
    for name, mask in slices.masks.items():
        assert mask.tolist() == [bool(value) for value in expected[name]], name
    assert list(retrieval_slices(rows(1), counts).masks) == ["all", "warm", "median", "cold", "unseen"]


def test_bad_retrieval_columns_are_refused() -> None:
    with pytest.raises(DataError, match=r"row 1 has item 3; accepted: 1\.\.2"):
        retrieval_slices(rows(1, 3), rows(0, 5, 5))
    with pytest.raises(DataError, match=r"row 0 has item 0"):
        retrieval_slices(rows(0), rows(0, 5, 5))
    with pytest.raises(DataError, match=r"bucket has shape \(2,\), train_counts \(3,\)"):
        retrieval_slices(rows(1), rows(0, 5, 5), rows(0, 1))
