"""Tables made cell by cell: once each, resumable, tested in pairs."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import toy_tables

import small_runs
from braidrec.data.dataset import Dataset
from braidrec.errors import ConfigError, RunError
from braidrec.evaluation.significance import over_seeds
from braidrec.experiments import cells, disco, reproduce
from braidrec.experiments.cells import Row, Workshop, command, make_cell, paired_tests, summary, train_row
from braidrec.experiments.experiment import Experiment
from braidrec.files import read_json, write_json

PLAIN = Row("din", "planted", "din", model=small_runs.MODEL, training=small_runs.TRAINING, seeds=(1, 2), published=(0.8, 0.5))
_TERMS = {"enhance": {"disentangle_weight": 0.01}}
DISCO = replace(PLAIN, name="din-disco", enhance="disco", model={**small_runs.MODEL, **_TERMS}, against="din")
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
        patch.setattr(cells, "fit_config", None)  # calling it would fail
        assert not make_cell(PLAIN, 1, shop)
    cell = read_json(shop.cell_path(DISCO, 1), RunError)
    assert cell["knowledge"] == "tfidf"
    assert cell["test"]["all"]["rows"] == len(small_runs.dataset().split["test"])
    assert [phase["name"] for phase in cell["phases"]] == ["rank"]
    assert {"prediction", "disentanglement", "norm TT"} <= cell["monitors"].keys()

    found = summary([PLAIN, DISCO, LATE], shop, reference={"din-disco": "din"})
    assert found["not_run"] == ["din-disco s2", "din-disco-late s1", "din-disco-late s2"]
    plain, enhanced = found["rows"]
    assert plain["seeds"] == [1, 2]
    assert plain["published"] == {"auc": 0.8, "log_loss": 0.5}
    assert plain["test_auc"]["mean"] == pytest.approx(sum(plain["test_auc_by_seed"]) / 2)
    assert plain["test_auc"]["sd"] > 0
    assert "against" not in plain
    [test] = paired_tests(enhanced)
    assert (test["row"], test["metric"], test["seeds"]) == ("din", "auc", [1])
    assert test["difference"] == pytest.approx(enhanced["test_auc_by_seed"][0] - plain["test_auc_by_seed"][0], abs=1e-6)
    assert test["p_holm"] >= test["p_value"]
    assert enhanced["gain"] == {
        "over": "din",
        "seeds": [1],
        **{
            metric: {
                "published": 0.0,  # the same is printed for both here
                "measured": pytest.approx(
                    enhanced[f"test_{metric}_by_seed"][0] - plain[f"test_{metric}_by_seed"][0], abs=1e-12
                ),  # a difference, where next items have a share
            }
            for metric in ("auc", "log_loss")
        },
    }
    assert found["environment"]["versions"]["torch"]


def test_a_cell_that_was_trained_elsewhere_than_on_a_cpu_says_so(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    mean = Row("item-mean", "planted", "item-mean", task="ranking")
    with monkeypatch.context() as patch:
        patch.setattr(cells, "environment", lambda: {"device": "Some GPU"})
        assert make_cell(DISCO, 1, shop)
        assert make_cell(mean, 0, shop)
    assert make_cell(PLAIN, 1, shop)
    devices = [read_json(shop.cell_path(*each), RunError).get("device") for each in ((DISCO, 1), (PLAIN, 1), (mean, 0))]
    assert devices == ["Some GPU", None, None]
    for rows, said in (
        ((PLAIN, DISCO), "trained on Some GPU, other rows on a CPU: din-disco"),
        ((DISCO,), "trained on Some GPU"),
        ((PLAIN,), None),
    ):
        experiment = Experiment("toy/table", "toy", {"planted": {row.name: row for row in rows}})
        parts = reproduce.render(experiment, "planted", rows, summary(rows, shop))
        lines = [line for part in parts if isinstance(part, str) for line in part.splitlines()]
        assert [line for line in lines if line.startswith("trained on")] == ([said] if said else [])


def test_without_the_runs_there_are_numbers_but_no_test(shop: Workshop) -> None:
    for row in (PLAIN, DISCO):
        make_cell(row, 1, shop)
    gone = replace(shop, runs=shop.runs / "moved")
    assert "against" not in summary([PLAIN, DISCO], gone)["rows"][1]


def test_runs_that_are_not_those_of_the_cells_are_not_tested(shop: Workshop) -> None:
    """A folder of the right name may hold a run that was trained otherwise, with cells that came from elsewhere."""
    for row in (PLAIN, DISCO):
        make_cell(row, 1, shop)
    before = summary([PLAIN, DISCO], shop)
    assert paired_tests(before["rows"][1])
    shutil.rmtree(shop.run_path(DISCO, 1))
    train_row(replace(DISCO, model={**DISCO.model, "dim": 4}), 1, shop)
    assert not paired_tests(summary([PLAIN, DISCO], shop)["rows"][1])
    assert paired_tests(summary([PLAIN, DISCO], shop, earlier=[before])["rows"][1]) == paired_tests(before["rows"][1])


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


def test_tests_outlive_the_runs_they_were_made_from(shop: Workshop) -> None:
    for row in (PLAIN, DISCO):
        make_cell(row, 1, shop)
    rows = [replace(PLAIN, seeds=(1,)), replace(DISCO, seeds=(1,))]
    before = json.loads(json.dumps(summary(rows, shop)))
    gone = replace(shop, runs=shop.runs / "moved")
    assert summary(rows, gone, earlier=[{"rows": []}, before])["rows"] == before["rows"]
    assert "against" not in summary([replace(DISCO, seeds=(1,), against=None)], gone, earlier=[before])["rows"][0]

    file = shop.cell_path(PLAIN, 1)  # the reference is made again, with another result: the test is no longer of these cells
    cell = read_json(file, RunError)
    cell["test"]["all"]["auc"] += 1e-9
    write_json(file, cell)
    assert "against" not in summary(rows, gone, earlier=[before])["rows"][1]
    assert "against" in summary(rows, shop, earlier=[before])["rows"][1]


@pytest.mark.parametrize("name", ["table2", "statistics", "cold", "ablations"])
def test_the_committed_tables_are_what_their_cells_and_their_own_tests_say(name: str, tmp_path: Path) -> None:
    results = Path(__file__).parents[2] / "results"
    committed = read_json(results / f"disco-{name}-ml-1m.json", RunError)
    [experiment] = (each for each in disco.EXPERIMENTS if each.id == f"disco/{name}")
    rows = experiment.table("ml-1m")
    nowhere = {row.data: tmp_path / "none" for row in rows}
    shop = Workshop(nowhere, nowhere, tmp_path / "none", results / "disco-ml-1m")
    found = json.loads(json.dumps(summary(rows, shop, earlier=[committed], reference=experiment.over(rows))))
    assert found["rows"] == committed["rows"]
    assert found["not_run"] == committed["not_run"]


def test_tests_of_fewer_seeds_are_kept_where_cells_of_others_came_later(shop: Workshop) -> None:
    for row, seed in ((PLAIN, 1), (DISCO, 1)):
        make_cell(row, seed, shop)
    single = json.loads(json.dumps(summary([replace(row, seeds=(1,)) for row in (PLAIN, DISCO)], shop)))
    for row in (PLAIN, DISCO):
        make_cell(row, 2, shop)
    gone = replace(shop, runs=shop.runs / "moved")
    found = summary([PLAIN, DISCO], gone, earlier=[single])["rows"][1]
    assert found["seeds"] == [1, 2]
    assert paired_tests(found) == paired_tests(single["rows"][1])
    assert [test["seeds"] for test in paired_tests(found)] == [[1]]
    both = json.loads(json.dumps(summary([PLAIN, DISCO], shop)))
    for earlier in ([single, both], [both, single]):
        assert paired_tests(summary([PLAIN, DISCO], gone, earlier=earlier)["rows"][1]) == paired_tests(both["rows"][1])
    numbers = next(value for key, value in single["rows"][1].items() if key.endswith("_by_seed"))
    numbers[0] += 1e-9  # of another cell than the one that is here
    assert not paired_tests(summary([PLAIN, DISCO], gone, earlier=[single])["rows"][1])


def test_tests_of_a_named_family_are_corrected_among_themselves_and_say_what_other_seeds_would(shop: Workshop) -> None:
    for row, seed in ((PLAIN, 1), (PLAIN, 2), (DISCO, 1), (DISCO, 2)):
        make_cell(row, seed, shop)
    named, lone = replace(DISCO, family="patterns"), replace(DISCO, seeds=(1,), family="patterns")
    [before] = paired_tests(json.loads(json.dumps(summary([PLAIN, DISCO], shop)))["rows"][1])
    assert "family" not in before

    table = json.loads(json.dumps(summary([PLAIN, named], shop)))
    [test] = paired_tests(table["rows"][1])
    assert before == {key: value for key, value in test.items() if key not in ("family", "over_seeds")}
    assert test["family"] == "patterns"
    expected = over_seeds(*(test[key] for key in ("difference", "per_seed", "low", "high", "clusters")))
    assert test["over_seeds"] == {**asdict(expected), "p_holm": expected.p_value, "holm_over": 1}  # type: ignore[arg-type]
    [single] = paired_tests(summary([PLAIN, lone], shop)["rows"][1])
    assert single["over_seeds"] is None

    # kept where the runs are gone, whichever table wants the test
    gone = replace(shop, runs=shop.runs / "moved")
    for row, kept in ((DISCO, before), (named, test)):
        for earlier in (table, {"rows": [table["rows"][0], {**table["rows"][1], "against": [before]}]}):
            assert paired_tests(summary([PLAIN, row], gone, earlier=[earlier])["rows"][1]) == [kept]
    others = [replace(DISCO, name=f"{number}", seeds=(1,), family="a") for number in (1, 2)]
    for row in others:
        make_cell(row, 1, shop)
    tests = [paired_tests(entry)[0] for entry in summary([PLAIN, DISCO, *others], shop)["rows"][1:]]
    assert [each["holm_over"] for each in tests] == [1, 2, 2]


# -- next items -------------------------------------------------------------------------------------------------------------


def small(name: str, **changes: Any) -> Row:
    return replace(toy_tables.pool()[name], **{"seeds": (1,), **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """SASRec and PAD, a seed each, and Markov."""
    shop = toy_tables.shop(tmp_path_factory.mktemp("made"))
    for name, seed in (("sasrec", 1), ("sasrec-pad", 1), ("markov", 0)):
        assert make_cell(small(name), seed, shop)
    return shop


def copy_of(shop: Workshop, path: Path) -> Workshop:
    """The same cells and runs where a test may change them."""
    shutil.copytree(shop.results, path / "results")
    shutil.copytree(shop.runs, path / "runs")
    return replace(shop, runs=path / "runs", results=path / "results")


def test_a_cell_of_a_next_item_model_has_phases_slices_and_the_gate(made: Workshop) -> None:
    dataset = toy_tables.sequences()
    cell = read_json(made.cell_path(small("sasrec-pad"), 1), RunError)
    assert [phase["name"] for phase in cell["phases"]] == ["pretrain", "align", "experts"]
    assert cell["best"] == cell["phases"][-1]["best"]
    assert cell["knowledge"] == "tfidf"
    assert cell["commit"]
    assert {"warm", "median", "cold", "unseen", "bucket_1", "bucket_10"} <= cell["test"].keys()
    assert cell["test"]["all"]["rows"] == len(dataset.split["test"])
    groups = [cell["test"][name] for name in ("warm", "median", "cold") if cell["test"][name]["rows"]]
    for metric in ("hr@10", "ndcg@10", "mrr@10"):
        mean = sum(group["rows"] * group[metric] for group in groups) / sum(group["rows"] for group in groups)
        assert cell["test"]["all"][metric] == pytest.approx(mean)
    assert 0 < cell["coverage"] <= 1
    assert cell["novelty"] > 0
    assert 0 <= cell["masked"] < 1
    assert cell["gate"]["experts"] == ["id", "aligned", "text"]
    assert [sum(row) for row in cell["gate"]["shares"]] == pytest.approx([1] * 10)
    assert "gate" not in read_json(made.cell_path(small("sasrec"), 1), RunError)


def test_rankings_without_learning_are_rows_measured_at_once(made: Workshop) -> None:
    row = small("markov")
    cell = read_json(made.cell_path(row, 0), RunError)
    assert cell["command"] is None
    assert cell["best"] is None
    assert cell["test"]["all"]["rows"] == 150
    assert not made.run_path(row, 0).exists()
    entry = summary([replace(row, seeds=(1, 2, 3))], made)["rows"][0]
    assert entry["seeds"] == [0]
    assert entry["test_hr@10"] == {"mean": cell["test"]["all"]["hr@10"], "sd": 0.0}
    assert entry["valid_hr@10"] is None


def test_a_row_is_tested_against_several_on_both_metrics_and_gains_over_one(made: Workshop) -> None:
    rows = [small("sasrec", published={"hr@10": 2.0}), small("sasrec-pad", published={"hr@10": 3.0}), small("markov")]
    found = summary(rows, made, reference={"sasrec-pad": "sasrec"})
    plain, pad, markov = found["rows"]
    assert [(test["row"], test["metric"], test["seeds"]) for test in paired_tests(pad)] == [
        (row, metric, [1]) for row in ("sasrec", "markov") for metric in ("hr@10", "ndcg@10")
    ]
    for test in paired_tests(pad):
        other = plain if test["row"] == "sasrec" else markov
        gap = pad[f"test_{test['metric']}"]["mean"] - other[f"test_{test['metric']}"]["mean"]
        assert test["difference"] == pytest.approx(gap)
        assert test["p_holm"] >= test["p_value"]
    assert "against" not in plain
    assert pad["gain"]["over"] == "sasrec"
    assert pad["gain"]["hr@10"]["published"] == pytest.approx(0.5)
    assert pad["gain"]["ndcg@10"]["published"] is None
    assert pad["gain"]["ndcg@10"]["measured"] == pytest.approx(pad["test_ndcg@10"]["mean"] / plain["test_ndcg@10"]["mean"] - 1)
    assert found["not_run"] == []


def test_gains_and_tests_are_over_the_seeds_that_both_rows_have(made: Workshop, tmp_path: Path) -> None:
    shop = copy_of(made, tmp_path)
    cell = read_json(shop.cell_path(small("sasrec"), 1), RunError)
    cell["seed"] = 2
    cell["test"]["all"]["hr@10"] *= 4
    write_json(shop.cell_path(small("sasrec"), 2), cell)
    over = {"sasrec-pad": "sasrec", "markov": "sasrec-pad"}
    rows = [small("sasrec", seeds=(1, 2)), small("sasrec-pad"), small("markov")]
    plain, pad, markov = summary(rows, shop, reference=over)["rows"]
    first = plain["test_hr@10_by_seed"][0]
    assert plain["test_hr@10"]["mean"] == pytest.approx(2.5 * first)
    assert pad["gain"]["seeds"] == [1]
    assert pad["gain"]["hr@10"]["measured"] == pytest.approx(pad["test_hr@10"]["mean"] / first - 1)
    assert markov["gain"]["seeds"] == [1]
    assert paired_tests(pad)[0]["seeds"] == [1]


def test_tests_against_a_ranking_without_learning_outlive_the_runs_too(made: Workshop, tmp_path: Path) -> None:
    rows = [small("sasrec"), small("sasrec-pad"), small("markov")]
    before = json.loads(json.dumps(summary(rows, made)))
    elsewhere = replace(made, runs=tmp_path, prepared={toy_tables.DATA: tmp_path})
    assert summary(rows, elsewhere, earlier=[before])["rows"] == before["rows"]
    assert paired_tests(summary(rows, elsewhere)["rows"][1]) == []


def test_stages_come_from_another_row_s_run_of_the_same_seed(made: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    row = small("sasrec-pad-only-aligned")
    assert row.starts == {"pretrain": "sasrec-pad", "align": "sasrec-pad"}
    make_cell(row, 1, made)
    cell = read_json(made.cell_path(row, 1), RunError)
    assert [phase["name"] for phase in cell["phases"]] == ["experts"]
    assert "--set model.start_from.align=RUNS/sasrec-pad-s1" in cell["command"]
    run = train_row(row, 1, made)
    assert dict(run.config.model.start_from) == dict.fromkeys(row.starts, str(made.run_path(small("sasrec-pad"), 1)))  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"starts its stage 'pretrain' from the row 'sasrek'.*did you mean 'sasrec'"):
        make_cell(replace(row, name="x", starts={"pretrain": "sasrek"}), 1, made)


def test_a_run_that_gives_a_stage_is_trained_again_where_only_its_cell_is_left(made: Workshop, tmp_path: Path) -> None:
    shop = copy_of(made, tmp_path)
    giver, row = small("sasrec-pad"), small("sasrec-pad-no-text")
    held = shop.cell_path(giver, 1).read_text()
    shutil.rmtree(shop.run_path(giver, 1))
    make_cell(row, 1, shop)
    assert shop.at_hand(giver, [1])
    assert shop.cell_path(giver, 1).read_text() == held


def test_a_killed_cell_leaves_no_file_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop, row = toy_tables.shop(tmp_path), small("sasrec-smem", starts={})
    real = Interrupted(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        make_cell(row, 1, shop)
    assert not shop.cell_path(row, 1).exists()
    assert (shop.run_path(row, 1) / "training").exists()
    real.restore()
    assert make_cell(row, 1, shop)
    cell = read_json(shop.cell_path(row, 1), RunError)
    whole = toy_tables.shop(tmp_path / "whole")
    make_cell(row, 1, whole)
    assert cell["test"] == read_json(whole.cell_path(row, 1), RunError)["test"]


class Interrupted:
    """Stops training, as Ctrl-C would, at the fourth validation: in the middle of phase 1."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        from braidrec.sequential import scoring

        self._monkeypatch, self._checks, ranked = monkeypatch, 0, scoring.rank_targets

        def interrupted(*arguments: Any, **options: Any) -> Any:
            self._checks += 1
            if self._checks == 4:
                raise KeyboardInterrupt
            return ranked(*arguments, **options)

        monkeypatch.setattr(scoring, "rank_targets", interrupted)

    def restore(self) -> None:
        self._monkeypatch.undo()


