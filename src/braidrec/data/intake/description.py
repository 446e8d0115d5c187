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
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field as Setting
from pydantic import model_validator

from braidrec.data.intake.delimited import OnBadRows
from braidrec.data.intake.guess import GIVEN, guess_id, guess_schema
from braidrec.data.intake.readers import RawTable, ReadConfig, read_table
from braidrec.data.intake.validate import validate
from braidrec.data.schema import Field, Schema
from braidrec.data.settings import PrepareSettings, SplitConfig
from braidrec.errors import ConfigError, DataError, suggest
from braidrec.strict import Strict, parse

if TYPE_CHECKING:
    from braidrec.data.tables import Tables


class InteractionsConfig(Strict):
    """The log: its file and the roles of its columns; None is guessed."""

    file: str
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


class ItemsConfig(Strict):
    """The catalogue; None is guessed."""

    file: str
    columns: tuple[str, ...] | None = None
    id: str | None = None
    text: tuple[str, ...] | None = None
    category: str | None = None
    fields: tuple[Field, ...] | None = None


class UsersConfig(Strict):
    """What is known of users; None is guessed."""

    file: str
    columns: tuple[str, ...] | None = None
    id: str | None = None
    fields: tuple[Field, ...] | None = None


class NegativesConfig(Strict):
    """Negatives drawn for logs that hold positives only; where events have weights, a positive's weighs its negatives, too."""

    per_positive: int | None = Setting(default=None, ge=1)


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

    @model_validator(mode="after")
    def _shares(self) -> DatasetDescription:
        """Before any file is read."""
        if self.split.fault_of_ratios is not None:
            raise ConfigError(self.split.fault_of_ratios)
        return self

    @property
    def settings(self) -> PrepareSettings:
        """What `Dataset.prepare` takes beside the tables."""
        return PrepareSettings(split=self.split, vocabulary=self.vocabulary, negatives=self.negatives.per_positive)


def load_description(path: Path) -> DatasetDescription:
    """Parse a TOML description.  Raises ConfigError naming the file and the line or key."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: the description does not exist (looked in {path.absolute().parent})") from None
    except OSError as cause:
        raise ConfigError(f"{path}: cannot be read ({cause.strerror or cause}); a TOML file is needed") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise ConfigError(f"{path}: not valid TOML ({cause})") from None
    return parse(DatasetDescription, values, str(path))


def read_tables(description: DatasetDescription, base_folder: Path) -> Tables:
    """Read and check the files that ``description`` names; relative paths start at ``base_folder``.

    Raises DataError naming file, line, column, value and remedy.
    """

    def read(kind: str, part: InteractionsConfig | ItemsConfig | UsersConfig | None) -> RawTable | None:
        if part is None:
            return None
        return read_table(base_folder / part.file, what=kind, read=description.read, columns=part.columns)

    log, items, users = description.interactions, description.items, description.users
    given: dict[str, Any] = {"noun": description.noun, "positive_above": log.positive_above, "context_fields": log.fields}
    for role in ("user", "item", "timestamp", "order", "rating", "label", "weight", "part"):
        if getattr(log, role) is not None:
            given[role] = getattr(log, role)
    if items is not None:
        given |= {key: getattr(items, key) for key in ("text", "category") if getattr(items, key) is not None}
        given |= {} if items.fields is None else {"item_fields": items.fields}
    if users is not None and users.fields is not None:
        given["user_fields"] = users.fields
    interactions = read("interactions", log)
    assert interactions is not None
    return _tables(
        description.name,
        interactions,
        read("items", items),
        read("users", users),
        given=given,
        ids={"items": items.id if items else None, "users": users.id if users else None},
        on_bad_rows=description.read.on_bad_rows,
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
) -> Tables:
    """Check Polars, Arrow or pandas frames, or paths.  Roles are guessed when no ``schema`` is given, and noted in the report.

    Raises DataError naming table, row, column, value and remedy.
    """
    reading = ReadConfig(on_bad_rows=on_bad_rows)
    log = read_table(interactions, what="interactions", read=reading)
    catalogue = None if items is None else read_table(items, what="items", read=reading)
    people = None if users is None else read_table(users, what="users", read=reading)
    if schema is not None:
        return validate(name, schema, log, catalogue, people, on_bad_rows=on_bad_rows)
    return _tables(name, log, catalogue, people, given={"noun": noun}, ids={}, on_bad_rows=on_bad_rows)


def _tables(
    name: str,
    interactions: RawTable,
    items: RawTable | None,
    users: RawTable | None,
    *,
    given: dict[str, Any],
    ids: dict[str, str | None],
    on_bad_rows: OnBadRows,
) -> Tables:
    """Guess what is not ``given``, call the ids of all tables alike, check."""
    catalogues = {kind: table for kind, table in (("items", items), ("users", users)) if table is not None}
    for kind, table in catalogues.items():
        key = ids.get(kind)
        if key is not None and key not in table.frame.columns:
            raise DataError(f"{table.where}: no column '{key}' (named as id of the {kind}){suggest(key, table.frame.columns)}")
    for role, key in ((role, given[role]) for role in ("user", "item") if role in given):
        if key not in interactions.frame.columns:
            columns = interactions.frame.columns
            raise DataError(f"{interactions.where}: no column '{key}' (named as the {role}){suggest(key, columns)}")
    frames = [None if table is None else table.frame for table in (items, users)]
    schema, guesses = guess_schema(interactions.frame, *frames, given=given, ids=ids)
    own: dict[str, str] = {}
    for kind, key in (("items", schema.item), ("users", schema.user)):
        if kind in catalogues:
            table = catalogues[kind]
            own[kind] = ids.get(kind) or guess_id(kind, table.frame, key)
            catalogues[kind] = _renamed(table, own[kind], key)
    notes = [f"{guess.column}: {guess.role} ({guess.why})" for guess in guesses if guess.why != GIVEN]
    tables = validate(
        name, schema, interactions, catalogues.get("items"), catalogues.get("users"), on_bad_rows=on_bad_rows, notes=notes
    )
    return replace(tables, ids={kind: key for kind, key in own.items() if key not in (schema.item, schema.user)})


def _renamed(table: RawTable, key: str, name: str) -> RawTable:
    if key == name:
        return table
    if name in table.frame.columns:
        raise DataError(
            f"{table.where}: the id is '{key}', but a column '{name}' stands there too, as the interactions call their ids; "
            "rename one of them"
        )
    return replace(table, frame=table.frame.rename({key: name}))
