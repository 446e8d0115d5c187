"""Copies of models that cost nothing: the same tensors under registries of their own."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from torch import nn

Part = TypeVar("Part", bound=nn.Module)


def twin(module: Part) -> Part:
    """A module tree that shares every tensor with ``module`` and nothing else that an assignment could reach.

    What is assigned on either (buffers, weights, submodules, attributes) does not show on the other, so a model can grow while
    the one that answers stays as it is.  What writes into a tensor (a step, ``.to``, ``load_state_dict``) does show.  A module
    that occurs twice in the tree is one in the twin, too; lists, tuples, dicts and sets of attributes are copied, other objects
    shared.
    """
    return cast(Part, _copy(module, {}))


def _copy(value: Any, seen: dict[int, nn.Module]) -> Any:
    if isinstance(value, nn.Module):
        if id(value) not in seen:
            other = seen[id(value)] = object.__new__(type(value))
            vars(other).update({name: _copy(each, seen) for name, each in vars(value).items()})
        return seen[id(value)]
    if type(value) in (list, tuple):
        return type(value)(_copy(each, seen) for each in value)
    if isinstance(value, dict):  # also the registries: of parameters, buffers, submodules, hooks
        copied = value.copy()
        copied.update({name: _copy(each, seen) for name, each in value.items()})
        return copied
    return value.copy() if isinstance(value, set) else value
