"""Ids of two tables meet where they are the same id, never where they are not; where few meet, an error says why."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from braidrec.data.intake.description import load_description, read_tables, tables_from_frames
from braidrec.data.intake.readers import ReadConfig, read_table
from braidrec.data.tables import Tables
from braidrec.errors import DataError


def _read(folder: Path, ids: list[str], known: list[str], keys: str = "", more: str = "") -> Tables:
    """A log and a catalogue as CSV files with these item ids."""
    lines = ["user,item", *(f"u{at % 3},{raw}" for at, raw in enumerate(ids))]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    lines = [f"item,title{more}", *(f"{raw},title {at}{f',{at}' if more else ''}" for at, raw in enumerate(known))]
    (folder / "items.csv").write_text("\n".join(lines) + "\n")
    toml = f'name = "d"\n[interactions]\nfile = "log.csv"\n[items]\nfile = "items.csv"\n{keys}'
    (folder / "d.toml").write_text(toml)
    return read_tables(load_description(folder / "d.toml"), folder)


def _ids(tables: Tables) -> tuple[list[Any], list[Any]]:
    assert tables.items is not None
    return tables.interactions["item"].to_list(), tables.items["item"].to_list()


def _said(tables: Tables) -> str:
    return " ".join(tables.report.notes)


def test_a_column_of_whole_decimal_numbers_is_a_column_of_integers(tmp_path: Path) -> None:
    """In every table and every form: as pandas writes integers beside a cell that was empty."""
    for log, known in ((["12.0", "7.0"], ["7", "12"]), (["12", "7"], ["7.0", "12.0"]), (["12.0", "7.0"], ["7.0", "12.0"])):
        tables = _read(tmp_path, log, known)
        assert _ids(tables) == ([12, 7], [7, 12])
        assert "ids came as decimal numbers, all whole; read as integers" in _said(tables)
        assert "does not list" not in _said(tables)
    frames = tables_from_frames(
        pl.DataFrame({"user": [1, 1], "item": [12.0, 7.0]}),
        pa.table({"item": pa.array([7, 12], pa.int16()), "title": ["a", "b"]}),
    )
    assert _ids(frames) == ([12, 7], [7, 12])
    decimals = pl.DataFrame({"user": [1, 1], "item": pl.Series([12, 7], dtype=pl.Decimal(10, 2))})
    assert tables_from_frames(decimals).interactions["item"].to_list() == [12, 7]
    with pytest.raises(DataError, match=r"row 2, column 'item': .*1\.5.* is no id"):
        tables_from_frames(pl.DataFrame({"user": [1, 1], "item": pl.Series(["12", "1.5"]).cast(pl.Decimal(10, 2))}))
    with pytest.raises(DataError, match="row 2, column 'item': nan is an empty id"):
        tables_from_frames(pl.DataFrame({"user": [1, 1], "item": [12.0, float("nan")]}))


def test_decimal_numbers_of_a_text_file_are_ids_as_written(tmp_path: Path) -> None:
    tables = _read(tmp_path, ["1.5", "2.0"], ["2.0", "1.5"])
    assert _ids(tables) == (["1.5", "2.0"], ["2.0", "1.5"])


def test_a_decimal_point_alone_makes_no_other_id_across_tables(tmp_path: Path) -> None:
    tables = _read(tmp_path, ["12.0", "7", "x", "12"], ["7.0", "12", "x"])
    assert _ids(tables) == (["12", "7.0", "x", "12"], ["7.0", "12", "x"])
    assert "column 'item': in 2 rows 2 ids differ from those of their table by a decimal point alone" in _said(tables)
    # within one table they are two, and each meets its own
    tables = _read(tmp_path, ["12.0", "12", "x"], ["12.0", "12", "x"])
    assert _ids(tables) == (["12.0", "12", "x"], ["12.0", "12", "x"])
    alone = tables_from_frames(pl.DataFrame({"user": [1, 1, 1], "item": ["12.0", "12", "x"]}))
    assert alone.interactions["item"].to_list() == ["12.0", "12", "x"]


def test_outer_blanks_are_no_part_of_an_id_in_any_table(tmp_path: Path) -> None:
    for log, known in (([" 12", " 7"], ["7", "12"]), (["12", "7"], ["7 ", "\u00a012"])):
        tables = _read(tmp_path, log, known)
        assert _ids(tables) == ([12, 7], [7, 12])
        assert "column 'item': outer blanks taken off 2 ids" in _said(tables)
    frames = tables_from_frames(
        pl.DataFrame({"user": ["a"], "item": ["x y\t"]}), pl.DataFrame({"item": [" x y"], "title": ["t"]})
    )
    assert _ids(frames) == (["x y"], ["x y"])


@pytest.mark.parametrize("written", ["", "quoted", "blank", "quoted blank"])
def test_empty_cells_make_no_text_of_a_column_of_numbers(written: str, tmp_path: Path) -> None:
    """However they are written, and in each column by itself: users as decimals, items as integers."""
    cell = {"": "", "quoted": '""', "blank": " ", "quoted blank": '" "'}[written]
    (tmp_path / "log.csv").write_text(f"user,item\n{cell},-3\n-3.0,-3\n4.0,{cell}\n4.0,11\n")
    tables = tables_from_frames(tmp_path / "log.csv", read=ReadConfig(on_bad_rows="skip"))
    assert tables.interactions.rows() == [(-3, -3), (4, 11)]
    assert "column 'user': ids came as decimal numbers, all whole; read as integers" in _said(tables)
    with pytest.raises(DataError, match=r"line 2, column 'user': .* is an empty id"):
        tables_from_frames(tmp_path / "log.csv")
    frame = pl.DataFrame({"user": ["-3.0", "4.0"], "item": ["-3", "11"]})  # text that says that it is text stays it
    assert tables_from_frames(frame).interactions.rows() == [("-3.0", "-3"), ("4.0", "11")]


def test_leading_zeros_are_never_left_out(tmp_path: Path) -> None:
    tables = _read(tmp_path, ["012", "12"], ["12", "7"])
    assert _ids(tables)[0] == ["012", "12"]
    assert "1 interactions are with 1 values of 'item' that its table does not list (such as '012')" in _said(tables)


@pytest.mark.parametrize(
    ("log", "known", "cause"),
    [
        (
            ["012", "007"],
            ["12", "7"],
            "the log has '012' where the table has '12', so the leading zeros of one of them are missing",
        ),
        (["12", "7"], ["0012", "0007"], "the log has '12' where the table has '0012', so the leading zeros"),
        (["Aa", "Bb"], ["AA", "BB"], "the log has 'Aa' where the table has 'AA', which differ in capital letters"),
        (["item_12", "item_7"], ["12", "7"], "the log has 'item_12' where the table has '12', so one of them has a prefix"),
        (["a", "b"], ["x", "y"], "the log has ids such as 'a', the table such as 'x'"),
    ],
)
def test_where_nobody_finds_their_item_the_cause_is_said(tmp_path: Path, log: list[str], known: list[str], cause: str) -> None:
    with pytest.raises(DataError) as caught:
        _read(tmp_path, log, known)
    message = str(caught.value)
    assert f"none of 2 interactions (0.0%) find their item in {tmp_path / 'items.csv'}, column 'item'" in message
    assert cause in message
    assert "accepted: 10% or more" in message
    assert "least_met = 0" in message
    assert len(_read(tmp_path, log, known, "[read]\nleast_met = 0\n").interactions) == 2


def test_another_column_that_has_the_ids_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"column 'row' of the table has these ids, .*\(id = \"row\" under \[items\] in TOML\)"):
        _read(tmp_path, ["0", "1"], ["100", "101"], more=",row")
    tables = _read(tmp_path, ["0", "1"], ["100", "101"], more=",row", keys='id = "row"\n')
    assert _ids(tables) == ([0, 1], [0, 1])
    assert "column 'item' is not used: the id is 'row', which the interactions call 'item'" in _said(tables)
    assert [field.name for field in tables.schema.item_fields] == []


def test_several_ids_in_one_cell_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"one cell of the log holds several, such as '12 7' \(item_separator = ' ' under"):
        _read(tmp_path, ["12 7", "7 12"], ["12", "7"])


def test_an_id_among_several_is_said(tmp_path: Path) -> None:
    assert 'items.item: id (the id that the interactions use; id = "asin" says otherwise)' in _said(
        _read(tmp_path, ["0", "1"], ["0", "1"], more=",asin")
    )
    log = pl.DataFrame({"user": [1, 2], "session": [1, 2], "item": [1, 2], "asin": [1, 2]})
    notes = " ".join(tables_from_frames(log).report.notes)
    assert 'interactions.user: user (called like a user column; user = "session" says otherwise)' in notes
    assert 'interactions.item: item (called like an item id; item = "asin" says otherwise)' in notes


def test_few_are_an_error_too_and_the_share_can_be_said(tmp_path: Path) -> None:
    ids = [str(at) for at in range(100, 130)]
    with pytest.raises(DataError, match=r"2 of 30 interactions \(6.7%\) find their item"):
        _read(tmp_path, ids, ["100", "101", "5"])
    assert "28 interactions are with 28 values" in _said(
        _read(tmp_path, ids, ["100", "101", "5"], "[read]\nleast_met = 0.05\n")
    )
    with pytest.raises(DataError, match=r"15 of 30 interactions \(50.0%\).*accepted: 90% or more"):
        _read(tmp_path, ids, ids[:15], "[read]\nleast_met = 0.9\n")


def test_a_column_of_durations_has_no_ids() -> None:
    items = pl.DataFrame({"item": [8, 9], "length": [timedelta(seconds=1)] * 2})
    with pytest.raises(DataError, match=r"the log has ids such as '1', the table such as '8'"):
        tables_from_frames(pl.DataFrame({"user": [1, 2], "item": [1, 2]}), items)


def test_users_likewise() -> None:
    log, users = pl.DataFrame({"user": ["a", "b"], "item": [1, 2]}), pl.DataFrame({"user": ["A", "B"], "age": [1, 2]})
    with pytest.raises(
        DataError, match=r"none of 2 interactions .* find their user in users, column 'user': .*capital letters"
    ):
        tables_from_frames(log, users=users)


def test_a_table_of_new_items_reads_ids_alike(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("item,title\n100.0,a\n101.0,b\n")
    frame = read_table(tmp_path / "new.csv", what="items", read=ReadConfig()).frame
    assert frame["item"].to_list() == [100.0, 101.0]  # a column of numbers, as adding items takes them
