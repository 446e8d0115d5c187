"""Ranks and lists against a plain loop: ties, masks, candidates, any block size, and what is no number."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from braidrec.data.log import InteractionLog
from braidrec.errors import DataError
from braidrec.evaluation import retrieval
from braidrec.evaluation.retrieval import Ranking, RetrievalRows, best, rank_targets

INF = math.inf


class Table:
    """Scores from a fixed matrix (N, I + 1); remembers the sizes it was asked for."""

    def __init__(self, scores: object):
        self.table = torch.as_tensor(scores, dtype=torch.float32)
        self.asked: list[int] = []

    def scores(self, rows: np.ndarray) -> Tensor:
        self.asked.append(len(rows))
        return self.table[torch.from_numpy(rows)]


def rows_of(targets: list[int], pasts: list[list[int]], num_items: int) -> RetrievalRows:
    lengths = np.array([len(past) for past in pasts], np.int64)
    last = np.cumsum(lengths)
    flat = np.array([item for past in pasts for item in past], np.int32)
    users = np.arange(100, 100 + len(targets), dtype=np.int32)
    return RetrievalRows.single(users, np.array(targets, np.int32), flat, last - lengths, last, num_items)


def plain(
    table: Tensor, targets: list[int], pasts: list[list[int]], top: int, allowed: set[int], seen: bool, target_too: bool
) -> tuple[list[int], list[list[int]], list[bool]]:
    """Ranks, lists and masked flags by sorting each row's candidates in Python."""
    ranks, lists, masked = [], [], []
    for row, (target, past) in enumerate(zip(targets, pasts, strict=True)):
        score = table[row].tolist()
        barred = set(past) - (set() if target_too else {target}) if seen else set()
        pool = [item for item in range(1, len(score)) if item in allowed and item not in barred and score[item] > -INF]
        pool.sort(key=lambda item: (-score[item], item))
        masked.append(target not in pool)
        ranks.append(pool.index(target) + 1 if target in pool else len(score) - 1)
        lists.append((pool + [0] * top)[:top])
    return ranks, lists, masked


def assert_equal(found: Ranking, expected: tuple[list[int], list[list[int]], list[bool]]) -> None:
    assert found.rank.tolist() == expected[0]
    assert found.top.tolist() == expected[1]
    assert found.masked.tolist() == expected[2]
    assert (found.rank.dtype, found.top.dtype, found.masked.dtype) == (np.int64, np.int32, np.bool_)


def test_ties_by_hand() -> None:
    # items 1..5 score 2 7 7 7 1; padding scores highest and is ignored
    table = Table([[99, 2, 7, 7, 7, 1]] * 5)
    found = rank_targets(table, rows_of([1, 2, 3, 4, 5], [[]] * 5, 5), top=2)
    assert found.rank.tolist() == [4, 1, 2, 3, 5]
    assert found.top.tolist() == [[2, 3]] * 5  # the tie across the second place goes to the smaller number
    assert not found.masked.any()


def test_all_equal_scores_rank_by_number() -> None:
    # what popularity gives to a cold tail, and the longest way through the ties
    found = rank_targets(Table(np.zeros((3, 2_001))), rows_of([1, 1_000, 2_000], [[], [], [7]], 2_000), top=3)
    assert found.rank.tolist() == [1, 1_000, 1_999]
    assert found.top.tolist() == [[1, 2, 3]] * 3


def test_seen_items_by_hand() -> None:
    table, rows = Table([[0, 5, 4, 3, 2]] * 3), rows_of([4, 2, 3], [[1, 1], [2, 1], []], 4)
    found = rank_targets(table, rows, top=4)
    assert found.rank.tolist() == [3, 4, 3]  # the second target was met before: last, whatever its score
    assert found.top.tolist() == [[2, 3, 4, 0], [3, 4, 0, 0], [1, 2, 3, 4]]
    assert found.masked.tolist() == [False, True, False]
    spared = rank_targets(table, rows, mask_target_if_seen=False, top=4)
    assert spared.rank.tolist() == [3, 1, 3]
    assert spared.top.tolist() == [[2, 3, 4, 0], [2, 3, 4, 0], [1, 2, 3, 4]]
    assert not spared.masked.any()
    for spare in (False, True):
        free = rank_targets(table, rows, mask_seen=False, mask_target_if_seen=spare, top=4)
        assert free.rank.tolist() == [4, 2, 3]
        assert free.top.tolist() == [[1, 2, 3, 4]] * 3