def test_the_command_quotes_lists_and_names_the_runs_that_give_stages() -> None:
    row = small("sasrec-pad-no-id", model={"enhance": {"experts": ("aligned", "text")}}, training={}, encoder="my/Own.toml")
    assert command(row, 3) == (
        "braidrec fit --data toy --backbone sasrec --preset ours --seed 3 --enhance pad --knowledge KNOWLEDGE-OWN "
        """--set 'model.enhance.experts=["aligned", "text"]' """
        "--set model.start_from.pretrain=RUNS/sasrec-pad-s3 --set model.start_from.align=RUNS/sasrec-pad-s3"
    )


# -- the module of DisCo's tables --------------------------------------------------------------------------------------------


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


def test_reproduce_makes_what_was_asked_for_and_writes_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "planted").symlink_to(small_runs.dataset().path)
    pool = {"din": PLAIN, "other": replace(PLAIN, name="other")}
    monkeypatch.setitem(reproduce.EXPERIMENTS, "disco/made", Experiment("disco/made", "made", {"ml-1m": pool}, tuple(pool)))
    folders = {name: tmp_path / name for name in ("prepared", "knowledge", "runs", "results")}
    lines: list[str] = []
    reproduce.reproduce("disco/made", **folders, only="din", minutes=5, tell=lines.append)
    assert any(line.startswith("[2/2] din s2 is done") for line in lines)
    found = read_json(tmp_path / "results" / "disco-made-ml-1m.json", RunError)
    assert found["not_run"] == ["other s1", "other s2"]
    assert len(found["rows"]) == 1
    lines.clear()
    reproduce.reproduce("disco/made", **folders, only="din", minutes=0, tell=lines.append)
    assert not any("done" in line for line in lines)
