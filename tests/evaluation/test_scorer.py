"""Anything with a score method is a scorer."""

from __future__ import annotations

import numpy as np

from braidrec.evaluation.contracts import Scorer, score_batches


class Doubler:
    def score(self, batch: list[int]) -> np.ndarray:
        return 2 * np.array(batch, np.float32)


def test_batches_are_scored_in_order() -> None:
    scorer: Scorer[list[int]] = Doubler()
    scores = score_batches(scorer, iter([[3, 1], [2]]))
    assert scores.dtype == np.float64
    assert scores.tolist() == [6, 2, 4]
    assert score_batches(scorer, []).shape == (0,)
