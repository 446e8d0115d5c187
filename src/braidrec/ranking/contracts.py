"""The slots of a ranking model.

    Backbone        scores fields     ``Spec.build(config: BackboneConfig, sizes: Sizes) -> Backbone``, an nn.Module
    PatternSource   adds some: a method's ``Spec.build(config, context: SourceContext) -> PatternSource``, an nn.Module
    RankingModel    what training and a run see: `braidrec.ranking.ranker.Ranker`, or a whole model of the registry ``models``,
                    ``Spec.build(config: RunConfig, material: Material) -> RankingModel``, an nn.Module

A source and a model inherit from their slot, which fills in what most of them do not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from braidrec.data.batches import RankingBatch
from braidrec.errors import RunError
from braidrec.layers.attention import Attended, Behaviours
from braidrec.layers.embedding import FieldEmbedding, ItemTable, TableLayout
from braidrec.layers.kept import ANEW, Anew
from braidrec.layers.mlp import Columns, Mixed
from braidrec.layers.text import TextTable
from braidrec.ranking.parts import BackboneConfig as BackboneConfig
from braidrec.ranking.parts import Replaced
from braidrec.training.stages import AnyStage, Group, main_group
from braidrec.training.step import Losses, Step

if TYPE_CHECKING:
    from braidrec.data.dataset import Dataset
    from braidrec.ranking.config import RankingConfig
    from braidrec.task import Added

ItemRead = Literal["id", "all"]  # what a backbone reads of an item: its id's vector, or those of all its fields


def no_losses() -> Mapping[str, Tensor]:
    return {}


# -- backbones ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Needs:
    """What a backbone asks the embedding layer for.

    fields: vectors of the fields    linear: one weight per value    history: the user's behaviours
    field_aware: of each field a vector of this width for each other field, extras among them
    mixed: extras are read side by side alone, through `RankingInput.columns`, and so may come in another form
    users_apart: fields are read so, too, and the user's may stand apart where rows of a user stand together
    """

    fields: bool = True
    linear: bool = False
    history: bool = False
    field_aware: int = 0
    mixed: bool = False
    users_apart: bool = False


@dataclass(frozen=True)
class Sizes:
    """What a backbone is built for: F fields and E extras of width D, F_I of the fields of the item, from ``item_at`` on.

    num_deep: vectors of width D besides, which its MLP reads and nothing else does
    own_history: whether it may pool the history itself; not where patterns take that place
    rows: of the tables with a row per value
    seed: of the run, to derive private generators from (`braidrec.training.seeding.spawn`)
    """

    num_fields: int
    num_extras: int
    num_item_fields: int
    dim: int
    num_deep: int = 0
    own_history: bool = True
    item_at: int = 1
    rows: int = 0
    seed: int = 0

    def of_items(self, read: ItemRead) -> int:
        """Width of an item's vector, as `BehaviourInput.rows` has it."""
        return self.dim * (1 if read == "id" else self.num_item_fields)

    def side_by_side(self, pooled: int | None = None) -> int:
        """Width of `RankingInput.columns`, and, where there are any, of behaviours pooled to a width with label vectors."""
        return (self.num_fields + self.num_extras + self.num_deep + (pooled is not None)) * self.dim + (pooled or 0)


@dataclass(frozen=True)
class BehaviourInput:
    """A candidate and its user's behaviours, each distinct item embedded once.

    candidate (B,) int64: which of the items it is      items (n, F_I, D) the distinct items' fields
    past: the behaviours among them, a user's read once where targets share them
    kept: by which what depends on an item alone is made once
    """

    candidate: Tensor
    items: Tensor
    past: Behaviours
    embed: FieldEmbedding
    kept: Anew = ANEW

    @cached_property
    def target(self) -> Tensor:
        """(B, F_I, D) the candidate's id fields."""
        return self.items.index_select(0, self.candidate)

    def rows(self, read: ItemRead) -> Tensor:
        """(n, W) of the items: their id's vectors, or all their fields' side by side."""
        return self.items[:, 0] if read == "id" else self.items.flatten(1)

    def asked(self, read: ItemRead, layer: nn.Module | None = None) -> Tensor:
        """(B, W) of the candidates, as `rows` has them; or what ``layer`` makes of that, which depends on the item alone."""
        if layer is None or not self.kept.still:
            own = self.target[:, 0] if read == "id" else self.target.flatten(1)
            return own if layer is None else cast(Tensor, layer(own))
        return self.kept.of(layer, "asked", lambda: cast(Tensor, layer(self.rows(read)))).index_select(0, self.candidate)

    def pool(self, queries: Tensor) -> Attended:
        """Softmax attention, H queries a sample: (B, H, W) -> pooled (B, H, W) and the weights.

        W = D reads the behaviours' item ids, W = F_I * D all their fields; the history is not gathered.
        """
        whole = queries.shape[2] == self.items.shape[1] * self.items.shape[2]
        return self.past.attend(self.items.flatten(1) if whole else self.items[:, 0], queries)

    def labels(self, attended: Attended) -> Tensor:
        """Label vectors (B, H, D), pooled by the same weights."""
        return self.embed.labels(attended.by_signal)

    def said(self, by_signal: Tensor) -> Columns:
        """Label vectors, mixed by how much weight each signal got (B, R + 1): (B, D)."""
        if not self.kept.still:
            return self.embed.labels(by_signal)
        return Mixed(by_signal, self.embed.label_vectors, partial(self.embed.labels, by_signal))


