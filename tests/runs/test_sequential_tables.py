"""Tables of sequence models: evaluations beside rankings without learning, comparisons over seeds."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
import sequence_runs as small
from rich.console import Console
from sequence_runs import copy_of, pad, sasrec, smem, train, walks

import small_runs
from braidrec.errors import ConfigError, DataError, RunError
from braidrec.evaluation.report import Report
from braidrec.evaluation.retrieval_report import gains
from braidrec.files import read_json
from braidrec.runs.run import Run
from braidrec.runs.tables import comparison_tables, evaluation_table
from braidrec.sequential import baselines
from braidrec.sequential.task import TASK
from braidrec.task import Outcome


def printed(value: object, width: int = 140) -> str:
    stream = io.StringIO()
    Console(width=width, file=stream).print(value)
    return stream.getvalue()


def simple_rankings(part: str) -> dict[str, Outcome]:
    """By title, as tables name them."""
    return {
        spec.title_of(spec.config()): found
        for name, spec in TASK.spec.baselines.items()
        if (found := TASK.baseline(name, None, small.dataset(), part)) is not None
    }


def ranks(run: Run) -> np.ndarray:
    return run.outcome(show_progress=False).values["rank"]


def test_simple_rankings_count_the_training_sequences() -> None:
    """Popularity and the Markov chain by hand, over all but the last two events of everybody."""
    log, split = small.dataset().log, small.dataset().split
    users = [small.dataset().user_ids[row - 1] for row in log.user[split["test"]]]
    popular, follows = np.zeros(small.ITEMS), np.zeros((small.ITEMS, small.ITEMS))
    for walk in walks():
        np.add.at(popular, walk[:-2], 1)
        np.add.at(follows, (walk[:-3], walk[1:-2]), 1)
    expected: dict[str, list[int]] = {"popularity": [], "Markov": []}
    for user in users:
        *past, target = walks()[int(user[1:])]
        for name, scores in (("popularity", popular), ("Markov", follows[past[-1]] + popular / (popular.max() + 1))):
            order = [item for item in np.argsort(-scores, kind="stable") if item not in past]
            expected[name].append(small.ITEMS if target in past else order.index(target) + 1)
    found = simple_rankings("test")
    assert list(found) == ["popularity", "item-kNN", "Markov", "EASE"]
    for name, ranks in expected.items():
        assert found[name].values["rank"].tolist() == ranks, name
    assert found["item-kNN"].values["top"].shape == (len(users), 20)


def test_ease_reads_who_met_what_in_whatever_order() -> None:
    log, split = small.dataset().log, small.dataset().split
    users = [small.dataset().user_ids[row - 1] for row in log.user[split["test"]]]
    met = np.zeros((len(walks()), small.ITEMS))
    for row, walk in enumerate(walks()):
        met[row, walk[:-2]] = 1
    precision = np.linalg.inv(met.T @ met + 100 * np.eye(small.ITEMS))
    weights = -precision / np.diag(precision)
    np.fill_diagonal(weights, 0)
    ranks = simple_rankings("test")["EASE"].values["rank"]
    for rank, user in zip(ranks, users, strict=True):
        *past, target = walks()[int(user[1:])]
        scores = weights[np.unique(past)].sum(0)
        scores[past] = -np.inf
        assert target in past or abs(int(rank) - 1 - int((scores > scores[target]).sum())) <= int(
            (np.abs(scores - scores[target]) < 1e-6).sum()
        )


def test_a_table_says_which_ranking_does_not_go_with_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "EASE_ITEMS", 5)
    run = copy_of(pad(), tmp_path / "run")
    text = printed(evaluation_table([run.path], "test", baselines=True))
    assert "note: not here, as it does not go with these rows: EASE" in text
    assert "│ EASE" not in text


def test_an_evaluation_stands_beside_rankings_without_learning(tmp_path: Path) -> None:
    run = copy_of(pad(), tmp_path / "run")
    text = printed(evaluation_table([run.path], "test", baselines=True), width=170)
    title, header = text.splitlines()[0], text.splitlines()[2]
    assert title.strip() == "rings, test part, vocabulary train"
    assert [cell.strip() for cell in re.split("[┃│]", header)[1:-1]] == [
        *("slice", "rows", "users", "popularity", "item-kNN", "Markov", "EASE"),
        run.title,
    ]
    report = Report.from_json(read_json(run.path / "evaluation.test.json", RunError))
    values = report["all"]
    assert f"{100 * values['hr@10']:.4f} / {100 * values['ndcg@10']:.4f}" in text
    markov = simple_rankings("test")["Markov"].values["rank"]
    assert f"{100 * gains(markov, 'hr', 10).mean():.4f} / {100 * gains(markov, 'ndcg', 10).mean():.4f}" in text
    for word in ("warm", "median", "cold", "unseen", "bucket 1", "bucket 4", " few ", "HR [", "MRR@10", "out of reach"):
        assert word in text, word
    assert printed(evaluation_table([run.path], "test", baselines=True), width=170) == text
    alone = printed(evaluation_table([run.path], "valid", baselines=False))
    assert "rings, valid part" in alone
    assert "Markov" not in alone
    with pytest.raises(DataError, match="the split has no part 'tests'"):
        evaluation_table([run.path], "tests", baselines=True)


def test_two_models_over_two_seeds() -> None:
    paths = [run.path for run in (sasrec(1), pad(1), sasrec(2), pad(2))]
    table, test = comparison_tables(paths)
    text = printed(table)
    for name in ("popularity", "SASRec (ours) s1", "SASRec (ours) s2", "SASRec + PAD (ours) s1", "SASRec + PAD (ours) s2"):
        assert name in " ".join(str(column.header) for column in table.columns)
    assert all(len(line) <= 140 for line in text.splitlines())
    lines = printed(test).splitlines()
    assert lines[0].strip() == "x100, against SASRec (ours): 10,000 resamples of 1,080 users, two-sided, Holm over 2"
    ndcg, hr = (next(line for line in lines if metric in line) for metric in ("nDCG@10", "HR@10"))
    for line, metric in ((ndcg, "ndcg"), (hr, "hr")):
        by_seed = [
            float(100 * (gains(ranks(pad(seed)), metric, 10) - gains(ranks(sasrec(seed)), metric, 10)).mean())
            for seed in (1, 2)
        ]
        assert "SASRec + PAD (ours)" in line
        assert f"1:{by_seed[0]:+.3f} 2:{by_seed[1]:+.3f}" in line
        low, high = re.findall(r"([+-]\d+\.\d{3}) \.\. ([+-]\d+\.\d{3})", line)[0]
        assert float(low) < sum(by_seed) / 2 < float(high)
        assert f"{sum(by_seed) / 2:+.3f}" in line
    swapped = printed(comparison_tables([paths[1], paths[0]])[1])
    assert "against SASRec + PAD (ours)" in swapped
    assert swapped.count("SASRec (ours)") == 2  # one model, two metrics


def test_only_seeds_that_both_models_have_are_compared() -> None:
    lines = printed(comparison_tables([sasrec(1).path, sasrec(2).path, smem().path])[1]).splitlines()
    assert [len(re.findall(r" \d:[+-]", line)) for line in lines if "@10" in line] == [1, 1]
    with pytest.raises(ConfigError, match="share no seed"):
        comparison_tables([sasrec(2).path, smem().path])
    with pytest.raises(ConfigError, match="differ by their seed alone"):
        comparison_tables([sasrec(1).path, sasrec(2).path])


def test_one_table_has_one_set_of_buckets(tmp_path: Path) -> None:
    """The first run's, whatever the others' gates used."""
    other = train(tmp_path / "other", model={"buckets": 3}, training={"max_epochs": 1})
    for paths, last in (([sasrec().path, other.path], 4), ([other.path, sasrec().path], 3)):
        text = printed(comparison_tables(paths)[0])
        assert [f"bucket {number} " in text for number in (last, last + 1)] == [True, False]
    assert other.evaluate(show_progress=False).slices[-1].name == "bucket_3"


def test_runs_of_two_tasks_or_data_sets_stand_in_no_table(tmp_path: Path) -> None:
    for call in (comparison_tables, lambda paths: evaluation_table(paths, "test", baselines=True)):
        with pytest.raises(ConfigError, match=r"different tasks.*: sequential, .*: ranking"):
            call([sasrec().path, small_runs.plain().path])
    data = small.prepare(tmp_path / "data", walks(1))
    other = train(tmp_path / "other", data, training={"max_epochs": 1})
    with pytest.raises(ConfigError, match="trained on different data"):
        comparison_tables([sasrec().path, other.path])
