"""Splits are named arrays of event positions; nothing is copied.

``train``, ``valid`` and ``test`` always exist.  A sample needs ``min_history`` earlier events of its user; events before
that are in no part but still serve as history of later ones (DisCo's protocol, KDD 2024, section 4.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from braidrec.data.log import InteractionLog
from braidrec.data.splits_config import SplitConfig
from braidrec.errors import DataError

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Event positions by part name, each ascending (n,) int64."""

    parts: Mapping[str, Positions]

    def __getitem__(self, name: str) -> Positions:
        if name not in self.parts:
            raise DataError(f"the split has no part '{name}' (it has: {', '.join(self.parts)})")
        return self.parts[name]


def make_split(log: InteractionLog, config: SplitConfig, *, has_clock: bool) -> Split:
    """Cut the log as ``config`` says.

    ``temporal``: by row position in time order, n_train = floor(r0 n), n_valid = floor(r1 n), the rest is test, so rows of
    one second may straddle a border.  ``leave_last_two``: each user's last event is test, the one before it validation.
    ``ratio``: a seeded shuffle.  Raises DataError when time is asked of a log without a clock, when ``cold_items`` is asked
    of a split without one border in time, or when a part would be empty.
    """
    if config.cold_items and config.kind != "temporal":
        raise DataError(
            f"split.cold_items needs split.kind = 'temporal', not '{config.kind}': an item can only launch late "
            "where training ends at one moment"
        )
    eligible = np.flatnonzero(log.rank >= config.min_history)
    if config.kind == "temporal":
        if not has_clock:
            raise DataError(
                "split.kind = 'temporal' needs a timestamp column: this log only has each user's own order, which says nothing "
                "about time between users; use split.kind = 'leave_last_two'"
            )
        parts = _by_share(eligible, config)
    elif config.kind == "ratio":
        shuffled = np.random.default_rng(config.seed).permutation(eligible)
        parts = {name: np.sort(rows) for name, rows in _by_share(shuffled, config).items()}
    else:
        left = log.history_length[log.user[eligible]] - log.rank[eligible]
        enough = log.history_length[log.user[eligible]] >= 3
        parts = {
            "train": eligible[(left > 2) | ~enough],
            "valid": eligible[(left == 2) & enough],
            "test": eligible[(left == 1) & enough],
        }
    return named_parts(log, config, parts)


def named_parts(log: InteractionLog, config: SplitConfig, parts: Mapping[str, Positions]) -> Split:
    """A Split of ``parts``; raises DataError, naming the part, when one is empty."""
    for name, rows in parts.items():
        if not len(rows):
            raise DataError(
                f"the {config.kind} split leaves no row for '{name}': {len(log):,} events, "
                f"{np.count_nonzero(log.rank >= config.min_history):,} of them with "
                f"{config.min_history} or more earlier events of their user; lower split.min_history or bring a longer log"
            )
    return Split({name: rows.astype(np.int64) for name, rows in parts.items()})


def _by_share(rows: Positions, config: SplitConfig) -> dict[str, Positions]:
    first, second, _ = config.ratios
    train = int(np.floor(first * len(rows) + 1e-9))
    valid = int(np.floor(second * len(rows) + 1e-9))
    return {"train": rows[:train], "valid": rows[train : train + valid], "test": rows[train + valid :]}


def hidden_items(log: InteractionLog, config: SplitConfig) -> NDArray[np.int32]:
    """The seeded ``cold_items`` share of the catalogue rows that occur in the log, to be taken out of the training time."""
    present = np.unique(log.item)
    count = round(config.cold_items * len(present))
    return np.sort(np.random.default_rng(config.seed).permutation(present)[:count])
