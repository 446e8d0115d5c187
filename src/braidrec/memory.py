"""Keep freed memory in the process: fresh pages cost more than the arithmetic done on them.

A training step allocates and frees the same tens of megabytes again and again.  glibc hands blocks above its threshold
back to the system at once, so that each step pays a page fault per 4 KiB.  A gather of 16 MiB and its backward pass took
3.5 ms with the default and 2.1 ms with the pages kept (2 quiet cores; `braidrec bench --parts memory` prints your own).

It is for the whole process and for good, since mallopt(3) cannot be read back.  So the command line does it, where the process
is its own, and nothing that is called from Python does: a service or a notebook that trains calls `keep_freed_pages` itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from collections.abc import Iterator

from braidrec.errors import BraidError, RunError

WHOLE_BYTES = 256 << 20  # of text vectors as float32: 174,762 items of width 384, 16,384 of width 4,096

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # mallopt(3)


def held_whole(rows: int, width: int) -> bool:
    """Whether text vectors are small enough to be held as float32 and prepared once, which is fastest.

    Larger ones stay as they are stored, once, and are read and prepared by rows.
    """
    return 4 * rows * width <= WHOLE_BYTES


def keep_freed_pages() -> bool:
    """Tell glibc to reuse large blocks; True when it took the settings.  Elsewhere than glibc nothing happens."""
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        return all(
            libc.mallopt(option, value) == 1
            for option, value in ((_MMAP_THRESHOLD, 1 << 30), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 << 20))
        )
    return False


@contextlib.contextmanager
def there_is(what: str, remedy: str) -> Iterator[None]:
    """Raise RunError, with the bytes, where ``what`` asks NumPy or torch for memory that the machine does not give."""
    try:
        yield
    except (MemoryError, RuntimeError) as cause:
        asked = re.search(r"allocate ([\d.]+ ?\w+)", str(cause))  # torch on either device, and NumPy
        if isinstance(cause, BraidError) or not (isinstance(cause, MemoryError) or asked):
            raise
        amount = "" if asked is None else f" ({asked[1]} at once)"
        raise RunError(f"{what} asks for memory that is not there{amount}; {remedy}") from None
