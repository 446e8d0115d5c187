"""Node vectors that train: a table of users and items, a backbone that spreads it over the graph, and perhaps a method.

GraphModel    trains; in evaluation it answers by the vectors that the backbone makes of the whole training graph
NodeVectors   what a run keeps: final vectors of users and items, which need no graph

    score(u, i) = x_u . y_i    x, y (N, D) from the backbone
    somebody new, or known with news: x = M sum_i y_i / sqrt(d_i n), i the n items they have, d_i the training users of i;
    M (D, D) by ridge regression of the users of training on the same sum of theirs
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidrec.collaborative.answers import Answering, of_people
from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.config import NodesConfig, PairwiseConfig
from braidrec.collaborative.contracts import Backbone, Enhancer, MatrixModel, Parts, Widths, groups_of
from braidrec.collaborative.graph import Graph
from braidrec.collaborative.pairs import PairBatch, PairBatches
from braidrec.errors import ConfigError
from braidrec.objectives.partition import log_partition
from braidrec.registry import Spec
from braidrec.training.config import TrainingConfig
from braidrec.training.seeding import spawn
from braidrec.training.stages import AnyStage, Stage
from braidrec.training.step import Step

_RIDGE = 1e-3  # of the mean square of what is regressed on
STAGE = "train"


class NodeVectors(nn.Module, MatrixModel):
    """users (U + 1, D), items (I + 1, D) with zeros in row 0, trained (U + 1,) whether training had anything of a user
    inward (I + 1, D): what an item brings to the vector of who is folded in    turn (D, D): M, for items that come later
    """

    users: Tensor
    items: Tensor
    trained: Tensor
    inward: Tensor
    turn: Tensor

    def __init__(self, enhancer: nn.Module | None = None):
        super().__init__()
        self.enhancer = enhancer
        for name in ("users", "items", "trained", "inward", "turn"):
            self.register_buffer(name, None)

    @torch.no_grad()
    def put(self, nodes: Tensor, graph: Graph) -> None:
        """Final vectors (N, D) of the nodes of a graph."""
        nodes = F.pad(nodes.detach(), (0, 0, 1, 0))
        self.users = torch.cat([nodes[:1], nodes[1 : graph.num_users + 1]])
        self.items = torch.cat([nodes[:1], nodes[graph.num_users + 1 :]])
        self.trained = torch.from_numpy(graph.user_counts > 0).to(nodes.device)
        counts = torch.from_numpy(graph.item_counts).to(nodes.device).clamp_min(1)
        scaled = self.items / counts.sqrt()[:, None]
        own = _folded(Baskets.of_rows(graph.matrix).to(nodes.device), scaled)
        inner = own.T @ own
        inner.diagonal().add_(_RIDGE * inner.diagonal().mean() + torch.finfo(inner.dtype).tiny)
        self.turn = torch.linalg.solve(inner.double().cpu(), (own.T @ self.users).double().cpu()).to(nodes)
        self.inward = scaled @ self.turn

    @property
    def _by_text(self) -> Enhancer | None:
        found = cast(Enhancer | None, self.enhancer)
        return found if found is not None and found.knows_by_text else None

    @property
    def reads_text(self) -> bool:
        return self._by_text is not None

    @property
    def stand_in(self) -> str:
        return "" if self._by_text is None else self._by_text.stand_in

    @property
    def known_user(self) -> str:
        return (
            "a known user is answered by their vector as of training, which what came later does not change; given with newer "
            "items, they count as somebody new who has those and theirs; reasons are those of somebody new who has the same"
        )

    @property
    def new_user(self) -> str:
        return (
            "a new user gets the vector that users of training with such items have, by linear regression; without items, "
            "those that most have come first"
        )

    @property
    def num_rows(self) -> int:
        return len(self.items)

    def scores(self, baskets: Baskets) -> Tensor:
        return self.people(baskets) @ self.items.T

    def people(self, baskets: Baskets) -> Tensor:
        """(b, D) of known users their own, of others by what they have."""
        return of_people(baskets, self.users, self.trained, lambda others: _folded(others, self.inward))

    def shares(self, items: Tensor, target: int) -> tuple[Tensor, Tensor | None]:
        return self.inward[items] @ self.items[target] / len(items) ** 0.5, None

    def item_vectors(self) -> Mapping[str, Tensor]:
        return {"nodes": self.items}

    def user_vectors(self) -> Mapping[str, Tensor]:
        return {"nodes": self.users}

    def spaces(self) -> Mapping[str, Tensor]:
        own = {"nodes": torch.cat([self.users[1:], self.items[1:]])}
        return own if self.enhancer is None else {**own, **cast(Enhancer, self.enhancer).spaces()}

    def add(self, vectors: Tensor) -> None:
        assert self._by_text is not None
        new = self._by_text.item_vectors_of(vectors.to(self.items.device, torch.float32), self.items[1:])
        self.items = torch.cat([self.items, new])
        self.inward = torch.cat([self.inward, new @ self.turn])


class GraphModel(Answering[NodeVectors]):
    """nodes (N, d): the table that trains, users first.  A `MatrixTrainer`."""

    def __init__(self, config: NodesConfig, parts: Parts, backbone: Spec, enhancer: tuple[Spec, Any] | None = None):
        super().__init__()
        self.config, self.graph = config, parts.graph
        self.nodes = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.graph.num_nodes, config.dim)))
        self.backbone: nn.Module = backbone.build(config, parts)
        self.enhancer = _enhancer(config, self._backbone, parts, enhancer)  # last: it shifts no weights of the others
        self._check_names()
        self._check_negatives()
        self._draws = {name: torch.Generator().manual_seed(spawn(parts.seed, "nodes", name)) for name in ("backbone", "method")}

    @property
    def _backbone(self) -> Backbone:
        return cast(Backbone, self.backbone)

    @property
    def _method(self) -> Enhancer | None:
        return cast(Enhancer | None, self.enhancer)

    # -- training -----------------------------------------------------------------------------------------------------

    @property
    def weights(self) -> Mapping[str, float]:
        """Of everything that ``step`` returns."""
        found = {} if self._backbone.predicts else {"prediction": 1.0}
        own = {**found, **self._backbone.weights, "l2": self.config.l2}
        return own if self._method is None else {**own, **self._method.weights}

    def _check_names(self) -> None:
        own = {"prediction", "l2", *self._backbone.weights}
        if self._method is not None and (twice := own & self._method.weights.keys()):
            raise ConfigError(
                f"{type(self.backbone).__name__} and {type(self.enhancer).__name__} both have a loss '{min(twice)}', of which "
                f"one would take the other's place; the names of a method's losses must differ from {', '.join(sorted(own))}"
            )

    def _check_negatives(self) -> None:
        own, method = self.config, self._method
        read = own.reads_negatives or self._backbone.reads_negatives or (method is not None and method.reads_negatives)
        if own.negatives > type(own)().negatives and not read:
            raise ConfigError(
                f"model.negatives = {own.negatives}: no loss of this model reads an item that a user has not, so none is worth "
                "drawing; take loss = 'bpr', a method that does such as rlmrec-con, or drop negatives"
            )

    def generators(self) -> Mapping[str, torch.Generator]:
        return self._draws

    def batches(self, graph: Graph, training: TrainingConfig, seed: int) -> PairBatches:
        config = self.config
        return PairBatches(graph, training.batch_size, seed=seed, negatives=config.negatives, by_user=config.gathered)

    def step(self, batch: PairBatch) -> Step:
        nodes, kept = self._inputs()
        propagated = self._backbone.step(nodes, self.graph, batch, self._draws["backbone"])
        losses = {}
        if not self._backbone.predicts:  # then its settings are pairwise
            losses["prediction"] = prediction(propagated.nodes, batch, cast(PairwiseConfig, self.config), self.graph)
        losses |= {**propagated.losses, "l2": self._squares(batch)}
        if self._method is not None:
            losses |= self._method.losses(propagated, batch, kept, self._draws["method"])
        return Step(lambda: losses)

    def _inputs(self) -> tuple[Tensor, Tensor | None]:
        method = self._method
        if method is None or not (self.training or method.at_inference):
            return self.nodes, None
        return method.inputs(self.nodes, self._draws["method"])

    def _squares(self, batch: PairBatch) -> Tensor:
        if self.config.l2_on == "all":
            return squares(self.parameters())
        if self.config.l2_on == "backbone":
            return squares([self.nodes, *self.backbone.parameters()])
        rows = torch.cat([batch.user, batch.item, batch.negative.flatten()])
        return self.nodes[rows].square().sum() / (2 * len(batch))

    # -- answers ------------------------------------------------------------------------------------------------------

    def answer(self) -> NodeVectors:
        found = NodeVectors(self.enhancer)
        with torch.no_grad():
            found.put(self._backbone.embed(self._inputs()[0], self.graph), self.graph)
        return found.train(self.training)

    def kept(self) -> nn.Module:
        found = self.vectors
        if found.enhancer is not None:
            cast(Enhancer, found.enhancer).export(torch.cat([found.users[1:], found.items[1:]]))
            if not found.reads_text:
                found.enhancer = None
        return found


def squares(parameters: Iterable[Tensor]) -> Tensor:
    """() the sum of squares of those that train."""
    found: Tensor = _Squares.apply(*(each for each in parameters if each.requires_grad))
    return found


class _Squares(torch.autograd.Function):
    """What is kept for the gradient are the parameters themselves."""

    @staticmethod
    def forward(ctx: Any, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return torch.stack([each.square().sum() for each in parameters]).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        twice = 2 * grad
        return tuple(each * twice for each in ctx.saved_tensors)


def prediction(nodes: Tensor, batch: PairBatch, config: PairwiseConfig, graph: Graph) -> Tensor:
    """How far scores of the batch's pairs are from being above others', as the config says; scalar, a mean over pairs."""
    if config.loss == "bpr":
        user, item = nodes[batch.user], nodes[batch.item]
        positive = (user * item).sum(dim=1, keepdim=True)
        return F.softplus((user[:, None] * nodes[batch.negative]).sum(dim=2) - positive).mean()
    if config.cosine:
        nodes = F.normalize(nodes, dim=1)
    users, place, count = batch.user.unique(return_inverse=True, return_counts=True)
    own = nodes[users] / config.temperature
    if config.among == "batch":
        return _among_batch(own, place, nodes, batch, graph)
    among = log_partition(own, nodes[graph.num_users :], count / len(batch))
    return among - (own[place] * nodes[batch.item]).sum() / len(batch)


def _among_batch(own: Tensor, place: Tensor, nodes: Tensor, batch: PairBatch, graph: Graph) -> Tensor:
    """own (u, D) the batch's users, ``place`` (b,) which of them each pair is of -> mean cross-entropy among its items."""
    items, right = batch.item.unique(return_inverse=True)
    pairs = graph.users_of_items(own.device)[items - graph.num_users].to(own)
    logits = (own @ nodes[items].T - pairs.log())[place]  # (b, n)
    theirs = torch.zeros(len(own), len(items), dtype=torch.bool, device=own.device)
    theirs[place, right] = True
    one = F.one_hot(right, len(items)).bool()
    return F.cross_entropy(logits.masked_fill(theirs[place] & ~one, -torch.inf), right)


