"""Training sequences: the windows of PAD's protocol by hand, every target once, and batches that go on where they stopped."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.intake.sources import public_dataset, read_public
from braidrec.data.schema import Schema
from braidrec.data.sequences import (
    SequenceBatch,
    SequenceBatches,
    left_padded,
    training_ends,
    training_events,
    window_ends,
)
from braidrec.data.settings import SplitConfig
from braidrec.data.tables import Tables
from braidrec.errors import DataError

ITEMS = 40


def prepare(
    folder: Path, sequences: list[list[int]], clock: Literal["order", "timestamp"] = "order", **split: object
) -> Dataset:
    """User k meets ``sequences[k - 1]``, one event a second, users in turn; item n has catalogue row n."""
    split = {"kind": "leave_last_two", "min_history": 1, **split}
    rows = [(user, item, 1_000 * at + user) for user, own in enumerate(sequences, 1) for at, item in enumerate(own)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    schema = Schema.model_validate({"user": "user", "item": "item", clock: "time"})
    tables = Tables("sequences", schema, frame, pl.DataFrame({"item": np.arange(1, ITEMS + 1)}))
    return Dataset.prepare(tables, folder / "sequences", PrepareSettings(split=SplitConfig.model_validate(split)))


SHORT, LONG = [4, 2, 9, 2, 7], [1 + (7 * at) % 29 for at in range(23)]  # 5 and 23 events: 3 and 21 of them for training


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare(tmp_path_factory.mktemp("pair"), [SHORT, LONG])


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """60 users with 1 to 30 events of the first 30 items."""
    rng = np.random.default_rng(0)
    sequences = [rng.integers(1, 31, 1 + at % 30).tolist() for at in range(60)]
    return prepare(tmp_path_factory.mktemp("many"), sequences)


def past(dataset: Dataset, user: int) -> list[int]:
    """The user's training sequence, by plain Python."""
    log = dataset.log
    own = log.slot_item[log.start[user] : log.start[user + 1]].tolist()
    return own[:-2] if len(own) >= 3 else own


# The batch ---------------------------------------------------------------------------------------------------------------


def test_five_events_leave_two_targets_and_twenty_three_leave_twenty(pair: Dataset) -> None:
    batches = SequenceBatches(pair, 2, length=20)
    batch = batches.cut(np.array([0, 1]))
    assert (batches.num_windows, len(batches), len(batch)) == (2, 1, 2)
    assert batch.user.tolist() == [1, 2]
    assert batch.items.tolist() == [[0] * 18 + SHORT[:2], LONG[:20]]
    assert batch.targets.tolist() == [[0] * 18 + SHORT[1:3], LONG[1:21]]
    assert batch.mask.tolist() == [[False] * 18 + [True] * 2, [True] * 20]
    assert (batch.negatives > 0).squeeze(2).tolist() == batch.mask.tolist()
    assert {part.dtype for part in (batch.user, batch.items, batch.targets, batch.negatives)} == {torch.int32}


def test_a_batch_is_as_wide_as_its_longest_window(pair: Dataset) -> None:
    batch = SequenceBatches(pair, 2, length=20).cut(np.array([0]))
    assert batch.items.tolist() == [[4, 2]]
    assert batch.targets.tolist() == [[2, 9]]
    assert batch.negatives.shape == (1, 2, 1)


def test_the_last_window_holds_the_latest_targets(pair: Dataset) -> None:
    batch = SequenceBatches(pair, 2, length=4).cut(np.array([1, 0]))
    assert batch.items.tolist() == [LONG[16:20], [0, 0, *SHORT[:2]]]
    assert batch.targets.tolist() == [LONG[17:21], [0, 0, *SHORT[1:3]]]


def test_all_windows_cut_the_history_from_its_end(pair: Dataset) -> None:
    batches = SequenceBatches(pair, 9, length=8, windows="all")
    batch = batches.cut(np.arange(batches.num_windows))
    assert batch.user.tolist() == [1, 2, 2, 2]
    assert batch.targets.tolist() == [
        [0] * 6 + SHORT[1:3],
        LONG[13:21],
        LONG[5:13],
        [0] * 4 + LONG[1:5],
    ]
    assert batch.items.tolist() == [[0] * 6 + SHORT[:2], LONG[12:20], LONG[4:12], [0] * 4 + LONG[:4]]


