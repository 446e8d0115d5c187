"""What the specs of PAD and of the backbones give as numbers, setting by setting and preset by preset."""

from __future__ import annotations

from typing import Any, cast

import pytest

from braidrec.config import RunConfig, RunRequest, resolve
from braidrec.objectives.mmd import SCALES
from braidrec.sequential import TASK
from braidrec.sequential.config import SequentialConfig
from braidrec.sequential.methods.ctrl import CTRLConfig
from braidrec.sequential.methods.disco import DisCoSRConfig
from braidrec.sequential.methods.pad import PADConfig


def resolved(preset: str, **named: Any) -> RunConfig:
    return resolve(RunRequest(data="-", backbone="sasrec", preset=preset, **named), "test")


def test_defaults_are_those_of_the_released_code() -> None:
    settings = SequentialConfig()
    assert (settings.dim, settings.length, settings.windows, settings.negatives) == (128, 20, "last", 1)
    assert (settings.loss, settings.buckets, settings.monitor, settings.initial_std) == ("bce", 10, "hr@10", None)
    assert not settings.trained_softmax
    assert not settings.own_negatives


def test_defaults_of_the_methods() -> None:
    pad = PADConfig()
    assert (pad.alignment, pad.gamma, pad.kernel, pad.estimator) == ("anchored", 0.2, "gaussian", "unbiased")
    assert pad.scales == SCALES == (0.125, 0.25, 0.5, 1.0, 2.0)
    assert (pad.temperature, pad.mmd_sequences, pad.mmd_include_pad) == (0.1, 16, False)
    assert (pad.experts, pad.gate, pad.gate_init) == (("id", "aligned", "text"), "bucket_sigmoid", "uniform")
    assert (pad.frequency_gate, pad.unseen, pad.fusion) == (True, "trained", "concat")
    assert CTRLConfig().temperature == 0.1
    disco = DisCoSRConfig()
    assert (disco.sufficiency_weight, disco.disentangle_weight, disco.estimator_lr) == (0.2, 0.2, 1e-3)


# width, length, windows, loss, monitor, std of fresh id rows
MODELS: dict[str, tuple[Any, ...]] = {
    "ours": (64, 20, "last", "full_ce", "ndcg@10", 0.02),
    "paper": (64, 20, "last", "bce", "hr@10", None),
    "authors": (128, 20, "last", "bce", "hr@10", None),
    "textbook": (64, 50, "all", "bce", "ndcg@10", None),
}
# batch, rate, decay, epochs, patience
TRAINING: dict[str, tuple[float, ...]] = {
    "ours": (128, 3e-3, 0.1, 30, 3),
    "paper": (128, 1e-3, 0.1, 60, 20),
    "authors": (128, 1e-5, 0.1, 400, 20),
    "textbook": (128, 1e-3, 0.0, 200, 10),
}


@pytest.mark.parametrize("preset", TASK.presets)
def test_presets_of_the_task(preset: str) -> None:
    config = resolved(preset)
    model, training = cast(SequentialConfig, config.model), config.training
    found = (model.dim, model.length, model.windows, model.loss, model.monitor, model.initial_std)
    assert found == MODELS[preset]
    assert model.trained_softmax == (preset == "ours")
    assert (model.negatives, model.buckets) == (1, 10)
    steps = (training.batch_size, training.lr, training.weight_decay, training.max_epochs, training.patience)
    assert steps == TRAINING[preset]
    assert training.checks_per_epoch == 1
    assert training.decoupled == (preset != "textbook")
