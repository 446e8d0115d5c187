"""Pairs on a toy log worked by hand, and their promises on random logs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braidrec.errors import ConfigError, DataError
from braidrec.insight.pairs import Pairs, pairs_of

# users own [1 2 3], [4 1], [] and [2 5]; targets 4, 3, 1 and none; bucket 1: items 1 2, bucket 2: items 3 4 5
ITEMS, START = np.array([1, 2, 3, 4, 1, 2, 5], np.int32), np.array([0, 3, 5, 5, 7])
TARGET, BUCKET = np.array([4, 3, 1, 0], np.int32), np.array([0, 1, 1, 2, 2, 2], np.int32)


def table(pairs: Pairs) -> list[tuple[int, int, int]]:
    return sorted(zip(pairs.behaviour.tolist(), pairs.item.tolist(), pairs.bucket.tolist(), strict=True))


def random_log(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Users of 0 to 7 items, some of them padding, with repeats; most have a target; 12 items in 3 buckets."""
    rng = np.random.default_rng(seed)
    start = np.concatenate([[0], np.cumsum(rng.integers(0, 8, 30))])
    items = rng.integers(0, 13, start[-1]).astype(np.int32)
    target = np.where(rng.random(30) < 0.8, rng.integers(1, 13, 30), 0).astype(np.int32)
    return items, start, target, np.concatenate([[0], rng.permutation(np.repeat([1, 2, 3], 4))]).astype(np.int32)


def test_val_target_by_hand() -> None:
    # of bucket 2, user 0 met 3 and aims at 4: q = 5; user 1 met 4 and aims at 3: q = 5; user 2 trains on nothing
    expected = [(1, 4, 2), (2, 4, 2), (3, 4, 2), (1, 5, 2), (2, 5, 2), (3, 5, 2), (4, 3, 2), (1, 3, 2), (4, 5, 2), (1, 5, 2)]
    pairs = pairs_of(ITEMS, START, TARGET, BUCKET)
    assert table(pairs) == sorted(expected)
    assert [column.dtype for column in (pairs.behaviour, pairs.item, pairs.bucket)] == [np.int32] * 3


def test_all_prefixes_by_hand() -> None:
    expected = [(1, 2, 1), (1, 3, 2), (2, 3, 2), (1, 4, 2), (2, 4, 2), (3, 4, 2), (4, 1, 1), (4, 3, 2), (1, 3, 2), (2, 5, 2)]
    assert table(pairs_of(ITEMS, START, TARGET, BUCKET, kind="all_prefixes")) == sorted(expected)


def test_padding_makes_no_pair_wherever_it_stands() -> None:
    padded, start = np.array([0, 1, 2, 3, 0, 0, 4, 1, 0, 0, 0, 0, 0, 0, 2, 5], np.int32), np.array([0, 4, 8, 12, 16])
    for kind in ("val_target", "all_prefixes"):
        assert table(pairs_of(padded, start, TARGET, BUCKET, kind=kind)) == table(
            pairs_of(ITEMS, START, TARGET, BUCKET, kind=kind)
        )


def test_training_ends_before_the_history_does() -> None:
    # one user owns [1 3 4 2]: trains on 1 3, aims at 4; q avoids 3 and the target 4
    items, start, target = np.array([1, 3, 4, 2]), np.array([0, 4]), np.array([4])
    pairs = pairs_of(items, start, target, BUCKET, train_end=np.array([2]))
    assert table(pairs) == [(1, 4, 2), (1, 5, 2), (3, 4, 2), (3, 5, 2)]
    pairs = pairs_of(items, start, target, BUCKET, train_end=np.array([2]), kind="all_prefixes")
    assert table(pairs) == [(1, 3, 2), (1, 4, 2), (3, 4, 2)]


def test_the_history_that_q_avoids_can_be_cut() -> None:
    # owns [1 4 5], aims at 3, trains on 1: the whole history leaves bucket 2 no item, up to the first item it leaves 4 and 5
    def others(history_end: list[int] | None, seed: int) -> set[int]:
        end = None if history_end is None else np.array(history_end)
        pairs = pairs_of(
            np.array([1, 4, 5]), np.array([0, 3]), np.array([3]), BUCKET, train_end=np.array([1]), history_end=end, seed=seed
        )
        return {int(item) for item in pairs.item} - {3}

    assert others(None, 0) == set()
    assert others([2], 0) == {5}
    assert set.union(*(others([1], seed) for seed in range(20))) == {4, 5}


def test_q_is_uniform_over_what_is_left() -> None:
    # 10 items in one bucket; met 2 and 7, aims at 5: seven items are left
    users, bucket = 7000, np.array([0, *[1] * 10])
    pairs = pairs_of(np.tile([2, 7], users), np.arange(users + 1) * 2, np.full(users, 5), bucket)
    drawn = Counter(pairs.item[pairs.item != 5].tolist())
    assert set(drawn) == {1, 3, 4, 6, 8, 9, 10}
    assert sum(drawn.values()) == 2 * users  # the same q beside both behaviours
    expected = 2 * users / 7
    assert sum((count - expected) ** 2 for count in drawn.values()) / (2 * expected) < 22.5  # chi square, 6 d.f., p = .001


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_val_target_on_random_logs(seed: int) -> None:
    items, start, target, bucket = random_log(seed)
    got = Counter(table(pairs_of(items, start, target, bucket, seed=seed)))
    others_of = []
    for user in range(30):
        seen = [int(item) for item in items[start[user] : start[user + 1]] if item]
        if not target[user]:
            continue
        home = int(bucket[target[user]])
        got.subtract((item, int(target[user]), home) for item in seen)
        left = set(np.flatnonzero(bucket == home).tolist()) - {*seen, int(target[user])}
        if left and seen:
            others_of.append((seen, left, home))
    # what remains are the pairs with q: as many as there are behaviours of users whose bucket has an item left
    assert min(got.values(), default=0) >= 0
    assert got.total() == sum(len(seen) for seen, _, _ in others_of)
    for behaviour, other, home in got.elements():
        assert any(behaviour in seen and other in left and home == its for seen, left, its in others_of)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_all_prefixes_on_random_logs(seed: int) -> None:
    items, start, target, bucket = random_log(seed)
    expected = []
    for user in range(30):
        path = [int(item) for item in (*items[start[user] : start[user + 1]], target[user]) if item]
        expected += [(a, b, int(bucket[b])) for place, b in enumerate(path) for a in path[:place]]
    # without a target the last item of the path is the last training item, which the loop above pairs just the same
    assert table(pairs_of(items, start, target, bucket, kind="all_prefixes")) == sorted(expected)


