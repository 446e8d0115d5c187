"""Methods on a graph: their losses by hand, what they leave alone, and a planted world in which each must be of use."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from planted_strands import Strands, chosen, model_of, parts_of, strands, trained
from small_worlds import graph_of, random_graph, random_text
from torch import nn

from braidrec.collaborative import TASK
from braidrec.collaborative.contracts import Parts, Propagated, Widths
from braidrec.collaborative.methods.darec import SPEC as DAREC
from braidrec.collaborative.methods.darec import DaRec, DaRecConfig
from braidrec.collaborative.methods.kar import KAR, KARConfig
from braidrec.collaborative.methods.rlmrec import ConConfig, Contrastive, GenConfig, Generative
from braidrec.collaborative.node_text import NEAR, NodeText, TextConfig, projector
from braidrec.collaborative.pairs import PairBatch
from braidrec.errors import ConfigError
from braidrec.layers.text import TextTable
from braidrec.objectives.structure import global_structure, kmeans, match, orthogonality, uniformity
from braidrec.training.config import TrainingConfig

METHODS = ("darec", "rlmrec-con", "rlmrec-gen", "kar")
NODES = Widths(8, 8)


def small_parts(width: int = 6) -> Parts:
    graph = random_graph()
    return Parts(15, graph, TextTable(random_text(width=width)), num_users=graph.num_users, text_width=width)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def world() -> Strands:
    return strands()


def batch_of(parts: Parts, count: int = 6, negatives: int = 1) -> PairBatch:
    user = torch.from_numpy(parts.graph.user[:count].astype(np.int64)) - 1
    item = torch.from_numpy(parts.graph.item[:count].astype(np.int64)) - 1 + parts.num_users
    negative = torch.arange(count * negatives).reshape(count, negatives) % parts.num_items + parts.num_users
    return PairBatch(user, item, negative)


def nodes_of(parts: Parts, seed: int = 3) -> torch.Tensor:
    return torch.randn(parts.graph.num_nodes, 8, generator=rng(seed)).requires_grad_()


# -- text of nodes --------------------------------------------------------------------------------------------------------


def test_text_is_centred_by_kind_and_at_length_one() -> None:
    parts = small_parts()
    text = NodeText(TextConfig(width=None), parts)
    given = parts.node_text()[parts.num_users :]
    torch.testing.assert_close(text.items, F.normalize(given - given.mean(dim=0)))
    known = torch.from_numpy(parts.graph.user_counts[1:] > 0)
    assert not bool(known.all())  # one has nothing, so no text
    torch.testing.assert_close(text.users.norm(dim=1), known.float())
    torch.testing.assert_close(text.of_items(given[3:5]), text.items[3:5])
    silent = torch.stack([torch.zeros(text.width), 1.0001 * given.mean(dim=0)])  # of words that nobody knows
    assert not text.of_items(silent).any()


def test_reduced_text_keeps_what_its_columns_can() -> None:
    parts = small_parts(width=12)
    whole, reduced = (NodeText(TextConfig(width=width), parts) for width in (None, 4))
    assert reduced.width == 4
    _, kept, turned = torch.linalg.svd(whole.known, full_matrices=False)
    assert reduced.known.square().sum().item() == pytest.approx(kept[:4].square().sum().item(), rel=1e-5)
    torch.testing.assert_close(reduced.known.T @ reduced.known, torch.diag(kept[:4].square()), atol=1e-4, rtol=1e-4)
    assert reduced.directions is not None
    largest = reduced.directions.gather(0, reduced.directions.abs().argmax(dim=0, keepdim=True))
    assert bool((largest > 0).all())  # so that a direction's sign is no accident
    torch.testing.assert_close((reduced.directions.T @ turned[:4].T).abs(), torch.eye(4), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(reduced.of_items(parts.node_text()[-2:]), reduced.items[-2:])


def test_an_item_without_text_has_no_direction() -> None:
    vectors = random_text()
    vectors[4] = vectors[[1, 2, 3, *range(5, 16)]].mean(dim=0)  # the mean of the others
    graph = random_graph()
    text = NodeText(TextConfig(width=None), Parts(15, graph, TextTable(vectors), num_users=40))
    assert not text.items[3].any()


def test_a_user_of_whom_training_knows_nothing_has_no_direction_and_no_say_in_the_mean() -> None:
    """Such as one who liked nothing that they met: their items' mean is a sum of nothing."""
    pairs = np.array([[user, 1 + (user + at) % 15] for user in range(1, 41) for at in range(3)])
    vectors = random_text() + 1  # a common part, less which zeros would be a direction like any other
    lone, others = (
        NodeText(TextConfig(width=None), Parts(15, graph, TextTable(vectors), num_users=graph.num_users))
        for graph in (graph_of(pairs, 42, 15), graph_of(pairs, 40, 15))
    )
    assert not lone.users[40:].any()
    assert torch.equal(lone.users[:40], others.users)
    assert torch.equal(lone.items, others.items)
    reduced = NodeText(TextConfig(width=3), Parts(15, graph_of(pairs, 42, 15), TextTable(vectors), num_users=42))
    assert not reduced.users[40:].any()


