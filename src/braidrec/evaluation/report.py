"""What one model scores on one test set, slice by slice, and several of them side by side.

A report of any task: it brings its numbers by name and says itself how a table prints them.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np

from braidrec.errors import DataError, suggest
from braidrec.evaluation.metrics import Floats
from braidrec.shown import console

if TYPE_CHECKING:
    from rich.table import Table

    from braidrec.evaluation.bootstrap import Clusters

MIN_ROWS = 1_000  # fewer carry no claim
NO_ROWS = "no rows"  # why a slice has no numbers
FEW = "few"  # the mark of their numbers in a table

Place = Literal["count", "cell", "below"]
Unit = Literal["", "%", "bits"]
Part = TypeVar("Part")


@dataclass(frozen=True)
class SliceResult:
    """One slice.  counts: besides its rows, such as "positives" or "users"

    values: by name, such as "auc" or "ndcg@10"; None where ``reason`` says why, or where the scores do not have it
    few: whether the rows are too few for a claim    intervals: by value, of a slice of few rows, as far as they exist
    """

    name: str
    rows: int
    counts: Mapping[str, int]
    values: Mapping[str, float | None]
    reason: str | None = None
    few: bool = False
    intervals: Mapping[str, Interval] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float | None:
        if name not in self.values:
            raise DataError(f"slice '{self.name}' has no value '{name}'{suggest(name, self.values)}")
        return self.values[name]


@dataclass(frozen=True)
class Interval:
    """95 % percentile interval of a value of all rows over resamples of users; fewer clusters than users when pooled."""

    low: float
    high: float
    resamples: int
    clusters: int
    users: int

    @classmethod
    def of(cls, resampled: Floats, clusters: Clusters) -> Interval:
        """From the value of each resample (B,), one at least."""
        low, high = np.quantile(resampled, (0.025, 0.975))
        return cls(float(low), float(high), len(resampled), clusters.count, clusters.users)


@dataclass(frozen=True)
class Shown:
    """How a table prints the number called ``name``.

    place: "count": a column, slice by slice    "cell": with the others in the cell of a slice and a model; the first is the
    one whose absence is explained    "below": of all rows, or of no slice, in a row of its own
    unit: "%" prints a hundred times the number    interval: digits of its interval, in the first slice; None without
    """

    name: str
    title: str
    place: Place = "cell"
    unit: Unit = ""
    digits: int = 4
    interval: int | None = None

    def text(self, number: float | None, digits: int | None = None) -> str:
        if number is None:
            return "-"
        return f"{100 * number if self.unit == '%' else number:.{self.digits if digits is None else digits}f}"

    def bounds(self, interval: Interval) -> str:
        return f"[{self.text(interval.low, self.interval)}, {self.text(interval.high, self.interval)}]"


@dataclass(frozen=True)
class Report:
    """Results by slice, ``all`` first; every slice has the same counts and values.

    intervals: by value, of all rows; empty where these have no numbers    lists: what is no slice's, such as the coverage of
    all lists    shown: what a table prints, in order    notes: what a reader of the numbers must know
    Raises DataError on slices that differ in what they hold, or where ``shown`` or ``intervals`` name what is not there.
    """

    slices: tuple[SliceResult, ...]
    intervals: Mapping[str, Interval]
    lists: Mapping[str, float | None]
    shown: tuple[Shown, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.slices:
            raise DataError("report: it has no slice; accepted: at least one, that of all rows first")
        first = self.slices[0]
        counts = first.counts.keys() | {each.name for each in self.shown if each.place == "count"}
        values = first.values.keys() | {each.name for each in self.shown if each.place == "cell"}
        for at, part in enumerate(self.slices):
            _expect_keys(part.counts, counts, f"report: slices[{at}]: counts")
            _expect_keys(part.values, values, f"report: slices[{at}]: values")
            for name in part.intervals.keys() - values:
                raise DataError(f"report: slices[{at}]: intervals: unknown key '{name}'{suggest(name, values)}")
        _refuse_lacking(self, self.shown, "report: shown: it")
        for name in self.intervals:
            if name not in values:
                raise DataError(f"report: intervals: unknown key '{name}'{suggest(name, values)}")
        for name in (each.name for each in self.shown if self.intervals and each.interval is not None):
            if name not in self.intervals:
                raise DataError(f"report: intervals: required key '{name}' is missing")

    def __getitem__(self, name: str) -> SliceResult:
        for result in self.slices:
            if result.name == name:
                return result
        raise DataError(f"the report has no slice '{name}'{suggest(name, [result.name for result in self.slices])}")

    def __str__(self) -> str:
        """The table that the command line prints."""
        file = io.StringIO()
        console(file).print(render({"value": self}), highlight=False)
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines())

    def _repr_html_(self) -> str:
        return f'<pre style="line-height: 1.2">{html.escape(str(self))}</pre>'

    def whole(self, name: str) -> float | None:
        """A number of all rows, or of no slice.  Raises DataError where there is none of this name."""
        return self.lists[name] if name in self.lists else self.slices[0][name]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON value (no nan in it), as ``files.write_json`` takes."""
        return {
            "slices": [asdict(result) for result in self.slices],
            "intervals": {name: asdict(interval) for name, interval in self.intervals.items()},
            "lists": dict(self.lists),
            "shown": [asdict(each) for each in self.shown],
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, value: Any) -> Report:
        """The report that ``to_json`` gave.  Raises DataError naming a missing, unknown or wrongly typed key."""
        _expect_keys(value, {part.name for part in fields(cls)}, "report")
        intervals = _mapping(value["intervals"], lambda one, where: _read(Interval, one, where), "report: intervals")
        return cls(
            _sequence(value["slices"], _read_slice, "report: slices"),
            intervals,
            _mapping(value["lists"], _number, "report: lists"),
            _sequence(value["shown"], _read_shown, "report: shown"),
            _sequence(value["notes"], lambda one, where: str(_typed(one, (str,), where)), "report: notes"),
        )


