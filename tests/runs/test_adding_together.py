"""Several handles and processes that add items to one run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch

from braidrec.errors import DataError, RunError
from braidrec.files import read_json, write_json
from braidrec.locks import writer_lock
from braidrec.runs import added
from braidrec.runs.added import load_added
from braidrec.runs.directory import digest_of_json
from braidrec.runs.run import Run, load
from small_runs import copy_of, disco

WORKER = Path(__file__).with_name("adding_worker.py")
ROUNDS = 200
LONGEST = 0.02  # seconds by which one of two processes is held back: about as long as adding takes


def worker(path: Path) -> subprocess.Popen[str]:
    """A process that has loaded the run."""
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"},
    )


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_two_processes_that_add_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    """In lock-step, one held back by a little more in each round, so that all ways in which two additions overlap occur."""
    path = copy_of(disco(), tmp_path / "run").path
    before = load(path).num_items
    processes = [worker(path), worker(path)]
    assert [answer(each) for each in processes] == ["ready", "ready"]
    for turn in range(ROUNDS):
        delays = [LONGEST * (turn // 2) / (ROUNDS // 2), 0.0]
        for at, process in enumerate(processes):
            tell(process, f"item-{at}-{turn} {delays[at - turn % 2]}")
        if turn % 10 == 9:
            load_added(path)  # whoever reads meanwhile sees something whole
        answers = [answer(each).split() for each in processes]
        assert [count for count, _ in answers] == ["1", "1"]
        assert max(int(items) for _, items in answers) == before + 2 * (turn + 1)
    for process in processes:
        process.communicate()
    run = load(path)
    wanted = {f"item-{at}-{turn}" for at in range(2) for turn in range(ROUNDS)}
    lost = wanted - set(run.catalogue.added_ids)
    assert not lost
    assert len(run.catalogue.added_ids) == 2 * ROUNDS
    assert all(
        title == f"a tale of {item}" for item, title in zip(run.catalogue.added_ids, run.catalogue.added_titles, strict=True)
    )
    assert len(list((path / "added").iterdir())) == 2
    assert not (path / "writer.lock").exists()


def tensors(run: Run) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.model.module.state_dict().items()}


def test_what_others_added_comes_first_and_means_the_same_everywhere(tmp_path: Path) -> None:
    first = copy_of(disco(), tmp_path / "run")
    second, third = load(first.path), load(first.path)
    assert first.add_items({"a": "whales", "b": "camels"}) == 2
    assert second.add_items({"c": "gulls"}) == 1
    assert second.catalogue.added_ids == ("a", "b", "c")
    assert first.add_items({"d": "crows"}) == 1
    assert third.add_items({"c": "gulls", "e": "larks"}) == 1, "what another one has added just so is taken from there"
    again = load(first.path)
    assert again.catalogue.added_ids == third.catalogue.added_ids == ("a", "b", "c", "d", "e")
    assert again.catalogue.added_titles == ("whales", "camels", "gulls", "crows", "larks")
    assert again.recommend(items=["c"], k=10**6) == third.recommend(items=["c"], k=10**6)
    left, right = tensors(again), tensors(third)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_one_id_with_two_texts_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    first = copy_of(disco(), tmp_path / "run")
    second = load(first.path)
    genre = first.dataset.items["genre"][0]
    first.add_items({"a": "whales"})
    first.add_items(pl.DataFrame({"item_id": ["f"], "title": ["a fog"], "genre": [genre]}))
    held = (first.path / "added" / "items.json").read_bytes()
    with pytest.raises(DataError, match=r"item 'a' was added before.*\(titled 'whales'\).*nothing was added"):
        second.add_items({"new": "larks", "a": "camels"})
    with pytest.raises(DataError, match="item 'f' was added before, with another text or other values"):
        second.add_items(pl.DataFrame({"item_id": ["f"], "title": ["a fog"], "genre": ["no such"]}))
    assert (first.path / "added" / "items.json").read_bytes() == held
    assert second.num_items == second.dataset.num_items
    assert second.add_items(pl.DataFrame({"item_id": ["f"], "title": ["a fog"], "genre": [genre]})) == 0
    assert second.catalogue.added_ids == ("a", "f")
    assert second.add_items({"a": "whales"}) == 0
    assert second.catalogue.added_ids == ("a", "f")


def test_items_of_an_earlier_version_are_told_apart_by_their_titles(tmp_path: Path) -> None:
    first = copy_of(disco(), tmp_path / "run")
    second = load(first.path)
    first.add_items({"a": "whales", "b": "camels"})
    note = first.path / "added" / "items.json"
    about = read_json(note, RunError)
    del about["digest"]
    about["items"] = [{name: each[name] for name in ("id", "title")} for each in about["items"]]
    write_json(note, about | {"digest": digest_of_json(about)})
    with pytest.raises(DataError, match="item 'b' was added before"):
        second.add_items({"b": "gulls"})
    assert second.add_items({"b": "camels", "c": "gulls"}) == 1
    assert load(first.path).catalogue.added_ids == ("a", "b", "c")


def test_a_run_whose_added_items_were_taken_away_must_be_loaded_again(tmp_path: Path) -> None:
    run = copy_of(disco(), tmp_path / "run")
    run.add_items({"a": "whales"})
    (run.path / "added" / "items.json").unlink()
    with pytest.raises(RunError, match="no longer those that this run was loaded with; load it again first"):
        run.add_items({"b": "camels"})


def test_who_waited_long_enough_is_told_who_is_writing(tmp_path: Path) -> None:
    run = copy_of(disco(), tmp_path / "run")
    said = rf"process {os.getpid()} is writing to this run, and was not done after 0.05 s; nothing was added"
    with writer_lock(run.path / "writer.lock"), pytest.raises(RunError, match=said):
        run.add_items({"a": "whales"}, wait=0.05)
    assert not (run.path / "added").exists()
    assert run.add_items({"a": "whales"}) == 1


DYING = """
import os, signal, sys
from braidrec.runs import added
from braidrec.runs.run import load
added.write_json = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
load(sys.argv[1]).add_items({"b": "camels"})
"""


def test_a_process_that_died_while_adding_is_no_obstacle(tmp_path: Path) -> None:
    """It dies between the tensors and the note that names them, with the lock in its hand."""
    run = copy_of(disco(), tmp_path / "run")
    run.add_items({"a": "whales"})
    process = subprocess.Popen([sys.executable, "-c", DYING, str(run.path)])
    assert process.wait(120) == -signal.SIGKILL
    assert (run.path / "writer.lock").read_text().strip() == str(process.pid)
    assert load(run.path).catalogue.added_ids == ("a",)
    assert run.add_items({"c": "gulls"}) == 1
    assert load(run.path).catalogue.added_ids == ("a", "c")
    assert len(list((run.path / "added").iterdir())) == 2


def test_whoever_reads_while_items_come_reads_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensors that the note names are gone by the time they are opened: another process has put more in their place."""
    run = copy_of(disco(), tmp_path / "run")
    run.add_items({"a": "whales"})
    own = added.load_tensors

    def late(*arguments: object) -> object:
        monkeypatch.setattr(added, "load_tensors", own)
        run.add_items({"b": "camels"})
        return own(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(added, "load_tensors", late)
    assert load(run.path).catalogue.added_ids == ("a", "b")
