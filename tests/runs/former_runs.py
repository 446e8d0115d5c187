"""Runs as the version before wrote them, run format 2, made from runs of this one."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import tomli_w

from braidrec.config import RunConfig, from_toml
from braidrec.errors import RunError
from braidrec.files import read_json, sha256, write_json
from braidrec.runs.directory import digest_of_json, load_model, save_model
from braidrec.task import Saved

FILES = ("config.toml", "model.json", "vocabulary.json", "metrics.jsonl", "environment.json")


def former_config(config: RunConfig) -> dict[str, Any]:
    """Its config.toml: the task and all names stood in the model's table, and there was one knowledge base at most."""
    values = config.model_dump(exclude_none=True)
    model, training = values["model"], values["training"]
    old = {"task": config.task, **{key: value for key, value in model.items() if key not in config.enhance}}
    old["backbone"] = {"name": config.backbone, **model["backbone"]}
    for name in config.enhance:  # one at most; ranking had one alone, and SMEM was PAD without its alignment
        named = {} if config.task == "ranking" else {"name": "pad" if name == "smem" else name}
        old["enhance"] = {**named, **model[name]}
    found: dict[str, Any] = {"data": config.data}
    if config.knowledge:
        [found["knowledge"]] = config.knowledge
    found |= {key: values[key] for key in ("preset", "seed", "negatives") if key in values}
    return {**found, "model": old, "training": {**training, "accelerator": "cpu"}}


def rewrite_config(path: Path, *, data: Path | None = None) -> None:
    """All that an unfinished run of then has otherwise.  data: where its data are said to be"""
    config = from_toml(path / "config.toml")
    if data is not None:
        config = config.model_copy(update={"data": str(data)})
    (path / "config.toml").write_text(tomli_w.dumps(former_config(config)))


def rewrite(path: Path, *, data: Path | None = None) -> None:
    """Turn the finished run at ``path``: no catalogue, no schema, nothing of the data beside the model, one knowledge base."""
    rewrite_config(path, data=data)
    saved = load_model(path)
    tensors = {name: tensor for name, tensor in saved.tensors.items() if not name.startswith("data.")}
    assert tensors.keys() < saved.tensors.keys()
    save_model(path, Saved(tensors, saved.about))
    (path / "catalogue.parquet").unlink()
    record = read_json(path / "run.json", RunError)
    record["format"], record["knowledge"] = 2, next(iter(record["knowledge"]), None)
    (path / "users.parquet").unlink()
    for key in ("schema", "ids", "events"):
        del record["data"][key]
    del record["reads_text"], record["digest"], record["weights"]
    if data is not None:
        record["data"]["path"] = str(data)
    if (note := path / "added" / "items.json").exists():  # they did not name their run
        about = {key: value for key, value in read_json(note, RunError).items() if key not in ("run", "digest")}
        write_json(note, about | {"digest": digest_of_json(about)})
    if record["task"] == "ranking":
        shutil.rmtree(path / "weights")
    record["files"] = {name: sha256(path / name) for name in FILES}
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    write_json(path / "run.json", {**record, "digest": digest})
