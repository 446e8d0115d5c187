"""Training into a folder: what is written, what is refused, what is resumed."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sequence_runs
import torch

import small_runs
from braidrec.config import from_toml
from braidrec.data.dataset import Dataset
from braidrec.errors import ConfigError, DataError, RunError
from braidrec.files import load_tensors, read_json
from braidrec.locks import writer_lock
from braidrec.runs.run import Run, load
from small_runs import copy_of, disco, knowledge, other_dataset, plain, train

WORKER = Path(__file__).with_name("fit_worker.py")
CHECKPOINT = 0.05  # seconds; about every second step


def weights(path: Path) -> bytes:
    return (path / "model.safetensors").read_bytes()


def scores(run: Run, part: str = "test") -> np.ndarray:
    return run.outcome(part, show_progress=False).values["scores"]


def test_a_run_holds_everything_that_loading_needs_and_nothing_of_training() -> None:
    run = plain()
    names = {each.name for each in run.path.iterdir() if not each.name.startswith(("outcome", "evaluation"))}
    assert names == {
        *("config.toml", "run.json", "model.safetensors", "model.json", "vocabulary.json", "metrics.jsonl", "environment.json"),
        *("catalogue.parquet", "users.parquet", "weights"),
    }
    assert [each.name for each in (run.path / "weights").iterdir()] == ["rank"]
    assert run.record["title"] == "DIN"
    assert run.record["knowledge"] == []
    assert 0.4 < run.record["best"]["metrics"]["auc"] < 0.8
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["check"] for line in lines] == [1, 2]


@pytest.mark.parametrize("made", [plain, disco])
def test_a_loaded_run_scores_as_the_model_did_when_it_was_trained(made: object) -> None:
    run = made()  # type: ignore[operator]
    again = load(run.path)
    np.testing.assert_array_equal(scores(again, "valid"), scores(run, "valid"))
    assert run.evaluate("valid")["all"]["auc"] == pytest.approx(run.record["best"]["metrics"]["auc"], abs=1e-12)
    assert run.evaluate("valid")["all"]["log_loss"] == pytest.approx(run.record["best"]["metrics"]["log_loss"], abs=1e-9)


def test_disco_is_saved_without_the_knowledge_base_and_keeps_the_small_mlp() -> None:
    run = disco()
    tensors = load_tensors(run.path / "model.safetensors", read_json(run.path / "model.json", RunError)["sha256"], RunError)
    assert tensors["sources.0.semantic.reduced"].shape == (121, 8)
    assert tensors["sources.0.semantic.mlp.0.weight"].shape == (128, 256)
    assert not any("estimators" in name or "discriminators" in name or "knowledge" in name for name in tensors)
    assert [base["encoder"] for base in run.record["knowledge"]] == ["tfidf"]


def test_same_settings_and_seed_give_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    again = train(tmp_path / "again", seed=1)
    assert weights(again.path) == weights(plain().path)
    assert weights(train(tmp_path / "other", seed=2).path) != weights(plain().path)


def test_a_finished_run_is_loaded_and_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = copy_of(plain(), tmp_path / "run")
    monkeypatch.setattr("braidrec.runs.fit.train", None)  # calling it would fail
    assert train(run.path, seed=1).record == run.record


@pytest.mark.parametrize("case", ["plain", "disco", "sasrec", "pad"])
def test_what_fit_returns_is_the_run_that_it_trained_and_says_what_the_loaded_one_says(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_runs if case in ("plain", "disco") else sequence_runs
    read = {"enhance": case, "knowledge": small.knowledge()} if case in ("disco", "pad") else {}

    def opened(path: Path, **options: object) -> Run:
        raise AssertionError("a run is not read back from disk to be returned")

    with monkeypatch.context() as patched:
        patched.setattr("braidrec.runs.fit.load", opened)
        run = small.train(tmp_path / "run", seed=1, **read)
        with pytest.raises(AssertionError, match="not read back"):  # finished: loaded
            small.train(tmp_path / "run", seed=1, **read)
    again = small.train(tmp_path / "run", seed=1, **read)
    assert (again.record, again.config, again.title, again.headline) == (run.record, run.config, run.title, run.headline)
    assert (again.catalogue.all_ids, again.catalogue.titles) == (run.catalogue.all_ids, list(run.catalogue.titles))
    user, liked = run.dataset.user_ids[3], run.catalogue.ids[2:5]
    assert again.recommend(user, k=10**6) == run.recommend(user, k=10**6)
    assert again.recommend(items=liked) == run.recommend(items=liked)
    first, second = (each.model.saved() for each in (run, again))
    assert first.about == second.about
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    if read:
        assert run.add_items({"late": "ghosts"}) == 1
        assert load(run.path).score_items(user, ["late"]).tolist() == run.score_items(user, ["late"]).tolist()


def test_where_a_run_is_trained_is_checked_first_and_makes_it_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for word, said in (("cuda", "sees no such device here; use auto or cpu"), ("gpu", "accepted are auto, cpu, cuda, mps")):
        with pytest.raises(ConfigError, match=f"accelerator = '{word}'.*{said}"):
            train(tmp_path / "run", training={"accelerator": word})
        with pytest.raises(ConfigError, match=f"accelerator = '{word}'.*{said}"):
            load(plain().path, accelerator=word)
    assert not (tmp_path / "run").exists()
    elsewhere = copy_of(plain(), tmp_path / "elsewhere")
    assert plain().config.training.accelerator == "auto"
    for other in ({"accelerator": "cpu"}, {"checkpoint_seconds": 5}):
        assert train(elsewhere.path, seed=1, training=other).record == plain().record


def test_other_settings_in_the_same_folder_are_refused_and_named(tmp_path: Path) -> None:
    run = copy_of(plain(), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"other settings \(model\.dim was 8 and is now 16\); choose another folder"):
        train(run.path, seed=1, model={"dim": 16})
    assert train(run.path, seed=1, knowledge=knowledge()).record == run.record, "what is not read makes no other run"
    with pytest.raises(ConfigError, match=r"enhance was \[\] and is now \['disco'\]"):
        train(run.path, seed=1, enhance="disco", knowledge=knowledge())


def test_a_folder_with_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="not empty and holds no run"):
        train(tmp_path)
    with pytest.raises(ConfigError, match="a file is there already"):
        train(tmp_path / "thesis.txt")
    for below in ("run", "runs/run"):
        with pytest.raises(ConfigError, match=r"thesis\.txt is a file, so no folder can be made there"):
            train(tmp_path / "thesis.txt" / below)
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_fit_that_cannot_start_leaves_no_claim_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="knowledge base"):
        train(tmp_path / "run", enhance="disco")
    assert not (tmp_path / "run").exists()
    assert train(tmp_path / "run", seed=1).title == "DIN (ours)"


def test_disco_without_or_with_a_missing_knowledge_base_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give the run a knowledge base \(knowledge=FOLDER\)"):
        train(tmp_path / "run", enhance="disco")
    with pytest.raises(Exception, match=r"no knowledge base here; make one with build_knowledge\(data, "):
        train(tmp_path / "run", enhance="disco", knowledge=tmp_path / "nowhere")


def test_two_processes_do_not_train_one_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text((plain().path / "config.toml").read_text())
    with (
        writer_lock(tmp_path / "run" / "writer.lock"),
        pytest.raises(RunError, match="another process is training this run"),
    ):
        train(tmp_path / "run", seed=1)


def test_logs_of_positives_need_a_number_of_negatives(tmp_path: Path) -> None:
    data = small_runs.positives()
    with pytest.raises(ConfigError, match=r"every row is positive.*draw for each positive: negatives=4$"):
        train(tmp_path / "run", data, task="ranking")
    run = train(tmp_path / "run", data, negatives=2, training={"batch_size": 256})
    report = run.evaluate(show_progress=False)
    assert report["all"].rows == 3 * len(data.split["test"])
    assert report["all"].counts["positives"] == len(data.split["test"])
    assert len(run.recommend("u3", k=5)) == 5
    other = train(tmp_path / "other", data, negatives=2, seed=7, training={"batch_size": 256})
    warm = [
        [(part.rows, part.counts["positives"]) for part in each.evaluate(show_progress=False).slices] for each in (run, other)
    ]
    assert warm[0] == warm[1], "seeds must rank the same held-out rows"


def test_negatives_are_refused_where_the_log_has_its_own_or_histories_would_tell(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="negatives = 3, but this log has negative rows of its own"):
        train(tmp_path / "run", negatives=3)
    with pytest.raises(ConfigError, match=r"use model\.history\.kind = 'recent'"):
        train(
            tmp_path / "run",
            small_runs.positives(),
            negatives=1,
            model={"history": {"kind": "semantic_topk"}},
            knowledge=knowledge(),
        )


def test_a_validation_part_of_one_class_is_refused_before_training(tmp_path: Path) -> None:
    data = small_runs.dataset()
    log = data.log
    label = log.label.copy()
    label[data.split["valid"]] = 0
    from dataclasses import replace

    one_class = replace(data, log=replace(log, label=label))
    with pytest.raises(DataError, match="validation rows have label 0"):
        train(tmp_path / "run", one_class)


def test_lazy_tables_train_like_dense_ones(tmp_path: Path) -> None:
    settings = {"average_epochs": 0.0, "weight_decay": 0.0}
    dense = train(tmp_path / "dense", seed=1, training=settings)
    lazy = train(tmp_path / "lazy", seed=1, training={**settings, "tables": "lazy"})
    assert (dense.record["choices"]["tables"], lazy.record["choices"]["tables"]) == ("dense", "lazy")
    np.testing.assert_allclose(scores(lazy), scores(dense), atol=2e-3)


def test_lazy_tables_and_averaging_exclude_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"set average_epochs = 0, or tables = 'dense'"):
        train(tmp_path / "run", training={"tables": "lazy"})
    monkeypatch.setattr("braidrec.ranking.task.choose_table_update", lambda rows, dim: "lazy")
    run = train(tmp_path / "run", seed=1)
    assert run.record["choices"] == {"tables": "lazy", "table_rows": 277, "average_epochs": 0.0}


def test_a_data_set_that_changed_is_refused(tmp_path: Path) -> None:
    run = copy_of(plain(), tmp_path / "run")
    with pytest.raises(RunError, match=r"trained on planted with fingerprint .* prepare the same data again"):
        load(run.path, dataset=other_dataset())


def test_relative_paths_are_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small_runs.dataset().path
    monkeypatch.chdir(folder.parent)
    relative = Dataset.open(Path(folder.name))
    train(tmp_path / "run", relative, enhance="disco", knowledge=knowledge().relative_to(folder.parent))
    assert tomllib.loads((tmp_path / "run" / "config.toml").read_text())["data"] == os.path.relpath(folder, tmp_path / "run")
    assert from_toml(tmp_path / "run" / "config.toml").data == str(folder)
    monkeypatch.chdir(tmp_path)
    run = load("run")
    assert run.dataset.fingerprint == relative.fingerprint
    assert run.add_items({"fresh": "wizards and dragons"}) == 1


# -- killed, stopped, resumed ---------------------------------------------------------------------------------------------


def start(path: Path, *, epochs: int = 3, checkpoint: float = CHECKPOINT) -> subprocess.Popen[str]:
    arguments = [str(path), str(small_runs.dataset().path), str(knowledge()), str(epochs), str(checkpoint)]
    return subprocess.Popen(
        [sys.executable, str(WORKER), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def finish(path: Path, *, epochs: int = 3) -> None:
    """The same fit in this process, whether or not it was begun before."""
    from fit_worker import fit_disco

    fit_disco(path, small_runs.dataset().path, knowledge(), epochs, CHECKPOINT)


def wait_for(found: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """However long it takes, or until the process has ended without."""
    while not found() and process.poll() is None:
        time.sleep(0.002)


def checkpoints(path: Path) -> list[Path]:
    return list((path / "training" / "checkpoints").glob("[0-9]*"))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("unbroken") / "run"
    finish(path)
    return path


def metrics_of(path: Path) -> list[dict[str, object]]:
    """The log without its timings."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


