"""AutoCF: parts of the graph are hidden around chosen nodes, and attention over random pairs finds them (Xia et al., WWW 2023).

Every ``refresh`` steps, with A the edges both ways, s of the neighbours within two hops of e:
    score = log sigmoid cos(s, e) + Gumbel noise, whose mean is to grow (infomax, in those steps); the ``seeds`` best are hidden
    encoder graph: A without edges at seeds, and (``hidden_hops`` - 1 times) without edges at their neighbours
    decoder graph: encoder graph + loops + |A| random pairs, both ways, of hidden nodes, their neighbours and ``extra`` N others
Each step:  h_{l+1} = A_enc h_l    t = attention of h_L along the decoder graph, of several heads    x = e + h_1 + .. + h_L + t
    prediction -mean x_u . x_i    partition LSE(x_u; all items), a mean over the batch
    spread     LSE(x_u; all users) + LSE(x_i; all items), means over distinct nodes of the batch    LSE log sum exp of products
In evaluation both graphs are A.  Negatives are drawn where ``negatives`` asks for them, which it may beside a method that reads
them.  The seeds are a number, not a share: of a small or dense graph the 100 of the public code hide nearly all (of RLMRec's
Amazon-book a quarter, of MovieLens latest small 97 %), which is said.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field as Setting
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from braidrec.collaborative.config import NodesConfig
from braidrec.collaborative.contracts import Backbone, Parts, Propagated
from braidrec.collaborative.graph import Graph
from braidrec.collaborative.pairs import PairBatch
from braidrec.collaborative.propagation import Sparse, exact, neighbours
from braidrec.errors import ConfigError
from braidrec.objectives.partition import log_partition
from braidrec.registry import Spec
from braidrec.strict import DEEPEST, LONGEST, Count, Depth

_log = logging.getLogger(__name__)
_CLAMP = 10.0  # of attention's logits
_LEFT = 0.1  # share of the edges: fewer are hardly a graph to learn from
_SMALL = 1e-8


class AutoCFConfig(NodesConfig):
    """depth: L    uniformity: weight of the loss "spread"; a method may have one that is called uniformity"""

    negatives: int = Setting(default=0, ge=0, le=LONGEST)
    depth: int = Setting(default=2, ge=0, le=DEEPEST)
    heads: Depth = 4
    seeds: Count = 100
    hidden_hops: Depth = 2
    refresh: Count = 10
    extra: float = Setting(default=0.2, ge=0, le=1)
    uniformity: NonNegativeFloat = 1.0


@dataclass(frozen=True)
class Views:
    """encoder: symmetric, normalised    decoder: its pattern alone, loops and no pair twice"""

    encoder: Sparse
    decoder: Sparse


class AutoCF(nn.Module, Backbone):
    """turn (): steps so far    seeds (s,), salt (): what the present views follow from, so that a resumed run has the same"""

    predicts = True
    turn: Tensor
    seeds: Tensor
    salt: Tensor

    def __init__(self, config: AutoCFConfig, parts: Parts):
        super().__init__()
        if config.dim % config.heads:
            raise ConfigError(f"model: dim = {config.dim} is no multiple of heads = {config.heads}; change one of them")
        self.config = config
        size = (config.dim, config.dim)
        self.query, self.key, self.value = (nn.Parameter(nn.init.xavier_uniform_(torch.empty(size))) for _ in range(3))
        nodes = parts.num_users + parts.num_items
        self.register_buffer("turn", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seeds", torch.zeros(min(config.seeds, nodes), dtype=torch.int64))
        self.register_buffer("salt", torch.zeros((), dtype=torch.int64))
        self._views: tuple[Views, ...] = ()
        self._told = False
        self._passed: int | None = None  # ``turn``, on the host: no step waits for a device to say it

    @property
    def weights(self) -> Mapping[str, float]:
        return {"prediction": 1.0, "partition": 1.0, "spread": self.config.uniformity, "infomax": 1.0}

    def step(self, nodes: Tensor, graph: Graph, batch: PairBatch, rng: torch.Generator) -> Propagated:
        infomax = nodes.new_zeros(())
        passed = int(self.turn) if self._passed is None else self._passed
        if passed % self.config.refresh == 0:
            scores = self.seed_scores(graph.operator("ones", nodes.device), nodes, rng)
            infomax = -scores.mean()
            self.seeds.copy_(scores.detach().topk(len(self.seeds)).indices)
            self.salt.copy_(torch.randint(2**62, (), generator=rng))
            self._views = ()
        self.turn += 1
        self._passed = passed + 1
        found = self._combined(nodes, self.views(graph, nodes.device))
        users, items = found[: graph.num_users], found[graph.num_users :]
        own, chosen = found[batch.user], found[batch.item]
        again, count = batch.user.unique(return_counts=True)
        return Propagated(
            found,
            {
                "prediction": -(own * chosen).sum(dim=1).mean(),
                "partition": log_partition(found[again], items, count / len(batch)),
                "spread": log_partition(found[again], users) + log_partition(found[batch.item.unique()], items),
                "infomax": infomax,
            },
        )

    def embed(self, nodes: Tensor, graph: Graph) -> Tensor:
        whole = graph.operator("symmetric", nodes.device)
        return self._combined(nodes, Views(whole, whole))

    def seed_scores(self, ones: Sparse, nodes: Tensor, rng: torch.Generator) -> Tensor:
        """(N,) log sigmoid of how alike a node and what is around it are, with noise."""
        degree = ones.row_sums()[:, None]
        first = neighbours(ones, nodes) - nodes
        second = neighbours(ones, first) - first - degree * nodes
        count = degree + (ones.times(degree) - degree) - degree
        around = F.normalize((first + second) / (count + _SMALL), dim=1)
        drawn = torch.rand(len(nodes), generator=rng).clamp_min(_SMALL).to(nodes.device)
        return F.logsigmoid((around * F.normalize(nodes, dim=1)).sum(dim=1)) - torch.log(-torch.log(drawn))

    def views(self, graph: Graph, device: torch.device) -> Views:
        """By ``seeds`` and ``salt``, made once for each."""
        if not self._views:
            rng, whole = torch.Generator().manual_seed(int(self.salt)), graph.operator("symmetric", device)
            self._views = (hidden(whole, self.seeds, self.config, rng),)
            self._tell(len(self._views[0].encoder.column) / max(len(whole.column), 1))
        return self._views[0]

    def _tell(self, left: float) -> None:
        if left < _LEFT and not self._told:
            self._told = True
            _log.warning(
                "AutoCF: its %d seeds and what is around them hide all but %.1f %% of this graph's edges, so little is left to "
                "train on; take fewer (model.seeds), or model.hidden_hops = 1",
                len(self.seeds),
                100 * left,
            )

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], *rest: Any) -> None:
        self._views, self._passed = (), None
        super()._load_from_state_dict(state_dict, *rest)

    def _combined(self, nodes: Tensor, views: Views) -> Tensor:
        found = layer = nodes
        for _ in range(self.config.depth):
            layer = neighbours(views.encoder, layer)
            found = found + layer
        query, key, value = (layer @ weight for weight in (self.query, self.key, self.value))
        return found + attention(query, key, value, views.decoder, self.config.heads)


def hidden(whole: Sparse, seeds: Tensor, config: AutoCFConfig, rng: torch.Generator) -> Views:
    """Both views of a step."""
    size, row, column = len(whole), whole.row, whole.column.long()
    frontier, pool = _marked(seeds, size), _marked(seeds, size)
    for hop in range(1, config.hidden_hops + 1):
        touched = frontier[row] | frontier[column]
        frontier = _marked(torch.cat([row[touched], column[touched]]), size)
        row, column = row[~touched], column[~touched]
        if hop < config.hidden_hops:
            pool |= frontier
    others = torch.randint(size, (int(config.extra * size),), generator=rng).to(row.device)
    pool[others] = True
    nodes = pool.nonzero().squeeze(1)
    first, second = (nodes[torch.randint(len(nodes), (len(whole.value),), generator=rng).to(row.device)] for _ in range(2))
    loops = torch.arange(size, device=row.device)
    keys = torch.cat([first * size + second, second * size + first, loops * (size + 1), row * size + column]).unique()
    degree = torch.bincount(row, minlength=size).float()
    scale = torch.where(degree > 0, degree.rsqrt(), 0)
    decoder = Sparse.of_entries(keys // size, keys % size, torch.ones(len(keys), device=row.device), size)
    return Views(Sparse.of_entries(row, column, scale[row] * scale[column], size), decoder)


def _marked(nodes: Tensor, size: int) -> Tensor:
    found = torch.zeros(size, dtype=torch.bool, device=nodes.device)
    found[nodes] = True
    return found


def attention(query: Tensor, key: Tensor, value: Tensor, pattern: Sparse, heads: int) -> Tensor:
    """(N, d): each head's own columns of ``value`` (N, d), mixed over the entries of a row by exp(q_row . k_column)."""
    found: Tensor = _Attention.apply(exact(query), exact(key), exact(value), pattern, heads)
    return found


