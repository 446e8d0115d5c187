"""NetMF and ProNE: against their dense formulas, and that whoever has what a node has gets the node's vector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import iv
from small_worlds import fitted as fitted_by
from small_worlds import graph_of, random_graph, recall, two_causes

from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.contracts import MatrixModel
from braidrec.collaborative.graph import Graph
from braidrec.collaborative.models import netmf
from braidrec.collaborative.models.netmf import NetMFConfig, low_rank
from braidrec.collaborative.models.prone import ProNEConfig, factorised, spread
from braidrec.collaborative.scoring import training_graph
from braidrec.errors import ConfigError

SQUARE = graph_of(np.array([[1, 1], [1, 2], [2, 2]]), 2, 2)  # a path of four nodes: i1 - u1 - i2 - u2
NAMES = ("netmf", "prone")
AUTHORS: Mapping[str, Mapping[str, Any]] = {
    "netmf": {"factors": 128, "window": 10, "by": "vertex", "popularity": 0.0, "rank": None},
    "prone": {"mu": 0.2, "theta": 0.5, "popularity": 0.0},
}


def fitted(name: str, graph: Graph, **values: Any) -> MatrixModel:
    return fitted_by(name, graph, **{**AUTHORS.get(name, {}), **values})


def adjacency(graph: Graph) -> np.ndarray:
    return graph.adjacency("ones").to_dense().numpy().astype(np.float64)


def netmf_logs(graph: Graph, window: int, negatives: float = 1.0) -> np.ndarray:
    """Y by its formula."""
    edges = adjacency(graph)
    degrees = edges.sum(1)
    inverse = np.diag(np.where(degrees > 0, 1 / np.maximum(degrees, 1), 0))
    walks = sum(np.linalg.matrix_power(inverse @ edges, turn) for turn in range(1, window + 1))
    return np.log(np.maximum(edges.sum() / (negatives * window) * walks @ inverse, 1))


def users_of(graph: Graph) -> Baskets:
    return Baskets.of_rows(graph.matrix[1:])


# NetMF -------------------------------------------------------------------------------------------------------------------


def test_netmf_by_hand() -> None:
    """T = 1, b = 1 on the path: M_ij = 6 / (d_i d_j) on edges."""
    wanted = np.zeros((4, 4))  # u1, u2, i1, i2
    wanted[0, 2] = wanted[2, 0] = np.log(6 / (2 * 1))
    wanted[0, 3] = wanted[3, 0] = np.log(6 / (2 * 2))
    wanted[1, 3] = wanted[3, 1] = np.log(6 / (1 * 2))
    assert np.allclose(netmf_logs(SQUARE, 1), wanted)
    found = fitted("netmf", SQUARE, window=1, by="context", factors=4).scores(users_of(SQUARE))[:, 1:]
    assert np.allclose(found.numpy(), wanted[:2, 2:], atol=1e-5)


@pytest.mark.parametrize("window", [1, 2, 10])
@pytest.mark.parametrize("negatives", [1.0, 3.0])
def test_contexts_of_full_width_give_the_logarithms_of_the_walks_themselves(window: int, negatives: float) -> None:
    graph = random_graph(20, 9, 0.3)
    settings: dict[str, Any] = {"window": window, "negatives": negatives, "factors": 29, "by": "context"}
    found = fitted("netmf", graph, **settings).scores(users_of(graph))[:, 1:]
    assert np.allclose(found.numpy(), netmf_logs(graph, window, negatives)[:20, 20:], atol=1e-4)


def test_vertices_are_what_the_decomposition_gives() -> None:
    graph = random_graph(20, 9, 0.3)
    values, vectors = np.linalg.eigh(netmf_logs(graph, 10))
    first = np.argsort(-np.abs(values))[:5]
    vertices = vectors[:, first] * np.abs(values[first]) ** 0.5
    model = fitted("netmf", graph, factors=5)
    assert np.allclose(model.scores(users_of(graph))[:, 1:].numpy(), vertices[:20] @ vertices[20:].T, atol=2e-3)
    own = model.item_vectors()["vertices"][1:].numpy()
    assert np.allclose(own @ own.T, vertices[20:] @ vertices[20:].T, atol=2e-3)


def test_low_rank_of_full_rank_is_exact_and_stands_in_where_the_exact_form_does_not_fit() -> None:
    graph = random_graph(20, 9, 0.3)
    settings: dict[str, Any] = {"window": 4, "factors": 6, "by": "context", "popularity": 0.5}
    exact = fitted("netmf", graph, **settings).scores(users_of(graph))
    apart = [
        float((fitted("netmf", graph, rank=rank, **settings).scores(users_of(graph)) - exact).abs().max()) for rank in (3, 9)
    ]
    assert apart[1] < 1e-3 < apart[0]
    small = fitted("netmf", graph, memory_gib=6e-6, **settings)  # 6,442 bytes
    assert "NetMF of rank 9: the exact form holds two matrices of nodes, 6,728 bytes for 29 users and items" in small.remarks[0]
    assert torch.equal(small.scores(users_of(graph)), fitted("netmf", graph, rank=256, **settings).scores(users_of(graph)))
    assert not fitted("netmf", graph, **settings).remarks
    assert low_rank(NetMFConfig(), 15_000) is None
    assert low_rank(NetMFConfig(), 82_000) == 256


def test_more_nodes_than_a_cpu_goes_through_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netmf, "NODES", 28)
    with pytest.raises(
        ConfigError,
        match=r"netmf: 20 users and 9 items are 841 pairs of nodes, each of which it looks at several times; a CPU goes "
        r"through those of 28 nodes at most: take prone",
    ):
        fitted("netmf", random_graph(20, 9, 0.3))


# ProNE -------------------------------------------------------------------------------------------------------------------


def test_what_prone_factorises_by_hand() -> None:
    """On the path: rows of C are (0, 0, 1/2, 1/2), (0, 0, 0, 1), (1, 0, 0, 0), (1/2, 1/2, 0, 0)."""
    reached = np.array([1 + 0.5, 0.5, 0.5, 0.5 + 1]) ** 0.75
    likely = np.log(reached / reached.sum())
    wanted = np.full((4, 4), 0.0)
    chance = {(0, 2): 0.5, (0, 3): 0.5, (1, 3): 1.0, (2, 0): 1.0, (3, 0): 0.5, (3, 1): 0.5}
    for (row, column), value in chance.items():
        wanted[row, column] = np.log(value) - likely[column]
    first, back, found = factorised(SQUARE, 4)
    assert np.allclose(found.numpy(), likely, atol=1e-6)
    left, strength, right = np.linalg.svd(wanted)
    assert np.allclose(first.numpy() @ first.numpy().T, left * strength @ left.T, atol=1e-5)
    assert np.allclose(back.numpy() @ back.numpy().T, right.T / strength @ right, atol=1e-5)


def prone_vectors(graph: Graph, width: int, config: ProNEConfig) -> np.ndarray:
    """The authors' steps on dense matrices, from the same first vectors."""
    first = factorised(graph, width)[0].numpy().astype(np.float64)
    first /= np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-12)
    loops = adjacency(graph) + np.eye(graph.num_nodes)
    step = (1 - config.mu) * np.eye(graph.num_nodes) - loops / loops.sum(1, keepdims=True)
    terms = [first, 0.5 * step @ step @ first - first]
    while len(terms) < config.order:
        terms.append(step @ step @ terms[-1] - 2 * terms[-1] - terms[-2])
    smooth = iv(0, config.theta) * terms[0] - 2 * iv(1, config.theta) * terms[1]
    for turn in range(2, config.order):
        smooth += 2 * (-1) ** turn * iv(turn, config.theta) * terms[turn]
    left, strength, _ = np.linalg.svd(loops @ (first - smooth), full_matrices=False)
    found = left * strength**0.5
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


