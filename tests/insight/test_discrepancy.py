"""Kendall's tau and the separation by hand, by their properties and on planted spaces."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braidrec.errors import ConfigError, DataError
from braidrec.insight import discrepancy as room
from braidrec.insight.discrepancy import cosine_distances, discrepancy, euclidean_distances, kendall, separation
from braidrec.insight.pairs import Pairs

SEEDS = st.integers(0, 2**32 - 1)


def pairs_from(rows: list[tuple[int, int]], bucket: list[int] | None = None) -> Pairs:
    behaviour, item = np.array(rows, np.int32).reshape(-1, 2).T
    return Pairs(behaviour, item, np.array(bucket if bucket is not None else [1] * len(rows), np.int32))


def random_pairs(rng: np.random.Generator, num_items: int, count: int, num_buckets: int = 3) -> Pairs:
    behaviour = rng.integers(1, num_items + 1, count).astype(np.int32)
    item = (behaviour + rng.integers(1, num_items, count) - 1) % num_items + 1  # never the behaviour itself
    return Pairs(behaviour, item.astype(np.int32), rng.integers(1, num_buckets + 1, count).astype(np.int32))


def random_table(rng: np.random.Generator, num_items: int = 40, dim: int = 8) -> np.ndarray:
    table = rng.normal(size=(num_items + 1, dim)).astype(np.float32)
    table[0] = np.nan  # padding is never read
    return table


# Kendall's tau


def test_tau_of_four_pairs_by_hand() -> None:
    # against 1 2 3 4, the list 1 3 2 4 turns one of six pairs of pairs round: (5 - 1) / 6
    assert kendall([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6, abs=1e-15)
    assert kendall([1, 2, 3, 4], [1, 3, 2, 4], variant="a") == 4 / 6


def test_ties_part_the_two_variants() -> None:
    # a ties its first two: of six pairs of pairs 4 concordant, 1 discordant, 1 tied in a; b has no tie
    a, b = [1, 1, 2, 3], [1, 3, 2, 4]
    assert kendall(a, b, variant="a") == 3 / 6
    assert kendall(a, b) == pytest.approx(3 / math.sqrt(5 * 6), abs=1e-15)


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [2.0])])
def test_fewer_than_two_pairs_have_no_order(a: list[float], b: list[float]) -> None:
    assert math.isnan(kendall(a, b))
    assert math.isnan(kendall(a, b, variant="a"))


def test_a_constant_list_has_no_tau_b() -> None:
    assert math.isnan(kendall([1, 1, 1], [1, 2, 3]))
    assert kendall([1, 1, 1], [1, 2, 3], variant="a") == 0


@given(seed=SEEDS, levels=st.sampled_from([2, 5, 10_000]))
@settings(max_examples=100, deadline=None)
def test_equal_to_counting_all_pairs_of_pairs(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, levels, (2, int(rng.integers(2, 25))))
    signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in combinations(range(len(a)), 2)]
    surplus = int(sum(x * y for x, y in signs))
    assert kendall(a, b, variant="a") == pytest.approx(surplus / len(signs), abs=1e-15)
    untied = sum(x != 0 for x, _ in signs) * sum(y != 0 for _, y in signs)
    expected = surplus / math.sqrt(untied) if untied else math.nan
    assert kendall(a, b) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(seed=SEEDS)
@settings(max_examples=50, deadline=None)
def test_only_the_order_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 60))
    tau = kendall(a, b)
    assert kendall(a, a) == pytest.approx(1, abs=1e-12)
    assert kendall(a, -a) == pytest.approx(-1, abs=1e-12)
    assert kendall(a, np.exp(3 * b) - 2) == tau
    assert kendall(b, a) == pytest.approx(tau, abs=1e-12)
    assert kendall(a, b, variant="a") == pytest.approx(tau, abs=1e-12)
    order = rng.permutation(60)
    assert kendall(a[order], b[order]) == pytest.approx(tau, abs=1e-12)


def test_kendall_refuses() -> None:
    with pytest.raises(DataError, match=r"distances_b: row 1 is nan, one of 1 such rows"):
        kendall([1.0, 2.0], [1.0, float("nan")])
    with pytest.raises(DataError, match=r"distances have shapes \(2,\) and \(3,\)"):
        kendall([1, 2], [1, 2, 3])
    with pytest.raises(ConfigError, match=r"variant = 'c' is unknown \(accepted: b, a\)"):
        kendall([1, 2], [1, 2], variant="c")


# distances


def test_distances_by_hand() -> None:
    vectors = np.array([[9, 9], [3, 0], [0, 4], [-6, 0], [5, 5]], np.float32)
    pairs = pairs_from([(1, 2), (1, 3), (1, 4), (2, 2)])
    np.testing.assert_allclose(cosine_distances(vectors, pairs), [1, 2, 1 - math.sqrt(0.5), 0], atol=1e-6)
    np.testing.assert_allclose(euclidean_distances(vectors, pairs), [5, 9, math.sqrt(29), 0], rtol=1e-6)


@pytest.mark.parametrize(("given_type", "kept"), [("float16", "float32"), ("float32", "float32"), ("float64", "float64")])
def test_width_of_the_numbers(given_type: str, kept: str) -> None:
    vectors = random_table(np.random.default_rng(0)).astype(given_type)
    pairs = random_pairs(np.random.default_rng(1), 40, 10)
    assert cosine_distances(vectors, pairs).dtype == kept
    assert euclidean_distances(vectors, pairs).dtype == kept


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, pairs = random_table(np.random.default_rng(0)), random_pairs(np.random.default_rng(1), 40, 100)
    whole = [measure(vectors, pairs) for measure in (cosine_distances, euclidean_distances)]
    monkeypatch.setattr(room, "BLOCK_BYTES", 7 * 8 * 4)  # seven rows at a time
    for measure, expected in zip((cosine_distances, euclidean_distances), whole, strict=True):
        np.testing.assert_array_equal(measure(vectors, pairs), expected)


def test_cosine_of_near_vectors_makes_no_ties() -> None:
    # 1 - cos in float32 is a multiple of 6e-8; these distances are far below that and all different
    angle = np.linspace(0, 1e-3, 50)
    vectors = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    pairs = pairs_from([(1, other) for other in range(2, 50)])
    distances = cosine_distances(vectors, pairs)
    assert len(np.unique(distances)) == len(distances)
    np.testing.assert_allclose(distances, (angle[2:] - angle[1]) ** 2 / 2, rtol=1e-2)


def test_a_zero_vector_is_at_cosine_distance_one() -> None:
    vectors = np.array([[0, 0], [0, 0], [1, 2], [0, 0]], np.float32)
    np.testing.assert_array_equal(
        cosine_distances(vectors, pairs_from([(1, 2), (2, 1), (1, 3), (1, 1), (2, 2)])), [1, 1, 1, 1, 0]
    )


def test_cosine_at_the_ends_of_float32() -> None:
    vectors = np.array([[0, 0], [1e30, 0], [1e-30, 1e-30], [-3e38, 0]], np.float32)
    np.testing.assert_allclose(cosine_distances(vectors, pairs_from([(1, 2), (1, 3)])), [1 - math.sqrt(0.5), 2], atol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_names_its_row(bad: float) -> None:
    rng = np.random.default_rng(0)
    vectors, broken = random_table(rng), random_table(rng)
    broken[17, 3] = bad
    pairs = pairs_from([(1, 2), (3, 17), (17, 4)])
    for distance in ("cosine", "euclidean"):
        with pytest.raises(DataError, match=rf"vectors_b: row 17 holds {bad}; accepted: finite numbers"):
            discrepancy(vectors, broken, pairs, distance=distance)
    with pytest.raises(DataError, match=r"vectors_id: row 17 holds"):
        separation(broken, vectors, pairs, share=0.5)
    discrepancy(vectors, broken, pairs_from([(1, 2), (3, 4)]))  # a row that no pair reads


def test_pairs_outside_the_table_are_refused() -> None:
    vectors = np.ones((5, 2), np.float32)
    with pytest.raises(DataError, match=r"pairs: item of pair 1 is 5; accepted: 1\.\.4 \(rows of vectors\)"):
        cosine_distances(vectors, pairs_from([(1, 2), (1, 5)]))
    with pytest.raises(DataError, match=r"pairs: behaviour of pair 0 is 0; accepted: 1\.\.4"):
        euclidean_distances(vectors, pairs_from([(0, 2)]))
    with pytest.raises(DataError, match=r"vectors has shape \(5,\)"):
        cosine_distances(np.ones(5, np.float32), pairs_from([(1, 2)]))


# two spaces


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_a_space_agrees_with_itself(distance: str) -> None:
    rng = np.random.default_rng(0)
    vectors, pairs = random_table(rng), random_pairs(rng, 40, 200)
    pairs = Pairs(*np.unique(np.stack([pairs.behaviour, pairs.item, pairs.bucket]), axis=1))
    result = discrepancy(vectors, vectors, pairs, distance=distance)
    assert result.tau == pytest.approx((1, 1, 1), abs=1e-12)
    assert result.tau_all == pytest.approx(1, abs=1e-12)
    # distances as they are on one side, their negatives on the other
    measured = cosine_distances(vectors, pairs) if distance == "cosine" else euclidean_distances(vectors, pairs)
    assert kendall(measured, -measured) == pytest.approx(-1, abs=1e-12)


def test_scale_turn_and_width_do_not_count() -> None:
    rng = np.random.default_rng(0)
    a, pairs = random_table(rng, dim=4), random_pairs(rng, 40, 300)
    turn = np.linalg.qr(rng.normal(size=(9, 9)))[0][:4]
    b = 3 * a.astype(np.float64) @ turn  # the same shape, three times as large, in nine dimensions
    result = discrepancy(a.astype(np.float64), b, pairs, distance="euclidean")
    assert result.tau_all == pytest.approx(1, abs=1e-12)
    assert abs(discrepancy(a, random_table(rng, dim=16), pairs).tau_all or 1) < 0.15  # unrelated spaces


def test_buckets_by_hand() -> None:
    # on a line the distances from item 1 are 1 2 4 8; the other space swaps items 2 and 3
    a = np.array([[0], [0], [1], [2], [4], [8]], np.float32)
    b = np.array([[0, 0], [0, 0], [0, 2], [0, 1], [0, 4], [0, 8]], np.float32)
    pairs = pairs_from([(1, 2), (1, 3), (1, 4), (1, 5), (2, 2), (3, 3)], [1, 1, 1, 3, 4, 4])
    result = discrepancy(a, b, pairs, distance="euclidean")
    assert result.buckets == (1, 3, 4)
    assert result.pairs == (3, 1, 2)
    assert result.tau[0] == pytest.approx(1 / 3)
    assert result.tau[1] is None  # one pair
    assert result.tau[2] is None  # two pairs at the same distance
    assert result.pairs_all == 6
    assert result.tau_all == pytest.approx((15 - 1 - 2) / 14)  # 15 pairs of pairs: 1 tied in both lists, 1 turned round


def test_no_pairs() -> None:
    result = discrepancy(np.ones((3, 2), np.float32), np.ones((3, 5), np.float32), pairs_from([]))
    assert (result.buckets, result.tau, result.tau_all, result.pairs_all) == ((), (), None, 0)


def test_discrepancy_refuses() -> None:
    with pytest.raises(DataError, match=r"vectors_a has 4 rows, vectors_b 3; both must be"):
        discrepancy(np.ones((4, 2), np.float32), np.ones((3, 2), np.float32), pairs_from([(1, 2)]))
    with pytest.raises(ConfigError, match=r"distance = 'cosin' is unknown \(did you mean 'cosine'\?\)"):
        discrepancy(np.ones((3, 2)), np.ones((3, 2)), pairs_from([(1, 2)]), distance="cosin")


# separation


def planted(seed: int, shared: bool) -> tuple[np.ndarray, np.ndarray, Pairs]:
    """1,000 items; the text space is the ID space, turned and slightly bent, or has nothing to do with it."""
    rng = np.random.default_rng(seed)
    ids, pairs = random_table(rng, 1000, 6), random_pairs(rng, 1000, 5000)
    if not shared:
        return ids, random_table(rng, 1000, 12), pairs
    text = ids @ np.linalg.qr(rng.normal(size=(12, 12)))[0][:6].astype(np.float32)
    return ids, text + rng.normal(0, 0.02, text.shape).astype(np.float32), pairs


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_planted_separation(distance: str) -> None:
    ids, text, pairs = planted(0, shared=True)
    result = separation(ids, text, pairs, distance=distance)
    assert result.auc == 1.0
    assert result.top.sum() == result.bottom.sum() == 500
    assert result.id_distance[result.top].min() > result.id_distance[~result.top].max()
    assert result.id_distance[result.bottom].max() < result.id_distance[~result.bottom].min()


def test_unrelated_spaces_do_not_separate() -> None:
    ids, text, pairs = planted(1, shared=False)
    assert abs(separation(ids, text, pairs).auc - 0.5) < 0.06  # 500 against 500: standard error .018


def test_separation_by_hand() -> None:
    # by ID: 1 2 3 4 5 6; by text: 5 1 2 3 4 0 -> of two each, top {5: 4, 6: 0} against bottom {1: 5, 2: 1}: 4 > 1 only
    ids = np.array([[0], [0], [1], [2], [3], [4], [5], [6]], np.float32)
    text = np.array([[0], [0], [5], [1], [2], [3], [4], [0]], np.float32)
    result = separation(ids, text, pairs_from([(1, item) for item in range(2, 8)]), 0.34, distance="euclidean")
    assert result.bottom.tolist() == [True, True, False, False, False, False]
    assert result.top.tolist() == [False, False, False, False, True, True]
    assert result.auc == 0.25
    np.testing.assert_array_equal(result.text_distance, [5, 1, 2, 3, 4, 0])


def test_distances_are_cosines_unless_asked_otherwise() -> None:
    ids, text, pairs = planted(0, shared=True)
    stretched = ids * np.linspace(1, 9, len(ids), dtype=np.float32)[:, None]  # which cosines do not see
    assert discrepancy(ids, stretched, pairs).tau_all == pytest.approx(1, abs=1e-3)
    assert (discrepancy(ids, stretched, pairs, distance="euclidean").tau_all or 1) < 0.9
    assert separation(ids, text, pairs).distance == "cosine"


def test_groups_are_cut_among_the_selected_pairs() -> None:
    ids, text, pairs = planted(2, shared=True)
    mask = pairs.bucket == 2
    result, alone = separation(ids, text, pairs, mask=mask), separation(ids, text, pairs.where(mask))
    assert len(result.id_distance) == mask.sum()
    assert result.top.sum() == int(0.1 * mask.sum())
    np.testing.assert_array_equal(result.top, alone.top)
    assert result.auc == alone.auc


def test_separation_refuses() -> None:
    ids, text, pairs = planted(0, shared=True)
    with pytest.raises(DataError, match=r"9 pairs leave no pair for a share of 0\.1"):
        separation(ids, text, pairs, mask=np.arange(5000) < 9)
    for share in (0.0, 0.6):
        with pytest.raises(ConfigError, match=rf"share = {share}; accepted: more than 0, at most 0\.5"):
            separation(ids, text, pairs, share)
