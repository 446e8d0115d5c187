"""DaRec's losses by hand, in closed form, against the literal equations, and the properties that follow from them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from braidrec.errors import ConfigError, DataError, TrainingError
from braidrec.objectives.structure import (
    _nearest,
    _spread,
    centres,
    global_structure,
    kmeans,
    local_structure,
    match,
    matched,
    orthogonality,
    uniformity,
)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def turn(width: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(drawn(width, width, seed=seed)).Q


# -- orthogonality --------------------------------------------------------------------------------------------------------


def test_orthogonality_by_hand() -> None:
    specific = torch.tensor([[1.0, 0.0], [1.0, 0.0], [3.0, 3.0]])
    shared = torch.tensor([[0.0, 2.0], [-5.0, 0.0], [1.0, 0.0]])
    assert orthogonality(specific, shared).item() == pytest.approx((0 + 1 + 0.5) / 3, abs=1e-6)


def test_orthogonality_sees_directions_alone() -> None:
    specific, shared = drawn(20, 5), drawn(20, 5, seed=1)
    value = orthogonality(specific, shared)
    scaled = orthogonality(specific * torch.arange(1, 21)[:, None], -7 * shared)
    torch.testing.assert_close(value, scaled)
    assert orthogonality(specific, specific).item() == pytest.approx(1)
    assert orthogonality(torch.zeros(3, 4), torch.ones(3, 4)).item() == 0


@pytest.mark.parametrize("size", [1e-5, 1e5])
def test_short_and_long_rows_have_the_directions_that_they_have(size: float) -> None:
    first, second = drawn(12, 4), drawn(12, 4, seed=1)
    for loss in (orthogonality, global_structure, local_structure):
        torch.testing.assert_close(loss(size * first, second), loss(first, second))
    torch.testing.assert_close(uniformity(size * first), uniformity(first))


def test_orthogonality_teaches_both_sides() -> None:
    specific, shared = drawn(6, 4).requires_grad_(), drawn(6, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(orthogonality, (specific, shared))


# -- uniformity -----------------------------------------------------------------------------------------------------------


def plain_uniformity(rows: Tensor) -> Tensor:
    unit = F.normalize(rows)
    pairs = torch.stack([(a - b).square().sum() for a, b in itertools.combinations(unit, 2)])
    return torch.logsumexp(-2 * pairs, 0) - math.log(len(pairs))


def test_uniformity_has_its_ends() -> None:
    assert uniformity(torch.ones(5, 3)).item() == pytest.approx(0, abs=1e-6)
    assert uniformity(torch.tensor([[2.0, 0.0], [-1.0, 0.0]])).item() == pytest.approx(-8, abs=1e-6)


@pytest.mark.parametrize(("width", "expected"), [(8, -3.08), (32, -3.75), (64, -3.88)])
def test_uniformity_of_a_sphere(width: int, expected: float) -> None:
    assert uniformity(drawn(4096, width, dtype=torch.float32)).item() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("count", [2, 3, 17])
def test_uniformity_equals_the_plain_form(count: int) -> None:
    rows = drawn(count, 4).requires_grad_()
    expected, value = plain_uniformity(rows), uniformity(rows)
    torch.testing.assert_close(value, expected)
    wanted = torch.autograd.grad(expected, rows)
    torch.testing.assert_close(torch.autograd.grad(value, rows), wanted)


def test_uniformity_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = drawn(50, 4).requires_grad_()
    whole = torch.autograd.grad(uniformity(rows), rows)[0]
    monkeypatch.setattr("braidrec.objectives.structure._BLOCK", 7)
    torch.testing.assert_close(torch.autograd.grad(uniformity(rows), rows)[0], whole)
    assert torch.autograd.gradcheck(uniformity, rows)


def test_uniformity_spreads() -> None:
    rows = (torch.ones(40, 3) + 0.1 * drawn(40, 3, dtype=torch.float32)).requires_grad_()
    before = uniformity(rows).item()
    for _ in range(100):
        rows = (rows - 5 * torch.autograd.grad(uniformity(rows), rows)[0]).detach().requires_grad_()
    assert uniformity(rows).item() < before - 1


def test_uniformity_refuses() -> None:
    with pytest.raises(DataError, match=r"uniformity of rows \(1, 3\): they must be \(n, D\) with n >= 2"):
        uniformity(torch.ones(1, 3))
    rows = drawn(4, 3).requires_grad_()
    with pytest.raises(TrainingError, match="no second derivative"):
        torch.autograd.grad(uniformity(rows), rows, create_graph=True)


# -- global structure -----------------------------------------------------------------------------------------------------


def plain_global(first: Tensor, second: Tensor) -> Tensor:
    return (first @ first.T - second @ second.T).square().sum()


def test_global_structure_by_hand() -> None:
    # rows of length 1 that are at right angles here and equal there: Gram matrices differ by 1 in two of four places
    first, second = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [4.0, 0.0]])
    assert global_structure(first, second).item() == pytest.approx(2 / 4)
    # as printed: [[4, 0], [0, 9]] less [[1, 4], [4, 16]]
    assert global_structure(first, second, normalised=False, mean=False).item() == pytest.approx(9 + 16 + 16 + 49)
    assert global_structure(torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0], [-1.0]])).item() == pytest.approx(8 / 4)


def test_global_structure_equals_gram_matrices() -> None:
    first, second = drawn(30, 4).requires_grad_(), drawn(30, 6, seed=1).requires_grad_()
    expected, value = plain_global(first, second), global_structure(first, second, normalised=False, mean=False)
    torch.testing.assert_close(value, expected)
    wanted = torch.autograd.grad(expected, (first, second))
    torch.testing.assert_close(torch.autograd.grad(value, (first, second)), wanted)


def test_global_structure_is_blind_to_what_keeps_angles() -> None:
    first, second = drawn(30, 6), drawn(30, 6, seed=1)
    assert global_structure(first, first).item() == pytest.approx(0, abs=1e-12)
    assert global_structure(first.float(), first.float()).item() == pytest.approx(0, abs=1e-7)
    value = global_structure(first, second)
    torch.testing.assert_close(global_structure(first @ turn(6), second), value, rtol=1e-5, atol=0)
    torch.testing.assert_close(global_structure(first, second * torch.arange(1, 31)[:, None]), value)
    assert 0 <= value <= 4


def test_global_structure_is_never_below_nothing_and_small_differences_of_large_sums_are_kept() -> None:
    for seed in range(20):  # the same but for a turn: rounding alone is left
        first = drawn(40, 5, seed=seed, dtype=torch.float32)
        assert global_structure(first, first @ turn(5, seed).float()).item() >= 0
    first = torch.randint(-50, 50, (64, 4), generator=torch.Generator().manual_seed(0))
    second = first.clone()
    second[3, 1] += 1
    wanted = int((first @ first.T - second @ second.T).square().sum())
    assert global_structure(first.float(), second.float(), normalised=False, mean=False).item() == wanted


class Made(TorchDispatchMode):
    """Bytes of the largest tensor that is made in the block."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.largest = max(self.largest, *(each.nbytes for each in tree_leaves(found) if isinstance(each, Tensor)), 0)
        return found


