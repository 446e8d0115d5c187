"""What may be shown: keys masked, and characters that steer a terminal or turn the reading order spelt out.

Every `braidrec.errors.BraidError` is made `plain` as it is raised, so that no message, log or traceback of one holds a key or
steers; what the command line prints is made so by `console`, `tell` and `plain_logs`.
"""

from __future__ import annotations

import base64
import logging
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment

MASK = "***"
_LEAST = 6  # characters of a secret that are taken for a part of it: endpoints answer with keys that they have cut
_SURE = 12  # characters that are part of a secret and of nothing else: words of a text can be of fewer
_LOGGING = ("braidrec", "httpx", "httpcore")  # who logs what an endpoint says
_secrets: dict[str, frozenset[str]] = {}  # secret -> its parts of that length

_IN_ADDRESS = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s/@'\"]+@", re.IGNORECASE)
_PARAMETER = re.compile(
    r"(?P<name>[?&#;][\w.-]*(?:key|token|secret|password|passwd|signature|sig|auth|code)[\w.-]*=)[^&#;\s'\"]+", re.IGNORECASE
)
_BEARER = re.compile(r"(?P<word>\bBearer\s+)(?!\*)\S+", re.IGNORECASE)
# C0 but for tab and newline, DEL, C1, line and paragraph separators, marks and overrides of direction, invisible operators,
# byte-order mark, halves of a character
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_JOINERS = "\u200c\u200d"  # words of some scripts, and joined emoji, are written with them


def _redacting(record: logging.LogRecord) -> bool:
    record.msg, record.args = redact(record.getMessage()), ()
    return True


def keep_secret(value: str) -> str:
    """``value``, which from now on this process shows nowhere; shorter ones than six characters cannot be told from words."""
    for name, logger in tuple(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in _LOGGING:
            logger.addFilter(_redacting)  # the same one is not added twice
    for form in {
        value,
        quote(value, safe="", errors="replace"),
        base64.b64encode(value.encode(errors="replace")).decode().rstrip("="),
    }:
        if len(form) >= _LEAST and form not in _secrets:
            _secrets[form] = frozenset(form[at : at + _LEAST] for at in range(len(form) - _LEAST + 1))
    return value


def holds_secret(text: str) -> bool:
    """Whether twelve characters in a row of what this process keeps secret, or all of a shorter one, stand in ``text``."""
    return any(form[at : at + _SURE] in text for form in tuple(_secrets) for at in range(max(len(form) - _SURE, 0) + 1))


def redact(text: str) -> str:
    """``text`` with every secret, and every part of one from six characters on, masked; so are passwords in addresses."""
    for parts in tuple(_secrets.values()):
        text = _masked(text, parts)
    if "://" in text or "=" in text:
        text = _IN_ADDRESS.sub(rf"\g<scheme>{MASK}@", text)
        text = _PARAMETER.sub(rf"\g<name>{MASK}", text)
    return _BEARER.sub(rf"\g<word>{MASK}", text)


def _masked(text: str, parts: frozenset[str]) -> str:
    hits = [at for at in range(len(text) - _LEAST + 1) if text[at : at + _LEAST] in parts]
    if not hits:
        return text
    pieces: list[str] = []
    done = 0
    for at in hits:
        if at >= done:  # else it goes on in what is masked already
            pieces += [text[done:at], MASK] if at > done or not pieces else []
        done = at + _LEAST
    return "".join([*pieces, text[done:]])


def escape(text: str) -> str:
    r"""``text`` with each character that steers a terminal or the reading order as ``\x1b`` or ``\u202e``."""
    return _STEERING.sub(lambda found: found[0] if found[0] in _JOINERS else _spelt(found[0]), text)


def _spelt(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def plain(text: str) -> str:
    """What a person may be shown of ``text``."""
    return escape(redact(text))


def console(file: TextIO | None = None) -> Console:
    """Rich's for stdout or ``file``, every piece of text made harmless at the last step; styles and columns are its own."""
    from rich.console import Console

    class Harmless(Console):
        def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else segment._replace(text=escape(segment.text))

    return Harmless(file=file, width=None if sys.stdout.isatty() else 140, emoji=False)


def plain_logs() -> None:
    """Make what is logged harmless where nobody set up logging, which is on stderr; for a process that is ours."""
    assert logging.lastResort is not None
    logging.lastResort.setFormatter(_Plain())


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record))


def tell(message: str) -> None:
    """One line for the person at the terminal, on stderr."""
    print(plain(message), file=sys.stderr)
