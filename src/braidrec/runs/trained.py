"""What a run remembers of the log that it was trained on, so that the same log is known when it has grown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from braidrec.data.dataset import Dataset
from braidrec.data.events import holds, sample_of
from braidrec.data.settings import PrepareSettings
from braidrec.files import write_atomic

USERS = "users.parquet"


@dataclass(frozen=True)
class Trained:
    """users: raw ids by catalogue row, from 1 on    signals: lower borders of the signal rows
    count: of events    sample: of them (`braidrec.data.events`)    settings: how they were prepared
    """

    users: Sequence[str]
    signals: Sequence[float]
    count: int
    sample: Sequence[str]
    settings: PrepareSettings

    @classmethod
    def of(cls, dataset: Dataset) -> Trained:
        return cls(dataset.user_ids, dataset.manifest["signals"], len(dataset.log), sample_of(dataset), dataset.settings)

    @classmethod
    def read(cls, path: Path, record: Mapping[str, Any]) -> Trained | None:
        """Of the run at ``path``; None of one of an earlier version, which did not remember."""
        import polars as pl

        if (known := record["data"].get("events")) is None:
            return None
        users = pl.read_parquet(path / USERS)["user"].to_list()
        settings = PrepareSettings.of_record(record["data"]["settings"])
        return cls(users, known["signals"], known["count"], known["sample"], settings)

    def save(self, path: Path) -> dict[str, Any]:
        """Write the users into the run at ``path``; returns what its record has of the rest."""
        import polars as pl

        frame = pl.DataFrame({"user": self.users}, schema={"user": pl.String})
        write_atomic(path / USERS, lambda temporary: frame.write_parquet(temporary))
        return {"count": self.count, "signals": list(self.signals), "sample": list(self.sample)}

    def within(self, dataset: Dataset) -> bool:
        """Whether ``dataset`` holds the events that were trained on, and perhaps others."""
        return len(dataset.log) >= self.count and holds(dataset, self.sample)
