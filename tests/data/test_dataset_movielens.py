"""The public MovieLens logs prepared whole: the counts that the papers state and that were measured on the files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from braidrec.data.dataset import Dataset
from braidrec.data.intake.sources import read_public


def movielens(name: str, folder: Path) -> Dataset:
    if not os.environ.get("BRAIDREC_DATA"):
        pytest.skip(f"BRAIDREC_DATA is unset: {name} is not at hand")
    return Dataset.prepare(read_public(name, download=False), folder / name)


@pytest.fixture(scope="module")
def ml_1m(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return movielens("ml-1m", tmp_path_factory.mktemp("movielens"))


def sizes(dataset: Dataset) -> tuple[int, ...]:
    return tuple(len(dataset.split[name]) for name in ("train", "valid", "test"))


def test_ml_1m_samples(ml_1m: Dataset) -> None:
    assert len(ml_1m.log) == 1_000_209
    assert sizes(ml_1m) == (776_007, 97_000, 97_002)
    assert sum(sizes(ml_1m)) == 970_009 == 1_000_209 - 5 * 6_040
    assert (np.diff(ml_1m.log.timestamp) >= 0).all()
    assert round(100 * float(ml_1m.log.label.mean()), 3) == 57.516


def test_ml_1m_cardinalities(ml_1m: Dataset) -> None:
    values: dict[str, list[int]] = {owner: [] for owner in ("user", "item", "context")}
    for entry in ml_1m.manifest["fields"].values():
        values[entry["owner"]].append(entry["values"])
    # user, gender, age, job, zip | movie, title, genre
    assert sorted(values["user"]) == sorted([6_040, 2, 7, 21, 3_439])
    assert sorted(values["item"]) == sorted([3_706, 3_706, 18])
    assert values["context"] == []


def test_ml_1m_training_knows_only_its_own(ml_1m: Dataset) -> None:
    counts = ml_1m.manifest["counts"]
    assert (counts["users"], counts["items_met"]) == (6_040, 3_706)
    assert counts["train_users"] == 5_395
    assert (counts["test_items_unseen"], counts["test_rows_item_unseen"]) == (41, 107)
    assert 0.19 < counts["test_rows_user_unseen"] / sizes(ml_1m)[2] < 0.21
    users = ml_1m.features.single[0]
    assert (users.name, users.known) == (ml_1m.schema.user, 5_395)


def test_ml_latest_small_samples(tmp_path: Path) -> None:
    dataset = movielens("ml-latest-small", tmp_path)
    assert len(dataset.log) == 100_836
    assert sizes(dataset) == (78_228, 9_778, 9_780)
    assert dataset.num_users == 610
    assert dataset.manifest["counts"]["items_met"] == 9_724
