"""Any backbone behind any pattern sources.  The plain baseline is the same path with mean history, or nothing, as source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidrec.data.batches import RankingBatch
from braidrec.layers.embedding import FieldEmbedding
from braidrec.objectives.step import Step
from braidrec.ranking.contracts import Backbone, BehaviourInput, Needs, Patterns, PatternSource, RankingInput

ESTIMATORS = "estimators"


class Ranker(nn.Module):
    """Logits (B,) of a RankingBatch; `step` adds binary cross-entropy and the sources' own losses."""

    def __init__(self, embed: FieldEmbedding, sources: Sequence[PatternSource], backbone: Backbone):
        super().__init__()
        self.embed = embed
        self.sources = nn.ModuleList(sources)  # type: ignore[arg-type]
        self.backbone = backbone

    def forward(self, batch: RankingBatch) -> Tensor:
        return self._score(batch)[0]

    def step(self, batch: RankingBatch) -> Step:
        """One training pass: ``prediction`` and the sources' losses by the papers' names, estimators first."""
        logits, patterns = self._score(batch)

        def losses() -> Mapping[str, Tensor]:
            prediction = F.binary_cross_entropy_with_logits(logits.float(), batch.label, weight=batch.weight)
            return {"prediction": prediction} | {name: loss for part in patterns for name, loss in part.losses().items()}

        estimators = [part.estimators for part in patterns if part.estimators is not None]
        first: dict[str, Callable[[], Tensor]] = {}
        if estimators:
            first[ESTIMATORS] = lambda: torch.stack([loss for each in estimators for loss in each().values()]).sum()
        return Step(losses, first, {name: value for part in patterns for name, value in part.monitors.items()})

    def estimator_parameters(self) -> list[nn.Parameter]:
        """Parameters of the sources' estimators: an optimiser group of their own, kept out of the main one."""
        return [weight for source in self.sources for weight in getattr(source, "estimator_parameters", list)()]

    def main_parameters(self) -> list[nn.Parameter]:
        apart = {id(weight) for weight in self.estimator_parameters()}
        return [weight for weight in self.parameters() if id(weight) not in apart]

    def generators(self) -> Mapping[str, torch.Generator]:
        """Private random generators, so that a checkpoint can hold their state."""
        return {
            f"{at}.{name}": generator
            for at, source in enumerate(self.sources)
            for name, generator in getattr(source, "generators", dict)().items()
        }

    def lazy_rows(self, batch: RankingBatch) -> Mapping[str, Tensor]:
        """Rows of the big tables that a pass over ``batch`` reads, by parameter name; empty when tables are dense."""
        if not self.embed.table.sparse:
            return {}
        items = torch.cat([batch.item.reshape(-1), batch.history.items.reshape(-1)]).unique()
        parts: Iterable[Tensor] = (
            batch.fields.reshape(-1),
            self.embed.item_fields[items.long()].reshape(-1),
            *(bag.reshape(-1) for bag in batch.bags),
            torch.tensor([*self.embed.layout.unknown, *(row for _, row in self.embed.layout.bags)], device=batch.item.device),
        )
        rows = torch.cat([part.long() for part in parts]).unique()
        tables = {"embed.table.weight": rows}
        return tables | ({"embed.linear.weight": rows} if self.embed.linear is not None else {})

    def _score(self, batch: RankingBatch) -> tuple[Tensor, list[Patterns]]:
        needs: Needs = self.backbone.needs
        ids = self.embed.replace_unknown(batch.fields, self.embed._unknown)
        bags = [self.embed.replace_unknown(bag, row) for bag, (_, row) in zip(batch.bags, self.embed.layout.bags, strict=True)]
        fields = self.embed(ids, bags, batch.numbers)
        patterns: list[Patterns] = []
        behaviours = None
        if len(self.sources) or needs.history:
            items = self.embed.items(batch.item, batch.history.items)
            patterns = [source(batch, items, self.embed) for source in self.sources]
            if needs.history:
                behaviours = BehaviourInput(
                    items.fields.index_select(0, items.candidate),
                    items.fields,
                    items.history,
                    batch.history.mask,
                    batch.history.signals,
                    self.embed,
                )
        extras = torch.cat([part.extras for part in patterns], dim=1) if patterns else fields[:, :0]
        linear = self.embed.first_order(ids, bags, batch.numbers) if needs.linear else None
        return self.backbone(RankingInput(fields, extras, linear, behaviours)), patterns
