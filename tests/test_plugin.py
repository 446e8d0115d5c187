"""A package that is installed by its entry points alone trains, evaluates, compares and recommends with no edit in braidrec."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import small_runs
from small_runs import dataset, knowledge

PLUGIN = Path(__file__).parent / "plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what an installer leaves of the package: its code's place, and its metadata with the entry points."""
    site = tmp_path_factory.mktemp("site")
    about = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    info = site / f"braidrec_shelf-{about['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n")
    lines = []
    for group, entries in about["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {where}" for name, where in entries.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return site


class Shell:
    """Runs commands in processes that see the package, as if it were installed."""

    def __init__(self, site: Path, folder: Path):
        self.folder = folder
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(site), str(PLUGIN / "src")))}

    def __call__(self, *arguments: object, code: int = 0) -> str:
        command = [sys.executable, "-c", "from braidrec.cli import main; main()", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=self.environment, cwd=self.folder)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return done.stdout + done.stderr


@pytest.fixture
def braidrec(installed: Path, tmp_path: Path) -> Shell:
    return Shell(installed, tmp_path)


SMALL = ("--set", "model.dim=8", "--set", "training.max_epochs=1", "--set", "training.batch_size=1024")


def test_every_list_knows_it(braidrec: Shell) -> None:
    table = " ".join(braidrec("list").replace("│", " ").split())
    for name in ("tower", "blurb", "counting", "letters", "shelf"):
        assert f"{name} (braidrec-shelf)" in table
    assert "counts (braidrec_shelf)" in table
    text = " ".join(braidrec("fit", "--help").split())
    assert "tower" in text
    assert "blurb" in text
    assert "what is met most: counts" in text.replace("│ ", "").replace(" │", "")
    assert "width" in braidrec("list", "tower")
    assert "unknown backbone 'towr' (did you mean 'tower'?)" in braidrec("fit", "--data", "x", "--backbone", "towr", code=2)
    wrong = braidrec("fit", "--data", "x", "--backbone", "tower", "--set", "model.backbone.widht=3", code=2)
    assert "unknown key 'backbone.widht' (did you mean 'width'?)" in wrong


def test_its_backbone_and_its_method_train_and_stand_beside_ours(braidrec: Shell) -> None:
    data, base = dataset().path, knowledge()
    said = braidrec("fit", "--data", data, "--backbone", "tower", *SMALL, "--out", "tower")
    assert "Tower (ours): best validation AUC" in said
    both = ("--enhance", "blurb", "--enhance", "disco", "--knowledge", base)
    braidrec("fit", "--data", data, "--backbone", "tower", *both, *SMALL, "--out", "all")
    braidrec("fit", "--data", data, "--backbone", "din", "--enhance", "blurb", "--knowledge", base, *SMALL, "--out", "din")
    table = braidrec("compare", "tower", "all", "din")
    for name in ("Tower (ours)", "Tower + Blurb + DisCo", "DIN + Blurb (ours)", "popularity"):
        assert name.split()[0] in table
    assert "AUC" in braidrec("evaluate", "all")
    user, item = dataset().user_ids[3], dataset().item_ids[5]
    assert "p(positive)" in braidrec("recommend", "all", "--user", user, "-k", 3)
    (braidrec.folder / "new.csv").write_text("item_id,title,description\nnew-1,Moon,a tale of ghosts and stars\n")
    assert "1 item added" in braidrec("add-items", "all", "new.csv")
    (braidrec.folder / "allow.txt").write_text("new-1\n")
    assert "new-1" in braidrec("recommend", "all", "--items", item, "--allow", "allow.txt")


def test_its_task_and_its_fitted_model_do_all_that_a_run_does(braidrec: Shell) -> None:
    data = dataset().path
    for power, out in ((1.0, "first"), (0.5, "second")):
        said = braidrec("fit", "--data", data, "--backbone", "counts", "--set", f"model.backbone.power={power}", "--out", out)
        assert "Counts (ours): validation HR@10" in said
    assert "HR@10" in braidrec("compare", "first", "second")
    assert "score" in braidrec("recommend", "first", "--items", dataset().item_ids[0], "-k", 2)
    assert "recommendations for" in braidrec("recommend", "first", "--all-users", "--out", "recs.parquet", "-k", 2)
    assert "fitted at once" in braidrec("fit", "--data", data, "--backbone", "counts", "--set", "training.lr=1", code=2)
    assert "knows items by id alone" in add_nothing(braidrec)


def add_nothing(braidrec: Shell) -> str:
    (braidrec.folder / "new.csv").write_text("item_id,title\nnew-1,Moon\n")
    return braidrec("add-items", "first", "new.csv", code=2)


def test_its_encoder_and_its_data_set_are_known_by_name(braidrec: Shell) -> None:
    assert "letters" in braidrec("knowledge", "build", dataset().path, "--out", "kb", "--encoder", "letters")
    rows = ["reader,book,when,liked"] + [f"r{at % 9},b{at % 7},{1_700_000_000 + at},{at % 2}" for at in range(200)]
    (braidrec.folder / "shelf.csv").write_text("\n".join(rows) + "\n")
    assert "shelf at" in braidrec("data", "prepare", "shelf", "--source", ".")
    assert "A shelf of books" in braidrec("data", "list")


def test_its_runs_say_what_is_missing_where_it_is_not_installed(braidrec: Shell, tmp_path: Path) -> None:
    braidrec("fit", "--data", dataset().path, "--backbone", "counts", "--out", "counts")
    braidrec("fit", "--data", dataset().path, "--backbone", "tower", *SMALL, "--out", "tower")
    alone = Shell(small_runs.root(), tmp_path)
    alone.environment = dict(os.environ)
    said = alone("recommend", "counts", "--items", dataset().item_ids[0], code=2)
    assert "a run of the task 'counting', which is not installed here" in said
    assert "has no backbone 'tower'" in alone("evaluate", "tower", code=2)
