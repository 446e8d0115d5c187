"""From the columns of a catalogue to one text per item."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from braidrec.errors import KnowledgeError, suggest
from braidrec.strict import Strict

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class ItemTexts:
    """One text per row of a table, in its order; None where a row had nothing to say."""

    ids: list[str]
    texts: list[str | None]
    partial: int  # rows whose text leaves out a field that is empty there
    empty: int  # rows without any field: texts[i] is None


class PromptTemplate(Strict):
    """ "Here is a <noun>, <field1> is <v1>, <field2> is <v2>, and <fieldn> is <vn>." (DisCo, section on the knowledge base).

    Two fields: "..., title is A, and genre is B."; one: "..., title is A.".  A noun that opens with a vowel gets "an".
    ``missing="fields"``: an empty cell leaves its field out; a row whose cells are all empty has no text.
    """

    noun: str = Field(default="item", min_length=1)
    fields: tuple[str, ...] = Field(min_length=1)
    style: Literal["sentence"] = "sentence"
    missing: Literal["fields"] = "fields"

    @cached_property
    def digest(self) -> str:
        """Hex sha256 of the template: part of the identity of every vector made with it."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()

    def sentence(self, values: Sequence[str | None]) -> str | None:
        """The text for one value per field, in the order of ``fields``; None when all of them are missing."""
        clauses = [f"{name} is {value}" for name, value in zip(self.fields, values, strict=True) if value]
        if not clauses:
            return None
        article = "an" if self.noun[0].lower() in "aeiou" else "a"
        last = [f"and {clauses[-1]}"] if len(clauses) > 1 else clauses
        return ", ".join([f"Here is {article} {self.noun}", *clauses[:-1], *last]) + "."

    def render(self, frame: pl.DataFrame, id_column: str) -> ItemTexts:
        """One text per row.  Lists in a cell are joined by ", ", runs of blanks become one.

        Raises KnowledgeError for a column that ``frame`` lacks and for a row without an id.
        """
        for column in (id_column, *self.fields):
            if column not in frame.columns:
                raise KnowledgeError(f"the table has no column '{column}'{suggest(column, frame.columns)}")
        ids = frame[id_column].to_list()
        if None in ids:
            raise KnowledgeError(f"column '{id_column}', row {ids.index(None)}: the id is empty; every row needs one")
        rows = [
            [as_words(value) for value in row] for row in zip(*(frame[name].to_list() for name in self.fields), strict=True)
        ]
        texts = [self.sentence(row) for row in rows]
        empty = texts.count(None)
        partial = sum(any(row) and not all(row) for row in rows)
        return ItemTexts([str(value) for value in ids], texts, partial, empty)


def as_words(value: Any) -> str | None:
    """A cell as words; None for null, NaN, blanks and lists of nothing else."""
    if isinstance(value, list):
        return ", ".join(part for part in map(as_words, value) if part) or None
    if value is None or value != value:
        return None
    return " ".join(str(value).split()) or None
