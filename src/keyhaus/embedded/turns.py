"""The owner's turn without an event loop: one lock, and a queue of what is to happen under it.

Whoever has the lock works off, as it leaves, what was queued meanwhile; so no thread has to wake another one for it.
Who finds the lock taken only queues: the holder looks again once it has let go, so nothing is left behind. What takes
longer than a caller that passes by should be kept is left to the background thread.

A thread that leaves in order to wait for the journal lends itself: the write that it waits for, if none is under way,
is done by itself, in place of two switches from thread to thread.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic_ns
from typing import Any, Final

from keyhaus.embedded.gathering import Gathering
from keyhaus.embedded.interrupts import Place

log = logging.getLogger("keyhaus.embedded")

LEAVE_NS: Final = 200_000  # for so long a thread that leaves goes on with what others queued


class Turns:
    """The lock of one database, and its queue.

    Attributes:
        enter: Waits for the turn.
        gathering: What lets groups of the journal wait.
        on_late: Called when more is queued than who leaves goes on with; by any thread, without the turn.
        on_torn: Called with what broke into a callback from outside (a signal handler's exception), in the turn.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.enter = self._lock.acquire
        self._queue: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self.gathering = Gathering()
        self._lends = False
        self._lent: Callable[[], None] | None = None
        self._stray: BaseException | None = None
        self.on_late: Callable[[], None] = lambda: None
        self.on_torn: Callable[[BaseException], None] = lambda error: None

    @contextlib.contextmanager
    def taken(self, place: Place) -> Iterator[None]:
        """The turn, for the length of a `with` of a thread that is at `place`."""
        place.inside = True
        try:
            self.enter()
            try:
                yield
            finally:
                self.leave()
        finally:
            place.inside = False
            if place.pending:
                place.deliver()

    def soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Queues; only to be called in the turn."""
        self._queue.append((callback, args))

    def post(self, callback: Callable[..., object], *args: Any) -> None:
        """Queues from outside, and does it at once where nobody has the turn. Never waits."""
        self._queue.append((callback, args))
        if self._lock.acquire(False):
            self.leave()

    def leave(self) -> None:
        """Works off what is queued, and gives the turn up."""
        queue = self._queue
        if not queue and self._stray is None:  # as nearly always
            self._lock.release()
            if not queue or not self._lock.acquire(False):
                return
        until = 0
        while True:
            if queue:
                until = self._work_off(until)
            stray, self._stray = self._stray, None
            self._lock.release()
            if stray is not None:
                self.on_late()
                raise stray
            if not queue:
                return
            if until and monotonic_ns() >= until:
                return self.on_late()
            if not self._lock.acquire(False):
                return

    def leave_to_wait(self) -> Callable[[], None] | None:
        """Leaves, as a thread that waits for the journal next, and for no longer than the gathering's patience.

        Returns:
            What the thread is to call before it waits, if anything.
        """
        gathering = self.gathering
        self._lends = gathering.keeps_time = True
        self._work_off(0)
        self._lends = gathering.keeps_time = False
        lent, self._lent = self._lent, None
        try:
            self.leave()
        except BaseException:
            if lent is not None:
                lent()  # somebody has to
            raise
        return lent

    def lend(self, job: Callable[[], None]) -> bool:
        """Gives a job to the thread that has the turn; whether it takes it."""
        if not self._lends:
            return False
        self._lends = False
        self._lent = job
        return True

    def _work_off(self, until: int) -> int:
        """Calls what is queued, and what that queues, until a time (0: LEAVE_NS from now); the time."""
        queue = self._queue
        until = until or monotonic_ns() + LEAVE_NS
        while queue:
            for _ in range(len(queue)):
                callback, args = queue.popleft()
                self.call(callback, *args)
            if queue and monotonic_ns() >= until:
                break
        return until

    def call(self, callback: Callable[..., object], *args: Any) -> None:
        """Calls something whose failure is nobody's whose turn this is."""
        try:
            callback(*args)
        except Exception:
            log.exception("what was to happen in the database's turn failed")
        except BaseException as error:
            self._stray = error
            self.on_torn(error)
