"""Sequence models on a data set's parts: histories in, scores of the whole catalogue out; and stages made into phases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from braidrec.data.dataset import Dataset
from braidrec.data.sequences import SequenceBatches, left_padded
from braidrec.evaluation.retrieval import RetrievalRows, rank_targets
from braidrec.evaluation.retrieval_report import gains
from braidrec.sequential.contracts import Catalogue, NextItemModel, Stage
from braidrec.training.contracts import OptimiserGroup, Phase, Start, StopRule
from braidrec.training.seeding import spawn

if TYPE_CHECKING:
    from braidrec.config import RunConfig
    from braidrec.sequential.config import SequentialConfig


class HistoryScorer:
    """A sequence model as evaluation sees it.  The catalogue's side is computed once, when the scorer is made."""

    def __init__(self, model: nn.Module, rows: RetrievalRows, length: int):
        self._rows, self._length, self._width = rows, length, rows.num_items + 1
        self._model = cast(NextItemModel, model)
        self._device = next(model.parameters()).device
        model.eval()
        with torch.no_grad():
            self._catalogue: Catalogue = self._model.catalogue()

    def scores(self, rows: NDArray[np.int64]) -> Tensor:
        """(b, I + 1) float32."""
        first, last = self._rows.first[rows], self._rows.last[rows]
        items, _ = left_padded(first, last - first, self._rows.past_items, self._length)
        with torch.no_grad():
            scores = score_histories(self._model, self._catalogue, torch.from_numpy(items).to(self._device)).cpu()
        return scores[:, : self._width].contiguous() if scores.shape[1] > self._width else scores  # items added later


def score_histories(model: NextItemModel, catalogue: Catalogue, items: Tensor, rows: Tensor | None = None) -> Tensor:
    """items (B, K) left-padded catalogue rows -> (B, I + 1) float32, or (B, n) for the catalogue rows ``rows`` (n,)."""
    longest = int((items > 0).sum(dim=1).max()) if items.numel() else 0
    items = items[:, items.shape[1] - max(longest, 1) :]
    return catalogue.scores(model.states(items, items > 0), rows).float()


def part_rows(dataset: Dataset, part: str) -> RetrievalRows:
    """The events of one part as targets, each with all that its user met before."""
    return RetrievalRows.of(dataset.log, dataset.split[part], dataset.num_items)


def phases(config: RunConfig, stages: Sequence[Stage], dataset: Dataset, rows: RetrievalRows | None = None) -> list[Phase]:
    """Stages with data, optimisers and validation; ``rows`` are the validation rows, of the part "valid" by default."""
    model = cast("SequentialConfig", config.model)
    valid = part_rows(dataset, "valid") if rows is None else rows
    trained = {stage.name for stage in stages}
    return [_phase(config, model, stage, dataset, valid, trained) for stage in stages]


def _phase(
    config: RunConfig, model: SequentialConfig, stage: Stage, dataset: Dataset, valid: RetrievalRows, trained: set[str]
) -> Phase:
    training = config.training.of_phase(stage.name)
    batches = SequenceBatches(
        dataset,
        training.batch_size,
        length=model.length,
        windows=model.windows,
        negatives=model.negatives,
        seed=spawn(config.seed, "batches", stage.name) % 2**31,
    )
    groups = [
        OptimiserGroup(
            group.name,
            group.parameters,
            training.lr if group.lr is None else group.lr,
            training.weight_decay if group.weight_decay is None else group.weight_decay,
            steps=group.steps,
            decoupled=training.decoupled and group.name.startswith("main"),
        )
        for group in stage.groups
    ]
    starts = [
        Start(name if name in trained else Path(model.start_from[name]) / "weights" / name, names)
        for name, names in stage.starts.items()
    ]
    steps = training.average_epochs * len(batches)
    return Phase(
        stage.name,
        stage.module,
        batches,
        groups,
        stage.weights,
        validation(valid, model.length),
        monitor=stage.monitor or model.monitor,
        mode=stage.mode,
        stop=StopRule(max_epochs=training.max_epochs, patience=training.patience, checks_per_epoch=training.checks_per_epoch),
        clip_norm=training.clip_norm,
        averaging=max(0.0, 1.0 - 1.0 / steps) if steps else 0.0,
        starts_from=starts,
    )


def validation(rows: RetrievalRows, length: int) -> Callable[[nn.Module], Mapping[str, float]]:
    """Full ranking of the rows for a module that ranks, and the module's own ``validation`` where it has one."""

    def validate(module: nn.Module) -> Mapping[str, float]:
        found: dict[str, float] = cast(Any, module).validation() if hasattr(module, "validation") else {}
        if hasattr(module, "catalogue"):
            ranks = rank_targets(HistoryScorer(module, rows, length), rows, top=0).rank
            found |= {"hr@10": float(gains(ranks, "hr", 10).mean()), "ndcg@10": float(gains(ranks, "ndcg", 10).mean())}
        return found

    return validate
