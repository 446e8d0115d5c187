"""Raw values to rows of one shared embedding table and back.

Row 0 is padding.  Field f owns the rows ``offset + 1 .. offset + known`` for the values it knows and, where the unknown
row is trained, one more after them.  Fields stand one behind the other, so a row alone says its field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from braidrec.data.schema import Field
from braidrec.data.values import values_of
from braidrec.errors import DataError

if TYPE_CHECKING:
    import polars as pl

Owner = Literal["user", "item", "context"]
Rows = NDArray[np.int32]


@dataclass(frozen=True)
class Vocabulary:
    """The values of one field, in row order."""

    field: Field
    owner: Owner
    values: tuple[str, ...]
    has_unknown: bool
    offset: int = 0
    edges: tuple[float, ...] = ()  # bucket borders of a numeric field

    @property
    def name(self) -> str:
        return self.field.name

    @property
    def multi(self) -> bool:
        return self.field.kind == "multi" and not self.field.first_only

    @property
    def known(self) -> int:
        return len(self.values)

    @property
    def unknown_row(self) -> int:
        """Row of a value never seen in training: the field's own row, or padding where none is trained."""
        return self.offset + self.known + 1 if self.has_unknown else 0

    @property
    def last_row(self) -> int:
        return self.offset + self.known + int(self.has_unknown)

    def encode(self, column: pl.Series) -> Rows:
        """Rows of a column of raw values: (n,) for a single-valued field, (n, M) padded with 0 for a multi-valued one."""
        import polars as pl

        cells = cells_of(self.field, column, self.edges)
        known = {value: at for at, value in enumerate(self.values, start=self.offset + 1)}
        if self.field.kind == "multi":  # of an earlier version, which stripped nothing
            known = {value.strip(): at for value, at in known.items()} | known
        table = pl.DataFrame(
            {"value": list(known), "row": np.array(list(known.values()), np.int32)}, schema_overrides={"value": pl.String}
        )
        frame = pl.DataFrame({"value": cells}).with_row_index("at")
        if self.multi:
            frame = frame.explode("value", empty_as_null=True).filter(pl.col("value").is_not_null())
        rows = frame.join(table, on="value", how="left", maintain_order="left").with_columns(
            pl.col("row").fill_null(self.unknown_row).cast(pl.Int32)
        )
        if not self.multi:
            return np.ascontiguousarray(rows["row"].to_numpy())
        at = rows["at"].to_numpy().astype(np.int64)
        counts = np.bincount(at, minlength=len(column)) if len(at) else np.zeros(len(column), np.int64)
        padded = np.zeros((len(column), max(int(counts.max(initial=0)), 1)), dtype=np.int32)
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]]) if len(column) else counts
        padded[at, np.arange(len(at)) - starts[at]] = rows["row"].to_numpy()
        return padded

    def to_json(self) -> dict[str, Any]:
        return {
            "field": self.field.model_dump(),
            "owner": self.owner,
            "values": list(self.values),
            "has_unknown": self.has_unknown,
            "offset": self.offset,
            "edges": list(self.edges),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Vocabulary:
        return cls(
            Field(**value["field"]),
            value["owner"],
            tuple(value["values"]),
            value["has_unknown"],
            value["offset"],
            tuple(value["edges"]),
        )


def fit(field: Field, owner: Owner, column: pl.Series, seen: NDArray[np.bool_], *, has_unknown: bool) -> Vocabulary:
    """Learn a field's values from the rows of ``column`` marked in ``seen`` (n,), sorted so that the result has one order."""
    import polars as pl

    edges: tuple[float, ...] = ()
    if field.kind == "numeric" and field.buckets is not None:
        numbers = column.alias("").filter(pl.Series(seen)).cast(pl.Float64).fill_nan(None).drop_nulls().to_numpy()
        if not len(numbers):
            raise DataError(f"field '{field.name}': no number in the training rows to cut into buckets; drop the field")
        edges = tuple(np.unique(np.quantile(numbers, np.arange(1, field.buckets) / field.buckets)).tolist())
    cells = cells_of(field, column, edges).filter(pl.Series(seen))
    if cells.dtype == pl.List(pl.String):
        cells = cells.explode(empty_as_null=True).drop_nulls()
    return Vocabulary(field, owner, tuple(cells.unique().sort().to_list()), has_unknown, edges=edges)


def stack(vocabularies: Sequence[Vocabulary]) -> tuple[Vocabulary, ...]:
    """Give each field its own run of rows, in order."""
    placed, offset = [], 0
    for vocabulary in vocabularies:
        placed.append(replace(vocabulary, offset=offset))
        offset = placed[-1].last_row
    return tuple(placed)


def cells_of(field: Field, column: pl.Series, edges: Sequence[float]) -> pl.Series:
    """A column as text cells: strings, or lists of strings for a multi-valued field.  An empty cell is the value ''."""
    import polars as pl

    column = column.alias("")  # Polars reads some names as patterns
    if field.kind == "numeric":
        numbers = column.cast(pl.Float64).fill_nan(None)
        index = np.searchsorted(np.asarray(edges), numbers.fill_null(0.0).to_numpy(), side="left")
        return pl.Series(index).cast(pl.String).set(numbers.is_null(), "")
    if field.kind == "single":
        return column.cast(pl.String).fill_null("")
    lists = values_of(field, column)
    return lists.list.first().fill_null("") if field.first_only else lists
