"""Backbones over fields alone (FM and its kin, PNN, xDeepFM, AutoInt, FinalMLP) against their formulas and sizes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_backbones import EXTRA, SIZES, inputs, mlp_size, noise, size
from tiny_ranking import DIM, batch, ranker
from torch import Tensor, nn

from braidrec.errors import ConfigError
from braidrec.layers.interactions import fm_second_order
from braidrec.ranking import TASK
from braidrec.ranking.backbones.autoint import AutoInt, AutoIntConfig
from braidrec.ranking.backbones.ffm import FFM, FFMConfig
from braidrec.ranking.backbones.finalmlp import FinalMLP, FinalMLPConfig
from braidrec.ranking.backbones.fm import FM, FMConfig
from braidrec.ranking.backbones.fwfm import FwFM, FwFMConfig
from braidrec.ranking.backbones.pnn import PNN, PNNConfig
from braidrec.ranking.backbones.widedeep import WideDeep, WideDeepConfig
from braidrec.ranking.backbones.xdeepfm import XDeepFM, XDeepFMConfig
from braidrec.ranking.contracts import RankingInput, Sizes

WIDE = Sizes(8, 0, 3, 32)
NAMES = ("fm", "ffm", "fwfm", "widedeep", "pnn", "xdeepfm", "autoint", "finalmlp")


def built(name: str, sizes: Sizes, /, **settings: Any) -> Any:
    torch.manual_seed(0)
    spec = TASK.backbones[name]
    return spec.build(spec.config.model_validate(settings), sizes)


def aware(extras: int, width: int = 4) -> Tensor:
    """(5, F, F + E - 1, width) of the fields of `inputs`."""
    return noise(5, 4, 3 + extras, width, seed=4)


# Sizes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extras", [0, 8])
def test_parameter_counts(extras: int) -> None:
    sizes, t = replace(WIDE, num_extras=extras), 8 + extras
    pairs, flat = t * (t - 1) // 2, t * 32
    assert size(FM(FMConfig(), sizes)) == 1
    assert size(FwFM(FwFMConfig(), sizes)) == pairs + 1 + flat
    assert size(FwFM(FwFMConfig(linear="weights"), sizes)) == pairs + 1
    assert size(FFM(FFMConfig(), sizes)) == 1 + extras * 32 * (t - 1) * 4
    assert size(WideDeep(WideDeepConfig(), sizes)) == mlp_size(flat, out=True)
    assert size(PNN(PNNConfig(), sizes)) == mlp_size(flat + pairs, out=True)
    assert size(PNN(PNNConfig(product="outer"), sizes)) == mlp_size(flat + 32 * 32, out=True)
    cin = t * t * 100 + 100 * t * 100 + 200 + 1
    assert size(XDeepFM(XDeepFMConfig(), sizes)) == cin + mlp_size(flat, out=True)
    assert size(XDeepFM(XDeepFMConfig(dnn_input="sum", cin_bias=True), sizes)) == cin + 200 + mlp_size(32, out=True)
    assert size(AutoInt(AutoIntConfig(), sizes)) == 4 * 32 * 32 + (flat + 1) + mlp_size(flat, out=True)
    same = AutoIntConfig(layers=2, projection="differing")
    assert size(AutoInt(same, sizes)) == 2 * 3 * 32 * 32 + (flat + 1) + mlp_size(flat, out=True)
    streams = 2 * mlp_size(flat, out=False) + 2 * 64 + 1 + 64 * 64 // 2
    gates = (32 + 1) * 64 + (96 + 1) * 64 + 2 * 65 * flat  # one field of the user, three of the item
    assert size(FinalMLP(FinalMLPConfig(), sizes)) == streams + gates
    assert size(FinalMLP(FinalMLPConfig(gates="learned"), sizes)) == streams + 2 * flat
    assert size(FinalMLP(FinalMLPConfig(gates="none"), sizes)) == streams


def test_pnn_sees_as_many_numbers_as_the_paper_s_data_give() -> None:
    """ML-1M: 8 fields and the mean history 320 + 45, with DisCo's eight patterns in its place 512 + 120; fewer on request."""
    for extras, meet, width in ((2, "all", 365), (8, "all", 632), (8, "ids", 604), (8, "none", 540)):
        model = built("pnn", replace(WIDE, num_extras=extras), extras_meet=meet)
        assert model.mlp.layers[0].in_features == width


