"""Moments in every form that people write; what has two readings is refused with both, and the key that settles it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidrec.data.intake.description import load_description, read_tables, tables_from_frames
from braidrec.data.intake.readers import ReadConfig
from braidrec.data.schema import Schema
from braidrec.data.tables import Tables
from braidrec.errors import ConfigError, DataError

SCHEMA = Schema(user="user", item="item", timestamp="time")


def _tables(times: list[Any]) -> Tables:
    frame = pl.DataFrame({"user": [1] * len(times), "item": range(len(times)), "time": times}, strict=False)
    return tables_from_frames(frame, schema=SCHEMA)


def _seconds(times: list[Any]) -> list[int]:
    return _tables(times).interactions["time"].to_list()


def _refused(times: list[Any]) -> str:
    with pytest.raises(DataError) as caught:
        _tables(times)
    return str(caught.value)


def _file(folder: Path, times: list[str], keys: str = "") -> Tables:
    (folder / "log.tsv").write_text("user\titem\ttime\n" + "".join(f"1\t{at}\t{time}\n" for at, time in enumerate(times)))
    (folder / "d.toml").write_text(f'name = "d"\n[interactions]\nfile = "log.tsv"\n[read]\n{keys}')
    return read_tables(load_description(folder / "d.toml"), folder)


NOON = int(datetime(2021, 3, 14, 12, 5, 9, tzinfo=UTC).timestamp())
DAY = int(datetime(2021, 3, 14, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2021-03-14T12:05:09Z", NOON),
        ("2021-03-14 12:05:09", NOON),
        ("2021/3/14 12:05:09.123456", NOON),
        ("2021.03.14 12:05:09,5", NOON),
        ("2021-03-14T12:05:09 UTC", NOON),
        ("2021-03-14T14:05:09+02:00", NOON),
        ("2021-03-14T08:35:09-0330", NOON),
        ("2021-03-14T12:05", NOON - 9),
        ("2021-03-14", DAY),
        ("14/03/2021", DAY),
        ("03/14/2021 12:05:09", NOON),
        ("14.3.2021 12:05:09", NOON),
        ("3-14-2021 12:05:09 PM", NOON),
        ("03/14/2021 12:00:00 am", DAY),
        ("03 14, 2021", DAY),
        ("14 Mar 2021 12:05:09", NOON),
        ("Sun, 14 Mar 2021 12:05:09 GMT", NOON),
        ("14-Mar-2021", DAY),
        ("March 14, 2021", DAY),
        ("Mar 14, 2021, 12:05:09 p.m.", NOON),
        ("Sun Mar 14 12:05:09 +0000 2021", NOON),
        ("Sun Mar 14 12:05:09 2021", NOON),
    ],
)
def test_text_with_one_reading(text: str, seconds: int) -> None:
    assert _seconds([text]) == [seconds]
    assert _seconds([f"  {text} "]) == [seconds]


def test_forms_may_be_mixed_where_each_has_one_reading() -> None:
    tables = _tables(["2021-03-14", "14/03/2021 12:05:09", "Mar 14, 2021", "2021-03-14T14:05:09+02:00"])
    assert tables.interactions["time"].to_list() == [DAY, NOON, DAY, NOON]
    notes = " ".join(tables.report.notes)
    assert "dates read with the day first, as 14 and 03 can only be" in notes
    assert "2 of 4 dates have no time of day, so what happened in one day has no order" in notes
    assert "3 of 4 times name no zone; read as UTC" in notes


def test_one_row_tells_for_the_whole_column() -> None:
    april = int(datetime(2021, 4, 3, tzinfo=UTC).timestamp())
    march = int(datetime(2021, 3, 4, tzinfo=UTC).timestamp())
    assert _seconds(["03/04/2021", "13/04/2021"])[0] == april
    assert _seconds(["03/04/2021", "03/14/2021"])[0] == march


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (
            ["03/04/2021", "04/05/2021"],
            "'03/04/2021' can be read two ways: as 2021-04-03 (day first), or as 2021-03-04 (month first), and no row tells",
        ),
        (
            ["03/04/2021", "04/05/2021"],
            'say which: time_format = "%d/%m/%Y" or "%m/%d/%Y" ([read] in TOML, --read of a command, ReadConfig in Python)',
        ),
        (["03.04.2021 12:30"], 'time_format = "%d.%m.%Y %H:%M" or "%m.%d.%Y %H:%M"'),
        (["13/04/2021", "04/13/2021"], "'04/13/2021' has the month first, but '13/04/2021' (row 1) the day"),
        (["03/04/21"], 'time_format = "%d/%m/%y", "%m/%d/%y" or "%y/%m/%d"'),
        (
            [20210314, 20210315],
            "20210314 can be read two ways: as the date 2021-03-14 00:00:00, or as seconds since 1970 (1970-08-22",
        ),
        ([20210314, 20210315], 'time_format = "%Y%m%d" or time_unit = "s"'),
        ([2021031412], "as the date 2021-03-14 12:00:00, or as seconds since 1970 (2034-"),
        ([20210314120509], 'time_format = "%Y%m%d%H%M%S" or time_unit = "ms"'),
        (
            [*range(20210101, 20210129), 20210230],
            "20210101 can be read two ways: as the date 2021-01-01 00:00:00 (like 28 of 29",
        ),
        ([20210230, *range(20210101, 20210129)], "values, but not 20210230, row 1), or as seconds since 1970"),
        ([2019, 2021], "as the year 2019-01-01 00:00:00, or as seconds since 1970 (1970-01-01 00:33:39)"),
        (["2021-02-30", "2021-03-01"], "'2021-02-30' is not a time"),
        (["2021-03-01 25:00", "2021-03-01 12:00"], "'2021-03-01 25:00' is not a time"),
        (["2021-03-01 13:00 pm", "2021-03-01 12:00 pm"], "'2021-03-01 13:00 pm' is not a time"),
    ],
)
def test_two_readings_are_refused_with_the_key_that_settles_it(times: list[Any], said: str) -> None:
    assert said in _refused(times)


@pytest.mark.parametrize(
    ("times", "key", "expected"),
    [
        (["03/04/2021", "04/04/2021"], "%d/%m/%Y", datetime(2021, 4, 3)),
        (["03/04/2021", "04/04/2021"], "%m/%d/%Y", datetime(2021, 3, 4)),
        (["03/04/21 07:30", "04/04/21 07:30"], "%d/%m/%y %H:%M", datetime(2021, 4, 3, 7, 30)),
        (["20210314", "20210315"], "%Y%m%d", datetime(2021, 3, 14)),
        (["2021031407", "2021031408"], "%Y%m%d%H", datetime(2021, 3, 14, 7)),
        (["2019", "2021"], "%Y", datetime(2019, 1, 1)),
        (["14|3|2021 +0200", "14|3|2021 +0200"], "%d|%m|%Y %z", datetime(2021, 3, 13, 22)),
        (["2021-03-14 00:30 +0200", "2021-03-14 00:30 +0200"], "%Y-%m-%d %H:%M %z", datetime(2021, 3, 13, 22, 30)),
    ],
)
def test_a_format_settles_it(tmp_path: Path, times: list[str], key: str, expected: datetime) -> None:
    keys = f'time_format = "{key}"\n'
    assert _file(tmp_path, times, keys).interactions["time"][0] == int(expected.replace(tzinfo=UTC).timestamp())
    with pytest.raises(DataError, match=r"line 3, column 'time': 'soon' is not a time as time_format = "):
        _file(tmp_path, [times[0], "soon"], keys)


def test_a_format_reads_whole_numbers_beside_gaps_and_refuses_what_is_no_text() -> None:
    read = ReadConfig(time_format="%y%m%d", on_bad_rows="skip")
    frame = pl.DataFrame({"user": [1, 1, 1], "item": [1, 2, 3], "time": [210314.0, None, 210315.0]})
    for times in (frame["time"], frame["time"].fill_null(float("nan")), frame["time"].cast(pl.Decimal(10, 2))):
        tables = tables_from_frames(frame.with_columns(times.alias("time")), schema=SCHEMA, read=read)
        assert tables.interactions["time"].to_list() == [DAY, DAY + 86_400]
    for times in (frame["time"] + 0.5, pl.Series([datetime(2021, 3, 14)] * 3)):
        with pytest.raises(DataError, match=r"column 'time': type .* where time_format = '%y%m%d' reads text or whole numbers"):
            tables_from_frames(frame.with_columns(times.alias("time")), schema=SCHEMA, read=read)


def test_what_looks_like_a_decimal_number_is_read_by_the_format_as_it_stands(tmp_path: Path) -> None:
    tables = _file(tmp_path, ["14.0321", "15.0321"], 'time_format = "%d.%m%y"\n')
    assert tables.interactions["time"].to_list() == [DAY, DAY + 86_400]


@pytest.mark.parametrize(
    ("times", "unit", "seconds"),
    [
        (["20210314", "20210315"], "s", 20210314),
        (["1500", "2500"], "ms", 1),
        (["978300760123", "978300760999"], "us", 978300),
        (["978300760123", "978300760999"], "s", 978300760123),
        (["1.5", "2.5"], "s", 1),
    ],
)
def test_a_unit_settles_it(tmp_path: Path, times: list[str], unit: str, seconds: int) -> None:
    tables = _file(tmp_path, times, f'time_unit = "{unit}"\n')
    assert tables.interactions["time"][0] == seconds
    told = "fractions of a second cut in 2 rows" in " ".join(tables.report.notes)
    assert told == (unit != "s" or "." in times[0])


def test_what_was_decided_is_said_with_its_effect(tmp_path: Path) -> None:
    assert (
        "timestamps in milliseconds (told by their size), made whole seconds: 2001-01-01 00:12:40 to 2001-01-01 00:12:41; "
        "time_unit says otherwise"
    ) in " ".join(_tables([978307960123, 978307961999]).report.notes)
    counted = " ".join(_file(tmp_path, ["0", "1", "7"]).report.notes)
    assert (
        "the times are 0 to 7, read as seconds from 1970-01-01 00:00:00 to 1970-01-01 00:00:07: where they count places"
        in counted
    )
    assert 'order = "time" says so' in counted
    dates = _tables([datetime(2021, 3, 14).date()])
    assert "dates without a time of day, so what happened in one day has no order" in " ".join(dates.report.notes)


def test_unusable_times_can_be_left_out(tmp_path: Path) -> None:
    tables = _file(tmp_path, ["2021-03-14", "", "soon", "2021-03-15"], 'on_bad_rows = "skip"\n')
    assert tables.interactions["item"].to_list() == [0, 3]
    assert tables.report.rows_skipped == 2


FORMS = [
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y/%m/%d %H:%M:%S",
    "%d %b %Y %H:%M:%S",
    "%B %d, %Y %I:%M:%S %p",
    "%a, %d %b %Y %H:%M:%S GMT",
    "%a %b %d %H:%M:%S +0000 %Y",
    "%Y-%m-%d %H:%M:%S+00:00",
]


@given(st.lists(st.integers(0, 4_000_000_000), min_size=1, max_size=6), st.sampled_from(FORMS), st.integers(-12, 12))
def test_what_is_written_is_what_is_read(moments: list[int], form: str, hours: int) -> None:
    texts = [datetime.fromtimestamp(moment, UTC).strftime(form) for moment in moments]
    assert _seconds(texts) == moments
    zoned = [
        (datetime.fromtimestamp(moment, UTC) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S") + f"{hours:+03}:00"
        for moment in moments
    ]
    assert _seconds(zoned) == moments


def test_a_format_and_a_unit_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"time_format = '%Y' reads text, time_unit = 's' numbers; say one of them"):
        _file(tmp_path, ["2021"], 'time_format = "%Y"\ntime_unit = "s"\n')
