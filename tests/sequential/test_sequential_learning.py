"""What a sequence model must be able to learn: fifty histories by heart, and from text what ids cannot know."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import small_sequences as small
from braidrec.config import RunConfig, RunRequest, resolve
from braidrec.data.dataset import Dataset
from braidrec.data.sequences import SequenceBatches
from braidrec.evaluation.retrieval import rank_targets
from braidrec.sequential.build import build_stages, make_parts, settings_of
from braidrec.sequential.next_item import SequenceModel
from braidrec.sequential.scoring import HistoryScorer, part_rows
from braidrec.training.loop import train

# Fifty users by heart -----------------------------------------------------------------------------------------------------


@cache
def fifty() -> Dataset:
    """50 users with 10 of 60 items each, the first of them their own: every prefix of a history belongs to one user."""
    rng = np.random.default_rng(0)
    sequences = [[user, *(51 + rng.permutation(10)[:3]), *(1 + rng.permutation(60)[:6])] for user in range(1, 51)]
    return small.sequences_of(sequences, 60, "fifty")


@pytest.mark.parametrize("backbone", list(small.BACKBONES))
def test_every_backbone_learns_fifty_histories_by_heart(backbone: str) -> None:
    kind = {**small.BACKBONES[backbone], "dropout": 0.0} | ({"hidden": 32} if backbone == "gru4rec" else {})
    config = small.config("plain", backbone, "bce", dim=32, length=10, backbone=kind)
    torch.manual_seed(0)
    model = build_stages(config, make_parts(config, fifty(), None))[0].module
    assert isinstance(model, SequenceModel)
    batches = SequenceBatches(fifty(), 50, length=10, negatives=8)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(150):
        for batch in batches:
            loss = model.step(batch).losses()["prediction"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.1
    batch = batches.cut(np.arange(50))
    real = batch.targets > 0
    with torch.no_grad():
        table = model.expert.table()
        scores = model.expert.read(table, batch.items.long(), batch.mask)[real] @ table[1:].T
    own = scores.gather(1, batch.targets[real].long()[:, None] - 1)
    assert (scores > own).sum(dim=1).lt(10).float().mean() > 0.99  # HR@10 of 60 items


# What text knows ----------------------------------------------------------------------------------------------------------

THEMES, WARM, COLD = 8, 10, 4  # items of each theme that training meets, and that it does not
ITEMS = THEMES * (WARM + COLD)


def theme_of(item: np.ndarray) -> np.ndarray:
    return np.where(item <= THEMES * WARM, (item - 1) % THEMES, (item - 1 - THEMES * WARM) % THEMES)


@cache
def themes() -> Dataset:
    """300 users who stay in one theme each; the test target of every second one is an item that nobody met before."""
    rng = np.random.default_rng(0)
    sequences = []
    for user in range(300):
        theme = user % THEMES
        own = 1 + theme + THEMES * rng.permutation(WARM)[:7]
        last = [1 + THEMES * WARM + theme + THEMES * rng.integers(COLD)] if user // THEMES % 2 else []
        sequences.append([*own[: 7 - len(last)].tolist(), *last])
    return small.sequences_of(sequences, ITEMS, "themes")


def texts(shuffled: bool = False) -> Tensor:
    """A theme's direction and noise; shuffled: each item tells of another one's theme."""
    random = torch.Generator().manual_seed(1)
    theme = torch.from_numpy(theme_of(np.arange(1, ITEMS + 1)))
    centres = torch.randn(THEMES, 16, generator=random)
    vectors = centres[theme] + 0.3 * torch.randn(ITEMS, 16, generator=random)
    if shuffled:
        vectors = vectors[torch.randperm(ITEMS, generator=random)]
    return torch.cat([torch.zeros(1, 16), vectors])


@cache
def cold_hits(folder: Any, enhance: str | None, shuffled: bool = False) -> float:
    """HR@10 on the test rows whose target training never met, after a few epochs of every stage."""
    request = RunRequest.model_validate(
        {
            "data": "themes",
            "knowledge": "none" if enhance else None,
            "backbone": "sasrec",
            "enhance": enhance,
            "seed": 0,
            "model": {"dim": 16, "length": 8, "buckets": 3, "backbone": {"blocks": 1}},
            "training": {"batch_size": 64, "max_epochs": 12, "lr": 5e-3},
        }
    )
    config: RunConfig = resolve(request, "test")
    plan = small.plan_of(config, themes(), texts(shuffled) if enhance else None)
    train(small.phases_of(config, plan), folder / f"{enhance}-{shuffled}", show_progress=False)
    rows = part_rows(themes(), "test")
    rank = rank_targets(HistoryScorer(plan.stages[-1].module, rows, settings_of(config).length), rows).rank
    return float((rank[rows.item > THEMES * WARM] <= 10).mean())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tmp_path_factory.mktemp("learning")


def test_the_planted_world_has_cold_targets() -> None:
    rows = part_rows(themes(), "test")
    cold = rows.item > THEMES * WARM
    assert 100 < cold.sum() < 200
    assert (theme_of(rows.item) == theme_of(rows.past_items[rows.first])).all()


@pytest.mark.parametrize("enhance", ["hybrid", "pad"])
def test_text_finds_cold_items_that_ids_cannot(folder: Any, enhance: str) -> None:
    plain, own = cold_hits(folder, None), cold_hits(folder, enhance)
    assert plain < 0.25  # 10 of 112 items by chance
    assert own > 0.75


def test_shuffled_text_finds_nothing(folder: Any) -> None:
    assert cold_hits(folder, "pad", True) < cold_hits(folder, None) + 0.1
