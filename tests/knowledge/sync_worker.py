"""A cheap deterministic encoder, and a process that syncs with it until it ends or is killed.

python sync_worker.py <knowledge folder> <items> <batch rows> <encoder> <seconds per call> <log of encoded texts> [<file>]

A file that is named: nothing is encoded before it is there; "never": the process does not end by itself.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from braidrec.knowledge.base import KnowledgeBase
from braidrec.knowledge.encoders.base import TextEncoder


class HashEncoder:
    """Vectors from the sha256 of a text; remembers, and if asked writes down, how many texts it was given."""

    name, pooling = "hash", "none"

    def __init__(
        self, width: int = 16, revision: str = "1", pause: float = 0.0, log: Path | None = None, gate: Path | None = None
    ):
        self.width, self.revision, self.pause, self.log, self.gate = width, revision, pause, log, gate
        self.encoded: list[str] = []

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        self.encoded += texts
        if self.log is not None:
            with self.log.open("a") as stream:
                stream.write(f"{len(texts)}\n")
        while self.gate is not None and not self.gate.exists():
            time.sleep(0.005)
        time.sleep(self.pause)
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in texts]
        vectors = [np.random.default_rng(seed).standard_normal(self.width, np.float32) for seed in seeds]
        return np.array(vectors, np.float32).reshape(len(texts), self.width)


def catalogue(items: int) -> tuple[list[str], list[str]]:
    ids = [f"id-{number * 7919 % items}" for number in range(items)]
    return ids, [f"Here is an item, title is number {id}, and genre is kind {len(id)}." for id in ids]


def make(name: str, pause: float, log: Path, gate: Path | None) -> TextEncoder:
    if name == "tfidf":
        from braidrec.knowledge.encoders.tfidf import HashedTfidfEncoder, TfidfConfig

        return HashedTfidfEncoder(TfidfConfig(width=16))
    return HashEncoder(pause=pause, log=log, gate=gate)


def main(path: str, items: str, batch_rows: str, encoder: str, pause: str, log: str, gate: str = "") -> None:
    import lancedb  # noqa: F401  the slow import is over before the clock of the kill starts

    chosen = make(encoder, float(pause), Path(log), Path(gate) if gate not in ("", "never") else None)
    print("ready", flush=True)
    report = KnowledgeBase.open(path, chosen).sync(*catalogue(int(items)), batch_rows=int(batch_rows))
    print(f"done {report.encoded} {report.unchanged}", flush=True)
    while gate == "never":
        signal.pause()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(*sys.argv[1:])