def test_a_killed_fit_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, unbroken: Path) -> None:
    process = start(tmp_path / "run")
    wait_for(lambda: checkpoints(tmp_path / "run"), process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert checkpoints(tmp_path / "run")
    with pytest.raises(RunError, match="is unfinished; call fit with the same settings to go on"):
        load(tmp_path / "run")
    finish(tmp_path / "run")
    assert weights(tmp_path / "run") == weights(unbroken)
    assert metrics_of(tmp_path / "run") == metrics_of(unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(10))
def test_fits_killed_at_random_moments_end_with_the_same_bytes(turn: int, tmp_path: Path, unbroken: Path) -> None:
    path, rng = tmp_path / "run", random.Random(turn)
    process = start(path)
    wait_for(lambda: (path / "training").exists(), process)
    time.sleep(rng.uniform(0, 1.5))
    process.kill()
    process.communicate()
    finish(path)
    assert weights(path) == weights(unbroken)
    assert metrics_of(path) == metrics_of(unbroken)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_leave_a_resumable_run_and_one_line(
    number: signal.Signals, code: int, tmp_path: Path, unbroken: Path
) -> None:
    path = tmp_path / "run"
    process = start(path)
    wait_for(lambda: checkpoints(path), process)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == code, (out, err)
    *figures, last = err.strip().splitlines()
    assert all(
        re.fullmatch(r"rank: epoch [\d.]+, validation auc [\d.]+, log_loss [\d.]+( \(best so far\))?", each) for each in figures
    )
    assert "interrupted" in last
    finish(path)
    assert weights(path) == weights(unbroken)


def test_an_interrupted_fit_does_not_go_on_with_other_data(tmp_path: Path) -> None:
    path = tmp_path / "run"
    process = start(path)
    wait_for(lambda: checkpoints(path), process)
    process.kill()
    process.communicate()
    note = path / "training" / "inputs.json"
    seen = read_json(note, RunError)
    assert seen["data"] == small_runs.dataset().fingerprint
    note.write_text(json.dumps({**seen, "data": "0123"}))
    with pytest.raises(RunError, match=r"begun on other data \(fingerprint 0123, now .*\), so it cannot go on"):
        finish(path)
    note.write_text(json.dumps({**seen, "knowledge": "0123"}))
    with pytest.raises(RunError, match="begun on other knowledge"):
        finish(path)


# -- damage ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("model.safetensors", "model.json", "run.json", "config.toml", "vocabulary.json", "metrics.jsonl", "environment.json"),
        *("catalogue.parquet", "users.parquet"),
    ],
)
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damaged_files_are_refused_by_name(name: str, damage: str, tmp_path: Path) -> None:
    path = copy_of(disco(), tmp_path / "run").path
    file = path / name
    data = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        at = len(data) // 2
        data[at] ^= 1
        file.write_bytes(data if damage == "flip" else data[:at])
    expected = "unfinished" if (name, damage) == ("run.json", "gone") else name
    with pytest.raises((RunError, ConfigError), match=expected):
        load(path)


