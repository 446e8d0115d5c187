"""Where a ranking model's histories come from: the latest behaviours, or those most similar in meaning to the candidate."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from braidrec.data.dataset import Dataset
from braidrec.data.history import (
    History,
    HistorySource,
    RecentHistory,
    SemanticHistory,
    build_semantic_slots,
    principal,
)
from braidrec.errors import ConfigError, RunError
from braidrec.files import read_json, sha256, write_hashed, write_json
from braidrec.ranking.config import HistoryConfig
from braidrec.task import Vectors


@dataclass(frozen=True)
class Directions:
    """Item texts as directions, in which the past is cut by similarity; what it takes to place texts that come later.

    rows (I + 1, p) of length 1, as `principal_directions` makes them    centre (S,) mean text vector
    components (p, S), shift (p,): the projection and what it takes off; None where directions are no narrower than text
    """

    rows: Tensor
    centre: Tensor
    components: Tensor | None = None
    shift: Tensor | None = None

    @classmethod
    def of(cls, knowledge: Vectors) -> Directions:
        """knowledge: (I + 1, S) text vectors by catalogue row."""
        found = principal(knowledge)
        parts = (found.rows, found.centre, found.components, found.shift)
        return cls(*(torch.from_numpy(part) for part in parts if part is not None))

    def with_items(self, vectors: Tensor) -> Directions:
        """Items behind the catalogue by their text vectors (n, S), which shift no direction."""
        late = vectors.numpy().astype(np.float32) - self.centre.numpy()
        if self.components is not None and self.shift is not None:
            late = late @ self.components.numpy().T - self.shift.numpy()
        late /= np.maximum(np.linalg.norm(late, axis=1, keepdims=True), 1e-12)
        return replace(self, rows=torch.cat([self.rows, torch.from_numpy(late.astype(np.float32))]))

    def tensors(self) -> dict[str, Tensor]:
        """By name, as `of_tensors` takes them back."""
        found = {"rows": self.rows, "centre": self.centre, "components": self.components, "shift": self.shift}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Directions:
        return cls(tensors["rows"], tensors["centre"], tensors.get("components"), tensors.get("shift"))

    def window(self, items: Tensor, signals: Tensor, candidates: Tensor, length: int) -> History:
        """Of a past of any length, what is most similar to each candidate: `SemanticHistory` for candidates of today.

        items, signals (n,) int32, oldest first; candidates (B,) int32 -> (B, K) each.  The same rounding and the same rule for
        ties (the more recent first) as in `build_semantic_slots`.
        """
        past, wanted = self.rows[items.long()].double(), self.rows[candidates.long()].double()
        keys = (wanted @ past.T).mul_(1 << 20).round_().long().mul_(1 << 32).add_(torch.arange(len(items)))
        best = keys.topk(min(length, len(items)), dim=1).indices
        left = length - best.shape[1]
        mask = (torch.arange(length) < best.shape[1]).expand(len(candidates), -1)
        return History(F.pad(items[best], (0, left)), F.pad(signals[best], (0, left)), mask)


def latest(items: Tensor, signals: Tensor, length: int) -> History:
    """The last ``length`` behaviours of a past (n,), whatever the candidate: (1, K) each."""
    items, signals = items[-length:], signals[-length:]
    left = length - len(items)
    mask = torch.arange(length)[None] < len(items)
    return History(F.pad(items, (0, left))[None], F.pad(signals, (0, left))[None], mask)


def directions_of(config: HistoryConfig, text: Vectors | None) -> Directions | None:
    """What the configured history needs of the items' texts (I + 1, S).

    Raises ConfigError where it has none, and for windows that cannot be shared.
    """
    if config.kind == "recent":
        return None
    if config.run > 1:
        raise ConfigError(
            f"history.run = {config.run} goes with history.kind = 'recent', whose windows targets of a user can share; with "
            "'semantic_topk' every candidate has its own: set history.run = 1"
        )
    if text is None:
        raise ConfigError("history.kind = 'semantic_topk' needs a knowledge base: similarity is measured between item texts")
    return Directions.of(text)


def history_source(
    dataset: Dataset, config: HistoryConfig, directions: Directions | None, *, show_progress: bool = True
) -> HistorySource:
    """The configured history; a semantic one is prepared once beside the data set and opened by memory map after."""
    if directions is None:
        return RecentHistory(dataset.log, config.length, config.run)
    vectors = directions.rows[: dataset.num_items + 1].numpy()
    contents = hashlib.sha256(dataset.fingerprint.encode())
    contents.update(np.ascontiguousarray(vectors).data)
    key = contents.hexdigest()[:16]
    path = dataset.path.with_name(f"{dataset.path.name}.semantic-{config.length}-{key}.npy")
    note = path.with_suffix(".json")
    source = {"length": config.length, "source": key}
    if not _made(note, path, source):
        digest = write_hashed(
            path,
            lambda temporary: build_semantic_slots(dataset.log, vectors, config.length, temporary, show_progress=show_progress),
        )
        write_json(note, {"sha256": digest, **source})
    return SemanticHistory(dataset.log, np.load(path, mmap_mode="c", allow_pickle=False))


def _made(note: Path, path: Path, source: Mapping[str, object]) -> bool:
    """Whether ``path`` was made from that; what is missing, damaged or of other data is made again."""
    with contextlib.suppress(RunError):
        found = read_json(note, RunError)
        return isinstance(found, dict) and path.exists() and found == {"sha256": sha256(path), **source}
    return False
