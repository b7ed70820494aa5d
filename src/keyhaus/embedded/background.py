"""The one background thread of a database: timers, the sockets of helpers, and turns that take long.

To its helpers it looks like an event loop of asyncio's (`core.helper_process.Reactor`). It sleeps until the next timer,
a socket, or its bell.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import select
import threading
from collections.abc import Callable
from time import monotonic_ns
from typing import Any, Final

from keyhaus.embedded.turns import Turns

log = logging.getLogger("keyhaus.embedded")

FAR_NS: Final = 1 << 62
SLEEP_SECONDS_MAX: Final = 3600.0
_READY: Final = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR
_WRITABLE: Final = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR


class BackgroundTimer:
    """`core.spawn.Timer`."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class _File:
    """Who is called when a descriptor can be read from, or written to."""

    __slots__ = ("reader", "writer")

    def __init__(self) -> None:
        self.reader: Callable[[], object] | None = None
        self.writer: Callable[[], object] | None = None

    def events(self) -> int:
        return (select.EPOLLIN if self.reader else 0) | (select.EPOLLOUT if self.writer else 0)


class Background:
    """The thread. Everything but `wake` and `close` is to be called in the turn."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._timers: list[tuple[int, int, BackgroundTimer]] = []
        self._numbers = itertools.count()
        self._files: dict[int, _File] = {}
        self._until_ns = 0  # until when it sleeps; 0 while it is awake
        self._rung = self._ending = False
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._bell, select.EPOLLIN)
        turns.on_late = self.wake
        self._thread = threading.Thread(target=self._run, name="keyhaus-background", daemon=True)
        self._thread.start()

    def later(self, delay_ms: float, callback: Callable[[], None]) -> BackgroundTimer:
        timer = BackgroundTimer(callback)
        due = monotonic_ns() + int(delay_ms * 1e6)
        heapq.heappush(self._timers, (due, next(self._numbers), timer))
        if due < self._until_ns:
            self.wake()
        return timer

    def wake(self) -> None:
        """Has it look at everything anew."""
        if not self._rung:
            self._rung = True
            os.eventfd_write(self._bell, 1)

    def close(self) -> None:
        """Ends it; what is still queued never happens."""
        self._ending = True
        self.wake()
        self._thread.join()
        self._epoll.close()
        os.close(self._bell)

    # as an event loop

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        self._turns.soon(callback, *args)

    def add_reader(self, fd: int, callback: Callable[..., object], *args: Any) -> None:
        assert not args
        self._file(fd).reader = callback
        self._watch(fd)

    def remove_reader(self, fd: int) -> None:
        self._file(fd).reader = None
        self._watch(fd)

    def add_writer(self, fd: int, callback: Callable[..., object], *args: Any) -> None:
        assert not args
        self._file(fd).writer = callback
        self._watch(fd)

    def remove_writer(self, fd: int) -> None:
        self._file(fd).writer = None
        self._watch(fd)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        log.error("%s", context["message"], exc_info=context.get("exception"))

    def _file(self, fd: int) -> _File:
        file = self._files.get(fd)
        if file is None:
            file = self._files[fd] = _File()
            self._epoll.register(fd, 0)
        return file

    def _watch(self, fd: int) -> None:
        events = self._files[fd].events()
        if events:
            self._epoll.modify(fd, events)
        else:
            del self._files[fd]
            self._epoll.unregister(fd)

    # the thread

    def _run(self) -> None:
        while not self._ending:
            events = self._epoll.poll(self._sleep_seconds())
            self._until_ns = 0
            self._turns.enter()
            for fd, event in events:
                self._ready(fd, event)
            self._fire_due()
            self._turns.leave()

    def _sleep_seconds(self) -> float:
        # Until it is known when the next timer is due, any new one rings the bell.
        self._until_ns = FAR_NS
        if not self._timers:
            return SLEEP_SECONDS_MAX
        self._until_ns = due = self._timers[0][0]
        return min(max(0, due - monotonic_ns()) / 1e9, SLEEP_SECONDS_MAX)

    def _ready(self, fd: int, event: int) -> None:
        if fd == self._bell:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._bell)
            self._rung = False  # after the bell is quiet, and before anything is looked at: no ring is lost
            return
        file = self._files.get(fd)
        if file is not None and file.reader is not None and event & _READY:
            self._turns.call(file.reader)
        file = self._files.get(fd)
        if file is not None and file.writer is not None and event & _WRITABLE:
            self._turns.call(file.writer)

    def _fire_due(self) -> None:
        now = monotonic_ns()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                self._turns.call(timer.callback)
