"""Processes that are killed again and again, at drawn moments, in every phase of every kind of training, and while they sync.

What they end with is, to the byte, what an undisturbed one ends with.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sequence_runs
import test_sync_crash
from attack_table import Note, Wrong

import small_runs
from braidrec.runs.fit import fit
from braidrec.runs.run import Run, load

ADDING = Path(__file__).parents[1] / "runs" / "adding_worker.py"
TRAINING = {"checkpoint_seconds": 1e-6}


def ranking(path: Path) -> Run:
    data, knowledge = folders()[:2]
    from braidrec.data.dataset import Dataset

    return small_runs.train(path, Dataset.open(data), enhance="disco", knowledge=knowledge, training=TRAINING)


def sequential(path: Path) -> Run:
    from braidrec.data.dataset import Dataset

    data, knowledge = folders()[2:]
    return sequence_runs.train(path, Dataset.open(data), enhance="pad", knowledge=knowledge, training=TRAINING)


def closed(path: Path) -> Run:
    from braidrec.data.dataset import Dataset

    data, knowledge = folders()[2:]
    return fit(Dataset.open(data), path=path, backbone="ease", knowledge=knowledge, show_progress=False)


def nodes(path: Path) -> Run:
    from braidrec.data.dataset import Dataset

    settings = {"max_epochs": 3, "batch_size": 256, **TRAINING}
    return fit(Dataset.open(folders()[2]), path=path, backbone="lightgcn", training=settings, show_progress=False)


def folders() -> list[str]:
    """Where the parent made data and knowledge: ranking's, then sequences'."""
    return os.environ["BRAIDREC_ATTACK_FOLDERS"].split(os.pathsep)


CASES: dict[str, tuple[Callable[[Path], Run], str | None]] = {
    "ranking": (ranking, "rank"),
    "sequential, phase pretrain": (sequential, "pretrain"),
    "sequential, phase align": (sequential, "align"),
    "sequential, phase experts": (sequential, "experts"),
    "collaborative, trained": (nodes, None),
    "collaborative, fitted": (closed, None),
}


def killed(case: str, path: Path, moment: int) -> None:
    """Train, and die at the ``moment``-th event of the case's phase: a batch, a check, or a file of an archive half written."""
    import torch

    from braidrec.training import checkpoint, loop

    torch.set_num_threads(1)
    make, phase = CASES[case]
    left = moment
    current: list[str] = []

    def count() -> None:
        nonlocal left
        if moment and (phase is None or current[-1:] == [phase]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def counted(owner: object, name: str, named: Callable[..., str | None]) -> None:
        plain = getattr(owner, name)

        def call(*arguments: object) -> object:
            if (own := named(*arguments)) is not None:
                current.append(own)
            count()
            found = plain(*arguments)
            count()
            return found

        setattr(owner, name, call)

    counted(loop._PhaseRun, "_train_on", lambda phase, batch: phase.phase.name)
    counted(loop._PhaseRun, "_check", lambda phase: phase.phase.name)
    counted(loop._Run, "_fit", lambda run, phase: phase.name)
    counted(checkpoint, "save_tensors", lambda *rest: None)
    counted(checkpoint, "write_json", lambda *rest: None)
    make(path)


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    """Fresh processes that need not import torch again."""
    made = [small_runs.dataset().path, small_runs.knowledge(), sequence_runs.dataset().path, sequence_runs.knowledge()]
    os.environ["BRAIDREC_ATTACK_FOLDERS"] = os.pathsep.join(map(str, made))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["braidrec.runs.fit", "lightning_fabric", "lancedb", "scipy.sparse", "polars", "pytest"])
    return context


def ended(processes: multiprocessing.context.ForkServerContext, case: str, path: Path, moment: int) -> int | None:
    process = processes.Process(target=killed, args=(case, path, moment))
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_trainings_end_with_the_bytes_of_an_unbroken_one(
    case: str, processes: multiprocessing.context.ForkServerContext, tmp_path: Path, note: Note
) -> None:
    kills = 20
    rng, done, rounds, differ = random.Random(case), 0, 0, 0
    assert ended(processes, case, tmp_path / "whole", 0) == 0
    wanted = (tmp_path / "whole" / "model.safetensors").read_bytes()
    while done < kills and rounds < kills:  # a training that ended is begun anew
        path = tmp_path / f"killed-{rounds}"
        while done < kills and (code := ended(processes, case, path, rng.randint(1, 12))) != 0:
            assert code == -signal.SIGKILL
            done += 1
        if done == kills and not (path / "run.json").exists():
            assert ended(processes, case, path, 0) == 0
        differ += (path / "model.safetensors").read_bytes() != wanted
        rounds += 1
    note(f"kills of training, {case}", done, Wrong(silent=differ, foreign=0))
    assert not differ
    assert done == kills


@pytest.mark.slow
def test_killed_syncs(tmp_path: Path, note: Note) -> None:
    kills, items = 50, 2_000
    test_sync_crash.kill_often(tmp_path, kills=kills, items=items, batch_rows=20, encoder="hash", pause=0.02, longest=0.15)
    note("kills of sync", kills, Wrong(silent=0, foreign=0))


@pytest.mark.slow
def test_writers_that_add_items_at_once_lose_none(tmp_path: Path, note: Note) -> None:
    writers = 6
    path = small_runs.copy_of(small_runs.disco(), tmp_path / "run").path
    lines = 4
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, str(ADDING), str(path)], stdin=-1, stdout=-1, stderr=-1, text=True, env=environment)
        for _ in range(writers)
    ]
    for at, process in enumerate(processes):
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert process.stdin is not None
        process.stdin.write("".join(f"item-{at}-{turn} 0\n" for turn in range(lines)))
        process.stdin.flush()
    for process in processes:
        _, err = process.communicate()
        assert process.returncode == 0, err
    found = load(path).catalogue
    lost = {f"item-{at}-{turn}" for at in range(writers) for turn in range(lines)} ^ set(found.added_ids)
    wrong = [title for raw, title in zip(found.added_ids, found.added_titles, strict=True) if title != f"a tale of {raw}"]
    note("writers at once", writers, Wrong(silent=len(lost) + len(wrong), foreign=0))
    assert not lost
    assert not wrong
