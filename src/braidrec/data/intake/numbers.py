"""Text to numbers and to labels where there is one reading; where there are two, both are named and nothing is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from braidrec.arguments import BLANKS

if TYPE_CHECKING:
    import polars as pl

Decimal = Literal[".", ","]
_WHOLE = r"^[+-]?\d+$"
_COMMAS_IN_THOUSANDS = r"^[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?$"  # 1,234 and 1,234.5
_COMMA_DECIMAL = r"^[+-]?(?:\d+|\d{1,3}(?:\.\d{3})+)?,\d+$"  # 3,5 and 1.234,5
_DOTS_IN_THOUSANDS = r"^[+-]?\d{1,3}(?:\.\d{3})+$"  # 1.234, beside numbers with a decimal comma alone
_POSITIVE, _NEGATIVE = ("true", "t", "yes", "y"), ("false", "f", "no", "n")
_SHOWN_VALUES = 8


@dataclass(frozen=True)
class Numbers:
    """What a column of text says in numbers."""

    values: pl.Series  # (n,) Float64, null where a cell is blank or no number
    note: str = ""  # what was decided
    doubt: str | None = None  # a cell that is one number with a decimal comma, another with commas between thousands


def stripped(text: pl.Series) -> pl.Series:
    """Without outer blanks; blank cells are null."""
    bare = text.str.strip_chars(BLANKS)
    return bare.set((bare == "").fill_null(False), None)


def read_numbers(text: pl.Series, decimal: Decimal | None = None) -> Numbers:
    """The numbers of a text column, all of it read one way.

    Where cells hold commas, the column is read with decimal commas, or with commas between thousands, whichever reads more
    of it; where both do and differ, `Numbers.doubt` has such a cell, unless ``decimal`` says what the decimal sign is.
    """
    import polars as pl

    bare = stripped(text)
    plain = bare.cast(pl.Float64, strict=False)
    unread = bare.filter(plain.is_null() & bare.is_not_null())
    if decimal is None and not unread.str.contains(",", literal=True).any():
        return Numbers(plain)
    commas = bare.str.contains(_COMMAS_IN_THOUSANDS)
    english = plain.zip_with(~commas.fill_null(False), _cast(bare.str.replace_all(",", "", literal=True)))
    own = bare.str.contains(f"{_WHOLE}|{_COMMA_DECIMAL}|{_DOTS_IN_THOUSANDS}").fill_null(False)
    points = _cast(bare.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True))
    continental = points.set(~own, None)
    many, few = (int(each.is_not_null().sum()) for each in (english, continental))
    if decimal == "," or (decimal is None and few > many):
        count = int(bare.str.contains(",", literal=True).sum())
        return Numbers(continental, f"decimal commas read in {count:,} cells" if count and decimal is None else "")
    if decimal is None and many == few:
        both = bare.filter((english != continental).fill_null(False))
        if len(both):
            return Numbers(plain, doubt=both[0])
    count = int(commas.sum())
    return Numbers(english, f"commas between thousands taken out in {count:,} cells" if count and decimal is None else "")


def of_words(text: pl.Series) -> pl.Series:
    """Cells that say yes or no, in any case, as "1" and "0"; the others as they are, without outer blanks."""
    bare = stripped(text)
    return bare.str.to_lowercase().replace_strict(
        {**dict.fromkeys(_POSITIVE, "1"), **dict.fromkeys(_NEGATIVE, "0")}, default=bare
    )


def trouble_of_labels(numbers: pl.Series) -> str:
    """Why a column of numbers cannot be a label, with the values met; "" where it can."""
    met = numbers.drop_nulls().unique().sort().to_list()
    return "" if set(met) <= {0, 1} or set(met) <= {-1, 1} else f"it holds other values than 0 and 1 ({listing(met)})"


def listing(values: Sequence[object]) -> str:
    """The first of some values, as a message shows them."""
    shown = ", ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in values[:_SHOWN_VALUES])
    return shown + (", ..." if len(values) > _SHOWN_VALUES else "")


def _cast(text: pl.Series) -> pl.Series:
    import polars as pl

    return text.cast(pl.Float64, strict=False)
