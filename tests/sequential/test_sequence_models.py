"""The contract of a sequence model: every method on every backbone, under every loss, keeps it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import small_sequences as small
from braidrec.config import RunConfig
from braidrec.data.sequences import SequenceBatch
from braidrec.errors import ConfigError
from braidrec.sequential.build import build_model, build_stages, make_parts, parts_of
from braidrec.sequential.contracts import Distinct
from braidrec.sequential.maps import TextConfig
from braidrec.training.stages import Stage

CASES = [
    pytest.param(small.config(method, backbone, loss), id=f"{method}, {backbone}, {loss}")
    for method in small.METHODS
    for backbone in small.BACKBONES
    for loss in small.LOSSES
    if backbone == "sasrec" or (method in small.PLAIN_METHODS and loss != "full_ce of trained")
]
KEPT = [  # what a model scores does not depend on its loss
    pytest.param(small.config(method, backbone), id=f"{method}, {backbone}")
    for method in small.METHODS
    for backbone in small.BACKBONES
    if method in small.PLAIN_METHODS
    or (backbone == "sasrec" and small.METHODS[method][1].keys().isdisjoint({"alignment", "kernel"}))
]
every_case = pytest.mark.parametrize("config", CASES)
every_model = pytest.mark.parametrize("config", KEPT)


def kept(config: RunConfig, seed: int = 0) -> Any:
    """The model of a run, untrained, in evaluation mode; id rows far enough from each other to tell them apart."""
    torch.manual_seed(seed)
    model = build_model(config, small.parts_of(config)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "table" in name or "logits" in name or "buckets" in name:
                weight.normal_()
    return model


@torch.no_grad()
def scores(model: Any, items: Tensor, rows: Tensor | None = None) -> Tensor:
    found: Tensor = model.catalogue().scores(model.states(items, items > 0), rows)
    return found


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def total(stage: Stage, batch: SequenceBatch) -> Tensor:
    losses = cast(Any, stage.module).step(batch).losses()
    return torch.stack([weight * losses[name] for name, weight in stage.weights.items()]).sum()


def reached(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)) if parameters else []


# Training ----------------------------------------------------------------------------------------------------------------


@every_case
def test_a_stage_has_the_losses_that_it_weighs(config: RunConfig) -> None:
    batch = next(iter(small.batches_of(config)))
    for stage in small.stages_of(config):
        step = cast(Any, stage.module.train()).step(batch)
        losses = step.losses()
        assert losses.keys() == stage.weights.keys()
        assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
        groups = {group.name: group for group in stage.groups}
        assert step.first.keys() == {name for name in groups if name.split(".")[0] != "main"}
        assert all(value.shape == () and not value.requires_grad and value.isfinite() for value in step.monitors.values())


@every_case
def test_gradients_reach_what_trains_and_nothing_else(config: RunConfig) -> None:
    batch = next(iter(small.batches_of(config, 40)))
    for stage in small.stages_of(config):
        names = {id(weight): name for name, weight in stage.module.named_parameters()}
        main = [weight for group in stage.groups if group.name.startswith("main") for weight in group.parameters]
        others = [weight for weight in stage.module.parameters() if not any(weight is each for each in main)]
        stage.module.train()
        for weight, gradient in zip(main, reached(total(stage, batch), main), strict=True):
            name = f"{stage.name}: {names[id(weight)]}"
            assert gradient is not None, name
            assert gradient.isfinite().all(), name
            # a bias of all keys shifts every logit of a query alike
            assert gradient.any() or name.endswith("key.bias"), name
        assert all(gradient is None for gradient in reached(total(stage, batch), others))
        step = cast(Any, stage.module).step(batch)
        for name, loss in step.first.items():
            own = next(list(group.parameters) for group in stage.groups if group.name == name)
            rest = [weight for weight in stage.module.parameters() if not any(weight is each for each in own)]
            assert all(gradient is not None and gradient.any() for gradient in reached(loss(), own))
            assert all(gradient is None for gradient in reached(loss(), rest))


@every_case
def test_a_stage_finds_its_start_in_earlier_ones(config: RunConfig) -> None:
    """Every tensor under a prefix has a place of its shape behind the new prefix; the loop copies them by name."""
    earlier: dict[str, dict[str, Tensor]] = {}
    for stage in small.stages_of(config):
        own = stage.module.state_dict()
        for source, prefixes in stage.starts.items():
            for old, new in prefixes.items():
                found = {name: tensor for name, tensor in earlier[source].items() if name.startswith(old)}
                assert found
                for name, tensor in found.items():
                    assert own[new + name.removeprefix(old)].shape == tensor.shape
        earlier[stage.name] = own


@every_case
def test_padding_is_inert_in_training(config: RunConfig) -> None:
    """Without dropout, that is in evaluation mode."""
    batch = small.batch_of(small.histories(width=4, lengths=(4, 2, 1, 3)))
    wider = replace(
        batch,
        **{
            name: torch.cat([torch.zeros_like(getattr(batch, name)[:, :2]), getattr(batch, name)], dim=1)
            for name in ("items", "targets", "negatives")
        },
    )
    for stage in small.stages_of(config):
        stage.module.eval()
        with torch.no_grad():
            one, other = (cast(Any, stage.module).step(each).losses() for each in (batch, wider))
        for name in one:
            close(one[name], other[name])


@every_case
def test_a_position_is_predicted_from_what_came_before(config: RunConfig) -> None:
    batch = small.batch_of(small.histories((6,)))
    changed = batch.items.clone()
    changed[:, 4:] = changed[:, 4:] % small.ITEMS + 1
    for stage in small.stages_of(config):
        if "prediction" not in stage.weights:
            continue
        stage.module.eval()
        with torch.no_grad():
            found = [
                cast(Any, stage.module)
                .step(SequenceBatch(batch.user, items, batch.targets * (torch.arange(6) == at), batch.negatives))
                .losses()["prediction"]
                for at in (3, 4)
                for items in (batch.items, changed)
            ]
        close(found[0], found[1])
        assert (found[2] - found[3]).abs() > 1e-6


@every_case
def test_same_seed_same_loss(config: RunConfig) -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        stages = build_stages(config, small.parts_of(config))
        found.append([total(stage, next(iter(small.batches_of(config)))).item() for stage in stages])
    assert found[0] == found[1]


@every_model
def test_stages_and_experts_share_no_storage(config: RunConfig) -> None:
    weights = [weight for stage in small.stages_of(config) for weight in stage.module.parameters()]
    assert len({weight.data_ptr() for weight in weights}) == len(weights)


# Scoring -----------------------------------------------------------------------------------------------------------------


@every_model
def test_a_history_scores_the_same_in_any_batch(config: RunConfig) -> None:
    model, items = kept(config), small.histories()
    whole = scores(model, items)
    assert whole.shape == (len(items), small.ITEMS + 1)
    assert whole.dtype == torch.float32
    assert whole[:, 1:].std(dim=1).gt(1e-3).all()
    for index in (torch.tensor([2]), torch.tensor([5, 0]), torch.randperm(len(items))):
        close(scores(model, items[index]), whole[index])
    rows = torch.tensor([7, 3, 30, 0, 28])
    close(scores(model, items, rows), whole[:, rows])


@every_model
def test_padding_is_inert(config: RunConfig) -> None:
    model, items = kept(config), small.histories((3, 2, 1, 3), width=3)
    wide = torch.cat([torch.zeros(4, 3, dtype=torch.int64), items], dim=1)
    close(scores(model, wide), scores(model, items))
    table = model.catalogue()
    vectors = table.vectors if hasattr(table, "vectors") else None
    assert vectors is None or not vectors[0].any()


@every_model
def test_an_empty_history_has_finite_scores(config: RunConfig) -> None:
    model = kept(config)
    assert scores(model, torch.zeros(3, small.LENGTH, dtype=torch.int64)).isfinite().all()
    mixed = small.histories((0, 4, 0))
    whole = scores(model, mixed)
    assert whole.isfinite().all()
    close(scores(model, mixed[1:2]), whole[1:2])


@every_model
def test_saved_weights_give_the_same_scores(config: RunConfig) -> None:
    """In training form over the same text, and, as runs keep it, reduced, without any."""
    model, items = kept(config), small.histories()
    before = scores(model, items)
    other = kept(config, seed=9)
    assert not torch.equal(scores(other, items), before)
    other.load_state_dict(model.state_dict())
    assert torch.equal(scores(other, items), before)
    model.export()
    reduced = scores(model, items)
    torch.testing.assert_close(reduced, before, atol=1e-5, rtol=0)
    bare: Any = build_model(config, parts_of(config, small.parts_of(config).counts, semantic_width=small.WIDTH)).eval()
    bare.load_state_dict(model.state_dict())
    assert torch.equal(scores(bare, items), reduced)
    new = small.knowledge(4, seed=8)[1:]
    for each in (model, bare):
        each.add(new)
    assert torch.equal(scores(bare, items), scores(model, items))


@every_model
def test_items_that_join_later(config: RunConfig) -> None:
    model, items = kept(config), small.histories()
    model.export()
    before = scores(model, items)
    model.add(small.knowledge(2, seed=8)[1:])
    model.add(small.knowledge(1, seed=9)[1:])
    after = scores(model, items)
    assert after.shape == (len(items), small.ITEMS + 4)
    assert after.isfinite().all()
    close(after[:, : small.ITEMS + 1], before)
    close(scores(model, items, torch.tensor([small.ITEMS + 3, 1])), after[:, [small.ITEMS + 3, 1]])
    items[0, -1] = small.ITEMS + 2  # and may be read
    met = scores(model, items)
    assert met.isfinite().all()
    close(met[1:], after[1:])
    assert not torch.allclose(met[0], after[0])
    # two new items differ where text is read, and cannot elsewhere
    assert model.reads_text != torch.equal(after[:, small.ITEMS + 1], after[:, small.ITEMS + 2])


@every_model
def test_scores_do_not_depend_on_dropout_or_order(config: RunConfig) -> None:
    model, items = kept(config), small.histories()
    assert torch.equal(scores(model, items), scores(copy.deepcopy(model), items))
    swapped = items.clone()
    swapped[0, -2:] = items[0, -2:].flip(0)
    assert not torch.allclose(scores(model, swapped)[0], scores(model, items)[0])  # the order of items counts


# Parts -------------------------------------------------------------------------------------------------------------------


def test_distinct_items_by_hand() -> None:
    items = torch.tensor([[0, 5], [7, 5]], dtype=torch.int32)
    targets = torch.tensor([[0, 7], [5, 2]], dtype=torch.int32)
    negatives = torch.tensor([[[0], [9]], [[2], [3]]], dtype=torch.int32)
    found = Distinct.of(SequenceBatch(torch.ones(2, dtype=torch.int32), items, targets, negatives))
    assert found.rows.tolist() == [0, 2, 3, 5, 7, 9]
    assert found.items.tolist() == [[0, 3], [4, 3]]
    assert found.targets.tolist() == [[0, 4], [3, 1]]
    assert found.negatives.tolist() == [[[0], [5]], [[1], [2]]]


def test_parts_know_what_training_met() -> None:
    parts = small.parts_of(small.config())
    assert parts.untrained.nonzero().squeeze(1).tolist() == [27, 28, 29, 30]
    assert parts.candidates is None
    trained = replace(parts, trained_softmax=True).candidates
    assert trained is not None
    assert trained.tolist() == list(range(1, 27))
    assert parts.bucket[0] == 0
    assert set(parts.bucket[1:].tolist()) == {1, 2, 3}
    assert parts.bucket[27:].eq(3).all()
    assert parts.rare.tolist() == [row for row in range(1, 27) if parts.bucket[row] == 3]


def test_both_sides_of_a_fused_map_drop_out_alike() -> None:
    items = small.parts_of(small.config()).fused_expert(TextConfig(dropout=0.3)).items
    assert [part.p for part in items.modules() if isinstance(part, nn.Dropout)] == [0.3] * 5


def test_stages_from_other_runs_are_left_out() -> None:
    plan = small.plan_of(small.config("pad", start_from={"pretrain": "runs/other"}))
    assert [stage.name for stage in plan.stages] == ["align", "experts"]
    assert plan.names == ["pretrain", "align", "experts"]
    assert plan.taken == {"pretrain": "runs/other"}
    assert plan.choices == {"start_from": {"pretrain": "runs/other"}}
    whole = dict(small.plan_of(small.config("pad")).stages[-1].module.state_dict())
    for name, weight in plan.stages[-1].module.state_dict().items():
        assert torch.equal(weight, whole[name])  # what is left starts from the same weights
    for stage in ("experts", "alignment"):
        with pytest.raises(ConfigError, match=rf"start_from names the stage '{stage}'.*this model has: pretrain, align\)"):
            small.plan_of(small.config("pad", start_from={stage: "runs/other"}))
    with pytest.raises(ConfigError, match="a single stage"):
        small.plan_of(small.config("plain", start_from={"pretrain": "runs/other"}))


def test_text_is_needed_and_must_be_finite() -> None:
    with pytest.raises(ConfigError, match="this model reads item text: give the run a knowledge base"):
        build_stages(small.config("hybrid"), make_parts(small.config("hybrid"), small.dataset(), None))
    broken = small.knowledge()
    broken[4, 2] = torch.nan
    with pytest.raises(ConfigError, match="the text vector of item '4' holds NaN"):
        make_parts(small.config("hybrid"), small.dataset(), broken)
