"""How much memory item text takes on its way from a knowledge base's map to a model: `braidrec bench --parts text`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from braidrec.config import RunConfig, RunRequest, resolve
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.schema import Schema
from braidrec.data.settings import SplitConfig
from braidrec.data.tables import Tables
from braidrec.files import write_json
from braidrec.knowledge.base import FORMAT, Identity
from braidrec.knowledge.matrix import Matrix
from braidrec.runs.directory import digest_of
from braidrec.runs.knowledge import SETTINGS, KnowledgeBases

MODELS = {"din": "disco", "sasrec": "pad"}  # backbone and method
_USERS, _EVENTS, _BATCH, _PART = 2_000, 40_000, 256, 65_536


def make(folder: Path, items: int, width: int) -> None:
    """A catalogue of ``items`` in ``folder``/data, and in ``folder``/knowledge a map of their made-up float16 vectors."""
    import polars as pl

    rng = np.random.default_rng(0)
    ids = [f"i{row:08d}" for row in range(items)]
    log = pl.DataFrame(
        {
            "user": rng.integers(0, _USERS, _EVENTS),
            "item": pl.Series(ids).gather(rng.integers(0, items, _EVENTS)),
            "time": np.arange(_EVENTS),
            "label": rng.integers(0, 2, _EVENTS),
        }
    )
    schema = Schema(user="user", item="item", timestamp="time", label="label")
    split = SplitConfig(kind="leave_last_two", min_history=1)
    tables = Tables("text", schema, log, pl.DataFrame({"item": ids}))
    Dataset.prepare(tables, folder / "data", PrepareSettings(split=split))
    own = Identity(encoder="made-up", revision="0", pooling="none", prompt="plain", width=width, dtype="float16")
    table = folder / "knowledge" / own.table
    write_json(table / "manifest.json", {"format": FORMAT, "identity": own.model_dump(), "fitted": None})
    prompt = {"noun": "item", "fields": ["item"]}
    write_json(folder / "knowledge" / SETTINGS, {"encoder": {"kind": "tfidf"}, "prompt": prompt, "table": own.table})

    def rows() -> Iterator[tuple[list[str], NDArray[np.float16]]]:
        for first in range(0, items, _PART):
            part = ids[first : first + _PART]
            yield part, rng.standard_normal((len(part), width), np.float32).astype(np.float16)

    folder = table / "matrix" / "item-0"
    Matrix.build(folder, rows, count=items, width=width, dtype="float16", version=0, source="")  # of no table


def settings(folder: Path, backbone: str) -> RunConfig:
    """A small model, so that what is measured is text; PAD by drawn negatives, as a catalogue of this size would be trained."""
    values = {
        "data": str(folder / "data"),
        "knowledge": str(folder / "knowledge"),
        "backbone": backbone,
        "enhance": MODELS[backbone],
        "model": {"dim": 8, **({"loss": "bce"} if backbone == "sasrec" else {})},
        "training": {"batch_size": _BATCH},
    }
    return resolve(RunRequest.model_validate(values), "bench")


def bring(config: RunConfig, data: Dataset) -> None:
    """Text from the map to the model as `fit` brings it, one batch of the last stage, and the model that a run keeps."""
    task = config.chosen.task.room()
    text = KnowledgeBases.open(config.knowledge).matrix(data)
    digest_of(text)
    plan = task.plan(config, data, text, show_progress=False)
    del text
    stage = plan.stages[-1]
    stage.module.train().step(next(iter(plan.batches(stage)))).losses()
    plan.keep().saved()


def map_mb(folder: Path) -> float:
    return next((folder / "knowledge").glob("*/matrix/item-0/vectors.npy")).stat().st_size / 1e6
