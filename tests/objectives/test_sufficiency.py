"""Sufficiency: values by hand, exact pair sampling, and the InfoMax optimum on two-point distributions."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from braidrec.objectives.sufficiency import BilinearDiscriminator, sample_pairs, sufficiency


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def silent(dim: int, pattern_dim: int) -> BilinearDiscriminator:
    """D = .5 whatever it sees."""
    discriminator = BilinearDiscriminator(dim, pattern_dim).double()
    torch.nn.init.zeros_(discriminator.weight)
    return discriminator


@given(st.lists(st.booleans(), min_size=4, max_size=24), st.integers(0, 2**31), st.sampled_from([(), (5,)]))
@settings(max_examples=100, deadline=None)
def test_partners_have_the_right_class_and_are_never_the_anchor(
    clicks: list[bool], seed: int, anchors: tuple[int, ...]
) -> None:
    labels = torch.tensor([True, True, False, False, *clicks]).float()[torch.randperm(len(clicks) + 4, generator=seeded(seed))]
    pairs = sample_pairs(labels, (len(labels), *anchors), seeded(seed))
    own = labels.view(-1, *[1] * len(anchors))
    itself = torch.arange(len(labels)).view(-1, *[1] * len(anchors))
    assert (labels[pairs.same] == own).all()
    assert (labels[pairs.other] != own).all()
    assert (pairs.same != itself).all()


def test_partners_are_uniform() -> None:
    labels = torch.tensor([1.0, 0, 1, 0, 0, 1, 1])
    pairs = sample_pairs(labels, (7, 40_000), seeded())
    for anchor in range(7):
        alike = {j for j in range(7) if labels[j] == labels[anchor] and j != anchor}
        unlike = {j for j in range(7) if labels[j] != labels[anchor]}
        for drawn, allowed in ((pairs.same[anchor], alike), (pairs.other[anchor], unlike)):
            share = torch.bincount(drawn, minlength=7) / 40_000
            assert set(share.nonzero().flatten().tolist()) == allowed
            assert all(share[j].item() == pytest.approx(1 / len(allowed), abs=0.012) for j in allowed)


@pytest.mark.parametrize("labels", [[0.0] * 4, [1.0] * 4, [1.0, 0, 0, 0], [0.0, 1, 1, 1], [1.0], [0.0, 1.0]])
@pytest.mark.parametrize("history", [False, True])
def test_too_few_of_a_class_is_exactly_zero_with_zero_gradients(labels: list[float], history: bool) -> None:
    count = len(labels)
    discriminator = BilinearDiscriminator(2, 3)
    h = torch.randn(count, 5, 2) if history else torch.randn(count, 2)
    h.requires_grad_()
    big = torch.randn(count, 3, requires_grad=True)
    loss = sufficiency(h, big, torch.tensor(labels), discriminator, seeded())
    loss.backward()
    assert loss.item() == 0
    for tensor in (h, big, discriminator.weight, discriminator.bias):
        assert tensor.grad is not None
        assert not tensor.grad.any()


def test_two_ln_two_when_the_discriminator_is_undecided() -> None:
    labels = torch.tensor([1.0, 0, 0, 1, 0])
    h, history, patterns = torch.randn(5, 2).double(), torch.randn(5, 3, 2).double(), torch.randn(5, 4).double()
    expected = pytest.approx(2 * math.log(2), abs=1e-12)
    assert sufficiency(h, patterns, labels, silent(2, 4), seeded()).item() == expected
    assert sufficiency(history, patterns, labels, silent(2, 4), seeded()).item() == expected
    mask = torch.tensor([[True, False, False], [False] * 3, [True] * 3, [True, True, False], [False] * 3])
    assert sufficiency(history, patterns, labels, silent(2, 4), seeded(), mask).item() == expected


def test_discriminator_by_hand() -> None:
    discriminator = BilinearDiscriminator(2, 2)
    with torch.no_grad():
        discriminator.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        discriminator.bias.fill_(0.5)
    # (1, -1) W = (-2, -2); times (5, 6) is -22
    assert discriminator(torch.tensor([[1.0, -1.0]]), torch.tensor([[5.0, 6.0]])).tolist() == [-21.5]


def softplus(z: float) -> float:
    return math.log1p(math.exp(z))


# H_j, all different, so that a partner can be told by the logit it gives
PATTERNS = torch.tensor([[-1.5], [0.25], [2.0], [-0.5], [1.25], [0.75], [3.0]], dtype=torch.float64)


def plain_product() -> BilinearDiscriminator:
    """D(h, H) = h H."""
    discriminator = silent(1, 1)
    torch.nn.init.ones_(discriminator.weight)
    return discriminator


def test_two_per_class_by_hand() -> None:
    """The partner of one's own class is forced; each of the other class may come: sixteen values, and no other."""
    labels, h = torch.tensor([1.0, 0, 0, 1]), [0.5, -1.0, 3.0, 2.0]
    pattern = PATTERNS[:4, 0].tolist()
    partner, others = (3, 2, 1, 0), ((1, 2), (0, 3), (0, 3), (1, 2))
    terms = [[softplus(-h[i] * pattern[partner[i]]) + softplus(h[i] * pattern[j]) for j in others[i]] for i in range(4)]
    values = sorted(sum(chosen) / 4 for chosen in product(*terms))
    assert min(later - earlier for earlier, later in pairwise(values)) > 1e-3
    anchors = torch.tensor(h, dtype=torch.float64)[:, None]
    found = [sufficiency(anchors, PATTERNS[:4], labels, plain_product(), seeded(seed)).item() for seed in range(200)]
    assert sorted({round(value, 9) for value in found}) == pytest.approx(values, abs=1e-8)


