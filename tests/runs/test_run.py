"""What every run does, whatever its task: shown on a model that only counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import small_runs
import toy_run
from braidrec.config import RunRequest, resolve
from braidrec.data.popularity import training_counts
from braidrec.errors import ConfigError, DataError, RunError
from braidrec.files import read_json
from braidrec.runs.fit import fit_config
from braidrec.runs.run import Run, load
from braidrec.runs.tables import comparison_tables, evaluation_table
from braidrec.strict import parse
from braidrec.training.config import TrainingConfig
from small_runs import copy_of, knowledge, plain
from toy_run import Toy, toy

USER = "10001"
NEW = {"late-1": "ghosts and demons", "late-2": "violins"}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with toy_run.held():
        yield toy(tmp_path / "run", knowledge=knowledge())


def test_a_task_of_its_own_is_trained_saved_and_loaded_through_the_same_door(run: Run, tmp_path: Path) -> None:
    best = run.record["best"]["metrics"]
    assert isinstance(run.model, Toy)
    assert run.title == "Toy (ours)"
    assert run.headline == f"HR@10 {best['hr@10']:.4f}"
    np.testing.assert_array_equal(run.model.module.scores, training_counts(run.dataset))
    again = load(run.path)
    assert isinstance(again.model, Toy)
    np.testing.assert_array_equal(again.model.module.scores, run.model.module.scores)
    model = (run.path / "model.safetensors").stat().st_mtime_ns
    assert toy(run.path, knowledge=knowledge()).record == run.record
    assert (run.path / "model.safetensors").stat().st_mtime_ns == model, "a finished run is loaded, not trained"
    with pytest.raises(ConfigError, match="other settings"):
        toy(run.path, knowledge=knowledge(), seed=7)


def test_the_record_holds_every_phase_and_what_the_task_adds(run: Run) -> None:
    record = read_json(run.path / "run.json", RunError)
    assert (record["format"], record["task"], record["title"]) == (3, "toying", "Toy")
    assert [phase["name"] for phase in record["phases"]] == ["count", "again"]
    assert record["best"] == record["phases"][1]["best"]
    assert (record["best"]["check"], record["best"]["step"]) == (1, 0)
    hits = run.evaluate("valid", show_progress=False, min_rows=1)["all"]["hr@10"]
    assert record["best"]["metrics"] == pytest.approx({"hr@10": hits})
    assert record["training"].keys() == {"steps", "seconds", "samples_per_second"}
    assert (record["training"]["steps"], record["training"]["samples_per_second"]) == (0, 0.0)
    assert (record["choices"], run.model.facts()) == ({"buckets": 3}, {"edges": [1, 2]})
    assert [base["encoder"] for base in record["knowledge"]] == ["tfidf"]
    assert plain().record["task"] == "ranking"
    assert [phase["name"] for phase in plain().record["phases"]] == ["rank"]
    best = plain().record["best"]["metrics"]
    assert plain().headline == f"AUC {best['auc']:.4f}, log loss {best['log_loss']:.4f}"


def test_a_stage_that_was_fitted_can_be_looked_into(run: Run) -> None:
    assert dict(run.inspect("count")) == {}
    np.testing.assert_array_equal(run._stage("count").scores, run.model.module.get_buffer("scores"))


def test_settings_of_a_stage_that_is_fitted_are_refused(tmp_path: Path) -> None:
    """Those that a preset has for it are not the request's to drop."""
    phases = {"count": {"lr": 0.5}}
    with toy_run.held():
        config = resolve(parse(RunRequest, {"data": str(small_runs.dataset().path), "backbone": "toy"}, "fit"), "fit")
        training = TrainingConfig.model_validate({"phases": phases})
        config = config.model_copy(update={"training": training})
        with pytest.raises(ConfigError, match=r"training\.phases\.count\.lr: the stage 'count' is fitted at once.*; drop it"):
            fit_config(config, tmp_path / "own")
    assert not (tmp_path / "own").exists()
    own = replace(toy_run.TOY, training={"ours": {"phases": phases}})
    with toy_run.held(), toy_run.TASK.models.holding(own):
        assert fit_config(config, tmp_path / "preset", show_progress=False).config.training == training


