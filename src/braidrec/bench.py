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
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from braidrec.config import RunConfig, RunRequest, resolve
from braidrec.data.batches import RankingBatches
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.history import RecentHistory
from braidrec.data.planted import PlantedConfig, planted_world
from braidrec.data.splits_config import SplitConfig
from braidrec.errors import ConfigError, suggest
from braidrec.memory import keep_freed_pages
from braidrec.ranking.build import build_ranker, item_fields_of, table_layout
from braidrec.ranking.config import RankingConfig
from braidrec.ranking.methods.disco import DisCo
from braidrec.ranking.ranker import ESTIMATORS, Ranker
from braidrec.training.contracts import Hardware, OptimiserGroup, Phase, StopRule
from braidrec.training.loop import train
from braidrec.training.optimisers import build

if TYPE_CHECKING:
    from rich.table import Table

    from braidrec.sequential.config import SequentialConfig

BATCH = 2048
SEQUENCE_WIDTH = 128  # of PAD and its backbone, whatever the preset has
CANDIDATES = 10_000  # items scored for one user
CATALOGUE, USERS, RANKED = 1_000_000, 100_000, 504  # of a full ranking: items, users, and users that are really ranked
_SEMANTIC_WIDTH = 384
Line = tuple[str, str, str, str]  # what, measured, against, ratio

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
    rows: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        worlds: dict[str, Path] = {}
        for part in chosen:
            name = part if part in _WORLDS else ""
            if prepared is None and name not in worlds:
                worlds[name] = _planted(name, Path(folder) / f"planted{name}")
            rows += PARTS[part](prepared or worlds[name], seconds)
    name = Dataset.open(prepared, verify=False).name if prepared else "planted world"
    title = f"{name}; torch {torch.__version__}, {torch.get_num_threads()} threads"
    return plain_table(title, ("what", "measured", "against", "ratio"), rows)


# The planted worlds of the parts; the one for sequences has the sizes of Amazon's Prime Pantry.
_WORLDS: Mapping[str, tuple[PlantedConfig, PrepareSettings]] = {
    "": (PlantedConfig(interactions=400_000, users=6000, items=4000), PrepareSettings()),
    "sequential": (
        PlantedConfig(interactions=115_004, users=12_871, items=8_347, cold_fraction=0.1),
        PrepareSettings(split=SplitConfig(kind="leave_last_two", min_history=1)),
    ),
}


def _planted(name: str, path: Path) -> Path:
    config, settings = _WORLDS[name]
    return Dataset.prepare(planted_world(config).tables, path, settings).path


def _memory(prepared: Path, seconds: float) -> list[Line]:
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


def _data(prepared: Path, seconds: float) -> list[Line]:
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


def _training(prepared: Path, seconds: float) -> list[Line]:
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


def _knowledge(prepared: Path, seconds: float) -> list[Line]:
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


def _tables(prepared: Path, seconds: float) -> list[Line]:
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


def _sequential(prepared: Path, seconds: float) -> list[Line]:
    """PAD beside its plain backbone, training and scoring; the data path; a ranking of a large catalogue."""
    dataset = Dataset.open(prepared)
    rows: list[Line] = []
    steps = {}
    for loss in ("full_ce", "bce"):
        plain, pad = (_last_phase(dataset, enhance, loss) for enhance in (None, "pad"))
        steps[loss], second = _alternate([phase_step(plain), phase_step(pad)], seconds)
        rows.append(
            (
                f"PAD's third phase, {loss}: training step",
                f"{second * 1e3:.1f} ms",
                f"{steps[loss] * 1e3:.1f} ms SASRec (mark 3.5x)",
                f"{second / steps[loss]:.2f}x",
            )
        )
    each = _seconds_per_batch(plain.batches, seconds)
    rows.append(
        (
            "sequence batches of 128 windows",
            f"{1 / each:,.0f} batches/s",
            f"{steps['full_ce'] * 1e3:.1f} ms SASRec's step (mark 0.050x)",
            f"{each / steps['full_ce']:.4f}x",
        )
    )
    return rows + _one_user(seconds) + _full_ranking()


