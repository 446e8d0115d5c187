"""Anything done to any file of any artefact: what is answered is what was answered, or it is refused in our words.

Bits are flipped, files cut, emptied, removed, swapped with their neighbours and with their like of another run, training, data
set or knowledge base, alone, in pairs with the note that names them, and as whole folders.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attack_table import Note, Wrong
from test_swapped import begun

import small_runs
from braidrec.data.dataset import Dataset
from braidrec.errors import BraidError
from braidrec.knowledge.base import KnowledgeBase
from braidrec.runs.knowledge import build, nearest
from braidrec.runs.run import load
from small_runs import copy_of, disco

Answer = Callable[[Path], object]
STOPPED: dict[str, Any] = {"training": {"checkpoint_seconds": 0.001}}


def of_data(path: Path) -> object:
    data = Dataset.open(path)
    content = hashlib.sha256()
    for part in (
        data.log.user,
        data.log.item,
        data.log.rating,
        data.log.label,
        data.features.item_fields,
        *data.split.parts.values(),
    ):
        content.update(np.ascontiguousarray(part).tobytes())
    return content.hexdigest(), data.item_ids, data.user_ids, data.fingerprint, str(data.notes), data.schema, data.settings


def of_knowledge(path: Path) -> object:
    base = KnowledgeBase.open(path)
    ids = sorted(base.ids())
    return ids, base.matrix(ids).tobytes(), base.texts(ids), nearest(path, ids[0], None, 3)


def of_run(path: Path) -> object:
    run = load(path)
    scores = run.outcome(show_progress=False)
    weights = run._stage("rank").state_dict()
    return (
        [(each.item, each.title, each.score) for each in run.recommend(run.dataset.user_ids[3], k=20)],
        [(each.item, each.score) for each in run.recommend(items=run.catalogue.all_ids[-2:], k=5)],
        (scores.kind, scores.user.tobytes(), scores.item.tobytes(), scores.values["scores"].tobytes()),
        {name: tensor.numpy().tobytes() for name, tensor in weights.items()},
        (run.title, run.headline, run.warnings, run.catalogue.added_ids),
    )


def of_training(path: Path) -> object:
    """Goes on with a training that was stopped, in a copy: what it ends with."""
    own = path.with_name("going-on")
    shutil.copytree(path, own)
    try:
        run = small_runs.train(own, **STOPPED)
        return (own / "model.safetensors").read_bytes(), run.record["weights"], run.warnings
    finally:
        shutil.rmtree(own)


def grown(seed: int, path: Path) -> Path:
    """A run with everything that may lie in its folder."""
    run = copy_of(disco(seed), path)
    run.add_items({"late": f"a tale of number {seed}", "later": "whales"})
    run.outcome(show_progress=False)
    return run.path


def artefacts(root: Path) -> Iterator[tuple[str, Path, Path, Answer, int]]:
    """(name, folder, its like, what is asked of it, its part of a hundred mutations)."""
    data = root / "data", root / "data-other"
    shutil.copytree(small_runs.dataset().path, data[0])
    shutil.copytree(small_runs.other_dataset().path, data[1])
    yield "data", *data, of_data, 25
    knowledge = root / "knowledge", root / "knowledge-other"
    shutil.copytree(small_runs.knowledge(), knowledge[0])
    build(small_runs.other_dataset().path, knowledge[1], "tfidf")
    yield "knowledge", *knowledge, of_knowledge, 25
    yield "run", grown(1, root / "run"), grown(2, root / "run-other"), of_run, 30
    with pytest.MonkeyPatch.context() as patch:
        for name, changes in (("training", {}), ("training-other", {"seed": 2})):
            begun(root / name, patch, **STOPPED, **changes)
    yield "training", root / "training", root / "training-other", of_training, 20


# what a folder looks like that was never asked, or had nothing added: there is nothing else that could be read from it
BLANK = {("run", "items.json"), ("run", "added")}


def mutations(folder: Path, like: Path, rng: np.random.Generator, count: int) -> Iterator[tuple[str, Path]]:
    """What was done, and to what; it is undone afterwards."""
    files = [each for each in sorted(folder.rglob("*")) if each.is_file()]
    folders = [each for each in sorted(folder.rglob("*")) if each.is_dir()]
    for turn in range(count):
        file = files[int(rng.integers(len(files)))]
        twin = like / file.relative_to(folder)
        kind = ("bit", "cut", "empty", "gone", "neighbour", "like", "pair", "folder", "bytes", "longer")[turn % 10]
        whole, targets = None, [file]
        if kind == "pair":
            stem = file.name.partition(".")[0] if "." in file.name else file.name
            targets = [each for each in file.parent.iterdir() if each.is_file() and each.name.startswith(stem)]
        if kind == "folder" and folders:
            whole = folders[int(rng.integers(len(folders)))]
            targets = [each for each in whole.rglob("*") if each.is_file()]
        held = {each: each.read_bytes() for each in targets}
        content = held.get(file, b"")
        if kind == "bit" and content:
            at, bit = int(rng.integers(len(content))), int(rng.integers(8))
            file.write_bytes(content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :])
        elif kind == "cut":
            file.write_bytes(content[: int(rng.integers(len(content) + 1))])
        elif kind == "empty":
            file.write_bytes(b"")
        elif kind == "gone":
            file.unlink()
        elif kind == "neighbour":
            file.write_bytes(files[int(rng.integers(len(files)))].read_bytes())
        elif kind == "bytes":
            at = int(rng.integers(len(content) + 1))
            file.write_bytes(content[:at] + rng.bytes(int(rng.integers(1, 40))) + content[at + 20 :])
        elif kind == "longer":
            file.write_bytes(content + rng.bytes(8))
        else:
            for each in targets:
                if (other := like / each.relative_to(folder)).is_file():
                    shutil.copyfile(other, each)
            if whole is not None and rng.random() < 0.3:
                shutil.rmtree(whole)
        yield f"{kind}: {(whole or file).relative_to(folder)} {'' if twin.exists() else '(no like)'}", whole or file
        for each in [each for each in folder.rglob("*") if each.is_file() and each not in files]:
            each.unlink()
        for each, before in held.items():
            each.parent.mkdir(parents=True, exist_ok=True)
            each.write_bytes(before)


@pytest.mark.parametrize("count", [30, pytest.param(1_050, marks=pytest.mark.slow)])
def test_no_mutation_is_believed(count: int, tmp_path: Path, note: Note) -> None:
    rng, silent, foreign, tried = np.random.default_rng(count), [], [], 0
    for name, folder, like, ask, share in artefacts(tmp_path):
        wanted = ask(folder)
        pristine = {each: each.read_bytes() for each in folder.rglob("*") if each.is_file()}
        for what, target in mutations(folder, like, rng, -(-count * share // 100)):
            tried += 1
            try:
                if ask(folder) != wanted and not ((name, target.name) in BLANK and not target.exists()):
                    silent.append(f"{name}: {what}")
            except BraidError:
                pass
            except Exception as cause:
                foreign.append(f"{name}: {what}: {cause!r}")
            for file, content in pristine.items():  # what was made again, too
                if not file.is_file() or file.read_bytes() != content:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(content)
        assert ask(folder) == wanted
    note("mutations of artefacts", tried, Wrong(silent=len(silent), foreign=len(foreign)))
    assert not silent
    assert not foreign
