"""The seam to threads, timers and randomness.

The database lives in one turn at a time (the server's event loop, or the embedded lock). What must block, blocks in a
worker: jobs run there one after another, and each result is handed back in the owner's turn.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Protocol


class Timer(Protocol):
    def cancel(self) -> None: ...


class Worker(Protocol):
    """One thread that runs jobs in the order in which they were submitted."""

    def submit(self, job: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Runs `job` in the thread, then `done(result, error)` in the owner's turn."""
        ...

    def close(self) -> None:
        """Waits for the jobs that were submitted and ends the thread; their `done` may still come."""
        ...


class HelperLost(Exception):
    """The process of a helper has ended: what it was asked may or may not have been done."""


class Helper(Protocol):
    """An object that works elsewhere, in a process of its own. Calls are answered in the order in which they came.

    Arguments and results are what MessagePack can carry. A call after the process has ended, and each that it left
    unanswered, gets a HelperLost.
    """

    def call(self, method: str, args: tuple[Any, ...], done: Callable[[Any, BaseException | None], None]) -> None:
        """Calls a method of the object there, then `done(result, error)` in the owner's turn."""
        ...

    def close(self) -> None:
        """Ends the process, without waiting for what it was asked."""
        ...


class Spawn(Protocol):
    """Threads, processes, timers and randomness as the database uses them."""

    def worker(self, name: str) -> Worker: ...

    def helper(self, name: str, factory: str, args: tuple[Any, ...], *, background: bool = False) -> Helper:
        """Starts a helper: `factory` (`module:callable`), called with `args` over there, makes its object.

        One in the background gives way to whatever else wants the processor.
        """
        ...

    def soon(self, callback: Callable[[], None]) -> None:
        """Calls back in the owner's next turn."""
        ...

    def later(self, delay_ms: float, callback: Callable[[], None]) -> Timer: ...

    def random_bytes(self, count: int) -> bytes: ...


def random_bytes(count: int) -> bytes:
    """Unguessable bytes from the operating system."""
    return secrets.token_bytes(count)
