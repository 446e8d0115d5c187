"""Settings out of any range and files that are sealed but not ours: our error, and no folder that blocks the next try."""

from __future__ import annotations

import contextlib
import datetime
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

import small_runs
from braidrec.config import read_request
from braidrec.data.dataset import Dataset
from braidrec.errors import BraidError, ConfigError, RunError
from braidrec.files import read_json, sha256, write_json
from braidrec.runs.directory import digest_of_json
from braidrec.runs.knowledge import build
from braidrec.runs.preparing import prepare
from braidrec.runs.run import load
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
    "missing": lambda tensors, name: {each: tensor for each, tensor in tensors.items() if each != name},
    "another shape": lambda tensors, name: tensors | {name: torch.zeros(3, 5, 7)},
    "no rows": lambda tensors, name: tensors | {name: tensors[name][:0]},
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
