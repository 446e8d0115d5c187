"""Wrong types end in errors of our own that name the argument and the remedy; right ones of any library are taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from braidrec.arguments import path_of, raw_id, raw_ids
from braidrec.errors import ConfigError, DataError


def test_whole_numbers_of_any_type_are_one_id() -> None:
    assert {raw_id(value, "user") for value in (3, 3.0, "3", np.int64(3), np.uint8(3), np.float32(3), np.str_("3"))} == {"3"}
    assert raw_id(2**63, "user") == str(2**63)
    assert raw_id("03", "user") == "03"  # text stays as it is


@pytest.mark.parametrize("value", [3.5, float("nan"), float("inf"), True, None, b"3", ["3"], np.array([3]), np.bool_(True)])
def test_what_is_no_id_is_refused(value: object) -> None:
    with pytest.raises(DataError, match=r"user = .*: one id is needed, as text or a whole number"):
        raw_id(value, "user")


@pytest.mark.parametrize(
    "values",
    [
        [1, 2.0],
        (1, "2"),
        np.array([1, 2]),
        np.array([1.0, 2.0]),
        pl.Series([1, 2]),
        pa.array([1, 2]),
        range(1, 3),
        iter(["1", 2]),
    ],
)
def test_lists_of_any_library_are_taken(values: object) -> None:
    assert raw_ids(values, "items") == ["1", "2"]


def test_a_single_value_is_no_list() -> None:
    with pytest.raises(DataError, match=r"allow = 'abc': a list of ids is needed; write allow=\['abc'\]$"):
        raw_ids("abc", "allow")
    with pytest.raises(DataError, match=r"write items=\['a,b'\], or items=\['a', 'b'\]"):
        raw_ids("a,b", "items")
    for value in (3, 3.0, b"abc", np.int64(3)):
        with pytest.raises(DataError, match=r"deny = .*: a list of ids is needed"):
            raw_ids(value, "deny")


@pytest.mark.parametrize("value", [{"a": 1}, pl.DataFrame({"item": [1]}), np.zeros((2, 2)), None, object()])
def test_what_is_no_list_is_refused(value: object) -> None:
    with pytest.raises(DataError, match=r"items: .* is no list of ids; pass a list of text or whole numbers"):
        raw_ids(value, "items")
    with pytest.raises(DataError, match=r"items\[1\] = None: one id is needed"):
        raw_ids([1, None], "items")


def test_paths_are_text_or_path() -> None:
    assert path_of("a/b", "out") == path_of(Path("a/b"), "out") == Path("a/b")
    for value in (3, None, "", b"a", ["a"]):
        with pytest.raises(ConfigError, match=r"out = .*: a path is needed, as text or pathlib.Path"):
            path_of(value, "out")
