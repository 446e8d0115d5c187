"""Public data sets by name; one small module each, imported when it is first used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from braidrec.data.intake.sources.public import FOLDER_SETTING, PublicDataset, locate_files
from braidrec.errors import DataError, suggest
from braidrec.registry import Registry

if TYPE_CHECKING:
    from braidrec.data.tables import Tables

__all__ = ["DATA_SETS", "FOLDER_SETTING", "PublicDataset", "locate", "public_dataset", "read_public"]

DATA_SETS: Registry[PublicDataset] = Registry(
    "public data set",
    "braidrec.data_sets",
    PublicDataset,
    {
        "ml-1m": "braidrec.data.intake.sources.ml_1m:DATASET",
        "ml-latest-small": "braidrec.data.intake.sources.ml_latest_small:DATASET",
        "prime-pantry": "braidrec.data.intake.sources.prime_pantry:DATASET",
        "rlmrec-amazon-book": "braidrec.data.intake.sources.rlmrec:DATASET",
    },
)


def public_dataset(name: str) -> PublicDataset:
    """Raises DataError offering the nearest name."""
    if name not in DATA_SETS:
        raise DataError(
            f"no public data set is called '{name}'{suggest(name, DATA_SETS)}; for your own data write a TOML description"
        )
    return DATA_SETS[name]


def locate(name: str, source: Path | str | None = None, *, download: bool = True) -> Path:
    """The archive or folder of a public data set: ``source``, else under $BRAIDREC_DATA, else fetched into the cache.

    Raises DataError naming all three ways when none works.
    """
    return locate_files(public_dataset(name), source, download=download)


def read_public(name: str, source: Path | str | None = None, *, download: bool = True) -> Tables:
    """Locate and read a public data set."""
    return public_dataset(name).read(locate(name, source, download=download))
