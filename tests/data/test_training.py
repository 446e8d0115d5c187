"""What training may see of each user, and the digest that says which part that was."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from braidrec.data.dataset import Dataset, PrepareSettings
from braidrec.data.schema import Schema
from braidrec.data.settings import SplitConfig
from braidrec.data.tables import Tables
from braidrec.data.training import TrainingPart, training_positions

ROWS = [  # user, item, time, liked, part
    ("b", "y", 1, 1, "train"),
    ("b", "x", 2, 0, "train"),
    ("b", "y", 3, 1, "train"),
    ("b", "z", 4, 1, "valid"),
    ("b", "w", 5, 1, "test"),
    ("a", "w", 1, 1, "train"),
    ("a", "x", 2, 1, "train"),
    ("a", "z", 3, 1, "test"),
    ("c", "x", 9, 1, "test"),
    ("d", "y", 9, 1, "valid"),
]


def data(folder: Path, rows: list[tuple[str, str, int, int, str]], split: str = "given", name: str = "d") -> Dataset:
    frame = pl.DataFrame(rows, schema=["user", "item", "time", "label", "part"], orient="row")
    schema = Schema(user="user", item="item", label="label", timestamp="time", part="part" if split == "given" else None)
    settings = PrepareSettings(split=SplitConfig(kind=split, min_history=1))  # type: ignore[arg-type]
    frame = frame if split == "given" else frame.drop("part")
    return Dataset.prepare(Tables(name, schema, frame), folder / name, settings)


def liked(found: Dataset, user: str) -> list[str]:
    return [found.item_ids[row - 1] for row in TrainingPart(found).items(found.user_rows[user]).tolist()]


def test_a_part_holds_what_is_liked_in_training_each_once_in_order(tmp_path: Path) -> None:
    found = data(tmp_path, ROWS)
    assert [liked(found, user) for user in "abcd"] == [["w", "x"], ["y"], [], []]
    assert len(training_positions(found)) == 5


def test_its_digest_is_of_ids_and_not_of_places(tmp_path: Path) -> None:
    def digests(rows: list[tuple[str, str, int, int, str]], name: str) -> dict[str, str]:
        found = data(tmp_path, rows, name=name)
        part = TrainingPart(found)
        return {id: part.digest(row) for id, row in found.user_rows.items()}

    whole = digests(ROWS, "whole")
    assert len(set(whole.values())) == 4
    renumbered = digests([("0", "0", 0, 1, "train"), *[row for row in ROWS if row[0] != "c"]], "renumbered")
    assert {id: renumbered[id] for id in "ab"} == {id: whole[id] for id in "ab"}
    moved = digests([(*row[:4], "train" if row[:2] == ("b", "z") else row[4]) for row in ROWS], "moved")
    assert moved["b"] != whole["b"]
    assert {id: moved[id] for id in "acd"} == {id: whole[id] for id in "acd"}
    disliked = digests([(*row[:3], 0, row[4]) if row[:3] == ("a", "x", 2) else row for row in ROWS], "disliked")
    assert disliked["a"] != whole["a"]


@pytest.mark.parametrize(("split", "expected"), [("leave_last_two", ["w", "x"]), ("ratio", None)])
def test_what_follows_order_ends_before_the_first_held_out_event(
    split: str, expected: list[str] | None, tmp_path: Path
) -> None:
    rows = [(user, item, at, 1, "train") for user in "abcdef" for at, item in enumerate("wxyz")]
    found = data(tmp_path, rows, split)
    if expected is not None:
        assert [liked(found, user) for user in "abcdef"] == [expected] * 6
    held = {
        found.item_ids[found.log.item[at] - 1] + str(found.log.user[at])
        for part in ("valid", "test")
        for at in found.split[part]
    }
    own = {item + str(found.user_rows[user]) for user in "abcdef" for item in liked(found, user)}
    assert not own & held
