"""A data set in ten lines: what it holds, what its columns were taken for, what was decided on the way."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from braidrec.data.log import InteractionLog
from braidrec.data.schema import Schema
from braidrec.data.settings import PrepareSettings
from braidrec.data.splits import Split
from braidrec.shown import plain

_WIDE, _LEFT = 140, 4  # columns of a line, and lines that are left for notes
# A role that was taken from a column's name or contents, as preparation notes it
_GUESS = re.compile(r"(?:interactions|items|users)\.(?P<column>[^:]+): (?P<role>.+) \(.+\)$")
Lines = Sequence[tuple[str, str]]


def as_text(title: str, lines: Lines) -> str:
    """``title``, and below it each line's name and what is said of it, cut where a terminal would break it."""
    wide = max(len(name) for name, _ in lines)
    return "\n".join([plain(title), *(_cut(f"  {name:<{wide}}  {plain(said)}") for name, said in lines)])


def as_html(title: str, lines: Lines) -> str:
    """The same as a table, for notebooks."""
    cell = '<td style="text-align: left">'
    rows = "".join(f"<tr>{cell}{escape(name)}</td>{cell}{escape(plain(said))}</td></tr>" for name, said in lines)
    return f"<b>{escape(plain(title))}</b><table>{rows}</table>"


def lines_of(
    schema: Schema, settings: PrepareSettings, log: InteractionLog, split: Split, manifest: Mapping[str, Any], path: Path
) -> list[tuple[str, str]]:
    """Of a prepared data set, nine at most, with its notes, guessed roles among them."""
    counts, notes = manifest["counts"], [str(note) for note in manifest["notes"]]
    parts = ", ".join(f"{name} {len(rows):,}" for name, rows in split.parts.items())
    kind = f"{settings.split.kind}; vocabulary {settings.vocabulary}"
    people = f"{counts['users']:,} users, {counts['items']:,} items ({counts['items_met']:,} met)"
    found = [
        ("events", f"{len(log):,} of {people}{_when(schema, log)}"),
        ("parts", f"{parts} ({kind})" if parts else "none: a log that has grown since training"),
        ("columns", ", ".join(f"{role} {column}" for role, column in _roles(schema))),
        ("fields", "; ".join(_fields(schema)) or "none"),
    ]
    guesses = [f"{match['column']}: {match['role']}" for note in notes if (match := _GUESS.match(note))]
    others = [note for note in notes if not _GUESS.match(note)]
    guessed, hidden = _filled(guesses, _LEFT - min(len(others), 2))
    shown, left = _filled(others, _LEFT - len(guessed))
    for name, lines in (("guessed", guessed), ("notes", shown)):
        found += [(name if at == 0 else "", line) for at, line in enumerate(lines)]
    if hidden + left:
        found.append(("", f"and {hidden + left:,} more: dataset.notes, or braidrec data show {path}"))
    return found


def _filled(notes: Sequence[str], most: int) -> tuple[list[str], int]:
    """Notes in as few lines as hold them, ``most`` of these, and how many are left."""
    lines: list[str] = []
    for at, note in enumerate(notes):
        if lines and len(lines[-1]) + len(note) + 2 <= _WIDE - 12:
            lines[-1] += f"; {note}"
        elif len(lines) < most:
            lines.append(note)
        else:
            return lines, len(notes) - at
    return lines, 0


def _when(schema: Schema, log: InteractionLog) -> str:
    if schema.timestamp is None or not len(log):
        return "" if schema.clock is None else ", each user's in their own order"
    return f", {_day(int(log.timestamp[0]))} to {_day(int(log.timestamp[-1]))}"


def _day(seconds: int) -> str:
    try:
        return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d}"
    except (ValueError, OverflowError, OSError):  # beyond the calendar
        return str(seconds)


def _roles(schema: Schema) -> Iterator[tuple[str, str]]:
    for role in ("user", "item", "timestamp", "order", "rating", "label", "weight", "part", "category"):
        column = getattr(schema, role)
        if column is not None:
            yield role, column
    if schema.label is None and schema.rating is not None:
        yield "positive above", f"{schema.positive_above:g}"


def _fields(schema: Schema) -> Iterator[str]:
    for owner, fields in (("user", schema.user_fields), ("item", schema.item_fields), ("context", schema.context_fields)):
        if fields:
            yield f"{owner}: " + ", ".join(each.name + ("" if each.kind == "single" else f" ({each.kind})") for each in fields)
    if schema.text:
        yield f"text: {', '.join(schema.text)}"


def _cut(line: str) -> str:
    return line if len(line) <= _WIDE else f"{line[: _WIDE - 3]}..."
