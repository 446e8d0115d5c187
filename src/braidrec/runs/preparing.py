"""From a public data set's name or a description file to a prepared data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from braidrec.arguments import path_of
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.intake.description import load_description, read_tables
from braidrec.data.intake.readers import ReadConfig
from braidrec.data.intake.sources import DATA_SETS, locate
from braidrec.errors import ConfigError, DataError, remedy, suggest
from braidrec.runs.depending import runs_on, warning
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
    values: Mapping[str, Any] | None = None,
    read: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    confirm: Callable[[str], bool] | None = None,
) -> Dataset:
    """Prepare ``what`` into ``out`` (default: prepared/<name>); options that are None keep the data set's own settings.

    values: any of `PrepareSettings`, as nested values, above all others; another ``split.kind`` begins with its own defaults
    read: any of `ReadConfig`, above what a description says under [read]
    confirm: asked before data are replaced that runs were trained on, with what that means for them
    Raises ConfigError for an unknown name, DataError for files that cannot be found or used, and where ``confirm`` says no.
    """
    if what in DATA_SETS:
        if read:
            raise ConfigError(
                f"{remedy('read', '--read')} says how files of yours are read; '{what}' is read as it is published"
            )
        tables, settings = (
            DATA_SETS[what].read(locate(what, None if source is None else path_of(source, "source"))),
            DATA_SETS[what].settings,
        )
    elif what.endswith(".toml"):
        if source is not None:
            raise ConfigError(
                f"{remedy('source', '--source')} names the archive of a public data set; a description names its own files"
            )
        description = load_description(Path(what))
        if read:
            own = description.read.model_dump(exclude_unset=True)
            reading = parse(ReadConfig, merge(own, read), remedy("read", "--read"))
            description = description.model_copy(update={"read": reading})
        tables, settings = description.cut(read_tables(description, Path(what).parent))
    else:
        if Path(what).is_file():
            raise ConfigError(
                f"'{what}' is no description: write a TOML file with name = \"{Path(what).stem}\" and, below [interactions], "
                f'file = "{Path(what).name}" (likewise [items] and [users]), and name that; what columns mean is guessed and '
                "shown. In Python Dataset.from_frames takes tables as they are"
            )
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
    changes, usual = merge(changes, values or {}), settings.model_dump()
    if isinstance(own := changes["split"], Mapping) and own.get("kind", settings.split.kind) != settings.split.kind:
        usual.pop("split")
    settings = parse(PrepareSettings, merge(usual, changes), "data prepare")
    target = path_of(out, "out") if out is not None else Path("prepared") / tables.name
    needed = runs_on(target) if overwrite and confirm is not None and target.exists() else []
    if confirm is not None and needed and not confirm(warning(target, needed)):
        raise DataError(f"{target}: not replaced; nothing was changed")
    return Dataset.prepare(tables, target, settings, overwrite=overwrite)
