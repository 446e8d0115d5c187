"""Speed of this machine and of the toolkit on it: every figure is a ratio of two things timed in turn, in one run."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from braidrec.config import RunRequest, resolve
from braidrec.data.batches import RankingBatches
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.history import RecentHistory
from braidrec.data.planted import PlantedConfig, planted_world
from braidrec.errors import ConfigError, suggest
from braidrec.memory import keep_freed_pages
from braidrec.ranking.build import build_ranker, item_fields_of, table_layout
from braidrec.ranking.methods.disco import DisCo
from braidrec.ranking.ranker import ESTIMATORS, Ranker
from braidrec.training.contracts import Hardware, OptimiserGroup, Phase, StopRule
from braidrec.training.loop import train

if TYPE_CHECKING:
    from rich.table import Table

BATCH = 2048
_SEMANTIC_WIDTH = 384

# model settings by the name a benchmark uses; the textbook forms stand beside other libraries' models
MODELS: Mapping[str, tuple[str, str | None, str, Mapping[str, Any]]] = {
    "deepfm": ("deepfm", None, "textbook", {}),
    "dcn": ("dcn", None, "textbook", {"backbone": {"variant": "v1"}}),
    "dcnv2": ("dcn", None, "textbook", {"backbone": {"variant": "v2"}}),
    "din": ("din", None, "textbook", {}),
    "din-bilinear": ("din", None, "ours", {}),
    "deepfm-mean": ("deepfm", None, "ours", {}),
    "dcn-mean": ("dcn", None, "ours", {}),
    "din-disco": ("din", "disco", "ours", {}),
    "deepfm-disco": ("deepfm", "disco", "ours", {}),
    "dcn-disco": ("dcn", "disco", "ours", {}),
}


def training_speed(model: str, prepared: Path, seconds: float) -> float:
    """Samples per second of whole training steps (data path, forward, backward, Adam) of one of `MODELS`."""
    keep_freed_pages()
    step, rows = _bare_step(_ranker(model, Dataset.open(prepared)))
    for _ in range(5):
        step()
    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        step()
        steps += 1
    return steps * rows / (time.perf_counter() - begun)


def report(parts: Sequence[str] | None, prepared: Path | None, seconds: float) -> Table:
    """Run the chosen parts (default: all) and lay their rows out as one table."""
    from braidrec.runs.tables import plain_table

    if seconds <= 0:
        raise ConfigError(f"bench --seconds {seconds}: give a time above 0")
    chosen = list(parts or PARTS)
    for part in chosen:
        if part not in PARTS:
            raise ConfigError(f"bench --parts: unknown part '{part}'{suggest(part, PARTS)}")
    keep_freed_pages()
    rows: list[tuple[str, str, str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = (
            prepared
            or Dataset.prepare(
                planted_world(PlantedConfig(interactions=400_000, users=6000, items=4000)).tables,
                Path(folder) / "planted",
                PrepareSettings(),
            ).path
        )
        for part in chosen:
            rows += PARTS[part](path, seconds)
    name = Dataset.open(prepared, verify=False).name if prepared else "planted world"
    title = f"{name}; torch {torch.__version__}, {torch.get_num_threads()} threads"
    return plain_table(title, ("what", "measured", "against", "ratio"), rows)


def _memory(prepared: Path, seconds: float) -> list[tuple[str, str, str, str]]:
    """A gather with its backward pass, in a process with freed pages kept and in one without."""
    timed = {keep: float(_child("gather", *(["--keep"] if keep else []))["milliseconds"]) for keep in (False, True)}
    rate = _copy_rate()
    return [
        ("copy, memory to memory", f"{rate / 1e9:.1f} GB/s", "-", "-"),
        (
            "gather 61,440 x 64 floats and back, pages kept",
            f"{timed[True]:.1f} ms",
            f"{timed[False]:.1f} ms default",
            f"{timed[False] / timed[True]:.1f}x",
        ),
    ]


def _data(prepared: Path, seconds: float) -> list[tuple[str, str, str, str]]:
    dataset = Dataset.open(prepared)
    batches = _batches(dataset)
    for _ in batches:
        break
    rates = []
    for _ in range(3):
        begun, rows = time.perf_counter(), 0
        for batch in batches:
            rows += len(batch)
            if time.perf_counter() - begun > seconds:
                break
        rates.append(rows / (time.perf_counter() - begun))
    rate = statistics.median(rates)
    start = _child("first-batch", "--prepared", str(prepared))
    moved = rate * 30 * 2 * 8  # bytes of history read and written per sample
    return [
        ("ranking batches, history 30", f"{rate / 1e6:.2f} M samples/s", "mark 1 M samples/s", f"{rate / 1e6:.2f}x"),
        (
            "  of it, history traffic",
            f"{moved / 1e9:.2f} GB/s",
            f"{_copy_rate() / 1e9:.1f} GB/s copy",
            f"{moved / _copy_rate():.2f}x",
        ),
        ("process start to first batch", f"{start['seconds']:.2f} s", "mark 3 s", f"{start['seconds'] / 3:.2f}x"),
        ("  its peak memory", f"{start['peak_mb']:.0f} MB", "-", "-"),
    ]


def _training(prepared: Path, seconds: float) -> list[tuple[str, str, str, str]]:
    """Each enhanced model against its own plain form, and the loop against a bare one; both sides step in turn."""
    dataset = Dataset.open(prepared)
    rows = []
    for plain, enhanced, train_mark, infer_mark in (
        ("din-bilinear", "din-disco", 2.0, 1.4),
        ("deepfm-mean", "deepfm-disco", 2.5, 2.5),
        ("dcn-mean", "dcn-disco", 2.5, 2.5),
    ):
        models = [_ranker(name, dataset) for name in (plain, enhanced)]
        first, second = _alternate([_bare_step(model)[0] for model in models], seconds)
        rows.append(
            (
                f"{enhanced}: training step",
                f"{second * 1e3:.1f} ms",
                f"{first * 1e3:.1f} ms {plain} (mark {train_mark}x)",
                f"{second / first:.2f}x",
            )
        )
        for source in models[1][0].sources:
            if isinstance(source, DisCo):
                source.export()
        first, second = _alternate([_inference_step(model, dataset) for model, _ in models], seconds)
        rows.append(
            (
                f"{enhanced}: exported inference",
                f"{second * 1e3:.1f} ms",
                f"{first * 1e3:.1f} ms {plain} (mark {infer_mark}x)",
                f"{second / first:.2f}x",
            )
        )
    loop, bare = _loop_against_bare(dataset, seconds)
    rows.append(
        (
            "din-bilinear: loop with data, logging, checks",
            f"{loop * 1e3:.2f} ms",
            f"{bare * 1e3:.2f} ms bare (mark 1.08x)",
            f"{loop / bare:.3f}x",
        )
    )
    return rows


def _knowledge(prepared: Path, seconds: float) -> list[tuple[str, str, str, str]]:
    from braidrec.knowledge.speed import measure

    found = measure()
    return [
        (
            "MiniLM, 40-token texts",
            f"{found.ours:,.0f} texts/s",
            f"{found.default:,.0f} texts/s default fp32 (mark 2.5x, cosine {found.lowest_cosine:.5f})",
            f"{found.ours / found.default:.2f}x",
        )
    ]


def _tables(prepared: Path, seconds: float) -> list[tuple[str, str, str, str]]:
    from braidrec.training.optimisers import CROSSOVER_ROWS, measure_crossover

    found = measure_crossover(32, 16_384, seconds=min(seconds, 1.0))
    return [
        (
            "dense to lazy tables, crossover",
            f"{found:,} rows",
            f"{CROSSOVER_ROWS:,} rows assumed",
            f"{found / CROSSOVER_ROWS:.2f}x",
        )
    ]


PARTS: Mapping[str, Callable[[Path, float], list[tuple[str, str, str, str]]]] = {
    "memory": _memory,
    "data": _data,
    "training": _training,
    "knowledge": _knowledge,
    "tables": _tables,
}


def _ranker(name: str, dataset: Dataset) -> tuple[Ranker, Dataset]:
    if name not in MODELS:
        raise ConfigError(f"bench: unknown model '{name}'{suggest(name, MODELS)}")
    backbone, enhance, preset, changes = MODELS[name]
    request = RunRequest.model_validate(
        {"data": "-", "backbone": backbone, "enhance": enhance, "preset": preset, "model": dict(changes)}
    )
    config = resolve(request, "bench").model
    torch.manual_seed(0)
    vectors = torch.randn(dataset.num_items + 1, _SEMANTIC_WIDTH) if enhance else None
    return build_ranker(config, table_layout(dataset), item_fields_of(dataset), knowledge=vectors), dataset


def _batches(dataset: Dataset) -> RankingBatches:
    return RankingBatches(dataset, dataset.split["train"], BATCH, RecentHistory(dataset.log, 30), shuffle=True)


def _bare_step(built: tuple[Ranker, Dataset], fixed: bool = False) -> tuple[Callable[[], None], int]:
    """A training step without any loop around it; ``fixed`` takes the data path out by repeating one batch."""
    model, dataset = built
    batches = _batches(dataset)
    stream = iter(batches)
    held = next(stream)
    main = torch.optim.Adam(model.main_parameters(), lr=1e-3, weight_decay=1e-5, fused=True)
    estimators = torch.optim.Adam(model.estimator_parameters(), lr=1e-3, fused=True) if model.estimator_parameters() else None
    weights = {"prediction": 1.0, "sufficiency": 0.02, "disentanglement": 0.01}

    rows = len(held)  # a whole batch; the last one of an epoch is passed over

    def step() -> None:
        nonlocal stream
        batch = held if fixed else next(stream, None)
        while batch is None or len(batch) < rows:
            stream = iter(batches) if batch is None else stream
            batch = next(stream, None)
        taken = model.step(batch)
        if estimators is not None:
            estimators.zero_grad()
            taken.first[ESTIMATORS]().backward()
            estimators.step()
        main.zero_grad()
        torch.stack([weights[name] * loss for name, loss in taken.losses().items()]).sum().backward()
        main.step()

    return step, rows


def _inference_step(model: Ranker, dataset: Dataset) -> Callable[[], None]:
    batch = next(iter(_batches(dataset)))
    model.eval()

    def step() -> None:
        with torch.inference_mode():
            model(batch)

    return step


def _alternate(steps: Sequence[Callable[[], None]], seconds: float) -> list[float]:
    """Median seconds of each step, the sides taking turns so that the machine's drift meets both."""
    times: list[list[float]] = [[] for _ in steps]
    for step in steps:
        for _ in range(3):
            step()
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds * len(steps):
        for step, own in zip(steps, times, strict=True):
            at = time.perf_counter()
            step()
            own.append(time.perf_counter() - at)
    return [statistics.median(own) for own in times]


