"""DisCo against its equations, block by block, and its constraints against their promises."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_ranking import (
    BACKBONES,
    DIM,
    ITEMS,
    LENGTH,
    SMALL_DISCO,
    WIDTH,
    Trainer,
    batch,
    item_fields,
    knowledge,
    ranker,
    with_history,
)
from torch import Tensor

from braidrec.data.batches import RankingBatch
from braidrec.errors import ConfigError
from braidrec.layers.attention import PerSample
from braidrec.layers.mlp import Mixed
from braidrec.objectives.sufficiency import BilinearDiscriminator
from braidrec.ranking.contracts import Patterns
from braidrec.ranking.methods.disco import Block, DisCo, DisCoConfig, PatternAttention, SemanticItems
from braidrec.ranking.ranker import Ranker
from braidrec.training.seeding import spawn

ALL: tuple[Block, ...] = ("TT", "SS", "TS", "ST")
HALF = DIM // 2
# (query, keys and values) of each block, among the quarters T_I, T_C, S_I, S_C: equations 17-24
READS = {"TT": (0, 0), "SS": (2, 2), "TS": (1, 3), "ST": (3, 1)}


def config(**changes: Any) -> DisCoConfig:
    return SMALL_DISCO.model_copy(update=changes)


def estimators_of(model: Ranker) -> list[Tensor]:
    return [weight for group in model.groups()[1:] for weight in group.parameters]


def disco_of(model: Ranker) -> DisCo:
    source = model.sources[0]
    assert isinstance(source, DisCo)
    return source


def patterns(model: Ranker, one: RankingBatch) -> Patterns:
    return model.sources[0](one, model.embed.items(one.item, one.history), model.embed)


def pattern_inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """items (9, 2D), candidate (4,), history (4, 5), mask (4, 5): full, ragged, one behaviour, none."""
    random = torch.Generator().manual_seed(seed)
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 0])[:, None]
    history = torch.randint(1, 9, (4, 5), generator=random) * mask
    return torch.randn(9, 2 * DIM, generator=random), torch.tensor([1, 5, 8, 2]), history, mask


def past(history: Tensor, mask: Tensor) -> PerSample:
    return PerSample(history, mask, mask.int(), 1)


def attention(*, bias: bool = False, scale: bool = True, blocks: tuple[Block, ...] = ALL) -> PatternAttention:
    torch.manual_seed(0)
    module = PatternAttention(DIM, blocks, bias=bias, scale=scale)
    if module.query_bias is not None and module.value_bias is not None:
        module.query_bias.data.normal_()
        module.value_bias.data.normal_()
    return module


@pytest.mark.parametrize("blocks", [ALL, ALL[:2]])
@pytest.mark.parametrize(("bias", "scale"), [(False, True), (True, False)])
def test_attention_is_equations_14_to_16_in_every_block(bias: bool, scale: bool, blocks: tuple[Block, ...]) -> None:
    module, (items, candidate, history, mask) = attention(bias=bias, scale=scale, blocks=blocks), pattern_inputs()
    found, attended = module(items, candidate, past(history, mask))
    weights = attended.weights()
    quarters = items.unflatten(1, (4, HALF))
    for at, block in enumerate(blocks):
        query, keys = READS[block]
        q = quarters[candidate, query] @ module.query[at]  # (14)
        k = quarters[history, keys] @ module.key[at]
        v = quarters[history, keys] @ module.value[at]
        if module.query_bias is not None and module.value_bias is not None:
            q, v = q + module.query_bias[at], v + module.value_bias[at]
            k = k + 3.0  # a key bias: softmax does not see it
        logits = torch.einsum("bd,bkd->bk", q, k) / (math.sqrt(DIM) if scale else 1.0)
        for row, real in enumerate(mask):
            a = logits[row, real].softmax(dim=0)  # (15)
            torch.testing.assert_close(weights[row, at, real], a)
            torch.testing.assert_close(found[row, at], a @ v[row, real])  # (16)
    assert (weights.transpose(1, 2)[~mask] == 0).all()
    torch.testing.assert_close(weights[:3].sum(dim=2), torch.ones(3, len(blocks)), atol=1e-6, rtol=0)
    assert not found[3].any()


def test_attention_gradients_are_those_of_the_projected_form() -> None:
    module, (items, candidate, history, mask) = attention(), pattern_inputs()
    leaf = items.clone().requires_grad_()
    upstream = torch.randn(4, 4, DIM)
    mine = torch.autograd.grad((module(leaf, candidate, past(history, mask))[0] * upstream).sum(), [leaf, *module.parameters()])
    quarters, total = leaf.unflatten(1, (4, HALF)), torch.zeros(())
    for at, block in enumerate(ALL):
        query, keys = READS[block]
        q, k = quarters[candidate, query] @ module.query[at], quarters[history, keys] @ module.key[at]
        logits = torch.einsum("bd,bkd->bk", q, k) / math.sqrt(DIM)
        a = logits.masked_fill(~mask, -1e9).softmax(dim=1) * mask
        total = total + (torch.einsum("bk,bkd->bd", a, quarters[history, keys] @ module.value[at]) * upstream[:, at]).sum()
    for first, second in zip(mine, torch.autograd.grad(total, [leaf, *module.parameters()]), strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("block", ALL)
def test_a_block_depends_on_its_own_quarters_only(block: Block) -> None:
    """H_TT knows nothing of the cross half of an item, H_TS nothing of the intra halves, and so on."""
    module, (items, candidate, history, mask) = attention(), pattern_inputs()
    leaf = items.clone().requires_grad_()
    module(leaf, candidate, past(history, mask))[0][:, ALL.index(block)].square().sum().backward()
    assert leaf.grad is not None
    moved = leaf.grad.unflatten(1, (4, HALF)).abs().sum(dim=(0, 2)) > 0
    assert set(moved.nonzero().flatten().tolist()) == set(READS[block])


def test_one_behaviour_is_taken_as_it_is() -> None:
    """A = 1: H is its value and L' its label vector."""
    model = ranker("dcn v1")
    one = batch(6, lengths=torch.ones(6, dtype=torch.long))
    extras = patterns(model, one).extras
    source, items = disco_of(model), model.embed.items(one.item, one.history)
    assert source.fuse is not None
    rows = torch.cat([source.fuse(items.fields.flatten(1)), source.semantic(items.rows)], dim=1).unflatten(1, (4, HALF))
    met = rows[items.past.index[:, 0]]
    for at, block in enumerate(source.blocks):
        torch.testing.assert_close(extras[:, 2 * at], met[:, READS[block][1]] @ source.attention.value[at])
        torch.testing.assert_close(extras[:, 2 * at + 1], model.embed.signals.weight[one.history.signals[:, 0].long()])


