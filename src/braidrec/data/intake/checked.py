"""One table on its way to `Tables`: the frame so far, the rows found bad, and what is to be said about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from braidrec.data.intake.delimited import SAID_IN, OnBadRows
from braidrec.data.intake.numbers import read_numbers, stripped
from braidrec.data.intake.readers import RawTable, as_numbers
from braidrec.errors import DataError, suggest

if TYPE_CHECKING:
    import polars as pl

_EXACT_FLOAT = 2**53
_LARGEST_FLOAT32 = 3.4e38
_SHOWN = 60
_NAMED_PROBLEMS = 5


@dataclass
class CheckedTable:
    """One table on its way: the frame so far, rows found bad, and what is to be said about it."""

    raw: RawTable
    on_bad_rows: OnBadRows
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    num_bad: int = 0

    def __post_init__(self) -> None:
        import polars as pl

        self.frame = self.raw.frame
        self.moment: str | None = None
        self.bad = pl.repeat(False, len(self.frame), eager=True)

    def column(self, name: str) -> pl.Series:
        """Its values, without the name: Polars reads some as patterns."""
        return self.frame[name].alias("")

    def note(self, text: str) -> None:
        self.notes.append(f"{self.raw.where}: {text}")

    def require(self, column: str, role: str) -> None:
        if column not in self.frame.columns:
            raise DataError(f"{self.raw.where}: no column '{column}' (named as {role}){suggest(column, self.frame.columns)}")

    def refuse(self, column: str, bad: pl.Series, problem: str) -> None:
        """Rows marked in ``bad`` cannot be used: an error for the first of them, or one more row left out."""
        if not bad.any():
            return
        row = bad.arg_max()
        assert row is not None
        message = f"{self.raw.place(row)}, column '{column}': {shown(self.raw.frame[column][row])} {problem}"
        if self.on_bad_rows == "error":
            raise DataError(f'{message}; or leave such rows out with on_bad_rows = "skip"')
        self.problems.append(f"{int(bad.sum()):,} such as {message}")
        self.bad = self.bad | bad

    def fail(self, column: str, row: int, problem: str) -> DataError:
        return DataError(f"{self.raw.place(row)}, column '{column}': {shown(self.raw.frame[column][row])} {problem}")

    def put(self, column: str, values: pl.Series) -> None:
        self.frame = self.frame.with_columns(values.alias(column))

    def keep_moment(self, values: pl.Series) -> None:
        """What orders rows within a second, in a column whose name is none of the table's."""
        self.moment = "moment"
        while self.moment in self.frame.columns:
            self.moment += "_"
        self.put(self.moment, values)

    def ids(self, column: str) -> None:
        """Whole numbers of any type as integers, anything else as text without outer blanks."""
        import polars as pl

        values = self.column(column)
        if values.dtype in (pl.Categorical, pl.Enum, pl.Null):
            values = values.cast(pl.String)
        if values.dtype.is_float() or values.dtype.is_decimal():
            values = self._whole_ids(column, values)
        elif values.dtype == pl.String:
            bare = stripped(values)
            count = int((bare.fill_null("") != values).fill_null(False).sum())
            if count:
                self.note(f"column '{column}': outer blanks taken off {count:,} ids")
            # what a text file says in numbers are numbers, whatever blanks or empty quotes stand beside them
            values = bare if self.raw.typed else as_numbers(bare)
            if values.dtype.is_float():
                values = self._whole_ids(column, values)
        if not (values.dtype.is_integer() or values.dtype == pl.String):
            raise DataError(f"{self.raw.where}, column '{column}': ids of type {values.dtype}; integers or text are accepted")
        empty = values.is_null()
        if values.dtype == pl.String:
            empty = empty | (values == "").fill_null(False)
            objects = values.str.contains(r'^\{".*\}$').fill_null(False)
            self.refuse(column, objects, "is a JSON object and no id; bring the id in a column of its own")
        self.refuse(column, empty & ~self.bad, "is an empty id; every row needs one: fill it in or delete the row")
        self.put(column, values)

    def _whole_ids(self, column: str, values: pl.Series) -> pl.Series:
        import polars as pl

        if values.dtype.is_float():
            values = values.fill_nan(None)
            inexact = ~((values == values.floor()) & (values.abs() < _EXACT_FLOAT)).fill_null(True)
        else:
            inexact = (values.cast(pl.Int64, strict=False).cast(values.dtype) != values).fill_null(values.is_not_null())
        if not self.raw.typed and inexact.any():
            return values.cast(pl.String)  # as it was written: only what can be written back became a number
        self.refuse(column, inexact, "is no id: decimal numbers cannot name things exactly; keep ids as integers or text")
        self.note(f"column '{column}': ids came as decimal numbers, all whole; read as integers")
        return values.set(inexact, None).cast(pl.Int64)

    def numbers(self, column: str, role: str, *, may_be_empty: bool = False) -> pl.Series:
        """A column as numbers: integers stay integers, text is read as numbers; NaN and infinity are refused."""
        import polars as pl

        values, decimal = self.column(column), self.raw.read.decimal
        if values.dtype.is_float() and decimal == "," and not self.raw.typed:
            written = values.cast(pl.String)  # as it stands in the file: only what can be written back became a number
            if written.str.contains(".", literal=True).any():
                values = written
        if values.dtype == pl.String:
            text = stripped(values)
            found = read_numbers(text, decimal)
            if found.doubt is not None:
                row = (text == found.doubt).fill_null(False).arg_max()
                assert row is not None
                raise self.fail(
                    column,
                    row,
                    f"can be read two ways ({role}): {found.doubt.replace(',', '.')} with a decimal comma, or "
                    f'{found.doubt.replace(",", "")} with commas between thousands; say which: decimal = "," or '
                    f'decimal = "." {SAID_IN}, or bring numbers',
                )
            if found.note:
                self.note(f"column '{column}': {found.note}")
            values = found.values
            self.refuse(
                column,
                values.is_null() & text.is_not_null(),
                f"is not a number ({role}){_with_commas(decimal)}; correct it" + _empty_hint(may_be_empty),
            )
        elif values.dtype == pl.Boolean:
            values = values.cast(pl.Int8)
        elif values.dtype.is_decimal() or values.dtype == pl.Null:
            values = values.cast(pl.Float64)
        elif not values.dtype.is_numeric():
            raise DataError(f"{self.raw.where}, column '{column}': type {values.dtype} where numbers are needed ({role})")
        if values.dtype.is_float():
            if may_be_empty:
                values = values.fill_nan(None)
            wild = ~values.is_finite() | (values.abs() > _LARGEST_FLOAT32)
            self.refuse(
                column, wild.fill_null(False), f"is not a finite number ({role}); correct it" + _empty_hint(may_be_empty)
            )
        if not may_be_empty:
            self.refuse(column, values.is_null(), f"is empty or no number ({role}); fill it in or delete the row")
        return values

    def whole(self, column: str, role: str, *, otherwise: str = "") -> pl.Series:
        """Int64 from 0 on; ``otherwise``: what else can be done about fractions than to round them."""
        import polars as pl

        values = self.numbers(column, role)
        if values.dtype.is_float():
            partial = (values != values.floor()).fill_null(False)
            self.refuse(column, partial, f"has a fraction ({role}); round it to a whole number{otherwise}")
        whole = values.cast(pl.Int64, strict=False)
        self.refuse(column, (values.is_not_null() & whole.is_null()), f"does not fit 64 bits ({role})")
        self.refuse(column, (whole < 0).fill_null(False), f"is negative ({role}); numbers from 0 on are accepted")
        return whole.set((whole < 0).fill_null(False), None)

    def finish(self) -> pl.DataFrame:
        """The frame without the rows found bad."""
        self.num_bad = int(self.bad.sum())
        if not self.num_bad:
            return self.frame
        more = len(self.problems) - _NAMED_PROBLEMS
        named = "; ".join(self.problems[:_NAMED_PROBLEMS]) + (f"; and {more} more kinds" if more > 0 else "")
        self.note(f"left out {self.num_bad:,} of {len(self.frame):,} rows with unusable values: {named}")
        if self.num_bad == len(self.frame):
            raise DataError(f"{self.raw.where}: no usable row; {named}")
        return self.frame.filter(~self.bad)


def last_place(table: CheckedTable, row: int) -> str:
    return table.raw.place(row).rpartition(", ")[2]


def _with_commas(decimal: str | None) -> str:
    return " as decimal = ',' reads it" if decimal == "," else ""


def _empty_hint(may_be_empty: bool) -> str:
    return ", or leave the cell empty" if may_be_empty else ""


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def as_whole(values: pl.Series) -> pl.Series:
    """Decimal numbers as integers where all are whole and exact, anything else as it is."""
    import polars as pl

    if not (values.dtype.is_float() or values.dtype.is_decimal()):
        return values
    bare = values.fill_nan(None) if values.dtype.is_float() else values
    whole = bare.cast(pl.Int64, strict=False)
    exact = (whole.cast(bare.dtype) == bare) & (whole.abs() < _EXACT_FLOAT)
    return whole if exact.fill_null(bare.is_null()).all() else values


def wordless(kind: Any) -> bool:
    """Whether values of a type have no form in words."""
    import polars as pl

    return bool(kind.is_nested()) or kind in (pl.Binary, pl.Object, pl.Duration)
