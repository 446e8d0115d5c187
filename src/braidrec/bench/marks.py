"""Speed of this machine and of the toolkit on it: every figure is a ratio of two things timed in turn, in one run."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from braidrec.bench import text
from braidrec.bench.children import child, timed
from braidrec.bench.models import (
    bare_step,
    exported,
    inference_step,
    last_phase,
    node_phase,
    one_user_steps,
    phase_step,
    ranker,
    ranking_batches,
    scoring,
)
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.planted import PlantedConfig, planted_world
from braidrec.data.settings import SplitConfig
from braidrec.errors import ConfigError, suggest
from braidrec.training.contracts import Hardware, OptimiserGroup, Phase, StopRule
from braidrec.training.loop import train
from braidrec.training.seeding import own_randomness

if TYPE_CHECKING:
    from rich.table import Table

SEQUENCE_WIDTH = 128  # of PAD and its backbone, whatever the preset has
CANDIDATES = 10_000  # items scored for one user
LONG = 1_000  # behaviours of a long history
RUN, OF_ONE_USER = 32, 1_000  # targets of a user that stand together; items ranked for one user
CATALOGUE, USERS, RANKED = 1_000_000, 100_000, 504  # of a full ranking: items, users, and users that are really ranked
TEXTS, WIDTH = 1_000_000, 384  # of the map of text vectors that is brought to a model
Line = tuple[str, str, str, str]  # what, measured, against, ratio


@own_randomness()
def report(parts: Sequence[str] | None, prepared: Path | None, seconds: float) -> Table:
    """Run the chosen parts (default: all) and lay their rows out as one table."""
    from braidrec.runs.tables import plain_table

    if seconds <= 0:
        raise ConfigError(f"bench --seconds {seconds}: give a time above 0")
    chosen = list(parts or PARTS)
    for part in chosen:
        if part not in PARTS:
            raise ConfigError(f"bench --parts: unknown part '{part}'{suggest(part, PARTS)}")
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


# The planted worlds of the parts.  That for long histories has 1,333 events a user, that for old events is cut at two moments,
# that for sequences has the sizes of Amazon's Prime Pantry, that for graphs MovieLens-1M's.
_WORLDS: Mapping[str, tuple[PlantedConfig, PrepareSettings]] = {
    "": (PlantedConfig(interactions=400_000, users=6000, items=4000), PrepareSettings()),
    "long": (PlantedConfig(interactions=400_000, users=300, items=4000), PrepareSettings()),
    "old": (PlantedConfig(interactions=400_000, users=6000, items=4000), PrepareSettings(split=SplitConfig(kind="knowledge"))),
    "sequential": (
        PlantedConfig(interactions=115_004, users=12_871, items=8_347, cold_fraction=0.1),
        PrepareSettings(split=SplitConfig(kind="leave_last_two", min_history=1)),
    ),
    "collaborative": (
        PlantedConfig(interactions=1_000_209, users=6_040, items=3_706),
        PrepareSettings(split=SplitConfig(kind="ratio", ratios=(0.6, 0.2, 0.2), min_history=0)),
    ),
}


def _planted(name: str, path: Path) -> Path:
    config, settings = _WORLDS[name]
    return Dataset.prepare(planted_world(config).tables, path, settings).path


def _memory(prepared: Path, seconds: float) -> list[Line]:
    """A gather with its backward pass, in a process with freed pages kept and in one without."""
    timed = {keep: float(child("gather", *(["--keep"] if keep else []))["milliseconds"]) for keep in (False, True)}
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
    batches = ranking_batches(dataset)
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
    start = child("first-batch", "--prepared", str(prepared))
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
        models = [ranker(name, dataset) for name in (plain, enhanced)]
        first, second = _alternate([bare_step(model)[0] for model in models], seconds)
        rows.append(
            (
                f"{enhanced}: training step",
                f"{second * 1e3:.1f} ms",
                f"{first * 1e3:.1f} ms {plain} (mark {train_mark}x)",
                f"{second / first:.2f}x",
            )
        )
        first, second = _alternate([inference_step(model, dataset) for model, _ in models], seconds)
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
            f"{bare * 1e3:.2f} ms bare (mark 1.05x)",
            f"{loop / bare:.3f}x",
        )
    )
    return rows


def _packing(prepared: Path, seconds: float) -> list[Line]:
    """Targets of a user that share a window beside a window for each: steps, inference, longer histories, one user's items.

    And where a step's time goes.
    """
    dataset, rows = Dataset.open(prepared), []
    marks = {"din-bilinear": 1.6, "din-disco": 2.5, "din-disco-terms": 2.5, "deepfm-disco": 2.5, "dcn-disco": 2.5}
    for name, mark in marks.items():
        apart, together = _alternate([bare_step(ranker(name, dataset), run=run)[0] for run in (1, RUN)], seconds)
        rows.append(_faster(f"{name}: training step, runs of {RUN}", together, apart, "with a window each", mark))
    for plain, enhanced in (("din-bilinear", "din-disco"), ("deepfm-mean", "deepfm-disco"), ("dcn-mean", "dcn-disco")):
        models = [ranker(name, dataset) for name in (plain, enhanced)]
        first, second = _alternate([bare_step(model, run=RUN)[0] for model in models], seconds)
        rows.append(_slower(f"{enhanced}: training step, runs of {RUN}", second, first, plain, 2.0))
        first, second = _alternate([inference_step(model, dataset, RUN) for model, _ in models], seconds)
        rows.append(_slower(f"{enhanced}: exported inference, runs of {RUN}", second, first, plain, 1.4))
    model = ranker("din-disco", dataset)
    lengths = [bare_step(ranker("din-disco", dataset), run=4 * RUN, length=length)[0] for length in (30, 300)]
    first, second = _alternate(lengths, seconds)
    rows.append(_slower(f"din-disco: history of 300, runs of {4 * RUN}", second, first, "one of 30", 2.0))
    times = [sorted(own) for own in _times(one_user_steps(*model, OF_ONE_USER), seconds)]
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        first, second = (own[min(int(share * len(own)), len(own) - 1)] for own in times)
        rows.append(_faster(f"din-disco: {OF_ONE_USER:,} items of one user, {name}", second, first, "with a window each", 3.0))
    for name in ("din-bilinear", "din-disco"):
        shares = child("shares", "--model", name, "--prepared", str(prepared), "--run", str(RUN))
        said = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items())
        rows.append((f"{name}: where a step goes, runs of {RUN}", said, "of its operators' time", "-"))
    return rows


def _long(prepared: Path, seconds: float) -> list[Line]:
    """SDIM over long histories, in runs of one user's targets, beside DIN over 30 behaviours with a window each."""
    dataset, rows = Dataset.open(prepared), []
    for plain, against in (("din", "din, its MLP over 30"), ("din-bilinear", "din-bilinear over 30")):
        steps = [bare_step(ranker(plain, dataset))[0], bare_step(ranker("sdim", dataset), run=2 * RUN, length=LONG)[0]]
        first, second = _alternate(steps, seconds)
        rows.append(_slower(f"sdim: history of {LONG:,}, runs of {2 * RUN}, training step", second, first, against, 2.0))
    return rows


