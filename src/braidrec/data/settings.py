"""What preparing decides: which rows count, how a log is cut into parts, which values have rows, what negatives are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, Literal, Self

from pydantic import Field as Setting
from pydantic import field_validator, model_validator

from braidrec.strict import LONGEST, MOST, SEEDS, Strict

LEAVE = ("leave_last_two", "leave_k_out")  # kinds that hold out each user's last events
# what a ready-made split may say; "history": in no part, such an event only stands in the histories of others
PART_NAMES = {"train": "train", "valid": "valid", "validation": "valid", "test": "test", "val": "valid", "history": "history"}


class SplitConfig(Strict):
    """``temporal``: by time over the whole log, by shares of it.  ``date``: at two moments.  ``leave_last_two``: each user's
    last event is test, the one before it validation.  ``leave_k_out``: likewise with each user's last ``held_out`` and
    as many before them.  ``ratio``: a seeded shuffle, of the whole log or of each user's own events (``per_user``).
    ``given``: ready-made, in the column that `Schema.part` names.
    ``knowledge``: old events (parts ``knowledge`` and, the last ``knowledge_valid`` of them, ``knowledge_valid``), recent ones
    (``train``), and the rest, half validation and half test.  At two moments of the whole log, which ``quantiles`` of its rows
    or ``train_from`` and ``valid_from`` name; or by ``quantiles`` of each user's own events (``per_user``).  ``holdout``: the
    earlier half of the rest is validation ("time"; each user's own with ``per_user``), or a seeded half is ("random").

    ``ratios``: of training, validation and test, for ``temporal`` and ``ratio``; three shares above 0 that add up to 1.
    ``valid_from``, ``test_from``: where validation and test begin, for ``date``: 2024-03-01, 2024-03-01T12:00:00Z, or seconds
    since 1970; UTC where no zone is named.
    ``min_history``: earlier events of its user that a row of a part needs; 5, and 0 where the last events of each user are
    held out, so that every user with three events counts, and for ``knowledge``.  Where the log has neither time nor order, and
    for ``given``, it counts as 0.
    """

    kind: Literal["temporal", "date", "leave_last_two", "leave_k_out", "ratio", "given", "knowledge"] = "temporal"
    ratios: tuple[float, float, float] = (0.8, 0.1, 0.1)
    per_user: bool = False
    min_history: int = Setting(default=5, ge=0, le=MOST)
    cold_items: float = Setting(default=0.0, ge=0.0, lt=1.0)
    tie: Literal["integer", "string"] = "integer"
    seed: int = Setting(default=42, ge=0, lt=SEEDS)
    held_out: int = Setting(default=1, ge=1, le=MOST)
    valid_from: str | None = None
    test_from: str | None = None
    train_from: str | None = None
    quantiles: tuple[float, float] = (0.45, 0.875)
    knowledge_valid: float = Setting(default=0.1, gt=0.0, lt=1.0)
    holdout: Literal["time", "random"] = "time"

    @model_validator(mode="before")
    @classmethod
    def _history_of_its_kind(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("kind") in (*LEAVE, "knowledge"):
            return {"min_history": 0} | values
        return values

    @field_validator("valid_from", "test_from", "train_from", mode="before")
    @classmethod
    def _moment(cls, value: Any) -> str | None:
        """Any of the accepted forms as ISO text in UTC."""
        return None if value is None else _moment(value).strftime("%Y-%m-%dT%H:%M:%SZ")

    @model_validator(mode="after")
    def _consistent(self) -> SplitConfig:
        if self.per_user and self.kind not in ("ratio", "knowledge"):
            raise ValueError(f"per_user belongs to kind = 'ratio', not '{self.kind}'; it goes with 'knowledge', too")
        if self.held_out != 1 and self.kind != "leave_k_out":
            raise ValueError(f"held_out belongs to kind = 'leave_k_out', not '{self.kind}'")
        if self.kind == "knowledge":
            return self._of_knowledge()
        usual = type(self).model_fields
        for key in ("train_from", "quantiles", "knowledge_valid", "holdout"):
            if getattr(self, key) != usual[key].default:
                raise ValueError(f"{key} belongs to kind = 'knowledge', not '{self.kind}'")
        moments = (self.valid_from, self.test_from)
        if self.kind != "date" and moments != (None, None):
            raise ValueError(f"valid_from and test_from belong to kind = 'date', not '{self.kind}'")
        if self.kind == "date" and None in moments:
            raise ValueError("kind = 'date' needs valid_from and test_from, such as 2024-03-01")
        if self.kind == "date" and not self.borders[0] < self.borders[1]:
            raise ValueError(f"valid_from = {moments[0]} must come before test_from = {moments[1]}")
        return self

    def _of_knowledge(self) -> SplitConfig:
        moments, (first, second) = (self.train_from, self.valid_from), self.quantiles
        if not 0 < first < second < 1:
            raise ValueError(f"quantiles = {self.quantiles}: accepted are two numbers with 0 < first < second < 1")
        if self.test_from is not None:
            raise ValueError("test_from belongs to kind = 'date'; of what comes from valid_from on, half is test")
        if moments == (None, None):
            return self
        if None in moments:
            raise ValueError("kind = 'knowledge' at moments needs both train_from and valid_from, such as 2024-03-01")
        if self.per_user:
            raise ValueError("train_from and valid_from are moments of the whole log; with per_user leave them out")
        if self.quantiles != type(self).model_fields["quantiles"].default:
            raise ValueError("quantiles and train_from with valid_from say the same thing twice; leave one of them out")
        if not self.borders[0] < self.borders[1]:
            raise ValueError(f"train_from = {moments[0]} must come before valid_from = {moments[1]}")
        return self

    @property
    def borders(self) -> tuple[int, int]:
        """Seconds since 1970 at which validation and test begin, of ``date``; training and the rest, of ``knowledge``."""
        named = (self.train_from, self.valid_from) if self.kind == "knowledge" else (self.valid_from, self.test_from)
        first, second = (datetime.fromisoformat(str(moment)) for moment in named)
        return int(first.timestamp()), int(second.timestamp())

    @property
    def in_order(self) -> bool:
        """Whether training is what came first, of the whole log or of each user's own events."""
        return self.kind in ("temporal", "date", "knowledge", *LEAVE)

    @property
    def at_one_moment(self) -> bool:
        """Whether training ends at one moment for all users."""
        return self.kind in ("temporal", "date") or (self.kind == "knowledge" and not self.per_user)

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
    """What preparing decides; kept in the manifest and named in every table made from the data set.

    ``duplicates``: rows that are equal in every column of the log are merged into one, kept, or an error
    ``repeats``: of a user's events with one item all are kept, or the first or the last alone
    ``k_core``: users and items with fewer events than that are left out, until none is left that has
    ``ties``: events of one user in the same second follow one another (by item id), or none is in another's history
    ``sequences``: what is followed and named by next-item and collaborative models: positives alone, or every event
    """

    split: SplitConfig = SplitConfig()
    vocabulary: Literal["train", "all"] = "train"  # "all": every id of the log has its row, trained or not (the papers' way)
    # per positive, for logs that hold positives only; where events have weights, a positive's weighs its negatives, too
    negatives: int | None = Setting(default=None, ge=1, le=LONGEST)
    duplicates: Literal["merge", "keep", "error"] = "merge"
    repeats: Literal["keep", "first", "last"] = "keep"
    k_core: int | None = Setting(default=None, ge=2, le=MOST)
    ties: Literal["order", "exclude"] = "order"
    sequences: Literal["positives", "all"] = "positives"

    @classmethod
    def of_record(cls, values: Mapping[str, Any]) -> Self:
        """As a manifest or a run's record holds them, which may be from before some of them could be chosen."""
        return cls.model_validate({**FORMER, **values})


# How data were prepared before these could be chosen: what an older manifest leaves out, and what no fingerprint says.
FORMER: dict[str, Any] = {"duplicates": "keep", "sequences": "all"}


def _moment(value: Any) -> datetime:
    """Raises ValueError naming the accepted forms."""
    if isinstance(value, datetime):
        found = value
    elif isinstance(value, date):
        found = datetime(value.year, value.month, value.day)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return datetime.fromtimestamp(value, UTC)
        except (OverflowError, ValueError, OSError):
            raise ValueError(
                f"{value} is no moment in seconds since 1970; accepted: a date, a date and time, seconds"
            ) from None
    else:
        try:
            found = datetime.fromisoformat(str(value))
        except ValueError:
            raise ValueError(
                f"{value!r} is no moment; accepted: 2024-03-01, 2024-03-01T12:00:00Z, or seconds since 1970"
            ) from None
    return found.astimezone(UTC) if found.tzinfo is not None else found.replace(tzinfo=UTC)
