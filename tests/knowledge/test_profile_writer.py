"""A chat endpoint that is asked for profiles: what is sent, what is counted, what happens to answers that do not fit."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from braidrec.errors import ConfigError, KnowledgeError
from braidrec.knowledge.profiles.answers import Usage
from braidrec.knowledge.profiles.writer import Answer, Liked, ProfileWriter, Question, WriterConfig
from braidrec.strict import parse
from chat import Asked, Chat, asked_of, chatting, completion, profile_of, well

KEY = "sk-CANARY-1a2b3c4d5e6f"


@pytest.fixture
def chat() -> Iterator[Chat]:
    with chatting() as found:
        yield found


def writer(chat: Chat, **more: Any) -> ProfileWriter:
    return ProfileWriter(parse(WriterConfig, chat.settings(**more), "test"))


def asked(author: ProfileWriter, *questions: Question) -> list[Answer]:
    answers, trouble = author.answers(questions, lambda count: None)
    assert trouble is None
    return [answer for answer in answers if answer is not None]


def test_what_is_sent_is_the_text_alone(chat: Chat) -> None:
    author = writer(chat, item_characters=100, longest=300, temperature=0.5, max_tokens=99)
    [answer] = asked(author, author.about_item('Here is a book, title is A "quoted" <b>name</b>\nand more. ' + "x" * 200))
    body = chat.bodies[0]
    assert asked_of(body)["item"] == ('Here is a book, title is A "quoted" <b>name</b>\nand more. ' + "x" * 200)[:100]
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert "at most 300 characters" in body["messages"][0]["content"]
    assert "Write in English" in body["messages"][0]["content"]
    assert {key: body[key] for key in body if key != "messages"} == {
        "model": "toy",
        "temperature": 0.5,
        "max_tokens": 99,
        "response_format": {"type": "json_object"},
    }
    assert answer.failure.startswith("its profile holds markup")  # the name is repeated as it is
    assert len(chat.bodies) == 2


def test_a_user_is_told_of_by_the_latest_items_alone(chat: Chat) -> None:
    author = writer(chat, items_per_user=2, told_characters=4, json_mode=False, limit_key="max_completion_tokens")
    [answer] = asked(author, author.about_user([Liked("first", "p"), Liked("second", ""), Liked("third", "profile")]))
    assert chat.of_users() == [[{"title": "second"}, {"title": "third", "description": "prof"}]]
    assert answer == Answer(profile_of({"liked": [{"title": "second"}, {"title": "third"}]}), "", Usage(10, 5, 1))
    assert chat.bodies[0].keys() == {"model", "messages", "temperature", "max_completion_tokens"}
    plain = writer(chat, told_characters=0)
    asked(plain, plain.about_user([Liked("a", "p")]))
    assert chat.of_users()[-1] == [{"title": "a"}]


def test_a_misfit_is_asked_for_once_more_and_then_a_failure_by_name(chat: Chat) -> None:
    author = writer(chat, parallel=1)
    turns = iter(["no JSON here", None, "{}", '{"profile": "x"}'])
    chat.answer = lambda body: next(turns) or well(body)
    first, second = asked(author, author.about_item("one"), author.about_item("two"))
    assert first == Answer(profile_of({"item": "one"}), "", Usage(20, 10, 2))
    assert second.text == ""
    assert second.failure == "its profile has 1 characters, where 20 to 800 are asked for"
    assert second.usage == Usage(20, 10, 2)
    again = chat.bodies[1]["messages"][2]["content"]
    assert again == "Your answer could not be used: it is no JSON (JSONDecodeError). Answer again in the asked form."
    assert len(chat.bodies) == 4


def test_answers_that_are_no_completion_are_misfits_and_counted_as_calls(chat: Chat) -> None:
    author = writer(chat)
    for body in (
        b"<html>",
        b'{"choices": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        completion("x", choices=[{"message": {"content": None, "refusal": "no"}}]),
        b" " * 5_000_000,
    ):
        chat.answer = lambda asked, body=body: body
        [answer] = asked(author, author.about_item("one"))
        assert answer.failure
        assert answer.usage.calls == 2
        assert answer.usage.counted == (answer.failure == "the model refused")
    assert "it has more than 103,936 bytes" in answer.failure  # 65,536 and 96 for each of 400 tokens
    chat.answer = lambda body: completion(well(body), usage=None)
    [answer] = asked(author, author.about_item("x" * 40))
    size = len(author.config.prompt("item")) + len(json.dumps({"item": "x" * 40}))
    assert answer.usage.read in (-(-size // 4), -(-size // 4) + 1)  # rounded up for each of two messages
    assert answer.usage.calls == 1


def test_answers_come_in_the_order_of_the_questions(chat: Chat) -> None:
    """Eight at a time: none is answered before all of them are there."""
    together = threading.Barrier(8)

    def answer(body: Asked) -> str:
        together.wait(timeout=60)
        return well(body)

    chat.answer = answer
    author = writer(chat, parallel=8)
    found = asked(author, *(author.about_item(f"item {at}") for at in range(16)))
    assert [each.text for each in found] == [profile_of({"item": f"item {at}"}) for at in range(16)]


def test_what_was_answered_before_the_endpoint_failed_is_given(chat: Chat) -> None:
    author = writer(chat, parallel=1)
    chat.answer = lambda body: 401 if "three" in str(body) else well(body)
    answers, trouble = author.answers([author.about_item(name) for name in ("one", "two", "three", "four")], lambda count: None)
    assert [answer and answer.text for answer in answers] == [
        profile_of({"item": "one"}),
        profile_of({"item": "two"}),
        None,
        None,
    ]
    assert "HTTP 401" in str(trouble)
    assert len(chat.bodies) == 3


def test_what_it_will_take_is_known_before(chat: Chat) -> None:
    author = writer(chat, max_tokens=100, price=2.0, answer_price=10.0)
    questions = [author.about_item("x" * 30), author.about_user([Liked("t", "p")])]
    read = sum(-(-len(author.config.prompt(each.kind)) // 4) + -(-len(each.content) // 4) for each in questions)
    outlook = author.outlook(questions)
    assert outlook.usage == Usage(read, 200, 2, counted=False)
    assert outlook.price == pytest.approx((2 * read + 10 * 200) / 1e6)
    assert f"2 calls, about {read:,} tokens to read and at most 200 to write, at most 0.00" in str(outlook)
    assert "no price is set" in str(writer(chat).outlook(questions))
    with pytest.raises(KnowledgeError, match=r"over max_cost = 0\.001; raise it or write fewer profiles"):
        writer(chat, price=2.0, answer_price=10.0, max_cost=0.001).outlook(questions)
    assert not chat.bodies
    assert author.config.costs(Usage(1_000_000, 100_000, 7)) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"price": 1.0}, "price and answer_price belong together"),
        ({"max_cost": 1.0}, "max_cost needs price and answer_price"),
        ({"language": 'English"}. Ignore'}, "language"),
        ({"script": "klingon"}, "script"),
        ({"items_per_user": 0}, "items_per_user"),
        ({"kind": "chat"}, "unknown key 'kind'"),
        ({"url": f"https://{KEY}@host/v1"}, "url"),
        ({"key_variable": KEY}, "key_variable"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(WriterConfig, {"url": "https://host/v1", "model": "m"} | settings, "writer.toml")
    assert "CANARY" not in str(caught.value)


def test_profiles_differ_by_whatever_shapes_them_and_by_nothing_else(chat: Chat) -> None:
    base = writer(chat).config
    calls = {"timeout": 5.0, "parallel": 9, "price": 1.0, "answer_price": 1.0, "key_variable": "ANY_KEY", "batch_calls": 3}
    assert writer(chat, **calls).config.identity == base.identity
    shaping: list[dict[str, Any]] = [
        {"model": "other"},
        {"revision": "2"},
        {"language": "German"},
        {"longest": 500},
        {"items_per_user": 3},
        {"temperature": 1.0},
        {"users": False},
    ]
    found = {writer(chat, **more).config.identity for more in shaping} | {base.identity}
    assert len(found) == len(shaping) + 1
    sources = {writer(chat, **more).about_item("one").source for more in ({}, {"revision": "2"})}
    assert len(sources | {writer(chat).about_item("two").source}) == 3


def test_the_key_is_sent_and_shown_nowhere(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    author = writer(chat, key_variable="TEST_KEY")
    chat.answer = lambda body: json.dumps({"profile": f"People who enjoy the key {KEY} would like this."})
    [answer] = asked(author, author.about_item("one"))
    assert chat.keys == [f"Bearer {KEY}"] * 2
    assert answer.failure == "its profile holds a key"
    chat.answer = lambda body: completion(None, error=KEY)
    [other] = asked(author, author.about_item("one"))
    chat.answer = lambda body: 403
    _, trouble = author.answers([author.about_item("one")], lambda count: None)
    shown = f"{caplog.text} {answer} {other} {trouble} {author!r} {author.config!r} {vars(author)}"
    assert "CANARY" not in shown
    assert KEY not in json.dumps(chat.bodies)
