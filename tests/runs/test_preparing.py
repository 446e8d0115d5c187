"""From a description to a folder, and from a catalogue's text to vectors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import small_runs
from braidrec.data.dataset import Dataset
from braidrec.errors import BraidError, ConfigError, DataError, KnowledgeError
from braidrec.runs.depending import runs_on, warning
from braidrec.runs.knowledge import (
    Floats,
    Folders,
    KnowledgeBases,
    build,
    nearest,
    read_settings,
    sync,
    verify,
    versions,
)
from braidrec.runs.preparing import prepare
from small_runs import dataset, knowledge


def encoded(folders: Folders, texts: list[str]) -> Floats:
    """Vectors of texts that every knowledge base reads."""
    bases = KnowledgeBases.open(folders)
    return bases.encode([texts] * len(bases.folders))


def test_a_description_becomes_the_data_set_that_was_described(tmp_path: Path) -> None:
    found = prepare(str(small_runs.description(tmp_path)), None, tmp_path / "out", cold_items=0.1, vocabulary="all")
    assert found.num_users == dataset().num_users
    assert found.settings.vocabulary == "all"
    assert found.settings.split.cold_items == 0.1
    assert found.settings.split.kind == "temporal"
    assert found.schema.text == ("title", "description")
    with pytest.raises(DataError, match="already exists; choose another folder or pass overwrite"):
        prepare(str(tmp_path / "mine.toml"), None, tmp_path / "out")
    again = prepare(str(tmp_path / "mine.toml"), None, tmp_path / "out", overwrite=True)
    assert again.fingerprint != found.fingerprint
    with pytest.raises(ConfigError, match="'vocabulary' = 'some'"):
        prepare(str(tmp_path / "mine.toml"), None, tmp_path / "new", vocabulary="some")
    assert not (tmp_path / "new").exists()


def test_unknown_names_and_misplaced_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'ml-1mm' is neither a public data set \(did you mean 'ml-1m'\?\)"):
        prepare("ml-1mm", None, tmp_path / "out")
    (tmp_path / "clicks.csv").write_text("user,item\n1,2\n")
    with pytest.raises(ConfigError, match=r"clicks.csv' is no description: write a TOML file with name = .clicks. and, below "):
        prepare(str(tmp_path / "clicks.csv"), None, tmp_path / "out")
    with pytest.raises(ConfigError, match="a description names its own files"):
        prepare(str(tmp_path / "mine.toml"), tmp_path, tmp_path / "out")
    with pytest.raises(BraidError):
        prepare(str(tmp_path / "mine.toml"), None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_text_to_vectors_in_catalogue_order() -> None:
    vectors = KnowledgeBases.open(knowledge()).matrix(dataset())
    assert vectors.shape == (121, 256)
    assert vectors.dtype == np.float32
    assert not vectors[0].any()
    texts = [text or "" for text in KnowledgeBases.open(knowledge()).render(dataset().schema, dataset().items)[0]]
    np.testing.assert_allclose(encoded(knowledge(), texts[:5]), vectors[1:6], atol=1e-6)
    assert texts[0].startswith("Here is a book, title is ")


def test_multi_valued_columns_are_read_as_words() -> None:
    texts = KnowledgeBases.open(small_runs.rich_knowledge()).render(small_runs.rich().schema, small_runs.rich().items)[0]
    assert texts[3] == "Here is an item, title is Film number 3 [rec], and genres is Drama, Comedy, War."


def test_a_second_build_encodes_nothing_and_another_encoder_is_refused(tmp_path: Path) -> None:
    assert "0 texts encoded, 120 unchanged" in build(dataset().path, knowledge(), "tfidf")
    assert "0 texts encoded" in sync(dataset().path, knowledge())
    with pytest.raises(KnowledgeError, match="vectors of two encoders never mix"):
        build(dataset().path, knowledge(), "tfidf", missing="error")
    with pytest.raises(KnowledgeError, match="no knowledge base here"):
        sync(dataset().path, tmp_path)
    with pytest.raises(DataError, match="no text columns"):
        build(small_runs.positives().path, tmp_path / "kb", "tfidf")
    with pytest.raises(ConfigError, match="'missing' = 'median'"):
        build(dataset().path, tmp_path / "kb", "tfidf", missing="median")
    (tmp_path / "encoder.toml").write_text('[encoder]\nkind = "tfidf"\nwidht = 8\n')
    with pytest.raises(ConfigError, match=r"unknown key 'encoder.widht' \(did you mean 'width'\?\)"):
        build(dataset().path, tmp_path / "kb", str(tmp_path / "encoder.toml"))
    assert not (tmp_path / "kb").exists()


def test_nearest_versions_and_verify() -> None:
    first = dataset().item_ids[0]
    found = nearest(knowledge(), first, None, 3)
    assert len(found) == 3
    assert found[0][2] >= found[1][2]
    assert first not in {each for each, _, _ in found}
    assert len(nearest(knowledge(), None, "ghosts and vampires", 2)) == 2
    for item, text in ((None, None), (first, "both")):
        with pytest.raises(KnowledgeError, match="exactly one of"):
            nearest(knowledge(), item, text, 3)
    with pytest.raises(KnowledgeError, match="no vector"):
        nearest(knowledge(), "nothing", None, 3)
    assert versions(knowledge())[-1][2] == 120
    assert "120 items and 0 users agree" in verify(knowledge())


def test_damaged_settings_of_a_knowledge_base_are_refused(tmp_path: Path) -> None:
    settings = json.loads((knowledge() / "knowledge.json").read_text())
    (tmp_path / "knowledge.json").write_text(json.dumps({**settings, "tabel": "x"}))
    with pytest.raises(ConfigError, match=r"unknown key 'tabel' \(did you mean 'table'\?\)"):
        read_settings(tmp_path)
    (tmp_path / "knowledge.json").write_text("{")
    with pytest.raises(KnowledgeError, match="not valid JSON"):
        read_settings(tmp_path)


# -- data that runs were trained on ---------------------------------------------------------------------------------------


def test_runs_on_a_folder_are_found_in_runs_and_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "shop"
    data = Path(shutil.copytree(dataset().path, home / "prepared" / "planted"))
    other = Path(shutil.copytree(dataset().path, home / "prepared" / "other"))
    assert runs_on(data) == []
    small_runs.train(home / "runs" / "planted" / "x", Dataset.open(data), seed=1)
    for place in ("prepared/beside", "prepared/runs/y"):
        shutil.copytree(home / "runs" / "planted" / "x", home / place)
    (home / "runs" / "broken").mkdir()
    (home / "runs" / "broken" / "config.toml").write_text("data = [")
    wanted = [home / place for place in ("prepared/beside", "prepared/runs/y", "runs/planted/x")]
    assert runs_on(data) == wanted, "copies find the data by their whole path"
    monkeypatch.chdir(home)
    assert [each.resolve() for each in runs_on(Path("prepared/planted"))] == wanted
    assert runs_on(other) == []
    moved = home.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert runs_on(moved / "prepared" / "planted") == [moved / "prepared/runs/y", moved / "runs/planted/x"]
    said = warning(data, [Path(f"runs/{at}") for at in range(7)])
    assert "7 runs were trained on these data (runs/0, runs/1, runs/2, runs/3, runs/4 and 2 more). Over a log" in said


def test_data_that_runs_need_are_replaced_when_somebody_says_so(tmp_path: Path) -> None:
    file, out, asked = str(small_runs.description(tmp_path)), tmp_path / "prepared" / "mine", []

    def answer(said: str) -> bool:
        asked.append(said)
        return len(asked) > 1

    first = prepare(file, None, out, overwrite=True, confirm=answer)
    assert prepare(file, None, out, overwrite=True, confirm=answer).fingerprint == first.fingerprint
    assert not asked, "nobody needs them yet"
    run = small_runs.train(tmp_path / "runs" / "x", first, seed=1)
    with pytest.raises(DataError, match=r"mine: not replaced; nothing was changed"):
        prepare(file, None, out, vocabulary="all", overwrite=True, confirm=answer)
    assert Dataset.open(out).fingerprint == first.fingerprint
    assert f"1 run was trained on these data ({run.path})" in asked[0]
    assert prepare(file, None, out, vocabulary="all", overwrite=True, confirm=answer).settings.vocabulary == "all"


def test_files_are_read_as_it_is_said_over_the_description(tmp_path: Path) -> None:
    rows = ["user_id;item_id;timestamp", *(f"r{at % 7};b{at % 5}é;{1_700_000_000 + at}" for at in range(70))]
    (tmp_path / "loans.csv").write_text("\n".join(rows), encoding="latin-1")
    (tmp_path / "loans.toml").write_text('name = "loans"\n[interactions]\nfile = "loans.csv"\n[read]\nseparator = ";"\n')
    with pytest.raises(DataError, match=r'say encoding = "latin-1" \(\[read\] in TOML, --read of a command'):
        prepare(str(tmp_path / "loans.toml"), None, tmp_path / "out")
    found = prepare(str(tmp_path / "loans.toml"), None, tmp_path / "out", read={"encoding": "latin-1"})
    assert "b0é" in found.item_ids
    with pytest.raises(ConfigError, match="read: unknown key 'encodin'"):
        prepare(str(tmp_path / "loans.toml"), None, tmp_path / "new", read={"encodin": "latin-1"})
    with pytest.raises(ConfigError, match="read says how files of yours are read; 'ml-1m' is read as it is published"):
        prepare("ml-1m", None, tmp_path / "new", read={"encoding": "latin-1"})
