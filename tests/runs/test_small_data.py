"""A log of 1,500 events of 60 users: numbers with their intervals, not refusals."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from braidrec.cli import app
from braidrec.data.dataset import Dataset
from braidrec.data.settings import PrepareSettings, SplitConfig
from braidrec.errors import DataError
from braidrec.files import read_json
from braidrec.runs.fit import fit
from braidrec.runs.run import Run
from small_runs import root

TINY = {"dim": 8}


@cache
def shop() -> Dataset:
    """60 users with 25 of 40 items each; one half of them likes the even items, the other the odd ones."""
    rng, rows = np.random.default_rng(1), []
    for user in range(60):
        times = np.sort(rng.integers(0, 10_000_000, 25)) + 1_600_000_000
        for item, time in zip(rng.choice(40, 25, replace=False).tolist(), times.tolist(), strict=True):
            rows.append((user, item, time, int(rng.random() < (0.85 if item % 2 == user % 2 else 0.2))))
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "label"], orient="row")
    return Dataset.from_frames(log, path=root() / "shop")


@cache
def followed() -> Dataset:
    events = pl.DataFrame(
        {"user_id": np.repeat(np.arange(60), 12), "item_id": np.arange(720) % 41, "timestamp": np.arange(720) + 1_600_000_000}
    )
    settings = PrepareSettings(split=SplitConfig(kind="leave_last_two"))
    return Dataset.from_frames(events, path=root() / "followed", settings=settings)


@cache
def ranker() -> Run:
    return fit(shop(), path=root() / "shop-din", model=TINY, training={"max_epochs": 2}, show_progress=False)


@cache
def follower() -> Run:
    return fit(
        followed(), path=root() / "shop-sasrec", backbone="sasrec", model=TINY, training={"max_epochs": 2}, show_progress=False
    )


@pytest.mark.parametrize(("run", "metric"), [(ranker, "auc"), (follower, "ndcg@10")], ids=["ranking", "sequential"])
def test_few_rows_are_numbers_with_an_interval_in_every_task(run: object, metric: str) -> None:
    made: Run = run()  # type: ignore[operator]
    report = made.evaluate(show_progress=False)
    whole, interval = report["all"], report.intervals[metric]
    assert whole.rows < 1_000
    assert (whole.few, whole.reason) == (True, None)
    assert 0 <= interval.low <= whole[metric] <= interval.high <= 1  # type: ignore[operator]
    stored = read_json(made.path / "evaluation.test.json", DataError)["slices"][0]
    assert (stored["few"], stored["values"][metric]) == (True, whole[metric])
    wanted = made.evaluate(show_progress=False, min_rows=whole.rows)
    assert (wanted["all"].few, wanted["all"].values) == (False, whole.values)
    with pytest.raises(DataError, match="min_rows = 'many': a whole number from 0 on is needed"):
        made.evaluate(show_progress=False, min_rows="many")  # type: ignore[arg-type]


@pytest.mark.parametrize(("run", "number"), [(ranker, "auc"), (follower, "hr@10")], ids=["ranking", "sequential"])
def test_the_command_shows_them_marked(run: object, number: str) -> None:
    made: Run = run()  # type: ignore[operator]
    found = made.evaluate(show_progress=False)["all"][number]
    shown = f"{found:.4f}" if number == "auc" else f"{100 * found:.4f}"  # type: ignore[operator]
    marked = CliRunner().invoke(app, ["evaluate", str(made.path)])
    assert marked.exit_code == 0, marked.output
    assert f"{shown} " in marked.output
    assert "too few" not in marked.output
    assert "few: fewer than 1,000 rows" in marked.output
    plain = CliRunner().invoke(app, ["evaluate", str(made.path), "--min-rows", "1"])
    assert plain.exit_code == 0, plain.output
    assert f"{shown} " in plain.output
    assert " few" not in plain.output