@pytest.mark.parametrize("order", [2, 3, 10])
def test_prone_is_its_recursion_on_dense_matrices(order: int) -> None:
    graph = random_graph(20, 9, 0.3)
    wanted = prone_vectors(graph, 8, ProNEConfig(order=order, theta=2.0))
    model = fitted("prone", graph, factors=8, order=order, theta=2.0)
    assert np.allclose(model.scores(users_of(graph))[:, 1:].numpy(), wanted[:20] @ wanted[20:].T, atol=1e-3)


def test_first_vectors_of_users_and_items_have_nothing_in_common_and_last_ones_have() -> None:
    graph = random_graph(30, 15, 0.3)
    first = factorised(graph, 8)[0]
    assert not (first[:30] @ first[30:].T).any()
    last = fitted("prone", graph, factors=8).scores(users_of(graph))[:, 1:]
    assert float(last.abs().min(dim=1).values.max()) > 1e-3


@given(order=st.integers(2, 12), theta=st.floats(0.05, 5.0), mu=st.floats(-0.5, 0.9))
def test_the_filter_is_linear_and_nothing_stays_nothing(order: int, theta: float, mu: float) -> None:
    config, graph = ProNEConfig(order=order, theta=theta, mu=mu), SQUARE
    edges = graph.adjacency("ones").to_dense().double()
    share = 1 / (edges.sum(1, keepdim=True) + 1)
    first = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    both = [spread(first[:, at], lambda x: edges @ x, share, config) for at in (0, 1)]
    together = spread(first[:, 0] + 2 * first[:, 1], lambda x: edges @ x, share, config)
    assert torch.allclose(together, both[0] + 2 * both[1], rtol=1e-6, atol=1e-6)
    assert not spread(torch.zeros(4, 3), lambda x: edges.float() @ x, share.float(), config).any()


