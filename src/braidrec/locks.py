"""One writer at a time: a file lock that the system takes back when its process dies, however it dies.

flock where Python has fcntl (Linux, macOS), a locked byte where it has msvcrt (Windows).  The holder removes the file when it
is done, and whoever locked a file that is no longer the one at its place asks again; a file that a dead process left behind
is locked by nobody.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from braidrec.errors import BraidError

_PAUSES = (0.001, 0.1)  # seconds between two tries: the first, which doubles, and the longest
_BYTE = 1 << 30  # what is locked on Windows, where nobody reads a locked byte: far behind the holder's process id
_NOTE = 20  # bytes of that id, padded


class LockHeld(BraidError):
    """Another process, or another thread of this one, holds the lock.  holder: its process id, or 'unknown'"""

    def __init__(self, path: Path, holder: str):
        super().__init__(f"{path}: held by process {holder}; try again when it is done")
        self.holder = holder


@contextlib.contextmanager
def writer_lock(path: Path, tell: Callable[[str], None] | None = None, *, wait: float = math.inf) -> Iterator[bool]:
    """Hold ``path`` alone while the block runs; yields True when another holder had to be waited for.

    tell: gets the holder's process id, once, before a wait    wait: seconds, 0 to try once
    Raises LockHeld when it is still held after ``wait``; OSError where ``path`` cannot be written or its file system locks
    nothing; BraidError where Python has no lock for files.
    """
    system, until, pause, waited = _system(), time.monotonic() + wait, _PAUSES[0], False
    while (descriptor := _taken(system, path)) is None:
        if time.monotonic() >= until:
            raise LockHeld(path, _holder(path))
        if tell is not None and not waited:
            tell(_holder(path))
        waited = True
        time.sleep(min(pause, max(until - time.monotonic(), 0)))
        pause = min(2 * pause, _PAUSES[1])
    try:
        with contextlib.suppress(OSError):  # a full disk is no reason: the note is for those who wait
            os.write(descriptor, f"{os.getpid():<{_NOTE}}".encode())
        yield waited
    finally:
        with contextlib.suppress(OSError):  # Windows removes no open file: it stays, and is locked by nobody
            path.unlink()
        system.release(descriptor)
        os.close(descriptor)


def _taken(system: _System, path: Path) -> int | None:
    """The open file at ``path``, at its start, locked; None where somebody else holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        taken = False
        try:
            if not system.take(descriptor, path):
                return None
            with contextlib.suppress(FileNotFoundError):  # removed by its last holder between opening and locking
                taken = os.path.samestat(os.fstat(descriptor), os.stat(path))
            if taken:
                os.lseek(descriptor, 0, os.SEEK_SET)
                return descriptor
        finally:
            if not taken:
                os.close(descriptor)


def _holder(path: Path) -> str:
    try:
        with path.open("rb", buffering=0) as stream:
            return stream.read(_NOTE).decode("ascii", "replace").strip() or "unknown"
    except OSError:
        return "unknown"


class _Flock:
    def __init__(self, fcntl: Any):
        self._fcntl = fcntl

    def take(self, descriptor: int, path: Path) -> bool:
        try:
            self._fcntl.flock(descriptor, self._fcntl.LOCK_EX | self._fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as cause:
            raise OSError(cause.errno, f"its file system locks no files ({cause.strerror}); use a local folder", path) from None
        return True

    def release(self, descriptor: int) -> None:
        """Closing does it."""


class _LockedByte:
    def __init__(self, msvcrt: Any):
        self._msvcrt = msvcrt

    def take(self, descriptor: int, path: Path) -> bool:
        os.lseek(descriptor, _BYTE, os.SEEK_SET)
        try:
            self._msvcrt.locking(descriptor, self._msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

    def release(self, descriptor: int) -> None:
        os.lseek(descriptor, _BYTE, os.SEEK_SET)
        self._msvcrt.locking(descriptor, self._msvcrt.LK_UNLCK, 1)


_System = _Flock | _LockedByte


def _system() -> _System:
    """What this Python locks files with, looked up on first use: importing braidrec needs neither."""
    for name, kind in (("fcntl", _Flock), ("msvcrt", _LockedByte)):
        with contextlib.suppress(ImportError):
            return kind(import_module(name))
    raise BraidError(
        "this Python has neither fcntl (Linux, macOS) nor msvcrt (Windows), so nothing keeps two processes from writing one "
        "folder at once; train, add items and fill knowledge bases on a system that has one of them (reading works here)"
    )
