"""Item maps: f_theta and phi written out, stand-ins for unknown ids, and text that is reduced and appended to."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from braidrec.errors import ConfigError
from braidrec.layers.text import TextTable
from braidrec.sequential.maps import FusedMap, IdMap, TextConfig, TextMap

ITEMS, DIM, WIDTH = 6, 4, 5
ROWS = torch.tensor([3, 0, 6, 3])


def knowledge() -> Tensor:
    vectors = torch.randn(ITEMS + 1, WIDTH, generator=torch.Generator().manual_seed(1))
    vectors[0] = 0
    return vectors


def text_map(**settings: object) -> TextMap:
    torch.manual_seed(0)
    return TextMap(knowledge(), 0, DIM, TextConfig.model_validate(settings)).eval()


def fused_map(**settings: object) -> FusedMap:
    text = text_map()
    return FusedMap(IdMap(ITEMS, DIM), text, **settings).eval()  # type: ignore[arg-type]


def test_an_id_is_its_row_and_padding_is_zero() -> None:
    ids = IdMap(ITEMS, DIM)
    with torch.no_grad():
        ids.table.weight[0] = 9.0
    assert torch.equal(ids(ROWS)[[0, 2, 3]], ids.table.weight[[3, 6, 3]])
    assert not ids(ROWS)[1].any()
    ids(ROWS).sum().backward()
    assert ids.table.weight.grad is not None
    assert ids.table.weight.grad.sum(dim=1).tolist() == [0, 0, 0, 2 * DIM, 0, 0, DIM]


def test_fresh_rows_have_the_spread_that_was_asked_for() -> None:
    torch.manual_seed(0)
    for std, wanted in ((None, math.sqrt(2 / 3_065)), (0.02, 0.02)):  # Xavier: of 3,001 rows and 64 columns
        ids = IdMap(3_000, 64, std=std)
        assert not ids.table.weight[0].any()
        assert ids.table.weight[1:].std().item() == pytest.approx(wanted, rel=0.02)


def test_strange_ids_take_the_mean_of_the_rare_ones_at_evaluation_alone() -> None:
    untrained = torch.arange(ITEMS + 1) == 5
    ids = IdMap(ITEMS, DIM, rare=torch.tensor([1, 2]), untrained=untrained)
    mean = ids.table.weight[1:3].mean(dim=0)
    rows = torch.tensor([5, 4, 0])
    assert torch.equal(ids(rows)[0], ids.table.weight[5])
    ids.eval()
    assert torch.equal(ids(rows)[0], mean)
    assert torch.equal(ids(rows)[1], ids.table.weight[4])
    assert not ids(rows)[2].any()
    ids.add(torch.zeros(2, WIDTH))
    assert ids.num_rows == ITEMS + 3
    assert torch.equal(ids(torch.tensor([7, 8, 6])), torch.stack([mean, mean, ids.table.weight[6]]))
    assert torch.equal(IdMap(ITEMS, DIM).eval().rare, torch.arange(1, ITEMS + 1))  # all of them, by default


def test_text_goes_through_the_network_of_equation_3() -> None:
    text = text_map(layers=2)
    x = knowledge()[ROWS]
    linear = [part for part in text.mlp if isinstance(part, torch.nn.Linear)]
    assert [type(part).__name__ for part in text.mlp] == ["Linear", "GELU", *["Dropout", "Linear", "GELU"] * 2]
    for part in linear:
        x = F.gelu(x @ part.weight.T + part.bias)
    torch.testing.assert_close(text(ROWS)[[0, 2, 3]], x[[0, 2, 3]])
    assert not text(ROWS)[1].any()
    with torch.no_grad():
        linear[-1].bias.fill_(1.0)
    assert not text(ROWS)[1].any()  # f_theta(0) is not zero, padding is
    assert type(text_map(final="linear").mlp[-1]).__name__ == "Linear"
    assert sum(weight.numel() for weight in text_map().parameters()) == WIDTH * DIM + DIM + 4 * (DIM * DIM + DIM)


def test_centred_text_is_the_way_from_the_mean() -> None:
    text = text_map(centre=True)
    own = knowledge()[1:] - knowledge()[1:].mean(dim=0)
    assert text.knowledge is not None
    torch.testing.assert_close(text.knowledge[1:], own / own.norm(dim=1, keepdim=True))


def test_an_item_without_text_has_no_direction_of_its_own() -> None:
    """It got the mean of the others, which is stored in half precision: what rounding leaves of it says nothing."""
    given = torch.randn(200, 64, generator=torch.Generator().manual_seed(2)).add_(0.5).half()
    given[0] = 0
    silent = torch.isin(torch.arange(200), torch.tensor([7, 9]))
    given[silent] = given[1:][~silent[1:]].float().mean(dim=0).half()
    torch.manual_seed(0)
    text = TextMap(TextTable(given), 0, DIM, TextConfig(centre=True)).eval()
    assert text.knowledge is not None
    torch.testing.assert_close(text.knowledge.norm(dim=1), (~silent).float())
    before = text(torch.tensor([7]))
    text.export()
    text.add(given[[9, 3]])  # of items that come later, too
    assert torch.equal(text(torch.tensor([200, 201])), torch.cat([before, text(torch.tensor([3]))]))


def test_text_is_never_saved_nor_trained() -> None:
    text = text_map()
    assert "knowledge" not in text.state_dict()
    assert text.knowledge is not None
    assert torch.equal(text.knowledge, knowledge())
    assert not text.knowledge.requires_grad


@pytest.mark.parametrize("centre", [False, True])
def test_reduced_text_is_the_same_and_grows(centre: bool) -> None:
    text, rows = text_map(centre=centre), torch.arange(ITEMS + 1)
    before = text(rows)
    text.export(block=2)
    torch.testing.assert_close(text(rows), before, atol=1e-6, rtol=0)
    assert text.knowledge is None
    text.export()  # once more changes nothing
    text.add(knowledge()[[4, 2]])
    assert text.num_rows == ITEMS + 3
    torch.testing.assert_close(text(torch.tensor([7, 8])), before[[4, 2]], atol=1e-6, rtol=0)
    torch.testing.assert_close(text(rows), before, atol=1e-6, rtol=0)


def test_fusion_puts_the_id_first() -> None:
    fused = fused_map()
    assert isinstance(fused.phi, torch.nn.Sequential)
    assert [type(part).__name__ for part in fused.phi] == ["Dropout", "Linear", "GELU"]
    linear = fused.phi[1]
    ids, text = fused.ids(ROWS), fused.text(ROWS)
    by_hand = F.gelu(ids @ linear.weight[:, :DIM].T + text @ linear.weight[:, DIM:].T + linear.bias)
    torch.testing.assert_close(fused(ROWS)[[0, 2, 3]], by_hand[[0, 2, 3]])
    with torch.no_grad():
        linear.bias.fill_(1.0)
    assert not fused(ROWS)[1].any()
    added = fused_map(fusion="add")
    assert torch.equal(added(ROWS), added.ids(ROWS) + added.text(ROWS))


def test_first_weights_are_xavier_normal_with_biases_at_zero() -> None:
    torch.manual_seed(0)
    text = TextMap(torch.zeros(2, 96), 0, 64, TextConfig())
    phi = FusedMap(IdMap(1, 64), text).phi
    assert phi is not None
    linear = [part for part in (*text.mlp, *phi) if isinstance(part, torch.nn.Linear)]
    assert [tuple(part.weight.shape) for part in linear] == [(64, 96), *[(64, 64)] * 4, (64, 128)]
    for part in linear:
        assert part.weight.std().item() == pytest.approx((2 / sum(part.weight.shape)) ** 0.5, rel=0.06)
        assert not part.bias.any()


def test_dropout_has_the_rate_that_was_asked_for() -> None:
    def rates(module: torch.nn.Module) -> list[float]:
        return [part.p for part in module.modules() if isinstance(part, torch.nn.Dropout)]

    assert rates(text_map(dropout=0.3)) == [0.3] * 4
    assert rates(FusedMap(IdMap(ITEMS, DIM), text_map(dropout=0.3), dropout=0.4)) == [*[0.3] * 4, 0.4]


def test_a_text_map_without_text_says_so() -> None:
    with pytest.raises(ConfigError, match="this model reads item text: give the run a knowledge base"):
        TextMap(None, 0, DIM, TextConfig())
