"""The one file behind a run: what to train, on what, how.  Parsed once, at the edge; it names no task and no model."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, cast

from pydantic import BeforeValidator, SerializeAsAny, ValidationInfo, create_model, field_validator
from pydantic import Field as Setting
from pydantic_core import PydanticCustomError

from braidrec.errors import ConfigError, suggest
from braidrec.registry import TASKS, LogSize, Settings, Spec, TaskSpec, Values, task_of
from braidrec.strict import LONGEST, SEEDS, Strict, merge, parse
from braidrec.training.config import MACHINE, PhaseTraining, TrainingConfig

if TYPE_CHECKING:
    from braidrec.data.dataset import Dataset


def _listed(value: Any) -> Any:
    """One name is a list of one; none is an empty list."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class ModelConfig(Strict):
    """The [model] table.  A task adds its own keys; the chosen backbone's settings stand under ``backbone``, those of each
    enhancer under its name.
    """

    backbone: Strict = Strict()

    def of(self, enhancer: str) -> Any:
        """The settings of an enhancer of this run."""
        return getattr(self, enhancer)

    def all_idle(self, enhancers: Mapping[str, Strict]) -> Mapping[str, str]:
        """Keys of this table, dotted, that can change nothing beside the others as they are set -> which of them, and why.

        enhancers: the settings of each by name
        """
        parts = {"backbone": self.backbone, **enhancers}
        return {f"{name}.{key}": why for name, part in parts.items() for key, why in part.idle().items()}

    def givers(self) -> Mapping[str, str]:
        """Stage -> run directory that it is taken over from, in tasks that have such a setting."""
        return {}

    def with_givers(self, givers: Mapping[str, str]) -> Self:
        """The same settings, with ``givers`` in their place."""
        return self

    def without_givers(self) -> Self:
        """The same settings, without the runs that stages are taken over from."""
        return self.with_givers({})


