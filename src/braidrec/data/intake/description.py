"""A data set described in a TOML file: where its tables are, what their columns mean, how it is cut.

name = "shop"
noun = "product"                        # "Here is a product, ..."

[interactions]
file = "clicks.csv"                     # beside this file, or an absolute path
user = "customer"                       # roles left out are guessed from names and contents, and shown
timestamp = "when"

[items]
file = "catalogue.parquet"
text = ["title", "description"]

[[items.fields]]
name = "brand"

[split]
kind = "temporal"

Under [interactions] may stand, too: the files ``train``, ``valid`` and ``test`` of a ready-made split in place of ``file``;
``order = "row"``; ``item_separator`` and ``history`` for rows that hold several events; ``ignore``.  [read] says how values are
read where there are two readings (`ReadConfig`).
Above the first table may stand: vocabulary, duplicates, repeats, k_core, ties, sequences (see `PrepareSettings`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field as Setting
from pydantic import model_validator

from braidrec.arguments import instance_of
from braidrec.data.intake.delimited import OnBadRows
from braidrec.data.intake.guess import GIVEN, RoleGuess, column_of, guess_id, guess_schema
from braidrec.data.intake.layouts import ROW, in_file_order, log_of_samples, one_event_a_row
from braidrec.data.intake.readers import RawTable, ReadConfig, concatenated, read_table
from braidrec.data.intake.validate import validate
from braidrec.data.schema import Field, Schema
from braidrec.data.settings import PrepareSettings, SplitConfig
from braidrec.errors import ConfigError, DataError, suggest
from braidrec.strict import LONGEST, MOST, Strict, parse

if TYPE_CHECKING:
    from braidrec.data.tables import Tables


_PLACED = ("item", "timestamp", "order")
_OF_SAMPLES = ("user", "item", "label", "rating", "timestamp", "weight", "part")


class InteractionsConfig(Strict):
    """The log: its file and the roles of its columns; None is guessed.

    ``train``, ``valid``, ``test``: the files of a ready-made split, in place of ``file``.
    ``order = "row"``: rows stand in their order, where no column is called so.
    Where one row holds several events, the cells of ``item`` are lists, or are cut at ``item_separator``; columns with as
    many values go along.  ``history``: rows are ready-made samples, a history and the ``item`` that is asked for.
    """

    file: str | None = None
    train: str | None = None
    valid: str | None = None
    test: str | None = None
    columns: tuple[str, ...] | None = None  # names, for a text file without a header line
    user: str | None = None
    item: str | None = None
    timestamp: str | None = None
    order: str | None = None
    rating: str | None = None
    label: str | None = None
    weight: str | None = None
    part: str | None = None  # never guessed: the column of a ready-made split (split.kind = "given")
    positive_above: float = 3.0
    fields: tuple[Field, ...] = ()  # context: never guessed, as what is known only after the fact would leak
    item_separator: str | None = Setting(default=None, min_length=1)
    history: str | None = None
    ignore: tuple[str, ...] = ()  # columns that have no role, whatever they are called


class ItemsConfig(Strict):
    """The catalogue; None is guessed.

    ``clean``: HTML in texts is taken out, and lists that were written as text become the words in them; counted.
    """

    file: str
    columns: tuple[str, ...] | None = None
    id: str | None = None
    text: tuple[str, ...] | None = None
    category: str | None = None
    fields: tuple[Field, ...] | None = None
    clean: bool = False


class UsersConfig(Strict):
    """What is known of users; None is guessed."""

    file: str
    columns: tuple[str, ...] | None = None
    id: str | None = None
    fields: tuple[Field, ...] | None = None


class NegativesConfig(Strict):
    """Negatives drawn for logs that hold positives only; where events have weights, a positive's weighs its negatives, too."""

    per_positive: int | None = Setting(default=None, ge=1, le=LONGEST)


