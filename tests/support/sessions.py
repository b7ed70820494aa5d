"""Sessions of one store without an event loop or a network: requests are executed one step at a time, time by hand.

A request gives its reply, or a `Pending` where it has to wait; `settle` takes turns until nothing moves any more.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

from keyhaus.core.errors import Error
from keyhaus.core.settings import Settings
from keyhaus.core.wait import Wait
from keyhaus.session.hub import Hub
from keyhaus.store.store import Store
from tests.support.turns import ManualClock, ManualSpawn


class _Timer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class TimedSpawn(ManualSpawn):
    """As `ManualSpawn`, with timers that fire when time is moved."""

    def __init__(self, clock: ManualClock, seed: int = 0) -> None:
        super().__init__(seed)
        self._clock = clock
        self._timers: list[tuple[int, int, _Timer]] = []
        self._numbers = itertools.count()

    def later(self, delay_ms: float, callback: Callable[[], None]) -> Any:
        timer = _Timer(callback)
        heapq.heappush(self._timers, (self._clock.ms + max(1, round(delay_ms)), next(self._numbers), timer))
        return timer

    def fire_due(self) -> bool:
        """Fires the first timer that is due; whether there was one."""
        while self._timers and self._timers[0][0] <= self._clock.ms:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                timer.callback()
                return True
        return False

    def next_ms(self) -> int | None:
        return self._timers[0][0] if self._timers else None


class Pending:
    """A request that waits; `reply` is there once it is `done`."""

    def __init__(self) -> None:
        self.done = False
        self.reply: Any = None


class Caller:
    """One client's session."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self.session = sessions.hub.open_session()
        self.pending: Pending | None = None
        self._waits_for: Wait | None = None

    def send(self, *words: bytes | str | int) -> Any:
        """The reply, or a Pending."""
        assert self.pending is None, "one request at a time"
        args = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        result = self.session.execute(args)
        if not isinstance(result, Wait):
            return result
        self.pending = Pending()
        self._wait(result)
        pending = self.pending
        return pending

    def __call__(self, *words: bytes | str | int) -> Any:
        """The reply, whatever turns it takes."""
        result = self.send(*words)
        if isinstance(result, Pending):
            self._sessions.settle()
            assert result.done, f"{words} waits for something that does not come"
            return result.reply
        return result

    def raises(self, code: str, *words: bytes | str | int) -> Error:
        """The error that a request is answered with."""
        reply = self(*words)
        assert isinstance(reply, Error), reply
        assert reply.code == code, reply.message
        return reply

    def _wait(self, wait: Wait) -> None:
        spawn = self._sessions.spawn

        def resume() -> None:
            pending = self.pending
            if pending is None or self._waits_for is not wait:
                return
            self._waits_for = None
            result = self.session.resume()
            if isinstance(result, Wait):
                self._wait(result)
            else:
                self.pending, pending.reply, pending.done = None, result, True

        self._waits_for = wait
        if wait.timeout_ms is not None:
            spawn.later(wait.timeout_ms, resume)
        wait.on_fire(lambda: spawn.soon(resume))

    def vanish(self) -> None:
        """The connection is gone."""
        self.pending = None
        self._sessions.hub.close_session(self.session)


class Sessions:
    """A store in memory and its clients."""

    def __init__(self, **settings: Any) -> None:
        self.clock = ManualClock()
        self.spawn = TimedSpawn(self.clock)
        self.settings = Settings(**settings)
        self.store = Store(self.spawn, clock=self.clock, settings=self.settings)
        self.hub = Hub(self.store, self.settings, self.clock, "run")

    def connect(self) -> Caller:
        return Caller(self)

    def settle(self) -> None:
        """Takes turns until there are none; time stands still."""
        for _ in range(100_000):
            if not self.spawn.take_turn():
                return
        raise AssertionError("it never comes to rest")

    def pass_ms(self, milliseconds: int) -> None:
        """Lets time pass, and what is due happen in its order."""
        until = self.clock.ms + milliseconds
        while True:
            self.settle()
            following = self.spawn.next_ms()
            if following is None or following > until:
                break
            self.clock.ms = max(self.clock.ms, following)
            self.spawn.fire_due()
        self.clock.ms = until
        self.settle()
