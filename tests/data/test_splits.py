"""Splits: counts by the floor rule, no sample without its history, nothing of the future in the past."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import Event, events_lists, log_of, plain_tables, small_tables

from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.history import RecentHistory
from braidrec.data.log import InteractionLog
from braidrec.data.splits import Split, hidden_items, make_split
from braidrec.data.splits_config import SplitConfig
from braidrec.errors import DataError

RATIOS = st.sampled_from([(0.8, 0.1, 0.1), (0.6, 0.2, 0.2), (0.5, 0.25, 0.25)])
PARTS = ("train", "valid", "test")


def split_or_none(log: InteractionLog, config: SplitConfig) -> Split | None:
    try:
        return make_split(log, config, has_clock=True)
    except DataError as error:
        if "leaves no row for" not in str(error):
            raise
        return None


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(10, (8, 1, 1)), (19, (15, 1, 3)), (970_009, (776_007, 97_000, 97_002)), (97_786, (78_228, 9_778, 9_780))],
)
def test_temporal_counts_are_floors_and_the_rest_is_test(count: int, sizes: tuple[int, int, int]) -> None:
    ones = np.ones(count, np.int32)
    times = np.arange(count, dtype=np.int64)
    floats = ones.astype(np.float32)
    log = InteractionLog.build(ones, ones, times, floats, floats, None, ones, 1)
    split = make_split(log, SplitConfig(min_history=0), has_clock=True)
    assert tuple(len(split[name]) for name in PARTS) == sizes
    assert np.array_equal(np.concatenate([split[name] for name in PARTS]), times)


@given(events_lists, st.integers(0, 5), RATIOS)
def test_the_first_rows_of_a_user_are_no_samples(events: list[Event], least: int, ratios: tuple[float, float, float]) -> None:
    log = log_of(events)
    for kind in ("temporal", "ratio"):
        split = split_or_none(log, SplitConfig(kind=kind, min_history=least, ratios=ratios))
        if split is None:
            continue
        together = np.sort(np.concatenate([split[name] for name in PARTS]))
        assert together.tolist() == [at for at in range(len(log)) if log.rank[at] >= least]
        for user in range(1, log.num_users + 1):
            mine = int((log.user == user).sum())
            assert mine - int((log.user[together] == user).sum()) == min(least, mine)


@given(events_lists)
def test_temporal_parts_follow_one_another_and_histories_look_back(events: list[Event]) -> None:
    log = log_of(events)
    split = split_or_none(log, SplitConfig(min_history=1))
    if split is None:
        return
    assert split["train"].max() < split["valid"].min() <= split["valid"].max() < split["test"].min()
    for name in PARTS:
        for position in split[name]:
            slots = log.start[log.user[position]] + np.arange(log.rank[position])
            assert (log.timestamp[log.slot_event[slots]] < log.timestamp[position]).all()


@given(events_lists, st.integers(0, 3))
def test_leave_last_two(events: list[Event], least: int) -> None:
    log = log_of(events)
    split = split_or_none(log, SplitConfig(kind="leave_last_two", min_history=least))
    if split is None:
        return
    expected: dict[str, list[int]] = {name: [] for name in PARTS}
    for at, event in enumerate(events):
        own = [other for other, another in enumerate(events) if another[0] == event[0]]
        if own.index(at) >= least:
            last = len(own) - own.index(at)
            expected["test" if last == 1 and len(own) >= 3 else "valid" if last == 2 and len(own) >= 3 else "train"].append(at)
    assert {name: split[name].tolist() for name in PARTS} == expected


def test_ratio_is_a_seeded_shuffle() -> None:
    log = log_of([(1 + at % 3, 1, 4) for at in range(100)])
    cut = [make_split(log, SplitConfig(kind="ratio", min_history=0, seed=seed), has_clock=False) for seed in (1, 1, 2)]
    assert [len(cut[0][name]) for name in PARTS] == [80, 10, 10]
    assert all(np.array_equal(cut[0][name], cut[1][name]) for name in PARTS)
    assert not np.array_equal(cut[0]["test"], cut[2]["test"])
    assert cut[0]["test"].tolist() != list(range(90, 100))
    assert all((np.diff(cut[0][name]) > 0).all() for name in PARTS)


def test_time_is_refused_without_a_clock(tmp_path: Path) -> None:
    tables = plain_tables([("u", f"i{at}", at, 5) for at in range(30)], clock="order")
    with pytest.raises(DataError, match=r"'temporal' needs a timestamp column.*leave_last_two"):
        Dataset.prepare(tables, tmp_path / "d")
    assert not list(tmp_path.iterdir())
    settings = PrepareSettings(split=SplitConfig(kind="leave_last_two"))
    dataset = Dataset.prepare(tables, tmp_path / "d", settings)
    assert dataset.split["test"].tolist() == [29]
    with pytest.raises(DataError, match="statistics need a timestamp"):
        dataset.with_statistics()


def test_neither_clock_nor_order_is_refused(tmp_path: Path) -> None:
    tables = plain_tables([("u", "i", 1, 5)])
    naked = type(tables)("naked", tables.schema.model_copy(update={"timestamp": None}), tables.interactions)
    with pytest.raises(DataError, match=r"need a 'timestamp' column, or 'order'"):
        Dataset.prepare(naked, tmp_path / "d")


def test_an_empty_part_is_refused_by_name() -> None:
    log = log_of([(1, 1, 5)] * 9)
    with pytest.raises(DataError, match=r"the temporal split leaves no row for 'valid': 9 events, 4 of them with 5 or more"):
        make_split(log, SplitConfig(), has_clock=True)
    with pytest.raises(DataError, match=r"no part 'dev' .*train, valid, test"):
        make_split(log_of([(1, 1, 5)] * 30), SplitConfig(), has_clock=True)["dev"]


def test_ties_in_time_are_broken_by_id_as_number_or_as_text(tmp_path: Path) -> None:
    rows = [(user, item, time, 5) for time in range(4) for user in (10, 2) for item in (10, 2)]
    order = {}
    for tie in ("integer", "string"):
        settings = PrepareSettings(split=SplitConfig(min_history=0, tie=tie))
        dataset = Dataset.prepare(plain_tables(rows), tmp_path / tie, settings)
        log = dataset.log
        order[tie] = [(dataset.user_ids[u - 1], dataset.item_ids[i - 1]) for u, i in zip(log.user, log.item, strict=True)]
        assert np.array_equal(log.timestamp, np.repeat(np.arange(4), 4))
    assert order["integer"] == [("2", "2"), ("2", "10"), ("10", "2"), ("10", "10")] * 4
    assert order["string"] == [("10", "10"), ("10", "2"), ("2", "10"), ("2", "2")] * 4


def test_hidden_items_are_a_seeded_share_of_those_met() -> None:
    log = log_of([(1, 1 + at % 9, 4) for at in range(30)])
    hidden = hidden_items(log, SplitConfig(cold_items=0.34))
    assert len(hidden) == 3
    assert np.array_equal(hidden, hidden_items(log, SplitConfig(cold_items=0.34)))
    assert not np.array_equal(hidden, hidden_items(log, SplitConfig(cold_items=0.34, seed=7)))


def test_cold_items_leave_training_and_histories_but_not_the_test_time(tmp_path: Path) -> None:
    tables = small_tables(per_user=40)
    warm = Dataset.prepare(tables, tmp_path / "warm", PrepareSettings(split=SplitConfig(min_history=2)))
    border = int(warm.split["valid"][0])
    # a seed that hides the very last training row
    splits = [SplitConfig(min_history=2, cold_items=0.25, seed=seed) for seed in range(99)]
    split = next(each for each in splits if warm.log.item[border - 1] in hidden_items(warm.log, each))
    cold = Dataset.prepare(tables, tmp_path / "cold", PrepareSettings(split=split))
    hidden = hidden_items(warm.log, split)
    assert cold.manifest["counts"]["hidden_items"] == len(hidden) == 4  # round(.25 x 18 items met) by half to even

    def rows(dataset: Dataset, positions: np.ndarray) -> list[tuple[int, int, int]]:
        log = dataset.log
        return list(
            zip(log.timestamp[positions].tolist(), log.user[positions].tolist(), log.item[positions].tolist(), strict=True)
        )

    # the whole log is the old one less the hidden items' events before the border
    kept = [at for at in range(len(warm.log)) if at >= border or warm.log.item[at] not in hidden]
    assert rows(cold, np.arange(len(cold.log))) == rows(warm, np.array(kept))
    # no hidden item in a training row nor in its history, in validation and test they stay
    assert not np.isin(cold.log.item[cold.split["train"]], hidden).any()
    history = RecentHistory(cold.log, 50)
    assert not np.isin(history.before(torch.from_numpy(cold.split["train"])).items.numpy(), hidden).any()
    assert np.isin(cold.log.item[cold.split["test"]], hidden).any()
    # the borders in time are the same: every later sample is a sample of the same part as before
    for name in ("valid", "test"):
        assert rows(cold, cold.split[name]) == rows(warm, warm.split[name])
    assert (cold.log.rank[np.concatenate([cold.split[name] for name in PARTS])] >= 2).all()
    # an item that launches late is unknown to the vocabulary
    item_field = cold.features.vocabularies[[entry.name for entry in cold.features.vocabularies].index("item")]
    column = [entry.name for entry in cold.features.single if entry.owner == "item"].index("item")
    assert (cold.features.item_fields[hidden, column] == item_field.unknown_row).all()


@pytest.mark.parametrize("kind", ["ratio", "leave_last_two"])
def test_cold_items_need_one_border_in_time(kind: str) -> None:
    config = SplitConfig.model_validate({"kind": kind, "cold_items": 0.2})
    with pytest.raises(DataError, match=rf"cold_items needs split.kind = 'temporal', not '{kind}'"):
        make_split(log_of([(1, 1, 5)] * 30), config, has_clock=True)


@settings(max_examples=20)
@given(st.floats(0, 0.9), st.integers(0, 5))
def test_hidden_share_is_rounded(share: float, seed: int) -> None:
    log = log_of([(1, 1 + at % 9, 4) for at in range(30)])
    assert len(hidden_items(log, SplitConfig(cold_items=share, seed=seed))) == round(share * 9)