def test_rows_of_items_that_do_not_fit_are_refused_with_their_bytes() -> None:
    with pytest.raises(
        ConfigError,
        match=r"prone: 21 rows of 128 numbers for each of 15 items, by which people are folded in, take 172,032 bytes, "
        r"memory_gib = 1e-06 allows 1,073; raise model\.backbone\.memory_gib where the machine has it, or take fewer factors",
    ):
        fitted("prone", random_graph(), memory_gib=1e-6)


@pytest.mark.parametrize("values", [{"theta": 2000.0}, {"mu": 1e30}])
def test_a_filter_whose_numbers_have_no_end_is_refused_by_name(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"prone: model\.backbone\.mu = .*, theta = .* make numbers that no float32 holds"):
        fitted("prone", random_graph(), **values)


# both --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_nobody_by_training_is_folded_in_otherwise_than_they_were_trained(name: str) -> None:
    """Vectors of the graph's own nodes, users among them, from what each of them has."""
    graph = random_graph(20, 9, 0.3)
    model: Any = fitted(name, graph, factors=6)
    if name == "netmf":
        values, vectors = np.linalg.eigh(netmf_logs(graph, 10))
        first = np.argsort(-np.abs(values))[:6]
        wanted = vectors[:, first] * np.abs(values[first]) ** 0.5
    else:
        wanted = prone_vectors(graph, 6, ProNEConfig())
    found = model.vectors(users_of(graph)).numpy()
    assert np.allclose(found @ found.T, wanted[:20] @ wanted[:20].T, atol=2e-3)
    again: Any = fitted(name, graph, factors=6)
    assert torch.equal(again.vectors(users_of(graph)), model.vectors(users_of(graph)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("popularity", [0.0, 0.4])
def test_what_each_item_brings_adds_up_to_the_score_without_popularity(name: str, popularity: float) -> None:
    graph = random_graph()
    model = fitted(name, graph, popularity=popularity)
    prior = popularity * math.log(graph.item_counts[6])
    for items in (torch.tensor([1, 4, 9]), torch.tensor([2])):
        shares, text = model.shares(items, 6)
        assert text is None
        score = model.scores(Baskets.of([items.numpy()]))[0, 6] - prior
        assert float(shares.sum()) == pytest.approx(float(score), abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("values", [{}, {"popularity": 0.5}, {"factors": 2}])
def test_who_has_nothing_and_what_nobody_has_are_no_trouble(name: str, values: dict[str, Any]) -> None:
    graph = graph_of(np.array([[1, 1], [1, 2], [2, 2], [2, 3]]), 5, 6)  # users 3 to 5 and items 4 to 6 have nothing
    model = fitted(name, graph, **values)
    people = Baskets.of([np.array(each, np.int32) for each in ((1, 6), (6,), (), (1,))])
    found = model.scores(people)
    assert bool(torch.isfinite(found).all())
    assert torch.allclose(found[0], found[3], atol=1e-6)  # what nobody of training has says nothing of anybody
    assert torch.allclose(found[1], found[2])
    if not values.get("popularity"):
        assert not found[1].any()
        assert not found[:, 4:].any()
    shares = model.shares(torch.tensor([1, 6]), 2)[0]
    assert bool(torch.isfinite(shares).all())
    for each in model.item_vectors().values():
        assert each.shape[0] == 7
        assert not each[4:].any()


@pytest.mark.parametrize("name", NAMES)
def test_popularity_is_added_by_the_logarithm_of_its_count(name: str) -> None:
    graph = random_graph()
    plain, more = fitted(name, graph), fitted(name, graph, popularity=0.4)
    added = (more.scores(users_of(graph)) - plain.scores(users_of(graph)))[:, 1:]
    counts = torch.from_numpy(graph.item_counts[1:]).clamp_min(1).log()
    assert torch.allclose(added, (0.4 * counts).float().expand_as(added), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rank", [None, 32])
def test_they_find_what_popularity_does_not(name: str, rank: int | None) -> None:
    data, _ = two_causes()
    graph = training_graph(data)
    own = {"rank": rank} if rank and name == "netmf" else {}
    assert recall(data, fitted(name, graph, factors=32, **own)) > recall(data, fitted("popularity", graph)) + 0.1
