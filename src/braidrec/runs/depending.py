"""Which runs were trained on a prepared folder, so that nobody replaces it unawares."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_DEPTH, _NAMED = 4, 5


def runs_on(folder: Path) -> list[Path]:
    """Run folders, finished or not, that name ``folder`` as their data: in ./runs, beside ``folder``, and in a folder "runs"
    there or one above.
    """
    parent = folder.absolute().parent
    places = [(Path("runs"), _DEPTH), (parent, 1), (parent / "runs", _DEPTH), (parent.parent / "runs", _DEPTH)]
    found: dict[str, Path] = {}
    for place, depth in places:
        for run in _runs_in(place, depth):
            if os.path.realpath(folder) in _data_of(run):
                found.setdefault(os.path.realpath(run), run)
    return sorted(found.values())


def warning(folder: Path, runs: list[Path]) -> str:
    """What replacing ``folder`` means for ``runs``, in words."""
    more = f" and {len(runs) - _NAMED:,} more" if len(runs) > _NAMED else ""
    named = ", ".join(map(str, runs[:_NAMED])) + more
    were = "1 run was" if len(runs) == 1 else f"{len(runs):,} runs were"
    return (
        f"{folder}: {were} trained on these data ({named}). Over a log that holds all of theirs they go on answering; to be "
        "evaluated, compared, resumed or started from they need the data that are replaced"
    )


def _runs_in(place: Path, depth: int) -> Iterator[Path]:
    """Folders with a config.toml, at most ``depth`` levels below ``place``; nothing is looked for inside a run."""
    try:
        below = sorted(each for each in place.iterdir() if each.is_dir() and not each.name.startswith("."))
    except OSError:
        return
    for each in below:
        if (each / "config.toml").is_file():
            yield each
        elif depth > 1:
            yield from _runs_in(each, depth - 1)


def _data_of(run: Path) -> set[str]:
    """Whole paths that its files give for its data; of what cannot be read, none."""
    config, record = _read(run / "config.toml", tomllib.loads), _read(run / "run.json", json.loads)
    found = set()
    if isinstance(data := config.get("data"), str):
        found.add(os.path.realpath(run / data if "paths" in config else data))
    about = record.get("data")
    if isinstance(about, dict) and isinstance(path := about.get("path"), str):
        found.add(os.path.realpath(path))
    return found


def _read(file: Path, parse: Any) -> dict[str, Any]:
    try:
        values = parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
