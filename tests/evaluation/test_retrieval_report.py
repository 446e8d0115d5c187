"""Gains by hand, the report's slices and intervals, its JSON and its table."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor

from braidrec.errors import DataError
from braidrec.evaluation.report import Report, Shown, render
from braidrec.evaluation.retrieval import Ranking, RetrievalRows, rank_targets
from braidrec.evaluation.retrieval_report import (
    MANY_TARGETS,
    coverage,
    evaluate_retrieval,
    gains,
    novelty,
    row_gains,
    shown_at,
)
from braidrec.evaluation.slices import Slices

N, ITEMS = 4_000, 50


def world(hit: float = 0.3, width: int = 10) -> tuple[Ranking, np.ndarray, Slices, np.ndarray]:
    """Two rows per user; a share ``hit`` of the rows has rank 3, the rest 30; the last 100 are out of reach."""
    rng = np.random.default_rng(0)
    rank = np.where(rng.random(N) < hit, 3, 30)
    rank[-100:] = ITEMS
    at = np.arange(N)
    ranking = Ranking.single(rank, rng.integers(1, 41, (N, width)).astype(np.int32), at >= N - 100)
    slices = Slices({"all": at >= 0, "warm": at < 1_500, "cold": at < 999, "unseen": at < 0})
    return ranking, at // 2, slices, np.r_[0, np.arange(ITEMS)]


def test_gains_by_hand() -> None:
    ranks = np.array([1, 2, 10, 11])
    np.testing.assert_allclose(gains(ranks, "ndcg", 10), [1, 0.6309, 0.2891, 0], atol=5e-5)
    assert gains(ranks, "hr", 10).tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(gains(ranks, "mrr", 10), [1, 1 / 2, 1 / 10, 0])
    assert gains(ranks, "hr", 1).tolist() == gains(ranks, "ndcg", 1).tolist() == gains(ranks, "mrr", 1).tolist() == [1, 0, 0, 0]
    assert gains(ranks.reshape(2, 2), "hr", 2).tolist() == [[1, 1], [0, 0]]


def test_a_perfect_row_gains_one_whatever_the_order_of_its_targets() -> None:
    """The gained and the ideal sum add the same terms; in another order they may differ by a last bit, never above 1."""
    rng, count, targets = np.random.default_rng(0), 2_000, 12
    rank = np.concatenate([rng.permutation(targets) + 1 for _ in range(count)])
    top = np.ones((count, targets), np.int32)
    found = Ranking(rank, top, np.zeros(len(rank), bool), np.repeat(np.arange(count), targets))
    gained = row_gains(found, "ndcg", targets)
    assert gained.max() == 1
    np.testing.assert_allclose(gained, 1, rtol=1e-15)


def test_gains_are_ordered_and_bounded() -> None:
    ranks = np.arange(1, 200)
    for k in (1, 5, 20):
        hr, ndcg, mrr = (gains(ranks, metric, k) for metric in ("hr", "ndcg", "mrr"))
        assert ((hr <= 1) & (hr >= ndcg) & (ndcg >= mrr) & (mrr >= 0)).all()
        for gain in (hr, ndcg, mrr):
            assert (np.diff(gain) <= 0).all()


def test_what_is_no_rank_is_refused() -> None:
    with pytest.raises(DataError, match="the least 0; accepted: whole numbers from 1"):
        gains([1, 0], "hr", 10)
    with pytest.raises(DataError, match=r"ranks are float64"):
        gains([1.5], "hr", 10)
    with pytest.raises(DataError, match="k = 0; accepted: 1 or more"):
        gains([1], "hr", 0)
    with pytest.raises(DataError, match=r"metric 'ndgc' is unknown \(did you mean 'ndcg'\?\)"):
        gains([1], "ndgc", 10)  # type: ignore[arg-type]


def ranking_of(ranks: list[list[int]], masked: list[list[int]] | None = None) -> Ranking:
    """Rows of several targets; ``masked`` has 1 for a target that was no candidate."""
    flat, row = np.concatenate(ranks), np.repeat(np.arange(len(ranks)), [len(each) for each in ranks])
    out = np.zeros(len(flat), bool) if masked is None else np.concatenate(masked) == 1
    return Ranking(flat, np.zeros((len(ranks), 0), np.int32), out, row)


def test_gains_of_several_targets_by_hand() -> None:
    found = ranking_of([[1, 3, 50], [2], [60, 50], [5, 4, 1, 2, 3]])
    assert row_gains(found, "recall", 3).tolist() == [2 / 3, 1, 0, 3 / 5]
    assert row_gains(found, "hr", 3).tolist() == [1, 1, 0, 1]
    assert row_gains(found, "mrr", 3).tolist() == [1, 1 / 2, 0, 1]
    # ideal DCG of 3 or more targets within 3: 1 + .6309 + .5 = 2.1309
    np.testing.assert_allclose(row_gains(found, "ndcg", 3), [1.5 / 2.1309, 0.6309, 0, 1], atol=5e-5)
    np.testing.assert_allclose(row_gains(found, "ndcg", 2), [1 / 1.6309, 0.6309, 0, 1], atol=5e-5)
    assert row_gains(found, "recall", 1).tolist() == [1 / 3, 0, 0, 1 / 5]
    with pytest.raises(DataError, match=r"metric 'recal' is unknown \(did you mean 'recall'\?\)"):
        row_gains(found, "recal", 3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="k = 0; accepted: 1 or more"):
        row_gains(found, "ndcg", 0)


def test_shares_of_hits_by_hand() -> None:
    """Two hits in five for somebody with four targets: precision .4, recall .5, F1 .4444."""
    ranking = ranking_of([[1, 4, 9, 30], [7]])
    assert row_gains(ranking, "precision", 5).tolist() == [0.4, 0.0]
    assert row_gains(ranking, "f1", 5).tolist() == [pytest.approx(2 * 0.4 * 0.5 / 0.9), 0.0]
    assert row_gains(ranking, "f1", 10)[1] == pytest.approx(2 / 11)
    single = ranking_of([[3], [8]])
    assert row_gains(single, "f1", 5).tolist() == [pytest.approx(1 / 3), 0]
    assert row_gains(single, "precision", 5).tolist() == [0.2, 0]


def test_the_ideal_over_all_targets_grows_with_them_not_with_the_list() -> None:
    ranking = ranking_of([[1, 2, 30, 40], [1]])
    gained = 1 + 1 / np.log2(3)
    every = gained + 1 / np.log2(4) + 1 / np.log2(5)
    assert row_gains(ranking, "ndcg", 2).tolist() == [1, 1]
    assert row_gains(ranking, "ndcg_all", 2).tolist() == [pytest.approx(gained / every), 1]
    perfect = ranking_of([[1, 2, 3], [2, 1, 3]])
    assert row_gains(perfect, "ndcg_all", 3).tolist() == [pytest.approx(1), pytest.approx(1)]


def test_what_no_model_can_reach_counts_among_the_targets() -> None:
    found = ranking_of([[1, 4], [4, 4]], [[0, 1], [1, 1]])  # a catalogue of 4, in which the last rank is within 10
    assert row_gains(found, "recall", 10).tolist() == [1 / 2, 0]
    assert row_gains(found, "hr", 10).tolist() == [1, 0]
    np.testing.assert_allclose(row_gains(found, "ndcg", 10), [0.6131, 0], atol=5e-5)  # 1 / 1.6309
    single = ranking_of([[1], [4], [4]], [[0], [1], [0]])  # with one target in every row, too; the last one was listed last
    assert row_gains(single, "hr", 10).tolist() == row_gains(single, "recall", 10).tolist() == [1, 0, 1]
    assert row_gains(single, "mrr", 10).tolist() == [1, 0, 1 / 4]
    np.testing.assert_allclose(row_gains(single, "ndcg", 10), [1, 0, 1 / np.log2(5)])
    assert row_gains(single, "precision", 10).tolist() == [0.1, 0, 0.1]


def test_one_target_gains_the_same_among_others() -> None:
    ranks = np.arange(1, 40)
    alone = Ranking.single(ranks, np.zeros((39, 0), np.int32), np.zeros(39, bool))
    among = ranking_of([*([int(rank)] for rank in ranks), [1, 2]])
    for metric in ("hr", "ndcg", "mrr", "recall"):
        for k in (1, 7, 20):
            expected = gains(ranks, "hr" if metric == "recall" else metric, k)
            assert np.array_equal(row_gains(alone, metric, k), expected)  # to the last bit
            assert np.array_equal(row_gains(among, metric, k)[:-1], expected)


@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 2**32 - 1), items=st.integers(2, 40), k=st.integers(1, 12))
def test_several_targets_against_lists(seed: int, items: int, k: int) -> None:
    """Every metric from the sorted list of each row, as its definition says."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 8))
    scores = rng.integers(-3, 4, (count, items + 1)).astype(np.float32)
    targets = [rng.permutation(np.arange(1, items + 1))[: rng.integers(1, items + 1)].tolist() for _ in range(count)]
    seen = [rng.integers(1, items + 1, rng.integers(0, 5)).tolist() for _ in range(count)]
    sizes, stretch = [len(each) for each in targets], np.cumsum([0, *map(len, seen)])
    rows = RetrievalRows(
        np.arange(count, dtype=np.int32),
        np.concatenate(targets).astype(np.int32),
        np.cumsum([0, *sizes]),
        np.array([item for each in seen for item in each], np.int32),
        *(stretch[:-1], stretch[1:]) * 2,
        items,
    )

    class Table:
        def scores(self, wanted: np.ndarray) -> Tensor:
            return torch.from_numpy(scores[wanted])

    found = rank_targets(Table(), rows, top=k)
    for row, wanted in enumerate(targets):
        listed = [item for item in range(1, items + 1) if item not in seen[row]]
        listed.sort(key=lambda item, row=row: (-scores[row, item], item))  # type: ignore[misc]
        hits = [item in wanted for item in listed[:k]]
        gained = sum(1 / math.log2(place + 2) for place, hit in enumerate(hits) if hit)
        possible = sum(1 / math.log2(place + 2) for place in range(min(len(wanted), k)))
        expected = {
            "recall": sum(hits) / len(wanted),
            "ndcg": gained / possible,
            "hr": float(any(hits)),
            "mrr": 1 / (hits.index(True) + 1) if any(hits) else 0.0,
        }
        if len(found.rank) == count and len(listed) < items and k >= items:
            continue  # one target in every row: the last rank is a hit where k covers the catalogue, as it always was
        for metric, value in expected.items():
            assert row_gains(found, metric, k)[row] == pytest.approx(value, abs=1e-12), metric
            assert 0 <= row_gains(found, metric, k)[row] <= 1


