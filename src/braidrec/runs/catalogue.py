"""Raw item ids and titles by catalogue row, items added after training behind the others; never changed in place."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from braidrec.arguments import raw_id
from braidrec.data.dataset import Dataset
from braidrec.errors import DataError


@dataclass(frozen=True)
class Catalogue:
    """ids, titles: of rows 1..I    added_ids, added_titles: of the rows behind them    name: of the data, in error messages"""

    name: str
    ids: Sequence[str]
    titles: Sequence[str]
    added_ids: tuple[str, ...] = ()
    added_titles: tuple[str, ...] = ()

    @classmethod
    def of_dataset(cls, dataset: Dataset) -> Catalogue:
        """Titles are the first text column of the catalogue, '' where an item has none."""
        import polars as pl

        if not dataset.schema.text:
            return cls(dataset.name, dataset.item_ids, [""] * dataset.num_items)
        titles = dataset.items[dataset.schema.text[0]].cast(pl.String).fill_null("").to_list()
        return cls(dataset.name, dataset.item_ids, titles)

    def __len__(self) -> int:
        return len(self.ids) + len(self.added_ids)

    @property
    def all_ids(self) -> list[str]:
        return [*self.ids, *self.added_ids]

    def with_added(self, ids: Sequence[str], titles: Sequence[str]) -> Catalogue:
        return replace(self, added_ids=(*self.added_ids, *ids), added_titles=(*self.added_titles, *titles))

    def id(self, row: int) -> str:
        own = len(self.ids)
        return self.ids[row - 1] if row <= own else self.added_ids[row - own - 1]

    def title(self, row: int) -> str:
        own = len(self.titles)
        return self.titles[row - 1] if row <= own else self.added_titles[row - own - 1]

    def row(self, item: str | int) -> int:
        """Raises DataError, with the id that was perhaps meant, for one that nobody has."""
        raw = raw_id(item, "item")
        row = self._rows.get(raw) or self._added_rows.get(raw)
        if row is None:
            raise DataError(f"item '{raw}' is not in the catalogue of {self.name}{near(raw, self.ids)}")
        return row

    def has(self, raw: str) -> bool:
        """Whether it is an item of the data, rather than one added after training or nobody's."""
        return raw in self._rows

    @property
    def all_rows(self) -> Mapping[str, int]:
        """Rows by raw id, added items among them."""
        return {**self._rows, **self._added_rows}

    @cached_property
    def _rows(self) -> Mapping[str, int]:
        return {raw: row for row, raw in enumerate(self.ids, start=1)}

    @cached_property
    def _added_rows(self) -> Mapping[str, int]:
        return {raw: row for row, raw in enumerate(self.added_ids, start=len(self.ids) + 1)}


def near(raw: str, ids: Sequence[str]) -> str:
    """The id that was perhaps meant, else an example of what ids look like."""
    close = difflib.get_close_matches(raw, ids[:20_000], n=1, cutoff=0.8)
    return f" (did you mean '{close[0]}'?)" if close else f" (its ids look like '{ids[0]}')"
