"""Items that arrive after training: their text to vectors, their values to rows."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from braidrec.arguments import BLANKS, raw_ids
from braidrec.data.features import encode_fields, read_vocabulary
from braidrec.data.intake.guess import guess_id
from braidrec.data.schema import Schema
from braidrec.errors import DataError
from braidrec.runs.added import AddedItem, Additions
from braidrec.runs.catalogue import Catalogue
from braidrec.runs.knowledge import KnowledgeBases
from braidrec.task import Added

if TYPE_CHECKING:
    import polars as pl


def encode_additions(
    items: Mapping[str, str] | pl.DataFrame,
    schema: Schema,
    catalogue: Catalogue,
    bases: KnowledgeBases,
    vocabulary: Path,
    own_id: str | None = None,
) -> Additions:
    """New items, as a run takes them.

    schema: what the columns of the catalogue mean    vocabulary: the run's ``vocabulary.json``
    own_id: what the catalogue's table calls its ids; None where nobody knows
    Raises DataError for ids that are empty, the catalogue's own, or come twice, and for items without text.
    """
    import polars as pl

    texts: Sequence[str | None]
    if isinstance(items, Mapping):
        frame = pl.DataFrame({schema.item: raw_ids(list(items), "items")}, schema={schema.item: pl.String})
        texts = titles = [_text(raw, text) for raw, text in items.items()]
        rendered: Sequence[Sequence[str | None]] = [texts] * len(bases.folders)
    else:
        items = _named(items, schema.item, own_id)
        items = items.with_columns(ids_as_text(items[schema.item], "the new items").alias(schema.item))
        frame, rendered = items, bases.render(schema, items)
        texts = rendered[0]
        titles = (
            [str(value or "") for value in items[schema.text[0]].to_list()]
            if schema.text[:1] and schema.text[0] in items.columns
            else [str(text or "") for text in texts]
        )
    ids = frame[schema.item].to_list()
    _check_ids(ids, catalogue)
    mute = [raw for raw, *own in zip(ids, *rendered, strict=True) if not all(own)]
    if mute:
        raise DataError(
            f"item '{mute[0]}' has no text; a new item is known by its text alone; {len(mute):,} of {len(ids):,} are such: "
            "give them a text or leave them out"
        )
    vectors = bases.encode([[str(text) for text in own] for own in rendered])
    for raw, vector in zip(ids, vectors, strict=True):
        if not np.isfinite(vector).all():
            raise DataError(f"item '{raw}': its text vector holds NaN or infinity; look at the text encoder")
    fields, numbers, bags = encode_fields("item", *read_vocabulary(vocabulary), frame)
    added = Added(
        torch.from_numpy(vectors),
        torch.from_numpy(fields),
        torch.from_numpy(numbers),
        tuple(torch.from_numpy(bag) for bag in bags),
    )
    contents = _contents(rendered, added)
    return Additions(tuple(AddedItem(*each) for each in zip(ids, titles, contents, strict=True)), added)


def read_late(
    items: pl.DataFrame, schema: Schema, catalogue: Catalogue, bases: KnowledgeBases, vocabulary: Path
) -> tuple[Additions | None, str]:
    """Those of ``items`` (of a log that has grown) that are known by their text, without asking: and why others are not."""
    if bases.priced:
        return None, "to read their text costs money: add-items asks for it"
    rendered = bases.render(schema, items)
    told = [at for at, texts in enumerate(zip(*rendered, strict=True)) if all(texts)]
    left = "they have no text" if len(told) < len(items) else ""
    if not told:
        return None, left
    return encode_additions(items[told], schema, catalogue, bases, vocabulary), left


def _named(items: pl.DataFrame, name: str, own_id: str | None) -> pl.DataFrame:
    """``items`` with their ids in the column ``name``.  Raises DataError where they have no such column, by either name."""
    if name in items.columns:
        return items
    own = own_id
    if own is None:  # prepared by an earlier version, which kept no name: it had told the column in this way
        with contextlib.suppress(DataError):
            own = guess_id("items", items, None)
    if own is None or own not in items.columns:
        also = f", nor '{own_id}', as the catalogue calls it" if own_id not in (None, name) else ""
        raise DataError(f"the new items have no id column '{name}'{also} (columns: {', '.join(items.columns)})")
    return items.rename({own: name})


def ids_as_text(column: pl.Series, where: str) -> pl.Series:
    """Ids (n,) without the column's name; whole numbers with a decimal point are the whole numbers.

    Raises DataError, opened by ``where``, for a column that names nobody.
    """
    import polars as pl

    column = column.alias("")  # Polars reads some names as patterns
    if column.dtype.is_float():
        column = column.fill_nan(None)
        if bool((column.is_null() | ((column == column.floor()) & (column.abs() < 2.0**63))).all()):
            column = column.cast(pl.Int64)
    if not (column.dtype.is_integer() or column.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null)):
        raise DataError(f"{where}: ids of type {column.dtype}; whole numbers or text are accepted")
    return column.cast(pl.String).str.strip_chars(BLANKS)


def _text(raw: object, text: object) -> str:
    """What is None is no text, which is refused in its own words."""
    if text is not None and not isinstance(text, str):
        raise DataError(f"item '{raw}': its text is {text!r}; a new item is known by its text, so a string is needed")
    return (text or "").strip()


def _contents(rendered: Sequence[Sequence[str | None]], added: Added) -> list[str]:
    """Digest of each item's texts and values; of its vectors none, since an encoder elsewhere may round them otherwise."""
    bags = [[sorted(row[row != 0].tolist()) for row in bag] for bag in added.bags]
    parts = zip(*rendered, added.fields.tolist(), added.numbers.tolist(), *bags, strict=True)
    return [hashlib.sha256(json.dumps(part).encode()).hexdigest()[:16] for part in parts]


def _check_ids(ids: Sequence[str], catalogue: Catalogue) -> None:
    seen: set[str] = set()
    for at, raw in enumerate(ids):
        if not raw:
            raise DataError(f"the new items, row {at + 1}: the id is empty; every item needs one")
        if catalogue.has(raw) or raw in seen:
            raise DataError(f"item '{raw}' is already known; an item is added once, under an id of its own")
        seen.add(raw)
