"""EDK: its network against its equations, its two stages against what they may touch, its settings against what they say."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
import torch
from tiny_ranking import DIM, LAYOUT, WIDTH, batch, item_fields, ranker, rows
from tiny_ranking import knowledge as vectors
from torch import Tensor, nn

from braidrec.config import RunRequest, resolve
from braidrec.data.batches import RankingBatch, RankingView
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.history import RecentHistory
from braidrec.data.settings import SplitConfig
from braidrec.errors import ConfigError, DataError, RunError, TrainingError
from braidrec.evaluation.baselines import RankingLog, item_mean_user_residual
from braidrec.evaluation.metrics import auc
from braidrec.layers.gated import LIMIT
from braidrec.layers.text import TextTable
from braidrec.ranking import TASK
from braidrec.ranking.build import build_ranker, table_layout
from braidrec.ranking.contracts import Material, PatternSource, RankingInput
from braidrec.ranking.methods.edk import (
    EDK,
    GROUP,
    STAGE,
    Compression,
    EDKConfig,
    Extractor,
    KnowledgeNetwork,
    effective_gates,
    known_rows,
    seen_patterns,
)
from braidrec.ranking.ranker import Ranker
from braidrec.registry import TASKS
from braidrec.runs.directory import read_run, read_stage
from braidrec.runs.fit import fit
from braidrec.runs.run import Run, load
from braidrec.strict import parse
from braidrec.task import Plan
from braidrec.training.seeding import seed_everything
from braidrec.training.stages import Stage
from small_runs import MODEL, TRAINING, dataset, knowledge, rich_tables, root, world_tables

SMALL = {"width": 8, "patterns": 4, "layers": 1}
LARGER = 300.0  # tables start near zero, where nothing shows


def config(**values: Any) -> EDKConfig:
    return parse(EDKConfig, {**SMALL, **values}, "edk")


def network(seed: int = 0, **values: Any) -> KnowledgeNetwork:
    """With tables as large as training would make them."""
    torch.manual_seed(seed)
    found = KnowledgeNetwork(config(**values), LAYOUT)
    with torch.no_grad():
        for part in found.modules():
            if isinstance(part, nn.Embedding):
                part.weight.mul_(LARGER / 1e-4 * 1e-3)
    return found


def compression(seed: int = 0, **values: Any) -> Compression:
    made = network(seed, **values)
    return Compression(made.config, made, seed)


def stepped(module: Compression, one: RankingBatch) -> Mapping[str, Tensor]:
    return module.step(one).losses()


# -- settings -------------------------------------------------------------------------------------------------------------


def test_what_holds_by_default_and_what_the_presets_say() -> None:
    """The paper's numbers where it has some: K, depth, heads; of its relatives and the spec what it leaves open."""
    usual = EDKConfig()
    assert (usual.width, usual.patterns, usual.layers, usual.heads, usual.head_width) == (16, 20, 3, 3, None)
    assert (usual.reg_weight, usual.label_weight, usual.input_weight) == (0.02, 5.0, 1.0)
    assert (usual.disentangle_weight, usual.l0_weight) == (1.0, 0.01)
    assert (usual.disentangle, usual.temperature, usual.include_positive, usual.view_dropout) == ("contrast", 0.2, False, 0.1)
    assert (usual.gate_attn, usual.mask, usual.kb_oov, usual.oov_rate, usual.leave_out) == (True, "learned", "row", 0.01, ())
    assert (usual.detach_x, usual.estimator_lr, usual.estimator_steps) == (True, 1e-3, 1)
    assert (usual.club_per_dimension, usual.club_floor) == (False, False)  # the literal estimate
    assert (usual.compress, usual.inject, usual.with_summary) == (True, "fields", False)
    paper, ours = (
        resolve(RunRequest(data="-", backbone="deepfm", enhance=("edk",), preset=preset), "test")
        for preset in ("paper", "ours")
    )
    assert paper.model.of("edk") == usual
    assert ours.model.of("edk") == EDKConfig(patterns=8, layers=2, club_per_dimension=True, club_floor=True)
    first, second = (paper.training.of_phase(name) for name in (STAGE, "rank"))
    assert (first.batch_size, first.max_epochs, first.patience) == (1024, 10, 3)
    assert (second.batch_size, second.max_epochs, second.patience) == (1024, 50, 5)


# -- the network ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["learned", "ones"])
@pytest.mark.parametrize(("width", "patterns"), [(16, 20), (8, 1)])
def test_shapes_of_what_the_network_makes(mask: str, width: int, patterns: int) -> None:
    made = network(mask=mask, width=width, patterns=patterns, layers=3)
    found = made(batch(12), torch.Generator())
    fields = LAYOUT.num_fields
    assert found.memory.shape == (12, fields, width)
    assert found.gates.shape == (12, fields, patterns)
    assert found.patterns.shape == (12, patterns, width)
    assert found.summary.shape == (12, width)
    assert (found.logits is None) == (mask == "ones")
    assert ((found.gates >= 0) & (found.gates <= 1)).all()


def test_tables_begin_near_zero_and_are_two() -> None:
    """N(0, 1e-4) each, so gates begin at one half and a row that nothing trained says next to nothing; padding is nothing."""
    torch.manual_seed(0)
    made = KnowledgeNetwork(config(patterns=20), LAYOUT)
    assert made.extractor is not None
    tables = (made.extractor.fields.table.weight, made.memory.table.weight)
    assert not torch.equal(*tables)
    for table in tables:
        assert table[1:].std().item() == pytest.approx(1e-4, rel=0.1)
        assert not table[0].any()
    gates = made(batch(12)).gates
    torch.testing.assert_close(gates, torch.full_like(gates, 0.5), atol=1e-3, rtol=0)


def test_weights_of_the_network_are_counted() -> None:
    """Two tables of V + 5 rows and two layers of numbers, an attention, a head; three layers of psi; two MLPs d-2d-d."""
    d, heads, own, patterns, rows = 8, 3, 8, 4, LAYOUT.rows + 5
    table = rows * d + (1 + 1) * d + (3 + 1) * d
    layer = 4 * heads * d * own + d + 2 * 2 * d + (d + 1) * 4 * d + (4 * d + 1) * d
    mlp = (d + 1) * 2 * d + (2 * d + 1) * d

    def size(module: nn.Module) -> int:
        return sum(weight.numel() for weight in module.parameters())

    made = compression(layers=3)
    assert size(made.knowledge) == 2 * table + 3 * d * d + d * patterns + 3 * layer + 2 * mlp
    assert size(compression(layers=3, mask="ones").knowledge) == table + 3 * layer + 2 * mlp
    q = 2 * ((LAYOUT.num_fields * d + 1) * 2 * d + (2 * d + 1) * d)  # mean and variance of c given all vectors side by side
    view = 2 * d + 2 * (d + 1) * d  # of a normalised pattern
    assert size(made) - size(made.knowledge) == (d + 1) + (d * d + 1) + q + view
    other = compression(layers=3, disentangle="infomin", head_width=5)
    assert size(other) == size(made) - 3 * 4 * heads * d * (own - 5) + d * d + 1


