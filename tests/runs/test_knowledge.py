"""Several knowledge bases of one run: their vectors side by side, each with its own prompt, encoder and policy."""

from __future__ import annotations

import tracemalloc
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import small_runs
from braidrec.data.dataset import Dataset
from braidrec.errors import ConfigError, KnowledgeError, RunError
from braidrec.files import write_json
from braidrec.knowledge.base import KnowledgeBase
from braidrec.knowledge.encoders.tfidf import TfidfConfig
from braidrec.knowledge.texts import PromptTemplate
from braidrec.runs.knowledge import (
    Floats,
    Folders,
    KnowledgeBases,
    KnowledgeSettings,
    open_knowledge,
    read_settings,
    sync,
)
from small_runs import dataset, knowledge


def encoded(folders: Folders, texts: list[str]) -> Floats:
    """Vectors of texts that every knowledge base reads."""
    bases = KnowledgeBases.open(folders)
    return bases.encode([texts] * len(bases.folders))


@cache
def titles() -> Path:
    """A second base of the same catalogue: other encoder settings, and titles alone."""
    return filled(small_runs.root() / "titles", dataset(), ("title",), width=8)


def filled(folder: Path, data: Dataset, fields: tuple[str, ...], *, width: int) -> Path:
    settings = KnowledgeSettings(encoder=TfidfConfig(width=width), prompt=PromptTemplate(noun="thing", fields=fields))
    folder.mkdir()
    write_json(folder / "knowledge.json", settings.model_dump())
    sync(data.path, folder)
    return folder


def test_one_base_is_what_it_was() -> None:
    base = open_knowledge(knowledge())
    vectors = np.concatenate([np.zeros((1, base.width), np.float32), base.matrix(dataset().item_ids).astype(np.float32)])
    for folders in (knowledge(), str(knowledge()), [knowledge()], (str(knowledge()),)):
        found = KnowledgeBases.open(folders).matrix(dataset())
        assert found.dtype == np.float32
        assert found.tobytes() == vectors.tobytes()
        assert found.flags.c_contiguous
        assert found.flags.writeable
    texts = ["Here is a book, title is A."]
    encoder = open_knowledge(knowledge(), encode=True).encoder
    assert encoder is not None
    assert encoded(knowledge(), texts).tobytes() == encoder.encode(texts).astype(np.float16).astype(np.float32).tobytes()


def test_vectors_stand_side_by_side_in_the_order_of_the_folders() -> None:
    first, second = KnowledgeBases.open(knowledge()).matrix(dataset()), KnowledgeBases.open(titles()).matrix(dataset())
    both = KnowledgeBases.open([knowledge(), titles()]).matrix(dataset())
    assert both.shape == (121, 264)
    assert np.array_equal(both, np.concatenate([first, second], axis=1))
    assert not both[0].any()
    assert np.array_equal(
        KnowledgeBases.open([titles(), knowledge()]).matrix(dataset()), np.concatenate([second, first], axis=1)
    )
    assert KnowledgeBases.open([knowledge(), titles()]).width == 264


def test_each_base_reads_new_items_by_its_own_prompt() -> None:
    bases, data = KnowledgeBases.open([knowledge(), titles()]), dataset()
    frame = data.items[:5]
    texts = bases.render(data.schema, frame)
    assert texts[0] == KnowledgeBases.open(knowledge()).render(data.schema, frame)[0]
    assert texts[1] == [f"Here is a thing, title is {title}." for title in frame["title"]]
    vectors = bases.encode([[text or "" for text in own] for own in texts])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, KnowledgeBases.open([knowledge(), titles()]).matrix(data)[1:6], atol=1e-3)
    again = bases.encode([[text or "" for text in own] for own in texts])
    assert np.array_equal(again, vectors)
    empty = bases.render(data.schema, pl.DataFrame({data.schema.item: ["x"], "description": ["a long story"]}))
    assert empty == [["Here is a book, description is a long story."], [None]]
    question = encoded([knowledge(), titles()], ["ghosts and vampires"])
    assert question.shape == (1, 264)
    assert np.array_equal(question[:, :256], encoded(knowledge(), ["ghosts and vampires"]))


