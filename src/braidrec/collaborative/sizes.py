"""Whether item-item matrices fit the memory that a model may take."""

from __future__ import annotations

from typing import Any

import numpy as np

from braidrec.errors import ConfigError

GIB = 1 << 30
_PAIR_BYTES = 8  # of a pair of items in a sparse matrix: its value, and where it stands


def matrix_bytes(num_items: int, matrices: int) -> int:
    """Of float32 matrices (I + 1, I + 1)."""
    return 4 * (num_items + 1) ** 2 * matrices


def check_bytes(model: str, num_items: int, matrices: int, memory_gib: float, instead: str) -> None:
    """Raise ConfigError, naming the bytes, where ``matrices`` item-item matrices are more than ``memory_gib``."""
    needed = matrix_bytes(num_items, matrices)
    if needed > memory_gib * GIB:
        held = "1 dense item-item matrix" if matrices == 1 else f"{matrices} dense item-item matrices"
        raise ConfigError(
            f"{model}: {held} of {num_items:,} items take {needed:,} bytes, memory_gib = {memory_gib:g} allows "
            f"{int(memory_gib * GIB):,}; raise model.backbone.memory_gib where the machine has it, or take {instead}"
        )


def check_product(model: str, matrix: Any, memory_gib: float) -> None:
    """Raise ConfigError, naming the bytes, where the pairs of items that meet in rows of X (R, C) may be more than fit."""
    pairs = min(int((np.diff(matrix.indptr).astype(np.int64) ** 2).sum()), matrix.shape[1] ** 2)
    needed = _PAIR_BYTES * pairs
    if needed > memory_gib * GIB:
        raise ConfigError(
            f"{model}: up to {pairs:,} pairs of items that somebody has both of take {needed:,} bytes, "
            f"memory_gib = {memory_gib:g} allows {int(memory_gib * GIB):,}; raise model.backbone.memory_gib where the machine "
            "has it, or take ials, which holds no pairs"
        )