def test_an_item_whose_text_the_encoder_knows_nothing_of_has_no_direction() -> None:
    vectors = random_text() + 1
    vectors[4] = 0
    text = NodeText(TextConfig(width=None), Parts(15, random_graph(), TextTable(vectors), num_users=40))
    given = vectors[[1, 2, 3, *range(5, 16)]]
    assert not text.items[3].any()
    torch.testing.assert_close(text.items[[0, 1, 2, *range(4, 15)]], F.normalize(given - given.mean(dim=0)))
    assert not text.of_items(torch.zeros(1, 6)).any()
    torch.testing.assert_close(text.of_items(given[:2]), text.items[:2])


def test_text_that_is_read_as_it_is() -> None:
    parts = small_parts()
    assert torch.equal(NodeText(TextConfig(centred=False, width=None), parts).known, parts.node_text())


def test_new_items_are_what_the_nearest_that_training_met_are() -> None:
    parts = small_parts()
    text = NodeText(TextConfig(), parts)
    keys, items = torch.eye(15), torch.randn(17, 8)
    text.met[4] = False
    got = text.near(keys[[2, 4]], keys, items, temperature=1e-3)
    torch.testing.assert_close(got[0], items[2])
    torch.testing.assert_close(got[1], items[:15][text.met].mean(dim=0))  # its own is not asked, all others are as far
    assert NEAR >= 14
    own = NodeText(TextConfig(), parts).near(torch.eye(15)[:1] * 7, torch.eye(15), items)  # cosines of 1 and 0, over .1
    torch.testing.assert_close(own[0], (np.exp(10) * items[0] + items[1:15].sum(dim=0)) / (np.exp(10) + 14))


# -- DaRec ----------------------------------------------------------------------------------------------------------------


def darec(parts: Parts, **values: Any) -> DaRec:
    torch.manual_seed(5)
    return DaRec(DaRecConfig(**{"width": 4, "clusters": 3, **values}), parts, NODES)


def test_losses_are_those_of_the_four_parts() -> None:
    parts = small_parts()
    method, nodes = darec(parts), nodes_of(parts)
    got = method.losses(Propagated(nodes), batch_of(parts), None, rng())
    text = method.text.known
    parts_of_sides = {name: one(text if name.startswith("text_") else nodes) for name, one in method.maps.items()}
    shared, specific, text_shared, text_specific = (
        parts_of_sides[name] for name in ("shared", "specific", "text_shared", "text_specific")
    )
    torch.testing.assert_close(
        got["orthogonality"], orthogonality(specific, shared) + orthogonality(text_specific, text_shared)
    )
    torch.testing.assert_close(got["uniformity"], uniformity(specific) + uniformity(text_specific))
    torch.testing.assert_close(got["global"], global_structure(shared, text_shared))
    literal = darec(parts, literal=True).losses(Propagated(nodes), batch_of(parts), None, rng())
    torch.testing.assert_close(literal["global"], (shared @ shared.T - text_shared @ text_shared.T).square().sum())
    assert method.weights == dict.fromkeys(got, 0.1)


