"""A project that is moved: its runs find their data and their text, from any folder, or are told where these are."""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import sequence_runs
from former_runs import rewrite

import small_runs
from braidrec.config import from_toml, to_toml
from braidrec.data.dataset import Dataset
from braidrec.errors import ConfigError, DataError, KnowledgeError, RunError, at_command_line
from braidrec.files import read_json, sha256, write_json
from braidrec.runs.directory import digest_of_json
from braidrec.runs.run import Run, load
from braidrec.training.loop import _PhaseRun

USER = "10001"
NEW = {"late": "ghosts and demons"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Data, knowledge and a run that reads both, in one folder."""
    return made(tmp_path / "a")


def made(folder: Path) -> Path:
    for name, source in (("prepared/planted", small_runs.dataset().path), ("knowledge", small_runs.knowledge())):
        shutil.copytree(source, folder / name)
    disco(folder, folder / "runs" / "x")
    return folder


def disco(project: Path, path: Path) -> Run:
    data = Dataset.open(project / "prepared" / "planted")
    return small_runs.train(path, data, seed=1, enhance="disco", knowledge=project / "knowledge")


def test_a_moved_project_is_used_from_any_folder(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = load(project / "runs" / "x").recommend(USER, k=5)
    own = tomllib.loads((project / "runs" / "x" / "config.toml").read_text())
    assert (own["paths"], own["data"], own["knowledge"]) == ("from this folder", "../../prepared/planted", ["../../knowledge"])
    moved = project.rename(tmp_path / "b")
    run = load(moved / "runs" / "x")
    assert run.recommend(USER, k=5) == wanted
    assert run.config.data == str(moved / "prepared" / "planted")
    assert run.add_items(NEW) == 1
    monkeypatch.chdir(moved)
    run = load("runs/x")
    assert run.recommend(USER, k=5, deny=["late"]) == wanted
    assert (run.config.data, run.config.knowledge) == ("prepared/planted", ("knowledge",))
    monkeypatch.chdir(moved / "runs")
    assert load("x").recommend(USER, k=5, deny=["late"]) == wanted
    assert disco(moved, moved / "runs" / "x").record == run.record, "what was trained is not trained again"


def test_runs_behind_a_link_find_their_data(project: Path, tmp_path: Path) -> None:
    far = tmp_path / "disk" / "of" / "runs"
    far.parent.mkdir(parents=True)
    shutil.move(project / "runs", far)
    os.symlink(far, project / "runs")
    run = disco(project, project / "runs" / "y")
    assert from_toml(project / "runs" / "y" / "config.toml").data == str(project / "prepared" / "planted")
    assert load(project / "runs" / "y").recommend(USER, k=5) == run.recommend(USER, k=5)


def test_a_run_that_was_carried_away_alone_finds_what_stayed(project: Path, tmp_path: Path) -> None:
    wanted = load(project / "runs" / "x").recommend(USER, k=5)
    away = Path(shutil.move(project / "runs" / "x", tmp_path / "away" / "with" / "x"))
    run = load(away)
    assert (run.recommend(USER, k=5), run.add_items(NEW)) == (wanted, 1)


def test_data_and_knowledge_are_found_where_they_are_said_to_be(project: Path, tmp_path: Path) -> None:
    path = project / "runs" / "x"
    wanted = load(path).recommend(USER, k=5)
    (tmp_path / "else").mkdir()
    data = (project / "prepared" / "planted").rename(tmp_path / "else" / "data")
    knowledge = (project / "knowledge").rename(tmp_path / "else" / "knowledge")
    run = load(path)
    with pytest.raises(RunError, match=r"is not there; bring it back, or say where it is: load\(path, dataset=\.\.\.\)"):
        run.recommend(USER)
    with pytest.raises(
        KnowledgeError, match=r"knowledge: no knowledge base here, where the run .*x has it; say where it is: kn"
    ):
        run.add_items(NEW)
    with at_command_line():
        with pytest.raises(RunError, match=r"or say where it is: --data FOLDER"):
            run.recommend(USER)
        with pytest.raises(KnowledgeError, match=r"say where it is: --knowledge FOLDER"):
            run.add_items(NEW)
    assert run.add_items(NEW, knowledge=knowledge) == 1
    run = load(path, dataset=Dataset.open(data), knowledge=str(knowledge))
    assert run.recommend(USER, k=5, deny=["late"]) == wanted
    assert run.add_items({"later": "a foggy harbour"}) == 1
    assert run.inspect("rank")["id"].shape == run.inspect()["id"].shape


def test_another_knowledge_base_is_refused_and_one_that_nothing_reads_as_well(project: Path, tmp_path: Path) -> None:
    path = project / "runs" / "x"
    with pytest.raises(RunError, match=r"x: trained on a knowledge base with .* which now has"):
        load(path, knowledge=sequence_runs.knowledge())
    with pytest.raises(RunError, match="trained on 1 knowledge bases, now given 2"):
        load(path, knowledge=[project / "knowledge", sequence_runs.knowledge()])
    with pytest.raises(ConfigError, match=r"DIN reads no text, so it has no knowledge base; leave knowledge= out"):
        load(small_runs.plain().path, knowledge=project / "knowledge")


def test_a_run_of_the_former_form_is_still_read(project: Path, tmp_path: Path) -> None:
    path = project / "runs" / "x"
    wanted = load(path).recommend(USER, k=5)
    rewrite(path)
    values = tomllib.loads((path / "config.toml").read_text())
    assert "paths" not in values
    assert load(path).recommend(USER, k=5) == wanted
    moved = project.rename(tmp_path / "b")
    with pytest.raises(RunError, match=r"saved by an earlier version, without its catalogue, and its data set .* is not there"):
        load(moved / "runs" / "x")
    data = Dataset.open(moved / "prepared" / "planted")
    run = load(moved / "runs" / "x", dataset=data, knowledge=moved / "knowledge")
    assert (run.recommend(USER, k=5), run.add_items(NEW)) == (wanted, 1)


def test_an_early_run_of_this_form_is_read_too(project: Path, tmp_path: Path) -> None:
    """Its paths are whole, and it remembers neither its users nor its events."""
    path = project / "runs" / "x"
    wanted = load(path).recommend(USER, k=5)
    (path / "config.toml").write_text(to_toml(from_toml(path / "config.toml")))
    (path / "users.parquet").unlink()
    record = read_json(path / "run.json", RunError)
    for key in ("events", "settings", "ids"):
        del record["data"][key]
    del record["reads_text"], record["digest"], record["files"]["users.parquet"]
    record["files"]["config.toml"] = sha256(path / "config.toml")
    write_json(path / "run.json", {**record, "digest": digest_of_json(record)})
    run = load(path)
    assert (run.recommend(USER, k=5), run.add_items(NEW)) == (wanted, 1)
    longer = small_runs.world_tables().interactions
    again = Dataset.from_frames(longer, small_runs.world_tables().items, path=tmp_path / "longer")
    with pytest.raises(RunError, match=r"train a new run .*, and the run was saved by a version that remembered no events\)"):
        load(path, dataset=again)


def test_paths_of_another_kind_are_refused(project: Path) -> None:
    file = project / "runs" / "x" / "config.toml"
    file.write_text(file.read_text().replace("from this folder", "from the moon"))
    with pytest.raises(ConfigError, match=r"config\.toml: 'paths' = 'from the moon': only 'from this folder' is known"):
        from_toml(file)


def test_runs_that_stages_come_from_move_along(tmp_path: Path) -> None:
    base = tmp_path / "a" / "base"
    sequence_runs.train(base)
    changes = {"enhance": "pad", "knowledge": sequence_runs.knowledge(), "model": {"start_from": {"pretrain": str(base)}}}
    sequence_runs.train(tmp_path / "a" / "pad", **changes)  # type: ignore[arg-type]
    (tmp_path / "a").rename(tmp_path / "b")
    config = load(tmp_path / "b" / "pad").config
    assert config.model.givers() == {"pretrain": str(tmp_path / "b" / "base")}
    changes["model"] = {"start_from": {"pretrain": str(tmp_path / "b" / "base")}}
    assert sequence_runs.train(tmp_path / "b" / "pad", **changes).record["choices"]["start_from"]  # type: ignore[arg-type]


def test_a_run_that_was_interrupted_goes_on_where_the_project_is_now(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, check = load(project / "runs" / "x"), _PhaseRun._check

    def stopped(phase: _PhaseRun) -> bool:
        check(phase)
        phase._save()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_PhaseRun, "_check", stopped)
        with pytest.raises(KeyboardInterrupt):
            disco(project, project / "runs" / "y")
    moved = project.rename(tmp_path / "b")
    run = disco(moved, moved / "runs" / "y")
    assert (run.path / "model.safetensors").read_bytes() == (moved / "runs" / "x" / "model.safetensors").read_bytes()
    assert load(run.path).config.data == str(moved / "prepared" / "planted")
    assert run.record["best"] == wanted.record["best"]


# -- a script that is run twice -------------------------------------------------------------------------------------------


def twice(path: Path, data: Callable[[], Dataset]) -> tuple[Run, Run]:
    first, second = (small_runs.train(path, data(), seed=1) for _ in range(2))
    return first, second


def test_a_script_that_prepares_into_a_folder_of_its_own_each_time_is_run_twice(tmp_path: Path) -> None:
    tables = small_runs.world_tables()
    first, second = twice(tmp_path / "run", lambda: Dataset.from_frames(tables.interactions, tables.items))
    assert first.dataset.path != second.dataset.path
    assert first.record == second.record
    assert first.recommend(USER) == second.recommend(USER)


def test_frames_are_prepared_twice_and_the_remedy_for_others_is_one_that_is_there(tmp_path: Path) -> None:
    tables, other = small_runs.world_tables(), small_runs.world_tables(1)
    first = Dataset.from_frames(tables.interactions, tables.items, path=tmp_path / "data")
    again = Dataset.from_frames(tables.interactions, tables.items, path=tmp_path / "data")
    assert again.fingerprint == first.fingerprint
    with pytest.raises(DataError, match=r"holds other data.*choose another path, or pass overwrite=True"):
        Dataset.from_frames(other.interactions, other.items, path=tmp_path / "data")
    replaced = Dataset.from_frames(other.interactions, other.items, path=tmp_path / "data", overwrite=True)
    assert replaced.fingerprint != first.fingerprint
    with pytest.raises(DataError, match=r"already exists; choose another folder or pass overwrite=True"):
        Dataset.prepare(tables, tmp_path / "data")
    with at_command_line(), pytest.raises(DataError, match=r"choose another folder or pass overwrite \(--overwrite\)"):
        Dataset.prepare(tables, tmp_path / "data")


def test_a_finished_run_is_not_given_for_other_data_or_other_text(tmp_path: Path) -> None:
    path = small_runs.copy_of(small_runs.disco(), tmp_path / "run").path
    settings = {"seed": 1, "enhance": "disco", "knowledge": small_runs.knowledge(), "model": small_runs.TERMS}
    with pytest.raises(
        RunError, match=r"run: holds a run that was trained on planted with fingerprint .* choose another folder"
    ):
        small_runs.train(path, small_runs.other_dataset(), **settings)
    with pytest.raises(RunError, match=r"run: trained on a knowledge base with .* which now has"):
        small_runs.train(path, **{**settings, "knowledge": sequence_runs.knowledge()})
    with pytest.raises(ConfigError, match=r"knowledge was \['.*'\] and is now \['.*', '.*'\]"):
        small_runs.train(path, **{**settings, "knowledge": [small_runs.knowledge(), sequence_runs.knowledge()]})
    copy = shutil.copytree(small_runs.knowledge(), tmp_path / "copy")
    assert small_runs.train(path, **{**settings, "knowledge": copy}).record == small_runs.disco().record
