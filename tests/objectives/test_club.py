"""vCLUB against brute force, its closed form on correlated Gaussians, and the collapse that the stable form prevents."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from braidrec.errors import ConfigError
from braidrec.objectives.club import VClub


class TrueGaussian(VClub):
    """The conditional that made `correlated`'s pairs, in place of a learned one."""

    def __init__(self, rho: float, dim: int, **options: bool):
        super().__init__(dim, **options)
        self.rho = rho

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.rho * x, torch.full_like(x, math.log(1 - self.rho**2))


def correlated(rho: float, dim: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, count, dim, generator=rng, dtype=torch.float64)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def train(club: VClub, x: Tensor, y: Tensor, steps: int = 500) -> None:
    optimiser = torch.optim.Adam(club.parameters(), lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        club.learning_loss(x, y).backward()
        optimiser.step()


def make(dim: int, target: int | None = None, seed: int = 0, **options: object) -> VClub:
    torch.manual_seed(seed)
    return VClub(dim, target, **options).double()


@pytest.mark.parametrize("estimator", ["gaussian", "bilinear"])
@pytest.mark.parametrize("count", [1, 2, 17])
def test_moments_equal_every_pair(estimator: str, count: int) -> None:
    club = make(6, 4, estimator=estimator)
    x, y = torch.randn(count, 6).double(), 3 + torch.randn(count, 4).double()
    mean, log_variance = club(x)
    total = 0.0
    for i in range(count):
        for d in range(4):
            variance = math.exp(log_variance[i, d].item())
            apart = sum((y[j, d] - mean[i, d]).item() ** 2 for j in range(count)) / count
            total += (apart - (y[i, d] - mean[i, d]).item() ** 2) / (2 * variance)
    assert club.value(x, y).item() == pytest.approx(total / count, abs=1e-9)


def test_two_samples_by_hand() -> None:
    club = TrueGaussian(0.0, 1)
    club.forward = lambda x: (2 * x, torch.zeros_like(x))  # type: ignore[method-assign]
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [3.0]])
    # mu = 0, 2: own squares 1, 1; mean squares over j (1 + 9) / 2 = 5 and (1 + 1) / 2 = 1; half of the mean of 4, 0 is 1
    assert club.value(x, y).item() == pytest.approx(1.0)
    assert club.learning_loss(x, y).item() == pytest.approx(1.0)


def test_learning_by_hand_where_the_variance_is_none_of_one() -> None:
    """Means 0, logarithms of variances 1 and -.5 of two dimensions: (1 + 9) / 2e + 1, and (4 + 16) / 2 times e^.5 less .5."""
    club = TrueGaussian(0.0, 2)
    club.forward = lambda x: (0 * x, torch.tensor([1.0, -0.5]).expand_as(x))  # type: ignore[method-assign]
    loss = club.learning_loss(torch.zeros(2, 2), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert loss.item() == pytest.approx((5 / math.e + 1) + (10 * math.exp(0.5) - 0.5))


@pytest.mark.parametrize(("rho", "expected"), [(0.3, 0.4945), (0.5, 1.6667), (0.7, 4.8039), (0.9, 21.316)])
def test_true_conditional_gives_the_closed_form(rho: float, expected: float) -> None:
    assert 5 * rho**2 / (1 - rho**2) == pytest.approx(expected, rel=1e-3)
    x, y = correlated(rho, 5, 20_000)
    value = TrueGaussian(rho, 5).value(x, y).item()
    assert value == pytest.approx(expected, rel=0.05)
    assert value >= -2.5 * math.log(1 - rho**2)  # the mutual information itself


def test_trained_estimate_stays_above_the_mutual_information() -> None:
    x, y = correlated(0.5, 5, 2_000)
    club = make(5, hidden=8)
    train(club, x, y)
    assert 0.7192 - 0.05 <= club.value(x, y).item() <= 2.2


def test_bilinear_is_the_mean_diagonal_minus_the_mean() -> None:
    club = make(5, estimator="bilinear")
    x, y = correlated(0.6, 5, 300)
    scores = y @ club.mean.weight @ x.T
    assert club.value(x, y).item() == pytest.approx((scores.diagonal().mean() - scores.mean()).item(), abs=1e-9)


@pytest.mark.parametrize(("rho", "bound_holds"), [(0.3, True), (0.5, True), (0.8, True), (0.95, False)])
def test_bilinear_optimum_is_no_bound_under_strong_correlation(rho: float, bound_holds: bool) -> None:
    x, y = correlated(rho, 5, 20_000)
    club = make(5, estimator="bilinear")
    with torch.no_grad():
        club.mean.weight.copy_(torch.linalg.lstsq(x, y).solution.T)  # the maximum likelihood
    value = club.value(x, y).item()
    assert value == pytest.approx(5 * rho**2, rel=0.05)
    assert (value >= -2.5 * math.log(1 - rho**2)) == bound_holds


def test_independent_pairs_and_permuted_rows_give_about_nothing() -> None:
    x, y = correlated(0.0, 5, 4_000)
    club = make(5)
    train(club, x, y, steps=300)
    assert abs(club.value(x, y).item()) <= 0.05 * 5
    x, y = correlated(0.7, 5, 20_000)
    shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))]
    assert abs(TrueGaussian(0.7, 5).value(x, shuffled).item()) <= 0.05 * 5


