"""What the columns of a log and a catalogue mean: one role per column, shown to the user before it is used."""

from __future__ import annotations

from typing import Literal

from pydantic import Field as Setting
from pydantic import model_validator

from braidrec.strict import LONGEST, Strict


class Field(Strict):
    """One feature column.

    ``single``: one value per row.  ``multi``: several values in one cell, cut at ``separator`` (or a list, also one
    written as text), without outer blanks and repeated ones.
    ``numeric``: a number; ``buckets=k`` cuts it at training quantiles into k ids, ``scale`` keeps it a number
    (``standard``: minus mean, over spread, of the training rows; ``log``: log1p first, for counts and prices).
    """

    name: str
    kind: Literal["single", "multi", "numeric"] = "single"
    separator: str = "|"
    first_only: bool = False  # multi as single: keep only the first of the values
    buckets: int | None = Setting(default=None, ge=2, le=LONGEST)
    scale: Literal["standard", "log"] = "standard"

    @model_validator(mode="after")
    def _consistent(self) -> Field:
        if self.buckets is not None and self.kind != "numeric":
            raise ValueError(f"field '{self.name}': buckets belong to kind = 'numeric', not '{self.kind}'")
        return self


class Schema(Strict):
    """Roles of the columns of three tables: interactions, items, users."""

    user: str
    item: str
    timestamp: str | None = None
    order: str | None = None  # position within one user's history, where no clock exists; neither: pairs alone
    rating: str | None = None
    label: str | None = None  # 0/1; made from the rating when absent
    weight: str | None = None  # sample weight
    part: str | None = None  # train, valid (or validation) or test: a ready-made split
    positive_above: float = 3.0  # label = rating > positive_above, when there is no label column
    user_fields: tuple[Field, ...] = ()
    item_fields: tuple[Field, ...] = ()
    context_fields: tuple[Field, ...] = ()  # columns of the interactions table
    text: tuple[str, ...] = ()  # item columns that a person would read, in order
    category: str | None = None
    noun: str = "item"  # "Here is a <noun>, ..."

    @property
    def clock(self) -> str | None:
        """The column that orders the log: its time, else each user's own order; None for pairs alone."""
        return self.timestamp or self.order

    @property
    def signal(self) -> str | None:
        """The column a behaviour carries into a history: its rating, else its label."""
        return self.rating or self.label
