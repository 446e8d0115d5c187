"""What preparing decides: how a log is cut into parts, which values have rows, what negatives are drawn."""

from __future__ import annotations

from typing import Literal

from pydantic import Field as Setting
from pydantic import model_validator

from braidrec.strict import Strict

PART_NAMES = {"train": "train", "valid": "valid", "validation": "valid", "test": "test"}  # what a ready-made split may say


class SplitConfig(Strict):
    """``temporal``: by time over the whole log.  ``leave_last_two``: per user.  ``ratio``: a seeded shuffle, of the whole log
    or of each user's own events (``per_user``).  ``given``: ready-made, in the column that `Schema.part` names.

    Where the log has neither time nor order, and for ``given``, ``min_history`` counts as 0.
    """

    kind: Literal["temporal", "leave_last_two", "ratio", "given"] = "temporal"
    ratios: tuple[float, float, float] = (0.8, 0.1, 0.1)
    per_user: bool = False
    min_history: int = Setting(default=5, ge=0)
    cold_items: float = Setting(default=0.0, ge=0.0, lt=1.0)
    tie: Literal["integer", "string"] = "integer"
    seed: int = 42

    @model_validator(mode="after")
    def _consistent(self) -> SplitConfig:
        if self.per_user and self.kind != "ratio":
            raise ValueError(f"per_user belongs to kind = 'ratio', not '{self.kind}'")
        return self

    @property
    def in_order(self) -> bool:
        """Whether training is what came first, of the whole log or of each user's own events."""
        return self.kind in ("temporal", "leave_last_two")


class PrepareSettings(Strict):
    """What preparing decides; kept in the manifest and named in every table made from the data set."""

    split: SplitConfig = SplitConfig()
    vocabulary: Literal["train", "all"] = "train"  # "all": every id of the log has its row, trained or not (the papers' way)
    negatives: int | None = Setting(default=None, ge=1)  # per positive, for logs that hold positives only
