"""VAECF: a variational autoencoder of what people have, with a softmax of all items (Liang et al., WWW 2018).

    h = tanh(x W + b), .., mu, log v of the last    z = mu + eps v^1/2    pi = softmax of the mirrored layers of z
    loss    mean over people of -sum_i x_i log(pi_i + 1e-10) + beta KL(N(mu, v) || N(0, 1))
A score is the logarithm of pi of z = mu, up to a number of each person's own.  ``authors`` is the form of the library Cornac,
whose name this is; ``textbook`` that of Liang et al.: x of length 1, half of it dropped, beta rising by 1 in 200,000 steps
(855 epochs of theirs) up to .2.
Somebody new goes through the encoder as somebody known does, so nothing is kept of users.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from pydantic import Field as Setting
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from braidrec.collaborative.autoencoding import Annealing, entry_table, kept_of, normal, with_padding
from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.contracts import MatrixModel, Parts
from braidrec.collaborative.graph import Graph
from braidrec.collaborative.user_rows import UserBatch, UserBatches
from braidrec.registry import Spec
from braidrec.strict import Strict, Width, because
from braidrec.training.config import TrainingConfig
from braidrec.training.seeding import spawn
from braidrec.training.stages import AnyStage, Stage, main_group
from braidrec.training.step import Step

_LEAST = 1e-10  # added to each probability


class VAECFConfig(Strict):
    """dim: of z    hidden: widths from x on; mirrored behind z    normalised: whether x gets length 1
    beta, anneal_epochs: the KL term's weight rises by 1 in so many epochs, to beta; 0: it is beta from the start
    """

    dim: Width = 128
    hidden: tuple[Width, ...] = Setting(default=(256,), min_length=1)
    dropout: float = Setting(default=0.5, ge=0, lt=1)
    normalised: bool = True
    beta: NonNegativeFloat = 0.2
    anneal_epochs: NonNegativeFloat = 50.0

    def idle(self) -> Mapping[str, str]:
        return because((not self.beta, "beta = 0", "anneal_epochs"))


class VAECF(nn.Module, MatrixModel):
    """entry (I + 1, h), bias (h,): the first layer    inner: the encoder's rest, to (b, 2 k)    outer: decoder, to (b, I)"""

    def __init__(self, config: VAECFConfig, parts: Parts):
        super().__init__()
        self.num_items, self.config = parts.num_items, config
        first, *rest = config.hidden
        self.entry = entry_table(parts.num_items, first, parts.data)
        self.bias = nn.Parameter(torch.zeros(first))
        self.inner = _layers([first, *rest, 2 * config.dim])
        self.outer = _layers([config.dim, *reversed(config.hidden), parts.num_items])
        self.annealing = Annealing(config.beta, config.anneal_epochs)
        self.people = 0 if parts.data is None else int((parts.data.user_counts > 0).sum())
        self._draws = torch.Generator().manual_seed(spawn(parts.seed, "vaecf"))

    # -- training -----------------------------------------------------------------------------------------------------

    def generators(self) -> Mapping[str, torch.Generator]:
        return {"draws": self._draws}

    def batches(self, graph: Graph, training: TrainingConfig, seed: int) -> UserBatches:
        return UserBatches(graph, training.batch_size, seed=seed)

    def step(self, batch: UserBatch) -> Step:
        mean, logarithm = self.encoded(batch.baskets)
        logits = self.outer(mean + normal(mean, self._draws) * (logarithm / 2).exp())
        share = self.annealing.share(len(batch), self.people)
        return Step(
            lambda: {
                "reconstruction": -log_likelihood(logits, batch.baskets).mean(),
                "kl": share * divergence(mean, logarithm).mean(),
            }
        )

    def encoded(self, baskets: Baskets) -> tuple[Tensor, Tensor]:
        """(b, k) mu and log v; in training of what dropout leaves."""
        weight: Tensor | None = None
        if self.config.normalised:
            weight = baskets.counts.float().rsqrt()[baskets.owner]
        if self.training and self.config.dropout:
            kept = kept_of((len(baskets.item),), self.config.dropout, self._draws, self.entry.device)
            weight = kept if weight is None else weight * kept
        mean, logarithm = self.inner((baskets.times(self.entry, weight) + self.bias).tanh()).chunk(2, dim=1)
        return mean, logarithm

    # -- answers ------------------------------------------------------------------------------------------------------

    @property
    def num_rows(self) -> int:
        return self.num_items + 1

    def scores(self, baskets: Baskets) -> Tensor:
        return with_padding(self.outer(self.encoded(baskets)[0]))

    @property
    def unexplained(self) -> str:
        return "vaecf reads all that somebody has at once, so no part of a score is a single item's; explain ease instead"


def log_likelihood(logits: Tensor, baskets: Baskets) -> Tensor:
    """(b,) sum of log(pi + 1e-10) of what each has, pi the softmax of logits (b, I)."""
    owner = baskets.owner
    found = logits[owner, baskets.item - 1] - torch.logsumexp(logits, dim=1)[owner]
    found = torch.logaddexp(found, found.new_full((), math.log(_LEAST)))
    return found.new_zeros(len(baskets)).index_add(0, owner, found)


def divergence(mean: Tensor, logarithm: Tensor) -> Tensor:
    """(b,) KL divergence of N(mean, exp(logarithm)) from the standard normal distribution; both (b, k)."""
    return 0.5 * (mean.square() + logarithm.exp() - 1 - logarithm).sum(dim=1)


def _layers(widths: list[int]) -> nn.Sequential:
    """Linear layers with tanh between them."""
    found: list[nn.Module] = []
    for before, after in pairwise(widths):
        found += [nn.Tanh(), nn.Linear(before, after)]
    return nn.Sequential(*found[1:])


def stages(config: VAECFConfig, parts: Parts) -> list[AnyStage]:
    module = VAECF(config, parts)
    return [Stage("train", module, {"reconstruction": 1.0, "kl": config.beta}, [main_group(module)])]


SPEC = Spec(
    "vaecf",
    "VAECF",
    VAECFConfig,
    stages,
    presets={
        "authors": {"dim": 10, "hidden": (20,), "dropout": 0.0, "normalised": False, "beta": 1.0, "anneal_epochs": 0.0},
        "textbook": {"dim": 200, "hidden": (600,), "dropout": 0.5, "normalised": True, "beta": 0.2, "anneal_epochs": 855.0},
        "ours": {},
    },
    training={
        "authors": {"batch_size": 100, "max_epochs": 100, "patience": 100, "epochs_per_check": 1},
        "textbook": {"batch_size": 500, "max_epochs": 200, "patience": 200, "epochs_per_check": 1},
        "ours": {"batch_size": 64, "lr": 3e-3, "max_epochs": 300, "patience": 10, "epochs_per_check": 2},
    },
)