def node_stages(backbone: Spec, settings: NodesConfig, parts: Parts, enhancers: Sequence[tuple[Spec, Any]]) -> list[AnyStage]:
    """The one stage of a backbone, alone or with a method; of a saved model what is kept of it.

    Raises ConfigError for several methods.
    """
    if len(enhancers) > 1:
        names = " and ".join(f"'{spec.name}'" for spec, _ in enhancers)
        raise ConfigError(f"enhance names {names}: a backbone of this task takes one method at a time")
    method = enhancers[0] if enhancers else None
    reads_text = any(spec.needs_text(values) for spec, values in enhancers)
    if parts.data is None:
        kept = NodeVectors(_saved_enhancer(settings, backbone, parts, method))
        return [Stage(STAGE, kept, {}, [], reads_text=reads_text)]
    model = GraphModel(settings, parts, backbone, method)
    return [Stage(STAGE, model, model.weights, groups_of(model, model._method), reads_text=reads_text)]


def _enhancer(config: NodesConfig, backbone: Backbone, parts: Parts, method: tuple[Spec, Any] | None) -> nn.Module | None:
    if method is None:
        return None
    spec, values = method
    found: nn.Module = spec.build(values, parts, Widths(config.dim, backbone.width(config.dim)))
    return found


def _saved_enhancer(config: NodesConfig, backbone: Spec, parts: Parts, method: tuple[Spec, Any] | None) -> nn.Module | None:
    """As `GraphModel.kept` leaves it."""
    if method is None:
        return None
    found = _enhancer(config, backbone.build(config, parts), parts, method)
    return found if cast(Enhancer, found).knows_by_text else None


def _folded(baskets: Baskets, inward: Tensor) -> Tensor:
    """(b, D) sum of ``inward`` (I + 1, D) of what each has, over the root of their number."""
    return baskets.times(inward) / baskets.counts.clamp_min(1).sqrt()[:, None]
