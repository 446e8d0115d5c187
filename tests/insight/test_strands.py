"""Structures of two sides against each other, maps, and users whom a graph holds apart, on small hand-made cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from braidrec.errors import DataError
from braidrec.insight.plots import map_plot, similarity_plot
from braidrec.insight.strands import far_pairs, flat, groups, likeness, nearness, similarity


def rows(count: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def blobs() -> tuple[np.ndarray, np.ndarray]:
    own = np.repeat(np.arange(3), 20)
    return np.eye(3, 5, dtype=np.float32)[own] + 0.05 * rows(60, 5), own


def test_likeness_is_of_angles_alone() -> None:
    one = rows(30, 4)
    turned = one @ np.linalg.qr(rows(4, 4, seed=1))[0] * np.arange(1, 31)[:, None]
    assert likeness(one, turned) == pytest.approx(1, abs=1e-5)
    assert abs(likeness(rows(80, 20), rows(80, 20, seed=1))) < 0.1
    assert likeness(one, np.ones((30, 2))) == 0
    with pytest.raises(DataError, match="likeness of 30 and 29 rows"):
        likeness(one, one[1:])


def test_similarity_by_hand() -> None:
    found = similarity(np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [0.0, 0.0]]))
    half = np.sqrt(0.5)
    np.testing.assert_allclose(found, [[1, 0, half, 0], [0, 1, half, 0], [half, half, 1, 0], [0, 0, 0, 0]], atol=1e-6)
    with pytest.raises(DataError, match="diverge"):
        similarity(np.array([[np.nan, 0.0]]))


def test_groups_and_maps_keep_what_is_together() -> None:
    vectors, own = blobs()
    labels, strength = groups(vectors, 3)
    assert len(set(zip(own.tolist(), labels.tolist(), strict=True))) == 3
    assert strength > 0.8
    assert groups(rows(60, 5), 3)[1] < 0.4
    points = flat(vectors)
    assert points.shape == (60, 2)
    middle = np.stack([points[own == each].mean(axis=0) for each in range(3)])
    nearest = np.linalg.norm(points[:, None] - middle[None], axis=2).argmin(axis=1)
    assert (nearest == own).mean() > 0.95
    np.testing.assert_array_equal(points, flat(vectors))
    with pytest.raises(DataError, match="a map of 3 rows"):
        flat(vectors[:3])


def chain(length: int) -> tuple[np.ndarray, np.ndarray]:
    """User k has items k and k + 1, so that users j and k are 2 |j - k| hops apart."""
    user = np.repeat(np.arange(length), 2)
    return user, user + np.tile([0, 1], length)


def test_far_users_of_a_chain() -> None:
    text = np.zeros((7, 2))
    text[:, 0], text[[0, 5], 1] = 1, 5  # users 0 and 5 are alike
    far = far_pairs(chain(7), 7, 8, text, least=6, pairs=7)
    found = {int(one): (int(two), int(hops)) for one, two, hops in zip(far.first, far.second, far.hops, strict=True)}
    assert found[0] == (5, 10)
    assert 5 not in {one for one, (two, _) in found.items() if one == 4}  # too near
    assert all(hops >= 6 for _, hops in found.values())
    assert {int(one): others.tolist() for one, others in zip(far.first, far.others, strict=True)}[1] == [4, 5, 6]
    cosine, rank = nearness(np.eye(7), far)
    assert not cosine.any()
    assert (rank == 1).all()
    near = np.eye(7)
    near[6] = near[0]
    own = list(far.first).index(0)
    assert nearness(near, far)[1][own] == 2  # user 6 is nearer to 0 than 5 is


def test_nobody_far_away_is_said() -> None:
    with pytest.raises(DataError, match="no two of 2 users are 6 or more hops apart"):
        far_pairs(chain(2), 2, 3, np.ones((2, 2)))
    apart = np.array([0, 1]), np.array([0, 1])  # of two components: nobody leads there
    with pytest.raises(DataError, match="no two of 2 users"):
        far_pairs(apart, 2, 2, np.ones((2, 2)))


def test_maps_and_matrices_are_drawn(tmp_path: Path) -> None:
    vectors, own = blobs()
    first = map_plot({"shared": (vectors[:, :2], own), "text": (vectors[:, 1:3], own)}, tmp_path / "a.png", "two sides")
    second = similarity_plot({"one": similarity(vectors)}, tmp_path / "b.png", "cosines")
    for path in (first, second):
        assert len(np.unique((imread(path)[..., :3] * 255).astype(int).reshape(-1, 3), axis=0)) > 20
    with pytest.raises(DataError, match="points"):
        map_plot({"x": (vectors, own)}, tmp_path / "c.png", "t")
    with pytest.raises(DataError, match="nothing to draw"):
        similarity_plot({}, tmp_path / "c.png", "t")
