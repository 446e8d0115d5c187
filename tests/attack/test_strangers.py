"""Settings out of any range and files that are sealed but not ours: our error, and no folder that blocks the next try."""

from __future__ import annotations

import contextlib
import datetime
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import sequence_runs
import torch
from attack_table import Note, Wrong
from safetensors.torch import load_file, save_file

import small_runs
from braidrec.config import read_request
from braidrec.data.dataset import Dataset
from braidrec.errors import BraidError, ConfigError, DataError, RunError
from braidrec.files import read_json, sha256, write_json
from braidrec.runs.directory import digest_of_json
from braidrec.runs.fit import fit
from braidrec.runs.knowledge import build
from braidrec.runs.preparing import prepare
from braidrec.runs.run import Run, load
from braidrec.runs.tables import dataset_tables
from braidrec.training.checkpoint import Archive, _digest, read_archive, write_archive

HUGE = (2**32, 2**63, 2**64, 10**30)


@pytest.mark.parametrize(
    "changes",
    [
        *({"seed": seed} for seed in (-1, *HUGE)),
        *({"training": {"accelerator": name}} for name in ("gpu", "tpu", "cuda:9", "", "CPU")),
        *({"training": {"checks_per_epoch": count}} for count in (0, *HUGE)),
        {"training": {"phases": {"rank": {"checks_per_epoch": 10**12}}}},
    ],
)
def test_a_refused_setting_leaves_no_folder(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        small_runs.train(tmp_path / "run", **changes)
    assert list(tmp_path.iterdir()) == []


def reseal(run: Path) -> None:
    """Digests that fit whatever stands there now, as one who can write the folder would make them."""
    record = read_json(run / "run.json", RunError)
    about = read_json(run / "model.json", RunError)
    write_json(run / "model.json", about | {"sha256": sha256(run / "model.safetensors")} if isinstance(about, dict) else about)
    if isinstance(record, dict):
        record.pop("digest", None)
        if isinstance(record.get("files"), dict):
            record["files"] = {name: sha256(run / name) for name in record["files"] if (run / name).is_file()}
        write_json(run / "run.json", record | {"digest": digest_of_json(record)})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return small_runs.copy_of(small_runs.disco(), tmp_path / "run").path


def test_a_sealed_record_that_lacks_a_key_or_has_another_kind_of_value(run: Path) -> None:
    whole = read_json(run / "run.json", RunError)
    for key in whole:
        if key in ("digest", "format"):
            continue
        for values in ({name: each for name, each in whole.items() if name != key}, whole | {key: None}, whole | {key: [7]}):
            write_json(run / "run.json", values)
            reseal(run)
            try:
                found = load(run)
                repr(found), str(found)
            except BraidError:
                continue
            except (KeyError, TypeError, AttributeError, ValueError):
                assert key in ("training", "choices", "phases", "sized"), key  # read when they are asked for


Change = Callable[[dict[str, torch.Tensor], str], dict[str, torch.Tensor]]
CHANGES: dict[str, Change] = {
    "infinity": lambda tensors, name: tensors | {name: torch.full(tensors[name].shape, torch.inf)},
    "complex": lambda tensors, name: tensors | {name: tensors[name].to(torch.complex64)},
    "one row less": lambda tensors, name: tensors | {name: torch.atleast_1d(tensors[name])[:-1].clone()},
    "a number": lambda tensors, name: tensors | {name: torch.tensor(1.0)},
    "rows that are not there": lambda tensors, name: tensors | {name: torch.full_like(tensors[name], 2**30)},
    "rows below zero": lambda tensors, name: tensors | {name: torch.full_like(tensors[name], -1)},
    "truth": lambda tensors, name: tensors | {name: torch.zeros_like(tensors[name], dtype=torch.bool)},
    "missing": lambda tensors, name: {each: tensor for each, tensor in tensors.items() if each != name},
    "another shape": lambda tensors, name: tensors | {name: torch.zeros(3, 5, 7)},
    "no rows": lambda tensors, name: tensors | {name: torch.atleast_1d(tensors[name])[:0]},
    "NaN": lambda tensors, name: tensors | {name: torch.full_like(tensors[name], torch.nan)},
}


@pytest.mark.parametrize("change", ["missing", "another shape", "NaN"])
def test_sealed_weights_that_are_not_ours(change: str, run: Path) -> None:
    whole = load_file(str(run / "model.safetensors"))
    taken = []
    for name, tensor in whole.items():
        if change == "NaN" and not (tensor.is_floating_point() and tensor.numel()):
            continue
        save_file(CHANGES[change](dict(whole), name), str(run / "model.safetensors"))
        reseal(run)
        try:
            load(run)
            taken.append(name)
        except BraidError:
            pass
    # the end state of the statistics and the reduced table are read when the model is asked
    assert not [name for name in taken if change == "NaN" or not name.startswith(("data.", "sources."))]


def asked(run: Run) -> None:
    """All that a run is asked for."""
    user, items = run.dataset.user_ids[1], run.catalogue.all_ids[:2]
    calls: list[Callable[[], object]] = [
        lambda: run.recommend(user, k=3),
        lambda: run.recommend(items=items, k=10**6),
        lambda: run.similar(items[0]),
        lambda: run.score_items(user, items),
        lambda: run.item_vectors(),
        lambda: run.recommend_all(run.path / "all.parquet", show_progress=False),
        lambda: run.add_items({"late": "a text"}),
        lambda: run.outcome(show_progress=False),
    ]
    for call in calls:
        with contextlib.suppress(BraidError):
            call()
    shutil.rmtree(run.path / "added", ignore_errors=True)
    for file in run.path.glob("outcome.*"):
        file.unlink()


def closed_form(path: Path, backbone: str, text: bool) -> Run:
    knowledge = sequence_runs.knowledge() if text else None
    return fit(sequence_runs.dataset(), path=path, backbone=backbone, knowledge=knowledge, show_progress=False)


def by_meaning(path: Path) -> Run:
    settings = {"statistics": True, "history": {"kind": "semantic_topk", "length": 4}}
    knowledge = small_runs.rich_knowledge()
    return small_runs.train(path, small_runs.rich(), enhance="disco", knowledge=knowledge, model=settings)


KINDS: dict[str, Callable[[Path], Run]] = {
    "disco": by_meaning,
    "deepfm": lambda path: small_runs.train(path, small_runs.rich(), backbone="deepfm"),
    "pad": lambda path: sequence_runs.copy_of(sequence_runs.pad(), path),
    "sasrec": lambda path: sequence_runs.copy_of(sequence_runs.sasrec(), path),
    "ease": lambda path: closed_form(path, "ease", True),
    "gf-cf": lambda path: closed_form(path, "gf-cf", False),
    "ials": lambda path: closed_form(path, "ials", False),
    "popularity": lambda path: closed_form(path, "popularity", False),
    "text-knn": lambda path: closed_form(path, "text-knn", True),
}


@pytest.mark.parametrize("kind", ["ease", "popularity", *(pytest.param(each, marks=pytest.mark.slow) for each in KINDS)])
def test_sealed_weights_of_any_form_are_refused_or_answer(kind: str, tmp_path: Path, note: Note) -> None:
    """Never with a stranger's exception, whichever tensor it is and whatever is asked."""
    path = KINDS[kind](tmp_path / "run").path
    whole, refused, tried = load_file(str(path / "model.safetensors")), 0, 0
    for name in whole:
        for kind, change in CHANGES.items():
            if kind == "NaN" and not whole[name].is_floating_point():
                continue
            save_file(change(dict(whole), name), str(path / "model.safetensors"))
            reseal(path)
            tried += 1
            try:
                asked(load(path))
            except BraidError:
                refused += 1
    note("sealed weights of any form", tried, Wrong(foreign=0))
    assert refused > len(whole)


def test_sparse_weights_whose_rows_are_not_there_are_never_multiplied_by(tmp_path: Path) -> None:
    """SciPy checks no bounds where it multiplies: what lies there would be written over memory that is not its own."""
    run = closed_form(tmp_path / "run", "item-knn", False)
    count = len(run.catalogue) + 1
    whole = load_file(str(run.path / "model.safetensors"))
    del whole["dense"]
    good = {"start": torch.arange(count + 1).int(), "column": torch.arange(count).int(), "value": torch.ones(count)}
    save_file(whole | good, str(run.path / "model.safetensors"))
    reseal(run.path)
    assert load(run.path).recommend(items=run.catalogue.all_ids[:1], k=1)
    for name, at, value in (
        ("column", 3, 2**30),
        ("column", 3, -5),
        ("start", count, 2**30),
        ("start", 2, -9),
        ("start", 1, 30),
    ):
        bad = {each: part.clone() for each, part in good.items()}
        bad[name][at] = value
        save_file(whole | bad, str(run.path / "model.safetensors"))
        reseal(run.path)
        with pytest.raises(RunError, match="not what this version writes"):
            load(run.path)


ARRAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "huge": lambda array: np.full_like(array, 2**30),
    "negative": lambda array: np.full_like(array, -2),
    "shorter": lambda array: array[:-1],
    "none": lambda array: array[:0],
    "flat": lambda array: array.reshape(-1)[:, None, None],
    "other": lambda array: array.astype(np.float64 if array.dtype.kind == "i" else np.int64),
    "words": lambda array: array.astype("U8"),
}


