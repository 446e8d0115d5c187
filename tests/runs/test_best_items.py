"""The best items for many pasts at once, against sorting everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from braidrec.errors import RunError
from braidrec.runs.retrieval import BUDGET_BYTES, best_items
from braidrec.task import Floats, Rows

# Of 60 items: one candidate at a time; 7; all, one past at a time; two and three pasts; everything at once.
BUDGETS = (1, 8, 56, 480, 6_720, 10_080, BUDGET_BYTES)


@dataclass
class Table:
    """A model that has its scores (P, I + 1) in a table; a past is its number.  asked: (pasts, candidates) of each call."""

    table: Floats
    met: Sequence[Sequence[int]]
    asked: list[tuple[int, int]] = field(default_factory=list)

    def seen(self, past: int) -> Rows:
        return np.array(self.met[past], np.int32)

    def scores(self, pasts: Sequence[int], rows: Rows) -> Floats:
        self.asked.append((len(pasts), len(rows)))
        return self.table[np.array(pasts)][:, rows]


def found(model: Table, candidates: Rows, k: int, *, exclude_seen: bool = True, budget: int = BUDGET_BYTES) -> list[list[int]]:
    """Rows and scores, past by past."""
    given = best_items(
        model,  # type: ignore[arg-type]
        lambda first, last: range(first, last),
        len(model.table),
        candidates,
        k,
        exclude_seen=exclude_seen,
        budget_bytes=budget,
    )
    answers = []
    for rows, scores in given:
        assert (rows.dtype, scores.dtype, rows.shape) == (np.int32, np.float32, scores.shape)
        answers.append(list(zip(rows.tolist(), scores.tolist(), strict=True)))
    return answers  # type: ignore[return-value]


def sorted_whole(model: Table, candidates: Rows, k: int, *, exclude_seen: bool = True) -> list[list[tuple[int, float]]]:
    answers = []
    for past, scores in enumerate(model.table.tolist()):
        barred = set(model.met[past]) if exclude_seen else set()
        left = [row for row in candidates.tolist() if row not in barred and scores[row] > -np.inf]
        answers.append([(row, scores[row]) for row in sorted(left, key=lambda row: (-scores[row], row))[:k]])
    return answers


def random_table(seed: int, *, pasts: int = 5, items: int = 60, kinds: int | None = None, gone: float = 0.0) -> Table:
    """kinds: how many different scores there are, so that the fewer the more ties; gone: share of scores that are -inf."""
    rng = np.random.default_rng(seed)
    shape = (pasts, items + 1)
    table = rng.standard_normal(shape) if kinds is None else rng.integers(-kinds, kinds, shape)
    table = np.where(rng.random(shape) < gone, -np.inf, table).astype(np.float32)
    met = [rng.integers(1, items + 1, rng.integers(0, 8)).tolist() for _ in range(pasts)]
    return Table(table, met)


@settings(max_examples=150, deadline=None)
@given(
    seed=some.integers(0, 2**16),
    items=some.integers(1, 70),
    kinds=some.sampled_from([None, 1, 3]),
    gone=some.sampled_from([0.0, 0.3, 1.0]),
    share=some.floats(0.0, 1.0),
    k=some.integers(1, 90),
    exclude_seen=some.booleans(),
    budget=some.sampled_from(BUDGETS),
)
def test_blocks_give_what_sorting_everything_gives(
    seed: int, items: int, kinds: int | None, gone: float, share: float, k: int, exclude_seen: bool, budget: int
) -> None:
    model = random_table(seed, items=items, kinds=kinds, gone=gone)
    rng = np.random.default_rng(seed)
    candidates = np.flatnonzero(rng.random(items) <= share).astype(np.int32) + 1
    given = found(model, candidates, k, exclude_seen=exclude_seen, budget=budget)
    assert given == sorted_whole(model, candidates, k, exclude_seen=exclude_seen)


@pytest.mark.parametrize(
    ("budget", "pasts", "candidates"),
    [
        (1, [1] * 5, [1] * 60),
        (56, [1] * 5, [*[7] * 8, 4]),
        (480, [1] * 5, [60]),
        (6_720, [2, 2, 1], [60]),
        (10_080, [3, 2], [60]),
    ],
)
def test_a_small_budget_is_kept_by_blocks_of_candidates_then_of_pasts(
    budget: int, pasts: list[int], candidates: list[int]
) -> None:
    model, rows = random_table(0, kinds=2), np.arange(1, 61, dtype=np.int32)
    assert found(model, rows, 10, budget=budget) == sorted_whole(model, rows, 10)
    assert model.asked == [(tall, wide) for tall in pasts for wide in candidates]


def test_many_pasts_come_in_blocks_and_are_asked_for_when_their_turn_comes() -> None:
    model, asked = random_table(1, pasts=1_100), []

    def pasts(first: int, last: int) -> range:
        asked.append((first, last))
        return range(first, last)

    given = best_items(model, pasts, 1_100, np.arange(1, 61, dtype=np.int32), 3)  # type: ignore[arg-type]
    first = next(given)
    assert asked == [(0, 512)]
    assert len([first, *given]) == 1_100
    assert asked == [(0, 512), (512, 1_024), (1_024, 1_100)]


def test_more_than_there_are_without_what_was_met() -> None:
    table = np.array([[9, 1, 3, -np.inf, 2], [9, 4, 4, 4, 4]], np.float32)
    model, rows = Table(table, [[2, 2], [1, 3, 4, 2]]), np.array([1, 2, 3, 4], np.int32)
    for budget in BUDGETS:
        assert found(model, rows, 100, budget=budget) == [[(4, 2.0), (1, 1.0)], []]
        assert found(model, rows, 100, exclude_seen=False, budget=budget) == [
            [(2, 3.0), (4, 2.0), (1, 1.0)],
            [(1, 4.0), (2, 4.0), (3, 4.0), (4, 4.0)],
        ]
        assert found(model, rows[[1, 3]], 1, exclude_seen=False, budget=budget) == [[(2, 3.0)], [(2, 4.0)]]
    assert found(model, rows[:0], 3) == [[], []]
    assert not model.asked or all(wide for _, wide in model.asked)


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_score_that_is_no_number_is_refused_by_its_row(budget: int) -> None:
    model, rows = random_table(2), np.arange(1, 61, dtype=np.int32)
    model.table[3, 41] = np.nan
    with pytest.raises(RunError, match=r"the item in catalogue row 41 is not a number; a model that diverged cannot recommend"):
        found(model, rows, 5, budget=budget)
    assert len(found(model, np.delete(rows, 40), 5, budget=budget)) == 5  # nobody asks for it
    model.met = [[41]] * 5
    with pytest.raises(RunError, match="row 41 is not a number"):
        found(model, rows, 5, budget=budget)


def test_scores_that_a_model_shows_to_all_pasts_stay_its_own() -> None:
    """One row of memory for everybody: what is barred for one past is not barred for the others, nor in the model."""

    class Popular(Table):
        def scores(self, pasts: Sequence[int], rows: Rows) -> Floats:
            return np.broadcast_to(self.table[0, 1:], (len(pasts), len(rows)))

    model = Popular(np.array([[0, 3, 2, 1]] * 2, np.float32), [[1], []])
    assert found(model, np.array([1, 2, 3], np.int32), 2) == [[(2, 2.0), (3, 1.0)], [(1, 3.0), (2, 2.0)]]
    assert model.table[0].tolist() == [0, 3, 2, 1]