def test_equal_labels_give_that_label_vector() -> None:
    model, one = ranker("dcn v1"), batch(6, lengths=torch.arange(1, 7))
    same = with_history(one, signals=4 * one.history.mask.int())
    torch.testing.assert_close(patterns(model, same).extras[:, 1::2], model.embed.signals.weight[4].expand(6, 4, DIM))


@pytest.mark.parametrize("fusion", ["concat_linear", "id_only"])
@pytest.mark.parametrize("inter", [True, False])
def test_permuting_the_history_moves_no_pattern(fusion: str, inter: bool) -> None:
    model = ranker("dcn v1", disco=config(item_fusion=fusion, inter=inter))
    one = batch(12, lengths=torch.full((12,), 4))
    order = torch.tensor([4, 2, 0, 5, 3, 1])
    history = one.history
    moved = with_history(one, items=history.items[:, order], signals=history.signals[:, order], mask=history.mask[:, order])
    torch.testing.assert_close(patterns(model, moved).extras, patterns(model, one).extras, atol=1e-6, rtol=1e-5)


def test_patterns_of_an_empty_history_are_zero() -> None:
    for bias in (False, True):
        model = ranker("dcn v1", disco=config(attention_bias=bias))
        if bias:
            disco_of(model).attention.value_bias.data.fill_(1.0)  # type: ignore[union-attr]
        assert not patterns(model, batch(3, lengths=torch.zeros(3, dtype=torch.long))).extras.any()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_row_zero_of_the_knowledge_is_never_read(backbone: str) -> None:
    model, one = ranker(backbone).eval(), batch(12)
    before = model(one)
    table = disco_of(model).semantic.knowledge
    assert table is not None
    table[0] = 1e3
    assert torch.equal(model(one), before)


