"""SDRL's tables: rows resolve, the split is what is said, published numbers agree with one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from io import StringIO

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from braidrec.data.schema import Schema
from braidrec.data.tables import Tables
from braidrec.errors import ConfigError, RunError
from braidrec.experiments import reproduce
from braidrec.experiments.cells import make_cell, summary
from braidrec.experiments.material import VARIANTS
from braidrec.experiments.rows import Workshop
from braidrec.experiments.sdrl import EXPERIMENTS, JUDGED, PUBLISHED, SMALL, TESTED
from braidrec.experiments.shuffled import rated_core_in_parts
from braidrec.files import read_json
from braidrec.runs.run import Run
from rated_worlds import rated, world
from small_runs import root

ALL = {each.id: each for each in EXPERIMENTS}


def ratings(seed: int = 0) -> Tables:
    """Users and items of any number of ratings."""
    rng = np.random.default_rng(seed)
    met = rng.random((60, 50)) < rng.random(50)[None] * rng.uniform(0.4, 1, size=(60, 1))
    user, item = np.nonzero(met)
    log = pl.DataFrame({"user": user, "item": item, "rating": rng.integers(1, 6, len(user)), "time": np.arange(len(user))})
    items = pl.DataFrame({"item": np.arange(50), "genres": ["A|B"] * 50})
    return Tables("t", Schema(user="user", item="item", rating="rating", timestamp="time", positive_above=3.0), log, items)


def test_every_row_resolves_on_a_variant_that_can_be_made() -> None:
    for experiment in EXPERIMENTS:
        for data in experiment.rows:
            for row in experiment.table(data):
                assert row.data in VARIANTS, row.name
                assert row.config().task == "collaborative"
                assert {metric.key for metric in row.metrics} >= set(row.tested)


def test_every_table_and_figure_of_the_paper_is_there() -> None:
    wanted = {f"sdrl/table{number}" for number in range(1, 14)} | {f"sdrl/fig{number}" for number in range(3, 8)}
    assert set(ALL) == wanted <= set(reproduce.EXPERIMENTS)


def test_what_is_not_at_hand_is_said() -> None:
    with pytest.raises(ConfigError, match="sdrl/table4: cannot be made on 'amazon-book'; its published numbers are known"):
        ALL["sdrl/table4"].dataset("amazon-book")


def test_sizes_of_blocks_add_up() -> None:
    for name, row in next(iter(ALL["sdrl/table2"].rows.values())).items():
        if row.backbone == "sdrl":
            assert row.config().model.backbone.size == 128, name  # type: ignore[attr-defined]


def test_published_micro_f1_is_of_the_published_recall_and_precision() -> None:
    """In the fourth digit they differ, because runs were averaged."""
    for models in PUBLISHED.values():
        for name, found in models.items():
            if "classes_f1" in found:
                recall, precision = found["classes_recall"], found["classes_precision"]
                assert 2 * recall * precision / (recall + precision) == pytest.approx(found["classes_f1"], rel=5e-3), name


@pytest.mark.parametrize(
    ("data", "improvement"),
    [
        ("ml-latest-small", (30.0171, 27.9192, 25.4228, 20.4062, 25.8338, 28.8774)),
        ("ml-10m", (44.6963, 38.8184, 35.2393, 42.2793, 38.2288, 37.0189)),
        ("amazon-book", (0.2879, 4.3592, 5.9549, 2.0549, 5.4543, 7.1127)),
    ],
)
def test_published_improvements_follow_from_published_numbers(data: str, improvement: tuple[float, ...]) -> None:
    models = PUBLISHED[data]
    keys = [key for key in models["sdrl"] if "@" in key]
    for key, printed in zip(keys, improvement, strict=True):
        best = max(models[name][key] for name in ("netmf", "prone", "vaecf", "macridvae"))
        assert 100 * (models["sdrl"][key] / best - 1) == pytest.approx(printed, abs=0.02), key


def test_a_core_of_ratings_is_cut_by_user_and_all_of_it_is_positive() -> None:
    own = ratings()
    found = rated_core_in_parts(own, core=10, seed=0)
    log = found.interactions
    assert found.schema.positive_above == 0
    for name in ("user", "item"):
        assert log[name].value_counts()["count"].min() >= 10  # type: ignore[operator]
    assert found.items is not None
    assert set(found.items["item"]) == set(log["item"])
    for _, one in log.group_by("user"):
        parts = dict(one["part"].value_counts().iter_rows())
        assert parts["test"] == int(0.2 * len(one))
        assert parts["valid"] == 1
    again = rated_core_in_parts(own, core=10, seed=0).interactions
    assert again.equals(log)
    assert not rated_core_in_parts(own, core=10, seed=1).interactions.equals(log)


def test_tables_say_which_rows_are_not_in_their_authors_form() -> None:
    for name in ("sdrl/table2", "sdrl/table5"):
        own = ALL[name]
        departing = {row.name for row in own.table(SMALL) if row.preset == "ours" and row.printed}
        assert departing <= {"netmf", "prone", "vaecf", "macridvae"}
        assert any("NetMF, ProNE, VAECF and MacridVAE have preset ours" in note for note in own.notes)


def test_rows_of_one_cell_say_so() -> None:
    rows = {row.name: row for row in ALL["sdrl/table2"].table(SMALL)}
    assert rows["ease"].once
    assert rows["ease"].cells == (1,)
    assert not rows["sdrl"].once
    assert [metric.key for metric in rows["sdrl"].metrics if metric.shown] == [
        "f1@5", "f1@10", "f1@15", "ndcg_all@5", "ndcg_all@10", "ndcg_all@15", "ndcg@10",
    ]  # fmt: skip


@cache
def made() -> Workshop:
    """SDRL's rows on a small planted world, tiny: a closed form, and two seeds of one that trains."""
    folder = root() / "sdrl-tables"
    data = rated(world(), name="rated-tables")
    blocks = {"internal": {"size": 4, "column": "genres", "separator": "|"}, "external": {"size": 4}, "other": {"size": 0}}
    pool = ALL["sdrl/table2"].rows[SMALL]
    rows = {
        "ease": replace(pool["ease"], data="small", measure=_genres),
        "sdrl": replace(
            pool["sdrl"],
            data="small",
            model={"backbone": {"blocks": blocks, "hidden": 8}},
            training={"max_epochs": 2, "min_epochs": 0, "batch_size": 30},
            seeds=(1, 2),
            against=("ease",),
            measure=_genres,
        ),
    }
    shop = Workshop({"small": data.path}, {"small": folder}, folder / "runs", folder / "results", rows)
    for row in rows.values():
        for seed in row.cells:
            make_cell(row, seed, shop)
    return shop


