"""The command line: every command once, errors as one line, and a help that does not wait for heavy libraries."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import typer

import small_runs
import toy_run
from braidrec import cli
from braidrec.experiments import reproduce
from braidrec.experiments.cells import Row
from braidrec.experiments.experiment import Experiment
from braidrec.runs.run import load
from small_runs import copy_of, disco, knowledge, plain

SMALL = [
    part
    for change in ("model.dim=8", "model.history.length=6", "training.max_epochs=1", "training.batch_size=1024")
    for part in ("--set", change)
]


def commands(group: typer.Typer = cli.app, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [above]
    for command in group.registered_commands:
        assert command.callback is not None
        found.append((*above, command.name or command.callback.__name__))
    for below in group.registered_groups:
        assert below.typer_instance is not None
        found += commands(below.typer_instance, (*above, str(below.name)))
    return found


class Screen:
    """Runs a command as a terminal would, and keeps what it printed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
        self._monkeypatch, self._capfd = monkeypatch, capfd

    def __call__(self, *arguments: object, code: int = 0) -> str:
        self._monkeypatch.setattr(sys, "argv", ["braidrec", *map(str, arguments)])
        self._capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        self.out, self.err = self._capfd.readouterr()
        assert end.value.code == code, (end.value.code, self.out, self.err)
        return self.out

    def error(self, *arguments: object) -> str:
        """The one line that a failing command leaves on stderr."""
        self(*arguments, code=2)
        assert self.out == ""
        assert self.err.startswith("error: ")
        assert len(self.err.splitlines()) == 1, self.err
        return self.err


@pytest.fixture
def braidrec(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Screen:
    return Screen(monkeypatch, capfd)


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...], braidrec: Screen) -> None:
    text = braidrec(*command, "--help")
    assert "Usage: braidrec" in text
    assert braidrec(*command, "-h") == text


def test_help_comes_at_once_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom braidrec.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'polars', 'lancedb', 'pyarrow', 'numpy', 'sklearn', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    print(f"braidrec --help: {min(seconds):.2f} s")
    assert min(seconds) < 1.5