@pytest.mark.parametrize("length", [1, 4, 20, 50])
def test_all_windows_have_every_target_once(many: Dataset, length: int) -> None:
    batches = SequenceBatches(many, 7, length=length, windows="all")
    found: dict[int, list[int]] = {}
    for batch in batches:
        assert batch.items.shape[1] <= length
        for user, targets in zip(batch.user.tolist(), batch.targets, strict=True):
            found.setdefault(user, []).extend(targets[targets > 0].tolist())
    expected = {user: sorted(past(many, user)[1:]) for user in range(1, 61) if len(past(many, user)) > 1}
    assert {user: sorted(targets) for user, targets in found.items()} == expected


def test_last_windows_have_one_window_of_every_user_who_has_two_events(many: Dataset) -> None:
    found = {}
    for batch in SequenceBatches(many, 7, length=5):
        for user, items, targets in zip(batch.user.tolist(), batch.items.tolist(), batch.targets.tolist(), strict=True):
            assert user not in found
            found[user] = ([item for item in items if item], [item for item in targets if item])
    expected = {user: past(many, user) for user in range(1, 61) if len(past(many, user)) > 1}
    assert found == {user: (own[-6:-1], own[1:][-5:]) for user, own in expected.items()}


def test_to_keeps_a_batch_that_is_there_already(pair: Dataset) -> None:
    batch = SequenceBatches(pair, 2, length=4).cut(np.array([0]))
    assert batch.to("cpu") is batch
    moved = batch.to("meta")
    assert all(part.device.type == "meta" for part in (moved.user, moved.items, moved.targets, moved.negatives, moved.mask))


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(1, 6))
def test_windows_against_a_plain_loop(ends: list[int], length: int) -> None:
    users, found = window_ends(np.array([0, *ends], np.int64), length, "all")
    expected = [(user, end) for user, own in enumerate(ends, 1) if own >= 2 for end in range(own, 1, -length)]
    assert list(zip(users.tolist(), found.tolist(), strict=True)) == expected


def test_left_padding_by_hand() -> None:
    slots = np.array([0, 5, 6, 7, 8], np.int32)
    items, found = left_padded(np.array([1, 4, 2]), np.array([3, 1, 0]), slots, 2)
    assert items.tolist() == [[6, 7], [0, 8], [0, 0]]
    assert found.tolist() == [[2, 3], [0, 4], [0, 0]]


# Order and draws ---------------------------------------------------------------------------------------------------------


def same(one: SequenceBatch, other: SequenceBatch) -> bool:
    names = ("user", "items", "targets", "negatives")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


@pytest.mark.parametrize("windows", ["last", "all"])
def test_negatives_are_items_the_training_sequence_lacks(many: Dataset, windows: Literal["last", "all"]) -> None:
    drawn: set[int] = set()
    for batch in SequenceBatches(many, 16, length=5, windows=windows, negatives=4):
        for user, negatives, mask in zip(batch.user.tolist(), batch.negatives, batch.mask, strict=True):
            assert not negatives[~mask].any()
            own = set(negatives[mask].flatten().tolist())
            assert 0 not in own
            assert not own & set(past(many, user))
            drawn |= own
    assert max(drawn) <= ITEMS
    assert drawn >= set(range(31, ITEMS + 1))  # items that nobody met are drawn, too


def test_held_out_items_may_be_drawn(tmp_path: Path) -> None:
    """User 1 trains on all items but 39 and 40, which are then all that is left to draw."""
    dataset = prepare(tmp_path, [[*range(1, 39), 40, 39], [1, 2, 3]])
    negatives = SequenceBatches(dataset, 1, length=50, negatives=3).cut(np.array([0])).negatives
    assert set(negatives.flatten().tolist()) == {39, 40}


