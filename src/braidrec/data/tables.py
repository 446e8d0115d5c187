"""The three tables of a data set as read, before anything is numbered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from braidrec.data.schema import Schema

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class SourceFile:
    """Where a table came from; kept in the manifest of everything derived from it."""

    name: str  # file name, or "<frame>" for data handed over in memory
    sha256: str  # of the file's bytes; "" for frames


@dataclass(frozen=True)
class ReadReport:
    """What reading had to decide; shown to the user and kept in the manifest."""

    rows_skipped: int = 0  # on_bad_rows="skip"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tables:
    """Interactions (any row order), items and users, with the role of each column.

    Id columns keep their type (integers stay 64-bit integers, text stays text), so every id round-trips exactly.
    ``items`` and ``users`` have one row per id; they may be None, then only ids are known.
    ids: "items" or "users" -> what that table calls its ids, where the interactions, and now all three, call them otherwise
    """

    name: str
    schema: Schema
    interactions: pl.DataFrame
    items: pl.DataFrame | None = None
    users: pl.DataFrame | None = None
    sources: tuple[SourceFile, ...] = ()
    report: ReadReport = field(default_factory=ReadReport)
    moment: str | None = None  # the column of the interactions that orders events within a second
    ids: Mapping[str, str] = field(default_factory=dict)
