"""A world in which behaviour and text share something and each also has its own, and models of nodes trained on it by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from small_worlds import pairs_in_parts, recall

from braidrec.collaborative.contracts import Parts
from braidrec.collaborative.graph_model import GraphModel, node_stages
from braidrec.collaborative.scoring import training_graph
from braidrec.config import RunRequest, resolve
from braidrec.data.dataset import Dataset
from braidrec.layers.text import TextTable
from braidrec.training.config import TrainingConfig

USERS, ITEMS, GROUPS = 400, 300, 10


@dataclass(frozen=True, eq=False)
class Strands:
    """data: who has what    people, items: text tables of both    group (N,): of users and then items, told by both sides"""

    data: Dataset
    people: torch.Tensor
    items: torch.Tensor
    group: np.ndarray


def strands(seed: int = 0, *, own_text: float = 1.0, each: int = 20) -> Strands:
    """logit = 2 z_u . z_i + c_u . c_i - b; text = tanh([z, own_text l] W) and noise.

    z: a prototype of the group and noise, on both sides    c: behaviour alone    l: text alone    each: items of a user, about
    """
    rng = np.random.default_rng(seed)
    group = rng.integers(GROUPS, size=USERS + ITEMS)
    shared = rng.normal(size=(GROUPS, 8))[group] + 0.3 * rng.normal(size=(USERS + ITEMS, 8))
    behaviour, own = rng.normal(size=(USERS + ITEMS, 8)), own_text * rng.normal(size=(USERS + ITEMS, 24))
    logit = 2 * shared[:USERS] @ shared[USERS:].T + behaviour[:USERS] @ behaviour[USERS:].T
    low, high = 0.0, 100.0
    for _ in range(40):  # b for ``each`` per user
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(logit - middle).sum(axis=1).mean() > each else (low, middle)
    pairs = np.argwhere(rng.random(logit.shape) < _sigmoid(logit - low)) + 1
    part = rng.choice(["train", "valid", "test"], size=len(pairs), p=(0.6, 0.2, 0.2))
    width = np.random.default_rng(7).normal(size=(32, 128)) / np.sqrt(8)
    text = np.tanh(np.column_stack([shared, own]) @ width) + 0.05 * rng.normal(size=(USERS + ITEMS, 128))
    tables = [np.vstack([np.zeros((1, 128)), kind]) for kind in np.split(text, [USERS])]
    data = pairs_in_parts(pairs, part, ITEMS, f"strands-{seed}-{own_text}-{each}")
    known = np.array(data.user_ids, np.int64)  # users without a pair are in no catalogue
    people = np.vstack([tables[0][:1], tables[0][known]])
    group = np.concatenate([group[known - 1], group[USERS:]])
    return Strands(data, *(torch.from_numpy(table.astype(np.float32)) for table in (people, tables[1])), group)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def parts_of(world: Strands, seed: int = 0) -> Parts:
    graph = training_graph(world.data)
    return Parts(
        graph.num_items,
        graph,
        TextTable(world.items),
        num_users=graph.num_users,
        seed=seed,
        people=TextTable(world.people),
        text_width=world.items.shape[1],
    )


def model_of(parts: Parts, method: str | None = None, backbone: str = "lightgcn", /, **values: Any) -> GraphModel:
    """Untrained, by the preset `authors`; values: of the method, but for ``backbone``."""
    own: dict[str, Any] = {"backbone": values.pop("backbone", {})}
    if method is not None:
        own[method] = values
    request = RunRequest(data="-", task="collaborative", backbone=backbone, enhance=method or (), preset="authors", model=own)
    config = resolve(request, "test")
    torch.manual_seed(parts.seed)
    (spec, settings), *enhancers = config.chosen.parts(config.model)
    [stage] = node_stages(spec, settings, parts, enhancers)
    assert isinstance(stage.module, GraphModel)
    return stage.module


def trained(model: GraphModel, epochs: int, *, lr: float = 5e-3, batch: int = 1024, seed: int = 0) -> GraphModel:
    """The weighted sum of all losses, by Adam."""
    batches = model.batches(model.graph, TrainingConfig(batch_size=batch), seed)
    optimiser = torch.optim.Adam(model.parameters(), lr)
    model.train()
    for _ in range(epochs):
        for each in batches:
            optimiser.zero_grad()
            losses = model.step(each).losses()
            torch.stack([weight * losses[name] for name, weight in model.weights.items()]).sum().backward()
            optimiser.step()
    return model.eval()


def found(world: Strands, model: GraphModel, part: str = "test") -> float:
    """Recall@20."""
    return recall(world.data, model, part)
