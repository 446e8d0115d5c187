"""The only way this room sees a model: something that turns a batch into scores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Batch_contra = TypeVar("Batch_contra", contravariant=True)
Batch = TypeVar("Batch")


class Scorer(Protocol[Batch_contra]):
    """Any model behind one call; higher is better."""

    def score(self, batch: Batch_contra) -> NDArray[np.floating[Any]]:
        """Scores (B,) of the batch's rows, in their order."""
        ...


def score_batches(scorer: Scorer[Batch], batches: Iterable[Batch]) -> NDArray[np.float64]:
    """Scores (N,) float64 of all rows of ``batches``, in order."""
    parts = [np.asarray(scorer.score(batch), np.float64) for batch in batches]
    return np.concatenate(parts) if parts else np.zeros(0)
