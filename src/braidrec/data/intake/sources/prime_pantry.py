"""Amazon Prime Pantry as processed by PAD (SIGIR 2025): each user's positives in order, without times, and item titles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from braidrec.data.intake.readers import RawTable, ReadConfig, read_table
from braidrec.data.intake.sources.public import PublicDataset, expect_counts
from braidrec.data.intake.validate import validate
from braidrec.data.schema import Schema
from braidrec.data.settings import SplitConfig
from braidrec.data.tables import ReadReport
from braidrec.errors import DataError, suggest

if TYPE_CHECKING:
    import polars as pl

    from braidrec.data.tables import Tables

SCHEMA = Schema(user="user", item="asin", order="order", text=("title",), noun="product")
_HISTORY, _TITLES = "Prime_Pantry_cleaned_history.csv.gz", "metadata_Prime_Pantry.csv.gz"
_SHA256 = {
    _HISTORY: "eff1b4879b245cea21afea6a658c1ba8624fbe8745fadb09920fcaad66670ce1",
    _TITLES: "2d95e68c9aff3be1d6f54d301a2efdaafd9c138010714ac7d1a835be4ea4cad2",
}
_ROWS = {"users": 12_871, "interactions": 115_004, "items": 8_347}
_LIST = r"^\[\s*'[0-9A-Za-z]+'(?:\s*,\s*'[0-9A-Za-z]+')*\s*\]$"


def read(folder: Path) -> Tables:
    """Read the folder with the two files of the authors' repository."""
    histories = read_table(folder / _HISTORY, what="history", read=ReadConfig(separator=","))
    titles = read_table(folder / _TITLES, what="titles", read=ReadConfig(separator=","))
    events = _events(histories)
    counts = {"users": len(histories.frame), "interactions": len(events), "items": len(titles.frame)}
    expect_counts("prime-pantry", folder, counts, _ROWS)
    notes = [
        f"{table.source.name}: not the copy known here (sha256 {table.source.sha256[:12]}...); the counts are right"
        for table in (histories, titles)
        if table.source.sha256 != _SHA256[table.source.name]
    ]
    log = RawTable(events, histories.source, ReadReport(), histories.where)
    items = RawTable(titles.frame.select("asin", "title"), titles.source, titles.report, titles.where, titles.lines)
    return validate("prime-pantry", SCHEMA, log, items, notes=notes)


def _events(histories: RawTable) -> pl.DataFrame:
    """One row per interaction from lists written as ``['a', 'b']``: text is cut, never evaluated."""
    import polars as pl

    for name in ("user", "history"):
        if name not in histories.frame.columns:
            raise DataError(f"{histories.where}: no column '{name}'{suggest(name, histories.frame.columns)}")
    text = histories.frame["history"].cast(pl.String)
    odd = ~text.str.contains(_LIST).fill_null(False)
    if odd.any():
        row = odd.arg_max()
        assert row is not None
        raise DataError(
            f"{histories.place(row)}, column 'history': {str(text[row])[:60]!r} is no list such as ['B000S5VE2K', 'B00P6EQW6G']"
        )
    lists = text.str.extract_all("[0-9A-Za-z]+")
    return (
        histories.frame.lazy()
        .select("user", asin=lists, order=pl.int_ranges(0, lists.list.len()))
        .explode("asin", "order")
        .collect()
    )


DATASET = PublicDataset(
    name="prime-pantry",
    title="Amazon Prime Pantry (PAD)",
    files=(_HISTORY, _TITLES),
    read=read,
    license="Apache-2.0 for the files of the repository; the reviews (Ni, Li and McAuley 2019) are for research",
    homepage="https://github.com/Applied-Machine-Learning-Lab/PAD",
    sha256=_SHA256,
    notes="12,871 users, 8,347 items, 115,004 positives, 5 to 23 per user; each user's own order only, no clock",
    split=SplitConfig(kind="leave_last_two", min_history=1),
    negatives=1,
    sequences="all",
    duplicates="keep",
)