def checked_min_rows(min_rows: int) -> int:
    """Raises DataError on what is no number of rows."""
    if isinstance(min_rows, bool) or not isinstance(min_rows, int | np.integer) or min_rows < 0:
        raise DataError(f"min_rows = {min_rows!r}: a whole number from 0 on is needed, such as min_rows={MIN_ROWS}")
    return int(min_rows)


def notes_on_few(slices: Sequence[SliceResult], min_rows: int) -> tuple[str, ...]:
    """The line of a table that says what its mark means, where it has one."""
    legend = f"{FEW}: fewer than {min_rows:,} rows; the number is shown with its interval, and no claim rests on it"
    return (legend,) if any(each.few and each.reason is None for each in slices) else ()


def render(reports: Mapping[str, Report], shown: Sequence[Shown] | None = None) -> Table:
    """Models as columns, slices as rows; below them what the whole has; intervals in the first row, notes in the caption.

    shown: the first report's when left out.  Raises DataError when the reports are not about the same rows, or when one lacks
    what is shown.
    """
    from rich.markup import escape
    from rich.table import Table

    if not reports:
        raise DataError("render needs at least one report")
    first = next(iter(reports))
    shown = reports[first].shown if shown is None else shown
    counts, cells, below = ([each for each in shown if each.place == place] for place in get_args(Place))
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for name, report in reports.items():
        _refuse_lacking(report, shown, f"'{name}'")
        rows[name] = [(part.name, part.rows, *(part.counts[each.name] for each in counts)) for part in report.slices]
        if rows[name] != rows[first]:
            pairs = zip([*rows[name], None], [*rows[first], None], strict=False)
            here, there = next(pair for pair in pairs if pair[0] != pair[1])
            raise DataError(
                f"'{name}' and '{first}' were not evaluated on the same rows: "
                f"slice (name, rows, {', '.join(each.name for each in counts)}) {here} against {there}"
            )
    # columns fold where a screen is narrow: a number that is cut short is another number
    table = Table(caption="\n".join([_caption(cells), *map(escape, _shared_notes(reports))]))
    for title in ("slice", "rows", *(each.title for each in counts), *map(escape, reports)):
        table.add_column(title, justify="left" if title == "slice" else "right", overflow="fold")
    for at, (slice_name, *numbers) in enumerate(rows[first]):
        of_models = [
            _cell(part := report.slices[at], cells, part.intervals if at else report.intervals) for report in reports.values()
        ]
        last = at + 1 == len(rows[first])
        table.add_row(slice_name.replace("_", " "), *(f"{number:,}" for number in numbers), *of_models, end_section=last)
    for each in below:
        title = each.title + (f", {each.unit}" if each.unit else "")
        table.add_row(title, *[""] * (1 + len(counts)), *(each.text(report.whole(each.name)) for report in reports.values()))
    return table


def _caption(cells: Sequence[Shown]) -> str:
    sure = [each.title for each in cells if each.interval is not None]
    units = [f" in {each.unit}" if each.unit else "" for each in cells]
    if len(set(units)) == 1:
        units[:-1] = [""] * (len(units) - 1)
    caption = " / ".join(each.title + unit for each, unit in zip(cells, units, strict=True))
    which = "" if len(sure) == len(cells) else f" of {' and '.join(sure)}"
    return caption + (f", [95 % interval{which} over users]" if sure else "")


