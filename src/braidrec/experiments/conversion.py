"""Cells that were made before cells kept what they were made from get what their command gives today, marked so.

    convert(results/<paper>-<data>, rows)    then rewrite(results), and braidrec reproduce --page docs/results.md

``digest_from`` then says "command", or "row" for a ranking without learning, which has no command; such a cell has no
fingerprint of its data.  A command that can no longer be resolved leaves the cell without settings, which is stale.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from braidrec.config import RunRequest, parse_changes, resolve
from braidrec.errors import ConfigError, RunError
from braidrec.experiments.cells import command
from braidrec.experiments.material import VARIANTS, settings_of
from braidrec.experiments.provenance import Facts, Provenance, data_facts, record, run_facts
from braidrec.experiments.reproduce import EXPERIMENTS, from_cells, heading, table_file
from braidrec.experiments.rows import Row, Workshop
from braidrec.files import read_json, write_json
from braidrec.strict import merge, parse

_OPTIONS = ("--data", "--backbone", "--preset", "--seed")


def convert(
    folder: Path, rows: Mapping[str, Row], *, moved: Mapping[str, Row] | None = None, leave: Collection[str] = ()
) -> list[str]:
    """Convert the cells of a table's ``folder`` that keep no digest; returns the names of their files as they now are.

    rows: by name; what a ranking without learning is made of    leave: names of rows whose cells stay as they are
    moved: row -> row that its cells are of from now on, whose command is then taken for the one that made them
    """
    done = []
    for file in sorted((folder / "cells").glob("*.json")):
        cell = read_json(file, RunError)
        if cell["row"] in leave or ("format" in cell and cell["row"] not in (moved or {})):
            continue
        target = file
        if (row := (moved or {}).get(cell["row"])) is not None:
            target = file.with_name(f"{row.name}-s{cell['seed']}.json")
            cell |= {"row": row.name, "command": None if row.simple else command(row, cell["seed"])}
        head = {key: cell.pop(key) for key in ("row", "seed", "command", "commit", "seconds", "device") if key in cell}
        write_json(target, head | _record(file.parent, cell["vocabulary"], head, rows) | cell)
        if target != file:
            file.unlink()
        done.append(target.name)
    return done


def rewrite(results: Path) -> list[str]:
    """Write the result files of ``results`` again from their cells; returns their names.

    The machine that they name and the values of figures stay, since their runs may be no more.
    """
    done = []
    for experiment in EXPERIMENTS.values():
        for data in experiment.rows:
            file = table_file(experiment, data, results)
            if file.exists():
                old, new = read_json(file, RunError), {**heading(experiment, data), **from_cells(experiment, data, results)}
                extra = {key: value for key, value in old.items() if key not in new}
                write_json(file, {**new, "environment": old["environment"], **extra})
                done.append(file.name)
    return done


def _record(cells: Path, vocabulary: str, head: Facts, rows: Mapping[str, Row]) -> Facts:
    if head["command"] is None:
        row = rows[head["row"]]
        settings = Provenance(Workshop({}, {}, Path(), Path(), rows)).settings(row)
        return {**record(settings, _data(row.data, vocabulary)), "digest_from": "row"}
    try:
        settings, data = facts_of_command(head["command"], head["seed"], cells)
    except (ConfigError, RunError) as cause:
        unknown = record({}, None) | {"digest": None, "settings": None}
        return {**unknown, "digest_from": "command", "unresolved": str(cause)}
    return {**record(settings, _data(data, vocabulary)), "digest_from": "command"}


def _data(variant: str, vocabulary: str) -> Facts | None:
    """What a variant is today, with the vocabulary that the cell says; None for a folder that is no variant."""
    if variant not in VARIANTS:
        return None
    name, settings = settings_of(variant)
    return data_facts(name, settings, None) | {"vocabulary": vocabulary}


def facts_of_command(text: str, seed: int, cells: Path) -> tuple[Facts, str]:
    """What the command line of a cell gives today, and the name of its data.

    cells: the folder with the cells of the rows whose runs it starts from.  Raises ConfigError for a command that is none, or
    cannot be resolved, RunError where a cell that it starts from is missing.
    """
    given: dict[str, Any] = {}
    changes, encoder, parts = [], None, shlex.split(text)
    if parts[:2] != ["braidrec", "fit"] or len(parts) % 2:
        raise ConfigError(f"{text!r}: expected 'braidrec fit' with options that have a value each")
    for option, value in zip(parts[2::2], parts[3::2], strict=True):
        if option == "--set":
            changes.append(value)
        elif option == "--enhance":
            given["enhance"] = [*given.get("enhance", []), value]
        elif option == "--knowledge":
            encoder = value.removeprefix("KNOWLEDGE").removeprefix("-").lower() or "offline"
        elif option in _OPTIONS:
            given[option.removeprefix("--")] = value
        else:
            raise ConfigError(
                f"{text!r}: has the option {option}, accepted: {', '.join(_OPTIONS)}, --enhance, --knowledge, --set"
            )
    if given.get("seed") != str(seed):
        raise ConfigError(f"{text!r}: its seed is {given.get('seed')}, the cell's {seed}")
    values = merge({**given, "seed": seed}, parse_changes(changes))
    model = dict(values.get("model", {}))
    starts = {stage: _row_name(where, seed) for stage, where in model.pop("start_from", {}).items()}
    config = resolve(parse(RunRequest, {**values, "model": model}, "command"), "command")
    givers: dict[str, Facts] = {}
    for name in dict.fromkeys(starts.values()):
        other = read_json(cells / f"{name}-s{seed}.json", RunError)
        givers[name] = facts_of_command(other["command"], seed, cells)[0]
    reads_text = config.chosen.task.room().reads_text(config)  # a base that is given is not read by every model
    return run_facts(config, encoder if reads_text else None, starts, givers), config.data


def _row_name(where: str, seed: int) -> str:
    """``RUNS/<row>-s<seed>`` -> <row>."""
    name = where.removeprefix("RUNS/").removesuffix(f"-s{seed}")
    if where != f"RUNS/{name}-s{seed}":
        raise ConfigError(f"starts from {where!r}; accepted: RUNS/<row>-s{seed}")
    return name