def _old(prepared: Path, seconds: float) -> list[Line]:
    """EDK's second stage with the knowledge of all rows held, beside the same backbone without it."""
    dataset, rows = Dataset.open(prepared), []
    for plain in ("deepfm", "dcn"):
        for enhanced in (f"{plain}-edk", f"{plain}-edk-concat"):
            first, second = _alternate([bare_step(ranker(name, dataset))[0] for name in (f"{plain}-mean", enhanced)], seconds)
            rows.append(_slower(f"{enhanced}: training step, knowledge held", second, first, f"{plain}-mean", 1.3))
    return rows


def _faster(what: str, now: float, before: float, against: str, mark: float) -> Line:
    short = f" ({mark - before / now:.2f}x short)" if before / now < mark else ""
    return (what, f"{now * 1e3:.2f} ms", f"{before * 1e3:.2f} ms {against} (mark {mark}x){short}", f"{before / now:.2f}x")


def _slower(what: str, now: float, base: float, against: str, mark: float) -> Line:
    over = f" ({now / base - mark:.2f}x over)" if now / base > mark else ""
    return (what, f"{now * 1e3:.2f} ms", f"{base * 1e3:.2f} ms {against} (mark {mark}x at most){over}", f"{now / base:.2f}x")


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
        plain, pad = (last_phase(dataset, enhance, loss, SEQUENCE_WIDTH) for enhance in (None, "pad"))
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


