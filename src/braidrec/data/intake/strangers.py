"""Why the ids of a log do not meet those of its table: what would make more of them meet, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from braidrec.data.intake.checked import wordless

if TYPE_CHECKING:
    import polars as pl

_SEPARATORS = (" ", "|", ",", ";")  # between several ids in one cell
_LOOKED_AT = 20_000  # ids that are tried
_HELPS = 0.5  # of them that have to meet for a cause to be named


def cause_of_strangers(strange: pl.Series, catalogue: pl.DataFrame, key: str, kind: str) -> str:
    """The likely cause.

    strange: ids of the log, each once, that column ``key`` of ``catalogue`` does not have    kind: item or user
    """
    tried, known = _text(strange.head(_LOOKED_AT)), _text(catalogue[key])
    for name in catalogue.columns:
        if name != key and _share(tried, _text(catalogue[name])) >= _HELPS:
            remedy = f'id = "{name}" under [{kind}s] in TOML'
            return f"column '{name}' of the table has these ids, so it seems to be the id ({remedy})"
    for separator in _SEPARATORS:
        parts = tried.str.split(separator).list.explode(empty_as_null=True).str.strip_chars().drop_nulls()
        if len(parts) > len(tried) and _share(parts, known) >= _HELPS:
            remedy = f"item_separator = {separator!r} under [interactions] in TOML"
            return f"one cell of the log holds several, such as {tried[0]!r} ({remedy})"
    for change, cause in _changes():
        own, other = change(tried), change(known)
        if _share(own, other) >= _HELPS:
            first = own.is_in(other.drop_nulls().implode()).fill_null(False).arg_max()
            assert first is not None
            twin = known.filter((other == own[first]).fill_null(False))[0]
            return f"the log has {tried[first]!r} where the table has {twin!r}, {cause}"
    return f"the log has ids such as {tried[0]!r}, the table such as {known[0]!r}"


def _changes() -> Iterator[tuple[Callable[[pl.Series], pl.Series], str]]:
    yield lambda ids: ids.str.replace(r"^0+(\d)", "$1"), "so the leading zeros of one of them are missing"
    yield lambda ids: ids.str.to_lowercase(), "which differ in capital letters"
    yield lambda ids: ids.str.replace(r"\.0+$", ""), "which differ by a decimal point"
    yield lambda ids: ids.str.extract(r"(\d+)\D*$").str.replace(r"^0+(\d)", "$1"), "so one of them has a prefix or an ending"


def _share(ids: pl.Series, known: pl.Series) -> float:
    return int(ids.is_in(known.drop_nulls().implode()).sum()) / len(ids)


def _text(values: pl.Series) -> pl.Series:
    """As text, without the name, which Polars may read as a pattern; empty where values cannot be ids."""
    import polars as pl

    if wordless(values.dtype) or values.dtype == pl.Boolean:
        return pl.Series([], dtype=pl.String)
    return values.alias("").cast(pl.String)
