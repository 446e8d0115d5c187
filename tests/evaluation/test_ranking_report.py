"""AUC and log loss by slice: by hand, the interval, the JSON round trip and the table."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from braidrec.errors import DataError
from braidrec.evaluation.metrics import auc, log_loss
from braidrec.evaluation.ranking_report import evaluate_ranking
from braidrec.evaluation.report import Report, render
from braidrec.evaluation.slices import Slices

N = 3_000


def world(noise: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray, Slices]:
    """Labels, probabilities, users, slices."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=N)
    labels = (rng.random(N) < 1 / (1 + np.exp(-truth))).astype(int)
    probabilities = 1 / (1 + np.exp(-truth - noise * rng.normal(size=N)))
    at = np.arange(N)
    masks = {"all": at >= 0, "seen_users": at < 1_500, "cold_items": at < 999, "tail": (at < 2_500) & (labels == 1)}
    return labels, probabilities, at // 10, Slices(masks)


def test_slices() -> None:
    labels, p, users, slices = world()
    report = evaluate_ranking(labels, p, slices, users, kind="probabilities", resamples=200)
    for name in ("all", "seen_users", "cold_items"):
        mask = slices.masks[name]
        assert report[name].rows == mask.sum()
        assert report[name].counts["positives"] == labels[mask].sum()
        assert report[name]["auc"] == auc(labels[mask], p[mask])
        assert report[name]["log_loss"] == pytest.approx(log_loss(labels[mask], p[mask]), abs=1e-12)
        assert report[name].reason is None
    cold, tail = report["cold_items"], report["tail"]
    assert [each.name for each in report.slices if each.few] == ["cold_items"]
    assert (cold.rows, cold.few, cold.intervals["auc"].users) == (999, True, 100)
    assert cold.intervals["auc"].low < cold["auc"] < cold.intervals["auc"].high
    assert [each.intervals for each in report.slices if each.name != "cold_items"] == [
        {}
    ] * 3  # those of all rows are the report's
    few = "few: fewer than 1,000 rows; the number is shown with its interval, and no claim rests on it"
    assert report.notes[1:] == (few,)
    assert (tail.rows, tail["auc"], tail.reason) == (tail.counts["positives"], None, "one class only: no pair to rank")
    assert tail["log_loss"] is not None
    interval = report.intervals["auc"]
    assert interval.low < report["all"]["auc"] < interval.high
    assert (interval.resamples, interval.clusters, interval.users) == (200, 300, 300)
    # the spread of an AUC of about .7 on 3,000 independent rows is near .0095, so the interval near .037
    assert interval.high - interval.low == pytest.approx(0.037, abs=0.008)


def test_logits_probabilities_and_scores_agree() -> None:
    labels, p, users, slices = world()
    logits = np.log(p / (1 - p))
    from_logits = evaluate_ranking(labels, logits, slices, users, kind="logits", resamples=50)
    from_p = evaluate_ranking(labels, p, slices, users, kind="probabilities", resamples=50)
    plain = evaluate_ranking(labels, 7 * logits - 3, slices, users, kind="scores", resamples=50)
    assert from_logits.intervals == from_p.intervals == plain.intervals
    assert from_logits["all"]["auc"] == from_p["all"]["auc"] == plain["all"]["auc"]
    assert from_logits["all"]["log_loss"] == pytest.approx(from_p["all"]["log_loss"], abs=1e-12)
    assert plain["all"]["log_loss"] is None


def test_weights_reach_every_number() -> None:
    labels, p, users, slices = world()
    weights = np.where(np.arange(N) < 1_000, 0.0, 2.0)
    report = evaluate_ranking(labels, p, slices, users, kind="probabilities", weights=weights, resamples=50)
    assert report["all"]["auc"] == pytest.approx(auc(labels[1_000:], p[1_000:]), abs=1e-12)
    assert report["all"]["log_loss"] == pytest.approx(log_loss(labels[1_000:], p[1_000:]), abs=1e-12)


def test_few_rows_have_their_numbers_and_are_marked() -> None:
    labels, p, users, _ = world()
    everything = Slices({"all": np.ones(50, bool)})
    report = evaluate_ranking(labels[:50], p[:50], everything, users[:50], kind="probabilities")
    assert report["all"]["auc"] == auc(labels[:50], p[:50])
    assert (report["all"].few, report["all"].reason, report.intervals["auc"].users) == (True, None, 5)
    assert report["all"].intervals == report.intervals
    assert report.intervals["auc"].low < report["all"]["auc"] < report.intervals["auc"].high
    wanted = evaluate_ranking(labels[:50], p[:50], everything, users[:50], kind="probabilities", min_rows=50)
    assert (wanted["all"].few, wanted.intervals, wanted.notes) == (False, report.intervals, report.notes[:1])


