"""SASRec, GRU4Rec and Caser: what every encoder owes its callers, and each against its formula written out in loops."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from braidrec.errors import ConfigError
from braidrec.sequential import TASK
from braidrec.sequential.backbones.caser import Caser, CaserConfig
from braidrec.sequential.backbones.gru4rec import GRU4Rec, GRU4RecConfig
from braidrec.sequential.backbones.sasrec import SASRec, SASRecConfig
from braidrec.sequential.contracts import EncoderSizes
from braidrec.strict import parse

Encoder = SASRec | GRU4Rec | Caser
DIM, LENGTH = 8, 6
LENGTHS = torch.tensor([6, 5, 1, 0, 3])
MASK = torch.arange(LENGTH) >= LENGTH - LENGTHS[:, None]

MAKERS: dict[str, Callable[[EncoderSizes], Encoder]] = {
    **{name: partial(spec.build, spec.config()) for name, spec in TASK.backbones.items()},
    "sasrec authors": lambda sizes: SASRec(SASRecConfig(blocks=2), sizes),
    "sasrec classic": lambda sizes: SASRec(SASRecConfig(variant="classic", blocks=2), sizes),
    "gru4rec": lambda sizes: GRU4Rec(GRU4RecConfig(hidden=7), sizes),
    "gru4rec biased": lambda sizes: GRU4Rec(GRU4RecConfig(hidden=7, layers=2, bias=True), sizes),
    "caser": lambda sizes: Caser(CaserConfig(horizontal=3), sizes),
    "caser linear": lambda sizes: Caser(CaserConfig(vertical=3, final_activation="none"), sizes),
}
every_backbone = pytest.mark.parametrize("name", MAKERS)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(name: str, length: int = LENGTH, seed: int = 0) -> Encoder:
    """In double precision, in evaluation mode; biases away from the zeros at which they start."""
    torch.manual_seed(seed)
    model = MAKERS[name](EncoderSizes(DIM, length)).double().eval()
    for parameter, weight in model.named_parameters():
        if "bias" in parameter:
            nn.init.normal_(weight, std=0.3)
    return model


def histories(seed: int = 0) -> Tensor:
    return noise(len(LENGTHS), LENGTH, DIM, seed=seed) * MASK[:, :, None]


def size(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


# What every encoder owes -------------------------------------------------------------------------------------------------


@every_backbone
def test_states_are_finite_and_zero_in_padding(name: str) -> None:
    states = build(name)(histories(), MASK)
    assert states.shape == (len(LENGTHS), LENGTH, DIM)
    assert states.isfinite().all()
    assert not states[~MASK].any()
    assert (states[MASK].abs().amax(dim=1) > 0).all()


@every_backbone
@pytest.mark.parametrize("mask", [MASK, torch.ones_like(MASK), torch.zeros_like(MASK), MASK[2:4], MASK[3:4], MASK[:1]])
def test_last_is_the_last_column(name: str, mask: Tensor) -> None:
    model, items = build(name), noise(len(mask), LENGTH, DIM)
    last = model.last(items, mask)
    assert last.shape == (len(mask), DIM)
    torch.testing.assert_close(last, model(items, mask)[:, -1])
    assert not last[~mask[:, -1]].any()


@every_backbone
@pytest.mark.parametrize("mask", [MASK, torch.ones_like(MASK)])
def test_no_state_reads_a_later_item_and_all_read_earlier_ones(name: str, mask: Tensor) -> None:
    model, items = build(name), noise(*mask.shape, DIM)
    before = model(items, mask)
    for step in range(LENGTH):
        changed = items.clone()
        changed[:, step] += noise(len(mask), DIM, seed=step + 1)
        moved = (model(changed, mask) - before).abs().amax(dim=2) > 1e-9
        assert torch.equal(moved, mask & mask[:, step : step + 1] & (torch.arange(LENGTH) >= step)), step


@every_backbone
@pytest.mark.parametrize("filling", [3.0, 1e6, torch.nan, torch.inf])
def test_padding_may_hold_anything(name: str, filling: float) -> None:
    model, items = build(name), histories()
    filled = items.masked_fill(~MASK[:, :, None], filling).requires_grad_()
    states = model(filled, MASK)
    assert torch.equal(states, model(items, MASK))
    assert torch.equal(model.last(filled, MASK), model.last(items, MASK))
    states.square().sum().backward()
    assert filled.grad is not None
    assert filled.grad.isfinite().all()
    assert not filled.grad[~MASK].any()


@every_backbone
def test_columns_that_are_padding_everywhere_can_be_cut(name: str) -> None:
    model, items = build(name), histories()
    whole, last = model(items, MASK), model.last(items, MASK)
    for width in (5, 3, 1):
        short = LENGTHS.le(width)
        cut, mask = items[short, -width:], MASK[short, -width:]
        torch.testing.assert_close(model(cut, mask), whole[short, -width:], atol=1e-12, rtol=0)
        torch.testing.assert_close(model.last(cut, mask), last[short], atol=1e-12, rtol=0)


@every_backbone
def test_in_single_precision_cutting_columns_changes_rounding_only(name: str) -> None:
    model, items = build(name).float(), histories().float()
    short = LENGTHS.le(3)
    cut = model(items[short, -3:], MASK[short, -3:])
    torch.testing.assert_close(cut, model(items, MASK)[short, -3:], atol=1e-6, rtol=1e-6)


@every_backbone
def test_a_history_does_not_see_its_neighbours(name: str) -> None:
    model, items = build(name), histories()
    together, last = model(items, MASK), model.last(items, MASK)
    for row in range(len(LENGTHS)):
        alone = slice(row, row + 1)
        torch.testing.assert_close(model(items[alone], MASK[alone]), together[alone], atol=1e-12, rtol=0)
        torch.testing.assert_close(model.last(items[alone], MASK[alone]), last[alone], atol=1e-12, rtol=0)


@every_backbone
def test_gradients_are_those_of_each_history_alone_and_reach_every_parameter(name: str) -> None:
    model, weight = build(name), noise(len(LENGTHS), LENGTH, DIM, seed=9)
    grads: list[list[Tensor]] = []
    for rows in ([slice(None)], [slice(row, row + 1) for row in (0, 1, 2, 4)]):
        items = histories().requires_grad_()
        total = sum((model(items[row], MASK[row]) * weight[row]).sum() for row in rows)
        grads.append(list(torch.autograd.grad(total, [items, *model.parameters()])))  # type: ignore[arg-type]
    for together, alone in zip(*grads, strict=True):
        torch.testing.assert_close(together, alone)
        assert together.abs().sum() > 0


@every_backbone
@pytest.mark.parametrize("training", [False, True])
def test_a_single_real_position_trains(name: str, training: bool) -> None:
    model = build(name).train(training)
    for mask in (MASK[2:3], MASK[2:4], torch.ones(1, 1, dtype=torch.bool)):
        model.zero_grad()
        loss = model(noise(*mask.shape, DIM), mask)[mask].square().sum()
        loss.backward()
        assert loss.isfinite()
        assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


@every_backbone
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_no_nan_and_stays_near(name: str, dtype: torch.dtype) -> None:
    """With a history that is padding throughout, whose queries have no real key."""
    model, items = build(name).float(), histories().float()
    exact = model(items, MASK)
    with torch.autocast("cpu", dtype=dtype):
        rough, last = model(items, MASK), model.last(items, MASK)
    model.train()
    with torch.autocast("cpu", dtype=dtype):
        loss = model(items, MASK).float().square().sum()
    loss.backward()
    torch.testing.assert_close(rough.float(), exact, atol=0.08, rtol=0.05)
    torch.testing.assert_close(last.float(), exact[:, -1], atol=0.08, rtol=0.05)
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


@every_backbone
def test_dropout_is_for_training_alone(name: str) -> None:
    model, items = build(name), histories()
    assert torch.equal(model(items, MASK), model(items, MASK))
    with torch.no_grad():
        quiet = model(items, MASK)
    assert torch.equal(quiet, model(items, MASK))
    model.train()
    torch.manual_seed(1)
    first = model(items, MASK)
    assert not torch.allclose(first, quiet)
    assert not torch.allclose(first, model(items, MASK))
    torch.manual_seed(1)
    assert torch.equal(first, model(items, MASK))


@every_backbone
def test_weights_come_from_the_global_generator_and_copies_are_their_own(name: str) -> None:
    first, same, other = build(name), build(name), build(name, seed=1)
    weights = [nn.utils.parameters_to_vector(model.parameters()) for model in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    twin = copy.deepcopy(first)
    assert not {each.data_ptr() for each in first.parameters()} & {each.data_ptr() for each in twin.parameters()}
    twin.load_state_dict(other.state_dict())
    torch.testing.assert_close(twin(histories(), MASK), other(histories(), MASK))


# Sizes, settings, first weights -------------------------------------------------------------------------------------------


def test_parameter_counts() -> None:
    sizes = EncoderSizes(128, 20)
    sasrec = SASRec(SASRecConfig(), sizes)
    assert [size(block) for block in sasrec.blocks] == [197_760] * 5
    assert size(sasrec.positions) == 2_560
    assert size(sasrec) == 991_616
    classic = SASRec(SASRecConfig(variant="classic", blocks=2), sizes)
    assert size(classic) == 20 * 128 + 2 * (6 * 128 * 129 + 4 * 128) + 2 * 128
    gru = GRU4Rec(GRU4RecConfig(), sizes)
    assert (size(gru.gru), size(gru.dense)) == (98_304, 16_512)
    caser = Caser(CaserConfig(), sizes)
    assert caser.vertical.numel() + caser.vertical_bias.numel() == 42
    assert caser.horizontal.numel() + caser.horizontal_bias.numel() == 53_800
    assert size(caser.dense) == 38_016
    assert size(caser) == 42 + 53_800 + 38_016


def test_defaults() -> None:
    assert SASRecConfig().model_dump() == {"variant": "authors", "blocks": 5, "heads": 2, "dropout": 0.1, "positions": "xavier"}
    assert GRU4RecConfig().model_dump() == {"hidden": 128, "layers": 1, "dropout": 0.1, "bias": False}
    assert CaserConfig().model_dump() == {
        "vertical": 2,
        "horizontal": 2,
        "dropout": 0.1,
        "final_activation": "relu",
    }


@pytest.mark.parametrize("kind", [SASRecConfig, GRU4RecConfig, CaserConfig])
def test_settings_out_of_range_are_refused(kind: type[SASRecConfig | GRU4RecConfig | CaserConfig]) -> None:
    for rate in (-0.1, 1.0):
        with pytest.raises(ConfigError, match=f"run.toml: 'dropout' = {rate}"):
            parse(kind, {"dropout": rate}, "run.toml")
    with pytest.raises(ConfigError, match=r"unknown key 'dropuot' \(did you mean 'dropout'\?\)"):
        parse(kind, {"dropuot": 0.1}, "run.toml")
    for key in {"blocks", "heads", "hidden", "layers", "vertical", "horizontal"} & kind.model_fields.keys():
        with pytest.raises(ConfigError, match=f"'{key}' = 0"):
            parse(kind, {key: 0}, "run.toml")
    with pytest.raises(ValidationError):
        kind().dropout = 0.2  # type: ignore[misc]


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="heads = 3 does not divide dim = 128"):
        SASRec(SASRecConfig(heads=3), EncoderSizes(128, 20))


def test_sasrec_has_no_positions_beyond_its_length() -> None:
    model, wide = build("sasrec authors"), torch.ones(2, LENGTH + 1, dtype=torch.bool)
    for read in (model, model.last):
        with pytest.raises(ConfigError, match="a batch of 7 columns for SASRec of length = 6"):
            read(noise(2, LENGTH + 1, DIM), wide)


def test_first_weights() -> None:
    torch.manual_seed(0)
    sizes = EncoderSizes(96, 12)
    sasrec, classic = SASRec(SASRecConfig(), sizes), SASRec(SASRecConfig(variant="classic"), sizes)
    gru, caser = GRU4Rec(GRU4RecConfig(bias=True), sizes), Caser(CaserConfig(horizontal=4), sizes)
    for model in (sasrec, classic, gru, caser):
        for part in model.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                assert part.weight.std().item() == pytest.approx((2 / sum(part.weight.shape)) ** 0.5, rel=0.06)
        eps = {part.eps for part in model.modules() if isinstance(part, nn.LayerNorm)}
        assert eps == {id(sasrec): {1e-6}, id(classic): {1e-8}}.get(id(model), set())
        assert not any(weight.any() for name, weight in model.named_parameters() if "bias" in name)
    for weight in (gru.gru.weight_ih_l0, gru.gru.weight_hh_l0):
        bound = (6 / sum(weight.shape)) ** 0.5
        assert weight.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    for height, rows in enumerate(caser.horizontal.split([4 * height for height in range(1, 13)]), start=1):
        assert rows.std().item() == pytest.approx((2 / (5 * height * 96)) ** 0.5, rel=0.12)


# SASRec ---------------------------------------------------------------------------------------------------------------------


def attended(attend: nn.Module, queries: Tensor, rows: Tensor, kept: float) -> Tensor:
    """(m, D) of a single head, an explicit softmax for each query; ``kept``: what dropout makes of 1."""
    mixed = []
    for t in range(len(rows)):
        logits = torch.stack([attend.query(queries[t]) @ attend.key(rows[s]) for s in range(t + 1)]) / DIM**0.5
        weights = kept * logits.exp() / logits.exp().sum()
        mixed.append(sum(weights[s] * attend.value(rows[s]) for s in range(t + 1)))
    out: Tensor = attend.out(torch.stack(mixed))  # type: ignore[arg-type]
    return out


def authors_by_hand(model: SASRec, items: Tensor, kept: float = 1.0) -> Tensor:
    """One history without padding (m, D) -> (m, D)."""
    h = kept * model.norm(items + model.positions.weight[-len(items) :])
    for block in model.blocks:
        a = block.attention_norm(h + kept * attended(block.attention, h, h, kept))
        h = block.norm(a + kept * block.outer(F.relu(block.inner(a))))
    return h


def classic_by_hand(model: SASRec, items: Tensor, kept: float = 1.0) -> Tensor:
    h = kept * (items * DIM**0.5 + model.positions.weight[-len(items) :])
    for block in model.blocks:
        q = block.attention_norm(h)
        a = block.norm(q + attended(block.attention, q, h, kept))
        h = a + kept * block.outer(kept * F.relu(block.inner(a)))
    out: Tensor = model.norm(h)
    return out


@pytest.mark.parametrize(("positions", "spread"), [("xavier", (2 / (60 + 128)) ** 0.5), ("items", 0.0154)])
def test_positions_start_by_their_own_shape_or_as_small_as_items(positions: str, spread: float) -> None:
    torch.manual_seed(0)
    config = SASRecConfig.model_validate({"positions": positions})
    model = SASRec(config, EncoderSizes(128, 60, item_std=0.0154))
    assert float(model.positions.weight.detach().std()) == pytest.approx(spread, rel=0.03)


def test_sasrec_authors_is_its_formula() -> None:
    torch.manual_seed(0)
    model = SASRec(SASRecConfig(heads=1, blocks=2, dropout=0), EncoderSizes(DIM, LENGTH)).double()
    items = histories()
    states = model(items, MASK)
    for row, kept in enumerate(MASK):
        if kept.any():
            torch.testing.assert_close(states[row, kept], authors_by_hand(model, items[row, kept]), atol=1e-10, rtol=0)


@pytest.fixture
def doubling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dropout that drops nothing and doubles what it is given, so that a test sees where it stands."""

    def doubled(x: Tensor, rate: float, training: bool) -> Tensor:
        return 2 * x if training and rate else x

    for name in ("layers.transformer", *(f"sequential.backbones.{each}" for each in ("sasrec", "gru4rec", "caser"))):
        monkeypatch.setattr(f"braidrec.{name}.dropout", doubled)


