"""Batches: every sample once, in an order that a restored cutter continues exactly, each row what the tables say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import small_dataset, small_tables
from torch import Tensor

from braidrec.data.batches import RankingBatch, RankingBatches
from braidrec.data.dataset import Dataset
from braidrec.data.history import History, RecentHistory
from braidrec.data.negatives import NegativeSampler
from braidrec.data.schema import Schema
from braidrec.data.tables import Tables
from braidrec.errors import DataError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small_dataset(tmp_path_factory.mktemp("batches")).with_statistics()


def cutter(
    dataset: Dataset,
    batch_size: int = 16,
    *,
    part: str = "train",
    shuffle: bool = True,
    seed: int = 3,
    per_positive: int = 0,
    run: int = 1,
) -> RankingBatches:
    negatives = NegativeSampler(dataset.log, dataset.num_items, per_positive, seed) if per_positive else None
    history = RecentHistory(dataset.log, 5, run)
    return RankingBatches(dataset, dataset.split[part], batch_size, history, shuffle=shuffle, seed=seed, negatives=negatives)


def tensors(batch: RankingBatch) -> list[Tensor]:
    history = [getattr(batch.history, part.name) for part in fields(History)]  # of shared windows as gathered
    rest = [batch.position, batch.item, batch.fields, batch.numbers, *batch.bags, batch.label]
    return [*rest, *history, *([] if batch.weight is None else [batch.weight])]


def equal(first: RankingBatch, second: RankingBatch) -> bool:
    return all(torch.equal(one, other) for one, other in zip(tensors(first), tensors(second), strict=True))


def positions(batches: RankingBatches) -> list[int]:
    return [at for batch in batches for at in batch.position.tolist()]


def endless(batches: RankingBatches) -> Iterator[RankingBatch]:
    while True:
        yield from batches


@pytest.mark.parametrize("run", [1, 4])
@pytest.mark.parametrize("batch_size", [1, 16, 1000])
def test_every_sample_once_per_epoch(dataset: Dataset, batch_size: int, run: int) -> None:
    batches = cutter(dataset, batch_size, run=run)
    samples = dataset.split["train"].tolist()
    assert batches.num_samples == len(samples)
    assert len(batches) == -(-len(samples) // batch_size)
    for _ in range(2):
        walked = list(batches)
        assert len(walked) == len(batches)
        assert [len(batch) for batch in walked[:-1]] == [batch_size] * (len(walked) - 1)
        assert sorted(at for batch in walked for at in batch.position.tolist()) == samples


@pytest.mark.parametrize("run", [1, 4])
def test_epochs_differ_and_seeds_decide(dataset: Dataset, run: int) -> None:
    first, same, other = cutter(dataset, run=run), cutter(dataset, run=run), cutter(dataset, seed=4, run=run)
    epochs = [positions(first), positions(first)]
    assert epochs[0] != epochs[1]
    assert [positions(same), positions(same)] == epochs
    assert positions(other) not in epochs


def test_without_shuffling_the_samples_come_in_order_every_time(dataset: Dataset) -> None:
    batches = cutter(dataset, part="valid", shuffle=False, per_positive=2)
    walked = [list(batches), list(batches)]
    assert [at for batch in walked[0] for at in batch.position.tolist()] == np.repeat(dataset.split["valid"], 3).tolist()
    assert all(equal(one, other) for one, other in zip(*walked, strict=True))  # the negatives, too


@settings(deadline=None, max_examples=30)
@given(
    stop=st.integers(0, 40),
    batch_size=st.integers(7, 40),
    per_positive=st.integers(0, 2),
    shuffle=st.booleans(),
    run=st.integers(1, 9),
)
def test_a_restored_cutter_continues_exactly(
    dataset: Dataset, stop: int, batch_size: int, per_positive: int, shuffle: bool, run: int
) -> None:
    """Stopped anywhere, in the first epoch or a later one, the rest and the next epoch are the same batches."""
    broken = cutter(dataset, batch_size, shuffle=shuffle, per_positive=per_positive, run=run)
    stream = endless(broken)
    for _ in range(stop):
        next(stream)
    state = json.loads(json.dumps(broken.state()))
    fresh = cutter(dataset, batch_size, shuffle=shuffle, seed=99, per_positive=per_positive, run=run)
    if per_positive:  # the sampler's seed belongs to the run's settings, not to the position in the data
        fresh._negatives = NegativeSampler(dataset.log, dataset.num_items, per_positive, 3)
    fresh.restore(state)
    rest = len(broken) + 2
    pairs = list(zip(islice(stream, rest), islice(endless(fresh), rest), strict=True))
    assert len(pairs) == rest
    assert all(equal(one, other) for one, other in pairs)
    assert fresh.state() == broken.state()


@pytest.mark.parametrize("per_positive", [0, 2])
def test_runs_are_consecutive_samples_of_one_user(dataset: Dataset, per_positive: int) -> None:
    """In order of time, none longer than asked for, and not all cut at the same places in the next epoch."""
    batches, train = cutter(dataset, 10_000, per_positive=per_positive, run=6), dataset.split["train"]
    users, place = dataset.log.user, np.zeros(len(dataset.log), np.int64)
    place[train] = [int((users[train[:at]] == users[one]).sum()) for at, one in enumerate(train)]  # among the user's own
    events, cuts = 6 // (1 + per_positive), []
    for _ in range(2):
        (batch,) = batches
        at = batch.position.numpy()[:: 1 + per_positive]
        assert np.array_equal(batch.position.numpy(), at.repeat(1 + per_positive))
        goes_on = (users[at[1:]] == users[at[:-1]]) & (place[at[1:]] == place[at[:-1]] + 1)
        runs = np.split(at, np.flatnonzero(~goes_on) + 1)
        # two runs of a user may come to stand side by side, and look like one
        assert np.mean([len(run) <= events for run in runs]) > 0.8
        assert np.mean([len(run) == events for run in runs]) > 0.2
        cuts.append({int(run[0]) for run in runs})
    assert cuts[0] != cuts[1]


@pytest.mark.parametrize("per_positive", [0, 2])
def test_a_walk_in_runs_has_every_row_as_the_other_walk(dataset: Dataset, per_positive: int) -> None:
    apart, together = (cutter(dataset, 23, part="valid", shuffle=False, per_positive=per_positive, run=run) for run in (1, 8))
    rows = [[torch.cat(parts) for parts in zip(*map(tensors, batches), strict=True)] for batches in (apart, together)]
    assert torch.equal(apart.walk, torch.arange(apart.num_samples))
    assert not torch.equal(together.walk, apart.walk)
    assert all(torch.equal(one[together.walk], other) for one, other in zip(*rows, strict=True))


def test_rows_are_what_the_tables_say(dataset: Dataset) -> None:
    tables = small_tables()
    log, features = dataset.log, dataset.features
    assert tables.items is not None
    assert tables.users is not None
    items = {row["item"]: row for row in tables.items.iter_rows(named=True)}
    users = {row["user"]: row for row in tables.users.iter_rows(named=True)}
    names = [entry.name for entry in features.single]
    assert names == ["user", "gender", "age", "item", "title", "device"]
    bag_names = [bag.name for bag in features.bags]
    assert bag_names == ["hobbies", "genres"]
    met = set()
    for batch in cutter(dataset, 13):
        for at in range(len(batch)):
            position = int(batch.position[at])
            user, item = int(dataset.user_ids[log.user[position] - 1]), int(dataset.item_ids[batch.item[at] - 1])
            met.add((user, item))
            past = [other for other in range(position) if log.user[other] == log.user[position]][-5:]
            assert batch.history.items[at].tolist() == [*log.item[past].tolist(), *[0] * (5 - len(past))]
            assert batch.history.signals[at].tolist() == [*log.signal[past].tolist(), *[0] * (5 - len(past))]
            assert batch.history.mask[at].tolist() == [slot < len(past) for slot in range(5)]
            assert batch.item[at] == log.item[position]
            assert batch.label[at] == float(log.rating[position] > 3)
            values = [
                features.single[f].values[int(row) - features.single[f].offset - 1] for f, row in enumerate(batch.fields[at])
            ]
            assert values[:2] == [str(user), users[user]["gender"]]
            assert values[3:5] == [str(item), items[item]["title"]]
            cells = [
                [entry.values[int(row) - entry.offset - 1] for row in bag[at] if row]
                for entry, bag in zip([v for v in features.vocabularies if v.multi], batch.bags, strict=True)
            ]
            assert cells == [
                [part for part in users[user]["hobbies"].split("|") if part],
                [part for part in items[item]["genres"].split("|") if part],
            ]
            price = next(scaling for scaling in features.scalings if scaling.name == "price")
            assert batch.numbers[at, 0] == pytest.approx((np.log1p(items[item]["price"]) - price.mean) / price.spread, abs=1e-5)
    found = {(row["user"], row["item"]) for row in tables.interactions.iter_rows(named=True)}
    assert met <= found
    assert dataset.number_groups == (("price", 1), ("hour", 1), ("statistics", 7))
    assert batch.numbers.shape[1] == 9


def test_context_and_statistics_stand_at_the_event(dataset: Dataset) -> None:
    batch = next(iter(cutter(dataset)))
    statistics = dataset.statistics
    assert statistics is not None
    at = batch.position.numpy()
    assert np.array_equal(batch.numbers[:, 2:].numpy(), statistics.before(at))
    assert np.array_equal(batch.numbers[:, 1:2].numpy(), dataset.features.context_numbers[at])
    assert np.array_equal(batch.fields[:, 5:].numpy(), dataset.features.context_fields[at])


def test_negatives_stand_behind_their_positive(dataset: Dataset) -> None:
    plain = dataset.features
    walked = list(cutter(dataset, 12, shuffle=False, per_positive=3))
    for batch in walked:
        assert batch.label.tolist() == [1, 0, 0, 0] * (len(batch) // 4)
        own = torch.from_numpy(dataset.log.item)[batch.position]
        assert torch.equal(batch.item == own, batch.label == 1)
        item_columns = [f for f, entry in enumerate(plain.single) if entry.owner == "item"]
        assert torch.equal(batch.fields[:, item_columns], torch.from_numpy(plain.item_fields)[batch.item.long()])
        # user, history and context are the event's own, whatever the candidate
        assert torch.equal(batch.history.items[0::4], batch.history.items[3::4])
        assert torch.equal(batch.fields[0::4, :3], batch.fields[2::4, :3])
        assert dataset.statistics is not None
        expected = dataset.statistics.before(batch.position.numpy(), batch.item.numpy())
        assert np.array_equal(batch.numbers[:, 2:].numpy(), expected)


def test_no_array_holds_a_history_per_event(dataset: Dataset) -> None:
    """Everything a cutter keeps is O(N) although its histories are wider than the log is long."""
    length, seen, largest = 10_000, set(), 0
    stack: list[object] = [RankingBatches(dataset, dataset.split["train"], 2, RecentHistory(dataset.log, length), shuffle=True)]
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, (Tensor, np.ndarray)):
            largest = max(largest, value.numel() if isinstance(value, Tensor) else value.size)
        elif isinstance(value, (list, tuple)):
            stack.extend(value)
        elif hasattr(value, "__dict__") and type(value).__module__.startswith("braidrec"):
            stack.extend(vars(value).values())
    assert len(seen) > 20
    assert largest == length  # the steps 0..K-1 of one window


@pytest.mark.parametrize("run", [1, 4])
def test_a_batch_moves_whole(dataset: Dataset, run: int) -> None:
    batch = next(iter(cutter(dataset, run=run)))
    assert batch.to("cpu") is batch
    moved = batch.to("meta")
    assert all(tensor.device.type == "meta" for tensor in tensors(moved))
    assert [tensor.shape for tensor in tensors(moved)] == [tensor.shape for tensor in tensors(batch)]


def test_sample_weights_travel_with_their_rows(tmp_path: Path) -> None:
    tables = small_tables()
    schema = Schema.model_validate({**tables.schema.model_dump(), "weight": "hour", "context_fields": ()})
    dataset = small_dataset(tmp_path, tables=Tables("w", schema, tables.interactions, tables.items, tables.users))
    batch = next(iter(cutter(dataset)))
    assert batch.weight is not None
    ordered = tables.interactions.sort(["time", "user", "item"], maintain_order=True)["hour"].to_numpy()
    assert np.array_equal(batch.weight.numpy(), ordered[batch.position.numpy()])
    assert batch.fields.shape[1] == 5


def test_no_samples_is_an_error(dataset: Dataset) -> None:
    with pytest.raises(DataError, match="no samples to cut batches from"):
        RankingBatches(dataset, np.zeros(0, np.int64), 4, RecentHistory(dataset.log, 5), shuffle=False)
