"""The ranking task: from settings and data to stages, from a model to scores of held-out rows, from scores to a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from braidrec.config import RunConfig
from braidrec.data.batches import RankingBatches
from braidrec.data.dataset import Dataset
from braidrec.data.history import HistorySource
from braidrec.data.negatives import NegativeSampler
from braidrec.data.rates import said_of_rates
from braidrec.errors import ConfigError, DataError
from braidrec.evaluation.baselines import RankingLog
from braidrec.evaluation.by_user import USER_METRICS, user_gains
from braidrec.evaluation.metrics import ScoreKind, auc, log_loss
from braidrec.evaluation.ranking_report import evaluate_ranking
from braidrec.evaluation.report import MIN_ROWS, Report
from braidrec.evaluation.significance import PairedTest, paired_test
from braidrec.evaluation.slices import ranking_slices
from braidrec.layers.mlp import reads_batch_statistics
from braidrec.layers.text import TextTable
from braidrec.memory import there_is
from braidrec.ranking import TASK as SPEC
from braidrec.ranking.build import build_model, history_of, material_of, reads_rates
from braidrec.ranking.config import Monitor, settings_of
from braidrec.ranking.contracts import RankingModel, as_module
from braidrec.ranking.history import directions_of, history_source
from braidrec.ranking.model import ClickModel, KnownUsers, kept, load
from braidrec.ranking.scoring import (
    EVALUATION_SEED,
    negative_sampler,
    part_batches,
    part_labels,
    part_pairs,
    part_weights,
    score_batches,
    score_with_progress,
    too_sure,
    yardsticks,
)
from braidrec.registry import TaskSpec
from braidrec.shown import tell
from braidrec.task import Model, Outcome, Plan, Saved, Vectors
from braidrec.training.config import TrainingConfig
from braidrec.training.contracts import Validate
from braidrec.training.devices import place_of
from braidrec.training.optimisers import choose_table_update
from braidrec.training.seeding import own_randomness, seed_everything, spawn
from braidrec.training.stages import AnyStage, Fitted, Stage, left_to_train

STAGE = "rank"
_OLDER = "seen, warm and tail are by the rows of the part 'train', in every model alike; this one reads older rows, too"
_LARGE = 1 << 24  # rows, 2 GiB of width 32: below, it is something else that asks for too much


class RankingTask:
    """See `braidrec.task.Task`."""

    @property
    def spec(self) -> TaskSpec:
        return SPEC

    def reads_text(self, config: RunConfig) -> bool:
        return config.reads_text or history_of(config).kind == "semantic_topk"

    @own_randomness()
    def plan(
        self,
        config: RunConfig,
        data: Dataset,
        text: Vectors | None,
        *,
        people: Vectors | None = None,
        show_progress: bool = True,
    ) -> Plan:
        settings, wanted, training = settings_of(config), history_of(config), config.training.of_phase(STAGE)
        known = KnownUsers(data, statistics=settings.statistics, rates=reads_rates(config))
        data = known.data
        if data.rates is not None and show_progress:
            tell(said_of_rates(data.rates.fields, data.features))
        per_positive = config.negatives or data.settings.negatives
        if per_positive is not None and wanted.kind == "semantic_topk":
            raise ConfigError(
                "model.history.kind = 'semantic_topk' is prepared for the items of the log's own events, so it would give "
                "drawn negatives away; use model.history.kind = 'recent' for logs of positives only"
            )
        negatives = negative_sampler(data, per_positive, config.seed, training=True)
        held_out = negative_sampler(data, per_positive, EVALUATION_SEED)
        rows = data.features.num_rows
        tables, averaging = _table_updates(training, rows, settings.dim)
        seed_everything(config.seed)
        table = TextTable(text) if text is not None and config.reads_text else None
        material = material_of(data, table, seed=config.seed, sparse=tables != "dense")
        with _room_for_tables(data):
            network = build_model(config, material)
        if wanted.run > 1 and reads_batch_statistics(as_module(network)):
            raise ConfigError(
                f"model.history.run = {wanted.run} puts rows of one user side by side, whose statistics are not "
                "those of all rows, and this model normalises by its batch's (BatchNorm, Dice); set model.history.run = 1, "
                "or another model.backbone.norm or variant"
            )
        earlier = network.earlier()
        directions = directions_of(wanted, text)
        starts = {each.stage.name: each.names for each in earlier}
        mode: Literal["max", "min"] = "min" if settings.monitor == "log_loss" else "max"
        history = history_source(data, wanted, directions, show_progress=show_progress)
        fit = network.fitted(
            lambda: part_batches(data, settings.rows, history, negatives),
            lambda: part_batches(data, "valid", history, held_out),
            tell if show_progress else (lambda message: None),
        )
        module = as_module(network)
        own: AnyStage = (
            Stage(
                STAGE,
                module,
                network.weights,
                network.groups(),
                starts,
                monitor=settings.monitor,
                mode=mode,
                train=settings.rows,
            )
            if fit is None
            else Fitted(STAGE, module, fit, starts)
        )
        every = [*(each.stage for each in earlier), own]
        stages = left_to_train(every, settings.start_from)
        labels = {stage.valid: _labels_of_both(data, stage.valid, held_out) for stage in stages}
        for stage in stages:
            _check_both(data, stage.train if isinstance(stage, Stage) else settings.rows, stage.name, negatives)

        def batches(stage: Stage) -> RankingBatches:
            return RankingBatches(
                data,
                data.split[stage.train],
                config.training.of_phase(stage.name).batch_size,
                history,
                shuffle=True,
                seed=spawn(config.seed, "batches", *([] if stage is own else [stage.name])) % 2**31,
                negatives=negatives,
            )

        def validate(stage: AnyStage) -> Validate:
            watched = cast(Monitor, stage.monitor) if isinstance(stage, Stage) and stage.monitor else settings.monitor
            return _validation(data, stage.valid, history, held_out, labels[stage.valid], watched)

        return Plan(
            stages,
            batches,
            validate,
            monitor="auc",
            keep=lambda: kept(network, config, material.layout, directions, known),
            names=[stage.name for stage in every],
            taken=settings.start_from,
            reading=[stage.name for stage in every if stage.reads_text],
            settings={stage.name: stage.settings for stage in every},
            choices={
                "tables": tables,
                "table_rows": rows,
                "average_epochs": averaging,
                **({} if data.rates is None else {"rates": list(data.rates.scale.names)}),
            },
            average_epochs=None if averaging == training.average_epochs else averaging,
            yardsticks=lambda: {} if held_out is not None else yardsticks(SPEC.baselines, data, settings.rows),
            doubt=lambda reached: None if held_out is not None else too_sure(data, settings.rows, settings.monitor, reached),
        )

    def load(self, config: RunConfig, saved: Saved, data: Dataset | None, text: Callable[[], Vectors] | None = None) -> Model:
        return load(config, saved, data, text)

    def outcome(self, model: Model, config: RunConfig, data: Dataset, part: str, *, show_progress: bool = True) -> Outcome:
        """Logits of the part's samples in log order, those of drawn negatives behind each positive."""
        own = cast(ClickModel, model)
        data, negatives = own.reading(data), _held_out(config, data)
        history = history_source(data, history_of(config), own.directions, show_progress=show_progress)
        batches = part_batches(data, part, history, negatives)
        logits = score_with_progress(own.module, batches, own.device, f"scoring {part}", show_progress)
        return Outcome(*part_pairs(data, part, negatives), {"scores": logits}, "logits")

    def baseline(self, name: str, config: RunConfig | None, data: Dataset, part: str) -> Outcome | None:
        """Of the test part, of logs that have negatives of their own; counted on what the run of ``config`` trained on."""
        spec = SPEC.baselines[name]
        if part != "test" or _held_out(config, data) is not None:
            return None
        log, split, rows = data.log, data.split, "train" if config is None else settings_of(config).rows
        ranking = spec.build(spec.config())(
            RankingLog(log.user, log.item, log.label, split[rows], split["valid"], split["test"], log.visible)
        )
        return Outcome(*part_pairs(data, part, None), {"scores": ranking.test}, "scores")

    def report(
        self, outcome: Outcome, config: RunConfig | None, data: Dataset, part: str, *, min_rows: int | None = None
    ) -> Report:
        log, train, negatives = data.log, data.split["train"], _held_out(config, data)
        found = evaluate_ranking(
            part_labels(data, part, negatives),
            outcome.values["scores"],
            ranking_slices(outcome.user, outcome.item, log.user[train], log.item[train], data.num_items),
            outcome.user,
            kind=cast(ScoreKind, outcome.kind),
            weights=part_weights(data, part, negatives),
            min_rows=MIN_ROWS if min_rows is None else min_rows,
        )
        return replace(found, notes=(*found.notes, _OLDER)) if config is not None and _reads_older(config) else found

    def tests(
        self, first: Sequence[Outcome], second: Sequence[Outcome], config: RunConfig | None, data: Dataset, part: str
    ) -> list[PairedTest]:
        """One, of the AUC that `report` has: the same rows, those of drawn negatives among them, with the same weights."""
        negatives = _held_out(config, data)
        labels, weights = part_labels(data, part, negatives), part_weights(data, part, negatives)
        scores = [np.stack([each.values["scores"] for each in side]) for side in (first, second)]
        return [paired_test(labels, first[0].user, *scores, weights=weights)]

    def inspect(self, module: nn.Module, num_items: int) -> Mapping[str, NDArray[np.float32]]:
        found = cast(RankingModel, module).spaces()
        return {name: vectors[: num_items + 1].cpu().numpy() for name, vectors in found.items()}


