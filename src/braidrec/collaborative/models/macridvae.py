"""MacridVAE: a variational autoencoder whose items belong to facets, people having vectors in each (Ma et al. 2019).

    c_ik = softmax_k(h_i . m_k / tau), h items and m facets at length 1; in training a Gumbel-softmax sample at temperature 1
    facet k: x_k = x c_k at length 1, half of it dropped; two layers give mu_k, at length 1, and v_k; std = std_0 exp(v_k / 2)
    z_k = mu_k + eps std, at length 1    p_i = sum_k c_ik exp(z_k . h_i / tau), a softmax's numerator
    loss    mean over people of -sum_i x_i log p_i / sum_j p_j  +  beta sum_k 1/2 sum(e^v_k - 1 - v_k)
The part of the KL divergence that mu has is a number, as mu's length is 1.  A score is log p_i of z = mu.
Explanation: an item's share is what each facet has in p_i, times the item's part in the person's row of that facet.
Somebody new goes through the encoder as somebody known does, so nothing is kept of users.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field as Setting
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from braidrec.collaborative.autoencoding import Annealing, entry_table, kept_of, normal, with_padding
from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.contracts import MatrixModel, Parts
from braidrec.collaborative.graph import Graph
from braidrec.collaborative.user_rows import UserBatch, UserBatches
from braidrec.errors import ConfigError
from braidrec.registry import Spec
from braidrec.strict import Depth, Strict, Width, because
from braidrec.training.config import TrainingConfig
from braidrec.training.seeding import spawn
from braidrec.training.stages import AnyStage, Stage, main_group
from braidrec.training.step import Step


class MacridVAEConfig(Strict):
    """facets: K    dim: d of each    tau, std: see above, std that of v = 0    sampled: whether training samples c
    beta, anneal_epochs: the KL term's weight rises by 1 in so many epochs, to beta; 0: it is beta from the start
    """

    facets: Depth = 7
    dim: Width = 100
    tau: PositiveFloat = 0.1
    std: NonNegativeFloat = 0.075
    sampled: bool = True
    dropout: float = Setting(default=0.5, ge=0, lt=1)
    beta: NonNegativeFloat = 0.2
    anneal_epochs: NonNegativeFloat = 5.0

    def idle(self) -> Mapping[str, str]:
        return because((not self.beta, "beta = 0", "anneal_epochs"))


class MacridVAE(nn.Module, MatrixModel):
    """items (I + 1, d)    facets (K, d)    entry (I + 1, d), bias (d,), inner: the encoder, the same of every facet"""

    def __init__(self, config: MacridVAEConfig, parts: Parts):
        super().__init__()
        self.num_items, self.config = parts.num_items, config
        self.items = nn.Parameter(nn.init.xavier_uniform_(torch.empty(parts.num_items + 1, config.dim)))
        self.facets = nn.Parameter(nn.init.xavier_uniform_(torch.empty(config.facets, config.dim)))
        self.entry = entry_table(parts.num_items, config.dim, parts.data)
        self.bias = nn.Parameter(torch.zeros(config.dim))
        self.inner = nn.Linear(config.dim, 2 * config.dim)
        self.annealing = Annealing(config.beta, config.anneal_epochs)
        self.people = 0 if parts.data is None else int((parts.data.user_counts > 0).sum())
        self._draws = torch.Generator().manual_seed(spawn(parts.seed, "macridvae"))

    # -- training -----------------------------------------------------------------------------------------------------

    def generators(self) -> Mapping[str, torch.Generator]:
        return {"draws": self._draws}

    def batches(self, graph: Graph, training: TrainingConfig, seed: int) -> UserBatches:
        return UserBatches(graph, training.batch_size, seed=seed)

    def step(self, batch: UserBatch) -> Step:
        items, belongs = self.belonging()
        mean, spread = self.encoded(batch.baskets, belongs)
        drawn = F.normalize(mean + normal(mean, self._draws) * self.config.std * (spread / 2).exp(), dim=2)
        joint = self.joint(drawn, items, belongs)
        share = self.annealing.share(len(batch), self.people)
        return Step(
            lambda: {
                "reconstruction": -log_likelihood(joint, batch.baskets).mean(),
                "kl": share * divergence(spread).mean(),
            }
        )

    def belonging(self) -> tuple[Tensor, Tensor]:
        """(I + 1, d) items at length 1, and (I + 1, K) log c; in training a sample, unless the settings say otherwise."""
        items = F.normalize(self.items, dim=1)
        logits = (items @ F.normalize(self.facets, dim=1).T).to(items) / self.config.tau  # of half precision under autocast
        if self.training and self.config.sampled:
            drawn = torch.rand(logits.shape, generator=self._draws).clamp_(1e-20, 1 - 1e-7)
            logits = logits - drawn.log_().neg_().log_().to(logits)
        return items, F.log_softmax(logits, dim=1)

    def encoded(self, baskets: Baskets, belongs: Tensor) -> tuple[Tensor, Tensor]:
        """(b, K, d) mu and v; in training of what dropout leaves.  belongs: log c"""
        people, facets = len(baskets), self.config.facets
        own = belongs[baskets.item].exp()
        lengths = own.new_zeros(people, facets).index_add(0, baskets.owner, own.square()).clamp_min(1e-12).sqrt()
        weight = own / lengths[baskets.owner]
        if self.training and self.config.dropout:
            weight = weight * kept_of(tuple(weight.shape), self.config.dropout, self._draws, weight.device)
        turns = torch.arange(facets, device=weight.device)[:, None] * len(baskets.item)
        start = torch.cat([(baskets.start[:-1] + turns).flatten(), turns.new_full((1,), facets * len(baskets.item))])
        rows = Baskets(start, baskets.item.repeat(facets)).times(self.entry, weight.T.reshape(-1))
        hidden = (rows.view(facets, people, -1).transpose(0, 1) + self.bias).tanh()
        mean, spread = self.inner(hidden).chunk(2, dim=2)
        return F.normalize(mean, dim=2), -spread

    def joint(self, vectors: Tensor, items: Tensor, belongs: Tensor) -> Tensor:
        """(b, K, I) log of what each facet has in p, of people with vectors (b, K, d): one product, log c among the widths."""
        unit = torch.eye(self.config.facets, device=vectors.device).expand(len(vectors), -1, -1)
        table = torch.cat([items[1:] / self.config.tau, belongs[1:]], dim=1)
        return torch.cat([vectors, unit], dim=2) @ table.T

    # -- answers ------------------------------------------------------------------------------------------------------

    @property
    def num_rows(self) -> int:
        return self.num_items + 1

    def scores(self, baskets: Baskets) -> Tensor:
        items, belongs = self.belonging()
        return with_padding(torch.logsumexp(self.joint(self.encoded(baskets, belongs)[0], items, belongs), dim=1))

    def shares(self, items: Tensor, target: int) -> tuple[Tensor, Tensor | None]:
        """They add up to 1: the score is a logarithm, whose parts are none."""
        table, belongs = self.belonging()
        vectors = self.encoded(Baskets(items.new_tensor([0, len(items)]), items), belongs)[0][0]
        of_facet = F.softmax(vectors @ table[target] / self.config.tau + belongs[target], dim=0)
        own = belongs[items].exp().square()
        return own / own.sum(0).clamp_min(torch.finfo(own.dtype).tiny) @ of_facet, None

    def item_vectors(self) -> Mapping[str, Tensor]:
        return {"items": F.normalize(self.items.detach(), dim=1)}


def log_likelihood(joint: Tensor, baskets: Baskets) -> Tensor:
    """(b,) sum of log(p_i / sum_j p_j) of what each has, from what facets have in p (b, K, I), logarithms."""
    owner = baskets.owner
    own = torch.logsumexp(joint.transpose(1, 2)[owner, baskets.item - 1], dim=1)
    return own.new_zeros(len(baskets)).index_add(0, owner, own - torch.logsumexp(joint.flatten(1), dim=1)[owner])


def divergence(spread: Tensor) -> Tensor:
    """(b,) 1/2 sum(e^v - 1 - v) of v (b, K, d)."""
    return 0.5 * (spread.exp() - 1 - spread).sum(dim=(1, 2))


def stages(config: MacridVAEConfig, parts: Parts) -> list[AnyStage]:
    if config.facets > parts.num_items:
        raise ConfigError(
            f"macridvae: model.facets = {config.facets} with {parts.num_items:,} items, of which each facet should have some; "
            "take fewer facets"
        )
    module = MacridVAE(config, parts)
    return [Stage("train", module, {"reconstruction": 1.0, "kl": config.beta}, [main_group(module)])]


SPEC = Spec(
    "macridvae",
    "MacridVAE",
    MacridVAEConfig,
    stages,
    presets={"authors": {}, "ours": {"sampled": False}},
    training={
        "authors": {"batch_size": 500, "max_epochs": 200, "patience": 200, "epochs_per_check": 1},
        "ours": {"batch_size": 64, "max_epochs": 300, "patience": 10, "epochs_per_check": 2},
    },
)
