"""Nothing of validation and test, and nothing of an event's own moment, in what is fitted or stands before it.

A log is prepared twice, the second time with everything after a border in time made up anew.  Whatever is made from the
training part, or stands before an event of it, must not change by one bit; where a guard is taken away, the same check says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from braidrec.data.batches import RankingBatches
from braidrec.data.dataset import Dataset
from braidrec.data.history import RecentHistory, SemanticHistory, build_semantic_slots
from braidrec.data.log import InteractionLog
from braidrec.data.negatives import NegativeSampler
from braidrec.data.popularity import frequency_buckets, training_counts
from braidrec.data.schema import Field, Schema
from braidrec.data.sequences import SequenceBatches
from braidrec.data.settings import PrepareSettings, SplitConfig
from braidrec.evaluation.baselines import RankingLog, item_mean
from braidrec.ranking.scoring import negative_sampler

SCHEMA = Schema(
    user="user",
    item="item",
    timestamp="time",
    rating="rating",
    item_fields=(Field(name="shelf"), Field(name="price", kind="numeric"), Field(name="tags", kind="multi")),
    context_fields=(Field(name="device"),),
)
EVENTS, BORDER = 400, 320


def log_of(seed: int) -> pl.DataFrame:
    """400 events of 20 users in 80 seconds, some of them twice; those from 320 on are another world for another seed."""
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "user": rng.integers(0, 20, EVENTS),
            "item": rng.integers(0, 30, EVENTS),
            "time": np.arange(EVENTS) // 5,
            "rating": rng.integers(1, 6, EVENTS),
            "device": rng.choice(["phone", "desk"], EVENTS),
        }
    )
    future = np.random.default_rng(seed)
    late = pl.DataFrame(
        {
            "user": future.integers(0, 20, EVENTS - BORDER),
            "item": future.integers(0, 40, EVENTS - BORDER),  # ten of them are met by the future alone
            "time": frame["time"][BORDER:],
            "rating": future.integers(1, 6, EVENTS - BORDER),
            "device": future.choice(["phone", "desk", f"watch {seed}"], EVENTS - BORDER),
        }
    )
    return pl.concat([frame[:BORDER], late], how="vertical_relaxed")


ITEMS = pl.DataFrame(
    {
        "item": range(40),
        "shelf": [f"s{at % 7}" if at < 30 else f"late {at}" for at in range(40)],
        "price": [float(at) if at < 30 else 1e9 for at in range(40)],
        "tags": [["a", f"t{at % 3}"] if at < 30 else ["late"] for at in range(40)],
    }
)


def worlds(folder: Path, **settings: Any) -> tuple[Dataset, Dataset]:
    split = SplitConfig.model_validate({"kind": "date", "valid_from": BORDER // 5, "test_from": 72, "min_history": 0})
    chosen = PrepareSettings.model_validate({"split": split, "duplicates": "keep", **settings})
    first, second = (
        Dataset.from_frames(log_of(seed), ITEMS, schema=SCHEMA, settings=chosen, path=folder / str(seed)) for seed in (1, 2)
    )
    return first, second


def training_world(data: Dataset, folder: Path) -> Iterator[tuple[str, Any]]:
    """All that training sees, by name."""
    train = data.split["train"]
    yield "vocabulary", [entry.to_json() for entry in data.features.vocabularies]
    yield "scalings", data.features.scalings
    yield "popularity", training_counts(data)[:31]
    yield "frequency buckets", frequency_buckets(training_counts(data))[:31]
    held = data.with_statistics()
    assert held.statistics is not None
    yield "statistics", held.statistics.before(train)
    for name, source in (("recent", RecentHistory(data.log, 8)), ("similar", similar(data, folder))):
        batches = RankingBatches(held, train, len(train), source, shuffle=False)
        batch = next(iter(batches))
        yield f"{name} histories", torch.cat([batch.history.items, batch.history.signals], dim=1).numpy()
        yield f"{name} batches", torch.cat([batch.fields, batch.numbers, batch.label[:, None]], dim=1).numpy()
    sequences = SequenceBatches(data, 64, length=8, negatives=2, seed=1)
    batch = sequences.cut(np.arange(sequences.num_windows))
    yield "sequences", torch.cat([batch.items, batch.targets], dim=1).numpy()
    split = data.split
    negatives = training_negatives(data)
    samples = torch.from_numpy(np.tile(train, 20))
    yield "negatives", negatives.draw(samples, torch.arange(len(samples)), torch.ones_like(samples), 0).numpy()
    early = RankingLog(data.log.user, data.log.item, data.log.label, train, train, train)
    yield "item means", item_mean(early).valid
    assert split["valid"][0] == len(train) == BORDER


def training_negatives(data: Dataset) -> NegativeSampler:
    positive = replace(data, log=replace(data.log, label=np.ones_like(data.log.label)))
    found = negative_sampler(positive, 2, 1, training=True)
    assert found is not None
    return found


def similar(data: Dataset, folder: Path) -> SemanticHistory:
    rows = np.random.default_rng(4).standard_normal((41, 6)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    build_semantic_slots(data.log, rows, 8, folder / f"{data.path.name}.npy", show_progress=False)
    return SemanticHistory(data.log, np.load(folder / f"{data.path.name}.npy"))


def leaks(folder: Path, **settings: Any) -> list[str]:
    """What of the training's world another future changes."""
    first, second = (dict(training_world(data, folder)) for data in worlds(folder, **settings))
    return [name for name in first if not _same(first[name], second[name])]


