"""The prepared data and the text vectors that tables are made from; what is missing is made as the command line would."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.intake.sources import locate, public_dataset
from braidrec.data.tables import Tables
from braidrec.errors import ConfigError, DataError, KnowledgeError, suggest
from braidrec.experiments.shuffled import core_in_parts, rated_core_in_parts, rated_in_parts
from braidrec.runs.knowledge import SETTINGS, build, open_knowledge, sync
from braidrec.strict import merge, parse


@dataclass(frozen=True)
class Variant:
    """A public data set, and how it is prepared otherwise than usual (settings as in `PrepareSettings`).

    change: what is done to its tables first    texts: whose catalogue it has, where that is not the source's
    """

    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    change: Callable[[Tables], Tables] | None = None
    texts: str | None = None


_SHUFFLED = {"split": {"kind": "ratio", "per_user": True, "ratios": (0.8, 0.1, 0.1), "min_history": 0}}
_OLD = {"kind": "knowledge", "min_history": 0}
_GIVEN = {"split": {"kind": "given"}, "negatives": None}
_RATED_CORE = partial(rated_core_in_parts, core=20, seed=0)

# By the name of the folder that holds it.
VARIANTS: Mapping[str, Variant] = {
    "prime-pantry": Variant("prime-pantry"),
    "ml-1m": Variant("ml-1m"),
    "ml-1m-all": Variant("ml-1m", {"vocabulary": "all"}),
    "ml-1m-cold": Variant("ml-1m", {"split": {"cold_items": 0.1}}),
    "ml-1m-refit": Variant("ml-1m", {"split": {"ratios": (0.899, 0.001, 0.1)}}),  # validation is learned from, but for a sliver
    "ml-1m-sequences": Variant("ml-1m", {"split": {"kind": "leave_last_two", "min_history": 1}}),
    "ml-1m-knowledge-user": Variant("ml-1m", {"split": {**_OLD, "per_user": True}}),
    "ml-1m-knowledge-time": Variant("ml-1m", {"split": _OLD}),
    "ml-latest-small": Variant("ml-latest-small"),
    "rlmrec-amazon-book": Variant("rlmrec-amazon-book"),
    "ml-1m-shuffled": Variant("ml-1m", _SHUFFLED),
    "ml-latest-small-shuffled": Variant("ml-latest-small", _SHUFFLED),
    "ml-latest-small-core20": Variant("ml-latest-small", _GIVEN, _RATED_CORE, "ml-latest-small-core20"),
    **{
        f"prime-pantry-core-{seed}": Variant(
            "prime-pantry",
            {"split": {"kind": "given"}, "negatives": None},
            partial(core_in_parts, core=5, seed=seed),
            "prime-pantry-core",
        )
        for seed in range(3)
    },
    **{
        f"{source}-rated": Variant(source, {"split": {"kind": "given"}, "negatives": None}, rated_in_parts, f"{source}-rated")
        for source in ("ml-1m", "ml-latest-small")
    },
}


def source_of(variant: str) -> str:
    """The public data set behind a variant; a folder that is no variant stands for itself."""
    return VARIANTS[variant].source if variant in VARIANTS else variant


def texts_of(variant: str) -> str:
    """Whose catalogue a variant has, which its knowledge base is named by."""
    return (VARIANTS[variant].texts if variant in VARIANTS else None) or source_of(variant)


def settings_of(variant: str) -> tuple[str, PrepareSettings]:
    """The data set's name and how the variant is prepared."""
    about = VARIANTS[variant]
    public = public_dataset(about.source)
    return public.name, parse(PrepareSettings, merge(public.settings.model_dump(), about.settings), f"variant {variant}")


def check_prepared(variant: str, folder: Path) -> None:
    """Raise DataError, naming what differs, where ``folder`` holds data that were prepared otherwise than the variant is.

    A folder of a name that is no variant stands for itself.
    """
    if variant not in VARIANTS or not (folder / "manifest.json").exists():
        return
    name, wanted = settings_of(variant)
    held = Dataset.open(folder, verify=False)
    there, here = ({"name": one, **two.model_dump()} for one, two in ((held.name, held.settings), (name, wanted)))
    if found := [f"{key} is {old} there and {new} in the table's" for key, old, new in unequal(there, here)]:
        raise DataError(
            f"{folder}: was prepared otherwise than the tables' '{variant}': {'; '.join(found)}; remove the folder, and "
            "'braidrec reproduce' prepares it anew, or name another place with --prepared"
        )


def unequal(held: Mapping[str, Any], wanted: Mapping[str, Any], at: str = "") -> list[tuple[str, str, str]]:
    """(key, its value there, its value here) of all that differs in nested values; keys with dots."""
    old, new = (dict(_flat(values, at)) for values in (held, wanted))
    keys = dict.fromkeys([*old, *new])
    return [(key, _said(old, key), _said(new, key)) for key in keys if _said(old, key) != _said(new, key)]


def _said(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "not there"


def _flat(values: Mapping[str, Any], at: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


def open_data(variant: str, folder: Path, tell: Callable[[str], None]) -> Dataset:
    """The data set in ``folder``, prepared there first where it is missing.

    Raises ConfigError for a missing folder of a name that is no variant, DataError when the public files cannot be found and
    for a folder that was prepared otherwise.
    """
    check_prepared(variant, folder)
    if (folder / "manifest.json").exists():
        return Dataset.open(folder)
    if variant not in VARIANTS:
        raise ConfigError(
            f"{folder}: no prepared data set is here, and '{variant}' is none that can be made{suggest(variant, VARIANTS)}"
        )
    source = source_of(variant)
    tell(f"preparing {variant} into {folder}")
    tables = public_dataset(source).read(locate(source))
    if (change := VARIANTS[variant].change) is not None:
        tables = change(tables)
    return Dataset.prepare(tables, folder, settings_of(variant)[1])


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
