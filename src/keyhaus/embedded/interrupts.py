"""Ctrl-C strikes between the steps of a database, never within one.

Python runs signal handlers in the main thread, between any two instructions of it. One that raises (KeyboardInterrupt,
SystemExit, TimeoutError) in the middle of a commit would leave it half done. So while databases are open all handlers
that are Python's, and so might raise, are called through here: at once where the main thread is outside of a step, else
as it leaves. Steps take microseconds; what is waited for (locks, the disk) is waited for outside.

Handlers that are set later are not known here. Where one of those breaks into a step, the database takes no more
(`Database._tear`).
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, TypeAlias

_Handler: TypeAlias = Callable[[int, FrameType | None], Any]


class Place:
    """Where a thread is.

    Attributes:
        inside: Whether it is within a step, or about to be.
        pending: The signals that came meanwhile.
    """

    __slots__ = ("inside", "pending")

    def __init__(self) -> None:
        self.inside = False
        self.pending: list[int] = []

    def deliver(self) -> None:
        """Handles what came meanwhile; may raise whatever the handlers raise."""


class MainPlace(Place):
    """Where the main thread is."""

    __slots__ = ("_handlers", "_users")

    def __init__(self) -> None:
        super().__init__()
        self._handlers: dict[int, _Handler] = {}
        self._users = 0

    def guard(self) -> None:
        """A database is opened."""
        self._users += 1
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if callable(handler) and handler != self._handle:
                with contextlib.suppress(ValueError):  # only the main thread may
                    signal.signal(number, self._handle)
                    self._handlers[number] = handler

    def release(self) -> None:
        """A database is closed; with the last one the handlers are as they were."""
        self._users -= 1
        if self._users:
            return
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._handle:
                with contextlib.suppress(ValueError):
                    signal.signal(number, handler)

    def forget(self) -> None:
        """In a forked child, whose main thread is the one that forked."""
        self.inside = False
        self.pending.clear()

    def deliver(self) -> None:
        while self.pending:
            number = self.pending.pop(0)
            self._handlers[number](number, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.inside:
            self.pending.append(number)
        else:
            self._handlers[number](number, frame)


MAIN: Final = MainPlace()


def place_of_this_thread() -> Place:
    return MAIN if threading.current_thread() is threading.main_thread() else Place()
