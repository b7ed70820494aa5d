"""Waits: the only thing that a handler may await.

A handler is a coroutine that knows no event loop. Where it has to wait it awaits a `Wait`; whoever drives the coroutine
(the server's loop, an embedded thread, a test) receives that object, arranges to be called when it fires or when its
time is over, and then steps the coroutine again. A sync of the disk is never waited for here: replies wait for that.
"""

from __future__ import annotations

from collections.abc import Callable, Generator


class Wait:
    """Something that happens once.

    Attributes:
        timeout_ms: After how long the waiter wants to go on in any case; None for no limit.
        outside: Whether it lies with others, so that it may never happen: nobody waits for it who may be gone.
        cold: Whether it is for rows of the base: its driver yields the processor before it goes on (docs/adr/0006).
        fired: Whether it has happened.
        error: Why it never will: raised where it is awaited, once it fires.
        late: Gives the error to raise where the time is over before it fires; None for none.
    """

    __slots__ = ("_callbacks", "cold", "error", "fired", "late", "outside", "timeout_ms")

    def __init__(self, timeout_ms: float | None = None, *, outside: bool = False, cold: bool = False) -> None:
        self.timeout_ms = timeout_ms
        self.outside = outside
        self.cold = cold
        self.fired = False
        self.error: Exception | None = None
        self.late: Callable[[], Exception] | None = None
        self._callbacks: list[Callable[[], None]] = []

    def fire(self) -> None:
        """Wakes all who wait. Firing twice is firing once."""
        if self.fired:
            return
        self.fired = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def on_fire(self, callback: Callable[[], None]) -> None:
        """Calls back when it fires, at once if it has fired already."""
        if self.fired:
            callback()
        else:
            self._callbacks.append(callback)

    def forget(self, callback: Callable[[], None]) -> None:
        """Takes back `on_fire`."""
        if callback in self._callbacks:
            self._callbacks.remove(callback)

    def __await__(self) -> Generator[Wait, None, bool]:
        """Gives itself to the driver; the result says whether it fired (False: the time was over)."""
        if not self.fired:
            yield self
        if self.error is not None:
            raise self.error
        if not self.fired and self.late is not None:
            raise self.late()
        return self.fired
