"""Whatever is registered holds to its contract: every backbone alone, every method on every backbone, every task."""

from __future__ import annotations

import pytest

from braidrec.registry import TASKS
from braidrec.testing import check_backbone, check_method, check_model, check_task

BACKBONES = [(task, name) for task, spec in TASKS.items() for name in spec.backbones]
MODELS = [(task, name) for task, spec in TASKS.items() for name in spec.models]
METHODS = [(task, method, backbone) for task, spec in TASKS.items() for method in spec.methods for backbone in spec.backbones]


@pytest.mark.parametrize(("task", "name"), BACKBONES)
def test_every_backbone(task: str, name: str) -> None:
    check_backbone(TASKS[task].backbones[name], task)


@pytest.mark.parametrize(("task", "name"), MODELS)
def test_every_whole_model(task: str, name: str) -> None:
    if name == "gbdt":
        pytest.importorskip("lightgbm")
    check_model(TASKS[task].models[name], task)


@pytest.mark.parametrize(("task", "method", "backbone"), METHODS)
def test_every_method_on_every_backbone(task: str, method: str, backbone: str) -> None:
    check_method(TASKS[task].methods[method], task, backbones=[backbone])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TASKS))
def test_every_task_as_a_package_would_check_it(name: str) -> None:
    check_task(TASKS[name])
