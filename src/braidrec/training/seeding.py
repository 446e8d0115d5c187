"""Seeds: one for a run, and one derived from it for every named part, so that parts do not share a stream.

Training seeds the global generators, since layers and libraries draw from them; `own_randomness` gives them back.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed the global generators of python, numpy and torch (every device).  seed: 0 .. 2^32 - 1, numpy's range."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  libraries draw from the global generator
    torch.manual_seed(seed)


@contextlib.contextmanager
def own_randomness() -> Iterator[None]:
    """The block seeds and draws as it likes; after it the caller's global generators stand where they stood before.

    Those of python, numpy and torch.  Where the block was the first to touch a GPU, its generator is seeded as the caller's
    own first touch would have found it.
    """
    python, numpy = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002
    cpu, seed = torch.get_rng_state(), torch.initial_seed()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        elif torch.cuda.is_available():
            torch.cuda.manual_seed_all(seed)
        if mps is not None:
            torch.mps.set_rng_state(mps)


def spawn(seed: int, *names: str | int) -> int:
    """A seed in 0 .. 2^32 - 1 for the part called ``names``: the same in every process, whatever PYTHONHASHSEED is."""
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
