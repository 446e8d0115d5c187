"""Train one ranking model into a run directory.

config.toml        every setting, resolved            run.json         what was trained on what, and how it went
model.safetensors  weights; model.json: sizes, digest  vocabulary.json  raw values by row
metrics.jsonl      one line per check                  environment.json versions, machine, threads
training/          checkpoints, for as long as the run can be resumed
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from braidrec.config import RunConfig, RunRequest, from_toml, resolve, to_toml
from braidrec.data.batches import RankingBatches
from braidrec.data.dataset import Dataset
from braidrec.errors import ConfigError, DataError, RunError
from braidrec.evaluation.metrics import auc, log_loss
from braidrec.files import read_json, save_tensors, sha256, write_json, write_text
from braidrec.knowledge.base import KnowledgeBase
from braidrec.knowledge.lock import writer_lock
from braidrec.memory import keep_freed_pages
from braidrec.ranking.build import build_ranker, item_fields_of, table_layout
from braidrec.ranking.methods.disco import DisCo
from braidrec.ranking.ranker import ESTIMATORS, Ranker
from braidrec.runs.knowledge import item_matrix, open_knowledge
from braidrec.runs.run import RUN_FILES, RUN_FORMAT, Run, load, record_digest
from braidrec.runs.scoring import (
    EVALUATION_SEED,
    history_source,
    negative_sampler,
    part_batches,
    part_labels,
    part_weights,
    score_batches,
)
from braidrec.training.contracts import CheckpointEvery, Hardware, OptimiserGroup, Phase, StopRule, TrainingResult
from braidrec.training.loop import train
from braidrec.training.optimisers import choose_table_update
from braidrec.training.seeding import seed_everything, spawn


def fit(
    dataset: Dataset,
    *,
    path: Path | str,
    backbone: str = "din",
    enhance: str | None = None,
    knowledge: Path | str | None = None,
    preset: str = "ours",
    seed: int = 42,
    negatives: int | None = None,
    model: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    show_progress: bool = True,
) -> Run:
    """Train ``backbone``, with ``enhance`` or plain, and return the run.

    model, training: single settings on top of the preset, such as ``model={"dim": 64}``; see `braidrec.config`.
    A run that was interrupted at ``path`` goes on where it stopped; a finished one with the same settings is loaded.
    Raises ConfigError for unknown settings, for an enhancer without a knowledge base, and for a folder that holds
    something else; RunError when the data or the knowledge base changed since an interrupted run began.
    """
    from braidrec.strict import parse

    values = {
        "data": str(dataset.path),
        "knowledge": None if knowledge is None else str(knowledge),
        "backbone": backbone,
        "enhance": enhance,
        "preset": preset,
        "seed": seed,
        "negatives": negatives,
        "model": dict(model or {}),
        "training": dict(training or {}),
    }
    return fit_config(
        resolve(parse(RunRequest, values, "fit"), "fit"), Path(path), dataset=dataset, show_progress=show_progress
    )


def fit_config(config: RunConfig, path: Path, *, dataset: Dataset | None = None, show_progress: bool = True) -> Run:
    """Train what ``config`` says into ``path``.  Nothing is written there before data, knowledge and settings are checked."""
    keep_freed_pages()
    _refuse_other(path, config)
    if (path / "run.json").exists():
        return load(path, dataset=dataset)
    dataset = dataset or Dataset.open(config.data)
    if config.model.statistics:
        dataset = dataset.with_statistics()
    semantic = config.model.enhance is not None or config.model.history.kind == "semantic_topk"
    base = open_knowledge(config.knowledge) if semantic else None
    vectors = item_matrix(config.knowledge, dataset) if semantic else None
    history = history_source(dataset, config.model.history, vectors, show_progress=show_progress)
    per_positive = config.negatives or dataset.settings.negatives
    if per_positive is not None and config.model.history.kind == "semantic_topk":
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
    lazy = config.training.tables == "lazy" or (
        config.training.tables == "auto" and choose_table_update(layout.rows, config.model.dim) == "lazy"
    )
    averaging = config.training.average_epochs
    if lazy and averaging:  # a mean of all weights visits every row at every step, which lazy tables are there to avoid
        if config.training.tables == "lazy":
            raise ConfigError(
                f"training.tables = 'lazy' does not go with training.average_epochs = {averaging}; set average_epochs = 0, "
                "or tables = 'dense'"
            )
        averaging = 0.0
    model = build_ranker(
        config.model,
        layout,
        item_fields_of(dataset),
        knowledge=torch.from_numpy(vectors) if vectors is not None and config.model.enhance is not None else None,
        seed=spawn(config.seed, "pairs"),
        sparse=lazy,
    )
    batches = RankingBatches(
        dataset,
        dataset.split["train"],
        config.training.batch_size,
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
    with _claim(path, config, {"data": dataset.fingerprint, "knowledge": _digest_of(vectors)}):
        result = train(
            [_phase(config, model, batches, validate, averaging)],
            path / "training",
            hardware=Hardware(accelerator=config.training.accelerator, precision=config.training.precision),
            seed=config.seed,
            checkpoint_every=CheckpointEvery(seconds=config.training.checkpoint_seconds),
            show_progress=show_progress,
        )
        _save(path, config, dataset, model.cpu(), result, choices, base)
    return load(path, dataset=dataset)


def _phase(config: RunConfig, model: Ranker, batches: RankingBatches, validate: Any, average_epochs: float) -> Phase:
    """One phase: the main group on the visible weighted sum, the estimators, where there are any, stepped first."""
    training, enhance = config.training, config.model.enhance
    weights = {"prediction": 1.0}
    groups = [OptimiserGroup("main", model.main_parameters(), training.lr, training.weight_decay)]
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
        "rank",
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


def _refuse_other(path: Path, config: RunConfig) -> None:
    """Only an empty folder will do, or one that holds this very run."""
    file = path / "config.toml"
    if file.exists():
        held = tomllib.loads(to_toml(from_toml(file)))
        if found := _difference(held, tomllib.loads(to_toml(config))):
            raise ConfigError(f"{path}: holds a run with other settings ({found}); choose another folder with --out")
    elif path.exists() and not path.is_dir():
        raise ConfigError(f"{path}: a file is there already; choose another folder with --out")
    elif path.exists() and any(not each.name.startswith(".config.toml.") for each in path.iterdir()):
        raise ConfigError(f"{path}: the folder is not empty and holds no run; choose another one with --out")


@contextmanager
def _claim(path: Path, config: RunConfig, inputs: Mapping[str, str | None]) -> Iterator[None]:
    """Take the folder, for as long as this process trains in it, and only on the data that an earlier start saw."""
    if not (path / "config.toml").exists():
        write_text(path / "config.toml", to_toml(config))
    folder = path / "training"
    folder.mkdir(exist_ok=True)

    def refuse(message: str) -> None:
        raise RunError(f"{path}: another process is training this run; wait for it, or choose another folder with --out")

    with writer_lock(folder / "lock", refuse):
        note = folder / "inputs.json"
        if note.exists():
            seen = read_json(note, RunError)
            for name, digest in inputs.items():
                if seen.get(name) != digest:
                    raise RunError(
                        f"{path}: begun on other {name} (fingerprint {seen.get(name)}, now {digest}), so it cannot go on; "
                        "bring the earlier one back, or choose another folder with --out"
                    )
        else:
            write_json(note, dict(inputs))
        yield


def _difference(held: Mapping[str, Any], wanted: Mapping[str, Any], at: str = "") -> str | None:
    """The first setting that differs, in words."""
    for key in sorted(held.keys() | wanted.keys()):
        old, new = held.get(key), wanted.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            if found := _difference(old, new, f"{at}{key}."):
                return found
        elif old != new:
            return f"{at}{key} was {old!r} and is now {new!r}"
    return None


def _digest_of(vectors: NDArray[np.float32] | None) -> str | None:
    return None if vectors is None else hashlib.sha256(np.ascontiguousarray(vectors).tobytes()).hexdigest()[:16]


def _save(
    path: Path,
    config: RunConfig,
    dataset: Dataset,
    model: Ranker,
    result: TrainingResult,
    choices: Mapping[str, Any],
    base: KnowledgeBase | None,
) -> None:
    """Everything that loading needs; run.json last, so that a folder with it is complete."""
    model.eval()
    width = 0
    for source in model.sources:
        if isinstance(source, DisCo):
            width = source.semantic.semantic_width
            source.export()
    digest = save_tensors(path / "model.safetensors", model.state_dict())
    layout = asdict(model.embed.layout)
    write_json(path / "model.json", {"sha256": digest, "layout": layout, "semantic_width": width, "parameters": _count(model)})
    shutil.copyfile(dataset.path / "vocabulary.json", path / "vocabulary.json")
    write_json(path / "environment.json", environment())
    phase = result.phases[0]
    record = {
        "format": RUN_FORMAT,
        "title": config.model.title,
        "data": {
            "name": dataset.name,
            "path": str(dataset.path.resolve()),
            "fingerprint": dataset.fingerprint,
            "vocabulary": dataset.settings.vocabulary,
        },
        "knowledge": None
        if base is None
        else {**base.identity.model_dump(), "version": base.version, "path": str(Path(config.knowledge or "").resolve())},
        "choices": dict(choices),
        "best": {"check": phase.best_check, "step": phase.best_step, "metrics": dict(phase.metrics)},
        "training": {"steps": phase.steps, "seconds": phase.seconds, "samples_per_second": phase.samples_per_second},
    }
    metrics = path / "training" / "metrics.jsonl"
    if not metrics.exists():
        raise RunError(f"{metrics}: training left no metrics")
    shutil.copyfile(metrics, path / "metrics.jsonl")
    record["files"] = {name: sha256(path / name) for name in RUN_FILES}
    write_json(path / "run.json", record | {"digest": record_digest(record)})
    shutil.rmtree(path / "training")


def _count(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def environment() -> dict[str, Any]:
    """Versions, machine and threads, so that a number can be traced to where it was measured."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in (
        "braidrec",
        "torch",
        "lightning-fabric",
        "numpy",
        "polars",
        "pyarrow",
        "lancedb",
        "sentence-transformers",
        "safetensors",
    ):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": versions,
    }
