"""The memory of item text on its way to a model: measured in processes of their own, on a map that is made for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import small_runs
from braidrec.bench import children, marks, text
from braidrec.data.dataset import Dataset
from braidrec.runs.knowledge import KnowledgeBases


def test_every_model_gives_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "TEXTS", 3_000)
    monkeypatch.setattr(marks, "WIDTH", 16)
    rows = marks.PARTS["text"](small_runs.dataset().path, 0.1)
    assert [row[0] for row in rows] == [
        "text of 3,000 items x 16 float16 to din-disco: peak memory",
        "text of 3,000 items x 16 float16 to sasrec-pad: peak memory",
    ]
    for _, measured, against, ratio in rows:
        assert "GB above the start" in measured
        assert "map (mark 2x: the map and one copy)" in against
        assert float(ratio.removesuffix("x")) > 0


def test_what_is_made_is_a_catalogue_and_the_map_of_its_vectors(tmp_path: Path) -> None:
    text.make(tmp_path, 500, 8)
    data, bases = Dataset.open(tmp_path / "data"), KnowledgeBases.open(tmp_path / "knowledge")
    vectors = bases.matrix(data)
    assert vectors.shape == (501, 8)
    assert bases.bases[0].identity.dtype == "float16"
    assert len(np.unique(vectors[1:], axis=0)) == 500
    assert text.map_mb(tmp_path) == pytest.approx((500 * 8 * 2 + 128) / 1e6)
    for backbone in text.MODELS:
        text.bring(text.settings(tmp_path, backbone), data)


def test_memory_of_now_is_below_the_largest() -> None:
    held = np.ones(4_000_000)
    assert held.nbytes / 1e6 < children.resident_mb() <= children.peak_mb() * 1.01


@pytest.mark.slow
def test_a_map_reaches_a_model_in_at_most_one_copy(tmp_path: Path) -> None:
    """Over what the process held before, ids and the model included; the map itself is let go as it is read."""
    text.make(tmp_path, 500_000, 512)
    for backbone in text.MODELS:
        found = children.child("text", "--model", backbone, "--prepared", str(tmp_path))
        assert found["peak_mb"] - found["start_mb"] < 2 * found["map_mb"]
