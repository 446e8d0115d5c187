"""Where a model trains and answers: one word, checked in one place."""

from __future__ import annotations

import torch

from braidrec.errors import ConfigError, suggest

ACCELERATORS = ("auto", "cpu", "cuda", "mps")


def device_of(accelerator: str) -> torch.device:
    """The device behind ``auto`` (CUDA where there is a GPU, else the CPU), ``cpu``, ``cuda`` or ``mps``.

    Raises ConfigError for another word, and for a device that this machine or this build of torch does not have.
    """
    if accelerator not in ACCELERATORS:
        raise ConfigError(
            f"accelerator = {accelerator!r}: accepted are {', '.join(ACCELERATORS)}{suggest(accelerator, ACCELERATORS)}"
        )
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    chosen = ("cuda" if there["cuda"] else "cpu") if accelerator == "auto" else accelerator
    if not there[chosen]:
        raise ConfigError(f"accelerator = '{accelerator}': torch {torch.__version__} sees no such device here; use auto or cpu")
    return torch.device(chosen)