def _one_user(seconds: float) -> list[Line]:
    calls = [call for enhance in (None, "pad") for call in _scoring(_exported(enhance, CANDIDATES, dim=SEQUENCE_WIDTH))]
    plain, plain_encoder, pad, pad_encoder = _alternate(calls, seconds / 2)
    shares = f"encoders {pad_encoder / pad:.0%} and {plain_encoder / plain:.0%} of it"
    return [
        (
            f"PAD: one user, {CANDIDATES:,} items scored",
            f"{pad * 1e3:.2f} ms",
            f"{plain * 1e3:.2f} ms SASRec (mark 3x; {shares})",
            f"{pad / plain:.2f}x",
        )
    ]


def _full_ranking() -> list[Line]:
    found = _child("full-ranking", "--items", str(CATALOGUE), "--users", str(RANKED))
    minutes, limit = (found[name] / RANKED * USERS / 60 for name in ("seconds", "product_seconds"))
    return [
        (
            f"full ranking, {USERS:,} users, {CATALOGUE:,} items of width 64",
            f"{minutes:.1f} min, from {RANKED:,} users",
            f"{limit:.1f} min, the matrix product alone",
            f"{minutes / limit:.2f}x",
        ),
        ("  its peak memory", f"{found['peak_mb'] / 1e3:.2f} GB", "mark 2 GB", f"{found['peak_mb'] / 2e3:.2f}x"),
    ]


PARTS: Mapping[str, Callable[[Path, float], list[Line]]] = {
    "memory": _memory,
    "data": _data,
    "training": _training,
    "knowledge": _knowledge,
    "tables": _tables,
    "sequential": _sequential,
}


def _ranker(name: str, dataset: Dataset) -> tuple[Ranker, Dataset]:
    if name not in MODELS:
        raise ConfigError(f"bench: unknown model '{name}'{suggest(name, MODELS)}")
    backbone, enhance, preset, changes = MODELS[name]
    request = RunRequest.model_validate(
        {"data": "-", "backbone": backbone, "enhance": enhance, "preset": preset, "model": dict(changes)}
    )
    config = resolve(request, "bench").model
    assert isinstance(config, RankingConfig)
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


def phase_step(phase: Phase) -> Callable[[], Any]:
    """A training step of a phase without any loop around it, on the next batch, which it returns.

    Main groups only: what steps on a loss of its own stands still.
    """
    model: Any = phase.module.train()
    optimisers = [each for group in phase.groups if group.is_main for each in build(group, [])]
    stream = iter(phase.batches)

    def step() -> Any:
        nonlocal stream
        batch = next(stream, None)
        if batch is None:
            stream = iter(phase.batches)
            batch = next(stream)
        losses = model.step(batch).losses()
        torch.stack([phase.weights[name] * loss for name, loss in losses.items()]).sum().backward()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        return batch

    return step


def _sequence_model(enhance: str | None, **changes: Any) -> tuple[RunConfig, SequentialConfig]:
    from braidrec.sequential.config import SequentialConfig

    request = {"data": "-", "backbone": "sasrec", "enhance": enhance, "preset": "ours", "model": changes}
    config = resolve(RunRequest.model_validate(request), "bench")
    assert isinstance(config.model, SequentialConfig)
    torch.manual_seed(0)
    return config, config.model


def _last_phase(dataset: Dataset, enhance: str | None, loss: str) -> Phase:
    """The phase whose model is kept, on freshly drawn weights and made-up text vectors."""
    from braidrec.runs.next_item import phases
    from braidrec.sequential.build import build_stages, make_parts

    config, settings = _sequence_model(enhance, dim=SEQUENCE_WIDTH, loss=loss)
    vectors = torch.randn(dataset.num_items + 1, _SEMANTIC_WIDTH) if enhance else None
    return phases(config, build_stages(settings, make_parts(settings, dataset, vectors)), dataset)[-1]


