"""What a task fills and what a run holds: the protocols between `braidrec.runs`, which names no task, and the tasks' rooms.

Task    plan: settings and data to stages    load: saved tensors to a model    outcome, report, tests: what is measured
Model   answers for somebody's past; never changed in place, so a service can swap it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from braidrec.config import RunConfig
from braidrec.data.dataset import Dataset
from braidrec.evaluation.report import Report
from braidrec.evaluation.significance import PairedTest
from braidrec.registry import TaskSpec
from braidrec.training.contracts import Batches, Validate
from braidrec.training.stages import AnyStage, Stage

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]
Vectors = NDArray[np.float16] | NDArray[np.float32]


@dataclass(frozen=True)
class Saved:
    """What a run keeps of a model: tensors by name, and facts (JSON) that building it again needs."""

    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Added:
    """n items that come after training: ``vectors`` (n, S) of their text, ``fields`` (n, F_I) int32 rows, ``numbers``
    (n, N_I) float32, ``bags`` (n, M) int32 for each multi-valued item field.
    """

    vectors: Tensor
    fields: Tensor
    numbers: Tensor
    bags: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True)
class Described:
    """Somebody new by what is known of them: ``fields`` (F_U,) int32 rows, ``numbers`` (N_U,) float32, ``bags`` (M,) int32 for
    each multi-valued user field; unknown rows where nothing is.
    """

    fields: Tensor
    numbers: Tensor
    bags: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Reason:
    """What one item that somebody has brings to the score of another: its share, below 0 where it speaks against it.

    text: how much of the score comes that way by text; None where the model reads none
    """

    item: int
    share: float
    text: float | None = None


@dataclass(frozen=True)
class Share:
    """What a named part of a model, such as a block of its vectors, brings to a score: its share, below 0 where it speaks
    against it.

    says: what the part knows both sides by, such as categories, each with how much it counts, most first
    """

    name: str
    share: float
    says: tuple[tuple[str, float], ...] = ()


@runtime_checkable
class Explains(Protocol):
    """A model that says what is behind a score, unless ``unexplained`` says why there is nothing to be said."""

    @property
    def unexplained(self) -> str: ...

    def explain(self, past: Any, row: int) -> list[Reason]:
        """Of a past, for a catalogue row, most first."""
        ...


@runtime_checkable
class Divides(Protocol):
    """A model whose scores are sums of named parts."""

    def divide(self, past: Any, row: int) -> list[Share]:
        """Of a past, for a catalogue row, in the model's own order; empty where there are no such parts."""
        ...


