"""Runs of ranking models: training, scores of whole parts, an honest evaluation, who would click what."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from braidrec.config import RunConfig, TrainingConfig
from braidrec.data.batches import RankingBatches, RankingView
from braidrec.data.dataset import Dataset
from braidrec.data.history import History, HistorySource
from braidrec.data.negatives import NegativeSampler
from braidrec.errors import ConfigError, DataError, RunError
from braidrec.evaluation.baselines import RankingLog, ranking_baselines
from braidrec.evaluation.metrics import auc, log_loss
from braidrec.evaluation.report import RankingReport, evaluate_ranking
from braidrec.evaluation.slices import Slices, ranking_slices
from braidrec.files import read_json, sha256, write_atomic, write_json
from braidrec.layers.embedding import TableLayout
from braidrec.ranking.build import build_ranker, item_fields_of, table_layout
from braidrec.ranking.config import RankingConfig
from braidrec.ranking.methods.disco import DisCo
from braidrec.ranking.ranker import ESTIMATORS, Ranker
from braidrec.runs.directory import claim, digest_of, load_model, save_model, save_record
from braidrec.runs.knowledge import item_matrix, open_knowledge
from braidrec.runs.run import Floats, Rows, Run, load
from braidrec.runs.scoring import (
    EVALUATION_SEED,
    SimilarPast,
    history_source,
    negative_sampler,
    part_batches,
    part_labels,
    part_weights,
    score_batches,
    score_with_progress,
)
from braidrec.training.contracts import CheckpointEvery, Hardware, OptimiserGroup, Phase, StopRule
from braidrec.training.loop import train
from braidrec.training.optimisers import choose_table_update
from braidrec.training.seeding import seed_everything, spawn

PHASE = "rank"


# -- training -------------------------------------------------------------------------------------------------------------


def train_ranking(config: RunConfig, path: Path, dataset: Dataset, *, show_progress: bool) -> Run:
    """Train into ``path`` and load the run from there.  Nothing is written before everything is checked."""
    settings, training = _settings(config), config.training.of_phase(PHASE)
    config.check_phases([PHASE])
    dataset = _with_statistics(dataset, settings)
    semantic = settings.enhance is not None or settings.history.kind == "semantic_topk"
    base = open_knowledge(config.knowledge) if semantic else None
    vectors = item_matrix(config.knowledge, dataset) if semantic else None
    history = history_source(dataset, settings.history, vectors, show_progress=show_progress)
    per_positive = config.negatives or dataset.settings.negatives
    if per_positive is not None and settings.history.kind == "semantic_topk":
        raise ConfigError(
            "model.history.kind = 'semantic_topk' is prepared for the items of the log's own events, so it would give drawn "
            "negatives away; use model.history.kind = 'recent' for logs of positives only"
        )
    negatives = negative_sampler(dataset, per_positive, config.seed)
    held_out = negative_sampler(dataset, per_positive, EVALUATION_SEED)
    labels = part_labels(dataset, "valid", held_out)
    if labels.min() == labels.max():
        raise DataError(
            f"{dataset.name}: all {len(labels):,} validation rows have label {labels[0]:.0f}, so no AUC can choose a model; "
            "prepare it with another split or positive_above"
        )
    seed_everything(config.seed)
    layout = table_layout(dataset)
    lazy = training.tables == "lazy" or (training.tables == "auto" and choose_table_update(layout.rows, settings.dim) == "lazy")
    averaging = training.average_epochs
    if lazy and averaging:  # a mean of all weights visits every row at every step, which lazy tables are there to avoid
        if training.tables == "lazy":
            raise ConfigError(
                f"training.tables = 'lazy' does not go with training.average_epochs = {averaging}; set average_epochs = 0, "
                "or tables = 'dense'"
            )
        averaging = 0.0
    model = build_ranker(
        settings,
        layout,
        item_fields_of(dataset),
        knowledge=torch.from_numpy(vectors) if vectors is not None and settings.enhance is not None else None,
        seed=spawn(config.seed, "pairs"),
        sparse=lazy,
    )
    batches = RankingBatches(
        dataset,
        dataset.split["train"],
        training.batch_size,
        history,
        shuffle=True,
        seed=spawn(config.seed, "batches") % 2**31,
        negatives=negatives,
    )
    valid = part_batches(dataset, "valid", history, held_out)
    weights = part_weights(dataset, "valid", held_out)

    def validate(module: nn.Module) -> Mapping[str, float]:
        assert isinstance(module, Ranker)
        logits = score_batches(module, valid, next(module.parameters()).device)
        probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
        return {"auc": auc(labels, logits, weights), "log_loss": log_loss(labels, probabilities, weights)}

    choices = {"tables": "lazy" if lazy else "dense", "table_rows": layout.rows, "average_epochs": averaging}
    with claim(path, config, {"data": dataset.fingerprint, "knowledge": digest_of(vectors)}):
        result = train(
            [_phase(training, settings, model, batches, validate, averaging)],
            path / "training",
            hardware=Hardware(accelerator=training.accelerator, precision=training.precision),
            seed=config.seed,
            checkpoint_every=CheckpointEvery(seconds=training.checkpoint_seconds),
            show_progress=show_progress,
        )
        _save_ranker(path, model.cpu())
        save_record(path, config, dataset, settings.title, result, choices, base)
    return load(path, dataset=dataset)


def _phase(
    training: TrainingConfig,
    settings: RankingConfig,
    model: Ranker,
    batches: RankingBatches,
    validate: Callable[[nn.Module], Mapping[str, float]],
    average_epochs: float,
) -> Phase:
    """One phase: the main group on the visible weighted sum, the estimators, where there are any, stepped first."""
    enhance, weights = settings.enhance, {"prediction": 1.0}
    main = OptimiserGroup("main", model.main_parameters(), training.lr, training.weight_decay, decoupled=training.decoupled)
    groups = [main]
    for source in model.sources:
        if isinstance(source, DisCo):
            weights |= {name: weight for name, weight in source.weights.items() if weight}
    if enhance is not None and model.estimator_parameters():
        groups.append(
            OptimiserGroup(ESTIMATORS, model.estimator_parameters(), enhance.estimator_lr, steps=enhance.estimator_steps)
        )
    stop = StopRule(max_epochs=training.max_epochs, patience=training.patience, checks_per_epoch=training.checks_per_epoch)
    steps = average_epochs * len(batches)
    return Phase(
        PHASE,
        model,
        batches,
        groups,
        weights,
        validate,
        monitor="auc",
        stop=stop,
        clip_norm=training.clip_norm,
        averaging=max(0.0, 1.0 - 1.0 / steps) if steps else 0.0,
    )


def _save_ranker(path: Path, model: Ranker) -> None:
    """The exported model: of an enhancer, what reads new items and no more."""
    model.eval()
    width = 0
    for source in model.sources:
        if isinstance(source, DisCo):
            width = source.semantic.semantic_width
            source.export()
    parameters = sum(weight.numel() for weight in model.parameters())
    about = {"layout": asdict(model.embed.layout), "semantic_width": width, "parameters": parameters}
    save_model(path, model.state_dict(), about)


# -- the run --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Past:
    """Who asks: a user's catalogue row, 0 for somebody new, and all behaviours, items and signals (n,) int32, oldest first."""

    user: int
    items: torch.Tensor
    signals: torch.Tensor


