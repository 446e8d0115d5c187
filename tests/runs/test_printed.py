"""What `print` says of a run: ten lines, and in them what it can be asked; what errors offer can be done, too."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sequence_runs

import small_runs
from braidrec.errors import BraidError, DataError, RunError
from braidrec.runs.fit import fit
from braidrec.runs.run import Run, load

KINDS = ("din", "gbdt", "sasrec", "ease", "ease with text", "popularity", "item-knn", "ials")
VECTORS = ("din", "sasrec", "ials")
EXPLAINED = ("ease", "ease with text", "item-knn", "ials")


def made(kind: str, path: Path) -> Run:
    if kind == "din":
        return small_runs.copy_of(small_runs.plain(), path)
    if kind == "sasrec":
        return small_runs.copy_of(sequence_runs.sasrec(), path)
    data, text = (small_runs.dataset(), None) if kind == "gbdt" else (sequence_runs.dataset(), None)
    if kind == "ease with text":
        kind, text = "ease", sequence_runs.knowledge()
    return fit(data, path=path, backbone=kind, knowledge=text, show_progress=False)


def test_a_run_is_printed_in_ten_lines(tmp_path: Path) -> None:
    run = small_runs.copy_of(small_runs.disco(), tmp_path / "run")
    run.add_items({"late": "ghosts"})
    lines = str(run).splitlines()
    assert len(lines) <= 10
    assert lines[0] == f"run DIN + DisCo (ours) at {run.path}"
    said = {line.split()[0]: line for line in lines[1:]}
    assert f"planted, 12,000 events, at hand: {run.config.data}" in said["data"]
    assert "121, 1 of them added after training" in said["items"]
    assert ("warning" in said) == bool(run.warnings)
    assert run._repr_html_().count("<tr>") == len(lines) - 1
    assert repr(run).count("\n") == 0
    assert "scores without a unit" in str(sequence_runs.sasrec())
    assert "reads no text" in str(sequence_runs.sasrec())


def asked(run: Run, user: str, item: str, pairs: Any) -> dict[str, Callable[[], Any]]:
    """All that a run may say it can be asked."""
    return {
        "recommend(user)": lambda: run.recommend(user, k=2),
        "recommend(items=[...])": lambda: run.recommend(items=[item], k=2),
        "similar(item)": lambda: run.similar(item, k=2),
        "score(pairs)": lambda: run.score(pairs, show_progress=False),
        "recommend(user, explain=True)": lambda: run.recommend(user, k=2, explain=True),
        "recommend(items=[...], explain=True)": lambda: run.recommend(items=[item], k=2, explain=True),
        "item_vectors()": run.item_vectors,
        "evaluate()": lambda: run.evaluate(show_progress=False),
    }


@pytest.mark.parametrize("away", [False, True], ids=["at hand", "data away"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_offered_can_be_asked_and_what_is_not_cannot(kind: str, away: bool, tmp_path: Path) -> None:
    run = made(kind, tmp_path / "run")
    user, item, data = run.dataset.user_ids[0], run.dataset.item_ids[0], run.dataset
    pairs = {data.schema.user: [user], data.schema.item: [item]}
    if away:
        run = load(run.path)
        run._dataset = None  # as `load` leaves it where the folder is gone
    offered = str(run).splitlines()[-1].removeprefix("  ask it").strip()
    said = set(re.findall(r"\w+\([^)]*\)", offered))
    wanted = {f"recommend({'items=[...]' if away else 'user'}{', explain=True' if kind in EXPLAINED else ''})", "similar(item)"}
    wanted |= {"item_vectors()"} if kind in VECTORS else set()
    wanted |= set() if away else {"recommend(items=[...])", "score(pairs)", "evaluate()"}
    assert said == wanted
    calls = asked(run, user, item, pl.DataFrame(pairs))
    for name in said:
        assert calls[name]() is not None, name
    possible = {"recommend(items=[...])"} | (set() if away else {"recommend(user)"})
    possible |= {"recommend(items=[...], explain=True)"} if kind in EXPLAINED else set()
    for name in calls.keys() - said - possible:
        with pytest.raises(RunError):
            calls[name]()


@pytest.mark.parametrize(
    ("kind", "reading"),
    [
        ("din", "enhance = 'disco'"),
        ("gbdt", "backbone = 'din', enhance = 'disco'"),
        ("sasrec", "enhance = 'pad'"),
        ("ease", "backbone = 'ease'"),
        ("popularity", "backbone = 'ease'"),
    ],
)
def test_a_model_of_ids_names_one_that_reads_text_and_can_be_trained(kind: str, reading: str, tmp_path: Path) -> None:
    """A whole model takes no method."""
    with pytest.raises(RunError, match=rf"add_items needs a model that reads text, such as {reading} with a knowledge base$"):
        made(kind, tmp_path / "run").add_items({"late": "ghosts"})


def test_nobody_is_offered_a_way_that_the_run_does_not_know(tmp_path: Path) -> None:
    rich = small_runs.rich()
    runs = {
        "din of users that are ids alone": (made("din", tmp_path / "din"), False),
        "din": (small_runs.train(tmp_path / "rich", rich, seed=1), True),
        "popularity": (fit(rich, path=tmp_path / "popular", backbone="popularity", show_progress=False), False),
        "sasrec": (made("sasrec", tmp_path / "sasrec"), False),
    }
    for run, fields in runs.values():
        with pytest.raises(DataError) as error:
            run.recommend()
        assert ("the fields that describe them" in str(error.value)) == fields
        assert "a user of its data (user)" in str(error.value)
        run._dataset = None
        with pytest.raises(DataError) as error:
            run.recommend()
        assert "a user" not in str(error.value)


def test_alike_offers_what_the_run_has(tmp_path: Path) -> None:
    run = made("popularity", tmp_path / "run")
    item = run.catalogue.ids[0]
    with pytest.raises(RunError, match=r"or ask by behaviour or by model$"):
        run.similar(item, "meaning")
    run._dataset = None
    with pytest.raises(RunError, match=r"or ask by model$"):
        run.similar(item, "meaning")


def test_a_stranger_s_way_is_said_with_its_call(tmp_path: Path) -> None:
    run = small_runs.copy_of(small_runs.plain(), tmp_path / "run")
    with pytest.raises(BraidError, match=r"ask by the items they liked \(recommend\(items=\[...\]\)\)"):
        run.score_items("nobody-9", [run.catalogue.ids[0]])