def test_scores_that_are_no_probabilities_are_not_called_so(run: Run, tmp_path: Path) -> None:
    found = run.recommend(USER, k=5)
    assert [each.probability for each in found] == [None] * 5
    assert found[0].score > 1
    assert [each.score for each in found] == run.score_items(USER, [each.item for each in found]).tolist()
    assert len(run.score_items(USER, [])) == 0
    assert [each.score for each in plain().recommend(USER, k=3)] == [each.probability for each in plain().recommend(USER, k=3)]
    rows = run.recommend_all(tmp_path / "all.parquet", k=2, show_progress=False)
    frame = pl.read_parquet(tmp_path / "all.parquet")
    assert frame.schema == {"user": pl.String, "rank": pl.Int32, "item": pl.String, "score": pl.Float32}
    assert rows == len(frame)
    one = frame.filter(pl.col("user") == USER)
    assert one["item"].to_list() == [each.item for each in run.recommend(USER, k=2)]


def test_seen_items_ties_and_strangers(run: Run) -> None:
    ids = run.dataset.item_ids
    run.model.module.scores.zero_()
    assert [each.item for each in run.recommend(items=[], k=3)] == ids[:3]
    assert [each.item for each in run.recommend(items=[ids[0], ids[2]], k=3)] == [ids[1], ids[3], ids[4]]
    assert [each.item for each in run.recommend(items=[ids[0]], k=2, exclude_seen=False)] == ids[:2]
    with pytest.raises(DataError, match="no candidate is left"):
        run.recommend(items=[ids[0]], allow=[ids[0]])


def test_added_items_stay_with_the_run(run: Run, tmp_path: Path) -> None:
    assert run.add_items(NEW) == 2
    assert run.num_items == run.dataset.num_items + 2
    scores = run.score_items(USER, list(NEW))
    again = load(run.path)
    np.testing.assert_array_equal(again.score_items(USER, list(NEW)), scores)
    assert again.add_items({"late-3": "wizards"}) == 1
    assert [each.item for each in load(run.path).recommend(USER, allow=["late-3"])] == ["late-3"]
    assert run.add_items({"late-4": "camels"}) == 1  # behind what the other handle has added meanwhile
    assert run.catalogue.added_ids == (*NEW, "late-3", "late-4")
    again.recommend_all(tmp_path / "all.parquet", k=1, allow=["late-3"], show_progress=False)
    assert set(pl.read_parquet(tmp_path / "all.parquet")["item"]) == {"late-3"}
    without = toy(tmp_path / "without")
    with pytest.raises(RunError, match=r"Toy knows items by id alone; add_items needs a model that reads text$"):
        without.add_items(NEW)


def test_tables_go_to_the_task_and_never_mix_two(run: Run, tmp_path: Path) -> None:
    other, seed = toy(tmp_path / "other", model={"backbone": {"power": 0.5}}), toy(tmp_path / "seed", seed=2)
    table = evaluation_table([run.path], "valid", baselines=False)
    assert table.title == "planted, valid part, vocabulary train"
    assert [str(column.header) for column in table.columns] == ["slice", "rows", "users", "Toy (ours)"]
    both, tests = comparison_tables([run.path, other.path])
    names = [f"Toy (ours) s42 \\[{path}]" for path in (run.path, other.path)]  # brackets are text
    assert [str(column.header) for column in both.columns][3:] == names
    assert [str(cell) for cell in tests.columns[1].cells] == ["HR@10"]
    with pytest.raises(ConfigError, match="share no seed"):
        comparison_tables([run.path, seed.path])
    for call in (comparison_tables, lambda paths: evaluation_table(paths, "test", baselines=True)):
        with pytest.raises(ConfigError, match=r"different tasks.*: toying, .*: ranking"):
            call([run.path, plain().path])


def test_runs_of_one_task_on_different_data_are_not_compared(run: Run, tmp_path: Path) -> None:
    other = toy(tmp_path / "other", small_runs.other_dataset())
    with pytest.raises(ConfigError, match="trained on different data"):
        comparison_tables([run.path, other.path])


def test_a_damaged_model_of_any_task_is_refused(run: Run, tmp_path: Path) -> None:
    path = copy_of(run, tmp_path / "copy").path
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)
    with pytest.raises(RunError, match=r"model\.safetensors"):
        load(path)
