"""Raw values become rows and come back; what training did not see takes the unknown row."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidrec.data.schema import Field
from braidrec.data.values import values_of
from braidrec.data.vocabulary import Vocabulary, fit, stack
from braidrec.errors import DataError

texts = st.text(max_size=6).filter(lambda text: "|" not in text)

values = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="|["), max_size=6)  # no list written as text


def fitted(field: Field, values: list[object], *, seen: list[bool] | None = None, has_unknown: bool = True) -> Vocabulary:
    mask = np.array(seen if seen is not None else [True] * len(values))
    return fit(field, "item", pl.Series(field.name, values), mask, has_unknown=has_unknown)


def test_single_values_take_rows_in_sorted_order() -> None:
    vocabulary = fitted(Field(name="city"), ["rome", "oslo", "rome", None, "lima"])
    assert vocabulary.values == ("", "lima", "oslo", "rome")
    assert (vocabulary.known, vocabulary.unknown_row, vocabulary.last_row) == (4, 5, 5)
    rows = vocabulary.encode(pl.Series(["oslo", "rome", "paris", None]))
    assert rows.dtype == np.int32
    assert rows.tolist() == [3, 4, 5, 1]  # an empty cell is a value of its own once training saw one


def test_an_empty_cell_never_seen_is_unknown() -> None:
    assert fitted(Field(name="city"), ["rome", "oslo"]).encode(pl.Series([None, "rome"], dtype=pl.String)).tolist() == [3, 2]


def test_only_marked_rows_are_learnt() -> None:
    vocabulary = fitted(Field(name="city"), ["a", "b", "c"], seen=[True, False, True])
    assert vocabulary.values == ("a", "c")
    assert vocabulary.encode(pl.Series(["a", "b", "c"])).tolist() == [1, 3, 2]


def test_without_an_unknown_row_the_unknown_is_padding() -> None:
    vocabulary = fitted(Field(name="city"), ["a", "b"], has_unknown=False)
    assert (vocabulary.last_row, vocabulary.unknown_row) == (2, 0)
    assert vocabulary.encode(pl.Series(["b", "z"])).tolist() == [2, 0]


def test_multi_valued_cells_keep_their_order_and_pad_right() -> None:
    field = Field(name="genres", kind="multi")
    vocabulary = fitted(field, ["War|Drama", "", None, "Drama"])
    assert vocabulary.values == ("Drama", "War")
    rows = vocabulary.encode(pl.Series(["War|Drama", "", None, "Drama|Noir|War", "|"]))
    assert rows.tolist() == [[2, 1, 0], [0, 0, 0], [0, 0, 0], [1, 3, 2], [0, 0, 0]]


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("SciFi, Drama ,SciFi,, Comedy", ["SciFi", "Drama", "Comedy"]),
        ("['SciFi', 'Drama']", ["SciFi", "Drama"]),
        ('["SciFi, hard", "it\'s", "caf\\u00e9"]', ["SciFi, hard", "it's", "café"]),
        ("['it\\'s', \"two\\nlines\"]", ["it's", "two\nlines"]),
        ("['a' 'b'\n 'a']", ["a", "b"]),  # as NumPy prints it
        (" [1, 2.5, null, true] ", ["1", "2.5", "true"]),
        ("[]", []),
        ("[Live], [Live]", ["[Live]"]),  # brackets alone make no list
        ("['a', 'b'", ["['a'", "'b'"]),
        ("[b]", ["[b]"]),
    ],
)
def test_values_of_a_cell_are_stripped_and_stand_once(cell: str, found: list[str]) -> None:
    field = Field(name="genres", kind="multi", separator=",")
    assert values_of(field, pl.Series("genres", [cell, None])).to_list() == [found, []]
    vocabulary = fitted(field, [cell, None])
    assert vocabulary.values == tuple(sorted(found))
    assert [vocabulary.values[row - 1] for row in vocabulary.encode(pl.Series([cell]))[0] if row] == found
    first = Field(name="genres", kind="multi", separator=",", first_only=True)
    assert fitted(first, [cell]).values == (found[0] if found else "",)


def test_lists_are_stripped_too_and_the_lists_of_all_forms_are_one() -> None:
    field = Field(name="tags", kind="multi", separator=";")
    lists = pl.Series([[" a", "b", "a ", "", None], None])
    assert values_of(field, lists).to_list() == [["a", "b"], None]
    rows = fitted(field, ["a; b", "['a', 'b']", '["a", "b"]']).encode(pl.Series(["a; b;a", "['a', 'b']", '["a", "b", "a"]']))
    assert rows.tolist() == [[1, 2]] * 3


def test_a_vocabulary_of_an_earlier_version_knows_its_values_stripped() -> None:
    former = Vocabulary(Field(name="g", kind="multi", separator=","), "item", (" Drama", " Food", "Drama"), True)
    assert former.encode(pl.Series(["SciFi, Drama", "Food", "Drama, Food"])).tolist() == [[4, 3], [2, 0], [3, 2]]


def test_multi_valued_list_columns_and_other_separators() -> None:
    lists = fitted(Field(name="tags", kind="multi"), [["x", "y|z"], [], None])
    assert lists.values == ("x", "y|z")
    assert lists.encode(pl.Series([["y|z", "x"], []], dtype=pl.List(pl.String))).tolist() == [[2, 1], [0, 0]]
    cut = fitted(Field(name="tags", kind="multi", separator=", "), ["a, b", "c"])
    assert cut.values == ("a", "b", "c")


def test_multi_valued_field_that_training_never_filled() -> None:
    vocabulary = fitted(Field(name="tags", kind="multi"), ["", "", "late"], seen=[True, True, False])
    assert vocabulary.values == ()
    assert vocabulary.encode(pl.Series(["", "late"])).tolist() == [[0], [vocabulary.unknown_row]]
    assert vocabulary.encode(pl.Series([], dtype=pl.String)).shape == (0, 1)


def test_first_only_makes_a_multi_valued_field_single() -> None:
    vocabulary = fitted(Field(name="genres", kind="multi", first_only=True), ["War|Drama", "Drama", ""])
    assert not vocabulary.multi
    assert vocabulary.values == ("", "Drama", "War")
    assert vocabulary.encode(pl.Series(["War|Noir", "Noir|War", None])).tolist() == [3, 4, 1]


def test_numeric_buckets_are_cut_at_training_quantiles() -> None:
    # training numbers 1..8 in 4 buckets: borders at the quartiles 2.75, 4.5, 6.25
    values = [*range(1, 9), 1000]
    vocabulary = fitted(Field(name="age", kind="numeric", buckets=4), values, seen=[True] * 8 + [False])
    assert vocabulary.edges == (2.75, 4.5, 6.25)
    assert vocabulary.values == ("0", "1", "2", "3")
    rows = vocabulary.encode(pl.Series([1.0, 2.75, 3.0, 6.0, 1000.0, -5.0, None, float("nan")]))
    assert rows.tolist() == [1, 1, 2, 3, 4, 1, 5, 5]  # a missing number is unknown: training had none


def test_numeric_buckets_ignore_missing_training_numbers() -> None:
    vocabulary = fitted(Field(name="age", kind="numeric", buckets=2), [1.0, None, float("nan"), 3.0])
    assert vocabulary.edges == (2.0,)
    assert vocabulary.values == ("", "0", "1")
    assert vocabulary.encode(pl.Series([None, 1.0, 3.0])).tolist() == [1, 2, 3]


def test_numeric_buckets_without_a_number_are_refused() -> None:
    with pytest.raises(DataError, match="field 'age': no number in the training rows"):
        fitted(Field(name="age", kind="numeric", buckets=4), [None, 2.0], seen=[True, False])


def test_stacked_fields_own_contiguous_rows() -> None:
    placed = stack(
        [
            fitted(Field(name="a"), ["x", "y"]),
            fitted(Field(name="b"), ["x"], has_unknown=False),
            fitted(Field(name="c", kind="multi"), ["p|q"]),
        ]
    )
    owned = [set(range(entry.offset + 1, entry.last_row + 1)) for entry in placed]
    assert owned == [{1, 2, 3}, {4}, {5, 6, 7}]
    assert placed[1].encode(pl.Series(["x"])).tolist() == [4]
    assert placed[2].encode(pl.Series(["q|r"])).tolist() == [[6, 7]]


def test_awkward_ids_stay_apart_and_come_back() -> None:
    raw = ["1", "1.0", "01", "9223372036854775807", "🦊", " 1", "a" * 10_000, 'x,y\n"z"', "NULL"]
    vocabulary = fitted(Field(name="id"), list(raw))
    rows = vocabulary.encode(pl.Series(raw))
    assert len(set(rows.tolist())) == len(raw)
    assert [vocabulary.values[row - 1] for row in rows] == raw


def test_the_largest_integer_id_is_not_rounded() -> None:
    big = 2**63 - 1
    vocabulary = fitted(Field(name="id"), [big, big - 1])
    assert vocabulary.values == (str(big - 1), str(big))
    assert vocabulary.encode(pl.Series([big, big - 1, big - 2])).tolist() == [2, 1, 3]


@given(st.lists(st.none() | texts, min_size=1, max_size=20), st.lists(st.none() | texts, max_size=20), st.booleans())
def test_single_round_trip(training: list[str | None], others: list[str | None], has_unknown: bool) -> None:
    column = pl.Series("v", training, dtype=pl.String)
    vocabulary = fit(Field(name="v"), "user", column, np.ones(len(training), np.bool_), has_unknown=has_unknown)
    (placed,) = stack([vocabulary])
    restored = Vocabulary.from_json(json.loads(json.dumps(placed.to_json())))
    assert restored == placed
    known = {value or "" for value in training}
    for value, row in zip(others, restored.encode(pl.Series("v", others, dtype=pl.String)), strict=True):
        assert row == (sorted(known).index(value or "") + 1 if (value or "") in known else restored.unknown_row)


@given(st.lists(st.lists(values, max_size=4), min_size=1, max_size=12), st.lists(st.booleans(), min_size=12, max_size=12))
def test_multi_round_trip(cells: list[list[str]], marks: list[bool]) -> None:
    seen = np.array(marks[: len(cells)])
    column = pl.Series("v", ["|".join(cell) for cell in cells], dtype=pl.String)
    vocabulary = fit(Field(name="v", kind="multi"), "item", column, seen, has_unknown=True)
    rows = vocabulary.encode(column)
    for cell, row, known in zip(cells, rows, seen, strict=True):
        values = list(dict.fromkeys(value.strip() for value in cell if value.strip()))
        back = [vocabulary.values[at - 1] if at <= vocabulary.known else None for at in row if at]
        assert back == [value if value in vocabulary.values else None for value in values]
        assert not known or None not in back
        assert not row[len(values) :].any()
