"""docs/results.md: every table under results/ as Markdown, from its cells, with notes, families of tests, shortfalls, figures.

What a page says follows from the result files and from the experiments as data, nothing else, so a test can write it again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braidrec.errors import ConfigError, RunError
from braidrec.experiments import darec, disco, edk, linear, pad, sdrl
from braidrec.experiments.cells import paired_tests
from braidrec.experiments.experiment import Experiment
from braidrec.experiments.reproduce import EXPERIMENTS, cells_alone, from_cells, heading, render, table_file
from braidrec.experiments.rows import Row
from braidrec.files import read_json, write_text
from braidrec.registry import Metric

if TYPE_CHECKING:
    from rich.table import Table

# Around the table of a page that is otherwise somebody's own.
BEGIN, END = "<!-- results: written by braidrec reproduce --page -->", "<!-- end of results -->"

# (experiment, data, rows; without any, all that are over another)
HEADLINE: Sequence[tuple[str, str, Sequence[str]]] = (
    ("disco/table2", "ml-1m", ()),
    ("pad/table3", "prime-pantry", ()),
    ("pad/table2", "prime-pantry", ("sasrec-pad-paper",)),
)
ABOUT = {room.EXPERIMENTS[0].paper: room.ABOUT for room in (disco, edk, pad, darec, sdrl, linear)}
_INTRODUCTION = """\
# Results

Written by `braidrec reproduce --page docs/results.md` from the files under `results/`: one small file per row and seed (a
*cell*), with its settings as resolved, their digest, the data and the test numbers. `braidrec reproduce` lists the tables;
`braidrec reproduce pad/table2` makes the cells that are missing or stale and prints the same.

- Numbers are means over seeds ± their standard deviation, on the test part, scored once by the weights that validation chose.
- "printed" is what the paper prints, "here" what was measured here, "gain" what a row is better by than its reference: a share
  of hits and nDCG, a difference of AUC and log loss.
- Paired tests resample users; p is adjusted by Holm's method over all tests of the one table that it stands in, or of the
  named family there, whose number stands beside it. The result files also hold the raw p of each (`p_value`, beside `p_holm`
  and `holm_over`). A named family is also tested with seeds as a sample: users and seeds as crossed random effects, by
  Student's t with Satterthwaite's degrees of freedom (`over_seeds`).
- A note, and what made a row, stand once, at the first table of a paper that has them.
- *stale*: today's settings or data are others than those that the number was made with; a note says which. *not run*: there
  is no cell.
