"""What DisCo costs (Table 6): from the cells' own rates, and from exported models that answer in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch

from braidrec.experiments.experiment import Extra, Made
from braidrec.ranking.build import history_of
from braidrec.ranking.history import history_source
from braidrec.ranking.model import ClickModel
from braidrec.ranking.scoring import part_batches
from braidrec.runs.run import Run
from braidrec.runs.tables import plain_table

if TYPE_CHECKING:
    from rich.table import Table

# Seconds a sample on ML-1M: training, inference.  Whose backbone DisCo has there is not said.
PRINTED = {"dcn": (2.18e-3, 2.86e-5), "din": (1.99e-3, 1.34e-5), "disco": (5.04e-3, 7.42e-5)}
_ROUNDS = 21
_SAMPLES = 2_048


def _cost(made: Made) -> Mapping[str, Any]:
    """With DisCo over without it; a cell's rate is that of the run which it kept."""
    found = []
    for backbone in ("din", "dcn"):
        runs = [made.run(f"{backbone}{method}-runs") for method in ("", "-disco")]
        printed = [PRINTED["disco"][at] / PRINTED[backbone][at] for at in (0, 1)]
        for form, window in (("", 1), ("-runs", history_of(runs[0].config).run)):
            rates = [made.entry(f"{backbone}{method}{form}")["samples_per_second"]["mean"] for method in ("", "-disco")]
            plain, enhanced = _in_turn([_answering(run, window) for run in runs])
            here = {"training": rates[0] / rates[1], "inference": enhanced / plain}
            sides = {"printed": dict(zip(here, printed, strict=True)), "here": here}
            found.append({"backbone": backbone, "run": window, "microseconds": [1e6 * plain, 1e6 * enhanced], **sides})
    return {"cost": found}


def _answering(run: Run, window: int) -> tuple[Callable[[], object], int]:
    """Logits of the first test samples by the exported model, ``window`` targets of a user to a history; and their number."""
    model, wanted = cast(ClickModel, run.model), history_of(run.config).model_copy(update={"run": window})
    data = model.reading(run.dataset)
    history = history_source(data, wanted, model.directions, show_progress=False)
    batch = next(iter(part_batches(data, "test", history, None, _SAMPLES)))
    module = model.module.eval()

    def step() -> object:
        with torch.inference_mode():
            return module(batch)

    return step, len(batch)


def _in_turn(steps: list[tuple[Callable[[], object], int]]) -> list[float]:
    """Median seconds a sample of each, all of them once a round so that the machine's load meets them alike."""
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(_ROUNDS):
        for own, (step, samples) in zip(times, steps, strict=True):
            begun = time.perf_counter()
            step()
            own.append((time.perf_counter() - begun) / samples)
    return [statistics.median(own) for own in times]


def _cost_shown(values: Mapping[str, Any]) -> list[Table]:
    rows = [
        (
            each["backbone"],
            "a window each" if each["run"] == 1 else f"runs of {each['run']}",
            *(f"{each[side][kind]:.2f}x" for kind in ("training", "inference") for side in ("printed", "here")),
            "{:.1f} -> {:.1f}".format(*each["microseconds"]),
        )
        for each in values["cost"]
    ]
    heads = ("training, printed", "training, here", "inference, printed", "inference, here", "µs a sample here")
    return [plain_table("time with DisCo over time without it", ("backbone", "samples", *heads), rows)]


COST = Extra(_cost, _cost_shown)
