"""braidrec: recommender systems from behaviour and meaning.

Names are imported when they are first used, so that ``import braidrec`` and ``braidrec --help`` stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from braidrec.data.dataset import Dataset as Dataset
    from braidrec.data.dataset import PrepareSettings as PrepareSettings
    from braidrec.data.intake.readers import ReadConfig as ReadConfig
    from braidrec.data.planted import example_tables as example_tables
    from braidrec.knowledge.base import KnowledgeBase as KnowledgeBase
    from braidrec.runs.choose import choose as choose
    from braidrec.runs.fit import fit as fit
    from braidrec.runs.knowledge import build as build_knowledge
    from braidrec.runs.knowledge import write_profiles as write_profiles
    from braidrec.runs.run import Run as Run
    from braidrec.runs.run import load as load

_WHERE = {
    "Dataset": ("braidrec.data.dataset", "Dataset"),
    "PrepareSettings": ("braidrec.data.dataset", "PrepareSettings"),
    "ReadConfig": ("braidrec.data.intake.readers", "ReadConfig"),
    "example_tables": ("braidrec.data.planted", "example_tables"),
    "KnowledgeBase": ("braidrec.knowledge.base", "KnowledgeBase"),
    "Run": ("braidrec.runs.run", "Run"),
    "choose": ("braidrec.runs.choose", "choose"),
    "build_knowledge": ("braidrec.runs.knowledge", "build"),
    "fit": ("braidrec.runs.fit", "fit"),
    "load": ("braidrec.runs.run", "load"),
    "write_profiles": ("braidrec.runs.knowledge", "write_profiles"),
}
__all__ = [
    "Dataset",
    "KnowledgeBase",
    "PrepareSettings",
    "ReadConfig",
    "Run",
    "build_knowledge",
    "choose",
    "example_tables",
    "fit",
    "load",
    "write_profiles",
]


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("braidrec")
    if name not in _WHERE:
        raise AttributeError(f"module 'braidrec' has no attribute '{name}' (it has: {', '.join(__all__)})")
    module, attribute = _WHERE[name]
    return getattr(import_module(module), attribute)
