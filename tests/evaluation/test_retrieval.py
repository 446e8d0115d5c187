"""Ranks and lists against a plain loop: ties, masks, candidates, any block size, and what is no number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from braidrec.data.log import InteractionLog
from braidrec.errors import DataError
from braidrec.evaluation import retrieval
from braidrec.evaluation.retrieval import Ranking, RetrievalRows, rank_targets

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
    return RetrievalRows(users, np.array(targets, np.int32), flat, last - lengths, last, num_items)


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


@settings(deadline=None, max_examples=120)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_items=st.one_of(st.integers(1, 70), st.sampled_from([95, 96, 320, 1_023, 1_024, 1_100, 2_500])),
    top=st.sampled_from([0, 1, 2, 3, 10]),
    distinct=st.booleans(),
    seen=st.booleans(),
    target_too=st.booleans(),
    restrict=st.booleans(),
)
def test_against_sorting(
    seed: int, num_items: int, top: int, distinct: bool, seen: bool, target_too: bool, restrict: bool
) -> None:
    rng = np.random.default_rng(seed)
    count = 5
    shape = (count, num_items + 1)
    table = rng.normal(size=shape).astype(np.float32) if distinct else rng.choice(VALUES, size=shape)
    targets = rng.integers(1, num_items + 1, count).tolist()
    pasts = [rng.integers(1, num_items + 1, rng.integers(0, 12)).tolist() for _ in range(count)]
    allowed = rng.random(num_items + 1) < 0.7 if restrict else None
    scorer = Table(table)
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


@pytest.mark.parametrize("top", [1, 3, 10])
@pytest.mark.parametrize("num_items", [31, 32, 64, 320, 330, 1_030, 2_500])
def test_the_best_stand_at_either_end(num_items: int, top: int) -> None:
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


def test_rows_of_a_log() -> None:
    user, item = np.array([1, 2, 1, 1, 2], np.int32), np.array([4, 4, 2, 4, 1], np.int32)
    ones = np.ones(5, np.float32)
    log = InteractionLog.build(user, item, np.arange(5), ones, ones, None, np.ones(5, np.int32), 2)
    rows = RetrievalRows.of(log, np.array([0, 3, 4]), 4)
    assert (rows.user.tolist(), rows.item.tolist(), len(rows)) == ([1, 1, 2], [4, 4, 1], 3)
    owner, past = rows.past(np.array([2, 0, 1]))
    assert (owner.tolist(), past.tolist()) == ([0, 2, 2], [4, 4, 2])
    owner, past = rows.past(np.array([2, 0, 1]), length=1)
    assert (owner.tolist(), past.tolist()) == ([0, 2], [4, 2])


def test_bad_rows_are_refused() -> None:
    with pytest.raises(DataError, match=r"item\[1\] is 0; accepted: 1\.\.3"):
        rows_of([1, 0], [[], []], 3)
    with pytest.raises(DataError, match=r"past_items\[2\] is 4; accepted: 0\.\.3"):
        rows_of([1, 2], [[1], [2, 4]], 3)
    good = rows_of([1, 2], [[1], [2, 3]], 3)
    with pytest.raises(DataError, match=r"the past of row 1 is 1\.\.4; accepted: a stretch of the 3 past items"):
        RetrievalRows(good.user, good.item, good.past_items, good.first, good.last + np.array([0, 1]), 3)
    with pytest.raises(DataError, match=r"'first': \(1,\)"):
        RetrievalRows(good.user, good.item, good.past_items, good.first[:1], good.last, 3)
