"""Files and frames of any common kind to one Polars frame, with where it came from and what reading had to decide."""

from __future__ import annotations

import gzip
import io
import json
import logging
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from pydantic import Field as Setting
from pydantic import model_validator

from braidrec.arguments import instance_of
from braidrec.data.intake.delimited import SAID_IN, Delimited, LineMap, OnBadRows, parse_delimited
from braidrec.data.intake.json_lines import is_json, parse_json
from braidrec.data.intake.numbers import Decimal
from braidrec.data.tables import ReadReport, SourceFile
from braidrec.errors import ConfigError, DataError, remedy
from braidrec.files import sha256
from braidrec.strict import Strict

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

FRAME = "<frame>"
OF_FILES = ("encoding", "separator", "quoting", "on_bad_rows")  # what of `ReadConfig` is of files, the rest of values
_log = logging.getLogger(__name__)
_NAMED_PROBLEMS = 5  # rows left out that a note names one by one
_FREE_INFLATION = 1 << 30  # bytes that a gzip file may always grow to; beyond that at most 100 times its size
_ACCEPTED = "Parquet (a file, or a folder of such), Arrow IPC (Feather), JSON lines or CSV/TSV, the latter two also as .gz"


class ReadConfig(Strict):
    """How files are read, and what their values mean where there are two readings."""

    on_bad_rows: OnBadRows = "error"  # "skip": leave ragged, badly quoted and undecodable rows out, counted in the report
    encoding: Literal["utf-8", "latin-1", "cp1252", "utf-16"] = "utf-8"
    separator: str | None = Setting(
        default=None, min_length=1, max_length=1
    )  # None: comma, tab or semicolon, whichever is there
    quoting: bool = True  # off: " is an ordinary character
    decimal: Decimal | None = None  # the decimal sign of numbers in text; None: told from the column, an error where it is open
    time_format: str | None = None  # of times in text or digits, such as "%d/%m/%Y"; None: told from the column, likewise
    time_unit: Literal["s", "ms", "us", "ns"] | None = None  # of times in numbers; None: told by their size, and said
    # the share of the interactions that has to find its item (user) in the table of items (users); below, it is an error
    least_met: float = Setting(default=0.1, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _one_of_both(self) -> ReadConfig:
        if self.time_format is not None and self.time_unit is not None:
            raise ValueError(
                f"time_format = '{self.time_format}' reads text, time_unit = '{self.time_unit}' numbers; say one of them"
            )
        return self

    def only(self, keys: Sequence[str], what: str) -> ReadConfig:
        """The same.  Raises ConfigError where it sets more than ``keys``, which are all that reading ``what`` follows."""
        if idle := sorted(self.model_fields_set - set(keys)):
            raise ConfigError(
                f"{remedy('read', '--read')}: of {what}, {', '.join(keys)} alone can be said; drop {', '.join(idle)}, which "
                "nothing would follow"
            )
        return self


@dataclass(frozen=True)
class RawTable:
    """A table as read: the columns of the file; of text files numbers as numbers where that loses nothing, otherwise text."""

    frame: pl.DataFrame
    source: SourceFile
    report: ReadReport
    where: str  # opens every message about this table
    lines: LineMap | None = None  # text files only
    read: ReadConfig = field(default_factory=ReadConfig)
    typed: bool = True  # whether the source says what type a column has; text files do not
    pieces: tuple[tuple[int, RawTable], ...] = ()  # of several files: the first row of each, and the table without its rows
    origin: NDArray[np.int64] | None = None  # (n,) the row as read that each row came from, where one became several

    @property
    def sources(self) -> tuple[SourceFile, ...]:
        return tuple(source for _, piece in self.pieces for source in piece.sources) or (self.source,)

    def place(self, row: int) -> str:
        """Where row ``row`` (from 0) stands, for a message: file and line, or frame and row (from 1)."""
        if self.origin is not None:
            row = int(self.origin[row])
        if self.pieces:
            first, piece = next(entry for entry in reversed(self.pieces) if entry[0] <= row)
            return piece.place(row - first)
        return f"{self.where}, " + (f"line {self.lines.line_of(row)}" if self.lines else f"row {row + 1}")


def read_table(
    source: Any,
    *,
    what: str,
    read: ReadConfig | None = None,
    columns: Sequence[str] | None = None,
) -> RawTable:
    """Read a path (Parquet, Arrow IPC, CSV/TSV, .gz) or a frame (Polars, Arrow, or any with an Arrow or dataframe interface).

    ``what`` names the table ("interactions") in messages about frames; files are named by their path.
    ``columns`` names the columns of a text file without a header line.
    Raises DataError naming file, line, column, value and remedy.
    """
    read = read or ReadConfig()
    if isinstance(source, str | Path):
        return replace(_read_file(Path(source), read, columns), read=read)
    frame = to_frame(source, what)
    _check_shape(frame, what)
    return RawTable(frame, SourceFile(FRAME, ""), ReadReport(), what, read=read)


def to_frame(source: Any, what: str, read: ReadConfig | None = None) -> pl.DataFrame:
    """Any path or frame that `read_table` takes, its values as they stand; a frame may be without rows.

    read: how a file becomes a table; what it says of values is refused, and rows that are left out are logged
    """
    if read is not None:
        instance_of(read, ReadConfig, "read", "write ReadConfig(...)")
        read.only(OF_FILES, what)
    if not isinstance(source, str | Path):
        return _from_frame(source, what)
    table = read_table(source, what=what, read=read)
    for note in table.report.notes if table.report.rows_skipped else ():
        _log.warning(note)
    return table.frame


def read_bytes(data: bytes, where: str, source: SourceFile, read: ReadConfig, columns: Sequence[str] | None = None) -> RawTable:
    """Delimited text or JSON that is already in memory, such as a member of an archive."""
    if read.encoding != "utf-8":
        try:
            data = data.decode(read.encoding).encode()
        except UnicodeError as cause:
            raise DataError(
                f"{where}: cannot be read as {read.encoding} ({cause}); choose another encoding {SAID_IN}"
            ) from None
    if is_json(data):
        if columns is not None:
            raise DataError(f"{where}: holds JSON, whose keys name the columns; leave columns = [...] out")
        parsed = parse_json(data, what=where, on_bad_rows=read.on_bad_rows)
        return RawTable(parsed.frame, source, _report(parsed, where), where, parsed.lines, read)
    parsed = parse_delimited(
        data, what=where, separator=read.separator, quoting=read.quoting, columns=columns, on_bad_rows=read.on_bad_rows
    )
    return RawTable(_with_numbers(parsed.frame), source, _report(parsed, where), where, parsed.lines, read, typed=False)


def _read_file(path: Path, read: ReadConfig, columns: Sequence[str] | None) -> RawTable:
    if path.is_dir():
        return _read_folder(path, read)
    try:
        with path.open("rb") as stream:
            magic = stream.read(8)
        if not magic:
            raise DataError(f"{path}: the file is empty; it needs a line of column names and rows below it")
        source = SourceFile(path.name, sha256(path))
        where = str(path)
        if magic.startswith(b"PAR1") or path.suffix == ".parquet":
            return _columnar(_read_parquet, path, source)
        if magic.startswith(b"ARROW1") or path.suffix in (".feather", ".arrow", ".ipc"):
            return _columnar(_read_arrow, path, source)
        if magic.startswith(b"PK\x03\x04"):
            raise DataError(f"{path}: this is a zip archive; unpack it and name the table inside ({_ACCEPTED})")
        data = _inflate(path) if magic.startswith(b"\x1f\x8b") else path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: the file does not exist (looked in {path.absolute().parent}){_neighbour(path)}") from None
    except OSError as cause:
        raise DataError(f"{path}: cannot be read ({cause.strerror or cause})") from None
    if read.separator is None and {".tsv", ".tab"} & set(path.suffixes):
        read = read.model_copy(update={"separator": "\t"})
    return read_bytes(data, where, source, read, columns)


def _read_folder(path: Path, read: ReadConfig) -> RawTable:
    """Every Parquet file below a folder, in the order of their names, as Spark and others write one table.

    Folders called ``column=value`` give that column to all rows below them.
    """
    import polars as pl

    hidden = ("_", ".")
    files = sorted(
        file
        for file in path.rglob("*.parquet")
        if file.is_file() and not any(part.startswith(hidden) for part in file.relative_to(path).parts)
    )
    if not files:
        raise DataError(f"{path}: this is a folder without Parquet files; a table is needed ({_ACCEPTED})")
    tables = []
    for file in files:
        table = _columnar(_read_parquet, file, SourceFile(file.relative_to(path).as_posix(), sha256(file)), may_be_empty=True)
        above = [part.partition("=") for part in file.relative_to(path).parts[:-1] if "=" in part]
        own = {name: pl.Series(name, [unquote(value)] * len(table.frame), dtype=pl.String) for name, _, value in above}
        own = {name: values.replace("__HIVE_DEFAULT_PARTITION__", None) for name, values in own.items()}
        tables.append(replace(table, frame=table.frame.with_columns(own.values())))
    joined = concatenated(tables, str(path), read)
    by_folder = list(dict.fromkeys(part.partition("=")[0] for file in files for part in file.parts if "=" in part))
    numbers = [as_numbers(joined.frame[name].alias("")).alias(name) for name in by_folder if name in joined.frame.columns]
    return replace(joined, frame=joined.frame.with_columns(numbers))


def concatenated(tables: Sequence[RawTable], where: str, read: ReadConfig) -> RawTable:
    """Tables of one kind behind one another.  Raises DataError, naming both, where one lacks a column of the others."""
    import polars as pl

    first, *others = tables
    for other in others:
        if set(other.frame.columns) != set(first.frame.columns):
            apart = sorted(set(other.frame.columns) ^ set(first.frame.columns))
            raise DataError(
                f"{other.where}: other columns than in {first.where} ({', '.join(apart)} in one alone); the files of one table "
                "need the same columns"
            )
    if not any(len(table.frame) for table in tables):
        raise DataError(f"{where}: the table has no row (columns: {', '.join(first.frame.columns)})")
    frames = [pl.DataFrame([table.frame[name] for name in first.frame.columns]) for table in tables]  # no name is a pattern
    for name in first.frame.columns:  # text files tell types by their cells: what is text in one is text in all
        kinds = {frame.schema[name] for frame in frames}
        if pl.String in kinds and len(kinds) > 1 and not any(kind.is_nested() for kind in kinds):
            frames = [frame.with_columns(frame[name].alias("").cast(pl.String).alias(name)) for frame in frames]
    try:
        frame = pl.concat(frames, how="vertical_relaxed", rechunk=True)
    except pl.exceptions.PolarsError as cause:
        raise DataError(f"{where}: a column has types in its files that do not go together ({cause}); cast them") from None
    starts = np.cumsum([0, *(len(each) for each in frames[:-1])]).tolist()
    pieces = tuple((start, replace(table, frame=table.frame.clear())) for start, table in zip(starts, tables, strict=True))
    report = ReadReport(
        sum(table.report.rows_skipped for table in tables), tuple(note for table in tables for note in table.report.notes)
    )
    return RawTable(frame, first.source, report, where, read=read, typed=all(table.typed for table in tables), pieces=pieces)


def _neighbour(path: Path) -> str:
    from braidrec.errors import suggest

    try:
        names = [entry.name for entry in path.absolute().parent.iterdir() if entry.is_file()][:200]
    except OSError:
        return ""
    near = suggest(path.name, names)
    return near if "did you mean" in near else ""


def _inflate(path: Path) -> bytes:
    """The text in a gzip file; a file that swells without measure is refused."""
    limit = max(_FREE_INFLATION, 100 * path.stat().st_size)
    whole = io.BytesIO()
    try:
        with gzip.open(path) as stream:
            while block := stream.read(1 << 22):
                if whole.write(block) and whole.tell() > limit:
                    raise DataError(f"{path}: unpacks to more than {limit:,} bytes; unpack it yourself if that is meant")
    except (EOFError, gzip.BadGzipFile, zlib.error) as cause:
        raise DataError(f"{path}: the gzip file is cut short or damaged ({cause}); fetch or write it again") from None
    return whole.getvalue()


def _columnar(read: Callable[[Path], pa.Table], path: Path, source: SourceFile, *, may_be_empty: bool = False) -> RawTable:
    import pyarrow as pa

    try:
        table = read(path)
        table.validate(full=True)
        names = table.column_names
    except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError) as cause:
        reason = str(cause).strip().partition("\n")[0] or type(cause).__name__
        raise DataError(f"{path}: cut short, damaged or not {_ACCEPTED} ({reason}); write the file again") from None
    frame = _from_arrow(table, str(path))
    if not len(frame) and not may_be_empty:
        raise DataError(f"{path}: the table has no row (columns: {', '.join(names)})")
    return RawTable(frame, source, ReadReport(), str(path))


