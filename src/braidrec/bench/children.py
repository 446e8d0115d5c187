"""Measurements in processes of their own: one JSON line on stdout each.

python -m braidrec.bench.children training-speed --model din --prepared FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from braidrec.bench import text
from braidrec.bench.models import MODELS, bare_step, exported, ranker, ranking_batches
from braidrec.data.dataset import Dataset
from braidrec.errors import BraidError
from braidrec.evaluation.retrieval import BUDGET_BYTES, RetrievalRows, rank_targets
from braidrec.memory import keep_freed_pages
from braidrec.sequential.scoring import HistoryScorer


def timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def training_speed(model: str, prepared: Path, seconds: float) -> float:
    """Samples per second of whole training steps (data path, forward, backward, Adam) of one of `MODELS`."""
    keep_freed_pages()
    step, rows = bare_step(ranker(model, Dataset.open(prepared)))
    for _ in range(5):
        step()
    begun, steps = time.perf_counter(), 0
    while not steps or time.perf_counter() - begun < seconds:
        step()
        steps += 1
    return steps * rows / (time.perf_counter() - begun)


_KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm"),
    "gathers and sums by index": ("index", "gather", "scatter", "embedding"),
    "optimiser": ("_fused_adam", "Optimizer"),
}


def operator_shares(step: Callable[[], None]) -> dict[str, float]:
    """Kind of operator -> its share of the operators' own time."""
    from torch.profiler import ProfilerActivity, profile

    for _ in range(3):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(5):
            step()
    times = dict.fromkeys((*_KINDS, "the rest"), 0.0)
    for event in found.key_averages():
        own = event.key.removeprefix("aten::")
        kind = next((kind for kind, heads in _KINDS.items() if own.startswith(heads)), "the rest")
        times[kind] += event.self_cpu_time_total
    total = max(sum(times.values()), 1e-9)
    return {kind: time / total for kind, time in times.items()}


def child(*arguments: str) -> dict[str, Any]:
    """One measurement in a process of its own."""
    begun = time.time()
    command = [sys.executable, "-m", "braidrec.bench.children", *arguments, "--begun", str(begun)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    value: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return value


def _gather_milliseconds(keep: bool) -> float:
    if keep:
        keep_freed_pages()
    table, index = torch.randn(3884, 64, requires_grad=True), torch.randint(0, 3884, (61_440,))

    def once() -> None:
        rows = table.index_select(0, index)
        rows.backward(torch.ones_like(rows))

    return statistics.median(timed(once) for _ in range(20)) * 1e3


def _rank_slice(items: int, users: int) -> dict[str, float]:
    """Some users of a full ranking, as `evaluate` makes it: a SASRec of width 64 with 20 items each, ranks and the ten best.

    peak_mb: of this process until then    product_seconds: the products of all states and items alone, into one buffer
    """
    model, rng = cast(nn.Module, exported(None, items, dim=64)), np.random.default_rng(0)
    past, first = rng.integers(1, items + 1, 20 * users, dtype=np.int32), 20 * np.arange(users)
    targets = rng.integers(1, items + 1, users, dtype=np.int32)
    rows = RetrievalRows.single(np.arange(users, dtype=np.int32), targets, past, first, first + 20, items)
    scorer = HistoryScorer(model, rows, 20)
    begun = time.perf_counter()
    rank_targets(scorer, rows)
    seconds = time.perf_counter() - begun
    peak = peak_mb()
    del model, scorer
    block = max(1, min(users, BUDGET_BYTES // (5 * items)))
    states, table, buffer = torch.randn(block, 64), torch.randn(items, 64), torch.empty(block, items)
    product = statistics.median(timed(lambda: torch.mm(states, table.T, out=buffer)) for _ in range(3))
    return {"seconds": seconds, "peak_mb": peak, "product_seconds": product * users / block}


def peak_mb() -> float:
    """Largest resident memory of this process, in 10^6 bytes.

    Not getrusage's: that starts from the largest size of the process that started this one.
    """
    if (status := Path("/proc/self/status")).is_file():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:
        raise BraidError("bench: this system tells no process's peak memory; run it on Linux or macOS") from None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def resident_mb() -> float:
    """What of this process is in memory now, in 10^6 bytes; the largest so far where the system does not tell."""
    if (status := Path("/proc/self/statm")).is_file():
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return peak_mb()


def _text_memory(folder: Path, backbone: str) -> dict[str, float]:
    """start_mb: with the data set and its ids at hand    peak_mb: the largest from there to a model as a run keeps it

    A few texts go the same way first: what a process loads and sets up once, more on one machine than on another, is no copy.
    """
    keep_freed_pages()
    with tempfile.TemporaryDirectory() as few:
        text.make(Path(few), 1_000, 16)
        text.bring(text.settings(Path(few), backbone), Dataset.open(Path(few) / "data"))
    config = text.settings(folder, backbone)
    data = Dataset.open(config.data)
    start = resident_mb() if data.item_ids else 0.0
    text.bring(config, data)
    return {"start_mb": start, "peak_mb": peak_mb(), "map_mb": text.map_mb(folder)}


def main() -> None:
    """Measurements for other processes: one JSON line on stdout."""
    parser = argparse.ArgumentParser(prog="python -m braidrec.bench.children")
    parser.add_argument("what", choices=("training-speed", "first-batch", "gather", "full-ranking", "text", "shares"))
    parser.add_argument("--model", default="deepfm", choices=sorted({*MODELS, *text.MODELS}))
    parser.add_argument("--prepared", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--run", type=int, default=1)
    parser.add_argument("--items", type=int, required=False, default=1_000_000)
    parser.add_argument("--users", type=int, default=504)
    parser.add_argument("--begun", type=float, default=0.0)
    given = parser.parse_args()
    if given.what == "gather":
        print(json.dumps({"milliseconds": _gather_milliseconds(given.keep)}))
    elif given.what == "first-batch":
        next(iter(ranking_batches(Dataset.open(given.prepared))))
        print(json.dumps({"seconds": time.time() - given.begun, "peak_mb": peak_mb()}))
    elif given.what == "full-ranking":
        print(json.dumps(_rank_slice(given.items, given.users)))
    elif given.what == "shares":
        keep_freed_pages()
        step, _ = bare_step(ranker(given.model, Dataset.open(given.prepared)), run=given.run)
        print(json.dumps(operator_shares(step)))
    elif given.what == "text":
        print(json.dumps(_text_memory(given.prepared, given.model)))
    else:
        print(
            json.dumps({"model": given.model, "samples_per_second": training_speed(given.model, given.prepared, given.seconds)})
        )


if __name__ == "__main__":
    main()