class DatasetDescription(Strict):
    """Everything that makes files a data set."""

    name: str = Setting(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    noun: str = "item"
    interactions: InteractionsConfig
    items: ItemsConfig | None = None
    users: UsersConfig | None = None
    read: ReadConfig = ReadConfig()
    split: SplitConfig = SplitConfig()
    negatives: NegativesConfig = NegativesConfig()
    vocabulary: Literal["train", "all"] = "train"
    duplicates: Literal["merge", "keep", "error"] = "merge"
    repeats: Literal["keep", "first", "last"] = "keep"
    k_core: int | None = Setting(default=None, ge=2, le=MOST)
    ties: Literal["order", "exclude"] = "order"
    sequences: Literal["positives", "all"] = "positives"

    @model_validator(mode="after")
    def _files(self) -> DatasetDescription:
        """Before any file is read."""
        log = self.interactions
        parts = {name: getattr(log, name) for name in ("train", "valid", "test")}
        named = [name for name, file in parts.items() if file is not None]
        if log.file is None and not named:
            raise ConfigError("required key 'interactions.file' is missing (or train, valid and test: a ready-made split)")
        if log.file is not None and named:
            raise ConfigError(f"interactions.file and interactions.{named[0]}: one file, or those of a split, not both")
        if named and len(named) < 3:
            missing = ", ".join(f"interactions.{name}" for name in parts if name not in named)
            raise ConfigError(f"a ready-made split needs the files train, valid and test; {missing} is missing")
        if named and log.part is not None:
            raise ConfigError(f"interactions.part = '{log.part}': the files train, valid and test say the parts already")
        if log.history is not None and not named and log.part is None:
            raise ConfigError(
                "interactions.history: ready-made samples need their parts: the column that says train, valid or test "
                '(part = "..."), or the files train, valid and test in place of file'
            )
        if log.history is not None and log.item is None:
            raise ConfigError('interactions.history: name the item that each sample asks for, too: item = "..."')
        return self

    @model_validator(mode="after")
    def _shares(self) -> DatasetDescription:
        """Before any file is read."""
        if self.split.fault_of_ratios is not None:
            raise ConfigError(self.split.fault_of_ratios)
        return self

    @property
    def settings(self) -> PrepareSettings:
        """What `Dataset.prepare` takes beside the tables."""
        shared = PrepareSettings.model_fields.keys() & type(self).model_fields.keys() - {"split", "negatives"}
        chosen = {name: getattr(self, name) for name in shared}
        return PrepareSettings(split=self.split, negatives=self.negatives.per_positive, **chosen)

    def cut(self, tables: Tables) -> tuple[Tables, PrepareSettings]:
        """What to prepare, and how: by ``[split]`` where it is there, else as the columns ask for, which a note says."""
        return (tables, self.settings) if "split" in self.model_fields_set else with_usual_split(tables, self.settings)


def with_usual_split(tables: Tables, settings: PrepareSettings | None = None) -> tuple[Tables, PrepareSettings]:
    """The split for tables of which nobody said one: ready-made parts, or each user's own order; else that of ``settings``."""
    settings, schema = settings or PrepareSettings(), tables.schema
    if schema.part is not None:
        kind, why = "given", f"column '{schema.part}' names the parts"
    elif schema.timestamp is None and schema.order is not None:
        kind, why = "leave_last_two", "the log has each user's own order and no clock"
    else:
        return tables, settings
    note = f"split.kind = '{kind}': {why}; another one is used where it is said"
    report = replace(tables.report, notes=(*tables.report.notes, note))
    split = SplitConfig.model_validate({"kind": kind})
    return replace(tables, report=report), settings.model_copy(update={"split": split})


def load_description(path: Path) -> DatasetDescription:
    """Parse a TOML description.  Raises ConfigError naming the file and the line or key."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: the description does not exist (looked in {path.absolute().parent})") from None
    except OSError as cause:
        raise ConfigError(f"{path}: cannot be read ({cause.strerror or cause}); a TOML file is needed") from None
    except (ValueError, RecursionError) as cause:
        raise ConfigError(f"{path}: not valid TOML ({cause})") from None
    return parse(DatasetDescription, values, str(path))


def read_tables(description: DatasetDescription, base_folder: Path) -> Tables:
    """Read and check the files that ``description`` names; relative paths start at ``base_folder``.

    Raises DataError naming file, line, column, value and remedy.
    """

    def read(kind: str, part: ItemsConfig | UsersConfig | None) -> RawTable | None:
        return None if part is None else read_file(kind, part.file, part.columns)

    def read_file(kind: str, file: str, columns: tuple[str, ...] | None) -> RawTable:
        return read_table(base_folder / file, what=kind, read=description.read, columns=columns)

    log, items, users = description.interactions, description.items, description.users
    given: dict[str, Any] = {"noun": description.noun, "context_fields": log.fields}
    if "positive_above" in log.model_fields_set:
        given["positive_above"] = log.positive_above
    for role in ("user", "item", "timestamp", "order", "rating", "label", "weight", "part"):
        if getattr(log, role) is not None:
            given[role] = getattr(log, role)
    if items is not None:
        given |= {key: getattr(items, key) for key in ("text", "category") if getattr(items, key) is not None}
        given |= {} if items.fields is None else {"item_fields": items.fields}
    if users is not None and users.fields is not None:
        given["user_fields"] = users.fields
    if log.file is not None:
        interactions = read_file("interactions", log.file, log.columns)
    else:
        parts = {name: read_file("interactions", getattr(log, name), log.columns) for name in ("train", "valid", "test")}
        interactions, given["part"] = _parts_of_files(parts)
    return _tables(
        description.name,
        interactions,
        read("items", items),
        read("users", users),
        given=given,
        ids={"items": items.id if items else None, "users": users.id if users else None},
        on_bad_rows=description.read.on_bad_rows,
        ignore=log.ignore,
        item_separator=log.item_separator,
        history=log.history,
        clean=items is not None and items.clean,
    )


def tables_from_frames(
    interactions: Any,
    items: Any = None,
    users: Any = None,
    *,
    schema: Schema | None = None,
    name: str = "frames",
    noun: str = "item",
    on_bad_rows: OnBadRows = "error",
    read: ReadConfig | None = None,
    clean: bool = False,
) -> Tables:
    """Check Polars, Arrow or pandas frames, or paths.  Roles are guessed when no ``schema`` is given, and noted in the report.

    ``read``: what ``[read]`` says in a description; ``clean``: what ``[items] clean`` says.

    Raises DataError naming table, row, column, value and remedy.
    """
    if read is not None:
        instance_of(read, ReadConfig, "read", "write ReadConfig(...)")
    reading = read or ReadConfig(on_bad_rows=on_bad_rows)
    log = read_table(interactions, what="interactions", read=reading)
    catalogue = None if items is None else read_table(items, what="items", read=reading)
    people = None if users is None else read_table(users, what="users", read=reading)
    if schema is not None:
        log, place = _in_order(log, schema.item, None, schema.order, schema.user)
        if place is not None and schema.clock is None:
            schema = schema.model_copy(update={"order": place})
        return validate(name, schema, log, catalogue, people, on_bad_rows=reading.on_bad_rows, clean=clean)
    given = {"noun": noun}
    return _tables(name, log, catalogue, people, given=given, ids={}, on_bad_rows=reading.on_bad_rows, clean=clean)


def _tables(
    name: str,
    interactions: RawTable,
    items: RawTable | None,
    users: RawTable | None,
    *,
    given: dict[str, Any],
    ids: dict[str, str | None],
    on_bad_rows: OnBadRows,
    ignore: tuple[str, ...] = (),
    item_separator: str | None = None,
    history: str | None = None,
    clean: bool = False,
) -> Tables:
    """Bring one event into each row, guess what is not ``given``, call the ids of all tables alike, check."""
    for kind, catalogue in (("items", items), ("users", users)):
        key = ids.get(kind)
        if catalogue is not None and key is not None and key not in catalogue.frame.columns:
            columns = catalogue.frame.columns
            raise DataError(f"{catalogue.where}: no column '{key}' (named as id of the {kind}){suggest(key, columns)}")
    if history is not None:
        roles: dict[str, str] = {role: given[role] for role in _OF_SAMPLES if role in given}
        for role in ("user", "label", "weight", "rating"):
            named = column_of(role, interactions.frame, (*ignore, *roles.values()))
            if role == "rating" and "label" in roles:
                ignore = (*ignore, named) if named is not None and role not in roles else ignore
            else:
                roles |= {role: named} if role not in roles and named is not None else {}
        if users is not None and "user" in roles:
            users = _with_ids(users, ids.get("users") or guess_id("users", users.frame, roles["user"]), roles["user"])
        made = log_of_samples(
            interactions,
            users,
            history=history,
            separator=item_separator,
            roles=roles,
            user_fields=given.get("user_fields"),
        )
        interactions, users, given, ids = made.log, made.users, {**given, **made.roles}, {**ids, "users": None}
    else:
        item, time, order = (given.get(role) or column_of(role, interactions.frame, ignore) for role in _PLACED)
        order = order if time is None or "order" in given else None
        user = given.get("user") or column_of("user", interactions.frame, ignore)
        interactions, place = _in_order(interactions, item, item_separator, order, user)
        if place is not None:
            given = {**given, "item": item} | ({"order": place} if time is None and order is None else {})
    catalogues = {kind: table for kind, table in (("items", items), ("users", users)) if table is not None}
    asked = [(role, given[role]) for role in ("user", "item") if role in given] + [("one to ignore", key) for key in ignore]
    for role, key in asked:
        if key not in interactions.frame.columns:
            columns = interactions.frame.columns
            said = role if role == "one to ignore" else f"the {role}"
            raise DataError(f"{interactions.where}: no column '{key}' (named as {said}){suggest(key, columns)}")

    def guess() -> tuple[Schema, list[RoleGuess]]:
        frames = [catalogues[kind].frame if kind in catalogues else None for kind in ("items", "users")]
        return guess_schema(interactions.frame, *frames, given=given, ids=ids, ignore=ignore)

    schema, guesses = guess()
    keys = {"items": schema.item, "users": schema.user}
    own = {kind: ids.get(kind) or guess_id(kind, table.frame, keys[kind]) for kind, table in catalogues.items()}
    aside = [kind for kind, table in catalogues.items() if keys[kind] != own[kind] and keys[kind] in table.frame.columns]
    for kind in aside:
        catalogues[kind] = _without(catalogues[kind], keys[kind], own[kind])
    if aside:
        schema, guesses = guess()
    for kind, table in catalogues.items():
        catalogues[kind] = replace(table, frame=table.frame.rename({own[kind]: keys[kind]}))
    notes = [f"{guess.column}: {guess.role} ({guess.why})" for guess in guesses if guess.why != GIVEN]
    if schema.signal is None:
        notes.append("interactions: neither label nor rating, so every row counts as positive")
    tables = validate(
        name,
        schema,
        interactions,
        catalogues.get("items"),
        catalogues.get("users"),
        on_bad_rows=on_bad_rows,
        notes=notes,
        clean=clean,
    )
    return replace(tables, ids={kind: key for kind, key in own.items() if key != keys[kind]})


def _in_order(
    log: RawTable, item: str | None, separator: str | None, order: str | None, user: str | None
) -> tuple[RawTable, str | None]:
    """With one event a row, and the place of rows in a column where that is the order; what `one_event_a_row` returns."""
    by_row = order == ROW and ROW not in log.frame.columns
    place = None
    if item in log.frame.columns:
        log, place = one_event_a_row(log, str(item), separator, None if by_row else order, user)
    return (in_file_order(log) if by_row else log), place


def _parts_of_files(tables: Mapping[str, RawTable]) -> tuple[RawTable, str]:
    """The files of a ready-made split behind one another, and the name of the column with their parts."""
    import polars as pl

    columns = {name for table in tables.values() for name in table.frame.columns}
    part = next(name for name in ("part", "part_", "part__", "part___") if name not in columns)
    marked = [
        replace(table, frame=table.frame.with_columns(pl.Series(part, [name]).new_from_index(0, len(table.frame))))
        for name, table in tables.items()
    ]
    where = " + ".join(table.where for table in tables.values())
    return concatenated(marked, where, marked[0].read), part


def _with_ids(table: RawTable, key: str, name: str) -> RawTable:
    """With the ids in ``key`` called ``name``, and no other column called so."""
    import polars as pl

    table = _without(table, name, key) if key != name and name in table.frame.columns else table
    columns = [values.alias(name) if values.name == key else values for values in table.frame.get_columns()]
    return replace(table, frame=pl.DataFrame(columns))


def _without(table: RawTable, column: str, key: str) -> RawTable:
    """Without a column that is called as the interactions call their ids, and is not the id."""
    import polars as pl

    note = f"{table.where}: column '{column}' is not used: the id is '{key}', which the interactions call '{column}'"
    frame = pl.DataFrame([values for values in table.frame.get_columns() if values.name != column])
    return replace(table, frame=frame, report=replace(table.report, notes=(*table.report.notes, note)))
