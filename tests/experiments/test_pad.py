"""PAD's tables as data: published numbers that agree with one another, rows that can be trained as they stand."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import toy_tables

from braidrec.config import parse_changes, read_request, resolve
from braidrec.errors import RunError
from braidrec.experiments.cells import Row, command, make_cell
from braidrec.experiments.experiment import Experiment, cells_needed
from braidrec.experiments.pad import COUNTS, EXPERIMENTS, ML_1M_ROWS, PANTRY, PANTRY_ROWS, PUBLISHED
from braidrec.experiments.reproduce import EXPERIMENTS as ALL
from braidrec.files import read_json
from braidrec.strict import merge


def gain(data: str, row: str, over: str, metric: str) -> float:
    return 100 * (PUBLISHED[data][row][metric] / PUBLISHED[data][over][metric] - 1)


def test_printed_gains_follow_from_the_printed_cells() -> None:
    for data, hr, ndcg in (("mind", 10.84, 12.15), ("electronics", 48.05, 93.67), (PANTRY, 45.43, 47.80)):
        assert gain(data, "sasrec-pad", "sasrec", "hr@10") == pytest.approx(hr, abs=0.01)
        assert gain(data, "sasrec-pad", "sasrec", "ndcg@10") == pytest.approx(ndcg, abs=0.01)
    for data, over_smem in (("mind", 1.51), ("electronics", 7.60), (PANTRY, 9.54)):
        assert gain(data, "sasrec-pad", "sasrec-smem", "ndcg@10") == pytest.approx(over_smem, abs=0.01)
    table_3 = {
        "mind": (23.73, 28.04, 4.25, 12.41),
        "electronics": (30.57, 43.73, 10.53, 6.20),
        PANTRY: (47.75, 49.59, 115.49, 33.16),
    }
    for data, printed in table_3.items():
        found = [gain(data, f"{name}-pad", name, metric) for name in ("gru4rec", "caser") for metric in ("hr@10", "ndcg@10")]
        assert found == pytest.approx(printed, abs=0.03)


def test_printed_hit_rates_on_pantry_are_whole_users() -> None:
    users = COUNTS[PANTRY][0]
    hits = {
        "sasrec": 339,
        "sasrec-hybrid": 399,
        "sasrec-morec": 408,
        "sasrec-ctrl": 361,
        "sasrec-make": 430,
        "sasrec-disco": 365,
        "sasrec-smem": 442,
        "sasrec-pad": 493,
        "gru4rec": 222,
        "gru4rec-pad": 328,
        "caser": 84,
        "caser-pad": 181,
    }
    assert hits.keys() == PUBLISHED[PANTRY].keys()
    for row, count in hits.items():
        assert PUBLISHED[PANTRY][row]["hr@10"] == pytest.approx(100 * count / users, abs=1e-4)


@pytest.mark.parametrize("experiment", ALL.values(), ids=lambda each: each.id)
def test_every_experiment_is_whole(experiment: Experiment) -> None:
    assert experiment.title
    for data, pool in experiment.rows.items():
        rows = experiment.table(data)
        names = [row.name for row in rows]
        assert len(set(names)) == len(names)
        assert all(name == row.name for name, row in pool.items())
        assert all(reference in pool for row in pool.values() for reference in row.references)
        assert set(experiment.labels) <= pool.keys()
        over = experiment.over(rows)
        assert set(over.values()) <= pool.keys()
        plan = [(row.name, seed) for row, seed in cells_needed(rows, pool)]
        assert len(set(plan)) == len(plan)
        for row, seed in cells_needed(rows, pool):
            for giver in row.starts.values():
                assert plan.index((giver, seed)) < plan.index((row.name, seed))


def test_the_paper_s_tables_and_figures_are_there() -> None:
    names = {each.id.removeprefix("pad/") for each in EXPERIMENTS}
    assert names >= {"table1", "table2", "table3", *(f"rq{number}" for number in range(2, 7)), "fig2", "fig3", "fig6", "fig7"}
    table_2 = next(each for each in EXPERIMENTS if each.id == "pad/table2").table(PANTRY, 5)
    assert [row.name for row in table_2[:8]] == list(PUBLISHED[PANTRY])[:8]
    assert [row.name for row in table_2 if row.simple] == ["markov", "item-knn", "popularity"]
    assert {row.seeds for row in table_2 if not row.ablation} == {(1, 2, 3, 4, 5)}
    assert {row.seeds for row in table_2 if row.ablation} == {(1,), (1, 2, 3)}
    assert all(row.references for row in table_2 if row.published and not row.ablation and row.name != "sasrec")


def resolved(row: Row) -> tuple[object, object]:
    """The row's settings, once as `make_cell` passes them, and once from its own command line."""
    starts: Mapping[str, object] = {stage: f"RUNS/{name}-s1" for stage, name in row.starts.items()}
    request = {"data": row.data, "backbone": row.backbone, "preset": row.preset, "training": row.training}
    request |= {"enhance": row.enhance} if row.enhance else {}
    request["model"] = merge(row.model, {"start_from": starts}) if starts else row.model
    typed = shlex.split(command(row, 1))
    changes = [typed[at + 1] for at, part in enumerate(typed) if part == "--set"]
    plain = {key: value for key, value in request.items() if key not in ("model", "training")}
    return (
        resolve(read_request(None, request), row.name),
        resolve(read_request(None, merge(plain, parse_changes(changes))), row.name),
    )


@pytest.mark.parametrize(
    "row", [row for row in (*PANTRY_ROWS.values(), *ML_1M_ROWS.values()) if not row.simple], ids=lambda row: row.name
)
def test_every_row_can_be_resolved_and_its_command_says_the_same(row: Row) -> None:
    given, typed = resolved(row)
    assert given == typed


def test_rows_that_differ_have_settings_that_differ() -> None:
    found: dict[str, str] = {}
    for row in PANTRY_ROWS.values():
        if not row.simple:
            key = repr((resolved(row)[0], row.encoder))
            assert key not in found, (row.name, found.get(key))
            found[key] = row.name


def test_every_row_trains_and_is_measured(tmp_path: Path) -> None:
    folders = toy_tables.folders(tmp_path)
    shop = replace(toy_tables.shop(tmp_path), knowledge={toy_tables.DATA: folders["knowledge"] / toy_tables.DATA})
    for row, seed in cells_needed([replace(row, seeds=(1,)) for row in shop.rows.values()], shop.rows):
        assert make_cell(row, seed, shop)
        cell = read_json(shop.cell_path(row, seed), RunError)
        assert cell["test"]["all"]["rows"] == 150
        assert ("gate" in cell) == (row.enhance in ("pad", "smem", "make"))
