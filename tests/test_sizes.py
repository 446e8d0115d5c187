"""Sizes that nobody means: refused by key, value and what is accepted, before data are looked at or memory is asked for."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import braidrec
import small_runs
from braidrec.config import RunRequest, resolve
from braidrec.data.planted import PlantedConfig
from braidrec.data.settings import PrepareSettings
from braidrec.errors import ConfigError, RunError
from braidrec.knowledge.encoders import encoder_config
from braidrec.runs import fit as fitting
from braidrec.runs.fit import prepare_fit
from braidrec.runs.preparing import prepare
from braidrec.strict import DEEPEST, LONGEST, MOST, WIDEST, Strict, parse

OPEN = {("Identity", "width"), ("_Manifest", "format"), ("Hardware", "devices")}  # that nobody sets


def kinds(of: type[Strict] = Strict) -> Iterator[type[Strict]]:
    for each in of.__subclasses__():
        yield each
        yield from kinds(each)


def bounded(schema: dict[str, Any]) -> bool:
    """Whether every whole number in it has an end above."""
    if schema.get("type") == "integer":
        return not {"maximum", "exclusiveMaximum", "enum", "const"}.isdisjoint(schema)
    below = [each for key in ("anyOf", "oneOf", "allOf", "prefixItems") for each in schema.get(key, ())]
    below += [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
    return all(map(bounded, below))


def test_every_whole_number_of_every_setting_has_an_end_above() -> None:
    [root] = braidrec.__path__
    for file in Path(root).rglob("*.py"):
        if file.stem not in ("__init__", "__main__"):
            importlib.import_module(".".join(("braidrec", *file.relative_to(root).with_suffix("").parts)))
    assert {each.name for each in pkgutil.iter_modules([root])} >= {"ranking", "sequential", "collaborative"}
    found = {each for each in kinds() if each.__module__.startswith("braidrec.")}
    without = [
        (kind.__name__, name)
        for kind in found
        for name, schema in kind.model_json_schema().get("properties", {}).items()
        if not bounded(schema)
    ]
    assert len(found) > 50
    assert not set(without) - OPEN


@pytest.mark.parametrize(
    ("backbone", "enhance", "model", "key", "most"),
    [
        ("din", None, {"dim": 10**6}, "dim", WIDEST),
        ("din", None, {"dim": 10**30}, "dim", WIDEST),
        ("din", None, {"history": {"length": 10**7}}, "history.length", LONGEST),
        ("din", None, {"backbone": {"mlp": [128, 10**8]}}, "mlp.1", WIDEST),
        ("dcn", None, {"backbone": {"layers": 10**4}}, "layers", DEEPEST),
        ("din", "disco", {"enhance": {"semantic_hidden": 10**9}}, "semantic_hidden", WIDEST),
        ("sasrec", None, {"dim": 10**6}, "dim", WIDEST),
        ("sasrec", None, {"length": 10**9}, "length", LONGEST),
        ("sasrec", None, {"negatives": 10**9}, "negatives", LONGEST),
        ("sasrec", None, {"backbone": {"blocks": 10**5}}, "blocks", DEEPEST),
        ("gru4rec", None, {"backbone": {"hidden": 10**7}}, "hidden", WIDEST),
        ("sasrec", "pad", {"buckets": 10**8}, "buckets", LONGEST),
        ("lightgcn", None, {"backbone": {"dim": 10**7}}, "dim", WIDEST),
        ("lightgcn", None, {"backbone": {"depth": 10**6}}, "depth", DEEPEST),
        ("lightgcn", "darec", {"enhance": {"sample": 10**9}}, "sample", LONGEST),
        ("ease", None, {"rank": 10**9}, "rank", LONGEST),
        ("ials", None, {"factors": 10**9}, "factors", WIDEST),
        ("sdrl", None, {"blocks": {"all": {"size": 10**9}}}, "blocks.all.size", WIDEST),
        ("vaecf", None, {"hidden": [10**9]}, "hidden.0", WIDEST),
    ],
)
def test_an_absurd_size_of_a_model_is_refused_before_data_are_read(
    backbone: str, enhance: str | None, model: dict[str, Any], key: str, most: int
) -> None:
    values = {"data": "nowhere", "backbone": backbone, "enhance": enhance or (), "knowledge": "nowhere", "model": model}
    request = parse(RunRequest, values, "run.toml")
    with pytest.raises(ConfigError, match=rf"run\.toml: .*{key}' = 10+: .*less than or equal to {most}"):
        resolve(request, "run.toml")
    with pytest.raises(ConfigError, match=rf"{key}' = 10+: "):
        prepare_fit(request, "run.toml")


@pytest.mark.parametrize("key", ["batch_size", "max_epochs", "patience"])
def test_an_absurd_size_of_training_is_refused(key: str) -> None:
    for training in ({key: 10**12}, {"phases": {"rank": {key: 10**12}}}):
        with pytest.raises(ConfigError, match=rf"{key}' = 10+: .*less than or equal to {MOST}"):
            resolve(parse(RunRequest, {"data": "d", "backbone": "din", "training": training}, "run.toml"), "run.toml")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"negatives": 10**9}, f"'negatives' = 10+: .*less than or equal to {LONGEST}"),
        ({"k_core": 10**12}, f"'k_core' = 10+: .*less than or equal to {MOST}"),
        ({"split": {"min_history": 10**12}}, rf"'split\.min_history' = 10+: .*less than or equal to {MOST}"),
        ({"split": {"kind": "leave_k_out", "held_out": 10**12}}, rf"'split\.held_out' = 10+: .*less than or equal to {MOST}"),
        ({"split": {"seed": -1}}, r"'split\.seed' = -1: .*greater than or equal to 0"),
        ({"split": {"seed": 2**32}}, r"'split\.seed' = 4294967296: .*less than 4294967296"),
    ],
)
def test_an_absurd_size_of_preparing_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(PrepareSettings, values, "d.toml")


def test_absurd_sizes_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"'encoder.width' = 10+: .*less than or equal to {WIDEST}"):
        encoder_config({"kind": "tfidf", "width": 10**9})
    with pytest.raises(ConfigError, match=r"'interactions' = 10+: "):
        parse(PlantedConfig, {"interactions": 10**15}, "planted")
    log = pl.DataFrame({"user": [1, 1], "item": [1, 2], "hour": [1.0, 2.0]})
    (tmp_path / "log.csv").write_text(log.write_csv())
    (tmp_path / "d.toml").write_text(
        'name = "d"\n[interactions]\nfile = "log.csv"\nfields = [{name = "hour", kind = "numeric", buckets = 1000000000}]\n'
    )
    with pytest.raises(ConfigError, match=f"buckets' = 10+: .*less than or equal to {LONGEST}"):
        prepare(str(tmp_path / "d.toml"), None, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_memory_that_the_machine_does_not_give_is_our_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asks: list[Callable[..., object]] = [lambda *rest: torch.empty(1 << 60), lambda *rest: np.empty(1 << 60, np.uint8)]
    for ask in asks:
        monkeypatch.setattr(fitting, "_phases", ask)
        with pytest.raises(
            RunError, match=r"run: training asks for memory that is not there \((4611686018427387904 bytes|1\.00 EiB) at once\)"
        ) as caught:
            small_runs.train(tmp_path / "run")
        assert "model.dim" in str(caught.value)
        assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(fitting, "_phases", lambda *rest: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        small_runs.train(tmp_path / "run")
