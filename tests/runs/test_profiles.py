"""Profiles from a data set to the vectors of a run: written once, from training alone, kept whatever ends the process."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.schema import Schema
from braidrec.data.settings import SplitConfig
from braidrec.data.tables import Tables
from braidrec.errors import BraidError, ConfigError, KnowledgeError
from braidrec.files import read_json, write_json
from braidrec.knowledge import lance, trust
from braidrec.knowledge.base import KnowledgeBase
from braidrec.knowledge.profiles.store import ProfileStore
from braidrec.runs import knowledge
from braidrec.runs.knowledge import KnowledgeBases, build, sync, write_profiles
from chat import Asked, Chat, asked_of, chatting, profile_of, well

KEY = "sk-CANARY-5e6f7a8b9c0d"
WORKER = Path(__file__).with_name("profile_worker.py")
TITLES = {
    f"i{at}": f"Story {name}" for at, name in enumerate(["ash", "birch", "cedar", "dogwood", "elm", "fir", "gum", "holly"])
}


@pytest.fixture
def chat() -> Iterator[Chat]:
    with chatting() as found:
        yield found


def shelf(
    folder: Path,
    *,
    name: str = "shelf",
    shift: int = 0,
    titles: dict[str, str | None] = TITLES,  # type: ignore[assignment]
    first: tuple[str, ...] = (),
    held: tuple[str, ...] = (),
    overwrite: bool = False,
) -> Dataset:
    """Six users with five items each, the last but one for validation and the last for test; both catalogues backwards.

    shift: which item a user begins with is another    first: users that stand before the others and like nothing
    held: users of whom training has nothing
    """
    items = list(TITLES)
    rows = [
        (f"u{user}", items[(user * 3 + at + shift) % len(items)], at, ["train"] * 3 + ["valid", "test"])
        for user in range(6)
        for at in range(5)
    ]
    log = pl.DataFrame(
        {
            "user": [row[0] for row in rows],
            "item": [row[1] for row in rows],
            "part": ["test" if row[0] in held else row[3][row[2]] for row in rows],
        }
    )
    catalogue = pl.DataFrame({"item": items[::-1], "title": [titles[item] for item in items[::-1]]})
    people = pl.DataFrame({"user": [*first, *(f"u{user}" for user in reversed(range(6)))]})
    schema = Schema(user="user", item="item", part="part", text=("title",), noun="story")
    tables = Tables(name, schema, log, catalogue, people)
    return Dataset.prepare(tables, folder / name, PrepareSettings(split=SplitConfig(kind="given")), overwrite=overwrite)


def told(item: str) -> str:
    """The profile of an item, as the rule writes it."""
    return profile_of({"item": f"Here is a story, title is {TITLES[item]}."})


def liked(user: int, count: int = 3, shift: int = 0) -> list[str]:
    return sorted(list(TITLES)[(user * 3 + at + shift) % len(TITLES)] for at in range(count))


def rows(folder: Path) -> list[dict[str, Any]]:
    """Everything of the record of profiles and of the vectors, by key."""
    tables = [lance.table_of(folder / "profiles"), lance.table_of(KnowledgeBase.open(folder).folder)]
    return [row for table in tables if table is not None for row in table.to_arrow().sort_by("key").to_pylist()]


def every_file(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


# -- writing ------------------------------------------------------------------------------------------------------------------


def test_who_has_nothing_left_in_training_has_no_profile_left(chat: Chat, tmp_path: Path) -> None:
    """Else the next run refuses what was written from other events, and the sync that it names changes nothing."""
    write_profiles(shelf(tmp_path).path, tmp_path / "kb", chat.file(tmp_path), "tfidf")
    later = shelf(tmp_path, held=("u3",), overwrite=True)
    assert "nothing is written of 1 user without an item with text in training" in sync(later.path, tmp_path / "kb")
    assert KnowledgeBase.open(tmp_path / "kb").absent([f"u{user}" for user in range(6)], "user") == ["u3"]
    vectors = KnowledgeBases.open(tmp_path / "kb").people(later)
    assert vectors is not None
    assert not vectors[later.user_rows["u3"]].any()


def test_nothing_more_is_asked_where_no_answer_fits_however_few_are_kept_at_a_time(chat: Chat, tmp_path: Path) -> None:
    chat.answer = lambda body: "I cannot do that."
    with pytest.raises(KnowledgeError, match=r"none of the first 4 answers is a profile .*; none was kept"):
        write_profiles(shelf(tmp_path).path, tmp_path / "kb", chat.file(tmp_path, parallel=1, batch_calls=1), "tfidf")
    assert len(chat.bodies) == 8  # each asked twice
    assert ProfileStore(tmp_path / "kb").read("item") == {}


def test_profiles_are_written_from_training_alone_and_encoded_by_id(chat: Chat, tmp_path: Path) -> None:
    data = shelf(tmp_path)
    said = write_profiles(data.path, tmp_path / "kb", chat.file(tmp_path, parallel=1), "tfidf")
    assert "item profiles: 8 written, 0 unchanged" in said
    assert "user profiles: 6 written, 0 unchanged" in said
    assert "14 calls, 140 tokens read and 70 written; no price is set" in said
    assert "14 texts encoded" in said
    assert chat.of_items() == [f"Here is a story, title is {TITLES[item]}." for item in sorted(TITLES)]
    expected = [[{"title": TITLES[item], "description": told(item)} for item in liked(user)] for user in range(6)]
    assert chat.of_users() == expected  # sorted by id; the log without time stands by user and item
    assert "u3" not in json.dumps(chat.bodies)
    assert "i3" not in json.dumps(chat.bodies)
    base = KnowledgeBase.open(tmp_path / "kb")
    assert base.texts(list(TITLES)) == {item: told(item) for item in TITLES}
    users = base.texts([f"u{user}" for user in range(6)], "user")
    assert users["u2"] == profile_of({"liked": [{"title": TITLES[item]} for item in liked(2)]})
    vectors = KnowledgeBases.open(tmp_path / "kb").people(data)
    assert vectors is not None
    assert vectors.shape == (7, 256)
    assert vectors.dtype == np.float32
    assert not vectors[0].any()
    for user in range(6):
        own = base.matrix([f"u{user}"], "user")[0].astype(np.float32)
        assert np.array_equal(vectors[data.user_rows[f"u{user}"]], own)
    assert len(np.unique(vectors, axis=0)) == 7
    assert knowledge.verify(tmp_path / "kb").endswith("8 items and 6 users agree with their checksums, and 14 profiles")


def test_what_is_new_or_changed_is_written_and_nothing_else(chat: Chat, tmp_path: Path) -> None:
    file = chat.file(tmp_path)
    write_profiles(shelf(tmp_path).path, tmp_path / "kb", file, "tfidf")
    chat.bodies.clear()
    said = write_profiles(tmp_path / "shelf", tmp_path / "kb", file, "tfidf", confirm=pytest.fail)
    assert "item profiles: 0 written, 8 unchanged\nuser profiles: 0 written, 6 unchanged\n0 texts encoded" in said
    assert not chat.bodies
    changed = shelf(tmp_path, titles={**TITLES, "i4": "Story oak"}, overwrite=True)
    said = sync(changed.path, tmp_path / "kb")
    readers = [user for user in range(6) if "i4" in liked(user)]
    assert 0 < len(readers) < 6
    assert chat.of_items() == ["Here is a story, title is Story oak."]
    assert len(chat.of_users()) == len(readers)
    assert f"item profiles: 1 written, 7 unchanged\nuser profiles: {len(readers)} written" in said
    assert f"{1 + len(readers)} texts encoded" in said


def test_a_text_that_changed_is_said_when_a_run_reads_it(chat: Chat, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_profiles(shelf(tmp_path).path, tmp_path / "kb", chat.file(tmp_path), "tfidf")
    KnowledgeBases.open(tmp_path / "kb").tell_changes(Dataset.open(tmp_path / "shelf"))
    assert not caplog.text
    changed = shelf(tmp_path, titles={**TITLES, "i4": "Story oak"}, overwrite=True)
    KnowledgeBases.open(tmp_path / "kb").tell_changes(changed)
    assert "the text of 1 of 8 items of shelf has changed since it was encoded (first: 'i4')" in caplog.text


def test_what_it_takes_is_said_before_the_first_call(chat: Chat, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, file, asked = shelf(tmp_path), chat.file(tmp_path, price=1.0, answer_price=2.0, max_tokens=50), []

    def no(question: str) -> bool:
        asked.append(question)
        assert not chat.bodies
        return False

    with pytest.raises(KnowledgeError, match="not started: the calls were not accepted"):
        write_profiles(data.path, tmp_path / "kb", file, "tfidf", confirm=no)
    assert not chat.bodies
    assert not (tmp_path / "kb").exists()
    assert "ProfileWriter(toy@127.0.0.1" in asked[0]
    assert "14 calls, about" in asked[0]
    assert "at most 700 to write, at most 0.00" in asked[0]
    with pytest.raises(KnowledgeError, match="over max_cost"):
        write_profiles(
            data.path, tmp_path / "kb", chat.file(tmp_path, price=1.0, answer_price=2.0, max_cost=0.0001), "tfidf", confirm=no
        )
    assert not chat.bodies
    chat.file(tmp_path, price=1.0, answer_price=2.0)
    assert "0.0003 in price" in write_profiles(data.path, tmp_path / "kb", file, "tfidf")  # 14 x (10 + 2 x 5) in a million
    assert "14 calls, about" in capsys.readouterr().err


def test_items_alone(chat: Chat, tmp_path: Path) -> None:
    data = shelf(tmp_path)
    said = write_profiles(data.path, tmp_path / "kb", chat.file(tmp_path, users=False), "tfidf")
    assert "user" not in said
    assert not chat.of_users()
    assert KnowledgeBases.open(tmp_path / "kb").people(data) is None
    assert KnowledgeBases.open(tmp_path / "kb").matrix(data).shape == (9, 256)


def test_who_has_nothing_to_write_of_is_counted(chat: Chat, tmp_path: Path) -> None:
    data = shelf(tmp_path, titles={**TITLES, "i0": None}, first=("new",))
    said = write_profiles(data.path, tmp_path / "kb", chat.file(tmp_path), "tfidf")
    assert "nothing is written of 1 item without text" in said
    assert "nothing is written of 1 user without an item with text in training" in said
    vectors = KnowledgeBases.open(tmp_path / "kb").people(data)
    assert vectors is not None
    assert not vectors[data.user_rows["new"]].any()
    assert vectors[2:].any(axis=1).all()


# -- answers that do not fit, endpoints that fail -----------------------------------------------------------------------------


def test_failures_are_kept_by_name_counted_and_asked_for_again(chat: Chat, tmp_path: Path) -> None:
    data, file = shelf(tmp_path), chat.file(tmp_path)
    odd = f"Here is a story, title is {TITLES['i5']}."

    def answer(body: Asked) -> str:
        asked = asked_of(body)
        if asked.get("item") == odd:
            return "<html>"
        return '{"profile": "no"}' if "liked" in asked and asked["liked"][0]["title"] == TITLES[liked(1)[0]] else well(body)

    chat.answer = answer
    said = write_profiles(data.path, tmp_path / "kb", file, "tfidf")
    assert (
        "item profiles: 1 failed (first: 'i5': it is no JSON (JSONDecodeError)), so the catalogue's text is read there" in said
    )
    assert "user profiles: 1 failed (first: 'u1': its profile has 2 characters, where 20 to 800 are asked for)" in said
    assert "16 calls" in said
    base = KnowledgeBase.open(tmp_path / "kb")
    assert base.texts(["i5"]) == {"i5": odd}
    assert base.absent(["u0", "u1"], "user") == ["u1"]
    described = [each for user in chat.of_users() for each in user if each["title"] == TITLES["i5"]]
    assert described
    assert all("description" not in each for each in described)
    vectors = KnowledgeBases.open(tmp_path / "kb").people(data)
    assert vectors is not None
    assert not vectors[data.user_rows["u1"]].any()
    chat.answer = well
    chat.bodies.clear()
    assert "item profiles: 1 failed" in sync(data.path, tmp_path / "kb")
    assert not chat.bodies
    said = sync(data.path, tmp_path / "kb", again=True)
    assert "failed" not in said
    assert chat.of_items() == [odd]
    assert base.texts(["i5"]) == {"i5": told("i5")}
    assert base.absent(["u0", "u1"], "user") == []


def test_where_no_answer_fits_nothing_more_is_asked(chat: Chat, tmp_path: Path) -> None:
    data, file = shelf(tmp_path), chat.file(tmp_path, batch_calls=4)
    chat.answer = lambda body: "I am a shop assistant."
    with pytest.raises(KnowledgeError, match=r"none of the first 4 answers is a profile \(first: item 'i0': it is no JSON"):
        write_profiles(data.path, tmp_path / "kb", file, "tfidf")
    assert len(chat.bodies) == 8
    assert ProfileStore(tmp_path / "kb").read("item") == {}
    chat.answer = well
    assert "item profiles: 8 written" in write_profiles(data.path, tmp_path / "kb", file, "tfidf")


def test_an_endpoint_that_fails_takes_nothing_that_was_answered(chat: Chat, tmp_path: Path) -> None:
    data, file = shelf(tmp_path), chat.file(tmp_path, parallel=1, batch_calls=4)
    chat.answer = lambda body: 401 if len(chat.bodies) == 7 else well(body)
    with pytest.raises(KnowledgeError, match=r"HTTP 401.*check the address, the model name and the key"):
        write_profiles(data.path, tmp_path / "kb", file, "tfidf")
    assert sorted(ProfileStore(tmp_path / "kb").read("item")) == [f"i{at}" for at in range(6)]
    chat.answer, before = well, len(chat.bodies)
    write_profiles(data.path, tmp_path / "kb", file, "tfidf")
    assert len(chat.bodies) - before == 2 + 6
    write_profiles(data.path, tmp_path / "whole", file, "tfidf")
    assert rows(tmp_path / "kb") == rows(tmp_path / "whole")


@pytest.mark.parametrize("at", [6, 11])  # among items, among users
def test_a_killed_process_goes_on_to_the_same_rows(at: int, chat: Chat, tmp_path: Path) -> None:
    data, file = shelf(tmp_path), chat.file(tmp_path, parallel=1, batch_calls=2)
    there, end = threading.Event(), threading.Event()

    def answer(body: Asked) -> str:
        if len(chat.bodies) == at:
            there.set()
            end.wait(60)
        return well(body)

    chat.answer = answer
    command = [sys.executable, str(WORKER), str(data.path), str(tmp_path / "kb"), str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not there.wait(0.05):
        assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate()
    end.set()
    kept = ProfileStore(tmp_path / "kb")
    done = len(kept.read("item")) + len(kept.read("user"))
    assert done == (at - 1) // 2 * 2  # whole batches of two
    chat.answer = well
    chat.bodies.clear()
    write_profiles(data.path, tmp_path / "kb", file, "tfidf")
    assert len(chat.bodies) == 14 - done
    write_profiles(data.path, tmp_path / "whole", file, "tfidf")
    assert rows(tmp_path / "kb") == rows(tmp_path / "whole")


def test_an_interrupt_ends_at_once_and_keeps_what_was_answered(chat: Chat, tmp_path: Path) -> None:
    """Five answers of a batch are there, and the sixth never comes."""
    data, file = shelf(tmp_path), chat.file(tmp_path, parallel=1, timeout=80_000.0)
    there, end = threading.Event(), threading.Event()

    def answer(body: Asked) -> str:
        if len(chat.bodies) == 6:
            there.set()
            end.wait(600)
        return well(body)

    chat.answer = answer
    command = [sys.executable, str(WORKER), str(data.path), str(tmp_path / "kb"), str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not there.wait(0.05):
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    end.set()
    assert b"KeyboardInterrupt" in said
    assert sorted(ProfileStore(tmp_path / "kb").read("item")) == [f"i{at}" for at in range(5)]
    chat.answer, before = well, len(chat.bodies)
    write_profiles(data.path, tmp_path / "kb", file, "tfidf")
    assert len(chat.bodies) - before == 3 + 6


# -- who may be read ----------------------------------------------------------------------------------------------------------


def test_vectors_follow_ids_whatever_the_order_of_a_catalogue(chat: Chat, tmp_path: Path) -> None:
    data = shelf(tmp_path)
    write_profiles(data.path, tmp_path / "kb", chat.file(tmp_path), "tfidf")
    other = shelf(tmp_path, name="longer", first=("a", "b"))
    assert other.user_rows["u0"] == data.user_rows["u0"] + 2
    bases = KnowledgeBases.open(tmp_path / "kb")
    first, second = bases.people(data), bases.people(other)
    assert first is not None
    assert second is not None
    assert np.array_equal(second[3:], first[1:])
    assert not second[:3].any()


def test_profiles_of_another_part_are_refused_by_name(chat: Chat, tmp_path: Path) -> None:
    data, file = shelf(tmp_path), chat.file(tmp_path)
    write_profiles(data.path, tmp_path / "kb", file, "tfidf")
    other = shelf(tmp_path, name="other", shift=1)  # what was validation is training now, as after another cut
    with pytest.raises(
        KnowledgeError,
        match=r"the profiles of 6 of 6 users \(first: 'u5'\) were written from other events than those that other at .* has "
        r"for training, so they may tell what validation and test ask for; write these anew: '.* sync .*other .*kb'",
    ):
        KnowledgeBases.open(tmp_path / "kb").people(other)
    chat.bodies.clear()
    sync(other.path, tmp_path / "kb")
    assert (len(chat.of_items()), len(chat.of_users())) == (0, 6)
    assert KnowledgeBases.open(tmp_path / "kb").people(other) is not None
    with pytest.raises(KnowledgeError, match="were written from other events"):
        KnowledgeBases.open(tmp_path / "kb").people(data)


def test_a_user_whose_text_is_of_the_test_part_is_refused(chat: Chat, tmp_path: Path) -> None:
    """One profile among the others, written from all that its user has."""
    data = shelf(tmp_path)
    write_profiles(data.path, tmp_path / "kb", chat.file(tmp_path), "tfidf")
    whole = pl.DataFrame(
        {
            "user": [f"u{user}" for user in range(6) for _ in range(5)],
            "item": [list(TITLES)[(user * 3 + at) % len(TITLES)] for user in range(6) for at in range(5)],
            "part": [
                "train" if user == 4 or at < 3 else "valid" if at == 3 else "test" for user in range(6) for at in range(5)
            ],
        }
    )
    schema = Schema(user="user", item="item", part="part", text=("title",), noun="story")
    leak = Tables("leak", schema, whole, data.items, data.users)
    leaking = Dataset.prepare(leak, tmp_path / "leak", PrepareSettings(split=SplitConfig(kind="given")))
    sync(leaking.path, tmp_path / "kb")
    with pytest.raises(KnowledgeError, match=r"the profiles of 1 of 6 users \(first: 'u4'\) were written from other events"):
        KnowledgeBases.open(tmp_path / "kb").people(data)


def test_vectors_without_a_profile_of_theirs_are_refused(chat: Chat, tmp_path: Path) -> None:
    data = shelf(tmp_path)
    write_profiles(data.path, tmp_path / "kb", chat.file(tmp_path), "tfidf")
    settings = knowledge.read_settings(tmp_path / "kb")
    base = knowledge._readable(tmp_path / "kb", settings)
    base.sync(["u1"], ["This person likes what the test part holds."], "user", show_progress=False)
    with pytest.raises(KnowledgeError, match=r"the vectors of 1 users \(first: 'u1'\) are not of their profiles; encode these"):
        KnowledgeBases.open(tmp_path / "kb").people(data)
    build(data.path, tmp_path / "plain", "tfidf")
    assert KnowledgeBases.open(tmp_path / "plain").people(data) is None
    knowledge._readable(tmp_path / "plain", knowledge.read_settings(tmp_path / "plain")).sync(
        ["u1"], ["This person likes what the test part holds."], "user", show_progress=False
    )
    with pytest.raises(
        KnowledgeError, match=r"nothing says what the text of 1 of 1 users was written from \(first: 'u1'\).*knowledge profiles"
    ):
        KnowledgeBases.open(tmp_path / "plain").people(data)


def test_a_base_with_users_and_one_without_do_not_stand_side_by_side(chat: Chat, tmp_path: Path) -> None:
    data = shelf(tmp_path)
    write_profiles(data.path, tmp_path / "kb", chat.file(tmp_path), "tfidf")
    build(data.path, tmp_path / "plain", "tfidf")
    both = KnowledgeBases.open([tmp_path / "kb", tmp_path / "plain"])
    assert both.matrix(data).shape == (9, 512)
    with pytest.raises(ConfigError, match=r"kb has vectors of users and .*plain has none"):
        both.people(data)
    write_profiles(data.path, tmp_path / "second", chat.file(tmp_path, revision="2"), "tfidf")
    vectors = KnowledgeBases.open([tmp_path / "kb", tmp_path / "second"]).people(data)
    assert vectors is not None
    assert np.array_equal(vectors[:, :256], vectors[:, 256:])


# -- what else asks a knowledge base ------------------------------------------------------------------------------------------


def test_users_are_known_to_nearest_and_versions(chat: Chat, tmp_path: Path) -> None:
    data, folder = shelf(tmp_path), tmp_path / "kb"
    write_profiles(data.path, folder, chat.file(tmp_path), "tfidf")
    others = knowledge.nearest(folder, None, None, 3, user="u0", kind="user")
    assert len(others) == 3
    assert "u0" not in [each[0] for each in others]
    assert others[0][1].startswith("This person likes")
    items = knowledge.nearest(folder, None, None, 8, user="u0")
    assert {each[0] for each in items[:3]} == set(liked(0))  # whose titles it has
    people = knowledge.nearest(folder, "i1", None, 6, kind="user")
    assert {each[0] for each in people} == {f"u{user}" for user in range(6)}
    assert "ash" in knowledge.nearest(folder, None, "a person who likes Story ash", 1, kind="user")[0][1]
    for given in ({"item": None, "text": None}, {"item": "i1", "text": None, "user": "u1"}):
        with pytest.raises(KnowledgeError, match="by exactly one of item, user and text"):
            knowledge.nearest(folder, given.pop("item"), given.pop("text"), 3, **given)  # type: ignore[arg-type]
    with pytest.raises(KnowledgeError, match=r"1 of 1 user ids have no vector \(first: 'nobody'\)"):
        knowledge.nearest(folder, None, None, 3, user="nobody")
    with pytest.raises(KnowledgeError, match="kind = 'people'"):
        knowledge.nearest(folder, "i1", None, 3, kind="people")  # type: ignore[arg-type]
    assert [each[2:] for each in knowledge.versions(folder)] == [(0, 0), (8, 0), (14, 6)]


def test_new_items_are_read_by_a_profile_as_well(chat: Chat, tmp_path: Path) -> None:
    data = shelf(tmp_path)
    write_profiles(data.path, tmp_path / "kb", chat.file(tmp_path), "tfidf")
    bases = KnowledgeBases.open(tmp_path / "kb")
    assert bases.priced
    vectors = bases.encode([["Here is a story, title is Story ash."]])
    assert np.array_equal(vectors, bases.matrix(data)[[data.item_rows["i0"]]])
    assert bases.identities[0]["writer"].startswith("toy@127.0.0.1")
    chat.answer = lambda body: "none"
    with pytest.raises(KnowledgeError, match=r"no profile of 'A new story': the answer does not fit \(it is no JSON"):
        bases.encode([["A new story"]])


def test_another_writer_needs_another_folder(chat: Chat, tmp_path: Path) -> None:
    data = shelf(tmp_path)
    write_profiles(data.path, tmp_path / "kb", chat.file(tmp_path), "tfidf")
    for more in ({"model": "other"}, {"language": "German"}):
        with pytest.raises(
            KnowledgeError, match=r"filled by another encoder, prompt, policy or writer .*choose another folder"
        ):
            write_profiles(data.path, tmp_path / "kb", chat.file(tmp_path, **more), "tfidf")
    with pytest.raises(KnowledgeError, match="policy or writer"):
        build(data.path, tmp_path / "kb", "tfidf")
    write_profiles(data.path, tmp_path / "kb", chat.file(tmp_path, timeout=9.0, parallel=2), "tfidf")
    writer = knowledge.read_settings(tmp_path / "kb").writer
    assert writer is not None
    assert writer.timeout == 9.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "required key 'writer' is missing"),
        ("[writer]\nmodel = 'x'\n", "required key 'writer.url' is missing"),
        ("[writer]\nurl = 'http://h/v1'\nmodel = 'x'\ntemprature = 1\n", r"unknown key 'writer.temprature' \(did you mean"),
        ("[writer", "cannot be read as a writer's settings"),
        ("[encoder]\nkind = 'tfidf'\n", "unknown key 'encoder'"),
    ],
)
def test_a_writer_file_that_is_none_is_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "w.toml").write_text(content)
    with pytest.raises(ConfigError, match=rf"w\.toml: .*{message}"):
        write_profiles(shelf(tmp_path).path, tmp_path / "kb", tmp_path / "w.toml", "tfidf")


# -- addresses and keys -------------------------------------------------------------------------------------------------------


def test_a_folder_of_others_calls_no_writer(chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(trust.URL_SETTING, raising=False)
    monkeypatch.setenv("CLOUD_KEY", KEY)
    data = shelf(tmp_path)
    write_profiles(data.path, tmp_path / "kb", chat.file(tmp_path), "tfidf")
    trust.settings_file().unlink()
    settings = read_json(tmp_path / "kb" / "knowledge.json", KnowledgeError)
    settings["writer"]["key_variable"] = "CLOUD_KEY"
    write_json(tmp_path / "kb" / "knowledge.json", settings)
    chat.bodies.clear()
    shelf(tmp_path, titles={**TITLES, "i4": "Story oak"}, overwrite=True)
    for ask in (
        lambda: sync(data.path, tmp_path / "kb"),
        lambda: KnowledgeBases.open(tmp_path / "kb").encode([["A new story"]]),
    ):
        with pytest.raises(
            KnowledgeError, match=rf"would be sent to {chat.url}, which you have not confirmed.*knowledge trust"
        ):
            ask()
    assert len(knowledge.nearest(tmp_path / "kb", None, "a story", 3)) == 3  # the encoder is asked alone, and is here
    assert not chat.bodies
    assert "confirmed, without a key" in knowledge.trust(tmp_path / "kb", None, allow_private=True, confirm=lambda said: True)
    sync(data.path, tmp_path / "kb")
    assert chat.bodies
    assert not any(chat.keys)


def test_two_addresses_are_confirmed_one_by_one(chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    data = shelf(tmp_path)
    write_profiles(data.path, tmp_path / "kb", chat.file(tmp_path), "tfidf")
    settings = read_json(tmp_path / "kb" / "knowledge.json", KnowledgeError)
    named = {"kind": "endpoint", "url": "http://127.0.0.1:9/v1", "model": "m", "width": 2}
    write_json(tmp_path / "kb" / "knowledge.json", settings | {"encoder": named, "table": None})
    trust.settings_file().unlink()
    with pytest.raises(
        KnowledgeError, match=r"names two addresses, http://127.0.0.1:9/v1 \(encoder\) and .* which may need two"
    ):
        knowledge.trust(tmp_path / "kb", None, allow_private=True, confirm=None)
    with pytest.raises(KnowledgeError, match="not http://elsewhere/v1; confirm one of these"):
        knowledge.trust(tmp_path / "kb", None, allow_private=True, confirm=None, address="http://elsewhere/v1")
    assert chat.url in knowledge.trust(tmp_path / "kb", None, allow_private=True, confirm=None, address=chat.url + "/")
    assert trust.confirmed("http://127.0.0.1:9/v1") is None


def test_a_key_stands_in_no_file_and_no_word(
    chat: Chat,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of an endpoint that answers with it wherever it can."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("CLOUD_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    data, said = shelf(tmp_path), []

    def answer(body: Asked) -> str | bytes:
        asked = asked_of(body)
        if asked.get("item", "").endswith("birch."):
            return json.dumps({"profile": f"People who enjoy the key {KEY} would like this."})
        if asked.get("item", "").endswith("cedar."):
            return json.dumps({KEY: "a key of an object"})
        return well(body)

    chat.answer = answer
    said.append(write_profiles(data.path, tmp_path / "kb", chat.file(tmp_path, key_variable="CLOUD_KEY"), "tfidf"))
    assert "item profiles: 2 failed" in said[0]
    assert set(chat.keys) == {f"Bearer {KEY}"}
    chat.answer = lambda body: 403
    with pytest.raises(BraidError) as caught:
        sync(data.path, tmp_path / "kb", again=True)
    shown = f"{said} {caught.value} {caplog.text} {''.join(capsys.readouterr())}"
    assert "CANARY" not in shown
    assert KEY.encode() not in every_file(tmp_path)
    assert b"CANARY" not in every_file(tmp_path)
    assert b"CLOUD_KEY" not in every_file(tmp_path / "kb")