@pytest.mark.parametrize("literal", [False, True])
def test_the_local_term_is_of_matched_centres_of_each_side_s_own_clusters(literal: bool) -> None:
    """At length 1 first, unless equation 5 is as printed."""
    parts = small_parts()
    method, nodes, again = darec(parts, literal=literal), nodes_of(parts), rng()
    got = method.losses(Propagated(nodes), batch_of(parts), None, rng())["local"]
    rows = torch.randperm(parts.graph.num_nodes, generator=again)
    own, text = method.maps["shared"](nodes[rows]), method.maps["text_shared"](method.text.known[rows])
    middles = []
    for side in (own, text) if literal else (F.normalize(own), F.normalize(text)):
        labels = kmeans(side, 3, again)
        middles.append(torch.stack([side[labels == at].mean(dim=0) for at in range(3)]))
    first, second = (torch.from_numpy(order) for order in match(torch.cdist(*middles).detach().numpy().astype(np.float64)))
    cosines = F.cosine_similarity(middles[0][first][:, None], middles[1][second][None], dim=2)
    apart = cosines.square().sum() - cosines.diagonal().square().sum()
    wanted = (cosines.diagonal() - 1).square().mean() + apart / 6
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    sides = [nodes, *method.maps["text_shared"].parameters()]
    for found, expected in zip(*(torch.autograd.grad(each, sides, retain_graph=True) for each in (got, wanted)), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_the_uniformity_may_be_of_some_of_a_step_s_rows() -> None:
    parts = small_parts()
    method, nodes = darec(parts, uniformity_rows=7), nodes_of(parts)
    rows = torch.randperm(parts.graph.num_nodes, generator=rng())[:7]
    got = method.losses(Propagated(nodes), batch_of(parts), None, rng())["uniformity"]
    own, text = method.maps["specific"](nodes[rows]), method.maps["text_specific"](method.text.known[rows])
    torch.testing.assert_close(got, uniformity(own) + uniformity(text))


def test_the_four_parts_are_made_by_networks_of_their_own_as_rlmrec_has_them() -> None:
    """1,536 -> 784 -> 32: LeakyReLU of slope .01, weights of Xavier's range, biases as a linear layer draws them."""
    torch.manual_seed(0)
    first, between, last = projector(1536, 32)
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    assert [tuple(each.weight.shape) for each in (first, last)] == [(784, 1536), (32, 784)]
    assert between(torch.tensor([-2.0, 3.0])).tolist() == pytest.approx([-0.02, 3.0])
    for each, size in ((first, 1536 + 784), (last, 784 + 32)):
        assert float(each.weight.detach().abs().max()) == pytest.approx((6 / size) ** 0.5, rel=0.01)
        assert 0 < float(each.bias.detach().abs().max()) <= each.in_features**-0.5
    maps = darec(small_parts()).maps
    assert list(maps) == ["shared", "specific", "text_shared", "text_specific"]
    assert [tuple(one[0].weight.shape) for one in maps.values()] == [(6, 8), (6, 8), (5, 6), (5, 6)]  # type: ignore[index]
    assert len({id(each) for each in maps.parameters()}) == 16


def test_every_term_reaches_the_nodes_and_none_the_text() -> None:
    parts = small_parts()
    method, nodes = darec(parts), nodes_of(parts)
    got = method.losses(Propagated(nodes), batch_of(parts), None, rng())
    for name, loss in got.items():
        [grad] = torch.autograd.grad(loss, nodes, retain_graph=True)
        assert grad.abs().max() > 0, name
        assert torch.isfinite(grad).all(), name
    assert not method.text.known.requires_grad
    assert not any("nodes" in name for name in method.state_dict())


def test_a_sample_of_rows_teaches_those_rows_alone() -> None:
    parts = small_parts()
    method, nodes = darec(parts, sample=10), nodes_of(parts)
    total = torch.stack([*method.losses(Propagated(nodes), batch_of(parts), None, rng()).values()]).sum()
    [grad] = torch.autograd.grad(total, nodes)
    assert int((grad.abs().sum(dim=1) > 0).sum()) == 10


def test_both_sides_are_of_the_same_rows_drawn_anew_in_every_step() -> None:
    parts = small_parts()
    method, nodes, drawn = darec(parts, sample=10), nodes_of(parts), rng()
    seen = []
    for _ in range(2):
        rows = torch.randperm(parts.graph.num_nodes, generator=torch.Generator().set_state(drawn.get_state()))[:10]
        got = method.losses(Propagated(nodes), batch_of(parts), None, drawn)
        own, text = method.maps["shared"](nodes[rows]), method.maps["text_shared"](method.text.known[rows])
        torch.testing.assert_close(got["global"], global_structure(own, text))
        seen.append(rows.tolist())
    assert seen[0] != seen[1]


@pytest.mark.parametrize("term", ["orthogonality", "uniformity", "global", "local"])
def test_a_term_that_is_left_out_takes_nothing_else_with_it(term: str) -> None:
    parts = small_parts()
    nodes, whole = nodes_of(parts), darec(parts)
    left = tuple(each for each in whole.config.terms if each != term)
    method = darec(parts, terms=left)
    assert method.weights.keys() == set(left)
    everything = whole.losses(Propagated(nodes), batch_of(parts), None, rng())
    without = method.losses(Propagated(nodes), batch_of(parts), None, rng())
    for name in left:
        assert torch.equal(without[name], everything[name])


def test_more_clusters_than_rows_are_capped() -> None:
    parts = small_parts()
    loss = darec(parts, clusters=100, sample=8).losses(Propagated(nodes_of(parts)), batch_of(parts), None, rng())
    assert all(torch.isfinite(each) for each in loss.values())


# -- RLMRec ---------------------------------------------------------------------------------------------------------------


def nce(query: torch.Tensor, pool: torch.Tensor, own: torch.Tensor, heat: float) -> torch.Tensor:
    return F.cross_entropy(F.cosine_similarity(query[:, None], pool[None], dim=2) / heat, own)


@pytest.mark.parametrize("negatives", [0, 1, 2])
def test_con_is_the_contrast_that_their_code_has(negatives: int) -> None:
    parts = small_parts()
    method, nodes, batch = Contrastive(ConConfig(), parts, NODES), nodes_of(parts), batch_of(parts, negatives=negatives)
    [loss] = method.losses(Propagated(nodes), batch, None, rng()).values()
    made = method.project(method.text.known)
    expected = nce(nodes[batch.user], made[: parts.num_users], batch.user, 0.2)
    for items in (batch.item, *batch.negative.T):
        expected = expected + nce(nodes[items], made[items], torch.arange(len(items)), 0.2)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


def test_gen_hides_nodes_behind_one_token_and_asks_for_their_text() -> None:
    parts = small_parts()
    method, nodes = Generative(GenConfig(masked=0.2), parts, NODES), nodes_of(parts)
    with torch.no_grad():
        method.token.fill_(7)
    given, hidden = method.inputs(nodes, rng())
    assert hidden is not None
    assert len(hidden) == len(hidden.unique()) == int(0.2 * len(nodes))
    assert (given[hidden] == 7).all()
    others = torch.ones(len(nodes), dtype=torch.bool)
    others[hidden] = False
    assert torch.equal(given[others], nodes[others])
    [loss] = method.losses(Propagated(given), batch_of(parts), hidden, rng()).values()
    expected = nce(method.read(given[hidden]), method.text.known[hidden], torch.arange(len(hidden)), 0.5)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    [grad] = torch.autograd.grad(loss, method.token)
    assert grad.abs().max() > 0
    _, one = Generative(GenConfig(masked=1e-6), parts, NODES).inputs(nodes, rng())
    assert one is not None
    assert len(one) == 1


def test_gen_hides_nothing_once_training_is_over_and_its_token_starts_at_nothing(world: Strands) -> None:
    model = model_of(parts_of(world), "rlmrec-gen").eval()
    assert not model.enhancer.token.any()  # type: ignore[union-attr,operator]
    with torch.no_grad():
        wanted = model.backbone.embed(model.nodes, model.graph)  # type: ignore[operator]
    assert torch.equal(model.vectors.items[1:], wanted[model.graph.num_users :])
    assert torch.equal(model.vectors.users[1:], wanted[: model.graph.num_users])


@pytest.mark.parametrize("negatives", [0, 1])
def test_text_stays_as_it_is_and_what_a_step_hides_need_not_be_in_its_batch(negatives: int) -> None:
    parts = small_parts()
    batch, nodes = batch_of(parts, negatives=negatives), nodes_of(parts)
    others = torch.tensor(sorted({*range(parts.graph.num_nodes)} - {*batch.user.tolist(), *batch.item.tolist()})[-4:])
    for method in (
        Contrastive(ConConfig(), parts, NODES),
        Generative(GenConfig(), parts, NODES),
        KAR(KARConfig(), parts, NODES),
    ):
        given, _ = method.inputs(nodes, rng())
        losses = method.losses(Propagated(given), batch, others, rng())
        total = torch.stack([given.square().sum(), *losses.values()]).sum()
        grads = torch.autograd.grad(total, [nodes, *method.parameters()], allow_unused=True)
        assert all(torch.isfinite(each).all() for each in grads if each is not None)
        assert sum(float(each.abs().sum()) for each in grads[1:] if each is not None) > 0
        assert not method.text.known.requires_grad
        assert not any(len(each) == parts.graph.num_nodes for each in method.parameters())


def test_without_weight_nothing_says_how_an_item_is_known_by_text() -> None:
    """The networks between text and nodes are then as they were drawn."""
    parts = small_parts()
    for weight in (0.0, 0.1):
        assert Contrastive(ConConfig(weight=weight), parts, NODES).knows_by_text is (weight > 0)
        assert Generative(GenConfig(weight=weight), parts, NODES).knows_by_text is (weight > 0)


# -- KAR ------------------------------------------------------------------------------------------------------------------


def test_the_adaptor_is_a_mean_of_experts_by_its_gate() -> None:
    parts = small_parts()
    method = KAR(KARConfig(shared=1, own=2), parts, NODES)
    text = method.text.items
    share = method.gates[1](text).softmax(dim=1)
    torch.testing.assert_close(share.sum(dim=1), torch.ones(15))
    expected = sum(share[:, at, None] * one(text) for at, one in enumerate((*method.shared, *method.items)))
    torch.testing.assert_close(method.adapted(text, items=True), expected)


def test_what_the_adaptor_says_of_users_and_of_items_joins_their_rows() -> None:
    """Each kind by experts and a gate of its own beside the shared ones; two layers, a ReLU behind each."""
    parts = small_parts()
    nodes, users = nodes_of(parts), parts.num_users
    for fuse in ("concat", "sum"):
        method, said = KAR(KARConfig(shared=1, own=2, hidden=5, fuse=fuse), parts, NODES), []
        for at, (text, own) in enumerate(
            ((method.text.known[:users], method.users), (method.text.known[users:], method.items))
        ):
            share = F.softmax(F.linear(text, method.gates[at].weight, method.gates[at].bias), dim=1)  # type: ignore[arg-type]
            made = []
            for expert in (*method.shared, *own):
                assert [each.out_features for each in expert if isinstance(each, nn.Linear)] == [5, 8]
                made.append(expert[2](expert[0](text).clamp_min(0)).clamp_min(0))
            said.append((share[:, :, None] * torch.stack(made, dim=1)).sum(dim=1))
        joined = torch.cat(said)
        if method.fuse is not None:
            wanted = torch.cat([nodes, joined], dim=1) @ method.fuse.weight.T + method.fuse.bias
        else:
            wanted = nodes + joined
        torch.testing.assert_close(method.inputs(nodes, rng())[0], wanted)


def test_the_adaptor_is_there_in_training_and_in_answers_alike(world: Strands) -> None:
    model = model_of(parts_of(world), "kar").eval()
    with torch.no_grad():
        given = model.enhancer.inputs(model.nodes, rng())[0]  # type: ignore[union-attr,operator]
        wanted = model.backbone.embed(given, model.graph)  # type: ignore[operator]
    assert torch.equal(model.vectors.items[1:], wanted[model.graph.num_users :])
    assert not torch.equal(given, model.nodes)


def test_an_adaptor_that_says_nothing_leaves_the_nodes() -> None:
    parts = small_parts()
    nodes = nodes_of(parts)
    for fuse in ("concat", "sum"):
        method = KAR(KARConfig(fuse=fuse), parts, NODES)
        with torch.no_grad():
            for expert in (*method.shared, *method.users, *method.items):
                for each in expert[2].parameters():
                    each.zero_()
            if method.fuse is not None:
                method.fuse.weight.copy_(torch.eye(8, 16))
                method.fuse.bias.zero_()
        torch.testing.assert_close(method.inputs(nodes, rng())[0], nodes)


# -- beside a backbone ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "backbone"), [*((method, "lightgcn") for method in METHODS[1:3]), *(("darec", each) for each in TASK.backbones)]
)
def test_without_weight_it_is_the_backbone_to_the_bit(world: Strands, method: str, backbone: str) -> None:
    plain, weightless = (
        trained(model_of(parts_of(world), name, backbone, **values), 1)
        for name, values in ((None, {}), (method, {"weight": 0.0}))
    )
    assert torch.equal(plain.nodes, weightless.nodes)
    assert torch.equal(plain.vectors.items, weightless.vectors.items)


