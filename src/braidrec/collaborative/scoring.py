"""A split as this task sees it: what training knows, what a row may read and bar, and the held-out positives of each user.

Training holds all positives outside validation and test; where the split follows time or order, only what came before the
first held-out event.  A row of a shuffled or ready-made split reads and bars what training holds, so that validation items stay
candidates at test time (RLMRec's protocol); where the split follows order it reads and bars all that came before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from braidrec import collaborative
from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.contracts import MatrixModel
from braidrec.collaborative.graph import Graph
from braidrec.data.dataset import Dataset
from braidrec.data.settings import LEAVE
from braidrec.data.training import training_positions as training_positions
from braidrec.errors import DataError
from braidrec.evaluation.retrieval import Ranking, RetrievalRows, rank_targets
from braidrec.evaluation.retrieval_report import row_gains
from braidrec.evaluation.slices import Slices
from braidrec.training.contracts import Validate
from braidrec.training.devices import place_of

Positions = NDArray[np.int64]
_QUICK = 3e8  # products of item pairs that item-kNN counts in a few seconds
_QUICK_SIDE = 4_000  # rows of the matrix that EASE inverts in as many
WATCHED = 20  # validation reads Recall and nDCG of the first so many
USED = ((0, 0, "new_users"), (1, 10, "up_to_10_items"), (11, 50, "11_to_50_items"), (51, None, "more_than_50_items"))


def training_graph(data: Dataset) -> Graph:
    """The positives of training.  Raises DataError where there are none."""
    graph = Graph.of(data.log, training_positions(data), data.num_items)
    if not len(graph):
        raise DataError(
            f"{data.name}: none of the events of training is a positive, so nobody has anything; look at the label or rating "
            "column (positive_above), or train a ranking model"
        )
    return graph


def known_positions(data: Dataset, part: str) -> Positions:
    """Events that the rows of ``part`` may read, and bar, ascending."""
    cut, split = data.settings.split, data.split
    if cut.kind == "date" and part in ("valid", "test"):
        valid, test = cut.borders
        return np.arange(int(np.searchsorted(data.log.timestamp, valid if part == "valid" else test)))
    if cut.kind == "temporal":
        return np.arange(int(split[part][0]))
    training = training_positions(data)
    return np.union1d(training, split["valid"]) if cut.kind in LEAVE and part == "test" else training


@dataclass(frozen=True)
class Held:
    """The evaluation rows of a part, one for each user with a held-out positive, and what each of them has by then."""

    rows: RetrievalRows
    graph: Graph


def part_rows(data: Dataset, part: str) -> Held:
    """Raises DataError for a part without positives."""
    log, positions, known = data.log, data.split[part], known_positions(data, part)
    wanted = positions[log.label[positions] > 0]
    if not len(wanted):
        raise DataError(f"{data.name}: the part '{part}' holds no positive, so there is nothing to find; change the split")
    return Held(RetrievalRows.by_user(log, wanted, known, data.num_items), Graph.of(log, known, data.num_items))


def user_slices(users: NDArray[np.int32], counts: NDArray[np.int64]) -> Slices:
    """Slices of rows by how many items training knows of their user.  users (N,)    counts (U + 1,)"""
    own = counts[users]
    masks = {"all": np.ones(len(users), np.bool_)}
    masks |= {name: (own >= least) & (own <= (own if most is None else most)) for least, most, name in USED}
    return Slices(masks)


class RowsScorer:
    """A model as evaluation sees it.  popularity (I + 1,): of a row that has nothing."""

    def __init__(self, model: nn.Module, held: Held, popularity: Tensor):
        self._model, self._matrix, self._users = cast(MatrixModel, model.eval()), held.graph.matrix, held.rows.user
        self._device, self._popularity = place_of(model), popularity.float()

    def scores(self, rows: NDArray[np.int64]) -> Tensor:
        users = self._users[rows]
        return score(self._model, Baskets.of_rows(self._matrix[users], users).to(self._device), self._popularity)


def score(model: MatrixModel, baskets: Baskets, popularity: Tensor) -> Tensor:
    """(b, num_rows); who has nothing gets ``popularity`` (I + 1,), and 0 for what came later."""
    with torch.no_grad():
        found = model.scores(baskets)
    nothing = (baskets.counts == 0).nonzero().squeeze(1)
    if len(nothing):
        found[nothing] = F.pad(popularity.float(), (0, found.shape[1] - len(popularity))).to(found.device)
    return found


def yardsticks(data: Dataset, graph: Graph) -> Mapping[str, Mapping[str, float]]:
    """What rankings without learning reach on validation, by title; item-kNN and EASE where they take no more than seconds."""
    held, found = part_rows(data, "valid"), {}
    pairs = float((graph.user_counts.astype(np.float64) ** 2).sum())
    quick = ("item-knn",) if pairs < _QUICK else ()
    for name in ("popularity", *quick, *(("ease",) if min(graph.matrix.shape) <= _QUICK_SIDE else ())):
        spec = collaborative.TASK.baselines[name]
        scorer = spec.build(spec.config(), held.rows, graph)
        if scorer is not None:
            found[spec.title_of(spec.config())] = _watched(rank_targets(scorer, held.rows, top=0, within=WATCHED))
    return found


def _watched(ranking: Ranking) -> dict[str, float]:
    return {f"{name}@{WATCHED}": float(row_gains(ranking, name, WATCHED).mean()) for name in ("recall", "ndcg")}


def validation(held: Held, popularity: Tensor) -> Validate:
    def validate(module: nn.Module) -> Mapping[str, float]:
        return _watched(rank_targets(RowsScorer(module, held, popularity), held.rows, top=0, within=WATCHED))

    return validate