def test_random_damage_to_any_byte_is_never_silent(tmp_path: Path) -> None:
    path, rng = copy_of(disco(), tmp_path / "run").path, random.Random(0)
    files = sorted(each for each in path.iterdir() if each.is_file())
    for _ in range(60):
        file = rng.choice(files)
        good = file.read_bytes()
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        file.write_bytes(bad)
        with pytest.raises((RunError, ConfigError)):
            load(path)
        file.write_bytes(good)
    load(path)


@pytest.mark.parametrize("damage", ["scores", "note", "shape", "half", "gone"])
def test_damaged_scores_are_computed_again(damage: str, tmp_path: Path) -> None:
    run = copy_of(plain(), tmp_path / "run")
    before = scores(run)
    file, note = run.path / "outcome.test.safetensors", run.path / "outcome.test.json"
    if damage == "scores":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    elif damage == "gone":
        file.unlink()
    else:
        half = json.dumps({name: json.loads(note.read_text())[name] for name in ("data", "model")})
        note.write_text({"note": "{", "shape": "[1]", "half": half}[damage])
    np.testing.assert_array_equal(scores(load(run.path)), before)
    assert read_json(note, RunError)["data"] == run.dataset.fingerprint


def test_loading_moves_no_random_number() -> None:
    path = disco().path
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    load(path)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("content", ["[]", '{"format": 1}', "{"])
def test_a_run_of_another_format_is_refused(content: str, tmp_path: Path) -> None:
    path = copy_of(plain(), tmp_path / "run").path
    (path / "run.json").write_text(content)
    with pytest.raises(RunError, match=r"train it again|not valid JSON"):
        load(path)


def test_a_missing_run_is_told_from_an_unfinished_one(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(RunError, match="unfinished"):
        load(tmp_path)
