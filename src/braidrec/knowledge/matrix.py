"""A derived, memory-mapped copy of the vectors of one kind at one version, for readers that want rows at the speed of memory.

<folder>/vectors.npy   [rows, width]
<folder>/ids.arrow     one column, row i names vectors[i]
<folder>/matrix.json   version, what it was made from, and the sha256 of both files, checked whenever it is opened
"""

from __future__ import annotations

import logging
import mmap
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidrec.errors import BraidError, KnowledgeError
from braidrec.files import mapped, new_directory, read_json, sha256, write_json

_FILES = ("vectors.npy", "ids.arrow")
_BLOCK = 16384  # rows at a time where float32 copies are made
_log = logging.getLogger(__name__)

Floats = NDArray[np.float16] | NDArray[np.float32]
Rows = Callable[[], Iterator[tuple[list[str], Floats]]]


@dataclass(frozen=True)
class Matrix:
    """vectors: [rows, width], row i belongs to ids[i]."""

    version: int
    ids: list[str]
    vectors: Floats

    @classmethod
    def load(cls, folder: Path, source: str) -> Matrix | None:
        """The matrix in ``folder``, None when it is not of ``source``, or a file is missing or damaged."""
        import pyarrow as pa

        try:
            manifest = read_json(folder / "matrix.json", KnowledgeError)
            if manifest["source"] != source or any(sha256(folder / name) != manifest["sha256"][name] for name in _FILES):
                return None
            vectors = np.load(folder / "vectors.npy", mmap_mode="r")
            with pa.OSFile(str(folder / "ids.arrow")) as source:
                ids = pa.ipc.open_file(source).read_all().column("id").to_pylist()
            return cls(int(manifest["version"]), ids, vectors)
        except (OSError, ValueError, KeyError, TypeError, BraidError):
            return None

    @classmethod
    def build(cls, folder: Path, rows: Rows, *, count: int, width: int, dtype: str, version: int, source: str) -> Matrix:
        """Write the matrix of ``rows()`` (at least one row; ids and vectors, part by part) and open it.

        Older versions are removed.  In a folder that cannot be written the matrix is held in memory instead.
        """
        try:
            with new_directory(folder) as temporary:
                _write(temporary, rows, (count, width), dtype, version, source)
        except OSError as cause:
            if not folder.is_dir():  # else another process was faster
                _log.info("%s cannot be written (%s); the matrix is held in memory", folder, cause)
                return cls._in_memory(rows, (count, width), dtype, version)
        except BraidError:
            if not folder.is_dir():
                raise
        kind = folder.name.rpartition("-")[0]
        for other in folder.parent.glob(f"{kind}-*"):
            number = other.name.rpartition("-")[2]
            if number.isdecimal() and int(number) < version:
                shutil.rmtree(other, ignore_errors=True)
        return cls.load(folder, source) or cls._in_memory(rows, (count, width), dtype, version)

    @classmethod
    def _in_memory(cls, rows: Rows, shape: tuple[int, int], dtype: str, version: int) -> Matrix:
        vectors = np.empty(shape, dtype)
        return cls(version, _fill(vectors, rows), vectors)

    @cached_property
    def index(self) -> dict[str, int]:
        """Row of each id."""
        return {id: row for row, id in enumerate(self.ids)}

    def let_go(self) -> None:
        """Take the pages that were read out of this process's memory; who reads them again finds them in the system's."""
        if sys.platform != "win32" and isinstance(pages := self.vectors.base, mmap.mmap):
            pages.madvise(mmap.MADV_DONTNEED)

    @cached_property
    def mean(self) -> NDArray[np.float32]:
        """(width,) over all rows."""
        total = np.zeros(self.vectors.shape[1], np.float64)
        for _, block in self._blocks():
            total += block.sum(axis=0, dtype=np.float64)
            self.let_go()
        return (total / max(len(self.vectors), 1)).astype(np.float32)

    @cached_property
    def _norms(self) -> NDArray[np.float32]:
        return np.concatenate([np.empty(0, np.float32), *(np.linalg.norm(block, axis=1) for _, block in self._blocks())])

    def nearest(self, query: NDArray[np.float32], k: int, *, leave_out: str | None) -> list[tuple[str, float]]:
        """The k rows of the highest cosine to ``query`` (width,), best first, ties by id; a zero vector has cosine 0."""
        scores = np.empty(len(self.vectors), np.float32)
        for start, block in self._blocks():
            scores[start : start + len(block)] = block @ query
        scores /= np.maximum(self._norms * np.linalg.norm(query), np.finfo(np.float32).tiny)
        if leave_out is not None:
            scores[self.index[leave_out]] = -np.inf
        k = min(k, len(scores) - (leave_out is not None))
        if k < 1:
            return []
        least = np.partition(scores, -k)[-k]
        near = sorted(((self.ids[row], float(scores[row])) for row in np.flatnonzero(scores >= least)), key=_best_first)
        return near[:k]

    def _blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        for start in range(0, len(self.vectors), _BLOCK):
            yield start, np.asarray(self.vectors[start : start + _BLOCK], np.float32)


def _best_first(pair: tuple[str, float]) -> tuple[float, str]:
    return -pair[1], pair[0]


def _write(folder: Path, rows: Rows, shape: tuple[int, int], dtype: str, version: int, source: str) -> None:
    import pyarrow as pa

    vectors = mapped(folder / "vectors.npy", shape, dtype)
    ids = _fill(vectors, rows)
    vectors.flush()
    del vectors
    table = pa.table({"id": pa.array(ids, pa.string())})
    with pa.OSFile(str(folder / "ids.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    digests = {name: sha256(folder / name) for name in _FILES}
    write_json(folder / "matrix.json", {"version": version, "source": source, "sha256": digests})


def _fill(target: Any, rows: Rows) -> list[str]:
    ids: list[str] = []
    for part, vectors in rows():
        if len(ids) + len(part) <= len(target):
            target[len(ids) : len(ids) + len(part)] = vectors
        ids.extend(part)
    if len(ids) != len(target):
        raise KnowledgeError(f"{len(ids):,} rows were read of {len(target):,}; the table changed meanwhile, try again")
    return ids