def test_sealed_arrays_of_a_data_set_that_do_not_go_together(tmp_path: Path) -> None:
    shutil.copytree(small_runs.rich().path, tmp_path / "data")
    tried = 0
    for file in sorted((tmp_path / "data").glob("*.npy")):
        held, whole = file.read_bytes(), np.load(file)
        for name, change in ARRAYS.items():
            if np.array_equal(found := change(whole), whole):
                continue
            np.save(file, found)
            seal_data(tmp_path / "data")
            tried += 1
            try:
                Dataset.open(tmp_path / "data")
            except DataError:
                continue
            finally:
                file.write_bytes(held)
            numbers = ("timestamp", "rating", "label", "weight", "numbers")
            any_length = file.name.startswith("split.") and name in ("shorter", "none")
            assert any_length or (name in ("huge", "negative") and any(each in file.name for each in numbers)), (
                file.name,
                name,
            )
    assert tried > 100


@pytest.mark.parametrize("name", ["items.parquet", "users.parquet", "vocabulary.json"])
def test_sealed_tables_that_are_not_ours(name: str, run: Path, tmp_path: Path) -> None:
    shutil.copytree(small_runs.dataset().path, tmp_path / "data")
    frames = {
        "no": pl.DataFrame(),
        "other": pl.DataFrame({"x": [1]}),
        "typed": pl.DataFrame({"item_id": [[1]], "user_id": [[2]]}),
    }
    contents: list[bytes] = [
        b"",
        b"PAR1",
        b"PAR1" * 100,
        b"[]",
        b"{}",
        b'{"vocabularies": 7, "scalings": [], "bags": []}',
        b"null",
    ]
    for frame in frames.values():
        frame.write_parquet(tmp_path / "frame")
        contents.append((tmp_path / "frame").read_bytes())
    for content in contents:
        (tmp_path / "data" / name).write_bytes(content)
        seal_data(tmp_path / "data")
        with pytest.raises(BraidError):
            everything_of(tmp_path / "data", run)
        for own in ("catalogue.parquet", "users.parquet", "vocabulary.json"):
            held = (run / own).read_bytes()
            (run / own).write_bytes(content)
            reseal(run)
            with contextlib.suppress(BraidError):
                asked(load(run))
            (run / own).write_bytes(held)
        reseal(run)


