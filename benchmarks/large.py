"""Memory with a catalogue of a million items: what asking for everybody, evaluating, nearest texts and adding items take.

    python benchmarks/large.py FOLDER [--items 1000000] [--users 300] [--json large.json]

FOLDER gets the data, the knowledge base and the run, a sequence model that knows items by text (MoRec on SASRec, 16 numbers
each); they are made on the first call.  Each line is the highest resident memory while the call ran, less that before it,
beside its budget: what the call states of its blocks, and its own results.  Linux alone tells the first (VmHWM).
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.settings import SplitConfig
from braidrec.evaluation import retrieval as evaluating
from braidrec.knowledge.base import KnowledgeBase
from braidrec.runs.fit import fit
from braidrec.runs.knowledge import build
from braidrec.runs.retrieval import BUDGET_BYTES
from braidrec.runs.run import Run, load

WIDTH, DIM, EVENTS, ADDED = 32, 16, 8, 1_000
ROOM = 64 << 20  # bytes of what a first call imports and of the encoder, whatever the catalogue


def resident(key: str) -> int:
    """Bytes, as the system has them: VmRSS now, VmHWM at most since it was reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) << 10


def growth(call: Callable[[], object]) -> tuple[int, float]:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before, begun = resident("VmRSS"), time.monotonic()
    call()
    return resident("VmHWM") - before, time.monotonic() - begun


def made(folder: Path, items: int, users: int) -> Run:
    if (folder / "run" / "run.json").exists():
        return load(folder / "run")
    rng = np.random.default_rng(0)
    log = pl.DataFrame(
        {
            "user": np.repeat(np.arange(users), EVENTS),
            "item": rng.integers(0, items, users * EVENTS),
            "time": np.arange(users * EVENTS) + 1_700_000_000,
        }
    )
    words = np.array([f"word{at}" for at in range(5_000)])
    titles = [" ".join(words[row]) for row in rng.integers(0, len(words), (items, 3))]
    catalogue = pl.DataFrame({"item": np.arange(items), "title": titles})
    settings = PrepareSettings(split=SplitConfig(kind="leave_last_two", min_history=1))
    data = Dataset.from_frames(log, catalogue, settings=settings, path=folder / "data", overwrite=True)
    (folder / "encoder.toml").write_text(f'[encoder]\nkind = "tfidf"\nwidth = {WIDTH}\n')
    build(data.path, folder / "kb", str(folder / "encoder.toml"))
    model = {"dim": DIM, "length": EVENTS, "loss": "bce", "negatives": 1}
    training = {"max_epochs": 1, "batch_size": 256}
    return fit(
        data, path=folder / "run", backbone="sasrec", enhance="morec", knowledge=folder / "kb", model=model, training=training
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if not sys.platform.startswith("linux"):
        parser.error("the highest resident memory of a call is told by Linux alone")
    made(given.folder, given.items, given.users)
    run, base = load(given.folder / "run"), KnowledgeBase.open(given.folder / "kb")
    user, k = run.dataset.user_ids[0], 10
    run.recommend(user, k=k)  # ids, catalogue and vectors of the model are held from now on, whatever is asked
    base.nearest(id=base.ids()[0], k=1)
    table = given.items * DIM * 4  # what the model made of every text
    results = given.users * k * 100
    new = {f"new{at}": f"word{at} word{at + 1}" for at in range(ADDED)}
    calls: dict[str, tuple[Callable[[], object], int, str]] = {
        "recommend, all users": (
            lambda: run.recommend_all(given.folder / "all.parquet", k=k, show_progress=False),
            BUDGET_BYTES + results + 100 * given.items,
            "block of scores + rows + ids as text",
        ),
        "evaluation": (
            lambda: run._make_outcome("test", show_progress=False),
            evaluating.BUDGET_BYTES + table,
            "block of scores + vectors of the catalogue",
        ),
        "nearest": (lambda: base.nearest(id=base.ids()[1], k=k), 200 * given.items, "one score and one id for each item"),
        "add_items": (
            lambda: run.add_items(new),
            4 * table + 300 * given.items + ROOM,
            "tables and catalogue once more, as the old ones answer until the new ones stand, and the encoder",
        ),
    }
    found = {}
    for name, (call, budget, what) in calls.items():
        most, seconds = growth(call)
        found[name] = {"bytes": most, "budget": budget, "seconds": round(seconds, 1)}
        verdict = "within" if most <= budget else "OVER"
        print(
            f"{name:22} {most / 2**20:8,.0f} MiB  {verdict} {budget / 2**20:8,.0f} MiB ({what}), {seconds:,.1f} s", flush=True
        )
    if given.json is not None:
        given.json.write_text(json.dumps({"items": given.items, "users": given.users, "calls": found}, indent=1) + "\n")
    return int(any(each["bytes"] > each["budget"] for each in found.values()))


if __name__ == "__main__":
    sys.exit(main())