def test_what_cannot_be_computed_says_why() -> None:
    at = np.arange(6)
    labels, scores, users = np.array([1, 0, 1, 1, 0, 0]), np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0]), np.array([1, 1, 2, 2, 3, 3])
    slices = Slices({"all": at >= 0, "nobody": at < 0, "likes": (at == 2) | (at == 3), "one": at < 2})
    report = evaluate_ranking(labels, scores, slices, users, kind="logits", resamples=50)
    assert report["all"]["auc"] == 7 / 9  # of 3 x 3 pairs the second row's two with later positives are wrong
    nobody, likes, one = (report[name] for name in ("nobody", "likes", "one"))
    assert (nobody.rows, nobody["auc"], nobody["log_loss"], nobody.reason) == (0, None, None, "no rows")
    assert (likes["auc"], likes.reason, likes.intervals) == (None, "one class only: no pair to rank", {})
    assert likes["log_loss"] is not None
    assert (one["auc"], one.few, one.reason, one.intervals) == (1.0, True, None, {})  # resamples of one user are all alike
    assert any(
        [cell.strip() for cell in line.split("│")[1:-1]] == ["nobody", "0", "0", "no rows"]
        for line in rendered({"din": report})
    )
    with pytest.raises(DataError, match=r"min_rows = -1: a whole number from 0 on is needed, such as min_rows=1000"):
        evaluate_ranking(labels, scores, slices, users, kind="logits", min_rows=-1)


def test_lists_of_users_stand_beside_the_auc() -> None:
    users = np.array([1] * 7 + [2, 2, 3, 3])
    labels = np.array([0, 1, 0, 0, 0, 0, 1, 1, 0, 1, 1])
    scores = np.array([7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0, 1.0, 2.0, 3.0])
    at = np.arange(11)
    slices = Slices({"all": at >= 0, "late": at >= 6, "likes": at >= 9})
    report = evaluate_ranking(labels, scores, slices, users, kind="logits", weights=1.0 + at, resamples=50, min_rows=0)
    whole, late, likes = (report[name] for name in ("all", "late", "likes"))
    assert whole.counts == {"positives": 5, "users": 3, "ranked_users": 2, "long_users": 0, "unranked_rows": 2}
    assert (whole["recall@5"], whole["recall@10"], whole["hr@5"]) == (0.75, 1.0, 1.0)  # users count alike, whatever the weights
    gains = [(1 / np.log2(3) + 1 / np.log2(8)) / (1 + 1 / np.log2(3)), 1 / np.log2(3)]
    assert whole["ndcg@10"] == pytest.approx(np.mean(gains), abs=1e-12)
    assert late.counts == {
        "positives": 4,
        "users": 3,
        "ranked_users": 1,
        "long_users": 0,
        "unranked_rows": 3,
    }  # candidates are those of the slice
    assert late["recall@5"] == 1.0
    assert (likes.counts["ranked_users"], likes["ndcg@5"], likes["log_loss"] is None) == (0, None, False)
    (note,) = report.notes
    assert note.startswith("by user: candidates are the user's own rows of this part, ties stand in any order alike;")
    assert note.endswith("; mean of 2 users, 0 of them with more than 10 rows; without 2 rows of 1 users with one label")
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in rendered({"din": report})]
    assert ["Recall@10 by user, %", "", "", "100.00"] in cells
    assert ["HR@10 by user, %", "", "", "100.00"] in cells
    assert ["nDCG@10 by user, %", "", "", f"{100 * np.mean(gains):.2f}"] in cells


def rendered(reports: dict[str, Report]) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=160).print(render(reports))
    return out.getvalue().splitlines()


def test_json_round_trip() -> None:
    labels, p, users, slices = world()
    for report in (
        evaluate_ranking(labels, p, slices, users, kind="probabilities", resamples=50),
        evaluate_ranking(labels, p, slices, users, kind="scores", resamples=50, min_rows=10**6),
    ):
        text = json.dumps(report.to_json(), allow_nan=False)
        assert Report.from_json(json.loads(text)) == report


def test_table() -> None:
    labels, p, users, slices = world()
    poor = evaluate_ranking(labels, world(3.0)[1], slices, users, kind="probabilities", resamples=50)
    plain = evaluate_ranking(labels, p, slices, users, kind="scores", resamples=50)
    text = "\n".join(rendered({"din [v1]": poor, "popularity": plain}))
    few = plain["cold_items"]
    for expected in (
        "din [v1]",
        "popularity",
        "cold items",
        "999",
        f"{few['auc']:.4f} few",
        f"[{few.intervals['auc'].low:.4f}, {few.intervals['auc'].high:.4f}]",
        "few: fewer than 1,000 rows; the number is shown with its interval",
        "one class only",
        f"{poor['all']['auc']:.4f} / ",
    ):
        assert expected in text, expected
    assert "AUC / log loss, [95 % interval of AUC over users]" in text
    assert [title.strip() for title in text.splitlines()[1].split("┃")[1:4]] == ["slice", "rows", "positive"]
    assert f"[{plain.intervals['auc'].low:.4f}, {plain.intervals['auc'].high:.4f}]" in text


def test_reports_of_other_rows_do_not_share_a_table() -> None:
    labels, p, users, slices = world()
    report = evaluate_ranking(labels, p, slices, users, kind="scores", resamples=50)
    other = evaluate_ranking(1 - labels, p, slices, users, kind="scores", resamples=50)
    with pytest.raises(DataError, match=r"'b' and 'a' were not evaluated on the same rows: slice .* \('all', 3000,"):
        render({"a": report, "b": other})
    with pytest.raises(DataError, match="at least one report"):
        render({})


def test_bad_arguments_are_refused() -> None:
    labels, p, users, slices = world()
    with pytest.raises(DataError, match="the slices cover 3,000 rows, labels 10"):
        evaluate_ranking(labels[:10], p[:10], slices, users[:10], kind="scores")
    with pytest.raises(DataError, match=r"no slice 'tial' \(did you mean 'tail'\?\)"):
        evaluate_ranking(labels, p, slices, users, kind="scores", resamples=50)["tial"]
