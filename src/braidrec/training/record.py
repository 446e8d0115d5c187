"""What a run notes while it trains: means of its losses, lines of metrics, and numbers that are none."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from braidrec.errors import RunError
from braidrec.files import sha256, writing


class MetricsLog:
    """metrics.jsonl, every line flushed to disk; a resumed run cuts it back to its checkpoint first."""

    def __init__(self, path: Path):
        self._path = path
        self._stream: io.BufferedWriter

    def __enter__(self) -> MetricsLog:
        self._stream = self._path.open("ab")
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):  # what could not be written was said, and closing tries it once more
            self._stream.close()

    @property
    def size(self) -> int:
        return os.fstat(self._stream.fileno()).st_size

    @property
    def digest(self) -> str:
        return sha256(self._path)

    def append(self, line: Mapping[str, Any]) -> None:
        with writing(self._path):
            self._stream.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def cut(self, size: int, digest: str | None = None) -> None:
        """digest: of what is left, where that is known.  Raises RunError for a file that is shorter, or another one."""
        if self.size < size:
            raise RunError(
                f"{self._path}: {self.size} bytes, but the checkpoint was written after {size}; the file was changed: "
                "put it back, or train into a new directory"
            )
        if digest is not None and sha256(self._path, size) != digest:
            raise RunError(
                f"{self._path}: its first {size} bytes are not those after which the checkpoint was written; the file was "
                "changed: put it back, or train into a new directory"
            )
        self._stream.truncate(size)


class Meter:
    """Means of named scalars since the last check, summed on their device in float64."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], tuple[Tensor, int]] = {}

    def add(self, names: tuple[str, ...], values: Tensor) -> None:
        if names in self._sums:
            total, count = self._sums[names]
            self._sums[names] = (total + values, count + 1)
        else:
            self._sums[names] = (values.double(), 1)

    def means(self) -> dict[str, float]:
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for names, (total, count) in self._sums.items():
            for name, value in zip(names, total.tolist(), strict=True):
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + count
        return {name: sums[name] / counts[name] for name in sums}

    def clear(self) -> None:
        self._sums.clear()

    def state(self) -> tuple[dict[str, Tensor], list[Any]]:
        tensors = {str(at): total for at, (total, _) in enumerate(self._sums.values())}
        return tensors, [[list(names), count] for names, (_, count) in self._sums.items()]

    def restore(self, tensors: Mapping[str, Tensor], facts: Sequence[Any], device: torch.device) -> None:
        self._sums = {tuple(names): (tensors[str(at)].to(device), count) for at, (names, count) in enumerate(facts)}


class Guard:
    """Looks at every step's losses for numbers that are none.  On a GPU a step late, so that nothing waits for it."""

    def __init__(self) -> None:
        self._pending: tuple[Tensor, torch.cuda.Event, Callable[[list[float]], None]] | None = None

    def watch(self, values: Tensor, report: Callable[[list[float]], None]) -> None:
        """values (n,); ``report`` gets them as floats when they are not all finite, and raises."""
        if not values.is_cuda:
            self._look(values, report)
            return
        self.flush()
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending = (host, event, report)

    def flush(self) -> None:
        if self._pending is not None:
            host, event, report = self._pending
            self._pending = None
            event.synchronize()
            self._look(host, report)

    @staticmethod
    def _look(values: Tensor, report: Callable[[list[float]], None]) -> None:
        if not math.isfinite(values.sum().item()):
            floats = values.tolist()
            if not all(map(math.isfinite, floats)):
                report(floats)
