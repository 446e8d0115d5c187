"""A small log of sequences with item texts, every method on every backbone by name, and one user's history as a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import torch
from torch import Tensor

from braidrec.config import RunConfig, RunRequest, resolve
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.schema import Schema
from braidrec.data.sequences import SequenceBatch, SequenceBatches
from braidrec.data.settings import SplitConfig
from braidrec.data.tables import Tables
from braidrec.sequential import TASK
from braidrec.sequential.build import build_stages, make_parts, settings_of
from braidrec.sequential.parts import Parts
from braidrec.strict import merge, parse
from braidrec.task import Plan
from braidrec.training.contracts import Phase
from braidrec.training.stages import Stage, make_phase
from small_runs import root

ITEMS, DIM, LENGTH, WIDTH, BUCKETS = 30, 8, 6, 10, 3
LAST_TWO = PrepareSettings(split=SplitConfig(kind="leave_last_two", min_history=1))

# settings over the preset `paper`; untrained, a model of four GELU layers hardly tells items apart
_TELLING: Mapping[str, Mapping[str, Any]] = {"morec": {"text": {"centre": True, "layers": 1, "final": "linear"}}}
# name -> method on the command line, and settings
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "hybrid add": ("hybrid", {"fusion": "add"}),
    "pad by text": ("pad", {"unseen": "text", "fusion": "add", "text": {"centre": True}}),
    "pad contextual": ("pad", {"gate": "contextual"}),
    "pad contextual by text": ("pad", {"gate": "contextual", "unseen": "text"}),
    "pad without frequency": ("pad", {"frequency_gate": False, "unseen": "text"}),
    "pad frozen": ("pad", {"alignment": "anchored_frozen"}),
    "pad not anchored": ("pad", {"alignment": "non_anchored"}),
    "pad info_nce": ("pad", {"kernel": "info_nce"}),
}
METHODS: Mapping[str, tuple[str | None, Mapping[str, Any]]] = {
    "plain": (None, {}),
    **{name: (name, _TELLING.get(name, {})) for name in TASK.methods},
    **VARIANTS,
}
PLAIN_METHODS = ("plain", *TASK.methods, "pad contextual")  # the rest run on one backbone
_SMALL: Mapping[str, Mapping[str, Any]] = {
    "sasrec": {"blocks": 1},
    "gru4rec": {"hidden": 7},
    "caser": {"final_activation": "none"},
}
BACKBONES: Mapping[str, Mapping[str, Any]] = {
    **{name: {"name": name, **_SMALL.get(name, {})} for name in TASK.backbones},
    "sasrec classic": {"name": "sasrec", "blocks": 2, "variant": "classic"},
}
LOSSES: Mapping[str, Mapping[str, Any]] = {
    "bce": {"loss": "bce", "negatives": 2},
    "full_ce": {"loss": "full_ce"},
    "full_ce of trained": {"loss": "full_ce", "trained_softmax": True},
}


def tables_of(sequences: Sequence[Sequence[int]], num_items: int, name: str = "sequences") -> Tables:
    """User k, from 1 on, meets ``sequences[k - 1]`` in that order, without a clock; item n has catalogue row n."""
    rows = [(user, item, at) for user, own in enumerate(sequences, 1) for at, item in enumerate(own)]
    frame = pl.DataFrame(rows, schema=["user", "item", "order"], orient="row")
    items = pl.DataFrame({"item": np.arange(1, num_items + 1)})
    return Tables(name, Schema(user="user", item="item", order="order"), frame, items)


def sequences_of(sequences: Sequence[Sequence[int]], num_items: int, name: str = "sequences") -> Dataset:
    """The same, prepared with the last two events of everybody held out."""
    return Dataset.prepare(tables_of(sequences, num_items, name), root() / name, LAST_TWO)


@cache
def dataset() -> Dataset:
    """40 users with 3 to 14 events, so that training sequences have 1 to 12 items; nobody trains on items 27 to 30.

    Item 27 is met in validation, 28 in the test part, the last two nowhere.
    """
    rng = np.random.default_rng(0)
    sequences = [(1 + np.floor(26 * rng.random(3 + at % 12) ** 1.5)).astype(int).tolist() for at in range(40)]
    sequences[5][-2], sequences[6][-1] = 27, 28
    return sequences_of(sequences, ITEMS)


def knowledge(num_items: int = ITEMS, seed: int = 0) -> Tensor:
    vectors = torch.randn(num_items + 1, WIDTH, generator=torch.Generator().manual_seed(seed))
    vectors[0] = 0
    return vectors


def config(method: str = "pad", backbone: str = "sasrec", loss: str = "bce", /, **changes: Any) -> RunConfig:
    """As of a run file; changes: of the [model] table."""
    enhance, own = METHODS[method]
    values = {"dim": DIM, "length": LENGTH, "buckets": BUCKETS, **LOSSES[loss], "backbone": BACKBONES[backbone]}
    values |= {"enhance": own} if own else {}
    request = {
        "data": "small",
        "knowledge": "none" if enhance else None,
        "backbone": str(BACKBONES[backbone]["name"]),
        "enhance": enhance,
        "preset": "paper",
        "model": merge(values, changes),
    }
    return resolve(parse(RunRequest, request, "test"), "test")


def parts_of(config: RunConfig) -> Parts:
    return make_parts(config, dataset(), knowledge() if config.reads_text else None)


def stages_of(config: RunConfig, seed: int = 0) -> Sequence[Stage]:
    torch.manual_seed(seed)
    return cast(Sequence[Stage], build_stages(config, parts_of(config)))


def batches_of(config: RunConfig, size: int = 16, seed: int = 1) -> SequenceBatches:
    settings = settings_of(config)
    return SequenceBatches(
        dataset(), size, length=settings.length, windows=settings.windows, negatives=settings.negatives, seed=seed
    )


def plan_of(config: RunConfig, data: Dataset | None = None, text: Tensor | None = None) -> Plan:
    """On the small data set and its text, or on others."""
    if data is None:
        data, text = dataset(), knowledge() if config.reads_text else None
    return TASK.room().plan(config, data, None if text is None else text.numpy(), show_progress=False)  # type: ignore[no-any-return]


def phases_of(config: RunConfig, plan: Plan) -> list[Phase]:
    """As `braidrec.runs.fit` makes them."""
    taken = {name: Path(run) / "weights" / name for name, run in plan.taken.items()}
    return [
        make_phase(
            stage,
            config.training.of_phase(stage.name),
            plan.batches(stage),
            plan.validate(stage),
            monitor=plan.monitor,
            taken=taken,
        )
        for stage in cast(Sequence[Stage], plan.stages)
    ]


def histories(lengths: Sequence[int] = (6, 3, 1, 5, 2, 4, 6, 1), width: int = LENGTH, num_items: int = ITEMS) -> Tensor:
    """(B, width) random catalogue rows of any kind, padded on the left."""
    random = torch.Generator().manual_seed(3)
    items = torch.randint(1, num_items + 1, (len(lengths), width), generator=random)
    return items * (torch.arange(width) >= width - torch.tensor(lengths)[:, None])


def batch_of(items: Tensor, negatives: int = 2) -> SequenceBatch:
    """Histories (B, K) with random targets and negatives."""
    random = torch.Generator().manual_seed(4)
    real = (items > 0).int()
    targets = torch.randint(1, 27, items.shape, generator=random, dtype=torch.int32) * real
    drawn = torch.randint(1, ITEMS + 1, (*items.shape, negatives), generator=random, dtype=torch.int32)
    return SequenceBatch(torch.ones(len(items), dtype=torch.int32), items.int(), targets, drawn * real[..., None])
