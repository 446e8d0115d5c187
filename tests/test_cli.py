"""The command line: every command once, errors as one line, every name listed, and a help without heavy libraries."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import polars as pl
import pytest
import typer

import small_runs
import small_sequences
import toy_run
from braidrec import cli
from braidrec.data.dataset import Dataset
from braidrec.data.intake.sources import DATA_SETS
from braidrec.experiments import reproduce
from braidrec.experiments.cells import Row
from braidrec.experiments.experiment import Experiment
from braidrec.knowledge.encoders import ENCODERS
from braidrec.registry import TASKS, Spec
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


HEAVY = (
    "torch",
    "polars",
    "numpy",
    "lancedb",
    "pandas",
    "pyarrow",
    "scipy",
    "sklearn",
    "transformers",
    "sentence_transformers",
)


def test_help_imports_nothing_heavy() -> None:
    """Of the whole and of `fit`, which knows every name; so it comes at once, on any machine."""
    code = (
        "import sys\nfrom braidrec.cli import app\n"
        "for command in ([], ['fit']):\n"
        "    try:\n        app([*command, '--help'])\n    except SystemExit:\n        pass\n"
        f"    found = [name for name in {HEAVY} if name in sys.modules]\n"
        "    assert not found, (command, found)\n"
        "print([name for name in sys.modules if name.startswith('braidrec.') and name.count('.') > 1], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "sasrec" in done.stdout
    assert done.stderr.strip() == "[]", "no module of a task, of data or of runs is needed for names"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--backbone", "dinn"],
        ["--preset", "our"],
        ["--enhance", "disko"],
        ["--task", "rank"],
        ["--set", "lr=1"],
        ["--set", "dim=1"],
        ["--set", "training.learning_rate=1"],
    ],
    ids=" ".join,
)
def test_a_wrong_name_preset_or_key_is_told_before_anything_heavy_is_imported(arguments: list[str]) -> None:
    """So it comes at once, on any machine."""
    code = (
        "import sys\nfrom braidrec.cli import main\n"
        f"sys.argv = ['braidrec', 'fit', '--data', 'x', *{arguments}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 2\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stderr.startswith("error: fit: ")
    assert "(did you mean '" in done.stderr
    assert done.stdout.strip() == "[]"


def words(text: str) -> str:
    """A help text without its boxes and line breaks."""
    return " ".join(text.replace("│", " ").split())


def test_the_help_of_fit_has_every_name_that_is_registered(braidrec: Screen) -> None:
    text = words(braidrec("fit", "--help"))
    for task in TASKS.values():
        assert f"{task.title}: {' | '.join((*task.backbones, *task.models))}" in text
        assert f"{task.title}: {' | '.join(task.methods)}" in text
    assert "ours | paper | authors | textbook" in text
    assert "by a toy" not in text
    with toy_run.held():
        assert "; what is met most, by a toy: toy." in words(braidrec("fit", "--help"))


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


def test_a_model_of_another_package_is_trained_and_asked_like_any_other(braidrec: Screen, tmp_path: Path) -> None:
    run, other, data = tmp_path / "run", tmp_path / "other", small_runs.dataset().path
    with toy_run.held():
        text = braidrec("fit", "--data", data, "--backbone", "toy", "--out", run)
        assert re.search(r"^Toy \(ours\): validation HR@10 0\.\d{4}; \d+\.\d\d s$", text, re.MULTILINE)
        assert "HR@10 / nDCG@10 in %" in braidrec("evaluate", run)
        text = braidrec("recommend", run, "--user", "10001", "-k", "2")
        assert "score" in text
        assert "p(positive)" not in text
        assert "popular" not in text
        assert "somebody new gets what is popular" in braidrec("recommend", run, "--items", "B00001", "-k", "2")
        assert "different tasks" in braidrec.error("compare", run, plain().path)
        braidrec("fit", "--data", data, "--task", "toying", "--out", other, "--set", "model.backbone.power=0.5")
        assert "against Toy (ours): 200 resamples" in braidrec("compare", run, other)
        assert "'toy' is fitted at once" in braidrec.error("fit", "--data", data, "--backbone", "toy", "--set", "training.lr=1")
    assert "set model.negatives" in braidrec.error("fit", "--data", data, "--backbone", "sasrec", "--negatives", "2")


def test_a_run_of_a_task_that_is_not_installed_names_it(braidrec: Screen, tmp_path: Path) -> None:
    with toy_run.held():
        run = toy_run.toy(tmp_path / "run")
    for command in (("evaluate", run.path), ("recommend", run.path, "--user", "10001"), ("compare", run.path, plain().path)):
        error = braidrec.error(*command)
        assert f"{run.path}/config.toml: a run of the task 'toying', which is not installed here" in error
        assert "install the package that it is of" in error
    assert "unknown task 'toying'" in braidrec.error("fit", "--data", small_runs.dataset().path, "--task", "toying")


def test_fit_says_what_it_took_where_no_backbone_is_named(braidrec: Screen, tmp_path: Path) -> None:
    data = small_runs.dataset().path
    text = braidrec("fit", "--data", data, *SMALL, "--out", tmp_path / "din")
    assert text.startswith("no backbone is named: din, of the task 'ranking' (what was clicked above what was not)\n")
    assert load(tmp_path / "din").config.backbone == "din"
    sequences = small_sequences.dataset().path
    tiny = ("--set", "model.dim=8", "--set", "model.length=6", "--set", "training.max_epochs=1")
    text = braidrec("fit", "--data", sequences, "--task", "sequential", *tiny, "--out", tmp_path / "sasrec")
    assert text.startswith("no backbone is named: sasrec, of the task 'sequential' (the next item)\n")
    assert load(tmp_path / "sasrec").config.task == "sequential"
    text = braidrec("fit", "--data", data, "--backbone", "din", *SMALL, "--out", tmp_path / "din")
    assert "no backbone is named" not in text
    error = braidrec.error("fit", "--data", data, "--task", "sequential", "--backbone", "din")
    assert "the task 'sequential' has no backbone 'din'" in error
    braidrec("fit", "--data", tmp_path / "no", "--out", tmp_path / "x", code=2)  # which it is, the data say
    assert (braidrec.out, len(braidrec.err.splitlines())) == ("", 1)


def test_a_task_settles_a_name_that_two_have(braidrec: Screen, tmp_path: Path) -> None:
    twin = Spec("din", "Twin", toy_run.TOY.config, toy_run.TOY.build, fitted=True)
    data = small_runs.dataset().path
    with toy_run.held(), toy_run.TASK.models.holding(twin):
        error = braidrec.error("fit", "--data", data, "--backbone", "din")
        assert "backbone 'din' is of ranking and of toying; say which with task = \"ranking\" (or --task)" in error
        text = braidrec("fit", "--data", data, "--backbone", "din", "--task", "toying", "--out", tmp_path / "twin")
        assert "Twin (ours)" in text
        assert "DIN (ours)" in braidrec(
            "fit", "--data", data, "--backbone", "din", "--task", "ranking", *SMALL, "--out", tmp_path / "din"
        )


def test_a_folder_that_the_model_does_not_read_is_named(braidrec: Screen, tmp_path: Path) -> None:
    small = ("--set", "training.max_epochs=1", "--data", small_runs.dataset().path)
    text = braidrec("fit", *small, "--backbone", "lr", "--knowledge", "nowhere", "--out", tmp_path / "read")
    assert "note: nowhere: not read, for LR (ours) reads no text" in words(text)
    assert "not read" not in braidrec("fit", *small, "--backbone", "lr", "--out", tmp_path / "plain")


def test_knowledge_bases_and_enhancers_may_be_repeated(braidrec: Screen, tmp_path: Path) -> None:
    data, base, other = small_runs.dataset().path, knowledge(), tmp_path / "letters"
    encoder = tmp_path / "small.toml"
    encoder.write_text('[encoder]\nkind = "tfidf"\nwidth = 16\n')
    braidrec("knowledge", "build", data, "--encoder", encoder, "--out", other)
    bases = ("--knowledge", base, "--knowledge", other)
    text = braidrec("fit", "--data", data, "--enhance", "disco", *bases, *SMALL, "--out", tmp_path / "run")
    assert "DIN + DisCo (ours)" in text
    run = load(tmp_path / "run")
    assert run.config.knowledge == (str(base), str(other))
    assert [Path(each["path"]).name for each in run.record["knowledge"]] == [base.name, "letters"]
    given = ("fit", "--data", data, "--enhance", "disco", "--enhance")
    assert "'disco' stands there twice" in braidrec.error(*given, "disco", *bases)
    assert "backbone 'din' can be enhanced by disco" in braidrec.error(*given, "disko", *bases)
    own = replace(TASKS["ranking"].methods["disco"], name="again", title="Again")
    with TASKS["ranking"].methods.holding(own):
        terms = ("--set", "model.disco.disentangle_weight=0.01", "--set", "model.again.disentangle_weight=0.01")
        assert "two parts of this model have a loss called 'disco.disentanglement'" in braidrec.error(
            *given, "again", *bases, "--backbone", "din", *terms, "--out", tmp_path / "both"
        )
        text = braidrec(*given, "again", *bases, *SMALL, *terms[:2], "--out", tmp_path / "both")
        assert "DIN + DisCo + Again (ours)" in text
        assert load(tmp_path / "both").config.enhance == ("disco", "again")


def test_a_run_is_asked_where_its_data_are_elsewhere(braidrec: Screen, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(small_runs.dataset().path, data)
    run = small_runs.train(tmp_path / "run", Dataset.open(data))
    asked = ("recommend", run.path, "--user", "10001", "-k", "3")
    found = braidrec(*asked)
    data.rename(tmp_path / "moved")
    assert "is not there; bring it back" in braidrec.error(*asked)
    assert braidrec(*asked, "--data", tmp_path / "moved") == found
    assert "for somebody new" in braidrec("recommend", run.path, "--items", "B00001", "-k", "3")
    other = small_runs.other_dataset().path
    assert "prepare the same data again" in braidrec.error(*asked, "--data", other)


# -- names ----------------------------------------------------------------------------------------------------------------


def test_every_registered_name_stands_in_the_list(braidrec: Screen) -> None:
    text = braidrec("list")
    listed: dict[str, str] = {}
    for row in text.splitlines():
        if row.startswith("│"):  # a line of names that is longer than the screen goes on without a title
            title, names = (cell.strip() for cell in row.strip("│").split("│"))
            title = title or list(listed)[-1]
            listed[title] = f"{listed.get(title, '')} {names}".strip()
    for line, names in (
        ("tasks", TASKS),
        *(
            (f"{task.name} {kind}", getattr(task, kind))
            for task in TASKS.values()
            for kind in ("backbones", "methods", "models", "baselines")
            if getattr(task, kind)
        ),
        ("text encoders", ENCODERS),
        ("data sets", DATA_SETS),
    ):
        assert listed[line] == ", ".join(names)
    assert "note:" not in text
    with toy_run.held():
        text = braidrec("list")
        assert "toying models" in text
        assert "ranking, sequential, collaborative, toying" in text


def test_every_name_of_the_list_has_its_settings(braidrec: Screen) -> None:
    for names in (TASKS, ENCODERS, DATA_SETS):
        for name in names:
            assert f"'{name}'" in braidrec("list", name)
    for task in TASKS.values():
        for kind in ("backbone", "method", "baseline"):
            for name in getattr(task, f"{kind}s"):
                assert f"{task.name} {kind} '{name}': " in words(braidrec("list", name))


def table(text: str) -> dict[str, list[str]]:
    """The rows of a printed table by their first cell, the heading among them."""
    found = ([cell.strip() for cell in re.split("[┃│]", line)[1:-1]] for line in text.splitlines() if line[0] in "┃│")
    return {first: others for first, *others in found}


def test_the_settings_of_a_name_are_shown_with_what_each_preset_sets(braidrec: Screen) -> None:
    text = braidrec("list", "din")
    assert text.startswith("ranking backbone 'din': DIN")
    rows, spec = table(text), TASKS["ranking"].backbones["din"]
    assert rows["key"] == ["type", "default", "ours", "paper", "authors", "textbook"]
    assert rows.keys() - {"key"} == spec.config.model_fields.keys()
    assert rows["variant"] == ["Literal['paper', 'bilinear', 'none']", "bilinear", "bilinear", "bilinear", "bilinear", "paper"]
    assert rows["softmax"] == ["bool", "False", "", "", "", ""]
    for at, preset in enumerate(rows["key"][2:], 2):
        assert {key: cells[at] for key, cells in rows.items() if key != "key" and cells[at]} == {
            key: str(value) for key, value in spec.settings(preset).items()
        }
    ranking, sequential = braidrec("list", "disco").split("sequential method")
    assert ranking.startswith("ranking method 'disco': DisCo")
    assert sequential.startswith(" 'disco': DisCo-SR")
    assert table(ranking)["sufficiency_weight"][:3] == ["float", "0.02", "0.0"]
    assert table(ranking)["key"] == ["type", "default", "ours", "paper", "authors"]  # none for backbones alone
    assert table(sequential)["key"] == ["type", "default", "ours", "paper", "authors"]  # paper: as authors
    assert table(sequential)["text.final"] == ["Literal['gelu', 'linear']", "gelu", "linear", "", ""]
    assert table(braidrec("list", "deepfm"))["extras_in_fm"] == ["bool", "True", "", "False"]
    assert table(braidrec("list", "deepfm"))["key"][-1] == "ours + enhancer"
    assert "'smem': SMEM" in braidrec("list", "smem")
    assert table(braidrec("list", "endpoint"))["url"] == ["str", "required"]
    assert table(braidrec("list", "ranking"))["history.length"][1] == "30"
    assert "MovieLens 1M" in braidrec("list", "ml-1m")
    assert "ranking baseline 'popularity': popularity: has no settings" in braidrec("list", "popularity")
    assert braidrec.error("list", "dinn") == (
        "error: nothing is called 'dinn' (did you mean 'din'?); 'braidrec list' has all names\n"
    )


def test_what_is_broken_in_another_package_is_a_note(braidrec: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    backbones = TASKS["ranking"].backbones
    for names, values in (
        (TASKS, {"ghost": "no_such_module_at_all:TASK"}),
        (backbones, {"tower": "braidrec_shelf.tower:SPEC", "lost": "no_such_module_at_all:X", "din": "no_such_module:Y"}),
    ):
        points = {name: [EntryPoint(name, value, names.group)._for(Shelf())] for name, value in values.items()}  # type: ignore[attr-defined]
        monkeypatch.setitem(vars(names), "_plugins", points)
    monkeypatch.setattr(backbones, "_found", {})
    text = braidrec("list")
    assert "tower (shelf)" in text
    assert "lost (shelf)" in text
    notes = [line for line in text.splitlines() if line.startswith("note: ")]
    assert len(notes) == 3
    assert "note: task 'ghost' (no_such_module_at_all:TASK, of the package shelf) cannot be imported" in notes[0]
    assert "backbone 'lost' (no_such_module_at_all:X, of the package shelf) cannot be imported: ModuleNotFoundError" in text
    assert "backbone 'din' is registered by braidrec and by shelf, so the name says nothing" in text
    assert text.splitlines()[-1] == "their settings: braidrec list NAME"
    assert "ranking backbone 'tower': Tower" in words(braidrec("list", "tower"))
    assert "backbone 'lost' (no_such_module_at_all:X, of the package shelf) cannot be" in braidrec.error("list", "lost")


class Shelf:
    """What a distribution's metadata would say of it."""

    name = "shelf"


