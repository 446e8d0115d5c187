"""Every part of the benchmark runs, on a world far below its usual size, and gives ratios."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.main import get_command

import small_runs
from braidrec.bench import children, marks, models
from braidrec.cli import app
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.planted import PlantedConfig
from braidrec.data.settings import SplitConfig
from braidrec.errors import ConfigError


@pytest.fixture
def tick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that pass at every look of this process at the clock: what is done in a time is the same on any machine."""
    seconds, now = [0.001], [0.0]

    def look() -> float:
        now[0] += seconds[0]
        return now[0]

    monkeypatch.setattr("time.perf_counter", look)
    return seconds


@pytest.mark.parametrize("part", ["memory", "data", "tables", "training"])
def test_every_part_gives_rows(part: str, request: pytest.FixtureRequest) -> None:
    if part == "tables":  # whose ratio is a difference of times, and may be next to nothing
        request.getfixturevalue("tick")
    rows = marks.PARTS[part](small_runs.dataset().path, 0.02)
    assert rows
    for what, measured, against, ratio in rows:
        assert what
        assert measured
        assert against
        assert ratio == "-" or float(ratio.removesuffix("x")) > 0


def test_packing_is_held_against_a_window_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "OF_ONE_USER", 20)
    rows = marks.PARTS["packing"](small_runs.rich().path, 0.01)
    assert [row[0] for row in rows][:2] == [
        "din-bilinear: training step, runs of 32",
        "din-disco: training step, runs of 32",
    ]
    assert {row[0].split(", ")[-1] for row in rows[-4:-2]} == {"p50", "p99"}
    assert all("matrix products" in row[1] and "optimiser" in row[1] for row in rows[-2:])
    assert all(float(row[3].removesuffix("x")) > 0 for row in rows[:-2])


def test_long_histories_are_held_against_short_ones(tick: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "LONG", 50)
    rows = marks.PARTS["long"](small_runs.dataset().path, 0.001)
    assert [row[0] for row in rows] == ["sdim: history of 50, runs of 64, training step"] * 2
    assert ["din, its MLP over 30 (mark 2.0x" in row[2] for row in rows] == [True, False]


@cache
def old_events() -> Dataset:
    settings = PrepareSettings(split=SplitConfig(kind="knowledge"), sequences="all")
    return Dataset.prepare(small_runs.world_tables(), small_runs.root() / "bench-old", settings)


def test_knowledge_of_old_events_is_held_and_stands_beside_a_backbone_without(tick: list[float]) -> None:
    rows = marks.PARTS["old"](old_events().path, 0.001)
    assert [row[0].split(":")[0] for row in rows] == ["deepfm-edk", "deepfm-edk-concat", "dcn-edk", "dcn-edk-concat"]
    assert all("-mean (mark 1.3x at most)" in row[2] for row in rows)


def test_the_command_names_every_part() -> None:
    command: Any = get_command(app)
    (said,) = (each.help for each in command.commands["bench"].params if each.name == "parts")
    assert said == f"Some of: {', '.join(marks.PARTS)} (by commas)."


def test_a_mark_that_is_missed_says_by_how_much() -> None:
    assert marks._faster("a", 1.0, 2.0, "b", 3.0) == ("a", "1000.00 ms", "2000.00 ms b (mark 3.0x) (1.00x short)", "2.00x")
    assert marks._faster("a", 1.0, 4.0, "b", 3.0)[2] == "4000.00 ms b (mark 3.0x)"
    assert marks._slower("a", 3.0, 1.0, "b", 2.0)[2:] == ("1000.00 ms b (mark 2.0x at most) (1.00x over)", "3.00x")
    assert marks._slower("a", 1.5, 1.0, "b", 2.0)[2] == "1000.00 ms b (mark 2.0x at most)"


def test_a_machine_that_stands_still_gets_one_step_of_each(tick: list[float]) -> None:
    """However long nothing ran between two looks at the clock, what is timed was done, once at least."""
    tick[0] = 1_000.0
    done: list[str] = []
    assert marks._alternate([lambda: done.append("a"), lambda: done.append("b")], 0.01) == [1_000.0, 1_000.0]
    assert done == ["a"] * 3 + ["b"] * 3 + ["a", "b"]
    assert marks._loop_against_bare(small_runs.rich(), 0.01)[1] == 2_000.0
    rows = len(small_runs.rich().split["train"])
    assert children.training_speed("dcn", small_runs.rich().path, 0.01) == rows / 2_000


