"""Gradient boosting as a model of the ranking task: what its trees read, how they are kept, and what it says of itself."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import small_runs
from braidrec.config import RunConfig, RunRequest, resolve
from braidrec.errors import ConfigError, DataError, RunError
from braidrec.files import sha256
from braidrec.ranking.task import TASK
from braidrec.runs.run import Run, load

QUICK = {"trees": 60, "patience": 10}


def configured(**more: Any) -> RunConfig:
    model = {**QUICK, **more.pop("model", {})}
    return resolve(RunRequest.model_validate({"data": "-", "backbone": "gbdt", "seed": 5, "model": model, **more}), "test")


@pytest.fixture(autouse=True)
def _installed(request: pytest.FixtureRequest) -> None:
    if "without" not in request.node.name:
        pytest.importorskip("lightgbm")


@cache
def boosted(data: Any = small_runs.rich, **model: Any) -> Run:
    name = "-".join(["gbdt", data.__name__, *map(str, model.values())])
    return small_runs.train(small_runs.root() / name, data(), backbone="gbdt", seed=1, model={**QUICK, **model}, training={})


@pytest.fixture(autouse=True)
def _no_training_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_runs, "TRAINING", {})
    monkeypatch.setattr(small_runs, "MODEL", {"history": {"length": 6}})


def test_it_learns_what_the_rates_say() -> None:
    """Above the ranking by item means and user residuals on a planted world."""
    run = boosted(small_runs.dataset)
    report = run.evaluate("test", show_progress=False)
    assert report["all"].values["auc"] > 0.6
    assert run.record["choices"]["rates"][:2] == ["item rating", "item label"]


def test_importances_are_shares_of_named_columns() -> None:
    shares = boosted().model.facts()["importances"]
    assert sum(shares.values()) == pytest.approx(1.0)
    # fields of few values (all of them here, ids too), numbers in the order of batches, rates
    assert list(shares)[:9] == ["user_0", "user_1", "item_2", "item_3", "year", "device", "age", "price", "hour"]
    assert {"genres_residual_label", "price_from_usual"} <= set(shares)
    fewer = boosted(values=10).model.facts()["importances"]
    assert list(fewer)[:4] == ["year", "device", "age", "price"]


def test_trees_are_text_in_a_tensor_and_come_back(tmp_path: Path) -> None:
    run = boosted()
    text = bytes(run.model.module.trees.numpy()).decode()
    assert text.startswith("tree\nversion=")
    assert "monotone_constraints" in text
    again = load(run.path)
    rows = np.arange(1, run.dataset.num_items + 1, dtype=np.int32)
    pasts = [run.model.past(1), run.model.past(None)]
    whole = load(run.path, dataset=run.dataset).model
    np.testing.assert_array_equal(whole.scores([whole.past(1), whole.past(None)], rows), run.model.scores(pasts, rows))
    np.testing.assert_array_equal(again.model.scores([again.model.past(None)], rows), run.model.scores(pasts[1:], rows))


def test_a_better_past_never_lowers_a_score() -> None:
    """Monotone in every rate but those against what is usual; without the constraint it is not."""

    def falls(run: Run) -> float:
        model: Any = run.model
        batch = model.candidates.batch(
            model.past(1).user, torch.arange(1, 61, dtype=torch.int32), model.window(model.past(1), torch.zeros(1))
        )
        names = run.record["choices"]["rates"]
        lowest, at = 0.0, batch.numbers.shape[1] - len(names)
        for column, name in enumerate(names):
            if name.endswith("from usual"):
                continue
            before = model.module(batch)
            numbers = batch.numbers.clone()
            for step in (0.3, 1.0, 3.0):
                numbers[:, at + column] = batch.numbers[:, at + column] + step
                moved = model.module(type(batch)(**{**vars(batch), "numbers": numbers}))
                lowest = min(lowest, float((moved - before).min()))
        return lowest

    assert falls(boosted()) >= -1e-6
    assert falls(boosted(monotone=False)) < -1e-3


def test_the_same_seed_gives_the_same_trees(tmp_path: Path) -> None:
    first = boosted()
    run = small_runs.train(tmp_path / "again", small_runs.rich(), backbone="gbdt", seed=1, model=QUICK, training={})
    assert sha256(first.path / "model.safetensors") == sha256(run.path / "model.safetensors")


def test_what_damaged_trees_and_logs_of_no_time_say() -> None:
    plan = TASK.plan(configured(), small_runs.rich(), None, show_progress=False)
    module: Any = plan.stages[0].module
    module.trees = torch.arange(65, 91, dtype=torch.uint8)
    with pytest.raises(RunError, match=r"the trees of this gbdt cannot be read \(.*\); train it again"):
        _ = module.booster
    with pytest.raises(RunError, match="takes no training steps"):
        module.step(None)
    with pytest.raises(DataError, match="time-causal rates need a timestamp column"):
        TASK.plan(configured(negatives=3), small_runs.positives(), None, show_progress=False)
    with pytest.raises(ConfigError, match="training: 'gbdt' is fitted at once, so there is nothing to set here; drop lr"):
        configured(training={"lr": 0.1})


def test_a_monitor_that_trees_do_not_follow_is_refused(tmp_path: Path) -> None:
    model = {**QUICK, "monitor": "ndcg@10"}
    with pytest.raises(ConfigError, match=r"model\.monitor = 'ndcg@10': 'gbdt' ends boosting by auc or log_loss of validation"):
        small_runs.train(tmp_path / "run", backbone="gbdt", model=model, training={})
    assert not (tmp_path / "run").exists()


def test_settings_that_it_does_not_read_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'gbdt' does not read model\.dim, model\.history; drop what it would not follow"):
        configured(model={"history": {"length": 5}, "dim": 8})


def test_no_history_is_prepared_for_it() -> None:
    """In `authors` histories go by meaning, for which a knowledge base is needed: not for trees, which read none."""
    config = configured(preset="authors")
    assert config.model.history.kind == "semantic_topk"
    assert not TASK.reads_text(config)
    TASK.plan(config, small_runs.rich(), None, show_progress=False)


def test_without_lightgbm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ConfigError, match=r"'gbdt' needs LightGBM 4\.7 or later.*pip install 'braidrec\[trees\]'"):
        TASK.plan(configured(), small_runs.rich(), None, show_progress=False)