class _Attention(torch.autograd.Function):
    """Row softmax of clamped logits, head by head; one number is kept for each entry and head."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, pattern: Sparse, heads: int) -> Tensor:
        parts, shares, found = [_split(each, heads) for each in (query, key, value)], [], []
        for own, other, mixed in zip(*parts, strict=True):
            logits = pattern.products(own, other)
            mass = pattern.valued_alike(logits.clamp(-_CLAMP, _CLAMP).exp_())
            share = mass.value / (mass.row_sums() + _SMALL)[mass.row]
            shares += [share, logits.abs() < _CLAMP]
            found.append(pattern.valued_alike(share).times(mixed))
        ctx.save_for_backward(query, key, value, *shares)
        ctx.pattern, ctx.heads = pattern, heads
        return torch.cat(found, dim=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *shares = ctx.saved_tensors
        pattern: Sparse = ctx.pattern
        parts, found = [_split(each, ctx.heads) for each in (query, key, value, grad)], []
        for at, (own, other, mixed, given) in enumerate(zip(*parts, strict=True)):
            share, inside = shares[2 * at : 2 * at + 2]
            to_share = pattern.products(given, mixed)
            spread = pattern.valued_alike(share * to_share).row_sums()
            to_logits = pattern.valued(share * (to_share - spread[pattern.row]) * inside)
            turned = pattern.valued(share).turned_times(given)
            found.append((to_logits.times(other), to_logits.turned_times(own), turned))
        return *(torch.cat(each, dim=1) for each in zip(*found, strict=True)), None, None


def _split(nodes: Tensor, heads: int) -> list[Tensor]:
    return [each.contiguous() for each in nodes.chunk(heads, dim=1)]


SPEC = Spec(
    "autocf",
    "AutoCF",
    AutoCFConfig,
    AutoCF,
    presets={
        "authors": {
            "dim": 32,
            "l2": 1e-6,
            "depth": 2,
            "heads": 4,
            "seeds": 100,
            "refresh": 10,
            "extra": 0.2,
            "uniformity": 5.0,
        },
        "ours": {},
    },
)
