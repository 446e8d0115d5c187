"""What the command line prints: data sets, evaluations and comparisons as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from braidrec.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.table import Table

    from braidrec.data.dataset import Dataset
    from braidrec.evaluation.report import RankingReport
    from braidrec.runs.run import Run


def plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """Text columns left, columns of numbers right; brackets in titles and cells are text, not markup."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left")
    for at, name in enumerate(columns):
        numeric = all(
            isinstance(row[at], int | float) or str(row[at]).replace(",", "").replace(".", "").isdigit() for row in rows
        )
        table.add_column(escape(name), justify="right" if rows and numeric else "left")
    for row in rows:
        table.add_row(
            *(
                f"{cell:,}" if isinstance(cell, int) else f"{cell:.4f}" if isinstance(cell, float) else escape(str(cell))
                for cell in row
            )
        )
    return table


def dataset_tables(dataset: Dataset) -> list[Table | str]:
    """Counts, fields and notes of a prepared data set."""
    counts, manifest = dataset.manifest["counts"], dataset.manifest
    samples, positives = counts["samples"], counts["positives"]
    rows: list[tuple[str, Any]] = [
        ("events", counts["events"]),
        ("users", counts["users"]),
        ("items (met in the log)", f"{counts['items']:,} ({counts['items_met']:,})"),
        *(
            (f"{part} samples (positive)", f"{samples[part]:,} ({positives[part] / max(samples[part], 1):.1%})")
            for part in samples
        ),
        ("users, items of the training part", f"{counts['train_users']:,}, {counts['train_items']:,}"),
        ("test rows of an unseen user", counts["test_rows_user_unseen"]),
        ("test rows of an unseen item (items)", f"{counts['test_rows_item_unseen']:,} ({counts['test_items_unseen']:,})"),
        ("split, vocabulary", f"{dataset.settings.split.kind}, {dataset.settings.vocabulary}"),
    ]
    if counts["hidden_items"]:
        rows.append(("items hidden from training", counts["hidden_items"]))
    if manifest["rows_skipped"]:
        rows.append(("bad rows skipped", manifest["rows_skipped"]))
    fields = [(name, about["owner"], about["values"], about["rows"]) for name, about in manifest["fields"].items()]
    fields += [(scaling.name, f"{scaling.owner} (number)", "-", "-") for scaling in dataset.features.scalings]
    return [
        plain_table(f"{dataset.name} at {dataset.path}", ("", ""), rows),
        plain_table("fields", ("field", "of", "values in the log", "in the vocabulary"), fields),
        *(f"note: {note}" for note in manifest["notes"]),
    ]


def evaluation_table(paths: Sequence[Path], part: str, *, baselines: bool) -> Table:
    """Runs on one data set side by side, the rankings without learning first."""
    from rich.markup import escape

    from braidrec.evaluation.report import render
    from braidrec.runs.run import baseline_reports, load

    runs = [load(path) for path in paths]
    _same_rows(runs)
    reports: dict[str, RankingReport] = {}
    if baselines and part == "test" and runs[0].negatives is None:
        reports |= baseline_reports(runs[0].dataset)
    title = f"{runs[0].dataset.name}, {part} part, vocabulary {runs[0].dataset.settings.vocabulary}: AUC / log loss"
    for run, name in zip(runs, _labels(runs), strict=True):
        reports[name] = run.evaluate(part)
    table = render(reports)
    table.title = escape(title)
    return table


def comparison_tables(paths: Sequence[Path]) -> list[Table]:
    """The evaluation of every run, and the paired test of each model against the first.

    Runs that differ by seed alone are one model; only seeds that both sides have are compared.
    """
    from braidrec.evaluation.significance import holm, paired_test
    from braidrec.runs.run import load, part_slices
    from braidrec.runs.scoring import part_labels

    runs = [load(path) for path in paths]
    _same_rows(runs)
    models: dict[str, dict[int, Run]] = {}
    names: dict[str, str] = {}
    for run in runs:
        key = repr(replace_seed(run))
        names.setdefault(key, run.title if run.title not in names.values() else f"{run.title} [{run.path.name}]")
        models.setdefault(key, {})[run.config.seed] = run
    if len(models) < 2:
        raise ConfigError("compare needs at least two models: these runs differ by their seed alone")
    (first, reference), *others = models.items()
    dataset, negatives = runs[0].dataset, runs[0].negatives
    labels = part_labels(dataset, "test", negatives)
    users, _ = part_slices(dataset, "test", negatives)
    tests = []
    for key, model in others:
        seeds = sorted(set(model) & set(reference))
        if not seeds:
            raise ConfigError(f"{names[key]} and {names[first]} share no seed; train both with the same seeds")
        scores = [np.stack([side[seed].scores() for seed in seeds]) for side in (model, reference)]
        tests.append((key, seeds, paired_test(labels, users, *scores)))
    adjusted = holm([test.p_value for _, _, test in tests])
    rows = [
        (
            names[key],
            f"{test.difference:+.4f}",
            f"{test.low:+.4f} .. {test.high:+.4f}",
            " ".join(f"{seed}:{value:+.4f}" for seed, value in zip(seeds, test.per_seed, strict=True)),
            f"{p_value:.4f}",
        )
        for (key, seeds, test), p_value in zip(tests, adjusted, strict=True)
    ]
    title = (
        f"AUC against {names[first]}: {tests[0][2].resamples:,} resamples of {tests[0][2].clusters:,} users, two-sided, Holm"
    )
    table = plain_table(title, ("model", "difference", "95 % interval", "by seed", "p"), rows)
    return [evaluation_table(paths, "test", baselines=True), table]


def replace_seed(run: Run) -> Any:
    """The run's config with the seed taken out and its paths made whole, so that runs of one model look alike."""
    config = run.config
    base = None if config.knowledge is None else str(Path(config.knowledge).resolve())
    return config.model_copy(update={"seed": 0, "data": str(Path(config.data).resolve()), "knowledge": base})


def _labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run: its title, with its seed and then its path where that alone is not enough."""
    names = [run.title for run in runs]
    for more in (lambda run: f" s{run.config.seed}", lambda run: f" [{run.path}]"):
        names = [name + more(run) if names.count(name) > 1 else name for run, name in zip(runs, list(names), strict=True)]
    return names


def read_ids(path: Path) -> list[str]:
    """One raw id a line; empty lines are passed over.  Raises DataError when the file cannot be read as UTF-8."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as cause:
        raise DataError(f"{path}: cannot be read as a list of ids, one a line ({cause})") from None


def _same_rows(runs: Sequence[Run]) -> None:
    prints = {run.dataset.fingerprint for run in runs}
    if len(prints) > 1:
        names = ", ".join(f"{run.path} on {run.dataset.path}" for run in runs)
        raise ConfigError(f"these runs were trained on different data, so their test rows differ: {names}")
    drawn = {run.path: run.negatives.per_positive if run.negatives else 0 for run in runs}
    if len(set(drawn.values())) > 1:
        names = ", ".join(f"{path}: {count}" for path, count in drawn.items())
        raise ConfigError(f"these runs draw different numbers of negatives, so their test rows differ: {names}")
