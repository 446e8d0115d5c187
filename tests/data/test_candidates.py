"""Candidates without the log: the rows that the data set's own tables say, saved, loaded and grown without a change."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from small_data import SCHEMA, SETTINGS, small_dataset, small_tables
from torch import Tensor

from braidrec.data.batches import RankingBatch, RankingView
from braidrec.data.candidates import Candidates, UserSide
from braidrec.data.dataset import Dataset
from braidrec.data.history import History, RecentHistory
from braidrec.data.schema import Field
from braidrec.data.tables import Tables


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small_dataset(tmp_path_factory.mktemp("candidates")).with_statistics()


def window(dataset: Dataset, user: int, length: int = 5) -> History:
    ends = torch.from_numpy(dataset.log.history_length)
    return RecentHistory(dataset.log, length).window(torch.tensor([user]), ends[[user]])


def tensors(batch: RankingBatch) -> list[Tensor]:
    history = [getattr(batch.history, part.name) for part in fields(History)]
    return [batch.position, batch.item, batch.fields, batch.numbers, *batch.bags, batch.label, *history]


def equal(first: RankingBatch, second: RankingBatch) -> bool:
    return all(torch.equal(one, other) for one, other in zip(tensors(first), tensors(second), strict=True))


@pytest.mark.parametrize("user", [0, 1, 4, 12])
def test_rows_are_what_the_tables_of_the_data_set_say(dataset: Dataset, user: int) -> None:
    """0 is somebody new: unknown rows, no number of their own, no past."""
    items = torch.tensor([3, 1, 20, 19], dtype=torch.int32)
    rows, features, statistics = items.numpy(), dataset.features, dataset.statistics
    assert statistics is not None
    batch = Candidates.of_dataset(dataset).batch(UserSide.of(dataset, user), items, window(dataset, user))
    assert batch.position.tolist() == [-1] * 4
    assert batch.label.tolist() == [0.0] * 4
    assert batch.weight is None
    assert batch.item is items
    assert np.array_equal(batch.fields[:, :3].numpy(), features.user_fields[[user] * 4])
    assert np.array_equal(batch.fields[:, 3:5].numpy(), features.item_fields[rows])
    assert batch.fields[:, 5].tolist() == features.context_unknown * 4
    assert np.array_equal(batch.numbers[:, :1].numpy(), features.item_numbers[rows])
    assert batch.numbers[:, 1].tolist() == [0.0] * 4  # the hour, unknown
    assert np.array_equal(batch.numbers[:, 2:].numpy(), statistics.now(user, rows))
    assert np.array_equal(batch.bags[0].numpy(), features.bags[0].rows[[user] * 4])
    assert np.array_equal(batch.bags[1].numpy(), features.bags[1].rows[rows])
    assert batch.history.items.shape == batch.history.signals.shape == batch.history.mask.shape == (4, 5)
    assert torch.equal(batch.history.items[3], window(dataset, user).items[0])
    assert [part.dtype for part in (batch.item, batch.fields, batch.numbers, *batch.bags)] == [
        torch.int32, torch.int32, torch.float32, torch.int32, torch.int32
    ]  # fmt: skip


def test_the_last_event_and_now_differ_by_that_event_alone(dataset: Dataset) -> None:
    """What `RankingView` shows of an event of the past, candidates show once it is the user's last."""
    user = int(dataset.log.user[-1])
    seen = RankingView(dataset, RecentHistory(dataset.log, 5)).at(torch.tensor([len(dataset.log) - 1]))
    now = Candidates.of_dataset(dataset).batch(UserSide.of(dataset, user), seen.item, window(dataset, user))
    assert torch.equal(now.fields[:, :5], seen.fields[:, :5])
    assert torch.equal(now.numbers[:, :1], seen.numbers[:, :1])
    assert all(torch.equal(one, other) for one, other in zip(now.bags, seen.bags, strict=True))
    counts = [4 + 2, 5 + 2]  # behind price and hour: the log counts of item and user, each one event richer
    assert (now.numbers[:, counts] > seen.numbers[:, counts]).all()


def test_somebody_new_is_known_without_the_data_set(dataset: Dataset) -> None:
    candidates = Candidates.of_dataset(dataset)
    stranger, row = candidates.stranger(), UserSide.of(dataset, 0)
    assert stranger.fields.tolist() == [entry.unknown_row for entry in dataset.features.single if entry.owner == "user"]
    assert not any(bag.any() for bag in stranger.bags)
    items = torch.arange(1, 21, dtype=torch.int32)
    assert equal(candidates.batch(stranger, items, window(dataset, 1)), candidates.batch(row, items, window(dataset, 1)))


