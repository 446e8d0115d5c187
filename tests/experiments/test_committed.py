"""The tables under results/: today's code makes and prints them from their cells alone, with the numbers they had."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from braidrec.errors import RunError
from braidrec.experiments import cells, reproduce
from braidrec.experiments.experiment import Experiment
from braidrec.files import read_json

RESULTS = Path(__file__).parents[2] / "results"
TABLES = [(each, data) for each in reproduce.EXPERIMENTS.values() for data in each.rows if each.names]
# What readers were told: means of all seeds, times 100 for next items, and gains.
PRINTED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "pad/table2": {
        "sasrec": ("4.6694 ± 0.2723", "2.6989 ± 0.1483"),
        "sasrec-smem": ("6.3165 ± 0.1010", "3.6623 ± 0.0908", "+35.27%"),
        "sasrec-pad": ("6.6066 ± 0.2012", "3.8445 ± 0.0919", "+41.49%", "+42.45%", "+45.43%"),
        "markov": ("4.3120", "2.9102"),
        "sasrec-authors": ("1.6471", "0.6862"),
    },
    "pad/ml-1m": {"sasrec-full-ce": ("31.7881", "18.5834"), "markov": ("20.6126", "12.2676")},
    "disco/table2": {
        "din": ("0.7939 ± 0.0001", "0.5472 ± 0.0002", "0.7976", "0.5401"),
        "din-disco": ("0.7975 ± 0.0004", "0.5414 ± 0.0005", "+0.0036", "+0.0040"),
        "deepfm-disco": ("0.7982 ± 0.0005",),
    },
}


def made(experiment: Experiment, data: str, folder: Path) -> dict[str, Any]:
    """The summary of the committed cells, as `reproduce` writes it where no run is at hand."""
    nowhere = {row.data: folder for row in experiment.rows[data].values()}
    shop = cells.Workshop(nowhere, nowhere, folder, RESULTS / f"{experiment.paper}-{data}", experiment.rows[data])
    rows, file = experiment.table(data), table_file(experiment, data)
    earlier = reproduce._earlier(file, experiment.paper, data)
    found: dict[str, Any] = json.loads(json.dumps(cells.summary(rows, shop, earlier=earlier, reference=experiment.over(rows))))
    return found


def table_file(experiment: Experiment, data: str) -> Path:
    return RESULTS / f"{experiment.id.replace('/', '-')}-{data}.json"


def says(found: Any, committed: Any, where: str) -> None:
    """Wherever the committed table says something, the one made today says the same; it may say more."""
    if isinstance(committed, dict):
        for key, value in committed.items():
            says(found[key], value, f"{where}.{key}")
    elif isinstance(committed, list):
        assert len(found) == len(committed), where
        for at, (one, value) in enumerate(zip(found, committed, strict=True)):
            says(one, value, f"{where}[{at}]")
    else:
        assert found == committed, where


@pytest.mark.parametrize(("experiment", "data"), TABLES, ids=lambda part: getattr(part, "id", part))
def test_a_committed_table_is_made_and_printed_from_its_cells(experiment: Experiment, data: str, tmp_path: Path) -> None:
    table = made(experiment, data, tmp_path)
    assert table["rows"] or table["not_run"]  # a table that nobody has run yet says so
    if table_file(experiment, data).exists():
        committed = read_json(table_file(experiment, data), RunError)
        says(table["rows"], committed["rows"], experiment.id)
        assert set(committed["not_run"]) <= set(table["not_run"])  # one table was asked for with fewer seeds
    console = Console(file=StringIO(), width=250)
    for part in reproduce.render(experiment, data, experiment.table(data), table):
        console.print(part, markup=not isinstance(part, str))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert experiment.title in lines[0]
    for entry in table["rows"]:
        line = next(line for line in lines if experiment.label(entry["row"]) in [part.strip() for part in line.split("│")])
        for number in PRINTED.get(experiment.id, {}).get(entry["row"], ()):
            assert number in [part.strip() for part in line.split("│")], (entry["row"], number)


def test_what_was_printed_is_of_rows_that_are_there() -> None:
    known = {each.id: each for each in reproduce.EXPERIMENTS.values()}
    for id, rows in PRINTED.items():
        [pool] = known[id].rows.values()
        assert rows.keys() <= set(known[id].names) & pool.keys()
