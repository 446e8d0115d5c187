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
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import sequence_runs
import test_sync_crash
from attack_table import Note, Wrong

import rated_worlds
import small_runs
from braidrec.data.dataset import Dataset
from braidrec.runs.fit import fit
from braidrec.runs.run import Run, load

ADDING = Path(__file__).parents[1] / "runs" / "adding_worker.py"
TRAINING = {"checkpoint_seconds": 1e-6}
NODES = {"max_epochs": 3, "batch_size": 256, **TRAINING}
RATED = {"max_epochs": 6, "min_epochs": 0, "batch_size": 20, **TRAINING}
CODE = {"hidden": 16, "dropout": 0.5, "kl": 0.1, "zeros": 2.0}
CODE |= {"blocks": {"internal": {"size": 8}, "external": {"size": 4}, "other": {"size": 4}}}
EVENTS, SECONDS = 12, 0.3  # of a phase, before which a kill comes


@dataclass(frozen=True)
class Folders:
    """Data and knowledge that the parent made, for its children to open."""

    planted: Path
    of_planted: Path
    rings: Path
    of_rings: Path
    rated: Path


def ranking(path: Path, made: Folders) -> Run:
    return small_runs.train(path, Dataset.open(made.planted), enhance="disco", knowledge=made.of_planted, training=TRAINING)


def sequential(path: Path, made: Folders) -> Run:
    return sequence_runs.train(path, Dataset.open(made.rings), enhance="pad", knowledge=made.of_rings, training=TRAINING)


def nodes(path: Path, made: Folders) -> Run:
    data, model = Dataset.open(made.rings), {"dim": 8, "darec": {"width": 4, "sample": 32}}
    settings = {"backbone": "lightgcn", "enhance": "darec", "knowledge": made.of_rings, "model": model, "training": NODES}
    return fit(data, path=path, show_progress=False, **settings)  # type: ignore[arg-type]


def rated(path: Path, made: Folders) -> Run:
    data = Dataset.open(made.rated)
    return fit(data, path=path, backbone="sdrl", model=CODE, training=RATED, show_progress=False)


def closed(path: Path, made: Folders) -> Run:
    return fit(Dataset.open(made.rings), path=path, backbone="ease", knowledge=made.of_rings, show_progress=False)


@dataclass(frozen=True)
class Case:
    """A training, and the phase in which it is killed; None: in any."""

    train: Callable[[Path, Folders], Run]
    phase: str | None = None


CASES = {
    "DIN + DisCo": Case(ranking),
    "SASRec + PAD, pretrain": Case(sequential, "pretrain"),
    "SASRec + PAD, align": Case(sequential, "align"),
    "SASRec + PAD, experts": Case(sequential, "experts"),
    "LightGCN + DaRec": Case(nodes),
    "SDRL": Case(rated),
    "EASE, fitted": Case(closed),
}


def killed(name: str, path: Path, made: Folders, moment: float | None) -> None:
    """Train, and die in the case's phase: at the ``moment``-th event of it, a batch, a check, or a file of an archive half
    written, or, where it is below 1, so much of `SECONDS` after its first event, wherever that is.
    """
    import torch

    from braidrec.training import checkpoint, loop

    torch.set_num_threads(1)
    case, passed, current = CASES[name], 0, [""]

    def die(after: float) -> None:
        time.sleep(after)
        os.kill(os.getpid(), signal.SIGKILL)

    def count() -> None:
        nonlocal passed
        if moment is None or case.phase not in (None, current[0]):
            return
        passed += 1
        if moment < 1 and passed == 1:
            threading.Thread(target=die, args=(moment * SECONDS,), daemon=True).start()
        elif passed == moment:
            die(0)

    def counted(owner: object, name: str, named: Callable[..., str | None]) -> None:
        plain = getattr(owner, name)

        def call(*arguments: object) -> object:
            current[0] = named(*arguments) or current[0]
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
    case.train(path, made)


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    """Fresh processes that need not import torch again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["braidrec.runs.fit", "lightning_fabric", "lancedb", "scipy.sparse", "polars", "pytest"])
    return context


def ended(processes: multiprocessing.context.ForkServerContext, *call: object) -> int | None:
    process = processes.Process(target=killed, args=call)
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("kills", [pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_killed_trainings_end_with_the_bytes_of_an_unbroken_one(
    name: str, kills: int, processes: multiprocessing.context.ForkServerContext, tmp_path: Path, note: Note
) -> None:
    made = Folders(
        small_runs.dataset().path,
        small_runs.knowledge(),
        sequence_runs.dataset().path,
        sequence_runs.knowledge(),
        rated_worlds.rated(rated_worlds.world(), name="rated-kills").path,
    )
    rng, done, differ, rounds = random.Random(name), 0, 0, 0
    assert ended(processes, name, tmp_path / "whole", made, None) == 0
    wanted = (tmp_path / "whole" / "model.safetensors").read_bytes()
    while done < kills:  # a training that ended is begun anew
        path, rounds = tmp_path / f"killed-{rounds}", rounds + 1
        assert rounds <= 2 * kills
        while done < kills:
            moment = rng.random() if rng.random() < 0.5 else rng.randint(1, EVENTS)
            if (code := ended(processes, name, path, made, moment)) == 0:
                break
            assert code == -signal.SIGKILL
            done += 1
        if not (path / "run.json").exists():
            assert ended(processes, name, path, made, None) == 0
        differ += (path / "model.safetensors").read_bytes() != wanted
    note(f"kills of training, {name}", done, Wrong(silent=differ, foreign=0))
    assert not differ


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
