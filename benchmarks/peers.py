"""Training speed beside RecBole's, on MovieLens-1M: both sides in turn, in one go, on the same machine.

    BRAIDREC_DATA=folder-with-ml-1m python benchmarks/peers.py --prepared prepared/ml-1m --json speed.json

RecBole lives in its own virtual environment, ``.peers/venv``, made on the first run from ``peers/requirements.txt``.  Every
measurement is a fresh process that prints one JSON line with ``samples_per_second``; ``peers/recbole_side.py`` says what is
timed.  Our side is ``python -m braidrec.bench training-speed``.  Both get the same number of threads and train the same task:
the eight single-valued fields of DisCo's ML-1M (DIN: with a history of 30), label rating > 3, the sizes in ``SETUP``.

A machine drifts, so a ratio is taken within a round and the median over rounds is reported with its range; gaps under 1.4x
in a single round are noise.
"""

from __future__ import annotations

import argparse
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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from braidrec.files import sha256, write_json, write_text

HERE = Path(__file__).resolve().parent
HOME = HERE.parent / ".peers"
REQUIREMENTS = HERE / "peers" / "requirements.txt"
PEER_PYTHON = HOME / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
PARTS = ("deepfm", "dcn", "dcnv2", "din")
SETUP = {"batch": 2048, "dim": 32, "mlp": (128, 64), "history": 30}
FOREIGN_CORES = 0.1  # above this, other work has spoilt a measurement: two busy threads on two cores then wait for each other
SETTLE_SECONDS = 600  # reading the data and building the histories, beside the timed seconds


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
    """A line of the table: medians over the rounds in samples/s, and the ratio ours / peer within rounds (median, range)."""

    part: str
    recbole: float
    braidrec: float | None
    ratio: float | None
    ratio_range: tuple[float, float] | None


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; a wrong one exits with status 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=_parts, default=PARTS, help=f"comma-separated, of {','.join(PARTS)} (default: all)")
    parser.add_argument("--prepared", type=Path, help="our prepared ML-1M directory; needed unless --peer-only")
    parser.add_argument("--peer-only", action="store_true", help="measure RecBole alone")
    parser.add_argument("--seconds", type=_positive, default=20.0, help="timed seconds per measurement (default: 20)")
    parser.add_argument("--rounds", type=int, choices=range(1, 10), default=3, metavar="1..9", help="default: 3")
    parser.add_argument("--threads", type=int, choices=range(1, 257), default=2, metavar="N", help="per side (default: 2)")
    parser.add_argument("--json", type=Path, help="also write everything measured to this file, after each measurement")
    options = parser.parse_args(arguments)
    if options.prepared is None and not options.peer_only:
        parser.error("--prepared DIR is missing: our side trains on a prepared ML-1M directory; or pass --peer-only")
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


def command(side: str, part: str, options: argparse.Namespace) -> list[str]:
    """The process that measures one part on one side."""
    if side == "braidrec":
        module = [sys.executable, "-m", "braidrec.bench", "training-speed"]
        return [*module, "--model", part, "--prepared", str(options.prepared.resolve()), "--seconds", str(options.seconds)]
    sizes = [
        word for key, value in SETUP.items() for word in (f"--{key}", *map(str, value if isinstance(value, tuple) else [value]))
    ]
    script = [str(PEER_PYTHON), "-I", "-W", "ignore", str(HERE / "peers" / "recbole_side.py"), "--data", str(HOME / "data")]
    return [*script, "--model", part, "--seconds", str(options.seconds), "--threads", str(options.threads), *sizes]


