"""Keeping freed pages: taken by glibc, harmless elsewhere, and worth it."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from braidrec import memory
from braidrec.memory import keep_freed_pages

ON_GLIBC = platform.libc_ver()[0] == "glibc"

FAULTS = """
import resource, sys, torch
from braidrec.memory import keep_freed_pages
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_pages()
def work():
    for _ in range(10):
        (torch.ones(12 << 20) + 1).sum()  # 48 MiB twice, above the 32 MiB to which glibc raises its own threshold
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not ON_GLIBC, reason="mallopt is glibc's")
def test_large_blocks_are_used_again() -> None:
    """Page faults of 10 rounds that allocate and free 96 MiB: thousands without, next to none with.

    The best of three runs with the pages kept, since the system may reclaim idle pages of any process.
    """

    def faults(mode: str) -> int:
        return int(subprocess.run([sys.executable, "-c", FAULTS, mode], check=True, capture_output=True, text=True).stdout)

    kept = next((count for count in (faults("keep") for _ in range(3)) if count < 200), None)
    assert kept is not None
    assert faults("plain") > 10 * (kept + 1)


def test_elsewhere_than_linux_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(memory.sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", never)
    assert keep_freed_pages() is False


def test_a_libc_without_mallopt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert keep_freed_pages() is False

    class Refusing:
        @staticmethod
        def mallopt(option: int, value: int) -> int:
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Refusing)
    assert keep_freed_pages() is False
