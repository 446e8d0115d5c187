"""What a catalogue says its items are, and what that says of who has them: labels for models that learn from more than pairs.

C_U[u] = normalised sum over what u rated of R[u, i] C_I[i]        SDRL, equation (11); ratings of training alone
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from braidrec.data.dataset import Dataset
from braidrec.errors import ConfigError, DataError, suggest

Floats = NDArray[np.float32]
Normalisation = Literal["l1", "l2", "max"]
NOT_SAID = ("(no genres listed)", "IMAX")  # what MovieLens lists among genres, and none is


@dataclass(frozen=True, eq=False)
class Categories:
    """names (c,)    of_items (I + 1, c) float32 of 0 and 1    known (I + 1,) bool: whether the catalogue says what an item is

    skipped: categories that tell no item from another, which are not among ``names``
    """

    names: tuple[str, ...]
    of_items: Floats
    known: NDArray[np.bool_]
    skipped: tuple[str, ...] = ()

    @property
    def listed(self) -> NDArray[np.int64]:
        """(n,) catalogue rows of items that have a category, ascending."""
        return np.flatnonzero(self.of_items.any(axis=1))

    def without(self, items: NDArray[np.int64]) -> Categories:
        """The same, and nothing known of ``items``, which are catalogue rows."""
        known, of_items = self.known.copy(), self.of_items.copy()
        known[items] = False
        of_items[items] = 0
        return Categories(self.names, of_items, known, self.skipped)

    def of_users(self, ratings: Any, normalisation: Normalisation = "l1") -> tuple[Floats, NDArray[np.bool_]]:
        """(U + 1, c) preferences of users, and (U + 1,) whether they rated anything of which something is known.

        ratings (U + 1, I + 1) SciPy sparse of 0..1.  Zeros for who has rated nothing that has a category.
        """
        found = np.asarray(ratings @ self.of_items, np.float32)
        size = {"l1": found.sum(axis=1), "l2": np.linalg.norm(found, axis=1), "max": found.max(axis=1, initial=0)}
        known = np.asarray(ratings @ self.known.astype(np.float32)) > 0
        return found / np.maximum(size[normalisation], np.finfo(np.float32).tiny)[:, None], known


def categories_of(
    data: Dataset, column: str | None = None, separator: str | None = None, without: Collection[str] = NOT_SAID
) -> Categories:
    """Of a column of the catalogue: a list, text that ``separator`` (or that of its field) cuts, or one value a row.

    column: None for the first multi-valued field of items, and without one for the schema's category
    A cell that is null says nothing, empty text that an item has no category; values of ``without`` are no categories; what
    every known item has, or none, tells nothing.
    Raises ConfigError for a column that is none, DataError where no category is left.
    """
    import polars as pl

    fields = {field.name: field for field in data.schema.item_fields}
    name = column or next((field.name for field in fields.values() if field.kind == "multi"), data.schema.category)
    if name is None:
        raise ConfigError(
            f"{data.name}: nothing says what its items are: they have neither a multi-valued field nor a category column; name "
            "a column of the items' table (column = ...), or leave the block that learns from it out (size = 0)"
        )
    if name not in data.items.columns:
        raise ConfigError(f"{data.name}: the items' table has no column '{name}'{suggest(name, data.items.columns)}")
    values = data.items[name].alias("")
    if not isinstance(values.dtype, pl.List):
        mark = separator or (fields[name].separator if name in fields and fields[name].kind == "multi" else None)
        text = values.cast(pl.String)
        values = text.str.split(mark) if mark else text
    pairs = pl.DataFrame({"row": np.arange(1, len(values) + 1), "value": values, "known": values.is_not_null()})
    known = np.zeros(len(values) + 1, np.bool_)
    known[1:] = pairs["known"].to_numpy()
    said = (
        (pairs.explode("value") if isinstance(values.dtype, pl.List) else pairs)
        .select("row", pl.col("value").cast(pl.String).str.strip_chars())
        .drop_nulls()
    )
    said = said.filter((pl.col("value") != "") & ~pl.col("value").is_in(list(without))).unique()
    names = sorted(said["value"].unique())
    of_items = np.zeros((len(values) + 1, len(names)), np.float32)
    of_items[said["row"].to_numpy(), np.searchsorted(np.array(names, dtype=object), said["value"].to_numpy())] = 1
    telling = of_items.sum(axis=0) < known.sum()
    if not telling.any():
        every = f"; all of {int(known.sum()):,} items have '{names[0]}'" if names else ""
        raise DataError(f"{data.name}: the column '{name}' has no category that tells one item from another{every}")
    kept, skipped = (tuple(each for each, tells in zip(names, telling, strict=True) if tells == want) for want in (True, False))
    return Categories(kept, np.ascontiguousarray(of_items[:, telling]), known, skipped)


def held_items(categories: Categories, share: float) -> NDArray[np.int64]:
    """(n,) the ``share`` of the items with a category that is hidden from training, or tested on; the same each time."""
    listed = categories.listed
    drawn = np.random.default_rng(0).permutation(listed)
    return np.sort(drawn[: round(share * len(listed))])


def scaled_ratings(
    user: NDArray[np.int32], item: NDArray[np.int32], rating: Floats, shape: tuple[int, int], scale: float | None = None
) -> Any:
    """(U + 1, I + 1) SciPy CSR of ratings / scale; of a pair that was rated again, the last in the log's order counts.

    user, item, rating (n,): the events, catalogue rows    scale: the best rating there is; None: the best that was given
    A rating of 0 is as if there were none.  Raises DataError for one below 0, above ``scale``, or that is no number, and where
    none is left that is above 0.
    """
    from scipy.sparse import csr_array

    best = float(rating.max(initial=0)) if scale is None else scale
    odd = ~((rating >= 0) & (rating <= best))
    if odd.any():
        at = int(np.argmax(odd))
        raise DataError(
            f"ratings of training: the rating of user row {user[at]} for item row {item[at]} is {rating[at]:g}; accepted: 0 .. "
            f"{best:g}, where 0 is as if nothing was rated; say what the best rating is (model.scale), or shift the ratings so "
            "that the worst is above 0"
        )
    key = user.astype(np.int64) * shape[1] + item
    last = len(key) - 1 - np.unique(key[::-1], return_index=True)[1]
    last = last[rating[last] > 0]
    if not len(last):
        raise DataError(
            "ratings of training: none is above 0, and a rating of 0 is as if nothing was rated; shift the ratings so that the "
            "worst is above 0"
        )
    return csr_array(((rating[last] / best).astype(np.float32), (user[last], item[last])), shape=shape)
