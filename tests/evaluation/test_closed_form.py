"""Solvers of rankings at once: worked by hand, against least squares, and the same however they are computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.sparse import csr_array

from braidrec.errors import DataError
from braidrec.evaluation import closed_form
from braidrec.evaluation.closed_form import ease, gram, gram_times, interactions, inverse, item_cosine, leading_vectors
from braidrec.evaluation.retrieval import RetrievalRows, rank_targets

# 4 users x 3 items
X = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32)


def sparse(values: np.ndarray) -> csr_array:
    row, column = np.nonzero(values)
    return interactions(row, column, values.shape)


def drawn(rows: int, columns: int, share: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((rows, columns)) < share).astype(np.float32)


def test_a_pair_that_occurs_twice_is_one_pair() -> None:
    found = interactions(np.array([1, 0, 1, 1]), np.array([2, 1, 2, 0]), (2, 3))
    assert found.toarray().tolist() == [[0, 1, 0], [1, 0, 1]]
    assert found.indices.dtype == np.int32


@pytest.mark.parametrize("cells", [1, 10, 1 << 25])
def test_the_gram_matrix_is_the_same_counted_or_multiplied(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_form, "_CELLS", cells)
    for share in (0.02, 0.6):
        values = drawn(30, 20, share)
        assert np.array_equal(gram(sparse(values)).numpy(), values.T @ values)
        vectors = torch.randn(20, 3)
        assert torch.allclose(gram_times(sparse(values))(vectors), torch.from_numpy(values.T @ values) @ vectors, atol=1e-5)


def test_item_cosine_by_hand() -> None:
    # G = [[3, 2, 1], [2, 3, 0], [1, 0, 1]]; C_01 = 2 / (sqrt(9) + 1), C_02 = 1 / (sqrt(3) + 1)
    found = item_cosine(sparse(X), shrink=1.0).toarray()
    assert np.allclose(found, [[0, 0.5, 1 / (3**0.5 + 1)], [0.5, 0, 0], [1 / (3**0.5 + 1), 0, 0]])


def test_ease_by_hand() -> None:
    # G + I = [[4, 2, 1], [2, 4, 0], [1, 0, 2]], determinant 20; its inverse is 1 / 20 [[8, -4, -4], [-4, 7, 2], [-4, 2, 12]]
    wanted = [[0, 4 / 7, 4 / 12], [4 / 8, 0, -2 / 12], [4 / 8, -2 / 7, 0]]
    assert np.allclose(ease(sparse(X), 1.0).numpy(), wanted, atol=1e-6)


def test_ease_minimises_what_it_says() -> None:
    values, penalty = drawn(12, 5, 0.4).astype(np.float64), 1.7
    off = ~np.eye(5, dtype=bool)

    def loss(free: np.ndarray) -> float:
        weights = np.zeros((5, 5))
        weights[off] = free
        return float(((values - values @ weights) ** 2).sum() + penalty * (weights**2).sum())

    best = minimize(loss, np.zeros(20), tol=1e-12)
    found = ease(sparse(values), penalty).numpy()
    assert np.allclose(found[off], best.x, atol=1e-4)
    assert (np.diag(found) == 0).all()


@pytest.mark.parametrize("shape", [(9, 20), (20, 9)])
@pytest.mark.parametrize("penalty", [0.5, 50.0])
def test_ease_is_the_same_whichever_side_is_inverted(shape: tuple[int, int], penalty: float) -> None:
    values = drawn(*shape, 0.3).astype(np.float64)
    precision = np.linalg.inv(values.T @ values + penalty * np.eye(shape[1]))
    wanted = -precision / np.diag(precision)
    np.fill_diagonal(wanted, 0)
    assert np.allclose(ease(sparse(values.astype(np.float32)), penalty).numpy(), wanted, atol=1e-4)


def test_a_table_waits_for_ease_where_its_smaller_side_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_form, "QUICK_ITEMS", 19)  # beside padding
    monkeypatch.setattr(closed_form, "QUICK_SIDE", 9)
    for shape, quick in (((9, 20), True), ((20, 9), True), ((10, 20), False), ((5, 21), False)):
        values = sparse(drawn(*shape, 0.3))
        found = closed_form.quick_ease(values, 2.0)
        assert (found is not None) == quick
        assert found is None or torch.equal(found, ease(values, 2.0))


def test_what_is_not_positive_definite_names_the_setting() -> None:
    with pytest.raises(DataError, match=r"not positive definite to float32 \(row 2\); use a larger penalty"):
        inverse(torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "penalty")


def test_leading_vectors_are_those_of_the_whole_decomposition() -> None:
    values = torch.from_numpy(drawn(80, 40, 0.2))
    whole = values.T @ values
    found, vectors = leading_vectors(lambda each: whole @ each, 40, 4)
    wanted = torch.linalg.eigvalsh(whole).flip(0)[:4]
    assert torch.allclose(found, wanted, rtol=1e-3)
    assert torch.allclose(vectors.T @ vectors, torch.eye(4), atol=1e-5)
    assert torch.allclose(whole @ vectors, vectors * found, atol=0.2)


def test_a_scorer_reads_what_a_row_has_met_and_popularity_where_it_has_met_nothing() -> None:
    # two rows: the first met items 1 and 2, the second nothing
    rows = RetrievalRows.single(
        np.array([1, 2], np.int32),
        np.array([3, 1], np.int32),
        np.array([1, 2], np.int32),
        np.array([0, 2]),
        np.array([2, 2]),
        3,
    )
    padded = np.zeros((5, 4), np.float32)
    padded[1:, 1:] = X
    popularity = padded.sum(0)
    dense = ease(sparse(padded), 1.0)
    found = closed_form.WeightsScorer(rows, dense, popularity).scores(np.arange(2))
    assert torch.allclose(found[0], dense[1] + dense[2])
    assert found[1].tolist() == popularity.tolist()
    assert rank_targets(closed_form.WeightsScorer(rows, dense, popularity), rows).rank.tolist() == [1, 1]
    same = closed_form.WeightsScorer(rows, csr_array(dense.numpy()), popularity).scores(np.arange(2))
    assert torch.allclose(found, same)
