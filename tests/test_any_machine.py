"""No test judges how fast its machine is: what is counted, or told by a clock of the test's own, holds on a busy one, too.

Figures of time belong to `braidrec bench`.
"""

from __future__ import annotations

import ast
from pathlib import Path

import hypothesis

STOPWATCHES = {"perf_counter", "perf_counter_ns", "process_time", "process_time_ns", "thread_time", "timeit", "default_timer"}


def read(source: str) -> list[str]:
    """The stop watches that a test module reads, and the deadlines that it sets."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)) if name in STOPWATCHES:
                found.append(name)
            case ast.keyword(arg="deadline", value=ast.Constant(value=value)) if value is not None:
                found.append("deadline")
    return found


def test_no_test_reads_a_stopwatch() -> None:
    assert read(
        "import time\nbegun = time.perf_counter()\nassert process_time() < 1\n@settings(deadline=200)\ndef f(): ..."
    ) == [
        "perf_counter",
        "process_time",
        "deadline",
    ]
    files = Path(__file__).parent.rglob("*.py")
    assert {str(file): found for file in files if (found := read(file.read_text(encoding="utf-8")))} == {}


def test_properties_have_no_deadline() -> None:
    given = hypothesis.settings()
    assert given.deadline is None
    assert hypothesis.HealthCheck.too_slow in given.suppress_health_check
