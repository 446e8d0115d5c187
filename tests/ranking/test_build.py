"""From a prepared data set and a config to a model of the right parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_ranking import LAYOUT, WIDTH, batch, item_fields, knowledge

from braidrec.data.batches import RankingBatches
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.history import RecentHistory
from braidrec.data.planted import PlantedConfig, planted_world
from braidrec.errors import ConfigError
from braidrec.ranking.backbones.din import DIN
from braidrec.ranking.build import build_ranker, item_fields_of, table_layout
from braidrec.ranking.config import BACKBONES, ranking_config
from braidrec.ranking.contracts import MeanHistory
from braidrec.ranking.methods.disco import DisCo
from braidrec.ranking.ranker import Ranker


def build(backbone: str, enhance: str | None = None, preset: Any = "ours", **changes: Any) -> Ranker:
    torch.manual_seed(0)
    config = ranking_config(preset, backbone, enhance, {"dim": 8, **changes}, "x")
    return build_ranker(config, LAYOUT, item_fields(), knowledge=knowledge() if enhance else None)


@pytest.mark.parametrize("preset", ["ours", "paper", "authors", "textbook"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_plain_models(backbone: str, preset: str) -> None:
    model = build(backbone, None, preset)
    with_mean = backbone != "din" and preset != "textbook"  # DIN reads the history itself
    assert [type(source) for source in model.sources] == ([MeanHistory] if with_mean else [])
    assert model(batch(6)).shape == (6,)


@pytest.mark.parametrize("preset", ["ours", "paper", "authors"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_enhanced_models(backbone: str, preset: str) -> None:
    model = build(backbone, "disco", preset)
    keeps_mean = preset == "ours" and backbone != "din"
    assert [type(source) for source in model.sources] == ([DisCo, MeanHistory] if keeps_mean else [DisCo])
    assert model(batch(6)).shape == (6,)
    if isinstance(model.backbone, DIN):
        assert model.backbone.needs.history == (preset != "authors")  # whose patterns replace DIN's own history


def test_linear_weights_only_where_they_are_read() -> None:
    assert build("deepfm").embed.linear is not None
    assert build("dcn").embed.linear is None


def test_initial_and_unknown_rate_reach_the_tables() -> None:
    embed = build("dcn", initial="normal", unknown_rate=0.25).embed
    assert embed.table.weight.std().item() == pytest.approx(1e-4, rel=0.2)
    assert embed.unknown_rate == 0.25


def test_the_seed_of_the_pairs_is_an_argument() -> None:
    config = ranking_config("ours", "dcn", "disco", {"dim": 8}, "x")
    states = []
    for seed in (0, 1):
        torch.manual_seed(0)
        model = build_ranker(config, LAYOUT, item_fields(), knowledge=knowledge(), seed=seed)
        states.append((model.generators()["0.pairs"].get_state(), model.embed.table.weight.detach()))
    assert not torch.equal(states[0][0], states[1][0])
    assert torch.equal(states[0][1], states[1][1])


def test_an_enhancer_without_text_vectors_is_refused() -> None:
    config = ranking_config("ours", "dcn", "disco", {"dim": 8}, "x")
    with pytest.raises(ConfigError, match="needs item text vectors"):
        build_ranker(config, LAYOUT, item_fields(), knowledge=None)
    model = build_ranker(config, LAYOUT, item_fields(), knowledge=None, semantic_width=WIDTH)
    assert isinstance(model.sources[0], DisCo)  # to load an exported model into


def test_odd_dim_with_disco_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="even"):
        build("dcn", "disco", dim=9)


@pytest.mark.parametrize("vocabulary", ["train", "all"])
@pytest.mark.parametrize("statistics", [True, False])
def test_layout_of_a_prepared_data_set(vocabulary: Any, statistics: bool, tmp_path: Path) -> None:
    world = planted_world(PlantedConfig(users=60, items=50, interactions=2_000))
    dataset = Dataset.prepare(world.tables, tmp_path / "world", PrepareSettings(vocabulary=vocabulary))
    if statistics:
        dataset = dataset.with_statistics()
    layout, fields = table_layout(dataset), item_fields_of(dataset)
    first, last = layout.item_slice
    assert layout.rows == dataset.features.num_rows
    assert layout.signals == dataset.num_signals
    assert len(layout.names) == len(layout.unknown) == dataset.features.user_fields.shape[1] + fields.shape[1]
    assert last - first == layout.num_item_fields == fields.shape[1]
    assert all((row > 0) == (vocabulary == "train") for row in layout.unknown)
    assert layout.numbers == ((("statistics", 7),) if statistics else ())
    batches = RankingBatches(dataset, dataset.split["test"], 64, RecentHistory(dataset.log, 5), shuffle=False)
    one = next(iter(batches))
    assert torch.equal(one.fields[:, first:last], fields[one.item.long()])  # what a history would look up
    for backbone in BACKBONES:
        config = ranking_config("ours", backbone, "disco", {"dim": 8}, "x")
        model = build_ranker(config, layout, fields, knowledge=torch.randn(len(fields), WIDTH))
        assert model(one).isfinite().all()
