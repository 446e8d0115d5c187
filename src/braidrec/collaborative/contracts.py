"""The slots of this room.

A whole model, rows of a user-item matrix in, scores of all items out:  ``Spec.build(config, parts: Parts) -> list[AnyStage]``;
the module of the last stage is a `MatrixModel`, and what a run keeps is what that one's ``kept()`` gives.
A backbone of node vectors:  ``Spec.build(config, parts) -> Backbone``, an nn.Module
A method on any backbone:  ``Spec.build(config, parts, nodes: Widths) -> Enhancer``, an nn.Module
The module of a stage that trains is a `MatrixTrainer` besides: it says where its batches come from.

Nodes: N = U + I, users first: node u - 1 is user u, node U + i - 1 is item i; there is no padding among them.
Backbones and methods draw from the generators that they are handed, never from the global ones, so that a resumed run goes on
as if it had never stopped and a method without weight leaves its backbone's draws as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.graph import Graph
from braidrec.errors import RunError
from braidrec.layers.text import TextTable
from braidrec.task import Share
from braidrec.training.config import TrainingConfig
from braidrec.training.contracts import Batches
from braidrec.training.stages import AnyStage, Group, main_group

if TYPE_CHECKING:
    from braidrec.collaborative.labels import Categories
    from braidrec.collaborative.pairs import PairBatch

__all__ = [
    "Backbone",
    "Enhancer",
    "Labels",
    "MatrixModel",
    "MatrixTrainer",
    "Parts",
    "Propagated",
    "Widths",
    "kept_module",
]


@dataclass(frozen=True, eq=False)
class Labels:
    """What a log and a catalogue say besides who has what.

    user, item (n,) int32, rating (n,) float32: the events of training, liked or not
    categories: of items, by a column of the catalogue, what parts its values, and what is none
        (`braidrec.collaborative.labels.categories_of`)
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    rating: NDArray[np.float32]
    categories: Callable[[str | None, str | None, Collection[str]], Categories] | None = None


@dataclass(frozen=True)
class Parts:
    """What a model is built from.  Of a saved one, ``data`` is None: its tensors are put in afterwards, and the last stage's
    module is what ``kept()`` gave when it was trained.

    text: vectors of I + 1 rows, None where the model reads none, and of a saved one    text_width: S of them, in any case
    people: likewise of U + 1 users, zero for who has none, None where the run has none
    device: where large matrices are solved, the CPU for None
    judge: of a module whose users have what a graph says: the monitored metric of the validation part
    seed: of the run, to derive private generators from (`braidrec.training.seeding.spawn`)    labels: None of a saved model
    """

    num_items: int
    data: Graph | None = None
    text: TextTable | None = None
    device: torch.device | None = None
    judge: Callable[[nn.Module, Graph], float] | None = None
    num_users: int = 0
    seed: int = 0
    people: TextTable | None = None
    labels: Labels | None = None
    text_width: int = 0
    _made: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def graph(self) -> Graph:
        """Asked for by what fits or trains alone."""
        assert self.data is not None
        return self.data

    def node_text(self) -> Tensor:
        """(N, S) float32 text vectors of users and items, made once; only where there is text.

        Of a user whose vector is not among ``people``, or zero there, it is the mean of those of their training items.
        """
        if "text" not in self._made:
            assert self.text is not None
            items = self.text.read("plain").float()
            own = Baskets.of_rows(self.graph.matrix)
            users = own.times(items) / own.counts.clamp_min(1)[:, None]
            if self.people is not None:
                told = self.people.read("plain").float()
                users = torch.where(told.any(dim=1, keepdim=True), told, users)
            self._made["text"] = torch.cat([users[1:], items[1:]])
        return self._made["text"]


class MatrixModel(Protocol):
    """What a run and evaluation ask of a whole model, an nn.Module; items are catalogue rows, those added later behind them.

    reads_text: whether it can know an item by text alone    stand_in: how it knows an item that comes after training, in words
    known_user, new_user: how each is answered, in words
    """

    @property
    def reads_text(self) -> bool:
        return False

    @property
    def stand_in(self) -> str:
        return ""

    @property
    def known_user(self) -> str:
        return "a known user is folded in with all of the log, validation and test included"

    @property
    def new_user(self) -> str:
        return "a new user is known by the items given, in whatever order; without any, the items that most have come first"

    @property
    def remarks(self) -> Sequence[str]:
        """What a reader of its recommendations must know, such as a form that stands in for another."""
        return ()

    @property
    def num_rows(self) -> int:
        """I + 1, and the items that were added."""
        ...

    def scores(self, baskets: Baskets) -> Tensor:
        """(b, num_rows) float32 of all items, for what each of b people has; training need not know them."""
        ...

    @property
    def unexplained(self) -> str:
        """Why no score has `shares`; empty where it has."""
        return ""

    def shares(self, items: Tensor, target: int) -> tuple[Tensor, Tensor | None]:
        """What each of ``items`` (n,), which somebody has and no others, brings to the score of ``target``.

        Returns (n,), which add up to the score of somebody new, and (n,) of it that comes by text, None where no text is read.
        Raises RunError where `unexplained` says why.
        """
        raise RunError(self.unexplained)

    def divided(self, baskets: Baskets, target: int) -> list[Share]:
        """The score of ``target`` for one person, or how far it is above the mean of all, by named parts whose sum it is."""
        return []

    def item_vectors(self) -> Mapping[str, Tensor]:
        """(I + 1, D) by what they are, where it has such."""
        return {}

    def check(self) -> None:
        """Raise RunError, or what NumPy, SciPy and torch raise, where tensors that were read do not go together."""
        return

    def user_vectors(self) -> Mapping[str, Tensor]:
        """(U + 1, D) likewise, where it keeps such."""
        return {}

    def spaces(self) -> Mapping[str, Tensor]:
        """(N, D') vectors of users and then items, by what they are: all that can be looked at of nodes, where it has such."""
        return {}

    def add(self, vectors: Tensor) -> None:
        """Append items by their text vectors (m, S); no tensor is written into."""
        raise RunError("knows items by who has them alone")

    def kept(self) -> nn.Module:
        """The MatrixModel that a run keeps, without what training alone needs; asked for once, on the CPU, after training."""
        return cast(nn.Module, self)


