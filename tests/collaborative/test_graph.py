"""Who has what as a matrix and as a graph: positives alone, each pair once, every normalisation against dense arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.graph import Graph
from braidrec.data.log import InteractionLog

# user, item, label; user 2 meets item 3 twice, and item 1 without liking it; user 4 and item 4 have nothing
EVENTS = [(1, 1, 1), (1, 2, 1), (2, 3, 1), (2, 3, 1), (2, 1, 0), (3, 2, 1)]


def graph(positions: np.ndarray | None = None) -> Graph:
    user, item, label = (np.array(column) for column in zip(*EVENTS, strict=True))
    log = InteractionLog.build(
        user.astype(np.int32),
        item.astype(np.int32),
        np.zeros(6, np.int64),
        np.ones(6, np.float32),
        label.astype(np.float32),
        None,
        np.ones(6, np.int32),
        4,
    )
    return Graph.of(log, np.arange(6) if positions is None else positions, 4)


def dense() -> torch.Tensor:
    """Users 1..4, then items 1..4."""
    found = torch.zeros(8, 8)
    for user, item in ((0, 0), (0, 1), (1, 2), (2, 1)):
        found[user, 4 + item] = found[4 + item, user] = 1
    return found


def test_positives_alone_count_and_each_pair_once() -> None:
    found = graph()
    assert list(zip(found.user.tolist(), found.item.tolist(), strict=True)) == [(1, 1), (1, 2), (2, 3), (3, 2)]
    assert found.item_counts.tolist() == [0, 1, 2, 1, 0]
    assert found.user_counts.tolist() == [0, 2, 1, 1, 0]
    assert found.matrix.shape == (5, 5)
    assert len(graph(np.array([4]))) == 0


def test_every_normalisation_is_what_dense_arithmetic_gives() -> None:
    found, ones = graph(), dense()
    looped = ones + torch.eye(8)
    for name, wanted in (("ones", ones), ("symmetric", ones), ("self_loops", looped)):
        degree = wanted.sum(1).clamp_min(1)
        if name != "ones":
            wanted = wanted / degree.sqrt()[:, None] / degree.sqrt()
        adjacency = found.adjacency(name)  # type: ignore[arg-type]
        assert adjacency.crow_indices().dtype == torch.int32
        assert torch.allclose(adjacency.to_dense(), wanted)
        assert found.adjacency(name) is adjacency  # type: ignore[arg-type]
    assert found.num_nodes == 8


def test_a_masked_view_has_degrees_of_its_own_and_leaves_the_whole_as_it_is() -> None:
    whole = graph()
    whole.adjacency()
    view = whole.masked(np.array([True, False, True, True]))
    assert view.item_counts.tolist() == [0, 1, 1, 1, 0]
    assert float(view.adjacency().to_dense()[0, 4]) == 1.0
    assert float(whole.adjacency().to_dense()[0, 4]) == pytest.approx(0.5**0.5)


def test_baskets_sum_rows_and_split_by_item() -> None:
    baskets = Baskets.of([np.array([1, 3], np.int32), np.array([], np.int32), np.array([4], np.int32)])
    table = torch.arange(10.0).view(5, 2)
    assert baskets.times(table).tolist() == [[8.0, 10.0], [0.0, 0.0], [8.0, 9.0]]
    assert torch.equal(baskets.dense(5), torch.from_numpy(baskets.matrix(5).toarray()))
    late = baskets.within(3, 5)
    assert late.counts.tolist() == [1, 0, 1]
    assert late.item.tolist() == [0, 1]
    assert Baskets.alone(torch.tensor([2, 4])).dense(5).argmax(1).tolist() == [2, 4]
