"""Calls with arguments of every type that people have at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import braidrec
import small_runs
from braidrec.data.dataset import Dataset
from braidrec.errors import BraidError, ConfigError, DataError
from braidrec.runs.fit import fit
from braidrec.runs.run import load
from small_runs import copy_of, disco, plain

USER = "10001"


def test_ids_of_any_type_meet(tmp_path: Path) -> None:
    run = small_runs.train(tmp_path / "rich", small_runs.rich())  # user ids from 1 on, item ids from 100 on
    found, scores = run.recommend("3"), run.score_items("3", ["100", "101"])
    for user in (3, 3.0, np.int64(3), np.float64(3)):
        assert run.recommend(user) == found
        np.testing.assert_array_equal(run.score_items(user, np.array([100.0, 101.0])), scores)
    stranger = run.recommend(items=["100", "101"], deny=["102"])
    for items in (np.array([100, 101]), pl.Series([100.0, 101.0]), (100, 101)):
        assert run.recommend(items=items, deny=np.array([102])) == stranger
    assert [each.item for each in run.recommend(3, allow=np.array([100.0]), exclude_seen=False)] == ["100"]


def test_a_text_is_no_list() -> None:
    run = plain()
    calls: dict[str, Any] = {
        "items": lambda: run.recommend(items="10001"),
        "allow": lambda: run.recommend(USER, allow="10001"),
        "deny": lambda: run.recommend_all("unused.parquet", deny="10001"),
    }
    for name, call in calls.items():
        with pytest.raises(DataError, match=rf"{name} = '10001': a list of ids is needed; write {name}=\['10001'\]"):
            call()
    with pytest.raises(DataError, match="items = '10001': a list of ids is needed"):
        run.score_items(USER, "10001")
    with pytest.raises(DataError, match="deny: NoneType is no list of ids"):
        run.recommend(USER, deny=None)  # type: ignore[arg-type]
    for k in ("5", 2.0, True):
        with pytest.raises(DataError, match=r"k = .*: a whole number is needed"):
            run.recommend(USER, k=k)  # type: ignore[arg-type]


def test_paths_are_text_or_path_everywhere(tmp_path: Path) -> None:
    run = plain()
    assert run.recommend_all(str(tmp_path / "a.parquet"), show_progress=False) == run.recommend_all(
        tmp_path / "b.parquet", show_progress=False
    )
    assert load(str(run.path)).recommend(USER) == load(run.path).recommend(USER)
    assert Dataset.open(str(run.dataset.path)).fingerprint == run.dataset.fingerprint
    tables = small_runs.world_tables()
    for path in (str(tmp_path / "text"), tmp_path / "path"):
        assert Dataset.prepare(tables, path).path == Path(path)
        braidrec.build_knowledge(path, f"{path}-knowledge", "tfidf")
    wrong: list[Any] = [
        lambda: run.recommend_all(3),
        lambda: load(3),
        lambda: load(run.path, dataset=str(run.dataset.path)),
        lambda: Dataset.open(None),
        lambda: Dataset.prepare(tables, 3),
        lambda: Dataset.prepare(tables.interactions, tmp_path / "x"),
        lambda: Dataset.prepare(tables, tmp_path / "x", {"vocabulary": "all"}),
        lambda: Dataset.from_frames(tables.interactions, schema={"user": "user_id"}),
        lambda: braidrec.build_knowledge(run.dataset, tmp_path / "k", "tfidf"),
        lambda: braidrec.KnowledgeBase.open(3),
        lambda: fit(str(run.dataset.path), path=tmp_path / "run"),
        lambda: fit(run.dataset, path=3),
        lambda: fit(run.dataset, path=tmp_path / "run", knowledge=3),
        lambda: fit(run.dataset, path=tmp_path / "run", knowledge=[3]),
        lambda: fit(run.dataset, path=tmp_path / "run", model="dim=64"),
        lambda: fit(run.dataset, path=tmp_path / "run", training=[1]),
        lambda: fit(run.dataset, path=tmp_path / "run", enhance=3),
    ]
    for call in wrong:
        with pytest.raises(ConfigError):
            call()
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", ["polars", "lazy", "pandas", "arrow", "floats", "csv", "path"])
def test_items_are_added_from_any_frame(kind: str, tmp_path: Path) -> None:
    run = copy_of(disco(), tmp_path / "run")
    schema = run.dataset.schema
    frame = pl.DataFrame({schema.item: [990001, 990002]} | {name: ["a foggy harbour", "a loud city"] for name in schema.text})
    frame.write_csv(tmp_path / "new.csv")
    given: dict[str, Any] = {
        "polars": lambda: frame,
        "lazy": lambda: frame.lazy(),
        "pandas": lambda: pytest.importorskip("pandas").DataFrame(frame.to_dict(as_series=False)),
        "arrow": lambda: frame.to_arrow(),
        "floats": lambda: frame.with_columns(frame[schema.item].cast(pl.Float64)),
        "csv": lambda: str(tmp_path / "new.csv"),
        "path": lambda: tmp_path / "new.csv",
    }
    assert run.add_items(given[kind]()) == 2
    assert run.catalogue.added_ids == ("990001", "990002")
    assert run.add_items(frame) == 0  # the same items
    run.recommend(USER, allow=[990001.0], exclude_seen=False)


def test_what_holds_no_items_is_refused(tmp_path: Path) -> None:
    run = copy_of(disco(), tmp_path / "run")
    item = run.dataset.schema.item
    for wrong in (
        ["a"],
        3,
        None,
        {"new": 3},
        {1.5: "text"},
        pl.DataFrame({item: [1.5]}),
        pl.Series([1]),
        pa.array([1]),
        "gone.csv",
    ):
        with pytest.raises(BraidError):
            run.add_items(wrong)
    assert run.catalogue.added_ids == ()
    assert run.add_items({}) == run.add_items(pl.DataFrame({item: []})) == 0
    assert run.add_items({990003.0: "a foggy harbour"}) == 1
    assert run.catalogue.added_ids == ("990003",)
