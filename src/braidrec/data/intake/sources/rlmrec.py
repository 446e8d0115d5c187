"""The csv layout of RLMRec's data sets: pairs with a ready-made split, neither time nor order; Amazon-book is one of them.

interactions.csv.gz    user, item, split (train, val or test)
items.csv.gz, users.csv.gz    the numbers of the pairs, each with the id that it had where it comes from
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from braidrec.data.intake.readers import RawTable, ReadConfig, read_table
from braidrec.data.intake.sources.public import PublicDataset, expect_counts
from braidrec.data.intake.validate import validate
from braidrec.data.schema import Schema
from braidrec.data.settings import SplitConfig
from braidrec.errors import DataError, suggest

if TYPE_CHECKING:
    from braidrec.data.tables import Tables

SCHEMA = Schema(user="user", item="item", part="split", noun="book")
_PAIRS, _ITEMS, _USERS = "interactions.csv.gz", "items.csv.gz", "users.csv.gz"
_PARTS = {"val": "valid"}  # the layout's word, and ours
_SHA256 = {
    _PAIRS: "d55d5c945500bc06548f94c8f07e49be10a293d26d3654ac57ca9ca175c99b9d",
    _ITEMS: "5ce12f0a9819ad9e7d79f4ce22e7393ded79910ebcfac0f44c576ee4c93248fb",
    _USERS: "ab541579e81b4b8a0c222e1a73410f945267c3d930ab4e3bceced739ec598e6c",
}
_ROWS = {"users": 11_000, "items": 9_332, "train": 120_464, "val": 40_290, "test": 40_106}


def read(folder: Path) -> Tables:
    """Read the folder with the three files of Amazon-book."""
    return read_layout(folder, "rlmrec-amazon-book", _ROWS)


def read_layout(folder: Path, name: str, expected: Mapping[str, int]) -> Tables:
    """Tables of a folder in this layout.  Raises DataError where a column is missing, or the counts are not ``expected``."""
    import polars as pl

    pairs, items, users = (
        read_table(folder / file, what=file, read=ReadConfig(separator=",")) for file in (_PAIRS, _ITEMS, _USERS)
    )
    for table, columns in ((pairs, ("user", "item", "split")), (items, ("item",)), (users, ("user",))):
        for column in columns:
            if column not in table.frame.columns:
                raise DataError(f"{table.where}: no column '{column}'{suggest(column, table.frame.columns)}")
    split = pairs.frame["split"].cast(pl.String)
    sizes = {part: int((split == part).sum()) for part in ("train", "val", "test")}
    expect_counts(name, folder, {"users": len(users.frame), "items": len(items.frame), **sizes}, expected)
    frame = pairs.frame.with_columns(split=split.replace(_PARTS))
    notes = [
        f"{table.source.name}: not the copy known here (sha256 {table.source.sha256[:12]}...); the counts are right"
        for table in (pairs, items, users)
        if table.source.sha256 != _SHA256[table.source.name]
    ]
    log = RawTable(frame, pairs.source, pairs.report, pairs.where, pairs.lines)
    return validate(name, SCHEMA, log, items, users, notes=notes)


DATASET = PublicDataset(
    name="rlmrec-amazon-book",
    title="Amazon-book as split by RLMRec",
    files=(_PAIRS, _ITEMS, _USERS),
    read=read,
    license="no licence file with the matrices; the id lists are Apache-2.0; source Amazon review data, for research",
    homepage="https://github.com/HKUDS/RLMRec",
    sha256=_SHA256,
    notes="11,000 users, 9,332 items, 120,464 + 40,290 + 40,106 pairs by a ready-made split; no time, no order, no text",
    split=SplitConfig(kind="given"),
    sequences="all",
    duplicates="keep",
)
