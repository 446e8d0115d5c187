"""Comma-, tab- or semicolon-separated text to a frame of text columns, with the file line of every row kept.

The bytes are checked before they are parsed: rows are found by the parity of the quotes before each separator and line
end (RFC 4180), a block at a time, with NumPy.  So a ragged row, a stray quote or a byte of another encoding is named by
its line, and what the parser then reads is known to be well formed.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from braidrec.errors import DataError

if TYPE_CHECKING:
    import polars as pl

OnBadRows = Literal["error", "skip"]
SEPARATORS = (",", "\t", ";")
_QUOTE, _NEWLINE, _RETURN = 34, 10, 13
_SMALL_BLOCK, _LARGE_BLOCK = 1 << 16, 1 << 24  # bytes checked at once: small behind damage, doubling while all is well
SAID_IN = "([read] in TOML, --read of a command, ReadConfig in Python)"  # where a setting of reading is said
ENCODING_REMEDY = f'save the file as UTF-8 or say encoding = "latin-1" {SAID_IN}'
_NAMED_SEPARATOR = re.compile(rb"sep=([^\r\n])(?=\r?\n)")  # a first line that spreadsheets write; what is left of it is blank
_SHOWN = 60  # characters of a bad row that a message quotes


@dataclass(frozen=True)
class LineMap:
    """File line (1-based) of each row, as runs: from row ``rows[k]`` on, row r is on line ``lines[k] + r - rows[k]``."""

    rows: NDArray[np.int64]
    lines: NDArray[np.int64]

    def line_of(self, row: int) -> int:
        run = int(np.searchsorted(self.rows, row, side="right")) - 1
        return int(self.lines[run] + row - self.rows[run])


@dataclass(frozen=True)
class Delimited:
    """Text columns (null where a cell is empty), the line of each row, and what was wrong with the rows left out."""

    frame: pl.DataFrame
    lines: LineMap | None  # None where rows have no lines of their own
    problems: tuple[str, ...]
    blank: int  # empty lines passed over
    notes: tuple[str, ...] = ()


def parse_delimited(
    data: bytes,
    *,
    what: str,
    separator: str | None = None,
    quoting: bool = True,
    columns: Sequence[str] | None = None,
    on_bad_rows: OnBadRows = "error",
) -> Delimited:
    """Read delimited UTF-8 ``data``; ``what`` (the file) opens every message.

    ``separator``: one character, or None to take the commonest of comma, tab and semicolon in the first line.
    ``quoting``: off when ``"`` is an ordinary character.  ``columns``: names, for data without a header line.
    Raises DataError for an empty file, a header alone, duplicate names, ragged rows, bad quotes, bytes that are not UTF-8.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")
    if named := _NAMED_SEPARATOR.match(data):
        separator, data = separator or named[1].decode("latin-1"), data[named.end(1) :]
    if not data.strip():
        raise DataError(f"{what}: the file is empty; it needs a line of column names and rows below it")
    if not data.endswith(b"\n"):
        data += b"\n"
    names, start, line = (list(columns), 0, 1) if columns is not None else (None, *_first_line(data))
    head = data[: data.index(b"\n") + 1] if columns is not None else data[:start]
    separator = _separator(head, separator, what)
    if names is None:
        names = _header(head, separator, quoting, what)
    _refuse_duplicates(names, what)
    scan = _Scan(data, what, separator, quoting, names, on_bad_rows)
    scan.run(start, line)
    if not scan.num_rows and not scan.problems:
        raise DataError(f"{what}: only the header is there ({', '.join(names)}), no row below it")
    if not scan.num_rows:
        raise DataError(f"{what}: no usable row; {scan.problems[0]}")
    return Delimited(
        _parse(scan.kept(start), names, separator, quoting, scan.num_rows, what),
        scan.line_map(),
        tuple(scan.problems),
        scan.blank,
    )


