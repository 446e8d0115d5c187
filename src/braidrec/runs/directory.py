"""A run's folder: who may write there, what a finished run leaves behind, and how it is checked when it is opened.

config.toml        every setting, resolved; its paths are from its own folder, so that a project can be moved
run.json         what was trained on what, and how it went
model.safetensors  weights and what answers need besides, such as frequency buckets; model.json: sizes, digest
vocabulary.json    raw values by row                   catalogue.parquet  raw item ids and titles by row
users.parquet      raw user ids by row, by which a longer log is matched
weights/<stage>/   the best weights of each stage, from which other runs can start; run.json has their digests
outcome.<part>.*   what the model made of a held-out part; like added/, it names the run that it was made by (`origin`)
metrics.jsonl      one line per check                  environment.json versions, machine, threads
training/          checkpoints, for as long as the run can be resumed
added/             items added later (see `braidrec.runs.added`)
writer.lock        held by the one process that trains here or adds items, gone when it is done
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import shutil
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from braidrec.config import RunConfig, from_toml, to_toml
from braidrec.data.dataset import Dataset
from braidrec.errors import ConfigError, RunError, remedy
from braidrec.files import (
    check_digest,
    load_tensors,
    read_json,
    save_tensors,
    sha256,
    write_atomic,
    write_json,
    write_text,
    writing,
)
from braidrec.locks import LockHeld, writer_lock
from braidrec.runs.trained import USERS, Trained
from braidrec.task import Saved
from braidrec.training.checkpoint import Archive, archive_digest, read_archive
from braidrec.training.config import MACHINE
from braidrec.training.contracts import PhaseResult, TrainingResult

RUN_FORMAT = 3
FORMER = 2  # still read: config by task, one knowledge base, nothing of the data beside the model
CATALOGUE = "catalogue.parquet"
LOCK = "writer.lock"
# Under run.json's digests; a former run has no catalogue, and no early one of this format has users.
RUN_FILES = ("config.toml", "model.json", "vocabulary.json", "metrics.jsonl", "environment.json", CATALOGUE, USERS)


# -- before training ------------------------------------------------------------------------------------------------------


def ended(path: Path) -> bool:
    """Whether a finished run is there."""
    return (path / "run.json").exists()


def refuse_other(path: Path, config: RunConfig) -> None:
    """Only an empty folder will do, or one that holds a run of these settings; its data and text are known by their contents,
    which `claim` and `refuse_other_inputs` compare, wherever they lie now.
    """
    file = path / "config.toml"
    if file.exists():
        if found := _difference(_compared(from_toml(file)), _compared(config)):
            raise ConfigError(f"{path}: holds a run with other settings ({found}); choose another folder{_out()}")
    elif path.exists() and not path.is_dir():
        raise ConfigError(f"{path}: a file is there already; choose another folder{_out()}")
    elif (above := next((each for each in path.parents if each.exists()), path)).is_file():
        raise ConfigError(f"{path}: {above} is a file, so no folder can be made there; choose another one{_out()}")
    elif path.exists() and any(each.name != LOCK and not each.name.startswith(".config.toml.") for each in path.iterdir()):
        raise ConfigError(f"{path}: the folder is not empty and holds no run; choose another one{_out()}")


def _out() -> str:
    return remedy(" (path=...)", " (--out)")


def _compared(config: RunConfig) -> dict[str, Any]:
    """What makes it this run: folders by what they lead to, those of knowledge only where they are read."""
    whole = config.with_places(os.path.realpath)
    values = tomllib.loads(to_toml(whole))
    del values["data"]
    values["knowledge"] = list(whole.knowledge) if config.chosen.task.room().reads_text(config) else []
    return values


@contextmanager
def claim(
    path: Path, config: RunConfig, inputs: Mapping[str, str | None], *, former: Mapping[str, str | None] | None = None
) -> Iterator[bool]:
    """Take the folder, for as long as this process trains in it, and only for this run, on the data that an earlier start saw.

    inputs: digests by what they are of, such as "data" and "knowledge"; None for what the run does not read
    former: another digest of some of them, by which an earlier start may have known them
    Everything is checked while the folder is held, since others may have written there until then; yields True where one of
    them has finished this very run, which leaves nothing to train.  The lock lies beside ``training``, which ends before it.
    """
    with ExitStack() as stack:
        stack.enter_context(writing(path))
        path.mkdir(parents=True, exist_ok=True)
        try:
            stack.enter_context(writer_lock(path / LOCK, wait=0))
        except LockHeld as held:
            raise RunError(
                f"{path}: another process is training this run (process {held.holder}); wait for it, or choose another folder"
                f"{_out()}"
            ) from None
        refuse_other(path, config)
        if not ended(path):
            _begin(path, config, inputs, former or {})
        yield ended(path)


def _begin(path: Path, config: RunConfig, inputs: Mapping[str, str | None], former: Mapping[str, str | None]) -> None:
    if not (path / "config.toml").exists():
        write_text(path / "config.toml", to_toml(config, path))
    note = path / "training" / "inputs.json"
    if not note.exists():
        write_json(note, {**inputs, "run": secrets.token_hex(8)})
        return
    seen = read_json(note, RunError)
    for name, digest in inputs.items():
        if seen.get(name) not in (digest, former.get(name, digest)):
            raise RunError(
                f"{path}: begun on other {name} (fingerprint {seen.get(name)}, now {digest}), so it cannot go on; "
                f"bring the earlier one back, or choose another folder{_out()}"
            )


def begun(path: Path) -> str:
    """What names the training at ``path`` and what it reads: no other training's checkpoints name it."""
    return digest_of_json(read_json(path / "training" / "inputs.json", RunError))


