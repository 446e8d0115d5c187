"""A run that is killed, signalled or damaged ends as an unbroken one, or says why it cannot."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import toy_training
from toy_training import Toy, run_toy, toy_phases

from braidrec.errors import RunError, TrainingError
from braidrec.training.contracts import CheckpointEvery
from braidrec.training.loop import train

STEPS = 48  # 2 phases x 2 epochs x 12 batches


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    """Fresh processes that need not import torch again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toy_training", "lightning_fabric"])
    return context


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("unbroken")
    run_toy(directory)
    return directory


def lines(directory: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in ("seconds", "samples_per_second")} for row in rows]


def in_process(processes: multiprocessing.context.ForkServerContext, directory: Path, trouble: str) -> int | None:
    process = processes.Process(target=run_toy, args=(directory, trouble))
    process.start()
    process.join(120)
    return process.exitcode


def same(directory: Path, unbroken: Path) -> None:
    assert (directory / "end.txt").read_text() == (unbroken / "end.txt").read_text()
    assert lines(directory) == lines(unbroken)


def test_unbroken_run_logs_every_check(unbroken: Path) -> None:
    rows = lines(unbroken)
    assert [row["epoch"] for row in rows] == [step / 12 for step in (4, 8, 12, 16, 20, 24)] * 2
    assert [row["phase"] for row in rows] == ["pretrain"] * 6 + ["tune"] * 6
    assert rows[0]["losses"].keys() == {"prediction", "disentangle"}
    assert rows[0]["first"].keys() == {"estimators"}
    assert rows[0]["monitors"].keys() == {"norm"}


def killed_at(
    processes: multiprocessing.context.ForkServerContext, directory: Path, troubles: list[str], unbroken: Path
) -> None:
    for trouble in troubles:
        assert in_process(processes, directory, trouble) == -9, trouble
    assert in_process(processes, directory, "") == 0
    same(directory, unbroken)


@pytest.mark.parametrize("troubles", [["kill step 3"], ["kill step 18", "kill save 4"], ["kill step 31"], ["kill validate 9"]])
def test_killed_run_ends_as_the_unbroken_one(processes, tmp_path: Path, unbroken: Path, troubles: list[str]) -> None:
    killed_at(processes, tmp_path, troubles, unbroken)


@pytest.mark.slow
def test_killed_again_and_again(processes, tmp_path: Path, unbroken: Path) -> None:
    draw = random.Random(3)
    for at in range(20):
        if at % 4 == 3:
            killed_at(processes, tmp_path / str(at), [f"kill save {draw.randint(1, 20)}"], unbroken)
        else:
            killed_at(processes, tmp_path / str(at), [f"kill step {draw.randint(1, STEPS)}"], unbroken)


@pytest.mark.parametrize(
    "trouble", ["term step 6", "term step 12", "term validate 3", "term step 30", "int step 24", "term step 48"]
)
def test_signal_leaves_a_checkpoint(tmp_path: Path, unbroken: Path, trouble: str) -> None:
    with pytest.raises(KeyboardInterrupt if "int" in trouble else TrainingError, match=r"interrupted .* to resume"):
        run_toy(tmp_path, trouble)
    run_toy(tmp_path)
    same(tmp_path, unbroken)


def test_finished_run_is_read_back(tmp_path: Path, unbroken: Path) -> None:
    shutil.copytree(unbroken, tmp_path, dirs_exist_ok=True)
    first, again = run_toy(tmp_path), run_toy(tmp_path)
    assert first == again
    same(tmp_path, unbroken)


def test_same_seed_in_two_processes(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, toy_training.__file__, str(tmp_path / seed)], env=os.environ | {"PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2")
    ]
    assert [process.wait(120) for process in started] == [0, 0]
    same(tmp_path / "1", tmp_path / "2")


@pytest.mark.parametrize("name", ["model.safetensors", "optimisers.safetensors", "random.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damaged_checkpoint_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    with pytest.raises(TrainingError):
        run_toy(tmp_path, "term step 10")
    checkpoints = sorted((tmp_path / "checkpoints").iterdir())
    file = checkpoints[-1] / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    with pytest.raises(RunError, match=rf"{checkpoints[-1].name}.*delete .* to resume from"):
        run_toy(tmp_path)
    shutil.rmtree(checkpoints[-1])
    run_toy(tmp_path)


def test_another_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError):
        run_toy(tmp_path, "term step 10")
    with pytest.raises(RunError, match=r"phases\[0\].stop.max_epochs was 2 and is now 3"):
        run_toy(tmp_path, epochs=3)
    with pytest.raises(RunError, match="seed was 5 and is now 6"):
        train(toy_phases(), tmp_path, seed=6, show_progress=False)
    with pytest.raises(RunError, match="holds a run already"):
        train(toy_phases(), tmp_path, seed=5, show_progress=False, resume=False)


def test_full_disk_is_a_named_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError):
        run_toy(tmp_path, "term step 10")
    before = sorted((tmp_path / "checkpoints").iterdir())

    def full(*arguments: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("braidrec.training.checkpoint.save_tensors", full)
    with pytest.raises(RunError, match=r"could not be written .*No space left"):
        run_toy(tmp_path)
    assert sorted((tmp_path / "checkpoints").iterdir()) == before


def test_only_needed_archives_stay(unbroken: Path) -> None:
    assert len(list((unbroken / "checkpoints").iterdir())) == 2
    assert 2 <= len(list((unbroken / "weights").iterdir())) <= 3


def test_seconds_may_ask_for_checkpoints(tmp_path: Path) -> None:
    phases = toy_phases()
    train(phases, tmp_path, checkpoint_every=CheckpointEvery(seconds=1e-6), show_progress=False)
    assert int(sorted((tmp_path / "checkpoints").iterdir())[-1].name) > STEPS / 2
    assert isinstance(phases[0].module, Toy)
