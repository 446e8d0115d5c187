"""Names to things: a task, a model, a text encoder or a data set is one line in its registry, or an entry point of a package.

    Registry   name -> "module:ATTRIBUTE", imported when first used, so that names cost nothing; then entry points
    Spec       what one model's own file says of it: its config, what builds it, its presets
    TaskSpec   what must be known of a task before anything heavy is imported

Entry point groups: ``braidrec.tasks``, ``braidrec.<task>.backbones``, ``.methods``, ``.models``, ``.baselines``,
``braidrec.encoders``, ``braidrec.data_sets``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypedDict, TypeVar, cast

from braidrec.errors import ConfigError, remedy, suggest
from braidrec.strict import Strict, merge, parse

Item = TypeVar("Item")
Values = Mapping[str, Any]
OWN = "braidrec"


@dataclass(frozen=True, eq=False)
class Spec:
    """One model (backbone, method, whole model, baseline, text encoder), at the end of its own file.

    name: as on the command line    title: as in tables, or a function of the config
    config: its settings; where presets choose, all with defaults
    build: from the config to the thing; its room says with what besides
    presets: preset -> what it sets here    joined: the same, besides, where a method joins this backbone
    training: preset -> what it changes in `TrainingConfig`    values: what holds in every preset
    reads_text: whether it needs item text vectors, or a function of the config
    fitted: whether it is fitted at once, so that there is nothing for [training] to set but the machine's keys
    unread: keys of its task's [model] that say nothing to it, so that setting one is an error
    informed: what it sets, besides, in every preset where the run has a knowledge base
    parts: of the split that it needs besides training, validation and test
    tried: settings worth trying where a log chooses among models by validation (`braidrec choose`)

    A preset that is not in ``presets`` (or ``training``) means ``authors``, and without that the defaults.
    Raises ConfigError where a preset names a key that the config does not have.
    """

    name: str
    title: str | Callable[[Any], str]
    config: type[Strict]
    build: Callable[..., Any]
    presets: Mapping[str, Values] = field(default_factory=dict)
    joined: Mapping[str, Values] = field(default_factory=dict)
    training: Mapping[str, Values] = field(default_factory=dict)
    values: Values = field(default_factory=dict)
    reads_text: bool | Callable[[Any], bool] = False
    fitted: bool = False
    unread: Sequence[str] = ()
    informed: Values = field(default_factory=dict)
    tried: Sequence[Values] = ()
    parts: Sequence[str] = ()

    def __post_init__(self) -> None:
        for values in (*filter(None, (self.informed,)), *self.tried):
            parse(self.config, values, f"'{self.name}'")
        named = {*self.presets, *self.joined} or ({"ours"} if self.values else set())
        for preset in named and {"ours", *named}:
            for joined in (False, True):
                parse(self.config, self.settings(preset, joined=joined), f"'{self.name}', preset '{preset}'")

    def settings(self, preset: str, *, joined: bool = False, informed: bool = False) -> dict[str, Any]:
        """What ``preset`` sets, as plain nested values."""
        found = merge(self.values, _of(self.presets, preset))
        found = merge(found, self.informed) if informed else found
        return merge(found, self.joined.get(preset, {})) if joined else found

    def training_of(self, preset: str) -> Values:
        """What ``preset`` changes in how it is trained."""
        return _of(self.training, preset)

    def title_of(self, config: Any) -> str:
        return self.title if isinstance(self.title, str) else self.title(config)

    def needs_text(self, config: Any) -> bool:
        return self.reads_text if isinstance(self.reads_text, bool) else self.reads_text(config)


def _of(presets: Mapping[str, Values], preset: str) -> Values:
    return presets.get(preset, presets.get("authors", {}))


class Registry(Mapping[str, Item]):
    """Names in order: ours, then those of installed packages.  ``registry[name]`` imports the one thing it names.

    what: in error messages    group: of entry points    kind: what an entry must be; its ``name`` must be the registered one
    own: name -> "module:ATTRIBUTE", of the package whose registry it is

    Looking a name up raises ConfigError for one that nobody has (with the nearest), that two packages have, whose module
    cannot be imported, or that leads to something else.
    """

    def __init__(self, what: str, group: str, kind: type[Item], own: Mapping[str, str]):
        self.what, self.group = what, group
        self._kind, self._own = kind, own
        self._found: dict[str, Item] = {}

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from (name for name in self._plugins if name not in self._own)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._plugins

    def __getitem__(self, name: str) -> Item:
        if name not in self._found:
            self._found[name] = self._load(name)
        return self._found[name]

    def readable(self, name: str) -> bool:
        """Whether ``registry[name]`` gives something, for listings that pass over what is broken."""
        return self.trouble(name) is None

    def trouble(self, name: str) -> ConfigError | None:
        """Why ``registry[name]`` gives nothing; None where it gives something."""
        try:
            self[name]
        except ConfigError as cause:
            return cause
        return None

    def usable(self) -> dict[str, Item]:
        """Everything that can be read: what is broken is an error at its own name, and keeps nobody from the rest."""
        return {name: self[name] for name in self if self.readable(name)}

    def origin(self, name: str) -> str:
        """The package that an entry comes from."""
        return self.givers(name)[0]

    def givers(self, name: str) -> list[str]:
        """The packages that register ``name``; where there are several, looking it up is an error."""
        own = [_top(self._own[name])] if name in self._own else []
        return own + [_package(entry) for entry in self._plugins.get(name, [])]

    def unknown(self, name: str) -> ConfigError:
        """The error for a name that is none."""
        return ConfigError(f"unknown {self.what} '{name}'{suggest(name, self)}")

    @contextmanager
    def holding(self, item: Item) -> Iterator[None]:
        """For as long as the block lasts, ``item`` is what its own name leads to, installed or not."""
        name = cast(Any, item).name
        own, found = self._own, self._found
        self._own, self._found = {**own, name: OWN}, {**found, name: item}
        try:
            yield
        finally:
            self._own, self._found = own, found

    @cached_property
    def _plugins(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for entry in sorted(entry_points(group=self.group), key=lambda each: (each.name, each.value)):
            same = found.setdefault(entry.name, [])
            if all((each.value, _package(each)) != (entry.value, _package(entry)) for each in same):  # seen on two paths
                same.append(entry)
        return found

    def _load(self, name: str) -> Item:
        if name not in self:
            raise self.unknown(name)
        givers = self.givers(name)
        if len(givers) > 1:
            raise ConfigError(
                f"{self.what} '{name}' is registered by {' and by '.join(givers)}, so the name says nothing; "
                "uninstall one of them, or rename its entry point"
            )
        value = self._own[name] if name in self._own else self._plugins[name][0].value
        where = f"{self.what} '{name}' ({value}, of the package {givers[0]})"
        module, _, attribute = value.partition(":")
        try:
            found: Any = import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
        except Exception as cause:  # whatever somebody's module does when it is imported
            raise ConfigError(
                f"{where} cannot be imported: {type(cause).__name__}: {cause}; install what it needs, update or uninstall it"
            ) from cause
        if not isinstance(found, self._kind):
            raise ConfigError(f"{where} is a {type(found).__name__}, where a {self._kind.__name__} is needed")
        own_name = cast(Any, found).name
        if own_name != name:
            raise ConfigError(f"{where} calls itself '{own_name}'; an entry point has the name of what it leads to")
        return found


def _top(where: str) -> str:
    return where.partition(":")[0].partition(".")[0]


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.module


@dataclass(frozen=True)
class Metric:
    """One number of a report.

    key: its name in reports and logs    title: in tables    scale: tables show it so many times larger
    relative: whether a gain is a share of the reference, or else a difference    mode: which way is better
    shown: whether tables have a column for it; result files keep it in any case
    """

    key: str
    title: str
    scale: float = 1.0
    relative: bool = False
    mode: str = "max"
    shown: bool = True


@dataclass(frozen=True)
class LogSize:
    """What there is to train on.

    samples: rows that a model is shown, drawn negatives among them where they are ranked    users: those with such rows
    drawn: whether negatives are
    """

    samples: int
    users: int
    drawn: bool = False


@dataclass(frozen=True)
class Settings:
    """Values of the tables [model] and [training]."""

    model: Values = field(default_factory=dict)
    training: Values = field(default_factory=dict)


Sized = Callable[[LogSize, Settings, Settings], Settings]
Counted = Callable[[Any, Any, int | None], LogSize]  # (its [model] settings, a data set, negatives per positive) -> size


@dataclass(frozen=True, eq=False)
class TaskSpec:
    """A task: what can be chosen in it and what its presets set.  Its room is imported with `room`.

    name: as in ``task = "..."``    title: what it learns, in words
    where: "module:ATTRIBUTE" of its `braidrec.task.Task`    config: likewise of its `braidrec.config.ModelConfig`
    metrics: of its reports, the headline first    default: the backbone that is meant when none is named
    model, training: preset -> what it sets, before the chosen models set theirs
    sized: preset -> what the size of the log changes: (size, values of the preset and the chosen models, in [model] with what
    holds by default, the request's own values, which win) -> values
    counted: what a model of these settings is trained on, which ``sized`` goes by
    presets: all of them    alone: those that are for backbones without a method
    takes_negatives: whether ``negatives``, drawn per positive, is a setting of its runs
    of_positives: whether its default is meant where nothing is named and the log holds positives alone
    reads_people: whether methods that read text read vectors of users besides, where the run's knowledge bases have such
    open_backbone: whether a backbone's own keys may stand in [model] itself, as those of whole models do
    """

    name: str
    title: str
    where: str
    config: str
    backbones: Registry[Spec]
    methods: Registry[Spec]
    models: Registry[Spec]
    baselines: Registry[Spec]
    metrics: tuple[Metric, ...]
    default: str
    model: Mapping[str, Values]
    training: Mapping[str, Values]
    sized: Mapping[str, Sized] = field(default_factory=dict)
    counted: Counted | None = None
    presets: tuple[str, ...] = ("ours", "paper", "authors", "textbook")
    alone: tuple[str, ...] = ("textbook",)
    takes_negatives: bool = False
    of_positives: bool = False
    reads_people: bool = False
    open_backbone: bool = False

    def __contains__(self, name: str) -> bool:
        """Whether ``name`` is one of its backbones or whole models."""
        return name in self.backbones or name in self.models

    def spec(self, name: str) -> Spec:
        """The backbone or whole model called ``name``."""
        return self.models[name] if name in self.models else self.backbones[name]

    def room(self) -> Any:
        """Its `braidrec.task.Task`."""
        return _attribute(self.where)

    def config_type(self) -> type[Strict]:
        return cast(type[Strict], _attribute(self.config))


def _attribute(where: str) -> Any:
    module, _, attribute = where.partition(":")
    return getattr(import_module(module), attribute)


TASKS: Registry[TaskSpec] = Registry(
    "task",
    "braidrec.tasks",
    TaskSpec,
    {
        "ranking": "braidrec.ranking:TASK",
        "sequential": "braidrec.sequential:TASK",
        "collaborative": "braidrec.collaborative:TASK",
    },
)


class Registries(TypedDict):
    """The four of a task, as `TaskSpec` takes them."""

    backbones: Registry[Spec]
    methods: Registry[Spec]
    models: Registry[Spec]
    baselines: Registry[Spec]


def own_registries(
    task: str,
    *,
    backbones: Mapping[str, str] | None = None,
    methods: Mapping[str, str] | None = None,
    models: Mapping[str, str] | None = None,
    baselines: Mapping[str, str] | None = None,
) -> Registries:
    """The four registries of ``task``; what is left out holds plug-ins alone."""

    def registry(what: str, kind: str, own: Mapping[str, str] | None) -> Registry[Spec]:
        return Registry(what, f"braidrec.{task}.{kind}", Spec, own or {})

    return {
        "backbones": registry("backbone", "backbones", backbones),
        "methods": registry("enhancer", "methods", methods),
        "models": registry("model", "models", models),
        "baselines": registry("baseline", "baselines", baselines),
    }


def task_of(backbone: str | None, task: str | None) -> TaskSpec:
    """The task that a backbone's name decides; ``task`` settles it where two have the name.

    Without either, the first task.  Raises ConfigError for names that are none, for a name that several tasks have, and for
    a backbone that the named task does not have.
    """
    if task is not None and task not in TASKS:
        raise TASKS.unknown(task)
    if backbone is None:
        return TASKS[task or next(iter(TASKS))]
    having, broken = [], []
    for each in TASKS if task is None else [task]:
        try:
            if backbone in TASKS[each]:
                having.append(each)
        except ConfigError as cause:  # somebody's task that cannot be imported keeps nobody from using the others
            broken.append(str(cause))
    if not having and task is not None and not broken:
        known = (*TASKS[task].backbones, *TASKS[task].models)
        raise ConfigError(f"the task '{task}' has no backbone '{backbone}'{suggest(backbone, known)}")
    if not having:
        known = tuple(name for each in TASKS if TASKS.readable(each) for name in (*TASKS[each].backbones, *TASKS[each].models))
        raise ConfigError("; ".join([f"unknown backbone '{backbone}'{suggest(backbone, known)}", *broken]))
    if len(having) > 1:
        raise ConfigError(
            f"backbone '{backbone}' is of {' and of '.join(having)}; say which with "
            + remedy(f'task="{having[0]}"', f'task = "{having[0]}" (or --task)')
        )
    return TASKS[having[0]]
