"""What every attack notes, and the one table that comes of it: how often each was tried, against its mark, and what went wrong.

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

from attack_table import HEADS, MARKS, Note, Wrong, lines


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Note:
    """note(attack, tried, wrong): adds to that line of the table."""

    def add(attack: str, tried: int, wrong: Wrong) -> None:
        assert attack in MARKS
        record_property("attack", json.dumps([attack, tried, asdict(wrong)]))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.stats.get(kind, ())]
    found = lines(each for report in reports for each in getattr(report, "user_properties", ()))
    if not found or not config.getoption("--slow"):
        return
    names = [field.name for field in fields(Wrong)]
    widths = [max(map(len, MARKS)), 7, 7, *(len(head) for head in HEADS)]

    def line(*cells: object) -> str:
        texts = [str(cell) for cell in cells]
        return "  ".join(
            [texts[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(texts[1:], widths[1:], strict=True))]
        )

    terminalreporter.section("attacks against marks ('-': not looked for)")
    terminalreporter.write_line(line("attack", "tried", "mark", *HEADS))
    for attack, mark in MARKS.items():
        tried, wrong = found.get(attack, (0, dict.fromkeys(names)))
        cells = ["-" if wrong[name] is None else wrong[name] for name in names]
        terminalreporter.write_line(line(attack, f"{tried:,}", f"{mark:,}", *cells) + ("" if tried >= mark else "  < mark"))
    total = [sum(wrong[name] or 0 for _, wrong in found.values()) for name in names]
    terminalreporter.write_line(line("all", f"{sum(tried for tried, _ in found.values()):,}", "", *total))
