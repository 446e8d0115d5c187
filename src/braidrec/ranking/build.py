"""From a config and a prepared data set to a Ranker."""

from __future__ import annotations

import torch
from torch import Tensor

from braidrec.data.dataset import Dataset
from braidrec.errors import ConfigError
from braidrec.layers.embedding import FieldEmbedding, TableLayout
from braidrec.ranking.backbones.dcn import DCN, DCNConfig
from braidrec.ranking.backbones.deepfm import DeepFM, DeepFMConfig
from braidrec.ranking.backbones.din import DIN, DINConfig
from braidrec.ranking.config import RankingConfig
from braidrec.ranking.contracts import Backbone, MeanHistory, PatternSource
from braidrec.ranking.methods.disco import DisCo
from braidrec.ranking.ranker import Ranker


def table_layout(dataset: Dataset) -> TableLayout:
    """Sizes of the tables that a data set asks for."""
    features = dataset.features
    owners = [entry.owner for entry in features.single]
    first = owners.index("item")
    multi = {entry.name: entry.unknown_row for entry in features.vocabularies if entry.multi}
    return TableLayout(
        rows=features.num_rows,
        names=tuple(entry.name for entry in features.single),
        unknown=tuple(entry.unknown_row for entry in features.single),
        item_slice=(first, first + owners.count("item")),
        bags=tuple((bag.name, multi[bag.name]) for bag in features.bags),
        numbers=dataset.number_groups,
        signals=dataset.num_signals,
    )


def build_ranker(
    config: RankingConfig,
    layout: TableLayout,
    item_fields: Tensor,
    *,
    knowledge: Tensor | None,
    semantic_width: int = 0,
    seed: int = 0,
    sparse: bool = False,
) -> Ranker:
    """Weights are drawn from the global torch generator: seed it first.

    item_fields (I + 1, F_I) int32.  knowledge (I + 1, S) text vectors by catalogue row, needed by an enhancer except
    when an exported model is loaded over it (then ``semantic_width`` alone).  Raises ConfigError when it is missing.
    """
    sources: list[PatternSource] = []
    backbone = config.backbone
    if config.enhance is not None:
        width = semantic_width if knowledge is None else knowledge.shape[1]
        if not width:
            raise ConfigError(
                "enhance = 'disco' needs item text vectors: give the run a knowledge base (knowledge = \"FOLDER\")"
            )
        sources.append(
            DisCo(
                config.enhance,
                dim=config.dim,
                num_item_fields=layout.num_item_fields,
                semantic_width=width,
                knowledge=knowledge,
                seed=seed,
            )
        )
        if config.enhance.replaces == "history" and isinstance(backbone, DINConfig):
            backbone = backbone.model_copy(update={"variant": "none"})
    keeps_mean = config.enhance is None or config.enhance.replaces == "nothing"
    if config.history.mean and keeps_mean and not isinstance(backbone, DINConfig):
        sources.append(MeanHistory())
    model = _backbone(backbone, layout, sum(source.num_extras for source in sources), config.dim)
    embed = FieldEmbedding(
        layout,
        item_fields,
        config.dim,
        initial=config.initial,
        unknown_rate=config.unknown_rate,
        linear=model.needs.linear,
        sparse=sparse,
    )
    return Ranker(embed, sources, model)


def _backbone(config: DeepFMConfig | DCNConfig | DINConfig, layout: TableLayout, num_extras: int, dim: int) -> Backbone:
    sizes = {"num_fields": layout.num_fields, "num_extras": num_extras, "num_item_fields": layout.num_item_fields, "dim": dim}
    if isinstance(config, DeepFMConfig):
        return DeepFM(config, **sizes)
    if isinstance(config, DCNConfig):
        return DCN(config, **sizes)
    return DIN(config, **sizes)


def item_fields_of(dataset: Dataset) -> Tensor:
    return torch.from_numpy(dataset.features.item_fields)
