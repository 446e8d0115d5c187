"""DeepFM, DCN and DIN against their formulas, their sizes, and what extra fields may change."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_ranking import BACKBONES, DIM, Trainer, batch, ranker
from torch import Tensor, nn

from braidrec.errors import ConfigError
from braidrec.layers.attention import PerSample, masked_softmax
from braidrec.layers.interactions import fm_second_order
from braidrec.layers.mlp import Norm
from braidrec.ranking import TASK
from braidrec.ranking.backbones.dcn import DCN, DCNConfig
from braidrec.ranking.backbones.deepfm import DeepFM, DeepFMConfig
from braidrec.ranking.backbones.din import DIN, DINConfig
from braidrec.ranking.backbones.lr import LR, LRConfig
from braidrec.ranking.contracts import BehaviourInput, MeanHistory, RankingInput, Sizes
from braidrec.ranking.ranker import Ranker

SIZES = Sizes(num_fields=4, num_extras=0, num_item_fields=2, dim=DIM)
EXTRA = replace(SIZES, num_extras=3)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(extras: int = 0, linear: bool = False) -> RankingInput:
    return RankingInput(noise(5, 4, DIM), noise(5, extras, DIM, seed=1), noise(5, 4, seed=2) if linear else None)


def behaviours() -> BehaviourInput:
    """Five histories of six steps, an empty and a full one among them; the embedding layer of a tiny ranker."""
    mask = torch.arange(6) < torch.tensor([6, 3, 1, 0, 5])[:, None]
    index = torch.randint(1, 7, (5, 6), generator=torch.Generator().manual_seed(3)) * mask
    signals = torch.randint(1, 6, (5, 6), generator=torch.Generator().manual_seed(4)) * mask
    items = noise(7, 2, DIM, seed=5).index_fill(0, torch.tensor([0]), 0.0)
    return BehaviourInput(
        torch.tensor([3, 1, 6, 2, 2]), items, PerSample(index, mask, signals, 5), ranker("dcn v1", "plain").embed
    )


def aware_of(model: Ranker, scale: float = 1.0) -> Tensor:
    """(5, F, F + 1, d_f) for the needs of a backbone beside two extras; of width 0 where it needs none."""
    fields = model.embed.num_fields
    return scale * noise(5, fields, fields + 1, model.backbone.needs.field_aware, seed=6)


def size(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def mlp_size(width: int, out: bool) -> int:
    """[128, 64], with or without the last layer to one logit."""
    return (width + 1) * 128 + 129 * 64 + (65 if out else 0)


# Sizes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extras", [0, 8])
def test_parameter_counts(extras: int) -> None:
    sizes = Sizes(8, extras, 3, 32)
    t = (8 + extras) * 32
    head = t + 64 + 1
    assert size(DeepFM(DeepFMConfig(), sizes)) == mlp_size(t, out=True) + 1
    assert size(DCN(DCNConfig(variant="v1"), sizes)) == 3 * 2 * t + mlp_size(t, out=False) + head
    assert size(DCN(DCNConfig(variant="v2"), sizes)) == 3 * (t * t + t) + mlp_size(t, out=False) + head
    mix = 4 * (2 * 2 * t * 8 + 2 * 8 * 8 + t) + 2 * (t + 1)
    assert size(DCN(DCNConfig(variant="mix"), sizes)) == mix + mlp_size(t, out=False) + head
    assert size(DIN(DINConfig(variant="none"), sizes)) == mlp_size(t, out=True)
    assert size(DIN(DINConfig(variant="bilinear"), sizes)) == 96 * 32 + mlp_size(t + 64, out=True)
    whole = DIN(DINConfig(variant="bilinear", history_fields="all"), sizes)
    assert size(whole) == 96 * 96 + mlp_size(t + 96 + 32, out=True)
    unit = (4 * 96 + 1) * 64 + 64 + 65
    paper = DIN(DINConfig(variant="paper", history_fields="all"), sizes)
    assert size(paper) == unit + mlp_size(t + 96 + 32, out=True)


def test_fm_part_adds_one_weight_per_value_and_a_bias() -> None:
    """V d + V + 1 in all, the rows of padding among them."""
    deepfm, plain = ranker("deepfm", "plain"), ranker("din none", "plain")
    numbers = 1 + 3  # a weight per numeric input
    assert size(deepfm) - size(plain) == deepfm.embed.table.num_embeddings + numbers + 1


# Formulas -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extras", [0, 3])
def test_deepfm_is_its_formula(extras: int) -> None:
    model, given = DeepFM(DeepFMConfig(), replace(SIZES, num_extras=extras)), inputs(extras, linear=True)
    model.bias.data.fill_(0.3)
    v = torch.cat([given.fields, given.extras], dim=1)
    pairs = sum((v[:, i] * v[:, j]).sum(dim=1) for i in range(v.shape[1]) for j in range(i))
    assert given.linear is not None
    expected = 0.3 + given.linear.sum(dim=1) + pairs + model.mlp(v.flatten(1)).squeeze(1)
    torch.testing.assert_close(model(given), expected)


@pytest.mark.parametrize("variant", ["v1", "v2", "mix"])
def test_dcn_joins_crosses_and_mlp(variant: str) -> None:
    model, given = DCN(DCNConfig.model_validate({"variant": variant}), EXTRA), inputs(3)
    flat = torch.cat([given.fields, given.extras], dim=1).flatten(1)
    joined = torch.cat([model.cross(flat), model.mlp(flat)], dim=1)
    torch.testing.assert_close(model(given), joined @ model.head.weight[0] + model.head.bias)


@pytest.mark.parametrize("variant", ["bilinear", "paper"])
@pytest.mark.parametrize("history_fields", ["id", "all"])
def test_din_pools_behaviours_and_their_labels(variant: str, history_fields: str) -> None:
    config = DINConfig.model_validate({"variant": variant, "history_fields": history_fields})
    model, met = DIN(config, EXTRA).eval(), behaviours()
    given = RankingInput(noise(5, 4, DIM), noise(5, 3, DIM, seed=1), None, met)
    k = met.items[met.past.index][:, :, 0] if history_fields == "id" else met.items[met.past.index].flatten(2)
    if variant == "bilinear":
        logits = torch.einsum("bkw,wq,bq->bk", k, model.attention.query.weight, met.target.flatten(1))  # type: ignore[union-attr]
        weights = masked_softmax(logits, met.past.mask, dim=1)
    else:
        q = (met.target[:, 0] if history_fields == "id" else met.target.flatten(1))[:, None].expand_as(k)
        unit: Any = model.attention
        weights = (
            unit.last(unit.activation(unit.first(torch.cat([q, k, q - k, q * k], dim=2)).flatten(0, 1))).view(5, 6)
            * met.past.mask
        )
    interest = torch.einsum("bk,bkw->bw", weights, k)
    labels = torch.einsum("bk,bkd->bd", weights, met.embed.signals(met.past.signals))
    parts = [given.fields.flatten(1), given.extras.flatten(1), interest, labels]
    assert not interest[3].any()  # an empty history
    torch.testing.assert_close(model(given), model.mlp(torch.cat(parts, dim=1)).squeeze(1))


@pytest.mark.parametrize(
    ("config", "sizes"), [(DINConfig(variant="none"), EXTRA), (DINConfig(), replace(EXTRA, own_history=False))]
)
def test_din_without_a_history_of_its_own_needs_none(config: DINConfig, sizes: Sizes) -> None:
    model = DIN(config, sizes)
    assert not model.needs.history
    assert model(inputs(3)).shape == (5,)
    assert not config.takes_mean


def test_bilinear_weights_sum_to_one_and_the_papers_need_not() -> None:
    met = behaviours()
    for variant, softmax, sums in (("bilinear", False, True), ("paper", True, True), ("paper", False, False)):
        torch.manual_seed(0)
        model = DIN(DINConfig.model_validate({"variant": variant, "softmax": softmax}), SIZES).eval()
        target = met.target.flatten(1) if variant == "bilinear" else met.target[:, 0]
        assert model.attention is not None
        weights = model.attention(target, met.items[:, 0], met.past).weights()[:, 0]
        total = weights.sum(dim=1)[met.past.mask.any(dim=1)]
        assert torch.allclose(total, torch.ones(4), atol=1e-6) == sums


def test_lr_by_hand() -> None:
    """Two samples: b + 1 + 2 + (3 + 5) / 2 - 1 and b + 0, and with extras one u for all of them."""
    linear = torch.tensor([[1.0, 2.0, 4.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
    model = LR(LRConfig(), SIZES)
    model.bias.data.fill_(0.5)
    assert model(RankingInput(torch.zeros(2, 0, DIM), torch.zeros(2, 0, DIM), linear)).tolist() == [6.5, 0.5]
    assert size(model) == 1
    joined = LR(LRConfig(extra_linear=True), EXTRA)
    assert joined.extras is not None
    joined.extras.weight.data = torch.arange(float(DIM))[None]
    extras = torch.zeros(2, 3, DIM)
    extras[0, 0, 1], extras[0, 2, 3], extras[1, 1, 2] = 1.0, 2.0, -4.0
    assert joined(RankingInput(torch.zeros(2, 0, DIM), extras, linear)).tolist() == [6.0 + 1.0 + 6.0, -8.0]
    assert size(joined) == 1 + DIM


def test_lr_reads_bags_and_numbers_by_their_weights() -> None:
    model, one = ranker("lr", "plain").eval(), batch(12)
    embed = model.embed
    assert embed.table is None
    assert embed.linear is not None
    assert embed.number_linear is not None
    weights = torch.randn(87, generator=torch.Generator().manual_seed(1))
    weights[0] = 0.0
    embed.linear.weight.data = weights[:, None].clone()
    ids, (bag,) = weights[one.fields.long()].sum(dim=1), one.bags
    mean = weights[bag.long()].sum(dim=1) / (bag > 0).sum(dim=1).clamp_min(1)
    first, second = (layer.weight[0] for layer in embed.number_linear)
    numbers = one.numbers[:, :1] @ first + one.numbers[:, 1:] @ second
    torch.testing.assert_close(model(one), ids + mean + numbers)


def test_lr_refuses_what_it_would_not_read() -> None:
    with pytest.raises(ConfigError, match=r"extra_linear = false: 'lr' would not read the 3 fields .*set it to true"):
        LR(LRConfig(), EXTRA)
    assert LRConfig(extra_linear=True).takes_mean
    assert not LRConfig().takes_mean


# Extra fields ----------------------------------------------------------------------------------------------------------


def test_zero_extras_leave_the_pairwise_sum_as_it_was() -> None:
    fields = noise(5, 4, DIM)
    padded = torch.cat([fields, torch.zeros(5, 3, DIM)], dim=1)
    torch.testing.assert_close(fm_second_order(padded), fm_second_order(fields))
    model = DeepFM(DeepFMConfig(), EXTRA)
    given = RankingInput(fields, torch.zeros(5, 3, DIM), noise(5, 4, seed=2))
    narrow = DeepFM(DeepFMConfig(), SIZES)
    narrow.load_state_dict({**model.state_dict(), "mlp.layers.0.weight": model.mlp.layers[0].weight[:, : 4 * DIM]})
    torch.testing.assert_close(model(given), narrow(RankingInput(fields, fields[:, :0], given.linear)))


def test_the_linear_term_ignores_extras() -> None:
    model = DeepFM(DeepFMConfig(), EXTRA)
    given = inputs(3, linear=True)
    linear = given.linear
    assert linear is not None
    shift = model(RankingInput(given.fields, given.extras, linear + 1.0)) - model(given)
    torch.testing.assert_close(shift, torch.full((5,), 4.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", BACKBONES)
def test_gradients_flow_into_the_extras(name: str) -> None:
    model = ranker(name, "mean")
    extras = noise(5, 2, DIM).requires_grad_()
    given = RankingInput(
        noise(5, model.embed.num_fields, DIM), extras, noise(5, model.embed.num_fields), behaviours(), aware_of(model)
    )
    model.backbone(given).sum().backward()
    assert extras.grad is not None
    assert (extras.grad.abs().sum(dim=(0, 2)) > 0).all()


@pytest.mark.parametrize("name", BACKBONES)
def test_finite_at_scale_ten(name: str) -> None:
    model = ranker(name, "mean")
    given = RankingInput(
        10 * noise(5, model.embed.num_fields, DIM),
        10 * noise(5, 2, DIM, seed=1),
        noise(5, model.embed.num_fields),
        behaviours(),
        aware_of(model, 10),
    )
    assert model.backbone(given).isfinite().all()


@pytest.mark.parametrize("norm", ["none", "bn", "ln_post", "ln_pre"])
@pytest.mark.parametrize("backbone", [name for name, spec in TASK.backbones.items() if "norm" in spec.config.model_fields])
def test_every_norm_trains_with_dropout_even_on_one_row(norm: Norm, backbone: str) -> None:
    model = ranker(backbone, "disco", norm=norm, dropout=0.2)
    trainer = Trainer(model)
    assert math.isfinite(trainer.step(batch(12)))
    assert math.isfinite(trainer.step(batch(1)))


def test_dcn_depth_defaults() -> None:
    flat = 4 * DIM
    assert [len(DCN(DCNConfig(variant=v), SIZES).cross.bias) for v in ("v1", "mix")] == [3, 4]  # type: ignore[arg-type]
    assert size(DCN(DCNConfig(variant="v1", layers=5), SIZES).cross) == 5 * 2 * flat


# Mean history ---------------------------------------------------------------------------------------------------------


def test_mean_history_is_the_mean_item_and_the_mean_label() -> None:
    embed, one = ranker("dcn v1", "mean").eval().embed, batch(14)
    extras = MeanHistory()(one, embed.items(one.item, one.history), embed).extras
    assert extras.shape == (14, 2, DIM)
    for row, kept in enumerate(one.history.mask):
        if kept.any():
            items = embed.item_fields[one.history.items[row, kept].long(), 0]
            torch.testing.assert_close(extras[row, 0], embed.table(items).mean(dim=0))
            torch.testing.assert_close(extras[row, 1], embed.signals(one.history.signals[row, kept]).mean(dim=0))
        else:
            assert not extras[row].any()
