"""docs/results.md and docs/results/: a short overview, and a page for each paper with every table under results/.

What a page says follows from the result files and from the experiments as data, nothing else, so a test can write it again.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from braidrec.errors import ConfigError
from braidrec.experiments import darec, disco, edk, linear, markdown, pad, sdrl
from braidrec.experiments.cells import paired_tests
from braidrec.experiments.experiment import About, Experiment
from braidrec.experiments.reproduce import EXPERIMENTS, from_cells, measured, table_file
from braidrec.experiments.rows import Row
from braidrec.experiments.sections import PERCENT, Section, Told, difference, p_said
from braidrec.files import write_text
from braidrec.registry import Metric

# Around the table of a page that is otherwise somebody's own.
BEGIN, END = "<!-- results: written by braidrec reproduce --page -->", "<!-- end of results -->"

# (experiment, data, rows; without any, all that are over another)
HEADLINE: Sequence[tuple[str, str, Sequence[str]]] = (
    ("disco/tuned", "ml-1m", ("din-disco-tuned", "deepfm-disco-tuned", "dcn-disco-tuned")),
    ("pad/table3", "prime-pantry", ()),
    ("pad/table2", "prime-pantry", ("sasrec-pad-paper",)),
)
ABOUT: Mapping[str, About] = {room.EXPERIMENTS[0].paper: room.ABOUT for room in (disco, edk, pad, darec, sdrl, linear)}
_TITLE = "# Results"
_INTRODUCTION = f"""\
{_TITLE}

What was measured here, paper by paper: one table each, the best row first, **in bold** what is counted or solved at once, which
whatever is trained has to beat. Every row, test, shortfall and command is on the paper's own page.

