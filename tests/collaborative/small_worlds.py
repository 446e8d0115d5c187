"""Made-up logs for this task, models fitted on them without a run, and a world whose items have two hidden causes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import polars as pl
import torch
from torch import Tensor

from braidrec.collaborative.contracts import MatrixModel, Parts
from braidrec.collaborative.graph import Graph
from braidrec.collaborative.scoring import part_rows, training_graph, validation
from braidrec.config import RunRequest, resolve
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.schema import Schema
from braidrec.data.settings import SplitConfig
from braidrec.data.tables import Tables
from braidrec.layers.text import TextTable
from braidrec.training.stages import Fitted, put_fitted
from small_runs import root

GIVEN = PrepareSettings(split=SplitConfig(kind="given"))


def graph_of(pairs: np.ndarray, num_users: int, num_items: int) -> Graph:
    """pairs (E, 2) catalogue rows."""
    own = np.unique(pairs, axis=0).astype(np.int32)
    return Graph(own[:, 0], own[:, 1], num_users, num_items)


def random_graph(users: int = 40, items: int = 15, share: float = 0.2, seed: int = 0) -> Graph:
    met = np.random.default_rng(seed).random((users, items)) < share
    return graph_of(np.argwhere(met) + 1, users, items)


def random_text(items: int = 15, width: int = 6, seed: int = 1) -> Tensor:
    vectors = torch.randn(items + 1, width, generator=torch.Generator().manual_seed(seed))
    vectors[0] = 0
    return vectors


def fitted(name: str, graph: Graph, text: Tensor | None = None, /, **values: Any) -> MatrixModel:
    """The model of a whole model's spec, fitted."""
    request = RunRequest(data="-", task="collaborative", backbone=name, model={"backbone": values})
    config = resolve(request, "test")
    torch.manual_seed(0)
    parts = Parts(graph.num_items, graph, TextTable.of(text))
    [stage] = config.chosen.backbone.build(config.model.backbone, parts)
    assert isinstance(stage, Fitted)
    with torch.no_grad():
        put_fitted(stage.module, stage.fit())
    return cast(MatrixModel, stage.module.eval())


def recall(data: Dataset, model: MatrixModel, part: str = "test") -> float:
    counts = torch.from_numpy(training_graph(data).item_counts)
    return validation(part_rows(data, part), counts)(model)["recall@20"]  # type: ignore[arg-type]


def tables_of(events: Mapping[str, Any], num_items: int, name: str, **schema: Any) -> Tables:
    items = pl.DataFrame({"item": np.arange(1, num_items + 1), "title": [f"thing number {at}" for at in range(num_items)]})
    return Tables(name, Schema(user="user", item="item", text=("title",), **schema), pl.DataFrame(events), items)


def pairs_in_parts(pairs: np.ndarray, part: np.ndarray, num_items: int, name: str) -> Dataset:
    """Positives with a ready-made split."""
    events = {"user": pairs[:, 0], "item": pairs[:, 1], "part": part}
    return Dataset.prepare(tables_of(events, num_items, name, part="part"), root() / name, GIVEN, overwrite=True)


def two_causes(users: int = 400, groups: int = 12, size: int = 40, seed: int = 0) -> tuple[Dataset, Tensor]:
    """Items are in a topic that their text tells, and in a circle that no text tells; everybody likes one of each.

    Half of a user's items are of their topic, half of their circle, so that what is held out is found by text where it is of
    the topic, by behaviour where it is of the circle.  In a topic an item is met by few, so that behaviour says little there.
    """
    rng = np.random.default_rng(seed)
    items = groups * size
    topic = np.repeat(np.arange(groups), size)  # of the first half of the catalogue
    circle = np.repeat(np.arange(4 * groups), size // 4)  # small circles: behaviour finds them soon
    rows = []
    for user in range(1, users + 1):
        own, other = rng.integers(groups), rng.integers(4 * groups)
        by_text = rng.choice(np.flatnonzero(topic == own), 6, replace=False) + 1
        by_others = rng.choice(np.flatnonzero(circle == other), 6, replace=False) + 1 + items
        rows += [(user, item, part) for each in (by_text, by_others) for item, part in zip(each, _PARTS, strict=True)]
    user, item, part = (np.array(column) for column in zip(*rows, strict=True))
    centres = rng.normal(size=(groups, 16))
    text = rng.normal(size=(2 * items + 1, 16))  # of the second half: of its own for every item
    text[1 : items + 1] = centres[topic] + 0.2 * rng.normal(size=(items, 16))
    text[0] = 0
    pairs = np.column_stack([user, item])
    return pairs_in_parts(pairs, part, 2 * items, f"causes-{seed}"), torch.from_numpy(text.astype(np.float32))


_PARTS = ("train", "train", "train", "train", "valid", "test")