@pytest.mark.parametrize("anchors", [(), (3,)])
def test_each_anchor_meets_the_partners_that_were_drawn_for_it(anchors: tuple[int, ...]) -> None:
    """Two clicks weigh as much as five non-clicks."""
    labels = torch.tensor([1.0, 0, 0, 1, 0, 0, 0])
    h = torch.randn(7, *anchors, 1, generator=seeded(3)).double()
    for seed in range(20):
        pairs = sample_pairs(labels, (7, *anchors), seeded(seed))
        by_class: dict[float, list[float]] = {0.0: [], 1.0: []}
        for at in product(range(7), *map(range, anchors)):
            same, other = (PATTERNS[int(drawn[at])].item() for drawn in (pairs.same, pairs.other))
            by_class[labels[at[0]].item()].append(softplus(-h[at].item() * same) + softplus(h[at].item() * other))
        expected = sum(statistics.fmean(terms) for terms in by_class.values()) / 2
        found = sufficiency(h, PATTERNS, labels, plain_product(), seeded(seed)).item()
        assert found == pytest.approx(expected, abs=1e-12)


def test_classes_weigh_the_same() -> None:
    """h = H = +1 for clicks, -1 otherwise, and 0 for clicks' anchors: 2 ln 2 of theirs, 2 softplus(-2) of the others."""
    discriminator = BilinearDiscriminator(1, 1)
    torch.nn.init.constant_(discriminator.weight, 2.0)
    labels = torch.tensor([1.0, 1, 0, 0, 0, 0, 0, 0])
    sign = (2 * labels - 1)[:, None]
    anchors = torch.where(labels[:, None] > 0, 0.0, sign)
    value = sufficiency(anchors, sign, labels, discriminator, seeded()).item()
    assert value == pytest.approx((2 * math.log(2) + 2 * softplus(-2)) / 2, abs=1e-6)


def test_padded_anchors_have_no_say() -> None:
    labels = torch.tensor([1.0, 0, 0, 1, 0])
    history, patterns = torch.randn(5, 3, 2), torch.randn(5, 4)
    mask = torch.tensor([[True, False, False], [True, True, False], [True] * 3, [True, True, False], [False] * 3])
    discriminator = BilinearDiscriminator(2, 4)
    value = sufficiency(history, patterns, labels, discriminator, seeded(), mask)
    spoilt = history.masked_fill(~mask[..., None], 1e6).requires_grad_()
    again = sufficiency(spoilt, patterns, labels, discriminator, seeded(), mask)
    again.backward()
    assert torch.equal(again, value)
    assert spoilt.grad is not None
    assert not spoilt.grad[~mask].any()
    nobody_clicked = mask & (labels == 0)[:, None]
    assert sufficiency(history, patterns, labels, discriminator, seeded(), nobody_clicked).item() == 0


def test_order_of_the_batch_does_not_matter_on_average() -> None:
    """Averaged over the draws the loss is a function of the set of samples."""
    labels = torch.tensor([1.0, 0, 0, 1, 0, 1])
    h, patterns = torch.randn(6, 2, generator=seeded(5)), torch.randn(6, 4, generator=seeded(6))
    torch.manual_seed(0)
    discriminator = BilinearDiscriminator(2, 4)
    order = torch.tensor([3, 5, 0, 2, 1, 4])

    def average(rows: Tensor) -> float:
        many = h[rows][:, None].expand(-1, 20_000, -1)
        return sufficiency(many, patterns[rows], labels[rows], discriminator, seeded()).item()

    def exact() -> float:
        z = discriminator(h[:, None], patterns[None])
        same = (labels[:, None] == labels) & ~torch.eye(6, dtype=torch.bool)
        other = labels[:, None] != labels
        terms = (torch.nn.functional.softplus(-z) * same).sum(1) / same.sum(1)
        terms = terms + (torch.nn.functional.softplus(z) * other).sum(1) / other.sum(1)
        return terms.mean().item()  # three of each class

    assert average(torch.arange(6)) == pytest.approx(exact(), abs=0.01)
    assert average(order) == pytest.approx(exact(), abs=0.01)


