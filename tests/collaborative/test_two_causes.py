"""A world in which half of what people like is told by text alone and half by behaviour alone: each side finds its half."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from small_worlds import fitted, recall, two_causes

from braidrec.collaborative.contracts import MatrixModel
from braidrec.collaborative.models.ease import COLD
from braidrec.collaborative.scoring import RowsScorer, part_rows, training_graph
from braidrec.collaborative.task import TASK as ROOM
from braidrec.config import RunRequest, resolve
from braidrec.evaluation.retrieval import rank_targets
from braidrec.training.stages import Fitted

MODELS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "behaviour": ("ease", {"penalty": 5.0}),
    "meaning": ("text-knn", {}),
    "stack": ("ease", {"text": "stack", "penalty": 50.0, "weight": 10.0}),
    "regularise": ("ease", {"text": "regularise", "penalty": 20.0, "pull": 50.0, "text_penalty": 10.0}),
}


@cache
def model_of(name: str) -> MatrixModel:
    data, text = two_causes()
    backbone, values = MODELS[name]
    return fitted(backbone, training_graph(data), text, **values)


@cache
def found(name: str) -> tuple[float, float]:
    """Recall@20 of the items of topics (text), and of those of circles (behaviour)."""
    return by_cause(model_of(name))


def by_cause(model: MatrixModel) -> tuple[float, float]:
    data, _ = two_causes()
    held = part_rows(data, "test")
    counts = torch.from_numpy(training_graph(data).item_counts)
    ranks = rank_targets(RowsScorer(model, held, counts), held.rows, top=0).rank  # type: ignore[arg-type]
    of_topic = held.rows.targets <= data.num_items // 2
    return float(np.mean(ranks[of_topic] <= 20)), float(np.mean(ranks[~of_topic] <= 20))


def test_each_side_alone_finds_its_own_half() -> None:
    topic, circle = found("behaviour")
    assert circle > 0.65
    assert topic < 0.25
    topic, circle = found("meaning")
    assert topic > 0.5  # of 36 items of a topic 20 are listed
    assert circle < 0.05


@pytest.mark.parametrize("form", ["stack", "regularise"])
def test_ease_with_text_finds_both_halves_where_each_ablation_finds_one(form: str) -> None:
    topic, circle = found(form)
    assert topic > 2 * found("behaviour")[0]
    assert topic > 0.65 * found("meaning")[0]
    assert circle > 0.85 * found("behaviour")[1]


def test_both_halves_together_are_worth_more_than_either() -> None:
    data, _ = two_causes()
    both = recall(data, model_of("stack"))
    for alone in ("behaviour", "meaning"):
        assert both > 1.1 * recall(data, model_of(alone)), alone


def test_the_weight_of_items_that_nobody_has_is_what_serves_validation_best() -> None:
    """In this world the texts of a topic say much, so items that nobody has yet are worth more than their small scores."""
    data, text = two_causes()
    request = RunRequest(
        data="-", task="collaborative", backbone="ease", knowledge=("k",), model={"cold": "valid", "penalty": 50}
    )
    plan = ROOM.plan(resolve(request, "test"), data, text.numpy(), show_progress=False)
    [stage] = plan.stages
    assert isinstance(stage, Fitted)
    with torch.no_grad():
        tensors = stage.fit()
    boost = tensors["boost"][-1].item() if "boost" in tensors else 1.0
    assert boost in COLD
    assert boost > 1
