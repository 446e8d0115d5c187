"""The one exception family.  A message says what was wrong, where, what was accepted, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from braidrec.shown import redact


class BraidError(Exception):
    """Root of every error that braidrec raises on purpose; the command line prints it without a traceback.

    Its words hold no key: they are redacted here, so no place that raises or prints one has to think of it.
    """

    def __init__(self, *words: object):
        super().__init__(*(redact(each) if isinstance(each, str) else each for each in words))


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


def suggest(name: str, accepted: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the nearest accepted name, or the list of accepted names when none is near."""
    options = sorted(accepted)
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if near:
        return f" (did you mean '{near[0]}'?)"
    return f" (accepted: {', '.join(options)})" if options else ""