def test_from_files_to_recommendations(braidrec: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands that a new user types, in order, each naming the next."""
    monkeypatch.chdir(tmp_path)
    small_runs.description(tmp_path)
    text = braidrec("data", "prepare", "mine.toml")
    assert "12,000" in text
    assert "next: braidrec knowledge build prepared/mine" in text
    assert "mine at prepared/mine" in braidrec("data", "show", "prepared/mine")
    assert "120 texts encoded" in braidrec("knowledge", "build", "prepared/mine", "--encoder", "tfidf")
    assert "0 texts encoded" in braidrec("knowledge", "sync", "prepared/mine", "knowledge/mine")
    assert "cosine" in braidrec("knowledge", "nearest", "knowledge/mine", "--id", "B00001", "-k", "3")
    assert "B0" in braidrec("knowledge", "nearest", "knowledge/mine", "--text", "a story of ghosts")
    assert "version" in braidrec("knowledge", "versions", "knowledge/mine")
    assert "agree with their checksums" in braidrec("knowledge", "verify", "knowledge/mine")

    text = braidrec("fit", "--data", "prepared/mine", *SMALL)
    assert "next: braidrec evaluate runs/mine/din-ours-s42" in text
    Path("run.toml").write_text('backbone = "dcn"\nenhance = "disco"\nknowledge = "knowledge/mine"\n[model]\ndim = 64\n')
    text = braidrec("fit", "run.toml", "--data", "prepared/mine", "--seed", "3", *SMALL, "--out", "runs/mixed")
    assert "DCN + DisCo (ours): best validation AUC" in text
    assert load("runs/mixed").config.model.dim == 8
    assert braidrec("fit", "run.toml", "--data", "prepared/mine", "--seed", "3", *SMALL, "--out", "runs/mixed") == text

    assert "popularity" in braidrec("evaluate", "runs/mixed")
    assert "popularity" not in braidrec("evaluate", "runs/mixed", "--no-baselines")
    assert "valid part" in braidrec("evaluate", "runs/mixed", "--part", "valid")
    assert "share no seed" in braidrec.error("compare", "runs/mine/din-ours-s42", "runs/mixed")
    braidrec("fit", "run.toml", "--data", "prepared/mine", *SMALL, "--out", "runs/mixed-42")
    assert "two-sided, Holm" in braidrec("compare", "runs/mine/din-ours-s42", "runs/mixed-42")

    assert "for user 10001" in braidrec("recommend", "runs/mixed", "--user", "10001", "-k", "3")
    assert "the unknown rows stand in" in braidrec("recommend", "runs/mixed", "--items", "B00001, B00002,", "-k", "3")
    Path("allow.txt").write_text("B00001\nB00002\n")
    Path("deny.txt").write_text("B00001\n")
    text = braidrec(
        "recommend", "runs/mixed", "--user", "10001", "--include-seen", "--allow", "allow.txt", "--deny", "deny.txt"
    )
    assert "B00002" in text
    assert "B00001" not in text
    assert "300 recommendations for 150 users: recs.parquet" in braidrec(
        "recommend", "runs/mixed", "--all-users", "--out", "recs.parquet", "-k", "2"
    )
    assert len(pl.read_parquet("recs.parquet")) == 300


def test_a_next_item_model_is_trained_and_asked_like_any_other(
    braidrec: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_run.install(monkeypatch)
    run, data = tmp_path / "run", small_runs.dataset().path
    text = braidrec("fit", "--data", data, "--backbone", "gru4rec", "--out", run)
    assert "Toy (ours): best validation hr@10 0.5000, ndcg@10 0.2500 at step 7; 14 samples/s\n" in text
    assert "test, True" in braidrec("evaluate", run)
    text = braidrec("recommend", run, "--user", "10001", "-k", "2")
    assert "score" in text
    assert "p(positive)" not in text
    assert "popular" not in text
    assert "somebody new gets what is popular" in braidrec("recommend", run, "--items", "B00001", "-k", "2")
    assert "different tasks" in braidrec.error("compare", run, plain().path)
    assert "set model.negatives" in braidrec.error("fit", "--data", data, "--backbone", "sasrec", "--negatives", "2")


def test_public_data_sets_are_listed(braidrec: Screen) -> None:
    text = braidrec("data", "list")
    for name in ("ml-1m", "ml-latest-small", "prime-pantry"):
        assert name in text


def test_tables_of_papers_are_listed_and_made(braidrec: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = {"small": {"markov": Row("markov", "small", "markov")}}
    monkeypatch.setitem(reproduce.EXPERIMENTS, "pad/small", Experiment("pad/small", "a table", pool, ("markov",)))
    monkeypatch.chdir(tmp_path)
    Path("prepared").mkdir()
    Path("prepared/small").symlink_to(small_runs.positives().path)
    assert "pad/table2" in braidrec("reproduce")
    assert "not run" in braidrec("reproduce", "pad/small", "--seeds", "2", "--minutes", "0")
    assert "1 of 1 cells are left" in braidrec.err
    text = braidrec("reproduce", "pad/small", "--data", "small")
    assert "pad/small on small: a table" in text
    assert "results/pad-small-small.json" in text
    assert "[1/1] markov s0 is done" in braidrec.err
    assert Path("results/pad-small/cells/markov-s0.json").exists()
    assert "did you mean 'pad/table2'" in braidrec.error("reproduce", "pad/tabel2")
    assert "nothing reads its files" in braidrec.error("reproduce", "pad/table2", "--data", "mind")


def test_bench_prints_ratios(braidrec: Screen) -> None:
    text = braidrec("bench", "--parts", "tables, memory", "--seconds", "0.01", "--data", small_runs.dataset().path)
    assert "copy, memory to memory" in text
    assert "crossover" in text


def test_errors_are_one_line_and_exit_code_2(braidrec: Screen, tmp_path: Path) -> None:
    run, data = plain().path, small_runs.dataset().path
    assert "did you mean 'dim'" in braidrec.error("fit", "--data", data, "--set", "model.dmi=3", "--out", tmp_path / "x")
    assert "'backbone' = 'dinn'" in braidrec.error("fit", "--data", data, "--backbone", "dinn")
    assert "give a run file, or --data" in braidrec.error("fit")
    assert "the run file does not exist" in braidrec.error("fit", tmp_path / "no.toml")
    assert "no prepared data set here" in braidrec.error("fit", "--data", tmp_path / "no", "--out", tmp_path / "x")
    assert "needs item text vectors" in braidrec.error("fit", "--data", data, "--enhance", "disco", "--out", tmp_path / "x")
    assert "other settings" in braidrec.error("fit", "--data", data, "--out", run)
    assert "does not exist" in braidrec.error("evaluate", tmp_path / "no")
    assert "no part 'tset'" in braidrec.error("evaluate", run, "--part", "tset")
    assert "at least two models" in braidrec.error("compare", run)
    assert "is not in planted" in braidrec.error("recommend", run, "--user", "nobody")
    assert "either a user or a list" in braidrec.error("recommend", run)
    assert "k = 0" in braidrec.error("recommend", run, "--user", "10001", "-k", "0")
    assert "--all-users writes a file" in braidrec.error("recommend", run, "--all-users")
    assert "--all-users writes a file" in braidrec.error("recommend", run, "--all-users", "--out", "x", "--user", "1")
    assert "list of ids" in braidrec.error("recommend", run, "--user", "10001", "--deny", tmp_path / "no.txt")
    assert "no knowledge base here" in braidrec.error("knowledge", "verify", tmp_path)
    assert "neither a public data set" in braidrec.error("data", "prepare", "ml-1mm")
    assert "unknown part 'memroy' (did you mean 'memory'?)" in braidrec.error("bench", "--parts", "memroy")
    assert "give a time above 0" in braidrec.error("bench", "--seconds", "0")
    assert not list(tmp_path.iterdir())


def test_trouble_with_the_disk_is_one_line_too(braidrec: Screen, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in braidrec.error(
        "recommend", plain().path, "--all-users", "-k", "1", "--out", tmp_path / "file" / "recs.parquet"
    )


def test_mistyped_options_are_usage_errors(braidrec: Screen) -> None:
    braidrec("fit", "--sed", "3", code=2)
    assert "No such option" in braidrec.err
    assert "Traceback" not in braidrec.err
    braidrec("recomend", code=2)
    assert "No such command" in braidrec.err


def test_titles_with_brackets_are_printed_as_they_are(braidrec: Screen, tmp_path: Path) -> None:
    run = small_runs.train(tmp_path / "run", small_runs.rich(), training={"batch_size": 256})
    assert "[rec]" in braidrec("recommend", run.path, "--user", "5", "-k", "2")
    cli._print("plain [b]text[/b] :smile:")


def test_a_paid_endpoint_is_not_started_without_a_yes(
    braidrec: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = tmp_path / "paid.toml"
    encoder.write_text('[encoder]\nkind = "endpoint"\nmodel = "m"\nurl = "http://127.0.0.1:9/v1"\nwidth = 8\nprice = 1.0\n')
    asked: list[str] = []
    monkeypatch.setattr(typer, "confirm", lambda question: asked.append(question))
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    text = braidrec.error("knowledge", "build", small_runs.dataset().path, "--encoder", encoder, "--out", tmp_path / "kb")
    assert "not started: the cost was not accepted" in text
    assert "price" in asked[0]


def test_ctrl_c_outside_training_is_one_line(braidrec: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("braidrec.runs.tables.evaluation_table", interrupted)
    braidrec("evaluate", disco().path, code=130)
    assert braidrec.err == "interrupted; the same command goes on where it stopped\n"


def test_a_copy_of_a_run_works_from_the_command_line(braidrec: Screen, tmp_path: Path) -> None:
    run = copy_of(disco(), tmp_path / "copy")
    assert knowledge().exists()
    assert "DIN + DisCo (ours)" in braidrec("evaluate", run.path)
