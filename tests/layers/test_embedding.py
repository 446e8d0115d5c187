"""The tables: what a row is, padding, unknown values, distinct items, label mixing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from braidrec.data.history import History, SharedHistory
from braidrec.layers.embedding import FieldEmbedding, TableLayout

# user 1..6 (unknown 7)   item 8..17 (18)   genre 19..21 (22)   tags 23..26 (27)
LAYOUT = TableLayout(
    rows=28,
    names=("user", "item", "genre"),
    unknown=(7, 18, 22),
    item_slice=(1, 3),
    bags=(("tags", 27),),
    numbers=(("price", 1), ("statistics", 3)),
    signals=5,
)
ITEM_FIELDS = torch.tensor([[0, 0], *([8 + i, 19 + i % 3] for i in range(10))], dtype=torch.int32)
IDS = torch.tensor([[1, 8, 19], [7, 18, 22], [6, 17, 21]], dtype=torch.int32)
BAGS = (torch.tensor([[23, 25, 0], [0, 0, 0], [26, 0, 0]], dtype=torch.int32),)
NUMBERS = torch.tensor([[0.5, 1.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 1.0, 0.0]])


def embedding(dim: int = 4, *, layout: TableLayout = LAYOUT, seed: int = 0, **options: object) -> FieldEmbedding:
    torch.manual_seed(seed)
    return FieldEmbedding(layout, ITEM_FIELDS, dim, **options)  # type: ignore[arg-type]


def test_layout_counts() -> None:
    assert LAYOUT.num_fields == 3 + 1 + 2
    assert LAYOUT.num_item_fields == 2


def test_parameter_count() -> None:
    """Rows of ids and of signals with their padding, a linear layer per numeric field, one weight per value."""
    embed = embedding(linear=True)
    assert sum(weight.numel() for weight in embed.parameters()) == 28 * 4 + 6 * 4 + (1 + 1) * 4 + (3 + 1) * 4 + 28 + 1 + 3
    assert embed.num_fields == 6


@pytest.mark.parametrize("initial", ["xavier", "normal"])
def test_initial_rows(initial: str) -> None:
    embed = embedding(256, initial=initial)
    assert not embed.table.weight[0].any()
    assert not embed.signals.weight[0].any()
    spread = (2 / (28 + 256)) ** 0.5 if initial == "xavier" else 1e-4
    assert embed.table.weight[1:].std().item() == pytest.approx(spread, rel=0.05)


def test_forward_reads_ids_bags_and_numbers() -> None:
    embed = embedding().eval()
    fields = embed(IDS, BAGS, NUMBERS)
    weight, numbers = embed.table.weight, embed.numbers
    assert fields.shape == (3, 6, 4)
    for row in range(3):
        for column in range(3):
            assert torch.equal(fields[row, column], weight[IDS[row, column]])
    torch.testing.assert_close(fields[0, 3], (weight[23] + weight[25]) / 2)
    assert not fields[1, 3].any()  # an empty bag
    assert torch.equal(fields[2, 3], weight[26])
    torch.testing.assert_close(fields[0, 4], numbers[0].weight[:, 0] * 0.5 + numbers[0].bias)
    torch.testing.assert_close(fields[0, 5], numbers[1].weight @ torch.tensor([1.0, 2.0, 3.0]) + numbers[1].bias)


def test_first_order_is_one_weight_per_value() -> None:
    embed = embedding(linear=True).eval()
    assert embed.linear is not None
    assert embed.number_linear is not None
    assert not embed.first_order(IDS, BAGS, torch.zeros(3, 4)).any()  # starts at zero
    embed.linear.weight.data = torch.arange(28.0)[:, None]
    for layer in embed.number_linear:
        layer.weight.data.fill_(2.0)
    expected = [[1, 8, 19, 24, 1, 12], [7, 18, 22, 0, 0, 0], [6, 17, 21, 26, -2, 2]]
    assert embed.first_order(IDS, BAGS, NUMBERS).tolist() == expected


def test_plain_layout_needs_no_bags_or_numbers() -> None:
    embed = embedding(layout=replace(LAYOUT, bags=(), numbers=()), linear=True).eval()
    assert torch.equal(embed(IDS, (), torch.zeros(3, 0)), embed.table.weight[IDS.long()])
    assert embed.first_order(IDS, (), torch.zeros(3, 0)).shape == (3, 3)


def past(items: Tensor) -> History:
    return History(items.int(), (items > 0).int(), items > 0)


@pytest.mark.parametrize("history", [torch.tensor([[3, 3, 0], [10, 1, 3]]), torch.tensor([[3, 3, 0] * 3, [10, 1, 3] * 3])])
def test_items_are_the_same_whole_or_distinct(history: Tensor) -> None:
    """A short history makes the batch pick its distinct items, a long one takes the catalogue of 11 rows."""
    embed = embedding().eval()
    candidate = torch.tensor([3, 7], dtype=torch.int32)
    items = embed.items(candidate, past(history))
    assert items.rows[0] == 0
    assert len(items.rows) == (11 if history.numel() + 2 >= 11 else 5)  # 0, 1, 3, 7, 10
    assert torch.equal(items.rows[items.candidate], candidate.long())
    assert torch.equal(items.rows[items.past.index], history)
    assert torch.equal(items.fields, embed.table.weight[ITEM_FIELDS[items.rows].long()])
    assert not items.fields[0].any()


@pytest.mark.parametrize("run", [1, 4], ids=["a window each", "shared windows"])
def test_distinct_items_are_the_same_marked_or_sorted(run: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalogue much larger than a batch is not gone through; what is found is the same, in the same order."""
    embed, candidate = embedding().eval(), torch.tensor([3, 7], dtype=torch.int32)
    history: History | SharedHistory = past(torch.tensor([[3, 3, 0], [10, 1, 3]]))
    if run > 1:
        history = past(torch.tensor([[10, 1, 3]])).shared(2)
    marked = embed.items(candidate, history)
    monkeypatch.setattr("braidrec.layers.embedding._SPARSE", 0)
    found = embed.items(candidate, history)
    for one, other in ((marked.rows, found.rows), (marked.candidate, found.candidate), (marked.past.index, found.past.index)):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype


