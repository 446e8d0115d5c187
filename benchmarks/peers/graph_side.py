"""braidrec's side of the part ``lightgcn`` of ``benchmarks/peers.py``; prints one JSON line.

Without ``--goals`` timed are whole training steps of the preset ``textbook`` (LightGCN's authors' form: BPR with one uniform
negative, mean of the layers, L2 of the batch) at the sizes given, data path included, in pairs per second, then whole rankings
of the validation part (vectors of all nodes, scores, items of training left out, the ten best) in users per second.

With ``--goals A`` the product's own training runs by the preset ``ours``, at the same width and depth, a check after each
epoch, until the validation nDCG@10 is A; or until ``--limit`` seconds are over.  The clock starts with the training and counts
the checks.  Candidates are all items that anybody has, as RecBole's are.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from braidrec.bench.models import phase_step
from braidrec.collaborative.scoring import RowsScorer, part_rows, training_graph
from braidrec.config import RunRequest, resolve
from braidrec.data.dataset import Dataset
from braidrec.evaluation.retrieval import rank_targets
from braidrec.evaluation.retrieval_report import row_gains
from braidrec.memory import keep_freed_pages
from braidrec.registry import TASKS
from braidrec.training.contracts import Hardware, Phase, StopRule
from braidrec.training.loop import train
from braidrec.training.stages import Stage, make_phase

WARM_UP = 5
Judge = Callable[[nn.Module], float]


class GoalReached(Exception):
    """Ends a training from inside its validation."""


def phase_of(data: Dataset, preset: str, options: argparse.Namespace) -> Phase:
    model = {"dim": options.dim, "depth": options.layers}
    training = {"batch_size": options.batch} if preset == "textbook" else {}
    request = RunRequest(
        data=str(options.prepared), task="collaborative", backbone="lightgcn", preset=preset, model=model, training=training
    )
    config = resolve(request, "peers")
    plan = TASKS["collaborative"].room().plan(config, data, None, show_progress=False)
    [stage] = plan.stages
    assert isinstance(stage, Stage)
    return make_phase(stage, config.training, plan.batches(stage), plan.validate(stage), monitor=plan.monitor)


def judge_of(data: Dataset) -> Judge:
    """nDCG@10 on the validation part, among all items that anybody has."""
    held, counts = part_rows(data, "valid"), torch.from_numpy(training_graph(data).item_counts)
    candidates = np.bincount(data.log.item, minlength=data.num_items + 1) > 0

    def judge(module: nn.Module) -> float:
        with torch.no_grad():
            ranking = rank_targets(RowsScorer(module, held, counts), held.rows, candidates=candidates, top=0, within=10)
        return float(row_gains(ranking, "ndcg", 10).mean())

    return judge


def speeds(phase: Phase, judge: Judge, users: int, seconds: float) -> dict[str, Any]:
    step = phase_step(phase)
    for _ in range(WARM_UP):
        step()
    begun, pairs, steps = time.perf_counter(), 0, 0
    while steps == 0 or time.perf_counter() - begun < seconds:
        pairs += len(step())
        steps += 1
    trained = time.perf_counter() - begun
    judge(phase.module)
    begun, passes = time.perf_counter(), 0
    while passes == 0 or time.perf_counter() - begun < seconds:
        judge(phase.module)
        passes += 1
    ranked = time.perf_counter() - begun
    return {
        "samples_per_second": pairs / trained,
        "batches": steps,
        "seconds": trained,
        "users_per_second": passes * users / ranked,
        "users": users,
    }


def pursue(phase: Phase, judge: Judge, goal: float, limit: float) -> dict[str, Any]:
    """Train until the goal is reached: the seconds (None: not within the limit), and what every check found."""
    import lightning_fabric  # noqa: F401  an import of a second, which is no training

    checks: list[dict[str, float]] = []

    def validate(module: nn.Module) -> Mapping[str, float]:
        found = judge(module)
        checks.append({"seconds": time.perf_counter() - begun, "epoch": len(checks) + 1, "ndcg@10": found})
        if found >= goal or checks[-1]["seconds"] >= limit:
            raise GoalReached
        return {"ndcg@10": found}

    endless = StopRule(max_epochs=1 << 20, patience=1 << 20)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        with contextlib.suppress(GoalReached):
            ending = replace(phase, validate=validate, monitor="ndcg@10", stop=endless)
            train([ending], Path(folder) / "run", hardware=Hardware(accelerator="cpu"), seed=42, show_progress=False)
    last = checks[-1]
    return {
        "seconds_to_goals": last["seconds"] if last["ndcg@10"] >= goal else None,
        "goals": {"ndcg@10": goal},
        "checks": checks,
        "samples_per_second": last["epoch"] * samples_of(phase) / last["seconds"],  # with the checks' time
    }


def samples_of(phase: Phase) -> int:
    return len(phase.module.graph)  # type: ignore[arg-type]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    keep_freed_pages()
    data = Dataset.open(options.prepared)
    phase = phase_of(data, "ours" if options.goals else "textbook", options)
    if options.goals:
        found = pursue(phase, judge_of(data), options.goals[0], options.limit)
    else:
        found = speeds(phase, judge_of(data), len(part_rows(data, "valid").rows), options.seconds)
    parameters = sum(parameter.numel() for parameter in phase.module.parameters())
    facts = {"samples": samples_of(phase), "parameters": parameters, "threads": torch.get_num_threads()}
    return {"model": "lightgcn", **found, **facts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, required=True, help="ML-1M's ratings above 3, in parts by shares")
    parser.add_argument("--seconds", type=float, required=True, help="timed seconds, of each thing timed")
    parser.add_argument("--goals", type=float, nargs=1, metavar="NDCG", help="validation nDCG@10 to reach")
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds until the goal is given up")
    for name in ("dim", "layers", "batch"):
        parser.add_argument(f"--{name}", type=int, required=True)
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
