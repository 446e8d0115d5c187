"""Public data sets: found in three ways, archives not trusted, published counts."""

from __future__ import annotations

import gzip
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import polars as pl
import pytest

from braidrec.data.intake import sources
from braidrec.data.intake.sources import DATA_SETS, PublicDataset, locate, public_dataset, read_public, rlmrec
from braidrec.data.intake.sources.public import archive_members
from braidrec.data.tables import Tables
from braidrec.errors import DataError
from braidrec.registry import Registry


@pytest.fixture(scope="module")
def real() -> str:
    folder = os.environ.get("BRAIDREC_DATA")
    if not folder:
        pytest.skip("BRAIDREC_DATA is unset: no public data set is at hand")
    return folder


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("BRAIDREC_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_names() -> None:
    assert list(DATA_SETS) == ["ml-1m", "ml-latest-small", "prime-pantry", "rlmrec-amazon-book"]
    with pytest.raises(DataError, match="did you mean 'ml-1m'"):
        public_dataset("ml-1n")
    assert public_dataset("prime-pantry").settings.split.kind == "leave_last_two"


def test_an_absent_data_set_names_all_three_ways(nowhere: Path) -> None:
    with pytest.raises(DataError) as caught:
        locate("ml-1m", download=False)
    for way in ("DIR/ml-1m", "BRAIDREC_DATA=DIR", "--source", "let braidrec fetch it"):
        assert way in str(caught.value)
    with pytest.raises(DataError, match=r"get it from https://github\.com"):
        locate("prime-pantry")
    with pytest.raises(DataError, match="does not exist"):
        locate("ml-1m", nowhere / "none.zip")
    (nowhere / "bad.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match="is not a whole zip archive"):
        locate("ml-1m", nowhere / "bad.zip")


def test_archives_are_found_packed_and_unpacked(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = _zip(nowhere / "a" / "ml-1m" / "ml-1m.zip", {"ml-1m/ratings.dat": b""})
    monkeypatch.setenv("BRAIDREC_DATA", str(nowhere / "a"))
    assert locate("ml-1m") == archive
    assert locate("ml-1m", archive) == archive
    assert locate("ml-1m", archive.parent) == archive
    direct = _zip(nowhere / "b" / "ml-1m.zip", {"ml-1m/ratings.dat": b""})
    monkeypatch.setenv("BRAIDREC_DATA", str(nowhere / "b"))
    assert locate("ml-1m") == direct
    unpacked = nowhere / "c" / "ml-1m"
    unpacked.mkdir(parents=True)
    for name in ("ratings.dat", "movies.dat", "users.dat"):
        (unpacked / name).touch()
    monkeypatch.setenv("BRAIDREC_DATA", str(nowhere / "c"))
    assert locate("ml-1m") == unpacked
    monkeypatch.setenv("BRAIDREC_DATA", str(nowhere / "none"))
    with pytest.raises(DataError, match="this is no folder"):
        locate("ml-1m", download=False)


@pytest.mark.parametrize("name", ["../ratings.csv", "/ratings.csv", "a\\..\\ratings.csv", "C:/ratings.csv"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="leads out of the archive's folder"):
        archive_members(_zip(tmp_path / "a.zip", {name: b"x"}), ("ratings.csv",))


def test_links_bombs_damage_and_missing_members_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        link = zipfile.ZipInfo("ratings.csv")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="is a link"):
        archive_members(tmp_path / "link.zip", ("ratings.csv",))
    path = _zip(tmp_path / "a.zip", {"m/ratings.csv": b"user,item\n" * 500})
    with pytest.raises(DataError, match=r"movies\.csv is not in the archive \(it holds: ratings\.csv\)"):
        archive_members(path, ("movies.csv",))
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"damaged|not a whole zip"):
        archive_members(path, ("ratings.csv",))
    bomb = _zip(tmp_path / "bomb.zip", {"ratings.csv": b"x"})
    data = bytearray(bomb.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = (0xFFFFFF00).to_bytes(4, "little")
    bomb.write_bytes(data)
    with pytest.raises(DataError, match="claims 4,294,967,040 bytes"):
        archive_members(bomb, ("ratings.csv",))


def test_an_archive_with_other_rows_is_refused(tmp_path: Path) -> None:
    members = {"m/ratings.dat": b"1::2::3::4\n", "m/movies.dat": b"2::A (1990)::X\n", "m/users.dat": b"1::F::1::2::06810\n"}
    with pytest.raises(DataError, match=r"1 ratings\.dat instead of 1,000,209"):
        read_public("ml-1m", _zip(tmp_path / "ml-1m.zip", members))


def printed(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_registry_is_light() -> None:
    """Names import none of their modules; one of them imports its own alone, and nothing heavy."""
    listed = "import sys; from braidrec.data.intake.sources import DATA_SETS; list(DATA_SETS); 'ml-1m' in DATA_SETS; "
    heavy = "{'polars', 'pyarrow', 'torch', 'httpx'} & set(sys.modules)"
    ours = "{name for name in sys.modules if name.rpartition('.')[2] in ('ml_1m', 'ml_latest_small', 'prime_pantry')}"
    assert printed(f"{listed} print(sorted({heavy} | {ours}))") == "[]"
    assert printed(f"{listed} DATA_SETS['ml-1m']; print(sorted({heavy} | {ours}))") == "['braidrec.data.intake.sources.ml_1m']"


def test_another_package_adds_a_data_set_by_an_entry_point(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = nowhere / "shoppers-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shoppers\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[braidrec.data_sets]\nshop = shoppers_of_a_test:SHOP\n")
    (nowhere / "shoppers_of_a_test.py").write_text(
        "from braidrec.data.intake.sources import PublicDataset\n"
        "SHOP = PublicDataset(name='shop', title='Shop', files=('log',), read=str, license='', homepage='')\n"
    )
    monkeypatch.syspath_prepend(nowhere)
    sets = Registry("public data set", "braidrec.data_sets", PublicDataset, {"ml-1m": DATA_SETS._own["ml-1m"]})
    monkeypatch.setattr(sources, "DATA_SETS", sets)
    assert list(sets) == ["ml-1m", "shop"]
    assert "shoppers_of_a_test" not in sys.modules
    assert public_dataset("shop").title == "Shop"
    assert sets.origin("shop") == "shoppers"
    (nowhere / "log").touch()
    assert read_public("shop", nowhere) == str(nowhere)
    with pytest.raises(DataError, match=r"no public data set is called 'shob' \(did you mean 'shop'\?\); for your own data"):
        public_dataset("shob")


def _read(name: str) -> Tables:
    return read_public(name, download=False)


def test_ml_1m(real: str) -> None:
    tables = _read("ml-1m")
    log, items, users = tables.interactions, tables.items, tables.users
    assert items is not None
    assert users is not None
    assert (len(log), len(items), len(users)) == (1_000_209, 3_883, 6_040)
    assert (log["user_id"].n_unique(), log["movie_id"].n_unique()) == (6_040, 3_706)
    assert dict(log["rating"].value_counts().iter_rows()) == {1: 56_174, 2: 107_557, 3: 261_197, 4: 348_971, 5: 226_310}
    assert log.group_by("user_id").len()["len"].min() == 20
    met = items.join(log.select("movie_id").unique(), on="movie_id", how="semi")
    # DisCo, table of fields: 2 genders, 7 ages, 21 jobs, 3,439 zip codes, 3,706 titles, 18 first genres.
    assert [users[name].n_unique() for name in ("gender", "age", "occupation", "zip")] == [2, 7, 21, 3_439]
    assert [met[name].n_unique() for name in ("title", "genre")] == [3_706, 18]
    assert items["year"].null_count() == 0
    assert items.filter(pl.col("movie_id") == 73)["title"].item() == "Misérables, Les (1995)"
    assert users.filter(pl.col("zip").str.starts_with("0"))["zip"].str.len_chars().min() >= 5
    assert any("177,370 rows" in note for note in tables.report.notes)


def test_ml_latest_small(real: str) -> None:
    tables = _read("ml-latest-small")
    log, items = tables.interactions, tables.items
    assert items is not None
    assert (len(log), len(items)) == (100_836, 9_742)
    assert (log["userId"].n_unique(), log["movieId"].n_unique()) == (610, 9_724)
    assert (log["rating"].min(), log["rating"].max(), log["rating"].n_unique()) == (0.5, 5.0, 10)
    assert items["year"].null_count() == 12  # series and streams without a year at the end of the title


def test_prime_pantry(real: str) -> None:
    tables = _read("prime-pantry")
    log, items = tables.interactions, tables.items
    assert items is not None
    lengths = log.group_by("user").len()["len"]
    assert (len(log), len(items), len(lengths), log["asin"].n_unique()) == (115_004, 8_347, 12_871, 8_347)
    assert (lengths.min(), lengths.max(), round(float(lengths.mean()), 3)) == (5, 23, 8.935)  # type: ignore[arg-type]
    assert ((lengths == 22).sum(), (lengths == 23).sum()) == (697, 73)
    following = log.with_columns(pl.col("asin").shift(1).over("user").alias("before")).filter(
        pl.col("asin") == pl.col("before")
    )
    assert len(following) == 4_046
    assert log.filter(pl.col("user") == "A0526222H977CBZM4DK7").rows()[0] == ("A0526222H977CBZM4DK7", "B00099XNXS", 0)
    assert not any("not the copy" in note for note in tables.report.notes)


def write_rlmrec(folder: Path, pairs: str, items: str = "item,asin\n0,A\n1,B\n", users: str = "user,reviewerID\n0,U\n") -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in (("interactions", pairs), ("items", items), ("users", users)):
        with gzip.open(folder / f"{name}.csv.gz", "wt") as stream:
            stream.write(text)
    return folder


def test_the_layout_of_rlmrec_is_pairs_with_a_ready_made_split(tmp_path: Path) -> None:
    folder = write_rlmrec(tmp_path, "user,item,split\n0,0,train\n0,1,val\n0,1,test\n")
    tables = rlmrec.read_layout(folder, "small", {"users": 1, "items": 2, "train": 1, "val": 1, "test": 1})
    assert tables.interactions["split"].to_list() == ["train", "valid", "test"]
    assert (tables.schema.part, tables.schema.clock) == ("split", None)
    with pytest.raises(DataError, match="not the published rlmrec-amazon-book: 1 users instead of 11,000"):
        rlmrec.read(folder)
    with pytest.raises(DataError, match="no column 'split'"):
        rlmrec.read_layout(write_rlmrec(tmp_path, "user,item,part\n0,0,train\n"), "small", {})