@pytest.mark.parametrize("backbone", TASK.backbones)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_keeps_every_loss_of_the_backbone_and_half_precision_is_no_trouble(
    world: Strands, method: str, backbone: str
) -> None:
    torch.manual_seed(0)
    model = model_of(parts_of(world), method, backbone)
    assert model.enhancer is not None
    own, added = model.backbone.weights, model.enhancer.weights
    assert not own.keys() & added.keys()  # type: ignore[operator]
    assert model.weights.items() >= own.items()  # type: ignore[union-attr]
    batch = next(iter(model.batches(model.graph, TrainingConfig(batch_size=64), 0)))
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.train().step(batch).losses()
    assert losses.keys() == model.weights.keys()
    torch.stack([weight * losses[name] for name, weight in model.weights.items()]).sum().backward()
    assert model.nodes.grad is not None
    assert torch.isfinite(model.nodes.grad).all()


def test_a_loss_of_a_method_does_not_take_the_place_of_a_backbone_s(world: Strands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DaRec, "weights", {"contrast": 1.0})
    with pytest.raises(ConfigError, match=r"SGL and DaRec both have a loss 'contrast'.*contrast, l2, prediction"):
        model_of(parts_of(world), "darec", "sgl")


@pytest.mark.parametrize("method", METHODS)
def test_equal_seeds_draw_alike(world: Strands, method: str) -> None:
    state = torch.get_rng_state()
    first, second = (trained(model_of(parts_of(world, seed=2), method), 1) for _ in range(2))
    assert torch.equal(first.vectors.items, second.vectors.items)
    torch.set_rng_state(state)


