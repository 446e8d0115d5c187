"""Runs of ranking models: the training settings that they share with other tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from braidrec.errors import ConfigError
from braidrec.runs.run import Run
from small_runs import TRAINING, plain, train


def weights(run: Run) -> bytes:
    return (run.path / "model.safetensors").read_bytes()


def test_the_only_phase_may_be_set_by_its_name(tmp_path: Path) -> None:
    by_run = train(tmp_path / "run", seed=1, training={"lr": 3e-3, "batch_size": 512})
    by_phase = train(tmp_path / "phase", seed=1, training={"phases": {"rank": {"lr": 3e-3, "batch_size": 512}}})
    assert weights(by_phase) == weights(by_run) != weights(plain())
    with pytest.raises(ConfigError, match=r"DIN has no phase 'experts' \(accepted: rank\)"):
        train(tmp_path / "other", training={"phases": {"experts": {"lr": 1e-4}}})
    assert not (tmp_path / "other").exists()


def test_decay_may_be_decoupled(tmp_path: Path) -> None:
    decay = {"weight_decay": 0.1, **TRAINING}
    assert weights(train(tmp_path / "l2", training=decay)) != weights(
        train(tmp_path / "decoupled", training={**decay, "decoupled": True})
    )
