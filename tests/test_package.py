"""What stands in the package itself: its names, its version, and nothing that is not meant for use."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import braidrec


def test_dir_has_what_can_be_used_and_nothing_else() -> None:
    assert dir(braidrec) == sorted([*braidrec.__all__, "__version__"])
    for name in dir(braidrec):
        assert getattr(braidrec, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Datset'"):
        _ = braidrec.Datset


def test_the_version_costs_no_import() -> None:
    assert braidrec.__version__ == version("braidrec")
    code = "import sys, braidrec; dir(braidrec), braidrec.__version__; print({'torch', 'numpy', 'polars'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