"""


def write_page(file: Path, results: Path = Path("results")) -> None:
    """Write the whole page, or, into a file that has the two marks, the one table between them.

    Raises ConfigError for a file that is there and is neither, so that no other page is lost.
    """
    held = file.read_text(encoding="utf-8") if file.exists() else ""
    begin, found, after = held.partition(f"{BEGIN}\n")
    _, ended, rest = after.partition(END)
    if found and ended:
        write_text(file, f"{begin}{BEGIN}\n{headline(results)}{END}{rest}")
    elif held and not held.startswith(_INTRODUCTION.partition("\n")[0] + "\n"):
        raise ConfigError(f"{file}: is no page of results and has no place for the table (a line '{BEGIN}', and '{END}' below)")
    else:
        write_text(file, page(results, file.parent))


def page(results: Path, folder: Path) -> str:
    """All tables of ``results`` as Markdown that lies in ``folder``."""
    parts, told = [_INTRODUCTION], set[str | Path]()
    for paper, about in ABOUT.items():
        found = [(each, data) for each in EXPERIMENTS.values() for data in each.rows if each.paper == paper]
        made = [(each, data) for each, data in found if _is_made(each, data, results)]
        if made:
            missing = ", ".join(f"`{each.id}` on {data}" for each, data in found if (each, data) not in made)
            parts += [f"## {about}\n", *([f"Not run: {missing}.\n"] if missing else [])]
            parts += [_section(each, data, results, folder, told) for each, data in made]
    return "\n".join(parts)


def _is_made(experiment: Experiment, data: str, results: Path) -> bool:
    return table_file(experiment, data, results).exists() or bool(from_cells(experiment, data, results)["rows"])


def headline(results: Path) -> str:
    """The one table for a first screen: every backbone alone and enhanced, with its test and what is published."""
    head = ("data, metric", "model", "alone", "enhanced", "difference, 95 % interval", "p", "seeds", "published")
    lines, notes = [], dict[str, None]()
    for id, data, names in HEADLINE:
        experiment = EXPERIMENTS[id]
        rows = {row.name: row for row in experiment.table(data)}
        table = from_cells(experiment, data, results)
        entries = {entry["row"]: entry for entry in table["rows"]}
        for name, over in experiment.over(list(rows.values())).items():
            if name in entries and over in entries and name in (names or entries):
                lines += _pair(rows[over], rows[name], entries[over], entries[name])
                if rows[name].note:
                    notes[f"{_method(rows[name])}{_by(rows[name])}: {rows[name].note}"] = None
        notes |= dict.fromkeys(experiment.headline)
    return f"{markdown_rows(head, lines)}\n" + "".join(f"- {note}\n" for note in notes)


def _pair(plain: Row, enhanced: Row, first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, ...]]:
    tests = {test["metric"]: test for test in paired_tests(second) if test["row"] == plain.name}
    title = plain.of_task.spec(plain.backbone).title_of(plain.config().model.backbone)
    lines = []
    for metric in (each for each in plain.metrics if each.key in tests):
        test, digits = tests[metric.key], 2 if metric.scale > 1 else 4
        low, high, difference = (f"{metric.scale * test[key]:+.{digits}f}" for key in ("low", "high", "difference"))
        printed = [
            f"{(row.printed or {})[metric.key]:.{digits}f}" for row in (plain, enhanced) if metric.key in (row.printed or {})
        ]
        lines.append(
            (
                f"{plain.data}, {metric.title}" + (" in %" if metric.scale == 100 else ""),
                f"{title} + {_method(enhanced)}{_by(enhanced)}",
                *(_spread(entry[f"test_{metric.key}"], metric, digits) + _marked(entry) for entry in (first, second)),
                f"{difference} [{low}, {high}]",
                f"{test['p_holm']:.4f} (Holm over {test['holm_over']})",
                str(len(test["seeds"])),
                " → ".join(printed),
            )
        )
    return lines


def _method(row: Row) -> str:
    return row.of_task.methods[row.enhance].title_of(row.config().model.of(row.enhance)) if row.enhance else row.name


def _by(row: Row) -> str:
    return "" if row.preset == "ours" else f" ({row.preset})"


def _spread(found: Mapping[str, float], metric: Metric, digits: int) -> str:
    return f"{metric.scale * found['mean']:.{digits}f} ± {metric.scale * found['sd']:.{digits}f}"


def _marked(entry: Mapping[str, Any]) -> str:
    return " (stale)" if "stale" in entry else ""


def _section(experiment: Experiment, data: str, results: Path, folder: Path, told: set[str | Path]) -> str:
    """told: notes, and cells whose making is said, of earlier sections; this one's are added"""
    rows, table, file = experiment.table(data), from_cells(experiment, data, results), table_file(experiment, data, results)
    parts = [f"### {experiment.id} on {data}"]
    lines: list[str] = []
    for part in render(experiment, data, rows, table):
        if isinstance(part, str):
            lines += part.splitlines()
        else:
            parts.append(markdown(part))
    kept: Mapping[str, Any] = read_json(file, RunError) if file.exists() else {}
    extra = {key: value for key, value in kept.items() if key not in {*heading(experiment, data), *table}}
    if experiment.extra is not None and extra:
        parts += map(markdown, experiment.extra.show(extra))
        images = [os.path.relpath(results / "figures" / name, folder) for name in extra.get("files", ())]
        parts += [" ".join(f"![{Path(image).stem}]({Path(image).as_posix()})" for image in images)] if images else []
        if table["not_run"] or table["stale"]:
            lines.append("the figures are of an earlier state of the cells")
    if table["not_run"]:
        seeds: dict[str, list[str]] = {}
        for cell in table["not_run"]:
            row, _, seed = cell.rpartition(" ")
            seeds.setdefault(row, []).append(seed)
        lines.append(f"not run: {', '.join(' '.join((row, *own)) for row, own in seeds.items())}")
    notes = {line for line in lines if line.startswith("note: ")}
    if again := notes & told:
        lines = [*(line for line in lines if line not in again), "the notes of this paper's tables above hold here, too"]
    told |= notes
    if lines:
        parts.append("".join(f"- {line}\n" for line in lines).rstrip())
    if made := _made(experiment, data, rows, results, told):
        parts.append(f"<details><summary>what made it</summary>\n\n{made}\n</details>")
    return "\n\n".join(parts) + "\n"


def _made(experiment: Experiment, data: str, rows: Sequence[Row], results: Path, told: set[str | Path]) -> str:
    """The command, the data and the digest of each row's first cell, where no table above says them."""
    shop, lines = cells_alone(experiment, data, results), []
    for row in rows:
        file = next((path for seed in row.cells if (path := shop.cell_path(row, seed)).exists()), None)
        if file is not None and file not in told:
            told.add(file)
            cell = read_json(file, RunError)
            command = f"`{cell['command'].removeprefix('braidrec fit ')}`" if cell["command"] else "counts"
            held = cell.get("data") or {}
            split = held.get("split", {})
            wide = held.get("vocabulary", "train") != "train"
            said = [held.get("name", ""), split.get("kind", ""), f"vocabulary {held['vocabulary']}" if wide else ""]
            said += [f"{split['cold_items']:.0%} of items hidden"] if split.get("cold_items") else []
            said += [f"`{held['fingerprint']}`"] if held.get("fingerprint") else []
            lines.append((row.name, command, ", ".join(filter(None, said)), f"`{cell.get('digest')}`"))
    return markdown_rows(("row", "`braidrec fit`", "data, vocabulary of train unless said", "settings"), lines) if lines else ""


# -- Markdown -------------------------------------------------------------------------------------------------------------


def markdown(table: Table) -> str:
    """A table as it is printed, its title above it."""
    from rich.text import Text

    def plain(value: Any) -> str:
        return Text.from_markup(str(value)).plain

    columns = [[plain(cell) for cell in column.cells] for column in table.columns]
    right = [column.justify == "right" for column in table.columns]
    body = markdown_rows([plain(column.header) for column in table.columns], list(zip(*columns, strict=True)), right)
    return f"**{plain(table.title)}**\n\n{body.rstrip()}" if table.title else body.rstrip()


def markdown_rows(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool] | None = None) -> str:
    """Lines of one table; a bar within a cell is text, a line break within one a space."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |\n"

    rule = ["---:" if at else "---" for at in right or [False] * len(head)]
    return line(head) + f"| {' | '.join(rule)} |\n" + "".join(map(line, rows))
