"""Next-item rankings without learning, by name.

``Spec.build(config, rows, user, item)`` gives a scorer of the evaluation rows, or None where it does not go with them;
user, item (M,) int32 of every training event.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from braidrec.evaluation.closed_form import WeightsScorer, interactions, quick_ease
from braidrec.evaluation.retrieval import RetrievalRows, Scorer
from braidrec.evaluation.sequential_baselines import LENGTH, ItemKNN, Markov, Popularity
from braidrec.registry import Spec
from braidrec.strict import Length, Strict

Rows = NDArray[np.int32]


class EASEConfig(Strict):
    penalty: PositiveFloat = 100.0


class ItemKNNConfig(Strict):
    length: Length = LENGTH  # inputs that are read


def _popularity(config: Any, rows: RetrievalRows, user: Rows, item: Rows) -> Scorer:
    return Popularity(rows, user, item)


def _item_knn(config: ItemKNNConfig, rows: RetrievalRows, user: Rows, item: Rows) -> Scorer:
    return ItemKNN(rows, user, item, config.length)


def _markov(config: Any, rows: RetrievalRows, user: Rows, item: Rows) -> Scorer:
    return Markov(rows, user, item)


def _ease(config: EASEConfig, rows: RetrievalRows, user: Rows, item: Rows) -> Scorer | None:
    """Of who has met what, in whatever order; None where the catalogue is too large for a table to wait for it."""
    met = interactions(user, item, (int(user.max(initial=0)) + 1, rows.num_items + 1))
    weights = quick_ease(met, config.penalty)
    return None if weights is None else WeightsScorer(rows, weights, np.bincount(item, minlength=rows.num_items + 1))


POPULARITY = Spec("popularity", "popularity", Strict, _popularity)
ITEM_KNN = Spec("item-knn", "item-kNN", ItemKNNConfig, _item_knn)
MARKOV = Spec("markov", "Markov", Strict, _markov)
EASE = Spec("ease", "EASE", EASEConfig, _ease)