def test_public_data_sets_are_listed(braidrec: Screen) -> None:
    text = braidrec("data", "list")
    for name in ("ml-1m", "ml-latest-small", "prime-pantry"):
        assert name in text


def test_tables_of_papers_are_listed_and_made(braidrec: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = {"small": {"markov": Row("markov", "small", "markov", task="sequential")}}
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
    run, data, fit = plain().path, small_runs.dataset().path, ("fit", "--backbone", "din", "--data")
    assert "did you mean 'dim'" in braidrec.error("fit", "--data", data, "--set", "model.dmi=3", "--out", tmp_path / "x")
    assert "unknown backbone 'dinn' (did you mean 'din'?)" in braidrec.error("fit", "--data", data, "--backbone", "dinn")
    assert "give a run file, or --data" in braidrec.error("fit")
    assert "the run file does not exist" in braidrec.error("fit", tmp_path / "no.toml")
    assert "no prepared data set here" in braidrec.error(*fit, tmp_path / "no", "--out", tmp_path / "x")
    assert "DIN + DisCo needs item text vectors" in braidrec.error(*fit, data, "--enhance", "disco", "--out", tmp_path / "x")
    assert "other settings" in braidrec.error(*fit, data, "--out", run)
    assert "does not exist" in braidrec.error("evaluate", tmp_path / "no")
    assert "no part 'tset'" in braidrec.error("evaluate", run, "--part", "tset")
    assert "at least two models" in braidrec.error("compare", run)
    assert "is not in planted" in braidrec.error("recommend", run, "--user", "nobody")
    assert "a user of its data (--user), or the items" in braidrec.error("recommend", run)
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


def test_the_version_is_said(braidrec: Screen) -> None:
    import braidrec as package

    assert braidrec("--version") == f"braidrec {package.__version__}\n"


def test_the_desk(braidrec: Screen, tmp_path: Path) -> None:
    run, out = copy_of(disco(), tmp_path / "run").path, tmp_path / "scores.parquet"
    text = braidrec("recommend", run, "--user", "10001", "--items", "B00001,B00002", "-k", "2", "--device", "cpu")
    assert "for user 10001 who has since met B00001,B00002" in text
    pl.DataFrame({"user_id": [10001, 10002], "item_id": ["B00001", "B00002"]}).write_csv(tmp_path / "pairs.csv")
    assert f"2 pairs scored: {out}" in braidrec("score", run, tmp_path / "pairs.csv", "--out", out)
    assert pl.read_parquet(out).columns == ["user_id", "item_id", "probability"]
    assert pl.read_parquet(out)["probability"][0] == pytest.approx(load(run).score_items(10001, ["B00001"])[0])
    pl.DataFrame({"user_id": [10001, 7], "item_id": ["B00001", "B00002"]}).write_csv(tmp_path / "pairs.csv")
    assert "user '7' is not in planted" in braidrec.error("score", run, tmp_path / "pairs.csv", "--out", out)
    text = braidrec("score", run, tmp_path / "pairs.csv", "--out", tmp_path / "scores.csv", "--unknown", "null")
    assert "2 pairs scored, 1 of them without a score" in text
    assert (tmp_path / "scores.csv").read_text().splitlines()[2] == "7,B00002,"
    text = braidrec("vectors", run, "--out", tmp_path / "vectors.parquet")
    assert "120 item vectors of width 8, space 'id'" in text
    frame = pl.read_parquet(tmp_path / "vectors.parquet")
    assert (frame.columns, frame["vector"].dtype) == (["item", "vector"], pl.Array(pl.Float32, 8))
    assert "has no item vectors 'texd' (did you mean 'text'?)" in braidrec.error(
        "vectors", run, "--out", out, "--space", "texd"
    )
    assert "sees no such device here" in braidrec.error("recommend", run, "--user", "10001", "--device", "cuda")


def test_somebody_new_is_described_on_the_command_line(braidrec: Screen, tmp_path: Path) -> None:
    run = small_runs.train(tmp_path / "run", small_runs.rich(), seed=1)
    text = braidrec("recommend", run.path, "--field", "age=30", "--field", "hobbies=chess|golf", "-k", "2")
    assert "for somebody new with age=30, hobbies=chess|golf" in text
    assert "field 'hobbies': 'golf' was not met in training, so it counts as unknown" in text
    assert "for somebody new who liked 100 with age=30" in braidrec(
        "recommend", run.path, "--items", "100", "--field", "age=30", "-k", "2"
    )
    assert "--field 'age': expected name=value" in braidrec.error("recommend", run.path, "--field", "age")


def test_a_moved_project_and_its_remedies(braidrec: Screen, tmp_path: Path) -> None:
    """What an error says is typed next, and helps."""
    home, data, base = tmp_path / "a", "prepared/mine", "knowledge/mine"
    home.mkdir()
    small_runs.description(home)
    braidrec("data", "prepare", home / "mine.toml", "--out", home / data)
    braidrec("knowledge", "build", home / data, "--out", home / base, "--encoder", "tfidf")
    changes = ("--enhance", "disco", "--knowledge", home / base, *SMALL)
    braidrec("fit", "--data", home / data, *changes, "--out", home / "runs" / "x")
    wanted = braidrec("recommend", home / "runs" / "x", "--user", "10001", "-k", "1")
    moved = home.rename(tmp_path / "b")
    run = moved / "runs" / "x"
    assert braidrec("recommend", run, "--user", "10001", "-k", "1") == wanted
    shutil.move(moved / "prepared", tmp_path / "far")
    shutil.move(moved / "knowledge", tmp_path / "near")
    pl.DataFrame({"item_id": ["late"], "title": ["ghosts"], "description": ["demons"]}).write_csv(tmp_path / "new.csv")
    assert "say where it is: --data FOLDER" in braidrec.error("recommend", run, "--user", "10001")
    assert "say where it is: --data FOLDER" in braidrec.error("evaluate", run)
    assert "say where it is: --knowledge FOLDER" in braidrec.error("add-items", run, tmp_path / "new.csv")
    given = ("--data", tmp_path / "far" / "mine", "--knowledge", tmp_path / "near" / "mine")
    assert braidrec("recommend", run, "--user", "10001", "-k", "1", *given) == wanted
    assert "popularity" in braidrec("evaluate", run, *given)
    assert "1 item added" in braidrec("add-items", run, tmp_path / "new.csv", *given)


def test_data_that_runs_were_trained_on_are_not_replaced_unawares(
    braidrec: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small_runs.description(tmp_path)
    braidrec("data", "prepare", "mine.toml")
    braidrec("fit", "--data", "prepared/mine", *SMALL, "--out", "runs/x")
    again = ("data", "prepare", "mine.toml", "--overwrite")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    error = braidrec.error(*again)
    assert "prepared/mine: 1 run was trained on these data (runs/x)" in error
    assert "say --yes to replace them, or choose another folder (--out)" in error
    braidrec(*again, "--yes")
    assert "note: prepared/mine: 1 run was trained on these data (runs/x)" in braidrec.err
    for answer, code in (("n", 2), ("y", 0)):
        terminal = io.StringIO(f"{answer}\n")
        terminal.isatty = lambda: True  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdin", terminal)
        braidrec(*again, code=code)
        assert "Replace them?" in braidrec.err


def test_a_log_that_grew_is_prepared_again_and_asked(braidrec: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small_runs.description(tmp_path)
    braidrec("data", "prepare", "mine.toml", "--out", "former")
    braidrec("fit", "--data", "former", *SMALL, "--out", "runs/x")
    with Path("log.csv").open("a") as log:
        names = Path("log.csv").read_text().splitlines()[0].split(",")
        for user, item in (("5", "B00001"), ("10001", "B00002")):
            row = {"user_id": user, "item_id": item, "timestamp": "4000000000", "click": "1"}
            log.write(",".join(row.get(name, "") for name in names) + "\n")
    braidrec("data", "prepare", "mine.toml", "--out", "longer")
    assert "user '5' is not in mine" in braidrec.error("recommend", "runs/x", "--user", "5")
    text = braidrec("recommend", "runs/x", "--user", "5", "-k", "2", "--data", "longer")
    assert "its log has grown since training: 12,000 events then, 12,002 now; histories are of today" in text
    assert "new users, answered like anybody new by their history: 1" in text
    error = braidrec.error("evaluate", "runs/x", "--data", "longer")
    assert "its log has grown since training" in error
    assert "say where they are: --data FOLDER" in error
    assert "302 recommendations for" not in braidrec("recommend", "runs/x", "--all-users", "--out", "all.parquet", "-k", "2")
    text = braidrec("recommend", "runs/x", "--all-users", "--out", "all.parquet", "-k", "2", "--data", "longer")
    assert "302 recommendations for 151 users: all.parquet" in text
