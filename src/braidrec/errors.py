"""The one exception family.  A message says what was wrong, where, what was accepted, and the remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from braidrec.shown import plain

_COMMAND_LINE = ContextVar("asked at the command line", default=False)


class BraidError(Exception):
    """Root of every error that braidrec raises on purpose; the command line prints it without a traceback.

    Its words hold no key, and nothing that steers a terminal: no place that raises, logs or prints one has to think of it.
    """

    exit_code = 2  # of a command that ends with it

    def __init__(self, *words: object):
        super().__init__(*(plain(each) if isinstance(each, str) else each for each in words))


class ConfigError(BraidError):
    """A setting is unknown, malformed or contradicts another one."""


class DataError(BraidError):
    """A table, row or value of the interaction data cannot be used."""


class KnowledgeError(BraidError):
    """The knowledge base or a text encoder cannot do what was asked."""


class TrainingError(BraidError):
    """Training met a state that it must not continue from, such as a loss that is not a number."""


class RunError(BraidError):
    """A run directory is missing, incomplete, damaged or of another version."""


class WriteError(BraidError, OSError):
    """The disk is full or broken.  What stood in the place of the file that was being written is as it was."""


@contextmanager
def at_command_line() -> Iterator[None]:
    """For as long as the block lasts, remedies are options of the command line."""
    before = _COMMAND_LINE.set(True)
    try:
        yield
    finally:
        _COMMAND_LINE.reset(before)


def remedy(python: str, command: str) -> str:
    """What to write, in the words of whoever asks: an argument of a Python call, or an option of a command."""
    return command if _COMMAND_LINE.get() else python


def suggest(name: str, accepted: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the nearest accepted names, or the list of accepted names when none is near."""
    options = sorted(set(accepted))
    near = _near(name, options)
    if near:
        return f" (did you mean {' or '.join(map(repr, sorted(near)))}?)"
    return f" (accepted: {', '.join(options)})" if options else ""


def nearest(name: str, accepted: Collection[str]) -> str | None:
    """The accepted name that was perhaps meant: its own initials or those of ``name`` (``lr``, ``learning_rate``), else one
    that is written alike.
    """
    return next(iter(_near(name, accepted)), None)


def _near(name: str, accepted: Collection[str]) -> list[str]:
    """Those that are equally near: of ``max_epochs`` and ``min_epochs`` neither is more like ``epochs``."""
    for option in accepted:
        if name in (option, _initials(option)) or option == _initials(name):
            return [option]
    near = difflib.get_close_matches(name, accepted, n=3, cutoff=0.6)
    return [each for each in near if _alike(each, name) == _alike(near[0], name)]


def _alike(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _initials(name: str) -> str | None:
    """Of a name of several words."""
    words = [word for word in re.split(r"[_\W]+", name) if word]
    return "".join(word[0] for word in words) if len(words) > 1 else None
