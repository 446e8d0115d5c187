"""JSON to a frame: one object a line, or one array of objects; numbers stay numbers, and every bad line is named."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from braidrec.data.intake.delimited import ENCODING_REMEDY, Delimited, LineMap, OnBadRows
from braidrec.errors import DataError

if TYPE_CHECKING:
    import polars as pl

_OPENING = re.compile(rb'\s*(?:\[\s*)?\{\s*["}]')
_EXACT_FLOAT = 2**53
_SHOWN = 60
_BLOCK = 4096  # lines parsed at once
_ONE_EACH = 'write one object a line, such as {"user": 1, "item": 2}'


def is_json(data: bytes) -> bool:
    """Whether text begins as JSON objects do, alone or in an array."""
    return _OPENING.match(data.removeprefix(b"\xef\xbb\xbf")[:4096]) is not None


def parse_json(data: bytes, *, what: str, on_bad_rows: OnBadRows = "error") -> Delimited:
    """Read UTF-8 ``data``; ``what`` (the file) opens every message.

    A key that a line lacks is an empty cell.  Lists of plain values stay lists; other values inside values, and columns of
    several types, become text, which a note says.
    Raises DataError, naming the line, for what is no object, repeated keys, and bytes that are not UTF-8.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    rows = _Rows(what, on_bad_rows)
    if data.lstrip().startswith(b"["):
        rows.read_array(data)
    else:
        rows.read_lines(data)
    if not rows.count:
        raise DataError(f"{what}: no usable row; {rows.problems[0]}" if rows.problems else f"{what}: no object is there")
    if not rows.columns:
        raise DataError(f"{what}: the objects have no key; {_ONE_EACH}")
    frame, notes = rows.frame()
    return Delimited(frame, rows.line_map(), tuple(rows.problems), rows.blank, notes)


class _Rows:
    """Columns as they grow, a row at a time."""

    def __init__(self, what: str, on_bad_rows: OnBadRows):
        self.what, self.on_bad_rows = what, on_bad_rows
        self.count = self.blank = 0
        self.in_lines = True
        self.columns: dict[str, list[Any]] = {}
        self.lines: list[int] = []
        self.problems: list[str] = []

    def read_lines(self, data: bytes) -> None:
        """A block of lines at a time; where a block is not well formed, each of its lines by itself."""
        lines = [(at, text) for at, text in enumerate(data.split(b"\n"), start=1) if text.strip()]
        self.blank = data.count(b"\n") + (not data.endswith(b"\n")) - len(lines)
        for start in range(0, len(lines), _BLOCK):
            block = lines[start : start + _BLOCK]
            entries = self._whole(block)
            if entries is None:
                for line, text in block:
                    self._take(text, line)
            else:
                self._put_all(entries, [line for line, _ in block])

    @staticmethod
    def _whole(block: Sequence[tuple[int, bytes]]) -> list[Any] | None:
        """The objects of lines that have one each; None where a line has anything else."""
        joined = b",null,".join(text for _, text in block)
        if b"\\ud" in joined.lower():  # perhaps half a character
            return None
        try:
            found = json.loads(f"[{joined.decode('utf-8')}]", object_pairs_hook=_unique)
        except (ValueError, RecursionError):
            return None
        entries = found[::2]  # what stood between two lines was nothing, so no line went on in the next one
        fine = len(entries) == len(block) and all(between is None for between in found[1::2])
        return entries if fine and all(isinstance(entry, dict) for entry in entries) else None

    def read_array(self, data: bytes) -> None:
        self.in_lines = False
        try:
            entries = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
        except UnicodeDecodeError as cause:
            raise DataError(f"{self.what}: byte 0x{data[cause.start]:02x} is not UTF-8; {ENCODING_REMEDY}") from None
        except (ValueError, RecursionError) as cause:
            raise DataError(f"{self.what}: not a whole JSON array ({cause}); write it again, or {_ONE_EACH}") from None
        for at, entry in enumerate(entries, start=1):
            self._put(entry, at, f"row {at}")

    def _take(self, text: bytes, line: int) -> None:
        try:
            entry = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
        except UnicodeDecodeError as cause:
            self._refuse(f"line {line}", f"byte 0x{text[cause.start]:02x} is not UTF-8; {ENCODING_REMEDY}")
            return
        except (ValueError, RecursionError) as cause:
            shown = text[:_SHOWN].decode("utf-8", "replace").rstrip("\r")
            self._refuse(f"line {line}", f"no JSON object ({cause}): {shown!r}; {_ONE_EACH}")
            return
        self._put(entry, line, f"line {line}")

    def _put(self, entry: Any, line: int, where: str) -> None:
        if not isinstance(entry, dict):
            self._refuse(where, f"{json.dumps(entry)[:_SHOWN]} is no object; {_ONE_EACH}")
        elif half := _half_character(entry):
            self._refuse(where, f"half a character ({half}); mend the text")
        else:
            self._put_all([entry], [line])

    def _put_all(self, entries: Sequence[dict[str, Any]], lines: Sequence[int]) -> None:
        for name in dict.fromkeys(name for entry in entries for name in entry):
            if name not in self.columns:
                self.columns[name] = [None] * self.count
        for name, values in self.columns.items():
            values.extend(entry.get(name) for entry in entries)
        self.count += len(entries)
        self.lines.extend(lines)

    def _refuse(self, where: str, problem: str) -> None:
        message = f"{where}: {problem}"
        if self.on_bad_rows == "error":
            raise DataError(f'{self.what}, {message}; or leave such rows out with on_bad_rows = "skip"')
        self.problems.append(message)

    def line_map(self) -> LineMap | None:
        if not self.in_lines:
            return None
        lines = np.array(self.lines, np.int64)
        turn = np.ones(len(lines), np.bool_)
        turn[1:] = np.diff(lines) != 1
        return LineMap(np.flatnonzero(turn).astype(np.int64), lines[turn])

    def frame(self) -> tuple[pl.DataFrame, tuple[str, ...]]:
        import polars as pl

        series, notes = [], []
        for name, values in self.columns.items():
            column, note = _column(values)
            series.append(column.alias(name))
            if note:
                notes.append(f"{self.what}: column '{name}': {note}")
        return pl.DataFrame(series), tuple(notes)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return entry