def test_field_aware_table_has_a_vector_for_every_other_field() -> None:
    """V (T - 1) d_f + V + 1, and as much for each number, the rows of padding among them."""
    model = ranker("ffm", "plain", width=3)
    rows, whole, numbers = model.embed.layout.rows, 3 * (model.embed.num_fields - 1), (1, 3)
    assert size(model) == rows * (whole + 1) + 1 + sum((width + 1) * whole + width for width in numbers)


# Formulas -------------------------------------------------------------------------------------------------------------


def loop(given: RankingInput, meet: str, weights: Tensor | None = None) -> Tensor:
    """Weighted products of pairs by the double loop."""
    v, fields = given.all_fields, given.fields.shape[1]
    pairs = [pair for pair in itertools.combinations(range(v.shape[1]), 2) if meet == "all" or pair[0] < fields]
    products = torch.stack([(v[:, i] * v[:, j]).sum(dim=1) for i, j in pairs], dim=1)
    return products @ (torch.ones(len(pairs)) if weights is None else weights)


@pytest.mark.parametrize("meet", ["all", "ids"])
@pytest.mark.parametrize("extras", [0, 3])
def test_fm_is_its_formula(extras: int, meet: Any) -> None:
    given = inputs(extras, linear=True)
    assert given.linear is not None
    for extra_linear in (False, True):
        model = FM(FMConfig(extras_meet=meet, extra_linear=extra_linear), replace(SIZES, num_extras=extras))
        model.bias.data.fill_(0.3)
        expected = 0.3 + given.linear.sum(dim=1) + loop(given, meet)
        if model.extras is not None:
            expected = expected + (given.extras @ model.extras.weight[0]).sum(dim=1)
        assert (model.extras is None) == (not (extras and extra_linear))
        torch.testing.assert_close(model(given), expected)


@pytest.mark.parametrize("meet", ["all", "ids"])
@pytest.mark.parametrize("extras", [0, 3])
def test_fwfm_is_its_formula(extras: int, meet: Any) -> None:
    given, sizes = inputs(extras, linear=True), replace(SIZES, num_extras=extras)
    assert given.linear is not None
    model = FwFM(FwFMConfig(extras_meet=meet), sizes)
    assert not model.needs.linear
    assert model.fields is not None
    model.bias.data.fill_(0.3)
    linear = torch.einsum("btd,td->b", given.all_fields, model.fields)
    torch.testing.assert_close(model(given), 0.3 + linear + loop(given, meet, model.pairs))
    by_weights = FwFM(FwFMConfig(extras_meet=meet, linear="weights"), sizes)
    assert by_weights.needs.linear
    torch.testing.assert_close(by_weights(given), given.linear.sum(dim=1) + loop(given, meet, by_weights.pairs))
    by_weights.pairs.data.fill_(1.0)  # an FM
    fm = FM(FMConfig(extras_meet=meet), sizes)
    torch.testing.assert_close(by_weights(given), fm(given))


@pytest.mark.parametrize("meet", ["all", "ids"])
@pytest.mark.parametrize("extras", [0, 3])
def test_ffm_is_its_formula(extras: int, meet: Any) -> None:
    model = FFM(FFMConfig(extras_meet=meet), replace(SIZES, num_extras=extras))
    given = replace(inputs(extras, linear=True), field_aware=aware(extras))
    assert given.linear is not None
    assert given.field_aware is not None
    rows = [given.field_aware[:, f] for f in range(4)]
    if model.extras is not None:
        rows += [(given.extras[:, e] @ model.extras[e]).view(5, 3 + extras, 4) for e in range(extras)]
    expected = model.bias + given.linear.sum(dim=1)
    for i, j in itertools.combinations(range(len(rows)), 2):
        if meet == "all" or i < 4:
            expected = expected + (rows[i][:, j - 1] * rows[j][:, i]).sum(dim=1)
    torch.testing.assert_close(model(given), expected)


