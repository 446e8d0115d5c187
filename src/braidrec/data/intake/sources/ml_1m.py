"""MovieLens 1M: one million ratings of 1 to 5 stars, with gender, age, occupation and zip code of each user.

Fields as in DisCo (KDD 2024): eight, the genre being the first one listed, the title the raw string with its year.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from braidrec.data.intake.readers import RawTable, ReadConfig, read_bytes
from braidrec.data.intake.sources.movielens import HOMEPAGE, LICENSE, with_genre_and_year
from braidrec.data.intake.sources.public import PublicDataset, archive_members, expect_counts
from braidrec.data.intake.validate import validate
from braidrec.data.schema import Field, Schema
from braidrec.errors import DataError

if TYPE_CHECKING:
    from braidrec.data.tables import SourceFile, Tables

SCHEMA = Schema(
    user="user_id",
    item="movie_id",
    timestamp="timestamp",
    rating="rating",
    positive_above=3.0,
    user_fields=(Field(name="gender"), Field(name="age"), Field(name="occupation"), Field(name="zip")),
    item_fields=(Field(name="title"), Field(name="genre")),
    text=("title", "genres"),
    category="genre",
    noun="movie",
)
_COLUMNS = {
    "ratings.dat": ("user_id", "movie_id", "rating", "timestamp"),
    "movies.dat": ("movie_id", "title", "genres"),
    "users.dat": ("user_id", "gender", "age", "occupation", "zip"),
}
_ROWS = {"ratings.dat": 1_000_209, "movies.dat": 3_883, "users.dat": 6_040}
# A copy in circulation that was put together from parts, because the official file could not be had whole.
_INTERPOLATED = "f0db7b25b47f4178fc71071191cf1b59bb8015587031914dc2200be0abc261e3"


def read(path: Path) -> Tables:
    """Read ``ml-1m.zip``, or the folder it was unpacked into.  Raises DataError when rows are missing or damaged."""
    contents, source = archive_members(path, tuple(_COLUMNS))
    tables = {name: _table(content, path / name, source, name) for name, content in contents.items()}
    expect_counts("ml-1m", path, {name: len(table.frame) for name, table in tables.items()}, _ROWS)
    movies = tables["movies.dat"]
    movies = RawTable(with_genre_and_year(movies.frame), movies.source, movies.report, movies.where, movies.lines)
    notes = []
    if hashlib.sha256(contents["ratings.dat"]).hexdigest() == _INTERPOLATED:
        notes.append(
            "ml-1m: not the official ratings.dat: the timestamps of 177,370 rows (17.7 %) are interpolated. "
            "Each user's own order is right, and so is every cut of the whole log by time at 80 % or later; "
            "say so beside exact paper numbers"
        )
    return validate("ml-1m", SCHEMA, tables["ratings.dat"], movies, tables["users.dat"], notes=notes)


def _table(content: bytes, where: Path, source: SourceFile, name: str) -> RawTable:
    if b"\t" in content:
        raise DataError(f"{where}: holds a tab, which the published file does not; fetch it again")
    encoded = content if content.isascii() else content.decode("latin-1").encode()
    # One-character separators are what fast parsers know; no tab stands in the file.
    return read_bytes(
        encoded.replace(b"::", b"\t"), str(where), source, ReadConfig(separator="\t", quoting=False), _COLUMNS[name]
    )


DATASET = PublicDataset(
    name="ml-1m",
    title="MovieLens 1M",
    files=("ml-1m.zip",),
    members=tuple(_COLUMNS),
    read=read,
    license=LICENSE,
    homepage=HOMEPAGE,
    urls={"ml-1m.zip": "https://files.grouplens.org/datasets/movielens/ml-1m.zip"},
    notes="6,040 users, 3,883 movies (3,706 rated), 1,000,209 ratings; temporal 8:1:1 after each user's first 5 (DisCo)",
    sequences="all",  # as in the papers: every rating is an event
    duplicates="keep",
)
