"""What the command line prints: data sets, evaluations and comparisons as tables, of any task."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braidrec import shown
from braidrec.config import RunConfig, from_toml
from braidrec.errors import ConfigError, DataError, remedy
from braidrec.files import understanding
from braidrec.registry import Metric

if TYPE_CHECKING:
    from rich.table import Table

    from braidrec.data.dataset import Dataset
    from braidrec.data.intake.readers import ReadConfig
    from braidrec.evaluation.report import Report
    from braidrec.evaluation.significance import PairedTest
    from braidrec.runs.run import Because, Run
    from braidrec.task import Outcome, Share, Task

    Opened = Callable[[Path], Run]


def plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """Text columns left, columns of numbers right; brackets in titles and cells are text, not markup."""
    from rich.markup import escape as unmarked
    from rich.table import Table

    def escape(text: str) -> str:
        return unmarked(shown.escape(text))  # here, so that columns are as wide as what is shown

    table = Table(title=escape(title), title_justify="left")
    for at, name in enumerate(columns):
        numeric = all(
            isinstance(row[at], int | float) or str(row[at]).replace(",", "").replace(".", "").isdigit() for row in rows
        )
        table.add_column(escape(name), justify="right" if rows and numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(
            *(
                f"{cell:,}" if isinstance(cell, int) else f"{cell:.4f}" if isinstance(cell, float) else escape(str(cell))
                for cell in row
            )
        )
    return table


def reasons(because: Sequence[Because], most: int = 3) -> str:
    """The first of what is behind a score, in words: each one's share, and what comes by text of all of it."""
    if not because:
        return "what most have"
    names = [textwrap.shorten(each.title or each.item, 40, placeholder="…") for each in because[:most]]
    shown = [f"{name} {each.share:.0%}" for name, each in zip(names, because, strict=False) if each.share > 0]
    text = [each.text for each in because if each.text is not None]
    return "; ".join(shown) + (f" (text: {sum(text):z.0%} of all)" if text else "")


def divided(parts: Sequence[Share], most: int = 3) -> str:
    """What the named parts of a model bring to a score, in words: each one's share, and the first of what it knows by."""

    def said(each: Share) -> str:
        names = [f"{name} {much:.0%}" for name, much in each.says[:most]]
        return f"{each.name} {each.share:.0%}" + (f" ({', '.join(names)})" if names else "")

    return "; ".join(said(each) for each in parts)


def dataset_tables(dataset: Dataset) -> list[Table | str]:
    """Counts, fields and notes of a prepared data set."""
    with understanding(dataset.path / "manifest.json", DataError):
        return _dataset_tables(dataset)


def _dataset_tables(dataset: Dataset) -> list[Table | str]:
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


def evaluation_table(
    paths: Sequence[Path], part: str, *, baselines: bool, min_rows: int | None = None, opened: Opened | None = None
) -> Table:
    """Runs of one task on one data set side by side, the rankings without learning first.

    min_rows: fewer are marked    opened: how a run is opened, where `braidrec.load` needs more than its path
    """
    return _evaluation(load_alike(paths, opened), part, baselines=baselines, min_rows=min_rows)


def comparison_tables(paths: Sequence[Path], opened: Opened | None = None, *, baselines: bool = False) -> list[Table | str]:
    """The evaluation of every run, and the paired tests of each model against the first, Holm's correction over all of them.

    Runs that differ by seed alone are one model (`models_by_seed`); only seeds that both sides have are compared.  Notes, if
    any, come last.
    baselines: every model is tested against each ranking without learning, too, which goes with all seeds; one model will do
    Raises ConfigError where there is nothing to compare with.
    """
    runs = load_alike(paths, opened)
    (reference, *others), notes = models_by_seed(runs, least=1 if baselines else 2)
    config, dataset, task = runs[0].config, runs[0].dataset, runs[0].task
    found: list[_Tested] = []
    for model in others:
        seeds = shared_seeds(model, reference)
        own, against = ([side.runs[seed].outcome() for seed in seeds] for side in (model, reference))
        tests = task.tests(own, against, config, dataset, "test")
        found += [_Tested(model.name, reference.name, seeds, test) for test in tests]
    simple = dict(baseline_outcomes(task, config, dataset, "test")) if baselines else {}
    for model in (reference, *others):
        own = [run.outcome() for run in model.runs.values()]
        for name, outcome in simple.items():
            tests = task.tests(own, [outcome] * len(own), config, dataset, "test")
            found += [_Tested(model.name, name, list(model.runs), test) for test in tests]
    if not found:
        raise ConfigError(
            f"{dataset.name}: no ranking without learning goes with these test rows, so there is nothing to compare "
            f"{reference.name} with; give a second model"
        )
    metrics = [each.test.metric for each in found]
    by_metric = sorted(found, key=lambda each: metrics.index(each.test.metric))  # stable
    return [_evaluation(runs, "test", baselines=True), _tests(by_metric, task.spec.metrics), *notes]