Numbers are means over seeds ± their standard deviation on the test part, scored once by the weights that validation chose;
differences to another row are over the same users, with their 95 % interval and a p that allows for all tests of the row's
table. "printed" is what the paper prints. More: [how to read the pages](#how-to-read-the-pages).
"""
_READING = """\
## How to read the pages

Written by `braidrec reproduce --page docs/results.md` from the files under `results/`: one small file per row and seed (a
*cell*), with its settings as resolved, their digest, the data and the test numbers. `braidrec reproduce` lists the tables;
`braidrec reproduce pad/table2` makes the cells that are missing or stale and prints the same.

- "printed" is what the paper prints, "here" what was measured here, "gain" what a row is better by than its reference: a share
  of hits and nDCG, a difference of AUC and log loss. Rows stand in the experiment's order, so that pairs are together.
- Paired tests resample users; p is adjusted by Holm's method over all tests of the one table that it stands in, or of the
  named family there, whose number stands beside it. A named family is also tested with seeds as a sample ("seeds drawn too"):
  users and seeds as crossed random effects, by Student's t with Satterthwaite's degrees of freedom.
- Tests of variants with one seed, and those that a table above has, are counted, not listed. The result files have them all,
  seed by seed, with raw p (`p_value`, beside `p_holm`, `holm_over` and `over_seeds`), and four digits where pages have two.
- A note, a test and what made a row stand once, at the first table of a page that has them, and hold for those below it.
- *stale*: today's settings or data are others than those that the number was made with; a note says which. *not run*: there
  is no cell.
"""


def write_page(file: Path, results: Path = Path("results")) -> list[Path]:
    """Write the overview and, into a folder of its name, the pages of papers; into a file with the two marks their one table.

    Returns the files written.  Raises ConfigError for a file that is there and is neither, so that no other page is lost.
    """
    held = file.read_text(encoding="utf-8") if file.exists() else ""
    begin, found, after = held.partition(f"{BEGIN}\n")
    _, ended, rest = after.partition(END)
    if found and ended:
        write_text(file, f"{begin}{BEGIN}\n{headline(results)}{END}{rest}")
        return [file]
    written = pages(file, results)
    for each in written:
        if each.exists() and not each.read_text(encoding="utf-8").startswith(_TITLE):
            raise ConfigError(
                f"{each}: is no page of results and has no place for the table (a line '{BEGIN}', and '{END}' below)"
            )
    for each, text in written.items():
        each.parent.mkdir(parents=True, exist_ok=True)
        write_text(each, text)
    return list(written)


def pages(file: Path, results: Path) -> dict[Path, str]:
    """The overview as ``file`` has it, and a page for each paper with a table, in the folder beside it."""
    folder = file.with_suffix("")
    found = {paper: _page(paper, results, folder, file) for paper in ABOUT}
    parts = [_INTRODUCTION]
    for paper, about in ABOUT.items():
        if found[paper] is not None:
            parts += [_summary(about, results, f"{folder.name}/{paper}.md")]
    named = {file: "\n".join([*parts, _READING])}
    return named | {folder / f"{paper}.md": text for paper, text in found.items() if text is not None}


def _page(paper: str, results: Path, folder: Path, overview: Path) -> str | None:
    """All tables of a paper, those left out named at the top; None where nothing was run."""
    told, sections, missing = Told(), dict[str, str](), list[str]()
    for each in (each for each in EXPERIMENTS.values() if each.paper == paper):
        for data in each.rows:
            section = Section.read(each, data, results, folder)
            made = table_file(each, data, results).exists() or section.table["rows"]
            if made and (text := section.written(told)):
                sections[section.title] = text
            else:
                missing.append(f"`{each.id}` on {data}")
    if not sections:
        return None
    about = ABOUT[paper]
    up = Path(os.path.relpath(overview, folder)).as_posix()
    parts = [
        f"{_TITLE}: {about.title}\n",
        f"{_said(about)}\n\nWhat the words mean: [{overview.name}]({up}#how-to-read-the-pages).\n",
        "".join(f"- [{title}](#{markdown.anchor(title)})\n" for title in sections),
    ]
    if missing:
        parts.append(f"Not run, or with no row that no table here has: {', '.join(missing)}.\n")
    return "\n".join([*parts, *sections.values()])


def _summary(about: About, results: Path, link: str) -> str:
    """What the overview says of a paper: where its gain comes from, and its rows of note, the best first."""
    found = [line for id, data, names in about.tables for line in _rows_of(EXPERIMENTS[id], data, names, results, about)]
    several = len({line.data for line in found}) > 1
    metric = next((line.metric for line in found), None)
    parts = [f"## {about.title}\n", f"{_said(about)}\n"]
    if metric is not None:
        order = list(dict.fromkeys(line.data for line in found))
        found.sort(key=lambda line: (order.index(line.data), -line.mean))
        value = _unit(metric) + ("" if several else f" on {order[0]}")
        head = ("data", "model", value, "seeds", "difference, 95 % interval, p", "printed")
        parts.append(markdown.rows(head, [((line.data if several else ""), *line.cells) for line in found]))
    return "\n".join([*parts, f"Every table: [{link}]({link})\n"])


def _said(about: About) -> str:
    return textwrap.fill(f"**Where a gain comes from.** {about.gain}", 128, break_long_words=False, break_on_hyphens=False)


def _unit(metric: Metric) -> str:
    return metric.title + (" in %" if metric.scale == 100 else "")


@dataclass(frozen=True)
class _Line:
    """A row of the overview."""

    data: str
    metric: Metric
    mean: float
    cells: tuple[str, ...]


def _rows_of(experiment: Experiment, data: str, names: Mapping[str, str], results: Path, about: About) -> list[_Line]:
    rows = {row.name: row for row in experiment.table(data)}
    lines = []
    for entry in from_cells(experiment, data, results)["rows"]:
        row = rows[entry["row"]]
        metric = next((each for each in row.metrics if each.key == about.metric), None)
        if row.name not in names or metric is None or not entry.get(f"test_{metric.key}"):
            continue
        value, digits, title = entry[f"test_{metric.key}"], PERCENT if metric.scale > 1 else 4, names[row.name]
        printed = (row.printed or {}).get(metric.key)
        tests = [test for test in paired_tests(entry) if test["metric"] == metric.key and test["row"] in names]
        cells = (
            f"**{title}**" if row.name in about.rivals else title,
            measured(value, metric, len(entry["seeds"]), digits) + _marked(entry),
            "-" if row.once else str(len(entry["seeds"])),
            "<br>".join(f"to {names[test['row']]}: {difference(test, metric)}, p {p_said(test['p_holm'])}" for test in tests),
            "" if printed is None else f"{printed:.{digits}f}",
        )
        lines.append(_Line(data, metric, value["mean"], cells))
    return lines


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
    return f"{markdown.rows(head, lines)}\n" + "".join(f"- {note}\n" for note in notes)


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
                f"{plain.data}, {_unit(metric)}",
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
