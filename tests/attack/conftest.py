"""What every attack notes, and the one table that comes of it: tried how often, against which mark, what went wrong, how long.

The table is printed at the end of the whole set (`make attack`); the short form in `make test` tries the same less often.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parent), *(str(Path(__file__).parents[1] / name) for name in ("runs", "training", "knowledge"))]

from attack_table import HEADS, MARKS, Line, Note, Wrong, lines


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Note:
    """note(attack, tried, wrong): adds to that line of the table."""

    def add(attack: str, tried: int, wrong: Wrong) -> None:
        assert attack in MARKS
        record_property("attack", json.dumps([attack, tried, asdict(wrong)]))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.stats.get(kind, ())]
    found = lines((getattr(each, "user_properties", ()), getattr(each, "duration", 0.0)) for each in reports)
    if not found or not config.getoption("--slow"):
        return
    names = [field.name for field in fields(Wrong)]
    widths = [max(map(len, MARKS)), 7, 7, *(len(head) for head in HEADS), 7]

    def write(*cells: object, more: str = "") -> None:
        first, *rest = map(str, cells)
        text = "  ".join([first.ljust(widths[0]), *(each.rjust(width) for each, width in zip(rest, widths[1:], strict=True))])
        terminalreporter.write_line(text + more)

    terminalreporter.section("attacks against marks ('-': not looked for)")
    write("attack", "tried", "mark", *HEADS, "seconds")
    for attack, mark in MARKS.items():
        line = found.get(attack, Line())
        cells = ["-" if line.wrong[name] is None else line.wrong[name] for name in names]
        short = "" if line.tried >= mark else "  < mark"
        write(attack, f"{line.tried:,}", f"{mark:,}", *cells, f"{line.seconds:,.0f}", more=short)
    total = [sum(line.wrong[name] or 0 for line in found.values()) for name in names]
    tried, seconds = sum(line.tried for line in found.values()), sum(line.seconds for line in found.values())
    write("all", f"{tried:,}", "", *total, f"{seconds:,.0f}")
