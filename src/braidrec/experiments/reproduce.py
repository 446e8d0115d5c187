"""Make a table of a paper, cell by cell, and print it with the published numbers beside the measured ones.

prepared/<variant>  knowledge/<source>            made where they are missing
runs/<data>/<row>-s<seed>                         one run directory per cell
results/<paper>-<data>/cells/<row>-s<seed>.json   one small file per finished cell, shared by every table that shows it
results/<experiment>-<data>.json                  the table
"""

from __future__ import annotations

import fnmatch
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braidrec.data.dataset import Dataset
from braidrec.errors import ConfigError, RunError, suggest
from braidrec.experiments import darec, disco, edk, linear, pad, sdrl
from braidrec.experiments.cells import differences, make_cell, paired_tests, summary
from braidrec.experiments.experiment import Experiment, Made, cells_needed
from braidrec.experiments.material import check_prepared, fill_knowledge, open_data, texts_of
from braidrec.experiments.provenance import Provenance
from braidrec.experiments.rows import Row, Workshop
from braidrec.files import read_json, write_json
from braidrec.registry import Metric
from braidrec.runs.tables import plain_table
from braidrec.shown import tell

if TYPE_CHECKING:
    from rich.table import Table

EXPERIMENTS: dict[str, Experiment] = {
    each.id: each for room in (pad, disco, edk, darec, sdrl, linear) for each in room.EXPERIMENTS
}
Tell = Callable[[str], None]


def reproduce(
    id: str,
    data: str | None = None,
    seeds: int | None = None,
    *,
    prepared: Path = Path("prepared"),
    knowledge: Path = Path("knowledge"),
    runs: Path = Path("runs/reproduce"),
    results: Path = Path("results"),
    minutes: float | None = None,
    only: str | None = None,
    encoder: str | None = None,
    tell: Tell | None = None,
    confirm: Callable[[str], bool] | None = None,
) -> list[Table | str]:
    """Make the cells of experiment ``id`` that are missing, write its result file, and return what to print.

    seeds: rows that are no ablations take 1..seeds; None: their own     minutes: start no cell after so many
    only: names of rows to make, by commas, with * for any letters; the table still shows all that is there
    encoder: one more row with text by this encoder, where the experiment has room for one
    tell: gets a line per step and cell; stderr when left out     confirm: asked before a paid encoder starts
    A cell that was interrupted goes on in the middle of its phase; finished ones are only read.  One that would be made from
    other settings or data today is stale: made anew, and until then shown with what differs.
    Raises ConfigError for names that are none, DataError when public files cannot be found or a prepared folder follows other
    rules than the tables, RunError when a figure needs runs that are not here.
    """
    tell = tell or _to_stderr
    experiment = find(id)
    data = experiment.dataset(data)
    rows, pool = experiment.table(data, seeds, encoder), experiment.rows[data]
    variants = {row.data for row in (*rows, *pool.values())}
    shop = Workshop(
        {name: prepared / name for name in variants},
        {name: knowledge / texts_of(name) for name in variants},
        runs / data,
        results / f"{experiment.paper}-{data}",
        pool,
    )
    for name, folder in shop.prepared.items():
        check_prepared(name, folder)
    _make(rows, shop, minutes=minutes, only=only, tell=tell, confirm=confirm)
    file = table_file(experiment, data, results)
    over = experiment.over(rows)
    table = summary(rows, shop, earlier=_earlier(file, experiment.paper, data), reference=over)
    values: Mapping[str, Any] = {}
    shown = render(experiment, data, rows, table)
    left = len(table["not_run"]) + len(table["stale"])
    if experiment.extra is not None and not left:

        def prepared_data() -> Dataset:
            name = data if data in variants or not variants else next(iter(variants))
            return open_data(name, prepared / name, tell)

        values = experiment.extra.make(Made(experiment, data, rows, shop, table, results / "figures", prepared_data))
        shown += [*experiment.extra.show(values), *(f"drawn: {results / 'figures' / name}" for name in values.get("files", ()))]
    elif experiment.extra is not None:
        shown.append(f"not drawn yet: {left} of its cells are missing" + (" or stale" if table["stale"] else ""))
    if taken := values.keys() & {**heading(experiment, data), **table}.keys():
        raise RunError(f"{id}: what is drawn says '{min(taken)}', which the table says already; rename it where it is made")
    write_json(file, {**heading(experiment, data), **table, **values})
    return [*shown, f"{file}"]


def heading(experiment: Experiment, data: str) -> dict[str, Any]:
    """What a result file says of the experiment."""
    return {
        "experiment": experiment.id,
        "title": experiment.title,
        "data": data,
        "notes": list(experiment.notes),
        "shortfalls": list(experiment.shortfalls),
    }


