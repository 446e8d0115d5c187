"""A run goes with its data by either fingerprint: of their contents, or of the files' bytes, where that is all there was."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import small_runs
from braidrec.data import dataset as dataset_module
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.settings import SplitConfig
from braidrec.errors import ConfigError, RunError
from braidrec.files import read_json, write_json
from braidrec.runs.directory import claim, digest_of_json
from braidrec.runs.fit import fit
from braidrec.runs.run import Run, load
from braidrec.runs.tables import load_alike

SPLIT = PrepareSettings(split=SplitConfig(kind="leave_last_two", min_history=1))
STEPS: dict[str, Any] = {"max_epochs": 1, "batch_size": 256}
SMALL: dict[str, Any] = {"dim": 4, "length": 4, "buckets": 4}


def prepared(path: Path, *, seed: int = 0) -> Dataset:
    return Dataset.prepare(small_runs.world_tables(seed), path, SPLIT)


def prepared_before(path: Path) -> Dataset:
    """As a version without fingerprints of contents left it."""
    manifest = read_json(prepared(path).path / "manifest.json", RunError)
    del manifest["fingerprint"], manifest["digest"]
    write_json(path / "manifest.json", manifest | {"digest": dataset_module._digest(manifest)})
    return Dataset.open(path)


def written_otherwise(path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """As another version of Polars would write it."""
    plain = pl.DataFrame.write_parquet
    with monkeypatch.context() as patch:
        patch.setattr(pl.DataFrame, "write_parquet", functools.partialmethod(plain, compression="uncompressed"))
        return prepared(path)


def train(path: Path, data: Dataset, **changes: Any) -> Run:
    model = {**SMALL, **changes.pop("model", {})}
    return fit(data, path=path, backbone="sasrec", model=model, training=STEPS, show_progress=False, **changes)


def started(path: Path, data: Dataset, run: Run) -> Run:
    """PAD, whose first stage is taken over from a plain run."""
    starts = {"start_from": {"pretrain": str(run.path)}}
    return train(path, data, enhance="pad", knowledge=small_runs.knowledge(), model=starts)


def forget(run: Run) -> Path:
    """The run as an earlier version recorded it."""
    record = read_json(run.path / "run.json", RunError)
    del record["data"]["former_fingerprint"], record["data"]["events"], record["digest"]
    record["data"]["fingerprint"] = run.dataset.former_fingerprint
    write_json(run.path / "run.json", record | {"digest": digest_of_json(record)})
    return run.path


def test_a_record_holds_both(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data")
    record = train(tmp_path / "run", data).record["data"]
    assert (record["fingerprint"], record["former_fingerprint"]) == (data.fingerprint, data.former_fingerprint)
    assert record["fingerprint"] != record["former_fingerprint"]


def test_a_run_outlives_another_way_of_writing_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(tmp_path / "run", prepared(tmp_path / "data"))
    run.outcome(show_progress=False)
    other = written_otherwise(tmp_path / "other", monkeypatch)
    assert other.former_fingerprint != run.dataset.former_fingerprint
    again = load(run.path, dataset=other)
    monkeypatch.setattr(type(again.task), "outcome", refuse)  # what was kept is read
    assert again.outcome(show_progress=False).same_rows(run.outcome())
    assert started(tmp_path / "started", other, run).dataset is other


def refuse(*_: object, **__: object) -> None:
    raise AssertionError


def test_a_run_of_before_goes_with_its_data_prepared_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(tmp_path / "run", prepared_before(tmp_path / "before"))
    run.outcome(show_progress=False)
    forget(run)
    data = prepared(tmp_path / "data")
    assert data.fingerprint != run.dataset.fingerprint
    again = load(run.path, dataset=data)
    monkeypatch.setattr(type(again.task), "outcome", refuse)
    assert again.outcome(show_progress=False).same_rows(run.outcome())
    assert started(tmp_path / "started", data, run).dataset is data
    with pytest.raises(RunError, match=r"trained on planted with fingerprint .* prepare the same data again"):
        load(run.path, dataset=written_otherwise(tmp_path / "other", monkeypatch))  # bytes were all that it knew


def test_a_run_of_now_goes_with_a_folder_of_before(tmp_path: Path) -> None:
    run = train(tmp_path / "run", prepared(tmp_path / "data"))
    assert load(run.path, dataset=prepared_before(tmp_path / "before")).path == run.path


def test_other_data_are_refused_by_either(tmp_path: Path) -> None:
    run = train(tmp_path / "run", prepared(tmp_path / "data"))
    other = prepared(tmp_path / "other", seed=1)
    with pytest.raises(RunError, match=rf"fingerprint {run.dataset.fingerprint}, but .* now has {other.fingerprint}"):
        load(run.path, dataset=other)
    with pytest.raises(ConfigError, match=rf"trained on data with fingerprint {run.dataset.fingerprint}, this run's has"):
        started(tmp_path / "started", other, run)
    forget(run)
    with pytest.raises(RunError, match=rf"fingerprint {run.dataset.former_fingerprint}, but .* now has {other.fingerprint}"):
        load(run.path, dataset=other)


def test_runs_on_one_data_set_stand_in_one_table_whenever_it_was_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [
        train(tmp_path / "first", prepared(tmp_path / "data")),
        train(tmp_path / "second", written_otherwise(tmp_path / "other", monkeypatch)),
        train(tmp_path / "third", prepared_before(tmp_path / "before")),
    ]
    paths = [run.path for run in runs]
    assert [run.path for run in load_alike(paths)] == paths
    strange = train(tmp_path / "strange", prepared(tmp_path / "strange-data", seed=1))
    with pytest.raises(ConfigError, match="these runs were trained on different data"):
        load_alike([*paths, strange.path])


def test_kept_scores_of_other_data_are_made_again(tmp_path: Path) -> None:
    run = train(tmp_path / "run", prepared(tmp_path / "data"))
    run.outcome(show_progress=False)
    note = run.path / "outcome.test.json"
    assert json.loads(note.read_text())["data"] == run.dataset.fingerprint
    note.write_text(json.dumps({**json.loads(note.read_text()), "data": "0123"}))
    again = load(run.path)
    assert again.outcome(show_progress=False).same_rows(run.outcome())
    assert json.loads(note.read_text())["data"] == run.dataset.fingerprint


def test_an_interrupted_run_goes_on_by_the_fingerprint_it_began_with(tmp_path: Path) -> None:
    config = train(tmp_path / "run", prepared(tmp_path / "data")).config
    path = tmp_path / "begun"
    path.mkdir()
    with claim(path, config, {"data": "x", "knowledge": None}):
        pass
    with claim(path, config, {"data": "1-a", "knowledge": None}, former={"data": "x"}):
        pass
    with (
        pytest.raises(RunError, match=r"begun on other data \(fingerprint x, now 1-a\)"),
        claim(path, config, {"data": "1-a", "knowledge": None}, former={"data": "y"}),
    ):
        pass
    with pytest.raises(RunError, match="begun on other knowledge"), claim(path, config, {"data": "x", "knowledge": "k"}):
        pass