@pytest.mark.usefixtures("doubling")
@pytest.mark.parametrize(("variant", "by_hand"), [("authors", authors_by_hand), ("classic", classic_by_hand)])
def test_where_sasrec_drops_out(variant: str, by_hand: Callable[..., Tensor]) -> None:
    """Of the input, of attention weights and behind each part; of classic also inside the feed-forward layer."""
    torch.manual_seed(0)
    config = SASRecConfig.model_validate({"variant": variant, "heads": 1, "blocks": 2})
    model, items = SASRec(config, EncoderSizes(DIM, LENGTH)).double(), histories()
    states = model.train()(items, MASK)
    quiet = model.eval()(items, MASK)
    for row, kept in enumerate(MASK):
        if kept.any():
            torch.testing.assert_close(states[row, kept], by_hand(model, items[row, kept], 2.0), atol=1e-10, rtol=0)
            torch.testing.assert_close(quiet[row, kept], by_hand(model, items[row, kept]), atol=1e-10, rtol=0)


def test_sasrec_classic_is_the_port_on_a_full_history() -> None:
    """With `nn.MultiheadAttention` and convolutions of width 1, as the port has them."""
    model, items = build("sasrec classic"), noise(3, LENGTH, DIM)
    assert isinstance(model, SASRec)
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    h = items * DIM**0.5 + model.positions.weight
    for block in model.blocks:
        parts = block.attention
        theirs = nn.MultiheadAttention(DIM, 2, batch_first=True).double()
        theirs.in_proj_weight.data = torch.cat([parts.query.weight, parts.key.weight, parts.value.weight])
        theirs.in_proj_bias.data = torch.cat([parts.query.bias, parts.key.bias, parts.value.bias])
        theirs.out_proj.load_state_dict(parts.out.state_dict())
        query = block.attention_norm(h)
        mixed = block.norm(query + theirs(query, h, h, attn_mask=causal)[0])
        inner = F.conv1d(mixed.transpose(1, 2), block.inner.weight[:, :, None], block.inner.bias)
        h = mixed + F.conv1d(inner.relu(), block.outer.weight[:, :, None], block.outer.bias).transpose(1, 2)
    torch.testing.assert_close(model(items, torch.ones(3, LENGTH, dtype=torch.bool)), model.norm(h))


