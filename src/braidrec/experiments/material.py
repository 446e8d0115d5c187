"""The prepared data and the text vectors that tables are made from; what is missing is made as the command line would."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.intake.sources import locate, public_dataset
from braidrec.errors import ConfigError, KnowledgeError, suggest
from braidrec.runs.knowledge import SETTINGS, build, open_knowledge, sync
from braidrec.strict import merge, parse


@dataclass(frozen=True)
class Variant:
    """A public data set, and how it is prepared otherwise than usual (settings as in `PrepareSettings`)."""

    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)


# By the name of the folder that holds it.
VARIANTS: Mapping[str, Variant] = {
    "prime-pantry": Variant("prime-pantry"),
    "ml-1m": Variant("ml-1m"),
    "ml-1m-all": Variant("ml-1m", {"vocabulary": "all"}),
    "ml-1m-cold": Variant("ml-1m", {"split": {"cold_items": 0.1}}),
    "ml-1m-sequences": Variant("ml-1m", {"split": {"kind": "leave_last_two", "min_history": 1}}),
    "ml-latest-small": Variant("ml-latest-small"),
}


def source_of(variant: str) -> str:
    """The public data set behind a variant; a folder that is no variant stands for itself."""
    return VARIANTS[variant].source if variant in VARIANTS else variant


def open_data(variant: str, folder: Path, tell: Callable[[str], None]) -> Dataset:
    """The data set in ``folder``, prepared there first where it is missing.

    Raises ConfigError for a missing folder of a name that is no variant, DataError when the public files cannot be found.
    """
    if (folder / "manifest.json").exists():
        return Dataset.open(folder)
    if variant not in VARIANTS:
        raise ConfigError(
            f"{folder}: no prepared data set is here, and '{variant}' is none that can be made{suggest(variant, VARIANTS)}"
        )
    about = VARIANTS[variant]
    public = public_dataset(about.source)
    tell(f"preparing {variant} into {folder}")
    tables = public.read(locate(about.source))
    settings = parse(PrepareSettings, merge(public.settings.model_dump(), about.settings), f"variant {variant}")
    return Dataset.prepare(tables, folder, settings)


def fill_knowledge(
    dataset: Dataset, folder: Path, encoder: str, tell: Callable[[str], None], confirm: Callable[[str], bool] | None = None
) -> None:
    """Let ``folder`` hold a vector for every item that has text: built by ``encoder``, or what is missing by its own one.

    confirm: asked before a paid endpoint starts.  A base that an interrupted build left half full would otherwise give the
    items it lacks the mean of the others.
    """
    if not (folder / SETTINGS).exists():
        tell(f"building the knowledge base {folder} with the encoder '{encoder}'")
        tell(build(dataset.path, folder, encoder, confirm=confirm))
        return
    with contextlib.suppress(KnowledgeError):  # an empty one
        if not open_knowledge(folder).absent(dataset.item_ids):
            return
    tell(sync(dataset.path, folder, confirm=confirm))
