"""Whatever a model of a graph or of sequences makes lands on its own device: in a step, in validation, where a run answers."""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch

from braidrec.config import RunRequest, resolve
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.planted import PlantedConfig, planted_world
from braidrec.data.settings import SplitConfig
from braidrec.errors import RunError
from braidrec.registry import TASKS
from braidrec.task import Plan
from braidrec.training.stages import Fitted, put_fitted
from made_up_device import THERE, Held, MadeUp, home, made_up_device

SPLITS = {"collaborative": SplitConfig(kind="ratio"), "sequential": SplitConfig(kind="leave_last_two", min_history=1)}
FIRST = {"collaborative": "lightgcn", "sequential": "sasrec"}
CASES = [
    *((task, name, (), preset) for task in SPLITS for name, preset in product(TASKS[task].backbones, ("authors", "ours"))),
    *(
        (task, FIRST[task], (name,), preset)
        for task in SPLITS
        for name, preset in product(TASKS[task].methods, ("authors", "ours"))
    ),
    *((task, name, (), "ours") for task in SPLITS for name in TASKS[task].models),
]
# what these ask of a batch is a number of rows of its own
UNASKED = {"mf", "gccf", "lightgcn", "rlmrec-con", "rlmrec-gen", "kar", "vaecf", "macridvae"}


@cache
def dataset(task: str) -> Dataset:
    world = planted_world(PlantedConfig(users=60, items=50, seed=0))
    return Dataset.prepare(world.tables, Path(mkdtemp()) / task, PrepareSettings(split=SPLITS[task]))


def trained_there(plan: Plan, device: MadeUp) -> None:
    """Two steps of each stage, or its fit, and its validation; ``device.waits`` are those of second steps."""
    for stage in plan.stages:
        module: Any = stage.module
        if isinstance(stage, Fitted):
            put_fitted(module, stage.fit())
            module.to(THERE).eval()
        else:
            module.to(THERE).train()
            batches: Any = iter(plan.batches(stage))
            one = next(batches)
            for batch in (one, next(batches, one)):
                device.waits.clear()
                step = module.step(batch.to(THERE))
                losses = [*(each() for each in step.first.values()), *step.losses().values()]
                assert all(isinstance(each, Held) for each in losses)
                total = torch.stack(losses).sum()
                if total.requires_grad:
                    total.backward()
            module.eval()
        waits = device.waits.copy()
        plan.validate(stage)(module)
        device.waits = waits


@pytest.mark.parametrize(("task", "backbone", "enhance", "preset"), CASES, ids=["-".join([a, *b, c]) for _, a, b, c in CASES])
def test_everything_is_where_the_model_is(task: str, backbone: str, enhance: tuple[str, ...], preset: str) -> None:
    data = dataset(task)
    request = RunRequest(data="-", task=task, backbone=backbone, enhance=enhance, preset=preset, seed=0)
    config, rng = resolve(request, "test"), np.random.default_rng(0)
    text = rng.standard_normal((data.num_items + 1, 24), np.float32) if config.reads_text else None
    room = TASKS[task].room()
    plan = room.plan(config, data, text, show_progress=False)
    with made_up_device() as device:
        trained_there(plan, device)
    if preset == "authors" and UNASKED & {backbone, *enhance} == {backbone, *enhance}:
        assert not device.waits
        assert {wait.partition(" ")[0] for wait in device.waits} <= {
            "nonzero",
            "_unique2",
            "_local_scalar_dense",
            "equal",
            "to",
        }
    for stage in plan.stages:
        home(stage.module)
    model = plan.keep()
    with made_up_device():
        model.module.to(THERE)
        _answers(model, data.num_items)
        room.inspect(model.module, data.num_items)
        if model.reads_text:
            grown = model.with_items(type("Added", (), {"vectors": torch.randn(2, 24)})())
            _answers(grown, data.num_items + 2)


def _answers(model: Any, last: int) -> None:
    pasts = [model.past(1), model.past(None, np.array([3, last], np.int32)), model.past(None, np.array([], np.int32))]
    assert np.isfinite(model.scores(pasts, np.arange(1, last + 1, dtype=np.int32))).all()
    if hasattr(model, "explain"):
        for row in (5, last):
            try:
                model.explain(pasts[1], row)
                model.divide(pasts[1], row)
            except RunError:
                continue  # of a model that says why it cannot


def test_the_device_refuses_what_a_gpu_refuses() -> None:
    with made_up_device() as device:
        there = torch.ones(3).to(THERE)
        assert (there + 1).device == THERE
        assert torch.arange(3, device=THERE).device == THERE
        with pytest.raises(RuntimeError, match=r"\(3,\) is on the CPU, others are not"):
            there + torch.ones(3)
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()
        assert not device.waits
        assert there.sum().item() == 3
        assert (there > 0).nonzero().cpu().numpy().shape == (3, 1)
        assert sum(device.waits.values()) == 3
        inside = there[1:]
        inside.add_(5)
        assert there.tolist() == [1, 6, 6]  # a view shares its numbers
