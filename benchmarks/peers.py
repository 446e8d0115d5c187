"""Speed beside RecBole's, on MovieLens-1M: both sides in turn, in one go, on the same machine.

    BRAIDREC_DATA=folder-with-ml-1m python benchmarks/peers.py --prepared prepared/ml-1m --json speed.json
    BRAIDREC_DATA=folder-with-ml-1m python benchmarks/peers.py --parts sasrec --epoch --json speed.json

RecBole lives in its own virtual environment, ``.peers/venv``, made on the first run from ``peers/requirements.txt``.  Every
measurement is a fresh process that prints one JSON line with ``samples_per_second``; ``peers/recbole_side.py`` says what is
timed.  Both sides get the same number of threads and the same task.

Ranking: our side is ``python -m braidrec.bench.children training-speed``; the eight single-valued fields of DisCo's ML-1M (DIN,
DIEN: with a history of 30), label rating > 3, the sizes in ``SETUP``.  Besides a line per model there is the geometric mean of
their ratios, the least of them, and the marks that they are held against.

``sasrec``: the last two events of each user are held out, all others but the first are targets; full cross-entropy, the sizes
in ``SEQUENCES``.  A sample is a target, on both sides.  Our side, and what differs in it, is in ``peers/braidrec_side.py``;
both read the same order of events, for many of ML-1M's share a second.  With ``--epoch`` RecBole also trains one whole
epoch (a quarter of an hour and more on two cores), which is kept in ``.peers/sasrec-epoch.json`` for later calls, and our side
trains until its validation nDCG@10 is what RecBole's is by then.  RecBole leaves the items that a user met before among a
sequence model's candidates, so both sides are judged twice: as RecBole does it, and with those items left out.

``lightgcn``: ratings above 3 alone, a random tenth of each user's held out for validation and another for test, the sizes in
``PAIRS``; a sample is a pair with one drawn negative.  Speeds are of the same model on both sides, in its authors' form; with
``--epoch`` RecBole trains ten epochs, and our preset ``ours``, at the same width and depth, until its validation nDCG@10 is
what RecBole's is by then (``peers/graph_side.py``).  Both leave the items of training out and rank among all others that
anybody has.

``--closed-form`` measures nothing of the above: EASE beside its own steps in bare torch, iALS and recommendations for everybody
beside ``implicit``, which the Python named by ``--implicit`` has (``pip install implicit`` in an environment of its own):

    python benchmarks/peers.py --closed-form --implicit ENV/bin/python --prepared prepared/ml-1m-shuffled --json closed.json

A machine drifts, so a ratio is taken within a round and the median over rounds is reported with its range; gaps under 1.4x
in a single round are noise.  ``--json FILE`` replaces the measured parts in that file and leaves its other parts alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
import venv
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.intake.sources import ml_1m
from braidrec.data.settings import SplitConfig
from braidrec.errors import DataError
from braidrec.files import read_json, sha256, write_json, write_text

HERE = Path(__file__).resolve().parent
HOME = HERE.parent / ".peers"
REQUIREMENTS = HERE / "peers" / "requirements.txt"
PEER_PYTHON = HOME / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
RANKING = ("deepfm", "dcn", "dcnv2", "din", "autoint", "xdeepfm", "pnn", "fm", "widedeep", "ffm", "fwfm", "dien")
PARTS = (*RANKING, "sasrec", "lightgcn")
SETUP = {"batch": 2048, "dim": 32, "mlp": (128, 64), "history": 30}
SEQUENCES = {"dim": 64, "blocks": 2, "heads": 2, "history": 50}
PEER_SEQUENCES = {"batch": 2048, "inner": 256}  # RecBole's defaults: targets per step, inner width (4 dim, as ours is)
PAIRS = {"dim": 64, "layers": 3, "batch": 2048}
# What a part's reports are read for: the line of the table, and the key.
READINGS = {part: {part: "samples_per_second"} for part in PARTS}
READINGS["sasrec"]["sasrec, full ranking, users/s"] = "users_per_second"
READINGS["lightgcn"]["lightgcn, full ranking, users/s"] = "users_per_second"
GOAL = "sasrec, seconds to RecBole's nDCG@10 after an epoch"
# Parts that RecBole also trains for so many epochs: the line of the table.
GOALS = {"sasrec": GOAL, "lightgcn": "lightgcn, seconds to RecBole's nDCG@10 after ten epochs"}
KINDS = {"ndcg@10": "as RecBole ranks", "ndcg@10_unmet": "without the items met before"}
MEAN_MARK, LEAST_MARK = 2.0, 1.2  # how many times faster ranking models should be: in the geometric mean, and each
MARKS = {"xdeepfm": 4.0, "autoint": 2.0}  # and those of which more is asked
FOREIGN_CORES = 0.1  # above this, other work has spoilt a measurement: two busy threads on two cores then wait for each other
SETTLE_SECONDS = 600  # reading the data and building the histories, beside the timed seconds
EPOCH_SECONDS = 4 * 3600  # by then even a slow machine has done RecBole's epoch


@dataclass(frozen=True)
class Measurement:
    """One process's report.  ``side`` is 'recbole' or 'braidrec'; ``report`` is its JSON line as printed.

    ``foreign_cores``: cores that everything else kept busy meanwhile, on average; None where the system does not tell.
    """

    part: str
    side: str
    round: int
    samples_per_second: float
    foreign_cores: float | None
    report: dict[str, object]


@dataclass(frozen=True)
class Row:
    """A line of the table: medians over the rounds in samples/s, or in what ``part`` says, and how many times faster ours is
    within rounds (median, range).
    """

    part: str
    recbole: float
    braidrec: float | None
    ratio: float | None
    ratio_range: tuple[float, float] | None


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; a wrong one exits with status 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = f"comma-separated, of {','.join(PARTS)} (default: {','.join(RANKING)})"
    parser.add_argument("--parts", type=_parts, default=RANKING, help=names)
    parser.add_argument("--prepared", type=Path, help="our prepared ML-1M directory; for ranking models, unless --peer-only")
    parser.add_argument("--peer-only", action="store_true", help="measure RecBole alone")
    parser.add_argument(
        "--epoch", action="store_true", help="sasrec, lightgcn: also RecBole's whole epochs, and our time to their quality"
    )
    parser.add_argument("--seconds", type=_positive, default=20.0, help="timed seconds per measurement (default: 20)")
    parser.add_argument("--rounds", type=int, choices=range(1, 10), default=3, metavar="1..9", help="default: 3")
    parser.add_argument("--threads", type=int, choices=range(1, 257), default=2, metavar="N", help="per side (default: 2)")
    parser.add_argument("--closed-form", action="store_true", help="EASE beside bare torch, iALS beside implicit, nothing else")
    parser.add_argument(
        "--implicit", type=Path, help="--closed-form: a Python that has implicit; left out, that side is missing"
    )
    parser.add_argument(
        "--factors", type=_count, default=100, help="--closed-form: of both sides (default: 100, implicit's own)"
    )
    parser.add_argument("--json", type=Path, help="also write everything measured to this file, after each measurement")
    options = parser.parse_args(arguments)
    if options.closed_form and options.prepared is None:
        parser.error("--prepared DIR is missing: --closed-form reads the training matrix of a prepared data set")
    if options.prepared is None and not options.peer_only and set(options.parts) & set(RANKING):
        parser.error("--prepared DIR is missing: our side trains on a prepared ML-1M directory; or pass --peer-only")
    if options.epoch and not set(options.parts) & set(GOALS):
        parser.error(f"--epoch is for the parts {' and '.join(GOALS)}; --parts is {','.join(options.parts)}")
    if options.prepared is not None and not options.prepared.is_dir():
        parser.error(f"--prepared {options.prepared}: no such directory; prepare ml-1m first")
    return options


def _parts(text: str) -> tuple[str, ...]:
    chosen = tuple(text.split(","))
    for part in chosen:
        if part not in PARTS:
            raise argparse.ArgumentTypeError(f"{part!r} is no part; choose from {', '.join(PARTS)}")
    return tuple(dict.fromkeys(chosen))


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be a positive number of seconds")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be 1 or more")
    return value


def source_archive() -> Path:
    """The official ``ml-1m.zip`` below the folder that BRAIDREC_DATA names; exits, saying what to set, when it is not there."""
    folder = os.environ.get("BRAIDREC_DATA")
    if not folder:
        raise SystemExit("BRAIDREC_DATA is not set: set it to the folder that holds ml-1m/ml-1m.zip (MovieLens-1M, GroupLens)")
    archive = Path(folder) / "ml-1m" / "ml-1m.zip"
    if not archive.is_file():
        raise SystemExit(f"{archive}: no such file; BRAIDREC_DATA={folder} must be the folder that holds ml-1m/ml-1m.zip")
    return archive


def write_atomic_files(archive: Path, folder: Path) -> None:
    """RecBole's atomic files ``ml-1m.{inter,user,item}`` from MovieLens-1M; of a movie's genres the first, as in DisCo."""
    with zipfile.ZipFile(archive) as opened:

        def rows(name: str) -> list[list[str]]:
            return [line.split("::") for line in opened.read(f"ml-1m/{name}.dat").decode("latin-1").splitlines()]

        movies = [[item, title, genres.split("|")[0]] for item, title, genres in rows("movies")]
        tables = {
            "inter": ("user_id:token item_id:token rating:float timestamp:float", rows("ratings")),
            "user": ("user_id:token gender:token age:token occupation:token zip:token", rows("users")),
            "item": ("item_id:token title:token genre:token", movies),
        }
    for suffix, (header, lines) in tables.items():
        text = "\n".join("\t".join(line) for line in [header.split(), *lines])
        write_text(folder / "ml-1m" / f"ml-1m.{suffix}", text + "\n")


def make_environment() -> None:
    """Make ``.peers/venv`` unless it stands complete for the present requirements; torch first, then the rest unresolved."""
    stamp, wanted = HOME / "venv" / "requirements.sha256", sha256(REQUIREMENTS)
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    say(f"making {HOME / 'venv'} (once; torch is about 200 MB) ...")
    venv.create(HOME / "venv", clear=True, with_pip=True)
    pins = REQUIREMENTS.read_text().splitlines()
    torch = next(pin for pin in pins if pin.startswith("torch=="))
    for target in (["--constraint", str(REQUIREMENTS), torch], ["--no-deps", "--requirement", str(REQUIREMENTS)]):
        pip = [str(PEER_PYTHON), "-m", "pip", "install", "--quiet", *target]
        if subprocess.run(pip, stdout=sys.stderr).returncode:
            raise SystemExit(f"RecBole's environment could not be installed; failed: {' '.join(pip)}")
    write_text(stamp, wanted)


def prepare_sequences(archive: Path) -> Dataset:
    """ML-1M with each user's last two events held out, prepared anew in ``.peers/sequences``."""
    settings = PrepareSettings(split=SplitConfig(kind="leave_last_two", min_history=1))
    return Dataset.prepare(ml_1m.read(archive), HOME / "sequences", settings, overwrite=True)