@dataclass(frozen=True)
class _Tested:
    """A paired test of a model against another, or a ranking without learning, on these seeds."""

    model: str
    against: str
    seeds: Sequence[int]
    test: PairedTest


def _evaluation(runs: Sequence[Run], part: str, *, baselines: bool, min_rows: int | None = None) -> Table:
    from rich.markup import escape

    from braidrec.evaluation.report import render

    config, dataset, task = runs[0].config, runs[0].dataset, runs[0].task
    reports = baseline_reports(task, config, dataset, part, min_rows=min_rows) if baselines else {}
    for run, name in zip(runs, run_labels(runs), strict=True):
        # one table has one set of slices, the first run's
        own = run.evaluate(part, min_rows=min_rows)
        if run is runs[0]:
            wanted = [each.name for each in own.slices]
        alike = [each.name for each in own.slices] == wanted
        reports[name] = own if alike else task.report(run.outcome(part), config, dataset, part, min_rows=min_rows)
    table = render(reports)
    table.title = escape(f"{dataset.name}, {part} part, vocabulary {dataset.settings.vocabulary}")
    if baselines:
        registry = task.spec.baselines
        broken = [escape(f"note: {cause}") for name in registry if (cause := registry.trouble(name))]
        missing = [title for spec in registry.usable().values() if (title := spec.title_of(spec.config())) not in reports]
        absent = [f"note: not here, as it does not go with these rows: {', '.join(map(escape, missing))}"] if missing else []
        table.caption = "\n".join([str(table.caption), *absent, *broken])
    return table


def baseline_reports(
    task: Task, config: RunConfig, dataset: Dataset, part: str, *, min_rows: int | None = None
) -> dict[str, Report]:
    """The rankings without learning that go with the rows of ``part`` and can be used here, by their titles."""
    return {
        name: task.report(outcome, config, dataset, part, min_rows=min_rows)
        for name, outcome in baseline_outcomes(task, config, dataset, part)
    }


def baseline_outcomes(task: Task, config: RunConfig, dataset: Dataset, part: str) -> Iterator[tuple[str, Outcome]]:
    """What the rankings without learning that go with the rows of ``part`` and can be used here made of them, with titles."""
    for name, spec in task.spec.baselines.usable().items():
        outcome = task.baseline(name, config, dataset, part)
        if outcome is not None:
            yield spec.title_of(spec.config()), outcome


def _tests(found: Sequence[_Tested], metrics: Sequence[Metric]) -> Table:
    """With a column for what each is tested against, unless that is the same for all."""
    from braidrec.evaluation.significance import holm

    known = {metric.key: metric for metric in metrics}
    adjusted = holm([each.test.p_value for each in found])
    several = len({each.against for each in found}) > 1
    rows = []
    for each, p_value in zip(found, adjusted, strict=True):
        test = each.test
        metric = known.get(test.metric, Metric(test.metric, test.metric))
        digits = 3 if metric.scale > 1 else 4
        difference, low, high = (f"{metric.scale * value:+.{digits}f}" for value in (test.difference, test.low, test.high))
        by_seed = " ".join(
            f"{seed}:{metric.scale * value:+.{digits}f}" for seed, value in zip(each.seeds, test.per_seed, strict=True)
        )
        names = (each.model, each.against) if several else (each.model,)
        rows.append((*names, metric.title, difference, f"{low} .. {high}", by_seed, f"{p_value:.4f}"))
    first = found[0].test
    scale = next((f"x{metric.scale:g}, " for metric in metrics if metric.scale != 1), "")
    what = "paired tests" if several else f"against {found[0].against}"
    title = f"{scale}{what}: {first.resamples:,} resamples of {first.users:,} users, two-sided, Holm over {len(found)}"
    columns = ("model", "against") if several else ("model",)
    return plain_table(title, (*columns, "metric", "difference", "95 % interval", "by seed", "p"), rows)


# -- runs beside one another ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeededModel:
    """Runs that differ by their seed alone, by that seed."""

    name: str
    runs: Mapping[int, Run]


