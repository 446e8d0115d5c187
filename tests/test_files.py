"""Artefacts on disk: a killed or failed write leaves the old one, a changed byte is noticed."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from braidrec.errors import BraidError, DataError, RunError
from braidrec.files import (
    check_digest,
    load_tensors,
    new_directory,
    read_json,
    save_tensors,
    sha256,
    write_atomic,
    write_json,
    write_text,
)


class _Stop(Exception):
    pass


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def die_in(code: str, *arguments: str) -> None:
    """Run ``code`` in a process of its own; it must end by killing itself."""
    head = "import os, signal, sys\nfrom pathlib import Path\nfrom braidrec.files import *\n"
    ended = subprocess.run([sys.executable, "-c", head + code, *arguments], check=False, timeout=120)
    assert ended.returncode == -signal.SIGKILL


# write_atomic ---------------------------------------------------------------------------------------------------------


def test_write_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    write_text(path, "one\n")
    write_text(path, "zwei äöü\n")
    assert path.read_bytes() == "zwei äöü\n".encode()
    assert names(path.parent) == ["file.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("existed", [True, False])
def test_a_failed_write_leaves_what_was_there(tmp_path: Path, existed: bool) -> None:
    path = tmp_path / "file.txt"
    if existed:
        write_text(path, "old")

    def half(temporary: Path) -> None:
        temporary.write_text("ne")
        raise _Stop

    with pytest.raises(_Stop):
        write_atomic(path, half)
    assert names(tmp_path) == (["file.txt"] if existed else [])
    if existed:
        assert path.read_text() == "old"


def test_a_killed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    code = """
def half(temporary):
    temporary.write_text("ne")
    os.kill(os.getpid(), signal.SIGKILL)
write_atomic(Path(sys.argv[1]), half)
"""
    die_in(code, str(path))
    assert path.read_text() == "old"
    write_text(path, "new")  # what the dead process left does not stand in the way
    assert path.read_text() == "new"


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def slowly(temporary: Path) -> None:
        assert temporary.parent == path.parent
        for part in ("n", "ne", "new"):
            temporary.write_text(part)
            assert path.read_text() == "old"

    write_atomic(path, slowly)
    assert path.read_text() == "new"


# JSON -----------------------------------------------------------------------------------------------------------------


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, True], "a": "Amélie", "nested": {"x": []}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json", DataError) == value
    assert "Amélie" in (tmp_path / "x.json").read_text(encoding="utf-8")


def test_json_takes_no_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", float("nan"))
    assert read_json(tmp_path / "x.json", DataError) == 1


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe{}"])
def test_damaged_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"x\.json: not valid JSON .*damaged, make it again"):
        read_json(path, RunError)


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: the file does not exist"):
        read_json(tmp_path / "none.json", DataError)


# Digests and tensors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_sha256_over_block_borders(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "f").write_bytes(content)
    assert sha256(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_digest_of_a_changed_or_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_text(path, "abc")
    digest = sha256(path)
    check_digest(path, digest, RunError)
    path.write_text("abd")
    with pytest.raises(RunError, match=rf"expected {digest[:12]}.*damaged or was replaced"):
        check_digest(path, digest, RunError)
    path.unlink()
    with pytest.raises(RunError, match="the file is missing"):
        check_digest(path, digest, RunError)


def test_tensors_round_trip(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(3, 2).half(),
        "transposed": torch.arange(6).view(2, 3).T,
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 4),
        "flag": torch.tensor([True, False]),
        "weight": torch.nn.Parameter(torch.ones(2)),
    }
    digest = save_tensors(tmp_path / "t.safetensors", tensors)
    assert digest == sha256(tmp_path / "t.safetensors")
    loaded = load_tensors(tmp_path / "t.safetensors", digest, RunError)
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert not loaded["weight"].requires_grad


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    digest = save_tensors(path, {"x": torch.zeros(100)})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="sha256"):
        load_tensors(path, digest, RunError)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(b"not tensors at all")
    with pytest.raises(RunError, match="not a safetensors file"):
        load_tensors(path, sha256(path), RunError)


# new_directory --------------------------------------------------------------------------------------------------------


def test_directory_appears_when_the_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "run"
    with new_directory(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert names(target) == ["a"]
    assert names(target.parent) == ["run"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o755


@pytest.mark.parametrize("overwrite", [True, False])
def test_directory_leaves_nothing_when_the_block_fails(tmp_path: Path, overwrite: bool) -> None:
    target = tmp_path / "run"
    if overwrite:
        with new_directory(target) as folder:
            (folder / "a").write_text("1")
    with pytest.raises(FileNotFoundError), new_directory(target, overwrite=overwrite) as folder:
        shutil.copy(write(folder / "a", "2"), folder / "no such folder" / "a")
    assert names(tmp_path) == (["run"] if overwrite else [])
    if overwrite:
        assert (target / "a").read_text() == "1"


def test_directory_replaces_only_when_told(tmp_path: Path) -> None:
    target = tmp_path / "run"
    for content in ("1", "2"):
        with new_directory(target, overwrite=True) as folder:
            (folder / content).write_text(content)
    assert names(target) == ["2"]
    assert names(tmp_path) == ["run"]
    with pytest.raises(BraidError, match=r"run already exists; choose another path or pass overwrite"), new_directory(target):
        pass
    assert names(target) == ["2"]


def test_a_file_in_the_place_of_the_directory_survives_a_failure(tmp_path: Path) -> None:
    target = tmp_path / "run"
    target.write_text("a file")
    with pytest.raises(BraidError, match="already exists"), new_directory(target):
        pass
    with pytest.raises(BraidError, match="is a file"), new_directory(target, overwrite=True):
        pass
    assert target.read_text() == "a file"
    assert names(tmp_path) == ["run"]


def test_a_killed_build_leaves_the_old_directory(tmp_path: Path) -> None:
    target = tmp_path / "run"
    with new_directory(target) as folder:
        (folder / "a").write_text("1")
    code = """
with new_directory(Path(sys.argv[1]), overwrite=True) as folder:
    (folder / "a").write_text("2")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    die_in(code, str(target))
    assert (target / "a").read_text() == "1"


def test_the_old_directory_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "run"
    with new_directory(target) as folder:
        (folder / "a").write_text("1")
    replace = os.replace

    def refuse(source: Path, destination: Path) -> None:
        if destination == target and ".old." not in str(source):
            raise PermissionError("no")
        replace(source, destination)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError), new_directory(target, overwrite=True) as folder:
        (folder / "a").write_text("2")
    assert (target / "a").read_text() == "1"
    assert names(tmp_path) == ["run"]
