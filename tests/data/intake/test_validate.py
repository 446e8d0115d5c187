"""What is in the columns: ids exact, times in seconds, bad values named by line."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braidrec.arguments import BLANKS, raw_id
from braidrec.data.intake.description import tables_from_frames
from braidrec.data.schema import Field, Schema
from braidrec.data.tables import Tables
from braidrec.errors import DataError

SCHEMA = Schema(user="user", item="item", timestamp="time", rating="rating")
ODD_IDS = [str(2**63 - 1), "1.0", "🎬", "x" * 10_000, "007", " a", "-0", "1e3", "nan", "null"]


def _log(**columns: list[Any]) -> pl.DataFrame:
    count = len(next(iter(columns.values())))
    base = {"user": [1] * count, "item": list(range(count)), "time": list(range(count)), "rating": [3.0] * count}
    return pl.DataFrame({**base, **columns}, strict=False)


def _tables(frame: Any, schema: Schema = SCHEMA, **more: Any) -> Tables:
    return tables_from_frames(frame, schema=schema, **more)


def _refused(frame: Any, schema: Schema = SCHEMA, **more: Any) -> str:
    with pytest.raises(DataError) as caught:
        _tables(frame, schema, **more)
    return str(caught.value)


def test_odd_ids_come_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item,time,rating\n" + "".join(f"{raw},{raw},1,2\n" for raw in ODD_IDS))
    bare = [raw.strip() for raw in ODD_IDS]  # outer blanks are no part of an id
    for tables in (_tables(path), _tables(_log(item=ODD_IDS))):
        assert tables.interactions["item"].to_list() == bare
        assert any("column 'item': outer blanks taken off 1 ids" in note for note in tables.report.notes)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**64 - 1)), min_size=1, max_size=6))
def test_integer_ids_of_any_width_come_back_exactly(ids: list[int]) -> None:
    text = "user,item,time,rating\n" + "".join(f"1,{raw},1,2\n" for raw in ids)
    from braidrec.data.intake.readers import ReadConfig, read_bytes
    from braidrec.data.intake.validate import validate
    from braidrec.data.tables import SourceFile

    raw = read_bytes(text.encode(), "log.csv", SourceFile("log.csv", ""), ReadConfig())
    found = validate("log", SCHEMA, raw).interactions["item"]
    assert found.cast(pl.String).to_list() == [str(value) for value in ids]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=8).filter(lambda raw: raw.strip(BLANKS) != ""), min_size=1, max_size=6))
def test_text_ids_come_back_exactly_but_for_outer_blanks(ids: list[str]) -> None:
    try:
        [raw.encode() for raw in ids]
    except UnicodeEncodeError:
        return
    found = _tables(_log(item=ids)).interactions["item"].to_list()
    assert found == [raw_id(raw, "item") for raw in ids] == [raw.strip(BLANKS) for raw in ids]


def test_ids_of_one_kind_get_one_type() -> None:
    items = pl.DataFrame({"item": ["0", "1", "x"], "title": ["a", "b", "c"]})
    tables = _tables(_log(time=[1, 2]), Schema(user="user", item="item", timestamp="time", text=("title",)), items=items)
    assert tables.items is not None
    assert tables.interactions["item"].to_list() == ["0", "1"]
    assert any("compared as text" in note for note in tables.report.notes)
    assert _tables(_log(item=[1.0, 2.0])).interactions["item"].to_list() == [1, 2]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": [1, None]}, "row 2, column 'user': None is an empty id"),
        ({"user": ["a", "  "]}, "row 2, column 'user': '  ' is an empty id"),
        ({"item": [1.0, 1.5]}, "row 2, column 'item': 1.5 is no id"),
        ({"item": [True, False]}, "ids of type Boolean"),
        ({"time": [1, None]}, "row 2, column 'time': None is empty"),
        ({"time": [1.0, float("nan")]}, "row 2, column 'time': nan is not a finite number"),
        (
            {"time": [1.0, 1.5]},
            "row 2, column 'time': 1.5 has a fraction (seconds since 1970); round it to a whole number, or say time_unit = ",
        ),
        ({"time": [1, -5]}, "row 2, column 'time': -5 is negative"),
        ({"time": [2**64 - 1, 1]}, "does not fit 64 bits"),
        ({"time": ["1", "2", "later"]}, "row 3, column 'time': 'later' is not a number"),
        ({"time": ["2020-01-01", "yesterday"]}, "row 2, column 'time': 'yesterday' is not a time"),
        ({"time": ["soon"]}, "row 1, column 'time': 'soon' is not a time"),
        ({"time": [978300760, 978300760000]}, "978300760 (row 1) looks like seconds and 978300760000 (row 2) looks like"),
        ({"time": [978300760000, 978300760000000]}, "(row 1) looks like milliseconds"),
        ({"rating": ["4", "four"]}, "row 2, column 'rating': 'four' is not a number (the rating)"),
        ({"rating": [1.0, float("inf")]}, "row 2, column 'rating': inf is not a finite number"),
        ({"rating": [1.0, None]}, "row 2, column 'rating': None is empty"),
        ({"rating": [1.0, 1e300]}, "row 2, column 'rating'"),
    ],
)
def test_bad_values_are_named(columns: dict[str, list[Any]], message: str) -> None:
    assert message in _refused(_log(**columns))


def test_bad_values_of_a_file_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item,time,rating\n1,2,3,4\n\n1,2,3,four\n")
    assert f"{path}, line 4, column 'rating': 'four' is not a number" in _refused(path)


def test_unusable_rows_can_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item,time,rating\n1,2,3,4\n1,2,3,four\n,2,3,4\n1,2\n5,6,7,8\n")
    tables = _tables(path, on_bad_rows="skip")
    assert tables.interactions.rows() == [(1, 2, 3, 4.0), (5, 6, 7, 8.0)]
    assert tables.report.rows_skipped == 3
    assert any("left out 2 of 4 rows with unusable values" in note for note in tables.report.notes)


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ([978300760, 978300761], [978300760, 978300761]),
        ([978300760.0, 978300761.0], [978300760, 978300761]),
        ([978300760123, 978300761999], [978300760, 978300761]),
        ([978300760123456, 978300761999999], [978300760, 978300761]),
        (["978300760.0", "978300761"], [978300760, 978300761]),
        ([datetime(2000, 12, 31, 22, 12, 40), datetime(2000, 12, 31, 22, 12, 41, 5)], [978300760, 978300761]),
        ([datetime(2001, 1, 1, 0, 12, 40, tzinfo=timezone(timedelta(hours=2)))], [978300760]),
        (["2000-12-31T22:12:40Z", "2000-12-31T22:12:41Z"], [978300760, 978300761]),
        (["2001-01-01T00:12:40+02:00"], [978300760]),
        (["2000-12-31 22:12:40"], [978300760]),
        ([date(1970, 1, 2)], [86400]),
        ([0, 1, 2], [0, 1, 2]),
    ],
)
def test_times_become_seconds(values: list[Any], seconds: list[int]) -> None:
    frame = pl.DataFrame(
        {"user": [1] * len(values), "item": list(range(len(values))), "time": values, "rating": [1.0] * len(values)}
    )
    tables = _tables(frame)
    assert tables.interactions["time"].to_list() == seconds
    assert tables.interactions["time"].dtype == pl.Int64
    changed = not isinstance(values[0], int) or values[0] > 1e11
    told = any("'time'" in note for note in tables.report.notes)
    assert told == (changed and not isinstance(values[0], float) and values[0] != "978300760.0")


def test_labels_weights_and_fields() -> None:
    schema = Schema(
        user="user",
        item="item",
        timestamp="time",
        label="label",
        weight="weight",
        context_fields=(Field(name="x", kind="numeric"),),
    )
    good = _log(label=[True, False], weight=[0, 2.5], x=["1.5", ""])
    assert _tables(good, schema).interactions.select("label", "weight", "x").rows() == [(1, 0.0, 1.5), (0, 2.5, None)]
    assert "column 'label': 2 is no label: 0 and 1" in _refused(_log(label=[1, 2], weight=[1, 1], x=[1, 1]), schema)
    assert "column 'weight': -1 is negative" in _refused(_log(label=[1, 0], weight=[1, -1], x=[1, 1]), schema)
    assert "or leave the cell empty" in _refused(_log(label=[1, 0], weight=[1, 1], x=["1", "NA"]), schema)


def test_labels_may_come_as_decimal_numbers_or_text() -> None:
    schema = Schema(user="user", item="item", label="label")
    for labels in ([1.0, 0.0], ["1", "0"], [1, 0], ["1.0", "0.0"]):
        tables = _tables(_log(label=labels), schema)
        assert tables.interactions["label"].to_list() == [1, 0]
        assert tables.interactions["label"].dtype == pl.Int8


def test_pairs_alone_are_fine_and_may_repeat() -> None:
    tables = _tables(_log(item=[1, 1, 2]).select("user", "item"), Schema(user="user", item="item"))
    assert tables.interactions.rows() == [(1, 1), (1, 1), (1, 2)]
    assert tables.report.notes == ()  # preparing counts them (test_cleaning)


def test_a_ready_made_split_says_train_valid_or_test(tmp_path: Path) -> None:
    schema = Schema(user="user", item="item", part="part")
    good = _log(part=["train", "valid", "validation", "test"])
    for frame in (good, good.with_columns(pl.col("part").cast(pl.Categorical))):
        assert _tables(frame, schema).interactions["part"].to_list() == ["train", "valid", "valid", "test"]
    path = tmp_path / "log.csv"
    path.write_text("user,item,part\n1,2,train\n1,3,Test\n")
    said = f"{path}, line 3, column 'part': 'Test' is no part of a split; accepted: train, valid, validation, test"
    assert said in _refused(path, schema)
    assert _tables(path, schema, on_bad_rows="skip").interactions["item"].to_list() == [2]
    assert "row 2, column 'part': None is no part" in _refused(_log(part=["train", None]), schema)
    assert "row 1, column 'part': 0 is no part of a split" in _refused(_log(part=[0, 1]), schema)
    assert "type List(String) where a part is named" in _refused(_log(part=[["train"]]), schema)
    assert "no column 'parts' (named as the part) (did you mean 'part'?)" in _refused(
        good, Schema(user="user", item="item", part="parts")
    )
    assert "cannot be both the item and the part" in _refused(good, Schema(user="user", item="part", part="part"))


def test_columns_that_are_not_there_are_named() -> None:
    assert "no column 'ratings' (named as the rating) (did you mean 'rating'?)" in _refused(
        _log(time=[1]), Schema(user="user", item="item", rating="ratings")
    )
    assert "cannot be both the user and the item" in _refused(_log(time=[1]), Schema(user="user", item="user"))
    assert "there is no items table" in _refused(_log(time=[1]), Schema(user="user", item="item", text=("title",)))


def test_a_catalogue_lists_each_id_once(tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text("item,title\n0,a\n1,b\n0,c\n")
    schema = Schema(user="user", item="item", timestamp="time", text=("title",))
    assert f"{items}, column 'item': the id 0 stands twice, at line 2 and line 4" in _refused(
        _log(time=[1]), schema, items=items
    )


def test_strangers_are_kept_and_counted() -> None:
    log = _log(item=[1, 1, 2, 3], time=[5, 5, 5, 6])
    schema = Schema(user="user", item="item", timestamp="time", text=("title",))
    tables = _tables(log, schema, items=pl.DataFrame({"item": [1], "title": ["a"]}))
    assert len(tables.interactions) == 4
    notes = " ".join(tables.report.notes)
    assert "2 interactions are with 2 values of 'item' that its table does not list (such as 2)" in notes


def test_texts_are_text_and_lists_are_fields() -> None:
    items = pl.DataFrame({"item": [0, 1], "title": [1, 2], "tags": [["a", "b"], ["c"]], "about": [["x", "y"], []]})
    schema = Schema(
        user="user", item="item", timestamp="time", text=("title", "about"), item_fields=(Field(name="tags", kind="multi"),)
    )
    tables = _tables(_log(time=[1]), schema, items=items)
    assert tables.items is not None
    assert tables.items.rows() == [(0, "1", ["a", "b"], "x, y"), (1, "2", ["c"], "")]
    single = schema.model_copy(update={"item_fields": (Field(name="tags"),)})
    assert "need kind = 'multi'" in _refused(_log(time=[1]), single, items=items)
