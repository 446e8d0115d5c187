"""The table of nodes that trains, what a run keeps of it, and how people are answered by it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_graphs import BPR, NAMES, batch_of, circles, model, plan_of, settings, trained
from small_worlds import graph_of, random_graph, recall

from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.config import PairwiseConfig
from braidrec.collaborative.graph_model import NodeVectors, prediction
from braidrec.collaborative.scoring import training_graph
from braidrec.collaborative.task import TASK as ROOM
from braidrec.config import RunRequest, resolve
from braidrec.errors import ConfigError
from braidrec.evaluation.closed_form import item_cosine
from braidrec.registry import LogSize
from braidrec.strict import parse
from braidrec.training.stages import put_fitted

GRAPH = random_graph(30, 20, 0.25, 2)
SHORT = {"max_epochs": 3, "batch_size": 200}
LONG = {"max_epochs": 25, "batch_size": 256, "lr": 0.02, "epochs_per_check": 12}


# losses ------------------------------------------------------------------------------------------------------------------


def test_bpr_is_the_logarithm_of_two_where_scores_are_equal_and_pushes_them_apart() -> None:
    batch, config = batch_of(GRAPH, negatives=2), PairwiseConfig(loss="bpr", negatives=2)
    nodes = torch.ones(GRAPH.num_nodes, 4, requires_grad=True)
    loss = prediction(nodes, batch, config, GRAPH)
    assert float(loss.detach()) == pytest.approx(math.log(2))
    user, item, other = int(batch.user[0]), int(batch.item[0]), int(batch.negative[0, 0])

    def scores(nodes: torch.Tensor) -> tuple[float, float]:
        return float(nodes[user] @ nodes[item]), float(nodes[user] @ nodes[other])

    one = type(batch)(batch.user[:1], batch.item[:1], batch.negative[:1, :1])
    prediction(nodes, one, config, GRAPH).backward()
    assert nodes.grad is not None
    before, after = scores(nodes.detach()), scores(nodes.detach() - 0.1 * nodes.grad)
    assert after[0] > before[0]
    assert after[1] < before[1]


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("by_user", [False, True])
def test_softmax_is_cross_entropy_among_all_items(cosine: bool, by_user: bool) -> None:
    batch = batch_of(GRAPH, 40)
    nodes = torch.randn(GRAPH.num_nodes, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    read = F.normalize(nodes, dim=1) if cosine else nodes
    wanted = F.cross_entropy(read[batch.user] @ read[30:].T / 0.5, batch.item - 30)
    found = prediction(nodes, batch, PairwiseConfig(temperature=0.5, cosine=cosine, by_user=by_user), GRAPH)
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert torch.allclose(torch.autograd.grad(found, nodes)[0], torch.autograd.grad(wanted, nodes)[0], atol=1e-6)


@pytest.mark.parametrize("by_user", [False, True])
def test_softmax_among_the_batch_makes_up_for_how_often_an_item_is_there(by_user: bool) -> None:
    batch = batch_of(GRAPH, 40)
    nodes = torch.randn(GRAPH.num_nodes, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    pairs, terms = list(zip(batch.user.tolist(), batch.item.tolist(), strict=True)), []
    for user, item in pairs:
        others = {other for _, other in pairs} - {other for who, other in pairs if who == user} | {item}
        scores = {other: nodes[user] @ nodes[other] / 0.5 - math.log(GRAPH.item_counts[other - 30 + 1]) for other in others}
        terms.append(torch.stack(list(scores.values())).logsumexp(0) - scores[item])
    wanted = torch.stack(terms).mean()
    found = prediction(nodes, batch, PairwiseConfig(temperature=0.5, among="batch", by_user=by_user), GRAPH)
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert torch.allclose(torch.autograd.grad(found, nodes)[0], torch.autograd.grad(wanted, nodes)[0], atol=1e-6)


def test_what_a_softmax_reads_is_refused_beside_bpr() -> None:
    with pytest.raises(ValueError, match="among, cosine and temperature belong to loss = 'softmax'"):
        PairwiseConfig(loss="bpr", among="batch")


def test_l2_is_of_everything_that_trains_or_half_of_the_batch_s_own_rows() -> None:
    batch = batch_of(GRAPH)
    found = model("dccf", GRAPH, intents=3)
    squares = sum(
        float(each.detach().square().sum()) for each in (found.nodes, found.backbone.of_users, found.backbone.of_items)
    )
    assert float(found.step(batch).losses()["l2"].detach()) == pytest.approx(squares, rel=1e-5)
    own = model("mf", GRAPH, l2_on="batch")
    rows = torch.cat([batch.user, batch.item, batch.negative[:, 0]])
    wanted = float(own.nodes.detach()[rows].square().sum()) / 2 / len(batch)
    assert float(own.step(batch).losses()["l2"].detach()) == pytest.approx(wanted, rel=1e-5)


def test_losses_are_weighed_as_it_is_said() -> None:
    assert model("lightgcn", GRAPH, l2=0.3).weights == {"prediction": 1.0, "l2": 0.3}
    assert model("sgl", GRAPH, l2=0.3, contrast=0.7).weights == {"prediction": 1.0, "contrast": 0.7, "l2": 0.3}
    own = model("autocf", GRAPH, l2=0.3, uniformity=2.0).weights  # which has a prediction of its own
    assert own == {"prediction": 1.0, "partition": 1.0, "spread": 2.0, "infomax": 1.0, "l2": 0.3}


def test_nodes_start_evenly_within_xavier_s_range() -> None:
    own = model("mf", GRAPH).nodes.detach()
    bound = (6 / (50 + 32)) ** 0.5
    assert own.shape == (50, 32)
    assert float(own.abs().max()) == pytest.approx(bound, rel=0.01)
    assert float(own.square().mean()) == pytest.approx(bound**2 / 3, rel=0.1)
    dccf = model("dccf", GRAPH, intents=64).backbone
    assert float(dccf.of_users.detach().abs().max()) == pytest.approx((6 / (32 + 64)) ** 0.5, rel=0.01)


def test_settings_that_contradict_one_another_are_refused() -> None:
    with pytest.raises(ConfigError, match="negatives = 0: loss = 'bpr' compares each item"):
        parse(PairwiseConfig, {"loss": "bpr", "negatives": 0}, "model")
    with pytest.raises(ConfigError, match="belong to loss = 'softmax'; drop them"):
        parse(PairwiseConfig, {"loss": "bpr", "temperature": 0.5}, "model")
    with pytest.raises(ConfigError, match="dim = 10 is no multiple of heads = 4"):
        model("autocf", GRAPH, dim=10)


def test_a_backbone_s_keys_may_stand_in_the_table_itself() -> None:
    assert settings("lightgcn", depth=1, dim=16).depth == 1
    with pytest.raises(ConfigError, match="unknown key 'dpth'"):
        resolve(RunRequest(data="-", backbone="lightgcn", model={"dpth": 1}), "test")


def test_small_logs_get_smaller_batches_by_preset_ours_alone() -> None:
    def batch(samples: int, preset: str = "ours", **training: Any) -> int:
        request = RunRequest(data="-", backbone="lightgcn", preset=preset, training=training)
        return resolve(request, "test", LogSize(samples, 100)).training.batch_size

    assert [batch(samples) for samples in (0, 1_000, 5_000, 60_000, 70_000, 10**7)] == [64, 64, 256, 2048, 4096, 4096]
    assert batch(1_000, "authors") == 4096
    assert batch(1_000, batch_size=512) == 512


# training ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_died_ends_as_an_unbroken_one(name: str, tmp_path: Path) -> None:
    """In the middle of an epoch, and for AutoCF between two draws of its hidden graph."""
    whole = trained(name, circles(), tmp_path / "whole", training=SHORT)
    with pytest.raises(ConnectionAbortedError):
        trained(name, circles(), tmp_path / "broken", training=SHORT, stop_after=13)
    again = trained(name, circles(), tmp_path / "broken", training=SHORT)
    for key, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, again.module.state_dict()[key]), key


@pytest.mark.parametrize("name", ["lightgcn", "autocf", "simgcl"])
def test_draws_come_from_generators_of_their_own(name: str) -> None:
    found = [model(name, GRAPH) for _ in range(2)]
    losses = []
    for each in found:
        torch.rand(len(losses))  # whatever the caller draws
        losses.append({key: float(value.detach()) for key, value in each.step(batch_of(GRAPH)).losses().items()})
    assert losses[0] == losses[1]
    assert {"backbone", "method"} == found[0].generators().keys()


@pytest.mark.parametrize("name", BPR)
def test_circles_are_found_that_popularity_does_not_know(name: str, tmp_path: Path) -> None:
    data = circles()
    kept = trained(name, data, tmp_path / name, training=LONG, dim=16)
    popular = resolve(RunRequest(data="-", task="collaborative", backbone="popularity"), "test")
    plan = popular.chosen.task.room().plan(popular, data, None, show_progress=False)
    [stage] = plan.stages
    put_fitted(stage.module, stage.fit())  # type: ignore[union-attr]
    assert recall(data, kept.module) > recall(data, stage.module) + 0.3  # type: ignore[arg-type]


# what a run keeps --------------------------------------------------------------------------------------------------------


def test_answers_follow_the_weights_and_what_is_kept_needs_no_graph() -> None:
    found = model("lightgcn", GRAPH).eval()
    everybody = Baskets.of_rows(GRAPH.matrix[1:], np.arange(1, 31))
    before = found.scores(everybody)
    assert found.vectors is found.vectors
    found.load_state_dict({key: 2 * value for key, value in found.state_dict().items()})
    assert torch.allclose(found.scores(everybody), 4 * before, atol=1e-5)
    kept = found.kept()
    assert set(kept.state_dict()) == {"users", "items", "trained", "inward", "turn"}
    assert not list(kept.parameters())
    again = NodeVectors()
    put_fitted(again, kept.state_dict())
    assert torch.equal(again.scores(everybody), kept.scores(everybody))  # type: ignore[operator]


def test_answers_are_made_anew_after_each_stretch_of_training() -> None:
    found = model("lightgcn", GRAPH).eval()
    everybody = Baskets.of_rows(GRAPH.matrix[1:], np.arange(1, 31))
    before = found.scores(everybody)
    found.train()
    with torch.no_grad():
        found.nodes.mul_(2)  # as an optimiser does, in place
    assert torch.allclose(found.eval().scores(everybody), 4 * before, atol=1e-5)


def test_known_users_have_their_own_vector_and_others_are_folded_in_by_what_they_have() -> None:
    graph = graph_of(np.array([[1, 1], [1, 2], [2, 2], [2, 3], [3, 3]]), 4, 3)
    kept: Any = model("lightgcn", graph, dim=4).eval().kept()
    parts = [np.array([1, 2]), np.array([1, 2]), np.array([1, 2]), np.array([3])]
    given = kept.people(Baskets.of(parts, [1, 0, 4, 9]))  # user 4 has nothing in training, and 9 came later
    folded = kept.people(Baskets.of(parts))
    assert torch.equal(given[0], kept.users[1])
    assert torch.equal(given[1:], folded[1:])
    assert torch.equal(kept.scores(Baskets.of(parts))[:, 0], torch.zeros(4))
    counts = torch.tensor(graph.item_counts).clamp_min(1)
    by_hand = (kept.items / counts.sqrt()[:, None])[[1, 2]].sum(0) / 2**0.5 @ kept.turn
    assert torch.allclose(folded[0], by_hand, atol=1e-6)
    sums = torch.from_numpy(graph.matrix.toarray()) @ (kept.items / counts.sqrt()[:, None])
    sums = (sums / sums.new_tensor([1, 2, 2, 1, 1]).sqrt()[:, None]).double()
    ridge = 1e-3 * sums.square().sum(dim=0).mean() * torch.eye(4)
    turn = torch.linalg.solve(sums.T @ sums + ridge, sums.T @ kept.users.double())
    assert torch.allclose(kept.turn.double(), turn, rtol=1e-3, atol=1e-3)
    whole, text = kept.shares(torch.tensor([1, 2]), 3)
    assert text is None
    assert float(whole.sum()) == pytest.approx(float(kept.scores(Baskets.of(parts))[0, 3]), rel=1e-4)


def test_who_is_folded_in_is_found_nearly_as_well_as_who_is_known(tmp_path: Path) -> None:
    data = circles()
    kept = trained("lightgcn", data, tmp_path, training=LONG, dim=16).module
    known = recall(data, kept)
    kept.trained = torch.zeros_like(kept.trained)
    assert recall(data, kept) > 0.9 * known


def test_what_is_said_of_users_is_the_model_s_to_say(tmp_path: Path) -> None:
    kept = trained("mf", circles(), tmp_path, training=SHORT)
    assert "answered by their vector as of training" in kept.notes(new_user=False, added=0)[0]
    assert "by linear regression" in kept.notes(new_user=True, added=0)[0]
    assert kept.past(3).user == 3
    assert kept.past(3, np.array([1], np.int32)).user == 0  # their vector does not know the news
    assert "given with newer items, they count as somebody new" in kept.notes(new_user=False, added=0)[0]
    with pytest.raises(Exception, match="knows items by who has them alone"):
        kept.with_items(None)


def test_several_methods_at_once_are_refused() -> None:
    from braidrec.collaborative.graph_model import node_stages
    from braidrec.registry import TASKS, Spec
    from braidrec.strict import Strict

    backbone = TASKS["collaborative"].backbones["mf"]
    methods = [(Spec(name, name, Strict, lambda *given: None), Strict()) for name in ("one", "two")]
    with pytest.raises(ConfigError, match="enhance names 'one' and 'two'"):
        node_stages(backbone, settings("mf"), plan_of("mf", circles())[0].stages[0].module, methods)  # type: ignore[arg-type]


def test_a_model_that_trains_is_held_against_simple_rankings() -> None:
    data = circles()
    found = plan_of("mf", data)[0].yardsticks()
    assert found.keys() == {"popularity", "item-kNN", "EASE"}
    assert found["item-kNN"]["recall@20"] > found["popularity"]["recall@20"] + 0.3
    outcome = ROOM.baseline("popularity", None, data, "valid")
    assert outcome is not None
    wanted = ROOM.report(outcome, None, data, "valid", min_rows=1)["all"]["recall@20"]
    assert found["popularity"]["recall@20"] == pytest.approx(wanted)
    assert plan_of("ease", data)[0].yardsticks() == {}


def test_item_vectors_are_there_to_look_at() -> None:
    found = model("gccf", GRAPH, dim=4).eval()
    assert found.item_vectors()["nodes"].shape == (21, 12)
    assert found.user_vectors()["nodes"].shape == (31, 12)
    assert item_cosine(training_graph(circles()).matrix).shape[0] == found.num_rows + 110
