"""One folder, several processes that want to train there: one does, and what it makes is its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import small_runs
from braidrec.errors import ConfigError, KnowledgeError, RunError
from braidrec.runs import fit as fitting
from braidrec.runs import knowledge as bases
from braidrec.runs.run import load
from small_runs import plain, train

# Trains, and stands still at its first step, as long as it is left to
STANDING = """
import os, signal, sys
from pathlib import Path
import small_runs
from braidrec.data.dataset import Dataset
from braidrec.runs import fit as fitting
own = fitting.train
def train(*arguments, **settings):
    os.kill(os.getpid(), signal.SIGSTOP)
    return own(*arguments, **settings)
fitting.train = train
small_runs.train(Path(sys.argv[1]), Dataset.open(sys.argv[2]), seed=1)
"""


def standing(path: Path) -> subprocess.Popen[str]:
    """A process that has begun to train ``plain()`` at ``path``, and stands still."""
    paths = os.pathsep.join([str(Path(small_runs.__file__).parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", STANDING, str(path), str(small_runs.dataset().path)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    return process


def contents(path: Path) -> dict[str, bytes]:
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def test_of_two_processes_one_trains_and_the_other_is_refused(tmp_path: Path) -> None:
    process = standing(tmp_path / "run")
    before = contents(tmp_path / "run")
    said = rf"another process is training this run \(process {process.pid}\); wait for it, or choose another folder"
    with pytest.raises(RunError, match=said):
        train(tmp_path / "run", seed=1)
    with pytest.raises(ConfigError, match=r"holds a run with other settings \(seed was 1 and is now 2\)"):
        train(tmp_path / "run", seed=2)
    assert contents(tmp_path / "run") == before
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    made = contents(tmp_path / "run")
    assert made["model.safetensors"] == (plain().path / "model.safetensors").read_bytes()
    assert not any(name.startswith(("training", "writer")) for name in made)
    assert train(tmp_path / "run", seed=1).record == load(tmp_path / "run").record
    assert contents(tmp_path / "run") == made


def test_a_lock_that_a_dead_process_left_is_no_obstacle(tmp_path: Path) -> None:
    process = standing(tmp_path / "run")
    process.kill()
    process.communicate()
    assert (tmp_path / "run" / "writer.lock").read_text().strip() == str(process.pid)
    run = train(tmp_path / "run", seed=1)
    assert (run.path / "model.safetensors").read_bytes() == (plain().path / "model.safetensors").read_bytes()
    assert not (run.path / "writer.lock").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "writer.lock").write_text("1")  # one that died before it wrote anything else
    assert train(tmp_path / "other", seed=1).path.exists()


@pytest.mark.parametrize("faster", [1, 2])
def test_a_process_that_was_faster_is_noticed_however_late(
    faster: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trains from beginning to end while this one is between its look at the empty folder and its claim on it."""
    own, made = fitting.check_phases, {}

    def between(*arguments: object) -> None:
        monkeypatch.setattr(fitting, "check_phases", own)
        train(tmp_path / "run", seed=faster)
        made.update(contents(tmp_path / "run"))
        own(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fitting, "check_phases", between)
    if faster == 1:
        assert train(tmp_path / "run", seed=1).record["best"] == plain().record["best"]
    else:
        with pytest.raises(ConfigError, match=r"holds a run with other settings \(seed was 2 and is now 1\)"):
            train(tmp_path / "run", seed=1)
    assert contents(tmp_path / "run") == made


def test_something_else_that_came_meanwhile_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = fitting.check_phases

    def between(*arguments: object) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "thesis.txt").write_text("precious")
        own(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fitting, "check_phases", between)
    with pytest.raises(ConfigError, match="not empty and holds no run"):
        train(tmp_path / "run", seed=1)
    assert contents(tmp_path / "run") == {"thesis.txt": b"precious"}


@pytest.mark.parametrize("faster", ["mean", "error"])
def test_a_knowledge_base_that_another_process_began_meanwhile(
    faster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins and ends between this one's look at the empty folder and its first word in it."""
    own, data, made = bases.make_encoder, small_runs.dataset().path, {}

    def between(*arguments: object) -> object:
        monkeypatch.setattr(bases, "make_encoder", own)
        bases.build(data, tmp_path / "kb", "tfidf", missing=faster)
        made.update(contents(tmp_path / "kb"))
        return own(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(bases, "make_encoder", between)
    if faster == "mean":
        assert "0 texts encoded" in bases.build(data, tmp_path / "kb", "tfidf")
    else:
        with pytest.raises(KnowledgeError, match="filled by another encoder, prompt or policy"):
            bases.build(data, tmp_path / "kb", "tfidf")
    assert contents(tmp_path / "kb") == made


NO_LOCKS = """
import sys
for name in ("fcntl", "msvcrt"):
    sys.modules[name] = None
from pathlib import Path
import small_runs
from braidrec import load
from braidrec.data.dataset import Dataset
from braidrec.errors import BraidError
run = load(sys.argv[1])
assert len(run.recommend(items=run.catalogue.ids[:2], k=3)) == 3
for refused in (lambda: run.add_items({"late": "a foggy harbour"}), lambda: small_runs.train(Path(sys.argv[2]), run.dataset)):
    try:
        refused()
    except BraidError as cause:
        print(cause)
"""


def test_without_locks_runs_are_read_and_writing_is_refused_in_words(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(Path(small_runs.__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", NO_LOCKS, str(small_runs.disco().path), str(tmp_path / "run")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=True)
    said = "this Python has neither fcntl (Linux, macOS) nor msvcrt (Windows), so nothing keeps two processes from writing"
    assert [line.startswith(said) for line in done.stdout.splitlines()] == [True, True]
