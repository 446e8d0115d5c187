"""From a run's settings, and a data set or what a run saved of it, to a model."""

from __future__ import annotations

from typing import cast

import torch

from braidrec.config import RunConfig
from braidrec.data.dataset import Dataset
from braidrec.errors import ConfigError
from braidrec.layers.embedding import FieldEmbedding, TableLayout
from braidrec.layers.text import TextTable
from braidrec.ranking import TASK
from braidrec.ranking.config import HistoryConfig, settings_of
from braidrec.ranking.contracts import Backbone, Material, MeanHistory, PatternSource, RankingModel, Sizes, SourceContext
from braidrec.ranking.parts import BackboneConfig
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


def reads_rates(config: RunConfig) -> bool:
    """Whether rates are asked for, or read by the model whatever is asked for."""
    settings = settings_of(config)
    return settings.rates or BackboneConfig.of(settings.backbone).reads_rates


def history_of(config: RunConfig) -> HistoryConfig:
    """What is asked for; the least where the model reads none, so that nothing is prepared for it."""
    settings = settings_of(config)
    return settings.history if BackboneConfig.of(settings.backbone).reads_history else HistoryConfig(length=1)


def material_of(dataset: Dataset, text: TextTable | None, *, seed: int = 0, sparse: bool = False) -> Material:
    """Of a data set, with its statistics where the model reads them."""
    return Material(
        table_layout(dataset),
        torch.from_numpy(dataset.features.item_fields),
        text,
        0 if text is None else text.width,
        seed,
        sparse,
        dataset,
    )


def build_model(config: RunConfig, material: Material) -> RankingModel:
    """Weights are drawn from the global torch generator: seed it first."""
    chosen = config.chosen
    if chosen.backbone.name in chosen.task.models:
        return cast(RankingModel, chosen.backbone.build(config, material))
    return build_ranker(config, material)


def build_ranker(config: RunConfig, material: Material) -> Ranker:
    """A backbone behind its enhancers, in order, and the mean history where neither of them stands in for it.

    Raises ConfigError for an enhancer that reads text without any.
    """
    settings, chosen = settings_of(config), config.chosen
    sources: list[PatternSource] = []
    for spec in chosen.enhancers:
        own = settings.of(spec.name)
        if spec.needs_text(own) and not material.semantic_width:
            raise ConfigError(
                f"enhance = '{spec.name}' needs item text vectors: give the run a knowledge base (knowledge = \"FOLDER\")"
            )
        sources.append(spec.build(own, SourceContext(settings, material)))
    replaced = {source.replaces for source in sources}
    own_settings = cast(BackboneConfig, settings.backbone)
    if settings.history.mean and own_settings.takes_mean and replaced <= {"nothing"}:
        sources.append(MeanHistory())
    layout, extras = material.layout, sum(source.num_extras for source in sources if not source.deep)
    deep = sum(source.num_extras for source in sources if source.deep)
    if deep and not own_settings.has_mlp:
        usual = {name: BackboneConfig.of(spec.config()) for name, spec in TASK.backbones.items()}
        names = ", ".join(name for name, own in usual.items() if own.has_mlp and own.mixes_extras)
        raise ConfigError(
            f"'{chosen.backbone.name}' has no MLP to read what {' and '.join(s.name for s in sources if s.deep)} is to give it "
            f"alone; set inject = 'fields', or take one of {names}"
        )
    sizes = Sizes(
        layout.num_fields,
        extras,
        layout.num_item_fields,
        settings.dim,
        num_deep=deep,
        own_history="history" not in replaced,
        item_at=layout.item_slice[0],
        rows=layout.rows,
        seed=material.seed,
    )
    backbone: Backbone = chosen.backbone.build(own_settings, sizes)
    embed = FieldEmbedding(
        layout,
        material.item_fields,
        settings.dim,
        initial=settings.initial,
        unknown_rate=settings.unknown_rate,
        fields=backbone.needs.fields,
        items=backbone.needs.history or bool(sources),
        linear=backbone.needs.linear,
        field_aware=backbone.needs.field_aware,
        num_extras=extras,
        sparse=material.sparse,
    )
    return Ranker(embed, sources, backbone)
