"""A disk that fills up wherever something is written: our error, nothing partial, and on with it when there is room."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from braidrec.errors import BraidError, RunError, WriteError
from braidrec.files import mapped, new_directory, save_tensors, write_atomic, write_json
from braidrec.training.checkpoint import Archive, write_archive

FULL = Path("/dev/full")
NAMESPACE = ["unshare", "-rm"]


def own_mounts() -> bool:
    """Whether this user may mount a disk of their own to fill (Linux, with user namespaces)."""
    try:
        words = [*NAMESPACE, "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/mnt"]
        return subprocess.run(words, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not own_mounts(), reason="needs unshare and mount")
def test_every_writer_on_a_disk_that_fills_up(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "disk").mkdir()
    worker = Path(__file__).with_name("full_disk_worker.py")
    words = [*NAMESPACE, sys.executable, str(worker), str(tmp_path / "room"), str(tmp_path / "disk")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["differ"] == []
    assert all(found["refusals"].values()), found


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_what_the_libraries_raise_on_a_full_disk_is_one_error(tmp_path: Path) -> None:
    path, frame = tmp_path / "file", pl.DataFrame({"a": np.arange(100_000)})

    def full(temporary: Path) -> None:
        temporary.unlink()
        temporary.symlink_to(FULL)

    def parquet(temporary: Path) -> None:
        full(temporary)
        frame.write_parquet(temporary)

    def array(temporary: Path) -> None:
        full(temporary)
        with temporary.open("wb") as stream:
            np.save(stream, np.arange(100_000))

    for write in (parquet, array):
        path.write_text("before")
        with pytest.raises(WriteError, match=rf"{path}: could not be written .*make room or mend the disk"):
            write_atomic(path, write)
        assert path.read_text() == "before"
        assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS])
def test_every_end_of_a_disk_is_named(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", broken)
    for write in (lambda: write_json(tmp_path / "a", 1), lambda: save_tensors(tmp_path / "b", {"x": torch.zeros(2)})):
        with pytest.raises(WriteError, match=os.strerror(number)):
            write()
    with pytest.raises(RunError, match=f"could not be written .*{os.strerror(number)}.*resume"):
        write_archive(tmp_path / "c", Archive({"model": {"x": torch.zeros(2)}}, {}))
    with pytest.raises(WriteError), new_directory(tmp_path / "d") as folder:
        write_json(folder / "a", 1)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    for cause in (PermissionError(errno.EACCES, "no"), ValueError("x"), RunError("(os error 28)"), FileNotFoundError(2, "x")):

        def write(temporary: Path, cause: Exception = cause) -> None:
            raise cause

        with pytest.raises(type(cause)) as caught:
            write_atomic(tmp_path / "a", write)
        assert not isinstance(caught.value, WriteError)


def test_a_map_is_written_only_where_its_room_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for plainly in (False, True):
        if plainly:
            monkeypatch.delattr(os, "posix_fallocate", raising=False)
        for shape in ((3, 2), (0, 4), (70_000, 9)):
            file = tmp_path / f"{plainly}{len(shape)}{shape[0]}.npy"
            found = mapped(file, shape, "float32")
            assert found.shape == shape
            found[...] = np.arange(found.size, dtype=np.float32).reshape(shape)
            found.flush()
            assert file.stat().st_blocks * 512 >= found.nbytes
            assert np.load(file).tobytes() == np.arange(found.size, dtype=np.float32).tobytes()


def test_a_file_larger_than_this_process_may_write_is_refused(tmp_path: Path) -> None:
    code = (
        "import resource, sys, pathlib; from braidrec.files import mapped, write_atomic\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
        "try: write_atomic(pathlib.Path(sys.argv[1]), lambda path: mapped(path, (1 << 16,), 'float32'))\n"
        "except OSError as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"WriteError {tmp_path / 'a'}: could not be written")
    assert isinstance(WriteError("x"), BraidError)
