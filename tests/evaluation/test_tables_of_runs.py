"""Evaluations and comparisons of small runs of both tasks: what stands in which cell, and what the p values are of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from rich.table import Table
from sklearn.metrics import log_loss, roc_auc_score

import small_runs
from braidrec.evaluation.significance import paired_rank_test, paired_test
from braidrec.runs.fit import fit
from braidrec.runs.run import Run
from braidrec.runs.tables import comparison_tables, evaluation_table
from small_runs import disco, plain


@cache
def sequential(backbone: str, seed: int = 1) -> Run:
    """One short epoch on the world of the ranking runs."""
    path = small_runs.root() / f"tables-{backbone}-s{seed}"
    return fit(
        small_runs.dataset(),
        path=path,
        backbone=backbone,
        seed=seed,
        model={"dim": 8, "length": 6},
        training={"max_epochs": 1, "batch_size": 256},
        show_progress=False,
    )


def columns(table: Table) -> dict[str, list[str]]:
    return {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}


def by_hand(p_values: Sequence[float]) -> list[float]:
    """Holm: the smallest times m, the next times m - 1 .., none below the one before it."""
    found, largest = dict[int, float](), 0.0
    for at, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - at) * p_values[place]))
        found[place] = largest
    return [found[place] for place in range(len(p_values))]


def test_a_ranking_stands_beside_its_baselines_with_auc_and_log_loss() -> None:
    run, dataset = plain(), small_runs.dataset()
    table = evaluation_table([run.path], "test", baselines=True)
    found, test = columns(table), dataset.split["test"]
    assert list(found) == ["slice", "rows", "positive", "popularity", "item mean", "item mean + user residual", run.title]
    label, scores = dataset.log.label[test], run.outcome().values["scores"].astype(np.float64)
    chance = 1 / (1 + np.exp(-scores))
    first, interval = found[run.title][0].splitlines()
    assert first == f"{roc_auc_score(label, scores):.4f} / {log_loss(label, chance):.4f}"
    low, high = map(float, re.findall(r"0\.\d{4}", interval))
    assert low < roc_auc_score(label, scores) < high
    assert (found["rows"][0], found["positive"][0]) == (f"{len(test):,}", f"{int(label.sum()):,}")
    assert re.fullmatch(r"0\.\d{4}\n\[0\.\d{4}, 0\.\d{4}\]", found["popularity"][0]), "no log loss of what is no probability"
    assert "all" in found["slice"]
    assert {"seen users", "unseen users", "warm items", "cold items", "tail"} <= set(found["slice"])
    assert str(table.caption).startswith("AUC / log loss, [95 % interval of AUC over users]")


def test_a_next_item_model_stands_beside_its_baselines_with_hits_and_ndcg() -> None:
    run = sequential("sasrec")
    table = evaluation_table([run.path], "test", baselines=True)
    found, rank = columns(table), run.outcome().values["rank"]
    assert list(found) == ["slice", "rows", "users", "popularity", "item-kNN", "Markov", "EASE", run.title]
    within = rank <= 10
    first, *intervals = found[run.title][0].splitlines()
    assert first == f"{100 * within.mean():.4f} / {100 * (within / np.log2(rank + 1)).mean():.4f}"
    assert [line.split(" ")[0] for line in intervals] == ["HR", "nDCG"]
    below = dict(zip(found["slice"], found[run.title], strict=True))
    assert below["MRR@10, %"] == f"{100 * (within / rank).mean():.4f}"
    listed = np.unique(run.outcome().values["top"][:, :10])
    assert below["coverage@10, %"] == f"{100 * np.count_nonzero(listed) / run.dataset.num_items:.4f}"
    assert str(table.caption).startswith("HR@10 / nDCG@10 in %, [95 % interval over users]")


@pytest.mark.parametrize("part", ["valid", "test"])
def test_a_table_without_baselines_has_the_model_alone(part: str) -> None:
    for run in (plain(), sequential("sasrec")):
        found = columns(evaluation_table([run.path], part, baselines=False))
        assert list(found)[3:] == [run.title]
        assert found["rows"][0] == f"{len(run.dataset.split[part]):,}"


def test_a_comparison_of_rankings_tests_auc() -> None:
    runs = [plain(1), disco(1), plain(2), disco(2)]
    evaluation, tests = comparison_tables([run.path for run in runs])
    assert list(columns(evaluation))[3:] == [
        *("popularity", "item mean", "item mean + user residual"),
        *(f"{title} s{seed}" for seed in (1, 2) for title in ("DIN (ours)", "DIN + DisCo (ours)")),
    ]
    dataset, found = small_runs.dataset(), columns(tests)
    scores = [np.stack([run(seed).outcome().values["scores"] for seed in (1, 2)]) for run in (disco, plain)]
    test = dataset.split["test"]
    expected = paired_test(dataset.log.label[test], dataset.log.user[test], *scores)
    assert (found["model"], found["metric"]) == (["DIN + DisCo (ours)"], ["AUC"])
    assert found["difference"] == [f"{expected.difference:+.4f}"]
    assert found["95 % interval"] == [f"{expected.low:+.4f} .. {expected.high:+.4f}"]
    assert found["p"] == [f"{expected.p_value:.4f}"]
    gaps = [
        roc_auc_score(dataset.log.label[test], ours) - roc_auc_score(dataset.log.label[test], theirs)
        for ours, theirs in zip(*scores, strict=True)
    ]
    assert found["by seed"] == [f"1:{gaps[0]:+.4f} 2:{gaps[1]:+.4f}"]
    assert str(tests.title).startswith("against DIN (ours): 10,000 resamples of ")
    assert str(tests.title).endswith("two-sided, Holm over 1")


def test_a_comparison_of_sequences_corrects_over_models_and_both_metrics() -> None:
    first, *others = (sequential(name) for name in ("sasrec", "gru4rec", "caser"))
    evaluation, tests = comparison_tables([run.path for run in (first, *others)])
    assert list(columns(evaluation))[3:] == [
        "popularity",
        "item-kNN",
        "Markov",
        "EASE",
        *(run.title for run in (first, *others)),
    ]
    found, users = columns(tests), first.outcome().user
    expected = [
        paired_rank_test(users, *(each.outcome().values["rank"][None] for each in (run, first)), metric=metric)
        for metric in ("hr", "ndcg")
        for run in others
    ]
    pairs = list(zip(found["metric"], found["model"], strict=True))
    assert sorted(pairs) == sorted((metric, run.title) for metric in ("HR@10", "nDCG@10") for run in others)
    order = [pairs.index((metric, run.title)) for metric in ("HR@10", "nDCG@10") for run in others]
    for at, test in zip(order, expected, strict=True):
        assert found["difference"][at] == f"{100 * test.difference:+.3f}"
        assert found["95 % interval"][at] == f"{100 * test.low:+.3f} .. {100 * test.high:+.3f}"
    corrected = by_hand([test.p_value for test in expected])
    assert [found["p"][at] for at in order] == [f"{value:.4f}" for value in corrected]
    assert any(value > test.p_value for value, test in zip(corrected, expected, strict=True))
    assert pairs == sorted(pairs, key=lambda pair: [metric for metric, _ in pairs].index(pair[0])), "a metric at a time"
    assert str(tests.title).startswith("x100, against SASRec (ours): 10,000 resamples of ")
    assert str(tests.title).endswith("two-sided, Holm over 4")