def test_the_head_of_gates_has_no_bias_and_begins_within_its_bounds() -> None:
    """Xavier-uniform: |w| below the root of 6 / (d + K)."""
    made = KnowledgeNetwork(config(width=64, patterns=100), LAYOUT)
    assert made.extractor is not None
    assert made.extractor.out.bias is None
    assert made.extractor.out.weight.abs().max().item() == pytest.approx((6 / 164) ** 0.5, rel=0.01)


def test_logits_end_at_the_logarithm_of_a_hundred() -> None:
    """Beyond, a gate would have no gradient left to come back by; there it is 0 or 1 without noise."""
    made = network()
    assert made.extractor is not None
    with torch.no_grad():
        made.extractor.out.weight.mul_(1e6)
    found = made(batch(12))
    assert found.logits is not None
    assert found.logits.min().item() == pytest.approx(-math.log(100))
    assert found.logits.max().item() == pytest.approx(math.log(100))
    assert set(found.gates.unique().tolist()) == {0.0, 1.0}


def test_without_a_mask_every_gate_is_open() -> None:
    found = network(mask="ones")(batch(12), torch.Generator())
    assert torch.equal(found.gates, torch.ones(12, LAYOUT.num_fields, 4))


def test_equations_20_to_31() -> None:
    made, one = network(), batch(6)
    found, read = made(one), made.read(one)
    assert made.extractor is not None
    logits = made.extractor.attention(made.extractor.fields(read)) @ made.extractor.out.weight.T  # (20), (21)
    torch.testing.assert_close(found.logits, logits.clamp(-math.log(100), math.log(100)))
    for pattern in range(4):
        gates = found.gates[:, :, pattern]
        pooled = made.encoder(found.memory * gates[:, :, None], gates)  # (26)-(29)
        torch.testing.assert_close(found.patterns[:, pattern], made.pattern(pooled), atol=1e-6, rtol=1e-5)  # (30)
    torch.testing.assert_close(found.summary, made.summary(found.patterns.mean(dim=1)))  # (31)