def _cell(result: SliceResult, cells: Sequence[Shown], intervals: Mapping[str, Interval]) -> str:
    if result[cells[0].name] is None:
        return (result.reason or "-").split(":")[0]
    numbers = " / ".join(each.text(result[each.name]) for each in cells if result[each.name] is not None)
    numbers += f" {FEW}" if result.few else ""
    sure = [each for each in cells if each.interval is not None]
    names = {each.name: f"{each.title.partition('@')[0]} " if len(sure) > 1 else "" for each in sure}
    return "\n".join(
        [numbers, *(names[each.name] + each.bounds(intervals[each.name]) for each in sure if each.name in intervals)]
    )


def _shared_notes(reports: Mapping[str, Report]) -> list[str]:
    """Each note once, after the names of the models that it is about unless it is about all."""
    about: dict[str, list[str]] = {}
    for name, report in reports.items():
        for note in report.notes:
            about.setdefault(note, []).append(name)
    return [note if len(names) == len(reports) else f"{', '.join(names)}: {note}" for note, names in about.items()]


def _refuse_lacking(report: Report, shown: Sequence[Shown], who: str) -> None:
    if not any(each.place == "cell" for each in shown):
        raise DataError(f"{who} has nothing for the cells; accepted: at least one number shown in place 'cell'")
    for each in shown:
        first = report.slices[0]
        there: set[str] = set(first.counts if each.place == "count" else first.values)
        there |= set(report.lists) if each.place == "below" else set()
        if each.name not in there:
            raise DataError(
                f"{who} has no '{each.name}'{suggest(each.name, there)}; it has {', '.join(sorted(there)) or 'nothing'}"
            )


# -- from JSON ------------------------------------------------------------------------------------------------------------

_JSON_TYPES: dict[str, tuple[type[Any], ...]] = {
    "bool": (bool,),
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "str | None": (str, type(None)),
    "int | None": (int, type(None)),
    "Mapping[str, int]": (dict,),
    "Mapping[str, float | None]": (dict,),
    "Mapping[str, Interval]": (dict,),
    "Place": (str,),
    "Unit": (str,),
}


def _read_slice(value: Any, where: str) -> SliceResult:
    found = _read(SliceResult, value, where)
    _mapping(found.counts, lambda one, here: _typed(one, (int,), here), f"{where}: counts")
    _mapping(found.values, _number, f"{where}: values")
    return replace(found, intervals=_mapping(found.intervals, lambda one, at: _read(Interval, one, at), f"{where}: intervals"))


def _read_shown(value: Any, where: str) -> Shown:
    found = _read(Shown, value, where)
    for name, accepted in (("place", get_args(Place)), ("unit", get_args(Unit))):
        if getattr(found, name) not in accepted:
            raise DataError(f"{where}: {name} is {getattr(found, name)!r}; accepted: {', '.join(map(repr, accepted))}")
    return found


def _read(kind: type[Part], value: Any, where: str) -> Part:
    """Build a flat dataclass from a JSON object, checking keys and types."""
    parts = {part.name: str(part.type) for part in fields(kind)}  # type: ignore[arg-type]
    _expect_keys(value, parts.keys(), where)
    return kind(**{name: _typed(value[name], _JSON_TYPES[hint], f"{where}: {name}") for name, hint in parts.items()})


def _sequence(value: Any, read: Callable[[Any, str], Part], where: str) -> tuple[Part, ...]:
    return tuple(read(one, f"{where}[{at}]") for at, one in enumerate(_typed(value, (list,), where)))


def _mapping(value: Any, read: Callable[[Any, str], Part], where: str) -> dict[str, Part]:
    return {name: read(one, f"{where}: {name}") for name, one in _typed(value, (dict,), where).items()}


def _number(value: Any, where: str) -> float | None:
    found: float | None = _typed(value, (int, float, type(None)), where)
    return found


def _typed(value: Any, kinds: tuple[type[Any], ...], where: str) -> Any:
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        accepted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise DataError(f"{where} is {value!r}; accepted: {accepted}")
    return value


def _expect_keys(value: Any, names: Collection[str], where: str) -> None:
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: found {type(value).__name__}; accepted: an object with the keys {', '.join(sorted(names))}")
    for key in sorted(value.keys() - names):
        raise DataError(f"{where}: unknown key '{key}'{suggest(key, names)}")
    for key in sorted(set(names) - value.keys()):
        raise DataError(f"{where}: required key '{key}' is missing")