def test_sasrec_counts_positions_from_the_newest_item_back() -> None:
    """A shorter table that holds the newest positions' rows gives the same; one that holds the oldest does not."""
    long, short = build("sasrec authors"), build("sasrec authors", length=3)
    assert isinstance(long, SASRec)
    mask = MASK[LENGTHS.le(3), -3:]
    items = histories()[LENGTHS.le(3), -3:]
    table = long.positions.weight
    for rows, same in ((table[-3:], True), (table[:3], False)):
        short.load_state_dict({**long.state_dict(), "positions.weight": rows})
        assert torch.allclose(short(items, mask), long(items, mask)) == same


# GRU4Rec --------------------------------------------------------------------------------------------------------------------


def gru_by_hand(model: GRU4Rec, items: Tensor) -> Tensor:
    """One history without padding (m, D) -> (m, D), one layer."""
    gru, h, states = model.gru, torch.zeros(model.gru.hidden_size, dtype=items.dtype), []
    for item in items:
        reset, update, new = (gru.weight_ih_l0 @ item).chunk(3)
        past_reset, past_update, past_new = (gru.weight_hh_l0 @ h).chunk(3)
        z = torch.sigmoid(update + past_update)
        h = (1 - z) * torch.tanh(new + torch.sigmoid(reset + past_reset) * past_new) + z * h
        states.append(model.dense(h))
    return torch.stack(states)