def _loop_against_bare(dataset: Dataset, seconds: float) -> tuple[float, float]:
    """Seconds per step of the training loop with everything on, and of bare steps on one batch held in memory."""
    ratios = []
    for _ in range(3):
        bare, _ = _bare_step(_ranker("din-bilinear", dataset), fixed=True)
        for _ in range(3):
            bare()
        begun, steps = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            bare()
            steps += 1
        per_bare = (time.perf_counter() - begun) / steps
        model, _ = _ranker("din-bilinear", dataset)
        batches = _batches(dataset)
        epochs = max(1, round(seconds / per_bare / len(batches)))
        phase = Phase(
            "rank",
            model,
            batches,
            [OptimiserGroup("main", model.main_parameters(), 1e-3, 1e-5)],
            {"prediction": 1.0},
            lambda module: {"auc": 0.5},
            stop=StopRule(max_epochs=epochs, patience=100, checks_per_epoch=2),
        )
        with tempfile.TemporaryDirectory() as folder:
            result = train([phase], Path(folder) / "run", hardware=Hardware(accelerator="cpu"), seed=0, show_progress=False)
        done = result.phases[0]
        ratios.append((done.seconds / done.steps, per_bare))
    return statistics.median(loop for loop, _ in ratios), statistics.median(bare for _, bare in ratios)


