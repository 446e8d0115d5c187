"""Recall, HR and nDCG of each user's own rows: by hand, ties by enumeration, and what is left out."""

from __future__ import annotations

from itertools import pairwise, permutations
from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidrec.errors import DataError
from braidrec.evaluation.by_user import USER_METRICS, user_gains


def by_hand(labels: list[int], scores: list[float], metric: str, k: int) -> float:
    """One user's value, the mean over every order of what is tied."""
    found = []
    for order in permutations(range(len(labels))):
        if any(scores[a] < scores[b] for a, b in pairwise(order)):
            continue
        hits = [labels[row] for row in order[:k]]
        gain = sum(hit / log2(place + 2) for place, hit in enumerate(hits))
        ideal = sum(1 / log2(place + 2) for place in range(min(sum(labels), k)))
        found.append({"recall": sum(hits) / sum(labels), "hr": float(any(hits)), "ndcg": gain / ideal}[metric])
    return float(np.mean(found))


def test_by_hand() -> None:
    # user 7: + at ranks 2 and 6 of six; user 3: + at rank 1 of two; user 5 has no negative, user 9 no positive
    users = [7] * 6 + [3, 3, 5, 5, 9]
    labels = [0, 1, 0, 0, 0, 1, 1, 0, 1, 1, 0]
    scores = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.2, 0.1, 1.0, 0.0, 0.0]
    found = user_gains(labels, scores, users)
    assert (found.users, found.long_users, found.left_users, found.left_rows) == (2, 0, 2, 3)
    assert user_gains([1] + [0] * 10 + [1] * 11, range(22), [1] * 11 + [2] * 11).long_users == 1
    np.testing.assert_array_equal(found.values["recall@5"], [1.0, 0.5])  # users in order of their ids
    np.testing.assert_array_equal(found.values["hr@5"], [1.0, 1.0])
    ideal = 1 + 1 / log2(3)
    np.testing.assert_allclose(found.values["ndcg@5"], [1.0, (1 / log2(3)) / ideal], atol=1e-12)
    np.testing.assert_allclose(found.values["ndcg@10"], [1.0, (1 / log2(3) + 1 / log2(7)) / ideal], atol=1e-12)
    assert found.mean("recall@5") == 0.75


def test_a_tie_is_worth_what_it_comes_out_as_on_average() -> None:
    labels, scores = [1, 0, 0, 0, 0, 0, 1], [1.0] * 7
    for order in (slice(None), slice(None, None, -1)):  # rows of a log, positives before their drawn negatives or behind
        found = user_gains(labels[order], scores[order], [1] * 7)
        assert found.mean("recall@5") == pytest.approx(5 / 7, abs=1e-12)
        assert found.mean("hr@5") == pytest.approx(1 - (2 / 7) * (1 / 6), abs=1e-12)  # both in the last two places
        assert found.mean("recall@10") == found.mean("hr@10") == 1.0


row = st.tuples(st.integers(0, 1), st.integers(0, 2))


@given(st.lists(row, min_size=2, max_size=7).filter(lambda rows: len({label for label, _ in rows}) == 2))
def test_ties_against_every_order(rows: list[tuple[int, int]]) -> None:
    labels, scores = [label for label, _ in rows], [float(score) for _, score in rows]
    found = user_gains(labels, scores, [0] * len(rows))
    for name in USER_METRICS:
        metric, _, k = name.partition("@")
        assert found.values[name] == pytest.approx([by_hand(labels, scores, metric, int(k))], abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(-3, 3)), min_size=1, max_size=60), st.randoms())
def test_users_do_not_meet_and_rows_may_stand_anyhow(rows: list[tuple[int, int, int]], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, two = (
        user_gains([r[1] for r in each], [float(r[2]) for r in each], [r[0] for r in each]) for each in (rows, shuffled)
    )
    assert (one.users, one.left_users, one.left_rows) == (two.users, two.left_users, two.left_rows)
    for name in USER_METRICS:
        np.testing.assert_allclose(one.values[name], two.values[name], atol=1e-12)
        assert ((one.values[name] >= 0) & (one.values[name] <= 1 + 1e-12)).all()
    for user in {r[0] for r in rows}:
        own = [r for r in rows if r[0] == user]
        alone = user_gains([r[1] for r in own], [float(r[2]) for r in own], [user] * len(own))
        assert alone.users == (len({r[1] for r in own}) == 2)
    assert (one.mean("hr@5") is None) == (one.users == 0)


def test_a_label_that_is_none_is_refused() -> None:
    with pytest.raises(DataError, match=r"labels: row 1 is 2\.0"):
        user_gains([1, 2], [0.0, 1.0], [1, 1])
