"""braidrec's side of the part ``sasrec`` of ``benchmarks/peers.py``; prints one JSON line.

The model has RecBole's shape: SASRec in the form ``authors`` (normalised input, norms after the residual sums, inner width
4 dim), which is the nearest to RecBole's BERT-like blocks; full cross-entropy over all items.  What differs: ReLU where RecBole
has GELU, attention without bias, dropout .1 where RecBole's default is .5, positions counted from the newest item.  A window
of 50 targets is read at once, each target by what stands before it in its window, where RecBole reads the 50 items before each
target anew.  The rest of the training is the preset ``ours``.

Without ``--goals`` timed are whole training steps (data path, forward, backward, optimiser) in targets per second, after five
that warm up, then whole rankings of the validation part (item vectors, states, scores, items met before left out, ranks and
ten best) in users per second.

With ``--goals A B`` the product's own training runs, four checks an epoch, until the validation nDCG@10 has reached A with all
rated items as candidates, which is how RecBole ranks, and B with the items met before left out; or until ``--limit`` seconds
are over.  The clock starts with the training and counts the checks.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from braidrec.bench.models import phase_step
from braidrec.config import RunConfig, RunRequest, resolve
from braidrec.data.dataset import Dataset
from braidrec.data.sequences import training_ends
from braidrec.evaluation.retrieval import Ranking, RetrievalRows, rank_targets
from braidrec.evaluation.retrieval_report import gains
from braidrec.memory import keep_freed_pages
from braidrec.sequential.build import settings_of
from braidrec.sequential.scoring import HistoryScorer, part_rows
from braidrec.sequential.task import TASK
from braidrec.training.contracts import Hardware, Phase, StopRule
from braidrec.training.loop import train
from braidrec.training.stages import Stage, make_phase

WARM_UP = 5
CHECKS_PER_EPOCH = 4


class GoalsReached(Exception):
    """Ends a training from inside its validation."""


@dataclass(frozen=True)
class Task:
    """What is trained, on how many targets an epoch, and how it is judged: on the validation part, among all rated items."""

    phase: Phase
    targets: int
    rows: RetrievalRows
    length: int
    candidates: NDArray[np.bool_]  # (I + 1,)

    @classmethod
    def of(cls, config: RunConfig, dataset: Dataset) -> Task:
        plan = TASK.plan(config, dataset, None, show_progress=False)
        rows, ends = part_rows(dataset, "valid"), training_ends(dataset)
        rated = np.bincount(dataset.log.item, minlength=dataset.num_items + 1) > 0
        stage = plan.stages[0]
        assert isinstance(stage, Stage)
        training = config.training.of_phase(stage.name)
        phase = make_phase(stage, training, plan.batches(stage), plan.validate(stage), monitor=plan.monitor)
        return cls(phase, int((ends[ends > 0] - 1).sum()), rows, settings_of(config).length, rated)

    def rank(self, module: nn.Module, *, unmet: bool) -> Ranking:
        scorer = HistoryScorer(module, self.rows, self.length)
        return rank_targets(scorer, self.rows, mask_seen=unmet, candidates=self.candidates, top=10)


def configure(prepared: Path, options: argparse.Namespace) -> RunConfig:
    model = {
        "dim": options.dim,
        "length": options.history,
        "windows": "all",
        "loss": "full_ce",
        "trained_softmax": False,
        "backbone": {"variant": "authors", "blocks": options.blocks, "heads": options.heads},
    }
    return resolve(RunRequest(data=str(prepared), backbone="sasrec", preset="ours", model=model), "peers")


def speeds(task: Task, seconds: float) -> dict[str, Any]:
    """Targets per second of training steps, users per second of rankings."""
    step = phase_step(task.phase)
    for _ in range(WARM_UP):
        step()
    begun, targets, steps = time.perf_counter(), 0, 0
    while steps == 0 or time.perf_counter() - begun < seconds:
        targets += int((step().targets > 0).sum())
        steps += 1
    trained = time.perf_counter() - begun
    task.rank(task.phase.module, unmet=True)
    begun, passes = time.perf_counter(), 0
    while passes == 0 or time.perf_counter() - begun < seconds:
        task.rank(task.phase.module, unmet=True)
        passes += 1
    ranked = time.perf_counter() - begun
    return {
        "samples_per_second": targets / trained,
        "batches": steps,
        "seconds": trained,
        "users_per_second": passes * len(task.rows) / ranked,
        "users": len(task.rows),
    }


def pursue(task: Task, goals: Mapping[str, float], limit: float) -> dict[str, Any]:
    """Train until every goal is reached: seconds to each (None: not within the limit), and what every check found."""
    import lightning_fabric  # noqa: F401  an import of a second, which is no training

    checks: list[dict[str, float]] = []
    reached: dict[str, float] = {}

    def validate(module: nn.Module) -> Mapping[str, float]:
        ranks = {"ndcg@10": task.rank(module, unmet=False).rank, "ndcg@10_unmet": task.rank(module, unmet=True).rank}
        found = {name: float(gains(rank, "ndcg", 10).mean()) for name, rank in ranks.items()}
        seconds = time.perf_counter() - begun
        checks.append({"seconds": seconds, "epoch": (len(checks) + 1) / CHECKS_PER_EPOCH, **found})
        for name, goal in goals.items():
            if found[name] >= goal:
                reached.setdefault(name, seconds)
        if len(reached) == len(goals) or seconds >= limit:
            raise GoalsReached
        return found

    endless = StopRule(max_epochs=1 << 20, patience=1 << 20, checks_per_epoch=CHECKS_PER_EPOCH)
    phase = replace(task.phase, validate=validate, monitor="ndcg@10", stop=endless)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        with contextlib.suppress(GoalsReached):
            train([phase], Path(folder) / "run", hardware=Hardware(accelerator="cpu"), seed=42, show_progress=False)
    return {
        "seconds_to_goals": max(reached.values()) if len(reached) == len(goals) else None,
        "seconds_to_each": {name: reached.get(name) for name in goals},
        "goals": dict(goals),
        "checks": checks,
        "samples_per_second": checks[-1]["epoch"] * task.targets / checks[-1]["seconds"],  # with the checks' time
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    keep_freed_pages()
    task = Task.of(configure(options.prepared, options), Dataset.open(options.prepared))
    if options.goals:
        found = pursue(task, dict(zip(("ndcg@10", "ndcg@10_unmet"), options.goals, strict=True)), options.limit)
    else:
        found = speeds(task, options.seconds)
    parameters = sum(parameter.numel() for parameter in task.phase.module.parameters())
    facts = {"samples": task.targets, "parameters": parameters, "threads": torch.get_num_threads()}
    return {"model": "sasrec", **found, **facts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, required=True, help="ML-1M, the last two events of each user held out")
    parser.add_argument("--seconds", type=float, required=True, help="timed seconds, of each thing timed")
    parser.add_argument("--goals", type=float, nargs=2, metavar=("AS_PEER", "UNMET"), help="validation nDCG@10 to reach")
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds until the goals are given up")
    for name in ("dim", "blocks", "heads", "history"):
        parser.add_argument(f"--{name}", type=int, required=True)
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