def test_rows_without_candidates() -> None:
    rows = rows_of([2, 1], [[1, 2, 3], []], 3)
    found = rank_targets(Table([[0, 1, 2, 3], [0, -INF, 5, -INF]]), rows, top=2)
    assert found.rank.tolist() == [3, 3]  # a model that gives -inf says "no candidate", too
    assert found.top.tolist() == [[0, 0], [2, 0]]
    assert found.masked.tolist() == [True, True]
    none = rank_targets(Table(np.ones((2, 4))), rows_of([1, 2], [[], []], 3), candidates=np.zeros(4, bool), top=2)
    assert (none.rank.tolist(), none.top.tolist(), none.masked.tolist()) == ([3, 3], [[0, 0], [0, 0]], [True, True])


def test_candidates_by_hand() -> None:
    allowed = np.array([True, False, True, True, False])  # padding stays out even when allowed
    found = rank_targets(Table([[9, 5, 4, 3, 2]] * 3), rows_of([3, 1, 2], [[], [], [3]], 4), candidates=allowed, top=3)
    assert found.rank.tolist() == [2, 4, 1]
    assert found.top.tolist() == [[2, 3, 0], [2, 3, 0], [2, 0, 0]]
    assert found.masked.tolist() == [False, True, False]


def test_lists_longer_than_the_catalogue_and_none_at_all() -> None:
    table, rows = Table([[0, 1, 3, 2]]), rows_of([3], [[]], 3)
    assert rank_targets(table, rows, top=5).top.tolist() == [[2, 3, 1, 0, 0]]
    bare = rank_targets(table, rows, top=0)
    assert (bare.rank.tolist(), bare.top.shape) == ([2], (1, 0))


def test_no_rows() -> None:
    found = rank_targets(Table(np.zeros((0, 4))), rows_of([], [], 3), top=2)
    assert (found.rank.shape, found.top.shape, found.masked.shape) == ((0,), (0, 2), (0,))


# Few distinct values make ties everywhere; -0.0 equals 0.0; widths around 32, 32 k and 1,024 k cross the levels of the groups.
VALUES = np.array([-INF, -2.5, -0.0, 0.0, 1e-40, 1.0, 3.0, INF], np.float32)
NARROW = st.sampled_from([0, retrieval.NARROW])  # groups for every width, or for none of these


@settings(deadline=None, max_examples=120)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_items=st.one_of(st.integers(1, 70), st.sampled_from([95, 96, 320, 1_023, 1_024, 1_100, 2_500])),
    top=st.sampled_from([0, 1, 2, 3, 10]),
    distinct=st.booleans(),
    seen=st.booleans(),
    target_too=st.booleans(),
    restrict=st.booleans(),
    narrow=NARROW,
)
def test_against_sorting(
    seed: int, num_items: int, top: int, distinct: bool, seen: bool, target_too: bool, restrict: bool, narrow: int
) -> None:
    rng = np.random.default_rng(seed)
    count = 5
    shape = (count, num_items + 1)
    table = rng.normal(size=shape).astype(np.float32) if distinct else rng.choice(VALUES, size=shape)
    targets = rng.integers(1, num_items + 1, count).tolist()
    pasts = [rng.integers(1, num_items + 1, rng.integers(0, 12)).tolist() for _ in range(count)]
    allowed = rng.random(num_items + 1) < 0.7 if restrict else None
    scorer = Table(table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "NARROW", narrow)
        found = rank_targets(
            scorer,
            rows_of(targets, pasts, num_items),
            mask_seen=seen,
            mask_target_if_seen=target_too,
            candidates=allowed,
            top=top,
        )
    pool = set(range(num_items + 1)) if allowed is None else set(np.flatnonzero(allowed).tolist())
    assert_equal(found, plain(scorer.table, targets, pasts, top, pool, seen, target_too))


@pytest.mark.parametrize("narrow", [0, retrieval.NARROW])
@pytest.mark.parametrize("top", [1, 3, 10])
@pytest.mark.parametrize("num_items", [31, 32, 64, 320, 330, 1_030, 2_500])
def test_the_best_stand_at_either_end(monkeypatch: pytest.MonkeyPatch, num_items: int, top: int, narrow: int) -> None:
    monkeypatch.setattr(retrieval, "NARROW", narrow)
    # the last group is seldom full: what lies beyond the catalogue must not be listed
    rising = np.arange(num_items + 1)
    found = rank_targets(Table(np.stack([rising, -rising])), rows_of([num_items, 1], [[], []], num_items), top=top)
    assert found.top.tolist() == [list(range(num_items, num_items - top, -1)), list(range(1, top + 1))]
    assert found.rank.tolist() == [1, 1]