def test_without_noise_nothing_is_left_to_chance() -> None:
    made, one = network(oov_rate=0.0), batch(12)
    assert torch.equal(made(one).patterns, made(one).patterns)
    first, second, again = (made(one, torch.Generator().manual_seed(seed)).patterns for seed in (1, 2, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_the_order_of_fields_says_nothing() -> None:
    made, one = network(), batch(12)
    read, order = made.read(one), torch.tensor([2, 0, 3, 1])
    memory = made.memory(read)
    assert made.extractor is not None
    first = made.extractor.attention(made.extractor.fields(read))
    gates = made(one).gates
    whole = torch.cat([order, torch.arange(4, LAYOUT.num_fields)])
    torch.testing.assert_close(
        made.extractor.attention(made.extractor.fields(read)[:, whole]), first[:, whole], atol=1e-5, rtol=1e-5
    )
    plain, moved = made.encode(memory, gates), made.encode(memory[:, whole], gates[:, whole])
    for one_side, other in zip(plain, moved, strict=True):
        torch.testing.assert_close(one_side, other, atol=1e-5, rtol=1e-5)


def test_a_field_that_no_gate_lets_in_says_nothing() -> None:
    made, one = network(layers=3), batch(12)
    gates = made(one).gates.detach().clone()
    gates[:, 0] = 0.0
    other = replace(one, fields=torch.cat([one.fields[:, :1] % 20 + 1, one.fields[:, 1:]], dim=1))
    memory = made.memory(made.read(one))
    found, changed = made.encode(memory, gates), made.encode(made.memory(made.read(other)), gates)
    for one_side, second in zip(found, changed, strict=True):
        torch.testing.assert_close(one_side, second, atol=1e-6, rtol=1e-6)
    (slope,) = torch.autograd.grad(found[1].sum(), memory)
    assert slope[:, 0].abs().max() < 1e-6
    assert slope[:, 1].abs().max() > 1e-6


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_gates_that_are_all_closed_or_all_open_are_finite(value: float) -> None:
    module, one = compression(), batch(16)
    made = module.knowledge
    assert made.extractor is not None
    with torch.no_grad():
        made.extractor.out.weight.zero_()

    class Forced(nn.Module):
        def forward(self, read: Any) -> Tensor:
            return torch.full((16, LAYOUT.num_fields, 4), 100.0 if value else -100.0, requires_grad=True)

    made.extractor = Forced()  # type: ignore[assignment]
    step = module.step(one)
    assert all(torch.isfinite(loss) for loss in step.losses().values())
    assert torch.equal(made(one).gates, torch.full((16, LAYOUT.num_fields, 4), value))
    seen = {name: step.monitors[name].item() for name in ("open patterns", "all closed", "fields kept")}
    assert seen == pytest.approx(
        {"open patterns": 4 * value, "all closed": 1 - value, "fields kept": LAYOUT.num_fields * value}
    )


def test_low_gates_are_not_closed_ones() -> None:
    """Whatever noise makes of them: the second stage reads gates without it, and refuses those that are all 0."""
    module = compression()
    assert module.knowledge.extractor is not None
    for height, closed in (
        (-2.0, False),
        (-3.0, True),
    ):  # gates of .04, and of 0, of which one of six is above one half by noise
        module.knowledge.extractor.forward = lambda read, own=height: torch.full((16, LAYOUT.num_fields, 4), own)  # type: ignore[method-assign, misc]
        seen = module.step(batch(16)).monitors
        assert (seen["open patterns"].item(), seen["all closed"].item()) == ((0.0, 1.0) if closed else (4.0, 0.0))


# -- the losses -----------------------------------------------------------------------------------------------------------


def test_losses_are_weighted_as_in_32() -> None:
    module = compression(reg_weight=0.1, label_weight=5.0, input_weight=2.0, disentangle_weight=3.0, l0_weight=0.04)
    assert module.weights == pytest.approx({"prediction": 1.0, "essential": 0.5, "input": 0.2, "disentangled": 0.3, "l0": 0.04})
    assert stepped(module, batch(16)).keys() == module.weights.keys()


@pytest.mark.parametrize(
    ("values", "left"),
    [
        ({"reg_weight": 0.0}, {"prediction", "l0"}),
        ({"label_weight": 0.0, "input_weight": 0.0}, {"prediction", "disentangled", "l0"}),
        ({"disentangle_weight": 0.0}, {"prediction", "essential", "input", "l0"}),
        ({"patterns": 1}, {"prediction", "essential", "input", "l0"}),
        ({"mask": "ones", "l0_weight": 0.5}, {"prediction", "essential", "input", "disentangled"}),
        ({"l0_weight": 0.0, "disentangle": "infomin"}, {"prediction", "essential", "input", "disentangled"}),
    ],
)
def test_what_weighs_nothing_is_not_there(values: dict[str, Any], left: set[str]) -> None:
    module = compression(**values)
    losses = stepped(module, batch(16))
    assert losses.keys() == module.weights.keys() == left
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_gates_as_they_start_and_a_discriminator_that_says_nothing() -> None:
    module = compression()
    assert module.discriminator is not None
    assert module.knowledge.extractor is not None
    with torch.no_grad():
        module.discriminator.weight.zero_()
        module.knowledge.extractor.out.weight.zero_()
    losses = stepped(module, batch(16))
    assert losses["l0"].item() == pytest.approx(0.8318, abs=1e-4)
    assert losses["essential"].item() == pytest.approx(2 * math.log(2), abs=1e-4)
    one_class = replace(batch(16), label=torch.ones(16))
    assert stepped(module, one_class)["essential"].item() == 0


def encoding(module: Compression, patterns: Tensor, summary: Tensor) -> Compression:
    """The same, whose network makes these of its samples."""
    module.knowledge.encode = lambda memory, gates: (patterns, summary)  # type: ignore[method-assign]
    return module


def test_patterns_are_held_against_summaries_of_others() -> None:
    """Two clicks, two others, each marked: D is sure of a summary of the only other sample of the class, and of no other."""
    one, marks = replace(batch(4), label=torch.tensor([1.0, 0, 0, 1])), torch.eye(8)
    mates = (3, 2, 1, 0)
    module = encoding(compression(), marks[:4, None].expand(4, 4, 8), marks[4:])
    assert module.discriminator is not None
    with torch.no_grad():
        module.discriminator.weight.zero_()
        module.discriminator.weight[:4, 4:] = 40.0 * torch.eye(4)[list(mates)] - 20.0
    assert stepped(module, one)["essential"].item() < 1e-6
    with torch.no_grad():  # and of one of the sample itself
        module.discriminator.weight[:4, 4:] = 40.0 * torch.eye(4) - 20.0
    assert stepped(module, one)["essential"].item() == pytest.approx(20.0, abs=1e-4)


def test_the_essential_part_moves_patterns_summaries_and_discriminator() -> None:
    patterns, summary = torch.randn(16, 4, 8, requires_grad=True), torch.randn(16, 8, requires_grad=True)
    module = encoding(compression(), patterns, summary)
    assert module.discriminator is not None
    loss = stepped(module, batch(16))["essential"]
    for slope in torch.autograd.grad(loss, [patterns, summary, module.discriminator.weight, module.discriminator.bias]):
        assert slope.any()


@pytest.mark.parametrize("form", ["contrast", "infomin"])
def test_the_disentangled_part_moves_patterns_and_their_views(form: str) -> None:
    patterns, summary = torch.randn(16, 4, 8, requires_grad=True), torch.randn(16, 8)
    module = encoding(compression(disentangle=form), patterns, summary)
    assert module.view is not None
    own = [*module.view.parameters(), *([] if module.classifier is None else [module.classifier.weight])]
    assert (module.classifier is None) == (form == "contrast")
    slopes = torch.autograd.grad(stepped(module, batch(16))["disentangled"], [patterns, *own])
    assert all(slope.isfinite().all() and slope.any() for slope in slopes)


def test_rows_of_one_user_alone_have_nobody_to_be_held_against() -> None:
    one = batch(16)
    shared = replace(one, history=rows(one, torch.tensor([5])).history.shared(16))
    losses = stepped(compression(), shared)
    assert losses["essential"].item() == losses["input"].item() == 0.0
    apart = stepped(compression(), one)
    assert apart["essential"].item() != 0.0 != apart["input"].item()


def test_views_of_a_pattern_are_two_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """(17): each drops out anew, then is normalised, then goes through an MLP; without dropout both are one."""
    for dropout in (0.1, 0.0):
        module, seen = compression(view_dropout=dropout), []
        assert isinstance(module.view, nn.Sequential)
        assert [type(part).__name__ for part in module.view] == ["Dropout", "LayerNorm", "Sequential"]
        assert [type(part).__name__ for part in module.view[2]] == ["Linear", "ReLU", "Linear"]
        monkeypatch.setattr(module, "_disentangled", lambda *views, into=seen: into.append(views) or views[0].sum())
        stepped(module.train(), batch(16))
        assert torch.equal(*seen[0]) == (dropout == 0)


def test_prediction_is_the_weighted_cross_entropy_of_the_summary() -> None:
    """(34) with its sign."""
    module = compression(mask="ones", oov_rate=0.0)
    one = replace(batch(16), weight=torch.linspace(0, 2, 16))
    chance = torch.sigmoid(module.head(module.knowledge(one).summary)[:, 0])
    torch.testing.assert_close(torch.sigmoid(module(one)), chance)
    right = torch.where(one.label > 0, chance, 1 - chance)
    torch.testing.assert_close(stepped(module, one)["prediction"], -(one.weight * right.log()).mean())  # type: ignore[operator]


def test_monitors_by_hand() -> None:
    """Of four patterns two and two are alike, so 4 of 12 pairs have a cosine of 1, the others 0."""
    patterns = 3 * torch.eye(8)[[0, 0, 5, 5]].expand(16, 4, 8)
    found = encoding(compression(), patterns, torch.tensor([3.0, 4.0, 0, 0, 0, 0, 0, 0]).expand(16, 8)).step(batch(16)).monitors
    assert found["cosine of patterns"].item() == pytest.approx(1 / 3)
    assert found["norm of summary"].item() == pytest.approx(5.0)
    single = encoding(compression(patterns=1), patterns[:, :1], patterns[:, 0]).step(batch(16)).monitors
    assert single["cosine of patterns"].item() == 0.0


def test_each_optimiser_moves_what_is_its_own() -> None:
    module, one = compression(), batch(16)
    main, apart = module.groups()
    assert (apart.name, apart.lr, apart.weight_decay, apart.steps) == (GROUP, 1e-3, 0.0, 1)
    assert {id(weight) for weight in (*main.parameters, *apart.parameters)} == {id(weight) for weight in module.parameters()}
    step = module.step(one)
    assert all(slope is None for slope in torch.autograd.grad(step.first[GROUP](), list(main.parameters), allow_unused=True))
    losses = step.losses()
    total = torch.stack([weight * losses[name] for name, weight in module.weights.items()]).sum()
    slopes = torch.autograd.grad(total, [*main.parameters, *apart.parameters], allow_unused=True)
    assert all(slope is not None for slope in slopes[: len(main.parameters)])
    assert all(slope is None for slope in slopes[len(main.parameters) :])


@pytest.mark.parametrize("detached", [True, False])
def test_the_input_part_presses_the_summary_and_not_the_table(detached: bool) -> None:
    """The table of the memory is X, and is moved by way of c alone, unless it is asked for."""
    module = compression(detach_x=detached, mask="ones")
    table, head = module.knowledge.memory.table.weight, module.knowledge.summary[2].weight
    assert all(slope.any() for slope in torch.autograd.grad(stepped(module, batch(16))["input"], [head, table]))
    summary = torch.randn(16, 8, requires_grad=True)
    loss = stepped(encoding(module, torch.randn(16, 4, 8), summary), batch(16))["input"]
    by_summary, by_table = torch.autograd.grad(loss, [summary, table], allow_unused=True)
    assert by_summary.any()
    assert by_table is None if detached else by_table.any()


# -- what is read ---------------------------------------------------------------------------------------------------------


def test_sparse_tables_of_the_first_stage_learn_alike() -> None:
    """Rows that a pass may read are named before it, unknown ones that ids are swapped for among them."""
    made, one = [], batch(12)
    for sparse in (False, True):
        torch.manual_seed(0)
        own = config(oov_rate=0.5)
        made.append(Compression(own, KnowledgeNetwork(own, LAYOUT, sparse=sparse), 0))
        torch.manual_seed(1)
        torch.stack(list(stepped(made[-1], one).values())).sum().backward()
    assert made[0].lazy_rows(one) == {}
    touched, expected = made[1].lazy_rows(one), dict(made[0].named_parameters())
    found = {
        name: weight.grad for name, weight in made[1].named_parameters() if weight.grad is not None and weight.grad.is_sparse
    }
    assert set(found) == set(touched) == {"knowledge.memory.table.weight", "knowledge.extractor.fields.table.weight"}
    for name, slope in found.items():
        whole = expected[name].grad
        assert whole is not None
        torch.testing.assert_close(slope.to_dense(), whole, atol=1e-6, rtol=1e-4)
        moved = set(whole.any(dim=1).nonzero().flatten().tolist())
        assert moved <= set(touched[name].tolist())
        assert moved & set(made[1].knowledge.unknown.tolist())


def test_fields_are_left_out_by_name_or_by_role() -> None:
    for name in ("user", "item", "genre", "tags", "statistics"):
        made = network(leave_out=[name])
        assert made.reading.num_fields == LAYOUT.num_fields - 1
        made(batch(12))
    one = batch(12)
    other = replace(one, fields=torch.cat([one.fields[:, :1] % 20 + 1, one.fields[:, 1:]], dim=1))
    assert torch.equal(network(leave_out=["user"])(one).summary, network(leave_out=["user"])(other).summary)
    assert not torch.equal(network()(one).summary, network()(other).summary)
    with pytest.raises(ConfigError, match=r"model.edk.leave_out: the data have no field 'usr' \(did you mean 'user'\?\)"):
        network(leave_out=["usr"])
    with pytest.raises(ConfigError, match=r"names every field there is \(user, item, .*\); keep one at the least"):
        network(leave_out=["user", "item", "genre", "hour", "tags", "age", "statistics"])


def world(**split: Any) -> Dataset:
    return _world(tuple(sorted(split.items())))


@cache
def _world(split: tuple[tuple[str, Any], ...]) -> Dataset:
    cut = parse(SplitConfig, {"kind": "knowledge", **dict(split)}, "split")
    name = "-".join(str(value) for _, value in split) or "whole"
    return Dataset.prepare(world_tables(), root() / f"edk-{name}", PrepareSettings(split=cut, sequences="all"))


def test_values_that_old_events_lack_share_a_row_of_their_field() -> None:
    data = world()
    layout, log = table_layout(data), data.log
    rows = known_rows(data, layout)
    old = set(log.item[data.split["knowledge"]].tolist())
    new = [row for row in np.unique(log.item).tolist() if row not in old]
    assert new  # some items are launched late
    first = layout.item_slice[0]
    own = torch.from_numpy(data.features.item_fields[:, 0]).long()
    assert (rows[own[new]] == layout.rows + first).all()
    assert torch.equal(rows[own[sorted(old)]].long(), own[sorted(old)])
    assert rows[0] == 0
    made = KnowledgeNetwork(config(), layout, known=rows)
    assert made.memory.table.num_embeddings == layout.rows + len(layout.names) + len(layout.bags)


@pytest.mark.parametrize("kb_oov", ["row", "untrained"])
def test_values_that_old_events_lack_keep_rows_of_their_own_where_none_is_trained_for_them(kb_oov: str) -> None:
    data = world()
    layout = table_layout(data)
    own = {"dim": DIM, "edk": {**SMALL, "kb_oov": kb_oov}}
    found = resolve(RunRequest(data="-", backbone="deepfm", enhance=("edk",), model=own), "test")
    model = build_ranker(found, Material(layout, torch.from_numpy(data.features.item_fields), data=data))
    each = torch.arange(layout.rows, dtype=torch.int32)
    assert not torch.equal(known_rows(data, layout), each)
    networks = [part for part in model.modules() if isinstance(part, KnowledgeNetwork)]
    assert networks
    for network in networks:
        assert torch.equal(network.rows, known_rows(data, layout) if kb_oov == "row" else each)


def test_of_every_kind_of_field_what_old_events_have_keeps_its_row() -> None:
    """Ids, single values and bags of users, items and events, by a loop over the old events; all else, unknown rows included,
    is the unknown row of its field.
    """
    tables, border = rich_tables(), 1_700_000_000 + 60 * 20
    late = pl.col("time") >= border
    log = tables.interactions.with_columns(
        device=pl.when(late).then(pl.lit("watch")).otherwise("device"), tags=pl.when(late).then(pl.lit("z|a")).otherwise("tags")
    )
    cut = parse(SplitConfig, {"kind": "knowledge", "quantiles": (0.01, 0.5)}, "split")
    data = Dataset.prepare(replace(tables, interactions=log), root() / "edk-rich", PrepareSettings(split=cut))
    layout, features, met = table_layout(data), data.features, {0}
    for at in data.split["knowledge"].tolist():
        rows_of = {"user": data.log.user[at], "item": data.log.item[at], "context": at}
        for owner, fields in rows_of.items():
            met |= set(getattr(features, f"{owner}_fields")[fields].tolist())
        for bag in features.bags:
            met |= set(bag.rows[rows_of[bag.owner]].tolist())
    found, lacking = known_rows(data, layout).tolist(), set()
    assert found[0] == 0
    for place, entry in enumerate(features.vocabularies):
        for row in range(entry.offset + 1, entry.last_row + 1):
            assert found[row] == (row if row in met else layout.rows + place), (entry.name, row)
            lacking |= {entry.name} if row not in met and row < entry.unknown_row else set()
    assert {"user", "item", "device", "tags"} <= lacking


def test_unknown_rows_are_learned_by_swapping_ids_for_them() -> None:
    made, one = network(oov_rate=0.5), batch(12)
    still, swapped = made.read(one), made.read(one, swap=True)
    changed = still.ids != swapped.ids
    assert 0 < changed.sum() < changed.numel()
    assert (swapped.ids[changed] == made.unknown[: len(LAYOUT.names)].expand_as(still.ids)[changed]).all()
    assert (swapped.bags[0][still.bags[0] == 0] == 0).all()
    changed = still.bags[0] != swapped.bags[0]
    assert changed.any()
    assert (swapped.bags[0][changed] == made.unknown[-1]).all()
    assert torch.equal(network(kb_oov="untrained", oov_rate=0.5).read(one, swap=True).ids, still.ids)


# -- the source -----------------------------------------------------------------------------------------------------------


def source(**values: Any) -> EDK:
    made = network(**values)
    return EDK(made.config, made, DIM)


@pytest.mark.parametrize(
    ("values", "extras"),
    [({}, 4), ({"with_summary": True}, 5), ({"inject": "concat"}, 1), ({"inject": "concat", "with_summary": True}, 1)],
)
def test_knowledge_stands_beside_the_fields(values: dict[str, Any], extras: int) -> None:
    one = source(**values)
    assert one.num_extras == extras
    model = ranker("dcn", sources=[one]).train()
    step = model.step(batch(12))
    slopes = torch.autograd.grad(step.losses()["prediction"], list(one.adapter.parameters()))
    assert all(slope.any() for slope in slopes)
    assert all(not weight.requires_grad for weight in one.knowledge.parameters())
    assert {id(weight) for group in model.groups() for weight in group.parameters}.isdisjoint(
        {id(weight) for weight in one.knowledge.parameters()}
    )


@pytest.mark.parametrize("with_summary", [False, True])
def test_one_adapter_reads_every_pattern(with_summary: bool) -> None:
    """Linear(d, e)-ReLU-Linear(e, e) for each, the summary behind them; "concat" has one of Linear(K d, e) for all."""
    one, rows_of = source(with_summary=with_summary), batch(12)
    model = ranker("dcn", sources=[one]).eval()
    items, found = model.embed.items(rows_of.item, rows_of.history), one.knowledge(rows_of)
    vectors = [*found.patterns.unbind(1), *([found.summary] if with_summary else [])]
    extras = one(rows_of, items, model.embed).extras
    torch.testing.assert_close(extras, torch.stack([one.adapter(vector) for vector in vectors], dim=1))
    sizes = [sum(weight.numel() for weight in part.parameters()) for part in one.adapter]
    assert sizes == [(8 + 1) * DIM, 0, (DIM + 1) * DIM]
    whole = source(inject="concat", with_summary=with_summary)
    assert whole.adapter[0].weight.shape == (DIM, 8 * len(vectors))
    torch.testing.assert_close(whole(rows_of, items, model.embed).extras, whole.adapter(torch.cat(vectors, dim=1))[:, None])
    assert [name for name, _ in one.named_children()] == ["knowledge", "adapter"]  # what the first stage alone needs is gone


def built(backbone: str, *, apart: bool, **edk: Any) -> Ranker:
    """By way of the settings.  apart: without the mean history"""
    own = {"dim": DIM, "edk": {**SMALL, **edk}, **({"history": {"mean": False}} if apart else {})}
    found = resolve(RunRequest(data="-", backbone=backbone, enhance=("edk",), preset="paper", model=own), "test")
    torch.manual_seed(0)
    return build_ranker(found, Material(LAYOUT, item_fields()))


def test_knowledge_is_drawn_apart_from_what_stands_beside_it() -> None:
    """By the seed of the run, so whatever becomes of the network, all else begins alike; and it has tables of its own."""

    def drawn(seed: int, **edk: Any) -> Ranker:
        own = {"dim": DIM, "edk": {**SMALL, **edk}}
        torch.manual_seed(0)
        made = resolve(RunRequest(data="-", backbone="deepfm", enhance=("edk",), model=own), "test")
        return build_ranker(made, Material(LAYOUT, item_fields(), seed=seed))

    usual, deeper, other = drawn(1), drawn(1, layers=2, heads=2, leave_out=["user"]), drawn(2)
    for model in (deeper, other):
        assert torch.equal(model.embed.table.weight, usual.embed.table.weight)  # type: ignore[union-attr]
        assert torch.equal(model.sources[0].adapter[0].weight, usual.sources[0].adapter[0].weight)  # type: ignore[union-attr, index]
    tables = [model.sources[0].knowledge.memory.table.weight for model in (usual, other, drawn(1))]  # type: ignore[union-attr]
    assert torch.equal(tables[0], tables[2])
    assert not torch.equal(tables[0], tables[1])
    assert not {id(weight) for weight in usual.sources[0].knowledge.parameters()} & {  # type: ignore[union-attr]
        id(weight) for weight in usual.embed.parameters()
    }


MIXING = ("deepfm", "dcn", "pnn", "xdeepfm", "autoint", "finalmlp")


@pytest.mark.parametrize("with_summary", [False, True])
@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("backbone", MIXING)
def test_knowledge_for_the_mlp_alone(backbone: str, apart: bool, with_summary: bool) -> None:
    model = built(backbone, apart=apart, inject="mlp", with_summary=with_summary)
    vectors = 4 + with_summary
    one = batch(12)
    slopes = torch.autograd.grad(model.train().step(one).losses()["prediction"], list(model.sources[0].adapter.parameters()))  # type: ignore[union-attr]
    assert all(slope.any() for slope in slopes)
    seen: list[RankingInput] = []
    model.backbone.register_forward_pre_hook(lambda module, given: seen.append(given[0]))  # type: ignore[attr-defined]
    model.eval()(one)
    assert seen[0].deep is not None
    assert seen[0].deep.shape == (12, vectors, DIM)
    assert seen[0].extras.shape[1] == (0 if apart else 2)
    columns = sum(part.shape[1] for part in seen[0].columns if isinstance(part, Tensor))
    assert columns == (LAYOUT.num_fields + (0 if apart else 2) + vectors) * DIM


def test_knowledge_for_the_mlp_alone_is_what_deepfm_reads_beside_its_pairs() -> None:
    alone, one = built("deepfm", apart=True, inject="mlp"), batch(12)
    beside = built("deepfm", apart=True, inject="fields")
    beside.load_state_dict(alone.state_dict())
    paired = beside.eval()(one)
    beside.backbone.extras_in_fm = False  # type: ignore[attr-defined]
    assert torch.equal(alone.eval()(one), beside(one))
    assert not torch.equal(alone(one), paired)


@pytest.mark.parametrize(("backbone", "width"), [("dcn", 11), ("xdeepfm", 5)])
def test_crosses_are_as_wide_as_without_it(backbone: str, width: int) -> None:
    """DCN's MLP reads seven fields and four vectors, that of the paper's xDeepFM the sum of fields and four vectors."""
    model = built(backbone, apart=True, inject="mlp").backbone
    assert model.mlp.layers[0].in_features == width * DIM  # type: ignore[attr-defined]
    crosses = model.cross.bias if backbone == "dcn" else model.cin.weights[0]  # type: ignore[attr-defined]
    assert crosses.shape[1] == LAYOUT.num_fields * (DIM if backbone == "dcn" else 1)


@pytest.mark.parametrize("backbone", ["fm", "ffm", "fwfm"])
def test_without_an_mlp_nothing_is_for_it_alone(backbone: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{backbone}' has no MLP .* edk .* set inject = 'fields', or take one of deepfm, "):
        built(backbone, apart=False, inject="mlp")


@pytest.mark.parametrize("backbone", ["din", "dien", "sdim", "widedeep"])
def test_where_extras_reach_the_mlp_alone_as_it_is_that_is_said(backbone: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.edk\.inject = 'mlp' would change nothing: .* reach its MLP alone as it is"):
        built(backbone, apart=False, inject="mlp")


def test_knowledge_that_says_nothing_is_as_many_empty_fields() -> None:
    one = source()
    with torch.no_grad():
        for weight in one.knowledge.pattern.parameters():
            weight.zero_()
        for layer in one.adapter:
            if isinstance(layer, nn.Linear):
                layer.bias.zero_()
    model, rows = ranker("dcn", sources=[one]).eval(), batch(12)
    items = model.embed.items(rows.item, rows.history)
    assert torch.equal(one(rows, items, model.embed).extras, torch.zeros(12, 4, DIM))


@pytest.mark.parametrize("backbone", TASK.backbones)
def test_two_methods_stand_side_by_side(backbone: str) -> None:
    own = {"edk": SMALL, "disco": {"semantic_hidden": 16, "sufficiency_weight": 0.02, "disentangle_weight": 0.01}, "dim": DIM}
    both = resolve(RunRequest(data="-", backbone=backbone, enhance=("disco", "edk"), model=own), "test")
    torch.manual_seed(0)
    model = build_ranker(both, Material(LAYOUT, item_fields(), TextTable(vectors()), WIDTH)).train()
    assert sum(cast(PatternSource, each).num_extras for each in model.sources if each.name in ("disco", "edk")) == 8 + 4
    step = model.step(batch(12))
    assert model.weights == {"prediction": 1.0, "sufficiency": 0.02, "disentanglement": 0.01}
    losses = step.losses()
    total = torch.stack([weight * losses[name] for name, weight in model.weights.items()]).sum()
    trained = [weight for group in model.groups() if group.name == "main" for weight in group.parameters]
    reached = dict(zip(map(id, trained), torch.autograd.grad(total, trained, allow_unused=True), strict=True))
    for source in model.sources[:2]:  # what makes patterns into fields learns from what is made of them
        adapter = source.adapter if isinstance(source, EDK) else source.attention
        assert all(slope is not None and slope.any() for slope in (reached[id(weight)] for weight in adapter.parameters()))  # type: ignore[operator, union-attr]


def test_gates_that_all_closed_are_an_error_with_a_remedy() -> None:
    one = source(l0_weight=3.0)
    assert one.knowledge.extractor is not None
    with torch.no_grad():
        one.knowledge.extractor.fields.table.weight.zero_()
        for layer in one.knowledge.extractor.fields.numbers:
            for weight in layer.parameters():
                weight.zero_()
    model = ranker("dcn", sources=[one]).train()
    model.step(batch(12))  # gates of one half
    again = source(l0_weight=3.0)
    assert again.knowledge.extractor is not None
    again.knowledge.extractor.forward = lambda read: torch.full((12, LAYOUT.num_fields, 4), -math.log(100))  # type: ignore[method-assign]
    with pytest.raises(RunError, match=r"every gate of the knowledge of 12 rows is closed.*lower model.edk.l0_weight = 3"):
        ranker("dcn", sources=[again]).train().step(batch(12))


# -- both stages ----------------------------------------------------------------------------------------------------------


def request(data: Dataset | None = None, **values: Any) -> dict[str, Any]:
    model = {**MODEL, "edk": SMALL, **values.pop("model", {})}
    return {"data": str((data or world()).path), "backbone": "deepfm", "enhance": ["edk"], "model": model, **values}


def plan(data: Dataset | None = None, **values: Any) -> Plan:
    wanted = resolve(RunRequest(**{"training": TRAINING, **request(data, **values)}), "test")
    seed_everything(wanted.seed)
    made: Plan = TASKS["ranking"].room().plan(wanted, data or world(), None, show_progress=False)
    return made


def edk_of(run: Run) -> EDK:
    network = run.model.module
    assert isinstance(network, Ranker)
    found = network.sources[0]
    assert isinstance(found, EDK)
    return found


def trained(name: str, data: Dataset | None = None, **model: Any) -> Run:
    values = request(data)
    edk = {**SMALL, **model.pop("edk", {})}
    return fit(
        data or world(),
        path=root() / name,
        backbone=values["backbone"],
        enhance=["edk"],
        model={**MODEL, "edk": edk, **model},
        training=TRAINING,
        show_progress=False,
    )


@cache
def first() -> Run:
    return trained("edk-first")


def test_the_stages_are_of_the_parts_that_they_name() -> None:
    made = plan()
    assert [(stage.name, getattr(stage, "train", ""), stage.valid) for stage in made.stages] == [
        (STAGE, "knowledge", "knowledge_valid"),
        ("rank", "train", "valid"),
    ]
    old = made.stages[0]
    assert isinstance(old, Stage)
    assert (old.monitor, old.mode) == ("auc", "max")  # of the logits of the summary, on the last tenth of the old events
    assert made.batches(old).num_samples == len(world().split["knowledge"])  # type: ignore[attr-defined]
    more = plan(model={"train_on": "knowledge+train"}).stages[-1]
    assert isinstance(more, Stage)
    assert more.train == "knowledge+knowledge_valid+train"
    assert [stage.name for stage in plan(model={"edk": {**SMALL, "compress": False}}).stages] == ["rank"]


def test_the_network_of_the_first_stage_stands_still_in_the_second() -> None:
    run = first()
    record = load(run.path, dataset=world())
    kept = edk_of(record).knowledge.state_dict()
    weights = read_stage(run.path, read_run(run.path)[1], STAGE).files["model"]
    assert all(torch.equal(tensor, weights[f"knowledge.{name}"]) for name, tensor in kept.items())
    drawn = plan().stages[0].module.knowledge.state_dict()  # type: ignore[union-attr, operator]
    assert any(not torch.equal(tensor, drawn[name]) for name, tensor in kept.items())


def test_a_stage_of_another_run_is_taken_over(tmp_path: Path) -> None:
    run = trained("edk-taken", start_from={STAGE: str(first().path)})
    mine, theirs = (edk_of(each).knowledge.state_dict() for each in (run, first()))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
    assert [phase["name"] for phase in run.record["phases"]] == ["rank"]
    assert run.record["taken"] == {f"weights of stage '{STAGE}'": first().record["weights"][STAGE]}
    assert "taken" not in first().record
    with pytest.raises(ConfigError, match=r"model.start_from.knowledge = .*its weights do not fit stage 'rank'"):
        trained("edk-other-width", edk={"width": 4}, start_from={STAGE: str(first().path)})
    with pytest.raises(ConfigError, match=r"names the stage 'knowledge', which is none that another follows"):
        trained("edk-drawn-taken", edk={"compress": False}, start_from={STAGE: str(first().path)})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"gate_attn": False}, "gate_attn is True there and False here"),
        ({"mask": "ones"}, "mask is 'learned' there and 'ones' here"),
        ({"head_width": 4}, "head_width is None there and 4 here"),
        ({"kb_oov": "untrained"}, "kb_oov is 'row' there and 'untrained' here"),
        ({"l0_weight": 0.5}, "l0_weight is 0.01 there and 0.5 here"),
    ],
)
def test_knowledge_of_other_settings_is_not_taken_over(values: dict[str, Any], said: str) -> None:
    name = f"edk-taken-{next(iter(values))}"
    with pytest.raises(ConfigError, match=rf"weights do not fit stage 'rank': model\.edk\.{re.escape(said)}") as caught:
        trained(name, edk=values, start_from={STAGE: str(first().path)})
    assert str(caught.value).endswith("here, where nothing would follow it; set it as it is there, or train the stage here")
    assert not (root() / name).exists()


