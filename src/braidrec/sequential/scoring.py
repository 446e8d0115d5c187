"""Sequence models on a data set's parts: histories in, scores of the whole catalogue out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from braidrec.data.dataset import Dataset
from braidrec.data.sequences import left_padded, training_ends, training_events
from braidrec.evaluation.retrieval import Ranking, RetrievalRows, rank_targets
from braidrec.evaluation.retrieval_report import row_gains
from braidrec.registry import Spec
from braidrec.sequential.contracts import Catalogue, NextItemModel, StageModule
from braidrec.training.contracts import Validate
from braidrec.training.devices import place_of

CHEAP_SCORES = 500_000_000  # evaluation rows times items: a second or two for each ranking


class HistoryScorer:
    """A sequence model as evaluation sees it.  The catalogue's side is computed once, when the scorer is made.

    model: a NextItemModel, which is put into evaluation mode
    """

    def __init__(self, model: nn.Module, rows: RetrievalRows, length: int):
        self._rows, self._length, self._width = rows, length, rows.num_items + 1
        self._model = cast(NextItemModel, model.eval())
        self._device = place_of(model)
        with torch.no_grad():
            self._catalogue: Catalogue = self._model.catalogue()

    def scores(self, rows: NDArray[np.int64]) -> Tensor:
        """(b, I + 1) float32."""
        first, last = self._rows.first[rows], self._rows.last[rows]
        items, _ = left_padded(first, last - first, self._rows.past_items, self._length)
        with torch.no_grad():
            scores = score_histories(self._model, self._catalogue, torch.from_numpy(items).to(self._device))
        return scores[:, : self._width].contiguous() if scores.shape[1] > self._width else scores  # items added later


def score_histories(model: NextItemModel, catalogue: Catalogue, items: Tensor, rows: Tensor | None = None) -> Tensor:
    """items (B, K) left-padded catalogue rows -> (B, I + 1) float32, or (B, n) for the catalogue rows ``rows`` (n,)."""
    longest = int((items > 0).sum(dim=1).max()) if items.numel() else 0
    items = items[:, items.shape[1] - max(longest, 1) :]
    return catalogue.scores(model.states(items, items > 0), rows).float()


def part_rows(dataset: Dataset, part: str) -> RetrievalRows:
    """The followed events of one part as targets, each with all of these that its user met before."""
    own = dataset.followed
    return RetrievalRows.of(own.log, own.split[part], dataset.num_items)


def yardsticks(baselines: Mapping[str, Spec], data: Dataset) -> dict[str, dict[str, float]]:
    """What popularity and a Markov chain reach on validation, title -> metric -> value; empty where that takes too long."""
    rows = part_rows(data, "valid")
    if len(rows) * rows.num_items > CHEAP_SCORES:
        return {}
    met = training_events(data.followed.log, training_ends(data.followed))
    found = {}
    for spec in (baselines["popularity"], baselines["markov"]):
        found[spec.title_of(spec.config())] = _metrics(rank_targets(spec.build(spec.config(), rows, *met), rows, top=0))
    return found


def _metrics(ranking: Ranking) -> dict[str, float]:
    return {"hr@10": float(row_gains(ranking, "hr", 10).mean()), "ndcg@10": float(row_gains(ranking, "ndcg", 10).mean())}


def validation(rows: RetrievalRows, length: int) -> Validate:
    """What a stage's module watches itself, and for one that ranks the full ranking of the rows."""

    def validate(module: nn.Module) -> Mapping[str, float]:
        stage = cast(StageModule, module)
        found = dict(stage.validation())
        if stage.ranks() is not None:
            found |= _metrics(rank_targets(HistoryScorer(module, rows, length), rows, top=0))
        return found

    return validate
