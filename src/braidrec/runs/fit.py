"""Train one ranking model into a run directory.

config.toml        every setting, resolved            run.json         what was trained on what, and how it went
model.safetensors  weights; model.json: sizes, digest  vocabulary.json  raw values by row
metrics.jsonl      one line per check                  environment.json versions, machine, threads
training/          checkpoints, for as long as the run can be resumed
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from braidrec.config import RunConfig, RunRequest, resolve, to_toml
from braidrec.data.batches import RankingBatches
from braidrec.data.dataset import Dataset
from braidrec.errors import ConfigError, RunError
from braidrec.evaluation.metrics import auc, log_loss
from braidrec.files import save_tensors, write_json, write_text
from braidrec.knowledge.base import KnowledgeBase
from braidrec.memory import keep_freed_pages
from braidrec.ranking.build import build_ranker, item_fields_of, table_layout
from braidrec.ranking.methods.disco import DisCo
from braidrec.ranking.ranker import ESTIMATORS, Ranker
from braidrec.runs.knowledge import item_matrix, open_knowledge
from braidrec.runs.run import RUN_FORMAT, Run, load
from braidrec.runs.scoring import history_source, negative_sampler, part_batches, part_labels, score_batches
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
    Raises ConfigError for unknown settings, and for an enhancer without a knowledge base.
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
    """Train what ``config`` says into ``path``."""
    keep_freed_pages()
    _claim(path, config)
    if (path / "run.json").exists():
        return load(path, dataset=dataset)
    dataset = dataset or Dataset.open(config.data)
    if config.model.statistics:
        dataset = dataset.with_statistics()
    semantic = config.model.enhance is not None or config.model.history.kind == "semantic_topk"
    base = open_knowledge(config.knowledge) if semantic else None
    vectors = item_matrix(config.knowledge, dataset) if semantic else None
    history = history_source(dataset, config.model.history, vectors, show_progress=show_progress)
    negatives = negative_sampler(dataset, config.negatives or dataset.settings.negatives, config.seed)
    seed_everything(config.seed)
    layout = table_layout(dataset)
    lazy = config.training.tables == "lazy" or (
        config.training.tables == "auto" and choose_table_update(layout.rows, config.model.dim) == "lazy"
    )
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
    valid = part_batches(dataset, "valid", history, negatives)
    labels = part_labels(dataset, "valid", negatives)

    def validate(module: nn.Module) -> Mapping[str, float]:
        assert isinstance(module, Ranker)
        logits = score_batches(module, valid, next(module.parameters()).device)
        return {"auc": auc(labels, logits), "log_loss": log_loss(labels, 1 / (1 + np.exp(-logits.astype(np.float64))))}

    result = train(
        [_phase(config, model, batches, validate)],
        path / "training",
        hardware=Hardware(accelerator=config.training.accelerator, precision=config.training.precision),
        seed=config.seed,
        checkpoint_every=CheckpointEvery(seconds=config.training.checkpoint_seconds),
        show_progress=show_progress,
    )
    _save(path, config, dataset, model.cpu(), result, {"tables": "lazy" if lazy else "dense", "table_rows": layout.rows}, base)
    return load(path, dataset=dataset)


def _phase(config: RunConfig, model: Ranker, batches: RankingBatches, validate: Any) -> Phase:
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
    steps = training.average_epochs * len(batches)
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


def _claim(path: Path, config: RunConfig) -> None:
    """Take an empty folder, or one that holds this very run."""
    text, file = to_toml(config), path / "config.toml"
    if file.exists():
        if file.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"{path}: holds a run with other settings (config.toml differs); choose another folder with --out"
            )
        return
    if path.exists() and any(path.iterdir()):
        raise ConfigError(f"{path}: the folder is not empty and holds no run; choose another one with --out")
    write_text(file, text)


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
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint, "vocabulary": dataset.settings.vocabulary},
        "knowledge": None if base is None else {**base.identity.model_dump(), "version": base.version},
        "choices": dict(choices),
        "best": {"check": phase.best_check, "step": phase.best_step, "metrics": dict(phase.metrics)},
        "training": {"steps": phase.steps, "seconds": phase.seconds, "samples_per_second": phase.samples_per_second},
    }
    metrics = path / "training" / "metrics.jsonl"
    if not metrics.exists():
        raise RunError(f"{metrics}: training left no metrics")
    shutil.copyfile(metrics, path / "metrics.jsonl")
    write_json(path / "run.json", record)
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
