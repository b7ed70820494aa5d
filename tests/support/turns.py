"""A database's owner without an event loop: turns are taken by hand, and time stands still until it is told.

Runs handlers as any driver does: step the coroutine; where it waits, take turns until the Wait has fired; go on.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from keyhaus.commands import lookup
from keyhaus.commands.spec import CommandSpec
from keyhaus.core.errors import Error
from keyhaus.core.settings import Settings
from keyhaus.core.wait import Wait
from keyhaus.store.store import Store
from keyhaus.store.transaction import Transaction

# Far from now: nothing in a test may depend on the date.
BEGIN_MS = 2_000_000_000_000


class ManualClock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.ms = BEGIN_MS

    def unix_ms(self) -> int:
        return self.ms

    def monotonic_ns(self) -> int:
        return self.ms * 1_000_000


class _NoTimer:
    def cancel(self) -> None:
        pass


class ManualSpawn:
    """Turns that come when somebody takes them; timers never fire, and there are no threads."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._turns: deque[Callable[[], None]] = deque()

    def worker(self, name: str) -> Any:
        raise AssertionError("a database in memory needs no thread")

    def helper(self, name: str, factory: str, args: tuple[Any, ...], *, background: bool = False) -> Any:
        raise AssertionError("a database in memory needs no process")

    def soon(self, callback: Callable[[], None]) -> None:
        self._turns.append(callback)

    def later(self, delay_ms: float, callback: Callable[[], None]) -> _NoTimer:
        return _NoTimer()

    def random_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def take_turn(self) -> bool:
        """Whether there was one to take."""
        if not self._turns:
            return False
        self._turns.popleft()()
        return True


class Loopless:
    """A database in memory, and one client's transaction in it."""

    def __init__(self, **settings: Any) -> None:
        self.clock = ManualClock()
        self.spawn = ManualSpawn()
        self.store = Store(spawn=self.spawn, clock=self.clock, settings=Settings(**settings))
        self.tx = Transaction(self.store)
        self.waits = 0

    def drive(self, running: Coroutine[Wait, None, Any]) -> Any:
        """Runs a coroutine to its end."""
        while True:
            try:
                wait = running.send(None)
            except StopIteration as stop:
                return stop.value
            self.waits += 1
            while not wait.fired:
                assert self.spawn.take_turn(), "it waits for something that never comes"

    def handle(self, spec: CommandSpec, args: list[bytes], context: Any = None) -> Any:
        """One handler's reply, inside the open transaction; an Error is returned."""
        assert spec.handler is not None
        try:
            return self.drive(spec.handler(self.tx, args, context))
        except Error as error:
            return error

    def run(self, *words: bytes | str | int) -> Any:
        """A whole command as a transaction of its own: looked up, run, committed."""
        args = [word if type(word) is bytes else str(word).encode() for word in words]
        self.tx.begin()
        try:
            spec = lookup.find(args)
        except Error as error:
            return error
        reply = self.handle(spec, args)
        if isinstance(reply, Error):
            self.tx.undo(0)
        assert self.tx.commit() is None
        return reply
