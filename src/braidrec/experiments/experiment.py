"""A table or figure of a paper as data: its rows, what was published, and what is drawn beside the numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braidrec.data.dataset import Dataset
from braidrec.errors import ConfigError, RunError, suggest
from braidrec.experiments.rows import Row, Workshop, encoder_name
from braidrec.runs.run import Run, load

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Experiment:
    """One table or figure.

    id: the paper and what it is, such as "pad/table2"
    rows: data set -> all rows that the paper's experiments on it have, by name: one cell serves every table that shows it
    names: the rows of this one, most important first; rows that give them a stage are made, too, but not shown
    published: data set -> row -> metric -> number as printed, data sets that cannot be made here among them
    reference: what gains are over: one row for all, or a row for each
    labels: row -> what the paper calls it here
    notes: what a reader should know    seeds: of every row, whatever is asked for; None: as asked
    encoder_row: the row that is repeated with another text encoder where one is given
    tested: whether rows are tested against one another    slices: parts of the test rows that have a table of their own
    families: row -> the name of the tests that its own are corrected among; rows without one share one
    relative: whether gains are shares of the reference, whatever the task has
    shortfalls: where it stays behind what was published, or says less than it seems to
    headline: what must be said beside its numbers wherever they stand
    columns: keys of the metrics that it shows, of rows that are judged by their own; None for all that these show
    extra: what else there is
    """

    id: str
    title: str
    rows: Mapping[str, Mapping[str, Row]]
    names: Sequence[str] = ()
    published: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    reference: str | Mapping[str, str] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    seeds: tuple[int, ...] | None = None
    encoder_row: str | None = None
    tested: bool = True
    slices: Sequence[str] = ()
    shortfalls: Sequence[str] = ()
    headline: Sequence[str] = ()
    columns: Sequence[str] | None = None
    families: Mapping[str, str] = field(default_factory=dict)
    relative: bool = False
    extra: Extra | None = None

    @property
    def paper(self) -> str:
        return self.id.split("/")[0]

    def dataset(self, name: str | None) -> str:
        """``name`` if there are rows for it, the only data set for None.  Raises ConfigError otherwise."""
        if name is None and len(self.rows) == 1:
            return next(iter(self.rows))
        if name is None:
            raise ConfigError(f"{self.id}: say which data set with --data (accepted: {', '.join(self.rows)})")
        if name not in self.rows:
            known = "; its published numbers are known, but nothing reads its files" if name in self.published else ""
            raise ConfigError(f"{self.id}: cannot be made on '{name}'{known}{suggest(name, self.rows)}")
        return name

    def table(self, data: str, seeds: int | None = None, encoder: str | None = None) -> list[Row]:
        """The rows on ``data`` with what was published beside them.

        seeds: rows that are no ablations take 1..seeds    encoder: one more row, with its text read by this encoder
        Raises ConfigError where neither goes with the experiment.
        """
        if seeds is not None and seeds < 1:
            raise ConfigError(f"{self.id}: seeds = {seeds}; accepted: 1 or more")
        pool, printed = self.rows[data], self.published.get(data, {})
        rows = [pool[name] for name in self.names]
        if encoder is not None:
            if self.encoder_row is None:
                raise ConfigError(f"{self.id}: has no row for another text encoder; give --encoder to one that has")
            row, name = pool[self.encoder_row], f"{self.encoder_row}-{encoder_name(encoder)}"
            if name not in self.names:
                rows.append(replace(row, name=name, encoder=encoder, against=row.name, seeds=(1,), ablation=True))
        chosen = self.seeds or (None if seeds is None else tuple(range(1, seeds + 1)))
        return [
            replace(
                row,
                seeds=chosen if chosen and (self.seeds or not row.ablation) else row.seeds,
                published=row.published or printed.get(row.name),
                against=row.against if self.tested else None,
                family=self.families.get(row.name, ""),
                judged=tuple(
                    replace(
                        each,
                        shown=each.shown if self.columns is None else each.key in self.columns,
                        relative=each.relative or self.relative,
                    )
                    for each in (row.metrics if self.relative else row.judged)
                ),
            )
            for row in rows
        ]

    def over(self, rows: Sequence[Row]) -> dict[str, str]:
        """Row -> the row that its gain is over."""
        if self.reference is None or not isinstance(self.reference, str):
            return dict(self.reference or {})
        return {row.name: self.reference for row in rows if row.name != self.reference and not row.simple}

    def label(self, row: str) -> str:
        return self.labels.get(row, row)


def cells_needed(rows: Sequence[Row], pool: Mapping[str, Row]) -> list[tuple[Row, int]]:
    """(row, seed) of every cell of ``rows``, each once and after the cells whose runs it starts from."""
    found: dict[tuple[str, int], tuple[Row, int]] = {}

    def add(row: Row, seed: int) -> None:
        for name in row.starts.values():
            if name not in pool:
                raise ConfigError(f"row '{row.name}' starts from the row '{name}'{suggest(name, pool)}")
            add(pool[name], seed)
        found.setdefault((row.name, seed), (row, seed))

    for row in rows:
        for seed in row.cells:
            add(row, seed)
    return list(found.values())


@dataclass(frozen=True)
class About:
    """What is said of a paper's experiments before their tables.

    title: the heading    gain: where a gain comes from, in one plain sentence, without numbers
    metric: key of the one that the overview compares rows by
    tables: (experiment, data set, row -> what it is in plain words) of the overview's table
    rivals: those of these rows that are counted or solved at once, which whatever is trained has to beat
    """

    title: str
    gain: str
    metric: str
    tables: Sequence[tuple[str, str, Mapping[str, str]]]
    rivals: Sequence[str] = ()


@dataclass(frozen=True)
class Extra:
    """What an experiment has beside its table.

    make: from the finished cells, or from the runs behind them, to entries of the result file; "files" are plots
    show: those entries as tables, so that they can be printed where the runs are no more
    """

    make: Callable[[Made], Mapping[str, Any]]
    show: Callable[[Mapping[str, Any]], Sequence[Table]]


@dataclass(frozen=True)
class Made:
    """An experiment whose cells are all there, as `Extra.make` gets it.

    table: the summary of its rows    figures: the folder for plots    open_data: the prepared data set
    """

    experiment: Experiment
    data: str
    rows: Sequence[Row]
    shop: Workshop
    table: Mapping[str, Any]
    figures: Path
    open_data: Callable[[], Dataset]

    def entry(self, row: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = next(entry for entry in self.table["rows"] if entry["row"] == row)
        return found

    def run(self, name: str) -> Run:
        """The run of a row's first seed.  Raises RunError when its directory is not here."""
        row = next(row for row in self.rows if row.name == name)
        path = self.shop.run_path(row, row.cells[0])
        if not (path / "run.json").exists():
            raise RunError(
                f"{self.experiment.id}: is drawn from the run directory {path}, which is not here; copy it there, or remove "
                f"{self.shop.cell_path(row, row.cells[0])} so that the cell is made again"
            )
        return load(path)

    def figure(self, suffix: str = "") -> Path:
        """Where a plot goes."""
        return self.figures / f"{self.experiment.id.replace('/', '-')}{suffix}-{self.data}.png"
