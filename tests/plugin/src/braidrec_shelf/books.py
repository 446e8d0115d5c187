"""A data set by name: one CSV file of who read what, when, and whether they liked it."""

from __future__ import annotations

from pathlib import Path

from braidrec.data.intake.description import tables_from_frames
from braidrec.data.intake.sources.public import PublicDataset
from braidrec.data.schema import Schema
from braidrec.data.tables import Tables

SCHEMA = Schema(user="reader", item="book", timestamp="when", label="liked")


def read(folder: Path) -> Tables:
    return tables_from_frames(folder / "shelf.csv", schema=SCHEMA, name="shelf")


DATA_SET = PublicDataset(
    name="shelf",
    title="A shelf of books",
    files=("shelf.csv",),
    read=read,
    license="ours",
    homepage="https://example.org/shelf",
)
