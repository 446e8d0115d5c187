"""Files of another run, of another stage, of other data: each whole in itself, with the right name, and in the wrong place.

Everything derived names what it was made from.  What can be made again is; the rest is refused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sequence_runs

import small_runs
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.errors import RunError
from braidrec.files import read_json, write_json
from braidrec.ranking.config import HistoryConfig
from braidrec.ranking.history import Directions, history_source
from braidrec.runs.directory import digest_of_json
from braidrec.runs.run import Run, load
from braidrec.training.checkpoint import archive_digest, read_archive
from small_runs import copy_of, disco


def swap(name: str, source: Path, target: Path, as_name: str | None = None) -> None:
    """What is called ``name`` in the folder ``source``, in the place of what is in ``target``."""
    for file in source.glob(name):
        place = target / (file.name if as_name is None else file.name.replace(*as_name.split(" ")))
        if file.is_dir():
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(file, place)
        else:
            shutil.copyfile(file, place)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Run, Run]:
    """Two runs on the same data that differ by their seed."""
    return copy_of(disco(1), tmp_path / "own"), copy_of(disco(2), tmp_path / "other")


def test_the_outcome_of_another_run_or_part_is_made_again(pair: tuple[Run, Run]) -> None:
    own, other = pair
    wanted = {part: own.outcome(part, show_progress=False).values["scores"] for part in ("test", "valid")}
    other.outcome(show_progress=False)
    for name, source, renamed in (
        ("outcome.test.*", other.path, None),
        ("outcome.test.json", other.path, None),
        ("outcome.test.safetensors", other.path, None),
        ("outcome.valid.*", own.path, "valid test"),
    ):
        swap(name, source, own.path, renamed)
        np.testing.assert_array_equal(load(own.path).outcome(show_progress=False).values["scores"], wanted["test"])
    note = own.path / "outcome.test.json"
    for key, value in (("kind", "rating"), ("part", "valid"), ("run", "0"), ("sha256", "0")):
        held = note.read_bytes()
        write_json(note, read_json(note, RunError) | {key: value})
        assert load(own.path).outcome(show_progress=False).kind == own.outcome().kind
        assert note.read_bytes() == held


def test_the_weights_of_another_run_are_no_stage_of_this_one(pair: tuple[Run, Run]) -> None:
    own, other = pair
    assert own.record["weights"].keys() == {"rank"}
    own.inspect("rank")
    swap("rank", other.path / "weights", own.path / "weights")
    with pytest.raises(RunError, match=r"weights/rank: its digest is .*it is whole, but of another run or stage"):
        load(own.path).inspect("rank")
    shutil.copytree(other.path / "weights" / "rank", own.path / "weights" / "more")
    with pytest.raises(RunError, match="its record knows no stage 'more'"):
        load(own.path).inspect("more")


def test_items_that_were_added_to_another_run_are_refused(pair: tuple[Run, Run]) -> None:
    own, other = pair
    other.add_items({"a": "whales"})
    own.add_items({"a": "whales", "b": "camels"})
    swap("added", other.path, own.path)
    for call in (lambda: load(own.path), lambda: own.add_items({"c": "larks"})):
        with pytest.raises(RunError, match="these items were added to another run"):
            call()
    note = own.path / "added" / "items.json"  # as an earlier version wrote it, which named no run
    about = read_json(note, RunError)
    del about["digest"], about["run"]
    write_json(note, about | {"digest": digest_of_json(about)})
    assert load(own.path).catalogue.added_ids == ("a",)


def begun(path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Callable[[], Run]:
    """A training that ended in the middle of saving; what is returned goes on with it."""

    def gone(*arguments: object) -> None:
        raise KeyboardInterrupt

    settings = {"training": {"checkpoint_seconds": 0.001}, **changes}
    with monkeypatch.context() as patch:
        patch.setattr("braidrec.runs.fit._keep", gone)
        with pytest.raises(KeyboardInterrupt):
            small_runs.train(path, **settings)
    return lambda: small_runs.train(path, **settings)


def test_a_training_takes_no_file_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even of one that differs by nothing that a plan of training shows."""
    go_on = begun(tmp_path / "own", monkeypatch)
    begun(tmp_path / "other", monkeypatch, model={"history": {"length": 5}})
    own, other = (tmp_path / name / "training" for name in ("own", "other"))
    shutil.copytree(own, tmp_path / "held")
    whole = r"weights/rank-\d+: its digest is .*, expected"
    for names, said in (
        (("checkpoints",), "the last checkpoint is of another training"),
        (("checkpoints", "weights"), "the last checkpoint is of another training"),
        (("checkpoints", "weights", "metrics.jsonl"), "the last checkpoint is of another training"),
        (("metrics.jsonl",), r"metrics\.jsonl: .* bytes.*the file was changed"),
        (("weights",), whole),
    ):
        for name in names:
            swap(name, other, own)
        if names == ("weights",):  # of the best check, whatever its number is there
            for folder in (own / "weights").iterdir():
                shutil.rmtree(folder)
            [best] = read_archive(sorted((own / "checkpoints").iterdir())[-1]).facts["weights"]
            [found, *_] = sorted((other / "weights").iterdir())
            shutil.copytree(found, own / "weights" / best)
        with pytest.raises(RunError, match=said):
            go_on()
        shutil.rmtree(own)
        shutil.copytree(tmp_path / "held", own)
    assert go_on().record["weights"].keys() == {"rank"}
    assert not own.exists()