def models_by_seed(runs: Sequence[Run], *, least: int = 2) -> tuple[list[SeededModel], list[str]]:
    """In order of appearance, the reference first, and what could not be compared, in words.

    Runs are one model when their settings are equal but for the seed and for the runs whose stages they take over, which must
    be one model themselves.  Where such a run's folder is gone, the names of the stages are all that is compared.
    Raises ConfigError for fewer models than ``least``, and when two runs are the same model of the same seed.
    """
    models: list[tuple[str, dict[int, Run]]] = []
    for run in runs:
        own = next((by_seed for _, by_seed in models if _same(next(iter(by_seed.values())).config, run.config)), None)
        if own is None:
            names = [name for name, _ in models]
            models.append((run.title if run.title not in names else f"{run.title} [{run.path.name}]", {run.config.seed: run}))
        elif run.config.seed in own:
            raise ConfigError(
                f"{own[run.config.seed].path} and {run.path} are the same model with the same seed ({run.config.seed}); "
                "compare takes one of them"
            )
        else:
            own[run.config.seed] = run
    if len(models) < least:
        raise ConfigError(
            "compare needs at least two models: these runs differ by their seed alone; against rankings without learning "
            "one will do, with --baselines"
        )
    gone = sorted({path for run in runs for path in _gone(run.config)})
    notes = [
        f"note: {path} is not there: of what takes a stage over from it, the names of the stages were compared alone"
        for path in gone
    ]
    return [SeededModel(name, by_seed) for name, by_seed in models], notes


def shared_seeds(model: SeededModel, reference: SeededModel) -> list[int]:
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


def _same(first: RunConfig, second: RunConfig) -> bool:
    """Whether two configs are of one model, by the rule of `models_by_seed`."""
    own, other = (config.model.givers() for config in (first, second))
    if own.keys() != other.keys() or _settings(first) != _settings(second):
        return False
    return all(
        str(Path(own[stage]).resolve()) == str(Path(other[stage]).resolve())
        or (one := _config(own[stage])) is None
        or (two := _config(other[stage])) is None
        or _same(one, two)
        for stage in own
    )


def _settings(config: RunConfig) -> RunConfig:
    """So that configs of one model are equal: without seed, machine, where stages come from and folders that nothing reads,
    other paths made whole.
    """
    knowledge = config.knowledge if config.chosen.task.room().reads_text(config) else ()
    return config.model_copy(
        update={
            "seed": 0,
            "data": str(Path(config.data).resolve()),
            "knowledge": tuple(str(Path(each).resolve()) for each in knowledge),
            "model": config.model.without_givers(),
            "training": config.training.without_machine(),
        }
    )


def _config(path: str) -> RunConfig | None:
    """Of a run directory, None where it is gone."""
    file = Path(path) / "config.toml"
    return from_toml(file) if file.exists() else None


def _gone(config: RunConfig) -> Iterator[str]:
    """Runs that stages were taken over from, at any remove, and that are not there."""
    for path in config.model.givers().values():
        other = _config(path)
        if other is None:
            yield path
        else:
            yield from _gone(other)


def load_alike(paths: Sequence[Path], opened: Opened | None = None) -> list[Run]:
    """Runs that can stand in one table: of one task, on one data set, with the same evaluation rows.

    Raises ConfigError saying which are not.
    """
    from braidrec.runs.run import load

    runs = [(opened or load)(path) for path in paths]
    tasks = {run.config.task for run in runs}
    if len(tasks) > 1:
        names = ", ".join(f"{run.path}: {run.config.task}" for run in runs)
        raise ConfigError(f"these runs are of different tasks, so no number of one means anything beside the other's: {names}")
    if not all(run.dataset.identity.matches(runs[0].dataset.identity) for run in runs):
        names = ", ".join(f"{run.path} on {run.dataset.path}" for run in runs)
        raise ConfigError(f"these runs were trained on different data, so their test rows differ: {names}")
    drawn = {run.path: run.config.negatives or run.dataset.settings.negatives or 0 for run in runs}
    if len(set(drawn.values())) > 1:
        names = ", ".join(f"{path}: {count}" for path, count in drawn.items())
        raise ConfigError(f"these runs draw different numbers of negatives, so their test rows differ: {names}")
    return runs


def read_ids(path: Path, read: ReadConfig | None = None) -> list[str]:
    """One raw id a line; empty lines are passed over.  read: its encoding.  Raises DataError where it cannot be read so."""
    encoding = "utf-8" if read is None else read.only(("encoding",), "a list of ids").encoding
    try:
        text = path.read_text(encoding="utf-8-sig" if encoding == "utf-8" else encoding)
    except OSError as cause:
        raise DataError(f"{path}: cannot be read as a list of ids, one a line ({cause})") from None
    except UnicodeError as cause:
        raise DataError(
            f"{path}: cannot be read as a list of ids, one a line ({cause}); say its encoding, such as "
            + remedy('read=ReadConfig(encoding="latin-1")', "--read encoding=latin-1")
        ) from None
    return [line.strip() for line in text.splitlines() if line.strip()]