def test_text_vectors_are_frozen_and_their_scale_is_taken_out() -> None:
    items = SemanticItems(1e-3 * knowledge() + 5.0, WIDTH, DIM, hidden=16, norm=True)
    assert items.knowledge is not None
    assert not items.knowledge.requires_grad
    torch.testing.assert_close(items.knowledge, F.layer_norm(1e-3 * knowledge() + 5.0, (WIDTH,)))
    assert set(items.state_dict()) == {"mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias"}
    linear = SemanticItems(knowledge(), WIDTH, DIM, hidden=0, norm=False)
    rows = torch.tensor([3, 0, 3])
    torch.testing.assert_close(linear(rows), knowledge()[rows] @ linear.mlp[0].weight.T)


def test_half_precision_text_vectors() -> None:
    torch.testing.assert_close(
        *(
            SemanticItems(table, WIDTH, DIM, hidden=0, norm=False).knowledge
            for table in (knowledge().half(), knowledge().half().float())
        )
    )


# Switches -------------------------------------------------------------------------------------------------------------


def test_without_inter_there_are_four_fields_and_no_cross_weights() -> None:
    model, one = ranker("dcn v1", disco=config(inter=False)), batch(12)
    source = disco_of(model)
    assert source.num_extras == 4
    assert patterns(model, one).extras.shape == (12, 4, DIM)
    assert source.attention.query.shape[0] == 2  # no TS or ST to train
    assert set(source.estimators) == {"TT|SS"}
    assert disco_of(ranker("dcn v1")).num_extras == 8
    torch.stack(list(model.step(one).losses().values())).sum().backward()
    fused, text = source.fuse, source.semantic.mlp[2]
    assert fused is not None
    for weight in (fused.weight, text.weight):  # the cross halves of an item are read by nobody
        assert weight.grad is not None
        assert weight.grad[:HALF].any()
        assert not weight.grad[HALF:].any()


@pytest.mark.parametrize(
    ("changes", "discriminators", "estimators"),
    [
        ({}, {"TT", "SS"}, {"TT|SS", "TS|ST"}),
        ({"sufficiency_weight": 0.0}, set(), {"TT|SS", "TS|ST"}),
        ({"disentangle_weight": 0.0}, {"TT", "SS"}, set()),
        ({"sufficiency_weight": 0.0, "disentangle_weight": 0.0}, set(), set()),
        ({"sufficiency_scope": "all"}, set(ALL), {"TT|SS", "TS|ST"}),
        ({"sufficiency_scope": "all", "inter": False}, {"TT", "SS"}, {"TT|SS"}),
        ({"disentangle_scope": "H+L"}, {"TT", "SS"}, {"TT|SS", "TS|ST", "L TT|SS", "L TS|ST"}),
    ],
)
def test_constraint_switches(changes: dict[str, Any], discriminators: set[str], estimators: set[str]) -> None:
    model, one = ranker("din paper", disco=config(**changes)), batch(12)
    source = disco_of(model)
    assert set(source.discriminators) == discriminators
    assert set(source.estimators) == estimators
    step = model.step(one)
    expected = {"prediction"} | ({"sufficiency"} if discriminators else set()) | ({"disentanglement"} if estimators else set())
    assert set(step.losses()) == expected
    assert bool(step.first) == bool(estimators)
    assert bool(estimators_of(model)) == bool(estimators)


@pytest.mark.parametrize("estimator", ["gaussian", "bilinear", "sampled"])
@pytest.mark.parametrize("anchor", ["candidate", "history"])
def test_every_estimator_and_anchor_trains(estimator: str, anchor: str) -> None:
    model = ranker(
        "dcn v1", disco=config(estimator=estimator, sufficiency_anchor=anchor, sufficiency_scope="all", disentangle_scope="H+L")
    )
    trainer = Trainer(model)
    for at in range(3):
        trainer.step(batch(16, seed=at))
    assert all(weight.isfinite().all() for weight in model.parameters())


def test_inference_computes_no_losses() -> None:
    """The constraints are functions, so scoring a batch never pays for them."""
    model = ranker("dcn v1").eval()
    state = disco_of(model).generators()["pairs"].get_state()
    model(batch(12))
    assert torch.equal(disco_of(model).generators()["pairs"].get_state(), state)
    assert patterns(model, batch(12)).monitors == {}


def test_odd_dim_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"dim = 7.*even"):
        DisCo(SMALL_DISCO, dim=7, num_item_fields=2, semantic_width=WIDTH, knowledge=None)


# Constraints ----------------------------------------------------------------------------------------------------------