def test_ffm_reads_bags_and_numbers_by_vectors_of_their_own() -> None:
    """All seven fields of the tiny world, by the double loop over what the tables hold."""
    model, one = ranker("ffm", "plain", width=2).eval(), batch(12)
    embed = model.embed
    assert embed.aware is not None
    assert embed.linear is not None
    assert embed.number_aware is not None
    nn.init.normal_(embed.aware.weight[1:].data)
    table, (bag,) = embed.aware.weight.view(-1, 6, 2), one.bags
    ids = [table[one.fields[:, f].long()] for f in range(4)]
    mean = table[bag.long()].sum(dim=1) / (bag > 0).sum(dim=1).clamp_min(1)[:, None, None]
    numbers = [embed.number_aware[0](one.numbers[:, :1]), embed.number_aware[1](one.numbers[:, 1:])]
    rows = [*ids, mean, *(each.view(-1, 6, 2) for each in numbers)]
    pairs = itertools.combinations(range(7), 2)
    expected = torch.stack([(rows[i][:, j - 1] * rows[j][:, i]).sum(dim=1) for i, j in pairs]).sum(dim=0)
    torch.testing.assert_close(model(one), expected + embed.first_order(one.fields, one.bags, one.numbers).sum(dim=1))


def test_wide_and_deep_is_its_formula() -> None:
    model, given = WideDeep(WideDeepConfig(), EXTRA), inputs(3, linear=True)
    assert given.linear is not None
    deep = model.mlp(torch.cat([given.fields, given.extras], dim=1).flatten(1)).squeeze(1)
    torch.testing.assert_close(model(given), given.linear.sum(dim=1) + deep)


@pytest.mark.parametrize("meet", ["all", "ids", "none"])
@pytest.mark.parametrize("product", ["inner", "outer"])
def test_pnn_is_its_formula(product: Any, meet: Any) -> None:
    model, given = PNN(PNNConfig(product=product, extras_meet=meet), EXTRA), inputs(3)
    v = given.all_fields
    met = given.fields if meet == "none" else v
    pairs = [pair for pair in itertools.combinations(range(met.shape[1]), 2) if meet != "ids" or pair[0] < 4]
    products = torch.stack([(v[:, i] * v[:, j]).sum(dim=1) for i, j in pairs], dim=1)
    if product == "outer":
        products = torch.einsum("bid,bje->bde", met, met).flatten(1)
    torch.testing.assert_close(model(given), model.mlp(torch.cat([v.flatten(1), products], dim=1)).squeeze(1))


def test_pnn_of_products_alone_is_an_fm() -> None:
    """One linear layer in place of the MLP, zero on the fields and one on the products."""
    model, given = PNN(PNNConfig(mlp=()), EXTRA), inputs(3)
    (layer,) = model.mlp.layers
    assert isinstance(layer, nn.Linear)
    layer.weight.data = torch.cat([torch.zeros(1, 7 * DIM), torch.ones(1, 21)], dim=1)
    torch.testing.assert_close(model(given), fm_second_order(given.all_fields))


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("dnn_input", ["flat", "sum"])
def test_xdeepfm_is_its_formula(dnn_input: Any, linear: bool, inside: bool) -> None:
    config = XDeepFMConfig(cin=(5, 4, 3), dnn_input=dnn_input, linear=linear, extras_in_cin=inside)
    model, given = XDeepFM(config, EXTRA), inputs(3, linear=linear)
    assert model.needs.linear == linear
    v = given.all_fields
    met = v if inside else given.fields
    rows, pooled = met, []
    for weight in model.cin.weights:
        rows = torch.einsum("bid,bjd,hij->bhd", rows, met, weight)
        pooled.append(rows.sum(dim=2))
    expected = torch.cat(pooled, dim=1) @ model.head.weight[0] + model.head.bias
    expected = expected + model.mlp(v.sum(dim=1) if dnn_input == "sum" else v.flatten(1)).squeeze(1)
    if given.linear is not None:
        expected = expected + given.linear.sum(dim=1)
    torch.testing.assert_close(model(given), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("linear", [True, False])
def test_autoint_joins_attended_fields_and_an_mlp(linear: bool) -> None:
    model, given = AutoInt(AutoIntConfig(layers=2, linear=linear), EXTRA), inputs(3, linear=linear)
    v = given.all_fields
    first, second = model.attention
    attended = second(first(v)).flatten(1)
    expected = attended @ model.head.weight[0] + model.head.bias + model.mlp(v.flatten(1)).squeeze(1)
    torch.testing.assert_close(model(given), expected if given.linear is None else expected + given.linear.sum(dim=1))


@pytest.mark.parametrize("gates", ["user_item", "learned", "none"])
def test_finalmlp_is_its_formula(gates: Any) -> None:
    model, given = FinalMLP(FinalMLPConfig(gates=gates, mlp=(16, 8), second=(6,)), replace(EXTRA, item_at=1)), inputs(3)
    flat = given.all_fields.flatten(1)
    seen = [flat, flat]
    if gates == "user_item":
        contexts = (given.fields[:, :1].flatten(1), given.fields[:, 1:3].flatten(1))
        seen = [flat * 2 * torch.sigmoid(gate.mlp(each)) for gate, each in zip(model.gates, contexts, strict=True)]  # type: ignore[union-attr, operator]
    elif gates == "learned":
        assert torch.equal(model(given), model(given))
        for at, gate in enumerate(model.gates):
            torch.testing.assert_close(gate(flat[:, :0]), torch.ones(1, flat.shape[1]))  # open from the start
            gate.free.data = noise(flat.shape[1], seed=at)  # type: ignore[union-attr]
            seen[at] = flat * 2 * torch.sigmoid(gate.free)  # type: ignore[arg-type]
    first, second = (stream(each) for stream, each in zip(model.streams, seen, strict=True))
    assert (first.shape, second.shape) == ((5, 8), (5, 6))
    torch.testing.assert_close(model(given), model.fusion(first, second))


@pytest.mark.parametrize(("logit", "height"), [(-1e4, 0.0), (1e4, 2.0)])
def test_gates_that_are_all_closed_or_all_open_are_finite(logit: float, height: float) -> None:
    """FinalMLP's: streams of nothing, which is what it then says of every sample, or of twice the fields."""
    model, given = FinalMLP(FinalMLPConfig(gates="learned"), EXTRA), inputs(3)
    for gate in model.gates:
        nn.init.constant_(gate.free, logit)  # type: ignore[arg-type]
    flat = height * given.all_fields.flatten(1)
    logits = model(given)
    torch.testing.assert_close(logits, model.fusion(*(stream(flat) for stream in model.streams)))
    logits.sum().backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)