@dataclass(frozen=True)
class RankingInput:
    """fields (B, F, D), or (B, 0, D) where they are not needed; extras (B, E, D)

    When the needs ask for them: linear (B, F), history, field_aware (B, F, F + E - 1, d_f), where the vector of field f for
    field or extra g stands at g, or at g - 1 behind f.  Extras have no table: for them a backbone makes its own.
    leading: with ``users_apart`` the first fields, side by side, in forms that a first layer reads faster; ``fields`` then
    begins behind them    mixed: with the need of that name the extras, likewise; ``extras`` then holds none
    kept: by which what follows from weights alone is made once    deep (B, M, D): what the MLP alone reads
    """

    fields: Tensor
    extras: Tensor
    linear: Tensor | None = None
    history: BehaviourInput | None = None
    field_aware: Tensor | None = None
    leading: tuple[Columns, ...] = ()
    mixed: tuple[Columns, ...] = ()
    kept: Anew = ANEW
    deep: Tensor | None = None

    @property
    def columns(self) -> tuple[Columns, ...]:
        """All fields and extras, side by side, and behind them what the MLP alone reads."""
        deep = () if self.deep is None else (self.deep.flatten(1),)
        return (*self.leading, self.fields.flatten(1), *(self.mixed or (self.extras.flatten(1),)), *deep)

    def before_deep(self, flat: Tensor) -> Tensor:
        """(B, n + M * D): columns (B, n), and behind them what the MLP alone reads."""
        return flat if self.deep is None else torch.cat([flat, self.deep.flatten(1)], dim=1)

    @property
    def all_fields(self) -> Tensor:
        """(B, F + E, D)."""
        return torch.cat([self.fields, self.extras], dim=1) if self.extras.shape[1] else self.fields


@dataclass(frozen=True)
class Scored:
    """Logits (B,) and losses of the backbone's own: unweighted scalars, called after all estimators have stepped."""

    logits: Tensor
    losses: Losses = no_losses


class Backbone(Protocol):
    """Logits (B,) of a RankingInput, no sigmoid inside; one with losses of its own is `Weighted` and gives `Scored`."""

    needs: Needs

    def __call__(self, inputs: RankingInput) -> Tensor | Scored: ...


@runtime_checkable
class Weighted(Protocol):
    """A backbone with losses of its own: loss name -> weight, of those that its `Scored` holds."""

    @property
    def weights(self) -> Mapping[str, float]: ...


# -- what models are built from -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Material:
    """What a model is built from, on a data set or from what a run saved.

    item_fields (I + 1, F_I) int32    text: the vectors of the items, None where nothing reads them and where a saved model is
    built, which has ``semantic_width`` (S, 0 without text) alone    seed: of the run; private generators spawn theirs from it
    sparse: whether tables with a row per value are updated lazily    data: None where a saved model is built
    """

    layout: TableLayout
    item_fields: Tensor
    text: TextTable | None = None
    semantic_width: int = 0
    seed: int = 0
    sparse: bool = False
    data: Dataset | None = None


@dataclass(frozen=True)
class SourceContext:
    """What a pattern source is built for: the task's own settings (D and how tables begin), and the material."""

    settings: RankingConfig
    material: Material


# -- pattern sources ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Patterns:
    """extras (B, E, D) stand beside the fields; where no loss is asked for they may be columns, side by side.

    losses: the source's own unweighted losses, called after its estimators have stepped
    first: optimiser group -> the learning loss of its estimators, on detached inputs
    monitors: detached scalars for the run's log
    """

    extras: Tensor | Mixed
    losses: Losses = no_losses
    first: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)
    monitors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Earlier:
    """A stage that comes before the model's own, and what the model takes over: prefix of names there -> prefix here.

    The split parts that it trains and validates on are in the stage; its module is called as a `RankingModel` is, ``step`` for
    training and logits for validation.
    """

    stage: AnyStage
    names: Mapping[str, str]


