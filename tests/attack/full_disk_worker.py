"""Everything that writes, on a disk of every size: run in a mount namespace of its own, prints one JSON line.

The disk grows step by step.  Whatever fails must say so in our words and leave nothing half done: the same call goes on when
there is room, and ends with the bytes that a disk with room had.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.planted import PlantedConfig, planted_world
from braidrec.errors import BraidError
from braidrec.runs.fit import fit
from braidrec.runs.knowledge import build, nearest
from braidrec.runs.run import load

STEP = 16 << 10  # bytes by which the disk grows at least


def resize(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def digest(folder: Path, names: str) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.glob(names)):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def steps(where: Path) -> list[tuple[str, Callable[[], Any], Callable[[], str]]]:
    """(name, call, digest of what it made) of each writer, in the order in which they need one another."""
    tables = planted_world(PlantedConfig(users=60, items=60, interactions=2_000, seed=0)).tables
    model = {"dim": 4, "history": {"kind": "semantic_topk", "length": 4}}
    training = {"max_epochs": 1, "checks_per_epoch": 2, "batch_size": 256, "checkpoint_seconds": 0.001}

    def trained() -> object:
        data = Dataset.open(where / "data")
        return fit(data, path=where / "run", knowledge=where / "kb", model=model, training=training, show_progress=False)

    def exported() -> object:
        return load(where / "run").recommend_all(where / "out.parquet", k=3, show_progress=False)

    return [
        (
            "data",
            lambda: Dataset.prepare(tables, where / "data", PrepareSettings(sequences="all"), overwrite=True),
            lambda: digest(where / "data", "*.npy"),
        ),
        (
            "knowledge",
            lambda: build(where / "data", where / "kb", "tfidf"),
            lambda: str(nearest(where / "kb", None, "a book", 60)),
        ),
        ("training", trained, lambda: digest(where / "run", "model.safetensors")),
        (
            "evaluation",
            lambda: load(where / "run").evaluate(show_progress=False),
            lambda: digest(where / "run", "outcome.*.safetensors"),
        ),
        ("export", exported, lambda: str(pl.read_parquet(where / "out.parquet").hash_rows().sum())),
    ]


def refusal(call: Callable[[], Any]) -> str | None:
    try:
        call()
    except BraidError as error:
        return str(error)
    return None


def main(room: Path, disk: Path) -> None:
    wanted = {}
    for name, call, made in steps(room):
        call()
        wanted[name] = made()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={STEP}", "none", str(disk)], check=True)
    size, refusals, found = STEP, dict.fromkeys(wanted, 0), {}
    for name, call, made in steps(disk):
        state = os.statvfs(disk)
        size = max(STEP, (state.f_blocks - state.f_bfree) * state.f_frsize)  # not a block more than is used
        resize(disk, size)
        while True:
            error = refusal(call)
            if error is None:
                break
            refusals[name] += 1
            if not any(word in error for word in ("could not be written", "failed", "cannot be read")):
                raise SystemExit(f"{name}, {size} bytes: {error}")
            if left := [str(path) for path in disk.rglob(".*") if "training" not in path.parts]:
                raise SystemExit(f"{name}, {size} bytes: left behind {left}")
            size += max(STEP, size // 8)
            resize(disk, size)
        found[name] = made()
    print(json.dumps({"refusals": refusals, "differ": [name for name in wanted if wanted[name] != found[name]], "size": size}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
