"""Threads, processes and timers of the event loop: what `core.spawn.Spawn` means to the server."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeAlias, TypeVar

from keyhaus.core.helper_process import BACKGROUND_NICENESS, HelperProcess
from keyhaus.core.spawn import Timer, random_bytes
from keyhaus.core.wait import Wait

_Result = TypeVar("_Result")
_Job: TypeAlias = tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]


class LoopWorker:
    """One thread whose results come back in the loop's turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self._jobs.put((job, done))

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (entry := self._jobs.get()) is not None:
            job, done = entry
            result: Any = None
            failure: BaseException | None = None
            try:
                result = job()
            except BaseException as error:  # whatever it is, the owner must hear of it: silence would be a lost write
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for the answer any more
                self._loop.call_soon_threadsafe(done, result, failure)


class LoopSpawn:
    """`core.spawn.Spawn` over an asyncio loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def worker(self, name: str) -> LoopWorker:
        return LoopWorker(self._loop, name)

    def helper(self, name: str, factory: str, args: tuple[Any, ...], *, background: bool = False) -> HelperProcess:
        return HelperProcess(self._loop, name, factory, args, BACKGROUND_NICENESS if background else 0)

    def soon(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon(callback)

    def later(self, delay_ms: float, callback: Callable[[], None]) -> Timer:
        return self._loop.call_later(delay_ms / 1000, callback)

    def random_bytes(self, count: int) -> bytes:
        return random_bytes(count)


async def driven(running: Coroutine[Wait, None, _Result], loop: asyncio.AbstractEventLoop) -> _Result:
    """Runs a coroutine that awaits core's Waits."""
    while True:
        try:
            wait = running.send(None)
        except StopIteration as stop:
            result: _Result = stop.value
            return result
        fired: asyncio.Future[None] = loop.create_future()
        wait.on_fire(partial(fired.set_result, None))
        await fired
