"""DisCo's tables as data: printed gains that follow, rows that are trained alike, costs from runs of a small world."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import small_runs
from braidrec.experiments import disco, disco_figures, reproduce
from braidrec.experiments.cells import make_cell, summary
from braidrec.experiments.experiment import Experiment, Made
from braidrec.experiments.rows import Row, Workshop
from braidrec.registry import TASKS

ALL = {each.id: each for each in disco.EXPERIMENTS}
# Table 3's last column of each data set, in %.
GAINS = {
    "ml-1m": (1.03, 0.93, 1.07, 0.77, 1.06, 0.51, 0.69),
    "amazon-toys": (0.53, 0.62, 0.65, 0.57, 0.58, 0.73, 0.30),
    "ml-25m": (1.03, 1.19, 1.35, 1.82, 0.83, 0.46, 0.37),
}


def test_printed_gains_follow_from_printed_numbers() -> None:
    for data, gains in GAINS.items():
        for backbone, gain in zip(disco.BACKBONES, gains, strict=True):
            plain, enhanced = (disco.PUBLISHED[data][f"{backbone}{end}-runs"]["auc"] for end in ("", "-disco"))
            assert 100 * (enhanced / plain - 1) == pytest.approx(gain, abs=0.011), (data, backbone)


def test_seven_backbones_are_trained_alike() -> None:
    rows = {row.name: row for row in ALL["disco/table3"].table("ml-1m")}
    trained = [row for row in rows.values() if row.name.endswith("-runs")]
    assert len(trained) == 14
    for row in trained:
        assert (row.model, row.training, row.seeds, row.data) == (
            {"history": {"run": 128}, **({"enhance": {"disentangle_weight": 0.01}} if row.enhance else {})},
            {"batch_size": 1024, "lr": 7e-4, "max_epochs": 4},
            (1, 2, 3),
            "ml-1m",
        )
        assert row.printed == disco.PUBLISHED["ml-1m"][row.name]
        assert (row.against, row.family) == ((row.name.replace("-disco", ""), "DisCo") if row.enhance else ("gbdt", "trees"))
        if row.backbone in TASKS["ranking"]:
            assert row.config().task == "ranking"
    assert {row.name for row in rows.values() if row not in trained} == {
        "gbdt",
        "item-mean-user-residual",
        "item-mean",
        "popularity",
    }


def test_the_same_row_is_another_table_s_without_its_family() -> None:
    shared = {row.name: row for row in ALL["disco/statistics"].table("ml-1m")}["din-disco-runs"]
    assert (shared.family, shared.published, shared.metrics[0].relative) == ("", None, False)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """DIN and DCN of a small world, plain and with DisCo, in runs and not; a seed each."""
    rows = {}
    for name in ALL["disco/table6"].names:
        row = ALL["disco/table6"].rows["ml-1m"][name]
        model = small_runs.MODEL | ({"history": {"length": 6, "run": 4}} if name.endswith("-runs") else {})
        rows[name] = replace(row, data="planted", model=model, training=small_runs.TRAINING, seeds=(1,))
    folder = tmp_path_factory.mktemp("disco")
    data = {"planted": small_runs.dataset().path}
    shop = Workshop(data, {"planted": small_runs.knowledge()}, folder / "runs", folder / "results", rows)
    for row in rows.values():
        make_cell(row, 1, shop)
    return shop


def shown(parts: list[object]) -> str:
    console = Console(file=StringIO(), width=250)
    for part in parts:
        console.print(part, markup=not isinstance(part, str))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_what_disco_costs(shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disco_figures, "_ROUNDS", 2)
    experiment = replace(ALL["disco/table6"], rows={"planted": shop.rows})
    rows = experiment.table("planted")
    table = summary(rows, shop, reference=experiment.over(rows))
    found = disco_figures.COST.make(Made(experiment, "planted", rows, shop, table, tmp_path, small_runs.dataset))
    assert [(each["backbone"], each["run"]) for each in found["cost"]] == [("din", 1), ("din", 4), ("dcn", 1), ("dcn", 4)]
    first = found["cost"][0]
    rates = [
        next(each for each in table["rows"] if each["row"] == name)["samples_per_second"]["mean"]
        for name in ("din", "din-disco")
    ]
    assert first["here"]["training"] == pytest.approx(rates[0] / rates[1])
    assert first["here"]["inference"] == pytest.approx(first["microseconds"][1] / first["microseconds"][0])
    assert (round(first["printed"]["training"], 2), round(first["printed"]["inference"], 2)) == (2.53, 5.54)
    assert "2.53x" in shown(list(disco_figures.COST.show(found)))


def test_a_table_of_shares_has_its_families_of_tests_apart(shop: Workshop) -> None:
    names = ("din", "din-disco", "dcn", "dcn-disco", "din-runs")
    pool: dict[str, Row] = {**shop.rows, "din-runs": replace(shop.rows["din-runs"], against="din")}
    experiment = Experiment(
        "disco/made",
        "made",
        {"planted": pool},
        names,
        reference={"din-disco": "din"},
        families={"din-disco": "DisCo", "dcn-disco": "DisCo", "din-runs": "runs"},
        relative=True,
    )
    rows = experiment.table("planted")
    table = summary(rows, shop, reference=experiment.over(rows))
    entries = {entry["row"]: entry for entry in table["rows"]}
    plain, enhanced = (entries[name]["test_auc"]["mean"] for name in ("din", "din-disco"))
    assert entries["din-disco"]["gain"]["auc"] == {
        "published": pytest.approx(0.8016 / 0.7976 - 1),
        "measured": pytest.approx(enhanced / plain - 1),
    }
    text = shown(reproduce.render(experiment, "planted", rows, table))
    assert "Holm over 2 tests of DisCo; then users and seeds both drawn" in text
    assert "Holm over 1 tests of runs" in text
    assert "+0.50%" in text
    assert text.count("one seed") == 3
