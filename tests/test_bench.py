"""Every part of the benchmark runs, on a world far below its usual size, and gives ratios."""

from __future__ import annotations

import pytest

import small_runs
from braidrec import bench
from braidrec.errors import ConfigError


@pytest.mark.parametrize("part", ["memory", "data", "tables", "training"])
def test_every_part_gives_rows(part: str) -> None:
    rows = bench.PARTS[part](small_runs.dataset().path, 0.02)
    assert rows
    for what, measured, against, ratio in rows:
        assert what
        assert measured
        assert against
        assert ratio == "-" or float(ratio.removesuffix("x")) > 0


@pytest.mark.slow
def test_the_encoder_is_measured() -> None:
    assert "cosine" in bench.PARTS["knowledge"](small_runs.dataset().path, 0.1)[0][2]


@pytest.mark.parametrize("model", sorted(bench.MODELS))
def test_every_model_has_a_training_speed(model: str) -> None:
    assert bench.training_speed(model, small_runs.rich().path, 0.01) > 0


def test_a_log_smaller_than_a_batch_can_be_measured() -> None:
    assert len(small_runs.rich().split["train"]) < bench.BATCH
    step, rows = bench._bare_step(bench._ranker("din", small_runs.rich()))
    step()
    step()
    assert rows == len(small_runs.rich().split["train"])


def test_the_table_has_a_row_per_measurement() -> None:
    table = bench.report(["tables"], small_runs.dataset().path, 0.01)
    assert table.row_count == 1
    assert "planted" in str(table.title)


def test_unknown_parts_and_models_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown part 'dta' \(did you mean 'data'\?\)"):
        bench.report(["dta"], None, 1.0)
    with pytest.raises(ConfigError, match=r"unknown model 'dinn' \(did you mean 'din'\?\)"):
        bench.training_speed("dinn", small_runs.rich().path, 0.1)
    with pytest.raises(ConfigError, match="give a time above 0"):
        bench.report(None, None, 0.0)