def test_sequences_give_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SEQUENCE_WIDTH", 16), ("CANDIDATES", 50), ("CATALOGUE", 2_000), ("RANKED", 40)):
        monkeypatch.setattr(marks, name, value)
    rows = marks.PARTS["sequential"](small_runs.positives().path, 0.01)
    assert [row[0] for row in rows] == [
        "PAD's third phase, full_ce: training step",
        "PAD's third phase, bce: training step",
        "sequence batches of 128 windows",
        "PAD: one user, 50 items scored",
        "full ranking, 100,000 users, 2,000 items of width 64",
        "  its peak memory",
    ]
    assert all(float(row[3].removesuffix("x")) >= 0 for row in rows)
    assert "from 40 users" in rows[4][1]


def test_nodes_give_rows() -> None:
    rows = marks.PARTS["collaborative"](small_runs.positives().path, 0.01)
    forms = ("ours", "paper, uniformity of 1,024 rows", "paper")
    assert [row[0] for row in rows] == [f"LightGCN + DaRec, {form}: training step" for form in forms]
    assert all(float(row[3].removesuffix("x")) > 0 for row in rows)


def test_a_method_is_timed_by_its_own_settings() -> None:
    phase = models.node_phase(small_runs.positives(), "darec", "paper", weight=0.5)
    assert {name: phase.weights[name] for name in ("global", "local")} == {"global": 0.5, "local": 0.5}
    assert phase.module.enhancer.config.sample == 4096  # type: ignore[union-attr]


def test_a_phase_step_is_a_step_of_the_loop() -> None:
    """Every weight of the phase moves, and an epoch's end is passed over."""
    phase = models.last_phase(small_runs.positives(), "pad", "full_ce", 16)
    before = {name: weight.detach().clone() for name, weight in phase.module.named_parameters()}
    step = models.phase_step(phase)
    assert [len(step()) for _ in range(2 * len(phase.batches) + 1)]
    still = [name for name, weight in phase.module.named_parameters() if torch.equal(weight, before[name])]
    assert still == []
    assert phase.batches.state()["epoch"] == 2


def test_each_part_makes_its_own_planted_world(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}
    sizes = PlantedConfig(users=30, items=40, interactions=900)
    monkeypatch.setattr(marks, "_WORLDS", {name: (sizes, settings) for name, (_, settings) in marks._WORLDS.items()})

    def note(part: str) -> Callable[[Path, float], list[marks.Line]]:
        def rows(path: Path, seconds: float) -> list[marks.Line]:
            seen[part] = Dataset.open(path).settings.split.kind
            return [(part, "1", "1", "1x")]

        return rows

    monkeypatch.setattr(marks, "PARTS", {part: note(part) for part in ("data", "sequential")})
    assert marks.report(None, None, 1.0).row_count == 2
    assert seen == {"data": "temporal", "sequential": "leave_last_two"}


def test_peak_memory_is_this_process_s_own() -> None:
    """A child of a large process is small; getrusage would call it as large as its parent."""
    held = np.ones(40_000_000)  # 320 MB
    found = children.child("full-ranking", "--items", "1000", "--users", "10")
    assert 0 < found["peak_mb"] < children.peak_mb() - held.nbytes / 2e6


@pytest.mark.slow
def test_the_encoder_is_measured() -> None:
    assert "cosine" in marks.PARTS["knowledge"](small_runs.dataset().path, 0.1)[0][2]


@pytest.mark.parametrize("model", sorted(models.MODELS))
def test_every_model_has_a_training_speed(model: str) -> None:
    data = old_events() if model.split("-")[1:2] == ["edk"] else small_runs.rich()
    assert children.training_speed(model, data.path, 0.01) > 0


def test_a_log_smaller_than_a_batch_can_be_measured() -> None:
    assert len(small_runs.rich().split["train"]) < models.BATCH
    step, rows = models.bare_step(models.ranker("din", small_runs.rich()))
    step()
    step()
    assert rows == len(small_runs.rich().split["train"])


def test_the_table_has_a_row_per_measurement(tick: list[float]) -> None:
    table = marks.report(["tables"], small_runs.dataset().path, 0.01)
    assert table.row_count == 1
    assert "planted" in str(table.title)


def test_unknown_parts_and_models_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown part 'dta' \(did you mean 'data'\?\)"):
        marks.report(["dta"], None, 1.0)
    with pytest.raises(ConfigError, match=r"unknown model 'dinn' \(did you mean 'din'\?\)"):
        children.training_speed("dinn", small_runs.rich().path, 0.1)
    with pytest.raises(ConfigError, match="give a time above 0"):
        marks.report(None, None, 0.0)
