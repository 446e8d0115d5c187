"""MovieLens latest small (September 2018): 100,836 ratings in half stars, for quick runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from braidrec.data.intake.readers import RawTable, ReadConfig, read_bytes
from braidrec.data.intake.sources.movielens import HOMEPAGE, LICENSE, with_genre_and_year
from braidrec.data.intake.sources.public import PublicDataset, archive_members, expect_counts
from braidrec.data.intake.validate import validate
from braidrec.data.schema import Field, Schema

if TYPE_CHECKING:
    from braidrec.data.tables import Tables

SCHEMA = Schema(
    user="userId",
    item="movieId",
    timestamp="timestamp",
    rating="rating",
    positive_above=3.0,
    item_fields=(Field(name="genres", kind="multi", separator="|"),),
    text=("title", "genres"),
    category="genre",
    noun="movie",
)
_ROWS = {"ratings.csv": 100_836, "movies.csv": 9_742}


def read(path: Path) -> Tables:
    """Read ``ml-latest-small.zip``, or the folder it was unpacked into."""
    contents, source = archive_members(path, tuple(_ROWS))
    reading = ReadConfig(separator=",")
    tables = {name: read_bytes(content, str(path / name), source, reading) for name, content in contents.items()}
    expect_counts("ml-latest-small of September 2018", path, {name: len(table.frame) for name, table in tables.items()}, _ROWS)
    movies = tables["movies.csv"]
    movies = RawTable(with_genre_and_year(movies.frame), movies.source, movies.report, movies.where, movies.lines)
    return validate("ml-latest-small", SCHEMA, tables["ratings.csv"], movies)


DATASET = PublicDataset(
    name="ml-latest-small",
    title="MovieLens latest small",
    files=("ml-latest-small.zip",),
    members=tuple(_ROWS),
    read=read,
    license=LICENSE,
    homepage=HOMEPAGE,
    urls={"ml-latest-small.zip": "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip"},
    notes="610 users, 9,742 movies (9,724 rated), 100,836 ratings from 0.5 to 5; no user fields",
    sequences="all",  # as in the papers: every rating is an event
    duplicates="keep",
)
