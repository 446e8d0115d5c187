"""Files and frames of every kind, whole and damaged."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from braidrec.data.intake.readers import RawTable, ReadConfig, read_table
from braidrec.errors import DataError
from braidrec.files import sha256

FRAME = pl.DataFrame({"user": [1, 2, 2**63 - 1], "item": ["1.0", "🎬", "x" * 10_000], "rating": [0.5, 4.0, 5.0]})


def _read(source: object, **options: object) -> RawTable:
    return read_table(source, what="interactions", read=ReadConfig(**options))  # type: ignore[arg-type]


def test_every_format_gives_the_same_frame(tmp_path: Path) -> None:
    FRAME.write_parquet(tmp_path / "log.parquet")
    FRAME.write_ipc(tmp_path / "log.feather")
    FRAME.write_ipc_stream(tmp_path / "stream.arrow")
    FRAME.write_csv(tmp_path / "log.csv")
    FRAME.write_csv(tmp_path / "log.tsv", separator="\t")
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress((tmp_path / "log.csv").read_bytes()))
    for path in sorted(tmp_path.iterdir()):
        raw = _read(path)
        assert raw.frame.with_columns(pl.col("rating").cast(pl.Float64)).equals(FRAME), path
        assert raw.source.name == path.name
        assert raw.source.sha256 == sha256(path)
    for frame in (FRAME, FRAME.lazy(), FRAME.to_arrow()):
        assert _read(frame).frame.equals(FRAME)


def test_any_frame_with_an_arrow_stream_is_read() -> None:
    class Other:
        def __arrow_c_stream__(self, requested: object = None) -> object:
            return FRAME.with_columns(__index_level_0__=pl.lit(1)).to_arrow().__arrow_c_stream__(requested)

    assert _read(Other()).frame.equals(FRAME)
    with pytest.raises(DataError, match=r"interactions: builtins\.dict is no table"):
        _read({"user": [1]})


def test_integers_are_read_only_where_that_is_reversible(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f"a,b,c,d,e\n1,007,1.0,{2**64 - 1},-5\n-2,8,2,3,\n")
    frame = _read(path).frame
    assert frame.dtypes == [pl.Int64, pl.String, pl.String, pl.UInt64, pl.Int64]
    assert frame.rows() == [(1, "007", "1.0", 2**64 - 1, -5), (-2, "8", "2", 3, None)]


@pytest.mark.parametrize("name", ["log.parquet", "log.feather", "log.csv.gz"])
def test_truncated_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(FRAME.write_csv().encode()))
    else:
        (FRAME.write_parquet if name.endswith("parquet") else FRAME.write_ipc)(path)
    whole = path.read_bytes()
    for keep in (len(whole) // 2, len(whole) - 3, 5):
        path.write_bytes(whole[:keep])
        with pytest.raises(DataError, match=name.replace(".", r"\.")) as caught:
            _read(path)
        assert "again" in str(caught.value)


def test_a_flipped_bit_of_a_checksummed_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    table = pa.table({"user": list(range(1000))})
    pq.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        _read(path)


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("user,item\n1,2\n")
    with pytest.raises(DataError, match=r"rating\.csv: the file does not exist.*did you mean 'ratings\.csv'"):
        _read(tmp_path / "rating.csv")
    with pytest.raises(DataError, match="this is a folder"):
        _read(tmp_path)
    (tmp_path / "empty.csv").touch()
    with pytest.raises(DataError, match=r"empty\.csv: the file is empty"):
        _read(tmp_path / "empty.csv")
    (tmp_path / "log.zip").write_bytes(b"PK\x03\x04rest")
    with pytest.raises(DataError, match="zip archive; unpack it"):
        _read(tmp_path / "log.zip")
    (tmp_path / "none.parquet").write_text("user,item\n")
    with pytest.raises(DataError, match="damaged or not Parquet"):
        _read(tmp_path / "none.parquet")
    with pytest.raises(DataError, match=r"the frame has no row \(columns: user, item, rating\)"):
        _read(FRAME.head(0))
    repeated = pa.table([pa.array([1]), pa.array([2])], names=["user", "user"])
    with pytest.raises(DataError, match="columns 1 and 2 are both called 'user'"):
        _read(repeated)


def test_encodings(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for encoding in ("latin-1", "cp1252", "utf-16"):
        path.write_bytes("user,item\n1,Les Misérables\n".encode(encoding))
        assert _read(path, encoding=encoding).frame.rows() == [(1, "Les Misérables")]
    path.write_bytes(b"user,item\n1,\x81\n")
    with pytest.raises(DataError, match="cannot be read as cp1252"):
        _read(path, encoding="cp1252")


def test_rows_left_out_are_counted_and_named(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item\n" + "1\n" * 7 + "1,2\n")
    raw = _read(path, on_bad_rows="skip")
    assert raw.report.rows_skipped == 7
    assert "left out 7 bad rows: line 2" in raw.report.notes[0]
    assert raw.report.notes[0].endswith("; and 2 more")
    assert raw.place(0) == f"{path}, line 9"