def test_one_history_for_all_candidates_or_one_for_each(dataset: Dataset) -> None:
    candidates, items = Candidates.of_dataset(dataset), torch.tensor([2, 5], dtype=torch.int32)
    one, other = window(dataset, 1), window(dataset, 2)
    each = History(*(torch.cat([getattr(one, part.name), getattr(other, part.name)]) for part in fields(History)))
    batch = candidates.batch(candidates.stranger(), items, each)
    assert torch.equal(batch.history.items, each.items)
    assert torch.equal(candidates.batch(candidates.stranger(), items, one).history.items, one.items.repeat(2, 1))


def test_saved_and_loaded_they_answer_alike(dataset: Dataset) -> None:
    before = Candidates.of_dataset(dataset)
    after = Candidates.of(load(save(before.tensors())))
    items = torch.arange(0, 21, dtype=torch.int32)
    for side in (UserSide.of(dataset, 3), before.stranger(), after.stranger()):
        assert equal(before.batch(side, items, window(dataset, 3)), after.batch(side, items, window(dataset, 3)))
    assert after.num_items == dataset.num_items == 20
    assert sorted(after.tensors()) == sorted(before.tensors())


def test_items_added_later_stand_behind_the_catalogue_of_a_new_object(dataset: Dataset) -> None:
    before = Candidates.of_dataset(dataset)
    held = {name: tensor.clone() for name, tensor in before.tensors().items()}
    wide = torch.arange(2 * 9, dtype=torch.int32).view(2, 9)
    after = before.with_items(torch.full((2, 2), 7, dtype=torch.int32), torch.full((2, 1), 0.5), [wide])
    assert (before.num_items, after.num_items) == (20, 22)
    assert all(torch.equal(tensor, held[name]) for name, tensor in before.tensors().items())
    user, items = UserSide.of(dataset, 1), torch.arange(1, 23, dtype=torch.int32)
    old, new = before.batch(user, items[:20], window(dataset, 1)), after.batch(user, items, window(dataset, 1))
    assert torch.equal(new.fields[:-2], old.fields)
    assert torch.equal(new.numbers[:-2], old.numbers)
    assert torch.equal(new.bags[1][:-2, : old.bags[1].shape[1]], old.bags[1])
    assert not new.bags[1][:-2, old.bags[1].shape[1] :].any()
    assert torch.equal(new.bags[1][-2:], wide)
    assert new.fields[-2:, 3:5].tolist() == [[7, 7], [7, 7]]
    assert new.numbers[-2:, 0].tolist() == [0.5, 0.5]
    # no past: the statistics of the padding row, and of items 19 and 20, which nobody met
    assert dataset.statistics is not None
    none = dataset.statistics.now(1, np.zeros(2, np.int32))
    assert np.array_equal(new.numbers[-2:, 2:].numpy(), none)
    assert np.array_equal(new.numbers[-4:-2, 2:].numpy(), none)
    # narrower bags than the catalogue's are padded, and more can come
    more = after.with_items(torch.full((1, 2), 8, dtype=torch.int32), torch.zeros(1, 1), [torch.ones(1, 1, dtype=torch.int32)])
    assert more.item_bags[0][-1].tolist() == [1, *[0] * 8]
    assert Candidates.of(more.tensors()).num_items == 23


def test_without_fields_numbers_and_statistics(tmp_path: Path) -> None:
    tables = small_tables()
    bare = SCHEMA.model_copy(update={"user_fields": (), "item_fields": (), "context_fields": ()})
    dataset = small_dataset(tmp_path, SETTINGS, Tables("bare", bare, tables.interactions))
    before = Candidates.of_dataset(dataset)
    after = Candidates.of(load(save(before.tensors())))
    items = torch.tensor([1, 2], dtype=torch.int32)
    for candidates in (before, after):
        batch = candidates.batch(candidates.stranger(), items, window(dataset, 1))
        assert batch.fields[:, 1].tolist() == dataset.features.item_fields[[1, 2], 0].tolist()
        assert (batch.fields.shape, batch.numbers.shape, batch.bags) == ((2, 2), (2, 0), ())
        assert candidates.item_statistics is None
    assert before.with_items(torch.ones(1, 1, dtype=torch.int32), torch.zeros(1, 0), []).item_statistics is None


def test_an_unknown_context_is_an_empty_bag(tmp_path: Path) -> None:
    tables = small_tables()
    schema = SCHEMA.model_copy(update={"context_fields": (Field(name="device", kind="multi"), Field(name="hour"))})
    dataset = small_dataset(tmp_path, tables=Tables("bags", schema, tables.interactions, tables.items, tables.users))
    candidates = Candidates.of_dataset(dataset)
    batch = candidates.batch(candidates.stranger(), torch.tensor([1, 2], dtype=torch.int32), window(dataset, 1))
    assert batch.bags[2].tolist() == [[0], [0]]
    assert len(batch.bags) == 3
    assert Candidates.of(candidates.tensors()).context_bags[0].tolist() == [0]
