"""Where a model trains and answers: one word, checked in one place."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn

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


def place_of(module: nn.Module) -> torch.device:
    """Where a module is: its first parameter, else its first buffer, as what was fitted may have no other; else the CPU."""
    tensor = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device