def _read_parquet(path: Path) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, page_checksum_verification=True).read()


def _read_arrow(path: Path) -> pa.Table:
    import pyarrow as pa

    with path.open("rb") as stream:
        is_file = stream.read(6) == b"ARROW1"
        stream.seek(0)
        return (pa.ipc.open_file if is_file else pa.ipc.open_stream)(stream).read_all()


def _from_frame(source: Any, what: str) -> pl.DataFrame:
    import polars as pl
    import pyarrow as pa

    if isinstance(source, pl.LazyFrame):
        return source.collect()
    if isinstance(source, pl.DataFrame):
        return source
    try:
        if isinstance(source, pa.Table):
            table = source
        elif hasattr(source, "__arrow_c_stream__"):
            table = pa.table(source)
        elif hasattr(source, "__dataframe__"):
            from pyarrow.interchange import from_dataframe  # no part of pyarrow until it is imported

            table = from_dataframe(source)
        else:
            kind = f"{type(source).__module__}.{type(source).__qualname__}"
            raise DataError(f"{what}: {kind} is no table; accepted: a path, or a Polars, Arrow or pandas frame")
        table.validate(full=True)
    except (
        pa.ArrowException,
        TypeError,
        ValueError,
        NotImplementedError,
    ) as cause:  # a column alone, or values of several types
        reason = str(cause).strip().partition("\n")[0]
        raise DataError(f"{what}: the frame cannot become an Arrow table ({reason}); give each column one type") from None
    return _from_arrow(table, what)