@pytest.mark.parametrize("cells", [1, 5_000, 1 << 24])
def test_the_size_of_the_comparison_changes_nothing(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    monkeypatch.setattr(retrieval, "CPU_CELLS", cells)
    rng = np.random.default_rng(1)
    table, targets = rng.integers(0, 40, (30, 701)), rng.integers(1, 701, 30).tolist()
    pasts = [rng.integers(1, 701, 9).tolist() for _ in range(30)]
    found = rank_targets(Table(table), rows_of(targets, pasts, 700))
    assert_equal(found, plain(Table(table).table, targets, pasts, 10, set(range(701)), True, True))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_the_size_of_the_blocks_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, num_items = 150, 400
    table = Table(rng.integers(-5, 6, (count, num_items + 1)))
    pasts = [rng.integers(1, num_items + 1, rng.integers(0, 30)).tolist() for _ in range(count)]
    rows = rows_of(rng.integers(1, num_items + 1, count).tolist(), pasts, num_items)
    whole = rank_targets(table, rows)
    for size in (1, 7, 64):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(retrieval, "BLOCK_ROWS", size)
            table.asked.clear()
            part = rank_targets(table, rows)
        assert max(table.asked) == size
        for name in ("rank", "top", "masked"):
            assert np.array_equal(getattr(part, name), getattr(whole, name)), (size, name)


def test_the_budget_bounds_the_block() -> None:
    table = Table(np.random.default_rng(0).normal(size=(100, 2_001)))
    rows = rows_of([1] * 100, [[]] * 100, 2_000)
    whole = rank_targets(table, rows)
    assert table.asked == [100]
    table.asked.clear()
    small = rank_targets(table, rows, budget_bytes=300_000)
    assert sum(table.asked) == 100
    assert 5 <= max(table.asked) < 300_000 // (4 * 2_001)  # the scores alone take 8 KB a row
    assert np.array_equal(small.rank, whole.rank)
    table.asked.clear()
    rank_targets(table, rows, budget_bytes=1)
    assert table.asked == [1] * 100


def test_a_fused_scorer_equals_a_loop_over_items() -> None:
    # PAD: three experts, each item by the gate of its own bucket; weights of 1/8 keep every product and sum exact
    rng = np.random.default_rng(4)
    count, num_items, dim = 40, 300, 6
    users = torch.from_numpy(rng.integers(-3, 4, (3, count, dim))).float()
    items = torch.from_numpy(rng.integers(-3, 4, (3, num_items + 1, dim))).float()
    bucket = torch.from_numpy(rng.integers(1, 11, num_items + 1))
    gate = torch.from_numpy(rng.integers(1, 9, (3, 11))).float() / 8

    class Fused:
        def scores(self, rows: np.ndarray) -> Tensor:
            own = users[:, torch.from_numpy(rows)]
            return sum(gate[expert, bucket] * (own[expert] @ items[expert].T) for expert in range(3))  # type: ignore[return-value]

    targets = rng.integers(1, num_items + 1, count).tolist()
    pasts = [rng.integers(1, num_items + 1, 8).tolist() for _ in range(count)]
    loop = torch.zeros(count, num_items + 1)
    for row in range(count):
        for item in range(1, num_items + 1):
            for expert in range(3):
                loop[row, item] += gate[expert, bucket[item]] * (users[expert, row] * items[expert, item]).sum()
    found = rank_targets(Fused(), rows_of(targets, pasts, num_items))
    assert_equal(found, plain(loop, targets, pasts, 10, set(range(num_items + 1)), True, True))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("top", [0, 10])
@pytest.mark.parametrize("num_items", [8, 3_000])
def test_nan_is_refused(num_items: int, top: int, sign: float) -> None:
    table = np.zeros((1_500, num_items + 1), np.float32)
    table[:, 0] = np.nan  # padding may hold anything
    rows = rows_of([1] * 1_500, [[5]] * 1_500, num_items)
    table[3, 5] = np.nan  # so may what the user met
    rank_targets(Table(table), rows, top=top)
    table[1_207, num_items] = np.copysign(np.nan, sign)
    with pytest.raises(DataError, match=rf"evaluation row 1207 \(user 1307\): the score of item {num_items} is nan"):
        rank_targets(Table(table), rows, top=top)


def test_wrong_scores_are_refused() -> None:
    rows = rows_of([1, 2], [[], []], 3)
    with pytest.raises(DataError, match=r"gave \(2, 3\) of torch\.float32; accepted: \(2, 4\) of torch\.float32"):
        rank_targets(Table(np.zeros((2, 3))), rows)

    class Double:
        def scores(self, rows: np.ndarray) -> Tensor:
            return torch.zeros(len(rows), 4, dtype=torch.float64)

    with pytest.raises(DataError, match=r"of torch\.float64; accepted"):
        rank_targets(Double(), rows)
    with pytest.raises(DataError, match=r"candidates has shape \(3,\); accepted: \(4,\)"):
        rank_targets(Table(np.zeros((2, 4))), rows, candidates=np.ones(3, bool))


def test_scores_with_a_graph_or_in_columns_are_taken() -> None:
    weights = torch.nn.Parameter(torch.tensor([[0.0, 1, 3, 2], [0, 3, 2, 1]]).T.contiguous())

    class Model:
        def scores(self, rows: np.ndarray) -> Tensor:
            return (weights * 1)[:, torch.from_numpy(rows)].T

    assert rank_targets(Model(), rows_of([3, 3], [[], [1]], 3)).rank.tolist() == [2, 2]
    assert weights[0].tolist() == [0, 0]  # written over: the copy, not the model


def log_of(user: list[int], item: list[int]) -> InteractionLog:
    count, ones = len(user), np.ones(len(user), np.float32)
    columns = np.array(user, np.int32), np.array(item, np.int32), np.arange(count)
    return InteractionLog.build(*columns, ones, ones, None, np.ones(count, np.int32), max(user))


def test_rows_of_a_log() -> None:
    log = log_of([1, 2, 1, 1, 2], [4, 4, 2, 4, 1])
    rows = RetrievalRows.of(log, np.array([0, 3, 4]), 4)
    assert (rows.user.tolist(), rows.item.tolist(), len(rows)) == ([1, 1, 2], [4, 4, 1], 3)
    owner, past = rows.past(np.array([2, 0, 1]))
    assert (owner.tolist(), past.tolist()) == ([0, 2, 2], [4, 4, 2])
    owner, past = rows.past(np.array([2, 0, 1]), length=1)
    assert (owner.tolist(), past.tolist()) == ([0, 2], [4, 2])


def test_bad_rows_are_refused() -> None:
    with pytest.raises(DataError, match=r"targets\[1\] is 0; accepted: 1\.\.3"):
        rows_of([1, 0], [[], []], 3)
    with pytest.raises(DataError, match=r"past_items\[2\] is 4; accepted: 0\.\.3"):
        rows_of([1, 2], [[1], [2, 4]], 3)
    good = rows_of([1, 2], [[1], [2, 3]], 3)
    with pytest.raises(DataError, match=r"the past of row 1 is 1\.\.4; accepted: a stretch of the 3 past items"):
        RetrievalRows.single(good.user, good.item, good.past_items, good.first, good.last + np.array([0, 1]), 3)
    with pytest.raises(DataError, match=r"'first': \(1,\)"):
        RetrievalRows.single(good.user, good.item, good.past_items, good.first[:1], good.last, 3)
    with pytest.raises(DataError, match=r"user has shape \(2,\), item \(1,\)"):
        RetrievalRows.single(good.user, good.item[:1], good.past_items, good.first, good.last, 3)


# -- several targets, and what is barred ----------------------------------------------------------------------------------


def many_of(targets: list[list[int]], pasts: list[list[int]], num_items: int) -> RetrievalRows:
    """Rows that bar their past."""
    one = rows_of([1] * len(targets), pasts, num_items)
    start = np.cumsum([0, *map(len, targets)])
    flat = np.array([item for row in targets for item in row], np.int32)
    return replace(one, targets=flat, target_start=start)


def test_what_is_barred_is_said_when_the_rows_are_made() -> None:
    log = log_of([1, 2, 1, 1, 1, 2], [4, 4, 2, 5, 3, 1])  # user 1: 4 2 5 3    user 2: 4 1
    positions, table = np.array([4, 5]), Table([[0, 1, 2, 3, 4, 5]] * 2)
    everything = RetrievalRows.of(log, positions, 5)
    training = RetrievalRows.of(log, positions, 5, seen_ends=np.array([0, 2, 9]))  # user 1: the first two events
    for rows, barred, ranks in ((everything, [4, 2, 5, 4], [1, 4]), (training, [4, 2, 4], [2, 4])):
        assert rows.seen(np.arange(2))[1].tolist() == barred
        assert rows.past(np.arange(2))[1].tolist() == [4, 2, 5, 4]  # what a model reads is the same
        assert rank_targets(table, rows).rank.tolist() == ranks
    assert rank_targets(table, training, top=5).top.tolist() == [[5, 3, 1, 0, 0], [5, 3, 2, 1, 0]]


def test_rows_by_user() -> None:
    log = log_of([2, 1, 2, 2, 1, 3, 2, 2, 1], [5, 3, 1, 4, 2, 2, 1, 5, 1])
    rows = RetrievalRows.by_user(log, np.array([2, 3, 6, 8, 7]), np.array([4, 5, 1, 0]), 5)
    assert rows.user.tolist() == [1, 2]  # user 3 has nothing to find
    assert (rows.targets.tolist(), rows.target_start.tolist()) == ([1, 1, 4, 5], [0, 1, 4])  # item 1 once
    assert rows.target_row.tolist() == [0, 1, 1, 1]
    for found in (rows.past(np.arange(2)), rows.seen(np.arange(2))):
        assert (found[0].tolist(), found[1].tolist()) == ([0, 0, 1], [3, 2, 5])  # oldest first
    assert (rows.user.dtype, rows.targets.dtype, rows.past_items.dtype) == (np.int32,) * 3
    found = rank_targets(Table([[0, 5, 4, 3, 2, 1]] * 2), rows, top=3)
    assert found.rank.tolist() == [1, 1, 4, 5]  # user 2 met item 5 in training too: out of reach
    assert found.masked.tolist() == [False, False, False, True]
    assert found.row.tolist() == [0, 1, 1, 1]
    assert found.top.tolist() == [[1, 4, 5], [1, 2, 3]]
    assert (len(found), found.is_single) == (2, False)
    with pytest.raises(DataError, match="2 evaluation rows have 4 targets; this needs one in each row"):
        _ = rows.item
    nobody = RetrievalRows.by_user(log, np.array([], np.int64), np.array([0]), 5)
    assert (len(nobody), rank_targets(Table(np.zeros((0, 6))), nobody).rank.shape) == (0, (0,))


def test_several_targets_by_hand() -> None:
    # items 1..5 score 2 7 7 7 1; a row's targets stand in one another's way
    table = Table([[99, 2, 7, 7, 7, 1]] * 3)
    found = rank_targets(table, many_of([[2, 4], [5], [3, 1, 4]], [[], [1, 2], [4]], 5), top=2)
    assert found.rank.tolist() == [1, 3, 3, 2, 3, 5]
    assert found.masked.tolist() == [False] * 5 + [True]
    assert found.row.tolist() == [0, 0, 1, 2, 2, 2]
    assert found.top.tolist() == [[2, 3], [3, 4], [2, 3]]
    spared = rank_targets(table, many_of([[2, 4], [5], [3, 1, 4]], [[], [1, 2], [4]], 5), mask_target_if_seen=False, top=3)
    assert spared.rank.tolist() == [1, 3, 3, 2, 4, 3]
    assert spared.top.tolist() == [[2, 3, 4], [3, 4, 5], [2, 3, 4]]
    assert not spared.masked.any()


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_items=st.one_of(st.integers(1, 70), st.sampled_from([320, 1_100])),
    distinct=st.booleans(),
    seen=st.booleans(),
    target_too=st.booleans(),
    cells=st.sampled_from([1, 700, 1 << 18]),
    budget=st.sampled_from([1, 20_000, 1 << 30]),
    within=st.sampled_from([None, 1, 3, 20]),
)
def test_several_targets_against_sorting(
    seed: int,
    num_items: int,
    distinct: bool,
    seen: bool,
    target_too: bool,
    cells: int,
    budget: int,
    within: int | None,
) -> None:
    rng = np.random.default_rng(seed)
    count, every = 6, np.arange(1, num_items + 1)
    shape = (count, num_items + 1)
    table = Table(rng.normal(size=shape).astype(np.float32) if distinct else rng.choice(VALUES, size=shape))
    targets = [rng.permutation(every)[: rng.integers(1, 9)].tolist() for _ in range(count)]
    pasts = [rng.integers(1, num_items + 1, rng.integers(0, 12)).tolist() for _ in range(count)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "CPU_CELLS", cells)
        found = rank_targets(
            table,
            many_of(targets, pasts, num_items),
            mask_seen=seen,
            mask_target_if_seen=target_too,
            top=3,
            within=within,
            budget_bytes=budget,
        )
    at = 0
    for row, (wanted, past) in enumerate(zip(targets, pasts, strict=True)):
        score = table.table[row].tolist()
        barred = set(past) - (set() if target_too else set(wanted)) if seen else set()
        pool = [item for item in every.tolist() if item not in barred and score[item] > -INF]
        pool.sort(key=lambda item: (-score[item], item))
        for target in wanted:
            expected = pool.index(target) + 1 if target in pool else num_items
            if within is not None and expected > within:
                expected = num_items
            assert (found.rank[at], found.masked[at], found.row[at]) == (expected, target not in pool, row)
            at += 1
        assert found.top[row].tolist() == (pool + [0] * 3)[:3]
    assert at == len(found.rank)


