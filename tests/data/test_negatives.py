"""Negatives: never met, always the same, and for every user as long as one item is left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_data import ITEMS, Event, events_lists, log_of
from torch import Tensor

from braidrec.data.negatives import NegativeSampler, OwnItems
from braidrec.errors import DataError


def draw(sampler: NegativeSampler, count: int, epoch: int = 0) -> Tensor:
    """All samples of ``count`` events: (count, 1 + k)."""
    samples = torch.arange(count * (1 + sampler.per_positive))
    turn = samples % (1 + sampler.per_positive)
    return sampler.draw(samples // (1 + sampler.per_positive), samples, turn, epoch).view(count, -1)


@given(events_lists, st.integers(0, 2**40), st.integers(0, 5))
def test_never_an_item_the_user_met(events: list[Event], seed: int, epoch: int) -> None:
    items = draw(NegativeSampler(log_of(events), ITEMS + 1, 3, seed), len(events), epoch)
    assert items.dtype == torch.int32
    for event, row in zip(events, items.tolist(), strict=True):
        met = {other[1] for other in events if other[0] == event[0]}
        assert row[0] == event[1]
        assert not met & set(row[1:])
        assert all(1 <= item <= ITEMS + 1 for item in row)


def test_the_future_of_the_user_counts_as_met() -> None:
    events = [(1, 1, 5), (1, 2, 5), (1, 3, 5)]
    assert draw(NegativeSampler(log_of(events), 4, 5, 0), 3)[0, 1:].tolist() == [4] * 5


def test_deterministic_under_seed_and_epoch_and_different_between_them() -> None:
    events = [(1 + at % 4, 1 + at % 7, 4) for at in range(50)]
    first = draw(NegativeSampler(log_of(events), 1000, 2, 9), 50)
    assert torch.equal(first, draw(NegativeSampler(log_of(events), 1000, 2, 9), 50))
    for other in (
        draw(NegativeSampler(log_of(events), 1000, 2, 9), 50, epoch=1),
        draw(NegativeSampler(log_of(events), 1000, 2, 8), 50),
    ):
        assert torch.equal(first[:, 0], other[:, 0])
        assert (first[:, 1:] != other[:, 1:]).float().mean() > 0.9


def test_a_sample_draws_the_same_in_any_batch() -> None:
    log = log_of([(1 + at % 4, 1 + at % 7, 4) for at in range(50)])
    sampler = NegativeSampler(log, 40, 1, 5)
    whole = draw(sampler, 50).view(-1)
    some = torch.tensor([99, 3, 41, 2])
    assert torch.equal(sampler.draw(some // 2, some, some % 2, 0), whole[some])


def test_draws_are_uniform_over_what_was_not_met() -> None:
    log = log_of([(1, 1, 5), (1, 2, 5)])
    items = draw(NegativeSampler(log, 12, 10_000, 1), 2)[:, 1:].flatten().numpy()
    counts = np.bincount(items, minlength=13)
    assert not counts[:3].any()
    # 20,000 draws over 10 items: 2,000 each, standard deviation 42
    assert np.abs(counts[3:] - 2000).max() < 5 * 42.5


def test_one_item_left_among_many_is_found() -> None:
    log = log_of([(1, item, 5) for item in range(1, 5000) if item != 1234])
    assert draw(NegativeSampler(log, 4999, 3, 0), 2)[:, 1:].tolist() == [[1234] * 3] * 2


def test_own_items_are_drawn_of_whoever_has_some() -> None:
    """User 1 has one, user 2 none, user 3 two."""
    own = OwnItems(np.array([3, 1, 3], np.int32), np.array([8, 5, 9], np.int32), 3)
    user, number = np.repeat([1, 2, 3], 400), np.arange(1_200)
    found = own.draw(user, number, seed=0, epoch=0)
    assert (found[:400] == 5).all()
    assert not found[400:800].any()
    eights = int((found[800:] == 8).sum())
    assert eights + int((found[800:] == 9).sum()) == 400
    assert abs(eights - 200) < 50  # standard deviation 10
    assert np.array_equal(found, own.draw(user, number, seed=0, epoch=0))
    assert not np.array_equal(found, own.draw(user, number, seed=0, epoch=1))


def test_nothing_left_is_an_error_that_names_the_user() -> None:
    log = log_of([(1, 1, 5), (2, 1, 5), (2, 2, 5), (2, 3, 5)])
    with pytest.raises(DataError, match=r"user row 2 met all 3 items, so no negative is left; drop such users"):
        draw(NegativeSampler(log, 3, 1, 0), 4)