def test_gru4rec_is_its_formula() -> None:
    model, items = build("gru4rec"), histories()
    assert isinstance(model, GRU4Rec)
    states = model(items, MASK)
    for row, kept in enumerate(MASK):
        if kept.any():
            torch.testing.assert_close(states[row, kept], gru_by_hand(model, items[row, kept]))


@pytest.mark.usefixtures("doubling")
def test_gru4rec_drops_out_of_the_item_vectors_alone() -> None:
    model, items = build("gru4rec").train(), histories()
    assert isinstance(model, GRU4Rec)
    for mask in (MASK, MASK[:1]):  # packed, and without padding
        expected = gru_by_hand(model, 2 * items[0])
        torch.testing.assert_close(model(items[: len(mask)], mask)[0], expected)


@pytest.mark.parametrize("name", ["gru4rec", "gru4rec biased"])
def test_gru4rec_does_not_count_the_padding(name: str) -> None:
    model, items = build(name), histories()
    wider, mask = F.pad(items, (0, 0, 4, 0)), F.pad(MASK, (4, 0))
    torch.testing.assert_close(model.last(wider, mask), model.last(items, MASK), atol=1e-12, rtol=0)
    torch.testing.assert_close(model(wider, mask)[:, 4:], model(items, MASK), atol=1e-12, rtol=0)


