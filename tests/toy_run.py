"""A next-item model that counts: what a task has to give for a run, and nothing more.

`install` puts it in the place of the sequential task for one test.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import small_runs
from braidrec.config import RunConfig
from braidrec.data.dataset import Dataset
from braidrec.errors import RunError
from braidrec.runs.directory import claim, load_model, save_model, save_record
from braidrec.runs.fit import fit
from braidrec.runs.knowledge import open_knowledge
from braidrec.runs.run import Floats, Rows, Run, load
from braidrec.runs.tables import plain_table
from braidrec.training.contracts import PhaseResult, TrainingResult


@dataclass
class ToyRun(Run):
    """An item's score: how often it was met in training, and how long the past of who asks is."""

    counts: Floats  # (I + 1,)

    def evaluate(self, part: str = "test", *, show_progress: bool = True) -> Mapping[str, int]:
        return {"all": len(self.dataset.split[part])}

    def notes(self, *, new_user: bool) -> list[str]:
        return ["somebody new gets what is popular"] if new_user else []

    def _known(self, user: str | int) -> Rows:
        row, log = self._user_row(user), self.dataset.log
        return log.slot_item[int(log.start[row]) : int(log.start[row + 1])]

    def _stranger(self, items: Sequence[str | int]) -> Rows:
        return np.array([self._item_row(item) for item in items], np.int32)

    def _past_items(self, past: Rows) -> Rows:
        return past

    def _score_candidates(self, past: Rows, rows: Rows) -> Floats:
        return self.counts[rows] + np.float32(1000 * len(past))

    def _check_reads_text(self) -> None:
        if self.record["knowledge"] is None:
            raise RunError(f"{self.path}: reads no text")

    def _extend(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.counts = np.concatenate([self.counts, tensors["vectors"].norm(dim=1).numpy()])


class BatchedRun(ToyRun):
    """The same for everybody at once, in its own way: one item, whoever asks."""

    def _rank_all(self, users: Sequence[str], k: int, candidates: Rows, exclude_seen: bool) -> Iterator[tuple[Rows, Floats]]:
        for at in range(len(users)):
            yield np.array([1 + at % self.num_items], np.int32), np.array([at], np.float32)


def train_toy(config: RunConfig, path: Path, dataset: Dataset, *, show_progress: bool) -> Run:
    base = open_knowledge(config.knowledge) if config.knowledge else None
    counts = np.bincount(dataset.log.item[dataset.split["train"]], minlength=dataset.num_items + 1)
    with claim(path, config, {"data": dataset.fingerprint}):
        (path / "training" / "metrics.jsonl").write_text("{}\n")
        save_model(path, {"counts": torch.from_numpy(counts).float()}, {"width": 1})
        phases = [
            PhaseResult(name, 1, steps, 0.5, {"hr@10": 0.5, "ndcg@10": 0.25}, steps, 1.0, 2.0 * steps, "")
            for name, steps in (("pretrain", 3), ("experts", 7))
        ]
        save_record(path, config, dataset, "Toy", TrainingResult(tuple(phases)), {"buckets": 3}, base, {"edges": [1, 2]})
    return load(path, dataset=dataset)


def load_toy(path: Path, config: RunConfig, dataset: Dataset, record: Mapping[str, Any]) -> ToyRun:
    tensors, about = load_model(path)
    assert about == {"width": 1}
    return ToyRun(path, config, dataset, record, tensors["counts"].numpy())


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    sequential, tables = ModuleType("braidrec.runs.sequential"), ModuleType("braidrec.runs.sequential_tables")
    sequential.train_sequential, sequential.load_sequential = train_toy, load_toy  # type: ignore[attr-defined]
    tables.sequential_evaluation_table = lambda runs, part, baselines: plain_table(  # type: ignore[attr-defined]
        f"{[run.title for run in runs]}, {part}, {baselines}", ("metric",), [(0.5,)]
    )
    tables.sequential_comparison_tables = lambda runs: [  # type: ignore[attr-defined]
        plain_table(f"{len(runs)} compared", ("p",), [(0.5,)])
    ]
    for module in (sequential, tables):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def toy(path: Path, **changes: Any) -> Run:
    return fit(small_runs.dataset(), path=path, backbone="sasrec", show_progress=False, **changes)
