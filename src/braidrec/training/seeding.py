"""Seeds: one for a run, and one derived from it for every named part, so that parts do not share a stream."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed the global generators of python, numpy and torch (every device).  seed: 0 .. 2^32 - 1, numpy's range."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  libraries draw from the global generator
    torch.manual_seed(seed)


def spawn(seed: int, *names: str | int) -> int:
    """A seed in 0 .. 2^32 - 1 for the part called ``names``: the same in every process, whatever PYTHONHASHSEED is."""
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
