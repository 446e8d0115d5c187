"""The quadratic form equals AUC with the multiplicities as sample weights, block sizes and ties notwithstanding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braidrec.errors import DataError
from braidrec.evaluation import bootstrap
from braidrec.evaluation.bootstrap import add_pairs, cluster_by_user, resampled_auc, resampled_mean
from braidrec.evaluation.metrics import auc


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(2, 600),
    users=st.integers(1, 30),
    levels=st.sampled_from([1, 2, 5, 100, 10**6]),
    weighted=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_equals_weighted_auc(seed: int, rows: int, users: int, levels: int, weighted: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, rows).astype(float)
    scores = rng.integers(0, levels, rows).astype(float)
    weights = rng.uniform(0, 2, rows) if weighted else np.ones(rows)
    clusters = cluster_by_user(rng.integers(0, users, rows), rows)
    wins = np.zeros((clusters.count, clusters.count))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "SCORE_BLOCKS", 3)  # several products per model
        add_pairs(wins, labels, scores, weights, clusters.index, 1.0)
    positives, negatives = clusters.sum(weights * labels), clusters.sum(weights * (1 - labels))
    drawn = np.concatenate(list(bootstrap._multiplicities(clusters.count, 20, seed)))
    assert (drawn.sum(axis=1) == clusters.count).all()
    expected = [auc(labels, scores, weights * times[clusters.index]) for times in drawn]
    found = resampled_auc(wins, positives, negatives, 20, seed)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_pairs_by_hand() -> None:
    # user 0: positive .9, negative .5; user 1: positive .5, negative .1
    wins = np.zeros((2, 2))
    labels, scores = np.array([1.0, 0, 1, 0]), np.array([0.9, 0.5, 0.5, 0.1])
    add_pairs(wins, labels, scores, np.ones(4), np.array([0, 0, 1, 1]), 1.0)
    np.testing.assert_array_equal(wins, [[1, 1], [0.5, 1]])
    add_pairs(wins, labels, 5 * scores, np.ones(4), np.array([0, 0, 1, 1]), -1.0)
    np.testing.assert_array_equal(wins, 0)


def test_mean_by_hand() -> None:
    means = resampled_mean(np.array([2.0, 6.0]), np.array([1.0, 2.0]), 2_000, 0)
    assert set(np.round(means, 12)) == {2.0, 3.0, round(8 / 3, 12)}  # both, or either one twice
    assert np.mean(np.isclose(means, 8 / 3)) == pytest.approx(0.5, abs=0.05)


def test_a_resample_without_a_class_is_nan() -> None:
    values = resampled_auc(np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([1.0, 0.0]), np.array([0.0, 1.0]), 500, 0)
    assert set(values[~np.isnan(values)]) == {1.0}
    assert np.isnan(values).mean() == pytest.approx(0.5, abs=0.1)


def test_many_users_are_pooled_the_same_way_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "MAX_CLUSTERS", 3)
    clusters = cluster_by_user(np.array(["e", "a", "b", "a", "d", "c"]), 6)
    assert (clusters.count, clusters.users) == (3, 5)
    assert clusters.index.tolist() == [1, 0, 1, 0, 0, 2]  # a b c d e -> 0 1 2 0 1


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(DataError, match=r"users has shape \(2,\), labels \(3,\)"):
        cluster_by_user([1, 2], 3)
    with pytest.raises(DataError, match="resamples is 0; accepted: 1 or more"):
        resampled_mean(np.ones(2), np.ones(2), 0, 0)
