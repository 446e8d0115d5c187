"""Batches of pairs and of users: everything once an epoch, negatives that nobody has, the same again after a restart."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from small_worlds import graph_of, random_graph

from braidrec.collaborative.pairs import PairBatches
from braidrec.collaborative.user_rows import UserBatches
from braidrec.errors import DataError

GRAPH = random_graph(20, 12, 0.3, 3)


def pairs(batches: PairBatches) -> list[tuple[int, int]]:
    return [pair for batch in batches for pair in zip(batch.user.tolist(), batch.item.tolist(), strict=True)]


def everything(batches: Any) -> list[list[torch.Tensor]]:
    def flat(batch: Any) -> list[torch.Tensor]:
        parts = vars(batch).values()
        return [each for part in parts for each in ([part] if torch.is_tensor(part) else [part.start, part.item, part.user])]

    return [flat(batch) for batch in batches]


@pytest.mark.parametrize("by_user", [False, True])
def test_an_epoch_has_every_pair_once_as_nodes_in_another_order_each_time(by_user: bool) -> None:
    batches = PairBatches(GRAPH, 7, seed=1, by_user=by_user)
    known = list(zip((GRAPH.user - 1).tolist(), (GRAPH.item - 1 + 20).tolist(), strict=True))
    first, second = pairs(batches), pairs(batches)
    assert sorted(first) == sorted(second) == sorted(known)
    assert first != second
    assert len(batches) == -(-len(GRAPH) // 7)
    turns = sum(before != after for (before, _), (after, _) in pairwise(first))
    assert (turns == len(set(GRAPH.user.tolist())) - 1) == by_user


def test_negatives_are_items_that_a_user_has_not_uniform_over_the_rest() -> None:
    batches = PairBatches(GRAPH, 64, seed=0, negatives=3)
    met = set(zip((GRAPH.user - 1).tolist(), (GRAPH.item - 1 + 20).tolist(), strict=True))
    user = int(np.argmax(GRAPH.user_counts)) - 1
    counts = np.zeros(12, np.int64)
    for _ in range(60):
        for batch in batches:
            assert batch.negative.shape == (len(batch), 3)
            for own, items in zip(batch.user.tolist(), batch.negative.tolist(), strict=True):
                assert not met & {(own, item) for item in items}
            counts += np.bincount(batch.negative[batch.user == user].flatten().numpy() - 20, minlength=12)
    free = [item for item in range(12) if (user, item + 20) not in met]
    assert chisquare(counts[free]).pvalue > 0.01


@pytest.mark.parametrize("kind", ["pairs", "users"])
def test_a_source_goes_on_where_another_one_stopped(kind: str) -> None:
    def source(seed: int) -> Any:
        return PairBatches(GRAPH, 5, seed=seed, negatives=2) if kind == "pairs" else UserBatches(GRAPH, 3, seed=seed)

    whole, broken, other = source(4), source(4), source(77)
    wanted = everything(whole) + everything(whole)
    given = iter(broken)
    found = [everything([next(given)])[0] for _ in range(3)]
    assert broken.state() == {"seed": 4, "epoch": 0, "position": 3}
    other.restore(broken.state())
    found += everything(other) + everything(other)
    assert len(found) == len(wanted)
    for first, second in zip(found, wanted, strict=True):
        assert all(torch.equal(*each) for each in zip(first, second, strict=True))


def test_users_come_with_all_that_they_have_and_those_with_nothing_do_not_come() -> None:
    graph = graph_of(np.array([[1, 2], [1, 3], [3, 1]]), 4, 3)
    [batch] = UserBatches(graph, 8, seed=0)
    assert sorted(batch.user.tolist()) == [1, 3]
    assert torch.equal(batch.user, batch.baskets.user)
    own = batch.baskets.dense(4)[batch.user.tolist().index(1)]
    assert own.tolist() == [0, 0, 1, 1]


def test_nobody_can_have_everything_where_negatives_are_drawn() -> None:
    graph = graph_of(np.array([[1, 1], [2, 1], [2, 2]]), 2, 2)
    with pytest.raises(DataError, match="user row 2 has all 2 items, so none is left to be a negative"):
        PairBatches(graph, 2, seed=0)
    assert len(PairBatches(graph, 2, seed=0, negatives=0)) == 2