def test_knowledge_of_as_many_other_fields_is_not_taken_over() -> None:
    other = trained("edk-no-user", edk={"leave_out": ["user"]})
    taken = {STAGE: str(other.path)}
    with pytest.raises(ConfigError, match=r"model\.edk\.leave_out is \('user',\) there and \('item',\) here"):
        trained("edk-no-item-taken", edk={"leave_out": ["item"]}, start_from=taken)
    later = {"inject": "concat", "with_summary": True, "cache_mib": 0}
    run = trained("edk-no-user-taken", edk={"leave_out": ["user"], **later}, start_from=taken)  # of the second stage alone
    assert [phase["name"] for phase in run.record["phases"]] == ["rank"]


def test_each_stage_is_validated_by_what_it_watches() -> None:
    made = plan(model={"monitor": "ndcg@10"})
    old, own = (set(made.validate(stage)(stage.module)) for stage in made.stages)
    assert old == {"auc", "log_loss"}  # its part need not hold a list of any user
    assert own == {"auc", "log_loss", "ndcg@10"}


@dataclass(frozen=True)
class Counted:
    """Positions of which nothing but their number is to be looked at."""

    rows: Any

    def __len__(self) -> int:
        return len(self.rows)


def test_knowledge_that_is_held_is_knowledge_that_is_read() -> None:
    data = world()
    held, read = (plan(model={"edk": {**SMALL, "cache_mib": size}}).stages[-1].module for size in (1024, 0))
    for model in (held, read):
        assert isinstance(model, Ranker)
        model.train()
    made = plan()
    one = next(iter(made.batches(made.stages[-1])))  # type: ignore[arg-type, call-overload]
    torch.manual_seed(0)
    first_step = held.step(one).losses()["prediction"]  # type: ignore[operator]
    torch.manual_seed(0)
    torch.testing.assert_close(first_step, read.step(one).losses()["prediction"], atol=1e-5, rtol=1e-5)  # type: ignore[operator]
    cached, on_the_fly = (model.sources[0] for model in (held, read))  # type: ignore[index, union-attr]
    assert on_the_fly._held is None
    parts = replace(data.split, parts={name: Counted(rows) for name, rows in data.split.parts.items()})  # type: ignore[arg-type]
    on_the_fly._data = replace(data, split=parts)
    read.step(one)  # type: ignore[operator]  # and the parts are not joined at every batch to find that out
    assert len(cached._held.positions) == len(data.split["train"]) + len(data.split["valid"])
    other = replace(one, item=one.item % 100 + 1, fields=one.fields.flip(0))
    torch.testing.assert_close(cached._vectors(other), on_the_fly._vectors(other), atol=1e-5, rtol=1e-5)
    cached._held.vectors.zero_()
    assert not cached._vectors(one).any()
    held.load_state_dict(held.state_dict())  # other weights may have come
    assert cached._held is None


