"""Tables made cell by cell: once each, resumable, tested in pairs."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

import small_runs
from braidrec.data.dataset import Dataset
from braidrec.errors import RunError
from braidrec.experiments import cells, disco
from braidrec.experiments.cells import Row, Workshop, command, make_cell, summary
from braidrec.files import read_json

PLAIN = Row("din", "planted", "din", model=small_runs.MODEL, training=small_runs.TRAINING, seeds=(1, 2), published=(0.8, 0.5))
DISCO = replace(PLAIN, name="din-disco", enhance="disco", against="din")
LATE = replace(DISCO, name="din-disco-late", note="never started")


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    data = {"planted": small_runs.dataset().path}
    return Workshop(data, {"planted": small_runs.knowledge()}, tmp_path / "runs", tmp_path / "results")


def test_cells_are_made_once_and_summed_up_with_what_is_missing(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    assert summary([PLAIN], shop)["not_run"] == ["din s1", "din s2"]
    for row, seed in ((PLAIN, 1), (PLAIN, 2), (DISCO, 1)):
        assert make_cell(row, seed, shop)
    with monkeypatch.context() as patch:
        patch.setattr(cells, "fit", None)  # calling it would fail
        assert not make_cell(PLAIN, 1, shop)
    cell = read_json(shop.cell_path(DISCO, 1), RunError)
    assert cell["knowledge"] == "tfidf"
    assert cell["test"]["all"][0] == len(small_runs.dataset().split["test"])
    assert {"prediction", "disentanglement", "norm TT"} <= cell["monitors"].keys()

    found = summary([PLAIN, DISCO, LATE], shop)
    assert found["not_run"] == ["din-disco s2", "din-disco-late s1", "din-disco-late s2"]
    plain, enhanced = found["rows"]
    assert plain["seeds"] == [1, 2]
    assert plain["published"] == {"auc": 0.8, "log_loss": 0.5}
    assert plain["test_auc"]["mean"] == pytest.approx(sum(plain["test_auc_by_seed"]) / 2)
    assert plain["test_auc"]["sd"] > 0
    assert "against" not in plain
    assert enhanced["against"]["row"] == "din"
    assert enhanced["against"]["seeds"] == [1]
    assert enhanced["against"]["difference"] == pytest.approx(
        enhanced["test_auc_by_seed"][0] - plain["test_auc_by_seed"][0], abs=1e-6
    )
    assert enhanced["against"]["p_holm"] >= enhanced["against"]["p_value"]
    assert found["environment"]["versions"]["torch"]


def test_without_the_runs_there_are_numbers_but_no_test(shop: Workshop) -> None:
    for row in (PLAIN, DISCO):
        make_cell(row, 1, shop)
    gone = replace(shop, runs=shop.runs / "moved")
    assert "against" not in summary([PLAIN, DISCO], gone)["rows"][1]


def test_rows_on_other_test_rows_are_not_tested_against_each_other(shop: Workshop) -> None:
    longer = Dataset.prepare(small_runs.rich_tables(), shop.results / "rich")
    both = replace(shop, prepared={**shop.prepared, "rich": longer.path})
    rich = replace(PLAIN, name="rich", data="rich", against="din")
    make_cell(PLAIN, 1, both)
    make_cell(rich, 1, both)
    assert "against" not in summary([PLAIN, rich], both)["rows"][1]


def test_the_command_of_a_cell_says_all_that_was_set() -> None:
    row = Row("x", "ml-1m", "dcn", "disco", model={"statistics": True, "enhance": {"inter": False}}, training={"lr": 0.001})
    assert command(row, 7) == (
        "braidrec fit --data ml-1m --backbone dcn --preset ours --seed 7 --enhance disco --knowledge KNOWLEDGE "
        "--set model.statistics=true --set model.enhance.inter=false --set training.lr=0.001"
    )
    assert "--knowledge" in command(Row("x", "ml-1m", "din", preset="authors"), 1)
    assert "--knowledge" not in command(Row("x", "ml-1m", "din", preset="authors", model={"history": {"kind": "recent"}}), 1)


def test_the_rows_of_the_paper_s_tables_are_complete_and_can_be_resolved() -> None:
    from braidrec.config import parse_changes, read_request, resolve

    rows = disco.all_rows()
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    assert all(row.against is None or row.against in names for row in rows)
    for row in rows:
        request = {"data": row.data, "backbone": row.backbone, "preset": row.preset, "knowledge": "k"}
        request |= {"model": row.model, "training": row.training} | ({"enhance": row.enhance} if row.enhance else {})
        config = resolve(read_request(None, request), row.name)
        given = command(row, 1).split("--set ")[1:]
        plain = {key: request[key] for key in request if key not in ("model", "training")}
        assert resolve(read_request(None, plain | parse_changes([each.strip() for each in given])), row.name) == config


def test_the_module_makes_what_was_asked_for_and_writes_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "planted").symlink_to(small_runs.dataset().path)
    (tmp_path / "knowledge").mkdir()
    (tmp_path / "knowledge" / "ml-1m").symlink_to(small_runs.knowledge())
    monkeypatch.setattr(disco, "all_rows", lambda: [PLAIN, replace(PLAIN, name="other")])
    folders = [part for name in ("prepared", "knowledge", "runs", "results") for part in (f"--{name}", str(tmp_path / name))]
    monkeypatch.setattr(sys, "argv", ["disco", *folders, "--only", "din", "--minutes", "5"])
    disco.main()
    assert "din s2 done" in capsys.readouterr().err
    found = read_json(tmp_path / "results.json", RunError)
    assert found["not_run"] == ["other s1", "other s2"]
    assert len(found["rows"]) == 1
    monkeypatch.setattr(sys, "argv", [*sys.argv[:-1], "0"])
    disco.main()
    assert "done" not in capsys.readouterr().err
