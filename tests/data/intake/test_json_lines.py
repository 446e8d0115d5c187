"""JSON: what is read is what Python's json module reads, and every bad line is named or left out and counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidrec.data.intake import json_lines
from braidrec.data.intake.description import tables_from_frames
from braidrec.data.intake.json_lines import is_json, parse_json
from braidrec.data.intake.readers import ReadConfig, read_table
from braidrec.errors import BraidError, DataError


def _lines(*entries: Any) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)


def test_types_are_those_of_the_values() -> None:
    parsed = parse_json(
        _lines(
            {"id": 2**63, "n": 1, "x": 1, "flag": True, "tags": ["a", "b"], "who": "1", "odd": 1, "deep": {"a": [1]}},
            {"id": 1, "n": -5, "x": 2.5, "tags": [], "who": "2", "odd": "b", "deep": [[1]]},
            {"n": None, "more": [1, 2]},
        ),
        what="log.jsonl",
    )
    assert parsed.frame.schema == {
        "id": pl.UInt64,
        "n": pl.Int64,
        "x": pl.Float64,
        "flag": pl.Boolean,
        "tags": pl.List(pl.String),
        "who": pl.String,
        "odd": pl.String,
        "deep": pl.String,
        "more": pl.List(pl.Int64),
    }
    assert parsed.frame["tags"].to_list() == [["a", "b"], [], None]
    assert parsed.frame["deep"].to_list() == ['{"a": [1]}', "[[1]]", None]
    assert parsed.notes == (
        "log.jsonl: column 'odd': values of several types, read as text",
        "log.jsonl: column 'deep': values inside values, kept as JSON text",
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1}\n{"a": 1\n', "log.jsonl, line 2: no JSON object (Expecting ',' delimiter"),
        (b'{"a": 1}\n\n[1]\n', "log.jsonl, line 3: [1] is no object"),
        (b'{"a": 1}{"a": 2}\n', "line 1: no JSON object (Extra data"),
        (b'{"a": 1},{"a": 2}\n{"a": [1\n2]}\n', "line 1: no JSON object (Extra data"),
        (b'{"a": 1, "a": 2}\n', "line 1: no JSON object (the key 'a' stands twice)"),
        (b'{"a": "\\ud800"}\n', "line 1: half a character"),
        (b'{"a": "caf\xe9"}\n', "line 1: byte 0xe9 is not UTF-8"),
        (b'{"a": ' + b"[" * 100_000 + b"\n", "line 1: no JSON object"),
        (b'[{"a": 1}, 3]', "row 2: 3 is no object"),
        (b'[{"a": 1}', "not a whole JSON array"),
        (b"{}\n{}\n", "the objects have no key"),
    ],
)
def test_damage_is_named_by_line(data: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_json(data, what="log.jsonl")
    assert message in str(caught.value)


def test_bad_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(gzip.compress(b'\xef\xbb\xbf{"user": 1, "item": "a"}\r\n\n{"user": 2\n7\n{"user": 3, "item": "c"}'))
    raw = read_table(path, what="interactions", read=ReadConfig(on_bad_rows="skip"))
    assert raw.frame.rows() == [(1, "a"), (3, "c")]
    assert raw.report.rows_skipped == 2
    assert [raw.place(row) for row in (0, 1)] == [f"{path}, line 1", f"{path}, line 5"]
    assert "left out 2 bad rows: line 3: no JSON object" in raw.report.notes[0]
    assert raw.report.notes[1].endswith("passed over 1 blank lines")
    with pytest.raises(DataError, match=r"line 3: no JSON object .*on_bad_rows = \"skip\""):
        read_table(path, what="interactions")


def test_an_array_of_objects_and_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps([{"user": 1, "item": "é"}, {"user": 2}], indent=2, ensure_ascii=False), encoding="utf-16")
    raw = read_table(path, what="interactions", read=ReadConfig(encoding="utf-16"))
    assert raw.frame.rows() == [(1, "é"), (2, None)]
    assert raw.place(1) == f"{path}, row 2"
    path.write_text('{"user": 1}\n')
    with pytest.raises(DataError, match=r"holds JSON, whose keys name the columns"):
        read_table(path, what="interactions", columns=["user"])


def test_an_object_is_no_id(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(_lines({"user": {"id": 1}, "item": 2}, {"user": {"id": 3}, "item": 4}))
    with pytest.raises(DataError, match=r"line 1, column 'user': .* is a JSON object and no id; bring the id in a column"):
        tables_from_frames(path)


def test_delimited_text_is_no_json() -> None:
    assert is_json(b' \n{"a": 1}')
    assert is_json(b"[{}]")
    for text in (b"user,item\n", b'"a","b"\n', b"[0],[1]\n", b"{a},b\n"):
        assert not is_json(text)


plain = st.one_of(st.none(), st.integers(-(2**53), 2**53), st.text(max_size=4).filter(lambda text: text.isprintable()))
cells = st.one_of(plain, st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.lists(plain, max_size=3))
entries = st.lists(st.dictionaries(st.sampled_from("abc"), cells), min_size=1, max_size=12).filter(any)


@given(entries, st.sampled_from([1, 3, 4096]))
def test_what_is_read_is_what_json_reads(rows: list[dict[str, Any]], block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lines, "_BLOCK", block)
        parsed = parse_json(_lines(*rows), what="log.jsonl")
    assert len(parsed.frame) == len(rows)
    for name in parsed.frame.columns:
        for row, found in zip(rows, parsed.frame[name].to_list(), strict=True):
            wanted = row.get(name)
            assert _alike(found, wanted), (found, wanted)


def _alike(found: Any, wanted: Any) -> bool:
    """Equal, or the value as text in a column of several types."""
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(_alike(*pair) for pair in zip(found, wanted, strict=True))
    text = wanted if isinstance(wanted, str) else json.dumps(wanted, ensure_ascii=False)
    return found in (wanted, text)


@given(st.binary(max_size=40), st.integers(0, 60), st.sampled_from(["error", "skip"]))
def test_any_damage_is_read_or_refused(noise: bytes, at: int, on_bad_rows: Any) -> None:
    whole = _lines({"user": 1, "item": "a"}, {"user": 2, "item": ["b"]})
    message = "log.jsonl"
    try:
        parse_json(whole[:at] + noise + whole[at:], what="log.jsonl", on_bad_rows=on_bad_rows)
    except BraidError as error:
        message = str(error)
    assert message.startswith("log.jsonl")
