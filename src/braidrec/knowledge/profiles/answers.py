"""A language model's answer to a profile, or a word for why it is none.  What is read here may be anything.

The message is one JSON object with one key, {"profile": "..."}: plain text of a length and a language.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from braidrec.shown import escape, holds_secret, plain

Script = Literal["any", "latin", "cyrillic", "greek", "arabic", "hebrew", "devanagari", "thai", "hangul", "chinese", "japanese"]

SHORTEST = 20  # characters of a profile
_MOST_TOKENS = 10**9  # of one call that anybody can have counted
_SCRIPTS: dict[str, tuple[str, ...]] = {
    "chinese": ("CJK",),
    "japanese": ("CJK", "HIRAGANA", "KATAKANA"),
}  # how the names of their letters begin, where that is not the script's own name
_OWN = 0.7  # share of letters that are of the script: names and titles may be of another
_ENGLISH = frozenset(
    ["the", "and", "of", "who", "with", "that", "their", "to", "for", "is", "are", "or", "they", "this", "those"]
)
_ENGLISH_WORDS = 12  # that an English text does not have without one of those
_FENCE = re.compile(r"\A\s*```[a-zA-Z]*\s*\n(.*)\n\s*```\s*\Z", re.DOTALL)
_MARKUP = re.compile(r"<\s*[/!?a-zA-Z][^<>]*>|&(?:#[0-9]+|#[xX][0-9a-fA-F]+|[a-zA-Z]{2,8});")


class Misfit(Exception):
    """Why an answer is no profile, in words that may be shown and sent back."""


@dataclass(frozen=True)
class Usage:
    """Tokens of one call or of many, read and written.  counted: by the endpoint, else estimated by characters"""

    read: int = 0
    written: int = 0
    calls: int = 0
    counted: bool = True

    def __add__(self, other: Usage) -> Usage:
        counted = self.counted and other.counted
        return Usage(self.read + other.read, self.written + other.written, self.calls + other.calls, counted)


@dataclass(frozen=True)
class Rules:
    """What a profile must be.  longest: characters    language: in words; the everyday words of English are looked for"""

    longest: int
    language: str
    script: Script

    def profile(self, message: str) -> str:
        """The profile in a model's ``message``, blanks made one.  Raises Misfit, and nothing else."""
        if len(message) > 8 * self.longest + 1024:
            _no(f"it has {len(message):,} characters")
        fenced = _FENCE.match(message)
        values = _json(message if fenced is None else fenced[1])
        if not isinstance(values, dict):
            _no("it is no JSON object")
        if values.keys() != {"profile"}:
            given = ", ".join(repr(str(key)[:20]) for key in list(values)[:3]) or "none"
            _no(f"its keys are {given}, where 'profile' alone is asked for")
        if not isinstance(values["profile"], str):
            _no(f"its 'profile' is a {type(values['profile']).__name__}, no text")
        text = " ".join(unicodedata.normalize("NFC", values["profile"]).split())
        if escape(text) != text:
            _no("its profile holds control characters")
        if _MARKUP.search(text):
            _no("its profile holds markup")
        if not SHORTEST <= len(text) <= self.longest:
            _no(f"its profile has {len(text):,} characters, where {SHORTEST} to {self.longest:,} are asked for")
        if not self._in_language(text):
            _no(f"its profile is not in {self.language}")
        if holds_secret(text):
            _no("its profile holds a key")
        return text

    def _in_language(self, text: str) -> bool:
        """Whether letters are of the script, and a longer English text has an everyday word of English."""
        letters = [character for character in text if character.isalpha()]
        starts = _SCRIPTS.get(self.script, (self.script.upper(),))
        if self.script != "any" and sum(unicodedata.name(each, "").startswith(starts) for each in letters) < _OWN * len(
            letters
        ):
            return False
        words = re.findall(r"\w+", text.lower())
        return bool(letters) and not (
            self.language.lower() == "english" and len(words) >= _ENGLISH_WORDS and _ENGLISH.isdisjoint(words)
        )


@dataclass(frozen=True)
class Completion:
    """A chat completion.  message: "" where ``problem`` says why there is none    usage: as the endpoint counted it, or None"""

    message: str
    problem: str
    usage: Usage | None

    @classmethod
    def of(cls, body: bytes) -> Completion:
        try:
            values = _json(body.decode(errors="replace"))
        except Misfit as cause:
            return cls("", str(cause), None)
        choice = _within(values, "choices", 0)
        message, problem = _within(choice, "message", "content"), ""
        if not isinstance(message, str):
            refused = isinstance(_within(choice, "message", "refusal"), str)
            problem = "the model refused" if refused else "it is no chat completion with a message of text"
        elif _within(choice, "finish_reason") == "length":
            problem = "it was cut off: max_tokens is too small for it"
        counts = [_within(values, "usage", name) for name in ("prompt_tokens", "completion_tokens")]
        counted = all(type(each) is int and 0 <= each <= _MOST_TOKENS for each in counts)
        return cls("" if problem else message, problem, Usage(counts[0], counts[1], 1) if counted else None)


def _within(values: Any, *path: str | int) -> Any:
    """What stands at ``path``; None where nothing does."""
    for part in path:
        if isinstance(part, int):
            values = values[part] if isinstance(values, list) and len(values) > part else None
        else:
            values = values.get(part) if isinstance(values, dict) else None
    return values


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError, MemoryError) as cause:
        _no(f"it is no JSON ({type(cause).__name__})")


def _no(reason: str) -> NoReturn:
    raise Misfit(plain(reason)) from None