class PatternSource(Protocol):
    """Adds ``num_extras`` fields of width D to every sample.  name: as registered

    deep: whether its patterns are no fields, but vectors that the backbone's MLP alone reads
    weights: loss name -> weight, of exactly the losses that its patterns have; those of weight 0 are left out
    groups: its own optimiser groups, each named ``estimators.<name>`` (DisCo's ``estimators``) and stepped first; parameters
    in none are the main optimiser's, except where they require no gradient    earlier: its stages, names as inside the source
    replaces: what else of the history its patterns make superfluous    export: keep what inference needs
    add: items behind the catalogue, of an exported source; no tensor is written into
    reads_text: whether it knows an item by text alone    semantic_width: of the text it reads, 0 for none
    spaces: vectors (n, D') of each item of a table, by the space they are in
    """

    name: str
    num_extras: int

    def __call__(self, batch: RankingBatch, items: ItemTable, embed: FieldEmbedding) -> Patterns: ...

    @property
    def deep(self) -> bool:
        return False

    @property
    def weights(self) -> Mapping[str, float]:
        return {}

    @property
    def replaces(self) -> Replaced:
        return "nothing"

    @property
    def semantic_width(self) -> int:
        return 0

    @property
    def reads_text(self) -> bool:
        return self.semantic_width > 0

    def groups(self) -> Sequence[Group]:
        return ()

    def earlier(self) -> Sequence[Earlier]:
        return ()

    def export(self) -> None:
        return

    def add(self, added: Added) -> None:
        return

    def spaces(self, items: ItemTable) -> Mapping[str, Tensor]:
        return {}


class MeanHistory(nn.Module, PatternSource):
    """The plain history of the papers' baselines: mean item-id vector and mean label vector of the behaviours (E = 2)."""

    name = "mean"
    num_extras = 2

    def forward(self, batch: RankingBatch, items: ItemTable, embed: FieldEmbedding) -> Patterns:
        found = items.past.mean(items.fields[:, 0])
        return Patterns(torch.cat([found.pooled, embed.labels(found.by_signal)], dim=1))


# -- the whole ------------------------------------------------------------------------------------------------------------


class RankingModel(Protocol):
    """Logits (B,) of a RankingBatch, and one training pass over it.

    weights: loss name -> weight, of exactly the losses of `step`    groups: the optimisers' parameters, "main" among them
    lazy_rows: rows of the big tables that a pass reads, by parameter name; empty when tables are dense
    fitted: what fits it at once on the samples of both parts, to tensors that go into it by name, and says what a reader should
    know; None for a model that is trained by steps    facts: as of a `braidrec.task.Model`
    The others as of a `PatternSource`; items are added with all their fields, and ``earlier`` has names as inside the model.
    """

    def __call__(self, batch: RankingBatch) -> Tensor: ...

    def step(self, batch: RankingBatch) -> Step: ...

    @property
    def weights(self) -> Mapping[str, float]:
        return {"prediction": 1.0}

    @property
    def semantic_width(self) -> int:
        return 0

    @property
    def reads_text(self) -> bool:
        return self.semantic_width > 0

    def groups(self) -> Sequence[Group]:
        return (main_group(as_module(self)),)

    def earlier(self) -> Sequence[Earlier]:
        return ()

    def lazy_rows(self, batch: RankingBatch) -> Mapping[str, Tensor]:
        return {}

    def fitted(
        self,
        train: Callable[[], Iterable[RankingBatch]],
        valid: Callable[[], Iterable[RankingBatch]],
        say: Callable[[str], None],
    ) -> Callable[[], Mapping[str, Tensor]] | None:
        return None

    def facts(self) -> Mapping[str, Any]:
        return {}

    def answering(self) -> Callable[[RankingBatch], Tensor]:
        """The same logits but for rounding, without gradients, for many calls; what becomes of weights meanwhile is seen."""
        return self

    def export(self) -> None:
        return

    def add(self, added: Added) -> None:
        raise RunError(f"{type(self).__name__} reads no text, so it can know no item that comes after training")

    def spaces(self) -> Mapping[str, Tensor]:
        """Vectors (I + 1, D') of the catalogue, by the space they are in."""
        return {}


def as_module(model: RankingModel) -> nn.Module:
    """The same object, which a protocol cannot say is an nn.Module."""
    return cast(nn.Module, model)
