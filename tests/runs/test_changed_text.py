"""Text that is another one than when it was encoded, and text that is longer than what is read, are said."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

import small_runs
from braidrec.data.dataset import Dataset
from braidrec.knowledge.encoders.tfidf import HashedTfidfEncoder, TfidfConfig
from braidrec.runs import knowledge
from braidrec.runs.fit import fit
from braidrec.runs.knowledge import KnowledgeBases, build, sync


def _dataset(path: Path, title: str) -> Dataset:
    tables = small_runs.world_tables()
    assert tables.items is not None
    first = pl.col(tables.schema.item) == tables.items[tables.schema.item][0]
    items = tables.items.with_columns(pl.when(first).then(pl.lit(title)).otherwise("title").alias("title"))
    from dataclasses import replace

    return Dataset.prepare(replace(tables, items=items), path)


def test_changed_text_is_said_until_it_is_encoded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before, after = _dataset(tmp_path / "before", "one title"), _dataset(tmp_path / "after", "another title")
    build(before.path, tmp_path / "base", "tfidf")
    bases = KnowledgeBases.open(tmp_path / "base")
    with caplog.at_level(logging.WARNING):
        bases.tell_changes(before)
    assert not caplog.messages
    with caplog.at_level(logging.WARNING):
        bases.tell_changes(after)
    [said] = caplog.messages
    assert f"the text of 1 of {after.num_items} items of" in said
    assert f"(first: '{after.item_ids[0]}')" in said
    assert f"'braidrec knowledge sync {after.path} {tmp_path / 'base'}'" in said
    caplog.clear()
    sync(after.path, tmp_path / "base")
    with caplog.at_level(logging.WARNING):
        KnowledgeBases.open(tmp_path / "base").tell_changes(after)
    assert not caplog.messages


class _Reader(HashedTfidfEncoder):
    """Reads three words."""

    limit = 3

    def longer(self, texts: list[str]) -> int:
        return sum(len(text.split()) > self.limit for text in texts)

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        return super().encode([" ".join(text.split()[: self.limit]) for text in texts])


def test_texts_that_are_longer_than_what_is_read_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _dataset(tmp_path / "data", "one title")
    assert "tokens that the encoder reads" not in build(data.path, tmp_path / "whole", "tfidf")
    monkeypatch.setattr(knowledge, "make_encoder", lambda settings: _Reader(TfidfConfig()))
    said = build(data.path, tmp_path / "short", "tfidf")
    assert f"{data.num_items} texts are longer than the 3 tokens that the encoder reads: what is beyond is not read" in said
    assert "texts are longer than" in sync(data.path, tmp_path / "short")


def test_fitting_says_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before, after = _dataset(tmp_path / "before", "one title"), _dataset(tmp_path / "after", "another title")
    build(before.path, tmp_path / "base", "tfidf")
    with caplog.at_level(logging.WARNING):
        fit(
            after,
            knowledge=tmp_path / "base",
            backbone="deepfm",
            enhance="disco",
            path=tmp_path / "run",
            show_progress=False,
            training={"max_epochs": 1},
        )
    assert "has changed since it was encoded" in caplog.text
