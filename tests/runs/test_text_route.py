"""The way of text vectors from a knowledge base's map to a model: the same run whatever precision holds them, in one copy."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import small_runs
from braidrec import memory
from braidrec.bench import text as made_up
from braidrec.config import RunRequest, resolve
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.history import principal
from braidrec.data.settings import SplitConfig
from braidrec.errors import ConfigError
from braidrec.knowledge import base as knowledge_base
from braidrec.ranking import history
from braidrec.ranking.history import Directions
from braidrec.runs.directory import digest_of
from braidrec.runs.fit import fit
from braidrec.runs.knowledge import KnowledgeBases, build
from braidrec.runs.run import load
from braidrec.sequential import build as sequential_build

STEPS: dict[str, Any] = {"max_epochs": 1, "batch_size": 64}
RUNS: dict[str, dict[str, Any]] = {
    "normed": {"enhance": "disco", "model": {"dim": 8, "history": {"length": 6}}},
    "similar": {"enhance": "disco", "model": {"dim": 8, "history": {"length": 6, "kind": "semantic_topk"}}},
    "centred": {"backbone": "sasrec", "enhance": "pad", "model": {"dim": 8, "length": 8, "buckets": 4}},
    "plain": {"backbone": "sasrec", "enhance": "pad", "preset": "paper", "model": {"dim": 8, "length": 8, "buckets": 4}},
}


@cache
def likes() -> Dataset:
    tables = small_runs.world_tables()
    positive = tables.interactions.filter(tables.interactions[str(tables.schema.label)] > 0)
    split = SplitConfig(kind="leave_last_two", min_history=1)
    path = small_runs.root() / "likes-with-text"
    return Dataset.prepare(replace(tables, name="likes", interactions=positive), path, PrepareSettings(split=split))


@cache
def knowledge() -> Path:
    build(likes().path, small_runs.root() / "likes-knowledge", "tfidf")
    return small_runs.root() / "likes-knowledge"


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_has_the_same_bytes_by_either_way(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranking = "backbone" not in RUNS[kind]
    data, folder = (small_runs.dataset(), small_runs.knowledge()) if ranking else (likes(), knowledge())

    def trained(name: str) -> Path:
        run = fit(data, path=tmp_path / name, knowledge=folder, training=STEPS, show_progress=False, **RUNS[kind])
        run.outcome("test", show_progress=False)
        return run.path

    whole = trained("whole")
    monkeypatch.setattr(memory, "WHOLE_BYTES", 0)
    assert KnowledgeBases.open(folder).matrix(data).dtype == np.float16
    by_rows = trained("by-rows")
    files = [path.relative_to(whole) for path in whole.rglob("*.safetensors")]
    assert len(files) >= 2
    assert [sha(whole / file) for file in files] == [sha(by_rows / file) for file in files]
    assert len(load(by_rows).inspect()) == len(load(whole).inspect())


def test_large_vectors_are_those_of_small_ones_in_the_dtype_they_are_stored_in(monkeypatch: pytest.MonkeyPatch) -> None:
    data, bases = small_runs.dataset(), KnowledgeBases.open(small_runs.knowledge())
    small = bases.matrix(data)
    monkeypatch.setattr(memory, "WHOLE_BYTES", 0)
    large = bases.matrix(data)
    assert (small.dtype, large.dtype) == (np.float32, np.float16)
    assert np.array_equal(small, large.astype(np.float32))
    assert digest_of(small) == digest_of(large) == hashlib.sha256(small.tobytes()).hexdigest()[:16]
    assert digest_of(np.concatenate([large[:-1], large[-1:] + np.float16(1)])) != digest_of(small)
    assert digest_of(None) is None


def test_rows_are_read_front_to_back_and_land_where_they_belong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowledge_base, "_ROWS", 7)
    base = KnowledgeBases.open(small_runs.knowledge()).bases[0]
    ids = [*reversed(base.ids()), "unknown", base.ids()[3], base.ids()[3]]
    expected, out = base.matrix(ids, missing="mean"), np.zeros((len(ids), base.width), np.float32)
    base.read_into(out, ids, missing="mean")
    assert np.array_equal(out, expected.astype(np.float32))
    for row in (0, 5, len(ids) - 1):
        assert np.array_equal(expected[row], base.matrix([ids[row]])[0])
    assert np.array_equal(expected[-3], base.matrix(base.ids()).astype(np.float64).mean(axis=0).astype(np.float16))


def peak(call: Callable[[], object]) -> int:
    """Bytes that numpy and Python held at the most, over what they held before."""
    tracemalloc.start()
    try:
        held = call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        del held


@pytest.fixture(scope="module")
def map_of_vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("map")
    made_up.make(folder, 8_000, 512)
    return folder


def test_one_copy_is_made_of_a_large_map(map_of_vectors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((memory, "WHOLE_BYTES"), (knowledge_base, "_ROWS")):
        monkeypatch.setattr(module, name, 200)
    data, stored = Dataset.open(map_of_vectors / "data"), 8_001 * 512 * 2
    assert data.item_ids
    bases = KnowledgeBases.open(map_of_vectors / "knowledge")
    assert peak(lambda: bases.matrix(data)) < 1.4 * stored  # the ids of so few items weigh a quarter of their vectors
    vectors = bases.matrix(data)
    assert vectors.nbytes == stored
    assert peak(lambda: digest_of(vectors)) < 1.1 * 4096 * 512 * 4


@pytest.mark.parametrize("backbone", made_up.MODELS)
def test_a_model_is_reached_without_another_copy(backbone: str, map_of_vectors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What numpy holds; tensors are counted in tests/layers/test_large_text.py."""
    monkeypatch.setattr(memory, "WHOLE_BYTES", 0)
    config, data = made_up.settings(map_of_vectors, backbone), Dataset.open(map_of_vectors / "data")
    vectors = KnowledgeBases.open(config.knowledge).matrix(data)
    room = config.chosen.task.room()
    room.plan(config, data, vectors, show_progress=False)  # whatever is imported late is imported by now
    assert peak(lambda: room.plan(config, data, vectors, show_progress=False)) < vectors.nbytes / 2