def test_swapping_the_labels_changes_nothing_but_the_draws() -> None:
    """With every pair drawn many times, the loss of either labelling is the mean over all pairs."""
    labels = torch.tensor([1.0, 1, 0, 0, 0, 1, 0])
    h = torch.randn(7, 1, generator=seeded(4)).double()
    z = h @ PATTERNS.T
    same = (labels[:, None] == labels) & ~torch.eye(7, dtype=torch.bool)
    other = labels[:, None] != labels
    terms = (torch.nn.functional.softplus(-z) * same).sum(1) / same.sum(1)
    terms = terms + (torch.nn.functional.softplus(z) * other).sum(1) / other.sum(1)
    expected = (terms[labels == 1].mean() + terms[labels == 0].mean()).item() / 2
    many = h[:, None].expand(-1, 20_000, -1)
    for each in (labels, 1 - labels):
        assert sufficiency(many, PATTERNS, each, plain_product(), seeded()).item() == pytest.approx(expected, abs=0.01)


def test_same_seed_same_value_and_no_global_randomness() -> None:
    labels = torch.arange(40).remainder(3).eq(0).float()
    h, patterns, discriminator = torch.randn(40, 2), torch.randn(40, 4), BilinearDiscriminator(2, 4)
    before = torch.get_rng_state()
    values = [sufficiency(h, patterns, labels, discriminator, seeded(seed)).item() for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("history", [False, True])
def test_gradients(history: bool) -> None:
    torch.manual_seed(1)
    labels = torch.tensor([1.0, 0, 0, 1, 0])
    discriminator = BilinearDiscriminator(2, 3).double()
    h = torch.randn(5, 3, 2) if history else torch.randn(5, 2)
    inputs = (h.double().requires_grad_(), torch.randn(5, 3).double().requires_grad_())
    weights = tuple(weight.detach().clone().requires_grad_() for weight in discriminator.parameters())

    def loss(h: Tensor, patterns: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        state = {"weight": weight, "bias": bias}
        return sufficiency(h, patterns, labels, lambda a, b: torch.func.functional_call(discriminator, state, (a, b)), seeded())

    assert torch.autograd.gradcheck(loss, (*inputs, *weights))
    loss(*inputs, *weights).backward()
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in (*inputs, weights[0]))


@pytest.mark.parametrize("scale", [-1e4, 1e4])
def test_large_logits_stay_finite(scale: float) -> None:
    labels = torch.arange(20).remainder(2).float()
    discriminator = BilinearDiscriminator(4, 4)
    h, patterns = (scale * torch.randn(20, 4)).requires_grad_(), torch.randn(20, 4).requires_grad_()
    loss = sufficiency(h, patterns, labels, discriminator, seeded())
    loss.backward()
    assert loss.isfinite()
    assert h.grad is not None
    assert h.grad.isfinite().all()
    assert patterns.grad is not None
    assert patterns.grad.isfinite().all()


def test_optimum_is_two_ln_two_minus_twice_the_jensen_shannon_divergence() -> None:
    """h and H one-hot over {a, b}, P(a | click) = .8, P(a | none) = .2, drawn apart.

    Same-class pairs: (.34, .16, .16, .34); cross-class pairs: (.16, .34, .34, .16).  The best logit is their log ratio.
    """
    same, cross = torch.tensor([0.34, 0.16]), torch.tensor([0.16, 0.34])
    middle = (same + cross) / 2
    divergence = sum((p * (p / middle).log()).sum() for p in (same, cross)).item()  # both halves of the table alike
    best = 2 * math.log(2) - 2 * divergence
    assert best == pytest.approx(1.2537, abs=1e-4)
    labels = torch.arange(20_000).remainder(2).double()
    chance = torch.where(labels > 0, 0.8, 0.2)
    h, patterns = (
        torch.nn.functional.one_hot((torch.rand(20_000, generator=seeded(s)) > chance).long(), 2).double() for s in (1, 2)
    )
    ratio = math.log(0.34 / 0.16)
    discriminator = silent(2, 2)

    def at(logit: float) -> float:
        with torch.no_grad():
            discriminator.weight.copy_(logit * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
        return sufficiency(h, patterns, labels, discriminator, seeded()).item()

    assert at(ratio) == pytest.approx(best, abs=0.01)
    assert at(ratio) < min(at(0.5 * ratio), at(1.7 * ratio), at(-ratio))
    optimiser = torch.optim.LBFGS(discriminator.parameters(), max_iter=50)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = sufficiency(h, patterns, labels, discriminator, seeded())
        loss.backward()
        return loss

    optimiser.step(closure)
    assert closure().item() == pytest.approx(best, abs=0.01)