# What may be changed, and what may not ------------------------------------------------------------------------------------


@pytest.mark.parametrize("meet", ["all", "ids"])
@pytest.mark.parametrize("name", ["fm", "fwfm", "ffm"])
def test_extras_of_zero_leave_models_of_pairs_as_they_were(name: str, meet: str) -> None:
    plain, joined = built(name, SIZES), built(name, EXTRA, extras_meet=meet)
    if name == "fwfm":
        rows = {pair: at for at, pair in enumerate(map(tuple, joined._pairs.T.tolist()))}
        plain.pairs.data = torch.stack([joined.pairs[rows[pair]] for pair in map(tuple, plain._pairs.T.tolist())])
        plain.fields.data = joined.fields[:4]
    of_four = aware(3)
    given = RankingInput(noise(5, 4, DIM), torch.zeros(5, 3, DIM), noise(5, 4, seed=2), field_aware=of_four)
    alone = replace(given, extras=given.extras[:, :0], field_aware=of_four[:, :, :3])
    torch.testing.assert_close(joined(given), plain(alone))


@pytest.mark.parametrize("name", ["widedeep", "pnn"])
def test_extras_of_zero_are_zeros_before_the_mlp_and_their_products_are_too(name: str) -> None:
    plain, joined = built(name, SIZES), built(name, EXTRA)
    kept = list(range(4 * DIM))
    if name == "pnn":
        kept += [7 * DIM + at for at, (_, later) in enumerate(joined._pairs.T.tolist()) if later < 4]
    plain.load_state_dict({**joined.state_dict(), "mlp.layers.0.weight": joined.mlp.layers[0].weight[:, kept]})
    given = RankingInput(noise(5, 4, DIM), torch.zeros(5, 3, DIM), noise(5, 4, seed=2))
    torch.testing.assert_close(joined(given), plain(replace(given, extras=given.extras[:, :0])))


