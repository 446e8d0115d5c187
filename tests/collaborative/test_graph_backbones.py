"""Every backbone of nodes against its equations, worked out with dense matrices."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_graphs import NAMES, backbone, batch_of, nodes_of
from small_worlds import graph_of, random_graph

from braidrec.collaborative.backbones.autocf import attention, hidden
from braidrec.collaborative.backbones.dccf import likely_neighbours
from braidrec.collaborative.backbones.simgcl import noisy_sum
from braidrec.collaborative.graph import Graph

CPU = torch.device("cpu")
GRAPH = random_graph(14, 9, 0.3, 4)


def dense(graph: Graph, kind: str = "symmetric") -> torch.Tensor:
    return graph.adjacency(kind).to_dense()  # type: ignore[arg-type]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradients_agree(found: torch.Tensor, wanted: torch.Tensor, *given: torch.Tensor) -> bool:
    aim = torch.randn(found.shape, generator=rng(5))
    both = [torch.autograd.grad((each * aim).sum(), given, retain_graph=True) for each in (found, wanted)]
    return all(torch.allclose(*each, rtol=1e-3, atol=1e-5) for each in zip(*both, strict=True))


# LightGCN, GCCF ----------------------------------------------------------------------------------------------------------


def test_lightgcn_is_the_sum_of_powers_or_their_mean() -> None:
    nodes, matrix = nodes_of(GRAPH), dense(GRAPH)
    wanted = sum(torch.linalg.matrix_power(matrix, power) @ nodes for power in range(4))
    assert torch.allclose(backbone("lightgcn", GRAPH).embed(nodes, GRAPH), wanted, atol=1e-5)
    assert torch.allclose(backbone("lightgcn", GRAPH, combine="mean").embed(nodes, GRAPH), wanted / 4, atol=1e-5)


def test_lightgcn_thins_the_graph_while_it_trains_alone() -> None:
    nodes, thin, whole = nodes_of(GRAPH), backbone("lightgcn", GRAPH), backbone("lightgcn", GRAPH, keep=1.0)
    drawn = thin.step(nodes, GRAPH, batch_of(GRAPH), rng()).nodes
    assert not torch.allclose(drawn, thin.embed(nodes, GRAPH))
    assert torch.equal(whole.step(nodes, GRAPH, batch_of(GRAPH), rng()).nodes, whole.embed(nodes, GRAPH))


@pytest.mark.parametrize("loops", [True, False])
def test_gccf_puts_powers_side_by_side(loops: bool) -> None:
    nodes, matrix = nodes_of(GRAPH), dense(GRAPH, "self_loops" if loops else "symmetric")
    found = backbone("gccf", GRAPH, self_loop=loops)
    assert found.width(8) == 24
    wanted = torch.cat([nodes, matrix @ nodes, matrix @ matrix @ nodes], dim=1)
    assert torch.allclose(found.embed(nodes, GRAPH), wanted, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_backbone_names_its_losses_and_its_width(name: str) -> None:
    found, nodes = backbone(name, GRAPH, dim=8), nodes_of(GRAPH)
    step = found.step(nodes, GRAPH, batch_of(GRAPH), rng())
    assert step.losses.keys() == found.weights.keys()
    assert step.nodes.shape == found.embed(nodes, GRAPH).shape == (23, found.width(8))
    assert bool(torch.isfinite(step.nodes).all())


# SGL ---------------------------------------------------------------------------------------------------------------------


def _plain_contrast(
    first: torch.Tensor, second: torch.Tensor, rows: torch.Tensor, low: int, high: int, t: float
) -> torch.Tensor:
    query, pool = F.normalize(first[rows], dim=1), F.normalize(second[low:high], dim=1)
    return F.cross_entropy(query @ pool.T / t, rows - low, reduction="sum")


def test_sgl_finds_users_and_items_of_both_kinds_among_all_in_the_other_view() -> None:
    nodes, batch = nodes_of(GRAPH), batch_of(GRAPH, 20)
    for negatives in (True, False):
        found = backbone("sgl", GRAPH, of_negatives=negatives, contrast_temperature=0.3)
        step, drawn = found.step(nodes, GRAPH, batch, rng(3)), rng(3)
        matrix = GRAPH.operator("symmetric", CPU)
        views = []
        for _ in range(2):
            thin, mask = dense(GRAPH), matrix.dropped(0.8, drawn)
            thin[matrix.row, matrix.column.long()] = mask.value
            views.append(sum(torch.linalg.matrix_power(thin, power) @ nodes for power in range(4)))
        kinds = [(batch.user, 0, 14), (batch.item, 14, 23), *([(batch.negative[:, 0], 14, 23)] if negatives else [])]
        wanted = sum(_plain_contrast(*views, *kind, 0.3) for kind in kinds) / 20  # type: ignore[arg-type]
        assert float(step.losses["contrast"].detach()) == pytest.approx(float(wanted.detach()), rel=1e-4)
        assert gradients_agree(step.losses["contrast"], wanted, nodes)  # type: ignore[arg-type]
        assert torch.allclose(step.nodes, found.embed(nodes, GRAPH))  # scored by the whole graph


@pytest.mark.parametrize("drop", ["node", "walk"])
def test_sgl_leaves_out_whole_nodes_or_other_edges_in_every_layer(drop: str) -> None:
    nodes, batch, drawn, matrix = nodes_of(GRAPH), batch_of(GRAPH, 20), rng(3), GRAPH.operator("symmetric", CPU)
    views = []
    for _ in range(2):
        if drop == "node":
            kept = nodes * (torch.rand(23, 1, generator=drawn) < 0.6)
            views.append(sum(torch.linalg.matrix_power(dense(GRAPH), power) @ kept for power in range(4)))
            continue
        found = layer = nodes
        for _ in range(3):
            thin = dense(GRAPH)
            thin[matrix.row, matrix.column.long()] = matrix.dropped(0.6, drawn).value
            layer = thin @ layer
            found = found + layer
        views.append(found)
    kinds = [(batch.user, 0, 14), (batch.item, 14, 23), (batch.negative[:, 0], 14, 23)]
    wanted = sum(_plain_contrast(*views, *kind, 0.2) for kind in kinds) / 20  # type: ignore[arg-type]
    found = backbone("sgl", GRAPH, drop=drop, keep=0.6).step(nodes, GRAPH, batch, rng(3)).losses["contrast"]
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-4)
    assert gradients_agree(found, wanted, nodes)  # type: ignore[arg-type]


@pytest.mark.parametrize("drop", ["node", "walk"])
def test_sgl_s_other_views_are_thinned_too(drop: str) -> None:
    nodes, batch = nodes_of(GRAPH), batch_of(GRAPH)
    thin, whole = (backbone("sgl", GRAPH, drop=drop, keep=keep) for keep in (0.5, 1.0))
    same = backbone("sgl", GRAPH, keep=1.0).step(nodes, GRAPH, batch, rng()).losses["contrast"]
    assert torch.allclose(whole.step(nodes, GRAPH, batch, rng()).losses["contrast"], same, rtol=1e-4)
    assert not torch.allclose(thin.step(nodes, GRAPH, batch, rng()).losses["contrast"], same, rtol=1e-2)


# SimGCL ------------------------------------------------------------------------------------------------------------------


def test_simgcl_s_noise_has_its_length_and_points_where_the_vector_does() -> None:
    nodes, matrix = nodes_of(GRAPH), GRAPH.operator("symmetric", CPU)
    clean = dense(GRAPH) @ nodes
    noise = (noisy_sum(matrix, nodes, 1, 0.4, rng()) - nodes - clean).detach()
    lone = torch.from_numpy(np.concatenate([GRAPH.user_counts[1:], GRAPH.item_counts[1:]])) == 0
    assert torch.allclose(noise[~lone].norm(dim=1), torch.full((int((~lone).sum()),), 0.4), atol=1e-4)
    assert bool((noise[~lone] * clean.detach()[~lone] >= -1e-6).all())
    powers = sum(torch.linalg.matrix_power(dense(GRAPH), power) @ nodes for power in range(4))
    assert torch.allclose(noisy_sum(matrix, nodes, 3, 0.0, rng()), powers, atol=1e-5)
    assert gradients_agree(noisy_sum(matrix, nodes, 3, 0.7, rng()), powers, nodes)  # noise has none
    without = powers - nodes
    assert torch.allclose(noisy_sum(matrix, nodes, 3, 0.0, rng(), 0.0), without, atol=1e-5)
    assert gradients_agree(noisy_sum(matrix, nodes, 3, 0.7, rng(), 0.0), without, nodes)
    assert torch.allclose(backbone("simgcl", GRAPH, first_layer=False).embed(nodes, GRAPH), without, atol=1e-5)
    for name in ("simgcl", "sgl"):
        assert torch.allclose(backbone(name, GRAPH, combine="mean").embed(nodes, GRAPH), powers / 4, atol=1e-5)
    mean = backbone("simgcl", GRAPH, first_layer=False, combine="mean").embed(nodes, GRAPH)
    assert torch.allclose(mean, without / 3, atol=1e-5)


def test_simgcl_finds_users_and_items_that_they_have_in_the_other_view_and_scores_by_neither() -> None:
    nodes, batch, drawn = nodes_of(GRAPH), batch_of(GRAPH, 20), rng(3)
    found = backbone("simgcl", GRAPH, noise=0.4, contrast_temperature=0.3)
    step, matrix = found.step(nodes, GRAPH, batch, rng(3)), GRAPH.operator("symmetric", CPU)
    views = [noisy_sum(matrix, nodes, 3, 0.4, drawn) for _ in range(2)]
    kinds = [(batch.user, 0, 14), (batch.item, 14, 23)]  # no term of negative items
    wanted = sum(_plain_contrast(*views, *kind, 0.3) for kind in kinds) / 20  # type: ignore[arg-type]
    assert float(step.losses["contrast"].detach()) == pytest.approx(float(wanted.detach()), rel=1e-4)
    assert gradients_agree(step.losses["contrast"], wanted, nodes)  # type: ignore[arg-type]
    assert torch.equal(step.nodes, found.embed(nodes, GRAPH))


# DCCF --------------------------------------------------------------------------------------------------------------------


def test_dccf_s_rows_of_likely_edges_sum_to_one_and_their_gradient_is_that_of_dense_arithmetic() -> None:
    graph = graph_of(np.array([[1, 1], [1, 2], [2, 2], [3, 3]]), 4, 4)  # user 4 and item 4 have nothing
    views, nodes, matrix = nodes_of(graph, 5, 1), nodes_of(graph, 3, 2), graph.operator("symmetric", CPU)
    ones = torch.ones(8, 1)
    assert likely_neighbours(matrix, views, ones).squeeze(1).tolist() == pytest.approx([1, 1, 1, 0, 1, 1, 1, 0])
    unit = F.normalize(views, dim=1)
    weights = (unit @ unit.T + 1) / 2 * dense(graph, "ones")
    wanted = weights / weights.sum(1, keepdim=True).clamp_min(1e-12) @ nodes
    found = likely_neighbours(matrix, views, nodes)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert gradients_agree(found, wanted, views, nodes)


def test_dccf_s_intents_mix_to_a_point_between_them_and_layers_add_up() -> None:
    found = backbone("dccf", GRAPH, dim=8, intents=6, depth=1)
    nodes, matrix = nodes_of(GRAPH), GRAPH.operator("symmetric", CPU)
    intents = found.of_users.detach()  # type: ignore[attr-defined]
    mixed = found.by_intents(nodes, 14)  # type: ignore[attr-defined]
    share = torch.softmax(nodes[:14] @ intents, dim=1)
    assert torch.allclose(share.sum(1), torch.ones(14))
    assert torch.allclose(mixed[:14], share @ intents.T, atol=1e-6)
    by_graph = dense(GRAPH) @ nodes
    likely = [likely_neighbours(matrix, view, nodes) for view in (by_graph, mixed)]
    wanted = nodes + (by_graph + mixed + likely[0] + likely[1] + nodes)
    assert torch.allclose(found.embed(nodes, GRAPH), wanted, atol=1e-5)


def test_dccf_s_views_of_every_layer_are_found_in_what_the_graph_makes_of_it() -> None:
    """Two layers by dense arithmetic; each user and item of the batch once, among those of the batch."""
    found, nodes, batch = backbone("dccf", GRAPH, dim=8, intents=6, shared_count=False), nodes_of(GRAPH), batch_of(GRAPH, 30)
    users, items = batch.user.unique(), batch.item.unique()
    assert len(users) < len(batch)
    of_users, of_items = found.of_users, found.of_items  # type: ignore[attr-defined]

    def likely(view: torch.Tensor, layer: torch.Tensor) -> torch.Tensor:
        unit = F.normalize(view, dim=1)
        weights = (unit @ unit.T + 1) / 2 * dense(GRAPH, "ones")
        return weights / weights.sum(1, keepdim=True).clamp_min(1e-12) @ layer

    total, layer, loss = nodes, nodes, torch.zeros(())
    for _ in range(2):
        by_graph = dense(GRAPH) @ layer
        sides = ((layer[:14], of_users), (layer[14:], of_items))
        mixed = torch.cat([torch.softmax(side @ own, dim=1) @ own.T for side, own in sides])
        views = (mixed, likely(by_graph, layer), likely(mixed, layer))
        for rows in (users, items):
            for view in views:
                logits = F.normalize(by_graph[rows], dim=1) @ F.normalize(view[rows], dim=1).T / 0.1
                loss = loss + F.cross_entropy(logits, torch.arange(len(rows)))
        layer = by_graph + sum(views) + layer
        total = total + layer
    step = found.step(nodes, GRAPH, batch, rng())
    assert torch.allclose(step.nodes, total, atol=1e-4)
    assert float(step.losses["contrast"].detach()) == pytest.approx(float(loss.detach()), rel=1e-4)
    assert gradients_agree(step.losses["contrast"], loss, nodes, of_users, of_items)


def test_dccf_divides_item_terms_by_their_own_number_or_by_that_of_users() -> None:
    graph = graph_of(np.array([[user, item] for user in range(1, 7) for item in range(1, 4)]), 6, 4)
    nodes, batch = nodes_of(graph), batch_of(graph, 18)
    losses = {
        own: float(
            backbone("dccf", graph, dim=8, shared_count=own).step(nodes, graph, batch, rng()).losses["contrast"].detach()
        )
        for own in (False, True)
    }
    assert losses[True] < losses[False]  # 3 items, 6 users


# AutoCF ------------------------------------------------------------------------------------------------------------------


def test_autocf_hides_what_is_around_its_seeds_and_asks_for_pairs_without_repeats() -> None:
    graph = random_graph(60, 40, 0.05, 8)
    matrix, config = graph.operator("symmetric", CPU), backbone("autocf", graph, seeds=3).config  # type: ignore[attr-defined]
    seeds = torch.tensor([0, 5, 70])
    views = hidden(matrix, seeds, config, rng())
    near = dense(graph, "ones")[seeds].sum(0) > 0
    near[seeds] = True
    ends = torch.cat([views.encoder.row, views.encoder.column.long()])
    assert not bool(near[ends].any())
    left = dense(graph, "ones") * ~near * ~near[:, None]
    degree = left.sum(1).clamp_min(1)
    wanted = left / degree.sqrt() / degree.sqrt()[:, None]
    nodes = nodes_of(graph)
    assert torch.allclose(views.encoder.times(nodes.detach()), wanted @ nodes, atol=1e-5)
    row, column = views.decoder.row, views.decoder.column.long()
    keys = row * graph.num_nodes + column
    assert len(keys) == len(keys.unique())
    assert int((row == column).sum()) == graph.num_nodes
    asked = torch.zeros_like(left, dtype=torch.bool)
    asked[row, column] = True
    assert torch.equal(asked, asked.T)
    assert bool(asked[left > 0].all())


def test_autocf_asks_for_as_many_pairs_as_there_are_edges_of_what_it_hid_and_some_others() -> None:
    graph = random_graph(60, 40, 0.05, 8)
    matrix, seeds = graph.operator("symmetric", CPU), torch.arange(0, 100, 4)
    near = dense(graph, "ones")[seeds].sum(0) > 0
    near[seeds] = True
    for extra in (0.0, 0.2):
        views = hidden(matrix, seeds, backbone("autocf", graph, extra=extra).config, rng())  # type: ignore[attr-defined]
        asked, kept = (torch.zeros(100, 100, dtype=torch.bool) for _ in range(2))
        for mask, own in ((asked, views.decoder), (kept, views.encoder)):
            mask[own.row, own.column.long()] = True
        drawn = asked & ~kept & ~torch.eye(100, dtype=torch.bool)
        edges = len(matrix.value)
        assert 1.7 * edges < int(drawn.sum()) <= 2 * edges  # few are drawn twice
        others = drawn.any(dim=1) & ~near
        assert int(others.sum()) <= extra * 100
        assert bool(others.any()) == (extra > 0)
        assert bool((drawn.any(dim=1) & near & ~torch.isin(torch.arange(100), seeds)).any())  # neighbours are in it


def test_autocf_hides_what_is_around_nodes_that_are_most_like_it_and_wants_them_more_so() -> None:
    found, nodes, batch = backbone("autocf", GRAPH, dim=8, seeds=4), nodes_of(GRAPH), batch_of(GRAPH, 20, 0)
    step = found.step(nodes, GRAPH, batch, rng(6))
    scores = found.seed_scores(GRAPH.operator("ones", CPU), nodes, rng(6))  # type: ignore[attr-defined]
    assert float(step.losses["infomax"].detach()) == pytest.approx(-float(scores.detach().mean()), rel=1e-5)
    assert sorted(found.seeds.tolist()) == sorted(scores.detach().argsort(descending=True)[:4].tolist())  # type: ignore[attr-defined]
    assert found.weights == {"prediction": 1.0, "partition": 1.0, "spread": 5.0, "infomax": 1.0}


def test_autocf_sums_the_layers_of_what_is_left_and_attends_from_the_last_along_what_it_asks_for() -> None:
    found, nodes = backbone("autocf", GRAPH, dim=8, depth=2, seeds=1, hidden_hops=1), nodes_of(GRAPH)
    step = found.step(nodes, GRAPH, batch_of(GRAPH, 20, 0), rng())
    views, whole = found._views[0], GRAPH.operator("symmetric", CPU)  # type: ignore[attr-defined]
    assert 0 < len(views.encoder.column) < len(whole.column)
    for got, encoder, decoder in ((step.nodes, views.encoder, views.decoder), (found.embed(nodes, GRAPH), whole, whole)):
        matrix = torch.zeros(23, 23)
        matrix[encoder.row, encoder.column.long()] = encoder.value
        last = matrix @ (matrix @ nodes)
        weights = (last @ each for each in (found.query, found.key, found.value))  # type: ignore[attr-defined]
        wanted = nodes + matrix @ nodes + last + attention(*weights, decoder, 4)  # type: ignore[call-arg,misc]
        assert torch.allclose(got, wanted, atol=1e-5)


def test_autocf_says_once_that_its_seeds_hide_nearly_all(caplog: pytest.LogCaptureFixture) -> None:
    graph = random_graph(60, 40, 0.05, 8)
    for seeds, told in ((1, 0), (40, 1)):
        found, drawn = backbone("autocf", graph, dim=8, seeds=seeds, refresh=1), rng()
        for _ in range(3):
            found.step(nodes_of(graph), graph, batch_of(graph, negatives=0), drawn)
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == told
    assert re.match(r"AutoCF: its 40 seeds .* hide all but \d\.\d % of this graph's edges.*fewer \(model\.seeds\)", said[0])


def test_autocf_s_attention_is_a_softmax_over_the_entries_of_a_row_for_each_head() -> None:
    pattern = GRAPH.operator("self_loops", CPU)
    query, key, value = (nodes_of(GRAPH, 8, seed) for seed in range(3))
    allowed = dense(GRAPH, "ones") + torch.eye(23)
    parts = []
    for own, other, mixed in zip(*(each.chunk(2, dim=1) for each in (query, key, value)), strict=True):
        weights = (own @ other.T).clamp(-10, 10).exp() * allowed
        parts.append(weights / (weights.sum(1, keepdim=True) + 1e-8) @ mixed)
    wanted = torch.cat(parts, dim=1)
    found = attention(query, key, value, pattern, 2)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert gradients_agree(found, wanted, query, key, value)
    ones = attention(query, key, torch.ones(23, 8), pattern, 4)
    assert torch.allclose(ones, torch.ones(23, 8), atol=1e-5)


def test_autocf_s_losses_by_plain_arithmetic_and_its_draws_every_few_steps() -> None:
    found, nodes, batch = backbone("autocf", GRAPH, dim=8, seeds=2, refresh=3), nodes_of(GRAPH), batch_of(GRAPH, 20, 0)
    assert batch.negative.shape == (20, 0)
    drawn, seen = rng(), []
    for turn in range(4):
        step = found.step(nodes, GRAPH, batch, drawn)
        assert (float(step.losses["infomax"].detach()) != 0) == (turn % 3 == 0)
        seen.append(found._views[0])  # type: ignore[attr-defined]
    assert seen[0] is seen[1] is seen[2] is not seen[3]
    users, items = step.nodes[:14], step.nodes[14:]
    own, chosen = step.nodes[batch.user], step.nodes[batch.item]
    assert torch.allclose(step.losses["prediction"], -(own * chosen).sum(1).mean())
    assert torch.allclose(step.losses["partition"], torch.logsumexp(own @ items.T, 1).mean(), atol=1e-5)
    spread = torch.logsumexp(step.nodes[batch.user.unique()] @ users.T, 1).mean()
    spread = spread + torch.logsumexp(step.nodes[batch.item.unique()] @ items.T, 1).mean()
    assert torch.allclose(step.losses["spread"], spread, atol=1e-5)


def test_autocf_s_seed_scores_are_those_of_its_two_sums() -> None:
    found, nodes, ones = backbone("autocf", GRAPH, dim=8), nodes_of(GRAPH), dense(GRAPH, "ones")
    degree = ones.sum(1, keepdim=True)
    first = ones @ nodes - nodes
    second = (ones @ first - first) - degree * nodes
    count = degree + (ones @ degree - degree) - degree + 1e-8
    plain = torch.log(torch.sigmoid(F.cosine_similarity((first + second) / count, nodes)))
    noise = -torch.log(-torch.log(torch.rand(23, generator=rng(6)).clamp_min(1e-8)))
    scores = found.seed_scores(GRAPH.operator("ones", CPU), nodes, rng(6))  # type: ignore[attr-defined]
    assert torch.allclose(scores, plain + noise, atol=1e-4)
    assert math.isfinite(float(scores.detach().min()))
