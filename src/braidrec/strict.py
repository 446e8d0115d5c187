"""Frozen configs: an unknown key is an error that names the nearest known one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from braidrec.errors import ConfigError, suggest


class Strict(BaseModel):
    """Base of every config: immutable, typed, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


Config = TypeVar("Config", bound=Strict)


def parse(kind: type[Config], values: Mapping[str, Any], where: str) -> Config:
    """Build ``kind`` from plain ``values``; ``where`` (a file, a flag) opens every error message.

    Raises ConfigError listing each bad key with the received value, what is accepted and the nearest known name.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = [_explain(kind, values, detail) for detail in error.errors(include_url=False)]
        raise ConfigError(f"{where}: " + "; ".join(problems)) from None


def merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with ``changes`` laid over them, table by table."""
    merged = dict(values)
    for key, change in changes.items():
        below = merged.get(key)
        merged[key] = merge(below, change) if isinstance(below, Mapping) and isinstance(change, Mapping) else change
    return merged


def _explain(kind: type[Strict], values: Mapping[str, Any], detail: Any) -> str:
    path = [str(part) for part in detail["loc"]]
    key = ".".join(path)
    if detail["type"] == "extra_forbidden":
        known = _known_keys(kind, path[:-1])
        return f"unknown key '{key}'{suggest(path[-1], known)}"
    if detail["type"] == "missing":
        return f"required key '{key}' is missing"
    return f"'{key}' = {detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _known_keys(kind: type[BaseModel], path: list[str]) -> set[str]:
    """Keys of the nested model that ``path`` leads to; list indices and union tags on the way are passed over."""
    current: list[type[BaseModel]] = [kind]
    for part in path:
        following = [
            model
            for owner in current
            if part in owner.model_fields
            for model in _models_in(owner.model_fields[part].annotation)
        ]
        narrowed = [model for model in current if model.__name__ == part]
        current = following or narrowed or current
    return {name for model in current for name in model.model_fields}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]
