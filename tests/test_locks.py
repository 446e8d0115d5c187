"""One writer at a time: among threads and processes, after a death, and on systems without fcntl."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from braidrec import locks
from braidrec.errors import BraidError
from braidrec.locks import LockHeld, writer_lock

HOLDER = """
import sys
from pathlib import Path
from braidrec.locks import writer_lock
with writer_lock(Path(sys.argv[1]), wait=0):
    print("held", flush=True)
    sys.stdin.readline()
"""
# Windows' module, played by a record lock: from the file's place on, so many bytes, refused with EACCES
WINDOWS = """
import os, sys, types
sys.modules["fcntl"] = None
def locking(descriptor, mode, count):
    assert os.lseek(descriptor, 0, os.SEEK_CUR) > 1000, "the process id must stay readable"
    try:
        os.lockf(descriptor, mode, count)
    except BlockingIOError:
        raise PermissionError(13, "Permission denied") from None
sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=os.F_TLOCK, LK_UNLCK=os.F_ULOCK)
"""


def holder(path: Path, before: str = "") -> subprocess.Popen[str]:
    """A process that holds ``path`` until it is told a line."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", before + HOLDER, str(path)], stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def refused(path: Path, before: str = "") -> str:
    """What a process of its own says that asks for ``path`` once."""
    done = subprocess.run(
        [sys.executable, "-c", before + HOLDER, str(path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr.splitlines()[-1] if done.returncode else ""


@pytest.mark.parametrize("before", ["", WINDOWS], ids=["posix", "windows"])
def test_another_process_is_refused_by_name_until_the_holder_is_done(tmp_path: Path, before: str) -> None:
    path = tmp_path / "lock"
    process = holder(path, before)
    assert refused(path, before).endswith(f"LockHeld: {path}: held by process {process.pid}; try again when it is done")
    process.communicate("done\n")
    assert refused(path, before) == ""
    assert not path.exists()


@pytest.mark.parametrize("before", ["", WINDOWS], ids=["posix", "windows"])
def test_what_a_dead_process_left_is_no_obstacle(tmp_path: Path, before: str) -> None:
    path = tmp_path / "lock"
    process = holder(path, before)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert path.read_text().strip() == str(process.pid)
    assert refused(path, before) == ""


def test_threads_of_one_process_take_turns_and_whoever_waited_knows(tmp_path: Path) -> None:
    path, held, asked, waits, told = tmp_path / "lock", threading.Event(), threading.Event(), [], []

    def first() -> None:
        with writer_lock(path) as waited:
            waits.append(waited)
            held.set()
            assert asked.wait(30)

    def tell(process: str) -> None:
        told.append(process)
        asked.set()

    thread = threading.Thread(target=first)
    thread.start()
    assert held.wait(30)
    with pytest.raises(LockHeld, match=f"held by process {os.getpid()}"), writer_lock(path, wait=0.01):
        pass
    with writer_lock(path, tell) as waited:
        waits.append(waited)
    thread.join()
    assert waits == [False, True]
    assert told == [str(os.getpid())]


def test_a_file_that_was_removed_between_opening_and_locking_protects_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    first = writer_lock(path)
    first.__enter__()
    take, opened = locks._Flock.take, []

    def late(self: locks._Flock, descriptor: int, path: Path) -> bool:
        if not opened:
            first.__exit__(None, None, None)  # its holder is done just now, and removes it
        opened.append(os.fstat(descriptor).st_nlink)
        return take(self, descriptor, path)

    monkeypatch.setattr(locks._Flock, "take", late)
    with writer_lock(path, wait=0) as waited:
        assert opened == [0, 1]
        assert not waited
        assert refused(path).endswith(f"held by process {os.getpid()}; try again when it is done")


def test_the_lock_is_given_back_whatever_happens_inside(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writer_lock(tmp_path / "lock"):
        raise ZeroDivisionError
    with writer_lock(tmp_path / "lock", wait=0):
        (tmp_path / "lock").unlink()  # somebody tidies up
    with writer_lock(tmp_path / "lock", wait=0):
        pass
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_and_a_missing_folder_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError), writer_lock(tmp_path / "nowhere" / "lock"):
        pass

    def unable(descriptor: int, mode: int) -> None:
        raise OSError(38, "Function not implemented")

    fake = SimpleNamespace(flock=unable, LOCK_EX=2, LOCK_NB=4)
    monkeypatch.setattr(locks, "import_module", lambda name: fake)
    with (
        pytest.raises(OSError, match=r"locks no files \(Function not implemented\); use a local folder"),
        writer_lock(tmp_path / "l"),
    ):
        pass


def test_without_any_lock_that_is_said_and_no_file_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(locks, "import_module", absent)
    said = r"neither fcntl \(Linux, macOS\) nor msvcrt \(Windows\).*reading works here"
    with pytest.raises(BraidError, match=said), writer_lock(tmp_path / "lock"):
        pass
    assert not list(tmp_path.iterdir())
    assert importlib.import_module("fcntl")


EVERYTHING = """
import importlib, pkgutil, sys
for name in ("fcntl", "msvcrt", "resource"):
    sys.modules[name] = None
import braidrec
for module in pkgutil.walk_packages(braidrec.__path__, "braidrec."):
    importlib.import_module(module.name)
"""


def test_every_module_can_be_imported_where_there_is_no_fcntl() -> None:
    subprocess.run([sys.executable, "-c", EVERYTHING], check=True)