def test_negatives_are_uniform_and_fresh_every_epoch(many: Dataset) -> None:
    batches = SequenceBatches(many, 60, length=30, negatives=50)
    first = next(iter(batches))
    for _ in batches:  # to the end of the epoch
        pass
    second = next(iter(batches))
    order = [batch.user.argsort() for batch in (first, second)]
    assert torch.equal(first.targets[order[0]], second.targets[order[1]])
    assert not torch.equal(first.negatives[order[0]], second.negatives[order[1]])
    long = int((first.user == 30).nonzero())
    own = first.negatives[long].flatten()
    counts = np.bincount(own.numpy(), minlength=ITEMS + 1)
    allowed = [item for item in range(1, ITEMS + 1) if item not in past(many, 30)]
    assert counts.sum() == counts[allowed].sum() == 27 * 50
    expected = counts.sum() / len(allowed)
    assert np.abs(counts[allowed] - expected).max() < 5 * np.sqrt(expected)


@pytest.mark.parametrize("taken", [0, 1, 6, 7, 9])
def test_a_restored_cutter_goes_on_with_the_same_batches(many: Dataset, taken: int) -> None:
    def cutter() -> SequenceBatches:
        return SequenceBatches(many, 9, length=5, seed=3)

    def endless(batches: SequenceBatches) -> itertools.chain[SequenceBatch]:
        return itertools.chain.from_iterable(itertools.repeat(batches))

    whole = list(itertools.islice(endless(cutter()), taken + 8))
    batches = cutter()
    for _ in itertools.islice(endless(batches), taken):
        pass
    state = json.loads(json.dumps(batches.state()))
    epoch, position = divmod(taken - 1, len(batches)) if taken else (0, -1)  # an epoch turns when more is asked of it
    assert state == {"seed": 3, "epoch": epoch, "position": position + 1}
    other = SequenceBatches(many, 9, length=5, seed=99)
    other.restore(state)
    for expected, found in zip(whole[taken:], endless(other), strict=False):
        assert same(expected, found)


def test_seeds_differ_and_epochs_shuffle(many: Dataset) -> None:
    first, second = (SequenceBatches(many, 60, length=5, seed=seed) for seed in (0, 1))
    assert next(iter(first)).user.tolist() != next(iter(second)).user.tolist()
    assert first.state() == {"seed": 0, "epoch": 0, "position": 1}
    one = next(iter(SequenceBatches(many, 60, length=5))).user.tolist()
    batches = SequenceBatches(many, 60, length=5)
    assert [batch.user.tolist() for batch in batches] == [one]
    assert next(iter(batches)).user.tolist() != one


# What belongs to training ------------------------------------------------------------------------------------------------


def test_training_ends_before_the_first_event_held_out(tmp_path: Path) -> None:
    dataset = prepare(tmp_path, [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10], [11]])
    assert training_ends(dataset).tolist() == [0, 3, 2, 1, 1]  # users with fewer than 3 events hold nothing out
    users, items = training_events(dataset.log, training_ends(dataset))
    assert users.tolist() == [1, 1, 1, 2, 2, 3, 4]
    assert items.tolist() == [1, 2, 3, 6, 7, 8, 11]
    batches = SequenceBatches(dataset, 8, length=4)
    assert sorted(next(iter(batches)).user.tolist()) == [1, 2]  # one event alone has no next item


def test_a_history_too_short_for_its_part_still_trains(tmp_path: Path) -> None:
    """With min_history = 3, user 2's validation event is in no part, so it is the last of the training sequence."""
    dataset = prepare(tmp_path, [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10], [11, 12, 13]], min_history=3)
    assert training_ends(dataset).tolist() == [0, 4, 3, 3]


def test_a_border_in_time_cuts_every_user_there(tmp_path: Path) -> None:
    """20 events of 4 users, in turn: the border at 16 leaves 4 events to each."""
    sequences = [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11], [12, 13, 14, 15, 16], [17, 18, 19, 20]]
    dataset = prepare(tmp_path, sequences, "timestamp", kind="temporal", min_history=0, ratios=(0.8, 0.1, 0.1))
    assert dataset.split["valid"].tolist() == [16, 17]
    assert training_ends(dataset).tolist() == [0, 4, 4, 4, 4]
    assert set(training_events(dataset.log, training_ends(dataset))[1].tolist()) == set(dataset.log.item[:16].tolist())