class MatrixTrainer(Protocol):
    """The module of a stage that trains; ``step`` and ``generators`` are those of `braidrec.training.contracts.Trainable`."""

    def batches(self, graph: Graph, training: TrainingConfig, seed: int) -> Batches:
        """Of ``training.batch_size`` rows each, such as `PairBatches` and `UserBatches`."""
        ...


@dataclass(frozen=True)
class Widths:
    """What a backbone is made of, for a method: N nodes go in at width ``inputs`` and come out at width ``outputs``."""

    inputs: int
    outputs: int


@dataclass(frozen=True)
class Propagated:
    """nodes (N, D) as they are scored by, users first    losses: the backbone's own, unweighted scalars by the paper's names"""

    nodes: Tensor
    losses: Mapping[str, Tensor] = field(default_factory=dict)


class Backbone(Protocol):
    """Node vectors in, node vectors out, an nn.Module.

    predicts: whether what users have is among its own losses, so that `GraphModel` adds none of its own
    weights: loss name -> weight, of its own losses alone    reads_negatives: whether these read the negatives of a batch
    """

    predicts: bool = False
    reads_negatives: bool = False

    @property
    def weights(self) -> Mapping[str, float]:
        return {}

    def width(self, dim: int) -> int:
        """D, where nodes go in at width ``dim``."""
        return dim

    def step(self, nodes: Tensor, graph: Graph, batch: PairBatch, rng: torch.Generator) -> Propagated:
        """For training: nodes (N, d), views and masks drawn from ``rng``, which is the CPU's."""
        return Propagated(self.embed(nodes, graph))

    def embed(self, nodes: Tensor, graph: Graph) -> Tensor:
        """(N, d) -> (N, D), for evaluation: nothing is drawn."""
        ...


class Enhancer(Protocol):
    """A method that goes with every backbone, an nn.Module built after it.

    It reads text vectors of users and items frozen (`Parts.node_text`), and keeps none in its state_dict.
    weights: loss name -> weight; of exactly what ``losses`` returns
    at_inference: whether ``inputs`` is applied in evaluation, too
    knows_by_text: whether ``item_vectors_of`` says how an item is known by its text alone    stand_in: that, in words
    reads_negatives: whether ``losses`` reads the negatives of a batch
    """

    at_inference: bool = False
    knows_by_text: bool = False
    reads_negatives: bool = False
    stand_in: str = ""

    @property
    def weights(self) -> Mapping[str, float]: ...

    def groups(self) -> Sequence[Group]:
        """Optimiser groups apart from "main", which has all other parameters."""
        return ()

    def inputs(self, nodes: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """What the backbone reads instead of nodes (N, d), and what ``losses`` should know of it, such as (m,) masked nodes."""
        return nodes, None

    def losses(
        self, propagated: Propagated, batch: PairBatch, kept: Tensor | None, rng: torch.Generator
    ) -> Mapping[str, Tensor]:
        """Unweighted scalars by the paper's names."""
        ...

    def export(self, nodes: Tensor) -> None:
        """Let go of what training alone needs, once it is over and (N, D) are the final vectors.

        Before it, and of a saved model without it, nothing below is asked.
        """

    def item_vectors_of(self, text: Tensor, items: Tensor) -> Tensor:
        """(m, S) text vectors, as `Parts.text` has them, and final vectors (I or more, D) of known items -> (m, D) likewise."""
        raise NotImplementedError

    def spaces(self) -> Mapping[str, Tensor]:
        """(N, D') what the method makes of nodes, by name, for a look inside."""
        return {}


def groups_of(module: nn.Module, enhancer: Enhancer | None) -> list[Group]:
    """ "main" of everything that trains, and the groups that a method has apart."""
    apart = [] if enhancer is None else list(enhancer.groups())
    return [main_group(module, *(group.parameters for group in apart)), *apart]


def kept_module(stages: list[AnyStage]) -> nn.Module:
    """The module of the last stage, which a run keeps (as ``kept()`` gives it)."""
    return stages[-1].module
