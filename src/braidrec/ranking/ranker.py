"""Any backbone behind any pattern sources.  The plain baseline is the same path with mean history, or nothing, as source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidrec.data.batches import RankingBatch
from braidrec.data.history import History, SharedHistory
from braidrec.errors import ConfigError
from braidrec.layers.embedding import FieldEmbedding, ItemTable
from braidrec.layers.kept import ANEW, Anew, Kept, stamp
from braidrec.layers.mlp import MLP, Columns, Mixed, Repeated
from braidrec.memory import held_whole
from braidrec.ranking.contracts import (
    Backbone,
    BehaviourInput,
    Earlier,
    Patterns,
    PatternSource,
    RankingInput,
    RankingModel,
    Scored,
    Weighted,
)
from braidrec.training.stages import Group, main_group
from braidrec.training.step import Step

if TYPE_CHECKING:
    from braidrec.task import Added

PREDICTION = "prediction"
_KEPT = 16  # vectors of width D of an item that are kept, at the least: its fields, and what is made of them


class Ranker(nn.Module, RankingModel):
    """Logits (B,) of a RankingBatch; `step` adds binary cross-entropy, the sources' own losses and the backbone's.

    Where several sources have losses, theirs are named ``<source>.<loss>``, and monitors likewise.  Raises ConfigError for two
    losses of one name.
    """

    _trainings = 0  # how often it was put into training

    def __init__(self, embed: FieldEmbedding, sources: Sequence[PatternSource], backbone: Backbone):
        super().__init__()
        self.embed = embed
        self.sources = nn.ModuleList(cast(Sequence[nn.Module], sources))
        self.backbone = backbone
        self._prefixed = sum(1 for source in sources if source.weights) > 1
        names = [name for weights in self._weights() for name in weights]
        for name, count in Counter(names).items():
            if count > 1:
                raise ConfigError(
                    f"two parts of this model have a loss called '{name}'; one of them must rename it in its file"
                )

    def forward(self, batch: RankingBatch) -> Tensor:
        return self._score(batch)[0].logits

    def train(self, mode: bool = True) -> Self:
        self._trainings += mode
        return super().train(mode)

    def step(self, batch: RankingBatch) -> Step:
        """One training pass: ``prediction`` and the parts' losses by the papers' names, estimators first."""
        scored, patterns = self._score(batch)

        def losses() -> Mapping[str, Tensor]:
            prediction = F.binary_cross_entropy_with_logits(scored.logits.float(), batch.label, weight=batch.weight)
            found = {PREDICTION: prediction}
            for (_, prefix, _), part in zip(self._parts(), patterns, strict=True):
                found |= {prefix + name: loss for name, loss in part.losses().items()}
            return {**found, **scored.losses()}

        return Step(
            losses,
            {name: learn for part in patterns for name, learn in part.first.items()},
            {
                prefix + name: value
                for (_, prefix, _), part in zip(self._parts(), patterns, strict=True)
                for name, value in part.monitors.items()
            },
        )

    @property
    def weights(self) -> Mapping[str, float]:
        return {name: weight for weights in self._weights() for name, weight in weights.items()}

    @property
    def semantic_width(self) -> int:
        return max((source.semantic_width for _, _, source in self._parts()), default=0)

    @property
    def reads_text(self) -> bool:
        return any(source.reads_text for _, _, source in self._parts())

    def groups(self) -> Sequence[Group]:
        """The main group, then those of the sources."""
        apart = [group for _, _, source in self._parts() for group in source.groups()]
        return (main_group(self, *(group.parameters for group in apart)), *apart)

    def earlier(self) -> Sequence[Earlier]:
        return [
            Earlier(each.stage, {there: f"sources.{at}.{here}" for there, here in each.names.items()})
            for at, _, source in self._parts()
            for each in source.earlier()
        ]

    def lazy_rows(self, batch: RankingBatch) -> Mapping[str, Tensor]:
        if not self.embed.sparse:
            return {}
        rows = self.embed.read_rows(batch.item, batch.history.slots, batch.fields, batch.bags)
        return {f"embed.{name}.weight": rows for name in self.embed.tables}

    def export(self) -> None:
        for _, _, source in self._parts():
            source.export()

    def answering(self) -> Callable[[RankingBatch], Tensor]:
        return Answering(self)

    def add(self, added: Added) -> None:
        """Every id field of an added item takes the row it comes with, its unknown row at the least."""
        self.embed.add(added.fields)
        for _, _, source in self._parts():
            source.add(added)

    @torch.no_grad()
    def spaces(self) -> Mapping[str, Tensor]:
        """ "id" the item's first field, and what the sources make of items."""
        if self.embed.table is None:
            return {}
        size = len(self.embed.item_fields)
        nobody = torch.zeros(size, dtype=torch.int32, device=self.embed.item_fields.device)
        nothing = nobody[:, None]
        items = self.embed.items(nobody, History(nothing, nothing, nothing > 0))  # as many slots as items: the catalogue whole
        found = {"id": items.fields[:, 0]}
        for _, prefix, source in self._parts():
            found |= {prefix + name: vectors for name, vectors in source.spaces(items).items()}
        return found

    def _parts(self) -> Iterator[tuple[int, str, PatternSource]]:
        """Each source: its place, the prefix of its losses' names, itself."""
        for at, module in enumerate(self.sources):
            source = cast(PatternSource, module)
            yield at, f"{source.name}." if self._prefixed else "", source

    def _weights(self) -> Iterator[Mapping[str, float]]:
        yield {PREDICTION: 1.0}
        for _, prefix, source in self._parts():
            yield {prefix + name: weight for name, weight in source.weights.items()}
        if isinstance(self.backbone, Weighted):
            yield self.backbone.weights

    def _score(self, batch: RankingBatch, kept: Anew = ANEW) -> tuple[Scored, list[Patterns]]:
        needs, embed = self.backbone.needs, self.embed
        ids = embed.replace_unknown(batch.fields, embed._unknown)
        bags = [embed.replace_unknown(bag, row) for bag, (_, row) in zip(batch.bags, embed.layout.bags, strict=True)]
        items = embed.items(batch.item, batch.history, kept) if kept.still and self._reads_items else None
        first, last = embed.layout.item_slice
        leading: list[Columns] = []
        if needs.users_apart and isinstance(batch.history, SharedHistory):
            leading.append(embed.of_users(batch.fields, ids, batch.history.leaders, batch.history.run_of))
            if items is not None:
                leading.append(Repeated(items.fields.flatten(1), items.candidate, same=kept.whole))
        fields = embed(ids[:, (0, first, last)[len(leading)] :], bags, batch.numbers)
        if items is None and self._reads_items:
            items = embed.items(batch.item, batch.history)
        patterns = [] if items is None else [source(batch, items, embed) for source in self.sources]
        pairs = list(zip((source.deep for _, _, source in self._parts()), patterns, strict=True))
        parts, deep = ([part.extras for apart, part in pairs if apart == alone] for alone in (False, True))
        mixed: list[Columns] = []
        if needs.mixed and any(isinstance(part, Mixed) for part in parts):
            mixed, parts = [part if isinstance(part, Mixed) else part.flatten(1) for part in parts], []
        extras = [_dense(part, embed.dim) for part in parts]
        scored = self.backbone(
            RankingInput(
                fields,
                fields[:, :0] if not extras else extras[0] if len(extras) == 1 else torch.cat(extras, dim=1),
                embed.first_order(ids, bags, batch.numbers) if needs.linear else None,
                _behaviours(items, embed) if needs.history and items is not None else None,
                embed.field_aware(ids, bags, batch.numbers) if needs.field_aware else None,
                tuple(leading),
                tuple(mixed),
                kept,
                torch.cat([_dense(part, embed.dim) for part in deep], dim=1) if deep else None,
            )
        )
        return scored if isinstance(scored, Scored) else Scored(scored), patterns

    @property
    def _reads_items(self) -> bool:
        return bool(self.sources) or self.backbone.needs.history

    @property
    def fits(self) -> bool:
        """Whether what is made of each item may be held for the whole catalogue.

        That is about its fields thrice, as they are and as a backbone reads them, DisCo's rows and queries, and what the first
        layers of MLPs make of it.
        """
        dim, fields = self.embed.dim, self.embed.layout.num_item_fields
        mlps = [part for part in cast(nn.Module, self.backbone).modules() if isinstance(part, MLP)]
        firsts = [next((layer.out_features for layer in mlp.layers if isinstance(layer, nn.Linear)), 0) for mlp in mlps]
        return held_whole(len(self.embed.item_fields), max(_KEPT * dim, (3 * fields + 4) * dim + sum(firsts)))


