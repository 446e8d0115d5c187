"""The samples of a part of a data set, in log order: their batches, labels, weights, whose they are, and a model's scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from braidrec.data.batches import RankingBatches
from braidrec.data.dataset import Dataset
from braidrec.data.history import HistorySource
from braidrec.data.negatives import NegativeSampler
from braidrec.data.training import training_positions
from braidrec.errors import ConfigError, remedy
from braidrec.evaluation.baselines import RankingLog
from braidrec.evaluation.by_user import USER_METRICS, user_gains
from braidrec.evaluation.metrics import auc, log_loss
from braidrec.progress import progress
from braidrec.registry import Spec

EVALUATION_BATCH = 4096
CHEAP_EVENTS = {"item-mean-user-residual": 3_000_000, "item-mean": 30_000_000}  # up to which a baseline takes seconds
EVALUATION_SEED = 0  # of drawn negatives in validation and test: runs of every seed rank the same rows


def score_batches(
    model: nn.Module, batches: RankingBatches, device: torch.device, advance: Callable[[int], None] = lambda rows: None
) -> NDArray[np.float32]:
    """Logits of all samples, in order; the model is left in the mode it came in.  advance: told how many rows are done"""
    training = model.training
    model.eval()
    logits = torch.empty(batches.num_samples)
    walk = batches.walk
    try:
        with torch.inference_mode():
            done = 0
            for batch in batches:
                logits[walk[done : done + len(batch)]] = model(batch.to(device)).float().cpu()
                done += len(batch)
                advance(len(batch))
    finally:
        model.train(training)
    return logits.numpy()


def score_with_progress(
    model: nn.Module, batches: RankingBatches, device: torch.device, title: str, show: bool
) -> NDArray[np.float32]:
    with progress(title, batches.num_samples, "rows", show=show) as advance:
        return score_batches(model, batches, device, advance)


def part_batches(
    dataset: Dataset, part: str, history: HistorySource, negatives: NegativeSampler | None, batch_size: int = EVALUATION_BATCH
) -> RankingBatches:
    """The samples of one part, to be scored by `score_batches`, which puts them into log order."""
    return RankingBatches(dataset, dataset.split[part], batch_size, history, shuffle=False, negatives=negatives)


def part_labels(dataset: Dataset, part: str, negatives: NegativeSampler | None) -> NDArray[np.float32]:
    """Labels in the order of `part_batches`."""
    rows = dataset.split[part]
    if negatives is None:
        return dataset.log.label[rows]
    per_event = 1 + negatives.per_positive
    return (np.arange(len(rows) * per_event) % per_event == 0).astype(np.float32)


def part_weights(dataset: Dataset, part: str, negatives: NegativeSampler | None) -> NDArray[np.float32] | None:
    """Sample weights in the order of `part_batches`, None where the log has none; a positive's weighs its negatives, too."""
    weight = dataset.log.weight
    if weight is None:
        return None
    return weight[dataset.split[part]].repeat(1 + (negatives.per_positive if negatives else 0))


def part_pairs(dataset: Dataset, part: str, negatives: NegativeSampler | None) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Users (N,) and items (N,) in the order of `part_batches`; with drawn negatives every event stands for all its samples."""
    log, rows = dataset.log, dataset.split[part]
    if negatives is None:
        return log.user[rows], log.item[rows]
    per_event = 1 + negatives.per_positive
    samples = torch.arange(len(rows) * per_event)
    items = negatives.draw(torch.from_numpy(rows).repeat_interleave(per_event), samples, samples % per_event, 0)
    return log.user[rows].repeat(per_event), items.numpy()


def yardsticks(baselines: Mapping[str, Spec], dataset: Dataset, rows: str = "train") -> dict[str, dict[str, float]]:
    """What the best ranking without learning that takes seconds reaches on validation, title -> metric -> value.

    Item mean + user residual; item mean alone for logs of millions of events, nothing above.
    rows: the part of the split that is counted, or several (``a+b``)
    """
    log, split = dataset.log, dataset.split
    name = next((each for each, most in CHEAP_EVENTS.items() if len(log) <= most), None)
    if name is None:
        return {}
    spec, users = baselines[name], log.user[split["valid"]]
    ranking = spec.build(spec.config())(
        RankingLog(log.user, log.item, log.label, split[rows], split["valid"], split["valid"], log.visible)
    )
    labels = part_labels(dataset, "valid", None)
    by_user = user_gains(labels, ranking.valid, users)
    found: dict[str, float] = {"auc": auc(labels, ranking.valid, part_weights(dataset, "valid", None))}
    found |= {metric: value for metric in USER_METRICS if (value := by_user.mean(metric)) is not None}
    return {spec.title_of(spec.config()): found}


def too_sure(dataset: Dataset, rows: str, monitor: str, reached: Mapping[str, float]) -> str | None:
    """That the log loss on validation is above that of one number, the share of positives of ``rows``: see `Plan.doubt`.

    monitor: what chose the weights
    """
    weights = part_weights(dataset, rows, None)
    if weights is not None and not weights.any():
        return None
    share = np.average(part_labels(dataset, rows, None), weights=weights)
    labels = part_labels(dataset, "valid", None)
    constant = log_loss(labels, np.full(len(labels), share), part_weights(dataset, "valid", None))
    own = reached.get("log_loss", float("nan"))
    if not own > constant:
        return None
    return (
        f"on validation the log loss is {own:.4f}, and {constant:.4f} where every row has the share of "
        f"positives of '{rows}': the order may be worth something, the probabilities are too sure; read them as scores"
        + ("" if monitor == "log_loss" else ", or let them choose: model.monitor = 'log_loss'")
    )


def negative_sampler(
    dataset: Dataset, per_positive: int | None, seed: int, *, training: bool = False
) -> NegativeSampler | None:
    """training: what is held out may be drawn, for avoiding it would give it away

    Raises ConfigError when the log has positives only and nothing says how many negatives to draw, or the reverse.
    """
    if per_positive is not None:
        if not dataset.log.label.all():
            raise ConfigError(
                f"{dataset.name}: negatives = {per_positive}, but this log has negative rows of its own, which would then "
                "count as positive; leave negatives out, here and where the data set was prepared"
            )
        known = training_positions(dataset) if training else None
        return NegativeSampler(dataset.log, dataset.num_items, per_positive, seed, known)
    if dataset.log.label.all():  # where the training part alone is of one class, drawn negatives are no remedy
        raise ConfigError(
            f"{dataset.name}: every row is positive, so there is nothing to rank against; say how many negatives to "
            f"draw for each positive: {remedy('negatives=4', 'negatives = 4 in the run file, or --negatives 4')}"
        )
    return None
