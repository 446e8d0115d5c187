"""Scores of given pairs of users and items, a column behind a table; and what the desk writes into files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from braidrec.errors import ConfigError, DataError, RunError, remedy
from braidrec.files import write_atomic
from braidrec.progress import progress
from braidrec.runs.additions import ids_as_text
from braidrec.runs.catalogue import near
from braidrec.task import Floats, Model, Rows

if TYPE_CHECKING:
    import polars as pl

Unknown = Literal["error", "null"]


def id_column(frame: pl.DataFrame, role: str, names: Sequence[str | None]) -> pl.Series:
    """The ids in the first column that is there of ``names``, as text.  Raises DataError where none is."""
    found = next((name for name in names if name is not None and name in frame.columns), None)
    if found is None:
        wanted = " or ".join(f"'{name}'" for name in dict.fromkeys(name for name in names if name))
        raise DataError(f"the pairs have no column of the {role}s, {wanted} (columns: {', '.join(frame.columns)})")
    return ids_as_text(frame[found], f"the pairs, column '{found}'")


def rows_of(ids: pl.Series, known: Mapping[str, int], role: str, where: str, unknown: Unknown) -> Rows:
    """(n,) catalogue rows, 0 of an id that nobody has.  Raises DataError for such ids unless ``unknown`` is "null"."""
    import polars as pl

    distinct = ids.unique().drop_nulls()
    table = pl.DataFrame({"id": distinct, "row": np.array([known.get(raw, 0) for raw in distinct.to_list()], np.int32)})
    rows = pl.DataFrame({"id": ids}).join(table, on="id", how="left", maintain_order="left")["row"].fill_null(0).to_numpy()
    strange = np.flatnonzero(rows == 0)
    if len(strange) and unknown == "error":
        first = ids[int(strange[0])]
        raise DataError(
            f"the pairs, row {strange[0] + 1}: {role} {first!r} is not in {where}{near(str(first or ''), list(known))}; "
            f"{len(strange):,} of {len(rows):,} rows are such; leave their scores empty with "
            + remedy('unknown="null"', "--unknown null")
        )
    return np.ascontiguousarray(rows, np.int32)


def score_pairs(model: Model, users: Rows, items: Rows, pasts: Any, *, show_progress: bool) -> Floats:
    """(n,) scores, NaN where a row of ``users`` or ``items`` (n,) is 0.  pasts: from a user's row to their past"""
    scores = np.full(len(users), np.nan, np.float32)
    asked = np.flatnonzero((users > 0) & (items > 0))
    order = asked[np.argsort(users[asked], kind="stable")]
    borders = np.flatnonzero(np.diff(users[order])) + 1
    blocks: list[NDArray[np.intp]] = np.split(order, borders) if len(order) else []
    with progress("scoring", len(blocks), "users", show=show_progress) as advance:
        for own in blocks:
            rows, places = np.unique(items[own], return_inverse=True)
            scores[own] = model.scores([pasts(int(users[own[0]]))], rows)[0][places]
            advance(1)
    if bool(np.isnan(scores[asked]).any()):
        raise RunError("a score is not a number; a model that diverged cannot score")
    return scores


def vector_table(ids: Sequence[str], vectors: Floats) -> pl.DataFrame:
    """item, vector: one row for each of ``ids`` (n,) with its row of ``vectors`` (n, D)."""
    import polars as pl

    return pl.DataFrame({"item": pl.Series(ids, dtype=pl.String), "vector": vectors})


def write_table(frame: pl.DataFrame, out: Path) -> None:
    """As Parquet, or as CSV where ``out`` is called so."""
    nested = [name for name, kind in frame.schema.items() if kind.is_nested()]
    if out.suffix == ".csv" and nested:
        raise ConfigError(f"{out}: a CSV cell holds one value, and column '{nested[0]}' has vectors; name a .parquet file")
    write = frame.write_csv if out.suffix == ".csv" else frame.write_parquet
    write_atomic(out, lambda temporary: write(temporary))