TASK = RankingTask()


def _table_updates(training: TrainingConfig, rows: int, dim: int) -> tuple[str, float]:
    """How tables are updated (dense, lazy, rowwise), and over how many epochs weights are averaged."""
    asked, averaging = training.tables, training.average_epochs
    tables = choose_table_update(rows, dim) if asked == "auto" else asked
    if training.table_lr is not None and tables != "rowwise":
        raise ConfigError(f"training.table_lr = {training.table_lr} is of training.tables = 'rowwise', and tables = '{asked}'")
    if tables == "dense" or not averaging:
        return tables, averaging
    # a mean of all weights visits every row at every step, which sparse updates are there to avoid
    if asked != "auto":
        raise ConfigError(
            f"training.tables = '{asked}' does not go with training.average_epochs = {averaging}; set average_epochs = 0, "
            "or tables = 'dense'"
        )
    return tables, 0.0


def _room_for_tables(data: Dataset) -> AbstractContextManager[None]:
    """Names the field that most rows of large tables are of, where the machine has no memory for them."""
    features = data.features
    if features.num_rows < _LARGE:
        return nullcontext()
    most = max(features.vocabularies, key=lambda entry: entry.known)
    return there_is(
        f"{data.name}: a table of {features.num_rows:,} rows, {most.known:,} of them values of the field '{most.name}',",
        "lower model.dim, or prepare the data with fewer: leave that field out, or users and items of few events by k_core",
    )


