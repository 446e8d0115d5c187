"""What the attacks share with the tests of runs is found where it lies."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / name) for name in ("runs", "training")]
