"""Fields of users, items and events as rows and numbers, each looked up by catalogue row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from braidrec.data.vocabulary import Owner, Vocabulary
from braidrec.errors import DataError
from braidrec.files import read_json, understanding

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Bag:
    """A multi-valued field: rows (n, M) int32 of the embedding table by catalogue row (or event), padded with 0."""

    name: str
    owner: Owner
    rows: NDArray[np.int32]


@dataclass(frozen=True)
class Scaling:
    """How a numeric field was brought to scale: (x - mean) / spread, after log1p when ``log``."""

    name: str
    owner: Owner
    log: bool
    mean: float
    spread: float

    def apply(self, values: NDArray[np.float64]) -> NDArray[np.float32]:
        """Missing values (NaN) take the mean, so they become 0."""
        numbers = np.log1p(np.maximum(values, 0.0)) if self.log else values
        return np.nan_to_num((numbers - self.mean) / self.spread, nan=0.0).astype(np.float32)


@dataclass(frozen=True)
class Features:
    """All fields, in the order user, item, context.

    user_fields (U + 1, F_U), item_fields (I + 1, F_I), context_fields (N, F_C) int32 rows of the embedding table
    user_numbers (U + 1, N_U), item_numbers (I + 1, N_I), context_numbers (N, N_C) float32
    Row 0 of the item tables is padding (all zero); row 0 of the user tables is a user nobody knows: unknown rows, mean numbers.
    """

    vocabularies: tuple[Vocabulary, ...]  # single-valued ones first, then multi-valued, in table order
    scalings: tuple[Scaling, ...]
    user_fields: NDArray[np.int32]
    item_fields: NDArray[np.int32]
    context_fields: NDArray[np.int32]
    user_numbers: NDArray[np.float32]
    item_numbers: NDArray[np.float32]
    context_numbers: NDArray[np.float32]
    bags: tuple[Bag, ...]

    def at(self, positions: NDArray[np.int64]) -> Features:
        """Those of a log of the events at ``positions`` (n,) alone."""
        bags = tuple(replace(bag, rows=bag.rows[positions]) if bag.owner == "context" else bag for bag in self.bags)
        fields, numbers = self.context_fields[positions], self.context_numbers[positions]
        return replace(self, context_fields=fields, context_numbers=numbers, bags=bags)

    @property
    def single(self) -> tuple[Vocabulary, ...]:
        return tuple(vocabulary for vocabulary in self.vocabularies if not vocabulary.multi)

    @property
    def num_rows(self) -> int:
        """Rows of the embedding table, padding included."""
        return 1 + max((vocabulary.last_row for vocabulary in self.vocabularies), default=0)

    @property
    def context_unknown(self) -> list[int]:
        return [vocabulary.unknown_row for vocabulary in self.single if vocabulary.owner == "context"]


def encode_fields(
    owner: Owner, vocabularies: Sequence[Vocabulary], scalings: Sequence[Scaling], frame: pl.DataFrame
) -> tuple[NDArray[np.int32], NDArray[np.float32], tuple[NDArray[np.int32], ...]]:
    """Fields (n, F), numbers (n, N) and bags of the rows of ``frame``; unknown values and absent columns take unknown rows."""
    import polars as pl

    count = len(frame)

    def column(name: str) -> pl.Series:
        return frame[name] if name in frame.columns else pl.Series(name, [None] * count, dtype=pl.String)

    owned = [entry for entry in vocabularies if entry.owner == owner]
    singles = [entry.encode(column(entry.name)) for entry in owned if not entry.multi]
    bags = tuple(entry.encode(column(entry.name)) for entry in owned if entry.multi)
    numbers = [entry.apply(number_column(column(entry.name))) for entry in scalings if entry.owner == owner]
    return (
        np.column_stack(singles) if singles else np.zeros((count, 0), np.int32),
        np.column_stack(numbers) if numbers else np.zeros((count, 0), np.float32),
        bags,
    )


def number_column(column: pl.Series) -> NDArray[np.float64]:
    """The numbers of a column, NaN where there is none."""
    import polars as pl

    return column.alias("").cast(pl.Float64).fill_null(float("nan")).to_numpy()


def read_vocabulary(path: Path) -> tuple[tuple[Vocabulary, ...], tuple[Scaling, ...]]:
    """The vocabularies and scalings in a ``vocabulary.json``, of a data set or of a run."""
    with understanding(path, DataError):
        stored = read_json(path, DataError)
        return (
            tuple(Vocabulary.from_json(entry) for entry in stored["vocabularies"]),
            tuple(Scaling(**entry) for entry in stored["scalings"]),
        )
