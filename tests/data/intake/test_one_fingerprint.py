"""One log is one data set, whatever it is written in: text, JSON lines, Parquet, or a frame of any library."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from braidrec.data.dataset import Dataset


class AnyFrame:
    """What pandas 3 and others have: an Arrow stream and nothing else; with the nameless index that pandas adds."""

    def __init__(self, frame: pl.DataFrame):
        self._frame = frame

    def __arrow_c_stream__(self, requested: object = None) -> object:
        return self._frame.with_columns(__index_level_0__=pl.lit(1)).to_arrow().__arrow_c_stream__(requested)


class OldFrame:
    """What speaks the older interchange protocol alone."""

    def __init__(self, frame: pl.DataFrame):
        self._frame = frame.to_arrow()

    def __dataframe__(self, **options: Any) -> Any:
        return self._frame.__dataframe__(**options)


def world() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Every kind of value that all of the forms can hold."""
    rng = np.random.default_rng(2)
    count, num_items = 160, 12
    items = [f"sku {at}" for at in range(num_items)]
    log = pl.DataFrame(
        {
            "user_id": rng.integers(1, 9, count) * 10**12,
            "item_id": [items[at] for at in rng.integers(0, num_items, count)],
            "timestamp": 1_600_000_000 + rng.integers(0, 10**6, count),
            "rating": rng.integers(1, 11, count) / 2,
            "shown": rng.integers(0, 2, count).astype(bool),
        }
    )
    catalogue = pl.DataFrame(
        {
            "item_id": items,
            "title": [f'Film "{at}", é; 漢' if at else None for at in range(num_items)],
            "genres": ["a|b", "b", None] * 4,
            "price": [at + 0.5 for at in range(num_items)],
            "year": pl.Series([1990 + at % 3 for at in range(num_items)], dtype=pl.Int16),
            "stock": [True, False, None] * 4,
            "ratio": pl.Series([0.5, 0.25] * 6, dtype=pl.Float32),
        }
    )
    users = pl.DataFrame({"user_id": np.arange(1, 9) * 10**12, "town": pl.Series(["x", "y"] * 4, dtype=pl.Categorical)})
    return log, catalogue, users


def as_csv(frame: pl.DataFrame, path: Path) -> Path:
    frame.write_csv(path.with_suffix(".csv"))
    return path.with_suffix(".csv")


def as_capital_csv(frame: pl.DataFrame, path: Path) -> Path:
    """As Python writes true and false, with semicolons and a byte order mark."""
    written = frame.with_columns(pl.col(pl.Boolean).cast(pl.String).str.to_titlecase())
    path.with_suffix(".csv").write_bytes(b"\xef\xbb\xbf" + written.write_csv(separator=";", line_terminator="\r\n").encode())
    return path.with_suffix(".csv")


def as_zipped_tsv(frame: pl.DataFrame, path: Path) -> Path:
    path = path.with_suffix(".tsv.gz")
    path.write_bytes(gzip.compress(frame.write_csv(separator="\t").encode()))
    return path


def as_jsonl(frame: pl.DataFrame, path: Path) -> Path:
    frame.write_ndjson(path.with_suffix(".jsonl"))
    return path.with_suffix(".jsonl")


def as_zipped_jsonl(frame: pl.DataFrame, path: Path) -> Path:
    path = path.with_suffix(".jsonl.gz")
    path.write_bytes(gzip.compress(frame.write_ndjson().encode()))
    return path


def as_array(frame: pl.DataFrame, path: Path) -> Path:
    frame.write_json(path.with_suffix(".json"))
    return path.with_suffix(".json")


def as_parquet(frame: pl.DataFrame, path: Path) -> Path:
    frame.write_parquet(path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def as_folder(frame: pl.DataFrame, path: Path) -> Path:
    path.mkdir()
    for at, start in enumerate(range(0, len(frame), 50)):
        frame[start : start + 50].write_parquet(path / f"part-{at}.parquet")
    return path


def as_feather(frame: pl.DataFrame, path: Path) -> Path:
    frame.write_ipc(path.with_suffix(".feather"))
    return path.with_suffix(".feather")


FILES = (as_csv, as_capital_csv, as_zipped_tsv, as_jsonl, as_zipped_jsonl, as_array, as_parquet, as_folder, as_feather)
FRAMES: tuple[Callable[[pl.DataFrame], Any], ...] = (pl.DataFrame.lazy, pl.DataFrame.to_arrow, AnyFrame, OldFrame)


@pytest.fixture(scope="module")
def plain() -> Dataset:
    return Dataset.from_frames(*world())


@pytest.mark.parametrize("write", FILES)
def test_files(write: Callable[[pl.DataFrame, Path], Path], plain: Dataset, tmp_path: Path) -> None:
    tables = [write(frame, tmp_path / name) for name, frame in zip(("log", "items", "users"), world(), strict=True)]
    dataset = Dataset.from_frames(*tables, path=tmp_path / "data")
    assert dataset.items.schema == plain.items.schema
    assert dataset.fingerprint == plain.fingerprint


@pytest.mark.parametrize("form", FRAMES)
def test_frames(form: Callable[[pl.DataFrame], Any], plain: Dataset, tmp_path: Path) -> None:
    dataset = Dataset.from_frames(*(form(frame) for frame in world()), path=tmp_path / "data")
    assert dataset.fingerprint == plain.fingerprint


def test_pandas_frames(plain: Dataset, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    tables = [pandas.DataFrame(frame.to_dict(as_series=False)) for frame in world()]
    assert Dataset.from_frames(*tables, path=tmp_path / "data").fingerprint == plain.fingerprint


def test_types_that_hold_the_same_values_are_the_same_log(plain: Dataset, tmp_path: Path) -> None:
    log, items, users = world()
    narrow = log.with_columns(
        pl.col("rating").cast(pl.Float32), pl.col("shown").cast(pl.Int8), pl.col("user_id").cast(pl.UInt64)
    )
    wide = items.with_columns(
        pl.col("year").cast(pl.UInt32), pl.col("ratio").cast(pl.Float64), pl.col("item_id").cast(pl.Categorical)
    )
    arrow = pa.table(
        {
            name: wide.to_arrow()[name].dictionary_encode() if name == "genres" else wide.to_arrow()[name]
            for name in wide.columns
        }
    )
    dataset = Dataset.from_frames(narrow, arrow, users.with_columns(pl.col("user_id").cast(pl.Float64)), path=tmp_path / "data")
    assert dataset.fingerprint == plain.fingerprint
