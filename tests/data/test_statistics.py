"""Time-causal statistics against a loop that may only look back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_data import ITEMS, USERS, Event, earlier, events_lists, log_of

from braidrec.data.log import InteractionLog
from braidrec.data.statistics import NAMES, CausalStatistics


def plain_row(events: Sequence[Event], prior: tuple[float, float], user: int, item: int, moment: int) -> list[float]:
    """The seven raw numbers of (user, item) when only the first ``moment`` events have happened."""

    def item_means(which: int, until: int) -> tuple[float, float]:
        past = [event for event in events[:until] if event[1] == which]
        rating = (sum(event[2] for event in past) + 10 * prior[0]) / (len(past) + 10)
        rate = (sum(event[2] > 3 for event in past) + 10 * prior[1]) / (len(past) + 10)
        return rating, rate

    own = [at for at in range(moment) if events[at][0] == user]
    past_means = {at: item_means(events[at][1], at) for at in own}
    rating_residual = sum(events[at][2] - past_means[at][0] for at in own) / (len(own) + 5)
    label_residual = sum((events[at][2] > 3) - past_means[at][1] for at in own) / (len(own) + 5)
    spread = float(np.std([events[at][2] for at in own])) if own else 0.0
    count = sum(event[1] == item for event in events[:moment])
    return [*item_means(item, moment), rating_residual, label_residual, math.log1p(count), math.log1p(len(own)), spread]


def plain(
    events: Sequence[Event], train: Sequence[int]
) -> tuple[tuple[float, float], NDArray[np.float64], NDArray[np.float64]]:
    """Prior, mean and spread as fitted on the rows ``train``."""
    prior = (float(np.mean([events[at][2] for at in train])), float(np.mean([events[at][2] > 3 for at in train])))
    raw = np.array([plain_row(events, prior, events[at][0], events[at][1], at) for at in train])
    spread = raw.std(axis=0)
    return prior, raw.mean(axis=0), np.where(spread > 1e-6, spread, 1.0)


def close(found: NDArray[np.float32], raw: NDArray[np.float64], mean: NDArray[np.float64], spread: NDArray[np.float64]) -> bool:
    return np.allclose(found * spread + mean, raw, atol=2e-6)


@given(events_lists, st.data())
def test_rows_agree_with_a_plain_loop(events: list[Event], data: st.DataObject) -> None:
    log = log_of(events)
    train = np.arange(data.draw(st.integers(1, len(events))))
    statistics = CausalStatistics(log, ITEMS, train)
    prior, mean, spread = plain(events, train.tolist())
    everywhere = np.arange(len(events))
    expected = np.array([plain_row(events, prior, user, item, at) for at, (user, item, _) in enumerate(events)])
    assert statistics.before(everywhere).shape == (len(events), len(NAMES))
    assert close(statistics.before(everywhere), expected, mean, spread)
    # other candidates in the place of the item that was met, an unmet one and the padding row among them
    candidates = np.array(data.draw(st.lists(st.integers(0, ITEMS), min_size=len(events), max_size=len(events))), np.int32)
    expected = np.array([plain_row(events, prior, event[0], int(candidates[at]), at) for at, event in enumerate(events)])
    assert close(statistics.before(everywhere, candidates), expected, mean, spread)


@given(events_lists, st.integers(0, USERS))
def test_now_is_the_moment_after_the_last_event(events: list[Event], user: int) -> None:
    statistics = CausalStatistics(log_of(events), ITEMS, np.arange(len(events)))
    prior, mean, spread = plain(events, range(len(events)))
    items = np.arange(ITEMS + 1, dtype=np.int32)
    expected = np.array([plain_row(events, prior, user, int(item), len(events)) for item in items])
    assert close(statistics.now(user, items), expected, mean, spread)


def test_training_rows_have_mean_zero_and_spread_one() -> None:
    rng = np.random.default_rng(0)
    log = log_of(
        [
            (int(u), int(i), int(r))
            for u, i, r in zip(rng.integers(1, 7, 300), rng.integers(1, 10, 300), rng.integers(1, 6, 300), strict=True)
        ]
    )
    train = np.arange(200)
    rows = CausalStatistics(log, ITEMS, train).before(train)
    assert np.allclose(rows.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(rows.std(axis=0), 1, atol=1e-5)


def test_a_column_of_one_value_in_training_is_not_blown_up_by_another_later() -> None:
    """Everything is rated 3 until training ends: nothing to go by, and a mean rating of 3.4 is .4 away from it afterwards."""
    log = log_of([(1 + at % 4, 1 + at % 7, 3 if at < 50 else 1 + at % 5) for at in range(80)])
    log = replace(log, label=(np.arange(80) % 2).astype(np.float32))
    train = np.arange(20, 50)
    statistics = CausalStatistics(log, ITEMS, train)
    alone = [NAMES.index(name) for name in ("item mean rating", "user rating residual", "user rating spread")]
    assert statistics.scale.spread[alone].tolist() == [1.0, 1.0, 1.0]
    np.testing.assert_allclose(statistics.before(train)[:, alone], 0, atol=1e-6)
    assert np.abs(statistics.before(np.arange(50, 80))).max() < 10


@pytest.mark.parametrize("moment", [40, 55, 79])
def test_changing_the_future_changes_nothing_before_it(moment: int) -> None:
    """The planted leak: from ``moment`` on every rating and item is another one; training ends at 40."""
    rng = np.random.default_rng(moment)
    events = [
        (int(u), int(i), int(r))
        for u, i, r in zip(rng.integers(1, 7, 80), rng.integers(1, 10, 80), rng.integers(1, 6, 80), strict=True)
    ]
    changed = [event if at < moment else (event[0], 1 + event[1] % 9, 6 - event[2]) for at, event in enumerate(events)]
    train, candidates = np.arange(40), rng.integers(1, 10, 80).astype(np.int32)
    first, second = (CausalStatistics(log_of(log), ITEMS, train) for log in (events, changed))
    upto = np.arange(moment + 1)  # the row of the first changed event itself may not know its own rating
    assert np.allclose(first.before(upto, candidates[upto]), second.before(upto, candidates[upto]), atol=1e-5)
    assert np.allclose(first.before(upto[:-1]), second.before(upto[:-1]), atol=1e-5)
    if moment < 79:
        assert not np.allclose(
            first.before(np.arange(moment + 1, 80), candidates[moment + 1 :]),
            second.before(np.arange(moment + 1, 80), candidates[moment + 1 :]),
        )


def test_an_events_own_rating_is_not_in_its_row() -> None:
    rng = np.random.default_rng(1)
    events = [
        (int(u), int(i), int(r))
        for u, i, r in zip(rng.integers(1, 7, 60), rng.integers(1, 10, 60), rng.integers(1, 6, 60), strict=True)
    ]
    log = log_of(events)

    def flipped(log: InteractionLog, at: int) -> InteractionLog:
        rating, label = log.rating.copy(), log.label.copy()
        rating[at], label[at] = 6 - rating[at], 1 - label[at]
        return replace(log, rating=rating, label=label)

    train = np.arange(30)
    base = CausalStatistics(log, ITEMS, train)
    for at in (30, 45, 59):
        other = CausalStatistics(flipped(log, at), ITEMS, train)
        assert np.allclose(base.before(np.arange(at + 1)), other.before(np.arange(at + 1)), atol=1e-5)
    assert earlier(events, 59)  # the last event has a past to leak from