def table_file(experiment: Experiment, data: str, results: Path) -> Path:
    return results / f"{experiment.id.replace('/', '-')}-{data}.json"


def find(id: str) -> Experiment:
    """Raises ConfigError, offering the nearest, for an id that is none."""
    if id not in EXPERIMENTS:
        raise ConfigError(f"no experiment is called '{id}'{suggest(id, EXPERIMENTS)}; 'braidrec reproduce' lists them")
    return EXPERIMENTS[id]


def listing(results: Path = Path("results")) -> Table:
    """Every experiment with the cells it needs and how many of them are made, stale ones left out."""
    rows = []
    for each in EXPERIMENTS.values():
        for data in each.rows:
            needed = cells_needed(each.table(data), each.rows[data])
            shop = cells_alone(each, data, results)
            state = Provenance(shop)
            made = sum(differences(row, seed, shop, state) == [] for row, seed in needed)
            rows.append((each.id, each.title, data, len(needed), made))
    return plain_table("experiments", ("experiment", "what", "data", "cells", "made"), rows)


def cells_alone(experiment: Experiment, data: str, results: Path) -> Workshop:
    """Where nothing but the result files is at hand."""
    return Workshop({}, {}, Path(os.devnull), results / f"{experiment.paper}-{data}", experiment.rows[data])


def from_cells(experiment: Experiment, data: str, results: Path) -> dict[str, Any]:
    """The summary of the cells under ``results``, with the tests that result files keep of them."""
    rows, earlier = experiment.table(data), _earlier(table_file(experiment, data, results), experiment.paper, data)
    return summary(rows, cells_alone(experiment, data, results), earlier=earlier, reference=experiment.over(rows))


def _make(
    rows: Sequence[Row],
    shop: Workshop,
    *,
    minutes: float | None,
    only: str | None,
    tell: Tell,
    confirm: Callable[[str], bool] | None,
) -> None:
    """The missing and the stale cells in order, with a line for each."""
    wanted = _chosen(rows, only)
    plan = cells_needed(wanted, shop.rows)
    begun, ready, state = time.monotonic(), set[Path](), Provenance(shop)
    for number, (row, seed) in enumerate(plan, 1):
        stale = differences(row, seed, shop, state)
        if stale == []:
            continue
        used = (time.monotonic() - begun) / 60
        if minutes is not None and used >= minutes:
            left = sum(differences(each, of, shop, state) != [] for each, of in plan)
            tell(f"{minutes:g} min are used: {left} of {len(plan)} cells are left for another time")
            return
        where = f"[{number}/{len(plan)}] {row.name} s{seed}"
        tell(f"{where}, begun after {used:.1f} min")
        if stale:
            tell(f"{where} is stale and made anew, what was there is kept beside it (.stale): {'; '.join(stale)}")
        if _provide(row, shop, ready, tell, confirm):
            state = Provenance(shop)
        make_cell(row, seed, shop)
        tell(f"{where} is done, {(time.monotonic() - begun) / 60:.1f} min used")


def _earlier(file: Path, paper: str, data: str) -> list[Mapping[str, Any]]:
    """What was made before: this table, then the paper's others on the data set, since they show the same cells."""
    others = sorted(each for each in file.parent.glob(f"{paper}*-{data}.json") if each != file)
    found = [read_json(each, RunError) for each in (file, *others) if each.exists()]
    return [each for each in found if "rows" in each]


def _chosen(rows: Sequence[Row], only: str | None) -> list[Row]:
    if only is None:
        return list(rows)
    patterns = [part.strip() for part in only.split(",")]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(row.name, pattern) for row in rows):
            raise ConfigError(
                f"--only: no row of the table is called '{pattern}'{suggest(pattern, [row.name for row in rows])}"
            )
    return [row for row in rows if any(fnmatch.fnmatchcase(row.name, pattern) for pattern in patterns)]


def _provide(row: Row, shop: Workshop, ready: set[Path], tell: Tell, confirm: Callable[[str], bool] | None) -> bool:
    """Data and text vectors of a row, and of those whose runs it starts from; whether any were looked at for the first time."""
    known = len(ready)
    for each in (row, *_givers(row, shop)):
        folder = shop.prepared[each.data]
        if folder not in ready:
            open_data(each.data, folder, tell)
            ready.add(folder)
        if each.reads_text and (base := shop.knowledge_path(each)) not in ready:
            fill_knowledge(Dataset.open(folder), base, each.encoder, tell, confirm)
            ready.add(base)
    return len(ready) > known


def _givers(row: Row, shop: Workshop) -> Iterator[Row]:
    for stage in row.starts:
        giver = shop.origin(row, stage)
        yield giver
        yield from _givers(giver, shop)


# -- printing -------------------------------------------------------------------------------------------------------------


