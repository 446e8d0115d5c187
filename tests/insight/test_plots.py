"""Plots are files of the promised size; data that cannot be drawn is refused by name."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from braidrec.errors import ConfigError, DataError
from braidrec.insight.discrepancy import Discrepancy, Separation
from braidrec.insight.plots import bucket_plot, discrepancy_plot, gate_plot, histogram_plot

GATE = np.stack([np.linspace(0.7, 0.2, 10), np.full(10, 0.1), np.linspace(0.2, 0.7, 10)], 1)


def taus(*tau: float | None, every: float | None = 0.5) -> Discrepancy:
    return Discrepancy(tuple(range(1, len(tau) + 1)), tau, (100,) * len(tau), every, 100 * len(tau))


def groups(seed: int = 0, **changes: object) -> Separation:
    rng = np.random.default_rng(seed)
    by_id = rng.normal(1, 0.2, 1000).astype(np.float32)
    rank = np.argsort(np.argsort(by_id))
    return dataclasses.replace(Separation(0.7, by_id, by_id + 0.1, rank >= 900, rank < 100, "cosine"), **changes)


def drawn(path: Path) -> np.ndarray:
    """The picture, after checks that it is the only file, a PNG, and has ink of several colours."""
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.read_bytes().startswith(b"\x89PNG")
    picture = imread(path)
    assert len(np.unique((picture[..., :3] * 255).astype(int).reshape(-1, 3), axis=0)) > 20
    return picture


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: discrepancy_plot({"a": taus(0.9, None, 0.7), "b": taus(0.2, 0.1, -0.6, every=None)}, path, "t"),
        lambda path: discrepancy_plot({"one bucket": taus(0.4)}, path, "t"),
        lambda path: histogram_plot({name: groups(seed) for seed, name in enumerate("abcd")}, path, "t"),
        lambda path: histogram_plot({"flat": groups(text_distance=np.ones(1000, np.float32))}, path, "t"),
        lambda path: bucket_plot({"a": [3.1, None, 0.4], "b": [4, 2, -1]}, ["warm", "median", "cold"], path, "t", "HR@10"),
        lambda path: bucket_plot({"a": [0.0]}, ["all"], path, "t", "HR@10"),
        lambda path: bucket_plot({c: [*range(9), None] for c in "abcdefgh"}, list("0123456789"), path, "t", "HR@10"),
        lambda path: gate_plot(GATE, ("ID", "aligned", "text"), path),
        lambda path: gate_plot(GATE[:1], ("ID", "aligned", "text"), path, "one $bucket$, $x"),
    ],
)
def test_a_png_of_seven_by_four_inches(draw: Callable[[Path], Path], tmp_path: Path) -> None:
    path = tmp_path / "new" / "plot.png"
    assert draw(path) == path
    assert drawn(path).shape[:2] == (600, 1050)


def test_many_models_widen_the_histograms(tmp_path: Path) -> None:
    path = histogram_plot({name: groups() for name in "abcdef"}, str(tmp_path / "plot.png"), "t")
    assert drawn(path).shape[:2] == (600, 1575)


def test_drawn_again_over_the_old_file_it_is_the_same(tmp_path: Path) -> None:
    path = gate_plot(GATE, ("ID", "aligned", "text"), tmp_path / "plot.png")
    before = path.read_bytes()
    assert gate_plot(GATE, ("ID", "aligned", "text"), path).read_bytes() == before


def test_data_changes_the_picture(tmp_path: Path) -> None:
    one = imread(gate_plot(GATE, ("ID", "aligned", "text"), tmp_path / "one.png"))
    other = imread(gate_plot(GATE[::-1], ("ID", "aligned", "text"), tmp_path / "other.png"))
    assert (one != other).any()


def test_a_plot_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = gate_plot(GATE, ("ID", "aligned", "text"), tmp_path / "plot.png")
    before = path.read_bytes()
    with pytest.raises(DataError):
        gate_plot(GATE * 0.9, ("ID", "aligned", "text"), path)
    assert path.read_bytes() == before
    drawn(path)


def test_series_that_cannot_be_drawn(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    with pytest.raises(DataError, match="pass at least one series"):
        discrepancy_plot({}, path, "t")
    with pytest.raises(DataError, match=r"'b' has the buckets \(1, 2\), the first series \(1, 2, 3\)"):
        discrepancy_plot({"a": taus(0.1, 0.2, 0.3), "b": taus(0.1, 0.2)}, path, "t")
    with pytest.raises(DataError, match=r"'a': value 1 is 1\.5; accepted: a finite number in \[-1, 1\], or None"):
        discrepancy_plot({"a": taus(0.1, 1.5)}, path, "t")
    with pytest.raises(DataError, match=r"'a': value 0 is nan"):
        bucket_plot({"a": [math.nan, 1]}, ["x", "y"], path, "t", "y")
    with pytest.raises(DataError, match=r"'a' has 3 values for 2 labels"):
        bucket_plot({"a": [1, 2, 3]}, ["x", "y"], path, "t", "y")
    with pytest.raises(DataError, match=r"'b' has no value at all; leave it out"):
        bucket_plot({"a": [1, 2], "b": [None, None]}, ["x", "y"], path, "t", "y")
    with pytest.raises(DataError, match=r"9 series cannot be told apart"):
        bucket_plot({name: [1] for name in "abcdefghi"}, ["x"], path, "t", "y")
    assert not path.exists()


def test_gates_that_cannot_be_drawn(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    with pytest.raises(DataError, match=r"probabilities have shape \(10, 3\); accepted: \(buckets, 2\)"):
        gate_plot(GATE, ("a", "b"), path)
    with pytest.raises(DataError, match=r"row 0 sums to 1\.1000; accepted: 1"):
        gate_plot(GATE + np.array([0.1, 0, 0]) * (np.arange(10) == 0)[:, None], ("a", "b", "c"), path)
    with pytest.raises(DataError, match=r"'a': value 0 is -0\.5; accepted: a finite number in \[0, 1\]"):
        gate_plot(np.array([[-0.5, 1.5]]), ("a", "b"), path)
    with pytest.raises(DataError, match=r"names \('a', 'a', 'b'\) repeat one"):
        gate_plot(GATE, ("a", "a", "b"), path)


def test_separations_that_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pass at least one separation"):
        histogram_plot({}, tmp_path / "plot.png", "t")
    with pytest.raises(DataError, match=r"the separations mix distances \(cosine, euclidean\)"):
        histogram_plot({"a": groups(), "b": groups(distance="euclidean")}, tmp_path / "plot.png", "t")


def test_only_png(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"plot\.pdf: plots are written as PNG; give a name that ends in \.png"):
        gate_plot(GATE, ("a", "b", "c"), tmp_path / "plot.pdf")


def test_importing_does_not_load_matplotlib() -> None:
    code = "import sys, braidrec.insight.plots; print('matplotlib' in sys.modules)"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout
        == "False\n"
    )
