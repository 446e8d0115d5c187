"""Histories cut by gathers against plain loops over the log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_data import ITEMS, USERS, Event, earlier, events_lists, log_of
from torch.utils._python_dispatch import TorchDispatchMode

from braidrec.data.history import (
    TARGETS,
    RecentHistory,
    SemanticHistory,
    SharedHistory,
    build_semantic_slots,
    principal_directions,
)
from braidrec.data.log import InteractionLog
from braidrec.errors import DataError

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)


def padded(rows: Sequence[Sequence[int]], length: int) -> list[list[int]]:
    return [[*row, *[0] * (length - len(row))] for row in rows]


@given(events_lists, st.integers(1, 12))
def test_recent_history_agrees_with_a_plain_loop(events: list[Event], length: int) -> None:
    history = RecentHistory(log_of(events), length).before(torch.arange(len(events)))
    past = [earlier(events, at)[-length:] for at in range(len(events))]
    assert history.items.tolist() == padded([[events[at][1] for at in row] for row in past], length)
    assert history.signals.tolist() == padded([[events[at][2] for at in row] for row in past], length)
    assert history.mask.tolist() == [[slot < len(row) for slot in range(length)] for row in past]
    assert (history.items.dtype, history.signals.dtype, history.mask.dtype) == (torch.int32, torch.int32, torch.bool)


@given(events_lists, st.integers(1, 12))
def test_window_at_the_end_of_the_log(events: list[Event], length: int) -> None:
    log = log_of(events)
    users = torch.arange(0, USERS + 1)
    history = RecentHistory(log, length).window(users, torch.from_numpy(log.history_length))
    own = [[event[1] for event in events if event[0] == user][-length:] for user in range(USERS + 1)]
    assert history.items.tolist() == padded(own, length)


def test_recent_history_by_hand() -> None:
    log = log_of([(1, 7, 5), (2, 8, 1), (1, 6, 4), (1, 5, 3), (1, 7, 2)])
    history = RecentHistory(log, 2).before(torch.tensor([4, 0, 2, 1]))
    assert history.items.tolist() == [[6, 5], [0, 0], [7, 0], [0, 0]]
    assert history.signals.tolist() == [[4, 3], [0, 0], [5, 0], [0, 0]]


@given(events_lists, st.integers(1, 12), st.data())
def test_shared_windows_hold_the_same_histories(events: list[Event], length: int, data: st.DataObject) -> None:
    """Of any events in any order, some of them twice, runs of one user among them."""
    log = log_of(events)
    chosen = torch.tensor(data.draw(st.lists(st.integers(0, len(events) - 1), min_size=1, max_size=80)))
    users, ends = torch.from_numpy(log.user)[chosen], torch.from_numpy(log.past)[chosen]
    if data.draw(st.booleans()):
        order = (users.long() * 1000 + ends).argsort(stable=True)
        users, ends = users[order], ends[order]
    source = RecentHistory(log, length)
    own, shared = source.window(users, ends), source.shared(users, ends)
    for part in ("items", "signals", "mask"):
        assert torch.equal(getattr(shared, part), getattr(own, part))
        assert getattr(shared, part).dtype == getattr(own, part).dtype
    assert torch.equal(shared.user, users)
    assert torch.equal(users[shared.leaders][shared.run_of], users)
    assert torch.equal(shared.run_of[shared.leaders], torch.arange(len(shared.leaders)))
    assert sorted(shared.place.tolist()) == sorted(set(shared.place.tolist()))
    for run in shared.runs:
        assert torch.equal(run.band.sum(dim=2), run.last - run.first)
        assert run.items.shape[1] <= max(TARGETS, length // 4) - 1 + length


def test_shared_windows_by_hand() -> None:
    """Two targets of user 1 read [7, 6] and [6, 5] of one window of three; user 2, between other runs, has read nothing."""
    log = log_of([(1, 7, 5), (2, 8, 1), (1, 6, 4), (1, 5, 3), (1, 9, 2)])
    shared = RecentHistory(log, 2, run=4).before(torch.tensor([3, 4, 1]))
    assert isinstance(shared, SharedHistory)
    alone, pair = shared.runs
    assert pair.items.tolist() == [[7, 6, 5]]
    assert pair.signals.tolist() == [[5, 4, 3]]
    assert pair.band.tolist() == [[[True, True, False], [False, True, True]]]
    assert pair.rows.tolist() == [[0, 1]]
    assert (alone.items.tolist(), alone.band.tolist(), alone.rows.tolist()) == ([[0]], [[[False]]], [[2]])
    assert shared.place.tolist() == [1, 2, 0]
    assert shared.items.tolist() == [[7, 6], [6, 5], [0, 0]]


def test_short_ends_are_padded_to_their_like() -> None:
    """One run of 32 targets and eight of one: 40 targets are held, not 9 x 32."""
    log = log_of([(1, 1 + at % 9, 5) for at in range(40)] + [(2 + at % 5, 3, 4) for at in range(8)])
    shared = RecentHistory(log, 5, run=32).before(torch.cat([torch.arange(32), torch.tensor([40, 41, 42, 43, 44])]))
    assert [list(run.rows.shape) for run in shared.runs] == [[5, 1], [1, 32]]


def test_recent_history_keeps_the_log_and_nothing_else() -> None:
    """Memory is O(N) whatever the length: every table is the log's own, only the steps 0..K-1 are new."""
    log = log_of([(1, 7, 5), (2, 8, 1), (1, 6, 4)])
    history = RecentHistory(log, 1_000_000)
    owned = [value for value in vars(history).values() if isinstance(value, torch.Tensor)]
    shared = {getattr(log, name).ctypes.data for name in ("user", "rank", "start", "slot_item", "slot_signal")}
    assert {tensor.data_ptr() for tensor in owned} >= shared
    assert sum(tensor.numel() for tensor in owned if tensor.data_ptr() not in shared) == 1_000_000