def test_a_vector_that_is_no_number_is_found_past_the_first_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequential_build, "_ROWS", 16)
    vectors = KnowledgeBases.open(knowledge()).matrix(likes()).astype(np.float16)
    vectors[101, 3] = np.inf
    values = {"data": str(likes().path), "knowledge": str(knowledge()), "backbone": "sasrec", "enhance": "pad"}
    config = resolve(RunRequest.model_validate(values), "test")
    with pytest.raises(ConfigError, match=f"the text vector of item '{likes().item_ids[100]}' holds NaN or infinity"):
        sequential_build.make_parts(config, likes(), vectors)


# -- directions of a history by meaning -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("items", "width"), [(300, 40), (300, 600), (700, 600)])
def test_directions_have_the_bits_of_the_formula_on_whole_arrays(items: int, width: int) -> None:
    from sklearn.decomposition import PCA

    vectors = np.random.default_rng(0).normal(1, 2, (items + 1, width)).astype(np.float16)
    found = principal(vectors)
    centred = vectors[1:].astype(np.float32)
    centre = centred.mean(axis=0)
    centred = centred - centre
    if width > 512:
        fitted = PCA(n_components=min(512, items), random_state=0)
        reduced = fitted.fit_transform(centred)
        assert found.components is not None
        assert found.shift is not None
        assert np.array_equal(found.components, fitted.components_)
        assert np.array_equal(found.shift, (fitted.mean_[None] @ fitted.components_.T)[0])
        centred = reduced
    else:
        assert found.components is None
        assert found.shift is None
    assert np.array_equal(found.centre, centre)
    assert not found.rows[0].any()
    norms = np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    assert np.array_equal(found.rows[1:], centred / norms)


def test_directions_are_one_array_of_float32() -> None:
    vectors = np.random.default_rng(0).normal(size=(40_000, 64)).astype(np.float16)
    assert peak(lambda: principal(vectors)) < 1.9 * 2 * vectors.nbytes  # and blocks of 16,384 rows
    assert peak(lambda: Directions.of(vectors)) < 1.9 * 2 * vectors.nbytes


def test_a_prepared_history_is_found_by_the_name_it_always_had() -> None:
    data = small_runs.dataset()
    directions = Directions.of(KnowledgeBases.open(small_runs.knowledge()).matrix(data))
    rows = directions.rows[: data.num_items + 1].numpy()
    key = hashlib.sha256(data.fingerprint.encode() + rows.tobytes()).hexdigest()[:16]
    config = history.HistoryConfig(kind="semantic_topk", length=3)
    history.history_source(data, config, directions, show_progress=False)
    assert data.path.with_name(f"{data.path.name}.semantic-3-{key}.npy").exists()
