"""Processes that die, wait for each other, or meet a disk that refuses."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sync_worker import HashEncoder, catalogue

from braidrec.errors import KnowledgeError
from braidrec.knowledge import lance
from braidrec.knowledge.base import KnowledgeBase

WORKER = Path(__file__).with_name("sync_worker.py")
Rows = list[tuple[str, str, bytes]]


def start(
    path: Path, items: int, batch_rows: int, encoder: str, pause: float, log: Path, gate: str = "", **options: Any
) -> subprocess.Popen[str]:
    command = [sys.executable, str(WORKER), str(path), str(items), str(batch_rows), encoder, str(pause), str(log), gate]
    return subprocess.Popen(command, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options})


def finish(process: subprocess.Popen[str]) -> tuple[list[str], str]:
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out.split()[-2:], err


def rows(path: Path) -> Rows:
    """(id, text hash, vector bytes), by id, straight from the table of record."""
    table = lance.table_of(KnowledgeBase.open(path).folder)
    assert table is not None
    content = table.to_arrow().sort_by("id")
    vectors = content.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(content), -1)
    return list(
        zip(
            content.column("id").to_pylist(),
            content.column("text_hash").to_pylist(),
            [vector.tobytes() for vector in vectors],
            strict=True,
        )
    )


def kill_often(path: Path, kills: int, items: int, batch_rows: int, encoder: str, pause: float, longest: float) -> None:
    """Kill a sync at random moments, let the last one end, and compare with a build that nobody disturbed.

    None ends before it is killed, however late that comes, so it does not matter how fast this machine is.
    """
    rng = random.Random(kills)
    log = path / "encoded.log"
    for _ in range(kills):
        process = start(path / "killed", items, batch_rows, encoder, pause, log, "never")
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, longest))
        process.kill()
        _, err = process.communicate()
        assert process.returncode == -signal.SIGKILL, err
    finish(start(path / "killed", items, batch_rows, encoder, pause, log))
    finish(start(path / "whole", items, batch_rows, encoder, 0.0, path / "other.log"))
    assert rows(path / "killed") == rows(path / "whole")
    assert KnowledgeBase.open(path / "killed").verify().items == items
    if encoder == "hash":  # at most the batch in flight is lost at each kill
        assert sum(map(int, log.read_text().split())) <= items + kills * batch_rows


def test_killed_syncs_end_as_an_unbroken_one(tmp_path: Path) -> None:
    kill_often(tmp_path, kills=6, items=600, batch_rows=20, encoder="hash", pause=0.02, longest=0.4)


def test_killed_syncs_of_a_fitted_encoder_end_as_an_unbroken_one(tmp_path: Path) -> None:
    kill_often(tmp_path, kills=2, items=2000, batch_rows=50, encoder="tfidf", pause=0.0, longest=1.0)


@pytest.mark.slow
def test_fifty_kills_of_ten_thousand_items(tmp_path: Path) -> None:
    kill_often(tmp_path, kills=50, items=10_000, batch_rows=128, encoder="hash", pause=0.04, longest=0.25)


def test_six_processes_encode_every_id_once(tmp_path: Path) -> None:
    """Whoever comes first encodes nothing before the five others have said that they wait."""
    log, gate = tmp_path / "encoded.log", tmp_path / "gate"
    said = [tmp_path / f"said-{turn}" for turn in range(6)]
    processes = []
    for file in said:
        with file.open("w") as stream:
            processes.append(start(tmp_path / "kb", 2000, 500, "hash", 0.0, log, str(gate), stderr=stream))
    waiting = "is writing this table; waiting for it to finish"
    while sum(waiting in file.read_text() for file in said) < 5 and all(process.poll() is None for process in processes):
        time.sleep(0.02)
    gate.touch()
    ends = [finish(process) for process in processes]
    assert sum(int(encoded) for (encoded, _), _ in ends) == 2000
    assert sum(map(int, log.read_text().split())) == 2000
    assert sorted(unchanged for (_, unchanged), _ in ends) == ["0", *["2000"] * 5]
    messages = "".join(file.read_text() for file in said)
    assert messages.count(waiting) == 5
    assert messages.count("nothing left to do, the other process encoded it all") == 5
    found = rows(tmp_path / "kb")
    assert len({id for id, _, _ in found}) == len(found) == 2000
    ids, texts = catalogue(2000)
    expected = HashEncoder().encode(texts).astype(np.float16)
    np.testing.assert_array_equal(KnowledgeBase.open(tmp_path / "kb").matrix(ids), expected)


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))


def test_a_full_disk_is_named_and_the_sync_goes_on_after(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: writes fail with an OSError half-way."""
    process = start(tmp_path / "kb", 2000, 1000, "hash", 0.0, tmp_path / "log", preexec_fn=_small_files)
    _, err = process.communicate()
    assert process.returncode != 0
    assert "KnowledgeError" in err
    assert "committing 1,000 rows failed" in err
    assert KnowledgeBase.open(tmp_path / "kb").ids() == []
    (encoded, _), _ = finish(start(tmp_path / "kb", 2000, 1000, "hash", 0.0, tmp_path / "log"))
    assert encoded == "2000"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(KnowledgeError, match=r"preparing the table failed .*Check free space and write permission"):
        KnowledgeBase.open(tmp_path / "file", HashEncoder()).sync(["a"], ["b"])


READ_ONLY = """
import os, sys
from sync_worker import HashEncoder, catalogue
from braidrec.errors import KnowledgeError
from braidrec.knowledge import lance
from braidrec.knowledge.base import KnowledgeBase

kb = KnowledgeBase.open(sys.argv[1], HashEncoder())
kb.sync(*catalogue(20), show_progress=False)
kb.matrix(["id-1"])  # whatever is imported late is imported by now
kb.sync(["late"], ["A commit that the derived matrix lags behind."], show_progress=False)
for folder, _, files in os.walk(sys.argv[1]):
    os.chmod(folder, 0o555)
    for file in files:
        os.chmod(os.path.join(folder, file), 0o444)
if os.geteuid() == 0:  # root may write anywhere
    os.setuid(65534)
reader = KnowledgeBase.open(sys.argv[1], HashEncoder())
print(reader.matrix(["id-1", "late"]).shape, reader.verify().items)
try:
    reader.sync(*catalogue(30), show_progress=False)
except KnowledgeError as error:
    print(error)
"""


def test_a_read_only_folder_is_read_and_not_written() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(folder)], capture_output=True, text=True, check=False, cwd=WORKER.parent
        )
        assert done.stdout.startswith("(2, 16) 21\n"), done.stdout + done.stderr
        assert "taking the writer's lock failed (PermissionError" in done.stdout
    finally:
        for path, _, _ in os.walk(folder):
            os.chmod(path, 0o755)
        shutil.rmtree(folder)