def test_global_structure_makes_no_matrix_of_pairs() -> None:
    first, second = (drawn(16_384, 32, seed=seed, dtype=torch.float32).requires_grad_() for seed in range(2))
    with Made() as made:
        global_structure(first, second).backward()
    assert 0 < made.largest <= 8 * first.numel()  # in double precision; a Gram matrix alone is 1 GiB


# -- clusters, centres, matching ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_kmeans_finds_blobs(seed: int) -> None:
    blob = torch.arange(4).repeat_interleave(25)
    rows = 10 * torch.eye(4)[blob] + 0.1 * drawn(100, 4, seed=seed, dtype=torch.float32)
    labels = kmeans(rows, 4, torch.Generator().manual_seed(seed))
    assert len(set(zip(blob.tolist(), labels.tolist(), strict=True))) == 4


def test_kmeans_keeps_every_cluster() -> None:
    rows = torch.cat([torch.zeros(20, 2), torch.ones(5, 2) * 9, torch.full((1, 2), 30.0)])
    labels = kmeans(rows, 3, start=torch.tensor([0, 1, 2]))  # three equal starts: two are nobody's nearest
    assert sorted(labels.unique().tolist()) == [0, 1, 2]
    assert len({labels[0].item(), labels[20].item(), labels[25].item()}) == 3