def test_silent_discriminators_cost_four_ln_two() -> None:
    model, one = ranker("dcn v1"), batch(12)
    for discriminator in disco_of(model).discriminators.values():
        torch.nn.init.zeros_(discriminator.weight)
    assert model.step(one).losses()["sufficiency"].item() == pytest.approx(4 * math.log(2), rel=1e-6)


@pytest.mark.parametrize("scope", ["intra", "all"])
@pytest.mark.parametrize("anchor", ["candidate", "history"])
def test_sufficiency_is_equation_25_in_every_space(anchor: str, scope: str) -> None:
    """Histories of one behaviour, the same of all clicks and of all others, so that no pattern depends on who is drawn.

    The anchor of a space is the half that its query comes from, of the candidate or of the behaviour.
    """
    model = ranker("dcn v1", disco=config(sufficiency_anchor=anchor, sufficiency_scope=scope))
    one = batch(8, lengths=torch.ones(8, dtype=torch.long))
    met = torch.where(one.label > 0, 7, 11).int()
    one = with_history(one, items=one.history.mask * met[:, None])
    source, items = disco_of(model), model.embed.items(one.item, one.history)
    assert source.fuse is not None
    quarters = torch.cat([source.fuse(items.fields.flatten(1)), source.semantic(items.rows)], dim=1).unflatten(1, (4, HALF))
    candidate, behaviour, expected = quarters[items.candidate], quarters[items.past.index[:, 0]], torch.zeros(())
    click, other = (int((one.label == label).nonzero()[0]) for label in (1, 0))
    for at, block in enumerate(ALL if scope == "all" else ALL[:2]):
        query, keys = READS[block]
        h = (candidate if anchor == "candidate" else behaviour)[:, query]
        pattern = behaviour[:, keys] @ source.attention.value[at]
        opposite = pattern[torch.where(one.label > 0, other, click)]
        told: Any = source.discriminators[block]
        expected = expected + (F.softplus(-told(h, pattern)) + F.softplus(told(h, opposite))).mean()  # four of each class
    torch.testing.assert_close(model.step(one).losses()["sufficiency"], expected)


def test_what_holds_by_default() -> None:
    """The paper's weights, one normalised layer of 128 before an item's text is of width D, candidates as anchors, H alone."""
    usual = DisCoConfig()
    assert (usual.sufficiency_weight, usual.disentangle_weight, usual.inter) == (0.02, 0.01, True)
    assert (usual.item_fusion, usual.semantic_hidden, usual.semantic_norm) == ("concat_linear", 128, True)
    assert (usual.attention_bias, usual.attention_scale) == (False, True)
    assert (usual.sufficiency_scope, usual.sufficiency_anchor, usual.disentangle_scope) == ("intra", "candidate", "H")
    assert (usual.estimator, usual.estimator_lr, usual.estimator_steps) == ("gaussian", 1e-3, 1)
    (group,) = disco_of(ranker()).groups()
    assert (group.name, group.lr, group.weight_decay, group.steps) == ("estimators", 1e-3, 0.0, 1)


def test_projections_begin_xavier_normal_and_discriminators_xavier_uniform() -> None:
    torch.manual_seed(0)
    blocks = PatternAttention(400, ALL, bias=True, scale=True)
    for stack in (blocks.query, blocks.key, blocks.value):
        for matrix in stack:
            assert matrix.std().item() == pytest.approx((2 / 600) ** 0.5, rel=0.03)
    assert blocks.query_bias is not None
    assert not blocks.query_bias.any()
    told = BilinearDiscriminator(200, 400)
    assert told.weight.abs().max().item() == pytest.approx((6 / 600) ** 0.5, rel=0.01)
    assert told.bias.item() == 0.0


def test_lengths_of_patterns_are_watched() -> None:
    """Patterns that run away, or die, are seen in the log; nothing of that is asked of a model that answers."""
    for weight in (0.01, 0.0):
        model, one = ranker("dcn v1", disco=config(disentangle_weight=weight, sufficiency_weight=0.0)), batch(12)
        lengths = model.step(one).monitors
        expected = patterns(model, one).extras if weight else patterns(model, one).extras.dense().unflatten(1, (8, DIM))
        for at, block in enumerate(ALL):
            torch.testing.assert_close(lengths[f"norm {block}"], expected[:, 2 * at].norm(dim=1).mean())


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("anchor", ["candidate", "history"])
def test_a_batch_of_one_class_has_no_sufficiency(label: float, anchor: str) -> None:
    model = ranker("dcn v1", disco=config(sufficiency_anchor=anchor))
    one = replace(batch(12), label=torch.full((12,), label))
    loss = model.step(one).losses()["sufficiency"]
    assert loss.item() == 0.0
    loss.backward()
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())