def _from_arrow(table: pa.Table, where: str) -> pl.DataFrame:
    import polars as pl

    nameless = _index_of(table)
    names = [name for name in table.column_names if name not in nameless]
    for at, name in enumerate(names):
        if name in names[:at]:
            raise DataError(
                f"{where}: the columns {names.index(name) + 1} and {at + 1} are both called '{name}'; rename one of them"
            )
    try:
        frame = pl.from_arrow(table.select(names))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, TypeError, ValueError) as cause:
        raise DataError(f"{where}: a column has a type that cannot be read ({cause}); cast it to numbers or text") from None
    assert isinstance(frame, pl.DataFrame)
    return frame


def _index_of(table: pa.Table) -> set[str]:
    """Columns that are the nameless index of a pandas frame: as pandas noted them, by their form where no note came along."""
    own = {name for name in table.column_names if re.fullmatch(r"__index_level_\d+__", name)}
    note = (table.schema.metadata or {}).get(b"pandas")
    return own if note is None else {each for each in json.loads(note).get("index_columns", ()) if each in own}


def _check_shape(frame: pl.DataFrame, what: str) -> None:
    if not frame.width:
        raise DataError(f"{what}: the frame has no column")
    if not len(frame):
        raise DataError(f"{what}: the frame has no row (columns: {', '.join(frame.columns)})")