def test_kmeans_is_ten_rounds_of_lloyd_s() -> None:
    """Of a line whose two centres both start at its left end, and are still on their way then."""
    rows = np.linspace(0, 1, 50_001)
    middle, seen = rows[:2], []
    for _ in range(11):
        labels = np.abs(rows[:, None] - middle).argmin(axis=1)
        middle = np.array([rows[labels == at].mean() for at in range(2)])
        seen.append(labels)
    found = kmeans(torch.from_numpy(rows)[:, None], 2, start=torch.tensor([0, 1])).numpy()
    assert [np.array_equal(found, each) for each in seen] == [False] * 9 + [True, False]


def test_first_centres_are_apart_from_all_before_them() -> None:
    rows = torch.tensor([0.0, 1.0, 10.0]).repeat_interleave(5)[:, None]
    for seed in range(20):
        chosen = _spread(rows, 3, torch.Generator().manual_seed(seed))
        assert len(rows[chosen].unique()) == 3


def test_a_cluster_does_not_become_empty_by_filling_another() -> None:
    """The row farthest from its centre is all that the second cluster has."""
    rows, middle = torch.tensor([[0.0], [1.0], [12.0]]), torch.tensor([[0.4], [20.0], [100.0]])
    labels, counts = _nearest(rows, middle, torch.empty(3, 3))
    assert labels.tolist() == [0, 2, 1]
    assert counts.tolist() == [1, 1, 1]


@pytest.mark.parametrize(("count", "clusters", "expected"), [(3, 10, 3), (6, 4, 4), (1, 1, 1)])
def test_kmeans_of_equal_and_of_few_rows(count: int, clusters: int, expected: int) -> None:
    labels = kmeans(torch.ones(count, 2), clusters, torch.Generator().manual_seed(0))
    assert len(labels.unique()) == expected
    assert torch.isfinite(centres(torch.ones(count, 2), labels, clusters)).all()


def test_kmeans_draws_by_its_generator_alone() -> None:
    rows, state = drawn(200, 5), torch.get_rng_state()
    first, again, other = (kmeans(rows, 6, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_kmeans_refuses() -> None:
    with pytest.raises(ConfigError, match="clusters = 0; accepted: 1 or more"):
        kmeans(torch.ones(3, 2), 0, torch.Generator())
    with pytest.raises(ConfigError, match=r"pass generator=torch.Generator\(\), or start=rows"):
        kmeans(torch.ones(3, 2), 2)


def test_matching_is_greedy() -> None:
    rows, columns = match(np.array([[0.0, 1.0], [1.0, 10.0]]))  # the cheapest overall would be the swap
    assert rows.tolist() == [0, 1]
    assert columns.tolist() == [0, 1]
    rows, columns = match(np.array([[5.0, 5.0], [5.0, 5.0]]))  # ties: lowest row, then column
    assert rows.tolist() == [0, 1]
    assert columns.tolist() == [0, 1]
    rows, columns = match(np.array([[9.0, 4.0, 7.0], [2.0, 3.0, 8.0], [6.0, 1.0, 5.0]]))
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(2, 1), (1, 0), (0, 2)]


def test_matching_takes_everybody_once() -> None:
    for bad in (np.inf, np.nan):
        rows, columns = match(np.full((4, 4), bad))
        assert sorted(rows) == sorted(columns) == [0, 1, 2, 3]


def test_matching_is_by_distance_not_by_direction() -> None:
    first, second = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[0.0, 1.0], [5.0, 0.0]])
    own, other = matched(first, second)
    assert own.tolist() == first.tolist()  # the nearest two are at right angles
    assert other.tolist() == second.tolist()


