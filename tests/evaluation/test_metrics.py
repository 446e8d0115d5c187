"""AUC and log loss by hand, against scikit-learn, and by their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from braidrec.errors import DataError
from braidrec.evaluation.metrics import auc, log_loss, row_losses

SEEDS = st.integers(0, 2**32 - 1)


def make(seed: int, levels: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels with both classes, scores in (0, 1) (on few ``levels``: many ties) and weights."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 200))
    labels = rng.integers(0, 2, n)
    labels[:2] = (0, 1)
    scores = rng.integers(1, levels + 1, n) / (levels + 2) if levels else rng.uniform(0.001, 0.999, n)
    return labels, scores, rng.uniform(0, 3, n)


def test_auc_by_hand() -> None:
    # positives .8 .4, negatives .6 .2: .8 beats both, .4 beats one: 3 of 4 pairs
    assert auc([1, 0, 1, 0], [0.8, 0.6, 0.4, 0.2]) == 0.75


def test_a_tie_is_half() -> None:
    assert auc([1, 0], [0.3, 0.3]) == 0.5
    assert auc([1, 0, 0], [0.3, 0.3, 0.1]) == 0.75


def test_weights_by_hand() -> None:
    # pairs: (.8, .6) 1*3 right, (.8, .2) 1*1 right, (.4, .6) 2*3 wrong, (.4, .2) 2*1 right: 6 of 12
    assert auc([1, 0, 1, 0], [0.8, 0.6, 0.4, 0.2], [1, 3, 2, 1]) == 0.5


@pytest.mark.parametrize("labels", [[1, 1], [0, 0], []])
def test_one_class_has_no_auc(labels: list[int]) -> None:
    assert math.isnan(auc(labels, [0.5] * len(labels)))


def test_a_class_without_weight_has_no_auc() -> None:
    assert math.isnan(auc([1, 0], [0.2, 0.1], [1, 0]))


def test_log_loss_by_hand() -> None:
    assert log_loss([1, 0], [0.5, 0.25]) == pytest.approx((math.log(2) + math.log(4 / 3)) / 2, abs=1e-15)
    assert log_loss([1, 0], [0.5, 0.25], [3, 1]) == pytest.approx((3 * math.log(2) + math.log(4 / 3)) / 4, abs=1e-15)


def test_certain_and_wrong_is_clipped() -> None:
    assert log_loss([1], [0.0]) == pytest.approx(-math.log(1e-7), rel=1e-12)
    assert log_loss([0], [1.0]) == pytest.approx(-math.log(1e-7), rel=1e-9)
    assert math.isnan(log_loss([], []))


def test_logits_are_stable_far_out() -> None:
    losses = row_losses(np.array([1.0, 0.0, 1.0]), np.array([-1e4, -1e4, 0.0]), "logits")
    np.testing.assert_allclose(losses, [-math.log(1e-7), 1e-7, math.log(2)], rtol=1e-6)


@given(seed=SEEDS, levels=st.sampled_from([None, 3, 10]))
@settings(max_examples=200, deadline=None)
def test_equal_to_scikit_learn(seed: int, levels: int | None) -> None:
    labels, scores, weights = make(seed, levels)
    assert auc(labels, scores) == pytest.approx(reference.roc_auc_score(labels, scores), abs=1e-12)
    assert auc(labels, scores, weights) == pytest.approx(
        reference.roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12
    )
    assert log_loss(labels, scores) == pytest.approx(reference.log_loss(labels, scores), abs=1e-12)
    assert log_loss(labels, scores, weights) == pytest.approx(
        reference.log_loss(labels, scores, sample_weight=weights), abs=1e-12
    )


@given(seed=SEEDS, levels=st.sampled_from([None, 4]))
@settings(max_examples=50, deadline=None)
def test_properties(seed: int, levels: int | None) -> None:
    labels, scores, _ = make(seed, levels)
    rng = np.random.default_rng(seed)
    value, times = auc(labels, scores), rng.integers(0, 4, len(labels))
    assert 0 <= value <= 1
    assert auc(labels, np.exp(3 * scores) - 7) == value  # a monotone transform
    assert auc(labels, -scores) == pytest.approx(1 - value, abs=1e-12)
    assert auc(1 - labels, scores) == pytest.approx(1 - value, abs=1e-12)
    order = rng.permutation(len(labels))
    assert auc(labels[order], scores[order]) == value
    np.testing.assert_equal(auc(labels, scores, times), auc(np.repeat(labels, times), np.repeat(scores, times)))
    if times.sum():
        repeated = log_loss(np.repeat(labels, times), np.repeat(scores, times))
        assert log_loss(labels, scores, times) == pytest.approx(repeated, abs=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_names_its_row(bad: float) -> None:
    with pytest.raises(DataError, match=r"scores: row 2 is (nan|inf|-inf), one of 2 such rows; accepted: a finite number"):
        auc([1, 0, 1, 0], [0.1, 0.2, bad, bad])


def test_bad_rows_are_refused() -> None:
    with pytest.raises(DataError, match=r"labels: row 1 is 2\.0.*accepted: 0 or 1"):
        auc([1, 2], [0.1, 0.2])
    with pytest.raises(DataError, match=r"weights: row 0 is -1\.0"):
        auc([1, 0], [0.1, 0.2], [-1, 1])
    with pytest.raises(DataError, match=r"scores has shape \(3,\), labels \(2,\)"):
        auc([1, 0], [0.1, 0.2, 0.3])
    with pytest.raises(DataError, match=r"probabilities: row 1 is 1\.5.*kind='logits'"):
        log_loss([1, 0], [0.1, 1.5])
    with pytest.raises(DataError, match="plain scores have no log loss"):
        row_losses(np.ones(1), np.ones(1), "scores")