def test_bad_targets_are_refused() -> None:
    good = many_of([[1, 2], [3]], [[1], [2, 3]], 3)
    for damage, message in (
        ({"target_start": np.array([0, 3])}, r"target_start has shape \(2,\) .*accepted: \(3,\), from 0 to 3 \(targets\)"),
        ({"target_start": np.array([0, 2, 2])}, r"runs \[0\]\.\.\[2\]; accepted: \(3,\), from 0 to 3"),
        ({"target_start": np.array([0, 0, 3])}, "row 0 has no target; accepted: one or more"),
        ({"targets": np.array([2, 2, 3], np.int32)}, "row 0 has the target 2 twice; accepted: each item once"),
        ({"targets": np.array([1, 2, 4], np.int32)}, r"targets\[2\] is 4; accepted: 1\.\.3"),
        ({"seen_last": np.array([1, 4])}, r"the seen part of row 1 is 1\.\.4; accepted: a stretch of the 3 past items"),
        ({"seen_first": np.array([0])}, r"'seen_first': \(1,\)"),
    ):
        with pytest.raises(DataError, match=message):
            replace(good, **damage)
    with pytest.raises(DataError, match=r"a ranking of 2 rows has .*'masked': \(3,\)"):
        Ranking.single(np.array([1, 2]), np.zeros((2, 1), np.int32), np.zeros(3, bool))


