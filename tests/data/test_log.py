"""The per-user index of the log against a plain loop."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from small_data import USERS, Event, earlier, events_lists, log_of


@given(events_lists)
def test_index_agrees_with_a_plain_loop(events: list[Event]) -> None:
    log = log_of(events)
    assert len(log) == len(events)
    assert log.num_users == USERS
    assert log.rank.tolist() == [len(earlier(events, at)) for at in range(len(events))]
    assert (log.slot_event[0], log.slot_item[0], log.slot_signal[0]) == (-1, 0, 0)
    assert (log.start[0], log.start[1], log.start[-1]) == (1, 1, len(events) + 1)
    for user in range(1, USERS + 1):
        own = [at for at, event in enumerate(events) if event[0] == user]
        slots = slice(log.start[user], log.start[user + 1])
        assert log.slot_event[slots].tolist() == own
        assert log.slot_item[slots].tolist() == [events[at][1] for at in own]
        assert log.slot_signal[slots].tolist() == [events[at][2] for at in own]
        assert log.history_length[user] == len(own)
    assert log.history_length[0] == 0


@given(events_lists)
def test_every_event_finds_itself_at_its_rank(events: list[Event]) -> None:
    log = log_of(events)
    assert np.array_equal(log.slot_event[log.start[log.user] + log.rank], np.arange(len(log)))


def test_types_stay_narrow() -> None:
    log = log_of([(2, 1, 5), (1, 3, 2), (2, 2, 4)])
    for name in ("user", "item", "signal", "rank", "slot_event", "slot_item", "slot_signal"):
        assert getattr(log, name).dtype == np.int32, name
    assert log.start.dtype == np.int64
    assert log.slot_event.tolist() == [-1, 1, 0, 2]
