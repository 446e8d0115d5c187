"""From a prepared data set and a config to a model of the right parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_ranking import LAYOUT, WIDTH, batch, item_fields, knowledge

from braidrec.config import RunConfig, RunRequest, resolve
from braidrec.data.batches import RankingBatch, RankingBatches
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.history import RecentHistory
from braidrec.data.planted import PlantedConfig, planted_world
from braidrec.errors import ConfigError
from braidrec.layers.text import TextTable
from braidrec.ranking import TASK
from braidrec.ranking.build import build_model, build_ranker, material_of
from braidrec.ranking.contracts import Material, MeanHistory, RankingModel
from braidrec.ranking.methods.disco import DisCo
from braidrec.ranking.ranker import Ranker
from braidrec.registry import Spec
from braidrec.strict import Strict
from braidrec.training.step import Step
from small_runs import followed

BACKBONES = tuple(TASK.backbones)
OWN_HISTORY = ("dien", "din", "sdim")  # those that read it themselves


def configured(backbone: str, enhance: str | None = None, preset: str = "ours", /, **changes: Any) -> RunConfig:
    values = {"data": "-", "backbone": backbone, "enhance": enhance, "preset": preset, "model": changes}
    return resolve(RunRequest.model_validate({**values, "model": {**followed({"dim": 8}, **values), **changes}}), "x")


def material(seed: int = 0) -> Material:
    return Material(LAYOUT, item_fields(), TextTable(knowledge()), WIDTH, seed)


def build(backbone: str, enhance: str | None = None, preset: str = "ours", /, **changes: Any) -> Ranker:
    torch.manual_seed(0)
    return build_ranker(configured(backbone, enhance, preset, **changes), material())


@pytest.mark.parametrize("preset", ["ours", "paper", "authors", "textbook"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_plain_models(backbone: str, preset: str) -> None:
    model = build(backbone, None, preset)
    with_mean = backbone not in (*OWN_HISTORY, "lr") and preset != "textbook"  # LR reads none
    assert [type(source) for source in model.sources] == ([MeanHistory] if with_mean else [])
    assert model(batch(6)).shape == (6,)


@pytest.mark.parametrize("preset", ["ours", "paper", "authors"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_enhanced_models(backbone: str, preset: str) -> None:
    model = build(backbone, "disco", preset)
    keeps_mean = preset == "ours" and backbone not in OWN_HISTORY
    assert [type(source) for source in model.sources] == ([DisCo, MeanHistory] if keeps_mean else [DisCo])
    assert model(batch(6)).shape == (6,)
    if backbone in OWN_HISTORY:
        assert model.backbone.needs.history == (preset != "authors")  # whose patterns replace a history of one's own


def test_linear_weights_only_where_they_are_read() -> None:
    assert build("deepfm").embed.linear is not None
    assert build("dcn").embed.linear is None


def test_initial_and_unknown_rate_reach_the_tables() -> None:
    embed = build("dcn", initial="normal", unknown_rate=0.25).embed
    assert embed.table.weight.std().item() == pytest.approx(1e-4, rel=0.2)
    assert embed.unknown_rate == 0.25


def test_the_seed_of_the_pairs_is_the_run_s() -> None:
    states = []
    for seed in (0, 1):
        torch.manual_seed(0)
        model = build_ranker(configured("dcn", "disco"), material(seed))
        source = model.sources[0]
        assert isinstance(source, DisCo)
        states.append((source.generators()["pairs"].get_state(), model.embed.table))
    assert not torch.equal(states[0][0], states[1][0])
    assert torch.equal(*(table.weight for _, table in states if table is not None))


def test_an_enhancer_without_text_vectors_is_refused() -> None:
    config = configured("dcn", "disco")
    with pytest.raises(ConfigError, match="enhance = 'disco' needs item text vectors"):
        build_ranker(config, Material(LAYOUT, item_fields()))
    model = build_ranker(config, Material(LAYOUT, item_fields(), semantic_width=WIDTH))
    assert isinstance(model.sources[0], DisCo)  # to load an exported model into
    assert (model.reads_text, model.semantic_width) == (True, WIDTH)
    assert (build("dcn").reads_text, build("dcn").semantic_width) == (False, 0)


def test_lr_is_joined_by_patterns_only_where_it_reads_them() -> None:
    joined = build("lr", "disco")
    assert [type(source) for source in joined.sources] == [DisCo, MeanHistory]
    with pytest.raises(ConfigError, match=r"model\.backbone\.extra_linear = false"):
        build("lr", "disco", backbone={"extra_linear": False})
    assert [type(source) for source in build("lr", backbone={"extra_linear": True}).sources] == [MeanHistory]
    alone = build("lr")
    assert {name for name, _ in alone.named_parameters()} == {
        "backbone.bias",
        "embed.linear.weight",
        *(f"embed.number_linear.{at}.weight" for at in range(len(LAYOUT.numbers))),
    }


def test_a_whole_model_fills_the_slot_of_a_ranker(monkeypatch: pytest.MonkeyPatch) -> None:
    class Constant(torch.nn.Module, RankingModel):
        def __init__(self, config: RunConfig, material: Material):
            super().__init__()
            self.logit = torch.nn.Parameter(torch.tensor(float(material.layout.rows)))

        def forward(self, batch: RankingBatch) -> torch.Tensor:
            return self.logit.expand(len(batch))

        def step(self, batch: RankingBatch) -> Step:
            return Step(lambda: {"prediction": (self.logit - batch.label).square().mean()})

    with TASK.models.holding(Spec("constant", "Constant", Strict, Constant)):
        model = build_model(configured("constant"), material())
    assert model(batch(3)).tolist() == [87.0] * 3
    assert [group.name for group in model.groups()] == ["main"]
    assert model.weights.keys() == model.step(batch(3)).losses().keys()
    assert (model.earlier(), model.lazy_rows(batch(3)), model.spaces(), model.reads_text) == ((), {}, {}, False)


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
    found = material_of(dataset, None)
    layout, fields = found.layout, found.item_fields
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
        text = TextTable(torch.randn(len(fields), WIDTH))
        model = build_ranker(configured(backbone, "disco"), material_of(dataset, text))
        assert model(one).isfinite().all()
