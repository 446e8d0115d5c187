"""Backbones of nodes on small graphs: built alone, trained without a run, and a world of circles of users."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from small_worlds import pairs_in_parts

from braidrec.collaborative.contracts import Backbone, Parts
from braidrec.collaborative.graph import Graph
from braidrec.collaborative.graph_model import GraphModel, node_stages
from braidrec.collaborative.pairs import PairBatch, PairBatches
from braidrec.config import RunRequest, resolve
from braidrec.data.dataset import Dataset
from braidrec.registry import TASKS
from braidrec.task import Plan
from braidrec.training.contracts import CheckpointEvery
from braidrec.training.loop import train
from braidrec.training.stages import Stage, make_phase

NAMES = tuple(TASKS["collaborative"].backbones)
BPR = tuple(name for name in NAMES if name != "autocf")


def settings(name: str, preset: str = "authors", **values: Any) -> Any:
    return resolve(
        RunRequest(data="-", task="collaborative", backbone=name, preset=preset, model=values), "test"
    ).model.backbone


def parts_of(graph: Graph, seed: int = 0) -> Parts:
    return Parts(graph.num_items, graph, num_users=graph.num_users, seed=seed)


def backbone(name: str, graph: Graph, **values: Any) -> Backbone:
    torch.manual_seed(1)
    return cast(Backbone, TASKS["collaborative"].backbones[name].build(settings(name, **values), parts_of(graph)))


def model(name: str, graph: Graph, seed: int = 0, **values: Any) -> GraphModel:
    torch.manual_seed(seed)
    [stage] = node_stages(TASKS["collaborative"].backbones[name], settings(name, **values), parts_of(graph, seed), ())
    return cast(GraphModel, stage.module)


def batch_of(graph: Graph, size: int = 16, negatives: int = 1) -> PairBatch:
    return next(iter(PairBatches(graph, size, seed=0, negatives=negatives)))


def nodes_of(graph: Graph, dim: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(graph.num_nodes, dim, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@cache
def circles(users: int = 240, groups: int = 8, size: int = 15) -> Dataset:
    """Everybody likes six items of their own circle, of which two are held out, and two that are liked everywhere."""
    rng = np.random.default_rng(5)
    everywhere = groups * size + np.arange(1, 11)
    rows = []
    for user in range(1, users + 1):
        own = rng.choice(np.arange(size), 6, replace=False) + 1 + size * rng.integers(groups)
        shared = rng.choice(everywhere, 2, replace=False)
        rows += [(user, item, part) for item, part in zip(own, ("train",) * 4 + ("valid", "test"), strict=True)]
        rows += [(user, item, "train") for item in shared]
    user, item, part = (np.array(column) for column in zip(*rows, strict=True))
    return pairs_in_parts(np.column_stack([user, item]), part, groups * size + 10, "circles")


def plan_of(name: str, data: Dataset, preset: str = "authors", training: Any = None, **values: Any) -> tuple[Plan, Any]:
    request = RunRequest(
        data="-", task="collaborative", backbone=name, preset=preset, seed=3, model=values, training=training or {}
    )
    config = resolve(request, "test")
    return config.chosen.task.room().plan(config, data, None, show_progress=False), config


def trained(name: str, data: Dataset, folder: Path, *, stop_after: int | None = None, **more: Any) -> Any:
    """The model that a run would keep; ``stop_after`` steps the process dies instead, having left a checkpoint of each."""
    plan, config = plan_of(name, data, **more)
    [stage] = plan.stages
    assert isinstance(stage, Stage)
    phase = make_phase(stage, config.training, plan.batches(stage), plan.validate(stage), monitor=plan.monitor)
    step, left = cast(Any, stage.module).step, [stop_after]

    def dying(batch: Any) -> Any:
        if left[0] is not None:
            left[0] -= 1
            if left[0] < 0:
                raise ConnectionAbortedError
        return step(batch)

    cast(Any, stage.module).step = dying
    every = CheckpointEvery(batches=None if stop_after is None else 1)
    train([phase], folder, seed=3, checkpoint_every=every, show_progress=False)
    return plan.keep()
