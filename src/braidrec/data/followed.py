"""What next-item and collaborative models follow of a log: its positives, each of equal user, item and time once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from braidrec.data.log import InteractionLog
from braidrec.data.settings import LEAVE, PrepareSettings
from braidrec.data.splits import Split, make_split
from braidrec.errors import DataError


def followed_positions(log: InteractionLog, settings: PrepareSettings) -> NDArray[np.int64]:
    """(n,) ascending positions of the positives (of every event with ``sequences = "all"``), copies left out."""
    own = log.slot_event[1:].astype(np.int64)  # user by user: there copies stand side by side
    if settings.sequences == "positives":
        own = own[log.label[own] > 0]
    user, item, time = log.user[own], log.item[own], log.timestamp[own]
    again = (user[1:] == user[:-1]) & (item[1:] == item[:-1]) & (time[1:] == time[:-1])
    return np.sort(own[np.r_[True, ~again]] if len(own) else own)


def followed(log: InteractionLog, split: Split, settings: PrepareSettings, positions: NDArray[np.int64], name: str) -> Split:
    """The split of the log ``log`` of the events at ``positions`` of a longer one, whose split is ``split``.

    Where the last events of each user are held out, the last of these are; other splits keep their parts.
    Raises DataError, naming the data set and the remedy, where a part is left without a row.
    """
    cut = settings.split
    if not split.parts:  # of a log that is served, not evaluated
        return split
    if cut.kind in LEAVE and len(log):
        return make_split(log, cut)
    where = np.full(1 + max(int(rows[-1]) for rows in split.parts.values()), -1)
    inside = positions[positions < len(where)]
    where[inside] = np.arange(len(inside))
    parts = {part: where[rows][where[rows] >= 0] for part, rows in split.parts.items()}
    if cut.in_order:
        parts = {part: rows[log.past[rows] >= cut.min_history] for part, rows in parts.items()}
    for part, rows in parts.items():
        if not len(rows):
            asked = f" with the {cut.min_history} earlier ones that split.min_history asks" if cut.in_order else ""
            raise DataError(
                f"{name}: none of the {len(split[part]):,} events of the part '{part}' is positive{asked}, and sequences "
                'follow positives alone; prepare the data with sequences = "all", another positive_above or another split'
            )
    return Split(parts)
