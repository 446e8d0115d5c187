"""No column of theirs can meet a name of ours: every name that was ever used inside is a column like any other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.intake.delimited import parse_delimited
from braidrec.data.intake.readers import read_table
from braidrec.data.schema import Field, Schema
from braidrec.data.settings import SplitConfig
from braidrec.knowledge.texts import PromptTemplate
from braidrec.runs.knowledge import _render
from braidrec.runs.preparing import prepare

# Once put into the log's frame; names that Polars gives; and what Polars reads as a pattern.
NAMES = [
    "_user",
    "_item",
    "value",
    "at",
    "row",
    "id",
    "index",
    "len",
    "literal",
    "count",
    "0",
    "item_right",
    "*",
    "^.*$",
    "^i.*$",
]
SETTINGS = PrepareSettings(split=SplitConfig(min_history=1, cold_items=0.2))
ROLES = ("user", "item", "time", "rating", "weight", "device", "genres", "title")


def prepared(path: Path, called: dict[str, str], more: str | None = None, tie: str = "integer") -> Dataset:
    rng = np.random.default_rng(3)
    count, items = 240, 20
    log = pl.DataFrame(
        {
            "user": rng.permutation(np.repeat(np.arange(1, 13), 20)),
            "item": 100 + rng.integers(0, items + 2, count),
            "time": rng.integers(1_000_000, 1_000_100, count),
            "rating": rng.integers(1, 6, count),
            "weight": rng.choice([0.5, 1.0], count),
            "device": rng.choice(["phone", "desk"], count),
        }
    )
    catalogue = pl.DataFrame(
        {
            "item": 100 + rng.permutation(items),
            "genres": rng.choice(["a|b", "b", "c|a"], items),
            "title": [f"title {at}" for at in range(items)],
        }
    )
    people = pl.DataFrame({"user": np.arange(1, 13)})
    frames = [
        frame.rename({old: new for old, new in called.items() if old in frame.columns}) for frame in (log, catalogue, people)
    ]
    if more is not None:
        frames = [frame.with_columns(pl.Series(more, rng.permutation(len(frame)))) for frame in frames]
    name = {role: called.get(role, role) for role in ROLES}
    schema = Schema(
        user=name["user"],
        item=name["item"],
        timestamp=name["time"],
        rating=name["rating"],
        weight=name["weight"],
        user_fields=(Field(name=name["user"]),),
        item_fields=(Field(name=name["item"]), Field(name=name["genres"], kind="multi")),
        context_fields=(Field(name=name["device"]),),
        text=(name["title"], name["genres"]),
    )
    settings = SETTINGS.model_copy(update={"split": SETTINGS.split.model_copy(update={"tie": tie})})
    return Dataset.from_frames(*frames, schema=schema, settings=settings, path=path)


def arrays(dataset: Dataset) -> dict[str, np.ndarray]:
    return {file.name: np.load(file) for file in sorted(dataset.path.glob("*.npy"))}


def same(first: Dataset, second: Dataset) -> None:
    one, two = arrays(first), arrays(second)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    assert (first.item_ids, first.user_ids) == (second.item_ids, second.user_ids)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tie", ["integer", "string"])
def test_a_column_that_is_not_used_changes_nothing(name: str, tie: str, tmp_path: Path) -> None:
    same(prepared(tmp_path / "a", {}, more="harmless", tie=tie), prepared(tmp_path / "b", {}, more=name, tie=tie))


@pytest.mark.parametrize("name", NAMES)
def test_any_role_may_have_the_name(name: str, tmp_path: Path) -> None:
    plain = prepared(tmp_path / "plain", {})
    texts = _render(PromptTemplate(fields=plain.schema.text), plain.schema, plain.items).texts
    for at, role in enumerate(ROLES):
        other = prepared(tmp_path / str(at), {role: name})
        same(plain, other)
        said = _render(PromptTemplate(fields=other.schema.text), other.schema, other.items).texts
        own = [text and text.replace(f"{role} is ", f"{name} is ") for text in texts]
        assert said == (own if role in ("title", "genres") else texts)


def test_users_and_items_may_have_each_others_names(tmp_path: Path) -> None:
    called = {"user": "_item", "item": "_user", "time": "user", "rating": "item"}
    same(prepared(tmp_path / "plain", {}), prepared(tmp_path / "odd", called))


def test_the_id_may_be_a_text_of_its_own(tmp_path: Path) -> None:
    plain = prepared(tmp_path / "plain", {})
    said = _render(PromptTemplate(fields=("item", "title")), plain.schema, plain.items.head(1)).texts
    assert said == [f"Here is an item, item is {plain.item_ids[0]}, and title is {plain.items['title'][0]}."]


def test_fields_of_two_tables_with_one_name_are_both_counted(tmp_path: Path) -> None:
    log = pl.DataFrame({"user": [1, 1, 1, 2, 2, 2], "item": [1, 2, 3, 1, 2, 3], "timestamp": range(6), "label": [1, 0] * 3})
    items = pl.DataFrame({"item": [1, 2, 3], "kind": ["x", "y", "z"]})
    users = pl.DataFrame({"user": [1, 2], "kind": ["p", "p"]})
    schema = Schema(
        user="user",
        item="item",
        timestamp="timestamp",
        label="label",
        user_fields=(Field(name="kind"),),
        item_fields=(Field(name="kind"),),
    )
    settings = PrepareSettings(split=SplitConfig(ratios=(0.4, 0.3, 0.3), min_history=0), vocabulary="all")
    found = Dataset.from_frames(log, items, users, schema=schema, settings=settings, path=tmp_path / "d").manifest["fields"]
    assert {name: each["values"] for name, each in found.items()} == {"user": 2, "kind": 1, "item": 3, "kind of the item": 3}


def test_a_column_without_a_name_takes_none_that_is_there() -> None:
    assert parse_delimited(b"a,,column_2,\n1,2,3,4\n", what="f").frame.columns == ["a", "column_2_", "column_2", "column_4"]


def test_only_the_index_of_a_pandas_frame_is_left_out() -> None:
    table = pa.table({"user": [1], "__index_level_0__": [7], "__index_level_up": [8]})
    noted = table.replace_schema_metadata({"pandas": json.dumps({"index_columns": []})})
    assert read_table(table, what="log").frame.columns == ["user", "__index_level_up"]
    assert read_table(noted, what="log").frame.columns == ["user", "__index_level_0__", "__index_level_up"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("role", ["user_id", "item_id", "timestamp", "label", "genre"])
def test_a_file_may_have_the_name_too(role: str, name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    log = {"user_id": rng.permutation(np.repeat(np.arange(6), 10)), "item_id": rng.integers(0, 9, 60), "timestamp": range(60)}
    frames = {
        "log": pl.DataFrame(log | {"label": rng.integers(0, 2, 60)}),
        "items": pl.DataFrame({"item_id": range(9), "genre": ["a", "b", "c"] * 3}),
    }
    made = []
    for called in (role, name):
        for table, frame in frames.items():
            (frame.rename({role: called}) if role in frame.columns else frame).write_csv(tmp_path / f"{table}.csv")
        names = {each: called if each == role else each for each in ("user_id", "item_id", "timestamp", "label", "genre")}
        (tmp_path / "d.toml").write_text(
            f"""
name = "shop"
[interactions]
file = "log.csv"
user = "{names["user_id"]}"
item = "{names["item_id"]}"
timestamp = "{names["timestamp"]}"
label = "{names["label"]}"
[items]
file = "items.csv"
id = "{names["item_id"]}"
"""
        )
        made.append(prepare(str(tmp_path / "d.toml"), None, tmp_path / ("plain" if called == role else "odd")))
    same(*made)
