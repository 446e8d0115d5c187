"""`reproduce`, end to end on a tiny data set: cells once, tables with published numbers, figures from the runs."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_tables
from rich.console import Console

import small_runs
from braidrec.data.dataset import Dataset
from braidrec.data.intake.sources import DATA_SETS
from braidrec.data.intake.sources.public import PublicDataset
from braidrec.data.popularity import training_counts
from braidrec.errors import ConfigError, RunError
from braidrec.experiments import cells, material, reproduce
from braidrec.experiments.experiment import Experiment
from braidrec.experiments.pad_figures import validation_pairs
from braidrec.files import read_json
from braidrec.runs.run import load

TINY = "pad/tiny"  # a small table 2 with numbers printed for the toy data
NAMES = ("sasrec", "sasrec-smem", "sasrec-pad", "markov", "sasrec-pad-no-text")
PRINTED = {"sasrec": {"hr@10": 2.6338, "ndcg@10": 1.2926}, "sasrec-pad": {"hr@10": 3.8303, "ndcg@10": 1.9104}}


def shown(parts: list[Any]) -> str:
    console = Console(file=StringIO(), width=200)
    for part in parts:
        console.print(part, markup=not isinstance(part, str))
    return console.file.getvalue()  # type: ignore[attr-defined]


def tiny() -> Experiment:
    more = {"title": "tiny", "published": {toy_tables.DATA: PRINTED, "mind": {}}, "encoder_row": "sasrec-pad"}
    found = toy_tables.experiment("pad/table2", NAMES, **more)
    return replace(found, id=TINY)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reproduce.EXPERIMENTS, TINY, tiny())
    for name in ("fig2", "fig3", "fig6", "fig7", "gate"):
        monkeypatch.setitem(reproduce.EXPERIMENTS, f"pad/{name}", toy_tables.experiment(f"pad/{name}"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All cells of the figures and of the tiny table, one seed each."""
    folders = toy_tables.folders(tmp_path_factory.mktemp("reproduce"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(reproduce.EXPERIMENTS, TINY, tiny())
        for name in ("fig3", "fig6"):
            patch.setitem(reproduce.EXPERIMENTS, f"pad/{name}", toy_tables.experiment(f"pad/{name}"))
        for id in (TINY, "pad/fig3", "pad/fig6"):
            reproduce.reproduce(id, None, 1, **folders)
    return folders


def test_a_table_is_made_in_pieces_and_every_cell_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders, lines = toy_tables.folders(tmp_path), list[str]()
    text = shown(reproduce.reproduce(TINY, "toy", 1, **folders, minutes=0, tell=lines.append))
    assert lines == ["0 min are used: 5 of 5 cells are left for another time"]
    assert text.count("not run") == 5
    assert "+45.43%" in text  # the published gain needs no run

    lines.clear()
    reproduce.reproduce(TINY, "toy", 1, **folders, only="sasrec, mark*", tell=lines.append)
    assert [line.split(",")[0] for line in lines if "begun" in line] == ["[1/2] sasrec s1", "[2/2] markov s0"]
    assert lines[1].startswith("[1/2] sasrec s1 is done")
    table = read_json(folders["results"] / "pad-tiny-toy.json", RunError)
    assert [entry["row"] for entry in table["rows"]] == ["sasrec", "markov"]
    assert table["not_run"] == ["sasrec-smem s1", "sasrec-pad s1", "sasrec-pad-no-text s1"]

    lines.clear()
    real, trained = cells.fit_config, list[str]()
    monkeypatch.setattr(cells, "fit_config", lambda *given, **named: (trained.append(given[1].name), real(*given, **named))[1])
    reproduce.reproduce(TINY, "toy", 1, **folders, only="sasrec-smem", tell=lines.append)
    assert trained == ["sasrec-pad-s1", "sasrec-pad-s1", "sasrec-smem-s1"]  # the giver first; then only loaded
    assert [line.split(",")[0] for line in lines if "begun" in line] == ["[1/2] sasrec-pad s1", "[2/2] sasrec-smem s1"]
    assert (folders["results"] / "pad-toy" / "cells" / "sasrec-pad-s1.json").exists()
    assert (folders["runs"] / "toy" / "sasrec-pad-s1" / "run.json").exists()


def test_the_table_shows_both_numbers_gains_and_tests(place: dict[str, Path]) -> None:
    text = shown(reproduce.reproduce(TINY, "toy", 1, **place))
    table = read_json(place["results"] / "pad-tiny-toy.json", RunError)
    assert table["experiment"] == TINY
    assert table["not_run"] == []
    entry = next(each for each in table["rows"] if each["row"] == "sasrec-pad")
    for value in ("2.6338", "3.8303", f"{100 * entry['test_hr@10']['mean']:.4f}", f"{entry['gain']['hr@10']['measured']:+.2%}"):
        assert value in text
    assert entry["gain"]["hr@10"]["published"] == pytest.approx(0.4543, abs=1e-4)
    assert "±" not in text  # one seed has no spread
    assert "text here read by tfidf" in text
    assert "note: published PAD cells derived from the printed gains" in text
    assert "two-sided, Holm over this table" in text
    assert f"{cells.paired_tests(entry)[0]['p_holm']:.4f}" in text
    assert "not run" not in text


def test_tests_are_kept_where_the_runs_are_gone_from_any_table_of_the_cells(place: dict[str, Path], tmp_path: Path) -> None:
    reproduce.reproduce(TINY, "toy", 1, **place)
    before = read_json(place["results"] / "pad-tiny-toy.json", RunError)
    results = shutil.copytree(place["results"], tmp_path / "results")
    elsewhere = {name: tmp_path / name for name in ("prepared", "knowledge", "runs")} | {"results": results}
    reproduce.reproduce(TINY, "toy", 1, **elsewhere)
    assert read_json(results / "pad-tiny-toy.json", RunError)["rows"] == before["rows"]
    (results / "pad-tiny-toy.json").rename(results / "pad-other-toy.json")
    reproduce.reproduce(TINY, "toy", 1, **elsewhere)
    assert read_json(results / "pad-tiny-toy.json", RunError)["rows"] == before["rows"]


def test_a_table_of_rankings_is_printed_from_its_committed_cells(tmp_path: Path) -> None:
    results = shutil.copytree(Path(__file__).parents[2] / "results", tmp_path / "results")
    nowhere = {name: tmp_path / name for name in ("prepared", "knowledge", "runs")}
    text = shown(reproduce.reproduce("disco/table2", **nowhere, results=results, minutes=0, tell=lambda line: None))
    table = read_json(results / "disco-table2-ml-1m.json", RunError)
    assert table["not_run"] == []
    for name, printed in (("din-disco", 0.8016 - 0.7976), ("dcn-disco", 0.8035 - 0.7961)):
        entry = next(each for each in table["rows"] if each["row"] == name)
        assert entry["gain"]["auc"]["published"] == pytest.approx(printed)
        assert f"{entry['test_auc']['mean']:.4f} ± {entry['test_auc']['sd']:.4f}" in text
        assert f"{entry['gain']['auc']['measured']:+.4f}" in text
        assert f"{cells.paired_tests(entry)[0]['p_holm']:.4f}" in text
    assert "log loss" in text


def test_seeds_are_for_rows_that_are_no_ablations() -> None:
    rows = {row.name: row for row in tiny().table("toy", 4)}
    assert rows["sasrec-pad"].seeds == (1, 2, 3, 4)
    assert rows["sasrec-pad-no-text"].seeds == (1,)
    assert rows["markov"].cells == (0,)
    assert {row.seeds for row in reproduce.EXPERIMENTS["pad/fig6"].table("toy", 4)} == {(1,)}
    assert {row.name: row.seeds for row in tiny().table("toy")}["sasrec"] == (1, 2, 3)


def test_another_encoder_is_one_more_row(place: dict[str, Path]) -> None:
    text = shown(reproduce.reproduce(TINY, "toy", 1, **place, encoder="tfidf"))
    assert "sasrec-pad-tfidf" in text
    row = tiny().table("toy", 1, "some/Encoder.toml")[-1]
    assert (row.name, row.encoder, row.seeds, row.against) == ("sasrec-pad-encoder", "some/Encoder.toml", (1,), "sasrec-pad")
    assert dict(row.starts) == dict(toy_tables.pool()["sasrec-pad"].starts)


def test_names_that_are_none_are_errors_with_a_remedy(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("prepared", "knowledge", "runs", "results")}
    for arguments, named, message in (
        (("pad/tabel2",), {}, "no experiment is called 'pad/tabel2'.*did you mean 'pad/table2'"),
        (("pad/table2", "mind"), {}, "published numbers are known, but nothing reads its files.*prime-pantry"),
        (("pad/table2", "prime-pantri"), {}, "cannot be made on 'prime-pantri'.*did you mean 'prime-pantry'"),
        (("pad/table2", None, 0), {}, "seeds = 0; accepted: 1 or more"),
        (("pad/table2",), {"only": "sasrec,pda"}, "--only: no row of the table is called 'pda'"),
        (("pad/table3",), {"encoder": "tfidf"}, "has no row for another text encoder"),
    ):
        with pytest.raises(ConfigError, match=message):
            reproduce.reproduce(*arguments, **folders, **named)
    assert not list(tmp_path.iterdir())


def test_the_listing_counts_cells(place: dict[str, Path]) -> None:
    text = shown([reproduce.listing(place["results"])])
    line = next(line for line in text.splitlines() if TINY in line)
    # three seeds of three rows, one each of Markov and the ablation; a seed of everything is made
    assert line.replace("│", " ").split()[-2:] == ["11", "5"]
    assert "disco/table2" in text


SMALL = PublicDataset(
    name="small", title="", files=("log",), read=lambda folder: small_runs.world_tables(), license="", homepage=""
)


def test_what_is_missing_is_prepared_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source" / "small").mkdir(parents=True)
    (tmp_path / "source" / "small" / "log").write_text("")
    monkeypatch.setenv("BRAIDREC_DATA", str(tmp_path / "source"))
    monkeypatch.setitem(DATA_SETS._own, "small", f"{__name__}:SMALL")  # type: ignore[arg-type]
    variant = material.Variant("small", {"split": {"kind": "leave_last_two", "min_history": 1}})
    monkeypatch.setattr(material, "VARIANTS", {"small-last": variant})
    row = replace(toy_tables.pool()["sasrec-morec"], data="small-last", encoder="tfidf", seeds=(1,), against=None)
    monkeypatch.setitem(reproduce.EXPERIMENTS, "pad/new", Experiment("pad/new", "new", {"small": {row.name: row}}, (row.name,)))
    folders, lines = {name: tmp_path / name for name in ("prepared", "knowledge", "runs", "results")}, list[str]()
    reproduce.reproduce("pad/new", **folders, tell=lines.append)
    dataset = Dataset.open(tmp_path / "prepared" / "small-last")
    assert dataset.settings.split.kind == "leave_last_two"
    assert (tmp_path / "knowledge" / "small-tfidf" / "knowledge.json").exists()
    assert any("120 texts encoded" in line for line in lines)
    cell = read_json(tmp_path / "results" / "pad-small" / "cells" / "sasrec-morec-s1.json", RunError)
    assert cell["knowledge"] == "tfidf"
    assert "--data small-last" in cell["command"]
    assert "--knowledge KNOWLEDGE-TFIDF" in cell["command"]
    with pytest.raises(ConfigError, match=r"'small-lst' is none that can be made.*did you mean 'small-last'"):
        material.open_data("small-lst", tmp_path / "small-lst", lines.append)


def test_a_knowledge_base_that_was_left_half_full_is_completed(tmp_path: Path) -> None:
    dataset, folder, lines = toy_tables.sequences(), tmp_path / "base", list[str]()
    folder.mkdir()
    shutil.copyfile(toy_tables.knowledge() / "knowledge.json", folder / "knowledge.json")  # killed before its first commit
    material.fill_knowledge(dataset, folder, "offline", lines.append)
    assert "120 texts encoded" in lines[0]
    lines.clear()
    material.fill_knowledge(dataset, folder, "offline", lines.append)
    assert lines == []


# -- figures ----------------------------------------------------------------------------------------------------------------


def test_table_1_counts_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = toy_tables.experiment("pad/table1")
    monkeypatch.setitem(reproduce.EXPERIMENTS, "pad/table1", counted)
    text = shown(reproduce.reproduce("pad/table1", **toy_tables.folders(tmp_path)))
    counts = read_json(tmp_path / "results" / "pad-table1-toy.json", RunError)["counts"]
    assert counts["toy"]["measured"] == {"users": 150, "items": 120, "interactions": 12_000}
    assert counts["prime-pantry"]["published"] == {"users": 12_871, "items": 8_347, "interactions": 115_004}
    assert "423,191" in text


def test_figure_2_and_the_gate_come_from_cells_alone(place: dict[str, Path], tmp_path: Path) -> None:
    cells_only = {**place, "runs": tmp_path / "none", "prepared": tmp_path / "none"}
    text = shown(reproduce.reproduce("pad/fig2", None, 1, **cells_only))
    found = read_json(place["results"] / "pad-fig2-toy.json", RunError)
    cell = read_json(place["results"] / "pad-toy" / "cells" / "sasrec-pad-s1.json", RunError)
    groups = found["groups"]["ndcg@10"]
    assert groups["PAD"][0] == pytest.approx(100 * cell["test"]["warm"]["ndcg@10"])
    assert groups["gain"][0] == pytest.approx(groups["PAD"][0] / groups["SASRec"][0] - 1)
    assert f"{groups['gain'][0]:+.2%}" in text
    assert found["files"] == ["pad-fig2-hr-toy.png", "pad-fig2-ndcg-toy.png"]
    reproduce.reproduce("pad/gate", None, 1, **cells_only)
    gate = read_json(place["results"] / "pad-gate-toy.json", RunError)
    assert gate["gate"]["shares"] == cell["gate"]["shares"]
    for name in (*found["files"], *gate["files"]):
        assert (place["results"] / "figures" / name).stat().st_size > 5_000


def test_figures_3_and_7_separate_pairs_of_their_buckets(place: dict[str, Path]) -> None:
    sizes = []
    for name in ("fig3", "fig7"):
        reproduce.reproduce(f"pad/{name}", **place)
        found = read_json(place["results"] / f"pad-{name}-toy.json", RunError)
        assert list(found["separation"]) == ["SASRec", "SMEM", "CTRL", "PAD"]
        assert all(0 <= one["auc"] <= 1 for one in found["separation"].values())
        assert found["separation"]["PAD"]["text"] == "aligned_text"
        assert found["separation"]["SASRec"]["text"] == "text as read"
        assert all("against" not in row for row in found["rows"])
        assert (place["results"] / "figures" / f"pad-{name}-toy.png").exists()
        sizes.append(found["separation"]["PAD"]["pairs"])
    assert sizes[0] != sizes[1]


def test_figure_6_is_kendall_s_tau_of_what_moved(place: dict[str, Path]) -> None:
    text = shown(reproduce.reproduce("pad/fig6", **place))
    found = read_json(place["results"] / "pad-fig6-toy.json", RunError)
    assert found["files"] == [f"pad-fig6{panel}-toy.png" for panel in "abcd"]
    tau = {panel: {name: one["tau_all"] for name, one in found["tau"][panel]["series"].items()} for panel in "abcd"}
    assert tau["a"]["anchored, frozen"] == pytest.approx(1)  # a frozen table is the one of phase 1
    assert 0 < tau["a"]["non-anchored"] < 1
    assert 0 < tau["b"]["SE-BCE-Align-Tune"] < tau["b"]["SE-BCE-Tune"] < 1
    assert tau["c"]["triple, origin"] > tau["c"]["triple, aligned"]
    assert set(tau["d"]) == {"single, aligned", "triple, origin", "triple, aligned"}
    assert "(d) tau of the text vectors" in text


def test_the_pairs_are_of_items_that_training_met(place: dict[str, Path]) -> None:
    run = load(place["runs"] / "toy" / "sasrec-pad-s1")
    pairs, counts = validation_pairs(run), training_counts(run.dataset)
    assert len(pairs) > 1_000
    assert (counts[pairs.item] > 0).all()
    assert (counts[pairs.behaviour] > 0).all()
    assert np.array_equal(np.unique(pairs.bucket), np.arange(1, 11))


def test_a_figure_without_its_runs_is_a_named_error(place: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"pad/fig3: is drawn from the run directory .*sasrec-s1, which is not here"):
        reproduce.reproduce("pad/fig3", **{**place, "runs": tmp_path})


def test_a_figure_waits_for_all_its_cells(tmp_path: Path) -> None:
    text = shown(reproduce.reproduce("pad/fig3", **toy_tables.folders(tmp_path), minutes=0, tell=lambda line: None))
    assert "not drawn yet: 4 of its cells are missing" in text


def test_real_rankings_without_learning_have_their_known_numbers(tmp_path: Path) -> None:
    if not os.environ.get("BRAIDREC_DATA"):
        pytest.skip("BRAIDREC_DATA is not set")
    folders: dict[str, Any] = {name: tmp_path / name for name in ("prepared", "knowledge", "runs", "results")}
    text = shown(reproduce.reproduce("pad/table2", "prime-pantry", 1, **folders, only="markov,item-knn,popularity"))
    for value in ("4.3120", "2.9102", "3.0456", "1.7523", "0.4506", "0.2250"):
        assert value in text
    reproduce.reproduce("pad/table1", **folders)
    counts = read_json(tmp_path / "results" / "pad-table1-prime-pantry.json", RunError)["counts"]["prime-pantry"]
    assert counts["measured"] == counts["published"]