def digest_of(vectors: NDArray[np.floating[Any]] | None) -> str | None:
    """Of an array's values (n, S) as float32, for `claim`: the same whatever precision holds them."""
    if vectors is None:
        return None
    digest = hashlib.sha256()
    for first in range(0, len(vectors), 4096):
        digest.update(np.ascontiguousarray(vectors[first : first + 4096], np.float32).data)
    return digest.hexdigest()[:16]


def _difference(held: Mapping[str, Any], wanted: Mapping[str, Any], at: str = "") -> str | None:
    """The first setting that differs, in words; the machine's own make no other run."""
    for key in sorted(held.keys() | wanted.keys()):
        if at == "training." and key in MACHINE:
            continue
        old, new = held.get(key), wanted.get(key)
        if at == "" and key == "knowledge" and len(old or ()) == len(new or ()):
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            if found := _difference(old, new, f"{at}{key}."):
                return found
        elif old != new:
            return f"{at}{key} was {old!r} and is now {new!r}"
    return None


# -- after training -------------------------------------------------------------------------------------------------------


def save_model(path: Path, saved: Saved) -> None:
    """model.safetensors, and model.json with its digest and what is needed to build the model."""
    write_json(path / "model.json", {"sha256": save_tensors(path / "model.safetensors", saved.tensors), **saved.about})


def load_model(path: Path) -> Saved:
    """What `save_model` saved.  Raises RunError when a byte of it changed."""
    about = read_json(path / "model.json", RunError)
    return Saved(load_tensors(path / "model.safetensors", about.pop("sha256"), RunError), about)


def save_catalogue(path: Path, ids: Sequence[str], titles: Sequence[str]) -> None:
    """Raw ids and titles by catalogue row, so that a run answers without its data."""
    import polars as pl

    frame = pl.DataFrame({"item": ids, "title": titles}, schema={"item": pl.String, "title": pl.String})
    write_atomic(path / CATALOGUE, lambda temporary: frame.write_parquet(temporary))


def load_catalogue(path: Path) -> tuple[list[str], list[str]]:
    """Raw ids and titles by catalogue row."""
    import polars as pl

    frame = pl.read_parquet(path / CATALOGUE)
    return frame["item"].to_list(), frame["title"].to_list()


def save_record(
    path: Path,
    config: RunConfig,
    dataset: Dataset,
    result: TrainingResult,
    choices: Mapping[str, Any],
    knowledge: Sequence[Mapping[str, Any]],
    *,
    sized: str | None,
    warnings: Sequence[str],
    reads_text: bool,
    taken: Mapping[str, str],
) -> dict[str, Any]:
    """What a run has besides its model, which is saved before; run.json last, so a folder with it is complete.

    choices: what training settled by itself    knowledge: identity and place of each knowledge base
    sized: what the size of the log settled, in words    warnings: what a reader should doubt
    reads_text: whether the model can know an item by text alone    taken: digests of weights that another run trained
    ``best`` and ``training`` are those of the last phase; all of them stand in ``phases``.  Returns run.json's entries.
    """
    shutil.copyfile(dataset.path / "vocabulary.json", path / "vocabulary.json")
    note = path / "training" / "threads.json"
    threads = {"threads": read_json(note, RunError)} if note.exists() else {}
    write_json(path / "environment.json", environment() | threads)
    phases = [_phase_record(phase) for phase in result.phases]
    record = {
        "format": RUN_FORMAT,
        "task": config.task,
        "title": config.title,
        "data": {
            "name": dataset.name,
            "path": str(dataset.path.resolve()),
            **dataset.identity.to_json(),
            "vocabulary": dataset.settings.vocabulary,
            "schema": dataset.schema.model_dump(mode="json"),
            "ids": dataset.manifest.get("ids", {}),
            "settings": dataset.settings.model_dump(mode="json"),
            "events": Trained.of(dataset).save(path),
        },
        "reads_text": reads_text,
        "knowledge": [dict(each) for each in knowledge],
        "choices": dict(choices),
        "phases": phases,
        "weights": {phase.name: archive_digest(path / "weights" / phase.name) for phase in result.phases},
        "best": phases[-1]["best"],
        "training": phases[-1]["training"],
        "sized": sized,
        "warnings": list(warnings),
        **({"taken": dict(taken)} if taken else {}),
    }
    metrics = path / "training" / "metrics.jsonl"
    if not metrics.exists():
        raise RunError(f"{metrics}: training left no metrics")
    shutil.copyfile(metrics, path / "metrics.jsonl")
    record["files"] = {name: sha256(path / name) for name in RUN_FILES}
    write_json(path / "run.json", record | {"digest": digest_of_json(record)})
    shutil.rmtree(path / "training")
    return record


