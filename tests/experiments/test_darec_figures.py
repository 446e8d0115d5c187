"""DaRec's figures from runs of a small world: every number that is shown follows from the vectors of the runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from braidrec.config import RunRequest, resolve
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.planted import PlantedConfig, planted_world
from braidrec.data.settings import SplitConfig
from braidrec.experiments import darec_figures
from braidrec.experiments.experiment import Experiment, Made
from braidrec.experiments.rows import Row, Workshop
from braidrec.runs.fit import fit_config
from braidrec.runs.knowledge import build

ROWS = {
    name: Row(name, "world", name.partition("-")[0], task="collaborative", seeds=(1,))
    for name in ("lightgcn-darec", "simgcl", "simgcl-con", "simgcl-darec")
}
METHODS = {"darec": ("darec",), "con": ("rlmrec-con",), "": ()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Runs of one epoch."""
    folder = tmp_path_factory.mktemp("figures")
    split = SplitConfig(kind="ratio", ratios=(0.6, 0.2, 0.2), min_history=0)
    world = planted_world(PlantedConfig(users=80, items=80, interactions=700, cold_fraction=0.1))
    data = Dataset.prepare(world.tables, folder / "world", PrepareSettings(split=split))
    build(data.path, folder / "knowledge", "tfidf")
    shop = Workshop({"world": data.path}, {"world": folder / "knowledge"}, folder / "runs", folder, ROWS)
    for name, row in ROWS.items():
        request = RunRequest(
            data=str(data.path),
            knowledge=(str(folder / "knowledge"),),
            task="collaborative",
            backbone=row.backbone,
            enhance=METHODS[name.partition("-")[2]],
            preset="authors",
            training={"max_epochs": 1},
        )
        fit_config(resolve(request, "test"), shop.run_path(row, 1), dataset=data, show_progress=False)
    experiment = Experiment("darec/made", "made", {"world": ROWS}, names=tuple(ROWS))
    return Made(experiment, "world", list(ROWS.values()), shop, {"rows": []}, folder / "figures", lambda: data)


def test_maps_and_their_numbers(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(darec_figures, "_DRAWN", 60)
    found = darec_figures.STRANDS.make(made)
    assert found["nodes"] == 60
    assert set(found["silhouette"]) == {"nodes", "shared", "specific", "text_shared", "text_specific"}
    assert all(-1 <= each["likeness"] <= 1 for each in found["likeness"])
    assert all((made.figures / name).exists() for name in found["files"])
    assert [table.row_count for table in darec_figures.STRANDS.show(found)] == [5, 6]


def test_users_far_apart(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(darec_figures, "_LEAST", 4)
    monkeypatch.setattr(darec_figures, "_PAIRS", 10)
    found = darec_figures.FAR.make(made)
    assert len(found["pairs"]) == 10
    assert all(pair["hops"] in (4, 6, 8) for pair in found["pairs"])
    for each in found["far"].values():
        assert each["cosine"] == pytest.approx(np.mean(each["cosine_by_pair"]), abs=1e-5)
        assert all(1 <= rank <= others for rank, others in zip(each["rank_by_pair"], found["others"], strict=True))
    assert [table.row_count for table in darec_figures.FAR.show(found)] == [4, 4]


def test_what_is_counted_here_stands_beside_what_was_printed_of_the_same_data(made: Made) -> None:
    for name, rows in (("world", 3), ("elsewhere", 4)):
        found = darec_figures.counts({name: (8, 9, 20), "another": (1, 2, 2)}, {"world": "world"}).make(made)
        assert found["counts"][name]["printed"] == {"users": 8, "items": 9, "train": 20}
        assert found["counts"]["world"]["here"]["users"] == made.open_data().num_users
        assert [table.row_count for table in darec_figures.counts({}, {}).show(found)] == [rows - (name != "world")]


def test_curves_are_of_the_rows(made: Made, tmp_path: Path) -> None:
    names = [f"lightgcn-darec{end}" for end in ("", "-k2")]
    rows = [Row(name, "world", "lightgcn", "darec", task="collaborative") for name in names]
    keys = [metric.key for metric in rows[0].metrics]
    entries = [{"row": name, **{f"test_{key}": {"mean": at / 10, "sd": 0.0} for key in keys}} for at, name in enumerate(names)]
    own = Made(made.experiment, "world", rows, made.shop, {"rows": entries}, tmp_path, made.open_data)
    extra = darec_figures.curves([("5", ""), ("2", "-k2")], ("lightgcn",), {"lightgcn": "LightGCN"}, "K")
    found = extra.make(own)
    assert found["curves"]["recall@20"] == {"LightGCN": [0.0, 0.1]}
    assert all((tmp_path / name).exists() for name in found["files"])
    assert extra.show(found)[0].row_count == len(keys)


def test_what_a_term_changes_is_over_all_of_them(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"lightgcn-darec{end}" for end in ("", "-without-local", "-without-global")]
    rows = [Row(name, "world", "lightgcn", "darec", task="collaborative") for name in names]
    keys = [metric.key for metric in rows[0].metrics]
    means = dict(zip(names, (0.2, 0.1, 0.21), strict=True))
    entries = [{"row": name, **{f"test_{key}": {"mean": mean, "sd": 0.0} for key in keys}} for name, mean in means.items()]
    own = Made(made.experiment, "world", rows, made.shop, {"rows": entries}, tmp_path, made.open_data)
    drawn = []

    def bars(values: dict[str, list[float]], labels: list[str], path: Path, *rest: str) -> Path:
        drawn.append((values, labels))
        return path

    monkeypatch.setattr(darec_figures, "bars_plot", bars)
    ends = [("none", ""), ("local", "-without-local"), ("global", "-without-global")]
    found = darec_figures.left_out(ends, ("lightgcn",), {"lightgcn": "LightGCN"}).make(own)
    assert found["curves"]["ndcg@20"] == {"LightGCN": [0.2, 0.1, 0.21]}
    assert drawn[0] == ({"LightGCN": [pytest.approx(-50), pytest.approx(5)]}, ["local", "global"])
    assert found["files"] == ["darec-made-recall-world.png", "darec-made-ndcg-world.png"]
