"""Raw tables and their schema to `Tables`: every column of a role is checked, and brought to one form, as a whole column.

ids         Int64, else UInt64, else text: whatever brings every id back exactly; the same type in all three tables
timestamp   Int64 seconds since 1970, UTC                  order   Int64, each user's own position
rating      finite number       label  Int8, 0 or 1        weight  finite number >= 0       numeric fields  finite, or empty
part        train, valid or test
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from braidrec.arguments import BLANKS
from braidrec.data.intake.checked import CheckedTable, last_place, shown, wordless
from braidrec.data.intake.delimited import SAID_IN, OnBadRows
from braidrec.data.intake.markup import cleaned
from braidrec.data.intake.numbers import listing, of_words, stripped
from braidrec.data.intake.readers import RawTable
from braidrec.data.intake.strangers import cause_of_strangers
from braidrec.data.intake.times import seconds_of
from braidrec.data.schema import Field, Schema
from braidrec.data.settings import PART_NAMES
from braidrec.data.tables import ReadReport, SourceFile, Tables
from braidrec.errors import DataError

if TYPE_CHECKING:
    import polars as pl

_SHOWN_VALUES = 8
_WORDS = ("True", "False", "TRUE", "FALSE", "true", "false")  # as other programs write them


def validate(
    name: str,
    schema: Schema,
    interactions: RawTable,
    items: RawTable | None = None,
    users: RawTable | None = None,
    *,
    on_bad_rows: OnBadRows = "error",
    notes: Iterable[str] = (),
    clean: bool = False,
) -> Tables:
    """Check the tables against ``schema``.  What had to be decided stands in the report of the result, after ``notes``.

    ``clean`` takes HTML out of the items' texts, and makes lists that were written as text the words in them.

    ``on_bad_rows="skip"`` leaves out rows with an empty id or an unusable value, counted; columns that are missing, units
    that are mixed and ids that stand twice in a catalogue are always errors.
    Raises DataError naming file, line, column, value and remedy.
    """
    log = CheckedTable(interactions, on_bad_rows)
    catalogues = {
        key: CheckedTable(table, on_bad_rows)
        for key, table in ((schema.item, items), (schema.user, users))
        if table is not None
    }
    _interactions(log, schema)
    _refuse_orphans(schema, items, users)
    for key, table in catalogues.items():
        is_item = key == schema.item
        table.require(key, "its id")
        table.ids(key)
        _refuse_repeats(table, key)
        _fields(table, schema.item_fields if is_item else schema.user_fields)
        if is_item:
            _texts(table, schema, clean)
        _plain_types(table, schema, key)
    for key in (schema.user, schema.item):
        _one_type(key, [log, *([catalogues[key]] if key in catalogues else [])])
        if key in catalogues:
            _meet(log, catalogues[key], key)
    frames = {key: table.finish() for key, table in catalogues.items()}
    events = log.finish()
    for key, frame in frames.items():
        _count_strangers(log, events, catalogues[key], frame, key, "item" if key == schema.item else "user")
    _say_positives(log, events, schema)
    tables = [log, *catalogues.values()]
    return Tables(
        name,
        schema,
        events,
        frames.get(schema.item),
        frames.get(schema.user),
        tuple(_sources(tables)),
        ReadReport(
            sum(table.raw.report.rows_skipped + table.num_bad for table in tables),
            (*notes, *(note for table in tables for note in (*table.raw.report.notes, *table.notes))),
        ),
        moment=log.moment,
    )


@dataclass(frozen=True)
class Met:
    """What a catalogue knows of each row of another table."""

    ids: pl.Series  # (n,) in the type and the spelling of the catalogue, null where the row names none
    rows: pl.Series  # (n,) of the catalogue as read, null where it does not list the id
    report: ReadReport  # of both tables' ids


def meeting(asked: RawTable, catalogue: RawTable, key: str, kind: str) -> Met:
    """Find the ids in column ``key`` of ``asked`` in that of ``catalogue``, as those of a log are found.

    Raises DataError for ids that are none or stand twice in the catalogue, and where too few are found.
    """
    import polars as pl

    values = asked.frame[key].alias("")
    bare = stripped(values) if values.dtype == pl.String else values.fill_nan(None) if values.dtype.is_float() else values
    at = bare.is_not_null().arg_true().to_numpy().astype(np.int64)
    if not len(at):
        raise DataError(f"{asked.where}, column '{key}': names no {kind}, so a table of {kind}s says nothing; leave it out")
    log = CheckedTable(
        replace(asked, frame=pl.DataFrame({key: values.gather(pl.Series(at))}), origin=at), asked.read.on_bad_rows
    )
    table = CheckedTable(catalogue, catalogue.read.on_bad_rows)
    log.ids(key)
    table.ids(key)
    _refuse_repeats(table, key)
    _one_type(key, [log, table])
    _meet(log, table, key)
    usable = log.frame.filter(~log.bad)
    if log.problems:
        log.note(f"column '{key}': the {kind}s of {int(log.bad.sum()):,} rows are left empty: {'; '.join(log.problems)}")
    known = table.finish()
    _count_strangers(log, usable, table, known, key, kind)
    listed = pl.DataFrame({"id": known[key].alias(""), "row": (~table.bad).arg_true()})
    found = pl.DataFrame({"id": usable[key].alias("")}).join(listed, on="id", how="left", maintain_order="left")
    back = np.full(len(values), -1)
    back[at[(~log.bad).to_numpy()]] = np.arange(len(usable))
    place = pl.Series(back).set(pl.Series(back < 0), None)
    notes = (*catalogue.report.notes, *log.notes, *table.notes)
    return Met(
        found["id"].gather(place),
        found["row"].gather(place),
        ReadReport(catalogue.report.rows_skipped + table.num_bad, notes),
    )


def _interactions(log: CheckedTable, schema: Schema) -> None:
    roles = {
        "user": schema.user,
        "item": schema.item,
        "timestamp": schema.timestamp,
        "order": schema.order,
        "rating": schema.rating,
        "label": schema.label,
        "weight": schema.weight,
        "part": schema.part,
    }
    taken: dict[str, str] = {}
    for role, column in roles.items():
        if column is None:
            continue
        log.require(column, f"the {role}")
        if column in taken:
            raise DataError(
                f"{log.raw.where}: column '{column}' cannot be both the {taken[column]} and the {role}; name two columns"
            )
        taken[column] = role
    log.ids(schema.user)
    log.ids(schema.item)
    if schema.timestamp is not None:
        log.put(schema.timestamp, seconds_of(log, schema.timestamp))
    if schema.order is not None:
        log.put(schema.order, log.whole(schema.order, "the order of a user's interactions"))
    if schema.rating is not None:
        log.put(schema.rating, log.numbers(schema.rating, "the rating"))
    if schema.label is not None:
        log.put(schema.label, _labels(log, schema.label))
    if schema.weight is not None:
        weights = log.numbers(schema.weight, "the sample weight")
        log.refuse(schema.weight, (weights < 0).fill_null(False), "is negative; a sample weight is 0 or more")
        log.put(schema.weight, weights)
    if schema.part is not None:
        log.put(schema.part, _parts(log, schema.part))
    _fields(log, schema.context_fields)


def _parts(log: CheckedTable, column: str) -> pl.Series:
    """A ready-made split: train, valid or test."""
    import polars as pl

    values = log.column(column)
    if wordless(values.dtype):
        raise DataError(
            f"{log.raw.where}, column '{column}': type {values.dtype} where a part is named: {', '.join(PART_NAMES)}"
        )
    parts = values.cast(pl.String).str.strip_chars(BLANKS).replace_strict(PART_NAMES, default=None, return_dtype=pl.String)
    log.refuse(column, parts.is_null(), f"is no part of a split; accepted: {', '.join(PART_NAMES)}")
    return parts


def _labels(log: CheckedTable, column: str) -> pl.Series:
    """Labels as 0 and 1, from 0 and 1, -1 and 1, or words that say yes and no."""
    import polars as pl

    values = log.column(column)
    if values.dtype in (pl.Categorical, pl.Enum):
        values = values.cast(pl.String)
    if values.dtype == pl.String:
        words = of_words(values)
        count = int((words != stripped(values)).fill_null(False).sum())
        if count:
            said = listing(values.filter((words != stripped(values)).fill_null(False)).unique().sort().to_list())
            log.note(f"column '{column}': {count:,} labels in words ({said}) read as 0 and 1")
        log.put(column, words)
    elif values.dtype.is_float():
        log.put(column, values.fill_nan(None))
    numbers = log.numbers(column, "the label")
    met = numbers.drop_nulls().unique().to_list()
    if -1 in met and 0 in met:
        row = (numbers == 0).fill_null(False).arg_max()
        assert row is not None
        raise log.fail(
            column,
            row,
            "can be read two ways beside -1 (the label): as a negative, or as one that says nothing; write 0 and 1, or name "
            "the column as the rating and set positive_above",
        )
    if -1 in met:
        log.note(f"column '{column}': {int((numbers == -1).sum()):,} labels of -1 read as 0, negative")
        numbers = numbers.replace(-1, 0)
    other = ((numbers != 0) & (numbers != 1)).fill_null(False)
    remedy = (
        "is no label: 0 and 1, -1 and 1, or words such as true and false are accepted; for graded feedback name the column as "
        "the rating and set positive_above"
    )
    log.refuse(column, other, remedy)
    return numbers.set(other, None).cast(pl.Int8)


def _fields(table: CheckedTable, fields: Iterable[Field]) -> None:
    import polars as pl

    for entry in fields:
        table.require(entry.name, "a field")
        kind = table.column(entry.name).dtype
        if entry.kind == "numeric":
            table.put(entry.name, table.numbers(entry.name, "a numeric field", may_be_empty=True))
        elif kind == pl.List and entry.kind == "single":
            raise DataError(f"{table.raw.where}, column '{entry.name}': lists of values need kind = 'multi', not 'single'")
        elif wordless(kind.inner if isinstance(kind, pl.List) else kind):
            raise DataError(
                f"{table.raw.where}, column '{entry.name}': values of type {kind} cannot be a field; make them text"
            )
        elif kind in (pl.Categorical, pl.Enum):
            table.put(entry.name, table.column(entry.name).cast(pl.String))


def _texts(table: CheckedTable, schema: Schema, clean: bool) -> None:
    """Columns that a person would read become text; lists are joined, unless the column is a field as well.

    What is no text in them is taken out with ``clean``, otherwise counted.
    """
    import polars as pl

    fields = {entry.name for entry in schema.item_fields}
    for name in schema.text:
        table.require(name, "text")
    if schema.category is not None:
        table.require(schema.category, "the category")
    for name in schema.text:
        values = table.column(name)
        if name in fields or name == schema.item or values.dtype == pl.String:
            continue
        if isinstance(values.dtype, pl.List) and not wordless(values.dtype.inner):
            table.put(name, values.cast(pl.List(pl.String)).list.join(", ", ignore_nulls=True))
        elif wordless(values.dtype):
            raise DataError(f"{table.raw.where}, column '{name}': values of type {values.dtype} cannot be read as text")
        else:
            table.put(name, values.cast(pl.String))
    several = {entry.name for entry in schema.item_fields if entry.kind == "multi"}
    for name in schema.text:
        values = table.column(name)
        if name == schema.item or values.dtype != pl.String:
            continue
        found = cleaned(values, lists=name not in several)
        said = [f"HTML in {found.html:,}"] if found.html else []
        said += [f"lists written as text in {found.lists:,}"] if found.lists else []
        if not said:
            continue
        if clean:
            table.put(name, found.texts)
        how = "taken out (clean = true)" if clean else "read as it is; clean = true ([items] in TOML) takes it out"
        table.note(f"column '{name}': {' and '.join(said)} of {len(values):,} texts, {how}")


def _plain_types(table: CheckedTable, schema: Schema, key: str) -> None:
    """Values as any file can hold them, so that a catalogue is the same whatever it came in: whole numbers in 64 bits (or
    as they are, where they do not fit), other numbers as Float64, words as text, true and false in small letters.
    """
    import polars as pl

    for name in table.frame.columns:
        values = table.column(name)
        if name == key:
            continue
        if values.dtype == pl.Object:
            if name == schema.category:
                raise DataError(f"{table.raw.where}, column '{name}': values of type {values.dtype} cannot be a category")
            table.frame = table.frame.drop(name)
            table.note(f"column '{name}': values of type {values.dtype}, which no file can hold, are left out")
        elif values.dtype in (pl.Categorical, pl.Enum, pl.Boolean, pl.Null):
            table.put(name, values.cast(pl.String))
        elif values.dtype.is_integer() and values.dtype != pl.Int64:
            whole = values.cast(pl.Int64, strict=False)
            table.put(name, whole if whole.null_count() == values.null_count() else values.cast(pl.UInt64, strict=False))
        elif values.dtype.is_decimal() or values.dtype == pl.Float32:
            table.put(name, values.cast(pl.Float64))
        elif not table.raw.typed and values.dtype == pl.String and values.unique().drop_nulls().is_in(_WORDS).all():
            table.put(name, values.str.to_lowercase())


def _refuse_orphans(schema: Schema, items: RawTable | None, users: RawTable | None) -> None:
    needed = {
        "items": (items, [entry.name for entry in schema.item_fields if entry.name != schema.item] + list(schema.text)),
        "users": (users, [entry.name for entry in schema.user_fields if entry.name != schema.user]),
    }
    for kind, (table, columns) in needed.items():
        if table is None and columns:
            raise DataError(
                f"the schema names columns of the {kind} ({', '.join(columns)}) but there is no {kind} table; bring one"
            )


def _refuse_repeats(table: CheckedTable, key: str) -> None:
    ids = table.column(key)
    repeated = ids.is_duplicated() & ids.is_not_null() & ~table.bad
    if not repeated.any():
        return
    first = repeated.arg_max()
    assert first is not None
    second = int(((ids == ids[first]) & repeated).arg_true()[1])
    raise DataError(
        f"{table.raw.where}, column '{key}': the id {shown(ids[first])} stands twice, at {last_place(table, first)} and "
        f"{last_place(table, second)} ({int(repeated.sum()):,} rows share an id); keep one row for each id"
    )


def _one_type(key: str, tables: list[CheckedTable]) -> None:
    """Ids of one kind get the same type in every table: Int64, else UInt64, else text."""
    import polars as pl

    columns = [table.column(key) for table in tables]
    target: Any = pl.String
    if all(column.dtype.is_integer() for column in columns):
        for candidate in (pl.UInt64, pl.Int64):
            if all(column.cast(candidate, strict=False).null_count() == column.null_count() for column in columns):
                target = candidate
    kinds = {str(column.dtype) for column in columns}
    if target == pl.String and len(kinds) > 1:
        tables[-1].note(f"column '{key}': ids are {' in one table and '.join(sorted(kinds))} in the other; compared as text")
    for table, column in zip(tables, columns, strict=True):
        if column.dtype != target:
            table.put(key, column.cast(target))


def _meet(log: CheckedTable, catalogue: CheckedTable, key: str) -> None:
    """Text ids that differ by the ".0" of a whole decimal number alone are one id, in the catalogue's spelling."""
    import polars as pl

    ids, known = log.column(key), catalogue.column(key)
    if ids.dtype != pl.String:
        return
    strange = ids.filter(~ids.is_in(known.implode())).unique(maintain_order=True)
    whole = r"^(-?(?:0|[1-9]\d*))\.0+$"
    if not (strange.str.contains(whole).any() or known.str.contains(whole).any()):
        return
    plain, own = (each.str.replace(whole, "$1") for each in (strange, known))
    by_plain = dict(pl.DataFrame([own.alias("0"), known.alias("1")]).filter(~own.is_duplicated()).rows())
    spelling = {raw: by_plain[each] for raw, each in zip(strange, plain, strict=True) if each in by_plain}
    if spelling:
        rows, [first, *_] = ids.is_in(list(spelling)), spelling
        log.note(
            f"column '{key}': in {int(rows.sum()):,} rows {len(spelling):,} ids differ from those of their table by a decimal "
            f"point alone (such as {first!r} and {spelling[first]!r}); taken as the same"
        )
        log.put(key, ids.replace(spelling))