def test_zero_padding_leaves_the_state_of_an_unbiased_gru_at_zero() -> None:
    """So running through the padding, as the library form does, is the same."""
    model, items = build("gru4rec"), histories()
    assert isinstance(model, GRU4Rec)
    through = model.dense(model.gru(items)[0])
    torch.testing.assert_close(model(items, MASK)[MASK], through[MASK])


# Caser ----------------------------------------------------------------------------------------------------------------------


def caser_by_hand(model: Caser, config: CaserConfig, items: Tensor, kept: float = 1.0) -> Tensor:
    """The state behind ``items`` (m, D), its window built and convolved as an image."""
    window = F.pad(items[-model.length :], (0, 0, max(model.length - len(items), 0), 0))  # (L, D)
    vertical = torch.cat([weight @ window + bias for weight, bias in zip(model.vertical, model.vertical_bias, strict=True)])
    sizes = [config.horizontal * height for height in range(1, model.length + 1)]
    features = []
    for height, (rows, bias) in enumerate(
        zip(model.horizontal.split(sizes), model.horizontal_bias.view(model.length, -1), strict=True), start=1
    ):
        convolved = F.conv2d(window[None, None], rows.view(-1, 1, height, DIM), bias)[0, :, :, 0]
        assert convolved.shape == (config.horizontal, model.length - height + 1)
        features.append(convolved.relu().amax(dim=1))
    state = model.dense(kept * torch.cat([vertical, *features]))
    return state.relu() if config.final_activation == "relu" else state


