"""Splits: counts by the floor rule, no sample without its history, nothing of the future in the past."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from small_data import Event, events_lists, log_of, plain_tables, small_tables

from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.history import RecentHistory
from braidrec.data.log import InteractionLog
from braidrec.data.schema import Schema
from braidrec.data.sequences import training_ends
from braidrec.data.settings import SplitConfig
from braidrec.data.splits import Split, check_split, hidden_items, make_split
from braidrec.data.tables import Tables
from braidrec.errors import ConfigError, DataError
from braidrec.strict import parse

RATIOS = st.sampled_from([(0.8, 0.1, 0.1), (0.6, 0.2, 0.2), (0.5, 0.25, 0.25)])
PARTS = ("train", "valid", "test")


def split_or_none(log: InteractionLog, config: SplitConfig) -> Split | None:
    try:
        return make_split(log, config)
    except DataError as error:
        if config.per_user and "no user has enough events for a share of" not in str(error):
            raise
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
    split = make_split(log, SplitConfig(min_history=0))
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
    cut = [make_split(log, SplitConfig(kind="ratio", min_history=0, seed=seed)) for seed in (1, 1, 2)]
    assert [len(cut[0][name]) for name in PARTS] == [80, 10, 10]
    assert all(np.array_equal(cut[0][name], cut[1][name]) for name in PARTS)
    assert not np.array_equal(cut[0]["test"], cut[2]["test"])
    assert cut[0]["test"].tolist() != list(range(90, 100))
    assert all((np.diff(cut[0][name]) > 0).all() for name in PARTS)


@given(events_lists, st.integers(0, 3), RATIOS, st.integers(0, 3))
def test_ratio_per_user_cuts_each_users_own_events(
    events: list[Event], least: int, ratios: tuple[float, float, float], seed: int
) -> None:
    log = log_of(events)
    config = SplitConfig(kind="ratio", per_user=True, min_history=least, ratios=ratios, seed=seed)
    split = split_or_none(log, config)
    if split is None:
        return
    assert np.sort(np.concatenate([split[name] for name in PARTS])).tolist() == np.flatnonzero(log.rank >= least).tolist()
    assert all((np.diff(split[name]) > 0).all() for name in PARTS)
    for user in range(1, log.num_users + 1):
        mine = max(int((log.user == user).sum()) - least, 0)
        train, valid = max(int(ratios[0] * mine + 1e-9), min(mine, 1)), int(ratios[1] * mine + 1e-9)
        found = [int((log.user[split[name]] == user).sum()) for name in PARTS]
        assert found == [train, valid, mine - train - valid]


def test_ratio_per_user_is_seeded_and_no_prefix() -> None:
    log = log_of([(1 + at % 3, 1, 4) for at in range(90)])
    cut = [make_split(log, SplitConfig(kind="ratio", per_user=True, min_history=0, seed=seed)) for seed in (1, 1, 2)]
    assert [len(cut[0][name]) for name in PARTS] == [72, 9, 9]
    assert all(np.array_equal(cut[0][name], cut[1][name]) for name in PARTS)
    assert not np.array_equal(cut[0]["test"], cut[2]["test"])
    assert {log.user[at] for at in cut[0]["test"]} == {1, 2, 3}
    assert [set(log.rank[cut[0]["test"]][log.user[cut[0]["test"]] == user]) for user in (1, 2, 3)] != [{27, 28, 29}] * 3
    with pytest.raises(ValidationError, match=r"per_user belongs to kind = 'ratio', not 'temporal'"):
        SplitConfig(per_user=True)


def given_tables(parts: Sequence[object], clock: str | None = "timestamp") -> Tables:
    """One user a row, in an order of time that is not that of the rows."""
    frame = pl.DataFrame(
        {"user": [1 + at % 2 for at in range(len(parts))], "item": range(len(parts)), "time": range(len(parts), 0, -1)}
    ).with_columns(part=pl.Series(parts))
    schema = Schema.model_validate({"user": "user", "item": "item", "part": "part"} | ({clock: "time"} if clock else {}))
    return Tables("given", schema, frame)


@pytest.mark.parametrize("clock", ["timestamp", "order", None])
def test_a_ready_made_split_is_taken_from_its_column(tmp_path: Path, clock: str | None) -> None:
    tables = given_tables(["test", "train", "validation", "train", "valid", "train"], clock)
    dataset = Dataset.prepare(tables, tmp_path / "d", PrepareSettings(split=SplitConfig(kind="given")))  # min_history is 5

    def items(part: str) -> set[str]:
        return {dataset.item_ids[item - 1] for item in dataset.log.item[dataset.split[part]]}

    assert {part: items(part) for part in PARTS} == {"train": {"1", "3", "5"}, "valid": {"2", "4"}, "test": {"0"}}
    assert all((np.diff(dataset.split[part]) > 0).all() for part in PARTS)
    assert Dataset.open(tmp_path / "d").schema.part == "part"


def test_what_a_ready_made_split_lacks_is_named(tmp_path: Path) -> None:
    config = PrepareSettings(split=SplitConfig(kind="given"))
    with pytest.raises(DataError, match=r"the given split leaves no row for 'test': none of 3 events is marked so"):
        Dataset.prepare(given_tables(["train", "valid", "train"]), tmp_path / "a", config)
    with pytest.raises(
        DataError, match=r"column 'part': 'dev' is no part of a split; accepted: train, valid, validation, test"
    ):
        Dataset.prepare(given_tables(["train", "valid", "dev"]), tmp_path / "a", config)
    with pytest.raises(DataError, match=r"column 'part': None is no part of a split"):
        Dataset.prepare(given_tables(["train", "valid", None]), tmp_path / "a", config)
    with pytest.raises(DataError, match=r"split.kind = 'given' reads the parts from a column .*none is named.*part = "):
        Dataset.prepare(plain_tables([("u", "i", 1, 5)]), tmp_path / "a", config)
    assert not list(tmp_path.iterdir())
    ratio = PrepareSettings(split=SplitConfig(kind="ratio", ratios=(0.4, 0.3, 0.3)))
    other = Dataset.prepare(given_tables(["train"] * 16), tmp_path / "b", ratio)
    assert other.manifest["notes"][0] == "the ready-made parts in column 'part' are not used: split.kind = 'ratio'"


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


PAIRS = [(f"u{user}", item, 0, 5) for item in (10, 2, 30) for user in (2, 1, 3, 4)]


def pairs_alone() -> Tables:
    tables = plain_tables(PAIRS)
    schema = Schema(user="user", item="item", rating="rating")
    return Tables("pairs", schema, tables.interactions.drop("time"))


def test_pairs_alone_are_cut_by_ratio(tmp_path: Path) -> None:
    """min_history, 5 by default, asks nothing of a log without order."""
    settings = PrepareSettings(split=SplitConfig(kind="ratio", ratios=(0.5, 0.25, 0.25)))
    dataset = Dataset.prepare(pairs_alone(), tmp_path / "d", settings)
    log = dataset.log
    met = [(dataset.user_ids[u - 1], int(dataset.item_ids[i - 1])) for u, i in zip(log.user, log.item, strict=True)]
    assert met == sorted((str(user), item) for user, item, _, _ in PAIRS)  # items as numbers
    assert not log.timestamp.any()
    assert [len(dataset.split[name]) for name in PARTS] == [6, 3, 3]
    assert [note for note in dataset.manifest["notes"] if "no time and no order: histories and sequences mean nothing" in note]
    same = np.random.default_rng(42).permutation(np.arange(12))
    assert dataset.split["test"].tolist() == sorted(same[9:].tolist())


def test_what_needs_order_is_refused_for_pairs_alone(tmp_path: Path) -> None:
    for kind in ("temporal", "leave_last_two"):
        settings = PrepareSettings(split=SplitConfig.model_validate({"kind": kind}))
        said = rf"split.kind = '{kind}' needs to know what came first: .*for pairs alone use split.kind = \"ratio\""
        with pytest.raises(DataError, match=said):
            Dataset.prepare(pairs_alone(), tmp_path / "d", settings)
    schema = Schema(user="user", item="item", label="good")
    with pytest.raises(
        DataError,
        match=r"clock \(columns without a role: seen, device; timestamp = .* under \[interactions\] makes one the clock\);",
    ):
        check_split(SplitConfig(), schema, ["user", "seen", "item", "device", "good"])
    settings = PrepareSettings(split=SplitConfig(kind="ratio", cold_items=0.1))
    with pytest.raises(DataError, match=r"split.cold_items needs to know what came first: .*for pairs alone leave it out"):
        Dataset.prepare(pairs_alone(), tmp_path / "d", settings)
    settings = PrepareSettings(split=SplitConfig(kind="ratio", ratios=(0.5, 0.25, 0.25)))
    dataset = Dataset.prepare(pairs_alone(), tmp_path / "d", settings)
    with pytest.raises(DataError, match=r"pairs: .*the log has neither time nor order, so it leaves no sequences.*name its"):
        training_ends(dataset)
    with pytest.raises(DataError, match=r"need a timestamp column; this log has neither time nor order: bring one, or"):
        dataset.with_statistics()


def test_an_empty_part_is_refused_by_name() -> None:
    log = log_of([(1, 1, 5)] * 9)
    with pytest.raises(DataError, match=r"the temporal split leaves no row for 'valid': 9 events, 4 of them with 5 or more"):
        make_split(log, SplitConfig())
    with pytest.raises(DataError, match=r"no part 'dev' .*train, valid, test"):
        make_split(log_of([(1, 1, 5)] * 30), SplitConfig())["dev"]


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
        check_split(config, Schema(user="user", item="item", timestamp="time"))


@settings(max_examples=20)
@given(st.floats(0, 0.9), st.integers(0, 5))
def test_hidden_share_is_rounded(share: float, seed: int) -> None:
    log = log_of([(1, 1 + at % 9, 4) for at in range(30)])
    assert len(hidden_items(log, SplitConfig(cold_items=share, seed=seed))) == round(share * 9)


# -- by date, and the last few of each user ----------------------------------------------------------------------------------


def dated(tmp_path: Path, **split: object) -> Dataset:
    days = pl.DataFrame({"user": [1] * 6, "item": list(range(6)), "time": [86_400 * (19_700 + day) for day in range(6)]})
    chosen = parse(PrepareSettings, {"split": {"kind": "date", "min_history": 0, **split}}, "test")
    return Dataset.from_frames(days, schema=Schema(user="user", item="item", timestamp="time"), settings=chosen)


@pytest.mark.parametrize(
    ("valid", "test"),
    [
        ("2023-12-12", "2023-12-14"),
        (date(2023, 12, 12), datetime(2023, 12, 14, tzinfo=UTC)),
        ("2023-12-12T00:00:00+00:00", "2023-12-14T01:00:00+01:00"),
        (86_400 * 19_703, 86_400 * 19_705.0),
    ],
)
def test_parts_begin_on_a_date(tmp_path: Path, valid: object, test: object) -> None:
    data = dated(tmp_path, valid_from=valid, test_from=test)
    assert {name: rows.tolist() for name, rows in data.split.parts.items()} == {
        "train": [0, 1, 2],
        "valid": [3, 4],
        "test": [5],
    }
    assert data.settings.split.valid_from == "2023-12-12T00:00:00Z"
    assert training_ends(data).tolist() == [0, 3]


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({}, "kind = 'date' needs valid_from and test_from"),
        ({"valid_from": "2023-12-12"}, "kind = 'date' needs valid_from and test_from"),
        ({"valid_from": "2023-12-14", "test_from": "2023-12-12"}, "must come before test_from"),
        ({"valid_from": "12/13/2023", "test_from": "2023-12-12"}, "'12/13/2023' is no moment; accepted: 2024-03-01"),
        ({"valid_from": 1e30, "test_from": "2023-12-12"}, "is no moment in seconds since 1970"),
        ({"kind": "temporal", "test_from": "2023-12-12"}, "valid_from and test_from belong to kind = 'date'"),
        ({"kind": "temporal", "held_out": 2}, "held_out belongs to kind = 'leave_k_out', not 'temporal'"),
    ],
)
def test_dates_that_make_no_parts_are_refused(tmp_path: Path, split: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        dated(tmp_path, **split)


def test_a_date_that_leaves_a_part_empty_is_named(tmp_path: Path) -> None:
    said = (
        r"the date split leaves no row for 'test': 6 events, .*, from 2023-12-09T00:00:00Z to 2023-12-14T00:00:00Z, where "
        r"validation begins at split.valid_from = 2023-12-12T00:00:00Z and test at split.test_from = 2024-12-12T00:00:00Z; "
        r"choose moments within that time or bring a longer log$"
    )
    with pytest.raises(DataError, match=said):
        dated(tmp_path, valid_from="2023-12-12", test_from="2024-12-12")


def test_more_held_out_than_anybody_has_is_named() -> None:
    log = pl.DataFrame({"user": [1] * 6 + [2] * 3, "item": range(9), "time": range(9)})
    schema = Schema(user="user", item="item", timestamp="time")
    chosen = PrepareSettings(split=SplitConfig(kind="leave_k_out", held_out=3))
    said = r"leave_k_out split leaves no row for 'valid': 9 events, .*; 0 users have the 7 events that it takes; "
    with pytest.raises(DataError, match=said + r"lower split.held_out = 3 or bring a longer log$"):
        Dataset.from_frames(log, schema=schema, settings=chosen)


def test_the_last_few_of_each_user(tmp_path: Path) -> None:
    rows = [("a", at) for at in range(6)] + [("b", at) for at in range(4)] + [("c", at) for at in range(5)]
    log = pl.DataFrame([(user, at, at) for user, at in rows], schema=["user", "item", "time"], orient="row")
    chosen = PrepareSettings(split=SplitConfig(kind="leave_k_out", held_out=2))
    data = Dataset.from_frames(log, schema=Schema(user="user", item="item", timestamp="time"), settings=chosen)
    own = {
        part: sorted((data.user_ids[data.log.user[row] - 1], int(data.log.timestamp[row])) for row in data.split[part])
        for part in PARTS
    }
    assert own["test"] == [("a", 4), ("a", 5), ("c", 3), ("c", 4)]
    assert own["valid"] == [("a", 2), ("a", 3), ("c", 1), ("c", 2)]
    assert own["train"] == [("a", 0), ("a", 1), *(("b", at) for at in range(4)), ("c", 0)]
    assert "1 of 3 users have fewer than 5 events, so all of theirs are training" in data.manifest["notes"]
    assert training_ends(data)[1:].tolist() == [2, 4, 1]


def test_everybody_with_three_events_counts_where_the_last_are_held_out(tmp_path: Path) -> None:
    log = pl.DataFrame({"user": [1, 1, 1, 2, 2, 2, 3, 3], "item": [1, 2, 3, 1, 2, 3, 1, 2], "time": range(8)})
    schema = Schema(user="user", item="item", timestamp="time")
    data = Dataset.from_frames(log, schema=schema, settings=PrepareSettings(split=SplitConfig(kind="leave_last_two")))
    assert {name: len(rows) for name, rows in data.split.parts.items()} == {"train": 4, "valid": 2, "test": 2}
    assert "1 of 3 users have fewer than 3 events, so all of theirs are training" in data.manifest["notes"]
    longer = pl.DataFrame({"user": [1] * 8 + [2] * 4, "item": [*range(8), *range(4)], "time": range(12)})
    chosen = PrepareSettings(split=SplitConfig(kind="leave_last_two", min_history=4))
    fewer = Dataset.from_frames(longer, schema=schema, settings=chosen)
    assert (
        "1 of the 2 users with 3 or more events have no row in 'test': split.min_history = 4 asks for more events before it"
        in fewer.manifest["notes"]
    )


def test_who_is_in_no_part_is_counted(tmp_path: Path) -> None:
    log = pl.DataFrame({"user": [1] * 8 + [2, 2], "item": [*range(8), 0, 1], "time": range(10)})
    chosen = PrepareSettings(split=SplitConfig(min_history=3, ratios=(0.4, 0.3, 0.3)))
    data = Dataset.from_frames(log, schema=Schema(user="user", item="item", timestamp="time"), settings=chosen)
    assert data.manifest["notes"][-1].startswith(
        "5 of 10 events, all of 1 users among them, are in no part: split.min_history = 3 asks for that many earlier ones of"
    )
