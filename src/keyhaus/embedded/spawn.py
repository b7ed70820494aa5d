"""Threads, processes and timers without an event loop: what `core.spawn.Spawn` means to an embedded database."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from time import monotonic_ns
from typing import Any, TypeAlias

from keyhaus.core.helper_process import BACKGROUND_NICENESS, END_SECONDS, HelperProcess
from keyhaus.core.spawn import random_bytes
from keyhaus.embedded.background import Background, BackgroundTimer
from keyhaus.embedded.turns import Turns
from keyhaus.journal.journal import WRITER

_Done: TypeAlias = Callable[[Any, BaseException | None], None]
_Job: TypeAlias = tuple[Callable[[], Any], _Done]


class TurnWorker:
    """One thread whose results come back in the owner's turn, which that thread takes itself where it is free."""

    def __init__(self, turns: Turns, name: str) -> None:
        self._turns = turns
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], Any], done: _Done) -> None:
        self._jobs.put((job, done))

    def close(self) -> None:
        self._jobs.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while (entry := self._jobs.get()) is not None:
            job, done = entry
            self._turns.post(done, *_tried(job))


class GroupWriter(TurnWorker):
    """The journal's writer: what it does is what threads wait for.

    A thread that leaves the turn in order to wait does a job itself, where no other is under way. Between two jobs the
    writer's own thread keeps the time for a group that is held back.
    """

    def __init__(self, turns: Turns, name: str) -> None:
        self._open = 0  # jobs that have not come back
        self._running = threading.Lock()  # held around each job: they follow each other, whoever does them
        super().__init__(turns, name)

    def submit(self, job: Callable[[], Any], done: _Done) -> None:
        self._open += 1
        if self._open == 1 and self._turns.lend(lambda: self._run_lent(job, done)):
            self._running.acquire()
        else:
            self._jobs.put((job, done))

    def _run(self) -> None:
        gathering = self._turns.gathering
        while True:
            patience = gathering.patience_seconds()
            try:
                entry = self._jobs.get(timeout=None if patience < 0 else patience)
            except queue.Empty:
                self._turns.post(gathering.over)
                continue
            if entry is None:
                return
            before = monotonic_ns()
            with self._running:
                answer = _tried(entry[0])
            self._turns.post(self._came_back, entry[1], answer, monotonic_ns() - before)

    def _run_lent(self, job: Callable[[], Any], done: _Done) -> None:
        before = monotonic_ns()
        answer = _tried(job)
        self._running.release()
        self._turns.post(self._came_back, done, answer, monotonic_ns() - before)
        error = answer[1]
        if error is not None and not isinstance(error, Exception):
            raise error  # it is meant for this thread, which only lent itself

    def _came_back(self, done: _Done, answer: tuple[Any, BaseException | None], took_ns: int) -> None:
        gathering = self._turns.gathering
        self._open -= 1
        gathering.begin(took_ns)
        kept = gathering.keeps_time
        gathering.keeps_time = kept or threading.current_thread() is self._thread
        try:
            done(*answer)
        finally:
            gathering.keeps_time = kept


def _tried(job: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return job(), None
    except BaseException as error:  # whatever it is, the owner must hear of it: silence would be a lost write
        return None, error


class TurnSpawn:
    """`core.spawn.Spawn` over a lock and a background thread."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._background = Background(turns)
        self._helpers: list[HelperProcess] = []

    def worker(self, name: str) -> TurnWorker:
        return GroupWriter(self._turns, name) if name == WRITER else TurnWorker(self._turns, name)

    def helper(self, name: str, factory: str, args: tuple[Any, ...], *, background: bool = False) -> HelperProcess:
        niceness = BACKGROUND_NICENESS if background else 0
        helper = HelperProcess(self._background, name, factory, args, niceness)
        self._helpers = [one for one in self._helpers if not one.ended.is_set()]
        self._helpers.append(helper)
        return helper

    def soon(self, callback: Callable[[], None]) -> None:
        self._turns.soon(callback)

    def later(self, delay_ms: float, callback: Callable[[], None]) -> BackgroundTimer:
        return self._background.later(delay_ms, callback)

    def random_bytes(self, count: int) -> bytes:
        return random_bytes(count)

    def close(self, patience_seconds: float = END_SECONDS) -> None:
        """Waits until the helpers that were told to close have ended, and ends the others and the background thread.

        Not to be called in the turn.
        """
        for helper in self._helpers:
            if not helper.ended.wait(patience_seconds):
                self._turns.post(helper.close)
                helper.ended.wait()
        self._background.close()

    def forget(self) -> None:
        """In a forked child: the parent's helpers must not live on for its sake."""
        for helper in self._helpers:
            helper.forget()