def test_unknown_rows_are_swapped_in_at_their_rate_in_training_only() -> None:
    embed = embedding(unknown_rate=0.25)
    ids = torch.tensor([[3, 9, 0]], dtype=torch.int32).repeat(20_000, 1)
    torch.manual_seed(1)
    swapped = embed.replace_unknown(ids, embed._unknown)
    assert swapped.dtype == torch.int32
    for column, unknown in enumerate((7, 18)):
        assert set(swapped[:, column].tolist()) == {ids[0, column].item(), unknown}
        assert (swapped[:, column] == unknown).float().mean().item() == pytest.approx(0.25, abs=0.015)
    assert not swapped[:, 2].any()  # padding is no value
    torch.manual_seed(1)
    assert torch.equal(embed.replace_unknown(ids, embed._unknown), swapped)
    assert embed.eval().replace_unknown(ids, embed._unknown) is ids


def test_fields_without_an_unknown_row_are_left_alone() -> None:
    embed = embedding(layout=replace(LAYOUT, unknown=(0, 18, 0), bags=(("tags", 0),)), unknown_rate=0.9)
    assert torch.equal(embed.replace_unknown(IDS, embed._unknown)[:, [0, 2]], IDS[:, [0, 2]])
    nothing = embedding(layout=replace(LAYOUT, unknown=(0, 0, 0), bags=(("tags", 0),)), unknown_rate=0.9)
    assert nothing.replace_unknown(IDS, nothing._unknown) is IDS
    assert embedding(unknown_rate=0.0).replace_unknown(IDS, embed._unknown) is IDS


def test_history_items_meet_the_unknown_row_too() -> None:
    embed = embedding(unknown_rate=0.5)
    items = embed.items(torch.arange(1, 11), past(torch.zeros(10, 3)))
    embed.table.weight.grad = None
    items.fields.sum().backward()
    assert embed.table.weight.grad is not None
    assert embed.table.weight.grad[18].any()
    assert not embed.table.weight.grad[0].any()
    assert not items.fields[0].any()  # the padding item stays nothing


