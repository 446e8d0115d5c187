"""Batches of users, items and the ratings between them."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array

from braidrec.collaborative.cells import CellBatches, Rows
from braidrec.collaborative.labels import scaled_ratings
from rated_worlds import world


def ratings() -> csr_array:
    own = world()
    user, item = np.nonzero(own.ratings)
    found: csr_array = scaled_ratings(
        (user + 1).astype(np.int32), (item + 1).astype(np.int32), own.ratings[user, item].astype(np.float32), own.shape
    )
    return found


def test_an_epoch_has_every_user_once_and_items_in_turn() -> None:
    source = CellBatches(ratings(), 8, 30, seed=3)
    batches = list(source)
    assert len(batches) == len(source) == 8
    users = torch.cat([batch.user for batch in batches])
    assert sorted(users.tolist()) == list(range(1, 61))
    items = torch.cat([batch.item for batch in batches]).bincount(minlength=41)[1:]
    assert int(items.max() - items.min()) <= 1
    assert all(len(batch.item.unique()) == len(batch.item) for batch in batches)
    assert source.state() == {"seed": 3, "epoch": 1, "position": 0}


def test_a_batch_holds_what_the_matrix_has() -> None:
    own = ratings()
    for batch in CellBatches(own, 8, 13, seed=0):
        users, items = batch.user.numpy(), batch.item.numpy()
        assert np.allclose(batch.block.numpy(), own[users][:, items].toarray())
        assert np.allclose(batch.users.dense().numpy(), own[users][:, 1:].toarray())
        assert np.allclose(batch.items.dense().numpy(), own[1:][:, items].toarray().T)
        assert len(batch.to("cpu")) == len(users)


def test_the_order_is_another_in_every_epoch_and_by_every_seed() -> None:
    def orders(seed: int) -> list[tuple[list[int], list[int]]]:
        source = CellBatches(ratings(), 8, 30, seed=seed)
        batches = [list(source), list(source)]
        return [tuple(torch.cat([getattr(one, side) for one in own]).tolist() for side in ("user", "item")) for own in batches]  # type: ignore[misc]

    first, second = orders(3)
    assert first == orders(3)[0]
    for side in (0, 1):
        assert first[side] != second[side] != sorted(second[side])
        assert first[side] != orders(4)[0][side]


def test_it_goes_on_where_it_stood() -> None:
    first, again = (CellBatches(ratings(), 8, 13, seed=5) for _ in range(2))
    stream = iter(first)
    for _ in range(3):
        next(stream)
    again.restore(first.state())
    rest, other = [*stream, *first], [*again, *again]
    assert len(rest) == len(other) == 13
    for one, two in zip(rest, other, strict=True):
        assert torch.equal(one.user, two.user)
        assert torch.equal(one.block, two.block)


def test_sums_of_rows_and_dense_products_agree_and_rows_of_nothing_are_zeros() -> None:
    table = torch.randn(40, 5)
    matrix = csr_array((np.ones(3, np.float32) / 2, ([0, 0, 2], [1, 7, 39])), shape=(4, 40))
    rows = Rows.of(matrix)
    assert torch.allclose(rows.times(table), torch.from_numpy(matrix.toarray()) @ table, atol=1e-6)
    full = Rows.of(csr_array(np.random.default_rng(0).random((4, 40)).astype(np.float32)))
    assert torch.allclose(full.times(table), full.dense() @ table)
    lengths = rows.unit().dense().norm(dim=1)
    assert torch.allclose(lengths, torch.tensor([1.0, 0.0, 1.0, 0.0]))
