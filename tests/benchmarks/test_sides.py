"""The two sides that `benchmarks/peers.py` measures sequence models with, as far as they run without RecBole."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import small_runs

SIDES = Path(__file__).parents[2] / "benchmarks" / "peers"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"peers_{name}", SIDES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ours() -> ModuleType:
    return _load("braidrec_side")


@pytest.fixture(scope="module")
def options() -> argparse.Namespace:
    path = small_runs.positives().path
    return argparse.Namespace(prepared=path, dim=8, history=5, blocks=1, heads=2, seconds=0.01, goals=None, limit=0.0)


def test_our_side_has_the_shape_it_is_given(ours: ModuleType, options: argparse.Namespace) -> None:
    model = ours.configure(options.prepared, options).model
    assert (model.dim, model.length, model.windows, model.loss) == (8, 5, "all", "full_ce")
    assert (model.backbone.variant, model.backbone.blocks, model.backbone.heads) == ("authors", 1, 2)
    assert not model.trained_softmax


def test_samples_are_targets(ours: ModuleType, options: argparse.Namespace) -> None:
    task = ours.Task.of(ours.configure(options.prepared, options), small_runs.positives())
    assert task.targets == 60 * 9  # 12 events each, two held out, the first no target
    assert task.targets == sum(int((batch.targets > 0).sum()) for batch in task.phase.batches)
    found = ours.measure(options)
    assert found["samples_per_second"] > 0
    assert found["users_per_second"] > 0
    assert (found["samples"], found["users"]) == (540, 60)


def test_items_met_before_are_left_out_only_where_said(ours: ModuleType, options: argparse.Namespace) -> None:
    task = ours.Task.of(ours.configure(options.prepared, options), small_runs.positives())
    everything, unmet = (task.rank(task.phase.module, unmet=flag) for flag in (False, True))
    met = [set(task.rows.past(np.array([row]))[1].tolist()) for row in range(len(task.rows))]
    assert all(not met[row] & set(unmet.top[row].tolist()) for row in range(len(met)))
    assert any(met[row] & set(everything.top[row].tolist()) for row in range(len(met)))
    assert (unmet.rank <= everything.rank).all()


def test_unrated_items_are_no_candidates(ours: ModuleType, options: argparse.Namespace) -> None:
    dataset = small_runs.positives()
    task = ours.Task.of(ours.configure(options.prepared, options), dataset)
    assert task.candidates.sum() == len(np.unique(dataset.log.item))
    assert not task.candidates[0]


def test_training_ends_when_both_goals_are_reached(ours: ModuleType, options: argparse.Namespace) -> None:
    found = ours.measure(argparse.Namespace(**vars(options) | {"goals": [0.0, 0.0], "limit": 60.0}))
    assert len(found["checks"]) == 1
    assert found["seconds_to_goals"] == found["checks"][0]["seconds"] > 0
    assert found["checks"][0]["epoch"] == 0.25


def test_training_ends_at_the_limit(ours: ModuleType, options: argparse.Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clock is read once when training begins and once at every check: a tenth of a second passes between two."""
    looks = count()
    monkeypatch.setattr(ours, "time", SimpleNamespace(perf_counter=lambda: next(looks) / 10))
    found = ours.measure(argparse.Namespace(**vars(options) | {"goals": [0.0, 2.0], "limit": 0.2}))
    assert found["seconds_to_goals"] is None
    assert found["seconds_to_each"]["ndcg@10"] == found["checks"][0]["seconds"]
    assert found["seconds_to_each"]["ndcg@10_unmet"] is None
    assert [check["seconds"] for check in found["checks"]] == [0.1, 0.2]


def test_the_peer_s_clock_runs_for_whole_batches_after_the_warm_up() -> None:
    peer = _load("recbole_side")

    class Loader:
        def __iter__(self) -> Iterator[Any]:
            yield from ([1, 2], [3])

    timed = peer.TimedBatches(Loader(), 1, 1e-9)
    assert list(timed) == [[1, 2], [3]]
    assert (timed.batches, timed.samples) == (1, 1)
    assert timed.seconds > 0


@pytest.fixture(scope="module")
def pairs() -> argparse.Namespace:
    path = small_runs.positives().path
    return argparse.Namespace(prepared=path, dim=8, layers=2, batch=64, seconds=0.01, goals=None, limit=0.0)


def test_our_side_of_graphs_has_the_sizes_and_the_loss_of_the_other(pairs: argparse.Namespace) -> None:
    side, data = _load("graph_side"), small_runs.positives()
    module = side.phase_of(data, "textbook", pairs).module
    assert (module.config.dim, module.config.depth, module.config.loss, module.config.combine) == (8, 2, "bpr", "mean")
    found = side.measure(pairs)
    assert found["samples_per_second"] > 0
    assert found["users_per_second"] > 0
    assert found["samples"] == len(module.graph)


def test_our_side_of_graphs_trains_until_the_goal_or_the_limit(pairs: argparse.Namespace) -> None:
    side = _load("graph_side")
    reached, given_up = (
        side.measure(argparse.Namespace(**vars(pairs) | {"goals": [goal], "limit": 0.0})) for goal in (0.0, 2.0)
    )
    assert reached["seconds_to_goals"] == reached["checks"][0]["seconds"] > 0
    assert given_up["seconds_to_goals"] is None