def plain_top(events: Sequence[Event], vectors: NDArray[np.float32], length: int) -> list[list[int]]:
    """Positions of the most similar earlier events: rounded similarity first, then the more recent one."""
    steps = np.round(vectors.astype(np.float64) @ vectors.astype(np.float64).T * 2**20).astype(int).tolist()
    chosen = []
    for at, event in enumerate(events):
        keys = [(-steps[event[1]][events[past][1]], -past) for past in earlier(events, at)]
        chosen.append([-past for _, past in sorted(keys)[:length]])
    return chosen


def semantic(log: InteractionLog, vectors: NDArray[np.float32], length: int, folder: Path) -> SemanticHistory:
    path = folder / "slots.npy"
    path.unlink(missing_ok=True)
    build_semantic_slots(log, vectors, length, path, show_progress=False)
    return SemanticHistory(log, np.load(path, allow_pickle=False))


@same_folder
@given(events=events_lists, length=st.integers(1, 12), seed=st.integers(0, 1000))
def test_semantic_history_agrees_with_a_plain_loop(events: list[Event], length: int, seed: int, tmp_path: Path) -> None:
    # few directions, so that many pairs are equally similar
    coarse = np.random.default_rng(seed).integers(-1, 2, (ITEMS + 1, 2)).astype(np.float32)
    vectors = np.concatenate(
        [np.zeros((1, 2), np.float32), coarse[1:] / np.maximum(np.linalg.norm(coarse[1:], axis=1), 1)[:, None]]
    )
    history = semantic(log_of(events), vectors, length, tmp_path).before(torch.arange(len(events)))
    past = plain_top(events, vectors, length)
    assert history.items.tolist() == padded([[events[at][1] for at in row] for row in past], length)
    assert history.signals.tolist() == padded([[events[at][2] for at in row] for row in past], length)
    assert history.mask.tolist() == [[slot < len(row) for slot in range(length)] for row in past]


