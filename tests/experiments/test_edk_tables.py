"""EDK's tables as data: printed gains that follow, knowledge that is compressed once, figures from a run of a small world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.planted import PlantedConfig, planted_world
from braidrec.errors import RunError
from braidrec.experiments import edk, edk_figures
from braidrec.experiments.cells import differences, make_cell, summary
from braidrec.experiments.experiment import Made
from braidrec.experiments.material import VARIANTS, settings_of
from braidrec.experiments.rows import Row, Workshop
from braidrec.files import read_json
from braidrec.ranking.model import ClickModel
from braidrec.runs.run import load

ALL = {each.id: each for each in edk.EXPERIMENTS}
POOL = edk.ROWS[edk.LOGS]
# Table 2's last column of each data set, in %.
GAINS = {"ad": (2.54, 2.25, 1.03, 1.08, 0.35, 2.23), "eleme": (5.36, 2.77, 3.61, 1.48, 1.39, 2.26)}


def test_printed_gains_follow_from_printed_numbers_and_stand_in_the_notes() -> None:
    for data, gains in GAINS.items():
        for backbone, gain in zip(edk.BACKBONES, gains, strict=True):
            plain, enhanced = (edk.PUBLISHED[data][f"{backbone}-{end}"]["auc"] for end in ("all", "edk"))
            assert 100 * (enhanced / plain - 1) == pytest.approx(gain, abs=0.011), (data, backbone)
    [said] = (note for note in ALL["edk/table2"].notes if "on AD" in note)
    assert "DeepFM 0.6220 to 0.6378 (+2.54%)" in said
    [parts] = (note for note in ALL["edk/table3"].notes if "on Eleme" in note)
    assert "with DCN, AUC: 0.6563, 0.6433 without disentangled, 0.6520 without essential, 0.6411 without both" in parts


def test_every_row_resolves_on_a_variant_that_can_be_made() -> None:
    for row in POOL.values():
        assert row.data in VARIANTS
        if not row.simple:
            assert row.config().task == "ranking"
            assert not row.reads_text
    for name, per_user in ((edk.BY_USER, True), (edk.AT_MOMENTS, False)):
        split = settings_of(name)[1].split
        assert (split.kind, split.per_user, split.min_history) == ("knowledge", per_user, 0)


def test_knowledge_is_compressed_once_and_held_against_three_controls() -> None:
    rows = {row.name: row for row in ALL["edk/table2"].table(edk.LOGS)}
    compressed = [name for name, row in rows.items() if row.enhance and "phases" in row.training]
    assert compressed == ["deepfm-edk"]
    for backbone in edk.BACKBONES:
        row = rows[f"{backbone}-edk"]
        assert dict(row.starts) == ({} if backbone == "deepfm" else {"knowledge": "deepfm-edk"})
        assert row.references == (f"{backbone}-all", backbone, f"{backbone}-random")
        assert row.family == "EDK"
        assert rows[f"{backbone}-all"].config().model.train_on == "knowledge+train"  # type: ignore[attr-defined]
        assert not rows[f"{backbone}-random"].config().model.of("edk").compress  # type: ignore[attr-defined]
        assert (rows[backbone].enhance, row.config().model.train_on) == (None, "train")  # type: ignore[attr-defined]
    weights = {
        name: POOL[f"deepfm-edk-{name}"].config().model.of("edk") for name in ("no-disentangled", "no-essential", "no-both")
    }
    assert weights["no-disentangled"].disentangle_weight == 0  # type: ignore[attr-defined]
    assert (weights["no-essential"].label_weight, weights["no-essential"].input_weight) == (0, 0)  # type: ignore[attr-defined]
    assert weights["no-both"].reg_weight == 0  # type: ignore[attr-defined]


def test_trees_say_what_their_rates_have_seen() -> None:
    said = "held-out events of other users"  # where each user is cut alone, these may come before a training row
    assert said in POOL["gbdt"].note
    assert said not in POOL["global-gbdt"].note


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """DeepFM with a tiny EDK on a small world, a seed of it."""
    folder = tmp_path_factory.mktemp("edk")
    world = planted_world(PlantedConfig(users=60, items=40, interactions=1_200, cold_fraction=0.0))
    settings = PrepareSettings.model_validate({"split": {"kind": "knowledge", "per_user": True}})
    data = Dataset.prepare(world.tables, folder / "world", settings)
    own = POOL["deepfm-edk"]
    model = {"dim": 4, "edk": {"width": 4, "patterns": 3, "layers": 1, "heads": 1}, "history": {"length": 4, "run": 4}}
    training = {"batch_size": 128, "max_epochs": 1}
    compressing = training | {"phases": {"knowledge": {"max_epochs": 1, "checks_per_epoch": 2}}}
    row = replace(own, data="world", model=model, training=compressing, seeds=(1,), against=None)
    taken = replace(POOL["dcn-edk"], data="world", model=model, training=training, seeds=(1,), against=None)
    rows = {each.name: each for each in (row, taken)}
    shop = Workshop({"world": data.path}, {"world": folder}, folder / "runs", folder / "results", rows)
    make_cell(row, 1, shop)
    experiment = replace(ALL["edk/fig5"], rows={"world": shop.rows})
    return Made(experiment, "world", [row], shop, summary([row], shop), folder / "figures", lambda: data)


def test_another_backbone_takes_the_knowledge_over(made: Made) -> None:
    row = made.shop.rows["dcn-edk"]
    assert make_cell(row, 1, made.shop)
    cell = read_json(made.shop.cell_path(row, 1), RunError)
    assert [phase["name"] for phase in cell["phases"]] == ["rank"]
    assert cell["settings"]["givers"]["deepfm-edk"]["run"]["backbone"] == "deepfm"
    assert differences(row, 1, made.shop) == []
    giver, taker = (
        cast(ClickModel, load(made.shop.run_path(made.shop.rows[name], 1)).model).module.state_dict()
        for name in ("deepfm-edk", "dcn-edk")
    )
    knowledge = [name for name in giver if ".knowledge." in name]
    assert knowledge
    assert all(torch.equal(giver[name], taker[name]) for name in knowledge)


def test_losses_of_the_first_stage_alone(made: Made) -> None:
    found = edk_figures.LOSSES.make(made)
    assert set(found["losses"]) == {"disentangled", "-sum I(s; y)", "I(X; c)"}
    assert found["epochs"][-1] == pytest.approx(1, abs=0.01)
    assert all(len(line) == len(found["epochs"]) == 2 for line in found["losses"].values())
    assert (made.figures / found["files"][0]).stat().st_size > 5_000
    assert edk_figures.LOSSES.show(found)[0].row_count == 3


def test_sizes_and_maps_of_patterns(made: Made) -> None:
    found = edk_figures.SIZES.make(made)
    assert sum(found["sizes"]) == pytest.approx(1)
    assert found["test_rows"] == len(made.run("deepfm-edk").dataset.split["test"])
    mean = sum(size * share for size, share in enumerate(found["sizes"]))
    assert np.mean(found["by_pattern"]) == pytest.approx(mean)
    assert sum(found["open"]) == pytest.approx(1)
    assert all(sum(found["open"][:size]) <= sum(found["sizes"][:size]) for size in range(len(found["sizes"])))
    assert 0 < found["effective"] <= len(found["open"]) - 1
    assert edk_figures.SIZES.show(found)[0].row_count == len(found["sizes"])
    earlier = {key: value for key, value in found.items() if key not in ("open", "effective")}
    assert len(edk_figures.SIZES.show(earlier)[0].columns) == 2
    maps = edk_figures.MAPS.make(made)
    assert maps["drawn"] == [found["test_rows"], 3 * found["test_rows"]]
    assert all(-1 <= told <= 1 for told in (*maps["told"].values(), maps["cosine"]))
    assert all((made.figures / name).exists() for name in (*found["files"], *maps["files"]))
    assert edk_figures.MAPS.show(maps)[0].row_count == 2


def test_mapped_patterns_are_spread_over_the_log() -> None:
    places = edk_figures._spread(2_000, 200)
    assert len(np.unique(places)) == 200
    assert (np.diff(places) > 0).all()
    assert np.histogram(places, bins=4, range=(0, 2_000))[0].min() > 30
    assert edk_figures._spread(5, 200).tolist() == [0, 1, 2, 3, 4]
    assert places.tolist() == edk_figures._spread(2_000, 200).tolist()


def test_the_mean_cosine_of_patterns_by_hand() -> None:
    patterns = np.array([[[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]]])  # pairs: 0, 1, 0
    assert edk_figures._likeness(patterns) == pytest.approx(1 / 3)
    assert edk_figures._likeness(patterns[:, :1]) == 0


def test_whom_the_old_logs_know(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    found = edk_figures.counts({"ad": (1, 2, 3, 4, 5)}, ("world",)).make(made)
    data = made.open_data()
    assert found["counts"]["ad"] == {"users": 1, "items": 2, "rows": 3, "fields": 4, "features": 5}
    assert found["counts"]["world"]["rows"] == len(data.log)
    assert list(found["unseen"]["world"]) == ["knowledge", "knowledge_valid", "train", "valid", "test"]
    assert sum(part["rows"] for part in found["unseen"]["world"].values()) == len(data.log)
    old = set(data.log.item[data.split["knowledge"]].tolist())
    items = data.log.item[data.split["test"]].tolist()
    assert found["unseen"]["world"]["test"]["item"] == pytest.approx(np.mean([item not in old for item in items]))
    assert found["unseen"]["world"]["test"]["user"] == 0  # everybody has old events
    assert [table.row_count for table in edk_figures.counts({}, ()).show(found)] == [2, 5]


def test_curves_by_the_number_of_patterns(made: Made, tmp_path: Path) -> None:
    rows = [Row(name, "world", "deepfm", "edk") for name in ("a", "b")]
    entries = [{"row": row.name, "test_auc": {"mean": at / 10}, "test_log_loss": {"mean": 0.5}} for at, row in enumerate(rows)]
    own = Made(made.experiment, "world", rows, made.shop, {"rows": entries}, tmp_path, made.open_data)
    extra = edk_figures.by_patterns({5: "a", 10: "b"})
    found = extra.make(own)
    assert found["by_patterns"] == {"auc": [0.0, 0.1], "log_loss": [0.5, 0.5]}
    assert len(found["files"]) == 2
    assert extra.show(found)[0].row_count == 2
