"""Rankings without a run, by name.

``Spec.build(config, rows, graph) -> Scorer | None`` from training alone; None where it does not go with these rows.
"""

from __future__ import annotations

from typing import Any

from pydantic import NonNegativeFloat, PositiveFloat
from scipy.sparse import csr_array

from braidrec.collaborative.graph import Graph
from braidrec.evaluation.closed_form import WeightsScorer, item_cosine, quick_ease
from braidrec.evaluation.retrieval import RetrievalRows, Scorer
from braidrec.registry import Spec
from braidrec.strict import Strict


class EASEConfig(Strict):
    penalty: PositiveFloat = 100.0


class ItemKNNConfig(Strict):
    shrink: NonNegativeFloat = 20.0


def _popularity(config: Any, rows: RetrievalRows, graph: Graph) -> Scorer:
    none = csr_array((rows.num_items + 1, rows.num_items + 1), dtype="float32")
    return WeightsScorer(rows, none, graph.item_counts, length=0)


def _item_knn(config: ItemKNNConfig, rows: RetrievalRows, graph: Graph) -> Scorer:
    return WeightsScorer(rows, item_cosine(graph.matrix, config.shrink), graph.item_counts)


def _ease(config: EASEConfig, rows: RetrievalRows, graph: Graph) -> Scorer | None:
    """None where the catalogue is too large for a table to wait for it."""
    weights = quick_ease(graph.matrix, config.penalty)
    return None if weights is None else WeightsScorer(rows, weights, graph.item_counts)


POPULARITY = Spec("popularity", "popularity", Strict, _popularity)
ITEM_KNN = Spec("item-knn", "item-kNN", ItemKNNConfig, _item_knn)
EASE = Spec("ease", "EASE", EASEConfig, _ease)