def write_sequences(dataset: Dataset, folder: Path) -> None:
    """RecBole's atomic file ``sequences.inter``: catalogue rows, and the place of each event in our log as its time.

    RecBole keeps times as float32, which would put the events of a minute in any order; whole numbers below 2^24 are exact.
    """
    log = dataset.log
    if len(log) > 1 << 24:
        raise SystemExit(f"{dataset.name}: {len(log):,} events; their order fits RecBole's float32 up to {1 << 24:,}")
    lines = [f"{user}\t{item}\t{place}" for place, (user, item) in enumerate(zip(log.user, log.item, strict=True))]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    write_text(folder / "sequences" / "sequences.inter", "\n".join([header, *lines]) + "\n")


def prepare_pairs(archive: Path) -> Dataset:
    """ML-1M's ratings above 3 alone, a tenth of each user's in either held-out part, prepared anew in ``.peers/pairs``."""
    import polars as pl

    tables = ml_1m.read(archive)
    liked = tables.interactions.filter(pl.col("rating") > 3)
    split = SplitConfig(kind="ratio", ratios=(0.8, 0.1, 0.1), per_user=True, min_history=0)
    return Dataset.prepare(replace(tables, interactions=liked), HOME / "pairs", PrepareSettings(split=split), overwrite=True)