def _same(one: Any, other: Any) -> bool:
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


def test_another_future_changes_nothing_of_training(tmp_path: Path) -> None:
    assert leaks(tmp_path) == []


def test_a_vocabulary_of_the_whole_log_is_caught(tmp_path: Path) -> None:
    assert {"vocabulary", "scalings"} <= set(leaks(tmp_path, vocabulary="all"))


def test_popularity_of_the_whole_log_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("braidrec.data.popularity.training_ends", lambda data: data.log.history_length)
    assert {"popularity", "frequency buckets"} <= set(leaks(tmp_path))


def test_sequences_that_go_on_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("braidrec.data.sequences.training_ends", lambda data: data.log.history_length)
    assert "sequences" in leaks(tmp_path)


def test_statistics_of_the_whole_log_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InteractionLog, "before", property(lambda log: np.full(len(log), len(log))))
    assert "statistics" in leaks(tmp_path)


def test_a_history_of_everything_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InteractionLog, "past", property(lambda log: log.history_length[log.user].astype(np.int32)))
    found = leaks(tmp_path)
    assert {"recent histories", "statistics"} <= set(found)


# -- an event and its own moment -------------------------------------------------------------------------------------------


def moments(log: pl.DataFrame, folder: Path, **settings: Any) -> dict[str, np.ndarray]:
    """What stands before each event, by event."""
    split = SplitConfig(ratios=(0.8, 0.1, 0.1), min_history=0)
    chosen = PrepareSettings.model_validate({"split": split, "duplicates": "keep", **settings})
    data = Dataset.from_frames(log, ITEMS, schema=SCHEMA, settings=chosen, path=folder).with_statistics()
    assert data.statistics is not None
    history = RecentHistory(data.log, 8).before(torch.arange(len(data.log)))
    kept = np.column_stack([history.items.numpy(), history.signals.numpy()])
    return {"histories": kept, "statistics": data.statistics.before(np.arange(len(data.log)))}


def copies_differ(folder: Path, **settings: Any) -> list[str]:
    """Each event twice, the copy with another label: what is told of the copy's label?

    The two logs have the same event in another order of copies, so what stands before the pair must be the same for both.
    """
    once = log_of(1).unique(["user", "time"], keep="first", maintain_order=True)
    liked, not_liked = (once.with_columns(rating=pl.lit(value, pl.Int64)) for value in (5, 1))
    first, second = pl.concat([liked, not_liked]), pl.concat([not_liked, liked])
    one, other = moments(first, folder / "one", **settings), moments(second, folder / "other", **settings)
    return [name for name in one if not all(_pairs(one[name]) & _pairs(other[name]))]


def _pairs(rows: np.ndarray) -> np.ndarray:
    """(n,) whether both rows of each pair have the same before them."""
    same: np.ndarray = (rows[0::2] == rows[1::2]).all(axis=1)
    return same


def test_a_copy_knows_no_more_than_its_event(tmp_path: Path) -> None:
    assert copies_differ(tmp_path) == []


def test_own_copies_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("braidrec.data.log._limits", lambda *given: (None, None))
    assert copies_differ(tmp_path) == ["histories", "statistics"]


def seconds_differ(folder: Path, **settings: Any) -> list[str]:
    """One user, two items a second; the label of the first of them is turned: who is told of it within the second?"""
    log = pl.DataFrame(
        {"user": [1] * 40, "item": [at % 30 for at in range(40)], "time": [at // 2 for at in range(40)], "rating": [1, 5] * 20}
    ).with_columns(device=pl.lit("phone"))
    turned = log.with_columns(rating=pl.when(pl.col("time") == 7).then(6 - pl.col("rating")).otherwise(pl.col("rating")))
    one, other = moments(log, folder / "one", **settings), moments(turned, folder / "other", **settings)
    return [name for name in one if not np.array_equal(one[name][:16, :8], other[name][:16, :8])]


def test_nothing_is_told_within_a_second_where_ties_are_excluded(tmp_path: Path) -> None:
    found = {ties: moments(log_of(1), tmp_path / ties, ties=ties)["histories"] for ties in ("order", "exclude")}
    within = (found["order"] > 0).sum(axis=1) - (found["exclude"] > 0).sum(axis=1)
    assert within.min() == 0
    assert within.max() > 0


def test_labels_within_a_second_are_caught(tmp_path: Path) -> None:
    assert "statistics" not in seconds_differ(tmp_path / "a", ties="exclude")
    assert "statistics" in seconds_differ(tmp_path / "b", ties="order")


def test_a_copy_in_a_sequence_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = pl.concat([log_of(1), log_of(1).with_columns(device=pl.lit("copy"))])

    def repeated(folder: Path) -> bool:
        split = SplitConfig(kind="leave_last_two")
        data = Dataset.from_frames(log, ITEMS, schema=SCHEMA, settings=PrepareSettings(split=split), path=folder)
        own = data.followed.log
        again = (own.user[1:] == own.user[:-1]) & (own.item[1:] == own.item[:-1]) & (own.timestamp[1:] == own.timestamp[:-1])
        return bool(again.any())

    assert not repeated(tmp_path / "on")
    monkeypatch.setattr("braidrec.data.dataset.followed_positions", lambda log, settings: np.flatnonzero(log.label > 0))
    assert repeated(tmp_path / "off")


def test_negatives_that_keep_off_the_future_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = NegativeSampler.__init__
    monkeypatch.setattr(NegativeSampler, "__init__", lambda self, *given: real(self, *given[:4]))
    assert "negatives" in leaks(tmp_path)
