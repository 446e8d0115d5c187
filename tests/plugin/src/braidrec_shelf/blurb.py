"""Blurb, a ranking method: the candidate's text, through one linear layer, as one more field beside those of any backbone."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from braidrec.data.batches import RankingBatch
from braidrec.layers.embedding import FieldEmbedding, ItemTable
from braidrec.layers.text import TextReader
from braidrec.ranking.contracts import Patterns, PatternSource, SourceContext
from braidrec.registry import Spec
from braidrec.strict import Strict
from braidrec.task import Added


class BlurbConfig(Strict):
    bias: bool = True


class Blurb(nn.Module, PatternSource):
    name = "blurb"
    num_extras = 1

    def __init__(self, config: BlurbConfig, context: SourceContext):
        super().__init__()
        material, dim = context.material, context.settings.dim
        self.text = TextReader(material.text, nn.Linear(material.semantic_width, dim, bias=config.bias), "normed")
        self._width = material.semantic_width

    @property
    def semantic_width(self) -> int:
        return self._width

    def forward(self, batch: RankingBatch, items: ItemTable, embed: FieldEmbedding) -> Patterns:
        return Patterns(self.text(items.rows).index_select(0, items.candidate)[:, None])

    def export(self) -> None:
        self.text.export()

    def add(self, added: Added) -> None:
        self.text.add(added.vectors)

    def spaces(self, items: ItemTable) -> Mapping[str, Tensor]:
        return {"blurb": self.text(items.rows)}


SPEC = Spec("blurb", "Blurb", BlurbConfig, Blurb, presets={"ours": {}, "authors": {"bias": False}}, reads_text=True)
