"""A table is a list of rows; a row is a model on a data set; a cell is one seed of it.

Each finished cell is one small JSON file with its settings, data, seed, time and version, so a long table is made in pieces
and goes on where it stopped; a cell that would be made from something else today is stale (`braidrec.experiments.provenance`),
and made anew.  Selection is on validation; the test part is scored once per cell, with the best weights.  What is
measured is the task's (`braidrec.experiments.measures`).
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from braidrec.data.dataset import Dataset
from braidrec.errors import RunError
from braidrec.evaluation.significance import holm, over_seeds
from braidrec.experiments.measures import Cell, Outcomes, Simple, entry_of, read_cell, run_cell, simple_cell, value_of
from braidrec.experiments.provenance import CELL_FORMAT, Provenance
from braidrec.experiments.rows import OFFLINE as OFFLINE
from braidrec.experiments.rows import Row as Row
from braidrec.experiments.rows import Workshop as Workshop
from braidrec.experiments.rows import encoder_name as encoder_name
from braidrec.files import read_json, write_json
from braidrec.runs.directory import environment, read_run
from braidrec.runs.fit import fit_config
from braidrec.runs.run import Run
from braidrec.strict import merge


def differences(row: Row, seed: int, shop: Workshop, made: Provenance | None = None) -> list[str] | None:
    """Why the cell is stale, empty where it is not; None where there is no cell.  made: to look at rows and data once."""
    file = shop.cell_path(row, seed)
    return (made or Provenance(shop)).differences(row, read_json(file, RunError)) if file.exists() else None


def make_cell(row: Row, seed: int, shop: Workshop) -> bool:
    """Train and evaluate one cell unless its file is there and not stale; True when it was made now."""
    file, made = shop.cell_path(row, seed), Provenance(shop)
    if (stale := differences(row, seed, shop, made)) is not None:
        if not stale:
            return False
        _set_aside(row, seed, shop)
    begun = time.monotonic()
    source = shop.source(row, seed)
    found = (
        simple_cell(source, row.metrics)
        if isinstance(source, Simple)
        else run_cell(train_row(row, seed, shop), row.metrics, row.measure)
    )
    head = {
        "row": row.name,
        "seed": seed,
        "command": None if row.simple else command(row, seed),
        "commit": _commit(),
        "seconds": round(time.monotonic() - begun, 1),
        **({} if (device := environment()["device"]) == "cpu" or isinstance(source, Simple) else {"device": device}),
    }
    write_json(file, head | made.record(row) | found)
    return True


def _set_aside(row: Row, seed: int, shop: Workshop) -> None:
    """Put a stale cell and its run directory, each with ".stale" behind its name, out of the way of what is made anew.

    The run goes first: whenever the process dies, what is made anew is trained anew.
    """
    for path in (shop.run_path(row, seed), shop.cell_path(row, seed)):
        if path.exists():
            names = (path.with_name(f"{path.name}.stale{number or ''}") for number in range(1_000))
            os.replace(path, next(each for each in names if not each.exists()))


def train_row(row: Row, seed: int, shop: Workshop) -> Run:
    """The finished run of one cell: trained, gone on with, or loaded.  Runs that give it a stage come first.

    A row says how it is trained, so the size of the log settles nothing.
    """
    starts = {}
    for stage in row.starts:
        giver = shop.origin(row, stage)
        train_row(giver, seed, shop)
        starts[stage] = str(shop.run_path(giver, seed))
    config = row.config(
        data=str(shop.prepared[row.data]),
        knowledge=(str(shop.knowledge_path(row)),) if row.reads_text else (),
        seed=seed,
        model=merge(row.model, {"start_from": starts}) if starts else row.model,
    )
    return fit_config(config, shop.run_path(row, seed), dataset=Dataset.open(shop.prepared[row.data]))


def command(row: Row, seed: int) -> str:
    """The command line that trains the cell, the folders named by what they hold."""
    parts = [f"braidrec fit --data {row.data} --backbone {row.backbone} --preset {row.preset} --seed {seed}"]
    if row.enhance:
        parts.append(f"--enhance {row.enhance}")
    if row.reads_text:
        parts.append("--knowledge KNOWLEDGE" + ("" if row.encoder == OFFLINE else f"-{encoder_name(row.encoder).upper()}"))
    for table, values in (("model", row.model), ("training", row.training)):
        parts += [f"--set {shlex.quote(f'{key}={_toml(value)}')}" for key, value in _flat(table, values)]
    parts += [f"--set model.start_from.{stage}=RUNS/{name}-s{seed}" for stage, name in row.starts.items()]
    return " ".join(parts)


def summary(
    rows: Sequence[Row],
    shop: Workshop,
    *,
    earlier: Sequence[Mapping[str, Any]] = (),
    reference: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Every row with its seeds, mean, spread, published value and paired tests; rows without a cell are listed as not run.

    earlier: summaries made before, whose tests are kept for rows whose run directories are no longer here, of fewer seeds where
    cells of others came later
    reference: row -> row that its gain is over, on the seeds that both have
    Tests are those of a row against each of its ``against`` that is in the table, on shared seeds; Holm's correction is over
    all tests of the table that have one `Row.family`: ``p_value`` of a test is raw, ``p_holm`` adjusted, ``holm_over`` the
    size of the family.  Those of a named one hold the same ``over_seeds``: of users and seeds, both drawn (`over_seeds`).
    Stale cells are listed with what differs.  They are left out; a row that has no others shows them, marked, without a gain
    and without tests.
    """
    outcomes, by_name, made = Outcomes(), {row.name: row for row in rows}, Provenance(shop)
    states = {row.name: {seed: differences(row, seed, shop, made) for seed in row.cells} for row in rows}
    done = {name: [seed for seed, why in seeds.items() if why == []] for name, seeds in states.items()}
    cells = {name: _read(by_name[name], seeds, shop) for name, seeds in done.items() if seeds}
    entries: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.name in cells:
            entries[row.name] = _entry(row, list(cells[row.name].values()))
        elif old := _read(row, [seed for seed, why in states[row.name].items() if why], shop):
            entries[row.name] = _entry(row, list(old.values())) | {"stale": True}
    before = [{entry["row"]: entry for entry in each["rows"]} for each in earlier]
    families: dict[str, list[dict[str, Any]]] = {}
    for name in cells:
        row, entry = by_name[name], entries[name]
        over = (reference or {}).get(name, name)
        if over != name and over in cells:
            entry["gain"] = _gain(row, by_name[over], cells)
        found = [
            each
            for other in row.references
            if other in cells
            for each in _tests(row, by_name[other], _shared(row, by_name[other], done), shop, outcomes, cells, entries, before)
        ]
        if found:
            entry["against"] = [_in_family(test, row.family) for test in found]
            families.setdefault(row.family, []).extend(entry["against"])
    for tests in families.values():
        _adjust(tests)
        _adjust([test["over_seeds"] for test in tests if test.get("over_seeds") is not None])
    each_state = [(f"{name} s{seed}", why) for name, seeds in states.items() for seed, why in seeds.items()]
    return {
        "environment": environment(),
        "rows": list(entries.values()),
        "not_run": [cell for cell, why in each_state if why is None],
        "stale": [{"cell": cell, "differs": why} for cell, why in each_state if why],
        "digest_from_command": sum("digest_from" in cell for own in cells.values() for cell in own.values()),
    }


