"""One progress bar for everything that may take more than two seconds: what, how far, rate, time left."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from braidrec.shown import tell

Advance = Callable[[int], None]
_EVERY = 30.0  # seconds between two lines of output that is not a terminal


@contextlib.contextmanager
def progress(title: str, total: int, unit: str, *, show: bool = True) -> Iterator[Advance]:
    """Yield ``advance(n)``.  On a terminal a bar; elsewhere a line every 30 seconds, and one at the end if it took over two."""
    if not show:
        yield lambda count: None
        return
    if not sys.stderr.isatty():
        yield from _quiet(title, total, unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total, rate="")
        done, started = 0, time.monotonic()

        def advance(count: int) -> None:
            nonlocal done
            done += count
            rate = done / max(time.monotonic() - started, 1e-9)
            bar.update(task, advance=count, rate=f"{rate:,.0f} {unit}/s")

        yield advance


def _quiet(title: str, total: int, unit: str) -> Iterator[Advance]:
    done = 0
    started = said = time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, said
        done += count
        now = time.monotonic()
        if now - said >= _EVERY:
            said = now
            tell(f"{title}: {done:,} of {total:,} {unit} ({done / (now - started):,.0f} {unit}/s)")

    yield advance
    seconds = time.monotonic() - started
    if seconds > 2:
        tell(f"{title}: {done:,} {unit} in {seconds:.1f} s ({done / seconds:,.0f} {unit}/s)")