def write_pairs(dataset: Dataset, folder: Path) -> None:
    """RecBole's atomic files ``pairs.{train,valid,test}.inter`` of catalogue rows."""
    for part in ("train", "valid", "test"):
        places = dataset.split[part]
        pairs = zip(dataset.log.user[places].tolist(), dataset.log.item[places].tolist(), strict=True)
        lines = ["user_id:token\titem_id:token", *(f"{user}\t{item}" for user, item in pairs)]
        write_text(folder / "pairs" / f"pairs.{part}.inter", "\n".join(lines) + "\n")


def command(side: str, part: str, options: argparse.Namespace, extra: Sequence[str] = ()) -> list[str]:
    """The process that measures one part on one side; ``extra`` words go to those of ``GOALS``."""
    sequences = part == "sasrec"
    if side == "recbole":
        sizes = SEQUENCES | PEER_SEQUENCES if sequences else PAIRS if part == "lightgcn" else SETUP
        words = [str(PEER_PYTHON), "-I", "-W", "ignore", str(HERE / "peers" / "recbole_side.py"), "--data", str(HOME / "data")]
        words += ["--model", part, "--threads", str(options.threads)]
    elif sequences:
        sizes = SEQUENCES
        words = [sys.executable, str(HERE / "peers" / "braidrec_side.py"), "--prepared", str(HOME / "sequences")]
    elif part == "lightgcn":
        sizes = PAIRS
        words = [sys.executable, str(HERE / "peers" / "graph_side.py"), "--prepared", str(HOME / "pairs")]
    else:
        sizes = {}
        words = [sys.executable, "-m", "braidrec.bench.children", "training-speed", "--model", part]
        words += ["--prepared", str(options.prepared.resolve())]
    for key, value in sizes.items():
        words += [f"--{key}", *map(str, value if isinstance(value, tuple) else [value])]
    return [*words, "--seconds", str(options.seconds), *extra]


