"""Items like an item: by their texts, by who has them, or by what a model has learnt of them; for runs of every task."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from braidrec.config import RunConfig
from braidrec.data.dataset import Dataset
from braidrec.errors import ConfigError, DataError, RunError, suggest
from braidrec.evaluation.closed_form import interactions
from braidrec.layers.text import NO_TEXT
from braidrec.runs.catalogue import Catalogue
from braidrec.runs.knowledge import KnowledgeBases
from braidrec.task import Model, Task

By = Literal["meaning", "behaviour", "model"]
Floats = NDArray[np.float32]


class Asked(Protocol):
    """What is read of a `braidrec.runs.run.Run`."""

    path: Path
    config: RunConfig

    @property
    def catalogue(self) -> Catalogue: ...

    @property
    def dataset(self) -> Dataset: ...

    @property
    def model(self) -> Model: ...

    @property
    def task(self) -> Task: ...


def alike(run: Asked, row: int, by: By) -> Floats:
    """(n,) how much each catalogue row 1..n is like ``row``, itself included; -inf where nothing is known.

    meaning: cosine of the text vectors, less what all texts share    behaviour: users who have both, over the root of the users
    of each (cosine), by all positives of the log    model: mean cosine of the model's own item vectors, or, where it has none
    of this item, its scores for somebody who has it alone
    Raises ConfigError for another word, RunError where the run lacks what is asked for.
    """
    if by not in get_args(By):
        raise ConfigError(f"by = {by!r}: accepted are {', '.join(get_args(By))}{suggest(by, get_args(By))}")
    if by == "model":
        return _by_model(run, row)
    if row > len(run.catalogue.ids):
        raise RunError(
            f"'{run.catalogue.id(row)}' came after training, so the data know nothing of it; ask for what is alike by model"
        )
    return _by_meaning(run, row) if by == "meaning" else _by_behaviour(run, row)


def _others(run: Asked, by: By) -> str:
    """What else can be asked of a run, ``by`` among it where it has what that needs."""
    with contextlib.suppress(RunError):  # where its data are not at hand, which both need
        if run.dataset is not None and (by == "behaviour" or run.config.knowledge):
            return f"by {by} or by model"
    return "by model"


def _by_meaning(run: Asked, row: int) -> Floats:
    if not run.config.knowledge:
        raise RunError(
            f'{run.path}: this run has no knowledge base, so it knows no texts; train it with knowledge = "FOLDER", or '
            f"ask {_others(run, 'behaviour')}"
        )
    vectors = np.array(KnowledgeBases.open(run.config.knowledge).matrix(run.dataset)[1:], np.float32)
    vectors -= vectors.mean(axis=0)
    length = np.linalg.norm(vectors, axis=1)
    vectors[length < NO_TEXT * np.median(length)] = 0  # without text: the mean of the others, and what rounding left of it
    if not vectors[row - 1].any():
        raise DataError(
            f"'{run.catalogue.id(row)}' has no text, so meaning says nothing of it; ask {_others(run, 'behaviour')}"
        )
    return _cosines(vectors, row)


def _by_behaviour(run: Asked, row: int) -> Floats:
    log, width = run.dataset.log, run.dataset.num_items + 1
    liked = log.label > 0
    has = interactions(log.user[liked], log.item[liked], (log.num_users + 1, width)).tocsc()
    users = np.diff(has.indptr)
    if not users[row]:
        raise DataError(f"nobody has '{run.catalogue.id(row)}', so behaviour says nothing of it; ask {_others(run, 'meaning')}")
    both = np.asarray((has.T @ has[:, [row]].toarray())[:, 0], np.float32)
    return (both / np.sqrt(np.maximum(users, 1) * users[row]))[1:].astype(np.float32)


def _by_model(run: Asked, row: int) -> Floats:
    model, count = run.model, len(run.catalogue)
    spaces = run.task.inspect(model.module, count)
    known = min(map(len, spaces.values()), default=0)  # rows; of what came after training some models have no vectors
    if row < known:
        return np.mean([_cosines(vectors[1:known], row) for vectors in spaces.values()], axis=0, dtype=np.float32)
    rows = np.arange(1, count + 1, dtype=np.int32)
    return model.scores([model.past(None, np.array([row], np.int32))], rows)[0]


def _cosines(vectors: Floats, row: int) -> Floats:
    """(n,) of vectors (n, D) with that of catalogue row ``row``, from 1; a vector of zeros is like nothing."""
    length = np.linalg.norm(vectors, axis=1)
    found = vectors @ vectors[row - 1] / np.maximum(length * length[row - 1], 1e-12)
    return np.where(length > 0, found, -np.inf).astype(np.float32)
