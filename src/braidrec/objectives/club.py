"""vCLUB: an upper estimate of mutual information from a learned conditional (Cheng et al., ICML 2020; DisCo, eqs. 5-6, 26).

    I_vCLUB(X; Y) = E_p(x,y)[log q(y|x)] - E_p(x)E_p(y)[log q(y|x)]     q = N(mu(x), diag exp logvar(x))
    x -> given (B, D_x)    y -> target (B, D_y)

The estimator learns q by maximum likelihood on detached inputs; the model then lowers the estimate through x and y while
q stands still.  It bounds the mutual information only while q is close to p(y|x).

Options beyond the papers (all off = the literal form).  The literal estimate has no lower end, so a model can lower it
faster than q follows: norms then grow without limit and the ranking is lost.  ``normalise`` takes the norm out of the
game, ``per_dimension`` makes the scale independent of the width, ``floor`` stops the reward below zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidrec.errors import ConfigError
from braidrec.objectives.partners import partners

Estimator = Literal["gaussian", "bilinear", "sampled"]


class VClub(nn.Module):
    """One estimator for one pair of representations.

    ``gaussian``: mean and log variance by two small networks, the variance kept in [1/e, e]; all B^2 pairs, in O(B D).
    ``sampled``: the same q, the second expectation by one random permutation of the batch.
    ``bilinear``: mean W x and unit variance, a pure bilinear form; no upper bound under strong correlation (|rho| > .893).

    dim: width of x.  target_dim: width of y (default: dim).  hidden: width inside q (default: target_dim / 2).
    """

    def __init__(
        self,
        dim: int,
        target_dim: int | None = None,
        *,
        estimator: Estimator = "gaussian",
        hidden: int | None = None,
        per_dimension: bool = False,
        floor: bool = False,
        normalise: bool = False,
    ):
        super().__init__()
        if estimator not in ("gaussian", "bilinear", "sampled"):
            raise ConfigError(f"vCLUB estimator = {estimator!r} is unknown (accepted: gaussian, bilinear, sampled)")
        self.target_dim = target_dim or dim
        self.estimator, self.per_dimension, self.floor, self.normalise = estimator, per_dimension, floor, normalise
        hidden = hidden or max(self.target_dim // 2, 1)
        self.mean: nn.Module
        self.log_variance: nn.Module | None = None
        if estimator == "bilinear":
            self.mean = nn.Linear(dim, self.target_dim, bias=False)
        else:
            self.mean = _mlp(dim, hidden, self.target_dim)
            self.log_variance = nn.Sequential(_mlp(dim, hidden, self.target_dim), nn.Tanh())
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(y|x), each (B, D_y).  x: (B, D_x), already normalised if that is asked for."""
        mean = self.mean(x)
        return mean, torch.zeros_like(mean) if self.log_variance is None else self.log_variance(x)

    def value(
        self, x: Tensor, y: Tensor, generator: torch.Generator | None = None, groups: Groups | Tensor | None = None
    ) -> Tensor:
        """The term a model minimises: `estimate`, scaled and floored as configured.  Scalar.

        Below the floor every gradient is zero, so on a CPU none is taken through q; elsewhere no step waits to learn of it.
        """
        estimate = self.estimate(x, y, generator, groups)
        if self.floor and estimate.is_cpu and estimate.item() <= 0:
            return 0.0 * (x[:1].sum() + y[:1].sum())
        return self.bounded(estimate)

    def estimate(
        self, x: Tensor, y: Tensor, generator: torch.Generator | None = None, groups: Groups | Tensor | None = None
    ) -> Tensor:
        """I_vCLUB(X; Y) in nats, mean over the batch and sum over dimensions; may be negative (eq. 26).

        x: (B, D_x), y: (B, D_y), B >= 1.  Gradients reach x and y through q, never the weights of q.
        generator: draws the permutation of ``sampled``, which raises ConfigError without one.
        groups (B,) int: rows that are not drawn independently, such as those of one user; the second expectation then goes
        over rows of other groups, and over none where there is no other.  `Groups` of them are found once for many estimates.
        """
        x, y = self._inputs(x, y)
        groups = Groups.of(groups) if isinstance(groups, Tensor) else groups
        with standing(self):
            mean, log_variance = self(x)
        if self.estimator == "sampled":
            if generator is None:
                raise ConfigError("the vCLUB estimator 'sampled' draws a permutation: pass generator=torch.Generator()")
            if groups is None:
                partner = torch.randperm(len(y), generator=generator, device=generator.device).to(y.device)
            else:
                own = groups.ids
                partner = partners(own, torch.ones_like(own, dtype=torch.bool), (len(y),), generator)[0]
            other = y[partner]
            # (y' - mu)^2 - (y - mu)^2, factored so that large common offsets cancel before they are squared
            gap = (other - y) * (other + y - 2 * mean)
        else:
            # mean_j (y_j - mu)^2 = var(y) + (mean(y) - mu)^2, so all B^2 pairs need two moments of y
            centre = y.mean(dim=0)
            apart = y - centre
            if groups is None:
                gap = apart.square().mean(dim=0) - apart.square() + 2 * apart * (mean - centre)
            else:
                first, second = groups.of_others(apart), groups.of_others(apart.square())
                gap = second - apart.square() + 2 * (apart - first) * (mean - centre)
        terms = (gap * torch.exp(-log_variance) / 2).sum(dim=-1)
        if groups is not None:
            terms = terms * groups.several
        estimate: Tensor = terms.mean()
        return estimate

    def bounded(self, estimate: Tensor) -> Tensor:
        """``estimate`` divided by the width (``per_dimension``) and without gradient below zero (``floor``)."""
        scaled = estimate / self.target_dim if self.per_dimension else estimate
        return F.relu(scaled) if self.floor else scaled

    def learning_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Negative log likelihood of q without constants: mean over the batch of sum_d (y - mu)^2 / v + log v.  Scalar.

        x: (B, D_x), y: (B, D_y); both are detached here, so only the estimator learns.
        """
        x, y = self._inputs(x.detach(), y.detach())
        mean, log_variance = self(x)
        loss: Tensor = ((y - mean).square() * torch.exp(-log_variance) + log_variance).sum(dim=-1).mean()
        return loss

    def _inputs(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if not self.normalise:
            return x, y
        return F.layer_norm(x, x.shape[-1:]), F.layer_norm(y, y.shape[-1:])


@contextmanager
def standing(module: nn.Module) -> Iterator[None]:
    """Gradients go through ``module`` and to none of its weights."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


@dataclass(frozen=True)
class Groups:
    """Rows that are not drawn independently.

    ids (B,) int    place (B,) int64: which of the groups a row is of    count (G,) float32 rows of each
    several (): whether there is more than one
    """

    ids: Tensor
    place: Tensor
    count: Tensor
    several: Tensor

    @classmethod
    def of(cls, ids: Tensor) -> Groups:
        place = ids.unique(return_inverse=True)[1]
        count = torch.zeros(int(place.max()) + 1, device=ids.device)
        count.index_add_(0, place, torch.ones(len(place), device=ids.device))
        return cls(ids, place, count, (ids != ids[0]).any())

    def of_others(self, values: Tensor) -> Tensor:
        """(B, D) the mean of ``values`` (B, D) over the rows of other groups; of all rows where there is no other."""
        own = values.new_zeros(len(self.count), values.shape[1]).index_add(0, self.place, values)
        left = (len(values) - self.count)[:, None]
        return torch.where(left > 0, (own.sum(dim=0) - own) / left.clamp_min(1), values.mean(dim=0))[self.place]


def _mlp(dim: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, out))
