"""Rows that stand twice, users and items with hardly any: what goes is counted, what stays is all that should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from braidrec.data.cleaning import clean
from braidrec.data.dataset import Dataset
from braidrec.data.history import RecentHistory, SemanticHistory, build_semantic_slots
from braidrec.data.intake.readers import ReadConfig
from braidrec.data.schema import Schema
from braidrec.data.settings import PrepareSettings, SplitConfig
from braidrec.errors import ConfigError, DataError
from braidrec.strict import parse

SCHEMA = Schema(user="user", item="item", timestamp="time", label="label")
LOG = pl.DataFrame(
    [
        ("a", 1, 10, 1, "x"),
        ("a", 1, 10, 1, "x"),  # the same row
        ("a", 1, 10, 0, "x"),  # another label: another row
        ("a", 2, 11, 1, "x"),
        ("b", 1, 12, 0, "y"),
        ("a", 1, 10, 1, "x"),
        ("b", 1, 13, 1, "y"),
    ],
    schema=["user", "item", "time", "label", "shop"],
    orient="row",
)


def cleaned(log: pl.DataFrame = LOG, schema: Schema = SCHEMA, **settings: object) -> tuple[list[tuple[object, ...]], list[str]]:
    found = clean(log, schema, parse(PrepareSettings, settings, "test"))
    return found.interactions.rows(), list(found.notes)


def test_rows_that_are_equal_throughout_are_merged() -> None:
    rows, notes = cleaned()
    assert rows == [LOG.row(at) for at in (0, 2, 3, 4, 6)]
    assert notes == [
        '2 rows are equal to an earlier one in every column; merged into it (duplicates = "merge"; "keep" keeps them)'
    ]


def test_rows_may_be_kept_or_refused() -> None:
    rows, notes = cleaned(duplicates="keep")
    assert rows == LOG.rows()
    assert notes[0].startswith('2 rows are equal to an earlier one in every column; kept (duplicates = "keep")')
    with pytest.raises(
        DataError, match=r"2 rows are equal to an earlier one .*user = 'a', item = 1, time = 10.*duplicates = \"er"
    ):
        cleaned(duplicates="error")
    assert cleaned(LOG[[0, 3]], duplicates="error") == (LOG[[0, 3]].rows(), [])


def test_a_column_that_nobody_uses_tells_rows_apart() -> None:
    log = LOG[[0, 0]].with_columns(shop=pl.Series(["x", "z"]))
    assert cleaned(log) == (log.rows(), [])


def test_columns_of_lists_and_of_any_name_are_compared() -> None:
    log = pl.DataFrame({"user": [1, 1, 1], "item": [2, 2, 2], "^a.*$": [["x"], ["x"], ["y"]], "": [None, None, None]})
    rows, _ = cleaned(log, Schema(user="user", item="item"))
    assert rows == [log.row(0), log.row(2)]


@pytest.mark.parametrize(("which", "left"), [("first", (0, 3, 4)), ("last", (3, 5, 6))])
def test_one_event_of_a_user_with_an_item(which: str, left: tuple[int, ...]) -> None:
    rows, notes = cleaned(duplicates="keep", repeats=which)
    assert rows == [LOG.row(at) for at in left]
    assert notes[-1] == f"4 events are of a user with an item met before or again; the {which} alone is kept"


def test_the_last_of_pairs_without_time_is_refused() -> None:
    pairs, schema = LOG.select("user", "item"), Schema(user="user", item="item")
    assert cleaned(pairs, schema, duplicates="keep", repeats="first")[0] == [("a", 1), ("a", 2), ("b", 1)]
    with pytest.raises(DataError, match=r"repeats = \"last\" needs to know what came last"):
        cleaned(pairs, schema, repeats="last")


def test_a_core_is_cut_until_nothing_falls_out() -> None:
    """Item 9 has two events, but one is of a user with one event: when that user goes, so does the item, so does user c."""
    pairs = [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("c", 1), ("c", 9), ("d", 9)]
    log = pl.DataFrame(pairs, schema=["user", "item"], orient="row")
    rows, notes = cleaned(log, Schema(user="user", item="item"), k_core=2)
    assert rows == pairs[:4]
    assert notes == ["k_core = 2: 2 of 4 users, 2 of 3 items and 4 of 7 events are left; the others are in no table"]
    with pytest.raises(DataError, match=r"k_core = 3 leaves no row: no part of the 7 events has 3 events for every user \(4\)"):
        cleaned(log, Schema(user="user", item="item"), k_core=3)


def test_what_is_outside_the_core_is_in_no_catalogue(tmp_path: Path) -> None:
    log = pl.DataFrame({"user": [1, 1, 1, 2, 2, 2, 3], "item": [1, 2, 3, 1, 2, 3, 3], "time": range(7)})
    items = pl.DataFrame({"item": [1, 2, 3, 4], "title": list("abcd")})
    settings = PrepareSettings(split=SplitConfig(kind="leave_last_two"), k_core=2)
    held = Dataset.from_frames(log, items, path=tmp_path / "core", settings=settings)
    assert (held.item_ids, held.user_ids, len(held.log)) == (["1", "2", "3"], ["1", "2"], 6)


def test_unknown_rules_are_refused() -> None:
    with pytest.raises(ConfigError, match="'duplicates' = 'drop'"):
        cleaned(duplicates="drop")


# -- copies, and events of one second ----------------------------------------------------------------------------------------


def prepared(folder: Path, log: pl.DataFrame, **settings: object) -> Dataset:
    split = SplitConfig(min_history=0, ratios=(0.5, 0.25, 0.25))
    chosen = parse(PrepareSettings, {"split": split, "duplicates": "keep", **settings}, "test")
    return Dataset.from_frames(log, schema=SCHEMA, path=folder, settings=chosen)


def histories(data: Dataset) -> list[list[int]]:
    found = RecentHistory(data.log, 9).before(torch.arange(len(data.log)))
    return [row[mask].tolist() for row, mask in zip(found.items, found.mask, strict=True)]


COPIES = pl.DataFrame(
    {
        "user": [1, 1, 1, 1, 2, 1],
        "item": [5, 5, 6, 7, 5, 5],
        "time": [10, 10, 10, 11, 11, 12],
        "label": [1, 1, 0, 1, 0, 1],
    }
)


def test_no_history_holds_a_copy_of_its_row(tmp_path: Path) -> None:
    """Rows 0 and 1 are one event; the event of time 12, another one with the same item, has both before it."""
    data = prepared(tmp_path / "d", COPIES)
    assert [data.item_ids[item - 1] for item in data.log.item] == ["5", "5", "6", "7", "5", "5"]
    five, six, seven = 1, 2, 3
    assert histories(data) == [[], [], [five, five], [five, five, six], [], [five, five, six, seven]]
    assert data.log.before.tolist() == [0, 0, 2, 3, 4, 5]
    reopened = Dataset.open(data.path)
    np.testing.assert_array_equal(reopened.log.past, data.log.past)
    notes = " ".join(data.manifest["notes"])
    assert "1 events repeat an earlier one in 'user', 'item', 'time'; kept, none in the history of another" in notes
    assert "3 events (50.0%) share 'time' with another of their user; ties = \"order\"" in notes


def test_events_of_one_second_can_be_kept_apart(tmp_path: Path) -> None:
    data = prepared(tmp_path / "d", COPIES, ties="exclude")
    five, six, seven = 1, 2, 3
    assert histories(data) == [[], [], [], [five, five, six], [], [five, five, six, seven]]
    assert data.log.before.tolist() == [0, 0, 0, 3, 3, 5]  # of any user
    with pytest.raises(DataError, match='ties = "exclude" needs to know what came first'):
        Dataset.from_frames(
            COPIES.select("user", "item"),
            path=tmp_path / "pairs",
            settings=PrepareSettings(split=SplitConfig(kind="ratio"), ties="exclude"),
        )


@pytest.mark.parametrize("form", ["ms", "clock", "unit"])
def test_what_comes_within_a_second_keeps_its_order_and_is_no_copy(tmp_path: Path, form: str) -> None:
    """Item 9 came before item 1, and 5 twice: 300 ms apart, so it is two events."""
    first = 1_700_000_000_000
    log = pl.DataFrame({"user": [1] * 5, "item": [5, 5, 7, 9, 1], "time": [first + at for at in (0, 300, 900, 1100, 1900)]})
    reading = ReadConfig(time_unit="ms") if form == "unit" else ReadConfig()
    if form == "clock":
        log = log.with_columns(pl.from_epoch("time", "ms").cast(pl.Datetime("us")))
    chosen = PrepareSettings(split=SplitConfig(kind="leave_last_two"))
    data = Dataset.from_frames(log, settings=chosen, path=tmp_path / "d", read=reading)
    assert [data.item_ids[item - 1] for item in data.log.item] == ["5", "5", "7", "9", "1"]
    assert data.item_ids[data.log.item[data.split["test"][0]] - 1] == "1"
    assert not any("merged" in note for note in data.manifest["notes"])
    twice = Dataset.from_frames(pl.concat([log, log]), settings=chosen, path=tmp_path / "e", read=reading)
    assert twice.fingerprint == data.fingerprint


def test_ties_are_kept_apart_though_users_are_mixed_within_a_second(tmp_path: Path) -> None:
    first = 1_700_000_000_000
    log = pl.DataFrame(
        {
            "user": [1, 2, 1, 2, 1],
            "item": [5, 5, 6, 6, 7],
            "time": [first + at for at in (0, 100, 200, 300, 1000)],
            "label": [1, 0, 1, 0, 1],
        }
    )
    data = prepared(tmp_path / "d", log, ties="exclude")
    assert "4 events (80.0%) share 'time' with another of their user" in " ".join(data.manifest["notes"])
    assert data.log.past.tolist() == [0, 0, 0, 0, 2]
    assert data.log.before.tolist() == [0, 0, 0, 0, 4]


def test_statistics_hold_no_copy(tmp_path: Path) -> None:
    """An item met by nobody else: its copy in the same second must not tell its label."""
    data = prepared(tmp_path / "d", COPIES).with_statistics()
    assert data.statistics is not None
    rows = data.statistics.before(np.arange(6))
    np.testing.assert_array_equal(rows[0], rows[1])
    data = prepared(tmp_path / "e", COPIES, ties="exclude").with_statistics()
    assert data.statistics is not None
    rows = data.statistics.before(np.arange(6))
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(rows[0, 2:], rows[2, 2:])  # of the user in the same second, with another item never met


def test_similar_histories_hold_no_copy(tmp_path: Path) -> None:
    data = prepared(tmp_path / "d", COPIES)
    build_semantic_slots(data.log, np.eye(4, dtype=np.float32), 4, tmp_path / "slots.npy", show_progress=False)
    found = SemanticHistory(data.log, np.load(tmp_path / "slots.npy")).before(torch.arange(6))
    assert [row.sum().item() for row in found.mask] == [0, 0, 2, 3, 0, 4]


@pytest.mark.slow
def test_doubled_rows_tell_no_label(tmp_path: Path) -> None:
    """Coin-toss labels, every row twice: what is learned from such rows is worth nothing on test."""
    from braidrec import fit

    rng = np.random.default_rng(5)
    count = 6000
    log = pl.DataFrame(
        {
            "user": rng.integers(0, 150, count),
            "item": rng.integers(0, 60, count),
            "time": 1_600_000_000 + rng.integers(0, 10**7, count),
            "label": rng.integers(0, 2, count),
        }
    )
    data = Dataset.from_frames(pl.concat([log, log]), schema=SCHEMA, settings=PrepareSettings(duplicates="keep"))
    training = {"lr": 0.01, "max_epochs": 12, "average_epochs": 0.0, "batch_size": 256, "patience": 12}
    run = fit(data, path=tmp_path / "run", show_progress=False, training=training)
    auc = run.evaluate(show_progress=False)["all"]["auc"]
    assert abs(auc - 0.5) < 0.06