def measure(side: str, part: str, number: int, options: argparse.Namespace) -> Measurement:
    """Run one measuring process; exits with its last words when it fails or its last line is not the report."""
    keys = READINGS[part].values()
    limit = len(keys) * options.seconds + SETTLE_SECONDS
    return run(side, part, number, command(side, part, options), options.threads, limit, keys)


def run(
    side: str, part: str, number: int, words: Sequence[str], threads: int, limit: float, keys: Iterable[str]
) -> Measurement:
    """What ``measure`` does, for any process that reports positive numbers under ``keys`` within ``limit`` seconds."""
    wanted = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    scratch = HOME / "work"  # RecBole leaves empty TensorBoard logs where it runs
    scratch.mkdir(parents=True, exist_ok=True)
    start, before = time.monotonic(), foreign_seconds()
    try:
        done = subprocess.run(words, cwd=scratch, env=os.environ | wanted, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired as late:
        raise SystemExit(f"{side} {part}: no report after {late.timeout:.0f} s; command: {' '.join(words)}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    report = read_report(done.stdout, keys)
    if done.returncode or report is None:
        last = "\n".join((done.stderr or done.stdout).splitlines()[-15:])
        raise SystemExit(f"{side} {part} failed (exit status {done.returncode}); command: {' '.join(words)}\n{last}")
    after = foreign_seconds()
    foreign = None if before is None or after is None else max(0.0, after - before) / (time.monotonic() - start)
    return Measurement(part, side, number, float(str(report["samples_per_second"])), foreign, report)


def peer_epoch(options: argparse.Namespace, part: str, fingerprint: str) -> Measurement:
    """RecBole's whole epochs of a part: as kept by an earlier call with this set-up on this machine, or measured and kept."""
    kept = HOME / f"{part}-epoch.json"
    key = {
        "setup": SEQUENCES | PEER_SEQUENCES if part == "sasrec" else PAIRS,
        "threads": options.threads,
        "data": fingerprint,
        "requirements": sha256(REQUIREMENTS),
        "machine": machine(),
    }
    if kept.is_file():
        with contextlib.suppress(DataError):  # a damaged file is measured again
            stored = read_json(kept, DataError)
            if stored["key"] == key:
                say(f"RecBole's epochs of {part} are kept from an earlier call; remove {kept} to measure them again")
                return Measurement(**stored["measurement"])
    say(f"RecBole's epochs of {part}: a quarter of an hour and more ...")
    words, keys = command("recbole", part, options, ["--epoch"]), ("samples_per_second", "epoch_seconds")
    found = run("recbole", f"{part}-epoch", 0, words, options.threads, EPOCH_SECONDS, keys)
    write_json(kept, {"key": key, "measurement": asdict(found)})
    return found


def own_goal(options: argparse.Namespace, peer: Measurement) -> Measurement:
    """Our side, trained until it has RecBole's quality, or for as long as RecBole's epochs took."""
    report = peer.report
    goals = [str(report[key]) for key in KINDS if key in report]
    extra = ["--goals", *goals, "--limit", str(report["epoch_seconds"])]
    words = command("braidrec", peer.part.removesuffix("-epoch"), options, extra)
    limit = float(str(report["epoch_seconds"])) + SETTLE_SECONDS
    return run("braidrec", peer.part, 0, words, options.threads, limit, ("samples_per_second",))


def goal_row(epoch: Sequence[Measurement]) -> Row:
    """Seconds of RecBole's epochs, and ours, if measured, until all its nDCG@10 are reached; none where they never were."""
    peer, *ours = epoch
    seconds = float(str(peer.report["epoch_seconds"]))
    reached = ours[0].report["seconds_to_goals"] if ours else None
    own = None if reached is None else float(str(reached))
    title = GOALS[peer.part.removesuffix("-epoch")]
    return Row(title, seconds, own, None if own is None else seconds / own, None)


def goal_note(epoch: Sequence[Measurement]) -> str:
    """The nDCG@10 of RecBole after its epochs, and those of our side at every check."""
    peer, *ours = epoch
    kinds = {key: kind for key, kind in KINDS.items() if key in peer.report}
    goals = ", ".join(f"{peer.report[key]:.4f} {kind}" for key, kind in kinds.items())
    speed = f"{peer.samples_per_second:,.0f} samples/s"  # beside the rounds', where the epoch is kept from an earlier call
    done = "its epoch" if peer.part == "sasrec-epoch" else "ten epochs"
    lines = [f"RecBole's validation nDCG@10 after {done}, at {speed}: {goals}"]
    checks: Any = ours[0].report["checks"] if ours else []
    for check in checks:
        values = ", ".join(f"{check[key]:.4f}" for key in kinds)
        lines.append(f"braidrec after {check['seconds']:.1f} s, {check['epoch']:.2f} of its epochs: {values}")
    return "\n".join(lines)


def foreign_seconds() -> float | None:
    """CPU seconds since boot that this process and its ended children did not use, stolen time included; None off Linux."""
    if not (counters := Path("/proc/stat")).is_file():
        return None
    user, nice, system, _idle, _wait, interrupts, soft, steal = map(int, counters.read_text().split(maxsplit=9)[1:9])
    own = os.times()
    busy = (user + nice + system + interrupts + soft + steal) / os.sysconf("SC_CLK_TCK")
    return busy - (own.user + own.system + own.children_user + own.children_system)


def read_report(output: str, keys: Iterable[str] = ("samples_per_second",)) -> dict[str, object] | None:
    """The last line of a measuring process, a JSON object with positive numbers under ``keys``; None when it is not that."""
    try:
        report = json.loads(output.strip().splitlines()[-1])
        numbers = [report[key] for key in keys]
    except (IndexError, KeyError, TypeError, json.JSONDecodeError):
        return None
    return report if all(isinstance(number, int | float) and 0 < number < math.inf for number in numbers) else None


def summarise(measurements: Sequence[Measurement]) -> list[Row]:
    """The rows of each part in order of measurement; ratios are taken within rounds that have both sides."""
    rows = []
    for part in dict.fromkeys(one.part for one in measurements):
        for name, key in READINGS[part].items():
            speed = {(one.side, one.round): float(str(one.report[key])) for one in measurements if one.part == part}
            peer, ours = ([value for (side, _), value in speed.items() if side == each] for each in ("recbole", "braidrec"))
            ratios = [value / speed["recbole", number] for (side, number), value in speed.items() if side == "braidrec"]
            spread = (min(ratios), max(ratios)) if ratios else None
            rows.append(Row(name, median(peer), median(ours) if ours else None, median(ratios) if ratios else None, spread))
    return rows


def render(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| samples/s, or as said | RecBole | braidrec | ratio | range |", "|---|--:|--:|--:|--:|"]
    for row in rows:
        ours = "-" if row.braidrec is None else f"{row.braidrec:,.0f}"
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}x"
        spread = "-" if row.ratio_range is None else "{:.2f}-{:.2f}x".format(*row.ratio_range)
        lines.append(f"| {row.part} | {row.recbole:,.0f} | {ours} | {ratio} | {spread} |")
    return "\n".join(lines)


def marks(rows: Sequence[Row]) -> list[str]:
    """What the ratios of ranking models are held against, a line each; none where no such model was measured on both sides."""
    found = {row.part: row.ratio for row in rows if row.part in RANKING and row.ratio is not None}
    if not found:
        return []
    least = min(found, key=found.__getitem__)
    held = [
        (f"geometric mean of {len(found)} ranking models", geometric_mean(found.values()), MEAN_MARK),
        (f"least of them: {least}", found[least], LEAST_MARK),
        *((part, found[part], mark) for part, mark in MARKS.items() if part in found),
    ]
    return [f"{what} {ratio:.2f}x (mark {mark:g}x{_short(ratio, mark)})" for what, ratio, mark in held]


def _short(ratio: float, mark: float) -> str:
    return f", {mark - ratio:.2f}x short" if ratio < mark else ""


def disturbed(measurements: Sequence[Measurement]) -> str:
    """A warning that names how many measurements other work has spoilt; empty when none."""
    spoilt = [one.foreign_cores for one in measurements if one.foreign_cores is not None and one.foreign_cores > FOREIGN_CORES]
    if not spoilt:
        return ""
    return (
        f"WARNING: other work kept up to {max(spoilt):.1f} cores busy during {len(spoilt)} of {len(measurements)} "
        "measurements: these numbers and ratios are not usable; measure again on a quiet machine"
    )


def machine() -> dict[str, object]:
    """What the numbers depend on: processor, cores, system, interpreter."""
    processor = platform.processor() or platform.machine()
    if (details := Path("/proc/cpuinfo")).is_file():
        named = [line.partition(":")[2].strip() for line in details.read_text().splitlines() if line.startswith("model name")]
        processor = named[0] if named else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def combine(
    earlier: Mapping[str, Any], context: Mapping[str, Any], rows: Sequence[Row], measured: Sequence[Measurement]
) -> dict[str, Any]:
    """What is written: this call's rows and measurements, and an earlier file's of other parts.

    The latter say under ``measured_with`` where the machine, the threads or the seconds were others.
    """
    past = {key: earlier.get(key) for key in ("machine", "threads", "seconds") if earlier.get(key) != context[key]}
    found: dict[str, Any] = dict(context)
    for kind, own in (("rows", [*map(asdict, rows)]), ("measurements", [*map(asdict, measured)])):
        named = {entry["part"] for entry in own}
        kept = [entry for entry in earlier.get(kind, ()) if entry["part"] not in named]
        found[kind] = [({"measured_with": past} | entry if past else entry) for entry in kept] + own
    return found


# What is beside what in the table of --closed-form: line, ours, theirs; both are (side, key), and lower seconds are better.
CLOSED_FORM = (
    ("EASE, beside its own product, Cholesky and inverse by bare torch", ("braidrec", "ease"), ("braidrec", "ease_bare_torch")),
    ("iALS, beside implicit's by conjugate gradients", ("braidrec", "ials"), ("implicit", "als")),
    ("iALS, beside implicit's exact solver", ("braidrec", "ials"), ("implicit", "als_exact")),
    ("recommend for everybody by EASE, beside implicit's", ("braidrec", "recommend_ease"), ("implicit", "recommend")),
    ("recommend for everybody by iALS, beside implicit's", ("braidrec", "recommend_ials"), ("implicit", "recommend")),
)


def closed_form(options: argparse.Namespace) -> dict[str, Any]:
    """Both sides in turn, as often as asked for; every ratio of CPU seconds is within a round."""
    matrix = HOME / "closed-form.npz"
    matrix.parent.mkdir(parents=True, exist_ok=True)
    shape = ["--matrix", str(matrix), "--factors", str(options.factors)]
    ours = [sys.executable, str(HERE / "peers" / "closed_form_side.py"), "--prepared", str(options.prepared.resolve()), *shape]
    sides = {"braidrec": ours}
    if options.implicit is not None:
        sides["implicit"] = [str(options.implicit), str(HERE / "peers" / "implicit_side.py"), *shape]
    threads = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    rounds: list[dict[str, Any]] = []
    for number in range(options.rounds):
        say(f"round {number + 1} of {options.rounds}")
        found: dict[str, Any] = {}
        for side, words in sides.items():
            own = threads | ({"OPENBLAS_NUM_THREADS": "1"} if side == "implicit" else {})  # it threads by itself, and says so
            done = subprocess.run(words, env=os.environ | own, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{side} failed; command: {' '.join(words)}\n{done.stderr[-1500:]}")
            found[side] = json.loads(done.stdout.strip().splitlines()[-1])
        rounds.append(found)
    return {"machine": machine(), "threads": options.threads, "factors": options.factors, "rounds": rounds}


def closed_form_table(rounds: Sequence[Mapping[str, Any]]) -> str:
    """CPU seconds of both, medians over rounds, and how many times the other's ours takes (median, range)."""
    lines = ["| CPU seconds | braidrec | beside | ratio | range |", "|---|--:|--:|--:|--:|"]
    for title, ours, theirs in CLOSED_FORM:
        if not all(side in found for found in rounds for side, _ in (ours, theirs)):
            continue
        pairs = [tuple(found[side][key]["cpu_seconds"] for side, key in (ours, theirs)) for found in rounds]
        ratios = [own / other for own, other in pairs]
        own, other = (median(column) for column in zip(*pairs, strict=True))
        lines.append(f"| {title} | {own:.2f} | {other:.2f} | {median(ratios):.2f} | {min(ratios):.2f}-{max(ratios):.2f} |")
    return "\n".join(lines)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.closed_form:
        measured_forms = closed_form(options)
        print(closed_form_table(measured_forms["rounds"]))
        if options.json:
            write_json(options.json, measured_forms)
        return
    archive = source_archive()
    try:
        earlier = read_json(options.json, DataError) if options.json and options.json.exists() else {}
    except DataError as damaged:
        raise SystemExit(f"--json {damaged}") from None
    make_environment()
    write_atomic_files(archive, HOME / "data")
    prints: dict[str, str] = {}
    for part, prepare, write in (("sasrec", prepare_sequences, write_sequences), ("lightgcn", prepare_pairs, write_pairs)):
        if part in options.parts:
            dataset = prepare(archive)
            write(dataset, HOME / "data")
            prints[part] = dataset.fingerprint
    context = {
        "machine": machine(),
        "setup": SETUP | {"sasrec": SEQUENCES | PEER_SEQUENCES, "lightgcn": PAIRS},
        "threads": options.threads,
        "seconds": options.seconds,
    }
    say("\n".join(f"{key}: {value}" for key, value in context.items()))
    sides = ("recbole",) if options.peer_only else ("recbole", "braidrec")
    measured: list[Measurement] = []
    epochs: dict[str, list[Measurement]] = {}  # by part: RecBole's, then ours
    start = time.monotonic()

    def rows() -> list[Row]:
        return summarise(measured) + [goal_row(epoch) for epoch in epochs.values()]

    def everything() -> list[Measurement]:
        return measured + [one for epoch in epochs.values() for one in epoch]

    def keep() -> None:
        if options.json:
            write_json(options.json, combine(earlier, context, rows(), everything()))

    try:
        for number in range(1, options.rounds + 1):
            for part in options.parts:
                for side in sides:
                    measured.append(measure(side, part, number, options))
                    flag = "  WARNING" if disturbed(measured[-1:]) else ""
                    say(f"round {number}  {part:<8}{side:<9}{measured[-1].samples_per_second:>12,.0f} samples/s{flag}")
                    keep()
        for part in prints if options.epoch else ():
            epochs[part] = [peer_epoch(options, part, prints[part])]
            keep()
            if not options.peer_only:
                epochs[part].append(own_goal(options, epochs[part][0]))
                keep()
    finally:
        if measured:
            versions = [one.report.get("versions") for one in measured if one.side == "recbole"][-1]
            print(f"{render(rows())}\n")
            if lines := marks(rows()):
                print("\n".join(lines))
            for epoch in epochs.values():
                print(goal_note(epoch))
            print(f"RecBole's side: {versions}; {(time.monotonic() - start) / 60:.1f} minutes")
            if warning := disturbed(everything()):
                print(warning)


if __name__ == "__main__":
    main()