def test_the_log_of_a_run_has_the_curves_and_the_gates() -> None:
    lines = [json.loads(line) for line in (first().path / "metrics.jsonl").read_text().splitlines()]
    old = [line for line in lines if line["phase"] == STAGE]
    assert {"prediction", "essential", "input", "disentangled", "l0"} == set(old[0]["losses"])
    gates = old[0]["monitors"]
    assert set(gates) == {"mean gate", "open patterns", "all closed", "cosine of patterns", "norm of summary", "fields kept"}
    assert 0 < gates["mean gate"] < 1
    assert 0 <= gates["open patterns"] <= 4
    assert 1 <= gates["fields kept"] <= table_layout(world()).num_fields


def test_a_look_inside() -> None:
    run, data = first(), world()
    positions = data.split["test"][:50]
    seen = seen_patterns(run.model.module, data, positions)
    fields = table_layout(data).num_fields
    assert seen.sizes.shape == (50, 4)
    assert ((seen.sizes >= 0) & (seen.sizes <= fields)).all()
    assert (seen.open >= seen.sizes).all()
    assert ((seen.effective >= 1) & (seen.effective <= seen.open + 1e-4))[seen.open > 0].all()
    assert seen.patterns.shape == (50, 4, 8)
    view = RankingView(data, RecentHistory(data.log, 1)).at(torch.from_numpy(positions))
    with torch.no_grad():
        own = edk_of(run).knowledge(view)
    assert seen.sizes.tolist() == [[int((gates > 0.5).sum()) for gates in row.T] for row in own.gates]
    np.testing.assert_allclose(seen.raw, own.memory.numpy().mean(axis=1), atol=1e-6)  # the fields' own vectors
    plain = ranker("dcn", "mean")
    with pytest.raises(RunError, match="no patterns of EDK; look into a run of enhance = 'edk'"):
        seen_patterns(plain, data, positions)