def _with_numbers(frame: pl.DataFrame) -> pl.DataFrame:
    """Text columns whose every cell is a number as Python would write it become numbers; '007' and '1.50' stay text."""
    return frame.with_columns(as_numbers(column.alias("")).alias(column.name) for column in frame.get_columns())


def as_numbers(column: pl.Series) -> pl.Series:
    """Int64, UInt64 or Float64 when that is reversible for every cell of a text column, else the column as it is."""
    import polars as pl

    head = column.head(100)
    for kind in (pl.Int64, pl.UInt64, pl.Float64):
        if not _reversible(head, head.cast(kind, strict=False)):
            continue
        numbers = column.cast(kind, strict=False)
        if _reversible(column, numbers) and numbers.null_count() < len(numbers) and _finite(numbers):
            return numbers
    return column


def _finite(numbers: pl.Series) -> bool:
    return not numbers.dtype.is_float() or bool(numbers.is_finite().all())


def _reversible(text: pl.Series, numbers: pl.Series) -> bool:
    import polars as pl

    return bool((numbers.cast(pl.String).eq_missing(text)).all())


def _report(parsed: Delimited, where: str) -> ReadReport:
    notes = list(parsed.notes)
    if parsed.problems:
        more = len(parsed.problems) - _NAMED_PROBLEMS
        named = "; ".join(parsed.problems[:_NAMED_PROBLEMS]) + (f"; and {more:,} more" if more > 0 else "")
        notes.append(f"{where}: left out {len(parsed.problems):,} bad rows: {named}")
    if parsed.blank:
        notes.append(f"{where}: passed over {parsed.blank:,} blank lines")
    return ReadReport(len(parsed.problems), tuple(notes))
