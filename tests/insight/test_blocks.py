"""Numbers of blocks against ones worked by hand; their pictures are files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from braidrec.errors import DataError
from braidrec.insight.block_plots import bars_plot, lines_plot, strip_plot
from braidrec.insight.blocks import Classified, agreement, classified, cosines, jaccard, rank_correlations, silhouette
from braidrec.insight.strands import flat


def groups(apart: float, count: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    group = np.arange(count) % 3
    return rng.normal(size=(count, 6)) + apart * np.eye(6)[group], group


def test_micro_averages_by_hand() -> None:
    labels, found = np.array([[1, 1, 0], [0, 1, 1]]), np.array([[1, 0, 0], [1, 1, 0]])
    one = Classified.of(labels, found)
    assert (one.recall, one.precision) == (2 / 4, 2 / 3)
    assert one.f1 == pytest.approx(2 * one.recall * one.precision / (one.recall + one.precision))
    assert Classified.of(labels, 0 * found).f1 == 0


@pytest.mark.parametrize("linear", [True, False])
def test_what_is_in_the_vectors_is_found_and_what_is_not_is_not(linear: bool) -> None:
    vectors, group = groups(6.0)
    labels, train, test = np.eye(3)[group], np.arange(45), np.arange(45, 60)
    assert classified(vectors, labels, train, test, seed=1, linear=linear).f1 > 0.9
    noise = np.random.default_rng(3).normal(size=vectors.shape)
    assert classified(noise, labels, train, test, seed=1, linear=linear).f1 < 0.6
    same = [classified(vectors, labels, train, test, seed=1, linear=linear) for _ in range(2)]
    assert same[0] == same[1]


def test_a_category_that_no_item_of_training_has_is_never_said() -> None:
    vectors, group = groups(6.0)
    labels = np.hstack([np.eye(3)[group], np.zeros((60, 1))])
    labels[50:, 3] = 1
    assert classified(vectors, labels, np.arange(45), np.arange(45, 60), seed=0, linear=True).precision > 0.9


def test_what_cannot_be_classified_is_refused() -> None:
    vectors, group = groups(1.0)
    with pytest.raises(DataError, match="45 items to learn from and 0 to test on"):
        classified(vectors, np.eye(3)[group], np.arange(45), np.arange(0), seed=0)
    vectors[3] = np.nan
    with pytest.raises(DataError, match="NaN or infinity"):
        classified(vectors, np.eye(3)[group], np.arange(45), np.arange(45, 60), seed=0)


def test_neighbours_and_silhouettes_tell_groups_that_are_apart() -> None:
    (near, group), (far, _) = groups(0.0), groups(20.0)
    assert agreement(far, group) == 1
    assert agreement(near, group) < 0.6
    assert silhouette(far, group) > 0.8 > 0.2 > silhouette(near, group)


def test_pairs_by_hand() -> None:
    vectors = np.array([[0, 0], [1, 0], [1, 1], [0, 2]], float)
    assert cosines(vectors, np.array([1, 1]), np.array([2, 3])).tolist() == [pytest.approx(0.5**0.5), 0]
    held = csr_array(np.array([[0, 0, 0], [0.2, 1, 0], [0, 1, 1], [0, 0, 0]]))
    assert jaccard(held, np.array([1, 1, 3]), np.array([2, 1, 3])).tolist() == [pytest.approx(1 / 3), 1, 0]


def test_correlations_are_of_the_same_pairs() -> None:
    rng = np.random.default_rng(0)
    vectors, first, second = rng.normal(size=(30, 4)), np.arange(15), np.arange(15, 30)
    truth = cosines(vectors, first, second)
    found = rank_correlations({"own": vectors, "other": rng.normal(size=(30, 4))}, {"truth": truth}, first, second)
    assert found["own"]["truth"] == pytest.approx(1)
    assert abs(found["other"]["truth"]) < 0.7


def test_flat_maps_keep_groups_together() -> None:
    vectors, group = groups(20.0)
    places = flat(vectors)
    assert places.shape == (60, 2)
    assert agreement(places - places.mean(axis=0), group, 5) > 0.6
    assert np.array_equal(places, flat(vectors))


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: strip_plot({"a": np.arange(6.0), "b": -np.arange(6.0)}, {"one": 4, "two": 2}, path, "t"),
        lambda path: lines_plot({"m": {"x": [1, 0.5], "y": [1, 0.2]}, "n": {"x": [1.0]}}, path, "t", "loss"),
        lambda path: bars_plot({"F1": [1.0, 2.0], "nDCG": [2.0, 1.0]}, ["a", "b"], path, "t", "%"),
        lambda path: bars_plot({"users": [3, 0, 5]}, ["0", "1", "2"], path, "t", "users"),
    ],
)
def test_pictures_are_files(draw: Callable[[Path], Path], tmp_path: Path) -> None:
    path = draw(tmp_path / "plot.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_strips_of_another_length_are_refused() -> None:
    with pytest.raises(DataError, match=r"vector of 'a' has shape \(5,\), the blocks {'one': 4} have 4 columns"):
        strip_plot({"a": np.zeros(5)}, {"one": 4}, "plot.png", "t")