@pytest.mark.parametrize(
    ("name", "key", "value"), [("pnn", "extras_meet", "none"), ("xdeepfm", "extras_in_cin", False)], ids=["pnn", "xdeepfm"]
)
def test_extras_kept_out_of_products_still_reach_the_mlp(name: str, key: str, value: object) -> None:
    """Products are those of the fields alone; with the MLP's columns of extras at zero, the plain model is left."""
    plain, joined = built(name, SIZES), built(name, EXTRA, **{key: value})
    weight = joined.mlp.layers[0].weight.data
    weight[:, 4 * DIM : 7 * DIM] = 0.0
    state = {**joined.state_dict(), "mlp.layers.0.weight": torch.cat([weight[:, : 4 * DIM], weight[:, 7 * DIM :]], dim=1)}
    plain.load_state_dict(state)
    given = inputs(3, linear=True)
    torch.testing.assert_close(joined(given), plain(replace(given, extras=given.extras[:, :0])))


@pytest.mark.parametrize("name", ["fm", "ffm", "widedeep", "xdeepfm"])
def test_the_linear_term_ignores_extras(name: str) -> None:
    model, given = built(name, EXTRA), replace(inputs(3, linear=True), field_aware=aware(3))
    assert given.linear is not None
    shift = model(replace(given, linear=given.linear + 1.0)) - model(given)
    torch.testing.assert_close(shift, torch.full((5,), 4.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_one_field_alone(name: str) -> None:
    """No pair is left, so an FM is its first-order term and a PNN its MLP; FFM has no vector to hold and says so."""
    sizes = Sizes(1, 0, 1, DIM, item_at=0)
    if name == "ffm":
        with pytest.raises(ConfigError, match="'ffm' has vectors of each field for the others, and this model has one field"):
            built(name, sizes)
        return
    model, given = built(name, sizes), RankingInput(noise(5, 1, DIM), noise(5, 0, DIM), noise(5, 1, seed=2))
    assert given.linear is not None
    logits = model(given)
    assert logits.shape == (5,)
    assert logits.isfinite().all()
    if name == "fm":
        torch.testing.assert_close(logits, given.linear[:, 0], atol=1e-6, rtol=0)
    elif name == "pnn":
        torch.testing.assert_close(logits, model.mlp(given.fields[:, 0]).squeeze(1))


def test_ffm_names_the_bytes_of_a_table_that_is_too_large() -> None:
    sizes = replace(SIZES, num_fields=10, num_extras=8, rows=8_000_000)
    with pytest.raises(ConfigError) as caught:
        FFM(FFMConfig(), sizes)
    for part in (
        "ffm: 8,000,000 values with 17 vectors of width 4 each take 8,704,000,000 bytes",
        "memory_gib = 8 allows 8,589,934,592",
        "raise model.backbone.memory_gib",
        "lower model.backbone.width, or take fwfm",
    ):
        assert part in str(caught.value)
    assert FFM(FFMConfig(memory_gib=8.2), sizes).needs.field_aware == 4
    assert FFM(FFMConfig(width=3), sizes).needs.field_aware == 3


def test_finalmlp_refuses_heads_that_cut_nothing_evenly() -> None:
    with pytest.raises(ConfigError, match=r"heads = 3 does not divide .*\(64 by mlp, 6 by second\)"):
        FinalMLP(FinalMLPConfig(heads=3, second=(6,)), SIZES)


# Presets --------------------------------------------------------------------------------------------------------------


def test_what_the_presets_say() -> None:
    def of(name: str, preset: str, *, joined: bool = False) -> Any:
        spec = TASK.backbones[name]
        return spec.config.model_validate(spec.settings(preset, joined=joined))

    norms = {"pnn": "ln_pre", "xdeepfm": "ln_pre", "autoint": "ln_post", "widedeep": "ln_post", "finalmlp": "ln_post"}
    for name, norm in norms.items():
        assert [of(name, preset).norm for preset in TASK.presets] == ["none", "none", norm, "none"]
    for preset in ("paper", "authors"):
        assert of(name="xdeepfm", preset=preset) == XDeepFMConfig(
            linear=False, dnn_input="sum", norm=of("xdeepfm", preset).norm
        )
        assert of("autoint", preset) == AutoIntConfig(norm=of("autoint", preset).norm)
    assert of("xdeepfm", "textbook") == XDeepFMConfig(cin=(32, 32, 32), cin_bias=True)
    textbook = of("autoint", "textbook")
    assert (textbook.layers, textbook.heads * textbook.head_width, textbook.scale) == (3, 40, False)
    for name in ("fm", "fwfm", "ffm"):
        assert [of(name, preset, joined=True).extras_meet for preset in ("ours", "paper", "authors")] == ["ids", "all", "all"]
        assert of(name, "ours").extras_meet == "all"