def render(experiment: Experiment, data: str, rows: Sequence[Row], table: Mapping[str, Any]) -> list[Table | str]:
    """The rows with the published numbers beside the measured ones, the paired tests, and what should be known about them."""
    if not rows:
        return [*experiment.notes, *experiment.shortfalls]
    entries = {entry["row"]: entry for entry in table["rows"]}
    shown: list[Table | str] = [numbers(experiment, data, rows, entries)]
    if experiment.slices:
        shown.append(by_slice(experiment, rows, entries))
    shown += _tests(experiment, rows, entries)
    lines = [f"{name}: {note}" for name, note in notes_of_rows(experiment, rows)]
    lines += readers(experiment, entries)
    lines += [f"stale: {each['cell']}: {'; '.join(each['differs'])}" for each in table["stale"]]
    if count := table["digest_from_command"]:
        lines.append(f"{count} cells were made before digests: theirs is what their command gives today")
    lines += trained_on(experiment, entries)
    lines += [f"note: {note}" for note in experiment.notes]
    lines += [f"shortfall: {each}" for each in experiment.shortfalls]
    return [*shown, "\n".join(lines)] if lines else shown


def notes_of_rows(experiment: Experiment, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """(rows, their note), of each note once."""
    of: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            of.setdefault(row.note, []).append(experiment.label(row.name))
    return [(", ".join(names), note) for note, names in of.items()]


def readers(experiment: Experiment, entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Who read the text of which rows."""
    of: dict[str, list[str]] = {}
    for name, entry in entries.items():
        if entry["knowledge"]:
            of.setdefault(entry["knowledge"], []).append(experiment.label(name))
    if len(of) == 1:
        return [f"text here read by {next(iter(of))}"]
    return [f"{', '.join(names)}: text read by {reader}" for reader, names in of.items()]


def trained_on(experiment: Experiment, entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Which rows have cells that no CPU trained: another device adds up in another order, and takes other seconds."""
    devices: dict[str, list[str]] = {}
    for entry in entries.values():
        for device in entry.get("devices", ()):
            devices.setdefault(device, []).append(experiment.label(entry["row"]))
    every = len(entries)
    return [
        f"trained on {device}, other rows on a CPU: {', '.join(own)}" if len(own) < every else f"trained on {device}"
        for device, own in devices.items()
    ]


def _columns(rows: Sequence[Row]) -> list[Metric]:
    return [metric for metric in rows[0].metrics if metric.shown]


def caption(experiment: Experiment, rows: Sequence[Row]) -> str:
    """What the numbers are multiplied by, and what gains are over, where it is one row for all."""
    scale, references = _columns(rows)[0].scale, {row.name for row in rows} & set(experiment.over(rows).values())
    said = [f"x{scale:g}"] if scale != 1 else []
    return ", ".join([*said, *(f"gain over {experiment.label(name)}" for name in references if len(references) == 1)])


def numbers(
    experiment: Experiment, data: str, rows: Sequence[Row], entries: Mapping[str, Mapping[str, Any]], *, percent: int = 4
) -> Table:
    """The table of an experiment.  percent: digits behind the point of what is told x100"""
    from rich.markup import escape
    from rich.table import Table

    metrics, over, said = _columns(rows), experiment.over(rows), caption(experiment, rows)
    title = f"{experiment.id} on {data}: {experiment.title}" + (f", {said}" if said else "")
    table = Table(title=escape(title), title_justify="left")
    table.add_column("model", no_wrap=True)
    table.add_column("seeds", overflow="fold")
    gains = bool(over) or experiment.columns is None  # a table of many columns has them only where it speaks of gains
    for metric in metrics:
        # a header whose first line is empty stands under the one to its left
        for column in (f"{metric.title}\nprinted", "\nhere", *(("gain\nprinted", "gain\nhere") if gains else ())):
            table.add_column(column, justify="right", overflow="fold")
    for row in rows:
        entry = entries.get(row.name)
        seeds = "not run" if entry is None else "-" if row.simple else seeds_said(entry["seeds"])
        if "stale" in (entry or {}):
            seeds = "stale" if row.simple else f"{seeds} stale"
        cells = [escape(experiment.label(row.name)), seeds]
        for metric in metrics:
            printed, digits = (row.printed or {}).get(metric.key), percent if metric.scale > 1 else 4
            gain = (entry or {}).get("gain", {}).get(metric.key) or _printed_gain(metric, row, rows, over)
            cells += [
                "" if printed is None else f"{printed:.{digits}f}",
                "" if entry is None else measured(entry[f"test_{metric.key}"], metric, len(entry["seeds"]), digits),
                *((_change(gain["published"], metric), _change(gain["measured"], metric)) if gains else ()),
            ]
        table.add_row(*cells)
    return table


def by_slice(
    experiment: Experiment, rows: Sequence[Row], entries: Mapping[str, Mapping[str, Any]], *, percent: int = 4
) -> Table:
    """The rows on parts of the test rows.  percent: as of `numbers`"""
    lines, metrics = [], _columns(rows)
    for row in rows:
        entry = entries.get(row.name, {"slices": {}})
        for name in experiment.slices:
            if (part := entry["slices"].get(name)) and part["rows"]:
                found = [
                    measured(part[each.key], each, len(entry["seeds"]), percent if each.scale > 1 else 4) for each in metrics
                ]
                lines.append((experiment.label(row.name), name.replace("_", " "), f"{part['rows']:,}", *found))
    columns = ("model", "part", "test rows", *(metric.title for metric in metrics))
    return plain_table("by part of the test rows", columns, lines)


def _printed_gain(metric: Metric, row: Row, rows: Sequence[Row], over: Mapping[str, str]) -> dict[str, float | None]:
    """The published gain of a row that has no cell."""
    reference = next((each for each in rows if each.name == over.get(row.name)), None)
    pair = [(each.printed or {}).get(metric.key) if each else None for each in (row, reference)]
    if pair[0] is None or pair[1] is None:
        return {"published": None, "measured": None}
    return {"published": pair[0] / pair[1] - 1 if metric.relative else pair[0] - pair[1], "measured": None}


def measured(found: Mapping[str, float] | None, metric: Metric, seeds: int, digits: int = 4) -> str:
    """The mean, with its spread where there is more than one seed."""
    if not found:  # a row that is not judged by it
        return "-"
    mean = f"{metric.scale * found['mean']:.{digits}f}"
    return f"{mean} ± {metric.scale * found['sd']:.{digits}f}" if seeds > 1 else mean


_FEW = 5  # seeds that are named one by one


def seeds_said(seeds: Sequence[int]) -> str:
    if len(seeds) <= _FEW:
        return ",".join(map(str, seeds))
    whole = list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]}-{seeds[-1]}" if whole else f"{len(seeds)} of {seeds[0]}-{seeds[-1]}"


