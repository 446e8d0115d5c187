"""What the command line prints about sequence models: rankings of the whole catalogue side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from braidrec.data.dataset import Dataset
from braidrec.data.sequences import training_ends, training_events
from braidrec.evaluation.retrieval import Ranking, rank_targets
from braidrec.evaluation.retrieval_report import RetrievalReport, render_retrieval
from braidrec.evaluation.sequential_baselines import ItemKNN, Markov, Popularity, sequential_baselines
from braidrec.evaluation.significance import holm, paired_rank_test
from braidrec.runs.next_item import part_rows
from braidrec.runs.run import Run
from braidrec.runs.sequential import LISTED, as_sequential, report_of
from braidrec.runs.tables import models_by_seed, plain_table, run_labels, shared_seeds

if TYPE_CHECKING:
    from rich.table import Table


def simple_rankings(dataset: Dataset, part: str) -> dict[str, Ranking]:
    """Popularity, item-kNN and first-order Markov chain by the training sequences."""
    rows = part_rows(dataset, part)
    scorers: Sequence[Popularity | ItemKNN | Markov]
    scorers = sequential_baselines(rows, *training_events(dataset.log, training_ends(dataset)))
    return {scorer.name: rank_targets(scorer, rows, top=LISTED) for scorer in scorers}


def sequential_evaluation_table(runs: Sequence[Run], part: str, baselines: bool) -> Table:
    """HR@10 / nDCG@10 by slice, the rankings without learning first."""
    from rich.markup import escape

    own = [as_sequential(run) for run in runs]
    dataset, buckets = own[0].dataset, own[0].settings.buckets
    reports: dict[str, RetrievalReport] = {}
    if baselines:
        reports |= {name: report_of(dataset, each, part, buckets) for name, each in simple_rankings(dataset, part).items()}
    for run, name in zip(own, run_labels(runs), strict=True):
        report = run.evaluate(part)
        alike = run.settings.buckets == buckets  # one table has one set of buckets, the first run's
        reports[name] = report if alike else report_of(dataset, run.ranks(part), part, buckets)
    table = render_retrieval(reports)
    table.title = escape(f"{dataset.name}, {part} part, all {dataset.num_items:,} items ranked, items met before left out")
    return table


def sequential_comparison_tables(runs: Sequence[Run]) -> list[Table]:
    """The evaluation of every run, and paired tests of nDCG@10 and HR@10 of each model against the first."""
    reference, *others = models_by_seed([as_sequential(run) for run in runs])
    users = part_rows(runs[0].dataset, "test").user
    tests = []
    for metric in ("ndcg", "hr"):
        for model in others:
            seeds = shared_seeds(model, reference)
            ranks = [np.stack([side.runs[seed].ranks().rank for seed in seeds]) for side in (model, reference)]
            tests.append((model.name, seeds, paired_rank_test(users, *ranks, metric="ndcg" if metric == "ndcg" else "hr")))
    adjusted = holm([test.p_value for _, _, test in tests])
    rows = [
        (
            name,
            test.metric,
            f"{100 * test.difference:+.3f}",
            f"{100 * test.low:+.3f} .. {100 * test.high:+.3f}",
            " ".join(f"{seed}:{100 * value:+.3f}" for seed, value in zip(seeds, test.per_seed, strict=True)),
            f"{p_value:.4f}",
        )
        for (name, seeds, test), p_value in zip(tests, adjusted, strict=True)
    ]
    first = tests[0][2]
    title = f"x100, against {reference.name}: {first.resamples:,} resamples of {first.users:,} users, two-sided, Holm"
    table = plain_table(title, ("model", "metric", "difference", "95 % interval", "by seed", "p"), rows)
    return [sequential_evaluation_table(runs, "test", True), table]