def test_sampled_estimates_the_same_number() -> None:
    x, y = correlated(0.5, 5, 20_000)
    club = make(5, estimator="sampled")
    every_pair = make(5)
    every_pair.load_state_dict(club.state_dict())
    draws = [club.value(x, y, torch.Generator().manual_seed(seed)).item() for seed in range(8)]
    assert sum(draws) / 8 == pytest.approx(every_pair.value(x, y).item(), abs=0.02)
    assert len(set(draws)) == 8
    assert club.value(x, y, torch.Generator().manual_seed(3)).item() == draws[3]
    with pytest.raises(ConfigError, match="pass generator"):
        club.value(x, y)


@pytest.mark.parametrize("estimator", ["gaussian", "bilinear", "sampled"])
@pytest.mark.parametrize("options", [{}, {"per_dimension": True, "floor": True, "normalise": True}])
def test_gradients(estimator: str, options: dict[str, bool]) -> None:
    club = make(3, 2, seed=4, estimator=estimator, **options)
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(5, 3, dtype=torch.float64, generator=rng), torch.randn(5, 2, dtype=torch.float64, generator=rng)
    x.requires_grad_(), y.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: club.value(a, b, torch.Generator().manual_seed(0)), (x, y))

    def loss(*weights: Tensor) -> Tensor:
        return torch.func.functional_call(Learning(club), dict(zip(names, weights, strict=True)), (x, y))

    names = [f"club.{name}" for name, _ in club.named_parameters()]
    assert torch.autograd.gradcheck(loss, tuple(weight.detach().clone().requires_grad_() for weight in club.parameters()))


class Learning(torch.nn.Module):
    def __init__(self, club: VClub):
        super().__init__()
        self.club = club

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.club.learning_loss(x, y)


def test_each_step_moves_only_its_own_side() -> None:
    club = make(4)
    x, y = torch.randn(2, 9, 4).double().requires_grad_().unbind()
    x.retain_grad(), y.retain_grad()
    club.value(x, y).backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert y.grad is not None
    assert y.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in club.parameters())
    x.grad = y.grad = None
    club.learning_loss(x, y).backward()
    assert x.grad is None
    assert y.grad is None
    assert all(weight.grad is not None for weight in club.parameters())


def test_scale_and_floor() -> None:
    x, y = correlated(0.5, 5, 500)
    assert TrueGaussian(0.5, 5, per_dimension=True).value(x, y) == TrueGaussian(0.5, 5).value(x, y) / 5
    low = (-y).requires_grad_()
    assert TrueGaussian(0.5, 5).value(x, low) < -1
    floored = TrueGaussian(0.5, 5, floor=True)
    value = floored.value(x, low)
    value.backward()
    assert value.item() == 0
    assert low.grad is not None
    assert not low.grad.any()
    assert floored.estimate(x, low) < -1  # what a log should show beside the floored term


def test_the_literal_form_can_be_lowered_without_end_and_the_stable_form_cannot() -> None:
    """A model that only wants a low estimate: the literal form pays for growing norms, the stable one does not."""

    def attack(**options: bool) -> tuple[float, float]:
        torch.manual_seed(0)
        club = VClub(8, **options).double()
        x, y = correlated(0.5, 8, 256)
        y = y.clone().requires_grad_()
        optimiser = torch.optim.Adam([y], lr=0.5)
        for _ in range(200):
            optimiser.zero_grad()
            club.value(x, y).backward()
            optimiser.step()
        return club.value(x, y).item(), y.detach().norm(dim=1).mean().item()

    literal, grown = attack()
    stable, kept = attack(per_dimension=True, floor=True, normalise=True)
    assert literal < -100
    assert grown > 10 * kept
    assert stable == pytest.approx(0.0, abs=1e-3)


def test_normalised_estimate_ignores_scale() -> None:
    club = make(6, normalise=True)
    x, y = correlated(0.5, 6, 40)
    assert club.value(1000 * x, 1000 * y).item() == pytest.approx(club.value(x, y).item(), abs=1e-4)


@pytest.mark.parametrize("estimator", ["gaussian", "bilinear", "sampled"])
@pytest.mark.parametrize("options", [{}, {"per_dimension": True, "floor": True, "normalise": True}])
@pytest.mark.parametrize("offset", [-1e4, 1e4])
def test_large_inputs_stay_finite(estimator: str, options: dict[str, bool], offset: float) -> None:
    club = make(8, estimator=estimator, **options).float()
    x = (torch.randn(32, 8) * 1e4 + offset).requires_grad_()
    y = (torch.randn(32, 8) * 1e4 + offset).requires_grad_()
    value = club.value(x, y, torch.Generator().manual_seed(0))
    (value + club.learning_loss(x, y)).backward()
    assert value.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert y.grad is not None
    assert y.grad.isfinite().all()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in club.parameters())


def test_common_offset_does_not_cost_precision() -> None:
    """float32 around 1e4: squaring before subtracting would leave an error of several units."""
    x, y = correlated(0.7, 5, 4_000)
    exact = TrueGaussian(0.7, 5)
    exact.forward = lambda x: (0.7 * x + 1e4, torch.zeros_like(x))  # type: ignore[method-assign]
    wide, narrow = exact.value(x, y + 1e4), exact.value(x.float(), (y + 1e4).float())
    assert narrow.item() == pytest.approx(wide.item(), abs=0.02)


def test_default_widths_and_variance_range() -> None:
    club = make(32, 16)
    assert [layer.out_features for layer in club.mean if isinstance(layer, torch.nn.Linear)] == [8, 16]
    _, log_variance = club(100 * torch.randn(50, 32).double())
    assert log_variance.abs().max() <= 1
    with pytest.raises(ConfigError, match="'gauss' is unknown"):
        VClub(4, estimator="gauss")  # type: ignore[arg-type]
