"""Public data sets by name; one small module each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from braidrec.data.sources import ml_1m, ml_latest_small, prime_pantry
from braidrec.data.sources.public import FOLDER_SETTING, PublicDataset, locate_files
from braidrec.errors import DataError, suggest

if TYPE_CHECKING:
    from braidrec.data.tables import Tables

__all__ = ["DATASETS", "FOLDER_SETTING", "PublicDataset", "locate", "public_dataset", "read_public"]

DATASETS: Mapping[str, PublicDataset] = {
    module.DATASET.name: module.DATASET for module in (ml_1m, ml_latest_small, prime_pantry)
}


def public_dataset(name: str) -> PublicDataset:
    """Raises DataError offering the nearest name."""
    if name not in DATASETS:
        raise DataError(
            f"no public data set is called '{name}'{suggest(name, DATASETS)}; for your own data write a TOML description"
        )
    return DATASETS[name]


def locate(name: str, source: Path | str | None = None, *, download: bool = True) -> Path:
    """The archive or folder of a public data set: ``source``, else under $BRAIDREC_DATA, else fetched into the cache.

    Raises DataError naming all three ways when none works.
    """
    return locate_files(public_dataset(name), source, download=download)


def read_public(name: str, source: Path | str | None = None, *, download: bool = True) -> Tables:
    """Locate and read a public data set."""
    return public_dataset(name).read(locate(name, source, download=download))