@pytest.mark.parametrize("width", [3, LENGTH, 2 * LENGTH + 1])
@pytest.mark.parametrize(
    "config", [CaserConfig(), CaserConfig(vertical=1, horizontal=4, final_activation="none")], ids=["relu", "none"]
)
def test_caser_is_its_formula_on_every_window(width: int, config: CaserConfig) -> None:
    """Histories shorter and longer than the window, with and without padding."""
    torch.manual_seed(0)
    model = Caser(config, EncoderSizes(DIM, LENGTH)).double().eval()
    nn.init.normal_(model.horizontal_bias)
    nn.init.normal_(model.vertical_bias)
    mask = torch.arange(width) >= width - torch.tensor([width, 2, 0, width - 1])[:, None]
    items = noise(4, width, DIM)
    states = model(items, mask)
    for row, kept in enumerate(mask):
        history = items[row, kept]
        for t in range(len(history)):
            expected = caser_by_hand(model, config, history[: t + 1])
            torch.testing.assert_close(states[row, width - len(history) + t], expected)
    torch.testing.assert_close(model.last(items, mask), states[:, -1])


@pytest.mark.usefixtures("doubling")
def test_caser_drops_out_of_the_features_alone() -> None:
    model, config, items = build("caser").train(), CaserConfig(horizontal=3), histories()
    assert isinstance(model, Caser)
    torch.testing.assert_close(model(items, MASK)[0, -1], caser_by_hand(model, config, items[0], 2.0))


def test_caser_forgets_what_left_its_window() -> None:
    model, items, mask = build("caser linear", length=3), noise(2, 6, DIM), torch.ones(2, 6, dtype=torch.bool)
    changed = items.clone()
    changed[:, 0] += 1.0
    moved = (model(changed, mask) - model(items, mask)).abs().amax(dim=2) > 1e-9
    assert moved.tolist() == [[True, True, True, False, False, False]] * 2


def test_only_a_relu_keeps_caser_states_from_being_negative() -> None:
    assert (build("caser")(histories(), MASK) >= 0).all()
    assert (build("caser linear")(histories(), MASK) < 0).any()
