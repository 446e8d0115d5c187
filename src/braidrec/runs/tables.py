"""What the command line prints: data sets, evaluations and comparisons as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from braidrec.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.table import Table

    from braidrec.data.dataset import Dataset
    from braidrec.evaluation.report import RankingReport
    from braidrec.runs.ranking import RankingRun
    from braidrec.runs.run import Run

AnyRun = TypeVar("AnyRun", bound="Run")


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
    """Runs of one task on one data set side by side, the rankings without learning first."""
    runs = _load_alike(paths)
    if runs[0].config.task == "sequential":
        from braidrec.runs.sequential_tables import sequential_evaluation_table

        return sequential_evaluation_table(runs, part, baselines)
    return _ranking_evaluation(_rankings(runs), part, baselines)


def comparison_tables(paths: Sequence[Path]) -> list[Table]:
    """The evaluation of every run, and the paired test of each model against the first.

    Runs that differ by seed alone are one model; only seeds that both sides have are compared.
    """
    runs = _load_alike(paths)
    if runs[0].config.task == "sequential":
        from braidrec.runs.sequential_tables import sequential_comparison_tables

        return sequential_comparison_tables(runs)
    return _ranking_comparison(_rankings(runs))


def _ranking_evaluation(runs: Sequence[RankingRun], part: str, baselines: bool) -> Table:
    from rich.markup import escape

    from braidrec.evaluation.report import render
    from braidrec.runs.ranking import baseline_reports

    reports: dict[str, RankingReport] = {}
    if baselines and part == "test" and runs[0].negatives is None:
        reports |= baseline_reports(runs[0].dataset)
    title = f"{runs[0].dataset.name}, {part} part, vocabulary {runs[0].dataset.settings.vocabulary}: AUC / log loss"
    for run, name in zip(runs, run_labels(runs), strict=True):
        reports[name] = run.evaluate(part)
    table = render(reports)
    table.title = escape(title)
    return table


def _ranking_comparison(runs: Sequence[RankingRun]) -> list[Table]:
    from braidrec.evaluation.significance import holm, paired_test
    from braidrec.runs.ranking import part_slices
    from braidrec.runs.scoring import part_labels

    reference, *others = models_by_seed(runs)
    dataset, negatives = runs[0].dataset, runs[0].negatives
    labels = part_labels(dataset, "test", negatives)
    users, _ = part_slices(dataset, "test", negatives)
    tests = []
    for model in others:
        seeds = shared_seeds(model, reference)
        scores = [np.stack([side.runs[seed].scores() for seed in seeds]) for side in (model, reference)]
        tests.append((model.name, seeds, paired_test(labels, users, *scores)))
    adjusted = holm([test.p_value for _, _, test in tests])
    rows = [
        (
            name,
            f"{test.difference:+.4f}",
            f"{test.low:+.4f} .. {test.high:+.4f}",
            " ".join(f"{seed}:{value:+.4f}" for seed, value in zip(seeds, test.per_seed, strict=True)),
            f"{p_value:.4f}",
        )
        for (name, seeds, test), p_value in zip(tests, adjusted, strict=True)
    ]
    first = tests[0][2]
    title = f"AUC against {reference.name}: {first.resamples:,} resamples of {first.clusters:,} users, two-sided, Holm"
    table = plain_table(title, ("model", "difference", "95 % interval", "by seed", "p"), rows)
    return [_ranking_evaluation(runs, "test", baselines=True), table]


# -- runs beside one another, of any task ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model(Generic[AnyRun]):
    """Runs that differ by their seed alone, by that seed."""

    name: str
    runs: Mapping[int, AnyRun]


def models_by_seed(runs: Sequence[AnyRun]) -> list[Model[AnyRun]]:
    """In order of appearance, the reference first.  Raises ConfigError when all are one model."""
    models: dict[str, dict[int, AnyRun]] = {}
    names: dict[str, str] = {}
    for run in runs:
        key = repr(_without_seed(run))
        names.setdefault(key, run.title if run.title not in names.values() else f"{run.title} [{run.path.name}]")
        models.setdefault(key, {})[run.config.seed] = run
    if len(models) < 2:
        raise ConfigError("compare needs at least two models: these runs differ by their seed alone")
    return [Model(names[key], by_seed) for key, by_seed in models.items()]


def shared_seeds(model: Model[AnyRun], reference: Model[AnyRun]) -> list[int]:
    """Raises ConfigError when there are none."""
    seeds = sorted(set(model.runs) & set(reference.runs))
    if not seeds:
        raise ConfigError(f"{model.name} and {reference.name} share no seed; train both with the same seeds")
    return seeds


def run_labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run: its title, with its seed and then its path where that alone is not enough."""
    names = [run.title for run in runs]
    for more in (lambda run: f" s{run.config.seed}", lambda run: f" [{run.path}]"):
        names = [name + more(run) if names.count(name) > 1 else name for run, name in zip(runs, list(names), strict=True)]
    return names


def _without_seed(run: Run) -> Any:
    """The run's config with the seed taken out and its paths made whole, so that runs of one model look alike."""
    config = run.config
    base = None if config.knowledge is None else str(Path(config.knowledge).resolve())
    return config.model_copy(update={"seed": 0, "data": str(Path(config.data).resolve()), "knowledge": base})


def _load_alike(paths: Sequence[Path]) -> list[Run]:
    """Runs that can stand in one table: of one task, on one data set."""
    from braidrec.runs.run import load

    runs = [load(path) for path in paths]
    tasks = {run.config.task for run in runs}
    if len(tasks) > 1:
        names = ", ".join(f"{run.path}: {run.config.task}" for run in runs)
        raise ConfigError(f"these runs are of different tasks, so no number of one means anything beside the other's: {names}")
    prints = {run.dataset.fingerprint for run in runs}
    if len(prints) > 1:
        names = ", ".join(f"{run.path} on {run.dataset.path}" for run in runs)
        raise ConfigError(f"these runs were trained on different data, so their test rows differ: {names}")
    return runs


def _rankings(runs: Sequence[Run]) -> list[RankingRun]:
    from braidrec.runs.ranking import as_ranking

    found = [as_ranking(run) for run in runs]
    drawn = {run.path: run.negatives.per_positive if run.negatives else 0 for run in found}
    if len(set(drawn.values())) > 1:
        names = ", ".join(f"{path}: {count}" for path, count in drawn.items())
        raise ConfigError(f"these runs draw different numbers of negatives, so their test rows differ: {names}")
    return found


def read_ids(path: Path) -> list[str]:
    """One raw id a line; empty lines are passed over.  Raises DataError when the file cannot be read as UTF-8."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as cause:
        raise DataError(f"{path}: cannot be read as a list of ids, one a line ({cause})") from None