@dataclass
class _Scan:
    """Walks over the rows of ``data``, keeping the byte ranges of the good ones."""

    data: bytes
    what: str
    separator: str
    quoting: bool
    names: Sequence[str]
    on_bad_rows: OnBadRows
    num_rows: int = 0
    blank: int = 0
    problems: list[str] = field(default_factory=list)
    ranges: list[tuple[int, int]] = field(default_factory=list)
    runs: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = field(default_factory=list)

    def run(self, start: int, line: int) -> None:
        size = _LARGE_BLOCK
        while start < len(self.data):
            start, line, clean = self._block(start, line, min(start + size, len(self.data)))
            size = min(size * 2, _LARGE_BLOCK) if clean else _SMALL_BLOCK

    def kept(self, start: int) -> bytes:
        """The good rows in one piece; the data itself, uncopied where possible, when nothing was left out."""
        if self.ranges == [(start, len(self.data))]:
            return self.data[start:]
        view = memoryview(self.data)
        return b"".join(view[first:last] for first, last in self.ranges)

    def line_map(self) -> LineMap:
        rows, lines = (np.concatenate(part) for part in zip(*self.runs, strict=True))
        new = np.ones(len(rows), np.bool_)
        new[1:] = np.diff(lines) != np.diff(rows)
        return LineMap(rows[new], lines[new])

    def _block(self, start: int, line: int, end: int) -> tuple[int, int, bool]:
        """Check the rows that lie whole in [start, end); returns where to go on, its line, and whether all was well."""
        block = np.frombuffer(self.data, np.uint8, end - start, start)
        newlines = np.flatnonzero(block == _NEWLINE)
        separators = np.flatnonzero(block == ord(self.separator))
        quotes = np.flatnonzero(block == _QUOTE) if self.quoting else newlines[:0]
        breaks = newlines
        stray = -1
        if len(quotes):
            stray = self._stray_quote(quotes, start)
            breaks = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
            separators = separators[np.searchsorted(quotes, separators) % 2 == 0]
            if stray < 0 and len(quotes) % 2 and end == len(self.data):
                stray = int(quotes[-1])
            if stray >= 0:
                breaks = breaks[breaks < stray]
        if not len(breaks) and stray < 0:  # one row longer than the block
            return self._block(start, line, min(start + 2 * (end - start), len(self.data)))
        first = np.concatenate([[0], breaks[:-1] + 1]) if len(breaks) else breaks
        stop = int(breaks[-1]) + 1 if len(breaks) else 0
        lines = line + np.searchsorted(newlines, first)
        counts = np.diff(np.searchsorted(separators, breaks), prepend=0) + 1
        empty = (first == breaks) | ((first + 1 == breaks) & (block[first] == _RETURN))
        bad = dict.fromkeys(np.flatnonzero((counts != len(self.names)) & ~empty).tolist(), "")
        bad |= self._bare_returns(block, breaks, quotes)
        good = ~empty
        good[list(bad)] = False
        bad |= self._undecodable(start, first, breaks, good)
        good[list(bad)] = False
        for row in sorted(bad):
            text = self._text(start + int(first[row]), start + int(breaks[row]))
            self._refuse(int(lines[row]), bad[row] or self._ragged(int(counts[row]), text))
        self.blank += int(empty.sum())
        self._keep(start, first, breaks + 1, good, lines)
        line += int(np.searchsorted(newlines, stop))
        start += stop
        if stray < 0:
            return start, line, not bad
        skipped = self.data.index(b"\n", start) + 1
        self._refuse(line, self._quote_problem(start, line, stray - stop, newlines[newlines >= stop] - stop))
        return skipped, line + 1, False

    def _keep(
        self, start: int, first: NDArray[np.int64], last: NDArray[np.int64], good: NDArray[np.bool_], lines: NDArray[np.int64]
    ) -> None:
        at = np.flatnonzero(good)
        if not len(at):
            return
        rows = np.arange(len(at)) + self.num_rows
        turn = np.ones(len(at), np.bool_)
        turn[1:] = np.diff(lines[at]) != 1
        self.runs.append((rows[turn], lines[at][turn]))
        gaps = np.flatnonzero(np.diff(at) != 1)
        openings, closings = first[at[np.concatenate([[0], gaps + 1])]], last[at[np.concatenate([gaps, [len(at) - 1]])]]
        for opening, closing in zip((openings + start).tolist(), (closings + start).tolist(), strict=True):
            if self.ranges and self.ranges[-1][1] == opening:
                self.ranges[-1] = (self.ranges[-1][0], closing)
            else:
                self.ranges.append((opening, closing))
        self.num_rows += len(at)

    def _stray_quote(self, quotes: NDArray[np.int64], start: int) -> int:
        """Block position of the first quote that neither opens nor closes a value, or -1."""
        whole = np.frombuffer(self.data, np.uint8)
        at = quotes + start
        ends = (ord(self.separator), _NEWLINE)
        before = whole[at - 1] if start else np.where(at > 0, whole[at - 1], _NEWLINE)
        after = whole[np.minimum(at + 1, len(whole) - 1)]
        opening = np.isin(before, (*ends, _QUOTE)) | (quotes == 0)
        returned = (after == _RETURN) & (whole[np.minimum(at + 2, len(whole) - 1)] == _NEWLINE)
        closing = np.isin(after, (*ends, _QUOTE)) | returned
        fine = np.where(np.arange(len(quotes)) % 2 == 0, opening, closing)
        return -1 if fine.all() else int(quotes[np.argmin(fine)])

    def _bare_returns(self, block: NDArray[np.uint8], breaks: NDArray[np.int64], quotes: NDArray[np.int64]) -> dict[int, str]:
        """Rows with a carriage return, outside quotes, that ends no line: parsers disagree about what it means."""
        if not len(breaks):
            return {}
        returns = np.flatnonzero(block[: breaks[-1]] == _RETURN)
        returns = returns[(block[returns + 1] != _NEWLINE) & (np.searchsorted(quotes, returns) % 2 == 0)]
        problem = "a carriage return inside a value that is not in quotes; put the value in quotes or take the character out"
        return dict.fromkeys(np.searchsorted(breaks, returns).tolist(), problem)

    def _undecodable(
        self, start: int, first: NDArray[np.int64], breaks: NDArray[np.int64], good: NDArray[np.bool_]
    ) -> dict[int, str]:
        """Rows whose bytes are not UTF-8."""
        if not len(first):
            return {}
        stop = start + int(breaks[-1])
        piece = self.data[start:stop]
        if piece.isascii():
            return {}
        try:
            codecs.decode(piece, "utf-8")
        except UnicodeDecodeError:
            pass
        else:
            return {}
        found: dict[int, str] = {}
        for row in np.flatnonzero(good).tolist():
            cells = self.data[start + int(first[row]) : start + int(breaks[row])]
            if not cells.isascii():
                try:
                    codecs.decode(cells, "utf-8")
                except UnicodeDecodeError as cause:
                    found[row] = self._encoding_problem(cells, cause.start)
                    if self.on_bad_rows == "error":
                        break
        return found

    def _encoding_problem(self, cells: bytes, at: int) -> str:
        separator = self.separator.encode()
        parts = cells.split(separator)
        index = min(cells[:at].count(separator), len(self.names) - 1)
        value = parts[index].decode("latin-1").rstrip("\r\n").strip('"')
        return (
            f"column '{self.names[index]}': byte 0x{cells[at]:02x} is not UTF-8 "
            f"(read as latin-1 the value is {_short(value)}); {ENCODING_REMEDY}"
        )

    def _ragged(self, count: int, text: str) -> str:
        names = _short(", ".join(self.names))
        return (
            f"{count} value{'s' * (count != 1)} where the header has {len(self.names)} columns ({names}): {_short(text)}; "
            f"add what is missing, or put quotes around a value that contains {self.separator!r}"
        )

    def _quote_problem(self, start: int, line: int, stray: int, newlines: NDArray[np.int64]) -> str:
        on = line + int(np.searchsorted(newlines, stray))
        far = f" (the quotes stop matching on line {on})" if on != line else ""
        text = self._text(start, self.data.index(b"\n", start))
        column = self.names[min(text.count(self.separator, 0, stray), len(self.names) - 1)]
        return (
            f'column \'{column}\': a quote (") that does not open and close a whole value{far}: {_short(text)}; write "" for a '
            f"quote inside a quoted value, or say quoting = false {SAID_IN} if quotes are ordinary characters here"
        )

    def _refuse(self, line: int, problem: str) -> None:
        message = f"line {line}: {problem}"
        if self.on_bad_rows == "error":
            raise DataError(f'{self.what}, {message}; or leave such rows out: on_bad_rows = "skip" {SAID_IN}')
        self.problems.append(message)

    def _text(self, first: int, last: int) -> str:
        return self.data[first : min(last, first + 4 * _SHOWN)].decode("utf-8", "replace").rstrip("\r\n")


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def _first_line(data: bytes) -> tuple[int, int]:
    """Where the line after the header starts, and its number; blank lines before the header are passed over."""
    start, line = 0, 1
    while not data[start : data.index(b"\n", start)].strip():
        start, line = data.index(b"\n", start) + 1, line + 1
    return data.index(b"\n", start) + 1, line + 1