def _half_character(value: Any) -> str:
    """Of text anywhere in ``value`` that no UTF-8 can hold."""
    for text in _texts(value):
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as cause:
                return cause.reason
    return ""


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, dict):
        for name, part in value.items():
            yield name
            yield from _texts(part)


def _column(values: list[Any]) -> tuple[pl.Series, str]:
    """Of one key's values, and what was decided."""
    import polars as pl

    kinds = {type(value) for value in values} - {type(None)}
    if not kinds:
        return pl.Series(values, dtype=pl.String), ""
    if kinds <= {list}:
        inner = {type(part) for value in values if value for part in value} - {type(None)}
        if not inner & {list, dict}:
            flat, note = _column([part for value in values if value for part in value])
            return _lists(values, flat), note
    plain = _plain(values, kinds)
    if plain is not None:
        return plain, ""
    said = "values inside values, kept as JSON text" if kinds & {list, dict} else "values of several types, read as text"
    return pl.Series([None if value is None else _written(value) for value in values], dtype=pl.String), said


def _plain(values: list[Any], kinds: set[type]) -> pl.Series | None:
    """Values of one type; None where they are not."""
    import polars as pl

    if kinds == {str}:
        return pl.Series(values, dtype=pl.String)
    if kinds == {bool}:
        return pl.Series(values, dtype=pl.Boolean)
    if kinds == {int}:
        for dtype in (pl.Int64, pl.UInt64):
            try:
                return pl.Series(values, dtype=dtype)
            except (OverflowError, TypeError):
                continue
        return None
    if kinds <= {int, float} and all(abs(value) <= _EXACT_FLOAT for value in values if isinstance(value, int)):
        return pl.Series([None if value is None else float(value) for value in values], dtype=pl.Float64)
    return None


def _lists(values: list[Any], flat: pl.Series) -> pl.Series:
    """``flat``, the elements of all lists behind one another, as lists again; null where there was none."""
    import polars as pl

    lengths = [0 if value is None else len(value) for value in values]
    owner = pl.Series(np.repeat(np.arange(len(values)), lengths))
    frame = pl.DataFrame({"owner": owner, "flat": flat}).group_by("owner", maintain_order=True).agg("flat")
    rows = pl.DataFrame({"owner": np.arange(len(values)), "there": [value is not None for value in values]})
    joined = rows.join(frame, on="owner", how="left", maintain_order="left")
    empty = pl.Series([[]], dtype=pl.List(flat.dtype))
    return joined.select(pl.when("there").then(pl.col("flat").fill_null(pl.lit(empty).first()))).to_series()


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
