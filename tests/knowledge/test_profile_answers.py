"""What a language model may answer, and what of it is a profile."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidrec.knowledge.profiles.answers import SHORTEST, Completion, Misfit, Rules, Usage
from braidrec.shown import escape, keep_secret
from chat import completion

ENGLISH = Rules(longest=200, language="English", script="latin")
GOOD = "Readers of slow mysteries who enjoy a village, its secrets and a clever end would like this."
ANY = Rules(longest=200, language="any", script="any")


def answer(profile: Any, **more: Any) -> str:
    return json.dumps({"profile": profile} | more)


def test_a_profile_is_taken_as_plain_words() -> None:
    assert ENGLISH.profile(answer(GOOD)) == GOOD
    assert ENGLISH.profile(answer(f"  {GOOD[:20]}\n\t {GOOD[20:]} ")) == f"{GOOD[:20]} {GOOD[20:]}".replace("  ", " ")
    for fenced in (f"```json\n{answer(GOOD)}\n```", f"```\n{answer(GOOD)}\n```\n", f" \n```JSON  \n {answer(GOOD)}\n ```"):
        assert ENGLISH.profile(fenced) == GOOD
    decomposed = "Those who cherish the cafe\u0301 and its old coffee machines."
    assert ENGLISH.profile(answer(decomposed)) == unicodedata.normalize("NFC", decomposed)
    assert ENGLISH.profile(answer(GOOD + " 5 < 7 & 8 > 6; R&D, AT&T")).endswith("5 < 7 & 8 > 6; R&D, AT&T")


BAD: dict[str, tuple[str, str]] = {
    "empty": ("", "it is no JSON"),
    "words": (f"Here is the profile: {GOOD}", "it is no JSON"),
    "words before": (f"Sure! {answer(GOOD)}", "it is no JSON"),
    "half": (answer(GOOD)[:-4], "it is no JSON"),
    "deep": ("[" * 1_000 + "]" * 1_000, r"it is no JSON"),
    "deep objects": ('{"profile":' * 200 + "1" + "}" * 200, r"no text|is no JSON|characters"),
    "list": (json.dumps([GOOD]), "it is no JSON object"),
    "number": ("7", "it is no JSON object"),
    "digits": ('{"profile": ' + "9" * 2_000 + "}", "no JSON|no text"),
    "null": ("null", "it is no JSON object"),
    "no key": ("{}", "its keys are none, where 'profile' alone is asked for"),
    "another key": (json.dumps({"Profile": GOOD}), "its keys are 'Profile'"),
    "more keys": (answer(GOOD, reasoning="because"), "its keys are 'profile', 'reasoning'"),
    "null profile": (answer(None), "its 'profile' is a NoneType, no text"),
    "list profile": (answer([GOOD]), "its 'profile' is a list, no text"),
    "object profile": (answer({"text": GOOD}), "its 'profile' is a dict, no text"),
    "short": (answer("Nice."), r"its profile has 5 characters, where 20 to 200 are asked for"),
    "blank": (answer(" \n\t " * 30), "its profile has 0 characters"),
    "long": (answer("the reader " * 30), "its profile has 329 characters"),
    "huge": (answer("x" * 100_000), r"it has 100,015 characters"),
    "tag": (answer(GOOD + "<br/>"), "its profile holds markup"),
    "script": (answer(f"<script>alert(1)</script>{GOOD}"), "its profile holds markup"),
    "comment": (answer(f"{GOOD}<!-- hidden -->"), "its profile holds markup"),
    "closing": (answer(f"{GOOD}</p >"), "its profile holds markup"),
    "entity": (answer(f"{GOOD} &amp; more"), "its profile holds markup"),
    "numbered entity": (answer(f"{GOOD} &#x27;"), "its profile holds markup"),
    "escape": (answer(f"{GOOD}\x1b[31m"), "its profile holds control characters"),
    "override": (answer(f"{GOOD} \u202egnp"), "its profile holds control characters"),
    "zero": (answer(f"{GOOD}\x00"), "its profile holds control characters"),
    "half a character": (answer(f"{GOOD}\ud83d"), "its profile holds control characters"),
    "german": (
        answer("Leserinnen, die ruhige Krimis mit viel Humor in einem kleinen Dorf lieben, werden hier gut unterhalten."),
        "its profile is not in English",
    ),
    "chinese": (
        answer("喜欢安静的乡村推理故事的读者会喜欢这本书，因为它有聪明的结局和温暖的人物。"),
        "its profile is not in English",
    ),
    "cyrillic": (answer("Читатели, которым нравятся тихие детективы и умный конец."), "its profile is not in English"),
    "digits alone": (answer("1234567890 1234567890 1234567890"), "its profile is not in English"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_says_why_it_is_none(name: str) -> None:
    message, why = BAD[name]
    with pytest.raises(Misfit, match=why) as caught:
        ENGLISH.profile(message)
    assert len(str(caught.value)) < 200
    assert escape(str(caught.value)) == str(caught.value)


def test_another_language_is_asked_for_by_name_and_script() -> None:
    russian, chinese = (
        "Читатели, которым нравятся тихие детективы.",
        "喜欢安静的乡村推理故事的读者会喜欢这本书，因为它有聪明的结局。",
    )
    assert Rules(200, "Russian", "cyrillic").profile(answer(russian)) == russian
    assert Rules(200, "Chinese", "chinese").profile(answer(chinese)) == chinese
    german = "Leserinnen, die ruhige Krimis mit viel Humor in einem kleinen Dorf lieben, werden hier gut unterhalten."
    assert Rules(200, "German", "latin").profile(answer(german)) == german
    with pytest.raises(Misfit, match="not in Russian"):
        Rules(200, "Russian", "cyrillic").profile(answer(GOOD))
    mixed = "This person likes films such as Сталкер and Зеркало, and looks for slow and thoughtful stories."
    assert ENGLISH.profile(answer(mixed)) == mixed


def test_a_key_in_an_answer_is_no_profile() -> None:
    keep_secret("sk-CANARY-0f1e2d3c4b5a")
    with pytest.raises(Misfit, match="its profile holds a key") as caught:
        ENGLISH.profile(answer(f"{GOOD} sk-CANARY-0f1e2d3c4b5a"))
    assert "CANARY" not in str(caught.value)
    with pytest.raises(Misfit, match="its profile holds a key"):
        ENGLISH.profile(answer(f"{GOOD} sk-CANARY-0f"))  # cut, as endpoints do
    assert ENGLISH.profile(answer(f"{GOOD} CANARY-0f")).endswith("CANARY-0f")  # as words of a key may stand in any text
    with pytest.raises(Misfit) as caught:
        ENGLISH.profile(json.dumps({"sk-CANARY-0f1e2d3c4b5a": GOOD}))
    assert "CANARY" not in str(caught.value)


def read(message: str) -> str | None:
    """The profile, None for a misfit; anything else that is raised fails the test."""
    try:
        return ANY.profile(message)
    except Misfit:
        return None


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=30),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(["profile", "x"]), below, max_size=2),
    max_leaves=8,
)


@given(st.text(max_size=300) | JSON.map(json.dumps) | JSON.map(lambda value: json.dumps(value)[:-1]))
def test_whatever_comes_is_a_profile_or_a_misfit(message: str) -> None:
    found = read(message)
    assert found is None or SHORTEST <= len(found) <= 200


@given(st.text(max_size=260))
def test_a_profile_has_neither_markup_nor_steering_nor_blanks_at_its_ends(text: str) -> None:
    found = read(answer(text))
    if found is not None:
        assert escape(found) == found
        assert " ".join(found.split()) == found
        assert read(answer(found)) == found
        assert "<b>" not in found


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_a_completion_with_a_message_or_a_problem(body: bytes) -> None:
    found = Completion.of(body)
    assert bool(found.message) <= (not found.problem)
    assert found.problem or isinstance(found.message, str)


def test_a_completion_is_read_with_what_it_took() -> None:
    assert Completion.of(completion("hello")) == Completion("hello", "", Usage(10, 5, 1))
    for usage in (None, {}, {"prompt_tokens": 10}, {"prompt_tokens": -1, "completion_tokens": 5}, [7]):
        assert Completion.of(completion("hello", usage=usage)).usage is None
    for counts in ((True, 5), (10.5, 5), ("10", 5), (10**30, 5)):
        usage = dict(zip(("prompt_tokens", "completion_tokens"), counts, strict=True))
        assert Completion.of(completion("hello", usage=usage)).usage is None


NONE: dict[str, tuple[bytes, str]] = {
    "html": (b"<!doctype html><title>login</title>", "it is no JSON"),
    "deep": (b'{"choices": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "it is no JSON"),
    "utf-16": ("{}".encode("utf-16"), "it is no JSON"),
    "empty": (b"", "it is no JSON"),
    "list": (b"[]", "it is no chat completion"),
    "embeddings": (b'{"data": [{"index": 0, "embedding": [1]}]}', "it is no chat completion"),
    "no choices": (completion("x", choices=[]), "it is no chat completion"),
    "null choices": (completion("x", choices=None), "it is no chat completion"),
    "null message": (completion(None), "it is no chat completion with a message of text"),
    "parts": (completion("x", choices=[{"message": {"content": [{"type": "text"}]}}]), "it is no chat completion"),
    "refusal": (completion("x", choices=[{"message": {"content": None, "refusal": "I cannot."}}]), "the model refused"),
    "cut": (
        completion("x", choices=[{"message": {"content": "{"}, "finish_reason": "length"}]),
        "it was cut off: max_tokens is too small for it",
    ),
}


@pytest.mark.parametrize("name", NONE)
def test_a_body_without_a_message_says_why(name: str) -> None:
    body, why = NONE[name]
    found = Completion.of(body)
    assert not found.message
    assert why in found.problem
