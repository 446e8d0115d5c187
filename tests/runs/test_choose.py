"""Which model and which encoder suits a log: in order of validation, what fails says why, the winner's command trains it."""

from __future__ import annotations

import shlex
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import braidrec
from braidrec.cli import app
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.planted import PlantedConfig, planted_world
from braidrec.data.settings import SplitConfig
from braidrec.errors import ConfigError, DataError
from braidrec.runs.choose import Choices, choose
from braidrec.runs.run import load
from small_runs import root


@cache
def dataset() -> Dataset:
    tables = planted_world(PlantedConfig(users=120, items=60, interactions=4_000)).tables
    settings = PrepareSettings(split=SplitConfig(kind="leave_last_two", min_history=0))
    return Dataset.prepare(tables, root() / "to-choose", settings)


@cache
def found() -> Choices:
    broken = root() / "broken.toml"
    broken.write_text('[encoder]\nkind = "sentence-transformers"\nmodel = "/no/such/model"\n')
    encoders = ("tfidf", str(broken))
    return choose(dataset(), encoders=encoders, knowledge=root() / "choose-bases", minutes=10, show_progress=False)


def test_rows_stand_in_order_of_validation_and_each_says_what_it_took() -> None:
    rows = [row for row in found().rows if row.metrics is not None]
    values = [row.metrics["recall@20"] for row in rows if row.metrics is not None]
    assert values == sorted(values, reverse=True)
    assert {row.model for row in rows} >= {"EASE", "EASE with text", "iALS", "GF-CF", "item-kNN", "text-kNN", "popularity"}
    assert {row.encoder for row in rows} == {"", "tfidf"}
    assert all(row.seconds >= 0 and row.command.startswith("braidrec fit --data ") for row in rows)
    assert sum(row.settings != "as they are" for row in rows) > 0


def test_an_encoder_that_fails_is_a_row_that_says_why_and_the_others_go_on() -> None:
    [row] = [row for row in found().rows if row.metrics is None]
    assert row.encoder == "broken"
    assert "/no/such/model" in row.trouble
    assert list(found().encoders) == ["tfidf"]


def test_the_command_of_the_winner_trains_just_that(tmp_path: Path) -> None:
    best = found().best
    words = shlex.split(found().command)
    assert words[:2] == ["braidrec", "fit"]
    done = CliRunner().invoke(app, [*words[1:], "--out", str(tmp_path / "winner")])
    assert done.exit_code == 0, done.output
    run = load(tmp_path / "winner")
    assert run.record["title"] == best.model
    assert best.metrics is not None
    assert run.record["best"]["metrics"]["recall@20"] == pytest.approx(best.metrics["recall@20"], abs=1e-6)


def test_the_test_part_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    from braidrec.collaborative import scoring, task

    asked: list[str] = []
    real = scoring.part_rows
    monkeypatch.setattr(task, "part_rows", lambda data, part: (asked.append(part), real(data, part))[1])
    choose(dataset(), encoders=(), minutes=10, show_progress=False)
    assert set(asked) == {"valid"}


def test_what_the_time_leaves_out_is_said() -> None:
    late = choose(dataset(), encoders=(), minutes=1e-9, show_progress=False)
    assert late.rows == ()
    assert any("the time was up before" in note for note in late.notes)
    with pytest.raises(ConfigError, match="no model could be tried: no time"):
        _ = late.command
    with pytest.raises(ConfigError, match="minutes = 0; accepted: more than 0"):
        choose(dataset(), minutes=0)


def test_deep_trains_the_default_of_each_task_and_stands_it_beside_where_rows_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from braidrec.runs import choose as module

    real = module.fit

    def quick(*arguments: Any, **more: Any) -> Any:
        small = {"max_epochs": 1, "checks_per_epoch": 1, "batch_size": 512}
        return real(*arguments, **{**more, "model": {"dim": 8}, "training": small})

    monkeypatch.setattr(module, "fit", quick)
    deep = choose(dataset(), encoders=(), deep=True, minutes=10, runs=tmp_path / "runs", show_progress=False)
    by_model = {row.model: row for row in deep.rows}
    assert by_model["SASRec"].metrics is not None or "its own validation" in by_model["SASRec"].trouble
    assert "its own validation" in by_model["DIN"].trouble


def test_data_without_positives_are_refused() -> None:
    events = {"user": [1, 1, 1], "item": [1, 2, 3], "label": [0, 0, 0], "part": ["train", "valid", "test"]}
    import polars as pl

    from braidrec.data.schema import Schema

    schema = Schema(user="user", item="item", label="label", part="part")
    settings = PrepareSettings(split=SplitConfig(kind="given"))
    data = Dataset.from_frames(pl.DataFrame(events), schema=schema, settings=settings)
    with pytest.raises((DataError, ConfigError), match="none of the events of training is a positive"):
        _ = braidrec.choose(data, encoders=(), show_progress=False).command


def test_the_command_line_prints_the_table_and_the_command(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["choose", str(dataset().path), "--encoders", "tfidf", "--knowledge", str(tmp_path), "--minutes", "10"]
    )
    assert done.exit_code == 0, done.output
    assert "validation part" in done.output
    assert "text read by tfidf in" in done.output
    assert "next: braidrec fit --data" in done.output
    assert np.isfinite(float(found().rows[0].seconds))


def test_its_numbers_are_those_of_the_commands() -> None:
    """iALS draws its first factors: whatever was drawn before, it is the model that the command trains."""
    import torch

    [row] = [each for each in found().rows if each.model == "iALS" and each.settings == "as they are"]
    torch.manual_seed(99)
    again = choose(dataset(), encoders=(), knowledge=root() / "choose-none", minutes=10, show_progress=False)
    assert row.metrics == next(each.metrics for each in again.rows if each.model == "iALS" and each.settings == "as they are")
    run = braidrec.fit(dataset(), path=root() / "choose-ials", backbone="ials", show_progress=False)
    assert row.metrics is not None
    assert run.record["best"]["metrics"]["recall@20"] == row.metrics["recall@20"]


def test_a_command_with_settings_names_a_folder_of_its_own() -> None:
    commands = {row.command for row in found().rows if row.metrics is not None}
    assert all(("--out" in command) == ("--set" in command or "--knowledge" in command) for command in commands)
    folders = [words[words.index("--out") + 1] for command in commands if "--out" in (words := shlex.split(command))]
    assert len(folders) == len(set(folders)) > 1


def test_encoders_are_a_list_of_names_or_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="encoders = 'tfidf' is one name; give a list"):
        choose(dataset(), encoders="tfidf")
    for name, width in (("a", 8), ("b", 16)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "enc.toml").write_text(f'[encoder]\nkind = "tfidf"\nwidth = {width}\n')
    files = [tmp_path / name / "enc.toml" for name in ("a", "b")]
    both = choose(dataset(), encoders=files, knowledge=tmp_path / "k", minutes=10, show_progress=False)
    assert len(both.encoders) == 2
    assert not [row for row in both.rows if row.metrics is None]
