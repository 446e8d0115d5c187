"""Everything that can be chosen by name, from the registries; and the settings behind one name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from braidrec.data.intake.sources import DATA_SETS
from braidrec.errors import ConfigError, suggest
from braidrec.knowledge.encoders import ENCODERS
from braidrec.registry import OWN, TASKS, Registry, Spec, TaskSpec, Values
from braidrec.runs.tables import plain_table
from braidrec.strict import Strict, parse

if TYPE_CHECKING:
    from rich.table import Table

_KINDS = ("backbones", "methods", "models", "baselines")


def listing() -> list[Table | str]:
    """One table for all names; what other packages add says which one, and what of theirs is broken says why."""
    rows = [(what, names) for what, names in _names()]
    notes = [f"note: {cause}" for cause in _broken()]
    return [plain_table("names", ("what", "names"), rows), *notes, "their settings: braidrec list NAME"]


def settings_tables(name: str) -> list[Table | str]:
    """The settings of everything called ``name``, with defaults and what each preset sets; of a task, those of [model].

    Raises ConfigError, offering the nearest, for a name that is none.
    """
    parts: list[Table | str] = []
    for where, registry, presets in _registries():
        if name in registry:
            spec = registry[name]
            sets: dict[str, Values] = {preset: spec.settings(preset) for preset in presets}
            sets |= {f"{preset} + enhancer": spec.settings(preset, joined=True) for preset in spec.joined}
            parts.append(_settings(f"{where} '{name}': {_title(spec)}", spec.config, sets))
    if name in TASKS:
        task = TASKS[name]
        parts.append(_settings(f"task '{name}': {task.title}, [model]", task.config_type(), task.model))
    if name in DATA_SETS:
        public = DATA_SETS[name]
        parts.append(f"data set '{name}': {public.title} ({public.license}); {public.homepage}")
    if not parts:
        known = {each for registry in _all() for each in registry}
        raise ConfigError(f"nothing is called '{name}'{suggest(name, known)}; 'braidrec list' has all names")
    return parts


def _settings(title: str, config: type[Strict], sets: Mapping[str, Values]) -> Table | str:
    """sets: preset -> what it sets; those that set nothing have no column."""
    shown = {preset: found for preset, values in sets.items() if (found := dict(_flat(values)))}
    rows = [
        (key, kind, default, *(_shown(found[key]) if key in found else "" for found in shown.values()))
        for key, kind, default in _keys(config)
    ]
    return plain_table(title, ("key", "type", "default", *shown), rows) if rows else f"{title}: has no settings"


def _title(spec: Spec) -> str:
    return spec.title if isinstance(spec.title, str) else spec.title(parse(spec.config, spec.settings("ours"), spec.name))


def _tasks() -> Iterator[TaskSpec]:
    return iter(TASKS.usable().values())


def _registries() -> Iterator[tuple[str, Registry[Spec], Sequence[str]]]:
    """What a name of the registry is, the registry, and the presets that its specs may have."""
    for task in _tasks():
        for kind in _KINDS:
            presets = [preset for preset in task.presets if kind != "methods" or preset not in task.alone]
            yield f"{task.name} {kind.removesuffix('s')}", getattr(task, kind), presets
    yield "text encoder", ENCODERS, ()


def _all() -> list[Registry[Any]]:
    return [TASKS, DATA_SETS, *(registry for _, registry, _ in _registries())]


def _names() -> Iterator[tuple[str, str]]:
    yield "tasks", _listed(TASKS)
    for task in _tasks():
        for kind in _KINDS:
            registry = getattr(task, kind)
            if len(registry):
                yield f"{task.name} {kind}", _listed(registry)
    yield "text encoders", _listed(ENCODERS)
    yield "data sets", _listed(DATA_SETS)


def _listed(registry: Registry[Any]) -> str:
    return ", ".join(name if (origin := registry.origin(name)) == OWN else f"{name} ({origin})" for name in registry)


def _broken() -> Iterator[str]:
    """What other packages register and cannot be used, with names of ours that they take."""
    for registry in _all():
        for name in registry:
            if registry.givers(name) != [OWN] and (cause := registry.trouble(name)):
                yield str(cause)


def _keys(config: type[Strict], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(key, type, default) of every setting, nested ones with dots."""
    for name, field in config.model_fields.items():
        default = "required" if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(default, Strict):
            yield from _keys(type(default), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _kind(field.annotation), _shown(default)


def _kind(annotation: Any) -> str:
    """A type in words, without the bounds of its numbers, which an error says."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(parts[0])
    if origin in (Union, UnionType):
        return " | ".join(map(_kind, parts))
    if origin is not None and origin is not Literal:
        return f"{_kind(origin)}[{', '.join(map(_kind, parts))}]"
    if annotation is Ellipsis:
        return "..."
    if annotation is type(None):
        return "None"
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
