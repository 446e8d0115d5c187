"""A fingerprint is of what was prepared: any change of it shows, and no change of how files hold it does."""

from __future__ import annotations

import datetime
import functools
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from small_data import SCHEMA, SETTINGS, plain_tables, small_dataset, small_tables

from braidrec.data import dataset as dataset_module
from braidrec.data import fingerprint
from braidrec.data.dataset import Dataset, PrepareSettings, arrays_of
from braidrec.data.fingerprint import Fingerprint, of_contents
from braidrec.data.settings import FORMER, SplitConfig
from braidrec.data.tables import Tables
from braidrec.errors import DataError

Arrays = Mapping[str, NDArray[Any]]
Frames = Mapping[str, pl.DataFrame]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small_dataset(tmp_path_factory.mktemp("fingerprint"))


def again(data: Dataset, arrays: Arrays | None = None, frames: Frames | None = None, **other: Any) -> str:
    """The fingerprint of an opened data set, made again, some of it replaced."""
    whole = {**arrays_of(data.log, data.split, data.features), **(arrays or {})}
    both = {"items": data.items, "users": data.users, **(frames or {})}
    schema, settings = other.get("schema", data.schema), other.get("settings", data.settings)
    features = other.get("features", data.features)
    return of_contents(schema, settings, whole, features, other.get("signals", data.manifest["signals"]), both)


def of_series(*series: pl.Series) -> str:
    parts = fingerprint._Parts()
    for each in series:
        parts.series("column", each)
    return parts.hex()


# -- a data set -----------------------------------------------------------------------------------------------------------


def test_it_is_made_when_preparing_and_stands_in_the_manifest(prepared: Dataset) -> None:
    assert prepared.fingerprint == prepared.manifest["fingerprint"]
    assert prepared.fingerprint.startswith("1-")
    assert len(prepared.fingerprint) == len(prepared.former_fingerprint) + 2 == 18
    assert again(prepared) == prepared.fingerprint  # what the files give back is what was prepared