def test_even_gates_are_counted_whatever_their_height() -> None:
    gates = torch.tensor([[[1.0, 0.1, 0.0, 0.3], [1.0, 0.1, 0.0, 0.1], [0.0, 0.1, 0.0, 0.0]]])  # three fields, four patterns
    torch.testing.assert_close(effective_gates(gates), torch.tensor([[2.0, 3.0, 0.0, 1.6]]))


def test_data_without_old_events_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"no part 'knowledge' \(it has: train, valid, test\); prepare the data with split.kind"
    ):
        plan(dataset())
    wanted = resolve(
        RunRequest(data=str(dataset().path), backbone="deepfm", model={**MODEL, "train_on": "knowledge+train"}), "test"
    )
    with pytest.raises(DataError, match="no part 'knowledge'"):
        TASKS["ranking"].room().plan(wanted, dataset(), None, show_progress=False)


def test_one_class_is_enough_where_old_events_have_the_other() -> None:
    data = world()
    label = data.log.label.copy()
    label[data.split["train"]] = 1.0
    one = replace(data, log=replace(data.log, label=label))
    with pytest.raises(DataError, match=r"rows of the part 'train' have label 1, so there is nothing for the stage 'rank'"):
        plan(one)
    assert [stage.name for stage in plan(one, model={"train_on": "knowledge+train"}).stages] == [STAGE, "rank"]


