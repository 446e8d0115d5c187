"""From a public data set's name or a description file to a prepared data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from braidrec.arguments import path_of
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.intake.description import load_description, read_tables
from braidrec.data.intake.sources import DATA_SETS, locate
from braidrec.errors import ConfigError, suggest
from braidrec.strict import merge, parse


def prepare(
    what: str,
    source: Path | str | None,
    out: Path | str | None,
    *,
    vocabulary: str | None = None,
    negatives: int | None = None,
    cold_items: float | None = None,
    tie: str | None = None,
    duplicates: str | None = None,
    repeats: str | None = None,
    k_core: int | None = None,
    ties: str | None = None,
    sequences: str | None = None,
    overwrite: bool = False,
) -> Dataset:
    """Prepare ``what`` into ``out`` (default: prepared/<name>); options that are None keep the data set's own settings.

    Raises ConfigError for an unknown name, DataError for files that cannot be found or used.
    """
    if what in DATA_SETS:
        tables, settings = (
            DATA_SETS[what].read(locate(what, None if source is None else path_of(source, "source"))),
            DATA_SETS[what].settings,
        )
    elif what.endswith(".toml"):
        if source is not None:
            raise ConfigError("--source names the archive of a public data set; a description names its own files")
        description = load_description(Path(what))
        tables, settings = description.cut(read_tables(description, Path(what).parent))
    else:
        raise ConfigError(f"'{what}' is neither a public data set{suggest(what, DATA_SETS)} nor a description file (.toml)")
    split = {"cold_items": cold_items, "tie": tie}
    changes: dict[str, Any] = {"split": {key: value for key, value in split.items() if value is not None}}
    given = {
        "vocabulary": vocabulary,
        "negatives": negatives,
        "duplicates": duplicates,
        "repeats": repeats,
        "k_core": k_core,
        "ties": ties,
        "sequences": sequences,
    }
    changes |= {key: value for key, value in given.items() if value is not None}
    settings = parse(PrepareSettings, merge(settings.model_dump(), changes), "data prepare")
    return Dataset.prepare(tables, out or Path("prepared") / tables.name, settings, overwrite=overwrite)