def _phase_record(phase: PhaseResult) -> dict[str, Any]:
    return {
        "name": phase.name,
        "best": {"check": phase.best_check, "step": phase.best_step, "metrics": dict(phase.metrics)},
        "training": {"steps": phase.steps, "seconds": phase.seconds, "samples_per_second": phase.samples_per_second},
    }


def environment() -> dict[str, Any]:
    """Versions, machine and threads, so that a number can be traced to where it was measured."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in (
        "braidrec",
        "torch",
        "lightning-fabric",
        "numpy",
        "polars",
        "pyarrow",
        "lancedb",
        "sentence-transformers",
        "safetensors",
    ):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": versions,
    }


# -- opening --------------------------------------------------------------------------------------------------------------


def read_run(path: Path) -> tuple[RunConfig, dict[str, Any]]:
    """The config and run.json's entries.  Raises RunError when the run is missing, unfinished, damaged or of another format."""
    if not (path / "run.json").exists():
        again = remedy("call fit", "run 'braidrec fit'")
        state = f"is unfinished; {again} with the same settings to go on" if path.is_dir() else "does not exist"
        raise RunError(f"{path}: the run {state}")
    record = read_json(path / "run.json", RunError)
    found = record.get("format") if isinstance(record, dict) else None
    if found not in (FORMER, RUN_FORMAT):
        raise RunError(f"{path}: run format {found!r}, this version reads {FORMER} and {RUN_FORMAT}; train it again")
    if record.pop("digest", None) != digest_of_json(record):
        raise RunError(f"{path / 'run.json'}: its content does not have its digest; the file is damaged or was edited")
    for name in RUN_FILES:
        if name in record["files"] or name not in (CATALOGUE, USERS) or (name == CATALOGUE and found == RUN_FORMAT):
            check_digest(path / name, record["files"].get(name, ""), RunError)
    if found == FORMER:
        record["knowledge"] = [] if record["knowledge"] is None else [record["knowledge"]]
    return _moved(from_toml(path / "config.toml"), record), record


def _moved(config: RunConfig, record: Mapping[str, Any]) -> RunConfig:
    """Where a run was moved without its data, the recorded whole paths help."""

    def there(written: str, recorded: str) -> str:
        return recorded if not Path(written).exists() and Path(recorded).is_absolute() else written

    bases = [each.get("path", "") for each in record["knowledge"]]
    knowledge = config.knowledge
    if len(bases) == len(knowledge):
        knowledge = tuple(there(*pair) for pair in zip(knowledge, bases, strict=True))
    return config.model_copy(update={"data": there(config.data, record["data"].get("path", "")), "knowledge": knowledge})


def origin(record: Mapping[str, Any]) -> str:
    """Which run this is, as what is derived from it names it: by its settings, weights, rows and metrics."""
    return digest_of_json(record["files"])


def read_stage(path: Path, record: Mapping[str, Any], stage: str) -> Archive:
    """The weights of a stage of the run at ``path``, held against what its record says of them.

    record: run.json's entries; of an earlier version, which noted no digests, the archive is held against its own alone
    """
    noted = record.get("weights", {})
    if noted and stage not in noted:
        raise RunError(f"{path}: its record knows no stage '{stage}', so the weights there are of another run")
    return read_archive(path / "weights" / stage, noted.get(stage))


def digest_of_json(record: Mapping[str, Any]) -> str:
    """Of a JSON file's content, so that a damaged entry is noticed like a damaged file."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
