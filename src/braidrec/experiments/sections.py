"""One table of a page of results: its numbers, its paired tests, what it has besides, what should be known, what made it.

What stands above on the same page is not said again: notes, rows, tests, commands.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from braidrec.errors import RunError
from braidrec.experiments import markdown
from braidrec.experiments.cells import paired_tests
from braidrec.experiments.experiment import Experiment
from braidrec.experiments.reproduce import (
    by_slice,
    caption,
    cells_alone,
    from_cells,
    heading,
    notes_of_rows,
    numbers,
    readers,
    seeds_said,
    table_file,
    trained_on,
)
from braidrec.experiments.rows import Row
from braidrec.files import read_json
from braidrec.registry import Metric

PERCENT = 2  # digits of what is told x100
_SURE = 0.05


@dataclass(frozen=True)
class Told:
    """What a page has said: notes, rows by data set with their seeds, tests, cells whose making is said."""

    notes: set[str] = field(default_factory=set)
    rows: dict[tuple[str, str], set[int]] = field(default_factory=dict)
    tests: set[tuple[str, str, str, tuple[int, ...]]] = field(default_factory=set)
    cells: set[Path] = field(default_factory=set)


@dataclass(frozen=True)
class Section:
    """An experiment on a data set as its cells have it.

    table: the summary of its rows    extra: what was drawn or counted besides    folder: where the page lies
    """

    experiment: Experiment
    data: str
    results: Path
    folder: Path
    table: Mapping[str, Any]
    extra: Mapping[str, Any]

    @classmethod
    def read(cls, experiment: Experiment, data: str, results: Path, folder: Path) -> Section:
        table, file = from_cells(experiment, data, results), table_file(experiment, data, results)
        kept: Mapping[str, Any] = read_json(file, RunError) if file.exists() else {}
        drawn = {key: value for key, value in kept.items() if key not in {*heading(experiment, data), *table}}
        return cls(experiment, data, results, folder, table, drawn if experiment.extra else {})

    @property
    def title(self) -> str:
        return f"{self.experiment.id} on {self.data}: {self.experiment.title}"

    def written(self, told: Told) -> str | None:
        """Its Markdown, and what it says is told from now on; None where it has nothing that is not above."""
        rows = self.experiment.table(self.data)
        entries = {entry["row"]: entry for entry in self.table["rows"]}
        new = [name for name, entry in entries.items() if not told.rows.get((self.data, name), set()) >= set(entry["seeds"])]
        if not new and not self.extra:
            return None
        parts, some = [f"## {self.title}"], list[Row]()
        if new:
            wanted = {metric.key for metric in rows[0].metrics if metric.shown}
            some += [row for row in rows if row.name in entries or wanted & set(row.printed or {})]
            said = caption(self.experiment, rows)
            parts += [f"Numbers: {said}."] if said else []
            parts.append(markdown.markdown(numbers(self.experiment, self.data, some, entries, percent=PERCENT), titled=False))
        elif entries:
            parts.append(f"Of rows that stand above: {', '.join(map(self.experiment.label, entries))}.")
        if self.experiment.slices and rows:
            parts.append(markdown.markdown(by_slice(self.experiment, rows, entries, percent=PERCENT)))
        parts += self._tests(rows, entries, told)
        for name, entry in entries.items():
            told.rows.setdefault((self.data, name), set()).update(entry["seeds"])
        if self.experiment.extra is not None and self.extra:
            parts += map(markdown.markdown, self.experiment.extra.show(self.extra))
            files = [self._relative(self.results / "figures" / name) for name in self.extra.get("files", ())]
            parts += [" ".join(f"![{Path(file).stem}]({file})" for file in files)] if files else []
        if lines := self._remarks(some, entries, told):
            parts.append("".join(f"- {line}\n" for line in lines).rstrip())
        if made := self._made(rows, told):
            parts.append(f"<details><summary>what made it</summary>\n\n{made}\n</details>")
        return "\n\n".join(parts) + "\n"

    def _relative(self, file: Path) -> str:
        return Path(os.path.relpath(file, self.folder)).as_posix()

    # -- paired tests -----------------------------------------------------------------------------------------------------

    def _tests(self, rows: Sequence[Row], entries: Mapping[str, Mapping[str, Any]], told: Told) -> list[str]:
        """A table for each family: a line for each pair of rows that carries a claim, and how the others came out."""
        families: dict[str, dict[tuple[str, str], list[Mapping[str, Any]]]] = {}
        for row in rows:
            for test in paired_tests(entries.get(row.name, {})):
                families.setdefault(row.family, {}).setdefault((row.name, test["row"]), []).append(test)
        variants = {row.name for row in rows if row.ablation}
        parts = []
        for family, pairs in families.items():
            keys = {pair: (self.data, *pair, tuple(tests[0]["seeds"])) for pair, tests in pairs.items()}
            kept = {
                pair: tests
                for pair, tests in pairs.items()
                if keys[pair] not in told.tests and not (pair[0] in variants and len(tests[0]["seeds"]) == 1)
            }
            told.tests.update(keys.values())
            parts.append(self._family(family, kept, pairs, rows))
        return parts

    def _family(
        self,
        family: str,
        kept: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]],
        pairs: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]],
        rows: Sequence[Row],
    ) -> str:
        tests = [test for found in pairs.values() for test in found]
        metrics = [each for each in rows[0].metrics if any(test["metric"] == each.key for test in tests)]
        first = tests[0]
        over = f"{first['holm_over']} tests of {family}" if family else f"this table's {first['holm_over']} tests"
        title = f"**paired tests: {first['resamples']:,} resamples of {first['users']:,} users, two-sided, Holm over {over}**"
        if not kept:
            return f"{title}: {self._folded(tests)}"
        parts = [title]
        head = ["model", "against"]
        for metric in metrics:
            head += [f"{metric.title}, 95 % interval", "p", *(("p, seeds drawn too",) if family else ())]
        parts.append(markdown.rows([*head, "seeds"], [self._pair(*each, metrics, bool(family)) for each in kept.items()]))
        folded = [test for pair, found in pairs.items() if pair not in kept for test in found]
        if folded:
            parts.append(f"And {self._folded(folded)}")
        return "\n\n".join(part.rstrip() for part in parts)

    def _pair(
        self, pair: tuple[str, str], tests: Sequence[Mapping[str, Any]], metrics: Sequence[Metric], named: bool
    ) -> list[str]:
        found, cells = {test["metric"]: test for test in tests}, list(map(self.experiment.label, pair))
        for metric in metrics:
            if (test := found.get(metric.key)) is None:
                cells += ["", "", *([""] if named else [])]
                continue
            cells += [difference(test, metric), p_said(test["p_holm"])]
            if named:
                drawn = test["over_seeds"]
                cells.append("one seed" if drawn is None else p_said(drawn["p_holm"]))
        return [*cells, seeds_said(tests[0]["seeds"])]

    def _folded(self, tests: Sequence[Mapping[str, Any]]) -> str:
        file = table_file(self.experiment, self.data, self.results)
        chances = sorted(test["p_holm"] for test in tests)
        sure = sum(p < _SURE for p in chances)
        return (
            f"{len(tests)} of variants with one seed, or of rows tested above, are in [{file.name}]({self._relative(file)}): "
            f"{sure} with p below {_SURE:g}, the smallest {p_said(chances[0])}."
        )

    # -- what should be known ---------------------------------------------------------------------------------------------

    def _remarks(self, shown: Sequence[Row], entries: Mapping[str, Mapping[str, Any]], told: Told) -> list[str]:
        """shown: rows whose numbers stand here; what is said of other than rows stands once"""
        short = [f"**shortfall**: {each}" for each in self.experiment.shortfalls]
        notes = [*readers(self.experiment, entries), *self.experiment.notes]
        lines = [line for line in short if line not in told.notes]
        lines += [f"{names}: {note}" for names, note in notes_of_rows(self.experiment, shown)]
        lines += [note for note in notes if note not in told.notes]
        told.notes.update(short, notes)
        lines += trained_on(self.experiment, {row.name: entries[row.name] for row in shown if row.name in entries})
        lines += [f"**stale**: {each['cell']}: {'; '.join(each['differs'])}" for each in self.table["stale"]]
        if self.extra and (self.table["not_run"] or self.table["stale"]):
            lines.append("the figures are of an earlier state of the cells")
        if self.table["not_run"]:
            lines.append(f"not run: {not_run(self.table['not_run'], self.experiment)}")
        return lines

    def _made(self, rows: Sequence[Row], told: Told) -> str:
        """The command, the data and the digest of each row's first cell, where no table above says them."""
        shop, lines = cells_alone(self.experiment, self.data, self.results), []
        for row in rows:
            file = next((path for seed in row.cells if (path := shop.cell_path(row, seed)).exists()), None)
            if file is not None and file not in told.cells:
                told.cells.add(file)
                cell = read_json(file, RunError)
                command = f"`{cell['command'].removeprefix('braidrec fit ')}`" if cell["command"] else "counts"
                held = cell.get("data") or {}
                split = held.get("split", {})
                wide = held.get("vocabulary", "train") != "train"
                said = [held.get("name", ""), split.get("kind", ""), f"vocabulary {held['vocabulary']}" if wide else ""]
                said += [f"{split['cold_items']:.0%} of items hidden"] if split.get("cold_items") else []
                said += [f"`{held['fingerprint']}`"] if held.get("fingerprint") else []
                lines.append((row.name, command, ", ".join(filter(None, said)), f"`{cell.get('digest')}`"))
        if not lines:
            return ""
        count = self.table["digest_from_command"]
        older = f"\n{count} cells are older than digests; theirs is what their command gives today.\n" if count else ""
        return (
            markdown.rows(
                ("row", "`braidrec fit --set by_size=false`", "data, vocabulary of train unless said", "settings"), lines
            )
            + older
        )


def difference(test: Mapping[str, Any], metric: Metric) -> str:
    """With its 95 % interval."""
    digits = PERCENT if metric.scale > 1 else 4
    gap, low, high = (f"{metric.scale * test[key]:+.{digits}f}" for key in ("difference", "low", "high"))
    return f"{gap} [{low}, {high}]"


def p_said(p: float) -> str:
    return f"{p:.4f}" if p >= 0.00005 else "<0.0001"


def not_run(cells: Sequence[str], experiment: Experiment) -> str:
    """Rows by the seeds that they lack; cells as in a summary, such as "din s1"."""
    seeds: dict[str, list[int]] = {}
    for cell in cells:
        row, _, seed = cell.rpartition(" s")
        seeds.setdefault(row, []).append(int(seed))
    rows: dict[tuple[int, ...], list[str]] = {}
    for row, own in seeds.items():
        rows.setdefault(tuple(own), []).append(experiment.label(row))
    return "; ".join(
        f"{'seed' if len(own) == 1 else 'seeds'} {', '.join(map(str, own))} of {', '.join(names)}"
        for own, names in rows.items()
    )
