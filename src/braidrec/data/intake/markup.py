"""What is no text in texts that a person would read: HTML, and lists that were written as text."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from braidrec.data.values import listed

if TYPE_CHECKING:
    import polars as pl

_NAMES = (
    "a|abbr|b|big|blockquote|body|br|center|code|dd|del|div|dl|dt|em|font|form|h[1-6]|head|hr|html|i|iframe|img|ins|li|link|"
    "meta|noscript|ol|option|p|pre|s|script|section|small|span|strike|strong|style|sub|sup|table|tbody|td|th|thead|title|tr|tt|"
    "u|ul"
)
_TAG = rf"(?i)</?(?:{_NAMES})(?:\s[^<>]*)?/?>|<!--"
_ENTITY = r"&(?:[A-Za-z][A-Za-z0-9]{1,30}|#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6});"
_UNSEEN = re.compile(r"(?is)<!--.*?-->|<(script|style)\b.*?</\1\s*>")


@dataclass(frozen=True)
class Cleaned:
    """texts (n,) without what is no text    html, lists: how many of them held some"""

    texts: pl.Series
    html: int
    lists: int


def cleaned(texts: pl.Series, *, lists: bool) -> Cleaned:
    """Tags and what they hide are taken out, entities become characters; with ``lists`` lists become their elements."""
    import polars as pl

    written = {cell: ", ".join(elements) for cell, elements in listed(texts).items()} if lists else {}
    count = int(texts.is_in(list(written)).sum()) if written else 0
    plain = texts.replace(written) if written else texts
    marked = (plain.str.contains(_TAG) | plain.str.contains(_ENTITY)).fill_null(False)
    changes = {cell: _text_of(cell) for cell in plain.filter(marked).unique().to_list()}
    changes = {cell: text for cell, text in changes.items() if text != cell}
    rows = int(plain.is_in(list(changes)).sum()) if changes else 0
    return Cleaned(plain.replace(changes) if changes else plain.cast(pl.String), rows, count)


def _text_of(cell: str) -> str:
    text = re.sub(_TAG, " ", _UNSEEN.sub(" ", cell))
    return " ".join(html.unescape(text).split())
