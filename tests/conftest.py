"""Slow tests run with --slow; BRAIDREC_SLOW_SECONDS stops starting new ones when the time is up."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time

os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side: workers with two threads each, and their children, only wait

os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="braidrec-tests-config-")  # of no person

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
atexit.register(shutil.rmtree, os.environ["XDG_CONFIG_HOME"], ignore_errors=True)
_STARTED = time.monotonic()

# no test judges the speed of the machine it runs on: a neighbour that keeps its cores busy must not fail one
hypothesis.settings.register_profile("any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    budget = os.environ.get("BRAIDREC_SLOW_SECONDS")
    if budget and "slow" in item.keywords and time.monotonic() - _STARTED > 0.6 * float(budget):
        pytest.skip(f"slow: the {float(budget):.0f} s set by BRAIDREC_SLOW_SECONDS are used up")
