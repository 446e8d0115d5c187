"""What the Python calls take, checked before it is used: paths, lists of ids, single ids."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from braidrec.errors import ConfigError, DataError

_SHOWN = 60
# What Unicode counts as white space, and the byte order mark: no id begins or ends with one, in any table and any call.
BLANKS = "\t\n\x0b\x0c\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000\ufeff"


def path_of(value: Any, name: str) -> Path:
    """A path given as text or Path.  Raises ConfigError, naming the argument, for anything else."""
    if not isinstance(value, str | os.PathLike) or not value:
        raise ConfigError(f"{name} = {_shown(value)}: a path is needed, as text or pathlib.Path")
    return Path(value)


def raw_id(value: Any, name: str) -> str:
    """An id as the tables hold it: text without outer blanks, whole numbers of any type without a fraction (3.0 is "3").

    Raises DataError, naming the argument, for what is no id.
    """
    import numpy as np

    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{name} = {_shown(value)}: one id is needed, as text or a whole number")
    return str(value).strip(BLANKS)


def raw_ids(values: Any, name: str) -> list[str]:
    """Several ids: a list, tuple, array or column of them.  Raises DataError for a single text or number, and for frames."""
    import numpy as np

    if isinstance(values, str | bytes | int | float | np.generic):
        cut = f", or {name}={values.split(',')}" if isinstance(values, str) and "," in values else ""
        raise DataError(f"{name} = {_shown(values)}: a list of ids is needed; write {name}=[{_shown(values)}]{cut}")
    table = isinstance(values, Mapping) or hasattr(values, "columns") or getattr(values, "ndim", 1) != 1
    if table or not isinstance(values, Iterable):
        raise DataError(f"{name}: {_kind(values)} is no list of ids; pass a list of text or whole numbers")
    plain = values.to_pylist() if hasattr(values, "to_pylist") else values  # Arrow has scalars of its own
    return [raw_id(value, f"{name}[{at}]") for at, value in enumerate(plain)]


def instance_of(value: Any, kind: type, name: str, remedy: str) -> None:
    """Raises ConfigError, naming the argument and the remedy, where ``value`` is of another kind."""
    if not isinstance(value, kind):
        raise ConfigError(f"{name}: {_kind(value)} where a {kind.__name__} is needed; {remedy}")


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
