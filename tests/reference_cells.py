"""Fixed cells of every kind of model on generated data: every tensor that a run holds, and what it answers, as digests.

    python tests/reference_cells.py FOLDER [--against reference.json]

FOLDER gets the data, the knowledge bases, the runs, and reference.json.  A change that must move no number is checked by
making the file before it, and again after it, on the same machine, and comparing the two.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.planted import PlantedConfig, planted_world
from braidrec.data.settings import SplitConfig
from braidrec.runs.fit import fit
from braidrec.runs.knowledge import build

torch.set_num_threads(1)  # sums of one order

SMALL = {"dim": 8, "history": {"length": 6}}
SHORT = {"max_epochs": 2, "checks_per_epoch": 2, "batch_size": 512}
NEXT = {"dim": 8, "length": 8, "buckets": 4}
STEPS = {"max_epochs": 2, "batch_size": 64, "lr": 0.01}

RANKING: dict[str, dict[str, Any]] = {
    "din": {},
    "din-disco": {"enhance": "disco"},
    "dcn-disco-paper": {"backbone": "dcn", "enhance": "disco", "preset": "paper"},
    "deepfm-disco-authors": {"backbone": "deepfm", "enhance": "disco", "preset": "authors"},
    "deepfm-statistics": {"backbone": "deepfm", "model": {"statistics": True}},
    "din-disco-authors-statistics": {"enhance": "disco", "preset": "authors", "model": {"statistics": True}},
    "deepfm-disco": {"backbone": "deepfm", "enhance": "disco"},
    "dcn": {"backbone": "dcn"},
    "dcn-textbook": {"backbone": "dcn", "preset": "textbook", "model": {"history": {}}},  # which it does not read
    "din-textbook": {"preset": "textbook"},
    "din-lazy": {"training": {"tables": "lazy", "average_epochs": 0.0}},
}
SEQUENTIAL: dict[str, dict[str, Any]] = {
    "sasrec": {},
    "sasrec-pad": {"enhance": "pad"},
    "gru4rec-smem-authors": {"backbone": "gru4rec", "enhance": "smem", "preset": "authors"},
    "caser": {"backbone": "caser"},
    "gru4rec": {"backbone": "gru4rec"},
    "sasrec-textbook": {"preset": "textbook"},
    "sasrec-pad-paper": {"enhance": "pad", "preset": "paper"},
    "sasrec-pad-authors": {"enhance": "pad", "preset": "authors"},
    "sasrec-pad-contextual": {"enhance": "pad", "model": {"enhance": {"gate": "contextual"}}},
    "sasrec-hybrid": {"enhance": "hybrid"},
    "sasrec-morec": {"enhance": "morec"},
    "sasrec-ctrl": {"enhance": "ctrl"},
    "sasrec-make": {"enhance": "make"},
    "sasrec-disco": {"enhance": "disco"},
    "sasrec-disco-paper": {"enhance": "disco", "preset": "paper"},
    "caser-pad": {"backbone": "caser", "enhance": "pad"},
    "sasrec-pad-started": {"enhance": "pad", "model": {"start_from": {"pretrain": "{runs}/sasrec-pad"}}},
}


def digest(array: Any) -> str:
    values = np.ascontiguousarray(array)
    return hashlib.sha256(f"{values.dtype}{values.shape}".encode() + values.tobytes()).hexdigest()[:16]


def tensors(file: Path) -> dict[str, str]:
    from safetensors.torch import load_file

    return {name: digest(tensor.numpy()) for name, tensor in sorted(load_file(str(file)).items())}


def answers(run: Any, user: str, items: list[str], texts: bool, folder: Path) -> dict[str, Any]:
    """What the run answers: recommendations for a known user, a new one, and everybody, and what follows added items."""
    import polars as pl

    def plain(found: Any) -> list[list[Any]]:
        return [[each.item, each.title, round(each.score, 5)] for each in found]

    out: dict[str, Any] = {
        "known": plain(run.recommend(user, k=5)),
        "new": plain(run.recommend(items=items, k=5)),
        "nobody": plain(run.recommend(items=[], k=5)),
        "seen too": plain(run.recommend(user, k=3, exclude_seen=False)),
        "score": [round(float(each), 5) for each in run.score_items(user, items)],
    }
    run.recommend_all(folder / "recs.parquet", k=3, show_progress=False)
    recs = pl.read_parquet(folder / "recs.parquet")
    out["all"] = digest(np.array(recs["item"].to_list()).astype("U"))
    out["metrics"] = run.record["best"]["metrics"]
    return out


def make(folder: Path) -> dict[str, Any]:
    runs = folder / "runs"
    world = planted_world(PlantedConfig(users=150, items=120, interactions=12_000, cold_fraction=0.1, seed=3)).tables
    crowd = planted_world(PlantedConfig(users=600, items=120, interactions=16_000, cold_fraction=0.1, seed=3)).tables
    label = str(crowd.schema.label)
    likes = replace(crowd, name="likes", interactions=crowd.interactions.filter(crowd.interactions[label] > 0))
    data = {}
    for tables, settings in (
        (world, PrepareSettings(sequences="all")),
        (likes, PrepareSettings(split=SplitConfig(kind="leave_last_two", min_history=1))),
    ):
        path = folder / tables.name
        data[tables.name] = Dataset.open(path) if path.exists() else Dataset.prepare(tables, path, settings)
        build(path, folder / f"{tables.name}-knowledge", "tfidf")
    found: dict[str, Any] = {}
    for task, name, cells, small, short in (
        ("ranking", world.name, RANKING, SMALL, SHORT),
        ("sequential", "likes", SEQUENTIAL, NEXT, STEPS),
    ):
        dataset = data[name]
        for cell, own in cells.items():
            given = {"backbone": "din" if task == "ranking" else "sasrec", **own}
            model = {**small, **given.pop("model", {})}
            if "start_from" in model:
                model["start_from"] = {stage: path.format(runs=runs) for stage, path in model["start_from"].items()}
            training = {**short, **given.pop("training", {})}
            if task == "sequential" and given.get("enhance") in ("pad", "smem", "make"):
                training["phases"] = {"experts": {"lr": 0.01}}
            semantic = given.get("enhance") or given.get("preset") == "authors"
            run = fit(
                dataset,
                path=runs / cell,
                model=model,
                training=training,
                seed=5,
                knowledge=folder / f"{name}-knowledge" if semantic else None,
                show_progress=False,
                **given,
            )
            print(cell, run.record["best"]["metrics"], file=sys.stderr, flush=True)
            entry: dict[str, Any] = {"tensors": tensors(runs / cell / "model.safetensors")}
            for file in sorted((runs / cell / "weights").glob("*/*.safetensors")):
                entry[f"weights/{file.parent.name}"] = tensors(file)
            liked = dataset.item_ids[3:6]
            entry["answers"] = answers(run, dataset.user_ids[4], liked, bool(semantic), folder)
            entry["test"] = headline(run)
            found[cell] = entry
    return found


def headline(run: Any) -> dict[str, float]:
    """Of all test rows, whatever the report's form."""
    whole = run.evaluate("test", show_progress=False, min_rows=1)["all"]
    return {name: round(float(value), 10) for name, value in whole.values.items() if value is not None}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--against", type=Path)
    given = parser.parse_args()
    found = make(given.folder)
    (given.folder / "reference.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    if given.against is None:
        return 0
    before, wrong = json.loads(given.against.read_text()), 0
    for cell, entry in before.items():
        for part, values in entry.items():
            now = found.get(cell, {}).get(part, {})
            for name, value in values.items():
                if now.get(name) != value:
                    wrong += 1
                    print(f"{cell}: {part}.{name} was {value}, is {now.get(name)}")
            for name in sorted(now.keys() - values.keys()):
                print(f"{cell}: {part}.{name} is new")
    print(f"{len(before)} cells, {wrong} differences")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
