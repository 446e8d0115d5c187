"""What the MovieLens data sets have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

LICENSE = "GroupLens: research with acknowledgement (Harper and Konstan 2015), no commercial use without permission"
HOMEPAGE = "https://grouplens.org/datasets/movielens/"


def with_genre_and_year(movies: pl.DataFrame) -> pl.DataFrame:
    """Add ``genre``, the first of the listed genres, and ``year``, from the end of the title (empty where none is given)."""
    import polars as pl

    return movies.with_columns(
        genre=pl.col("genres").str.split("|").list.first(),
        year=pl.col("title").str.extract(r"\((\d{4})(?:[-–]\d{4})?\)\s*$").cast(pl.Int64),
    )
