"""What is kept of a model: earlier files read as today's, seeds as mean and spread, the same for a task from outside."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import small_runs
import toy_run
from braidrec.data.dataset import Dataset
from braidrec.errors import DataError, RunError
from braidrec.experiments import reproduce
from braidrec.experiments.cells import Row, Workshop, make_cell, paired_tests, summary
from braidrec.experiments.experiment import Experiment
from braidrec.experiments.measures import Simple, entry_of, read_cell, value_of
from braidrec.experiments.sdrl import JUDGED
from braidrec.files import read_json, write_json
from braidrec.registry import TASKS
from braidrec.runs.run import load
from small_sequences import LAST_TWO, tables_of

RANKING, SEQUENTIAL, COLLABORATIVE = (TASKS[name].metrics for name in ("ranking", "sequential", "collaborative"))
RANKED = tuple(
    metric for metric in JUDGED if "@" in metric.key
)  # items' classes are told by vectors, which not every model has
COMMITTED = sorted((Path(__file__).parents[2] / "results").glob("*/cells/*.json"))


def test_a_former_cell_of_a_ranking_model_is_read_as_one_of_today(tmp_path: Path) -> None:
    training = {"steps": 4, "seconds": 2.0, "samples_per_second": 8.0}
    best = {"check": 1, "step": 2, "metrics": {"auc": 0.9, "log_loss": 0.4}}
    former = {
        "row": "din",
        "seed": 1,
        "training": training,
        "best": best,
        "knowledge": None,
        "vocabulary": "train",
        "test": {"all": [10, 0.8, 0.5], "cold_items": [3, None, 0.75], "tail": [2, None, None]},
    }
    write_json(tmp_path / "cell.json", former)
    cell = read_cell(tmp_path / "cell.json", RANKING)
    assert cell["test"] == {
        "all": {"rows": 10, "auc": 0.8, "log_loss": 0.5},
        "cold_items": {"rows": 3, "log_loss": 0.75},
        "tail": {"rows": 2},
    }
    assert cell["phases"] == [{"name": "", "best": best, "training": training}]
    assert {key: cell[key] for key in former if key != "test"} == {key: former[key] for key in former if key != "test"}
    assert (value_of(cell, "auc"), value_of(cell, "log_loss")) == (0.8, 0.5)
    write_json(tmp_path / "again.json", cell)
    assert read_cell(tmp_path / "again.json", RANKING) == cell


def test_a_cell_of_a_next_item_model_is_read_as_it_is(tmp_path: Path) -> None:
    cell = {"phases": [], "best": None, "test": {"all": {"rows": 3, "hr@10": 0.5}}, "coverage": 0.25}
    write_json(tmp_path / "cell.json", cell)
    assert read_cell(tmp_path / "cell.json", SEQUENTIAL) == cell


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: f"{file.parts[-3]}/{file.stem}")
def test_every_committed_cell_has_what_tables_need(file: Path) -> None:
    of_paper = {"disco": RANKING, "edk": RANKING, "linear": COLLABORATIVE, "darec": COLLABORATIVE, "sdrl": RANKED}
    metrics = of_paper.get(file.parts[-3].partition("-")[0], SEQUENTIAL)
    cell = read_cell(file, metrics)
    if cell["command"] is None and metrics is RANKING:  # a ranking without learning, which gives no probabilities
        metrics = tuple(metric for metric in metrics if metric.key in cell["test"]["all"])
        assert metrics[0].key == "auc"
    assert f"{cell['row']}-s{cell['seed']}" == file.stem
    assert all(0 < value_of(cell, metric.key) < 1 for metric in metrics)
    assert all(part["rows"] >= 0 for part in cell["test"].values())
    entry = entry_of([cell], metrics)
    assert entry[f"test_{metrics[0].key}_by_seed"] == [value_of(cell, metrics[0].key)]
    assert (entry["training_seconds"]["mean"] > 0) == (cell["command"] is not None)


def ranking_cell(seed: int, auc: float, tail: float | None) -> dict[str, Any]:
    phase = {"name": "rank", "training": {"steps": 1, "seconds": 10.0 * seed, "samples_per_second": 100.0}}
    tails = {"rows": 2} | ({} if tail is None else {"auc": tail})
    test = {"all": {"rows": 10, "auc": auc, "log_loss": 0.5}, "tail": tails}
    return {
        "row": "x",
        "seed": seed,
        "phases": [phase],
        "best": {"metrics": {"auc": 0.75}},
        "monitors": {"norm": 1.0},
        "test": test,
    }


def test_cells_of_rankings_become_mean_and_spread() -> None:
    entry = entry_of([ranking_cell(1, 0.75, 0.5), ranking_cell(2, 0.25, None)], RANKING)
    assert entry["test_auc"] == {"mean": 0.5, "sd": pytest.approx(0.125**0.5)}
    assert entry["test_auc_by_seed"] == [0.75, 0.25]
    assert entry["test_log_loss"] == {"mean": 0.5, "sd": 0.0}
    assert entry["valid_auc"] == {"mean": 0.75, "sd": 0.0}
    assert entry["valid_log_loss"] is None
    assert entry["slices"] == {"tail": {"rows": 2, "auc": {"mean": 0.5, "sd": 0.0}, "log_loss": None}}
    assert entry["training_seconds"]["mean"] == 15.0
    assert not entry.keys() & {"row", "seed", "phases", "monitors", "coverage"}


def sequence_cell(coverage: float | None, shares: list[list[float]]) -> dict[str, Any]:
    metrics = {"hr@10": 0.5, "ndcg@10": 0.25, "mrr@10": 0.125}
    phases = [
        {"name": name, "training": {"steps": 1, "seconds": seconds, "samples_per_second": 10 * seconds}}
        for name, seconds in (("pretrain", 2.0), ("experts", 3.0))
    ]
    cell = {"phases": phases, "best": {"metrics": {"hr@10": 0.5}}, "test": {"all": {"rows": 4, **metrics}}}
    return {**cell, "coverage": coverage, "novelty": 3.0, "masked": 0.0, "gate": {"experts": ["id", "text"], "shares": shares}}


def test_cells_of_sequences_become_mean_and_spread_with_the_lists_and_the_gate() -> None:
    entry = entry_of([sequence_cell(0.5, [[1.0, 0.0]]), sequence_cell(None, [[0.5, 0.5]])], SEQUENTIAL)
    assert entry["test_hr@10"] == {"mean": 0.5, "sd": 0.0}
    assert entry["test_mrr@10_by_seed"] == [0.125, 0.125]
    assert entry["coverage"] == {"mean": 0.5, "sd": 0.0}
    assert entry["gate"] == {"experts": ["id", "text"], "shares": [[0.75, 0.25]]}
    assert entry["training_seconds"]["mean"] == 5.0
    assert entry["samples_per_second"]["mean"] == 30.0  # of the last phase


def test_a_ranking_without_learning_that_says_nothing_of_the_rows_is_an_error(tmp_path: Path) -> None:
    drawn = LAST_TWO.model_copy(update={"negatives": 2})
    data = Dataset.prepare(tables_of([[1, 2, 3, 4], [4, 3, 2, 1]], 9, "drawn"), tmp_path / "drawn", drawn)
    with pytest.raises(DataError, match="drawn: 'item-mean' says nothing about these test rows"):
        Simple("ranking", "item-mean", data.path).outcome(data)
    assert Simple("sequential", "popularity", data.path).outcome(data).values["rank"].shape == (2,)


# -- a task of another package -----------------------------------------------------------------------------------------------

TOY = Row("toy", "planted", "toy", seeds=(1, 2))
FLAT = replace(TOY, name="flat", model={"backbone": {"power": 1e-4}}, against="toy", published={"hr@10": 12.5})
POOL: Mapping[str, Mapping[str, Row]] = {"planted": {"toy": replace(TOY, published={"hr@10": 10.0}), "flat": FLAT}}


def test_a_task_from_outside_has_its_cells_entries_and_tests(tmp_path: Path) -> None:
    data = {"planted": small_runs.dataset().path}
    shop = Workshop(data, {}, tmp_path / "runs", tmp_path / "results", POOL["planted"])
    with toy_run.held():
        rows = list(POOL["planted"].values())
        for row in rows:
            assert [make_cell(row, seed, shop) for seed in row.seeds] == [True, True]
        cell = read_json(shop.cell_path(rows[0], 1), RunError)
        assert [phase["name"] for phase in cell["phases"]] == ["count", "again"]
        assert cell["edges"] == [1, 2]  # what the model says of itself
        run = load(shop.run_path(rows[0], 1))
        hits = float((run.outcome().values["rank"] <= 10).mean())
        assert cell["test"]["all"] == {"rows": len(run.dataset.split["test"]), "hr@10": pytest.approx(hits)}

        found = summary(rows, shop, reference={"flat": "toy"})
        plain, flat = found["rows"]
        assert plain["test_hr@10"] == {"mean": pytest.approx(hits), "sd": 0.0}
        assert plain["edges"] == [1, 2]
        assert flat["gain"]["over"] == "toy"
        assert flat["gain"]["hr@10"] == {
            "published": pytest.approx(0.25),
            "measured": pytest.approx(flat["test_hr@10"]["mean"] / plain["test_hr@10"]["mean"] - 1),
        }
        [test] = paired_tests(flat)
        assert (test["row"], test["metric"], test["seeds"]) == ("toy", "hr@10", [1, 2])
        assert test["difference"] == pytest.approx(flat["test_hr@10"]["mean"] - plain["test_hr@10"]["mean"])
        assert test["p_holm"] == test["p_value"]


def test_a_task_from_outside_has_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        reproduce.EXPERIMENTS,
        "toys/table1",
        Experiment("toys/table1", "what counting gives", POOL, ("toy", "flat"), reference="toy", notes=("of a toy",)),
    )
    folders = {name: tmp_path / name for name in ("prepared", "knowledge", "runs", "results")}
    folders["prepared"].mkdir()
    (folders["prepared"] / "planted").symlink_to(small_runs.dataset().path)
    with toy_run.held():
        table, tests, notes, file = reproduce.reproduce("toys/table1", **folders, tell=lambda line: None)
        assert "x100, gain over toy" in str(table.title)  # type: ignore[union-attr]
        cells = [list(column.cells) for column in table.columns]  # type: ignore[union-attr]
        assert [column.header for column in table.columns][:4] == ["model", "seeds", "HR@10\nprinted", "\nhere"]  # type: ignore[union-attr]
        assert cells[:3] == [["toy", "flat"], ["1,2", "1,2"], ["10.0000", "12.5000"]]
        entry = read_json(tmp_path / "results" / "toys-table1-planted.json", RunError)["rows"][1]
        assert cells[3][1] == f"{100 * statistics.fmean(entry['test_hr@10_by_seed']):.4f} ± 0.0000"
        assert cells[4:] == [["", "+25.00%"], ["", f"{entry['gain']['hr@10']['measured']:+.2%}"]]
        assert [next(iter(column.cells)) for column in tests.columns][:3] == ["flat", "toy", "HR@10"]  # type: ignore[union-attr]
        assert (notes, file) == ("note: of a toy", str(tmp_path / "results" / "toys-table1-planted.json"))
        listed = reproduce.listing(folders["results"])
        assert ["4", "4"] in [[list(column.cells)[at] for column in listed.columns[-2:]] for at in range(listed.row_count)]
    assert np.isfinite(entry["test_hr@10"]["mean"])