def _separator(head: bytes, separator: str | None, what: str) -> str:
    if separator is not None:
        if len(separator) != 1 or not separator.isascii() or separator in '"\r\n':
            raise DataError(f"{what}: separator {separator!r}: one ASCII character is accepted, such as ',' or a tab")
        return separator
    counts = {candidate: head.count(candidate.encode()) for candidate in SEPARATORS}
    best = max(SEPARATORS, key=lambda candidate: counts[candidate])
    if not counts[best] and any(other in head for other in (b"|", b"::")):
        raise DataError(
            f"{what}, line 1: no comma, tab or semicolon in {_short(head.decode('utf-8', 'replace').strip())}; "
            f'say which character separates the columns: separator = "|" {SAID_IN}'
        )
    return best


def _header(head: bytes, separator: str, quoting: bool, what: str) -> list[str]:
    import csv

    line = head.count(b"\n")
    try:
        text = head.decode("utf-8").strip("\r\n")
    except UnicodeDecodeError as cause:
        raise DataError(
            f"{what}, line {line}: byte 0x{head[cause.start]:02x} of the column names is not UTF-8; {ENCODING_REMEDY}"
        ) from None
    if "\x00" in text:
        raise DataError(
            f'{what}: the first line holds a zero byte: this is no delimited text (UTF-16? say encoding = "utf-16")'
        )
    try:
        parts = next(csv.reader([text], delimiter=separator, strict=True)) if quoting else text.split(separator)
    except csv.Error as cause:
        raise DataError(f"{what}, line {line}: the column names are not well quoted ({cause}): {_short(text)}") from None
    names = [name.strip() for name in parts]
    taken = set(names)
    for at, name in enumerate(names):
        if not name:
            own = f"column_{at + 1}"
            while own in taken:
                own += "_"
            names[at] = own
            taken.add(own)
    if all(name.lstrip("+-").replace(".", "", 1).isdigit() for name in names):
        raise DataError(
            f"{what}, line {line}: {_short(text)} looks like data, not column names; put a line of names on top, or give them: "
            'columns = ["user_id", ...] (beside file in TOML)'
        )
    return names


def _refuse_duplicates(names: Sequence[str], what: str) -> None:
    first: dict[str, int] = {}
    for at, name in enumerate(names):
        if first.setdefault(name, at) != at:
            raise DataError(f"{what}: the columns {first[name] + 1} and {at + 1} are both called '{name}'; rename one of them")


def _parse(data: bytes, names: Sequence[str], separator: str, quoting: bool, num_rows: int, what: str) -> pl.DataFrame:
    import polars as pl

    try:
        frame = pl.read_csv(
            data,
            has_header=False,
            schema=dict.fromkeys(names, pl.String),
            separator=separator,
            quote_char='"' if quoting else None,
        )
    except pl.exceptions.PolarsError as cause:
        raise DataError(f"{what}: cannot be read as delimited text ({cause})") from None
    if len(frame) != num_rows:
        raise DataError(
            f"{what}: {num_rows:,} rows were found but {len(frame):,} could be read; write the file again with plain quoting"
        )
    return frame
