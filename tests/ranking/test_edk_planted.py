"""EDK in a world where one thing holds for good and another held in old logs alone.

The label follows a product of two fields for good (AUC .88 at best); in old logs a third field agrees with nine labels of ten.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from braidrec.data.batches import RankingBatch
from braidrec.data.history import History
from braidrec.layers.embedding import TableLayout
from braidrec.ranking.methods.edk import SPEC, Compression, EDKConfig, KnowledgeNetwork
from braidrec.strict import parse

NAMES, SIZE = ("user", "item", "first", "second", "fashion", "noise"), 8
LAYOUT = TableLayout(1 + SIZE * len(NAMES), NAMES, (0,) * len(NAMES), (1, 2), (), (), 1)
Rows = tuple[NDArray[np.int64], NDArray[np.bool_]]


def rows(count: int, *, old: bool, seed: int) -> Rows:
    """Values (count, 6) below 8, of whose parities alone labels (count,) know."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, SIZE, (count, len(NAMES)))
    logit = 2.0 * (1 - 2 * (values[:, 2] % 2)) * (1 - 2 * (values[:, 3] % 2))
    label = rng.random(count) < 1 / (1 + np.exp(-logit))
    if old:
        values[:, 4] = values[:, 4] // 2 * 2 + np.where(rng.random(count) < 0.9, label, ~label)
    return values, label


def batch(values: NDArray[np.int64], label: NDArray[np.bool_]) -> RankingBatch:
    nothing = torch.zeros(len(values), 1, dtype=torch.int32)
    fields = torch.from_numpy(1 + values + SIZE * np.arange(len(NAMES))).int()
    return RankingBatch(
        torch.arange(len(values)),
        fields[:, 1],
        fields,
        torch.zeros(len(values), 0),
        (),
        History(nothing, nothing, nothing > 0),
        torch.from_numpy(label).float(),
    )


def compressed(steps: int, **values: float) -> Compression:
    config = parse(EDKConfig, {**SPEC.settings("ours"), "width": 8, "patterns": 6, "layers": 1, "heads": 2, **values}, "edk")
    torch.manual_seed(0)
    module = Compression(config, KnowledgeNetwork(config, LAYOUT), 0)
    optimisers = {group.name: torch.optim.Adam(group.parameters, lr=group.lr or 3e-3) for group in module.groups()}
    drawn = torch.Generator().manual_seed(0)
    old = rows(20_000, old=True, seed=0)
    for _ in range(steps):
        at = torch.randint(20_000, (512,), generator=drawn).numpy()
        step = module.step(batch(old[0][at], old[1][at]))
        for name, learn in step.first.items():
            optimisers[name].zero_grad()
            learn().backward()
            optimisers[name].step()
        losses = step.losses()
        optimisers["main"].zero_grad()
        torch.stack([weight * losses[name] for name, weight in module.weights.items()]).sum().backward()
        optimisers["main"].step()
    return module


@torch.no_grad()
def patterns(module: Compression, some: Rows) -> NDArray[np.float32]:
    found: NDArray[np.float32] = module.knowledge(batch(*some)).patterns.flatten(1).numpy()
    return found


def probed(module: Compression) -> float:
    """AUC on recent rows of a linear reader of the patterns that has seen 300 recent labels."""
    few, many = rows(300, old=False, seed=1), rows(4_000, old=False, seed=2)
    scale = StandardScaler().fit(patterns(module, few))
    reader = LogisticRegression(C=0.05, max_iter=2_000).fit(scale.transform(patterns(module, few)), few[1])
    return float(roc_auc_score(many[1], reader.decision_function(scale.transform(patterns(module, many)))))


@pytest.mark.slow
def test_patterns_keep_what_holds_and_let_it_be_read_apart_from_what_does_not() -> None:
    module, drawn = compressed(300), compressed(0)
    recent = rows(4_000, old=False, seed=2)
    with torch.no_grad():
        own = float(roc_auc_score(recent[1], module(batch(*recent)).numpy()))
    assert probed(drawn) < 0.6  # a network as it was drawn knows of no product of two fields
    assert probed(module) > 0.75
    assert probed(module) > own + 0.03  # its own head goes by the fashion of old