def test_events_without_enough_history_count_up_to_the_border(tmp_path: Path) -> None:
    """Each user's first two events are in no part; they are training where they come before the border, and only there."""
    rows = (
        [(1, at, at) for at in range(10)]
        + [(2, 10 + at, 3 + 2 * at) for at in range(10)]
        + [(3, 20 + at, 40 + at) for at in range(3)]
    )
    frame = pl.DataFrame([(user, item + 1, time) for user, item, time in rows], schema=["user", "item", "time"], orient="row")
    schema = Schema(user="user", item="item", timestamp="time")
    settings = PrepareSettings(split=SplitConfig(kind="temporal", min_history=2, ratios=(0.6, 0.2, 0.2)))
    dataset = Dataset.prepare(Tables("late", schema, frame), tmp_path / "late", settings)
    border = int(dataset.split["valid"][0])
    assert training_ends(dataset).tolist() == [0, *(int((dataset.log.user[:border] == user).sum()) for user in (1, 2, 3))]
    assert training_ends(dataset)[3] == 0  # user 3 comes after it
    assert training_ends(dataset).sum() == border > len(dataset.split["train"])
    held = {name: dataset.split[name] for name in ("valid", "test")}
    assert all(dataset.log.rank[at] >= training_ends(dataset)[dataset.log.user[at]] for part in held.values() for at in part)


def test_a_shuffled_split_has_no_sequences(tmp_path: Path) -> None:
    dataset = prepare(tmp_path, [list(range(1, 11)), list(range(11, 21))], kind="ratio")
    with pytest.raises(
        DataError, match=r"sequences: the split is 'ratio'.*prepare the data with split\.kind = 'leave_last_two'"
    ):
        training_ends(dataset)


def test_a_ready_made_split_has_no_sequences(tmp_path: Path) -> None:
    """Whoever made it may have drawn it at random, so training need not be what came first."""
    frame = pl.DataFrame(
        {"user": [1] * 4, "item": [1, 2, 3, 4], "time": [1, 2, 3, 4], "part": ["train"] * 2 + ["valid", "test"]}
    )
    schema = Schema(user="user", item="item", timestamp="time", part="part")
    settings = PrepareSettings(split=SplitConfig(kind="given"))
    dataset = Dataset.prepare(Tables("made", schema, frame), tmp_path / "made", settings)
    with pytest.raises(
        DataError, match=r"made: the split is 'given', ready-made .*split\.kind = 'leave_last_two' or 'temporal'"
    ):
        training_ends(dataset)


def test_without_a_next_item_there_is_nothing_to_learn(tmp_path: Path) -> None:
    dataset = prepare(tmp_path, [[1, 2, 3], [4, 5, 6], [7]], min_history=0)
    with pytest.raises(DataError, match="no user has two events before the held-out ones"):
        SequenceBatches(dataset, 4, length=5)


def test_a_user_who_met_everything_is_named(tmp_path: Path) -> None:
    dataset = prepare(tmp_path, [[*range(1, ITEMS + 1), 1, 2], [1, 2, 3]])
    with pytest.raises(DataError, match="user row 1 met all 40 items, so no negative is left"):
        next(iter(SequenceBatches(dataset, 4, length=5)))


def test_prime_pantry(tmp_path: Path) -> None:
    if not os.environ.get("BRAIDREC_DATA"):
        pytest.skip("BRAIDREC_DATA is unset: prime-pantry is not at hand")
    tables = read_public("prime-pantry", download=False)
    dataset = Dataset.prepare(tables, tmp_path / "pantry", public_dataset("prime-pantry").settings)
    ends = training_ends(dataset)
    assert (ends.sum(), ends[1:].min(), ends.max()) == (89_262, 3, 21)
    batches = SequenceBatches(dataset, 128, length=20)
    assert (len(batches), batches.num_windows) == (101, 12_871)
    whole = batches.cut(np.arange(12_871))
    assert whole.items.shape == (12_871, 20)
    assert whole.mask.sum() == (whole.negatives > 0).sum() == 76_391
    pairs = np.unique(np.stack(training_events(dataset.log, ends)), axis=1).T  # nobody is offered what they met
    met = set(map(tuple, pairs.tolist()))
    drawn = whole.negatives[..., 0][whole.mask].tolist()
    owners = np.repeat(whole.user.numpy(), whole.mask.sum(dim=1).numpy()).tolist()
    assert met.isdisjoint(zip(owners, drawn, strict=True))
    everything = SequenceBatches(dataset, 128, length=20, windows="all")
    assert everything.num_windows == 12_871  # nobody has more than 20 targets
