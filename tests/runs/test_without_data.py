"""A run that is carried to where its data are not: what it still answers, and what it says where it cannot."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import sequence_runs

import small_runs
from braidrec.data.dataset import Dataset
from braidrec.errors import DataError, KnowledgeError, RunError
from braidrec.runs.run import Recommendation, Run, load

Train = Callable[[Path, Dataset, Path], Run]


def ranking(**changes: Any) -> Train:
    return lambda path, data, knowledge: small_runs.train(path, data, **{"knowledge": knowledge, "seed": 1, **changes})


def sequence(**changes: Any) -> Train:
    return lambda path, data, knowledge: sequence_runs.train(path, data, **{"knowledge": knowledge, **changes})


BY_MEANING = {"history": {"kind": "semantic_topk", "length": 6}}
RANKING: dict[str, Train] = {
    "din": ranking(knowledge=None),
    "din-disco": ranking(enhance="disco"),
    "din-disco by meaning": ranking(enhance="disco", model=BY_MEANING),
    "din by meaning": ranking(model=BY_MEANING),
    "deepfm with statistics": ranking(backbone="deepfm", knowledge=None, model={"statistics": True}),
    "din with rates, in runs": ranking(knowledge=None, model={"rates": True, "history": {"length": 6, "run": 8}}),
}
SEQUENCES: dict[str, Train] = {"sasrec": sequence(knowledge=None), "sasrec-pad": sequence(enhance="pad")}
LIKED = slice(2, 6)
READING = ("din-disco", "din-disco by meaning", "sasrec-pad")


@dataclass(frozen=True)
class Carried:
    """A run and what it said beside its data, which stand in ``home`` and are taken to ``away`` by `leave`."""

    run: Run
    home: Path
    away: Path
    somebody: str
    known: list[Recommendation]  # of somebody
    scores: list[float]  # of the items LIKED, for somebody
    report: dict[str, Any]

    def leave(self, *, knowledge: bool) -> None:
        self.away.mkdir()
        os.rename(self.home / "data", self.away / "data")
        if knowledge:
            os.rename(self.home / "knowledge", self.away / "knowledge")

    def come_back(self) -> None:
        for name in ("data", "knowledge"):
            if (self.away / name).exists():
                os.rename(self.away / name, self.home / name)
        shutil.rmtree(self.away)  # with what was prepared beside the data


@pytest.fixture(scope="module", params=[*RANKING, *SEQUENCES])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Carried:
    home, name = tmp_path_factory.mktemp("home"), request.param
    small = small_runs if name in RANKING else sequence_runs
    shutil.copytree(small.dataset().path, home / "data")
    shutil.copytree(small.knowledge(), home / "knowledge")
    run = {**RANKING, **SEQUENCES}[name](home / "run", Dataset.open(home / "data"), home / "knowledge")
    somebody, report = run.dataset.user_ids[3], run.evaluate(show_progress=False).to_json()
    scores = run.score_items(somebody, run.catalogue.ids[LIKED]).tolist()
    return Carried(run, home, home / "away", somebody, run.recommend(somebody, k=7), scores, report)


@pytest.fixture(params=[False, True], ids=["knowledge stays", "knowledge goes"])
def alone(trained: Carried, request: pytest.FixtureRequest) -> Iterator[Carried]:
    """The run where its data are gone, and its knowledge base, too."""
    trained.leave(knowledge=request.param)
    yield trained
    trained.come_back()


def for_strangers(run: Run, liked: list[str]) -> list[list[Recommendation]]:
    return [
        run.recommend(items=liked, k=5),
        run.recommend(items=liked, k=10**6, exclude_seen=False),
        run.recommend(items=liked[:1] * 9, k=3, deny=liked),
        run.recommend(items=liked, k=3, allow=run.catalogue.all_ids[10:20]),
        run.recommend(items=[], k=5),
    ]


def test_somebody_new_is_answered_as_before(alone: Carried) -> None:
    before, again = alone.run, load(alone.run.path)
    assert (before.has_data, again.has_data) == (True, False)
    liked = before.catalogue.ids[LIKED]
    assert for_strangers(again, liked) == for_strangers(before, liked)
    assert again.num_items == before.num_items == len(again.catalogue.ids)
    assert (again.title, again.headline, again.record) == (before.title, before.headline, before.record)
    assert repr(again) == repr(before)
    assert again.notes(new_user=True) == before.notes(new_user=True)
    assert again.model.facts() == before.model.facts()
    name = before.record["data"]["name"]
    with pytest.raises(DataError, match=f"item 'nothing' is not in the catalogue of {name}"):
        again.recommend(items=["nothing"])
    found, wanted = again.inspect(), before.inspect()
    assert found.keys() == wanted.keys()
    for space in found:
        np.testing.assert_array_equal(found[space], wanted[space])


def test_what_needs_the_data_says_which_and_how_to_give_them(alone: Carried, tmp_path: Path) -> None:
    run = load(alone.run.path)
    for call in (
        lambda: run.recommend(alone.somebody),
        lambda: run.recommend("nobody of this name"),
        lambda: run.score_items(alone.somebody, run.catalogue.ids[:3]),
        lambda: run.recommend_all(tmp_path / "all.parquet", show_progress=False),
        lambda: run.evaluate(show_progress=False),
        lambda: run.outcome("valid", show_progress=False),
        lambda: run.dataset,
    ):
        with pytest.raises(
            RunError,
            match=rf"run: this needs the data set that the run was trained on, and {alone.home / 'data'} is not there; "
            r"bring it back, or say where it is: load\(path, dataset=\.\.\.\)",
        ):
            call()
    with pytest.raises((RunError, KnowledgeError), match=r"this needs the data set|no knowledge base here"):
        run.inspect(run.record["phases"][0]["name"])
    with pytest.raises(RunError, match="loaded without"):
        run.model.past(4)
    assert not (tmp_path / "all.parquet").exists()


def test_known_users_come_back_with_the_data_wherever_they_are(alone: Carried, tmp_path: Path) -> None:
    again = load(alone.run.path, dataset=Dataset.open(alone.away / "data"))
    liked = again.catalogue.ids[LIKED]
    assert again.recommend(alone.somebody, k=7) == alone.known
    assert again.score_items(alone.somebody, liked).tolist() == alone.scores
    assert for_strangers(again, liked) == for_strangers(alone.run, liked)
    for file in again.path.glob("outcome.*"):
        shutil.move(file, tmp_path / file.name)
    found, wanted = again.outcome(show_progress=False), alone.run.outcome(show_progress=False)
    assert found.same_rows(wanted)
    for name, values in wanted.values.items():
        np.testing.assert_array_equal(found.values[name], values)
    assert again.evaluate(show_progress=False).to_json() == alone.report
    again.recommend_all(tmp_path / "all.parquet", k=2, show_progress=False)
    own = pl.read_parquet(tmp_path / "all.parquet").filter(pl.col("user") == alone.somebody)["item"].to_list()
    assert own == [each.item for each in alone.known[:2]]


def test_other_data_are_refused(alone: Carried) -> None:
    other = small_runs.other_dataset()
    with pytest.raises(RunError, match=rf"but {other.path} now has {other.fingerprint}; prepare the same data again"):
        load(alone.run.path, dataset=other)


NEW = {"late-1": "ghosts and demons", "late-2": "a foggy harbour"}


@pytest.mark.parametrize("trained", READING, indirect=True)
@pytest.mark.parametrize("gone", ["data", "knowledge", "both"])
def test_items_are_added_without_the_data_but_not_without_who_reads_them(trained: Carried, gone: str, tmp_path: Path) -> None:
    wanted = small_runs.copy_of(trained.run, tmp_path / "beside")
    wanted.add_items(NEW)
    own = small_runs.copy_of(trained.run, tmp_path / "alone").path
    if gone == "knowledge":
        os.rename(trained.home / "knowledge", trained.home / "elsewhere")
    else:
        trained.leave(knowledge=gone == "both")
    try:
        run = load(own)
        if gone == "data":
            assert run.add_items(NEW) == 2
        else:
            with pytest.raises(KnowledgeError, match=rf"{trained.home / 'knowledge'}: no knowledge base here"):
                run.add_items(NEW)
            assert run.num_items == len(run.catalogue.ids)
            assert not (own / "added").exists()
            run = load(wanted.path)  # what was added before is all in the run's folder
        liked = [*run.catalogue.ids[LIKED], "late-1"]
        for each in (run, load(run.path)):
            assert for_strangers(each, liked) == for_strangers(wanted, liked)
    finally:
        if gone == "knowledge":
            os.rename(trained.home / "elsewhere", trained.home / "knowledge")
        else:
            trained.come_back()
