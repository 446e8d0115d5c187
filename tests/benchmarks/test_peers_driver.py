from __future__ import annotations

import importlib.util
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import small_runs
from braidrec.bench.models import MODELS
from braidrec.errors import DataError
from braidrec.files import read_json, write_json

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
    assert (options.parts, options.seconds, options.rounds, options.threads) == (peers.RANKING, 20.0, 3, 2)


def test_sasrec_needs_no_prepared_data(peers: ModuleType) -> None:
    assert peers.parse(["--parts", "sasrec", "--epoch"]).epoch


def test_parts_are_chosen_once_each_in_the_given_order(peers: ModuleType) -> None:
    assert peers.parse(["--peer-only", "--parts", "din,dcn,din"]).parts == ("din", "dcn")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--peer-only", "--parts", "deepfm,dnc"],
            (
                "'dnc' is no part; choose from deepfm, dcn, dcnv2, din, autoint, xdeepfm, pnn, fm, widedeep, ffm, fwfm, dien, "
                "sasrec, lightgcn"
            ),
        ),
        (["--peer-only", "--seconds", "0"], "0 must be a positive number of seconds"),
        ([], "--prepared DIR is missing"),
        (["--parts", "sasrec,din"], "--prepared DIR is missing"),
        (["--peer-only", "--parts", "din", "--epoch"], "--epoch is for the parts sasrec and lightgcn; --parts is din"),
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
        [
            peers.Measurement("dcn", side, number, speed, None, {"samples_per_second": speed})
            for (side, number), speed in speeds.items()
        ]
    )
    assert rows == [peers.Row("dcn", 60.0, 125.0, 1.75, (1.5, 2.0))]


def test_marks_are_of_the_ranking_models_measured_on_both_sides(peers: ModuleType) -> None:
    rows = [
        peers.Row("xdeepfm", 10.0, 80.0, 8.0, (8.0, 8.0)),
        peers.Row("fm", 10.0, 10.0, 1.0, (1.0, 1.0)),
        peers.Row("autoint", 10.0, 10.0, 1.0, (1.0, 1.0)),
        peers.Row("din", 10.0, None, None, None),
        peers.Row("sasrec", 1.0, 30.0, 30.0, (30.0, 30.0)),
    ]
    assert peers.marks(rows) == [
        "geometric mean of 3 ranking models 2.00x (mark 2x)",
        "least of them: fm 1.00x (mark 1.2x, 0.20x short)",
        "xdeepfm 8.00x (mark 4x)",
        "autoint 1.00x (mark 2x, 1.00x short)",
    ]
    assert peers.marks(rows[3:]) == []


def test_every_ranking_part_is_a_model_of_both_sides(peers: ModuleType) -> None:
    side = (DRIVER.parent / "peers" / "recbole_side.py").read_text()
    for part in peers.RANKING:
        assert part in MODELS
        assert f'    "{part}": ("' in side


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
    both = ("samples_per_second", "users_per_second")
    assert peers.read_report('{"samples_per_second": 1, "users_per_second": 2}', both) is not None
    assert peers.read_report('{"samples_per_second": 1}', both) is None


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


PEER = """
import json, sys
with open({log!r}, "a") as calls:
    print(json.dumps(sys.argv[1:]), file=calls)
if "--epoch" in sys.argv:
    print(json.dumps({{"samples_per_second": 4, "epoch_seconds": 900, "ndcg@10": 0.07, "ndcg@10_unmet": 0.09}}))
else:
    print(json.dumps({{"samples_per_second": 1000, "users_per_second": 2000, "versions": "fake"}}))
"""
OURS = """
import json, sys
with open({log!r}, "a") as calls:
    print(json.dumps(sys.argv[1:]), file=calls)
check = {{"seconds": 60.0, "epoch": 2.5, "ndcg@10": 0.08, "ndcg@10_unmet": 0.1}}
if "--goals" in sys.argv:
    print(json.dumps({{"samples_per_second": 4, "seconds_to_goals": {goal}, "checks": [check]}}))
else:
    print(json.dumps({{"samples_per_second": 30000, "users_per_second": 9000}}))
"""