def _collaborative(prepared: Path, seconds: float) -> list[Line]:
    """LightGCN with DaRec beside LightGCN alone, a step of 4,096 pairs: by ours, and by the paper's settings, the uniformity of
    1,024 of the 4,096 rows, and of all.
    """
    dataset = Dataset.open(prepared)
    forms = {
        "ours": node_phase(dataset, "darec", "ours"),
        "paper, uniformity of 1,024 rows": node_phase(dataset, "darec", "paper", uniformity_rows=1024),
        "paper": node_phase(dataset, "darec", "paper"),
    }
    plain, *enhanced = _alternate([phase_step(phase) for phase in (node_phase(dataset, None), *forms.values())], seconds)
    return [
        _slower(f"LightGCN + DaRec, {form}: training step", step, plain, "LightGCN", 1.35)
        for form, step in zip(forms, enhanced, strict=True)
    ]


def _one_user(seconds: float) -> list[Line]:
    calls = [
        call for enhance in (None, "pad") for call in scoring(exported(enhance, CANDIDATES, dim=SEQUENCE_WIDTH), CANDIDATES)
    ]
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
    found = child("full-ranking", "--items", str(CATALOGUE), "--users", str(RANKED))
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


def _text(prepared: Path, seconds: float) -> list[Line]:
    """Memory that text takes from a knowledge base's map to a model, over what the process held before, ids included."""
    rows: list[Line] = []
    with tempfile.TemporaryDirectory() as name:
        text.make(Path(name), TEXTS, WIDTH)
        for backbone, method in text.MODELS.items():
            found = child("text", "--model", backbone, "--prepared", name)
            more, stored = found["peak_mb"] - found["start_mb"], found["map_mb"]
            rows.append(
                (
                    f"text of {TEXTS:,} items x {WIDTH} float16 to {backbone}-{method}: peak memory",
                    f"{found['peak_mb'] / 1e3:.2f} GB, {more / 1e3:.2f} GB above the start",
                    f"{stored / 1e3:.2f} GB map (mark 2x: the map and one copy)",
                    f"{more / stored:.2f}x",
                )
            )
    return rows


PARTS: Mapping[str, Callable[[Path, float], list[Line]]] = {
    "memory": _memory,
    "data": _data,
    "training": _training,
    "packing": _packing,
    "long": _long,
    "old": _old,
    "knowledge": _knowledge,
    "tables": _tables,
    "sequential": _sequential,
    "collaborative": _collaborative,
    "text": _text,
}


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
    return [statistics.median(own) for own in _times(steps, seconds)]


def _times(steps: Sequence[Callable[[], None]], seconds: float) -> list[list[float]]:
    """Seconds of each step at each of its turns."""
    times: list[list[float]] = [[] for _ in steps]
    for step in steps:
        for _ in range(3):
            step()
    begun = time.perf_counter()
    while not times[-1] or time.perf_counter() - begun < seconds * len(steps):
        for step, own in zip(steps, times, strict=True):
            at = time.perf_counter()
            step()
            own.append(time.perf_counter() - at)
    return times


def _loop_against_bare(dataset: Dataset, seconds: float) -> tuple[float, float]:
    """Seconds per step of the training loop with everything on, and of bare steps on one batch held in memory."""
    ratios = []
    for _ in range(3):
        bare, _ = bare_step(ranker("din-bilinear", dataset), fixed=True)
        for _ in range(3):
            bare()
        begun, steps = time.perf_counter(), 0
        while not steps or time.perf_counter() - begun < seconds:
            bare()
            steps += 1
        per_bare = (time.perf_counter() - begun) / steps
        model, _ = ranker("din-bilinear", dataset)
        batches = ranking_batches(dataset)
        epochs = max(1, round(seconds / per_bare / len(batches)))
        phase = Phase(
            "rank",
            model,
            batches,
            [OptimiserGroup("main", model.groups()[0].parameters, 1e-3, 1e-5)],
            model.weights,
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
    best = min(timed(lambda: np.copyto(target, source)) for _ in range(3))
    return 2 * source.nbytes / best