def test_matching_recovers_an_order() -> None:
    first, order = drawn(6, 4), torch.tensor([3, 0, 5, 1, 4, 2])
    one, two = matched(first, first[order])
    torch.testing.assert_close(one, two)
    apart = drawn(6, 4, seed=1)
    value = local_structure(*matched(first, apart))
    torch.testing.assert_close(local_structure(*matched(first, apart[order])), value)


def test_centres_have_gradients() -> None:
    rows, labels = drawn(7, 3).requires_grad_(), torch.tensor([0, 1, 1, 0, 2, 1, 2])
    found = centres(rows, labels, 4)
    torch.testing.assert_close(found[1], rows[[1, 2, 5]].mean(dim=0))
    assert not found[3].any()
    assert torch.autograd.gradcheck(lambda each: centres(each, labels, 4), rows)


# -- local structure ------------------------------------------------------------------------------------------------------


def test_local_structure_by_hand() -> None:
    assert local_structure(torch.eye(3), 5 * torch.eye(3)).item() == pytest.approx(0)
    assert local_structure(torch.ones(2, 3), torch.ones(2, 3)).item() == pytest.approx(1)
    assert local_structure(torch.eye(2), torch.eye(2).flip(0)).item() == pytest.approx(1 + 1)
    # cosines [[1, .6], [0, .8]]: own (0, -.2), others (.6, 0)
    second = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    assert local_structure(torch.eye(2), second).item() == pytest.approx(0.04 / 2 + 0.36 / 2, abs=1e-6)


def test_local_structure_has_a_bound_above_the_dimension() -> None:
    clusters, width = 100, 32
    for seed in range(3):
        same = drawn(clusters, width, seed=seed)
        assert local_structure(same, same) >= (clusters - width) / (width * (clusters - 1)) - 1e-9


def test_local_structure_suffers_where_matches_are_shuffled() -> None:
    rows = torch.eye(5) + 0.1 * drawn(5, 5, dtype=torch.float32)
    assert local_structure(rows, rows[[1, 2, 3, 4, 0]]) > local_structure(rows, rows) + 0.5


def test_local_structure_teaches_the_rows_behind_centres() -> None:
    first, second = drawn(12, 4).requires_grad_(), drawn(12, 4, seed=1).requires_grad_()
    labels = [kmeans(side.detach(), 3, torch.Generator().manual_seed(0)) for side in (first, second)]

    def value(one: Tensor, two: Tensor) -> Tensor:
        return local_structure(*(centres(side, own, 3) for side, own in zip((one, two), labels, strict=True)))

    assert all(grad.abs().max() > 0 for grad in torch.autograd.grad(value(first, second), (first, second)))
    assert torch.autograd.gradcheck(value, (first, second))


@pytest.mark.parametrize("loss", [orthogonality, local_structure, global_structure])
def test_shapes_that_differ_are_refused(loss: object) -> None:
    with pytest.raises(DataError, match=r"of \(3, 2\) and \(4, 2\): both must"):
        loss(torch.ones(3, 2), torch.ones(4, 2))  # type: ignore[operator]


# -- all together ---------------------------------------------------------------------------------------------------------


def test_losses_do_not_know_the_order_of_nodes() -> None:
    first, second = drawn(60, 5), drawn(60, 5, seed=1)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    place = torch.empty_like(order)
    place[order] = torch.arange(60)
    start = torch.tensor([3, 40, 51])

    def values(one: Tensor, two: Tensor, starts: Tensor) -> list[float]:
        labels = [kmeans(side, 3, start=starts) for side in (one, two)]
        own = [centres(side, each, 3) for side, each in zip((one, two), labels, strict=True)]
        found = (orthogonality(one, two), uniformity(one), global_structure(one, two), local_structure(*matched(*own)))
        return [value.item() for value in found]

    assert values(first[order], second[order], place[start]) == pytest.approx(values(first, second, start), abs=1e-12)


