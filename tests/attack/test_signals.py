"""Signals and waiting: what ended a command is told by its exit code, and output that is no terminal says how far it is."""

from __future__ import annotations

import signal
import sys

import pytest

from braidrec import cli, progress
from braidrec.training.interrupts import Signals, Terminated


def test_sigterm_has_an_exit_code_of_its_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def trained(*arguments: object, **options: object) -> None:
        with Signals() as signals:
            signal.raise_signal(signal.SIGTERM)
            signals.leave("in phase 'rank'")

    monkeypatch.setattr("braidrec.runs.tables.evaluation_table", trained)
    monkeypatch.setattr(sys, "argv", ["braidrec", "evaluate", "run"])
    with pytest.raises(SystemExit, match="143"):
        cli.main()
    assert "interrupted in phase 'rank'; start the same command again to resume" in capsys.readouterr().err
    assert Terminated.exit_code == 143


def test_a_line_every_thirty_seconds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    with progress.progress("training", 1000, "samples") as advance:
        for _ in range(10):
            clock.now += 9.0
            advance(90)
    assert capsys.readouterr().err.splitlines() == [
        "training: 360 of 1,000 samples (10 samples/s)",
        "training: 720 of 1,000 samples (10 samples/s)",
        "training: 900 samples in 90.0 s (10 samples/s)",
    ]