@pytest.mark.parametrize("kind", ["val_target", "all_prefixes"])
def test_same_seed_same_pairs_and_the_limit_holds(kind: str) -> None:
    items, start, target, bucket = random_log(1)
    full = pairs_of(items, start, target, bucket, kind=kind, seed=3)
    few = pairs_of(items, start, target, bucket, kind=kind, seed=3, limit=20)
    again = pairs_of(items, start, target, bucket, kind=kind, seed=3, limit=20)
    assert len(few) == 20 < len(full)
    assert table(few) == table(again)
    np.testing.assert_array_equal(few.behaviour, again.behaviour)
    assert Counter(table(few)) <= Counter(table(full))  # without replacement, and of the same q
    assert table(pairs_of(items, start, target, bucket, kind=kind, seed=4, limit=20)) != table(few)
    assert table(pairs_of(items, start, target, bucket, kind=kind, seed=3, limit=len(full))) == table(full)


def test_the_sample_is_uniform() -> None:
    # three users of 1, 2 and 3 behaviours in a bucket of one item: 6 pairs, each in half of the samples of 3
    items, start, target = np.arange(1, 7), np.array([0, 1, 3, 6]), np.array([7, 7, 7])
    bucket = np.array([0, *[1] * 6, 2])
    drawn = Counter(
        int(item) for seed in range(2000) for item in pairs_of(items, start, target, bucket, limit=3, seed=seed).behaviour
    )
    assert all(abs(drawn[item] - 1000) < 100 for item in range(1, 7))  # 4.5 standard errors


def test_many_pairs_are_never_listed() -> None:
    # one user of 200,000 items has 2 * 10^10 pairs
    items = np.arange(200_000, dtype=np.int32) % 5 + 1
    pairs = pairs_of(items, np.array([0, len(items)]), np.array([0]), BUCKET, kind="all_prefixes", limit=1000)
    assert len(pairs) == 1000


def test_no_pairs_at_all() -> None:
    assert len(pairs_of(ITEMS, START, np.zeros(4, np.int32), BUCKET)) == 0
    assert len(pairs_of(np.array([], np.int32), np.array([0]), np.array([], np.int32), BUCKET, kind="all_prefixes")) == 0


def test_a_selection() -> None:
    pairs = pairs_of(ITEMS, START, TARGET, BUCKET, kind="all_prefixes")
    assert table(pairs.where(pairs.bucket == 1)) == [(1, 2, 1), (4, 1, 1)]
    with pytest.raises(DataError, match=r"mask is bool of shape \(3,\); accepted: bool \(10,\)"):
        pairs.where(np.ones(3, bool))
    with pytest.raises(DataError, match=r"mask is int64"):
        pairs.where(np.arange(10))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"kind = 'all_prefix' is unknown \(did you mean 'all_prefixes'\?\)"):
        pairs_of(ITEMS, START, TARGET, BUCKET, kind="all_prefix")
    with pytest.raises(ConfigError, match="limit = 0; accepted: at least 1"):
        pairs_of(ITEMS, START, TARGET, BUCKET, limit=0)
    with pytest.raises(DataError, match=r"items\[1\] = 6; accepted: 0\.\.5"):
        pairs_of(np.array([1, 6, 3, 4, 1, 2, 5]), START, TARGET, BUCKET)
    with pytest.raises(DataError, match=r"target\[2\] = -1; accepted: 0\.\.5"):
        pairs_of(ITEMS, START, np.array([4, 3, -1, 0]), BUCKET)
    with pytest.raises(DataError, match=r"have shapes \(7,\), \(4,\), \(4,\)"):
        pairs_of(ITEMS, START[:-1], TARGET, BUCKET)
    with pytest.raises(DataError, match=r"start must rise from at least 0 to at most 7"):
        pairs_of(ITEMS, np.array([0, 3, 2, 5, 7]), TARGET, BUCKET)
    with pytest.raises(DataError, match=r"train_end\[1\] = 6; accepted: 3\.\.5"):
        pairs_of(ITEMS, START, TARGET, BUCKET, train_end=np.array([3, 6, 5, 7]))
    with pytest.raises(DataError, match=r"history_end has shape \(3,\); accepted: \(4,\)"):
        pairs_of(ITEMS, START, TARGET, BUCKET, history_end=np.array([3, 5, 5]))
    with pytest.raises(DataError, match=r"bucket must be \(I \+ 1,\) with bucket\[0\] = 0"):
        pairs_of(ITEMS, START, TARGET, np.array([0, 1, 1, 0, 2, 2]))
    with pytest.raises(DataError, match=r"have shapes \(2,\), \(1,\), \(1,\)"):
        Pairs(np.array([1, 2], np.int32), np.array([1], np.int32), np.array([1], np.int32))