def _count_strangers(
    log: CheckedTable, events: pl.DataFrame, table: CheckedTable, catalogue: pl.DataFrame, key: str, kind: str
) -> None:
    """Raises DataError, with the likely cause, where too few interactions find their id in the table."""
    met = events[key].alias("")
    strange = met.filter(~met.is_in(catalogue[key].alias("").implode()))
    if not len(strange):
        return
    share, least = 1 - len(strange) / len(met), log.raw.read.least_met
    if share < least:
        cause = cause_of_strangers(strange.unique(maintain_order=True), catalogue, key, kind)
        found = f"{len(met) - len(strange):,} of {len(met):,} interactions" if share else f"none of {len(met):,} interactions"
        raise DataError(
            f"{log.raw.where}: {found} ({share:.1%}) find their {kind} in {table.raw.where}, column '{key}': "
            f"{cause}; accepted: {least:.0%} or more. Bring ids that meet, leave the table of {kind}s out, or say what share "
            f"is enough: least_met = 0 {SAID_IN}"
        )
    log.note(
        f"{len(strange):,} interactions are with {strange.n_unique():,} values of '{key}' that its table "
        f"does not list (such as {shown(strange[0])}); kept, with empty fields"
    )


def _say_positives(log: CheckedTable, events: pl.DataFrame, schema: Schema) -> None:
    """Which rows count as positive, where that was decided here or leaves one class alone."""
    import polars as pl

    column = schema.label or schema.rating
    if column is None:
        return
    values = events[column].alias("").cast(pl.Float64)
    above = 0.5 if schema.label else schema.positive_above
    positive = int((values > above).sum())
    one_class = "no row is positive" if not positive else "every row is positive" if positive == len(values) else ""
    decided = schema.label is None and "positive_above" not in schema.model_fields_set
    if not (one_class or decided):
        return
    met = values.unique().sort().to_list()
    raw = log.raw.frame[column].alias("").unique().drop_nulls().to_list()
    written = sorted(map(str, raw))[:_SHOWN_VALUES] if schema.label else []
    shown = listing(met) if not written else ", ".join(written)
    rule = "1 is positive" if schema.label else f"positive is what lies above {above:g}" + (" (the default)" if decided else "")
    said = one_class or f"{positive:,} of {len(values):,} rows are positive ({positive / len(values):.1%})"
    remedy = "" if schema.label else "; positive_above says otherwise"
    if schema.label is None and set(met) <= {0, 1}:
        remedy = f'; label = "{column}" takes 1 as positive'
    what = "label" if schema.label else "rating"
    log.note(f"column '{column}', the {what}: {said}; values met: {shown}; {rule}{remedy}")


def _sources(tables: Iterable[CheckedTable]) -> Iterable[SourceFile]:
    seen = set()
    for table in tables:
        for source in table.raw.sources:
            if source not in seen or not source.sha256:
                seen.add(source)
                yield source
