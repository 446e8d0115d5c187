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
from braidrec.training.contracts import Batches

USERS, ITEMS, GROUPS = 600, 400, 20


@dataclass(frozen=True, eq=False)
class Strands:
    """data: who has what    people, items: text tables of both    group (N,): of users and then items, told by both sides"""

    data: Dataset
    people: torch.Tensor
    items: torch.Tensor
    group: np.ndarray


def strands(seed: int = 0, *, own_text: float = 1.0, each: int = 6) -> Strands:
    """Everybody has ``each`` items, drawn by exp(6 z_u . z_i + 3 c_u . c_i); text = tanh([z, own_text l] W) and noise.

    z: a prototype of the group and noise, on both sides    c: behaviour alone    l: text alone    z and c at length 1, so that
    nobody is liked for being long
    """
    rng = np.random.default_rng(seed)
    group = rng.integers(GROUPS, size=USERS + ITEMS)
    shared = _unit(_unit(rng.normal(size=(GROUPS, 8)))[group] + 0.3 / np.sqrt(8) * rng.normal(size=(USERS + ITEMS, 8)))
    behaviour, own = _unit(rng.normal(size=(USERS + ITEMS, 8))), own_text * rng.normal(size=(USERS + ITEMS, 24)) / np.sqrt(8)
    logit = 6 * shared[:USERS] @ shared[USERS:].T + 3 * behaviour[:USERS] @ behaviour[USERS:].T
    keys = np.argsort(-(logit + rng.gumbel(size=logit.shape)), axis=1)[:, :each]  # without replacement, by exp(logit)
    pairs = np.column_stack([np.repeat(np.arange(USERS), each), keys.ravel()]) + 1
    part = rng.choice(["train", "valid", "test"], size=len(pairs), p=(0.6, 0.2, 0.2))
    text = np.tanh(np.column_stack([shared, own]) @ np.random.default_rng(7).normal(size=(32, 128)))
    text = np.vstack([np.zeros((1, 128)), text + 0.05 * rng.normal(size=text.shape)]).astype(np.float32)
    data = pairs_in_parts(pairs, part, ITEMS, f"strands-{seed}-{own_text}-{each}")
    people = text[np.array([0, *data.user_ids], np.int64)]
    return Strands(data, torch.from_numpy(people), torch.from_numpy(np.vstack([text[:1], text[USERS + 1 :]])), group)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


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
        _epoch(model, batches, optimiser)
    return model.eval()


def chosen(world: Strands, method: str | None, seed: int = 0, **values: Any) -> tuple[GraphModel, float]:
    """Trained for 120 epochs and looked at after every 20th: the model, and Recall@20 of test where validation is best."""
    model, seen = model_of(parts_of(world, seed), method, **values), []
    batches = model.batches(model.graph, TrainingConfig(batch_size=1024), seed)
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(6):
        for _ in range(20):
            _epoch(model.train(), batches, optimiser)
        model.eval()
        seen.append((found(world, model, "valid"), found(world, model)))
    return model, max(seen)[1]


def _epoch(model: GraphModel, batches: Batches, optimiser: torch.optim.Optimizer) -> None:
    for each in batches:
        optimiser.zero_grad()
        losses = model.step(each).losses()
        torch.stack([weight * losses[name] for name, weight in model.weights.items()]).sum().backward()
        optimiser.step()


def found(world: Strands, model: GraphModel, part: str = "test") -> float:
    """Recall@20."""
    return recall(world.data, model, part)