def test_small_networks_learn_what_two_sides_share() -> None:
    torch.manual_seed(0)
    latent, nodes = torch.randn(300, 6), 300
    own = torch.cat([latent, torch.randn(nodes, 6)], dim=1) @ torch.randn(12, 16)
    text = torch.cat([latent, torch.randn(nodes, 6)], dim=1) @ torch.randn(12, 24)
    networks = nn.ModuleList(
        nn.Sequential(nn.Linear(width, 16), nn.LeakyReLU(), nn.Linear(16, 8)) for width in (16, 16, 24, 24)
    )
    optimiser = torch.optim.Adam(networks.parameters(), 5e-3)

    def parts() -> list[Tensor]:
        return [network(side) for network, side in zip(networks, (own, own, text, text), strict=True)]

    specific, shared, text_specific, text_shared = parts()
    before = global_structure(shared, text_shared).item()
    for _ in range(200):
        specific, shared, text_specific, text_shared = parts()
        apart = orthogonality(specific, shared) + orthogonality(text_specific, text_shared)
        loss = apart + uniformity(specific) + uniformity(text_specific) + global_structure(shared, text_shared)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    specific, shared, text_specific, text_shared = parts()
    assert global_structure(shared, text_shared).item() < 0.5 * before
    assert orthogonality(specific, shared).item() < 0.05
    assert orthogonality(text_specific, text_shared).item() < 0.05


# -- what the method rests on: theorem 1, in bits of three fair coins S, A, B ----------------------------------------------

COINS = list(itertools.product((0, 1), repeat=3))


def entropy(outcomes: list[tuple[object, float]]) -> float:
    total: dict[object, float] = {}
    for outcome, probability in outcomes:
        total[outcome] = total.get(outcome, 0.0) + probability
    return -sum(each * math.log2(each) for each in total.values() if each)


def unknown(target: object, known: object, kind: str) -> float:
    """H(Y | known): both are functions of the coins and the noise of ``kind``."""
    noise = [(0, 0.9), (1, 0.1)] if kind == "noisy" else [(0, 1.0)]
    worlds = [((*coins, flip), share / 8) for coins in COINS for flip, share in noise]
    both = entropy([((target(*world), known(*world)), share) for world, share in worlds])  # type: ignore[operator]
    return both - entropy([(known(*world), share) for world, share in worlds])  # type: ignore[operator]


@pytest.mark.parametrize(
    ("target", "kind", "first", "second", "shared_alone", "nothing", "unaligned"),
    [
        (lambda s, a, b, n: 2 * s + a, "", 2, 1, 1, 2, 0),
        (lambda s, a, b, n: (s, a, b), "", 2, 2, 2, 3, 1),
        (lambda s, a, b, n: s ^ a ^ n, "noisy", 0.5310, 0, 0.5310, 0.5310, 0),
        (lambda s, a, b, n: a ^ b, "", 0, 0, 1, 1, 1),
    ],
)
def test_exact_alignment_costs_what_theorem_1_says(
    target: object, kind: str, first: float, second: float, shared_alone: float, nothing: float, unaligned: float
) -> None:
    def left(known: object) -> float:
        return unknown(target, known, kind)

    views = (lambda s, a, b, n: (s, a)), (lambda s, a, b, n: (s, b)), (lambda s, a, b, n: 0)
    told = [left(views[2]) - left(view) for view in views[:2]]
    assert told == pytest.approx([first, second], abs=1e-4)
    both = left(lambda s, a, b, n: (s, a, b))
    excess = [left(known) - both for known in (lambda s, a, b, n: s, views[2], views[0])]
    assert excess == pytest.approx([shared_alone, nothing, unaligned], abs=1e-4)
    assert min(excess[:2]) >= abs(told[0] - told[1]) - 1e-9  # of what both sides have exactly alike
