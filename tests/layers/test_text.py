"""One table of text vectors: what is prepared from it is shared, moved once and never saved; and the networks that read it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from braidrec.layers.text import Preparation, TextReader, TextTable, prepare

ITEMS, WIDTH, DIM = 6, 5, 3
KINDS: tuple[Preparation, ...] = ("plain", "normed", "centred")


def vectors(rows: int = ITEMS + 1, seed: int = 1) -> Tensor:
    found = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed))
    found[0] = 0
    return found


def reader(source: TextTable | None, how: Preparation = "plain", *, seed: int = 0) -> TextReader:
    torch.manual_seed(seed)
    mean = None if how != "centred" else torch.zeros(WIDTH) if source is None else source.mean.clone()
    return TextReader(source, nn.Sequential(nn.Linear(WIDTH, DIM), nn.ReLU()), how, mean=mean)


# The table --------------------------------------------------------------------------------------------------------------


def test_preparations_by_hand() -> None:
    rows = torch.tensor([[0.0, 0.0], [3.0, 5.0], [1.0, -3.0]])
    table = TextTable(rows)
    assert table.mean.tolist() == [2.0, 1.0]  # padding is no item
    # less (2, 1): (-2, -1), (1, 4), (-1, -4), at length 1
    expected = torch.tensor([[-2 / 5**0.5, -1 / 5**0.5], [1 / 17**0.5, 4 / 17**0.5], [-1 / 17**0.5, -4 / 17**0.5]])
    torch.testing.assert_close(table.prepared("centred"), expected)
    torch.testing.assert_close(
        table.prepared("normed"), torch.tensor([[0.0, 0.0], [-1.0, 1.0], [1.0, -1.0]]), atol=1e-4, rtol=0
    )
    assert table.prepared("plain") is rows
    assert torch.equal(table.vectors, torch.tensor([[0.0, 0.0], [3.0, 5.0], [1.0, -3.0]]))  # none of it in place


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_preparations_are_bit_for_bit_those_of_each_row_alone(dtype: torch.dtype) -> None:
    given = vectors().to(dtype)
    table, full = TextTable(given), given.float()
    mean = full[1:].mean(dim=0)
    assert torch.equal(table.mean, mean)
    assert torch.equal(table.prepared("centred"), F.normalize(full - mean, dim=1))
    assert torch.equal(table.prepared("normed"), F.layer_norm(full, (WIDTH,)))
    assert table.prepared("plain").dtype == dtype
    for how in KINDS:
        assert torch.equal(prepare(given[2:4], how, mean), table.prepared(how)[2:4])


def test_an_array_is_not_copied() -> None:
    array = np.zeros((3, WIDTH), np.float32)
    table = TextTable(array)
    array[1] = 7.0
    assert table.prepared("plain")[1].tolist() == [7.0] * WIDTH
    assert (table.num_rows, table.width) == (3, WIDTH)


def test_a_table_is_made_once() -> None:
    given = vectors()
    table = TextTable.of(given)
    assert table is not None
    assert table.vectors is given
    assert TextTable.of(table) is table
    assert TextTable.of(None) is None


@pytest.mark.parametrize("how", KINDS)
def test_readers_share_a_preparation_that_is_made_once_moved_once_and_not_saved(how: Preparation) -> None:
    table = TextTable(vectors())
    both = nn.ModuleList([reader(table, how), reader(table, how)])
    first, second = both
    prepared = table.prepared(how)
    assert first.knowledge is prepared  # type: ignore[comparison-overlap]
    assert second.knowledge is prepared  # type: ignore[comparison-overlap]
    mean = ["mean"] if how == "centred" else []
    assert list(first.state_dict()) == [*mean, "mlp.0.weight", "mlp.0.bias"]
    assert [name for name, _ in first.named_parameters()] == ["mlp.0.weight", "mlp.0.bias"]
    assert not prepared.requires_grad
    both.double()
    assert first.knowledge is second.knowledge
    assert table.prepared(how).dtype == torch.float64
    assert table.vectors.dtype == torch.float32
    both.to("meta")
    assert first.knowledge is second.knowledge
    assert table.prepared(how).device.type == "meta"
    assert table.vectors.device.type == "cpu"


def test_only_what_is_read_is_prepared() -> None:
    table = TextTable(vectors())
    reader(table, "normed")
    assert [name for name, _ in table.named_buffers()] == ["normed"]


# The reader -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", KINDS)
def test_a_network_over_prepared_rows(how: Preparation) -> None:
    one, rows = reader(TextTable(vectors()), how), torch.tensor([4, 0, 4, 6])
    assert one.knowledge is not None
    assert torch.equal(one(rows), one.mlp(one.knowledge[rows]))
    assert one.num_rows == ITEMS + 1
    assert one.text(None) is one.knowledge  # all rows are no copy
    one(rows).sum().backward()
    assert all(weight.grad is not None for weight in one.parameters())


def test_half_precision_is_read_in_the_precision_of_the_network() -> None:
    half, rows = vectors().half(), torch.tensor([1, 5])
    one, same = reader(TextTable(half)), reader(TextTable(half.float()))
    assert one(rows).dtype == torch.float32
    assert torch.equal(one(rows), same(rows))
    one.export()
    same.export()
    assert torch.equal(one(rows), same(rows))


@pytest.mark.parametrize("how", KINDS)
def test_reduced_text_is_the_same_and_grows_without_writing_into_a_tensor(how: Preparation) -> None:
    one, rows = reader(TextTable(vectors()), how), torch.arange(ITEMS + 1)
    before = one(rows).detach()
    one.export(block=2)
    torch.testing.assert_close(one(rows), before)
    assert one.knowledge is None
    reduced = one.reduced
    assert reduced is not None
    one.export()  # once more changes nothing
    assert one.reduced is reduced
    kept = reduced.clone()
    one.add(vectors()[[4, 2]].double())
    assert one.num_rows == ITEMS + 3
    torch.testing.assert_close(one(torch.tensor([7, 8])), before[[4, 2]])
    assert torch.equal(reduced, kept)
    assert not one(rows).requires_grad


def test_exporting_one_reader_leaves_the_table_to_the_others() -> None:
    table = TextTable(vectors())
    one, other = reader(table, "centred"), reader(table, "centred", seed=1)
    before = other(torch.arange(ITEMS + 1))
    one.export()
    assert torch.equal(other(torch.arange(ITEMS + 1)), before)


def test_an_exported_reader_loads_without_a_table() -> None:
    one, bare = reader(TextTable(vectors()), "centred"), reader(None, "centred", seed=1)
    one.export()
    one.add(vectors(3, seed=2)[1:])
    state = one.state_dict()
    assert list(state) == ["mean", "reduced", "mlp.0.weight", "mlp.0.bias"]
    bare.load_state_dict(state)
    rows = torch.arange(ITEMS + 3)
    assert torch.equal(bare(rows), one(rows))
    assert bare.reduced is not one.reduced
    for each in (one, bare):
        each.add(vectors(2, seed=3)[1:])
    assert torch.equal(bare.reduced[-1], one.reduced[-1])  # type: ignore[index]
    bare.load_state_dict(state)  # and again, over more rows
    assert bare.num_rows == ITEMS + 3
    training = reader(TextTable(vectors()), "centred")
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"reduced\""):
        training.load_state_dict(state)


def test_loaded_weights_leave_the_mean_of_other_readers_alone() -> None:
    table = TextTable(vectors())
    one, other = reader(table, "centred"), reader(table, "centred")
    before = table.mean.clone()
    one.load_state_dict({**one.state_dict(), "mean": torch.full((WIDTH,), 9.0)})
    assert torch.equal(other.state_dict()["mean"], before)
    assert torch.equal(table.mean, before)


def test_a_deep_copy_has_a_table_of_its_own_that_its_readers_share() -> None:
    table = TextTable(vectors())
    both = copy.deepcopy(nn.ModuleList([reader(table, "normed"), reader(table, "normed")]))
    assert both[0].source is both[1].source
    assert both[0].source is not table