def test_opening_digests_no_contents(prepared: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(dataset_module, "of_contents", never)
    assert Dataset.open(prepared.path).fingerprint == prepared.fingerprint


@pytest.mark.parametrize(
    "writing", [{"compression": "uncompressed"}, {"row_group_size": 3}, {"statistics": False}, {"compression": "gzip"}]
)
def test_another_way_of_writing_parquet_is_no_other_data(
    writing: dict[str, Any], prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = pl.DataFrame.write_parquet
    monkeypatch.setattr(pl.DataFrame, "write_parquet", functools.partialmethod(plain, **writing))
    other = small_dataset(tmp_path)
    assert other.fingerprint == prepared.fingerprint == again(other)
    assert other.former_fingerprint != prepared.former_fingerprint
    assert other.identity.matches(prepared.identity)


def changed(table: str, column: str, row: int, value: Any) -> Tables:
    tables = small_tables()
    frame: pl.DataFrame = getattr(tables, table)
    values = frame[column].to_list()
    values[row] = value
    return replace(tables, **{table: frame.with_columns(pl.Series(column, values, dtype=frame[column].dtype))})


CHANGES: dict[str, Callable[[], Tables]] = {
    "a title": lambda: changed("items", "title", 3, "Film one"),
    "a title that is missing": lambda: changed("items", "title", 3, None),
    "an item's id": lambda: changed("items", "item", 19, 777),  # met nowhere, so the log stays
    "a rating": lambda: changed("interactions", "rating", 5, 1 + small_tables().interactions["rating"][5] % 5),
    "a time": lambda: changed("interactions", "time", 5, 1_000_401),
    "a user's age": lambda: changed("users", "age", 2, 99),
}


@pytest.mark.parametrize("what", CHANGES)
def test_one_change_is_another_data_set(what: str, prepared: Dataset, tmp_path: Path) -> None:
    other = small_dataset(tmp_path, tables=CHANGES[what]())
    assert other.fingerprint != prepared.fingerprint
    assert not other.identity.matches(prepared.identity)


def test_one_border_of_the_split_is_another_data_set(prepared: Dataset, tmp_path: Path) -> None:
    train, valid = prepared.split["train"], prepared.split["valid"]
    moved = {"split.train": train[:-1], "split.valid": np.concatenate([train[-1:], valid])}
    assert again(prepared, moved) != prepared.fingerprint
    split = SplitConfig(min_history=2, ratios=(0.7, 0.2, 0.1))
    assert small_dataset(tmp_path, settings=PrepareSettings(split=split)).fingerprint != prepared.fingerprint


def test_every_array_counts_with_its_dtype_shape_and_bytes(prepared: Dataset) -> None:
    whole = arrays_of(prepared.log, prepared.split, prepared.features)
    seen = {prepared.fingerprint}
    for name, values in whole.items():
        if values.size:
            other = values.copy()
            other.reshape(-1)[-1] += 1
            seen.add(again(prepared, {name: other}))
        seen.add(again(prepared, {name: values.astype(np.float64 if values.dtype != np.float64 else np.float32)}))
        seen.add(again(prepared, {name: values[:, None]}))
    assert len(seen) == 1 + sum(2 + bool(values.size) for values in whole.values())
    big = whole["log.user"].astype(">i4")
    assert again(prepared, {"log.user": big}) == prepared.fingerprint  # the same numbers on another machine


def test_vocabulary_settings_schema_and_signals_count(prepared: Dataset) -> None:
    features = prepared.features
    first, *rest = features.vocabularies
    scaling, *scalings = features.scalings
    others = [
        {"features": replace(features, vocabularies=(replace(first, values=(*first.values[:-1], "x")), *rest))},
        {"features": replace(features, vocabularies=(replace(first, has_unknown=not first.has_unknown), *rest))},
        {"features": replace(features, scalings=(replace(scaling, mean=scaling.mean + 1e-12), *scalings))},
        {"settings": SETTINGS.model_copy(update={"vocabulary": "all"})},
        {"settings": SETTINGS.model_copy(update={"negatives": 4})},
        {"schema": SCHEMA.model_copy(update={"text": ("title", "genres")})},
        {"signals": [0.5, *prepared.manifest["signals"][1:]]},
    ]
    assert len({prepared.fingerprint, *(again(prepared, **other) for other in others)}) == 1 + len(others)


def test_settings_that_say_what_they_say_anyway_do_not_count(prepared: Dataset) -> None:
    spelled = PrepareSettings(split=SplitConfig(kind="temporal", min_history=2, seed=42), vocabulary="train")
    assert again(prepared, settings=spelled) == prepared.fingerprint


def test_the_order_of_columns_name_and_folder_do_not_count(prepared: Dataset, tmp_path: Path) -> None:
    tables = small_tables()
    assert tables.items is not None
    assert tables.users is not None
    turned = replace(
        tables,
        name="other",
        items=tables.items.select(reversed(tables.items.columns)),
        users=tables.users.select(reversed(tables.users.columns)),
    )
    other = small_dataset(tmp_path / "elsewhere", tables=turned)
    assert other.items.columns != prepared.items.columns
    assert other.fingerprint == prepared.fingerprint


def test_the_order_of_rows_columns_by_another_name_and_other_columns_count(prepared: Dataset) -> None:
    items = prepared.items
    others = [
        items.reverse(),
        items.rename({"title": "name"}),
        items.drop("title"),
        items.with_columns(more=pl.lit(1)),
        items.with_columns(pl.col("item").cast(pl.Int32)),
        items.with_columns(pl.col("title").cast(pl.Binary)),
    ]
    assert len({prepared.fingerprint, *(again(prepared, frames={"items": each}) for each in others)}) == 1 + len(others)
    assert again(prepared, frames={"items": prepared.users, "users": items}) != prepared.fingerprint


def test_catalogues_of_every_type_come_back_from_parquet_as_they_were(tmp_path: Path) -> None:
    rows = [(f"u{at % 3}", f"i{at % 5}", at, 1 + at % 5) for at in range(40)]
    day = datetime.date(2024, 2, 29)
    items = pl.DataFrame(
        {
            "item": [f"i{at}" for at in range(5)],
            "kind": pl.Series(["a", "b", None, "a", "b"], dtype=pl.Categorical),
            "size": pl.Series(["S", "M", "S", None, "M"], dtype=pl.Enum(["S", "M"])),
            "day": [day, None, day, day, day],
            "moment": pl.Series([datetime.datetime(2024, 2, 29, at) for at in range(5)]).dt.replace_time_zone("UTC"),
            "clock": [datetime.time(at) for at in range(5)],
            "spent": [datetime.timedelta(seconds=at) for at in range(5)],
            "words": [["x", None, ""], [], None, ["y"], ["z"]],
            "pair": pl.Series([[1, 2]] * 5, dtype=pl.Array(pl.Int16, 2)),
            "maker": [{"name": "m", "year": at} for at in range(5)],
            "price": pl.Series(["1.50", None, "2.25", "3", "4"]).cast(pl.Decimal(10, 2)),
            "nothing": pl.Series([None] * 5, dtype=pl.Null),
            "raw": [b"\x00\xff", b"", None, b"a", b"b"],
            "flag": [True, False, None, True, False],
            "share": [0.5, float("nan"), None, -0.0, float("inf")],
        }
    )
    data = Dataset.prepare(replace(plain_tables(rows), items=items), tmp_path / "typed")
    assert again(data) == data.fingerprint


def test_a_type_that_no_file_could_hold_is_refused() -> None:
    odd = pl.Series("odd", [object()], dtype=pl.Object)
    with pytest.raises(DataError, match="column 'odd': its values have the type Object, which no data set can hold"):
        of_series(odd)


# -- columns --------------------------------------------------------------------------------------------------------------


def test_no_two_columns_have_one_digest() -> None:
    moment = datetime.datetime(2024, 1, 1)
    distinct = [
        pl.Series(["ab", "c"]),
        pl.Series(["a", "bc"]),
        pl.Series(["ab", "c", ""]),
        pl.Series(["ab", "c", None]),
        pl.Series(["", "abc"]),
        pl.Series([b"ab", b"c"]),
        pl.Series([1, 0]),
        pl.Series([1, 0], dtype=pl.Int32),
        pl.Series([1, 0], dtype=pl.UInt64),
        pl.Series([1.0, 0.0]),
        pl.Series([True, False]),
        pl.Series(["1", "0"]),
        pl.Series([1, None]),
        pl.Series([None, 1]),
        pl.Series([None, None], dtype=pl.Int64),
        pl.Series([None, None], dtype=pl.String),
        pl.Series([None, None], dtype=pl.Null),
        pl.Series([[1], [0]]),
        pl.Series([[1, 0], []]),
        pl.Series([[], [1, 0]]),
        pl.Series([[1, 0], None]),
        pl.Series([[1, None], [0]]),
        pl.Series([["1"], ["0"]]),
        pl.Series([[[1]], [[0]]]),
        pl.Series([{"a": 1}, {"a": 0}]),
        pl.Series([{"b": 1}, {"b": 0}]),
        pl.Series([moment, moment]),
        pl.Series([moment, moment]).dt.replace_time_zone("UTC"),
        pl.Series([moment, moment]).cast(pl.Datetime("ms")),
        pl.Series([moment.date(), moment.date()]),
        pl.Series([datetime.time(1), datetime.time(0)]),
        pl.Series([datetime.timedelta(1), datetime.timedelta(0)]),
        pl.Series(["1", "0"]).cast(pl.Decimal(4, 1)),
        pl.Series(["1", "0"]).cast(pl.Decimal(4, 2)),
    ]
    digests = [of_series(each) for each in distinct]
    for (first, one), (second, two) in itertools.combinations(zip(distinct, digests, strict=True), 2):
        assert one != two, (first, second)
    assert len({of_series(distinct[0], distinct[1]), of_series(distinct[1], distinct[0]), of_series(distinct[0])}) == 3


def test_how_a_column_lies_in_memory_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["one", None, "", "two", "ünï", "three"] * 5
    whole = pl.Series(words)
    digest = of_series(whole)
    assert of_series(whole.cast(pl.Categorical)) == digest
    assert of_series(whole.cast(pl.Enum(["three", "two", "one", "", "ünï"]))) == digest
    assert of_series(pl.concat([whole[:7], whole[7:]], rechunk=False)) == digest
    assert of_series(pl.Series(["before", *words, "after"])[1:-1]) == digest
    lists = pl.Series([[word] for word in words])
    assert of_series(pl.concat([lists[:7], lists[7:]], rechunk=False)) == of_series(lists)
    monkeypatch.setattr(fingerprint, "_ROWS", 4)
    assert of_series(whole) == digest


def test_algorithm_1_gives_what_it_always_gave(tmp_path: Path) -> None:
    """A data set of whole numbers and text, whose preparation no other library can change."""
    rows = [
        ("u1", "a", 10, 4),
        ("u2", "b", 20, 5),
        ("u1", "b", 30, 1),
        ("u2", "a", 40, 2),
        ("u1", "c", 50, 5),
        ("u1", "d", 60, 3),
    ]
    settings = PrepareSettings(split=SplitConfig(min_history=0, ratios=(0.5, 0.25, 0.25)), **FORMER)
    assert Dataset.prepare(plain_tables(rows), tmp_path / "plain", settings).fingerprint == "1-f72eb913067c15bb"


# -- data sets and runs of before -----------------------------------------------------------------------------------------


def forget(path: Path) -> Dataset:
    """A folder as it was prepared before there were fingerprints of contents."""
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["fingerprint"], manifest["digest"]
    (path / "manifest.json").write_text(json.dumps(manifest | {"digest": dataset_module._digest(manifest)}))
    return Dataset.open(path)


def test_a_data_set_prepared_before_is_known_by_its_files(prepared: Dataset, tmp_path: Path) -> None:
    before = forget(small_dataset(tmp_path).path)
    assert before.fingerprint == before.former_fingerprint == prepared.former_fingerprint
    assert before.identity.matches(prepared.identity)
    assert prepared.identity.matches(before.identity)
    other = forget(small_dataset(tmp_path / "other", tables=small_tables(seed=1)).path)
    assert not other.identity.matches(prepared.identity)


def test_a_fingerprint_of_the_manifest_is_as_guarded_as_the_rest(tmp_path: Path) -> None:
    data = small_dataset(tmp_path)
    file = data.path / "manifest.json"
    file.write_text(file.read_text().replace(data.fingerprint, "1-0123456789abcdef"))
    with pytest.raises(DataError, match="its content does not have its digest"):
        Dataset.open(data.path)


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        (("1-a", "x"), ("1-a", "x"), True),
        (("1-a", "x"), ("1-a", "y"), True),  # other files, the same contents
        (("1-a", "x"), ("1-b", "x"), False),  # contents say more than files: settings, schema
        (("x", "x"), ("1-a", "x"), True),  # prepared before
        (("x", "x"), ("1-a", "y"), False),
        (("x", "x"), ("x", "x"), True),
        (("x", "x"), ("y", "y"), False),
        (("1-a", "x"), ("2-c", "x"), True),  # another algorithm: files are all that both know
        (("1-a", "x"), ("2-a", "y"), False),
    ],
)
def test_what_goes_with_what(own: tuple[str, str], other: tuple[str, str], expected: bool) -> None:
    assert Fingerprint(*own).matches(Fingerprint(*other)) is expected
    assert Fingerprint(*other).matches(Fingerprint(*own)) is expected


def test_records_hold_both_and_earlier_ones_the_former() -> None:
    own = Fingerprint("1-a", "x")
    assert own.to_json() == {"fingerprint": "1-a", "former_fingerprint": "x"}
    assert Fingerprint.of_record({"name": "data", **own.to_json()}) == own
    assert Fingerprint.of_record({"fingerprint": "x"}) == Fingerprint("x", "x")


def test_frames_are_known_in_a_folder_that_was_prepared_before(tmp_path: Path) -> None:
    tables, path = small_tables(), tmp_path / "data"
    held = Dataset.from_frames(tables.interactions, tables.items, tables.users, schema=SCHEMA, settings=SETTINGS, path=path)
    before = forget(path)
    assert held.fingerprint != before.fingerprint
    found = Dataset.from_frames(tables.interactions, tables.items, tables.users, schema=SCHEMA, settings=SETTINGS, path=path)
    assert found.identity.matches(held.identity)
    with pytest.raises(DataError, match="holds other data"):
        Dataset.from_frames(tables.interactions[1:], tables.items, tables.users, schema=SCHEMA, settings=SETTINGS, path=path)
