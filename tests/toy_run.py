"""A task for tests that only counts: the one of the package in tests/plugin, made to read text and to tell who asks.

`held` registers it for as long as a block lasts, as an installed package would.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import small_runs
from braidrec.config import RunConfig
from braidrec.data.dataset import Dataset
from braidrec.registry import TASKS, Spec, own_registries
from braidrec.runs.fit import fit
from braidrec.runs.run import Run
from braidrec.task import Added, Floats, Plan, Rows, Saved

SHELF = Path(__file__).parent / "plugin" / "src"
sys.path.insert(0, str(SHELF))

from braidrec_shelf import counting  # noqa: E402

TOY = Spec("toy", "Toy", counting.CountsConfig, counting.CountsConfig, presets={"ours": {}}, fitted=True)
TASK = replace(
    counting.TASK,
    name="toying",
    title="what is met most, by a toy",
    where="toy_run:ROOM",
    default="toy",
    **own_registries("toying", models={"toy": "toy_run:TOY"}),
)


@dataclass(frozen=True)
class Toy(counting.Counted):
    """An item's score: how often it was met in training, and how long the past of who asks is.

    An added item was met as often as its text vector is long.
    """

    def scores(self, pasts: Sequence[Rows], rows: Rows) -> Floats:
        lengths = np.array([len(past) for past in pasts], np.float32)
        return super().scores(pasts, rows) + 1000 * lengths[:, None]

    def with_items(self, added: Added) -> Toy:
        grown = counting.Counter()
        grown.register_buffer("scores", torch.cat([self.module.scores, added.vectors.norm(dim=1)]))
        return replace(self, module=grown)

    def notes(self, *, new_user: bool, added: int) -> list[str]:
        return ["somebody new gets what is popular"] if new_user else []

    def facts(self) -> Mapping[str, Any]:
        return {"edges": [1, 2]}


class Room(counting.Room):
    """It reads text where a knowledge base is given, counts twice, and says so."""

    spec = TASK

    def reads_text(self, config: RunConfig) -> bool:
        return bool(config.knowledge)

    def plan(
        self,
        config: RunConfig,
        data: Dataset,
        text: Floats | None,
        *,
        people: Floats | None = None,
        show_progress: bool = True,
    ) -> Plan:
        plan = super().plan(config, data, text, show_progress=show_progress)
        [stage] = plan.stages
        module = stage.module
        assert isinstance(module, counting.Counter)
        return replace(
            plan,
            stages=[stage, replace(stage, name="again")],
            names=("count", "again"),
            keep=lambda: Toy(module, data, reads_text=self.reads_text(config)),
            choices={"buckets": 3},
        )

    def load(self, config: RunConfig, saved: Saved, data: Dataset | None, text: Callable[[], Floats] | None = None) -> Toy:
        return Toy(super().load(config, saved, data).module, data, reads_text=self.reads_text(config))


ROOM = Room()


def held() -> AbstractContextManager[None]:
    """The task is registered until the block ends."""
    return TASKS.holding(TASK)


def toy(path: Path, data: Dataset | None = None, **changes: Any) -> Run:
    """A run of it; ``changes`` as `fit` takes them."""
    return fit(data or small_runs.dataset(), path=path, backbone="toy", show_progress=False, **changes)