def _change(value: float | None, metric: Metric) -> str:
    if value is None:
        return ""
    return f"{value:+.2%}" if metric.relative else f"{value:+.4f}"


def _tests(experiment: Experiment, rows: Sequence[Row], entries: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """A table for each family of tests."""
    known = {metric.key: metric for metric in rows[0].metrics}  # tests may be of one that the table has no column for
    found: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for row in rows:
        for test in paired_tests(entries.get(row.name, {})):
            found.setdefault(row.family, []).append((row.name, test))
    return [_family(experiment, name, tests, known) for name, tests in found.items()]


def _family(
    experiment: Experiment, family: str, tests: Sequence[tuple[str, Mapping[str, Any]]], known: Mapping[str, Metric]
) -> Table:
    lines = []
    for name, test in tests:
        metric = known[test["metric"]]
        lines.append(
            (
                experiment.label(name),
                experiment.label(test["row"]),
                metric.title,
                f"{metric.scale * test['difference']:+.4f}",
                _interval(test, metric),
                _by_seed(test, metric),
                f"{test['p_holm']:.4f}",
                *(_over_seeds(test["over_seeds"], metric) if family else ()),
            )
        )
    first = tests[0][1]
    over = f"{first['holm_over']} tests of {family}" if family else f"this table's {first['holm_over']} tests"
    drawn = "; then users and seeds both drawn" if family else ""
    return plain_table(
        f"paired tests: {first['resamples']:,} resamples of {first['users']:,} users, two-sided, Holm over {over}{drawn}",
        (
            *("model", "against", "metric", "difference", "95 % interval", "by seed", f"p, Holm over {first['holm_over']}"),
            *(("95 % interval, seeds drawn", "p, seeds drawn") if family else ()),
        ),
        lines,
    )


def _interval(test: Mapping[str, Any], metric: Metric) -> str:
    low, high = (metric.scale * test[key] for key in ("low", "high"))
    return f"{low:+.4f} .. {high:+.4f}"


def _over_seeds(test: Mapping[str, Any] | None, metric: Metric) -> tuple[str, str]:
    """Of users and seeds, both drawn; a single seed says nothing of others."""
    return ("one seed", "-") if test is None else (_interval(test, metric), f"{test['p_holm']:.4f}")


def _by_seed(test: Mapping[str, Any], metric: Metric) -> str:
    gaps = [metric.scale * gap for gap in test["per_seed"]]
    if len(gaps) > _FEW:
        return f"{len(gaps)} seeds, {min(gaps):+.4f} .. {max(gaps):+.4f}"
    return " ".join(f"{at}:{gap:+.4f}" for at, gap in zip(test["seeds"], gaps, strict=True))


def _to_stderr(line: str) -> None:
    tell(line)