def everything_of(data: Path, run: Path) -> None:
    found = Dataset.open(data)
    assert found.item_ids
    assert found.user_ids
    load(run, dataset=found).recommend(found.user_ids[0])


def seal_data(folder: Path) -> None:
    """Digests of a data set that fit whatever stands there now."""
    manifest = read_json(folder / "manifest.json", DataError)
    manifest.pop("digest", None)
    manifest["files"] = {name: sha256(folder / name) for name in manifest["files"]}
    write_json(folder / "manifest.json", manifest | {"digest": digest_of_json(manifest)})


def test_a_sealed_manifest_of_data_that_lacks_a_key(tmp_path: Path) -> None:
    shutil.copytree(small_runs.rich().path, tmp_path / "data")
    whole = read_json(tmp_path / "data" / "manifest.json", DataError)
    del whole["digest"]
    for key in whole:
        for values in ({name: each for name, each in whole.items() if name != key}, whole | {key: None}, whole | {key: [7]}):
            write_json(tmp_path / "data" / "manifest.json", values | {"digest": digest_of_json(values)})
            with contextlib.suppress(BraidError):
                found = Dataset.open(tmp_path / "data")
                [repr(found), str(found), found._repr_html_(), found.notes, found.identity, *dataset_tables(found)]


def test_sealed_archives_that_lack_something(tmp_path: Path) -> None:
    write_archive(tmp_path / "whole", Archive({"model": {"x": torch.zeros(2)}}, {"step": 1}))
    for name in ("format", "files", "facts"):
        for value in (None, [], "x", 7):
            folder = tmp_path / f"{name}{value}"
            shutil.copytree(tmp_path / "whole", folder)
            manifest = read_json(folder / "manifest.json", RunError)
            body = {key: each for key, each in manifest["body"].items() if key != name} | (
                {} if value is None else {name: value}
            )
            write_json(folder / "manifest.json", {"digest": _digest(body), "body": body})
            if name == "facts" and value is not None:
                continue  # read by whom they are for
            with pytest.raises(RunError, match=r"manifest\.json|not what this version writes"):
                read_archive(folder)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5_000, '{"a": ' + "9" * 5_000 + "}", "\x00", "", "\ufeff{}"]
)
def test_deep_and_huge_json_is_our_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=r"a\.json"):
        read_json(tmp_path / "a.json", RunError)


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 50_000, "a = " + "9" * 5_000, "a.b" * 20_000, "\x00", "a = 1\na = 2", "[a]\n" * 2]
)
def test_deep_and_huge_toml_is_our_error(text: str, tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(text, encoding="utf-8")
    calls: list[Callable[[], object]] = [
        lambda: read_request(file, {}),
        lambda: build(small_runs.dataset().path, tmp_path / "kb", str(file)),
        lambda: prepare(str(file), None, tmp_path / "data"),
    ]
    for call in calls:
        with pytest.raises(BraidError, match=r"a\.toml"):
            call()
    assert [each.name for each in tmp_path.iterdir()] == ["a.toml"]


COUNT = 200
COLUMNS: dict[str, Callable[[], pl.Series]] = {
    "duration": lambda: pl.Series([datetime.timedelta(seconds=at) for at in range(COUNT)]),
    "time of day": lambda: pl.Series([datetime.time(1, 2, at % 60) for at in range(COUNT)]),
    "binary": lambda: pl.Series([b"ab"] * COUNT),
    "struct": lambda: pl.Series([{"a": 1}] * COUNT),
    "object": lambda: pl.Series([object()] * COUNT, dtype=pl.Object),
    "decimal": lambda: pl.Series([1] * COUNT).cast(pl.Decimal(10, 2)),
    "null": lambda: pl.Series([None] * COUNT),
    "array": lambda: pl.Series([[1, 2]] * COUNT, dtype=pl.Array(pl.Int64, 2)),
    "nested": lambda: pl.Series([[["a"]]] * COUNT),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_of_any_type_in_any_role_is_read_or_refused(kind: str, tmp_path: Path) -> None:
    tables = small_runs.rich_tables()
    log = tables.interactions.head(COUNT)
    for role in ("time", "rating", "user", "item", "device", "hour", "tags", "weight"):
        odd = log.with_columns(COLUMNS[kind]().alias(role))
        with contextlib.suppress(BraidError):
            Dataset.from_frames(odd, items=tables.items, users=tables.users, path=tmp_path / role, schema=tables.schema)
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".")]