def _reads_older(config: RunConfig) -> bool:
    """Whether a model reads older rows than those of the part ``train``."""
    return settings_of(config).rows != "train" or any(spec.parts for spec in config.chosen.enhancers)


def _held_out(config: RunConfig | None, data: Dataset) -> NegativeSampler | None:
    """Of the held-out parts: the same for every seed, None where the log has negatives of its own."""
    per_positive = (None if config is None else config.negatives) or data.settings.negatives
    return negative_sampler(data, per_positive, EVALUATION_SEED)


def _labels_of_both(data: Dataset, part: str, negatives: NegativeSampler | None) -> NDArray[np.float32]:
    """The part's labels.  Raises DataError where they are of one class."""
    labels = part_labels(data, part, negatives)
    if labels.min() == labels.max():
        what = "validation" if part == "valid" else f"'{part}'"
        raise DataError(
            f"{data.name}: all {len(labels):,} {what} rows have label {labels[0]:.0f}, so no AUC can choose a model; "
            "prepare it with another split or positive_above"
        )
    return labels


def _check_both(data: Dataset, part: str, stage: str, negatives: NegativeSampler | None) -> None:
    """Raises DataError where the rows of ``part`` that a stage trains on are of one class."""
    labels = part_labels(data, part, negatives)
    if labels.min() == labels.max():
        raise DataError(
            f"{data.name}: all {len(labels):,} rows of the part '{part}' have label {labels[0]:.0f}, so there is "
            f"nothing for the stage '{stage}' to learn; prepare it with another split or positive_above"
        )


def _validation(
    data: Dataset,
    part: str,
    history: HistorySource,
    negatives: NegativeSampler | None,
    labels: NDArray[np.float32],
    monitor: Monitor,
) -> Validate:
    """AUC and log loss of a part, and what is monitored besides.  Raises DataError where no user has a list to rank."""
    batches, weights = part_batches(data, part, history, negatives), part_weights(data, part, negatives)
    users = part_pairs(data, part, negatives)[0]
    besides = [each for each in USER_METRICS if each == monitor]
    if besides and not user_gains(labels, labels, users, besides).users:
        raise DataError(
            f"{data.name}: no user has '{part}' rows of both labels, so no {monitor} can choose a model; "
            "set model.monitor = 'auc', or prepare it with another split"
        )

    def validate(module: nn.Module) -> Mapping[str, float]:
        logits = score_batches(module, batches, place_of(module))
        with np.errstate(over="ignore"):  # of a logit below -709: its probability is 0
            probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
        found = {"auc": auc(labels, logits, weights), "log_loss": log_loss(labels, probabilities, weights)}
        if besides:
            found |= {name: float(values.mean()) for name, values in user_gains(labels, logits, users, besides).values.items()}
        return found

    return validate
