"""A machine that others use, too: how many threads are taken, that a run keeps its number, and that waiting is said."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from attack_table import Note, Wrong

import braidrec
import small_runs
from braidrec import cli, threads
from braidrec.errors import ConfigError
from braidrec.threads import as_begun, free_cores, noting_waits, quota, settle

READ_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", threads.SETTING)


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process in whose environment nothing is said of threads; what a test sets goes with it."""
    own = torch.get_num_threads()
    for name in READ_BY:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield
    for name in READ_BY:
        os.environ.pop(name, None)
    torch.set_num_threads(own)


def machine(monkeypatch: pytest.MonkeyPatch, cores: int, load: float, allowed: int | None = None) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(allowed or cores)), raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(threads, "_CGROUPS", Path("/nowhere"))


@pytest.mark.parametrize(
    ("cores", "load", "allowed", "wanted"),
    [
        (2, 0.0, None, 2),
        (2, 0.4, None, 2),
        (2, 1.0, None, 1),
        (2, 7.5, None, 1),
        (16, 3.2, None, 13),
        (16, 3.2, 4, 4),
        (1, 0, 1, 1),
    ],
)
def test_as_many_as_are_free(
    cores: int, load: float, allowed: int | None, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, cores, load, allowed)
    assert free_cores() == wanted
    assert settle() == wanted
    assert torch.get_num_threads() == wanted
    assert os.environ["OMP_NUM_THREADS"] == str(wanted)
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert threads.SETTING not in os.environ


def test_a_quota_bounds_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, 16, 0.0)
    monkeypatch.setattr(threads, "_CGROUPS", tmp_path)
    assert quota(tmp_path) is None
    for text, cores, most in (("max 100000", None, 16), ("250000 100000", 2.5, 2), ("50000 100000", 0.5, 1), ("x", None, 16)):
        (tmp_path / "cpu.max").write_text(text + "\n")
        assert quota(tmp_path) == cores
        assert free_cores() == most
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    for value, cores in (("-1", None), ("300000", 3.0)):
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(value)
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
        assert quota(tmp_path) == cores


def test_what_is_named_goes_before_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 8, 0.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert settle() == 3
    monkeypatch.setenv(threads.SETTING, "2")
    assert settle() == 2
    assert settle(1) == 1
    assert os.environ["OMP_NUM_THREADS"] == os.environ[threads.SETTING] == "1"
    for bad in ("0", "-1", "two", "1.5", "99999999999999999999", "\u0662x"):
        monkeypatch.setenv(threads.SETTING, bad)
        with pytest.raises(ConfigError, match=r"BRAIDREC_THREADS = .*a number of threads is needed, 1 to 1024"):
            settle()


def test_the_command_line_settles_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["braidrec", "list"])
    monkeypatch.setenv(threads.SETTING, "many")
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "error: BRAIDREC_THREADS = 'many': a number of threads is needed" in capsys.readouterr().err
    code = "from braidrec import cli; cli.app(['--threads', '1', 'list'], standalone_mode=False); import os, torch\n"
    code += "print(torch.get_num_threads(), os.environ['OMP_WAIT_POLICY'])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == "1 PASSIVE"


def test_one_place_sets_them() -> None:
    source = Path(braidrec.__file__).parent
    found = {path.name for path in source.rglob("*.py") if "set_num_threads" in path.read_text(encoding="utf-8")}
    assert found == {"threads.py"}


def test_a_run_goes_on_with_as_many_as_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    torch.set_num_threads(2)
    with as_begun(tmp_path / "training", said.append):
        assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    with as_begun(tmp_path / "training", said.append):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1
    assert said == []
    monkeypatch.setenv(threads.SETTING, "1")
    with as_begun(tmp_path / "training", said.append):
        assert torch.get_num_threads() == 1
    assert re.fullmatch(r".*begun with 2 threads, now 1; the last digits of its weights may differ", said[0])
    for damaged in ("0", '"x"', "null", "[2]"):
        (tmp_path / "training" / "threads.json").write_text(damaged)
        monkeypatch.delenv(threads.SETTING, raising=False)
        with as_begun(tmp_path / "training", said.append):
            assert torch.get_num_threads() == 1


def test_a_run_says_with_how_many_it_was_trained(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    run = small_runs.train(tmp_path / "run", backbone="lr")
    assert torch.get_num_threads() == 2
    assert json.loads((run.path / "environment.json").read_text())["threads"] == 2


def test_one_thread_and_two_rank_alike(tmp_path: Path, note: Note) -> None:
    """To the last bit where every sum is of one thread, and to the last digits elsewhere."""
    scores = []
    for count in (1, 2):
        torch.set_num_threads(count)
        run = small_runs.train(tmp_path / str(count), seed=3)
        scores.append(run.record["best"]["metrics"]["auc"])
    differ = scores[0] != pytest.approx(scores[1], abs=1e-6)
    note("1 against 2 threads", 1, Wrong(silent=int(differ)))
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_waiting_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        now = used = 0.0

        def monotonic(self) -> float:
            return self.now

        def process_time(self) -> float:
            return self.used

    clock, said = Clock(), []  # type: ignore[var-annotated]
    monkeypatch.setattr(threads, "time", clock)
    for seconds, computing, note in ((100, 10, True), (100, 60, False), (20, 1, False), (3600, 1000, True)):
        said.clear()
        with noting_waits(said.append):
            clock.now += seconds
            clock.used += computing
        assert bool(said) == note
    assert said[0].startswith("note: 3,600 s passed for 1,000 s of computing")
    assert "--threads 1" in said[0]