def test_rankings_without_learning_count_what_the_run_beside_them_trained_on() -> None:
    data = world()
    log, split, room = data.log, data.split, TASKS["ranking"].room()
    for train_on in ("train", "knowledge+train"):
        own = request(enhance=[], model={"train_on": train_on})
        del own["model"]["edk"]
        config = resolve(RunRequest(**own, training=TRAINING), "test")
        counted = split["train" if train_on == "train" else "knowledge+knowledge_valid+train"]
        for part in ("test", "valid"):
            found = RankingLog(log.user, log.item, log.label, counted, split["valid"], split[part], log.visible)
            best = item_mean_user_residual(found).test
            if part == "test":
                outcome = room.baseline("item-mean-user-residual", config, data, part)
                assert outcome is not None
                np.testing.assert_array_equal(outcome.values["scores"], best)
            else:
                (yardstick,) = room.plan(config, data, None, show_progress=False).yardsticks().values()
                assert yardstick["auc"] == pytest.approx(auc(log.label[split[part]], best))


def test_a_report_says_that_its_slices_do_not_go_by_old_events() -> None:
    data, room = world(), TASKS["ranking"].room()
    outcome = room.baseline("item-mean", None, data, "test")
    said = "by the rows of the part 'train'"
    for own, older in (
        (request(), True),
        (request(enhance=[], model={**MODEL, "train_on": "knowledge+train"}), True),
        (request(enhance=[]), False),
    ):
        if not own["enhance"]:
            own["model"] = {key: value for key, value in own["model"].items() if key != "edk"}
        notes = room.report(outcome, resolve(RunRequest(**own), "test"), data, "test").notes
        assert any(said in note for note in notes) is older
    assert not any(said in note for note in room.report(outcome, None, data, "test").notes)


