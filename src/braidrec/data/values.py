"""Several values in one cell: lists, text cut at a separator, and lists that were written as text, all to lists of text."""

from __future__ import annotations

import ast
import json
import re
from typing import TYPE_CHECKING

from braidrec.data.schema import Field

if TYPE_CHECKING:
    import polars as pl

_BRACKETS = r"(?s)^\s*\[.*\]\s*$"
# One element and what ends it: text in quotes, a number, or a word that says nothing.  Arrays of NumPy put blanks between them.
_ELEMENT = re.compile(
    r"""\s*(?:(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?P<bare>[-+]?\d[\w.+-]*|true|false|True|False|null|None|nan|NaN))"""
    r"""\s*(?:,|$|(?<=\s)(?=\S)|(?<=['"])(?=['"]))""",
    re.DOTALL,
)
_NOTHING = ("null", "None", "nan", "NaN")


def values_of(field: Field, column: pl.Series) -> pl.Series:
    """The values (n,) list of text of a multi-valued ``field``: stripped, without empty and repeated ones, first come first.

    Cells are lists, lists written as text (``['a', 'b']``, JSON), or text cut at the field's separator; no cell is no value.
    """
    import polars as pl

    column = column.alias("")  # Polars reads some names as patterns
    if column.dtype == pl.List:
        lists = column.cast(pl.List(pl.String))
    else:
        text = column.cast(pl.String).fill_null("")
        lists = text.str.split(field.separator)
        written = listed(text)
        if written:
            own = pl.Series([written.get(cell) for cell in text.to_list()], dtype=pl.List(pl.String))
            lists = own.zip_with(own.is_not_null(), lists)
    stripped = lists.list.eval(pl.element().str.strip_chars())
    return stripped.list.eval(pl.element().filter(pl.element().str.len_chars() > 0)).list.unique(maintain_order=True)


def listed(text: pl.Series) -> dict[str, list[str]]:
    """The elements of every distinct cell that is a list written as text; text is cut, never evaluated."""
    cells = text.filter(text.str.contains(_BRACKETS).fill_null(False)).unique().to_list()
    return {cell: elements for cell in cells if (elements := _elements(cell)) is not None}


def _elements(cell: str) -> list[str] | None:
    """None where what stands in the brackets is no list of quoted texts and numbers."""
    inner = cell.strip()[1:-1].strip()
    found, at = [], 0
    while at < len(inner):
        match = _ELEMENT.match(inner, at)
        if match is None:
            return None
        at = match.end()
        if match["text"] is not None:
            found.append(_unquoted(match["text"]))
        elif match["bare"] not in _NOTHING:
            found.append(match["bare"])
    return found


def _unquoted(text: str) -> str:
    """Of one quoted text, with its escapes as JSON has them, else as Python has."""
    if "\\" not in text:
        return text[1:-1]
    for read in (json.loads, ast.literal_eval):
        try:
            return str(read(text))
        except (ValueError, SyntaxError):
            continue
    return text[1:-1]
