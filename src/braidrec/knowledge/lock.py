"""One writer per table: a file lock that the kernel takes back when its process dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def writer_lock(path: Path, tell: Callable[[str], None]) -> Iterator[bool]:
    """Hold ``path`` alone while the block runs; yields True when another process had to be waited for.

    ``tell`` gets one message, naming the holder's process id, before a wait.  Raises OSError where ``path`` cannot be written.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        waited = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            tell(f"{path.parent}: process {holder or 'unknown'} is writing this table; waiting for it to finish")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            waited = True
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield waited
    finally:
        os.close(descriptor)  # closing releases the lock
