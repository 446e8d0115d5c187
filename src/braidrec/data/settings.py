"""What preparing decides: how a log is cut into parts, which values have rows, what negatives are drawn."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field as Setting
from pydantic import model_validator

from braidrec.strict import Strict

# what a ready-made split may say; "history": in no part, such an event only stands in the histories of others
PART_NAMES = {"train": "train", "valid": "valid", "validation": "valid", "test": "test", "val": "valid", "history": "history"}


class SplitConfig(Strict):
    """``temporal``: by time over the whole log.  ``leave_last_two``: per user.  ``ratio``: a seeded shuffle, of the whole log
    or of each user's own events (``per_user``).  ``given``: ready-made, in the column that `Schema.part` names.

    ``ratios``: of training, validation and test, for ``temporal`` and ``ratio``; three shares above 0 that add up to 1.
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

    @property
    def by_share(self) -> bool:
        """Whether ``ratios`` say how large the parts are."""
        return self.kind in ("temporal", "ratio")

    @property
    def fault_of_ratios(self) -> str | None:
        """What is wrong with ``ratios`` and the remedy, None where nothing is.

        Asked where data are prepared, and no validator: what was prepared before anybody asked still opens.
        """
        ratios = self.ratios
        named = f"split.ratios = {ratios} (training, validation, test)"
        if not self.by_share:
            if ratios == SplitConfig.model_fields["ratios"].default:
                return None
            return (
                f"{named} says nothing to split.kind = '{self.kind}'; leave it out, or use split.kind = 'temporal' or 'ratio'"
            )
        for part, share in zip(("train", "valid", "test"), ratios, strict=True):
            if not share > 0 or math.isinf(share):
                empty = ", so that part would be empty" if share == 0 else ""
                return f"{named} gives '{part}' a share of {share:g}{empty}; accepted: three numbers above 0 that add up to 1"
        total = sum(ratios)
        if abs(total - 1) < 1.000001e-6:
            return None
        left = 1 - ratios[0] - ratios[1]
        remedy = f"{tuple(round(share / total, 9) for share in ratios)} keeps their proportions"
        if left > 0:
            remedy += f", {(*ratios[:2], round(left, 9))} gives 'test' all that is left"
        return f"{named} adds up to {total:.9g}; accepted: three numbers above 0 that add up to 1; {remedy}"


class PrepareSettings(Strict):
    """What preparing decides; kept in the manifest and named in every table made from the data set."""

    split: SplitConfig = SplitConfig()
    vocabulary: Literal["train", "all"] = "train"  # "all": every id of the log has its row, trained or not (the papers' way)
    # per positive, for logs that hold positives only; where events have weights, a positive's weighs its negatives, too
    negatives: int | None = Setting(default=None, ge=1)
