"""Items that arrive while a run answers, and runs that read several knowledge bases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import sequence_runs
import torch

import small_runs
from braidrec.errors import ConfigError, RunError
from braidrec.files import read_json, write_json
from braidrec.knowledge.encoders.tfidf import TfidfConfig
from braidrec.knowledge.texts import PromptTemplate
from braidrec.runs import run as runs
from braidrec.runs.knowledge import KnowledgeBases, KnowledgeSettings, sync
from braidrec.runs.run import Recommendation, Run, load

NEW = {"late-1": "ghosts and demons", "late-2": "a foggy harbour", "late-3": "violins"}
READING = [small_runs.disco, sequence_runs.pad]

Answer = tuple[list[Recommendation], list[Recommendation], int]


def answer(run: Run) -> Answer:
    """Of everything there is, for a known user and for somebody new."""
    liked = run.catalogue.ids[2:5]
    known = run.recommend(run.dataset.user_ids[3], k=10**6, exclude_seen=False)
    return known, run.recommend(items=liked, k=10**6), run.num_items


def whole(answers: Answer) -> bool:
    """Whether each list is of one catalogue, with what was added or without."""
    known, new, _ = answers
    late = [{each.item for each in found} & NEW.keys() for found in (known, new)]
    return all(found in (set(), NEW.keys()) for found in late)


@pytest.mark.parametrize("made", READING, ids=lambda made: made.__name__)
def test_who_asks_while_items_arrive_gets_the_old_answer_or_the_new_one(made: Callable[[], Run], tmp_path: Path) -> None:
    run, grown = small_runs.copy_of(made(), tmp_path / "run"), small_runs.copy_of(made(), tmp_path / "grown")
    before = answer(run)
    grown.add_items(NEW)
    after = answer(grown)
    model, rows = run.model, np.arange(1, run.num_items + 1, dtype=np.int32)
    past = model.past(None, rows[1:4])
    scores, tensors = model.scores([past], rows), {name: each.clone() for name, each in model.saved().tensors.items()}
    failed: list[BaseException] = []

    def add() -> None:
        try:
            assert run.add_items(NEW) == 3
        except BaseException as cause:
            failed.append(cause)

    adding = threading.Thread(target=add)
    seen: list[Answer] = []
    adding.start()
    while adding.is_alive():
        seen.append(answer(run))
    adding.join()
    assert not failed
    assert answer(run) == after
    for known, new, _ in seen:  # two questions, between which the items may have come
        assert known in (before[0], after[0])
        assert new in (before[1], after[1])
    assert all(map(whole, seen))
    assert run.model is not model
    np.testing.assert_array_equal(model.scores([past], rows), scores)
    left = model.saved().tensors
    assert left.keys() == tensors.keys()
    assert all(torch.equal(left[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("made", READING, ids=lambda made: made.__name__)
def test_in_the_middle_of_adding_the_old_answer_stands(
    made: Callable[[], Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = small_runs.copy_of(made(), tmp_path / "run"), []
    before = answer(run)
    for name in ("encode_additions", "save_added", "_grown"):  # before, between and at the end of what adding does
        own = getattr(runs, name)

        def asked(*arguments: object, own: Callable[..., object] = own) -> object:
            seen.append(answer(run))
            done = own(*arguments)
            seen.append(answer(run))
            return done

        monkeypatch.setattr(runs, name, asked)
    run.add_items(NEW)
    assert seen == [before] * 6
    assert answer(run)[2] == before[2] + 3


@pytest.mark.parametrize("made", READING, ids=lambda made: made.__name__)
def test_two_who_add_at_once_add_one_after_the_other(made: Callable[[], Run], tmp_path: Path) -> None:
    run = small_runs.copy_of(made(), tmp_path / "run")
    adding = [threading.Thread(target=run.add_items, args=({raw: text},)) for raw, text in NEW.items()]
    for each in adding:
        each.start()
    for each in adding:
        each.join()
    assert set(run.catalogue.added_ids) == NEW.keys()
    again = load(run.path)
    assert again.catalogue.added_ids == run.catalogue.added_ids
    user = run.dataset.user_ids[3]
    # all at once in one product, where they came one by one
    np.testing.assert_allclose(again.score_items(user, list(NEW)), run.score_items(user, list(NEW)), rtol=1e-5, atol=2e-6)


# -- several knowledge bases ----------------------------------------------------------------------------------------------


def second_base(folder: Path, data: Path, noun: str) -> Path:
    """Titles alone, of another width."""
    settings = KnowledgeSettings(encoder=TfidfConfig(width=8), prompt=PromptTemplate(noun=noun, fields=("title",)))
    folder.mkdir()
    write_json(folder / "knowledge.json", settings.model_dump())
    sync(data, folder)
    return folder


@cache
def ranking_bases() -> list[Path]:
    return [small_runs.knowledge(), second_base(small_runs.root() / "growth-titles", small_runs.dataset().path, "thing")]


@cache
def sequence_bases() -> list[Path]:
    data = sequence_runs.dataset().path
    return [sequence_runs.knowledge(), second_base(small_runs.root() / "growth-rings-titles", data, "thing")]


@cache
def on_two(name: str) -> Run:
    if name == "din-disco":
        return small_runs.train(small_runs.root() / "two-disco", seed=1, enhance="disco", knowledge=ranking_bases())
    return sequence_runs.train(small_runs.root() / "two-morec", enhance="morec", knowledge=sequence_bases())


def bases_of(name: str) -> list[Path]:
    return ranking_bases() if name == "din-disco" else sequence_bases()


@pytest.fixture(params=["din-disco", "sasrec-morec"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_a_run_reads_two_knowledge_bases_side_by_side(name: str, tmp_path: Path) -> None:
    run, folders = on_two(name), bases_of(name)
    record = read_json(run.path / "run.json", RunError)
    assert [each["path"] for each in record["knowledge"]] == [str(folder) for folder in folders]
    assert [each["width"] for each in record["knowledge"]] == [256, 8]
    assert record["knowledge"] == KnowledgeBases.open(folders).identities == list(run.record["knowledge"])
    assert run.config.knowledge == tuple(map(str, folders))
    assert read_json(run.path / "model.json", RunError)["semantic_width"] == 264
    again = load(run.path)
    assert again.config == run.config
    assert answer(again) == answer(run)
    copied = small_runs.copy_of(run, tmp_path / "run")
    assert copied.evaluate(show_progress=False).to_json() == run.evaluate(show_progress=False).to_json()
    one = {"din-disco": small_runs.disco, "sasrec-morec": sequence_runs.morec}[name]()
    assert answer(run) != answer(one)


def test_new_items_are_read_by_both_encoders(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, folders = small_runs.copy_of(on_two(name), tmp_path / "run"), bases_of(name)
    data, read = run.dataset, []
    encode = KnowledgeBases.encode

    def noted(bases: KnowledgeBases, texts: list[list[str]]) -> np.ndarray:
        read.append(([str(folder) for folder in bases.folders], [list(own) for own in texts]))
        return encode(bases, texts)

    monkeypatch.setattr(KnowledgeBases, "encode", noted)
    twin = data.items.head(1).with_columns(pl.lit("twin").alias(data.schema.item))
    assert run.add_items(twin) == 1
    assert run.add_items({"late": "a foggy harbour"}) == 1
    rendered = [texts[0] for texts in KnowledgeBases.open(folders).render(data.schema, data.items.head(1))]
    assert rendered[0] != rendered[1]
    assert read == [
        (list(map(str, folders)), [[text] for text in rendered]),
        (list(map(str, folders)), [["a foggy harbour"]] * 2),
    ]
    again = load(run.path)
    user = data.user_ids[3]
    both = ["twin", "late"]
    np.testing.assert_allclose(again.score_items(user, both), run.score_items(user, both), rtol=1e-5)
    if name == "sasrec-morec":  # a model of text alone: the same text in both bases is the same item
        first, copy = run.score_items(user, [data.item_ids[0], "twin"]).tolist()
        assert copy == pytest.approx(first, abs=2e-3)


def test_other_bases_or_another_order_are_not_what_the_run_was_trained_on(name: str, tmp_path: Path) -> None:
    run, folders = small_runs.copy_of(on_two(name), tmp_path / "run"), bases_of(name)
    run.config = run.config.model_copy(update={"knowledge": tuple(map(str, reversed(folders)))})
    with pytest.raises(RunError, match=r"trained on a knowledge base with .* which now has"):
        run.add_items(NEW)
    run.config = run.config.model_copy(update={"knowledge": (str(folders[0]),)})
    with pytest.raises(RunError, match="trained on 2 knowledge bases, now given 1; name the same ones"):
        run.add_items(NEW)
    assert not (run.path / "added").exists()
    train = small_runs.train if name == "din-disco" else sequence_runs.train
    enhance = name.partition("-")[2]
    with pytest.raises(ConfigError, match="is given twice"):
        train(tmp_path / "twice", enhance=enhance, knowledge=[folders[0], folders[0]])
    assert not (tmp_path / "twice").exists()