def test_what_is_kept_of_a_stage_is_what_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = begun(tmp_path / "own", monkeypatch)
    (tmp_path / "own" / "weights").mkdir()
    shutil.copytree(disco(2).path / "weights" / "rank", tmp_path / "own" / "weights" / "rank")
    run = go_on()
    assert archive_digest(run.path / "weights" / "rank") == run.record["weights"]["rank"]
    assert (run.path / "weights" / "rank" / "model.safetensors").read_bytes() != (
        disco(2).path / "weights" / "rank" / "model.safetensors"
    ).read_bytes()
    run.inspect("rank")


def test_a_stage_that_another_run_starts_from_is_that_runs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    giver, other = (sequence_runs.copy_of(sequence_runs.pad(seed), tmp_path / str(seed)) for seed in (1, 2))
    swap("pretrain", other.path / "weights", giver.path / "weights")
    settings: dict[str, Any] = {"enhance": "pad", "knowledge": sequence_runs.knowledge()}
    settings |= {"model": {"start_from": {"pretrain": str(giver.path)}}}
    with pytest.raises(RunError, match="weights/pretrain: its digest is"):
        sequence_runs.train(tmp_path / "taker", **settings)
    assert not (tmp_path / "taker").exists()
    swap("pretrain", sequence_runs.pad(1).path / "weights", giver.path / "weights")

    def gone(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("braidrec.runs.fit._keep", gone)
        with pytest.raises(KeyboardInterrupt):
            sequence_runs.train(tmp_path / "taker", **settings)
    shutil.rmtree(giver.path)
    shutil.copytree(other.path, giver.path)
    with pytest.raises(RunError, match=r"begun on other weights of stage 'pretrain'"):
        sequence_runs.train(tmp_path / "taker", **settings)


def test_a_history_by_meaning_of_other_data_is_made_again(tmp_path: Path) -> None:
    settings = HistoryConfig(kind="semantic_topk", length=3)
    found = {}
    for name, seed in (("own", 0), ("other", 1)):
        data = Dataset.prepare(small_runs.world_tables(seed), tmp_path / name / "data", PrepareSettings())
        vectors = np.random.default_rng(seed).normal(size=(data.num_items + 1, 8)).astype(np.float32)
        source = history_source(data, settings, Directions.of(vectors), show_progress=False)
        [file] = (tmp_path / name).glob("*.semantic-3-*.npy")
        found[name] = (data, vectors, file, file.read_bytes(), source)
    data, vectors, file, wanted, _ = found["own"]
    for names in (("npy", "json"), ("npy",), ("json",)):
        for ending in names:
            shutil.copyfile(found["other"][2].with_suffix(f".{ending}"), file.with_suffix(f".{ending}"))
        history_source(data, settings, Directions.of(vectors), show_progress=False)
        assert file.read_bytes() == wanted
    for damage in ("", "[]", "{}", '{"sha256": 7}'):
        file.with_suffix(".json").write_text(damage)
        history_source(data, settings, Directions.of(vectors), show_progress=False)
        assert json.loads(file.with_suffix(".json").read_text())["length"] == 3
