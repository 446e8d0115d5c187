"""A service that never ends, in small: many recommendations and additions in one process, and what its memory grows by.

    python benchmarks/soak.py [--recommend 100000] [--add 1000] [--json soak.json]

A planted world, DIN with DisCo.  Half of the recommendations come first, then the additions, one call each, then the other
half.  What may stay is the rows that were added: their text vectors, fields, titles and ids, and the room that Python and the
allocator round up to, taken from a first tenth of the calls.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

from braidrec.data.dataset import Dataset
from braidrec.data.planted import PlantedConfig, planted_world
from braidrec.memory import keep_freed_pages
from braidrec.runs.fit import fit
from braidrec.runs.knowledge import build

ROOM = 32 << 20  # bytes of allocators and caches that stay whatever is asked
PER_ROW = 64 << 10  # bytes of an added item: vectors in two precisions, fields, text, ids, and their copies in growing tables


def resident() -> int:
    gc.collect()
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) << 10


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recommend", type=int, default=100_000)
    parser.add_argument("--add", type=int, default=1_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if not sys.platform.startswith("linux"):
        parser.error("resident memory is read where Linux tells it")
    keep_freed_pages()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="braidrec-soak-") as name:
        folder = Path(name)
        data = Dataset.prepare(planted_world(PlantedConfig(users=150, items=120, interactions=12_000)).tables, folder / "data")
        build(data.path, folder / "kb", "tfidf")
        training = {"max_epochs": 1, "batch_size": 1024}
        model = {"dim": 8, "history": {"length": 6}}
        run = fit(
            data,
            path=folder / "run",
            enhance="disco",
            knowledge=folder / "kb",
            model=model,
            training=training,
            show_progress=False,
        )
        torch.set_num_threads(1)
        users, begun, added = data.user_ids, time.monotonic(), 0

        def recommend(count: int) -> None:
            for at in range(count):
                run.recommend(users[at % len(users)], k=5)

        recommend(given.recommend // 10)
        before = resident()
        recommend(given.recommend // 2 - given.recommend // 10)
        asked = resident()
        for at in range(given.add):
            added += run.add_items({f"late-{at}": f"a tale of the number {at} and of the sea"})
        after = resident()
        recommend(given.recommend - given.recommend // 2)
        end, seconds = resident(), time.monotonic() - begun
    grown = {"first half": asked - before, "additions": after - asked, "second half": end - after}
    bounds = {"first half": ROOM, "additions": ROOM + added * PER_ROW, "second half": ROOM}
    for part, most in bounds.items():
        verdict = "within" if grown[part] <= most else "OVER"
        print(f"{part:12} {grown[part] / 2**20:+8.1f} MiB  {verdict} {most / 2**20:.0f} MiB")
    print(f"{given.recommend:,} recommendations and {added:,} of {given.add:,} items added in {seconds:,.0f} s")
    if given.json is not None:
        given.json.write_text(json.dumps({"grown": grown, "bounds": bounds, "added": added, "seconds": seconds}) + "\n")
    return int(added != given.add or any(grown[part] > most for part, most in bounds.items()))


if __name__ == "__main__":
    sys.exit(main())
