"""Every artefact is written atomically and read back with its hash: a killed process leaves the old file or the new one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braidrec.errors import BraidError, WriteError

if TYPE_CHECKING:
    import numpy as np
    import torch

# what reading raises that takes a file at its word
_MISREAD = (
    *(LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError, StopIteration, AssertionError),
    MemoryError,  # of a size that a damaged file names
)
# errors of a disk that is full (also by a quota or a limit of this process), broken, or no longer written
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


def sha256(path: Path, size: int | None = None) -> str:
    """Hex digest of a file's bytes, or of its first ``size``, read in blocks of 1 MiB."""
    digest, left = hashlib.sha256(), math.inf if size is None else size
    with path.open("rb") as stream:
        while block := stream.read(int(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise WriteError, naming ``path``, for whatever the system and the libraries raise when a disk takes no more."""
    try:
        yield
    except BraidError:
        raise
    except Exception as cause:
        if not _of_the_disk(cause):
            raise
        raise WriteError(
            f"{path}: could not be written ({cause}); nothing of it was kept, and what stood there is as it was: make room or "
            "mend the disk, then run the same command again"
        ) from cause


@contextlib.contextmanager
def understanding(path: Path, error: type[BraidError]) -> Iterator[None]:
    """Raise ``error``, naming ``path``, where what is there is whole but lacks a key, a tensor or a shape."""
    try:
        yield
    except BraidError:
        raise
    except BaseException as cause:
        if not isinstance(cause, _MISREAD) and type(cause).__module__.partition(".")[0] not in ("polars", "pyo3_runtime"):
            raise
        first = (str(cause).strip().splitlines() or ["no reason given"])[0]
        raise error(
            f"{path}: not what this version writes ({type(cause).__name__}: {first}); it was changed or made by another one: "
            "bring it back from a copy, or make it again"
        ) from cause


def _of_the_disk(cause: Exception) -> bool:
    if isinstance(cause, OSError):  # NumPy gives that of a short write no number, and shutil that of a tree
        return cause.errno in _DISK or isinstance(cause, shutil.Error) or " requested and " in str(cause)
    return any(f"(os error {number})" in str(cause) for number in _DISK)  # of Rust: Polars, safetensors


def mapped(path: Path, shape: tuple[int, ...], dtype: str) -> np.memmap[Any, Any]:
    """A new .npy file of that shape to write through a map.

    Its room is taken first: a map writes without asking, and where the disk is full by then the system ends the process.
    """
    import numpy as np

    with path.open("wb") as stream:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.flush()
        left = math.prod(shape) * np.dtype(dtype).itemsize
        if hasattr(os, "posix_fallocate"):
            if left:
                os.posix_fallocate(stream.fileno(), stream.tell(), left)
        else:
            zeros = bytes(1 << 20)
            for start in range(0, left, len(zeros)):
                stream.write(zeros[: left - start])
    found: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="r+")
    return found


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary sibling, flush it to disk, then put it in the place of ``path`` in one step.

    Raises WriteError when the disk does not take it.
    """
    with writing(path):
        _write_atomic(path, write)


def _write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)


def write_hashed(path: Path, write: Callable[[Path], None]) -> str:
    """`write_atomic`; returns the sha256 of what was written, whoever else writes ``path`` meanwhile."""
    digest = ""

    def both(temporary: Path) -> None:
        nonlocal digest
        write(temporary)
        digest = sha256(temporary)

    write_atomic(path, both)
    return digest


def write_text(path: Path, text: str) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomic(path, write)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, error: type[BraidError]) -> Any:
    """Parse a JSON file; ``error`` is raised, naming the file and the place, when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path}: the file does not exist") from None
    except (ValueError, RecursionError) as cause:
        raise error(f"{path}: not valid JSON ({cause}); the file is damaged, make it again") from None


@contextlib.contextmanager
def new_directory(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary sibling directory that takes the place of ``path`` when the block ends well, and vanishes when it does not.

    Raises BraidError when ``path`` exists and ``overwrite`` is off, or is a file; WriteError when the disk does not take it.
    """
    with writing(path), _new_directory(path, overwrite=overwrite) as temporary:
        yield temporary


@contextlib.contextmanager
def _new_directory(path: Path, *, overwrite: bool) -> Iterator[Path]:
    if path.exists() and not overwrite:
        raise BraidError(f"{path} already exists; choose another path or pass overwrite")
    if path.exists() and not path.is_dir():
        raise BraidError(f"{path} is a file where a directory should go; choose another path")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    temporary.chmod(0o755)
    try:
        yield temporary
        if path.exists():
            discarded = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
            os.replace(path, discarded)
            try:
                os.replace(temporary, path)
            except OSError:
                os.replace(discarded, path)
                raise
            shutil.rmtree(discarded)
        else:
            os.replace(temporary, path)
        _sync_directory(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    """Write a safetensors file atomically; the digest of what was written is returned for the manifest that names it."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return write_hashed(path, lambda temporary: save_file(plain, str(temporary)))


def load_tensors(path: Path, digest: str, error: type[BraidError]) -> dict[str, torch.Tensor]:
    """Read a safetensors file whose bytes must have the given digest."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_digest(path, digest, error)
    try:
        tensors: dict[str, torch.Tensor] = load_file(str(path))
        return tensors
    except SafetensorError as cause:
        raise error(f"{path}: not a safetensors file ({cause})") from None


def check_digest(path: Path, digest: str, error: type[BraidError]) -> None:
    if not path.is_file():
        raise error(f"{path}: the file is missing")
    found = sha256(path)
    if found != digest:
        raise error(f"{path}: its sha256 is {found[:12]}..., expected {digest[:12]}...; the file is damaged or was replaced")


def _sync_directory(path: Path) -> None:
    if os.name == "nt":  # Windows opens no folders, and keeps renames in its journal
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