@pytest.mark.parametrize("anchor", ["candidate", "history"])
def test_padding_takes_no_part_in_the_constraints(anchor: str) -> None:
    one = batch(12)
    mask = one.history.mask
    noise = torch.randint(1, ITEMS + 1, mask.shape, generator=torch.Generator().manual_seed(5)).int()
    other = with_history(one, items=torch.where(mask, one.history.items, noise))
    for name in ("sufficiency", "disentanglement"):
        found = [
            ranker("dcn v1", disco=config(sufficiency_anchor=anchor)).step(each).losses()[name].item() for each in (one, other)
        ]
        assert found[0] == found[1]


def test_disentanglement_is_the_sum_of_the_pairs() -> None:
    model, one = ranker("dcn v1"), batch(12)
    found = patterns(model, one)
    h = dict(zip(ALL, found.extras[:, ::2].unbind(1), strict=True))
    club = disco_of(model).estimators
    expected = club["TT|SS"].value(h["TT"], h["SS"]) + club["TS|ST"].value(h["TS"], h["ST"])  # type: ignore[operator]
    torch.testing.assert_close(found.losses()["disentanglement"], expected)
    labels = patterns(ranker("dcn v1", disco=config(disentangle_scope="H+L")), one)
    assert labels.losses()["disentanglement"].item() != pytest.approx(expected.item())


def test_each_optimiser_leaves_the_other_half_as_it_was() -> None:
    model = ranker("din")
    trainer = Trainer(model, lr=0.01, weight_decay=0.01)
    (optimiser,) = trainer.estimators.values()
    apart = {id(weight) for weight in estimators_of(model)}

    def snapshot() -> dict[str, Tensor]:
        return {name: weight.detach().clone() for name, weight in model.named_parameters()}

    for at in range(3):
        step, start = model.step(batch(16, seed=at)), snapshot()
        optimiser.zero_grad()
        step.first["estimators"]().backward()
        optimiser.step()
        between = snapshot()
        trainer.main.zero_grad()
        torch.stack(list(step.losses().values())).sum().backward()
        trainer.main.step()
        end = snapshot()
        for name, weight in model.named_parameters():
            if id(weight) in apart:
                assert not torch.equal(between[name], start[name])
                assert torch.equal(end[name], between[name])
            else:
                assert torch.equal(between[name], start[name])
                assert not torch.equal(end[name], between[name])
    table = disco_of(model).semantic.knowledge
    assert table is not None
    assert table.grad is None


@pytest.mark.parametrize("backbone", ["dcn v1", "deepfm", "din paper"])
@pytest.mark.parametrize("estimator", ["gaussian", "sampled"])
def test_weights_of_zero_are_a_run_without_the_terms(backbone: str, estimator: str) -> None:
    """The terms draw from their own generator and initialise in a fork, so the first 20 losses agree bit for bit.

    But for rounding where the backbone reads extras in another form, which it does where no term reads the patterns.
    """

    def losses(weights: dict[str, float], **changes: Any) -> list[float]:
        model = ranker(backbone, disco=config(estimator=estimator, **changes), unknown_rate=0.1)
        trainer = Trainer(model, weights)
        return [trainer.step(batch(16, seed=at)) for at in range(20)]

    silent = losses({"prediction": 1.0, "sufficiency": 0.0, "disentanglement": 0.0})
    without = losses({"prediction": 1.0}, sufficiency_weight=0.0, disentangle_weight=0.0)
    assert without == silent if backbone == "dcn v1" else without == pytest.approx(silent, rel=1e-5)
    assert losses({"prediction": 1.0, "sufficiency": 0.02, "disentanglement": 0.01}) != silent


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("backbone", ["din paper", "deepfm"])
def test_patterns_that_no_loss_reads_are_met_as_what_was_pooled(backbone: str, bias: bool) -> None:
    """(16) and the first layer after it are linear, so W [A V W_V, A L] = (W [W_V, L]) A [V, 1]: same logits and gradients."""
    alone, constrained = (
        ranker(backbone, disco=config(sufficiency_weight=0.0, disentangle_weight=weight, attention_bias=bias))
        for weight in (0.0, 0.01)
    )
    if bias:  # which begin at zero
        for model in (alone, constrained):
            source = disco_of(model).attention
            assert source.query_bias is not None
            assert source.value_bias is not None
            for weight in (source.query_bias, source.value_bias):
                weight.data.copy_(torch.linspace(-1, 1, weight.numel()).view_as(weight))
    one = batch(16, lengths=torch.arange(16) % (LENGTH + 1))
    assert isinstance(patterns(alone, one).extras, Mixed)
    assert isinstance(patterns(constrained, one).extras, Tensor)
    torch.testing.assert_close(alone(one), constrained(one))
    for model in (alone, constrained):
        model.step(one).losses()["prediction"].backward()
    others = dict(constrained.named_parameters())
    for name, weight in alone.named_parameters():
        if others[name].grad is None:
            assert weight.grad is None
        else:
            torch.testing.assert_close(weight.grad, others[name].grad, atol=1e-6, rtol=1e-4)


