"""Gains by hand, the report's slices and intervals, its JSON and its table."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from braidrec.errors import DataError
from braidrec.evaluation.retrieval import Ranking
from braidrec.evaluation.retrieval_report import (
    RetrievalReport,
    coverage,
    evaluate_retrieval,
    gains,
    novelty,
    render_retrieval,
)
from braidrec.evaluation.slices import Slices

N, ITEMS = 4_000, 50


def world(hit: float = 0.3, width: int = 10) -> tuple[Ranking, np.ndarray, Slices, np.ndarray]:
    """Two rows per user; a share ``hit`` of the rows has rank 3, the rest 30; the last 100 are out of reach."""
    rng = np.random.default_rng(0)
    rank = np.where(rng.random(N) < hit, 3, 30)
    rank[-100:] = ITEMS
    at = np.arange(N)
    ranking = Ranking(rank, rng.integers(1, 41, (N, width)).astype(np.int32), at >= N - 100)
    slices = Slices({"all": at >= 0, "warm": at < 1_500, "cold": at < 999, "unseen": at < 0})
    return ranking, at // 2, slices, np.r_[0, np.arange(ITEMS)]


def test_gains_by_hand() -> None:
    ranks = np.array([1, 2, 10, 11])
    np.testing.assert_allclose(gains(ranks, "ndcg", 10), [1, 0.6309, 0.2891, 0], atol=5e-5)
    assert gains(ranks, "hr", 10).tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(gains(ranks, "mrr", 10), [1, 1 / 2, 1 / 10, 0])
    assert gains(ranks, "hr", 1).tolist() == gains(ranks, "ndcg", 1).tolist() == gains(ranks, "mrr", 1).tolist() == [1, 0, 0, 0]
    assert gains(ranks.reshape(2, 2), "hr", 2).tolist() == [[1, 1], [0, 0]]


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
        assert (part.rows, part.users, part.reason) == (slices.masks[name].sum(), slices.masks[name].sum() // 2, None)
        expected = {"hr@1": 0, "ndcg@1": 0, "mrr@1": 0}
        gained = {"hr": 1, "ndcg": 0.5, "mrr": 1 / 3}
        expected |= {f"{metric}@{k}": value for k in (5, 10, 20) for metric, value in gained.items()}
        assert part.values == pytest.approx({key: value * hits for key, value in expected.items()}, abs=1e-12)
    assert (report["cold"].values, report["cold"].reason) == (None, "too few: 999 rows, 1,000 wanted")
    assert (report["unseen"].rows, report["unseen"].users, report["unseen"].values) == (0, 0, None)
    assert (report.at, report.primary) == ((1, 5, 10, 20), 10)
    assert report.masked == 0.025
    assert report.ceiling == 0.975
    assert report.coverage == 40 / 50
    assert report.novelty == novelty(ranking.top, counts)


def test_intervals() -> None:
    ranking, users, slices, counts = world()
    report = evaluate_retrieval(ranking, users, slices, counts, resamples=1_000)
    values = report["all"].values
    assert values is not None
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
    ranking, counts = Ranking(rank, np.ones((N, 10), np.int32), at < 0), np.ones(ITEMS + 1, int)
    slices = Slices({"all": at >= 0})
    by_user = evaluate_retrieval(ranking, at // 40, slices, counts).intervals["hr@10"]
    by_row = evaluate_retrieval(ranking, at, slices, counts).intervals["hr@10"]
    assert by_user.high - by_user.low > 5 * (by_row.high - by_row.low)  # sqrt(40) = 6.3 in theory


def test_lists_of_another_length() -> None:
    ranking, users, slices, counts = world(width=20)
    report = evaluate_retrieval(ranking, users, slices, counts, resamples=20)
    assert report.novelty == novelty(ranking.top[:, :10], counts)
    ranking, users, slices, counts = world(width=5)
    report = evaluate_retrieval(ranking, users, slices, counts, resamples=20)
    assert (report.coverage, report.novelty) == (None, None)
    report = evaluate_retrieval(ranking, users, slices, counts, resamples=20, primary=5)
    assert report.coverage == 40 / 50
    assert list(report.intervals) == ["hr@5", "ndcg@5"]


def test_few_rows() -> None:
    few = Ranking(np.array([1, 2]), np.ones((2, 10), np.int32), np.zeros(2, bool))
    report = evaluate_retrieval(few, [1, 2], Slices({"all": np.ones(2, bool)}), np.ones(4, int))
    assert (report["all"].values, report.intervals) == (None, {})
    report = evaluate_retrieval(few, [1, 2], Slices({"all": np.ones(2, bool)}), np.ones(4, int), min_rows=1)
    assert report["all"].values is not None
    assert report["all"].values["mrr@10"] == 0.75


def test_json_round_trip() -> None:
    ranking, users, slices, counts = world()
    for report in (
        evaluate_retrieval(ranking, users, slices, counts, resamples=50),
        evaluate_retrieval(ranking, users, slices, counts, at=(3, 7), primary=7, resamples=50),
        evaluate_retrieval(ranking, users, slices, counts, resamples=50, min_rows=10**6),
        evaluate_retrieval(world(width=0)[0], users, slices, counts, resamples=50),
    ):
        text = json.dumps(report.to_json(), allow_nan=False)
        assert RetrievalReport.from_json(json.loads(text)) == report


def test_damaged_json_is_refused() -> None:
    ranking, users, slices, counts = world()
    value = evaluate_retrieval(ranking, users, slices, counts, resamples=50).to_json()
    good = value["slices"][0]
    for damage, message in (
        ({"coverege": 1}, r"unknown key 'coverege' \(did you mean 'coverage'\?\)"),
        ({"masked": None}, "masked is None; accepted: int or float"),
        ({"novelty": "8"}, "novelty is '8'; accepted: int or float or null"),
        ({"at": [1, True]}, r"at\[1\] is True; accepted: int"),
        ({"slices": {}}, r"slices is \{\}; accepted: list"),
        ({"slices": [good | {"rows": "12"}]}, r"slices\[0\]: rows is '12'; accepted: int"),
        ({"slices": [good | {"values": {"hr@1": 1.0}}]}, r"slices\[0\]: values: required key 'hr@10' is missing"),
        ({"slices": [good | {"values": good["values"] | {"hr@1": "1"}}]}, r"slices\[0\]: hr@1 is '1'; accepted: int or float"),
        ({"intervals": {"hr@10": value["intervals"]["hr@10"]}}, "intervals: required key 'ndcg@10' is missing"),
        ({"intervals": value["intervals"] | {"hr@10": {"low": 1}}}, "hr@10: required key 'clusters' is missing"),
    ):
        with pytest.raises(DataError, match=message):
            RetrievalReport.from_json(value | damage)
    with pytest.raises(DataError, match="required key 'primary' is missing"):
        RetrievalReport.from_json({key: entry for key, entry in value.items() if key != "primary"})
    with pytest.raises(DataError, match="found list; accepted: an object"):
        RetrievalReport.from_json([])


def shown(reports: dict[str, RetrievalReport], k: int | None = None) -> str:
    stream = io.StringIO()
    Console(file=stream, width=160).print(render_retrieval(reports, k))
    return stream.getvalue()


def test_table() -> None:
    ranking, users, slices, counts = world()
    good = evaluate_retrieval(ranking, users, slices, counts, resamples=50)
    poor = evaluate_retrieval(world(hit=0.1, width=0)[0], users, slices, counts, resamples=50)
    text = shown({"PAD [ours]": good, "SASRec": poor})
    values = good["all"].values
    assert values is not None
    hit = 100 * values["hr@10"]
    interval = good.intervals["ndcg@10"]
    for part in (
        "HR@10 / nDCG@10 in %",
        "PAD [ours]",
        f"{hit:.4f} / {hit / 2:.4f}",
        f"nDCG [{100 * interval.low:.2f}, {100 * interval.high:.2f}]",
        f"{hit / 3:.4f}",
        "too few",
        "80.0000",
        f"{good.novelty:.2f}",
        "2.5000",
    ):
        assert part in text, part
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    assert ["coverage@10, %", "", "", "80.0000", "-"] in cells
    assert ["cold", "999", "500", "too few", "too few"] in cells
    assert text.index("too few") < text.index("MRR@10")
    other = shown({"PAD": good}, k=1)
    assert "HR@1 / nDCG@1 in %" in other
    assert "0.0000 / 0.0000" in other
    assert "nDCG [" not in other  # the intervals are those of k = 10


def test_what_cannot_be_compared_is_refused() -> None:
    ranking, users, slices, counts = world()
    report = evaluate_retrieval(ranking, users, slices, counts, resamples=20)
    fewer = Slices({name: mask for name, mask in slices.masks.items() if name != "cold"})
    other = evaluate_retrieval(ranking, users, fewer, counts, resamples=20)
    with pytest.raises(DataError, match=r"'b' and 'a' were not evaluated .* \('unseen', 0, 0\) against \('cold', 999, 500\)"):
        render_retrieval({"a": report, "b": other})
    with pytest.raises(DataError, match=r"'a' was not evaluated at 3; its report has k = 1, 5, 10, 20"):
        render_retrieval({"a": report}, k=3)
    with pytest.raises(DataError, match="needs at least one report"):
        render_retrieval({})
    with pytest.raises(DataError, match="slices cover 4,000 rows, the ranking 2"):
        evaluate_retrieval(Ranking(np.array([1, 2]), ranking.top[:2], ranking.masked[:2]), users, slices, counts)
    with pytest.raises(DataError, match=r"primary = 10 is not among .* accepted: 1, 5"):
        evaluate_retrieval(ranking, users, slices, counts, at=(1, 5))
    with pytest.raises(DataError, match=r"no slice 'worm' \(did you mean 'warm'\?\)"):
        report["worm"]
