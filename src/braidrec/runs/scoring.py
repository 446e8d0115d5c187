"""Scores of whole parts of a data set, in order."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from braidrec.data.batches import RankingBatch, RankingBatches
from braidrec.data.dataset import Dataset
from braidrec.data.history import HistorySource, RecentHistory, SemanticHistory, build_semantic_slots, principal_directions
from braidrec.data.negatives import NegativeSampler
from braidrec.errors import ConfigError
from braidrec.files import sha256, write_json
from braidrec.progress import progress
from braidrec.ranking.config import HistoryConfig
from braidrec.ranking.ranker import Ranker

EVALUATION_BATCH = 4096


def score_batches(
    model: Ranker, batches: Iterable[RankingBatch], device: torch.device, advance: bool = True
) -> NDArray[np.float32]:
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
    if not path.with_suffix(".json").exists():
        vectors = principal_directions(knowledge)
        build_semantic_slots(dataset.log, vectors, config.length, path, show_progress=show_progress)
        write_json(path.with_suffix(".json"), {"sha256": sha256(path), "length": config.length})
    return SemanticHistory(dataset.log, np.load(path, mmap_mode="c", allow_pickle=False))


def negative_sampler(dataset: Dataset, per_positive: int | None, seed: int) -> NegativeSampler | None:
    """Raises ConfigError when the log has positives only and nothing says how many negatives to draw."""
    if per_positive is not None:
        return NegativeSampler(dataset.log, dataset.num_items, per_positive, seed)
    if dataset.log.label[dataset.split["train"]].all():
        raise ConfigError(
            f"{dataset.name}: every training row is positive, so there is nothing to rank against; say how many negatives to "
            "draw for each positive: negatives = 4 in the run file, or --negatives 4"
        )
    return None
