"""Scores of whole parts of a data set, in order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from braidrec.data.batches import RankingBatch, RankingBatches
from braidrec.data.dataset import Dataset
from braidrec.data.history import (
    History,
    HistorySource,
    RecentHistory,
    SemanticHistory,
    build_semantic_slots,
    principal_directions,
)
from braidrec.data.negatives import NegativeSampler
from braidrec.errors import ConfigError, RunError
from braidrec.files import read_json, sha256, write_atomic, write_json
from braidrec.progress import progress
from braidrec.ranking.config import HistoryConfig
from braidrec.ranking.ranker import Ranker

EVALUATION_BATCH = 4096
EVALUATION_SEED = 0  # of drawn negatives in validation and test: runs of every seed rank the same rows


def score_batches(model: Ranker, batches: Iterable[RankingBatch], device: torch.device) -> NDArray[np.float32]:
    """Logits of all rows, in order; the model is left in the mode it came in."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            parts = [model(batch.to(device)).float().cpu() for batch in batches]
    finally:
        model.train(training)
    return torch.cat(parts).numpy()


def score_with_progress(
    model: Ranker, batches: RankingBatches, device: torch.device, title: str, show: bool
) -> NDArray[np.float32]:
    with progress(title, batches.num_samples, "rows", show=show) as advance:

        def counted() -> Iterable[RankingBatch]:
            for batch in batches:
                yield batch
                advance(len(batch))

        return score_batches(model, counted(), device)


def part_batches(
    dataset: Dataset, part: str, history: HistorySource, negatives: NegativeSampler | None, batch_size: int = EVALUATION_BATCH
) -> RankingBatches:
    """The samples of one part in log order."""
    return RankingBatches(dataset, dataset.split[part], batch_size, history, shuffle=False, negatives=negatives)


def part_labels(dataset: Dataset, part: str, negatives: NegativeSampler | None) -> NDArray[np.float32]:
    """Labels in the order of `part_batches`."""
    rows = dataset.split[part]
    if negatives is None:
        return dataset.log.label[rows]
    per_event = 1 + negatives.per_positive
    return (np.arange(len(rows) * per_event) % per_event == 0).astype(np.float32)


def part_weights(dataset: Dataset, part: str, negatives: NegativeSampler | None) -> NDArray[np.float32] | None:
    """Sample weights in the order of `part_batches`, None where the log has none."""
    weight = dataset.log.weight
    if weight is None:
        return None
    return weight[dataset.split[part]].repeat(1 + (negatives.per_positive if negatives else 0))


def history_source(
    dataset: Dataset, config: HistoryConfig, knowledge: NDArray[np.float32] | None, *, show_progress: bool = True
) -> HistorySource:
    """The configured history; a semantic one is prepared once beside the data set and opened by memory map after.

    knowledge: (I + 1, S) text vectors by catalogue row, needed by ``semantic_topk``.
    """
    if config.kind == "recent":
        return RecentHistory(dataset.log, config.length)
    if knowledge is None:
        raise ConfigError("history.kind = 'semantic_topk' needs a knowledge base: similarity is measured between item texts")
    import hashlib

    key = hashlib.sha256(dataset.fingerprint.encode() + np.ascontiguousarray(knowledge).tobytes()).hexdigest()[:16]
    path = dataset.path.with_name(f"{dataset.path.name}.semantic-{config.length}-{key}.npy")
    note = path.with_suffix(".json")
    if not (note.exists() and path.exists() and read_json(note, RunError)["sha256"] == sha256(path)):
        vectors = principal_directions(knowledge)
        write_atomic(
            path,
            lambda temporary: build_semantic_slots(dataset.log, vectors, config.length, temporary, show_progress=show_progress),
        )
        write_json(note, {"sha256": sha256(path), "length": config.length})
    return SemanticHistory(dataset.log, np.load(path, mmap_mode="c", allow_pickle=False))


@dataclass(frozen=True)
class SimilarPast:
    """`SemanticHistory` for candidates of today: of a past of any length, what is most similar to each candidate.

    directions (I + 1, p) rows of length 1, as `principal_directions` makes them.  The same rounding and the same rule for
    ties (the more recent first) as in `build_semantic_slots`.
    """

    directions: Tensor
    length: int

    @classmethod
    def of(cls, knowledge: NDArray[np.float32], added: NDArray[np.float32] | None, length: int) -> SimilarPast:
        """knowledge (I + 1, S) text vectors; added (n, S) those of items behind the catalogue, which shift no direction."""
        rows = principal_directions(knowledge)
        if added is not None and len(added):
            body = knowledge[1:].astype(np.float32)
            late = added - body.mean(axis=0)
            if rows.shape[1] < body.shape[1]:
                from sklearn.decomposition import PCA

                late = PCA(n_components=rows.shape[1], random_state=0).fit(body - body.mean(axis=0)).transform(late)
            late /= np.maximum(np.linalg.norm(late, axis=1, keepdims=True), 1e-12)
            rows = np.concatenate([rows, late]).astype(np.float32)
        return cls(torch.from_numpy(rows), length)

    def window(self, items: Tensor, signals: Tensor, candidates: Tensor) -> History:
        """items, signals (n,) int32, oldest first; candidates (B,) int32 -> (B, K) each."""
        past, wanted = self.directions[items.long()].double(), self.directions[candidates.long()].double()
        keys = (wanted @ past.T).mul_(1 << 20).round_().long().mul_(1 << 32).add_(torch.arange(len(items)))
        best = keys.topk(min(self.length, len(items)), dim=1).indices
        left = self.length - best.shape[1]
        mask = (torch.arange(self.length) < best.shape[1]).expand(len(candidates), -1)
        return History(F.pad(items[best], (0, left)), F.pad(signals[best], (0, left)), mask)


def negative_sampler(dataset: Dataset, per_positive: int | None, seed: int) -> NegativeSampler | None:
    """Raises ConfigError when the log has positives only and nothing says how many negatives to draw, or the reverse."""
    if per_positive is not None:
        if not dataset.log.label.all():
            raise ConfigError(
                f"{dataset.name}: negatives = {per_positive}, but this log has negative rows of its own, which would then "
                "count as positive; leave negatives out, here and where the data set was prepared"
            )
        return NegativeSampler(dataset.log, dataset.num_items, per_positive, seed)
    if dataset.log.label[dataset.split["train"]].all():
        raise ConfigError(
            f"{dataset.name}: every training row is positive, so there is nothing to rank against; say how many negatives to "
            "draw for each positive: negatives = 4 in the run file, or --negatives 4"
        )
    return None