def _dense(extras: Tensor | Mixed, dim: int) -> Tensor:
    """(B, E, D)."""
    return extras.dense().unflatten(1, (-1, dim)) if isinstance(extras, Mixed) else extras


def _behaviours(items: ItemTable, embed: FieldEmbedding) -> BehaviourInput:
    return BehaviourInput(items.candidate, items.fields, items.past, embed, items.kept)


class Answering:
    """Logits (B,) of a `Ranker` whose weights stand still, in evaluation mode, without gradients.

    What depends on an item alone is made once for the catalogue, or where that is large once for the distinct items of a batch;
    products of weights likewise.  It is made anew after the model was in training, and after a weight or buffer was written
    into, moved or replaced.  Under autocast nothing is kept: tables of half precision would outlast it.
    """

    def __init__(self, ranker: Ranker):
        self._ranker = ranker
        self._kept: tuple[object, Kept] = None, Kept(whole=True)

    def __call__(self, batch: RankingBatch) -> Tensor:
        ranker = self._ranker
        if ranker.training:
            return ranker(batch).detach()
        with torch.inference_mode():
            if torch.is_autocast_enabled(batch.item.device.type):
                return ranker(batch)
            return ranker._score(batch, self._now() if ranker.fits else Kept(whole=False))[0].logits

    def _now(self) -> Kept:
        """Of the weights as they are."""
        seen, kept = self._kept
        if (now := (self._ranker._trainings, stamp(self._ranker))) != seen:
            kept = Kept(whole=True)
            self._kept = now, kept
        return kept