def _copy_rate() -> float:
    """Bytes per second read and written by a copy of 256 MiB into memory already touched."""
    source, target = np.ones(1 << 25), np.zeros(1 << 25)
    best = min(_timed(lambda: np.copyto(target, source)) for _ in range(3))
    return 2 * source.nbytes / best


def _timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _child(*arguments: str) -> dict[str, Any]:
    """One measurement in a process of its own."""
    begun = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "braidrec.bench", *arguments, "--begun", str(begun)], capture_output=True, text=True, check=True
    )
    value: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return value


def _gather_milliseconds(keep: bool) -> float:
    if keep:
        keep_freed_pages()
    table, index = torch.randn(3884, 64, requires_grad=True), torch.randint(0, 3884, (61_440,))

    def once() -> None:
        rows = table.index_select(0, index)
        rows.backward(torch.ones_like(rows))

    return statistics.median(_timed(once) for _ in range(20)) * 1e3


def main() -> None:
    """Measurements for other processes: one JSON line on stdout."""
    parser = argparse.ArgumentParser(prog="python -m braidrec.bench")
    parser.add_argument("what", choices=("training-speed", "first-batch", "gather"))
    parser.add_argument("--model", default="deepfm", choices=sorted(MODELS))
    parser.add_argument("--prepared", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--begun", type=float, default=0.0)
    given = parser.parse_args()
    if given.what == "gather":
        print(json.dumps({"milliseconds": _gather_milliseconds(given.keep)}))
    elif given.what == "first-batch":
        next(iter(_batches(Dataset.open(given.prepared))))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": time.time() - given.begun, "peak_mb": peak}))
    else:
        print(
            json.dumps({"model": given.model, "samples_per_second": training_speed(given.model, given.prepared, given.seconds)})
        )


if __name__ == "__main__":
    main()
