"""Time-causal rates against a loop that may only look back, and by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_data import ITEMS, USERS, Event, events_lists, log_of, small_dataset

from braidrec.data.batches import RankingView
from braidrec.data.candidates import Candidates, UserSide
from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.features import Bag, Features, Scaling
from braidrec.data.history import RecentHistory
from braidrec.data.log import InteractionLog
from braidrec.data.rates import CausalRates, RateScale, UserRates, rate_fields, said_of_rates
from braidrec.data.schema import Field, Schema
from braidrec.data.settings import SplitConfig
from braidrec.data.tables import Tables
from braidrec.data.vocabulary import Vocabulary
from braidrec.errors import DataError

# Items 1..9: kind 1 or 2, item 9 of none that is known; tags 1 and 2, or one, or none; a year.
KIND = [0, 1, 2, 1, 2, 1, 2, 1, 2, 0]
TAGS = [(), (1, 2), (1,), (), (2,), (1, 2), (), (2, 1), (1,), ()]
YEAR = [0.0, *(at / 4 - 1 for at in range(1, ITEMS + 1))]


def features(events: int) -> Features:
    """Rows of the table: items 1..9, kinds 10 and 11 (12 unknown), one colour 13 for all, tags 14 and 15."""
    vocabularies = (
        Vocabulary(Field(name="item"), "item", tuple(map(str, range(1, ITEMS + 1))), False),
        Vocabulary(Field(name="kind"), "item", ("a", "b"), True, 9),
        Vocabulary(Field(name="colour"), "item", ("red",), False, 12),
        Vocabulary(Field(name="tags", kind="multi"), "item", ("x", "y"), False, 13),
    )
    item_fields = np.array([(0, 0, 0)] + [(at, 9 + (KIND[at] or 3), 13) for at in range(1, ITEMS + 1)], np.int32)
    bags = np.array([[*(13 + tag for tag in tags), 0, 0][:2] for tags in TAGS], np.int32)
    none, years = np.zeros((USERS + 1, 0), np.float32), np.array(YEAR, np.float32)[:, None]
    return Features(
        vocabularies,
        (Scaling("year", "item", False, 0.0, 1.0),),
        none.astype(np.int32),
        item_fields,
        np.zeros((events, 0), np.int32),
        none,
        years,
        np.zeros((events, 0), np.float32),
        (Bag("tags", "item", bags),),
    )


def plain_row(events: Sequence[Event], prior: Sequence[float], user: int, item: int, moment: int) -> list[float]:
    """The unscaled numbers of (user, item) when only the first ``moment`` events have happened."""

    def value(event: Event, side: int) -> float:
        return float(event[2] if side == 0 else event[2] > 3)

    def item_mean(which: int, until: int, side: int) -> float:
        past = [value(event, side) for event in events[:until] if event[1] == which]
        return (sum(past) + 10 * prior[side]) / (len(past) + 10)

    own = [at for at in range(moment) if events[at][0] == user]
    residual = {(at, side): value(events[at], side) - item_mean(events[at][1], at, side) for at in own for side in (0, 1)}
    row = [item_mean(item, moment, side) for side in (0, 1)]
    row += [(sum(value(events[at], side) for at in own) + 5 * prior[side]) / (len(own) + 5) for side in (0, 1)]
    row += [sum(residual[at, side] for at in own) / (len(own) + 5) for side in (0, 1)]
    for most in (5, 20):
        row += [sum(residual[at, side] for at in own[-most:]) / (len(own[-most:]) + 1) for side in (0, 1)]
    for values in ([(kind,) if kind else () for kind in KIND], TAGS):
        for side in (0, 1):
            rates = []
            for one in values[item]:
                met = [residual[at, side] for at in own if one in values[events[at][1]]]
                rates.append(sum(met) / (len(met) + 3))
            row.append(sum(rates) / len(rates) if rates else 0.0)
    years = [YEAR[events[at][1]] for at in own]
    return [*row, YEAR[item] - (sum(years) / len(years) if years else 0.0)]


def close(found: NDArray[np.float32], raw: NDArray[np.float64], scale: RateScale) -> bool:
    return np.allclose(found * scale.spread + scale.mean, raw, atol=1e-5)


@given(events_lists, st.data())
@settings(deadline=None, max_examples=60)
def test_rows_agree_with_a_plain_loop(events: list[Event], data: st.DataObject) -> None:
    log, count = log_of(events), len(events)
    train = np.arange(data.draw(st.integers(1, count)))
    rates = CausalRates(log, features(count), train)
    prior = [float(np.mean([events[at][2] for at in train])), float(np.mean([events[at][2] > 3 for at in train]))]
    np.testing.assert_allclose(rates.prior, prior)
    raw = np.array([plain_row(events, prior, user, item, at) for at, (user, item, _) in enumerate(events)])
    np.testing.assert_allclose(rates.scale.mean, raw[train].mean(axis=0), atol=1e-6)
    everywhere = np.arange(count)
    assert rates.before(everywhere).shape == (count, rates.width) == (count, len(rates.scale.names))
    assert close(rates.before(everywhere), raw, rates.scale)
    # other candidates in the place of the item that was met, an unmet one and the padding row among them
    others = np.array(data.draw(st.lists(st.integers(0, ITEMS), min_size=count, max_size=count)), np.int32)
    raw = np.array([plain_row(events, prior, event[0], int(others[at]), at) for at, event in enumerate(events)])
    assert close(rates.before(everywhere, others), raw, rates.scale)
    # now, for a known user and for nobody
    for user in (0, data.draw(st.integers(1, USERS))):
        items = np.arange(ITEMS + 1, dtype=np.int32)
        raw = np.array([plain_row(events, prior, user, int(item), count) for item in items])
        assert close(rates.now(user, items), raw, rates.scale)


def test_by_hand() -> None:
    """Three events of one user: items 2, 4, 2 with ratings 5, 1, 4; training is all of them, so the priors are 10/3 and 2/3."""
    rates = CausalRates(log_of([(1, 2, 5), (1, 4, 1), (1, 2, 4)]), features(3), np.arange(3))
    assert rates.scale.names == (
        "item rating", "item label", "user rating", "user label", "user residual rating", "user residual label",
        "last 5 residual rating", "last 5 residual label", "last 20 residual rating", "last 20 residual label",
        "kind residual rating", "kind residual label", "tags residual rating", "tags residual label", "year from usual",
    )  # fmt: skip
    row = rates.before(np.array([2]))[0] * rates.scale.spread + rates.scale.mean
    prior, label = 10 / 3, 2 / 3
    residuals = (5 - prior, 1 - prior)  # neither item had been met
    expected = {
        "item rating": (5 + 10 * prior) / 11,
        "user rating": (6 + 5 * prior) / 7,
        "user residual rating": sum(residuals) / 7,
        "last 5 residual rating": sum(residuals) / 3,
        "kind residual rating": sum(residuals) / 5,  # items 2 and 4 are both of kind 2
        "tags residual rating": residuals[0] / 4,  # tag 1 of item 2; item 4 has tag 2 alone
        "tags residual label": (1 - label) / 4,
        "year from usual": YEAR[2] - (YEAR[2] + YEAR[4]) / 2,
    }
    for name, value in expected.items():
        assert row[rates.scale.names.index(name)] == pytest.approx(value, abs=1e-5), name


def changed(events: Sequence[Event], moment: int) -> list[Event]:
    """From ``moment`` on every rating and item is another one."""
    return [event if at < moment else (event[0], 1 + event[1] % 9, 6 - event[2]) for at, event in enumerate(events)]


@given(events_lists, st.data())
@settings(deadline=None, max_examples=60)
def test_changing_the_future_changes_no_bit_before_it(events: list[Event], data: st.DataObject) -> None:
    count = len(events)
    moment = data.draw(st.integers(1, count))
    train, others = np.arange(moment), np.arange(count, dtype=np.int32) % (ITEMS + 1)
    first, second = (CausalRates(log_of(each), features(count), train) for each in (events, changed(events, moment)))
    until = np.arange(moment)
    assert np.array_equal(first.before(until), second.before(until))
    upto = np.arange(min(moment + 1, count))  # the first changed event itself knows neither its item nor its rating
    assert np.array_equal(first.before(upto, others[upto]), second.before(upto, others[upto]))


def test_a_leak_would_be_noticed() -> None:
    rng = np.random.default_rng(0)
    events = [(int(u), int(i), int(r)) for u, i, r in rng.integers([1, 1, 1], [USERS + 1, ITEMS + 1, 6], (60, 3))]
    first, second = (CausalRates(log_of(each), features(60), np.arange(30)) for each in (events, changed(events, 30)))
    items = np.full(60, 2, np.int32)
    late = np.arange(40, 60)
    assert (first.before(late, items[late]) != second.before(late, items[late])).any(axis=0).all()


def test_events_of_one_second_and_copies() -> None:
    """With ties excluded the three events of second 5 see the first alone; a copy of a row never sees the other."""

    def built(exclude: bool, items: Sequence[int], times: Sequence[int]) -> CausalRates:
        count, rating = len(items), np.array([5, 1, 4, 2][: len(items)], np.float32)
        log = InteractionLog.build(
            np.ones(count, np.int32), np.array(items, np.int32), np.array(times, np.int64), rating,
            (rating > 3).astype(np.float32), None, rating.astype(np.int32), USERS, exclude_ties=exclude,
        )  # fmt: skip
        return CausalRates(log, features(count), np.arange(count))

    apart = built(True, [1, 2, 4, 6], [1, 5, 5, 5])
    same = np.full(4, 8, np.int32)
    rows = apart.before(np.arange(4), same)
    assert np.array_equal(rows[1], rows[2])
    assert np.array_equal(rows[1], rows[3])
    assert not np.array_equal(rows[0], rows[1])
    in_order = built(False, [1, 2, 4, 6], [1, 5, 5, 5]).before(np.arange(4), same)
    assert len(np.unique(in_order, axis=0)) == 4
    copies = built(False, [1, 2, 2], [1, 5, 5]).before(np.arange(3), same[:3])
    assert np.array_equal(copies[1], copies[2])


def test_fields_that_cannot_be_rated_are_said() -> None:
    found, left = rate_fields(features(1))
    assert [field.name for field in found] == ["kind", "tags"]
    assert left == ("item", "colour")
    assert said_of_rates(found, features(1)) == (
        "rates: of items, of users, and of users by kind, tags; not by item, colour, which has one value or too many (more "
        "than a quarter of the items)"
    )


def test_a_scale_comes_back_from_json_and_serves_a_log_that_went_on() -> None:
    rng = np.random.default_rng(1)
    events = [(int(u), int(i), int(r)) for u, i, r in rng.integers([1, 1, 1], [USERS + 1, ITEMS + 1, 6], (50, 3))]
    first = CausalRates(log_of(events[:30]), features(30), np.arange(30))
    scale = RateScale.of_json(first.scale.to_json())
    grown = CausalRates(log_of(events), features(50), scale)
    assert np.array_equal(grown.before(np.arange(30)), first.before(np.arange(30)))
    items = np.arange(ITEMS + 1, dtype=np.int32)
    np.testing.assert_allclose(first.now(events[30][0], items), grown.before(np.full(len(items), 30), items), atol=1e-5)


@given(events_lists, st.data())
@settings(deadline=None, max_examples=60)
def test_events_of_a_user_are_added_without_the_log(events: list[Event], data: st.DataObject) -> None:
    """The same as from the log that holds them: a user's later events, on items each once, and somebody new's first ones."""
    catalogue = features(len(events))
    first = CausalRates(log_of(events), catalogue, np.arange(len(events)))
    user = data.draw(st.integers(1, USERS))
    items = data.draw(st.lists(st.integers(1, ITEMS), unique=True, min_size=1))
    ratings = data.draw(st.lists(st.integers(1, 5), min_size=len(items), max_size=len(items)))
    both = np.array([(rating, rating > 3) for rating in ratings], np.float64)
    values = [field.values(catalogue.item_fields[items], [catalogue.bags[0].rows[items]]) for field in first.fields]
    later = [*events, *((user, item, rating) for item, rating in zip(items, ratings, strict=True))]
    whole = CausalRates(log_of(later), features(len(later)), first.scale)
    means, numbers = first.items_now[items], catalogue.item_numbers[items]
    found = first.user(user).then(both, means, numbers, values)
    np.testing.assert_allclose(found.vector(first.prior), whole.user_now(user), atol=1e-5)
    nobody = UserRates.of_nobody(first.scale)
    np.testing.assert_array_equal(nobody.vector(first.prior), first.user_now(0))
    new = nobody.then(both, means, numbers, values)
    assert (new.count, new.values[0][:, 2].sum()) == (len(items), sum(KIND[item] > 0 for item in items))
    if not first.user(user).count:
        np.testing.assert_array_equal(new.vector(first.prior), found.vector(first.prior))


# In a data set ---------------------------------------------------------------------------------------------------------


def test_batches_and_candidates_have_them_behind_the_other_numbers(tmp_path: Path) -> None:
    dataset = small_dataset(tmp_path).with_statistics().with_rates()
    rates = dataset.rates
    assert rates is not None
    assert dataset.number_groups[-2:] == (("statistics", 7), ("rates", rates.width))
    assert "genres residual rating" in rates.scale.names
    assert "price from usual" in rates.scale.names
    view = RankingView(dataset, RecentHistory(dataset.log, 5))
    at, items = torch.arange(40, 60), torch.arange(1, 21, dtype=torch.int32)
    assert np.array_equal(view.at(at).numbers[:, -rates.width :].numpy(), rates.before(at.numpy()))
    assert np.array_equal(view.at(at, items).numbers[:, -rates.width :].numpy(), rates.before(at.numpy(), items.numpy()))
    candidates = Candidates.of_dataset(dataset)
    again = Candidates.of(candidates.tensors(), RateScale.of_json(rates.scale.to_json()))
    for user in (0, 1, 4):
        window = RecentHistory(dataset.log, 5).window(torch.tensor([user]), torch.tensor([0]))
        for each in (candidates, again):
            found = each.batch(UserSide.of(dataset, user), items, window).numbers[:, -rates.width :]
            np.testing.assert_allclose(found.numpy(), rates.now(user, items.numpy()), atol=1e-5)
    assert torch.equal(again.stranger().rates, UserSide.of(dataset, 0).rates)  # type: ignore[arg-type]
    late = candidates.with_items(candidates.item_fields[3:5], candidates.item_numbers[3:5], [candidates.item_bags[0][3:5]])
    rows = torch.tensor([3, 21, 22], dtype=torch.int32)
    found = late.batch(UserSide.of(dataset, 4), rows, window).numbers[:, -rates.width :].numpy()
    same = [at for at, name in enumerate(rates.scale.names) if not name.startswith("item ")]
    assert np.array_equal(found[0, same], found[1, same])  # the fields of item 3, without its past
    assert not np.array_equal(found[0], found[1])


def test_a_log_without_time_has_none(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"u": ["a", "a", "a", "b", "b", "b"], "i": list("xyzxyz"), "n": [1, 2, 3, 1, 2, 3], "r": [1, 5, 4, 4, 1, 5]}
    )
    schema = Schema(user="u", item="i", order="n", rating="r", user_fields=(Field(name="u"),), item_fields=(Field(name="i"),))
    settings: Any = PrepareSettings(split=SplitConfig(kind="leave_last_two", min_history=0))
    dataset = Dataset.prepare(Tables("t", schema, frame), tmp_path / "t", settings)
    with pytest.raises(DataError, match="time-causal rates need a timestamp column; this log only has each user's own order"):
        dataset.with_rates()
    assert replace(dataset).rates is None
