"""Text tables: every kind of damage is named by its line, and what is read is what Python's csv module reads."""

from __future__ import annotations

import csv
import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braidrec.data.intake import delimited
from braidrec.data.intake.delimited import parse_delimited
from braidrec.errors import BraidError, DataError


def _rows(text: str | bytes, **options: object) -> list[tuple[str | None, ...]]:
    data = text.encode() if isinstance(text, str) else text
    return parse_delimited(data, what="log.csv", **options).frame.rows()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "log.csv: the file is empty"),
        (b" \n\r\n", "log.csv: the file is empty"),
        (b"user,item\n", "only the header is there (user, item)"),
        (b"user,item,user\n1,2,3\n", "the columns 1 and 3 are both called 'user'"),
        (b"user,item\n1,2\n3\n", "line 3: 1 value where the header has 2 columns ('user, item'): '3'"),
        (b"user,item\n1,2\n3,4,5\n", "line 3: 3 values where the header has 2 columns"),
        (b'user,item\n1,a"b\n', "line 2: column 'item': a quote"),
        (b'user,item\n1,"a\n2,"b"\n', "(the quotes stop matching on line 3)"),
        (b'user,item\n1,"a\n', "line 2: column 'item': a quote"),
        (b'user,item\n"1"x,2\n', "line 2: column 'user': a quote"),
        (b"user,item\n1,2\n3,caf\xe9\n", "line 3: column 'item': byte 0xe9 is not UTF-8 (read as latin-1 the value is 'café')"),
        (b"user,item\r\n1,caf\xe9\r\n", "line 2: column 'item': byte 0xe9 is not UTF-8 (read as latin-1 the value is 'café')"),
        (b"us\xe9r,item\n1,2\n", "line 1: byte 0xe9 of the column names is not UTF-8"),
        (b"user,item\n1,2\r3\n4,5\n", "line 2: a carriage return inside a value"),
        (b"1,2\n3,4\n", "line 1: '1,2' looks like data, not column names"),
        (b"user|item\n1|2\n", "say which character separates the columns"),
        ("user,item\n1,2\n".encode("utf-16-le"), "UTF-16"),
    ],
)
def test_damage_is_named(data: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_delimited(data, what="log.csv")
    assert message in str(caught.value)


def test_a_bom_crlf_blank_lines_and_old_line_ends_are_accepted() -> None:
    assert _rows(b"\xef\xbb\xbfuser,item\r\n1,2\r\n") == [("1", "2")]
    assert _rows("user,item\r1,2\r3,4") == [("1", "2"), ("3", "4")]
    parsed = parse_delimited(b"\nuser,item\n\n1,2\n\r\n3,4\n", what="log.csv")
    assert parsed.frame.rows() == [("1", "2"), ("3", "4")]
    assert parsed.blank == 2
    assert [parsed.lines.line_of(row) for row in range(2)] == [4, 6]


@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_separators_are_told_from_the_header(separator: str) -> None:
    assert _rows(f"user{separator}item\n1{separator}a|b\n") == [("1", "a|b")]


def test_a_first_line_of_spreadsheets_names_the_separator() -> None:
    parsed = parse_delimited(b"sep=|\r\nuser|item\r\n1|a,b\r\n", what="log.csv")
    assert parsed.frame.rows() == [("1", "a,b")]
    assert parsed.lines is not None
    assert parsed.lines.line_of(0) == 3
    assert _rows("sep=x,item\n1,2\n") == [("1", "2")]


def test_separator_and_quoting_can_be_said() -> None:
    assert _rows("user|item\n1|2\n", separator="|") == [("1", "2")]
    assert _rows('user,item\n1,5" pipe\n', quoting=False) == [("1", '5" pipe')]
    assert _rows("1,2\n", columns=["user", "item"]) == [("1", "2")]
    with pytest.raises(DataError, match="one ASCII character"):
        _rows("user::item\n", separator="::")


def test_skipping_counts_every_bad_row_and_keeps_the_lines_of_the_others() -> None:
    text = b'user,item\n1,a\n2\n3,"b\nc"\n4,x"y\n5,caf\xe9\n6,"open\n7,"d"\n8,e,f\n9,g\n'
    parsed = parse_delimited(text, what="log.csv", on_bad_rows="skip")
    assert parsed.frame.rows() == [("1", "a"), ("3", "b\nc"), ("7", "d"), ("9", "g")]
    assert [parsed.lines.line_of(row) for row in range(4)] == [2, 4, 9, 11]
    assert [problem.partition(":")[0] for problem in parsed.problems] == ["line 3", "line 6", "line 7", "line 8", "line 10"]
    with pytest.raises(DataError, match=r"no usable row; line 2"):
        parse_delimited(b"a,b\n1\n2\n", what="log.csv", on_bad_rows="skip")


cells = st.text(st.sampled_from('ab,;"\n\té漢🎬 1'), max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(2, 4).flatmap(lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1, max_size=8)),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([1, 7, 64, 1 << 20]),
)
def test_cells_round_trip_whatever_the_block_size(rows: list[list[str]], line_end: str, block: int) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=line_end)
    writer.writerows([[f"c{at}" for at in range(len(rows[0]))], *rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "_LARGE_BLOCK", block)
        parsed = parse_delimited(text.getvalue().encode(), what="log.csv", separator=",")
    assert [tuple(cell or "" for cell in row) for row in parsed.frame.rows()] == [tuple(row) for row in rows]
    line = 2
    for at, row in enumerate(rows):
        assert parsed.lines.line_of(at) == line
        line += 1 + sum(cell.count("\n") for cell in row)


@pytest.mark.parametrize("on_bad_rows", ["error", "skip"])
def test_a_thousand_mutations_are_read_or_refused(on_bad_rows: delimited.OnBadRows) -> None:
    generator = random.Random(7)
    text = b'user,item,title\n1,2,"a ""b"" c"\n3,4,"d\ne"\n5,6,f\n'
    messages = []
    for _ in range(500):
        mutated = bytearray(text)
        for _ in range(generator.randint(1, 4)):
            at = generator.randrange(len(mutated))
            mutated[at : at + generator.randint(0, 2)] = bytes(
                generator.choices(b'",\n\r;\t\x00\xff\xe9a', k=generator.randint(0, 2))
            )
        try:
            parse_delimited(bytes(mutated), what="log.csv", on_bad_rows=on_bad_rows)
        except BraidError as error:
            messages.append(str(error))
    assert messages
    assert all(message.startswith("log.csv") for message in messages)
