"""Frozen configs: an unknown key is an error that names the nearest known one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, LiteralString, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from braidrec.errors import ConfigError, nearest, suggest

_UNSHOWN: LiteralString = "unshown"

# How large settings may be, far above what anybody trains with: an absurd size is refused before memory is asked for it
WIDEST = 1 << 14  # numbers in a vector
DEEPEST = 1 << 8  # layers, hops, heads, experts
LONGEST = 1 << 16  # events of a history, values drawn or kept for each of many
MOST = 1 << 24  # rows of a batch, epochs, people
SEEDS = 1 << 32  # and below: what NumPy, torch and scikit-learn all take
Width = Annotated[int, Field(ge=1, le=WIDEST)]
Depth = Annotated[int, Field(ge=1, le=DEEPEST)]
Length = Annotated[int, Field(ge=1, le=LONGEST)]
Count = Annotated[int, Field(ge=1, le=MOST)]


class Strict(BaseModel):
    """Base of every config: immutable, typed, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def idle(self) -> Mapping[str, str]:
        """Keys of its own that set nothing beside what the others are -> why, such as "l2 = 0".

        Who writes down another value than the default for one of them is told so (`braidrec.config.resolve`).
        """
        return {}


def because(*found: tuple[bool, str, str]) -> dict[str, str]:
    """Of (whether it holds, why, keys with spaces between): each key of what holds, with the first reason that it has."""
    return {key: why for holds, why, keys in reversed(found) if holds for key in keys.split()}


Config = TypeVar("Config", bound=Strict)


Tables = Mapping[str, Collection[str]]


def parse(
    kind: type[Config],
    values: Mapping[str, Any],
    where: str,
    *,
    tables: Tables | None = None,
    accepted: Collection[str] | None = None,
) -> Config:
    """Build ``kind`` from plain ``values``; ``where`` (a file, a flag) opens every error message.

    tables: keys of those of its fields that are checked elsewhere, to be offered for a key that stands one level too high
    accepted: the keys that may be written in ``kind`` itself, where these are not its fields
    Raises ConfigError listing each bad key with the received value, what is accepted and the nearest known name.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = [_explain(kind, detail, tables or {}, accepted) for detail in error.errors(include_url=False)]
        raise ConfigError(f"{where}: " + "; ".join(problems)) from None
    except ConfigError as cause:  # of a validator that looks a name up in a registry
        raise ConfigError(f"{where}: {cause}") from None


def unshown(problem: str) -> PydanticCustomError:
    """For a validator to raise about a value that may hold a key: the message has ``problem`` alone, not the value."""
    return PydanticCustomError(_UNSHOWN, "{problem}", {"problem": problem})


def merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with ``changes`` laid over them, table by table."""
    merged = dict(values)
    for key, change in changes.items():
        below = merged.get(key)
        merged[key] = merge(below, change) if isinstance(below, Mapping) and isinstance(change, Mapping) else change
    return merged


def _explain(kind: type[Strict], detail: Any, tables: Tables, accepted: Collection[str] | None) -> str:
    path, owners = _place(kind, [str(part) for part in detail["loc"]])
    key = ".".join(path)
    if detail["type"] == "extra_forbidden":
        own = {name for model in owners for name in model.model_fields} if accepted is None or len(path) > 1 else set(accepted)
        below = dict(_below(owners)) | (dict(tables) if len(path) == 1 else {})
        meant = None if nearest(path[-1], sorted(own)) else _one_below(path[-1], below)
        hint = suggest(path[-1], own) if meant is None else f" (did you mean '{'.'.join([*path[:-1], meant])}'?)"
        return f"unknown key '{key}'{hint}"
    if detail["type"] == "missing":
        return f"required key '{key}' is missing"
    if detail["type"] == _UNSHOWN:
        return f"'{key}': {detail['msg']}"
    return f"'{key}' = {detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _place(kind: type[BaseModel], location: list[str]) -> tuple[list[str], list[type[BaseModel]]]:
    """The key as it was written, without the union tags of ``location``, and the models that an unknown last part missed."""
    path: list[str] = []
    models: list[type[BaseModel]] = [kind]
    for part in location:
        tagged = [
            model
            for model in models
            if part == model.__name__ or part in (field.default for field in model.model_fields.values())
        ]
        if len(models) > 1 and tagged:
            models = tagged
            continue
        path.append(part)
        owners = [model for model in models if part in model.model_fields]
        models = [below for model in owners for below in _models_in(model.model_fields[part].annotation)] or models
    return path, models


def _below(owners: list[type[BaseModel]]) -> Iterator[tuple[str, Collection[str]]]:
    """Tables of ``owners`` with their keys."""
    for owner in owners:
        for name, field in owner.model_fields.items():
            if models := _models_in(field.annotation):
                yield name, {key for model in models for key in model.model_fields}


def _one_below(name: str, tables: Tables) -> str | None:
    """ "table.key" of the key that was perhaps meant, an exact one first."""
    for table, keys in tables.items():
        if name in keys:
            return f"{table}.{name}"
    return next((f"{table}.{near}" for table, keys in tables.items() if (near := nearest(name, sorted(keys)))), None)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]
