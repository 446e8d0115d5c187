"""The progress bar: silent when quick or told to be, one line off a terminal, a bar on one."""

from __future__ import annotations

import io
import sys

import pytest

from braidrec import progress as module
from braidrec.progress import progress


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that pass only when the test adds some."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_quick_work_says_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress("counting", 10, "rows") as advance:
        advance(10)
        clock[0] += 1.9
    assert capsys.readouterr() == ("", "")


def test_longer_work_says_one_line(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress("counting", 10_000, "rows") as advance:
        for _ in range(4):
            advance(2_500)
            clock[0] += 1.0
    assert capsys.readouterr() == ("", "counting: 10,000 rows in 4.0 s (2,500 rows/s)\n")


def test_told_to_be_silent(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress("counting", 10, "rows", show=False) as advance:
        advance(10)
        clock[0] += 60
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("terminal", [True, False])
def test_an_error_passes_through(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = _Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with pytest.raises(KeyError), progress("counting", 10, "rows") as advance:
        advance({}["no such count"])


def test_a_terminal_gets_a_bar(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = _Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress("counting", 40, "rows") as advance:
        for _ in range(4):
            clock[0] += 0.5
            advance(10)
    assert "counting" in stream.getvalue()
    assert "40/40" in stream.getvalue()
    assert "20 rows/s" in stream.getvalue()