def _read(row: Row, seeds: Sequence[int], shop: Workshop) -> dict[int, Cell]:
    """By seed; what a later version wrote is left out."""
    files = {seed: shop.cell_path(row, seed) for seed in seeds}
    readable = {seed: file for seed, file in files.items() if read_json(file, RunError).get("format", 1) <= CELL_FORMAT}
    return {seed: read_cell(file, row.metrics) for seed, file in readable.items()}


def _in_family(test: Mapping[str, Any], family: str) -> dict[str, Any]:
    """A test as a table with such a family has it, whichever table it was made for."""
    found = {key: value for key, value in test.items() if key not in ("family", "over_seeds")}
    if not family:
        return found
    seeds = over_seeds(*(test[key] for key in ("difference", "per_seed", "low", "high", "clusters")))
    return found | {"family": family, "over_seeds": None if seeds is None else asdict(seeds)}


def _adjust(tests: Sequence[dict[str, Any]]) -> None:
    """Holm's correction over all of them."""
    for test, adjusted in zip(tests, holm([test["p_value"] for test in tests]) if tests else [], strict=True):
        test |= {"p_holm": float(adjusted), "holm_over": len(tests)}


def paired_tests(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The paired tests of a row in a summary, one per reference and metric; earlier summaries may hold a single one."""
    found = entry.get("against", [])
    return list(found) if isinstance(found, list) else [found]


def _entry(row: Row, cells: Sequence[Cell]) -> dict[str, Any]:
    return {
        "row": row.name,
        "data": row.data,
        "preset": row.preset,
        "vocabulary": cells[0]["vocabulary"],
        "knowledge": cells[0]["knowledge"],
        "note": row.note,
        "published": row.printed,
        "seeds": [cell["seed"] for cell in cells],
        **({"devices": found} if (found := sorted({cell["device"] for cell in cells if "device" in cell})) else {}),
        **entry_of(cells, row.metrics),
        "command": cells[0]["command"],
    }


def _shared(row: Row, other: Row, done: Mapping[str, Sequence[int]]) -> list[int]:
    """Seeds that both rows have a cell of; the one cell of a row that no seed changes goes with every seed."""
    own, others = done[row.name], done[other.name]
    if row.once or other.once:
        return list(others if row.once and not other.once else own)
    return [seed for seed in own if seed in others]


def _gain(row: Row, over: Row, cells: Mapping[str, Mapping[int, Cell]]) -> dict[str, Any]:
    """What ``row`` is better by, in print and here: a share of the reference, or a difference of AUC or log loss."""
    seeds = _shared(row, over, {each.name: list(cells[each.name]) for each in (row, over)})

    def mean(each: Row, key: str) -> float | None:
        """None where a cell does not have it."""
        own = [cells[each.name][each.cells[0] if each.once else seed] for seed in seeds]
        known = all(key in cell["test"]["all"] for cell in own)
        return statistics.fmean(value_of(cell, key) for cell in own) if own and known else None

    found: dict[str, Any] = {"over": over.name, "seeds": seeds}
    for metric in (each for each in row.metrics if each.shown):
        key, printed = metric.key, (row.printed or {}, over.printed or {})
        sides = {
            "published": (printed[0][key], printed[1][key]) if all(key in each for each in printed) else None,
            "measured": (mean(row, key), mean(over, key)),
        }
        found[key] = {name: _better(*pair, relative=metric.relative) if pair else None for name, pair in sides.items()}
    return found


def _better(value: float | None, reference: float | None, *, relative: bool) -> float | None:
    if value is None or reference is None:
        return None
    if not relative:
        return value - reference
    return value / reference - 1 if reference else None


def _tests(
    row: Row,
    other: Row,
    seeds: list[int],
    shop: Workshop,
    outcomes: Outcomes,
    cells: Mapping[str, Mapping[int, Cell]],
    entries: Mapping[str, Mapping[str, Any]],
    before: Sequence[Mapping[str, Mapping[str, Any]]],
) -> list[dict[str, Any]]:
    """Paired tests on what the runs stored; where they are not here, those of an earlier summary of the cells, by as many of
    the seeds as it had.
    """
    if not seeds or row.of_task is not other.of_task:
        return []
    if all(_at_hand(each, seeds, shop, cells[each.name]) for each in (row, other)):
        own, others = ([shop.source(each, seed) for seed in seeds] for each in (row, other))
        found = outcomes.tests(own, others, row.of_task.name, row.tested)
        return [{"row": other.name, "seeds": seeds, **asdict(test)} for test in found]
    kept = [_kept(old, row.name, other.name, seeds, entries) for old in before if row.name in old and other.name in old]
    return max(filter(None, kept), key=lambda tests: len(tests[0]["seeds"]), default=[])


def _kept(
    old: Mapping[str, Mapping[str, Any]], row: str, other: str, seeds: Sequence[int], entries: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Tests of one row against another in an earlier summary, where they are of these seeds and of the cells that are here."""
    found = [dict(test) for test in paired_tests(old[row]) if test["row"] == other and set(test["seeds"]) <= set(seeds)]
    own = found[0]["seeds"] if found else []  # the same in all of them
    same = all(_alike(_by_seed(old[name], own), _by_seed(entries[name], own)) for name in (row, other))
    return found if same else []


def _at_hand(row: Row, seeds: Sequence[int], shop: Workshop, cells: Mapping[int, Cell]) -> bool:
    """Whether what the cells were made from can be read here: a folder of the same name may hold a run trained otherwise."""
    if not shop.at_hand(row, seeds):
        return False
    return row.simple or all(
        cells[seed]["best"]["metrics"] == read_run(shop.run_path(row, seed))[1]["best"]["metrics"]
        for seed in (row.cells if row.fixed else seeds)
    )


def _by_seed(entry: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, list[float]]:
    """What an entry says of each of the seeds."""
    wanted = [at for at, seed in enumerate(entry["seeds"]) if seed in seeds or seed == 0 or len(entry["seeds"]) == 1]
    return {key: [values[at] for at in wanted] for key, values in entry.items() if key.endswith("_by_seed")}


def _alike(old: Mapping[str, list[float]], new: Mapping[str, list[float]]) -> bool:
    """Whether two entries say the same of the metrics that both have."""
    shared = old.keys() & new.keys()
    return bool(shared) and all(old[key] == new[key] for key in shared)


def _flat(prefix: str, values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        found += _flat(f"{prefix}.{key}", value) if isinstance(value, Mapping) else [(f"{prefix}.{key}", value)]
    return found


def _toml(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | list | tuple) else str(value)


def _commit() -> str:
    """The checkout's commit, "+" behind it when files differ; "unknown" outside a checkout."""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain", "src"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if dirty else "")
