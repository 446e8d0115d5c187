"""Labels and ratings are read where there is one reading; elsewhere it is an error, and never a row turned positive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import braidrec
from braidrec.data.dataset import Dataset
from braidrec.data.intake.description import load_description, read_tables, tables_from_frames
from braidrec.data.intake.numbers import read_numbers
from braidrec.data.schema import Schema
from braidrec.data.tables import Tables
from braidrec.errors import ConfigError, DataError


def _read(folder: Path, name: str, values: list[str], keys: str = "", separator: str = ";") -> Tables:
    """A log as a CSV file whose column ``name`` has ``values``, described in TOML."""
    lines = [f"user{separator}item{separator}{name}"]
    lines += [separator.join((f"u{at % 3}", f"i{at}", value)) for at, value in enumerate(values)]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    (folder / "d.toml").write_text(f'name = "d"\n[interactions]\nfile = "log.csv"\n{keys}')
    return read_tables(load_description(folder / "d.toml"), folder)


def _said(tables: Tables) -> str:
    return " ".join(tables.report.notes)


@pytest.mark.parametrize("name", ["label", "clicked", "liked"])
@pytest.mark.parametrize(
    "values",
    [
        ["1", "0", "1", "0"],
        ["1.0", "0.0", "1.0", "0.0"],
        ["1,0", "0,0", "1,0", "0,0"],
        ["1", "-1", "1", "-1"],
        ["true", "false", "true", "false"],
        ["True", "False", "TRUE", "fAlSe"],
        [" Yes", "no ", "YES", "No"],
        ["y", "n", "Y", "N"],
        ["t", "f", "T", "F"],
        ["true", "0", "1", "no"],
    ],
)
def test_labels_with_one_reading_are_read(tmp_path: Path, name: str, values: list[str]) -> None:
    tables = _read(tmp_path, name, values)
    assert tables.schema.label == name
    assert tables.interactions[name].to_list() == [1, 0, 1, 0]
    assert tables.interactions[name].dtype == pl.Int8
    plain = {value.strip() for value in values} <= {"1", "0", "1.0", "0.0"}
    assert plain or f"column '{name}'" in _said(tables)  # what was decided is said


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1", "2"], r"column 'label' is called like the label, but it holds other values than 0 and 1 \(1, 2\)"),
        (["-1", "0", "1"], r"it holds other values than 0 and 1 \(-1, 0, 1\)"),
        (["good", "bad"], "column 'label' is called like the label, but it holds text"),
        (["true", "perhaps"], "it holds text"),
        (["", " "], "it is empty"),
    ],
)
def test_labels_without_a_reading_are_no_reason_to_take_every_row(tmp_path: Path, values: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        _read(tmp_path, "label", values)
    for remedy in (
        "without it every row would count as positive",
        'rating = "label" with positive_above',
        'ignore = ["label"]',
    ):
        assert remedy in str(caught.value)
    assert _read(tmp_path, "label", values, 'ignore = ["label"]\n').schema.label is None
    with pytest.raises(DataError, match="'label'"):
        _read(tmp_path, "label", values, 'label = "label"\n')


def test_ratings_without_a_reading_likewise(tmp_path: Path) -> None:
    for name in ("rating", "stars", "score"):
        with pytest.raises(DataError, match=f"column '{name}' is called like the rating, but it holds text; without it every"):
            _read(tmp_path, name, ["good", "bad"])
    with pytest.raises(DataError, match=r"no column 'lable' \(named as one to ignore\) \(did you mean 'label'\?\)"):
        _read(tmp_path, "label", ["good", "bad"], 'ignore = ["lable"]\n')


def test_a_label_that_means_something_else_is_left_out_beside_one_that_can_be_read() -> None:
    log = pl.DataFrame({"user": [1, 2], "item": [1, 2], "label": ["Sony", "EMI"], "rating": ["4,5", "2"]})
    tables = tables_from_frames(log)
    assert (tables.schema.label, tables.schema.rating) == (None, "rating")
    assert tables.interactions["rating"].to_list() == [4.5, 2.0]
    assert "interactions.label: not used (called like the label, but it holds text)" in tables.report.notes
    later = tables_from_frames(log.drop("rating").with_columns(liked=pl.Series([True, False])))  # of a later tier
    assert (later.schema.label, later.interactions["liked"].to_list()) == ("liked", [1, 0])


def test_blanks_are_named_or_left_out_and_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 3, column 'label': ' ' is empty or no number \(the label\)"):
        _read(tmp_path, "label", ["1", " ", "0"])
    tables = _read(tmp_path, "label", ["1", " ", "no"], '[read]\non_bad_rows = "skip"\n')
    assert tables.interactions["label"].to_list() == [1, 0]
    assert tables.report.rows_skipped == 1
    assert "left out 1 of 3 rows with unusable values" in _said(tables)


def test_minus_one_beside_zero_has_two_readings() -> None:
    schema = Schema(user="user", item="item", label="label")
    log = pl.DataFrame({"user": [1, 1, 1], "item": [1, 2, 3], "label": [-1, 0, 1]})
    for on_bad_rows in ("error", "skip"):
        with pytest.raises(DataError, match="row 2, column 'label': 0 can be read two ways beside -1"):
            tables_from_frames(log, schema=schema, on_bad_rows=on_bad_rows)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cells", "values", "note"),
    [
        (["3,5", "4"], [3.5, 4.0], "decimal commas read in 1 cells"),
        (["1.234,5", "2.000", "7"], [1234.5, 2000.0, 7.0], "decimal commas read in 1 cells"),
        (["1,234.5", "7.25"], [1234.5, 7.25], "commas between thousands taken out in 1 cells"),
        (["1,234,567", "1"], [1234567.0, 1.0], "commas between thousands taken out in 1 cells"),
        (["1,234", "0,5"], [1.234, 0.5], "decimal commas read in 2 cells"),
        (["1,234", "0.5"], [1234.0, 0.5], "commas between thousands taken out in 1 cells"),
        (["3.5", "1e3", " ", "x"], [3.5, 1000.0, None, None], ""),
        (["3,5", "4.5"], [None, 4.5], ""),  # mixed: no reading has both
    ],
)
def test_decimal_commas(cells: list[str], values: list[float | None], note: str) -> None:
    found = read_numbers(pl.Series(cells))
    assert (found.values.to_list(), found.note, found.doubt) == (values, note, None)


def test_a_number_with_two_readings_is_refused_until_one_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        _read(tmp_path, "rating", ["1,234", "2"])
    assert (
        "line 2, column 'rating': '1,234' can be read two ways (the rating): 1.234 with a decimal comma, or 1234 with"
        in str(caught.value)
    )
    assert 'decimal = "," or decimal = "."' in str(caught.value)
    for decimal, first in ((",", 1.234), (".", 1234.0)):
        keys = f"[read]\ndecimal = '{decimal}'\n"
        assert _read(tmp_path, "rating", ["1,234", "2"], keys).interactions["rating"].to_list() == [first, 2.0]


def test_a_decimal_comma_holds_where_every_cell_has_a_point_alone(tmp_path: Path) -> None:
    keys = "[read]\ndecimal = ','\n"
    assert _read(tmp_path, "rating", ["1.231", "1.235"], keys).interactions["rating"].to_list() == [1231.0, 1235.0]
    assert _read(tmp_path, "rating", ["1.231", "1.235"]).interactions["rating"].to_list() == [1.231, 1.235]
    with pytest.raises(
        DataError, match=r"line 3, column 'rating': 4.5 is not a number \(the rating\) as decimal = ',' reads it"
    ):
        _read(tmp_path, "rating", ["1.231", "4.5"], keys)
    typed = pl.DataFrame({"user": [1, 2], "item": [1, 2], "rating": [1.231, 2.5]})
    assert tables_from_frames(typed, read=braidrec.ReadConfig(decimal=",")).interactions["rating"].to_list() == [1.231, 2.5]


def test_in_python_the_same_is_said_with_a_setting() -> None:
    log = pl.DataFrame({"user": [1, 2], "item": [1, 2], "rating": ["1,234", "2"]})
    with pytest.raises(DataError, match="can be read two ways"):
        Dataset.from_frames(log)
    assert tables_from_frames(log, read=braidrec.ReadConfig(decimal=",")).interactions["rating"].to_list() == [1.234, 2.0]
    with pytest.raises(ConfigError, match=r"read: dict where a ReadConfig is needed; write ReadConfig\(...\)"):
        Dataset.from_frames(log, read={"decimal": ","})  # type: ignore[arg-type]


@given(st.lists(st.floats(-1e6, 1e6).map(lambda value: round(value, 2)), min_size=1, max_size=8))
def test_numbers_come_back_whatever_the_country(numbers: list[float]) -> None:
    for text in (f"{{:,.{2}f}}", f"{{:.{2}f}}"):
        english = [text.format(value) for value in numbers]
        continental = [cell.translate(str.maketrans(",.", ".,")) for cell in english]
        assert read_numbers(pl.Series(english)).values.to_list() == numbers
        assert read_numbers(pl.Series(continental)).values.to_list() == numbers


def _world(label: list[Any]) -> pl.DataFrame:
    count = len(label)
    return pl.DataFrame(
        {"user": [at % 6 for at in range(count)], "item": [at % 7 for at in range(count)], "time": range(count), "label": label}
    )


@pytest.mark.parametrize(
    "write",
    [lambda each: 2 * each - 1, lambda each: str(bool(each)), lambda each: ("no", "YES")[each], lambda each: f"{each},0"],
)
def test_positives_are_the_same_in_every_form(tmp_path: Path, write: Any) -> None:
    """The case that was seen: labels of -1 and 1, or text as CSV has it, were left out, so every row turned positive."""
    label = np.random.default_rng(0).integers(0, 2, 120).tolist()
    plain = Dataset.from_frames(_world(label), path=tmp_path / "plain")
    other = Dataset.from_frames(_world([write(each) for each in label]), path=tmp_path / "other")
    assert other.manifest["counts"]["positives"] == plain.manifest["counts"]["positives"]
    assert other.fingerprint == plain.fingerprint


def test_one_class_alone_is_said_with_the_values_met() -> None:
    def note(log: pl.DataFrame, **schema: Any) -> str:
        tables = tables_from_frames(log, schema=Schema(user="user", item="item", **schema))
        return " ".join(tables.report.notes)

    assert "column 'label', the label: no row is positive; values met: no; 1 is positive" in note(
        _world(["no"] * 3), label="label"
    )
    assert "column 'label', the label: every row is positive; values met: 1; 1 is positive" in note(
        _world([1] * 3), label="label"
    )
    assert note(_world([1, 0]), label="label") == ""
    rating = _world([10, 80])
    assert (
        "column 'label', the rating: every row is positive; values met: 10, 80; positive is what lies above 3 (the default)"
        in note(rating, rating="label")
    )
    assert "the rating: 1 of 2 rows are positive (50.0%)" in note(_world([2, 5]), rating="label")
    said = note(_world([0, 1]), rating="label")
    assert 'no row is positive; values met: 0, 1; positive is what lies above 3 (the default); label = "label" takes 1' in said
    assert note(rating, rating="label", positive_above=50.0) == ""  # said by the caller, and two classes


def test_a_log_of_positives_alone_says_so() -> None:
    log = pl.DataFrame({"user": [1, 2], "item": [1, 2]})
    said = "interactions: neither label nor rating, so every row counts as positive"
    assert said in tables_from_frames(log).report.notes
    assert said not in tables_from_frames(log.with_columns(label=pl.Series([0, 1]))).report.notes
