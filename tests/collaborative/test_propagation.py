"""Sums over neighbours against dense arithmetic, values and gradients, on graphs with lone nodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import graph_of, random_graph

from braidrec.collaborative.graph import Graph
from braidrec.collaborative.propagation import Sparse, layers_of, neighbours, sum_of_powers

CPU = torch.device("cpu")


def whole(graph: Graph, kind: str = "symmetric") -> tuple[Sparse, torch.Tensor]:
    return graph.operator(kind, CPU), graph.adjacency(kind).to_dense()  # type: ignore[arg-type]


def drawn(graph: Graph, dim: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(graph.num_nodes, dim, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def gradient(found: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
    aim = torch.randn(found.shape, generator=torch.Generator().manual_seed(9))
    return torch.autograd.grad((found * aim).sum(), nodes)[0]


def test_three_nodes_by_hand() -> None:
    """One user with two items: A joins them by 1/sqrt(2); sums of two hops are e + A e + A A e."""
    graph = graph_of(np.array([[1, 1], [1, 2]]), 1, 2)
    nodes = torch.tensor([[1.0], [2.0], [4.0]])
    half = 0.5**0.5
    assert neighbours(graph.operator("symmetric", CPU), nodes).squeeze(1).tolist() == pytest.approx([6 * half, half, half])
    # A A e: the user gets half of its own twice, each item half of both
    wanted = [1 + 6 * half + 1, 2 + half + 3, 4 + half + 3]
    assert sum_of_powers(graph.operator("symmetric", CPU), nodes, 2).squeeze(1).tolist() == pytest.approx(wanted)


def test_a_node_without_edges_has_its_own_vector_alone() -> None:
    graph = graph_of(np.array([[1, 1]]), 2, 2)
    nodes = drawn(graph)
    found = sum_of_powers(graph.operator("symmetric", CPU), nodes, 3)
    for lone in (1, 3):
        assert torch.equal(found[lone], nodes[lone])
    assert not neighbours(graph.operator("symmetric", CPU), nodes)[1].any()
    assert torch.allclose(neighbours(graph.operator("self_loops", CPU), nodes)[1], nodes[1])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 4), st.sampled_from(["ones", "symmetric", "self_loops"]))
def test_sums_and_their_gradients_are_those_of_dense_powers(seed: int, depth: int, kind: str) -> None:
    graph = random_graph(7, 5, 0.3, seed) if seed % 7 else graph_of(np.array([[1, 1]]), 7, 5)
    matrix, dense = whole(graph, kind)
    nodes = drawn(graph, seed=seed)
    wanted = sum(torch.linalg.matrix_power(dense, power) @ nodes for power in range(depth + 1))
    found = sum_of_powers(matrix, nodes, depth)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert torch.allclose(gradient(found, nodes), gradient(wanted, nodes), rtol=1e-4, atol=1e-5)
    assert torch.allclose(sum(layers_of(matrix, nodes, depth)), wanted, rtol=1e-4, atol=1e-5)


def test_normalised_adjacency_is_symmetric_with_a_spectrum_within_one() -> None:
    for kind in ("symmetric", "self_loops"):
        dense = whole(random_graph(), kind)[1]
        assert torch.equal(dense, dense.T)
        assert float(torch.linalg.eigvalsh(dense).abs().max()) <= 1 + 1e-5


def test_entries_are_dropped_each_way_apart_without_rescaling_and_the_gradient_goes_the_other_way() -> None:
    graph = random_graph(60, 40, 0.4, 1)
    matrix, dense = whole(graph)
    rng = torch.Generator().manual_seed(0)
    assert matrix.dropped(1.0, rng) is matrix
    thin = matrix.dropped(0.8, rng)
    kept = thin.value > 0
    share, sigma = float(kept.float().mean()), (0.8 * 0.2 / len(kept)) ** 0.5
    assert abs(share - 0.8) < 3 * sigma
    assert torch.equal(thin.value[kept], matrix.value[kept])
    assert not torch.equal(kept, kept[matrix.turned])  # an edge may go one way
    masked = torch.zeros_like(dense)
    masked[matrix.row, matrix.column.long()] = thin.value
    nodes = drawn(graph)
    for found, wanted in (
        (neighbours(thin, nodes), masked @ nodes),
        (sum_of_powers(thin, nodes, 2), nodes + masked @ (nodes + masked @ nodes)),
    ):
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)
        assert torch.allclose(gradient(found, nodes), gradient(wanted, nodes), rtol=1e-4, atol=1e-5)


def test_products_of_entries_whichever_library_works_them_out(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = random_graph()
    matrix = graph.operator("symmetric", CPU)
    first, second = drawn(graph, 4, 1).detach(), drawn(graph, 4, 2).detach()
    wanted = (first[matrix.row] * second[matrix.column.long()]).sum(dim=1)
    assert torch.allclose(matrix.products(first, second), wanted, atol=1e-5)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert torch.allclose(matrix.products(first, second), wanted, atol=1e-5)
    mirrored = torch.stack([matrix.column.long(), matrix.row])
    assert torch.equal(torch.stack([matrix.row, matrix.column.long()])[:, matrix.turned], mirrored)


def test_no_edges_at_all_are_sums_of_nothing() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    matrix = Sparse.of_entries(empty, empty, torch.zeros(0), 3)
    nodes = torch.ones(3, 2, requires_grad=True)
    assert not neighbours(matrix, nodes).any()
    assert torch.equal(gradient(sum_of_powers(matrix, nodes, 2), nodes), gradient(nodes * 1, nodes))