@pytest.mark.parametrize("method", METHODS)
def test_new_items_are_near_the_known_ones_of_their_group(world: Strands, method: str) -> None:
    model = trained(model_of(parts_of(world), method), 20)
    kept = model.kept()
    twins = world.items[1:41]
    kept.add(twins)
    assert kept.num_rows == 441
    new, known = F.normalize(kept.items[401:]), F.normalize(kept.items[1:401])
    group = world.group[-400:]
    like, same = (new @ known.T).detach().numpy(), group[:40, None] == group[None]
    assert like[same].mean() > like[~same].mean() + 0.1


def test_what_is_kept_can_be_looked_at_and_answers_without_text_or_graph(world: Strands) -> None:
    kept = trained(model_of(parts_of(world), "darec"), 1).kept()
    spaces = kept.spaces()
    assert list(spaces) == ["nodes", "shared", "specific", "text_shared", "text_specific"]
    assert all(vectors.shape == (1000, 32) for vectors in spaces.values())
    assert torch.equal(spaces["nodes"][600:], kept.items[1:])
    assert list(kept.item_vectors()) == ["nodes"]  # by which items are alike
    saved = kept.state_dict()
    assert not any(len(tensor.shape) == 2 and tensor.shape[1] == 128 and len(tensor) > 900 for tensor in saved.values())
    plain = trained(model_of(parts_of(world)), 1).kept()
    assert list(plain.spaces()) == ["nodes"]


