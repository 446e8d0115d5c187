"""Lazy updates against dense Adam."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidrec.errors import TrainingError
from braidrec.training import optimisers
from braidrec.training.checkpoint import optimiser_state, restore_optimiser
from braidrec.training.contracts import OptimiserGroup
from braidrec.training.optimisers import LazyAdam, RowAdagrad, build, choose_table_update, measure_crossover


def pair(rows: int, dim: int, **settings: float) -> tuple[nn.Parameter, LazyAdam, nn.Parameter, torch.optim.Adam]:
    start = torch.randn(rows, dim, generator=torch.Generator().manual_seed(0))
    lazy, dense = nn.Parameter(start.clone()), nn.Parameter(start.double())
    return lazy, LazyAdam([lazy], **settings), dense, torch.optim.Adam([dense], **settings)


def learn(table: nn.Parameter, optimiser: torch.optim.Optimizer, ids: Tensor, target: Tensor, sparse: bool) -> None:
    (F.embedding(ids, table, sparse=sparse) * target.to(table.dtype)).sum().backward()
    optimiser.step()
    optimiser.zero_grad()


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-8])  # 1e-8: eps is as large as the root of the second moment
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.99), (0.0, 0.9)])
def test_every_read_is_what_dense_adam_shows(scale: float, betas: tuple[float, float]) -> None:
    lazy, lazily, dense, densely = pair(60, 4, lr=0.01, betas=betas)
    draw = torch.Generator().manual_seed(1)
    for _ in range(200):
        ids = torch.randint(60, (3,), generator=draw)
        lazily.catch_up(lazy, ids)
        torch.testing.assert_close(lazy[ids].double(), dense[ids], atol=5e-6, rtol=1e-6)
        target = scale * torch.randn(3, 4, generator=draw)
        learn(lazy, lazily, ids, target, sparse=True)
        learn(dense, densely, ids, target, sparse=False)
    lazily.catch_up_all(block=7)
    torch.testing.assert_close(lazy.double(), dense, atol=5e-6, rtol=1e-6)


@pytest.mark.parametrize("last", [1, 31, 32, 500])
@pytest.mark.parametrize("gap", [1, 7, 8, 9, 40, 700])
def test_one_gap(last: int, gap: int) -> None:
    """A row is updated ``last`` times, then left alone for ``gap`` steps."""
    lazy, lazily, dense, densely = pair(2, 3, lr=0.1)
    for step in range(last + gap):
        row = torch.tensor([0 if step < last else 1])
        lazily.catch_up(lazy, row)
        target = torch.full((1, 3), 0.5) * torch.tensor([1.0, 1e-6, -1e3])
        learn(lazy, lazily, row, target, sparse=True)
        learn(dense, densely, row, target, sparse=False)
    lazily.catch_up_all()
    torch.testing.assert_close(lazy[0].double(), dense[0], atol=1e-4, rtol=1e-5)


def test_weight_decay_is_a_power_of_the_gap() -> None:
    table = nn.Parameter(torch.ones(2, 1))
    optimiser = LazyAdam([table], lr=0.1, weight_decay=0.5)
    for _ in range(10):
        optimiser.catch_up(table, torch.tensor([0]))
        learn(table, optimiser, torch.tensor([0]), torch.ones(1, 1), sparse=True)
    optimiser.catch_up_all()
    assert table[1].item() == pytest.approx((1 - 0.1 * 0.5) ** 10)


def test_stale_reads_and_dense_gradients_are_refused() -> None:
    lazy, lazily, *_ = pair(4, 2)
    for row in (0, 1):
        lazily.catch_up(lazy, torch.tensor([row]))
        learn(lazy, lazily, torch.tensor([row]), torch.ones(1, 2), sparse=True)
    with pytest.raises(TrainingError, match="without being brought up to date"):
        learn(lazy, lazily, torch.tensor([0]), torch.ones(1, 2), sparse=True)
    lazily.zero_grad()
    with pytest.raises(TrainingError, match="dense gradient"):
        learn(lazy, lazily, torch.tensor([0]), torch.ones(1, 2), sparse=False)


def test_rows_nobody_reads_are_not_touched() -> None:
    lazy, lazily, *_ = pair(1000, 2)
    before = lazy.detach().clone()
    lazily.catch_up(lazy, torch.tensor([5, 5, 9]))
    learn(lazy, lazily, torch.tensor([5, 9]), torch.ones(2, 2), sparse=True)
    assert (lazy != before).any(dim=1).nonzero().squeeze(1).tolist() == [5, 9]


def test_row_wise_adagrad_by_hand() -> None:
    """Row 1 gets the gradients (3, 4), as two look-ups of it, then (0, 5); mean squares 12.5 each.  Row 0 is never read."""
    table = nn.Parameter(torch.ones(3, 2))
    optimiser = RowAdagrad([table], lr=0.1, eps=0.0, weight_decay=0.5)
    learn(table, optimiser, torch.tensor([1, 1]), torch.tensor([[1.0, 4.0], [2.0, 0.0]]), sparse=True)
    first = 0.95 - 0.1 * torch.tensor([3.0, 4.0]) / 12.5**0.5
    torch.testing.assert_close(table.data, torch.stack([torch.ones(2), first, torch.ones(2)]))
    learn(table, optimiser, torch.tensor([1]), torch.tensor([[0.0, 5.0]]), sparse=True)
    torch.testing.assert_close(table.data[1], first * 0.95 - 0.1 * torch.tensor([0.0, 5.0]) / 5)
    assert optimiser.state[table]["sum"].tolist() == [0.0, 25.0, 0.0]
    with pytest.raises(TrainingError, match=r"a table of shape \(3, 2\) is updated lazily but got a dense gradient"):
        learn(table, optimiser, torch.tensor([1]), torch.ones(1, 2), sparse=False)


def test_row_wise_adagrad_goes_on_from_what_was_saved() -> None:
    ends = []
    for stop in (None, 5):
        table = nn.Parameter(torch.ones(9, 4))
        group = OptimiserGroup("main", [table], lr=1e-3, rowwise=True, table_lr=0.05)
        (optimiser,) = build(group, [table])
        assert optimiser.param_groups[0]["lr"] == 0.05
        draw = torch.Generator().manual_seed(0)
        for step in range(10):
            if step == stop:
                saved = optimiser_state(optimiser)
                (optimiser,) = build(group, [table])
                restore_optimiser(optimiser, *saved)
            ids = torch.randint(9, (6,), generator=draw)
            learn(table, optimiser, ids, torch.randn(6, 4, generator=draw), sparse=True)
        ends.append(table.data)
    assert torch.equal(*ends)


def test_choice_by_size() -> None:
    assert choose_table_update(4_000, 32) == "dense"
    assert choose_table_update(5_000_000, 32) == "lazy"
    assert choose_table_update(10, 32, crossover=5) == "lazy"


@pytest.mark.parametrize(
    ("lazy", "per_row", "crossing"), [(5e-3, 1e-8, 400_000), (1.5e-3, 1e-8, 50_000), (5e-4, 1e-8, 1), (5e-3, 0.0, 2**18)]
)
def test_the_crossover_is_where_the_line_of_dense_steps_meets_lazy_ones(
    lazy: float, per_row: float, crossing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dense 1 ms and ``per_row`` of each row; where dense steps do not grow, lazy ones win nothing below the larger table."""

    def step(rows: int, dim: int, lookups: int, by_row: bool, seconds: float) -> float:
        assert (dim, lookups, seconds) == (8, 256, 2.0)
        return lazy if by_row else 1e-3 + per_row * rows

    monkeypatch.setattr(optimisers, "_time_step", step)
    assert measure_crossover(8, 256, seconds=2.0) == crossing


def test_steps_are_timed_until_the_seconds_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that ticks at every look: one tick to begin, three of each step, whose own part of them is one."""
    ticks = count()
    monkeypatch.setattr(optimisers, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    for lazy in (False, True):
        assert optimisers._time_step(64, 4, 16, lazy, 30.0) == 1.0
        assert next(ticks) == 32  # ten steps, and the look that finds the time over
        ticks = count()
    assert optimisers._time_step(64, 4, 16, True, 1e-9) == 1.0
    assert next(ticks) == 1 + 2 * 8 + 9  # eight steps at least
