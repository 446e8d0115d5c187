"""The paired test and the AUC beside it are of the same rows: their labels, users and weights, drawn negatives among them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import small_runs
from braidrec.data.batches import RankingBatches
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.history import RecentHistory
from braidrec.data.schema import Field, Schema
from braidrec.data.settings import SplitConfig
from braidrec.data.tables import Tables
from braidrec.evaluation.metrics import auc
from braidrec.evaluation.significance import paired_test
from braidrec.experiments.measures import Outcomes
from braidrec.ranking.scoring import EVALUATION_SEED, negative_sampler, part_labels, part_pairs, part_weights
from braidrec.ranking.task import TASK
from braidrec.runs.run import Run, load
from braidrec.runs.tables import comparison_tables
from braidrec.task import Outcome

PARTS = SplitConfig(kind="given")


def weighted_log(rows: int = 600) -> Tables:
    """Thirty users; they like every second item they meet, and two of four in a row weigh a hundred times as much."""
    at = np.arange(rows)
    frame = pl.DataFrame(
        {
            "user": at % 30,
            "item": at % 41,
            "part": np.array(["train", "valid", "test"])[at * 3 // rows],
            "label": at // 30 % 2,
            "weight": np.where(at // 60 % 2 == 0, 100.0, 1.0),
        }
    )
    return Tables("weighted", Schema(user="user", item="item", label="label", weight="weight", part="part"), frame)


def test_the_weights_of_the_rows_turn_the_difference_round(tmp_path: Path) -> None:
    """The first model ranks the heavy rows rightly and the light ones wrongly, more of which there are; the second reversed."""
    data = Dataset.prepare(weighted_log(), tmp_path / "d", PrepareSettings(split=PARTS))
    label, weight = part_labels(data, "test", None), part_weights(data, "test", None)
    assert weight is not None
    heavy, right = weight > 50, 2 * label - 1
    assert heavy.mean() < 0.5
    own = np.where(heavy, right, -right) * np.linspace(1, 2, len(label))
    first, second = (
        Outcome(*part_pairs(data, "test", None), {"scores": each.astype(np.float32)}, "logits") for each in (own, -own)
    )
    (test,) = TASK.tests([first], [second], None, data, "test")
    reported = [TASK.report(each, None, data, "test", min_rows=1)["all"]["auc"] for each in (first, second)]
    assert test.difference == pytest.approx(reported[0] - reported[1], abs=1e-12)  # type: ignore[operator]
    assert test.low > 0.5
    unweighted = paired_test(label, first.user, own[None], -own[None])
    assert unweighted.high < 0 < test.difference


# -- positives only, negatives drawn -----------------------------------------------------------------------------------------


@cache
def positives() -> Dataset:
    """As `small_runs.positives`, each event with a weight: a half, one or two."""
    rng = np.random.default_rng(1)
    rows = [(f"u{user}", f"i{item}", at) for user in range(60) for at, item in enumerate(rng.permutation(50)[:12])]
    frame = pl.DataFrame(rows, schema=["user", "item", "order"], orient="row")
    frame = frame.with_columns(weight=pl.Series(rng.choice([0.5, 1.0, 2.0], len(rows))))
    schema = Schema(
        user="user",
        item="item",
        order="order",
        weight="weight",
        user_fields=(Field(name="user"),),
        item_fields=(Field(name="item"),),
    )
    settings = PrepareSettings(split=SplitConfig(kind="leave_last_two", min_history=1))
    return Dataset.prepare(Tables("weighty", schema, frame), small_runs.root() / "weighty", settings)


def test_a_positive_s_weight_weighs_its_negatives() -> None:
    """In training as in evaluation, in the order in which the samples come."""
    data = positives()
    negatives = negative_sampler(data, 3, EVALUATION_SEED)
    batches = RankingBatches(data, data.split["test"], 50, RecentHistory(data.log, 4), shuffle=False, negatives=negatives)
    parts = [(batch.label, batch.weight, batch.item, data.log.user[batch.position.numpy()]) for batch in batches]
    label, weight, item = (torch.cat([part[at] for part in parts]).numpy() for at in range(3))  # type: ignore[misc]
    assert np.array_equal(label, part_labels(data, "test", negatives))
    assert np.array_equal(weight, part_weights(data, "test", negatives))  # type: ignore[arg-type]
    users, items = part_pairs(data, "test", negatives)
    assert np.array_equal(items, item)
    assert np.array_equal(users, np.concatenate([part[3] for part in parts]))
    own = data.log.weight[data.split["test"]]  # type: ignore[index]
    assert weight.reshape(-1, 4).tolist() == [[each] * 4 for each in own.tolist()]
    assert label.reshape(-1, 4).tolist() == [[1, 0, 0, 0]] * len(own)
    (shuffled,) = RankingBatches(
        data, data.split["train"], 10_000, RecentHistory(data.log, 4), shuffle=True, negatives=negatives
    )
    assert np.array_equal(shuffled.weight.numpy(), data.log.weight[shuffled.position.numpy()])  # type: ignore[union-attr, index]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    folder = tmp_path_factory.mktemp("pair")
    made = [small_runs.train(folder / name, positives(), backbone=name, negatives=3, seed=1) for name in ("lr", "dcn")]
    return made[0], made[1]


def test_runs_on_drawn_negatives_are_compared_end_to_end(pair: tuple[Run, Run]) -> None:
    reference, other = (load(run.path) for run in pair)
    areas = [run.evaluate(min_rows=1)["all"]["auc"] for run in (reference, other)]
    assert areas[1] - areas[0] != 0  # type: ignore[operator]
    table, tests = comparison_tables([reference.path, other.path])
    assert table.row_count
    cells = {column.header: next(iter(column.cells)) for column in tests.columns}
    assert cells["difference"] == f"{areas[1] - areas[0]:+.4f}"  # type: ignore[operator]
    (test,) = Outcomes().tests([other.path], [reference.path], "ranking")
    assert test.difference == pytest.approx(areas[1] - areas[0], abs=1e-12)  # type: ignore[operator]
    assert test.users == 60
    negatives = negative_sampler(positives(), 3, EVALUATION_SEED)
    labels, weights = part_labels(positives(), "test", negatives), part_weights(positives(), "test", negatives)
    scores = [run.outcome().values["scores"] for run in (other, reference)]
    assert [len(each) for each in scores] == [len(labels)] * 2 == [4 * 60] * 2
    assert test.difference == pytest.approx(auc(labels, scores[0], weights) - auc(labels, scores[1], weights), abs=1e-12)
    plain = paired_test(labels, other.outcome().user, *(each[None] for each in scores))
    assert plain.difference != pytest.approx(test.difference, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "compared"),
    [({}, True), ({"label": 0}, False), ({"weight": 3.0}, False), ({"weight": None}, False)],
    ids=["same", "label", "weight", "no weight"],
)
def test_rows_that_are_judged_differently_are_not_held_against_each_other(
    tmp_path: Path, change: dict[str, float | None], compared: bool
) -> None:
    """The same users and items, but of two data sets whose labels or weights of them differ in one row."""
    data = Dataset.prepare(weighted_log(), tmp_path / "d", PrepareSettings(split=PARTS))
    rows = data.split["test"]
    columns = {}
    for name, value in change.items():
        columns[name] = None if value is None else getattr(data.log, name).copy()
        if value is not None:
            columns[name][rows[30]] = value
    other = replace(data, log=replace(data.log, **columns), manifest={"files": {"another": "print"}})
    assert other.fingerprint != data.fingerprint
    outcome = Outcome(data.log.user[rows], data.log.item[rows], {"scores": np.linspace(0, 1, len(rows), dtype=np.float32)})
    read = Outcomes({Path("a"): (outcome, None, data), Path("b"): (outcome, None, other)})
    assert len(read.tests([Path("a")], [Path("b")], "ranking")) == compared
