"""The benchmark of SDRL's steps, at a size that takes no time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "sdrl_scale.py"


def test_it_prints_a_step_at_either_size() -> None:
    small = ["--users", "60", "--items", "40", "--ratings", "600", "--steps", "3"]
    found = subprocess.run([sys.executable, str(SCRIPT), *small], capture_output=True, text=True, check=True)
    first, *lines = found.stdout.splitlines()
    assert first.startswith("60 users, 600 ratings, 256 of either side a step")
    assert [line.split(":")[0] for line in lines] == ["1x items (40)", "4x items (160)"]
    assert all("most memory so far" in line for line in lines)