def test_coverage_and_novelty_by_hand() -> None:
    top = np.array([[1, 2], [1, 0], [0, 0]])
    assert coverage(top, 5) == 0.4
    # counts 3 0 5 0 0: of 8 + 5 items and events, item 1 holds 4, item 2 holds 1
    counts = np.array([0, 3, 0, 5, 0, 0])
    assert novelty(top, counts) == pytest.approx((2 * math.log2(13 / 4) + math.log2(13)) / 3, abs=1e-12)
    assert coverage(np.zeros((3, 2), int), 5) == 0
    assert math.isnan(novelty(np.zeros((3, 2), int), counts))


def test_slices() -> None:
    ranking, users, slices, counts = world()
    report = evaluate_retrieval(ranking, users, slices, counts, resamples=200)
    for name in ("all", "warm"):
        hits = (ranking.rank[slices.masks[name]] == 3).mean()
        part = report[name]
        assert (part.rows, part.counts, part.reason) == (
            slices.masks[name].sum(),
            {"users": slices.masks[name].sum() // 2},
            None,
        )
        expected = {"hr@1": 0, "ndcg@1": 0, "mrr@1": 0}
        gained = {"hr": 1, "ndcg": 0.5, "mrr": 1 / 3}
        expected |= {f"{metric}@{k}": value for k in (5, 10, 20) for metric, value in gained.items()}
        assert part.values == pytest.approx({key: value * hits for key, value in expected.items()}, abs=1e-12)
    cold = report["cold"]
    assert (cold.rows, cold.few, cold.reason, list(cold.intervals)) == (999, True, None, ["hr@10", "ndcg@10"])
    assert cold["hr@10"] == (ranking.rank[slices.masks["cold"]] <= 10).mean()
    assert cold.intervals["hr@10"].low < cold["hr@10"] < cold.intervals["hr@10"].high
    assert (cold.intervals["hr@10"].users, report["warm"].few, report["warm"].intervals) == (500, False, {})
    assert len(report.notes) == 1
    assert report.notes[0].startswith("few: fewer than 1,000 rows;")
    unseen = report["unseen"]
    assert (unseen.rows, unseen.counts, set(unseen.values.values())) == (0, {"users": 0}, {None})
    assert unseen.values.keys() == report["all"].values.keys()
    assert (unseen.few, unseen.reason, unseen.intervals) == (True, "no rows", {})
    assert report.lists == {"coverage": 40 / 50, "novelty": novelty(ranking.top, counts), "masked": 0.025}
    assert report.shown == shown_at(10, 10)


def test_intervals() -> None:
    ranking, users, slices, counts = world()
    report = evaluate_retrieval(ranking, users, slices, counts, resamples=1_000)
    values = report["all"]
    for name, gain in (("hr@10", 1.0), ("ndcg@10", 0.5)):
        interval = report.intervals[name]
        assert interval.low < values[name] < interval.high
        assert (interval.resamples, interval.clusters, interval.users) == (1_000, 2_000, 2_000)
        # 4,000 independent rows of which .3 gain: two-sided width 2 * 1.96 * sqrt(.3 * .7 / 4000) = .0284
        assert interval.high - interval.low == pytest.approx(0.0284 * gain, rel=0.12)
    twice = evaluate_retrieval(ranking, np.arange(N) // 40, slices, counts, resamples=1_000)
    assert twice.intervals["hr@10"].clusters == 100


def test_rows_of_a_user_are_drawn_together() -> None:
    at = np.arange(N)
    rank = np.where(np.random.default_rng(1).random(N // 40) < 0.3, 3, 30)[at // 40]  # all 40 rows of a user alike
    ranking, counts = Ranking.single(rank, np.ones((N, 10), np.int32), at < 0), np.ones(ITEMS + 1, int)
    slices = Slices({"all": at >= 0})
    by_user = evaluate_retrieval(ranking, at // 40, slices, counts).intervals["hr@10"]
    by_row = evaluate_retrieval(ranking, at, slices, counts).intervals["hr@10"]
    assert by_user.high - by_user.low > 5 * (by_row.high - by_row.low)  # sqrt(40) = 6.3 in theory


def test_lists_of_another_length() -> None:
    ranking, users, slices, counts = world(width=20)
    report = evaluate_retrieval(ranking, users, slices, counts, resamples=20)
    assert report.lists["novelty"] == novelty(ranking.top[:, :10], counts)
    ranking, users, slices, counts = world(width=5)
    report = evaluate_retrieval(ranking, users, slices, counts, resamples=20)
    assert report.lists == {"coverage": None, "novelty": None, "masked": 0.025}
    report = evaluate_retrieval(ranking, users, slices, counts, resamples=20, primary=5)
    assert report.lists["coverage"] == 40 / 50
    assert list(report.intervals) == ["hr@5", "ndcg@5"]


def test_report_of_several_targets() -> None:
    rng = np.random.default_rng(3)
    row = np.repeat(np.arange(N), rng.integers(1, 5, N))
    ranking = Ranking(
        rng.integers(1, 60, len(row)), rng.integers(1, 41, (N, 20)).astype(np.int32), rng.random(len(row)) < 0.1, row
    )
    at = np.arange(N)
    slices, counts = Slices({"all": at >= 0, "warm": at < 1_500, "few": at < 9}), np.ones(ITEMS + 1, int)
    report = evaluate_retrieval(ranking, at, slices, counts, metrics=MANY_TARGETS, at=(10, 20), primary=20, resamples=50)
    assert list(report["all"].values) == [f"{metric}@{k}" for metric in ("recall", "ndcg", "hr", "mrr") for k in (10, 20)]
    for metric in MANY_TARGETS:
        assert report["warm"][f"{metric}@10"] == row_gains(ranking, metric, 10)[:1_500].mean()
    assert report["few"]["recall@10"] == row_gains(ranking, "recall", 10)[:9].mean()
    assert (report["few"].few, list(report["few"].intervals)) == (True, ["recall@20", "ndcg@20"])
    assert report.lists["masked"] == ranking.masked.mean()  # of the targets
    assert list(report.intervals) == ["recall@20", "ndcg@20"]
    assert report.intervals["recall@20"].users == N
    assert Report.from_json(json.loads(json.dumps(report.to_json(), allow_nan=False))) == report
    text = printed({"LightGCN": report})
    for part in ("Recall@20 / nDCG@20 in %, [95 % interval over users]", "Recall [", "nDCG [", "HR@20, %", "MRR@20, %"):
        assert part in text, part
    few = Ranking(ranking.rank[row < 9], ranking.top[:9], ranking.masked[row < 9], row[row < 9])
    with pytest.raises(DataError, match="the slices cover 4,000 rows, the ranking 9"):
        evaluate_retrieval(few, at, slices, counts, metrics=MANY_TARGETS)
    with pytest.raises(DataError, match="it has nothing for the cells"):
        evaluate_retrieval(ranking, at, slices, counts, metrics=())


def test_few_rows() -> None:
    few = Ranking.single(np.array([1, 2]), np.ones((2, 10), np.int32), np.zeros(2, bool))
    report = evaluate_retrieval(few, [1, 2], Slices({"all": np.ones(2, bool)}), np.ones(4, int))
    assert (report["all"]["mrr@10"], report["all"].few, list(report.intervals)) == (0.75, True, ["hr@10", "ndcg@10"])
    report = evaluate_retrieval(few, [1, 2], Slices({"all": np.ones(2, bool)}), np.ones(4, int), min_rows=1)
    assert (report["all"]["mrr@10"], report["all"].few, report.notes) == (0.75, False, ())
    alone = evaluate_retrieval(few, [1, 1], Slices({"all": np.ones(2, bool)}), np.ones(4, int))
    assert (alone["all"]["mrr@10"], alone.intervals) == (0.75, {})  # resamples of one user are all alike


def test_json_round_trip() -> None:
    ranking, users, slices, counts = world()
    for report in (
        evaluate_retrieval(ranking, users, slices, counts, resamples=50),
        evaluate_retrieval(ranking, users, slices, counts, at=(3, 7), primary=7, resamples=50),
        evaluate_retrieval(ranking, users, slices, counts, resamples=50, min_rows=10**6),
        evaluate_retrieval(world(width=0)[0], users, slices, counts, resamples=50),
    ):
        text = json.dumps(report.to_json(), allow_nan=False)
        assert Report.from_json(json.loads(text)) == report


def printed(reports: dict[str, Report], shown: tuple[Shown, ...] | None = None) -> str:
    stream = io.StringIO()
    Console(file=stream, width=160).print(render(reports, shown))
    return stream.getvalue()


def test_table() -> None:
    ranking, users, slices, counts = world()
    good = evaluate_retrieval(ranking, users, slices, counts, resamples=50)
    poor = evaluate_retrieval(world(hit=0.1, width=0)[0], users, slices, counts, resamples=50)
    text = printed({"PAD [ours]": good, "SASRec": poor})
    hit = 100 * good["all"]["hr@10"]
    interval = good.intervals["ndcg@10"]
    for part in (
        "HR@10 / nDCG@10 in %",
        "PAD [ours]",
        f"{hit:.4f} / {hit / 2:.4f}",
        f"nDCG [{100 * interval.low:.2f}, {100 * interval.high:.2f}]",
        f"{hit / 3:.4f}",
        f"{100 * good['cold']['hr@10']:.4f} / {100 * good['cold']['ndcg@10']:.4f} few",
        "no rows",
        "80.0000",
        f"{good.lists['novelty']:.2f}",
        "2.5000",
    ):
        assert part in text, part
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    assert ["coverage@10, %", "", "", "80.0000", "-"] in cells
    assert any(row[:3] == ["cold", "999", "500"] and all(cell.endswith("few") for cell in row[3:]) for row in cells)
    assert text.index(" few ") < text.index("MRR@10")
    other = printed({"PAD": good}, shown_at(1, 10))
    assert "HR@1 / nDCG@1 in %" in other
    assert "0.0000 / 0.0000" in other
    assert "nDCG [" not in other  # the intervals are those of k = 10


def test_what_cannot_be_compared_is_refused() -> None:
    ranking, users, slices, counts = world()
    report = evaluate_retrieval(ranking, users, slices, counts, resamples=20)
    fewer = Slices({name: mask for name, mask in slices.masks.items() if name != "cold"})
    other = evaluate_retrieval(ranking, users, fewer, counts, resamples=20)
    with pytest.raises(DataError, match=r"'b' and 'a' were not evaluated .* \('unseen', 0, 0\) against \('cold', 999, 500\)"):
        render({"a": report, "b": other})
    with pytest.raises(DataError, match=r"'a' has no 'hr@3' \(did you mean 'hr@1' or 'hr@5'\?\); it has hr@1, hr@10, hr@20, "):
        render({"a": report}, shown_at(3, 10))
    with pytest.raises(DataError, match="needs at least one report"):
        render({})
    with pytest.raises(DataError, match="slices cover 4,000 rows, the ranking 2"):
        evaluate_retrieval(Ranking.single(np.array([1, 2]), ranking.top[:2], ranking.masked[:2]), users, slices, counts)
    with pytest.raises(DataError, match=r"primary = 10 is not among .* accepted: 1, 5"):
        evaluate_retrieval(ranking, users, slices, counts, at=(1, 5))
    with pytest.raises(DataError, match=r"no slice 'worm' \(did you mean 'warm'\?\)"):
        report["worm"]
