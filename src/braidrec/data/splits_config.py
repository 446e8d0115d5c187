"""How a log is cut into training, validation and test parts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field as Setting

from braidrec.strict import Strict


class SplitConfig(Strict):
    """``temporal``: by time over the whole log.  ``leave_last_two``: per user.  ``ratio``: a seeded shuffle."""

    kind: Literal["temporal", "leave_last_two", "ratio"] = "temporal"
    ratios: tuple[float, float, float] = (0.8, 0.1, 0.1)
    min_history: int = Setting(default=5, ge=0)
    cold_items: float = Setting(default=0.0, ge=0.0, lt=1.0)
    tie: Literal["integer", "string"] = "integer"
    seed: int = 42
