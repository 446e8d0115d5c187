"""Rows that a log has twice, and users and items with hardly any: what is left out before anything is numbered, counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from braidrec.data.schema import Schema
from braidrec.data.settings import PrepareSettings
from braidrec.errors import DataError

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Cleaned:
    """interactions: what is left, in its order    notes: what was left out    core: whether `k_core` cut users and items"""

    interactions: pl.DataFrame
    notes: tuple[str, ...]
    core: bool = False


def clean(interactions: pl.DataFrame, schema: Schema, settings: PrepareSettings) -> Cleaned:
    """Duplicates, then repeats, then the core.

    Raises DataError for a duplicate where ``duplicates = "error"``, for repeats of a log without time or order, and where no
    row is left.
    """
    notes: list[str] = []
    log = _merge(interactions, schema, settings, notes)
    if settings.repeats != "keep":
        log = _one_of_each(log, schema, settings.repeats, notes)
    if settings.k_core is not None:
        log = _core(log, schema, settings.k_core, notes)
    return Cleaned(log, tuple(notes), settings.k_core is not None)


def _merge(log: pl.DataFrame, schema: Schema, settings: PrepareSettings, notes: list[str]) -> pl.DataFrame:
    """Without rows that are equal to an earlier one in every column."""
    if _distinct(log):
        return log
    again = ~log.to_struct("").is_first_distinct()
    count = int(again.sum())
    if not count:
        return log
    if settings.duplicates == "error":
        at = again.arg_max()
        assert at is not None
        row = log[at]
        shown = ", ".join(f"{name} = {row[name][0]!r}" for name in (schema.user, schema.item, schema.clock) if name is not None)
        raise DataError(
            f"interactions: {count:,} rows are equal to an earlier one in every column (such as {shown}), and "
            'duplicates = "error"; take them out, or prepare with duplicates = "merge" or "keep"'
        )
    if settings.duplicates == "keep":
        notes.append(
            f'{count:,} rows are equal to an earlier one in every column; kept (duplicates = "keep"), none in the history of '
            "another"
        )
        return log
    notes.append(
        f'{count:,} rows are equal to an earlier one in every column; merged into it (duplicates = "merge"; "keep" keeps them)'
    )
    return log.filter(~again)


def _distinct(log: pl.DataFrame) -> bool:
    """Whether no two rows can be equal: no two hashes alike, which is quicker to see than rows."""
    return log.hash_rows().n_unique() == len(log)


def _one_of_each(log: pl.DataFrame, schema: Schema, which: str, notes: list[str]) -> pl.DataFrame:
    """One event of each user with each item: the first or the last in time; of equal times, in the file."""
    import polars as pl

    if schema.clock is None and which == "last":
        raise DataError(
            "repeats = \"last\" needs to know what came last: the interactions need a 'timestamp' column, or 'order'; "
            'for pairs alone use repeats = "first"'
        )
    keys = [log[name].alias("") for name in (schema.user, schema.item)]
    clock = [] if schema.clock is None else [log[schema.clock].alias("")]
    frame = pl.DataFrame([column.alias(str(at)) for at, column in enumerate([*keys, *clock])])
    order = frame.select(pl.arg_sort_by(frame.columns, maintain_order=True)).to_series()
    pairs = frame[["0", "1"]][order].to_struct("")
    chosen = pairs.is_first_distinct() if which == "first" else pairs.is_last_distinct()
    kept = order.filter(chosen).sort()
    if len(kept) < len(log):
        notes.append(
            f"{len(log) - len(kept):,} events are of a user with an item met before or again; the {which} alone is kept"
        )
    return log[kept]


def _core(log: pl.DataFrame, schema: Schema, least: int, notes: list[str]) -> pl.DataFrame:
    """The largest part of the log in which every user and every item has ``least`` events."""
    import polars as pl

    frame = pl.DataFrame({"user": log[schema.user].alias(""), "item": log[schema.item].alias("")}).with_row_index("row")
    while len(frame):
        enough = frame.filter((pl.len().over("user") >= least) & (pl.len().over("item") >= least))
        if len(enough) == len(frame):
            break
        frame = enough
    users, items = (log[name].alias("").n_unique() for name in (schema.user, schema.item))
    if not len(frame):
        raise DataError(
            f"k_core = {least} leaves no row: no part of the {len(log):,} events has {least} events for every user ({users:,}) "
            f"and item ({items:,}); lower k_core"
        )
    notes.append(
        f"k_core = {least}: {frame['user'].n_unique():,} of {users:,} users, {frame['item'].n_unique():,} of {items:,} items "
        f"and {len(frame):,} of {len(log):,} events are left; the others are in no table"
    )
    return log[frame["row"]]
