"""What a catalogue says its items are, and what that says of who has them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braidrec.collaborative.labels import Categories, categories_of, held_items, scaled_ratings
from braidrec.data.dataset import Dataset
from braidrec.data.schema import Schema
from braidrec.data.settings import PrepareSettings, SplitConfig
from braidrec.errors import ConfigError, DataError
from rated_worlds import rated, world

SHAPE = (3, 4)


def scaled(user: list[int], item: list[int], rating: list[float], scale: float | None = None) -> np.ndarray:
    own = (np.array(user, np.int32), np.array(item, np.int32), np.array(rating, np.float32))
    found: np.ndarray = scaled_ratings(*own, SHAPE, scale).toarray()
    return found


# ratings -----------------------------------------------------------------------------------------------------------------


def test_ratings_are_shares_of_the_best_one_and_the_last_of_a_pair_counts() -> None:
    found = scaled([1, 1, 2, 1], [1, 2, 3, 1], [5.0, 2.5, 1.0, 4.0])
    assert found.tolist() == [[0, 0, 0, 0], [0, pytest.approx(0.8), 0.5, 0], [0, 0, 0, pytest.approx(0.2)]]
    assert scaled([1], [1], [2.0], scale=4.0)[1, 1] == 0.5


def test_a_rating_of_nothing_is_as_if_there_were_none() -> None:
    assert not scaled([1, 2], [1, 1], [0.0, 1.0])[1].any()


@pytest.mark.parametrize(
    ("rating", "scale", "said"),
    [
        (6.0, 5.0, r"the rating of user row 1 for item row 2 is 6; accepted: 0 \.\. 5, .*model\.scale"),
        (-1.0, None, r"the rating of user row 1 for item row 2 is -1; accepted: 0 \.\. "),
        (float("nan"), 5.0, "the rating of user row 1 for item row 2 is nan"),
        (0.0, None, "none is above 0, and a rating of 0 is as if nothing was rated"),
        (0.0, 5.0, "none is above 0"),  # else a mean of nothing, and a model whose scores are no numbers
    ],
)
def test_a_rating_outside_its_scale_is_named(rating: float, scale: float | None, said: str) -> None:
    with pytest.raises(DataError, match=said):
        scaled([1], [2], [rating], scale)


def test_ratings_that_were_all_taken_back_are_none() -> None:
    with pytest.raises(DataError, match="none is above 0"):
        scaled([1, 1], [2, 2], [4.0, 0.0])


@given(st.lists(st.tuples(st.integers(1, 2), st.integers(1, 3), st.floats(0.5, 5)), min_size=1, max_size=30))
def test_whatever_is_rated_ends_between_nothing_and_one(events: list[tuple[int, int, float]]) -> None:
    user, item, rating = (list(column) for column in zip(*events, strict=True))
    found = scaled(user, item, rating)  # type: ignore[arg-type]
    assert ((found >= 0) & (found <= 1)).all()
    assert (found > 0).sum() == len({(one, two) for one, two, _ in events})


# preferences -------------------------------------------------------------------------------------------------------------


def test_preferences_by_hand() -> None:
    """1.0 for an item of A and B, 0.5 for one of B: 1 and 1.5 before they are normalised."""
    own = Categories(("A", "B"), np.array([[0, 0], [1, 1], [0, 1], [1, 0]], np.float32), np.array([False, True, True, True]))
    ratings = scaled_ratings(
        np.array([1, 1], np.int32), np.array([1, 2], np.int32), np.array([1.0, 0.5], np.float32), SHAPE, 1.0
    )
    share, known = own.of_users(ratings)
    assert share[1].tolist() == [pytest.approx(0.4), pytest.approx(0.6)]
    assert known.tolist() == [False, True, False]
    assert not share[2].any()  # who rated nothing prefers nothing
    assert own.of_users(ratings, "max")[0][1].tolist() == [pytest.approx(2 / 3), 1.0]
    assert np.linalg.norm(own.of_users(ratings, "l2")[0][1]) == pytest.approx(1)


def test_what_is_hidden_is_in_nobodys_preference_and_who_rated_nothing_else_is_not_known() -> None:
    own = Categories(("A", "B"), np.array([[0, 0], [1, 0], [0, 1]], np.float32), np.array([False, True, True]))
    ratings = scaled_ratings(np.array([1, 2, 2], np.int32), np.array([1, 1, 2], np.int32), np.ones(3, np.float32), (3, 3))
    share, known = own.without(np.array([1])).of_users(ratings)
    assert known.tolist() == [False, False, True]
    assert share[2].tolist() == [0, 1]
    assert own.known[1]  # the one that was asked is as it was


def test_the_same_items_are_held_each_time() -> None:
    own = world().categories
    held = held_items(own, 0.2)
    assert np.array_equal(held, held_items(own, 0.2))
    assert len(held) == 8
    assert set(held) <= set(own.listed)


# columns -----------------------------------------------------------------------------------------------------------------


def said(genres: list[str | None], **values: object) -> Categories:
    own = world(items=len(genres))
    return categories_of(rated(own, genres, "said"), **values)  # type: ignore[arg-type]


def test_text_is_cut_what_is_none_is_left_out_and_an_empty_cell_says_nothing() -> None:
    found = said(["Drama|War", "War", "(no genres listed)", None, "Drama|IMAX"] * 4)
    assert found.names == ("Drama", "War")
    assert found.of_items[1:6].tolist() == [[1, 1], [0, 1], [0, 0], [0, 0], [1, 0]]
    assert found.known[1:6].tolist() == [True, True, True, False, True]
    assert 3 not in found.listed
    assert said(["Drama|War", "War", "", None, " | "] * 4).known[1:6].tolist() == [True, True, True, False, True]


def test_what_every_item_has_tells_nothing() -> None:
    found = said(["Film|War", "Film|Drama"] * 10)
    assert found.names == ("Drama", "War")
    assert found.skipped == ("Film",)
    with pytest.raises(
        DataError, match="the column 'genres' has no category that tells one item from another; all of 20 items have 'Film'"
    ):
        said(["Film"] * 20)


def test_another_column_and_one_that_is_not_there() -> None:
    found = said(["Drama", "War"] * 10, column="title")
    assert len(found.names) == 20
    with pytest.raises(ConfigError, match=r"the items' table has no column 'genre'.*genres"):
        said(["Drama", "War"] * 10, column="genre")


def test_items_of_which_nothing_is_said() -> None:
    log = pl.DataFrame({"user": [1, 1, 2, 2, 3, 3] * 4, "item": list(range(1, 9)) * 3})
    cut = PrepareSettings(split=SplitConfig(kind="ratio"))
    data = Dataset.from_frames(log, schema=Schema(user="user", item="item"), settings=cut)
    with pytest.raises(ConfigError, match=r"nothing says what its items are.*column = \.\.\..*size = 0"):
        categories_of(data)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["A", "B", "C"]), max_size=3), min_size=20, max_size=20))
def test_lists_in_cells_are_what_they_hold(cells: list[list[str]]) -> None:
    every = [set(cell) for cell in cells]
    names = sorted(set().union(*every))
    telling = [name for name in names if not all(name in cell for cell in every)]
    if not telling:
        return
    found = said(["|".join(cell) for cell in cells])
    assert list(found.names) == telling
    for row, cell in enumerate(every, 1):
        assert {name for at, name in enumerate(found.names) if found.of_items[row, at]} == cell & set(telling)