def test_missing_text_follows_the_policy_of_each_base(tmp_path: Path) -> None:
    data = small_runs.rich()  # every fourth item has no genre
    genres = filled(tmp_path / "genres", data, ("genres",), width=4)
    both = KnowledgeBases.open([small_runs.rich_knowledge(), genres]).matrix(data)[:, -4:]
    base = open_knowledge(genres)
    without = np.array([item in set(base.absent(data.item_ids)) for item in data.item_ids])
    assert without.any()
    assert np.array_equal(both[1:], base.matrix(data.item_ids, missing="mean").astype(np.float32))
    assert len(np.unique(both[1:][without], axis=0)) == 1
    write_json(genres / "knowledge.json", {**read_settings(genres).model_dump(), "missing": "error"})
    with pytest.raises(KnowledgeError, match=f"{without.sum()} of 60 item ids have no vector"):
        KnowledgeBases.open([small_runs.rich_knowledge(), genres]).matrix(data)


def test_what_a_run_remembers_of_its_bases() -> None:
    bases = KnowledgeBases.open([knowledge(), titles()])
    base = open_knowledge(titles())
    assert bases.identities[1] == {
        **base.identity.model_dump(),
        "fitted": base.fitted,
        "version": base.version,
        "path": str(titles().resolve()),
    }
    bases.check(bases.identities, "runs/x")
    KnowledgeBases.open(knowledge()).check(bases.identities[:1], "runs/x")
    with pytest.raises(
        RunError, match=r"runs/x: trained on a knowledge base with prompt '[0-9a-f]+', which now has '[0-9a-f]+'"
    ):
        KnowledgeBases.open([knowledge(), titles()]).check(
            [bases.identities[0], {**bases.identities[1], "prompt": "0" * 64}], "runs/x"
        )
    with pytest.raises(RunError, match=r"with revision 'words-2-buckets-65536-width-256-seed-0', which now has '.*-width-8-"):
        KnowledgeBases.open([titles(), knowledge()]).check(bases.identities, "runs/x")
    fitted, former = {**bases.identities[0], "fitted": "0" * 64}, {**bases.identities[0]}
    del former["fitted"]
    with pytest.raises(RunError, match=r"with fitted '0{64}', which now has '.*'; its encoder was fitted to other texts"):
        KnowledgeBases.open(knowledge()).check([fitted], "runs/x")
    KnowledgeBases.open(knowledge()).check([former], "runs/x")
    with pytest.raises(RunError, match="runs/x: trained on 2 knowledge bases, now given 1; name the same ones"):
        KnowledgeBases.open(knowledge()).check(bases.identities, "runs/x")


def test_none_and_twice_the_same_are_refused(tmp_path: Path) -> None:
    for none in (None, (), []):
        with pytest.raises(ConfigError, match="needs item text vectors: give the run a knowledge base"):
            KnowledgeBases.open(none).matrix(dataset())
    with pytest.raises(ConfigError, match="needs item text vectors: give the run a knowledge base"):
        open_knowledge(None)
    (tmp_path / "other").symlink_to(knowledge())
    for twice in ([knowledge(), titles(), knowledge()], [knowledge(), tmp_path / "other"]):
        with pytest.raises(ConfigError, match=f"the knowledge base {twice[-1]} is given twice"):
            KnowledgeBases.open(twice)
    with pytest.raises(KnowledgeError, match="no knowledge base here"):
        KnowledgeBases.open([knowledge(), tmp_path / "nothing"])


def test_the_matrix_is_made_without_a_copy_of_it() -> None:
    """Besides itself: a part of the rows at a time, and what belongs to the ids."""
    bases = KnowledgeBases.open([knowledge(), titles()])
    bases.matrix(dataset())  # what is derived is there, ids are indexed

    class Wide(Dataset):  # the same items over and over, so that vectors outweigh everything else
        item_ids = dataset().item_ids * 500
        num_items = len(item_ids)

    data = object.__new__(Wide)
    tracemalloc.start()
    try:
        vectors = bases.matrix(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert vectors.shape == (60_001, 264)
    assert peak < 1.4 * vectors.nbytes
    assert np.array_equal(vectors[1:121], vectors[-120:])


def test_a_matrix_is_read_into_what_is_given() -> None:
    base = KnowledgeBase.open(titles())
    ids = [*dataset().item_ids[:4], "nobody"]
    out = np.full((6, 20), 7.0, np.float32)
    base.read_into(out[1:, 4:12], ids, missing="mean")
    assert np.array_equal(out[1:, 4:12], base.matrix(ids, missing="mean").astype(np.float32))
    assert (out[0] == 7).all()
    assert (out[:, :4] == 7).all()
    assert (out[:, 12:] == 7).all()
    with pytest.raises(KnowledgeError, match="first: 'nobody'"):
        base.read_into(out[1:, 4:12], ids)