def test_old_events_of_one_class_are_refused() -> None:
    data = world()
    label = data.log.label.copy()
    label[data.split["knowledge"]] = 0.0
    with pytest.raises(DataError, match=r"rows of the part 'knowledge' have label 0, so there is nothing for the stage"):
        plan(replace(data, log=replace(data.log, label=label)))


def test_old_events_that_cannot_be_validated_on_are_refused() -> None:
    data = world()
    label = data.log.label.copy()
    label[data.split["knowledge_valid"]] = 0.0
    with pytest.raises(
        DataError, match=r"all 540 'knowledge_valid' rows have label 0, so no AUC can choose .*; prepare it with"
    ):
        plan(replace(data, log=replace(data.log, label=label)))


def test_an_estimator_that_explodes_ends_the_run_by_name() -> None:
    said = r"phase 'knowledge', epoch 1, .*(nan|inf).*; lower lr or set clip_norm, or lower the rate of 'estimators\.edk' \(1e"
    with pytest.raises(TrainingError, match=said):
        trained("edk-exploded", edk={"estimator_lr": 1e30})


def test_gates_that_all_close_end_the_run_and_leave_what_was_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first stage goes on, says so in its log, and keeps its weights; the second refuses them."""
    monkeypatch.setattr(Extractor, "forward", lambda self, read: 0.0 * self.out(self.attention(self.fields(read))) - LIMIT)
    with pytest.raises(
        RunError, match=r"every gate of the knowledge of 2,048 rows is closed.*model\.edk\.l0_weight = 0\.01, or"
    ):
        trained("edk-closed")
    folder = root() / "edk-closed" / "training"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["monitors"]["all closed"] for line in lines] == [1.0, 1.0]
    assert all(math.isfinite(loss) for line in lines for loss in line["losses"].values())
    assert list((folder / "weights").glob(f"{STAGE}-*/model.safetensors"))


def test_knowledge_stands_beside_text(tmp_path: Path) -> None:
    run = fit(
        world(),
        path=tmp_path / "both",
        backbone="din",
        enhance=["disco", "edk"],
        knowledge=knowledge(),
        model={**MODEL, "edk": SMALL},
        training=TRAINING,
        show_progress=False,
    )
    assert run.config.title == "DIN + DisCo + EDK"
    assert math.isfinite(run.record["best"]["metrics"]["auc"])


def test_a_run_whose_knowledge_is_for_the_mlp_alone_comes_back(tmp_path: Path) -> None:
    run = fit(
        world(),
        path=tmp_path / "deep",
        backbone="dcn",
        enhance="edk",
        model={**MODEL, "edk": {**SMALL, "inject": "mlp"}},
        training=TRAINING,
        show_progress=False,
    )
    again, rows = load(run.path, dataset=world()), np.arange(1, 60, dtype=np.int32)
    scores = [each.model.scores([each.model.past(2)], rows) for each in (run, again)]
    np.testing.assert_array_equal(*scores)
    assert len(np.unique(scores[0])) > 30


def test_the_control_that_was_drawn_goes_with_every_preset(tmp_path: Path) -> None:
    run = fit(
        world(),
        path=tmp_path / "drawn",
        backbone="deepfm",
        enhance="edk",
        preset="paper",
        model={**MODEL, "edk": {**SMALL, "compress": False}},
        training=TRAINING,
        show_progress=False,
    )
    assert [phase["name"] for phase in run.record["phases"]] == ["rank"]  # though the preset speaks of the other one
