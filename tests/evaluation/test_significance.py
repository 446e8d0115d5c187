"""The paired test is calibrated where nothing differs, finds what was planted, and Holm's table is right."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from braidrec.errors import DataError
from braidrec.evaluation import bootstrap
from braidrec.evaluation.metrics import auc, log_loss
from braidrec.evaluation.retrieval_report import gains
from braidrec.evaluation.significance import holm, over_seeds, paired_gain_test, paired_rank_test, paired_test


def world(
    seed: int, noise_a: float = 1.0, noise_b: float = 1.0, seeds: int = 2, users: int = 80
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels, users and the logits of two models that see the truth through noise, partly shared by all rows of a user."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), 8)
    truth = rng.normal(size=len(user))
    labels = (rng.random(len(user)) < 1 / (1 + np.exp(-2 * truth))).astype(int)

    def model(noise: float) -> np.ndarray:
        shared = rng.normal(size=(seeds, users))[:, user]
        return truth + noise * (shared + rng.normal(size=(seeds, len(user)))) / np.sqrt(2)

    return labels, user, model(noise_a), model(noise_b)


@pytest.mark.parametrize("metric", ["auc", "log_loss"])
def test_a_planted_difference_is_found(metric: str) -> None:
    labels, user, good, poor = world(0, 0.3, 2.0, seeds=3)
    result = paired_test(labels, user, good, poor, metric=metric, resamples=2_000)
    measure = auc if metric == "auc" else lambda y, x: log_loss(y, 1 / (1 + np.exp(-x)))
    expected = [measure(labels, a) - measure(labels, b) for a, b in zip(good, poor, strict=True)]
    np.testing.assert_allclose(result.per_seed, expected, atol=1e-12)
    assert result.difference == pytest.approx(np.mean(expected), abs=1e-12)
    assert (result.difference > 0) == (metric == "auc")
    assert result.p_value == pytest.approx(2 / 2_001)  # the least that 2,000 resamples can say
    assert result.low < result.difference < result.high
    assert result.low * result.high > 0
    assert (result.resamples, result.clusters, result.users, result.pooled) == (2_000, 80, 80, False)


@pytest.mark.parametrize("metric", ["auc", "log_loss"])
def test_swapping_the_models_negates(metric: str) -> None:
    labels, user, a, b = world(1)
    there = paired_test(labels, user, a, b, metric=metric, resamples=500)
    back = paired_test(labels, user, b, a, metric=metric, resamples=500)
    assert back.difference == -there.difference
    assert back.per_seed == tuple(-value for value in there.per_seed)
    np.testing.assert_allclose((back.low, back.high), (-there.high, -there.low), atol=1e-12)
    assert back.p_value == there.p_value


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("metric", ["auc", "log_loss"])
def test_identical_models_have_p_one(metric: str, weighted: bool) -> None:
    labels, user, a, _ = world(2, seeds=3)
    weights = np.random.default_rng(0).uniform(0, 3, len(labels)) if weighted else None
    result = paired_test(labels, user, a, a[::-1].copy(), metric=metric, weights=weights, resamples=300)
    assert result.difference == pytest.approx(0, abs=1e-15)
    assert result.p_value == 1


def test_monotone_transforms_change_nothing_for_auc() -> None:
    labels, user, a, b = world(3)
    assert paired_test(labels, user, a, b, resamples=300) == paired_test(labels, user, np.exp(a), b**3, resamples=300)


def test_p_is_roughly_uniform_where_nothing_differs() -> None:
    p_values = []
    for seed in range(300):
        labels, user, a, b = world(seed, users=50, seeds=1)
        p_values.append(paired_test(labels, user, a, b, resamples=199, seed=seed).p_value)
    assert stats.kstest(p_values, "uniform").statistic < 0.1  # 1 % point for 300 values: .094
    assert 0.02 <= np.mean(np.array(p_values) <= 0.05) <= 0.1


def test_rows_as_clusters_would_be_overconfident() -> None:
    # why users are resampled: a user's rows share their label and the models' errors, so they are one piece of evidence
    rng = np.random.default_rng(5)
    user = np.repeat(np.arange(80), 8)
    labels, a, b = rng.integers(0, 2, 80)[user], rng.normal(size=(1, 80))[:, user], rng.normal(size=(1, 80))[:, user]
    by_user = paired_test(labels, user, a, b, metric="log_loss", resamples=500)
    by_row = paired_test(labels, np.arange(len(user)), a, b, metric="log_loss", resamples=500)
    assert by_user.high - by_user.low > 2 * (by_row.high - by_row.low)  # sqrt(8) = 2.8 in theory


def test_weights_equal_repetition() -> None:
    labels, user, a, b = world(6)
    times = np.random.default_rng(0).integers(0, 3, len(labels))
    weighted = paired_test(labels, user, a, b, weights=times, resamples=200)
    kept = np.repeat(np.arange(len(labels)), times)
    assert len(np.unique(user[kept])) == len(np.unique(user))
    repeated = paired_test(labels[kept], user[kept], a[:, kept], b[:, kept], resamples=200)
    assert weighted == repeated


def test_pooling_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "MAX_CLUSTERS", 40)
    labels, user, good, poor = world(7, 0.3, 2.0)
    result = paired_test(labels, user, good, poor, resamples=300)
    assert (result.clusters, result.users, result.pooled) == (40, 80, True)
    assert result.p_value < 0.01


def test_same_seed_same_result() -> None:
    labels, user, a, b = world(8)
    assert paired_test(labels, user, a, b, resamples=300, seed=4) == paired_test(labels, user, a, b, resamples=300, seed=4)


def test_bad_arguments_are_refused() -> None:
    labels, user, a, b = world(9)
    with pytest.raises(DataError, match=r"shapes \(2, 640\) and \(1, 640\); accepted: \(S, N\) for both"):
        paired_test(labels, user, a, b[:1])
    with pytest.raises(DataError, match="640 labels are of one class"):
        paired_test(np.ones(640), user, a, b)
    b[1, 7] = np.nan
    with pytest.raises(DataError, match="scores: row 7 is nan"):
        paired_test(labels, user, a, b)


def test_holm_by_hand() -> None:
    # sorted .01 .03 .04 -> x3 .03, x2 .06, x1 .04 raised to .06
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03]), [0.06, 0.03, 0.06])
    np.testing.assert_array_equal(holm([0.9, 0.8]), [1, 1])
    assert holm([]).shape == (0,)


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.1])
def test_holm_refuses_what_is_no_p(bad: float) -> None:
    with pytest.raises(DataError, match=r"accepted: a list of numbers in \[0, 1\]"):
        holm([0.5, bad])


def ranked(seed: int, better: float = 0.0, seeds: int = 2, users: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users of 1 to 3 rows, and the ranks of two models that find the same rows hard; a brings a share ``better`` to rank 1."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), rng.integers(1, 4, users))
    hard = rng.random(len(user)) < 0.6

    def ranks() -> np.ndarray:
        return np.where(hard, rng.integers(1, 200, (seeds, len(user))), rng.integers(1, 20, (seeds, len(user))))

    a, b = ranks(), ranks()
    return user, np.where(rng.random(a.shape) < better, 1, a), b


@pytest.mark.parametrize("metric", ["hr", "ndcg", "mrr"])
def test_a_planted_difference_of_ranks_is_found(metric: str) -> None:
    user, a, b = ranked(0, better=0.2, seeds=3)
    result = paired_rank_test(user, a, b, metric=metric, resamples=2_000)
    value = {"hr": lambda r: 1.0, "ndcg": lambda r: 1 / np.log2(r + 1), "mrr": lambda r: 1 / r}[metric]
    expected = [
        np.mean([value(x) * (x <= 10) for x in left]) - np.mean([value(x) * (x <= 10) for x in right])
        for left, right in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(result.per_seed, expected, atol=1e-12)
    assert result.difference == pytest.approx(np.mean(expected), abs=1e-12)
    assert result.low > 0
    assert result.low < result.difference < result.high
    assert result.p_value == pytest.approx(2 / 2_001)
    assert (result.metric, result.resamples, result.clusters, result.users) == (f"{metric}@10", 2_000, 400, 400)
    back = paired_rank_test(user, b, a, metric=metric, resamples=2_000)
    assert back.difference == -result.difference
    assert back.p_value == result.p_value


def test_the_interval_of_a_rank_difference_is_as_wide_as_theory_says() -> None:
    # one row per user, so the gaps are independent: width 2 * 1.96 * sd / sqrt(N), the rows' mean over seeds being one gap
    rng = np.random.default_rng(3)
    a, b = rng.integers(1, 40, (2, 3, 2_000))
    result = paired_rank_test(np.arange(2_000), a, b, metric="hr", resamples=2_000)
    gap = ((a <= 10).astype(float) - (b <= 10)).mean(axis=0)
    assert result.high - result.low == pytest.approx(2 * 1.96 * gap.std() / np.sqrt(2_000), rel=0.08)


def test_p_of_ranks_is_roughly_uniform_where_nothing_differs() -> None:
    p_values = []
    for seed in range(300):
        user, a, b = ranked(seed, users=150)
        p_values.append(paired_rank_test(user, a, b, resamples=199, seed=seed).p_value)
    assert stats.kstest(p_values, "uniform").statistic < 0.1
    assert 0.02 <= np.mean(np.array(p_values) <= 0.05) <= 0.1


def test_ranks_beyond_k_do_not_matter() -> None:
    user, a, b = ranked(1)
    far = np.where(a > 5, a + 1_000, a)
    assert paired_rank_test(user, a, b, k=5, resamples=200) == paired_rank_test(user, far, b, k=5, resamples=200)
    assert paired_rank_test(user, a, far, k=5, resamples=200).p_value == 1


@pytest.mark.parametrize("metric", ["hr", "ndcg", "mrr"])
def test_ranks_are_compared_by_what_they_gain(metric: str) -> None:
    user, a, b = ranked(4, better=0.1)
    by_rank = paired_rank_test(user, a, b, metric=metric, k=5, resamples=300, seed=2)
    by_gain = paired_gain_test(user, gains(a, metric, 5), gains(b, metric, 5), metric=f"{metric}@5", resamples=300, seed=2)
    assert by_rank == by_gain


def test_gains_by_hand() -> None:
    # users 1 and 2 with two rows each: seed 1 differs by .5 on every row, seed 2 by 0
    ones = np.ones((2, 4))
    result = paired_gain_test([1, 1, 2, 2], ones, ones - [[0.5] * 4, [0] * 4], metric="recall@20", resamples=100)
    assert (result.metric, result.difference, result.per_seed) == ("recall@20", 0.25, (0.5, 0.0))
    assert (result.low, result.high, result.users) == (0.25, 0.25, 2)
    assert result.p_value == pytest.approx(2 / 101)


def test_bad_gains_are_refused() -> None:
    good = np.zeros((2, 4))
    with pytest.raises(DataError, match=r"gains have shapes \(2, 4\) and \(1, 4\); accepted: \(S, N\) for both models"):
        paired_gain_test(np.arange(4), good, good[:1], metric="recall@20")
    with pytest.raises(DataError, match=r"gains have shapes \(2, 0\) and \(2, 0\)"):
        paired_gain_test([], good[:, :0], good[:, :0], metric="recall@20")
    bad = good.copy()
    bad[1, 2] = np.nan
    with pytest.raises(DataError, match=r"gains: seed 1, row 2 is 0\.0 and nan; accepted: finite numbers"):
        paired_gain_test(np.arange(4), good, bad, metric="recall@20")


def test_bad_ranks_are_refused() -> None:
    user, a, b = ranked(2)
    with pytest.raises(DataError, match=r"accepted: \(S, N\) for both models"):
        paired_rank_test(user, a, b[:1])
    with pytest.raises(DataError, match=r"accepted: \(S, N\) for both models"):
        paired_rank_test(user, a[0], b[0])
    with pytest.raises(DataError, match="the least 0; accepted: whole numbers from 1"):
        paired_rank_test(user, a - 1, b - 1)
    with pytest.raises(DataError, match="users has shape"):
        paired_rank_test(user[1:], a, b)


# -- seeds as a sample ------------------------------------------------------------------------------------------------------

WIDTH = 2 * stats.norm.ppf(0.975)  # of a 95 % interval, in standard errors


def test_without_luck_of_users_it_is_the_t_test_over_seeds() -> None:
    gaps = [0.004, 0.002, 0.003]
    found = over_seeds(0.003, gaps, 0.003, 0.003, 1_000)
    expected = stats.ttest_1samp(gaps, 0.0)
    assert found is not None
    assert (found.p_value, found.degrees) == (pytest.approx(expected.pvalue), pytest.approx(2))
    assert (found.low, found.high) == tuple(map(pytest.approx, expected.confidence_interval(0.95)))


def test_without_luck_of_seeds_it_is_that_of_users() -> None:
    error = 0.001
    found = over_seeds(0.003, [0.003] * 3, 0.003 - error * WIDTH / 2, 0.003 + error * WIDTH / 2, 6_001)
    assert found is not None
    assert (found.error, found.degrees) == (pytest.approx(error), pytest.approx(6_000))
    assert found.p_value == pytest.approx(2 * stats.t.sf(3, 6_000))


def test_both_kinds_of_luck_add_up() -> None:
    """By hand: users' error .001; seeds' variance 1e-6 over 2 seeds; 1.5e-6 in all, degrees 2.25 / (1/100 + .25/1)."""
    found = over_seeds(
        0.001,
        [0.001 + 5e-4**0.5 * 1e-3**0.5, 0.001 - 5e-4**0.5 * 1e-3**0.5],
        0.001 - 0.0005 * WIDTH,
        0.001 + 0.0005 * WIDTH,
        101,
    )
    assert found is not None
    assert found.error == pytest.approx(1.5e-6**0.5)
    assert found.degrees == pytest.approx(2.25 / 0.26)
    assert (
        found.high - 0.001 == pytest.approx(0.001 - found.low) == pytest.approx(stats.t.ppf(0.975, 2.25 / 0.26) * 1.5e-6**0.5)
    )


def test_one_seed_says_nothing_of_others_and_no_luck_at_all_is_no_test() -> None:
    assert over_seeds(0.01, [0.01], 0.0, 0.02, 100) is None
    assert [over_seeds(gap, [gap] * 2, gap, gap, 100).p_value for gap in (0.0, 0.5)] == [1.0, 0.0]  # type: ignore[union-attr]


def test_it_is_calibrated_where_users_and_seeds_are_drawn() -> None:
    """2,000 worlds without a difference, seeds' effects as large as users': about 5 % of p are below .05."""
    rng = np.random.default_rng(0)
    below = 0
    for _ in range(2_000):
        users, seeds = rng.normal(0, 0.01), rng.normal(0, 0.01 * 3**0.5, 3)
        gaps = users + seeds
        found = over_seeds(float(gaps.mean()), list(gaps), gaps.mean() - 0.005 * WIDTH, gaps.mean() + 0.005 * WIDTH, 1_000)
        below += found is not None and found.p_value < 0.05
    assert 0.03 < below / 2_000 < 0.07
