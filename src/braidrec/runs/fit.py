"""Train one model, of whatever task its backbone is for, into a run directory (see `braidrec.runs.directory`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from braidrec.config import RunConfig, RunRequest, resolve
from braidrec.data.dataset import Dataset
from braidrec.memory import keep_freed_pages
from braidrec.runs.directory import refuse_other
from braidrec.runs.run import Run, load
from braidrec.strict import parse


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

    The backbone says what is learned: to rank what was clicked above what was not (deepfm, dcn, din), or the next item of a
    sequence (sasrec, gru4rec, caser).
    model, training: single settings on top of the preset, such as ``model={"dim": 64}``; see `braidrec.config`.
    A run that was interrupted at ``path`` goes on where it stopped; a finished one with the same settings is loaded.
    Raises ConfigError for unknown settings, for an enhancer without a knowledge base, and for a folder that holds
    something else; RunError when the data or the knowledge base changed since an interrupted run began.
    """
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
    refuse_other(path, config)
    if (path / "run.json").exists():
        return load(path, dataset=dataset)
    dataset = dataset or Dataset.open(config.data)
    if config.task == "sequential":
        from braidrec.runs.sequential import train_sequential

        return train_sequential(config, path, dataset, show_progress=show_progress)
    from braidrec.runs.ranking import train_ranking

    return train_ranking(config, path, dataset, show_progress=show_progress)
