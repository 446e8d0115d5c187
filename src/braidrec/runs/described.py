"""Somebody new, described by the fields that a run's data have of users, in the rows of its vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from braidrec.data.features import encode_fields, read_vocabulary
from braidrec.data.schema import Schema
from braidrec.data.vocabulary import Vocabulary, cells_of
from braidrec.errors import DataError, suggest
from braidrec.task import Described

if TYPE_CHECKING:
    import polars as pl


def fields_of(schema: Schema, vocabulary: Path) -> list[str]:
    """By what names somebody new can be described; of users that are ids alone by none."""
    vocabularies, scalings = read_vocabulary(vocabulary)
    own = [each.name for each in vocabularies if each.owner == "user" and each.name != schema.user]
    return [*own, *sorted(each.name for each in scalings if each.owner == "user")]


def describe(fields: Mapping[str, Any], schema: Schema, vocabulary: Path) -> tuple[Described, list[str]]:
    """``fields``, raw values by name, as a model takes them, and what training never met, in words.

    schema: of the run    vocabulary: its ``vocabulary.json``    A field that is left out counts as unknown.
    Raises DataError for a field that users do not have there, and for a value of the wrong kind.
    """
    vocabularies, scalings = read_vocabulary(vocabulary)
    ids = {each.name: each for each in vocabularies if each.owner == "user" and each.name != schema.user}
    numbers = {each.name for each in scalings if each.owner == "user"}
    known = fields_of(schema, vocabulary)
    if not isinstance(fields, Mapping):
        raise DataError(f"fields: {type(fields).__name__} where values by name are needed, such as fields={{'age': 30}}")
    for name in fields:
        if name not in known:
            none = "; of users these data have ids alone" if not known else suggest(str(name), known)
            raise DataError(f"fields: users have no '{name}' here{none}")
    import polars as pl

    columns = []
    for name, value in fields.items():
        number = name in numbers or ids[name].field.kind == "numeric"
        columns.append(_number(name, value) if number else _cell(ids[name], name, value))
    frame = pl.DataFrame(columns) if columns else pl.DataFrame({"": [None]})
    rows, scaled, bags = encode_fields("user", vocabularies, scalings, frame)
    return Described(torch.from_numpy(rows[0]), torch.from_numpy(scaled[0]), tuple(torch.from_numpy(bag[0]) for bag in bags)), [
        note for name in fields if name in ids and (note := _unmet(ids[name], frame[name]))
    ]


def _number(name: str, value: Any) -> pl.Series:
    import polars as pl

    if value is None or (isinstance(value, str) and not value.strip()):
        return pl.Series(name, [None], dtype=pl.Float64)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise DataError(f"fields: '{name}' = {value!r}: a number is needed") from None
    if not np.isfinite(number):
        raise DataError(f"fields: '{name}' = {value!r}: a finite number is needed")
    return pl.Series(name, [number])


def _cell(entry: Vocabulary, name: str, value: Any) -> pl.Series:
    """One value as the table would have held it; a number in whichever form training met it."""
    import polars as pl

    if isinstance(value, list | tuple | set | np.ndarray):
        if entry.field.kind != "multi":
            raise DataError(f"fields: '{name}' = {value!r}: a single value is needed")
        return pl.Series(name, [[str(each) for each in value]], dtype=pl.List(pl.String))
    if isinstance(value, np.generic):
        value = value.item()
    if value is not None and not isinstance(value, str | int | float):
        raise DataError(f"fields: '{name}' = {value!r}: text or a number is needed")
    text = None if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer():
        text = next((each for each in (str(int(value)), str(float(value))) if each in entry.values), text)
    return pl.Series(name, [text], dtype=pl.String)


def _unmet(entry: Vocabulary, cell: pl.Series) -> str | None:
    found = cells_of(entry.field, cell, entry.edges).to_list()[0]
    values = [found] if isinstance(found, str) else found
    odd = [value for value in values if value and value not in entry.values]
    if not odd:
        return None
    return f"field '{entry.name}': {', '.join(map(repr, odd))} was not met in training, so it counts as unknown"
