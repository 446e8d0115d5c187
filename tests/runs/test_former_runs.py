"""Runs of the version before: they answer with their data, say what they need without, grow, and go on where they stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import sequence_runs
from former_runs import rewrite, rewrite_config

import small_runs
from braidrec.data.dataset import Dataset
from braidrec.errors import ConfigError, RunError
from braidrec.files import read_json
from braidrec.registry import TASKS
from braidrec.runs.directory import load_model
from braidrec.runs.run import Run, load
from braidrec.training.loop import _PhaseRun

NEW = {"late-1": "ghosts and demons", "late-2": "a foggy harbour"}
BY_MEANING: Mapping[str, Any] = {"model": {"history": {"kind": "semantic_topk", "length": 6}}}
STATISTICS: Mapping[str, Any] = {"model": {"statistics": True}}


class Case(NamedTuple):
    task: str
    backbone: str
    method: str | None = None
    special: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.task, self.backbone, self.method, self.special)))

    @property
    def small(self) -> Any:
        return small_runs if self.task == "ranking" else sequence_runs

    @property
    def data(self) -> Dataset:
        return self.small.dataset()

    @property
    def reads_text(self) -> bool:
        return self.method is not None or self.special == "by meaning"


SPECIAL: Mapping[str, Mapping[str, Any]] = {"by meaning": BY_MEANING, "statistics": STATISTICS, "": {}}
CASES = [
    Case("ranking", "din", None, "by meaning"),
    Case("ranking", "din", "disco", "by meaning"),
    Case("ranking", "deepfm", None, "statistics"),
    *(
        Case(task, backbone, method)
        for task in ("ranking", "sequential")
        for backbone in TASKS[task].backbones
        for method in (None, *TASKS[task].methods)
        if TASKS[task].backbones.origin(backbone) == "braidrec"
        if method is None or not TASKS[task].methods[method].parts  # of splits that came later
    ),
]
QUICK = {"din", "sasrec"}  # with every method; the other backbones with the methods are slow, since they are many


def params(cases: list[Case]) -> list[Any]:
    slow = [case.backbone not in QUICK and case.method is not None for case in cases]
    return [pytest.param(case, id=str(case), marks=[pytest.mark.slow] * late) for case, late in zip(cases, slow, strict=True)]


def train(case: Case, path: Path, *, seed: int = 3) -> Run:
    training = {"max_epochs": 1, "checks_per_epoch": 2, "batch_size": 512}
    knowledge = case.small.knowledge() if case.reads_text else None
    changes = {"enhance": case.method, "knowledge": knowledge, "seed": seed, "training": training, **SPECIAL[case.special]}
    return case.small.train(path, backbone=case.backbone, **changes)


@cache
def trained(case: Case) -> Run:
    return train(case, small_runs.root() / "former" / str(case).replace(" ", "-"))


def former(run: Run, path: Path, *, data: Path | None = None) -> Path:
    small_runs.copy_of(run, path)
    rewrite(path, data=data)
    return path


def answers(run: Run) -> list[Any]:
    user, liked = run.dataset.user_ids[3], run.catalogue.all_ids[2:6]
    return [
        run.recommend(user, k=10**6),
        run.recommend(user, k=3, exclude_seen=False, deny=liked),
        run.recommend(items=[*liked, run.catalogue.all_ids[-1]], k=10**6),
        run.recommend(items=[], k=5),
        run.score_items(user, run.catalogue.all_ids[-5:]).tolist(),
    ]


def spaces(run: Run) -> dict[str, bytes]:
    return {name: vectors.tobytes() for name, vectors in run.inspect().items()}


@pytest.mark.parametrize("case", params(CASES))
def test_a_former_run_answers_is_evaluated_and_grows_as_ever(case: Case, tmp_path: Path) -> None:
    wanted = trained(case)
    path = former(wanted, tmp_path / "run")
    run = load(path)
    assert (run.title, run.headline, run.num_items) == (wanted.title, wanted.headline, wanted.num_items)
    assert run.config.model == wanted.config.model
    assert (run.config.enhance, run.config.knowledge) == (wanted.config.enhance, wanted.config.knowledge)
    assert list(run.record["knowledge"]) == list(wanted.record["knowledge"])
    assert answers(run) == answers(wanted)
    assert (spaces(run), run.model.facts()) == (spaces(wanted), wanted.model.facts())
    for part in ("valid", "test"):
        assert run.evaluate(part, show_progress=False).to_json() == wanted.evaluate(part, show_progress=False).to_json()
    assert train(case, path).record == run.record, "a finished run is loaded"
    if not wanted.model.reads_text:
        with pytest.raises(RunError, match="knows items by id alone"):
            run.add_items(NEW)
        return
    grown = small_runs.copy_of(wanted, tmp_path / "grown")
    for each in (run, grown):
        assert each.add_items(NEW) == 2
    assert answers(run) == answers(grown)
    assert answers(load(path)) == answers(load(grown.path))
    rewrite(grown.path)  # what was added then is read back now
    assert answers(load(grown.path)) == answers(run)


@pytest.mark.parametrize("case", params(CASES))
def test_a_former_run_without_its_data_says_that_it_needs_them(case: Case, tmp_path: Path) -> None:
    """It kept no catalogue and, beside its weights, nothing of the data."""
    wanted, nowhere = trained(case), tmp_path / "nowhere"
    path = former(wanted, tmp_path / "run", data=nowhere)
    with pytest.raises(
        RunError,
        match=rf"{path}: saved by an earlier version, without its catalogue, and its data set \({nowhere}\) is not there; "
        r"bring it back, or say where it is: load\(path, dataset=\.\.\.\)",
    ):
        load(path)
    room = wanted.config.chosen.task.room()
    with pytest.raises(RunError, match="saved by an earlier version"):
        room.load(wanted.config, load_model(path), None)
    run = load(path, dataset=case.data)
    assert answers(run) == answers(wanted)
    assert run.evaluate(show_progress=False).to_json() == wanted.evaluate(show_progress=False).to_json()


@pytest.mark.parametrize("case", params(CASES))
def test_an_unfinished_run_of_then_goes_on_and_ends_with_the_same_bytes(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, path = trained(case), tmp_path / "run"
    last, check = wanted.record["phases"][-1]["name"], _PhaseRun._check

    def stopped(phase: _PhaseRun) -> bool:
        over = check(phase)
        if phase.phase.name == last:
            phase._save()
            raise KeyboardInterrupt
        return over

    with monkeypatch.context() as patched:
        patched.setattr(_PhaseRun, "_check", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(case, path)
    rewrite_config(path)
    with pytest.raises(ConfigError, match=r"other settings \(seed was 3 and is now 4\)"):
        train(case, path, seed=4)
    run = train(case, path)
    assert (run.path / "model.safetensors").read_bytes() == (wanted.path / "model.safetensors").read_bytes()
    assert [phase["best"] for phase in run.record["phases"]] == [phase["best"] for phase in wanted.record["phases"]]
    assert run.record["format"] == 3
    assert answers(load(path)) == answers(wanted)


def test_a_damaged_former_run_is_refused_by_name(tmp_path: Path) -> None:
    case = Case("ranking", "din", "disco")
    path = former(trained(case), tmp_path / "run")
    for name in ("config.toml", "model.json", "model.safetensors", "vocabulary.json", "metrics.jsonl", "environment.json"):
        good = (path / name).read_bytes()
        (path / name).write_bytes(good[:-1] + b"x")
        with pytest.raises((RunError, ConfigError), match=name.replace(".", r"\.")):
            load(path)
        (path / name).write_bytes(good)
    record = read_json(path / "run.json", RunError)
    (path / "run.json").write_text(json.dumps({**record, "title": "other"}))
    with pytest.raises(RunError, match=r"run\.json: its content does not have its digest"):
        load(path)
    (path / "run.json").write_text(json.dumps({**record, "format": 1}))
    with pytest.raises(RunError, match="run format 1, this version reads 2 and 3; train it again"):
        load(path)
    shutil.rmtree(path)


def test_a_stage_of_a_former_run_is_taken_over_like_one_of_today(tmp_path: Path) -> None:
    today = trained(Case("sequential", "sasrec"))
    made = []
    for name, base in (("former", former(today, tmp_path / "base")), ("today", today.path)):
        model, training = {"start_from": {"pretrain": str(base)}}, {"max_epochs": 1, "batch_size": 512}
        knowledge = sequence_runs.knowledge()
        run = sequence_runs.train(tmp_path / name, enhance="pad", knowledge=knowledge, model=model, training=training)
        assert [phase["name"] for phase in run.record["phases"]] == ["align", "experts"]
        made.append((run.path / "model.safetensors").read_bytes())
    assert made[0] == made[1]
    np.testing.assert_array_equal(load(tmp_path / "base").inspect("pretrain")["id"], today.inspect("pretrain")["id"])
