"""What follows from weights alone, made once where they stand still: of every item of a catalogue, or of a layer.

Where weights move nothing is kept, and the same calls make everything anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

Made = TypeVar("Made")


class Anew:
    """For weights that move.

    still: whether what follows from them is worth another form, which is faster to read    whole: also of a catalogue
    """

    still, whole = False, False

    def of(self, owner: nn.Module, name: str, make: Callable[[], Made]) -> Made:
        """What ``make`` gives, by whose weights it follows from and a name."""
        return make()


class Kept(Anew):
    """For weights that stand still: the first call makes it, the others find it."""

    still = True

    def __init__(self, *, whole: bool):
        self.whole = whole
        self._found: dict[tuple[int, str], Any] = {}

    def of(self, owner: nn.Module, name: str, make: Callable[[], Made]) -> Made:
        key = id(owner), name
        if key not in self._found:
            self._found[key] = make()
        found: Made = self._found[key]
        return found


ANEW = Anew()


def stamp(module: nn.Module) -> tuple[tuple[int, int], ...]:
    """Another one as soon as a weight or buffer of ``module`` is written into, moved or replaced.

    A step of a fused optimiser writes unseen.
    """
    return tuple((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in _tensors(module))


def _tensors(module: nn.Module) -> list[Tensor]:
    found: list[Tensor] = []
    for part in module.modules():
        found += [tensor for tensor in (*part._parameters.values(), *part._buffers.values()) if tensor is not None]
    return found