# -- the best of each row -------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=120)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.sampled_from([1, 5, 33, 64, 97, 1_100, 2_500]),
    k=st.integers(1, 12),
    tied=st.integers(0, 4),
    narrow=NARROW,
)
def test_the_best_against_sorting(seed: int, width: int, k: int, tied: int, narrow: int) -> None:
    k = min(k, width)
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.normal(size=(4, width)).astype(np.float32))
    scores[:tied] = torch.from_numpy(rng.choice(VALUES, size=(tied, width)))
    kept = scores.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "NARROW", narrow)
        values, columns = best(scores, k)
    for row in range(4):
        expected = sorted(range(width), key=lambda at, row=row: (-float(scores[row, at]), at))[:k]  # type: ignore[misc]
        assert columns[row].tolist() == expected
        assert values[row].tolist() == scores[row, expected].tolist()
    assert torch.equal(scores, kept)
    parts = [best(scores[at : at + 1], k)[1] for at in range(4)]
    assert torch.equal(torch.cat(parts), columns)


@pytest.mark.parametrize("narrow", [0, retrieval.NARROW])
def test_nan_counts_as_the_largest(monkeypatch: pytest.MonkeyPatch, narrow: int) -> None:
    monkeypatch.setattr(retrieval, "NARROW", narrow)
    nan = float("nan")
    values, columns = best(torch.tensor([[1.0, nan, INF, nan], [4.0, 3.0, 2.0, 1.0]]), 3)
    assert columns.tolist() == [[1, 3, 2], [0, 1, 2]]
    assert values[0, :2].isnan().all()
    assert values[0, 2] == INF
    assert values[1].tolist() == [4, 3, 2]


def test_ranks_within_none_are_refused() -> None:
    with pytest.raises(DataError, match="ranks within 0; accepted: 1 or more, or None for all"):
        rank_targets(Table(np.zeros((1, 4))), rows_of([1], [[]], 3), within=0)


def test_the_best_of_what_cannot_be_ranked_are_refused() -> None:
    for k, scores in ((0, torch.zeros(2, 3)), (4, torch.zeros(2, 3)), (1, torch.zeros(2, 3, dtype=torch.float64))):
        with pytest.raises(DataError, match=rf"the best {k} of \(2, 3\) torch\.float\d\d; accepted: 1\.\.3 of torch\.float32"):
            best(scores, k)
