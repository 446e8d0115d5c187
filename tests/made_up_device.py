"""A device that no machine lacks: its tensors say "meta", hold their numbers on the CPU, and refuse to meet tensors of the CPU.

What is wrong on a GPU, and cannot be seen without one, is an error here: a tensor that is made or left on the CPU, `numpy` of
one that is elsewhere.  `waits` counts what the host has to wait for the device for, by where in the package it is asked.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

THERE = torch.device("meta")
_WAITS = {"_local_scalar_dense", "nonzero", "_unique2", "equal", "is_nonzero", "masked_select", "bincount"}
_INDICES = {"index", "index_put", "index_put_", "_index_put_impl_"}  # may be on the CPU


class Held(Tensor):
    """inner: the numbers"""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Held:
        like = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype, "device": THERE}
        found: Held = Tensor._make_wrapper_subclass(cls, inner.size(), **like)  # type: ignore[attr-defined]
        found.inner = inner
        return found

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("outside of `made_up_device`")

    def tolist(self) -> Any:
        return self.inner.tolist()

    def new_tensor(self, data: Any, **more: Any) -> Held:  # type: ignore[override]
        return Held(self.inner.new_tensor(data, **more))


class MadeUp(TorchDispatchMode):
    """waits: "operator at file:line" -> how often"""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        given, name = dict(kwargs or {}), func.overloadpacket.__name__
        tensors = [each for each in tree_flatten((args, given))[0] if isinstance(each, Tensor)]
        held = {id(each.inner): each for each in tensors if isinstance(each, Held)}
        there = bool(held)
        if name in ("_to_copy", "copy_"):
            source = args[0] if name == "_to_copy" else args[1]
            there = isinstance(args[0], Held) if given.get("device") is None else torch.device(given["device"]) == THERE
            if isinstance(source, Held) and not there:
                self._count("to the host")
        elif there:
            for each in tensors:
                index = name in _INDICES and each is not args[0] and not each.is_floating_point()
                if not isinstance(each, Held) and each.dim() and not index:
                    raise RuntimeError(f"{func}: {tuple(each.shape)} is on the CPU, others are not, at {_where()}")
            by_flags = name == "index" and any(isinstance(each, Tensor) and each.dtype == torch.bool for each in args[1])
            if name in _WAITS or by_flags or (name == "repeat_interleave" and given.get("output_size") is None):
                self._count(name)
        elif given.get("device") is not None:
            there = torch.device(given["device"]) == THERE
        if given.get("device") is not None:
            given["device"] = torch.device("cpu")
        found = func(*tree_map(_inner, args), **tree_map(_inner, given))
        if not there:
            return found
        if torch.Tag.inplace_view in func.tags:  # the outside takes the same new shape
            with torch._C._DisableTorchDispatch():  # type: ignore[attr-defined]
                func(*args, **given)
        return tree_map(lambda each: held.get(id(each), _held(each)) if isinstance(each, Tensor) else each, found)

    def _count(self, what: str) -> None:
        self.waits[f"{what} at {_where()}"] += 1


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, Held) else value


def _held(value: Tensor) -> Held:
    return value if isinstance(value, Held) else Held(value)


def _where() -> str:
    own = [frame for frame in traceback.extract_stack() if "/src/braidrec/" in frame.filename.replace("\\", "/")]
    return f"{own[-1].filename.replace(chr(92), '/').partition('/src/braidrec/')[2]}:{own[-1].lineno}" if own else "the test"


@contextmanager
def made_up_device() -> Iterator[MadeUp]:
    """Modules and batches go there by ``.to(THERE)``, and back by `home`."""
    with pytest.MonkeyPatch.context() as patch, MadeUp() as found:
        patch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which knows real devices alone
        patch.setattr(torch.backends.mkl, "is_available", lambda: False)  # sparse tensors of the device have no such
        yield found


def home(module: nn.Module) -> None:
    """Put a module's tensors back on the CPU."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if isinstance(weight, Held):
                part._parameters[name] = nn.Parameter(weight.inner.detach(), requires_grad=weight.requires_grad)
        for name, buffer in part._buffers.items():
            part._buffers[name] = _inner(buffer)
