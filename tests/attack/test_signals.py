"""Signals and waiting: what ended a command is told by its exit code, and output that is no terminal says how far it is."""

from __future__ import annotations

import re
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import toy_training

from braidrec import cli, progress
from braidrec.training.interrupts import Signals, Terminated
from braidrec.training.loop import train


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


@pytest.mark.parametrize("terminal", [True, False])
def test_validation_is_shown_as_soon_as_it_is_known(
    terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the next batch, whatever the output is; above the bar on a terminal."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    shown: list[str] = []

    def validate(module: object) -> dict[str, float]:
        shown.append(capsys.readouterr().err)
        return {"auc": 0.5 + len(shown) / 10}

    phases = toy_training.toy_phases()
    train([replace(each, validate=validate) for each in phases], tmp_path)
    assert not re.findall("validation", shown[0])
    for at, text in enumerate(shown[1:], 1):
        assert f"validation auc {0.5 + at / 10:.4f} (best so far)" in text
    assert "pretrain: epoch 0.33, validation auc 0.6000 (best so far)" in shown[1]
