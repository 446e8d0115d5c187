"""Checkpoints: safetensors and JSON under a digest, never a pickle, put in place by one rename.

    <run>/checkpoints/<number>/       state of the loop; the newest two stay
    <run>/weights/<phase>-<step>/     the best weights of a phase so far; kept while a checkpoint names them

Each is an archive: some ``*.safetensors`` files and ``manifest.json``, which holds facts and the digest of every file,
itself included.  A directory exists under its name only when it is complete, so a killed process leaves the last good one.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from braidrec.errors import BraidError, RunError, WriteError
from braidrec.files import load_tensors, new_directory, read_json, save_tensors, understanding, write_json

FORMAT = 1
_MANIFEST = "manifest.json"
_KEPT = 2

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Archive:
    """files: file name (without ending) -> its tensors by name.  facts: anything JSON holds, finite numbers only."""

    files: Mapping[str, Mapping[str, Tensor]]
    facts: Mapping[str, Any]


def write_archive(path: Path, archive: Archive) -> str:
    """Write a whole archive, flushed to disk, then rename it to ``path``; what stood there before is replaced.

    Returns its digest, by which others name it.  Raises RunError when the disk does not take it; ``path`` is then as it was.
    """
    try:
        with new_directory(path, overwrite=True) as folder:
            digests = {
                name: save_tensors(folder / f"{name}.safetensors", _separate(tensors))
                for name, tensors in archive.files.items()
            }
            body = {"format": FORMAT, "files": digests, "facts": dict(archive.facts)}
            write_json(folder / _MANIFEST, {"digest": (digest := _digest(body)), "body": body})
    except OSError as cause:
        why = cause.__cause__ if isinstance(cause, WriteError) else cause
        raise RunError(f"{path}: could not be written ({why}); free or fix the disk, then resume") from cause
    return digest


def read_archive(path: Path, digest: str | None = None) -> Archive:
    """Read an archive, every digest checked.  Raises RunError when it is incomplete, damaged or of another format.

    digest: of the one that is meant, where that is known; another one in its place is refused
    """
    with understanding(path, RunError):
        facts, digests = _read_manifest(path)
        if digest is not None and (found := archive_digest(path)) != digest:
            raise RunError(
                f"{path}: its digest is {found[:12]}..., expected {digest[:12]}...: it is whole, but of another run or stage; "
                "bring this run's own back"
            )
        files = {name: load_tensors(path / f"{name}.safetensors", digest, RunError) for name, digest in digests.items()}
        return Archive(files, facts)


def archive_digest(path: Path) -> str:
    """Of a whole archive: that of its manifest, which names those of its files.  Raises RunError where it has none."""
    with understanding(path, RunError):
        _read_manifest(path)
        return str(read_json(path / _MANIFEST, RunError)["digest"])


def _read_manifest(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    manifest = path / _MANIFEST
    value = read_json(manifest, RunError)
    body = value.get("body") if isinstance(value, dict) else None
    if not isinstance(body, dict) or value.get("digest") != _digest(body):
        raise RunError(f"{manifest}: its digest does not fit its content; the file is damaged or was edited")
    if body["format"] != FORMAT:
        raise RunError(f"{manifest}: format {body['format']}, but this version of braidrec reads format {FORMAT}")
    return body["facts"], body["files"]


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _separate(tensors: Mapping[str, Tensor]) -> Tensors:
    """The same tensors, none sharing memory with another: tied weights are written once per name."""
    seen: set[int] = set()
    out: Tensors = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        out[name] = tensor.detach().clone() if memory in seen else tensor.detach()
        seen.add(memory)
    return out


class Store:
    """The archives of one run directory; one process at a time writes to it.

    digests: of weights by name, so that those of another run are not taken for them; earlier checkpoints know none
    """

    def __init__(self, directory: Path):
        self._checkpoints, self._weights = directory / "checkpoints", directory / "weights"
        self.digests: dict[str, str] = {}

    def latest(self) -> Archive | None:
        """The newest checkpoint, None when there is none.  Raises RunError, naming the way out, when it is damaged."""
        paths = self._numbered()
        if not paths:
            return None
        try:
            return read_archive(paths[-1])
        except RunError as cause:
            remedy = f"delete {paths[-1]} to resume from {paths[-2]}" if len(paths) > 1 else "start the run again"
            raise RunError(f"the last checkpoint cannot be used: {cause}; {remedy}") from cause

    def save(self, archive: Archive) -> Path:
        """Write the next checkpoint, then drop all but the newest two and the weights that neither names."""
        paths = self._numbered()
        path = self._checkpoints / f"{int(paths[-1].name) + 1 if paths else 0:08d}"
        write_archive(path, archive)
        paths.append(path)
        for old in paths[:-_KEPT]:
            shutil.rmtree(old)
        self._drop_weights(paths[-_KEPT:])
        return path

    def write_weights(self, name: str, archive: Archive) -> None:
        self.digests[name] = write_archive(self._weights / name, archive)

    def read_weights(self, name: str) -> Mapping[str, Tensor]:
        return read_archive(self._weights / name, self.digests.get(name)).files["model"]

    def clear_leftovers(self) -> None:
        """Remove what a killed process left half written."""
        for folder in (self._checkpoints, self._weights):
            for path in folder.glob(".*"):
                shutil.rmtree(path, ignore_errors=True)

    def _numbered(self) -> list[Path]:
        if not self._checkpoints.is_dir():
            return []
        return sorted((path for path in self._checkpoints.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))

    def _drop_weights(self, checkpoints: Iterable[Path]) -> None:
        kept: set[str] = set()
        for path in checkpoints:
            try:
                kept.update(_read_manifest(path)[0]["weights"])
            except BraidError:
                return  # a damaged neighbour may name any of them
        for path in self._weights.iterdir() if self._weights.is_dir() else ():
            if path.name not in kept:
                shutil.rmtree(path)


def optimiser_state(optimiser: torch.optim.Optimizer) -> tuple[Tensors, dict[str, dict[str, float]]]:
    """Per-parameter state as tensors named "<parameter index>.<state name>" and, likewise, plain numbers."""
    tensors: Tensors = {}
    numbers: dict[str, dict[str, float]] = {}
    for at, state in optimiser.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{at}.{name}"] = value
            else:
                numbers.setdefault(str(at), {})[name] = value
    return tensors, numbers


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Give a newly built optimiser of the same parameters the state of `optimiser_state`."""
    state: dict[int, dict[str, Any]] = {int(at): dict(values) for at, values in numbers.items()}
    for key, tensor in tensors.items():
        at, name = key.split(".", 1)
        state.setdefault(int(at), {})[name] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


