"""Baselines by hand, against a loop over events, without the future, and on MovieLens-1M."""

from __future__ import annotations

import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from braidrec.errors import DataError
from braidrec.evaluation.baselines import (
    Baseline,
    RankingLog,
    item_mean,
    item_mean_user_residual,
    popularity,
    ranking_baselines,
)
from braidrec.evaluation.metrics import auc


def world(seed: int = 0, events: int = 3_000) -> RankingLog:
    """Users and items of different generosity; 70 % training, 10 % validation, 20 % test, by time."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 60, events), np.minimum(rng.geometric(0.05, events), 80)
    taste = rng.normal(size=60)[user] + rng.normal(size=81)[item]
    label = (rng.random(events) < 1 / (1 + np.exp(-2 * taste))).astype(np.int64)
    at = np.arange(events)
    first, second = int(0.7 * events), int(0.8 * events)
    return RankingLog(user, item, label, at[:first], at[first:second], at[second:])


def by_loop(log: RankingLog, item_strength: float, user_strength: float) -> np.ndarray:
    """Item mean + past residual of every event, one event at a time."""
    overall = log.label[log.train].mean()
    mean = {}
    for item in np.unique(log.item):
        of_item = log.train[log.item[log.train] == item]
        mean[item] = (log.label[of_item].sum() + item_strength * overall) / (len(of_item) + item_strength)
    out = np.empty(len(log.label))
    for event in range(len(log.label)):
        past = [other for other in range(event) if log.user[other] == log.user[event]]
        residual = sum(log.label[other] - mean[log.item[other]] for other in past)
        out[event] = mean[log.item[event]] + residual / (len(past) + user_strength)
    return out


def test_popularity_and_item_mean_by_hand() -> None:
    # training: item 1 is 1 1, item 2 is 0 1 0; validation 1 then 0, so item 1 is to stand above item 2; item 3 is new
    log = RankingLog(
        user=np.arange(8),
        item=np.array([1, 1, 2, 2, 2, 1, 2, 3]),
        label=np.array([1, 1, 0, 1, 0, 1, 0, 1]),
        train=np.arange(5),
        valid=np.array([5, 6]),
        test=np.array([7, 5]),
    )
    np.testing.assert_allclose(popularity(log).test, np.log([1, 3]))
    found = item_mean(log)
    assert found.item_strength == 1  # every strength ranks validation perfectly; the first is taken
    np.testing.assert_allclose(found.test, [3 / 5, (2 + 3 / 5) / 3])


def test_equal_to_a_loop_over_events() -> None:
    log = world(1, 600)
    found = item_mean_user_residual(log)
    assert found.item_strength is not None
    assert found.user_strength is not None
    expected = by_loop(log, found.item_strength, found.user_strength)
    np.testing.assert_allclose(found.test, expected[log.test], atol=1e-8)
    np.testing.assert_allclose(found.valid, expected[log.valid], atol=1e-8)


def test_strengths_are_the_best_on_validation() -> None:
    log = world(2, 400)
    found = item_mean_user_residual(log)
    reached = auc(log.label[log.valid], found.valid)
    for item_strength in (1.0, 10.0, 50.0):
        for user_strength in (1.0, 10.0, 50.0):
            assert auc(log.label[log.valid], by_loop(log, item_strength, user_strength)[log.valid]) <= reached + 1e-12


def test_each_step_adds() -> None:
    log = world()
    reached = [auc(log.label[log.test], baseline.test) for baseline in ranking_baselines(log)]
    assert reached[0] + 0.05 < reached[1] < reached[2] - 0.05


@pytest.mark.parametrize("baseline", [popularity, item_mean, item_mean_user_residual])
def test_no_score_knows_its_own_row_or_a_later_one(baseline: object) -> None:
    log, rng = world(3), np.random.default_rng(0)
    before: Baseline = baseline(log)  # type: ignore[operator]
    for cut in log.test[[0, 1, 250, 400, -1]]:
        later = np.arange(len(log.label)) > cut
        label, item, user = log.label.copy(), log.item.copy(), log.user.copy()
        label[cut:] = 1 - label[cut:]  # the row itself too
        item[later], user[later] = rng.permutation(item[later]), rng.permutation(user[later])
        after: Baseline = baseline(replace(log, label=label, item=item, user=user))  # type: ignore[operator]
        known = log.test <= cut
        np.testing.assert_array_equal(after.test[known], before.test[known])  # to the last bit
        np.testing.assert_array_equal(after.valid, before.valid)


def test_a_planted_future_item_does_not_show() -> None:
    # every user later meets item 999, which only they who answered 1 today like: a baseline that looks ahead becomes perfect
    log = world(4)
    extra = len(log.test)
    planted = replace(
        log,
        user=np.r_[log.user, log.user[log.test]],
        item=np.r_[log.item, np.full(extra, 999)],
        label=np.r_[log.label, log.label[log.test]],
    )
    for baseline in (popularity, item_mean, item_mean_user_residual):
        np.testing.assert_array_equal(baseline(planted).test, baseline(log).test)


def test_the_past_does_show() -> None:
    # the counterpart that makes the two tests above able to fail: an earlier test event of the same user counts
    log = world(5)
    user = log.user[log.test]
    changed = int(np.flatnonzero(user == user[-1])[0])
    label = log.label.copy()
    label[log.test[changed]] = 1 - label[log.test[changed]]
    moved = item_mean_user_residual(replace(log, label=label)).test != item_mean_user_residual(log).test
    np.testing.assert_array_equal(moved, (user == user[-1]) & (np.arange(len(user)) > changed))


def test_item_statistics_stop_at_training() -> None:
    log = world(6)
    late = np.r_[log.valid[-50:], log.test]  # a new item only ever seen late stays at the overall share
    item = log.item.copy()
    item[late] = 500
    found = item_mean(replace(log, item=item))
    np.testing.assert_allclose(found.test, log.label[log.train].mean(), atol=1e-15)


def test_bad_logs_are_refused() -> None:
    log = world(7)
    with pytest.raises(DataError, match=r"event 3 has label 5; accepted: 0 or 1"):
        replace(log, label=np.where(np.arange(3_000) == 3, 5, log.label))
    with pytest.raises(DataError, match="2,999 users, 3,000 items"):
        replace(log, user=log.user[1:])
    with pytest.raises(DataError, match=r"test must hold positions in 0\.\.2999"):
        replace(log, test=np.array([3_000]))
    with pytest.raises(DataError, match=r"item is int64 from -1; accepted: integers from 0 on"):
        replace(log, item=log.item - log.item.min() - 1)
    one_class = log.label.copy()
    one_class[log.valid] = 1
    with pytest.raises(DataError, match="all 300 validation labels are of one class"):
        item_mean(replace(log, label=one_class))


@pytest.mark.slow
@pytest.mark.skipif("BRAIDREC_DATA" not in os.environ, reason="set BRAIDREC_DATA to the folder that holds ml-1m/ml-1m.zip")
def test_movielens_1m() -> None:
    with zipfile.ZipFile(Path(os.environ["BRAIDREC_DATA"]) / "ml-1m" / "ml-1m.zip") as archive:
        name = next(name for name in archive.namelist() if name.endswith("ratings.dat"))
        table = np.array(archive.read(name).replace(b"::", b" ").split(), np.int64).reshape(-1, 4)
    user, item, rating, _ = table[np.lexsort((table[:, 1], table[:, 0], table[:, 3]))].T
    order = np.argsort(user, kind="stable")
    rank = np.empty(len(user), np.int64)
    rank[order] = np.arange(len(user)) - np.searchsorted(user[order], user[order])
    rows = np.flatnonzero(rank >= 5)
    log = RankingLog(user, item, (rating > 3).astype(int), rows[:776_007], rows[776_007:873_007], rows[873_007:])
    assert len(log.test) == 97_002
    reached = [auc(log.label[log.test], baseline.test) for baseline in ranking_baselines(log)]
    np.testing.assert_allclose(reached, [0.6118, 0.7316, 0.7831], atol=1e-4)