@pytest.fixture
def fake(peers: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Callable[[], list[Any]]]:
    """Both sides of sasrec as scripts that answer at once; the call gives back what they were asked."""
    (tmp_path / "side" / "peers").mkdir(parents=True)
    (tmp_path / "data" / "ml-1m").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "data" / "ml-1m" / "ml-1m.zip", "w") as archive:
        for name in ("ratings", "users", "movies"):
            archive.writestr(f"ml-1m/{name}.dat", "1::2::3::4\n" if name == "ratings" else "2::x::y\n")
    monkeypatch.setenv("BRAIDREC_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(peers, "HOME", tmp_path / "home")
    monkeypatch.setattr(peers, "HERE", tmp_path / "side")
    monkeypatch.setattr(peers, "PEER_PYTHON", Path(sys.executable))
    monkeypatch.setattr(peers, "make_environment", lambda: None)
    monkeypatch.setattr(peers, "prepare_sequences", lambda archive: small_runs.positives())
    monkeypatch.setattr(peers, "prepare_pairs", lambda archive: small_runs.positives())
    log = tmp_path / "calls.jsonl"

    def write(goal: str = "45.0") -> Callable[[], list[Any]]:
        for name, text in (("recbole_side", PEER), ("braidrec_side", OURS), ("graph_side", OURS)):
            (tmp_path / "side" / "peers" / f"{name}.py").write_text(text.format(log=str(log), goal=goal))

        def calls() -> list[Any]:
            found = [json.loads(line) for line in log.read_text().splitlines()]
            log.unlink()
            return found

        return calls

    return write


def test_sequences_are_compared_in_speed_and_in_time_to_quality(
    peers: ModuleType, fake: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    calls, file = fake(), tmp_path / "speed.json"
    arguments = ["--parts", "sasrec", "--epoch", "--rounds", "2", "--threads", "3", "--json", str(file)]
    peers.main(arguments)
    printed = capsys.readouterr().out
    assert "| sasrec | 1,000 | 30,000 | 30.00x | 30.00-30.00x |" in printed
    assert "| sasrec, full ranking, users/s | 2,000 | 9,000 | 4.50x | 4.50-4.50x |" in printed
    assert "| sasrec, seconds to RecBole's nDCG@10 after an epoch | 900 | 45 | 20.00x | - |" in printed
    assert "0.0700 as RecBole ranks, 0.0900 without the items met before" in printed
    assert "braidrec after 60.0 s, 2.50 of its epochs: 0.0800, 0.1000" in printed
    asked = calls()
    assert len(asked) == 6
    goals, limit = asked[-1].index("--goals"), asked[-1].index("--limit")
    assert (asked[-1][goals + 1 : goals + 3], asked[-1][limit + 1]) == (["0.07", "0.09"], "900")
    for words in asked:
        sizes = {words[at]: words[at + 1] for at in range(len(words) - 1)}
        assert (sizes["--dim"], sizes["--blocks"], sizes["--heads"], sizes["--history"]) == ("64", "2", "2", "50")
    written = read_json(file, DataError)
    assert [(each["part"], each["side"], each["round"]) for each in written["measurements"]] == [
        *((part, side, number) for number in (1, 2) for part in ("sasrec",) for side in ("recbole", "braidrec")),
        ("sasrec-epoch", "recbole", 0),
        ("sasrec-epoch", "braidrec", 0),
    ]
    assert written["setup"]["sasrec"]["inner"] == 256


def test_graphs_are_compared_at_the_same_sizes_and_in_time_to_one_quality(
    peers: ModuleType, fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = fake()
    peers.main(["--parts", "lightgcn", "--epoch", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert "| lightgcn, full ranking, users/s | 2,000 | 9,000 | 4.50x | 4.50-4.50x |" in printed
    assert "| lightgcn, seconds to RecBole's nDCG@10 after ten epochs | 900 | 45 | 20.00x | - |" in printed
    assert "validation nDCG@10 after ten epochs" in printed
    asked = calls()
    assert len(asked) == 4
    for words in asked:
        sizes = {words[at]: words[at + 1] for at in range(len(words) - 1)}
        assert (sizes["--dim"], sizes["--layers"], sizes["--batch"]) == ("64", "3", "2048")
    assert {path.name for path in (peers.HOME / "data" / "pairs").iterdir()} == {
        f"pairs.{part}.inter" for part in ("train", "valid", "test")
    }


def test_an_epoch_is_measured_once_for_a_set_up(peers: ModuleType, fake: Any) -> None:
    calls = fake()
    for threads, wanted in (("2", 1), ("2", 0), ("1", 1)):
        peers.main(["--parts", "sasrec", "--epoch", "--rounds", "1", "--threads", threads])
        assert sum("--epoch" in words for words in calls()) == wanted
    (peers.HOME / "sasrec-epoch.json").write_text("{")
    peers.main(["--parts", "sasrec", "--epoch", "--rounds", "1", "--threads", "1"])
    assert sum("--epoch" in words for words in calls()) == 1


def test_a_goal_that_is_not_reached_has_no_ratio(peers: ModuleType, fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fake("None")
    peers.main(["--parts", "sasrec", "--epoch", "--rounds", "1"])
    assert "| sasrec, seconds to RecBole's nDCG@10 after an epoch | 900 | - | - | - |" in capsys.readouterr().out


def test_the_peer_alone_gives_no_ratio(peers: ModuleType, fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    calls = fake()
    peers.main(["--parts", "sasrec", "--epoch", "--rounds", "1", "--peer-only"])
    assert "| sasrec | 1,000 | - | - | - |" in capsys.readouterr().out
    assert len(calls()) == 2


def test_other_parts_of_the_file_are_kept(peers: ModuleType, fake: Any, tmp_path: Path) -> None:
    fake()
    file = tmp_path / "speed.json"
    machine = {"processor": "another"}
    old = {"part": "din", "recbole": 1.0}
    stale = {"part": "sasrec", "recbole": 1.0}
    goal = {"part": peers.GOAL, "recbole": 1.0}
    write_json(file, {"machine": machine, "threads": 2, "seconds": 20.0, "rows": [old, stale, goal], "measurements": [old]})
    peers.main(["--parts", "sasrec", "--rounds", "1", "--json", str(file)])
    written = read_json(file, DataError)
    elsewhere = {"measured_with": {"machine": machine}}
    assert written["rows"][:2] == [elsewhere | old, elsewhere | goal]
    assert [row["part"] for row in written["rows"][2:]] == ["sasrec", "sasrec, full ranking, users/s"]
    assert written["measurements"][0] == elsewhere | old
    peers.main(["--parts", "sasrec", "--rounds", "1", "--json", str(file)])
    assert read_json(file, DataError)["rows"][0] == elsewhere | old  # of the first file still, not of the second


def test_a_damaged_file_is_refused_before_anything_is_measured(peers: ModuleType, fake: Any, tmp_path: Path) -> None:
    fake()
    (tmp_path / "speed.json").write_text("{")
    with pytest.raises(SystemExit, match=r"speed\.json: not valid JSON"):
        peers.main(["--parts", "sasrec", "--json", str(tmp_path / "speed.json")])


def test_a_failing_side_is_named_with_its_last_words(peers: ModuleType, fake: Any) -> None:
    fake()
    (peers.HERE / "peers" / "braidrec_side.py").write_text("raise SystemExit('no data')")
    with pytest.raises(SystemExit, match=r"(?s)braidrec sasrec failed \(exit status 1\).*no data"):
        peers.main(["--parts", "sasrec", "--rounds", "1"])


def test_sequences_carry_their_order_as_their_time(peers: ModuleType, tmp_path: Path) -> None:
    dataset = small_runs.positives()
    peers.write_sequences(dataset, tmp_path)
    header, *lines = (tmp_path / "sequences" / "sequences.inter").read_text().splitlines()
    assert header == "user_id:token\titem_id:token\ttimestamp:float"
    rows = [tuple(map(int, line.split("\t"))) for line in lines]
    assert [time for _, _, time in rows] == list(range(len(dataset.log)))
    for user in (1, 60):
        own = [item for one, item, _ in rows if one == user]
        assert own == dataset.log.slot_item[dataset.log.start[user] : dataset.log.start[user + 1]].tolist()