class RunRequest(Strict):
    """The run file as a person writes it: names and a preset, then single settings on top."""

    data: str
    knowledge: Names = ()  # one folder or several, whose vectors then stand side by side
    task: str | None = None  # where two tasks have a backbone of the name
    backbone: str | None = None
    enhance: Names = ()  # one name or several
    preset: str = "ours"
    seed: int = Setting(default=42, ge=0, lt=SEEDS)
    # to rank logs of positives only: drawn per positive, whose sample weight they take; default: as the data set was prepared
    negatives: int | None = Setting(default=None, ge=1, le=LONGEST)
    by_size: bool = True  # whether a preset may choose by the size of the log, as `TaskSpec.sized` says
    model: dict[str, Any] = Setting(default_factory=dict)
    training: dict[str, Any] = Setting(default_factory=dict)

    @field_validator("enhance")
    @classmethod
    def _goes_with_the_backbone(cls, enhance: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not {"task", "backbone"} <= info.data.keys():  # refused themselves
            return enhance
        try:
            task = task_of(info.data["backbone"], info.data["task"])
        except ConfigError:  # said by `resolve`, in its own words
            return enhance
        backbone = info.data["backbone"] or task.default
        for name in enhance:
            if enhance.count(name) > 1:
                raise PydanticCustomError("enhancer", "'{name}' stands there twice", {"name": name})
            if name in task.methods and backbone not in task.models:
                continue
            accepted = () if backbone in task.models else tuple(task.methods)
            others = [each for other in _others(task) if name in other.methods for each in other.backbones]
            remedy = f"; it goes with {', '.join(others)}" if others else suggest(name, accepted)
            raise PydanticCustomError(
                "enhancer",
                "backbone '{backbone}' can be enhanced by {accepted}{remedy}",
                {"backbone": backbone, "accepted": ", ".join(accepted) or "nothing", "remedy": remedy},
            )
        return enhance


def _others(task: TaskSpec) -> list[TaskSpec]:
    return [other for name, other in TASKS.usable().items() if name != task.name]


class RunConfig(Strict):
    """The same, resolved: every value that shaped the run, as saved in its directory."""

    data: str
    knowledge: tuple[str, ...] = ()
    task: str
    backbone: str
    enhance: tuple[str, ...] = ()
    preset: str
    seed: int = Setting(ge=0, lt=SEEDS)
    negatives: int | None = Setting(default=None, ge=1, le=LONGEST)
    model: SerializeAsAny[ModelConfig]
    training: TrainingConfig

    @property
    def chosen(self) -> Chosen:
        return chosen(self.task, self.backbone, self.enhance)

    @property
    def all_idle(self) -> Mapping[str, str]:
        """As of its model."""
        return self.chosen.idle(self.model)

    @property
    def title(self) -> str:
        """Backbone and enhancers, as tables name them."""
        return self.chosen.title(self.model)

    def with_places(self, place: Callable[[str], str]) -> RunConfig:
        """The same, with ``place`` of each folder that it names: data, knowledge bases, runs whose stages are taken over."""
        givers = {stage: place(run) for stage, run in self.model.givers().items()}
        return self.model_copy(
            update={
                "data": place(self.data),
                "knowledge": tuple(map(place, self.knowledge)),
                "model": self.model.with_givers(givers),
            }
        )

    @property
    def reads_text(self) -> bool:
        """Whether the backbone or an enhancer needs item text vectors; a task may need them besides (`Task.reads_text`)."""
        return any(spec.needs_text(settings) for spec, settings in self.chosen.parts(self.model))

    @property
    def reads_people(self) -> bool:
        """Whether an enhancer reads vectors of users besides those of items, where the run's knowledge bases have such."""
        enhancers = self.chosen.parts(self.model)[1:]
        return self.chosen.task.reads_people and any(spec.needs_text(settings) for spec, settings in enhancers)


@dataclass(frozen=True)
class Chosen:
    """The specs that a run names."""

    task: TaskSpec
    backbone: Spec
    enhancers: tuple[Spec, ...]

    def parts(self, model: ModelConfig) -> list[tuple[Spec, Any]]:
        """Each spec with its settings."""
        return [(self.backbone, model.backbone), *((spec, model.of(spec.name)) for spec in self.enhancers)]

    def idle(self, model: ModelConfig) -> Mapping[str, str]:
        """As of `ModelConfig`, of these."""
        return model.all_idle({spec.name: model.of(spec.name) for spec in self.enhancers})

    def title(self, model: ModelConfig) -> str:
        return " + ".join(spec.title_of(settings) for spec, settings in self.parts(model))

    @property
    def config(self) -> type[ModelConfig]:
        """The task's [model] table with a key for the backbone and one for each enhancer."""
        return _model_config(self.task.name, self.backbone, self.enhancers)


def chosen(task: str, backbone: str, enhance: Sequence[str]) -> Chosen:
    """Raises ConfigError for a task or a name that is not installed."""
    found = TASKS[task]
    if backbone not in found:
        known = (*found.backbones, *found.models)
        raise ConfigError(f"the task '{task}' has no backbone '{backbone}'{suggest(backbone, known)}")
    return Chosen(found, found.spec(backbone), tuple(found.methods[name] for name in enhance))


@cache
def _model_config(task: str, backbone: Spec, enhancers: tuple[Spec, ...]) -> type[ModelConfig]:
    """One class for each choice, made once, so that configs of equal content are equal."""
    base = cast(type[ModelConfig], TASKS[task].config_type())
    for spec in enhancers:
        if spec.name in base.model_fields:
            raise ConfigError(f"enhancer '{spec.name}' has the name of a key of [model]; its package must rename it")
    fields: dict[str, Any] = {"backbone": (backbone.config, backbone.config())}
    fields |= {spec.name: (spec.config, spec.config()) for spec in enhancers}
    return create_model(base.__name__, __base__=base, __module__=base.__module__, **fields)


def read_request(path: Path | None, changes: Mapping[str, Any]) -> RunRequest:
    """A run file, or nothing, with ``changes`` on top.  Raises ConfigError naming the file and the key."""
    values = changes if path is None else merge(_read_toml(path, "the run file"), changes)
    return parse(RunRequest, values, "fit" if path is None else str(path), tables=_tables_below())


def check_names(request: RunRequest, where: str) -> None:
    """`resolve` of what is known before any data are looked at: where those decide what is learned, [model] waits for it.

    Raises ConfigError for names and keys.
    """
    open_yet = request.task is None and request.backbone is None and not request.enhance and request.negatives is None
    resolve(request.model_copy(update={"model": {}}) if open_yet else request, where)


def _tables_below() -> dict[str, set[str]]:
    """Keys of [training] and, as far as presets name them, of [model], whose classes would have to be imported."""
    presets = [values for task in TASKS.usable().values() for values in task.model.values()]
    return {"training": set(TrainingConfig.model_fields), "model": {key for values in presets for key in values}}


def parse_changes(changes: Sequence[str], option: str = "--set", such: str = "model.dim=64") -> dict[str, Any]:
    """``a.b=value`` strings, as an ``option`` has them, to nested tables; values are TOML, bare words are text."""
    merged: dict[str, Any] = {}
    for change in changes:
        key, found, text = change.partition("=")
        if not found or not all(part.strip() for part in key.split(".")):
            raise ConfigError(f"{option} {change!r}: expected key=value, such as {such}")
        try:
            value: Any = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            value = text.strip()
        for part in reversed(key.split(".")):
            value = {part.strip(): value}
        merged = merge(merged, value)
    return merged


def resolve(request: RunRequest, where: str, size: LogSize | None = None) -> RunConfig:
    """Lay the request over its preset: the task's values, the backbone's, each enhancer's in order, the request's own.

    size: of what is trained on (`size_of`), by which some presets choose what the request leaves open; None for a large one
    Names, the preset and the keys of [training] are checked before any model is imported.  Raises ConfigError for unknown
    keys at any depth, and for what another task takes.
    """
    try:
        task = task_of(request.backbone, request.task)
    except ConfigError as cause:
        raise ConfigError(f"{where}: {cause}") from None
    backbone = request.backbone or task.default
    _check_preset(task, request, where)
    if request.negatives is not None and not task.takes_negatives:
        raise ConfigError(
            f"{where}: negatives = {request.negatives} is drawn per positive of a ranking log; for '{backbone}' "
            + ("drop it" if task.of_positives else "set model.negatives, the items drawn per position")
        )
    given = parse(TrainingConfig, request.training, f"{where}: training")
    found = chosen(task.name, backbone, request.enhance)
    specs = (found.backbone, *found.enhancers)
    if found.backbone.fitted and (learning := [key for key in request.training if key not in MACHINE]):
        keys = ", ".join(learning)
        raise ConfigError(f"{where}: training: '{backbone}' is fitted at once, so there is nothing to set here; drop {keys}")
    if silent := [f"model.{key}" for key in found.backbone.unread if key in request.model]:
        raise ConfigError(f"{where}: '{backbone}' does not read {', '.join(silent)}; drop what it would not follow")
    training = _training(found, request.preset)
    parse(
        TrainingConfig, training, f"{where}: training of preset '{request.preset}' of {', '.join(each.name for each in specs)}"
    )
    usual = merge(task.model.get(request.preset, {}), _settings(found, request.preset, informed=bool(request.knowledge)))
    own = _own(found, request.model, f"{where}: model")
    asked = Settings(own, {key: getattr(given, key) for key in request.training})
    sized = _sized(found, request.preset, size if request.by_size else None, Settings(usual, training), asked)
    training, usual = merge(training, sized.training), merge(usual, sized.model)
    model = parse(found.config, merge(usual, own), f"{where}: model", accepted=_accepted(found))
    _refuse_idle(found, model, usual, own, where)
    return RunConfig(
        data=request.data,
        knowledge=request.knowledge,
        task=task.name,
        backbone=backbone,
        enhance=request.enhance,
        preset=request.preset,
        seed=request.seed,
        negatives=request.negatives,
        model=model,
        training=parse(TrainingConfig, merge(training, request.training), f"{where}: training"),
    )


def _refuse_idle(found: Chosen, model: ModelConfig, usual: Values, own: Values, where: str) -> None:
    """Raises ConfigError for what a request sets otherwise than its preset and than by default, and nothing would follow.

    Asked of requests alone: what was saved before anybody asked still opens.
    """
    if not own or not (idle := found.idle(model)):
        return
    presets = (parse(found.config, usual, f"{where}: model"), found.config())
    said = [
        f"model.{key} = {_at(model, key)!r} would change nothing: {why}"
        for key, why in idle.items()
        if _names(own, key) and _at(model, key) not in (_at(each, key) for each in presets)
    ]
    if said:
        raise ConfigError(f"{where}: {'; '.join(said)}; drop it, or change what stands in its way")


def _names(values: Any, key: str) -> bool:
    """Whether nested ``values`` have a value of their own at a dotted key."""
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _at(settings: Any, key: str) -> Any:
    for part in key.split("."):
        settings = getattr(settings, part)
    return settings


def _training(found: Chosen, preset: str) -> Values:
    training: Values = {} if found.backbone.fitted else found.task.training.get(preset, {})
    for spec in (found.backbone, *found.enhancers):
        training = merge(training, spec.training_of(preset))
    return training


def _sized(found: Chosen, preset: str, size: LogSize | None, usual: Settings, own: Settings) -> Settings:
    rule = None if found.backbone.fitted else found.task.sized.get(preset)
    if rule is None or size is None:
        return Settings()
    whole = parse(found.config, usual.model, "preset").model_dump()  # with what holds by default, of others' backbones too
    return rule(size, Settings(whole, usual.training), own)


def size_of(config: RunConfig, data: Dataset) -> LogSize | None:
    """Of what the run trains on; None where nothing goes by it.  Raises DataError where there is nothing of the kind."""
    task = config.chosen.task
    sizeless = config.chosen.backbone.fitted or config.preset not in task.sized or task.counted is None
    return None if sizeless else task.counted(config.model, data, config.negatives)  # type: ignore[misc]


def _usual(config: RunConfig) -> Settings:
    """What a request that says nothing gets of a large log."""
    informed, found = bool(config.knowledge), config.chosen
    model = merge(found.task.model.get(config.preset, {}), _settings(found, config.preset, informed=informed))
    return Settings(model, _training(found, config.preset))


def _preset_training(config: RunConfig, size: LogSize | None = None) -> TrainingConfig:
    """What holds where a request says nothing."""
    usual = _usual(config)
    sized = _sized(config.chosen, config.preset, size, usual, Settings())
    return parse(TrainingConfig, merge(usual.training, sized.training), "preset")


def said_by_size(config: RunConfig, size: LogSize | None) -> str | None:
    """What the size of the log set otherwise than the preset has it, in words; None where it set nothing."""
    if size is None:
        return None
    usual, model = _usual(config), config.model
    before, sized, now = _flat(_preset_training(config)), _flat(_preset_training(config, size)), _flat(config.training)
    changed = [
        (key, value, before.get(key)) for key, value in sized.items() if value != before.get(key) and value == now.get(key)
    ]
    preset = parse(config.chosen.config, usual.model, "preset")
    for key, value in _leaves(_sized(config.chosen, config.preset, size, usual, Settings()).model):
        if value != _at(preset, key) and value == _at(model, key):
            changed.insert(0, (f"model.{key}", value, _at(preset, key)))
    if not changed:
        return None
    said = ", ".join(f"{key} = {value} instead of {old}" for key, value, old in changed)
    return f"by the size of the log ({size.samples:,} training rows, {size.users:,} users): {said}"


def _leaves(values: Values, at: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values by dotted keys."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


def _flat(training: TrainingConfig) -> dict[str, Any]:
    """By key as it is written, those of single phases too."""
    found = {f"training.{key}": value for key, value in training if key != "phases"}
    for name, phase in training.phases.items():
        found |= {f"training.phases.{name}.{key}": value for key, value in phase if value is not None}
    return found


def own_phases(config: RunConfig, size: LogSize | None = None) -> dict[str, list[str]]:
    """Stage -> keys of ``training.phases`` that are set otherwise than the preset has them, so by the request itself.

    size: of the log; what the preset has for it is the preset's, too
    """
    presets = [_preset_training(config, each).phases for each in (None, size)]
    found: dict[str, list[str]] = {}
    for name, phase in config.training.phases.items():
        usual = [preset.get(name, PhaseTraining()) for preset in presets]
        if keys := [key for key, value in phase if value not in (None, *(getattr(each, key) for each in usual))]:
            found[name] = keys
    return found


def _settings(found: Chosen, preset: str, *, informed: bool) -> dict[str, Any]:
    own = found.backbone.settings(preset, joined=bool(found.enhancers), informed=informed)
    values: dict[str, Any] = {"backbone": own}
    return values | {spec.name: spec.settings(preset) for spec in found.enhancers}


def _own(found: Chosen, values: Values, where: str) -> dict[str, Any]:
    """The [model] table of a request, with ``enhance.*`` under the enhancer's name and without repeated names.

    Raises ConfigError where a table's ``name`` is not what was chosen, where settings have no enhancer to go to, and where
    they could go to several.
    """
    own, enhancers = _of_whole_model(found, values), [spec.name for spec in found.enhancers]
    if (alias := own.pop("enhance", None)) is not None:
        if not enhancers:
            accepted = ", ".join(found.task.methods)
            raise ConfigError(
                f"{where}: 'enhance' has settings but no enhancer is chosen; choose one of {accepted}, or drop them"
            )
        if len(enhancers) > 1:
            names = " or ".join(f"model.{name}" for name in enhancers)
            raise ConfigError(f"{where}: 'enhance' has settings but several enhancers are chosen; say whose they are: {names}")
        own[enhancers[0]] = merge(own.get(enhancers[0], {}), alias) if isinstance(alias, Mapping) else alias
    for key, what, name in (("backbone", "backbone", found.backbone.name), *((each, "enhance", each) for each in enhancers)):
        table = own.get(key)
        if isinstance(table, Mapping) and "name" in table:
            if table["name"] != name:
                raise ConfigError(f"{where}: '{what}.name' = {table['name']!r}, but the {what} is '{name}'; choose it there")
            own[key] = {each: value for each, value in table.items() if each != "name"}
    for name in own.keys() & set(found.task.methods) - set(enhancers):
        raise ConfigError(f"{where}: '{name}' has settings but is not chosen; choose enhance = '{name}', or drop them")
    return own


def _accepted(found: Chosen) -> set[str]:
    """What may be written in the [model] table of a request itself."""
    own = set(found.config.model_fields) - set(found.backbone.unread)
    return own | _open_keys(found) | ({"enhance"} if len(found.enhancers) == 1 else set())


def _open_keys(found: Chosen) -> set[str]:
    """Keys of the backbone that may stand in [model] itself."""
    is_open = found.task.open_backbone or found.backbone.name in found.task.models
    return set(found.backbone.config.model_fields) - set(found.task.config_type().model_fields) if is_open else set()


def _of_whole_model(found: Chosen, values: Values) -> dict[str, Any]:
    """The same values; what is a key of a whole model alone may stand in [model] itself, and goes to ``backbone``.

    So may that of a backbone, where the task says so.
    """
    keys = _open_keys(found)
    own = {key: value for key, value in values.items() if key not in keys}
    moved = {key: value for key, value in values.items() if key in keys}
    below = own.get("backbone", {})
    return own | {"backbone": merge(moved, below)} if moved and isinstance(below, Mapping) else dict(values)


def _check_preset(task: TaskSpec, request: RunRequest, where: str) -> None:
    if request.preset not in task.presets:
        raise ConfigError(f"{where}: 'preset' = {request.preset!r}{suggest(request.preset, task.presets)}")
    if request.enhance and request.preset in task.alone:
        others = ", ".join(name for name in task.presets if name not in task.alone)
        raise ConfigError(
            f"{where}: model: preset '{request.preset}' is for backbones alone; "
            f"with '{', '.join(request.enhance)}' use one of {others}"
        )


_PATHS, _FROM_HERE = "paths", "from this folder"  # of earlier versions: whole, or from where the run was started


def to_toml(config: RunConfig, folder: Path | None = None) -> str:
    """TOML text; keys that are None are left out, as TOML has no null.

    folder: the one that the text will lie in, from which its paths then are, so that both can be moved together
    """
    import tomli_w

    if folder is None:
        return tomli_w.dumps(config.model_dump(exclude_none=True))
    start = os.path.realpath(folder)
    values = config.with_places(lambda place: _from(start, place)).model_dump(exclude_none=True)
    return tomli_w.dumps({_PATHS: _FROM_HERE, **values})


def from_toml(path: Path) -> RunConfig:
    """A resolved config as saved in a run directory, of this version or an earlier one; paths are as they are from here."""
    values = _read_toml(path, "the run's config")
    paths = values.pop(_PATHS, None)
    if paths not in (None, _FROM_HERE):
        raise ConfigError(f"{path}: '{_PATHS}' = {paths!r}: only {_FROM_HERE!r} is known here")
    config = from_values(values, str(path))
    return config if paths is None else config.with_places(lambda place: _here(path.parent, place))


def _from(start: str, place: str) -> str:
    try:
        return os.path.relpath(os.path.realpath(place), start)
    except ValueError:  # on another drive
        return os.path.realpath(place)


def _here(folder: Path, place: str) -> str:
    """``place``, which is from ``folder``, in as few words as lead there: without ".." where that meets no link."""
    joined = os.path.join(folder, place)
    short = os.path.normpath(joined)
    return short if os.path.realpath(short) == os.path.realpath(joined) else os.path.realpath(joined)


def from_values(values: Mapping[str, Any], where: str) -> RunConfig:
    """A resolved config from plain nested values.  Raises ConfigError for what is missing, unknown or not installed."""
    values = _former(values, where) if "task" not in values else dict(values)
    task, backbone, enhance = (values.get(key) for key in ("task", "backbone", "enhance"))
    if not isinstance(task, str) or not isinstance(backbone, str):
        raise ConfigError(f"{where}: a run's config names its task and its backbone")
    if task not in TASKS:
        raise ConfigError(
            f"{where}: a run of the task '{task}', which is not installed here{suggest(task, TASKS)}; "
            "install the package that it is of"
        )
    names = _listed(enhance)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{where}: 'enhance' = {enhance!r}: expected a list of names")
    try:
        found = chosen(task, backbone, names)
    except ConfigError as cause:
        raise ConfigError(f"{where}: {cause}") from None
    model = _table(values.get("model", {}), "model", where)
    return parse(RunConfig, {**values, "model": parse(found.config, model, f"{where}: model")}, where)


def _former(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A config of format 2, where the model's table held the task and the names."""
    model = _table(values.get("model", {}), "model", where)
    if "task" not in model:
        raise ConfigError(
            f"{where}: written by an earlier version, for its model has no task; train it again, in another folder"
        )
    task, enhance = model.pop("task"), model.pop("enhance", None)
    backbone = _table(model.pop("backbone", {}), "model.backbone", where)
    found = {"task": task, "backbone": backbone.pop("name", None), "knowledge": _listed(values.get("knowledge"))}
    if enhance is not None:
        enhance = _table(enhance, "model.enhance", where)
        methods = TASKS[task].methods.usable() if isinstance(task, str) and task in TASKS else {}
        # The name was left out where a task had one method, and a method's other name stood for some of its settings.
        name = enhance.pop("name", next(iter(methods), ""))
        if not isinstance(name, str):
            raise ConfigError(f"{where}: 'model.enhance.name' = {name!r}: expected a name")
        name = next((each for each in methods if (own := methods[each].values) and own.items() <= enhance.items()), name)
        found["enhance"], model[name] = [name], enhance
    return {
        **{key: value for key, value in values.items() if key != "model"},
        **found,
        "model": {**model, "backbone": backbone},
    }


def _table(value: Any, key: str, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: '{key}' = {value!r}: expected a table")
    return dict(value)


def _read_toml(path: Path, what: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: {what} does not exist") from None
    except (ValueError, RecursionError) as cause:  # no TOML, no UTF-8, numbers or tables beyond any size
        raise ConfigError(f"{path}: not valid TOML ({cause})") from None
    except OSError as cause:
        raise ConfigError(f"{path}: {what} cannot be read ({cause.strerror})") from None