def test_pairs_come_from_a_private_generator() -> None:
    model, one = ranker("dcn v1"), batch(12)
    state = torch.get_rng_state()
    first = model.step(one).losses()["sufficiency"].item()
    assert torch.equal(torch.get_rng_state(), state)
    assert model.step(one).losses()["sufficiency"].item() != first  # other pairs, next time
    disco_of(model).generators()["pairs"].manual_seed(spawn(0, "pairs"))
    assert model.step(one).losses()["sufficiency"].item() == first


# Export ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("norm", [True, False])
def test_export_keeps_the_logits_and_drops_what_only_training_needs(backbone: str, norm: bool) -> None:
    model, one = ranker(backbone, disco=config(semantic_norm=norm)), batch(12)
    Trainer(model).step(one)
    model.eval()
    before, source = model(one), disco_of(model)
    source.export()
    assert (model(one) - before).abs().max().item() < 1e-5
    assert source.semantic.knowledge is None
    assert source.semantic.reduced is not None
    assert source.semantic.reduced.shape == (ITEMS + 1, DIM)
    assert not any("discriminators" in name or "estimators" in name for name in model.state_dict())
    assert estimators_of(model) == []
    source.export()  # twice is once
    assert (model(one) - before).abs().max().item() < 1e-5


def test_an_exported_model_loads_without_knowledge() -> None:
    model, one = ranker("dcn v1").eval(), batch(12)
    disco_of(model).export()
    other = ranker("dcn v1", seed=1).eval()
    source = DisCo(SMALL_DISCO, dim=DIM, num_item_fields=2, semantic_width=WIDTH, knowledge=None)
    other.sources[0] = source
    source.export()
    state = model.state_dict()
    source.semantic.reduced = torch.zeros_like(state["sources.0.semantic.reduced"])
    other.load_state_dict(state)
    assert torch.equal(other(one), model(one))


def test_export_in_blocks() -> None:
    torch.manual_seed(0)
    items = SemanticItems(knowledge(), WIDTH, DIM, hidden=16, norm=True)
    whole = items(torch.arange(ITEMS + 1)).detach()
    items.export(block=7)
    torch.testing.assert_close(items.reduced, whole)


def test_items_added_after_export_are_read_by_their_text() -> None:
    """An item added with the text vector of a known one is that item to the semantic space."""
    torch.manual_seed(0)
    items, known = SemanticItems(knowledge(), WIDTH, DIM, hidden=16, norm=True), torch.tensor([4, 9])
    items.export()
    items.add(knowledge()[known].double())
    assert items.reduced is not None
    assert items.reduced.shape == (ITEMS + 3, DIM)
    torch.testing.assert_close(items(torch.tensor([ITEMS + 1, ITEMS + 2])), items(known))
    assert not items.reduced.requires_grad


def test_added_items_score_as_candidates_and_as_behaviours() -> None:
    model = ranker("din").eval()
    source, one = disco_of(model), batch(4, lengths=torch.full((4,), LENGTH))
    source.export()
    source.semantic.add(knowledge(seed=1)[1:3])
    model.embed.item_fields = torch.cat([item_fields(), torch.tensor([[62, 64], [62, 65]], dtype=torch.int32)])
    new = replace(one, item=torch.full((4,), ITEMS + 2, dtype=torch.int32))
    new = with_history(new, items=torch.full_like(one.history.items, ITEMS + 1))
    assert model(new).isfinite().all()
