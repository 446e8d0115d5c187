from __future__ import annotations

import importlib.util
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

DRIVER = Path(__file__).parents[2] / "benchmarks" / "peers.py"


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peers_driver", DRIVER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_defaults(peers: ModuleType, tmp_path: Path) -> None:
    options = peers.parse(["--prepared", str(tmp_path)])
    assert (options.parts, options.seconds, options.rounds, options.threads) == (peers.PARTS, 20.0, 3, 2)


def test_parts_are_chosen_once_each_in_the_given_order(peers: ModuleType) -> None:
    assert peers.parse(["--peer-only", "--parts", "din,dcn,din"]).parts == ("din", "dcn")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peer-only", "--parts", "deepfm,dnc"], "'dnc' is no part; choose from deepfm, dcn, dcnv2, din"),
        (["--peer-only", "--seconds", "0"], "0 must be a positive number of seconds"),
        ([], "--prepared DIR is missing"),
        (["--prepared", "/nowhere/ml-1m"], "--prepared /nowhere/ml-1m: no such directory"),
    ],
)
def test_wrong_arguments_are_named(
    peers: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        peers.parse(arguments)
    assert message in capsys.readouterr().err


def test_missing_data_says_what_to_set(peers: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BRAIDREC_DATA", raising=False)
    with pytest.raises(SystemExit, match="BRAIDREC_DATA is not set: set it to the folder"):
        peers.main(["--peer-only"])
    monkeypatch.setenv("BRAIDREC_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match=r"ml-1m\.zip: no such file"):
        peers.main(["--peer-only"])


def test_ratio_is_the_median_within_rounds(peers: ModuleType) -> None:
    speeds = {("recbole", 1): 100.0, ("braidrec", 1): 150.0, ("recbole", 2): 50.0, ("braidrec", 2): 100.0, ("recbole", 3): 60.0}
    rows = peers.summarise(
        [peers.Measurement("dcn", side, number, speed, None, {}) for (side, number), speed in speeds.items()]
    )
    assert rows == [peers.Row("dcn", 60.0, 125.0, 1.75, (1.5, 2.0))]


def test_disturbed_measurements_are_counted_and_told(peers: ModuleType) -> None:
    quiet, spoilt, unknown = (peers.Measurement("dcn", "recbole", 1, 9.0, cores, {}) for cores in (0.02, 1.26, None))
    assert peers.disturbed([quiet, unknown]) == ""
    assert peers.disturbed([quiet, spoilt, unknown]).startswith(
        "WARNING: other work kept up to 1.3 cores busy during 1 of 3 measurements"
    )


def test_table(peers: ModuleType) -> None:
    rows = [peers.Row("deepfm", 186_462.4, 250_000.0, 1.34, (1.3, 1.4)), peers.Row("din", 5_100.0, None, None, None)]
    assert peers.render(rows).splitlines()[2:] == [
        "| deepfm | 186,462 | 250,000 | 1.34x | 1.30-1.40x |",
        "| din | 5,100 | - | - | - |",
    ]


def test_report_is_the_last_line(peers: ModuleType) -> None:
    assert peers.read_report('loading\n{"samples_per_second": 12.5}\n') == {"samples_per_second": 12.5}
    for broken in (
        "",
        "12",
        "[]",
        "{}",
        '{"samples_per_second": 0}',
        '{"samples_per_second": NaN}',
        '{"samples_per_second": "9"}',
    ):
        assert peers.read_report(broken) is None


def test_atomic_files_keep_the_first_genre_and_the_accents(peers: ModuleType, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as archive:
        archive.writestr("ml-1m/ratings.dat", "1::73::5::978300760\n")
        archive.writestr("ml-1m/users.dat", "1::F::1::10::48067\n")
        archive.writestr("ml-1m/movies.dat", "73::Misérables, Les (1995)::Drama|Musical\n".encode("latin-1"))
    peers.write_atomic_files(tmp_path / "ml-1m.zip", tmp_path)
    folder = tmp_path / "ml-1m"
    assert (folder / "ml-1m.inter").read_text().splitlines()[1] == "1\t73\t5\t978300760"
    assert (folder / "ml-1m.user").read_text().splitlines()[1] == "1\tF\t1\t10\t48067"
    assert (folder / "ml-1m.item").read_text(encoding="utf-8").splitlines() == [
        "item_id:token\ttitle:token\tgenre:token",
        "73\tMisérables, Les (1995)\tDrama",
    ]