def test_equally_similar_events_come_most_recent_first(tmp_path: Path) -> None:
    """Also across the rows that are worked on at once, and for vectors that no arithmetic multiplies exactly."""
    count = 1_300
    rng = np.random.default_rng(3)
    events = [(1, int(item), 1 + at % 5) for at, item in enumerate(rng.integers(1, 4, count))]
    body = rng.normal(size=(3, 37)).astype(np.float32)
    vectors = np.concatenate([np.zeros((1, 37), np.float32), body / np.linalg.norm(body, axis=1, keepdims=True)])
    log = log_of(events)
    slots = semantic(log, vectors, 6, tmp_path)._slots.numpy()
    expected = plain_top(events, vectors, 6)
    found = [[int(log.slot_event[slot]) for slot in row if slot] for row in slots]
    assert found == expected
    last = events[-1][1]
    twins = [at for at in range(count - 1) if events[at][1] == last]
    assert found[-1] == twins[::-1][:6]


def test_only_earlier_events_of_the_same_user_are_similar(tmp_path: Path) -> None:
    vectors = np.array([[0, 0], [1, 0], [0.6, 0.8], [0, 1]], np.float32)
    events = [(1, 3, 1), (2, 1, 2), (1, 2, 3), (1, 1, 4), (2, 1, 5), (1, 1, 5)]
    history = semantic(log_of(events), vectors, 3, tmp_path).before(torch.tensor([3, 5, 4, 0]))
    assert history.items.tolist() == [[2, 3, 0], [1, 2, 3], [1, 0, 0], [0, 0, 0]]


def test_slots_of_another_log_are_refused() -> None:
    with pytest.raises(DataError, match="prepared for 2 events, the log has 3"):
        SemanticHistory(log_of([(1, 1, 1)] * 3), np.zeros((2, 4), np.int32))


@pytest.mark.parametrize("width", [5, 40])
def test_principal_directions_have_length_one_and_a_zero_padding_row(width: int) -> None:
    vectors = np.random.default_rng(0).normal(2.0, 1.0, (31, width)).astype(np.float32)
    vectors[0] = 0
    vectors[4] = vectors[9]
    directions = principal_directions(vectors, width=20)
    assert directions.shape == (31, min(width, 20))
    assert directions.dtype == np.float32
    assert not directions[0].any()
    assert np.allclose(np.linalg.norm(directions[1:], axis=1), 1, atol=1e-5)
    assert np.allclose(directions[4], directions[9], atol=1e-5)
    centred = vectors[1:] - vectors[1:].mean(axis=0)
    if width <= 20:  # nothing is cut off, so angles between centred vectors stay
        exact = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        assert np.allclose(directions[1:] @ directions[1:].T, exact @ exact.T, atol=1e-5)


def test_directions_are_of_width_512_where_texts_are_wider() -> None:
    assert principal_directions(np.random.default_rng(0).normal(size=(530, 515)).astype(np.float32)).shape == (530, 512)


class Searches(TorchDispatchMode):
    """Notes how many rows and columns every search for the most similar has."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.topk.default:
            self.shapes.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


def test_histories_are_searched_in_blocks_of_rows_of_one_user(tmp_path: Path) -> None:
    """Not event by event, nor all pairs at once: what makes a log of a million events a matter of a minute."""
    lengths = [5, 1024, 1, 1025, 2314, 0, 30]
    user = np.repeat(np.arange(1, 8), lengths).astype(np.int32)
    item = np.random.default_rng(0).integers(1, 200, len(user)).astype(np.int32)
    floats = np.ones(len(user), np.float32)
    log = InteractionLog.build(user, item, np.arange(len(user)), floats, floats, None, np.ones(len(user), np.int32), 7)
    vectors = principal_directions(np.random.default_rng(1).normal(size=(200, 24)).astype(np.float32))
    with Searches() as searches:
        build_semantic_slots(log, vectors, 30, tmp_path / "slots.npy", show_progress=False)
    blocks = [
        [(5, 5)],
        [(1024, 1024)],
        [(1, 1)],
        [(1024, 1024), (1, 1025)],
        [(1024, 1024), (1024, 2048), (266, 2314)],
        [(30, 30)],
    ]
    assert searches.shapes == [shape for own in blocks for shape in own]