@dataclass(frozen=True)
class Randomness:
    """States of all random generators: torch's (CPU, each CUDA device, private ones) and those of python and numpy."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def randomness(modules: Sequence[nn.Module]) -> Randomness:
    """Take the state of every generator, global ones and those that ``modules`` name in ``generators()``."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64))}
    if torch.cuda.is_initialized():
        tensors |= {f"cuda.{at}": state for at, state in enumerate(torch.cuda.get_rng_state_all())}
    tensors |= {f"private.{name}": generator.get_state() for name, generator in _private(modules).items()}
    facts = {
        "python": [version, list(words), gauss],
        "numpy": [str(kind), int(position), int(has_gauss), float(cached)],
    }
    return Randomness(tensors, facts)


def restore_randomness(state: Randomness, modules: Sequence[nn.Module]) -> None:
    """Set every generator to ``state``.  Raises RunError when the modules name other private generators than it holds."""
    version, words, gauss = state.facts["python"]
    random.setstate((version, tuple(words), gauss))
    kind, position, has_gauss, cached = state.facts["numpy"]
    keys = state.tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state((kind, keys, position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state.tensors["torch"])
    cuda = sorted((name for name in state.tensors if name.startswith("cuda.")), key=lambda name: int(name.split(".")[1]))
    if cuda and torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.tensors[name] for name in cuda])
    private = _private(modules)
    stored = {name.removeprefix("private."): each for name, each in state.tensors.items() if name.startswith("private.")}
    own = [each for name, each in stored.items() if name in private]
    # an earlier version held a generator under the name of each module that led to it
    if not private.keys() <= stored.keys() or any(not any(torch.equal(each, one) for one in own) for each in stored.values()):
        raise RunError(f"the checkpoint holds the random generators {sorted(stored)}, the modules name {sorted(private)}")
    for name, generator in private.items():
        generator.set_state(stored[name])


def _private(modules: Sequence[nn.Module]) -> dict[str, torch.Generator]:
    return {
        f"{at}.{path}.{name}": generator
        for at, module in enumerate(modules)
        for path, part in module.named_modules()
        for name, generator in getattr(part, "generators", dict)().items()
    }
