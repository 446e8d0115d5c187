"""Tables of other forms made a log of one event a row: several items in a cell, ready-made samples, rows in their order.

Nothing is dropped without a count, and every event keeps its place in the file, for messages about it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from braidrec.arguments import BLANKS
from braidrec.data.intake.checked import as_whole, wordless
from braidrec.data.intake.guess import field_of
from braidrec.data.intake.readers import RawTable, as_numbers
from braidrec.data.intake.validate import meeting
from braidrec.data.schema import Field
from braidrec.data.tables import ReadReport
from braidrec.data.values import listed
from braidrec.errors import DataError, remedy, suggest

if TYPE_CHECKING:
    import polars as pl

ROW = "row"  # order = "row": the order of the file, where no column is called so
_SIDES = ("items asked for", "histories")
HISTORY = "history"  # the part of events that only stand in histories


@dataclass(frozen=True)
class Samples:
    """Ready-made samples as a log: each is a user of its own, whose history comes before the one event that is asked for."""

    log: RawTable
    users: RawTable | None
    roles: Mapping[str, Any]  # of the log's columns, and the user fields


def in_file_order(log: RawTable) -> RawTable:
    """With the place of each row in a column of its own, `ROW`."""
    import polars as pl

    frame = log.frame.with_columns(pl.Series(ROW, np.arange(len(log.frame))))
    return _noted(replace(log, frame=frame), 'order = "row": rows of a user follow one another as they stand in the file')


def one_event_a_row(
    log: RawTable, item: str, separator: str | None, order: str | None, user: str | None = None
) -> tuple[RawTable, str | None]:
    """A log whose cells in column ``item`` hold several items, one event each; any other is given back as it is.

    Several are lists, text of nothing but lists, or text cut at ``separator``.  Columns with as many values in every cell go
    along; not ``user``, and at blanks numbers alone, since names and dates have blanks of their own.  ``order`` is the column
    that says which rows came first, if any.  Returns the log and the name of a new column with the place of each event, None
    where nothing was cut.
    Raises DataError where ``order`` orders rows, and so not the items of a cell.
    """
    import polars as pl

    lists = _lists(log.frame[item].alias(""), separator, log.typed)
    if lists is None:
        return log, None
    lengths = lists.list.len().fill_null(0)
    along = {item: lists}
    for name in log.frame.columns:
        if name not in (item, user):
            other = _lists(log.frame[name].alias(""), separator, log.typed)
            if other is not None and separator == " " and not _numeric(other):
                continue
            if other is not None and bool((other.list.len().fill_null(0) == lengths).all()):
                along[name] = other
    if order is not None and order not in along:
        how = remedy("pass the table without that column", f'leave the column out: ignore = ["{order}"]')
        raise DataError(
            f"{log.where}, column '{order}': says the order of rows, each of which holds several items in '{item}'; bring one "
            f"event a row, or, where the rows stand in their order, {how}"
        )
    origin = np.repeat(np.arange(len(lengths)), lengths.to_numpy())
    columns = [
        (_flat(along[name], log.typed) if name in along else log.frame[name].alias("").gather(origin)).alias(name)
        for name in log.frame.columns
    ]
    place = _free("order", log.frame.columns)
    frame = pl.DataFrame([*columns, pl.Series(place, np.arange(len(origin)))])
    empty = int((lengths == 0).sum())
    said = f"{len(lengths):,} rows hold several items in '{item}', so they are {len(frame):,} events, in the order they stand"
    said += f"; {empty:,} rows hold none and are left out" if empty else ""
    others = [name for name in along if name != item]
    said += f"; cut likewise: {', '.join(others)}" if others else ""
    if not len(frame):
        raise DataError(f"{log.where}, column '{item}': no row holds an item")
    return _noted(replace(log, frame=frame, origin=origin), said), place


def log_of_samples(
    log: RawTable,
    users: RawTable | None,
    *,
    history: str,
    separator: str | None,
    roles: Mapping[str, str],
    user_fields: Sequence[Field] | None = None,
) -> Samples:
    """A table of samples, each a history and the item asked for, as a log.

    roles: user (if known), item, label, rating, timestamp and weight (if any) and part -> their columns.  Events of histories
    weigh 1.  ``users`` calls its ids as the samples do; ``user_fields`` are those of it, None where they are guessed.
    Raises DataError for a column that is missing, for histories that are no lists, for a rating or a timestamp, which no event
    of a history has, and where samples and users do not meet.
    """
    import polars as pl

    for role, name in (("history", history), *roles.items()):
        if name not in log.frame.columns:
            raise DataError(f"{log.where}: no column '{name}' (named as the {role}){suggest(name, log.frame.columns)}")
        if name != history and wordless(log.frame.schema[name]):
            raise DataError(
                f"{log.where}, column '{name}': type {log.frame.schema[name]} where one value a row is needed (the {role})"
            )
    for role in ("rating", "timestamp"):
        if role in roles:
            how = "leave it out: samples stand in no order but that of their histories"
            if role == "rating":
                how = (
                    'name the column that says which samples are positive: label = "..." (0 and 1, or yes and no); where none '
                    f'does, leave it unused: ignore = ["{roles[role]}"]'
                )
            raise DataError(
                f"{log.where}, column '{roles[role]}': is the {role} of ready-made samples, whose earlier events, from "
                f"'{history}', have none; {how} (under [interactions])"
            )
    past = _lists(log.frame[history].alias(""), separator, log.typed, always=True)
    if past is None:
        raise DataError(
            f"{log.where}, column '{history}': {str(log.frame[history][0])!r} is no list of items; say what stands "
            'between them: item_separator = " " (under [interactions])'
        )
    inner = getattr(past.dtype, "inner", None)
    if wordless(inner):
        raise DataError(f"{log.where}, column '{history}': lists of type {inner} where ids are needed")
    lengths = past.list.len().fill_null(0).to_numpy().astype(np.int64)
    ends = np.cumsum(lengths + 1) - 1  # the place of each sample's own event, behind its history
    count = int(ends[-1]) + 1
    origin = np.repeat(np.arange(len(lengths)), lengths + 1)
    asked = np.zeros(count, np.bool_)
    asked[ends] = True
    taken = [*log.frame.columns, *(users.frame.columns if users is not None else ())]
    sample, place = (_free(name, taken) for name in ("sample", "order"))
    item, own = roles["item"], log.frame
    beside = [name for name in own.columns if name not in (history, item, roles.get("user"))]
    columns = {name: _where(asked, own[name].alias(""), None) for name in beside}
    named, met, alike = _alike(own[item].alias(""), _flat(past, log.typed), log.typed)
    columns[item] = _joined(asked, named, met)
    columns[roles["part"]] = _where(asked, own[roles["part"]].alias("").cast(pl.String), HISTORY)
    if "label" in roles:
        columns[roles["label"]] = _where(asked, own[roles["label"]].alias("").cast(pl.String), "1")
    if "weight" in roles:
        weights = own[roles["weight"]].alias("")
        as_read = weights.dtype.is_integer() or (log.typed and weights.dtype.is_numeric())
        columns[roles["weight"]] = _where(asked, weights if as_read else weights.cast(pl.String), 1)
    columns[sample] = pl.Series(origin + 1)
    columns[place] = pl.Series(np.arange(count))
    frame = pl.DataFrame([column.alias(name) for name, column in columns.items()])
    if "weight" in roles:
        alike.append(f"earlier items weigh 1 in '{roles['weight']}'")
    said = (
        f"{len(own):,} ready-made samples: each is a user of its own (column '{sample}'), with {int(lengths.sum()):,} earlier "
        f"items from '{history}' that count as positive and are in no part"
    ) + "".join(f"; {each}" for each in alike)
    made: dict[str, Any] = {"user": sample, "order": place, **{role: name for role, name in roles.items() if role != "user"}}
    people = None
    if "user" in roles:
        people = _people(log, users, roles["user"], sample)
        known = [] if users is None else [values for values in users.frame.get_columns() if values.name != roles["user"]]
        guessed = [field for field, _ in map(field_of, known) if field is not None]
        told = guessed if user_fields is None else [field for field in user_fields if field.name != roles["user"]]
        made["user_fields"] = (Field(name=roles["user"]), *told)
    elif users is not None:
        raise DataError(f"{users.where}: the samples name no user, so a table of users says nothing; name it: user = ...")
    return Samples(_noted(replace(log, frame=frame, origin=origin), said), people, made)


def _people(log: RawTable, users: RawTable | None, user: str, sample: str) -> RawTable:
    """One row per sample: whose it is, and what is known of them."""
    import polars as pl

    numbers = pl.Series(sample, np.arange(1, len(log.frame) + 1))
    if users is None:
        frame = pl.DataFrame([numbers, log.frame[user]])
        return RawTable(frame, log.source, ReadReport(), log.where, log.lines, log.read, pieces=log.pieces)
    met = meeting(log, users, user, "user")
    known = [
        values.alias("").gather(met.rows).alias(values.name) for values in users.frame.get_columns() if values.name != user
    ]
    frame = pl.DataFrame([numbers, met.ids.alias(user), *known])
    return replace(users, frame=frame, report=met.report, origin=met.rows.fill_null(0).to_numpy().astype(np.int64))


def _lists(values: pl.Series, separator: str | None, typed: bool, always: bool = False) -> pl.Series | None:
    """Cells as lists, null where there is none; None where they are single values.  always: also where none holds several."""
    import polars as pl

    if isinstance(values.dtype, pl.Array):
        return values.arr.to_list()
    if isinstance(values.dtype, pl.List):
        return values
    if separator is not None and (values.dtype == pl.String or (always and values.dtype.is_integer())):
        cut = _bare(values.cast(pl.String).str.replace_all(r"\s+", " ") if separator == " " else values.cast(pl.String))
        lists = cut.str.split(separator).list.eval(pl.element().str.strip_chars(BLANKS))
        return lists if always or bool((lists.list.len() > 1).any()) else None
    if values.dtype != pl.String:
        return None
    text = _bare(values)
    written = listed(text.drop_nulls())
    if not written or not text.drop_nulls().is_in(list(written)).all():
        return None
    return pl.Series([None if cell is None else written[cell] for cell in text.to_list()], dtype=pl.List(pl.String))


def _numeric(lists: pl.Series) -> bool:
    import polars as pl

    flat = lists.explode(empty_as_null=False, keep_nulls=False)
    return flat.dtype != pl.String or not bool(flat.cast(pl.Float64, strict=False).is_null().any())


def _bare(text: pl.Series) -> pl.Series:
    bare = text.str.strip_chars(BLANKS)
    return bare.set((bare == "").fill_null(False), None)


def _flat(lists: pl.Series, typed: bool) -> pl.Series:
    """The elements of all cells; those of text are numbers where that loses nothing, as single cells are."""
    import polars as pl

    flat = lists.explode(empty_as_null=False, keep_nulls=False)
    return as_numbers(flat) if flat.dtype == pl.String and not typed else flat


def _where(asked: NDArray[np.bool_], own: pl.Series, other: str | int | None) -> pl.Series:
    """(n,) ``own`` at the places that are asked for, ``other`` elsewhere."""
    import polars as pl

    at = np.where(asked, np.cumsum(asked) - 1, -1)
    found = own.gather(pl.Series(at).set(pl.Series(at < 0), None))
    if other is None:
        return found
    return found.zip_with(pl.Series(asked), pl.Series([other]).cast(found.dtype).new_from_index(0, len(asked)))


def _joined(asked: NDArray[np.bool_], own: pl.Series, past: pl.Series) -> pl.Series:
    """(n,) ``own`` at the places that are asked for, ``past`` in turn elsewhere; both of one type."""
    import polars as pl

    order = np.argsort(np.concatenate([np.flatnonzero(asked), np.flatnonzero(~asked)]), kind="stable")
    return pl.concat([own, past]).gather(order)


def _alike(own: pl.Series, past: pl.Series, typed: bool) -> tuple[pl.Series, pl.Series, list[str]]:
    """The items asked for and those of the histories in one type, in which one id is written one way; and what was decided.

    Whole decimal numbers are integers; text is what is left where one of both is text, and there 4.0 is 4 where 4 stands too.
    """
    import polars as pl

    said = []
    if own.dtype != past.dtype:
        sides = [as_whole(own), as_whole(past)]
        changed = [name for name, before, after in zip(_SIDES, (own, past), sides, strict=True) if before.dtype != after.dtype]
        said += [f"ids of the {' and '.join(changed)} came as decimal numbers, all whole; read as integers"] if changed else []
        own, past = sides
    if own.dtype != past.dtype:
        kinds = {own.dtype, past.dtype}
        if all(kind.is_integer() for kind in kinds) and pl.UInt64 not in kinds:
            own, past = own.cast(pl.Int64), past.cast(pl.Int64)
        elif typed and all(kind.is_numeric() for kind in kinds) and any(not kind.is_integer() for kind in kinds):
            return own.cast(pl.Float64), past.cast(pl.Float64), said  # a fraction, which is no id: refused with its row
        else:
            listed_kinds = " and ".join(
                f"{kind} in the {name}" for name, kind in zip(_SIDES, (own.dtype, past.dtype), strict=True)
            )
            said.append(f"ids are {listed_kinds}; compared as text")
            own, past = own.cast(pl.String), past.cast(pl.String)
    if own.dtype == pl.String:
        every = pl.concat([own, past]).unique().drop_nulls()
        spelt = pl.DataFrame({"raw": every, "plain": every.str.strip_chars(BLANKS).str.extract(r"^(-?(?:0|[1-9]\d*))\.0+$")})
        twins = dict(spelt.filter(spelt["plain"].is_in(every.str.strip_chars(BLANKS).implode())).sort("raw").rows())
        if twins:
            first = next(iter(twins))
            said.append(
                f"{len(twins):,} ids differ by a decimal point alone (such as {first!r} and {twins[first]!r}); "
                "taken as the same"
            )
            own, past = own.replace(twins), past.replace(twins)
    return own, past, said


def _free(name: str, taken: Collection[str]) -> str:
    """A name that no column has."""
    while name in taken:
        name += "_"
    return name


def _noted(table: RawTable, said: str) -> RawTable:
    notes = (*table.report.notes, f"{table.where}: {said}")
    return replace(table, report=replace(table.report, notes=notes))
