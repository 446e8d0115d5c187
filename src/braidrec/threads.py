"""How many threads a process computes with, settled in one place, and how they wait for one another.

Two processes of two threads each on two cores do not take twice as long: at the end of every operation a thread that is done
spins until its neighbour has had its turn on a core, and a run went from 2,000 samples/s to 100.  So the command line takes no
more threads than cores are free, and lets them sleep instead.  What is called from Python leaves its process as it is: a
service sets torch's threads itself, or calls `settle` at its start.

One thread and two add in different orders, so weights may differ in their last digits; a run goes on with as many as it began.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from braidrec.errors import ConfigError, RunError
from braidrec.files import read_json, write_json

SETTING = "BRAIDREC_THREADS"
_READ_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # when torch, MKL and NumPy are loaded
_SLEEP = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
_MOST = 1024
_CGROUPS = Path("/sys/fs/cgroup")
_LEAST_SECONDS, _LEAST_RATIO = 30.0, 3.0  # of a training that is said to have waited
_log = logging.getLogger(__name__)


def settle(wanted: int | None = None) -> int:
    """Let this process and its children compute with ``wanted`` threads and wait asleep; for a process that is ours.

    Without ``wanted``: BRAIDREC_THREADS, else OMP_NUM_THREADS, else as many cores as are free (`free_cores`).  Best called
    before torch is imported: how threads wait is read then.  Raises ConfigError for what is no number of threads.
    """
    for name, value in _SLEEP.items():
        os.environ.setdefault(name, value)
    named = named_threads() if wanted is None else _checked(wanted, "--threads")
    given = os.environ.get(_READ_BY[0], "")
    count = named or (int(given) if given.isdecimal() and int(given) else free_cores())
    if named is not None:
        os.environ[SETTING] = str(named)
    for name in _READ_BY:
        os.environ[name] = str(count) if named is not None else os.environ.get(name, str(count))
    if (torch := sys.modules.get("torch")) is not None and torch.get_num_threads() != count:
        torch.set_num_threads(count)
    return count


def named_threads() -> int | None:
    """What the user asked for: BRAIDREC_THREADS, which ``--threads`` sets, too.  Raises ConfigError for what is no number."""
    given = os.environ.get(SETTING, "").strip()
    return _checked(given, SETTING) if given else None


def _checked(given: str | int, what: str) -> int:
    if not str(given).isdecimal() or not 1 <= int(given) <= _MOST:
        raise ConfigError(f"{what} = {given!r}: a number of threads is needed, 1 to {_MOST}; leave it out to take what is free")
    return int(given)


def free_cores() -> int:
    """Cores that this process may use by its affinity and its control group's quota, and that nobody keeps busy; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    whole, load = os.cpu_count() or 1, 0.0
    with contextlib.suppress(OSError, AttributeError):
        load = os.getloadavg()[0]
    bound = quota(_CGROUPS)
    return max(1, min(cores, cores if bound is None else int(bound), round(whole - load)))


def quota(groups: Path) -> float | None:
    """Cores' worth of time that the control group at ``groups`` may take (cgroup v2, else v1); None without a bound."""
    with contextlib.suppress(OSError, ValueError):
        most, period = (groups / "cpu.max").read_text(encoding="ascii").split()
        return None if most == "max" else int(most) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        most, period = ((groups / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        return int(most) / int(period) if int(most) > 0 else None
    return None


@contextlib.contextmanager
def as_begun(folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Let torch compute with as many threads as the training in ``folder`` began with, unless the user names another number.

    The process has its own number back behind the block.
    """
    import torch

    note, own = folder / "threads.json", torch.get_num_threads()
    begun = read_json(note, RunError) if note.exists() else own
    named = named_threads()
    count = begun if named is None and isinstance(begun, int) and 1 <= begun <= _MOST else own
    if count != begun:
        tell(f"{folder.parent}: begun with {begun} threads, now {count}; the last digits of its weights may differ")
    if not note.exists() or count != begun:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(note, count)
    try:
        torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(own)


@contextlib.contextmanager
def noting_waits(tell: Callable[[str], None]) -> Iterator[None]:
    """Say so when what the block did took far longer than its computing."""
    begun, used = time.monotonic(), time.process_time()
    yield
    seconds, computing = time.monotonic() - begun, time.process_time() - used
    if seconds >= _LEAST_SECONDS and seconds > _LEAST_RATIO * computing:
        tell(
            f"note: {seconds:,.0f} s passed for {computing:,.0f} s of computing: it waited for cores or for a disk; where "
            f"several processes share this machine, give each fewer threads (--threads 1, or {SETTING}=1)"
        )
