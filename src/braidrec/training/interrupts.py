"""Ctrl-C and SIGTERM, kept until the loop can leave without losing anything."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from braidrec.errors import TrainingError


class Interrupted(BaseException):
    """A signal arrived during validation, which may be left at any point."""


class Terminated(TrainingError):
    """SIGTERM ended a training, which can go on from its checkpoint."""

    exit_code = 128 + signal.SIGTERM


class Signals:
    """Remembers SIGINT and SIGTERM until the loop has a moment for them; outside the main thread it does nothing."""

    def __init__(self) -> None:
        self.caught: int | None = None
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None and self.caught is not None:
            self.leave("training was complete")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.caught is not None:
            raise KeyboardInterrupt
        self.caught = number
        if self._at_once:
            raise Interrupted

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def leave(self, where: str) -> None:
        message = f"interrupted {where}; start the same command again to resume"
        raise KeyboardInterrupt(message) if self.caught == signal.SIGINT else Terminated(message)