def test_signal_mix_is_the_weighted_gather() -> None:
    embed = embedding()
    signals = torch.tensor([[1, 5, 5, 0], [2, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.int32)
    weights = torch.rand(3, 2, 4) * (signals > 0)[:, None]
    expected = torch.einsum("bhk,bkd->bhd", weights, embed.signals.weight[signals.long()])
    torch.testing.assert_close(embed.signal_mix(signals, weights), expected)
    leaf = weights.clone().requires_grad_()
    upstream = torch.randn(3, 2, 4)
    mine = torch.autograd.grad((embed.signal_mix(signals, leaf) * upstream).sum(), [leaf, embed.signals.weight])
    naive = (torch.einsum("bhk,bkd->bhd", leaf, embed.signals(signals.long())) * upstream).sum()
    theirs = torch.autograd.grad(naive, [leaf, embed.signals.weight])
    torch.testing.assert_close(mine[0], theirs[0])
    torch.testing.assert_close(mine[1][1:], theirs[1][1:])


def test_sparse_tables_give_sparse_gradients_of_the_same_value() -> None:
    gradients = []
    for sparse in (False, True):
        embed = embedding(sparse=sparse, linear=True, unknown_rate=0.0)
        items = embed.items(torch.tensor([3, 7]), past(torch.tensor([[1, 0], [3, 3]])))
        loss = embed(IDS, BAGS, NUMBERS).square().sum() + items.fields.square().sum()
        (loss + embed.first_order(IDS, BAGS, NUMBERS).sum()).backward()
        assert embed.linear is not None
        gradients.append([embed.table.weight.grad, embed.linear.weight.grad])
        assert all(grad is not None and grad.is_sparse == sparse for grad in gradients[-1])
    for dense, sparse_one in zip(*gradients, strict=True):
        torch.testing.assert_close(dense, sparse_one.to_dense())


def test_field_aware_vectors_one_per_other_field() -> None:
    """Two extras: each of the six fields holds vectors of width 3 for seven others."""
    embed = embedding(field_aware=3, num_extras=2).eval()
    assert embed.aware is not None
    assert embed.number_aware is not None
    assert embed.aware.weight.shape == (28, 7 * 3)
    assert not embed.aware.weight[0].any()
    found = embed.field_aware(IDS, BAGS, NUMBERS)
    assert found.shape == (3, 6, 7, 3)
    for row in range(3):
        for column in range(3):
            assert torch.equal(found[row, column].flatten(), embed.aware.weight[IDS[row, column]])
    torch.testing.assert_close(found[0, 3].flatten(), (embed.aware.weight[23] + embed.aware.weight[25]) / 2)
    torch.testing.assert_close(found[0, 5].flatten(), embed.number_aware[1](torch.tensor([1.0, 2.0, 3.0])))
    first, second = embedding(), embedding(field_aware=3)
    assert torch.equal(first.table.weight, second.table.weight)  # type: ignore[union-attr]


def test_what_nobody_reads_is_not_there() -> None:
    alone = embedding(fields=False, items=False, linear=True)
    assert set(alone.tables) == {"linear"}
    assert {name.split(".")[0] for name, _ in alone.named_parameters()} == {"linear", "number_linear"}
    assert alone(IDS, BAGS, NUMBERS).shape == (3, 0, 4)
    items = embedding(fields=False)
    assert {name.split(".")[0] for name, _ in items.named_parameters()} == {"table", "signals"}
    assert items.items(torch.tensor([3]), past(torch.tensor([[1, 0]]))).fields.shape == (3, 2, 4)


def test_items_are_added_behind_the_catalogue_without_writing() -> None:
    embed = embedding()
    before = embed.item_fields
    embed.add(torch.tensor([[18, 20]], dtype=torch.int32))
    assert embed.item_fields.tolist() == [*ITEM_FIELDS.tolist(), [18, 20]]
    assert len(before) == 11


def test_fields_of_users_are_read_once_a_run_and_again_where_one_was_swapped() -> None:
    """Rows 0-2 and 3-4 are runs; the user of row 1 was swapped for the unknown one."""
    embed = embedding(layout=replace(LAYOUT, item_slice=(2, 3)))
    ids = torch.tensor([[3, 9, 20]] * 3 + [[4, 8, 20]] * 2, dtype=torch.int32)
    replaced = ids.clone()
    replaced[1, 0] = 7
    found = embed.of_users(ids, replaced, torch.tensor([0, 3]), torch.tensor([0, 0, 0, 1, 1]))
    assert found.index.tolist() == [0, 2, 0, 1, 1]
    assert found.rows.shape == (3, 2 * 4)
    expected = embed.table.weight[replaced[:, :2].long()].flatten(1)  # type: ignore[union-attr]
    assert torch.equal(found.rows[found.index], expected)
