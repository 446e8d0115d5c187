"""The task: what training knows, what a row reads and bars, its metrics, its answers, and what it refuses."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_worlds import GIVEN, fitted, pairs_in_parts, random_graph, tables_of

from braidrec.collaborative.baskets import Baskets
from braidrec.collaborative.scoring import known_positions, part_rows, score, training_graph, training_positions, user_slices
from braidrec.collaborative.task import TASK as ROOM
from braidrec.config import RunRequest, resolve
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.intake.sources import read_public
from braidrec.data.settings import SplitConfig
from braidrec.errors import ConfigError, DataError
from braidrec.evaluation.retrieval import Ranking
from braidrec.evaluation.retrieval_report import row_gains
from braidrec.strict import parse
from small_runs import root

# user, item, part; user 3 has nothing in training, user 4 nothing held out
PAIRS = [
    *((1, item, part) for item, part in ((1, "train"), (2, "train"), (3, "valid"), (4, "test"), (5, "test"))),
    *((2, item, part) for item, part in ((2, "train"), (1, "test"))),
    *((3, item, part) for item, part in ((6, "valid"), (2, "test"))),
    *((4, item, part) for item, part in ((1, "train"), (6, "train"))),
]


def dataset(name: str = "given") -> Dataset:
    user, item, part = (np.array(column) for column in zip(*PAIRS, strict=True))
    return pairs_in_parts(np.column_stack([user, item]), part, 7, name)


def ordered(kind: str) -> Dataset:
    """Users 1..6 meet 5 of 8 items in turn, liking all but the second."""
    rows = [(user, 1 + (user + at) % 8, at * 10 + user, float(at != 1)) for user in range(1, 7) for at in range(5)]
    events = dict(zip(("user", "item", "time", "label"), map(list, zip(*rows, strict=True)), strict=True))
    tables = tables_of(events, 8, f"ordered-{kind}", timestamp="time", label="label")
    shares = {} if kind.startswith("leave") else {"ratios": (0.6, 0.2, 0.2)}
    settings = PrepareSettings(split=SplitConfig.model_validate({"kind": kind, "min_history": 0, **shares}))
    return Dataset.prepare(tables, root() / f"ordered-{kind}", settings, overwrite=True)


def config(backbone: str = "item-knn", **more: Any) -> Any:
    return resolve(RunRequest(data="-", task="collaborative", backbone=backbone, **more), "test")


# the split ---------------------------------------------------------------------------------------------------------------


def test_a_ready_made_split_bars_training_alone_so_that_validation_items_are_candidates() -> None:
    data = dataset()
    held = part_rows(data, "test")
    assert held.rows.user.tolist() == [1, 2, 3]
    targets = np.split(held.rows.targets, held.rows.target_start[1:-1])
    assert [each.tolist() for each in targets] == [[4, 5], [1], [2]]
    owner, seen = held.rows.seen(np.arange(3))
    assert list(zip(owner.tolist(), seen.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 2)]
    assert len(training_graph(data)) == 5
    assert part_rows(data, "valid").rows.user.tolist() == [1, 3]


def test_where_the_split_follows_order_a_row_reads_and_bars_all_that_came_before() -> None:
    data = ordered("leave_last_two")
    assert len(training_positions(data)) == 18
    test = part_rows(data, "test")
    assert np.diff(test.rows.seen_last - test.rows.seen_first).tolist() == [0] * 5
    assert (test.rows.seen_last - test.rows.seen_first).tolist() == [4] * 6  # disliked ones are barred, too
    assert test.graph.user_counts[1:].tolist() == [3] * 6  # and not read
    timed = ordered("temporal")
    assert known_positions(timed, "test").tolist() == list(range(int(timed.split["test"][0])))
    assert np.array_equal(training_positions(timed), np.arange(int(timed.split["valid"][0])))


def test_the_same_cut_by_another_name_is_the_same_protocol() -> None:
    last, few, timed = ordered("leave_last_two"), ordered("leave_k_out"), ordered("temporal")
    assert np.array_equal(known_positions(few, "test"), known_positions(last, "test"))
    border = [int(timed.log.timestamp[timed.split[part][0]]) for part in ("valid", "test")]
    cut = SplitConfig.model_validate({"kind": "date", "min_history": 0, "valid_from": border[0], "test_from": border[1]})
    dated = replace(timed, settings=timed.settings.model_copy(update={"split": cut}))
    for part in ("valid", "test"):
        assert np.array_equal(known_positions(dated, part), known_positions(timed, part))
    assert np.array_equal(known_positions(dated, "train"), training_positions(dated))


def test_a_shuffled_split_trains_on_all_that_is_not_held_out() -> None:
    data = ordered("ratio")
    held = np.concatenate([data.split["valid"], data.split["test"]])
    assert np.array_equal(training_positions(data), np.setdiff1d(np.arange(len(data.log)), held))


def test_data_without_a_positive_are_refused() -> None:
    events = {"user": [1, 1, 1, 2], "item": [1, 2, 3, 1], "label": [0, 0, 1, 0], "part": ["train", "valid", "test", "train"]}
    tables = tables_of(events, 3, "nothing-liked", label="label", part="part")
    data = Dataset.prepare(tables, root() / "nothing-liked", GIVEN, overwrite=True)
    with pytest.raises(DataError, match="none of the events of training is a positive"):
        training_graph(data)
    with pytest.raises(DataError, match="the part 'valid' holds no positive"):
        part_rows(data, "valid")


# metrics -----------------------------------------------------------------------------------------------------------------


def test_recall_and_ndcg_by_hand() -> None:
    """Three targets at ranks 1, 3 and 25: recall@20 2/3, nDCG@20 (1 + 1/2) / (1 + 1/log2(3) + 1/2)."""
    ranking = Ranking(np.array([1, 3, 25]), np.zeros((1, 20), np.int32), np.zeros(3, bool), np.zeros(3, np.int64))
    assert row_gains(ranking, "recall", 20).tolist() == [pytest.approx(2 / 3)]
    assert row_gains(ranking, "ndcg", 20).tolist() == [pytest.approx(1.5 / (1.5 + 1 / math.log2(3)))]
    assert row_gains(ranking, "recall", 2).tolist() == [pytest.approx(1 / 3)]  # over all of them, not over two


@given(st.integers(0, 10_000), st.integers(1, 25))
def test_metrics_are_those_of_a_loop_over_users(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    users, items = 5, 30
    relevant = [rng.choice(items, rng.integers(1, 8), replace=False) for _ in range(users)]
    order = [rng.permutation(items) for _ in range(users)]
    rank = np.concatenate([np.argsort(own)[each] + 1 for own, each in zip(order, relevant, strict=True)])
    row = np.repeat(np.arange(users), [len(each) for each in relevant])
    ranking = Ranking(rank, np.zeros((users, 1), np.int32), np.zeros(len(rank), bool), row)
    for at, (own, wanted) in enumerate(zip(order, relevant, strict=True)):
        hits = np.isin(own[:k], wanted)
        dcg = float((hits / np.log2(np.arange(2, len(hits) + 2))).sum())
        best = float((1 / np.log2(np.arange(2, min(k, len(wanted)) + 2))).sum())
        assert row_gains(ranking, "recall", k)[at] == pytest.approx(hits.sum() / len(wanted))
        assert row_gains(ranking, "ndcg", k)[at] == pytest.approx(dcg / best)


def test_metrics_are_those_of_ir_measures_on_generated_cases() -> None:
    measures = pytest.importorskip("ir_measures")
    rng = np.random.default_rng(0)
    for _ in range(200):
        items, wanted = 40, rng.choice(40, rng.integers(1, 15), replace=False)
        order = rng.permutation(items)
        qrels = [measures.Qrel("q", str(item), 1) for item in wanted]
        run = [measures.ScoredDoc("q", str(item), float(items - at)) for at, item in enumerate(order)]
        rank = np.argsort(order)[wanted] + 1
        row = np.zeros(len(wanted), np.int64)
        ranking = Ranking(rank, np.zeros((1, 20), np.int32), np.zeros(len(wanted), bool), row)
        known = measures.calc_aggregate([measures.R @ 20, measures.nDCG @ 20], qrels, run)
        assert row_gains(ranking, "recall", 20)[0] == pytest.approx(known[measures.R @ 20], abs=1e-12)
        assert row_gains(ranking, "ndcg", 20)[0] == pytest.approx(known[measures.nDCG @ 20], abs=1e-12)


@pytest.mark.skipif("BRAIDREC_DATA" not in os.environ, reason="needs the public data")
def test_the_popularity_floor_of_rlmrec_to_the_printed_digits(tmp_path: Path) -> None:
    try:
        tables = read_public("rlmrec-amazon-book", download=False)
    except DataError as cause:
        pytest.skip(str(cause))
    data = Dataset.prepare(tables, tmp_path / "amazon", PrepareSettings(split=SplitConfig(kind="given")))
    printed = {"valid": ("0.0106", "0.0174", "0.0295", "0.0111", "0.0132", "0.0170")}
    printed["test"] = ("0.0112", "0.0181", "0.0318", "0.0116", "0.0139", "0.0182")
    for part, users in (("valid", 9_857), ("test", 9_860)):
        outcome = ROOM.baseline("popularity", None, data, part)
        assert outcome is not None
        report = ROOM.report(outcome, None, data, part)
        assert report["all"].rows == users
        keys = [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in (5, 10, 20)]
        assert tuple(f"{report['all'][key]:.4f}" for key in keys) == printed[part]


# plan, outcome, report ----------------------------------------------------------------------------------------------------


def test_outcomes_have_a_line_for_every_target_and_reports_a_row_for_every_user() -> None:
    data = dataset()
    outcome = ROOM.baseline("item-knn", None, data, "test")
    assert outcome is not None
    assert outcome.user.tolist() == [1, 1, 2, 3]
    assert outcome.item.tolist() == [4, 5, 1, 2]
    assert outcome.values["top"].shape == (3, 20)
    report = ROOM.report(outcome, None, data, "test", min_rows=1)
    assert report["all"].rows == 3
    assert report["new_users"].rows == 1
    assert report["up_to_10_items"].rows == 2
    # user 3 has nothing: popularity, by which item 2 (two users, as item 1) comes second
    assert outcome.values["rank"].tolist()[-1] == 2
    same = ROOM.tests([outcome], [outcome], None, data, "test")
    assert [test.metric for test in same] == ["recall@20", "ndcg@20"]
    assert same[0].difference == 0.0


def test_reports_have_what_both_papers_print() -> None:
    data = dataset()
    outcome = ROOM.baseline("item-knn", None, data, "test")
    assert outcome is not None
    report = ROOM.report(outcome, None, data, "test", min_rows=1)
    wanted = {f"{name}@{k}" for name in ("recall", "ndcg", "precision", "f1", "ndcg_all") for k in (5, 10, 15, 20)}
    assert wanted <= report["all"].values.keys()
    assert {"recall@20", "ndcg@20"} <= report.intervals.keys()


def test_slices_of_users_are_by_what_training_knows_of_them() -> None:
    counts = np.array([0, 0, 1, 10, 11, 50, 51])
    masks = user_slices(np.arange(1, 7, dtype=np.int32), counts).masks
    assert {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()} == {
        "all": [0, 1, 2, 3, 4, 5],
        "new_users": [0],
        "up_to_10_items": [1, 2],
        "11_to_50_items": [3, 4],
        "more_than_50_items": [5],
    }


def test_who_has_nothing_gets_what_most_have_and_what_came_later_last() -> None:
    graph = random_graph()
    model, counts = fitted("item-knn", graph), torch.from_numpy(graph.item_counts)
    people = Baskets.of([np.array([1, 4], np.int32), np.array([], np.int32)])
    found = score(model, people, counts[:14])  # as if the last two had come later
    assert torch.equal(found[0], model.scores(people)[0])
    assert found[1].tolist() == [*graph.item_counts[:14].tolist(), 0, 0]


def test_a_whole_model_takes_no_enhancer_and_no_training() -> None:
    with pytest.raises(ConfigError, match="backbone 'ease' can be enhanced by nothing; it goes with sasrec, gru4rec, caser"):
        parse(RunRequest, {"data": "-", "backbone": "ease", "enhance": "pad"}, "test")
    with pytest.raises(ConfigError, match="'ease' is fitted at once, so there is nothing to set here; drop lr"):
        config("ease", training={"lr": 0.1})


@pytest.mark.parametrize(("key", "value"), [("tables", "lazy"), ("tables", "rowwise"), ("table_lr", 0.05)])
def test_updates_of_big_tables_are_refused_where_tables_are_dense(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"training\.{key} = '?{value}'? is for ranking models; models of pairs train dense"):
        ROOM.plan(config("lightgcn", training={key: value}), dataset(), None, show_progress=False)


def test_settings_of_a_whole_model_may_stand_in_its_table_itself() -> None:
    assert config("ease", model={"penalty": 7.0}).model.backbone.penalty == 7.0
    found = config("ease", model={"text": "regularise", "backbone": {"pull": 3.0}}, knowledge="k").model.backbone
    assert (found.text, found.pull) == ("regularise", 3.0)
    with pytest.raises(ConfigError, match="unknown key 'penlty'"):
        config("ease", model={"penlty": 7.0})


def test_text_is_read_where_there_is_a_knowledge_base_unless_something_else_is_said() -> None:
    assert config("ease").model.backbone.text == "none"
    assert not config("ease").reads_text
    assert config("ease", knowledge="k").model.backbone.text == "stack"
    assert config("ease", knowledge="k").title == "EASE with text"
    assert config("ease", knowledge="k", model={"text": "none"}).title == "EASE"
    assert config("ease", model={"text": "stack"}).reads_text


def test_odd_text_vectors_are_refused_by_the_item_s_name() -> None:
    data = dataset()
    text = np.ones((data.num_items + 1, 4), np.float32)
    text[3, 1] = np.nan
    with pytest.raises(ConfigError, match="the text vector of item '3' holds NaN or infinity"):
        ROOM.plan(config("text-knn", knowledge="k"), data, text, show_progress=False)