class Model(Protocol):
    """A trained model as a run holds it.  Users and items are catalogue rows; items added later follow the catalogue's.

    probabilities: whether scores are probabilities of a positive    reads_text: whether it can know an item by text alone
    module: the network, or a module whose buffers are all there is    A method never changes what another call sees.
    """

    @property
    def probabilities(self) -> bool: ...

    @property
    def reads_text(self) -> bool: ...

    @property
    def module(self) -> nn.Module: ...

    def saved(self) -> Saved:
        """All that answers need without the log and the knowledge base: `Task.load` of it without data gives the same scores
        for somebody new.
        """
        ...

    def past(self, user: int | None, items: Rows | None = None, fields: Described | None = None) -> Any:
        """What the model knows of a known user (all of their log, then ``items``), or of somebody new who liked ``items``,
        oldest first, and is described by ``fields``.

        It passes through the run unopened.  Users of a log that has grown stand behind those of training: a model that keeps
        something of each user answers them as somebody new, by their events.  Raises RunError for a known user of a model
        that was loaded without its data, and for ``fields`` where it reads none.
        """
        ...

    def seen(self, past: Any) -> Rows:
        """(n,) catalogue rows that a past holds, in any order: what exclude_seen leaves out."""
        ...

    def scores(self, pasts: Sequence[Any], rows: Rows) -> Floats:
        """(b, n) float32, for b >= 1 pasts and n >= 1 catalogue rows, added items among them."""
        ...

    def with_items(self, added: Added) -> Model:
        """A model that knows ``added`` behind the items that this one knows."""
        ...

    def notes(self, *, new_user: bool, added: int) -> list[str]:
        """What a reader of recommendations should know, such as how somebody new and items added after training are seen."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """What a look inside gives as plain numbers (JSON), such as the shares of a gate; empty for most."""
        ...


@dataclass(frozen=True)
class Plan:
    """Everything that training needs, before anything is written.

    stages: in order, those of ``taken`` left out    batches, validate: of a stage    monitor: what is watched by default
    keep: the trained model, on the CPU and reduced to what it needs to answer, called after the last stage
    names: of all stages, taken ones included    taken: stage -> run directory whose stage of that name is taken over
    reading: those of ``names`` whose weights go with the item text vectors that they were trained on
    settings: stage -> what the weights of a taken one must have been trained with, by key (`Stage.settings`)
    choices: what was settled on the way, for the record    average_epochs: where it is not as the settings say
    yardsticks: what rankings without learning that take no more than seconds reach on validation: title -> metric -> value
    doubt: what the task says, with what to do, where the validation metrics that were reached mean less than they seem to
    """

    stages: Sequence[AnyStage]
    batches: Callable[[Stage], Batches]
    validate: Callable[[AnyStage], Validate]
    monitor: str
    keep: Callable[[], Model]
    names: Sequence[str]
    taken: Mapping[str, str] = field(default_factory=dict)
    reading: Sequence[str] = ()
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    choices: Mapping[str, Any] = field(default_factory=dict)
    average_epochs: float | None = None
    yardsticks: Callable[[], Mapping[str, Mapping[str, float]]] = dict
    doubt: Callable[[Mapping[str, float]], str | None] = lambda reached: None


@dataclass(frozen=True)
class Outcome:
    """What a model, or a ranking without learning, made of the N evaluation rows of a part.

    user, item (N,): whose row it is and its candidate or target, so that two outcomes can be checked to be of the same rows
    values: arrays by name, the rows first, as the task wrote them    kind: what scores are, where that differs
    """

    user: NDArray[np.integer[Any]]
    item: NDArray[np.integer[Any]]
    values: Mapping[str, NDArray[Any]]
    kind: str = ""

    def same_rows(self, other: Outcome) -> bool:
        return np.array_equal(self.user, other.user) and np.array_equal(self.item, other.item)


class Task(Protocol):
    """One room.  ``text`` is (I + 1, S) vectors by catalogue row, row 0 zero, None where `reads_text` says so: float32, and
    of large catalogues what the knowledge base stores (`KnowledgeBases.matrix`), to be read by rows (`TextTable`).
    ``people`` is (U + 1, S) of users, likewise, zero for who has none; None where the run's knowledge base has none, or nothing
    of the run reads such (`RunConfig.reads_people`).
    """

    @property
    def spec(self) -> TaskSpec: ...

    def reads_text(self, config: RunConfig) -> bool:
        """Whether its runs need item text vectors."""
        ...

    def plan(
        self,
        config: RunConfig,
        data: Dataset,
        text: Vectors | None,
        *,
        people: Vectors | None = None,
        show_progress: bool = True,
    ) -> Plan:
        """Check settings against data and build the modules, seeded by ``config.seed``; writes nothing into the run."""
        ...

    def load(self, config: RunConfig, saved: Saved, data: Dataset | None, text: Callable[[], Vectors] | None = None) -> Model:
        """The model of a saved run; without ``data`` it answers for somebody new alone.

        data: those that were trained on, or what they have grown to, which have no parts: users that training knew and items
        have their rows of then, others stand behind them, items last that are added right after
        """
        ...

    def outcome(self, model: Model, config: RunConfig, data: Dataset, part: str, *, show_progress: bool = True) -> Outcome:
        """Score the rows of a part, once: runs keep it."""
        ...

    def baseline(self, name: str, config: RunConfig | None, data: Dataset, part: str) -> Outcome | None:
        """The same by a ranking of ``spec.baselines``; None where it does not go with these rows."""
        ...

    def report(
        self, outcome: Outcome, config: RunConfig | None, data: Dataset, part: str, *, min_rows: int | None = None
    ) -> Report:
        """An outcome by slice.  config: of the run whose slices are meant; None for the task's defaults.

        min_rows: slices of fewer rows are marked as few; None for 1,000
        """
        ...

    def tests(
        self, first: Sequence[Outcome], second: Sequence[Outcome], config: RunConfig | None, data: Dataset, part: str
    ) -> list[PairedTest]:
        """Paired tests of one model against another, the same seeds in the same order, one for each metric that is tested."""
        ...

    def inspect(self, module: nn.Module, num_items: int) -> Mapping[str, NDArray[np.float32]]:
        """Item vectors (I + 1, D) of a module, by the space they are in; empty where it has none."""
        ...


@runtime_checkable
class TestsMetrics(Protocol):
    """A task that tests whatever metric of its reports it is asked for."""

    def tests_of(
        self, metrics: Sequence[str], first: Sequence[Outcome], second: Sequence[Outcome], data: Dataset
    ) -> list[PairedTest]:
        """Paired tests as of `Task.tests`, of ``metrics`` by their keys in reports, in that order."""
        ...