def _exported(enhance: str | None, items: int, **changes: Any) -> torch.nn.Module:
    """A model of a made-up catalogue, as a run keeps it."""
    from braidrec.sequential.build import build_model, make_encoder
    from braidrec.sequential.parts import Parts

    _, settings = _sequence_model(enhance, **changes)
    bucket = torch.arange(items + 1) % settings.buckets + 1
    bucket[0] = 0
    parts = Parts(
        dim=settings.dim,
        num_items=items,
        bucket=bucket,
        num_buckets=settings.buckets,
        untrained=torch.zeros(items + 1, dtype=torch.bool),
        rare=torch.arange(1, items + 1),
        make_encoder=lambda: make_encoder(settings),
        loss=settings.loss,
        knowledge=torch.randn(items + 1, _SEMANTIC_WIDTH) if enhance else None,
    )
    model: Any = build_model(settings, parts).eval()
    model.export()
    return cast(torch.nn.Module, model)


def _scoring(model: Any) -> tuple[Callable[[], None], Callable[[], None]]:
    """Scoring the catalogue for one user with 20 items, and the encoder's part of it."""
    from braidrec.runs.next_item import score_histories

    with torch.no_grad():
        catalogue = model.catalogue()
    items = torch.randint(1, CANDIDATES + 1, (1, 20))

    def whole() -> None:
        with torch.no_grad():
            score_histories(model, catalogue, items)

    def encoder() -> None:
        with torch.no_grad():
            model.states(items, items > 0)

    return whole, encoder


def _seconds_per_batch(batches: Any, seconds: float) -> float:
    for _ in batches:
        break
    begun, count = time.perf_counter(), 0
    while True:
        for _ in batches:
            count += 1
            if (spent := time.perf_counter() - begun) > seconds:
                return spent / count


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


def _rank_slice(items: int, users: int) -> dict[str, float]:
    """Some users of a full ranking, as `evaluate` makes it: a SASRec of width 64 with 20 items each, ranks and the ten best.

    peak_mb: of this process until then    product_seconds: the products of all states and items alone, into one buffer
    """
    from braidrec.evaluation.retrieval import BUDGET_BYTES, RetrievalRows, rank_targets
    from braidrec.runs.next_item import HistoryScorer

    model, rng = _exported(None, items, dim=64), np.random.default_rng(0)
    past, first = rng.integers(1, items + 1, 20 * users, dtype=np.int32), 20 * np.arange(users)
    targets = rng.integers(1, items + 1, users, dtype=np.int32)
    rows = RetrievalRows(np.arange(users, dtype=np.int32), targets, past, first, first + 20, items)
    scorer = HistoryScorer(model, rows, 20)
    begun = time.perf_counter()
    rank_targets(scorer, rows)
    seconds = time.perf_counter() - begun
    peak = _peak_mb()
    del model, scorer
    block = max(1, min(users, BUDGET_BYTES // (5 * items)))
    states, table, buffer = torch.randn(block, 64), torch.randn(items, 64), torch.empty(block, items)
    product = statistics.median(_timed(lambda: torch.mm(states, table.T, out=buffer)) for _ in range(3))
    return {"seconds": seconds, "peak_mb": peak, "product_seconds": product * users / block}


def _peak_mb() -> float:
    """Largest resident memory of this process, in 10^6 bytes.

    Not getrusage's: that starts from the largest size of the process that started this one.
    """
    if (status := Path("/proc/self/status")).is_file():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    """Measurements for other processes: one JSON line on stdout."""
    parser = argparse.ArgumentParser(prog="python -m braidrec.bench")
    parser.add_argument("what", choices=("training-speed", "first-batch", "gather", "full-ranking"))
    parser.add_argument("--model", default="deepfm", choices=sorted(MODELS))
    parser.add_argument("--prepared", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--items", type=int, default=CATALOGUE)
    parser.add_argument("--users", type=int, default=RANKED)
    parser.add_argument("--begun", type=float, default=0.0)
    given = parser.parse_args()
    if given.what == "gather":
        print(json.dumps({"milliseconds": _gather_milliseconds(given.keep)}))
    elif given.what == "first-batch":
        next(iter(_batches(Dataset.open(given.prepared))))
        print(json.dumps({"seconds": time.time() - given.begun, "peak_mb": _peak_mb()}))
    elif given.what == "full-ranking":
        print(json.dumps(_rank_slice(given.items, given.users)))
    else:
        print(
            json.dumps({"model": given.model, "samples_per_second": training_speed(given.model, given.prepared, given.seconds)})
        )


if __name__ == "__main__":
    main()