@pytest.mark.slow
def test_structure_shared_with_text_helps_where_users_have_little_and_its_ablation_does_not() -> None:
    """Over three worlds; and what is called shared tells the planted group better than what is called specific, on both sides.

    The uniformity stays out: it drives the specific parts of neighbours apart, and costs more here than the others bring.
    """
    gains, told = {"structure": [], "without": []}, []
    terms = {"structure": ["orthogonality", "global", "local"], "without": ["orthogonality"]}
    for seed in range(3):
        world = strands(seed)
        plain = chosen(world, None, seed)[1]
        for name, left in terms.items():
            model, recall = chosen(world, "darec", seed, weight=3.0, terms=left)
            gains[name].append(recall - plain)
            if name == "structure":
                made = model.kept().enhancer.spaces()
                told.append({part: _tells(vectors, world.group) for part, vectors in made.items()})
    assert np.mean(gains["structure"]) > 0.015
    assert np.mean(gains["without"]) < np.mean(gains["structure"]) / 2
    means = {name: np.mean([each[name] for each in told]) for name in told[0]}
    assert means["shared"] > means["specific"]
    assert means["text_shared"] > means["text_specific"] + 0.1


def _tells(vectors: torch.Tensor, group: np.ndarray) -> float:
    """Accuracy of a linear probe of the group, on a half of the nodes that it has not seen."""
    from sklearn.linear_model import LogisticRegression

    rows = F.normalize(vectors.detach()).numpy()
    return float(LogisticRegression(max_iter=500).fit(rows[::2], group[::2]).score(rows[1::2], group[1::2]))


def test_presets_are_the_papers_but_for_ours() -> None:
    values = {preset: DaRecConfig.model_validate(DAREC.settings(preset)) for preset in ("ours", "paper", "authors")}
    for preset in ("paper", "authors"):
        assert (values[preset].weight, values[preset].sample, len(values[preset].terms)) == (0.1, 4096, 4)
    assert "uniformity" not in values["ours"].terms