@dataclass
class RankingRun(Run):
    """A ranking model and its data: probabilities of a positive, AUC and log loss of held-out rows."""

    model: Ranker

    scores_are_probabilities: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._history: HistorySource | None = None
        self._view: RankingView | None = None
        self._vectors: NDArray[np.float32] | None = None
        self._similar: SimilarPast | None = None
        self._negatives: NegativeSampler | None = None
        self._added_vectors: list[NDArray[np.float32]] = []

    @property
    def headline(self) -> str:
        return f"AUC {self.record['best']['metrics']['auc']:.4f}"

    def notes(self, *, new_user: bool) -> list[str]:
        stranger = "a new user has no id row: the unknown rows stand in, and each liked item counts with the highest rating"
        return [stranger] if new_user else []

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def scores(self, part: str = "test", *, show_progress: bool = True) -> NDArray[np.float32]:
        """Logits of the part's samples in log order; computed once, then read from the run directory."""
        file, note = self.path / f"scores.{part}.npy", self.path / f"scores.{part}.json"
        if note.exists() and file.exists():
            with contextlib.suppress(RunError):  # what is damaged is scored again
                stored = read_json(note, RunError)
                if stored == {"data": self.dataset.fingerprint, "sha256": sha256(file)}:
                    return np.load(file, allow_pickle=False)
        batches = part_batches(self.dataset, part, self.history, self.negatives)
        logits = score_with_progress(self.model, batches, self.device, f"scoring {part}", show_progress)
        write_atomic(file, lambda temporary: _save_array(temporary, logits))
        write_json(note, {"data": self.dataset.fingerprint, "sha256": sha256(file)})
        return logits

    def evaluate(self, part: str = "test", *, show_progress: bool = True) -> RankingReport:
        """AUC and log loss by slice; see `braidrec.evaluation.report`."""
        file = self.path / f"evaluation.{part}.json"
        logits = self.scores(part, show_progress=show_progress)
        users, slices = part_slices(self.dataset, part, self.negatives)
        labels = part_labels(self.dataset, part, self.negatives)
        weights = part_weights(self.dataset, part, self.negatives)
        report = evaluate_ranking(labels, logits, slices, users, kind="logits", weights=weights)
        write_json(file, report.to_json())
        return report

    @property
    def negatives(self) -> NegativeSampler | None:
        """Of the held-out parts: the same for every seed, None where the log has negatives of its own."""
        if self._negatives is None:
            per_positive = self.config.negatives or self.dataset.settings.negatives
            self._negatives = negative_sampler(self.dataset, per_positive, EVALUATION_SEED)
        return self._negatives

    @property
    def settings(self) -> RankingConfig:
        return _settings(self.config)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def history(self) -> HistorySource:
        """Where the model's histories come from; a semantic one is prepared on first use."""
        if self._history is None:
            config = self.settings.history
            vectors = self._knowledge if config.kind == "semantic_topk" else None
            self._history = history_source(self.dataset, config, vectors)
        return self._history

    @property
    def view(self) -> RankingView:
        if self._view is None:
            self._view = RankingView(self.dataset, self.history)
        return self._view

    @property
    def _knowledge(self) -> NDArray[np.float32]:
        if self._vectors is None:
            self._vectors = item_matrix(self.config.knowledge, self.dataset)
        return self._vectors

    # -- recommendation -----------------------------------------------------------------------------------------------

    def _known(self, user: str | int) -> _Past:
        row, log = self._user_row(user), self.dataset.log
        events = slice(int(log.start[row]), int(log.start[row + 1]))
        return _Past(row, torch.from_numpy(log.slot_item[events]), torch.from_numpy(log.slot_signal[events]))

    def _stranger(self, items: Sequence[str | int]) -> _Past:
        """The model's unknown rows stand in for a user, and each of ``items`` counts as rated with the highest signal."""
        rows = torch.tensor([self._item_row(item) for item in items], dtype=torch.int32)
        return _Past(0, rows, torch.full_like(rows, self.dataset.num_signals))

    def _past_items(self, past: _Past) -> Rows:
        return past.items.numpy()

    def _score_candidates(self, past: _Past, rows: Rows) -> Floats:
        """Probabilities of a positive."""
        parts = []
        self.model.eval()
        with torch.inference_mode():
            for chunk in torch.from_numpy(rows).split(8192):
                batch = self.view.candidates(past.user, chunk, self._window(past, chunk)).to(self.device)
                parts.append(torch.sigmoid(self.model(batch).float()).cpu())
        return torch.cat(parts).numpy()

    def _window(self, past: _Past, candidates: torch.Tensor) -> History:
        """The history that the model reads: the latest behaviours (1, K), or those most similar to each candidate (B, K)."""
        length = self.settings.history.length
        if self.settings.history.kind == "semantic_topk":
            if self._similar is None:
                added = np.concatenate(self._added_vectors) if self._added_vectors else None
                self._similar = SimilarPast.of(self._knowledge, added, length)
            return self._similar.window(past.items, past.signals, candidates)
        items, signals = past.items[-length:], past.signals[-length:]
        left = length - len(items)
        mask = torch.arange(length)[None] < len(items)
        return History(F.pad(items, (0, left))[None], F.pad(signals, (0, left))[None], mask)

    # -- items added after training -------------------------------------------------------------------------------------

    def _check_reads_text(self) -> None:
        if not any(isinstance(source, DisCo) for source in self.model.sources):
            raise RunError(f"{self.path}: a plain model knows items by id alone; add_items needs a run with enhance = 'disco'")

    def _extend(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Text goes through the semantic MLP that `export` kept; every id field takes its unknown row."""
        for source in self.model.sources:
            if isinstance(source, DisCo):
                source.semantic.add(tensors["vectors"])
        embed = self.model.embed
        embed.item_fields = torch.cat([embed.item_fields, tensors["fields"].to(embed.item_fields.device)])
        bags = [tensors[f"bag.{at}"] for at in range(sum(name.startswith("bag.") for name in tensors))]
        self.view.add_items(tensors["fields"], tensors["numbers"], bags)
        self._added_vectors.append(tensors["vectors"].numpy())
        self._similar = None


def load_ranking(path: Path, config: RunConfig, dataset: Dataset, record: Mapping[str, Any]) -> RankingRun:
    """The model in ``path`` on its data set; `braidrec.runs.run.load` has checked both."""
    settings = _settings(config)
    tensors, about = load_model(path)
    layout = TableLayout(**{name: _tuples(value) for name, value in about["layout"].items()})
    with torch.random.fork_rng(devices=[]):
        model = build_ranker(
            settings, layout, tensors["embed.item_fields"], knowledge=None, semantic_width=about["semantic_width"]
        )
    for at, source in enumerate(model.sources):
        if isinstance(source, DisCo):
            source.export()
            source.semantic.reduced = tensors[f"sources.{at}.semantic.reduced"]
    model.load_state_dict(tensors)
    model.eval()
    return RankingRun(path, config, _with_statistics(dataset, settings), record, model)


def as_ranking(run: Run) -> RankingRun:
    """Raises ConfigError for a run of another task."""
    if not isinstance(run, RankingRun):
        raise ConfigError(f"{run.path}: a {run.config.task} run, where one of a ranking model is needed")
    return run


# -- rows of a part -------------------------------------------------------------------------------------------------------


def part_slices(dataset: Dataset, part: str, negatives: NegativeSampler | None) -> tuple[NDArray[np.int32], Slices]:
    """Users (N,) and slices of a part's samples; with drawn negatives every event stands for all its samples."""
    log, rows, train = dataset.log, dataset.split[part], dataset.split["train"]
    per_event = 1 + (negatives.per_positive if negatives else 0)
    user, item = log.user[rows].repeat(per_event), log.item[rows].repeat(per_event)
    if negatives is not None:
        samples = torch.arange(len(rows) * per_event)
        item = negatives.draw(torch.from_numpy(rows).repeat_interleave(per_event), samples, samples % per_event, 0).numpy()
    return user, ranking_slices(user, item, log.user[train], log.item[train], dataset.num_items)


def baseline_reports(dataset: Dataset) -> dict[str, RankingReport]:
    """Popularity, smoothed item mean, and that plus the user's past residual, on the test part."""
    log, split = dataset.log, dataset.split
    users, slices = part_slices(dataset, "test", None)
    labels, weights = part_labels(dataset, "test", None), part_weights(dataset, "test", None)
    rankings = ranking_baselines(RankingLog(log.user, log.item, log.label, split["train"], split["valid"], split["test"]))
    return {each.name: evaluate_ranking(labels, each.test, slices, users, kind="scores", weights=weights) for each in rankings}


def _settings(config: RunConfig) -> RankingConfig:
    assert isinstance(config.model, RankingConfig)
    return config.model


def _with_statistics(dataset: Dataset, settings: RankingConfig) -> Dataset:
    return dataset.with_statistics() if settings.statistics and dataset.statistics is None else dataset


def _save_array(path: Path, values: NDArray[np.float32]) -> None:
    with path.open("wb") as stream:
        np.save(stream, values, allow_pickle=False)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value