def measure(side: str, part: str, number: int, options: argparse.Namespace) -> Measurement:
    """Run one measuring process; exits with its last words when it fails or its last line is not the report."""
    words = command(side, part, options)
    threads = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    scratch = HOME / "work"  # RecBole leaves empty TensorBoard logs where it runs
    scratch.mkdir(parents=True, exist_ok=True)
    start, before = time.monotonic(), foreign_seconds()
    try:
        done = subprocess.run(
            words,
            cwd=scratch,
            env=os.environ | threads,
            capture_output=True,
            text=True,
            timeout=options.seconds + SETTLE_SECONDS,
        )
    except subprocess.TimeoutExpired as late:
        raise SystemExit(f"{side} {part}: no report after {late.timeout:.0f} s; command: {' '.join(words)}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    report = read_report(done.stdout)
    if done.returncode or report is None:
        last = "\n".join((done.stderr or done.stdout).splitlines()[-15:])
        raise SystemExit(f"{side} {part} failed (exit status {done.returncode}); command: {' '.join(words)}\n{last}")
    after = foreign_seconds()
    foreign = None if before is None or after is None else max(0.0, after - before) / (time.monotonic() - start)
    return Measurement(part, side, number, float(str(report["samples_per_second"])), foreign, report)


def foreign_seconds() -> float | None:
    """CPU seconds since boot that this process and its ended children did not use, stolen time included; None off Linux."""
    if not (counters := Path("/proc/stat")).is_file():
        return None
    user, nice, system, _idle, _wait, interrupts, soft, steal = map(int, counters.read_text().split(maxsplit=9)[1:9])
    own = os.times()
    busy = (user + nice + system + interrupts + soft + steal) / os.sysconf("SC_CLK_TCK")
    return busy - (own.user + own.system + own.children_user + own.children_system)


def read_report(output: str) -> dict[str, object] | None:
    """The last line of a measuring process, a JSON object with a positive ``samples_per_second``; None when it is not that."""
    try:
        report = json.loads(output.strip().splitlines()[-1])
        speed = report["samples_per_second"]
    except (IndexError, KeyError, TypeError, json.JSONDecodeError):
        return None
    return report if isinstance(speed, int | float) and 0 < speed < math.inf else None


def summarise(measurements: Sequence[Measurement]) -> list[Row]:
    """One row per part in order of measurement; ratios are taken within rounds that have both sides."""
    rows = []
    for part in dict.fromkeys(one.part for one in measurements):
        speed = {(one.side, one.round): one.samples_per_second for one in measurements if one.part == part}
        peer, ours = ([value for (side, _), value in speed.items() if side == name] for name in ("recbole", "braidrec"))
        ratios = [value / speed["recbole", number] for (side, number), value in speed.items() if side == "braidrec"]
        spread = (min(ratios), max(ratios)) if ratios else None
        rows.append(Row(part, median(peer), median(ours) if ours else None, median(ratios) if ratios else None, spread))
    return rows


def render(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| model | RecBole, samples/s | braidrec, samples/s | ratio | range |", "|---|--:|--:|--:|--:|"]
    for row in rows:
        ours = "-" if row.braidrec is None else f"{row.braidrec:,.0f}"
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}x"
        spread = "-" if row.ratio_range is None else "{:.2f}-{:.2f}x".format(*row.ratio_range)
        lines.append(f"| {row.part} | {row.recbole:,.0f} | {ours} | {ratio} | {spread} |")
    return "\n".join(lines)


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


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    archive = source_archive()
    make_environment()
    write_atomic_files(archive, HOME / "data")
    context = {
        "machine": machine(),
        "setup": SETUP,
        "threads": options.threads,
        "seconds": options.seconds,
    }
    say("\n".join(f"{key}: {value}" for key, value in context.items()))
    sides = ("recbole",) if options.peer_only else ("recbole", "braidrec")
    measured: list[Measurement] = []
    start = time.monotonic()
    try:
        for number in range(1, options.rounds + 1):
            for part in options.parts:
                for side in sides:
                    measured.append(measure(side, part, number, options))
                    flag = "  WARNING" if disturbed(measured[-1:]) else ""
                    say(f"round {number}  {part:<8}{side:<9}{measured[-1].samples_per_second:>12,.0f} samples/s{flag}")
                    if options.json:
                        results = {"rows": [*map(asdict, summarise(measured))], "measurements": [*map(asdict, measured)]}
                        write_json(options.json, context | results)
    finally:
        if measured:
            versions = [one.report.get("versions") for one in measured if one.side == "recbole"][-1]
            print(f"{render(summarise(measured))}\n\nRecBole's side: {versions}; {(time.monotonic() - start) / 60:.1f} minutes")
            if warning := disturbed(measured):
                print(warning)


if __name__ == "__main__":
    main()