def _genres(run: Run) -> Mapping[str, float]:
    return {"classes_f1": 0.25 * run.config.seed} if run.inspect() else {}


def test_a_cell_keeps_what_its_row_is_judged_by_and_what_its_vectors_tell() -> None:
    cell = read_json(made().cell_path(made().rows["sdrl"], 2), RunError)
    assert cell["test"]["all"].keys() == {"rows", "classes_f1", *(metric.key for metric in JUDGED if "@" in metric.key)}
    assert "classes_f1" not in read_json(made().cell_path(made().rows["ease"], 1), RunError)["test"]["all"]


def test_a_row_that_no_seed_changes_goes_with_every_seed_and_tests_are_of_what_was_asked() -> None:
    rows = made().rows
    table = summary(list(rows.values()), made(), reference={"sdrl": "ease"})
    entry = {each["row"]: each for each in table["rows"]}["sdrl"]
    assert [(test["metric"], test["seeds"], len(test["per_seed"])) for test in entry["against"]] == [
        (metric, [1, 2], 2) for metric in TESTED
    ]
    assert entry["gain"]["seeds"] == [1, 2]
    assert entry["test_classes_f1"] == {"mean": 0.375, "sd": pytest.approx(0.25 / 2**0.5)}
    assert table["not_run"] == []
    ease = {each["row"]: each for each in table["rows"]}["ease"]
    assert ease["seeds"] == [1]
    assert ease["test_classes_f1"] is None


def test_a_row_that_is_not_judged_by_a_metric_has_a_dash() -> None:
    own = replace(ALL["sdrl/table5"], rows={"small": dict(made().rows)}, names=("ease", "sdrl"), reference="sdrl", published={})
    rows = [replace(row, seeds=row.cells, judged=JUDGED) for row in own.rows["small"].values()]
    table = summary(rows, made(), reference=own.over(rows))
    console = Console(file=StringIO(), width=250)
    for part in reproduce.render(own, "small", own.table("small"), table):
        console.print(part)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    line = next(line for line in shown.splitlines() if "ease" in line)
    assert "-" in [part.strip() for part in line.split("│")]
    assert "37.5000 ± 17.6777" in shown
