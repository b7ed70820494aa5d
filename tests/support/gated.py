"""A server in this process whose syncs wait until the test lets them go.

The server runs on uvloop in a thread of its own, over real files. Every write and sync of the journal's segments is
noted in the order in which it happened, and a sync by the journal (not by the preparer of segments) stops at a gate.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import uvloop

from keyhaus.core.disk import OsDisk, OsFile
from keyhaus.core.errors import StorageError
from keyhaus.core.settings import Settings
from keyhaus.journal.format import COMMITS, GROUP_BYTES
from keyhaus.server.server import Address, Server
from keyhaus.server.spawn import LoopSpawn
from keyhaus.session.hub import Hub
from keyhaus.store.store import Store
from tests.support.wire import Wire

SECONDS: Final = 20.0
_KIND_AT: Final = GROUP_BYTES - 8  # where a group's head says what it is
Value = TypeVar("Value")


class MovedClock:
    """The system's clock, some milliseconds ahead."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def unix_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()


class GatedFile(OsFile):
    def __init__(self, disk: GatedDisk, name: str, create: bool) -> None:
        super().__init__(disk.root / name, create)
        self._disk, self._name = disk, name

    def write(self, data: bytes, offset: int) -> None:
        if self._disk.journals(self._name):
            self._disk.fail("write")
            super().write(data, offset)
            if data[_KIND_AT] == COMMITS:
                self._disk.note("written")
        else:
            super().write(data, offset)

    def sync(self) -> None:
        if self._disk.journals(self._name):
            self._disk.note("sync begins")
            self._disk.wait_for(lambda: self._disk.open_gate)
            self._disk.fail("sync")
            super().sync()
            self._disk.note("synced")
        else:
            super().sync()


class GatedDisk(OsDisk):
    """Attributes:
    events: What the journal did to its segments: "written" (commits), "sync begins", "synced", in order.
    open_gate: Whether syncs pass.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.events: list[str] = []
        self.open_gate = True
        self._failures: dict[str, OSError] = {}
        self._changed = threading.Condition()

    def open(self, name: str, *, create: bool = False) -> OsFile:
        return GatedFile(self, name, create)

    def journals(self, name: str) -> bool:
        """Whether it is the journal that now writes to a file, or syncs it."""
        thread = threading.current_thread().name
        return name.endswith(".segment") and thread in ("journal-writer", "journal-syncer")

    def note(self, event: str) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait_for(self, predicate: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(predicate, SECONDS), f"it never came: {self.events}"

    def look_again(self) -> None:
        """Something that a `wait_for` waits for may have changed."""
        with self._changed:
            self._changed.notify_all()

    def shut(self) -> None:
        """From now on syncs wait; forgets the events before."""
        with self._changed:
            self.open_gate = False
            self.events.clear()

    def let_go(self) -> None:
        with self._changed:
            self.open_gate = True
            self._changed.notify_all()

    def fail_next(self, what: str, error: OSError) -> None:
        """The next "write" or "sync" of the journal fails."""
        self._failures[what] = error

    def fail(self, what: str) -> None:
        if (error := self._failures.pop(what, None)) is not None:
            self.note(f"{what} failed")
            raise error


class InnerServer:
    """A server on a loop in a thread."""

    def __init__(self, disk: OsDisk, **values: Any) -> None:
        self.disk = disk
        self.clock = MovedClock()
        self.settings = Settings(**values)
        self.port = 0
        self.store: Store
        self._server: Server
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="server-loop", daemon=True)
        self._thread.start()
        self.within(self._start)

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def within(self, function: Callable[[], Any]) -> Any:
        """Runs a coroutine function in the server's loop; its result."""
        return asyncio.run_coroutine_threadsafe(function(), self._loop).result(SECONDS)

    async def _start(self) -> None:
        self.store = Store.open(self.disk, LoopSpawn(self._loop), self.clock, self.settings)
        self._server = Server(Hub(self.store, self.settings, self.clock, "0" * 40), self._loop)
        await self._server.listen(Address("resp", "127.0.0.1", 0), [socket.create_server(("127.0.0.1", 0))])
        self.port = self._server.addresses[0].port

    def stop(self) -> None:
        """Ends it, once. Raises StorageError where the journal could not be closed cleanly."""
        if not self._thread.is_alive():
            return
        try:
            self.within(self._server.stop)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(SECONDS)


class Probe(Wire):
    """A connection that can tell whether anything has come."""

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port)

    def __enter__(self) -> Probe:
        return self

    def silent(self) -> bool:
        """Whether nothing has come (its end neither) that was not read."""
        return not self._rest and not select.select([self._socket], [], [], 0)[0]

    def replies(self, count: int) -> list[bytes]:
        return [self.receive() for _ in range(count)]


@contextlib.contextmanager
def gated_server(directory: Path, **values: Any) -> Iterator[tuple[InnerServer, GatedDisk]]:
    """A server over a gated disk; what poisoned it is no failure of the stop."""
    disk = GatedDisk(directory)
    server = InnerServer(disk, **values)
    try:
        yield server, disk
    finally:
        disk.let_go()
        with contextlib.suppress(StorageError):
            server.stop()
