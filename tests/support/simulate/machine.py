"""The machine under a simulated store: a disk that fails in more ways, a clock that jumps, helpers that die.

All of it is `tests/support/simulation.py`'s, with what a whole store needs besides: faults that are armed for a step
that is still to come and for some files only, writes that stop halfway, pages that tear between their sectors, and
helpers' processes that end between two calls or in the middle of one.
"""

from __future__ import annotations

import errno
import heapq
import random
from collections.abc import Callable
from typing import Any, Final

from tests.support.simulation import (
    PAGE,
    Crash,
    Inode,
    SimulatedDisk,
    SimulatedFile,
    SimulatedHelper,
    SimulatedSpawn,
    SimulatedTimer,
    SimulatedWorker,
)

SECTOR: Final = 512
BEGIN_MS: Final = 2_000_000_000_000


class HelperDies(BaseException):
    """The helper's process whose job this is stops here."""


class Fault:
    """What is to go wrong at a step that is still to come.

    Attributes:
        kind: `crash`, `death` (of the helper whose step it is), `write` or `sync` (EIO).
        prefix: Of which files.
        steps: After how many of their steps.
    """

    __slots__ = ("kind", "prefix", "steps")

    def __init__(self, kind: str, prefix: str, steps: int) -> None:
        self.kind, self.prefix, self.steps = kind, prefix, steps


class FaultyFile(SimulatedFile):
    _disk: FaultyDisk

    def write(self, data: bytes, offset: int) -> None:
        try:
            super().write(data, offset)
        except (Crash, HelperDies, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EIO:
                raise
            if self._life == self._disk.life and data:  # some of it may have been written
                self._put(data[: self._disk.random.randint(0, len(data))], offset)
            raise

    def _put(self, data: bytes, offset: int) -> None:
        cache = self.inode.cache
        growth = max(0, offset + len(data) - len(cache))
        if not data or growth > self._disk.room:
            return
        self._disk.use(growth)
        cache.extend(bytes(growth))
        cache[offset : offset + len(data)] = data
        self.inode.dirty.update(range(offset // PAGE, (offset + len(data) - 1) // PAGE + 1))


class FaultyDisk(SimulatedDisk):
    """Attributes:
    faults: What is armed.
    struck: How often each kind has struck.
    """

    def __init__(self, generator: random.Random) -> None:
        super().__init__(generator)
        self.faults: list[Fault] = []
        self.struck: dict[str, int] = {}
        self._sync_fails = False

    def arm(self, kind: str, prefix: str, steps: int) -> None:
        self.faults.append(Fault(kind, prefix, steps))

    def strike(self, kind: str) -> None:
        self.struck[kind] = self.struck.get(kind, 0) + 1

    def step(self, what: str, name: str) -> None:
        if not self.faults:
            return
        for fault in self.faults:
            if not name.startswith(fault.prefix) or (fault.kind in ("write", "sync") and fault.kind != what):
                continue
            fault.steps -= 1
            if fault.steps < 0:
                self.faults.remove(fault)
                self._strike(fault, name)
                return

    def _strike(self, fault: Fault, name: str) -> None:
        if fault.kind == "crash":
            raise Crash
        where = "base" if name.startswith(("base", "runs")) else "journal"
        self.strike(f"{fault.kind} of the {where}")
        if fault.kind == "death":
            raise HelperDies
        if fault.kind == "write":
            raise OSError(errno.EIO, "the write failed")
        self._sync_fails = True  # the pages are clean in the cache from here on, and not on the platter

    def sync_fails(self) -> bool:
        fails, self._sync_fails = self._sync_fails, False
        return fails

    def open(self, name: str, *, create: bool = False) -> FaultyFile:
        if name not in self.inodes:
            if not create:
                raise FileNotFoundError(errno.ENOENT, "no such simulated file", name)
            self.step("create", name)
            inode = Inode()
            self._change(lambda names: names.__setitem__(name, inode))
        return FaultyFile(self, self.inodes[name], name)

    def kill(self) -> None:
        super().kill()
        self.faults = []
        self._sync_fails = False

    def power_cut(self) -> None:
        survives = self.random.choice((0.0, 0.3, 0.5, 0.9, 1.0))
        torn = self.random.random() < 0.5
        for inode in dict.fromkeys((*self.inodes.values(), *self._durable.values())):
            for page in sorted(inode.dirty):
                chance = self.random.random()
                if chance < survives:
                    inode.store({page})
                elif torn and chance < survives + 0.3:
                    self._tear(inode, page)
            inode.dirty = set()
        super().power_cut()

    def _tear(self, inode: Inode, page: int) -> None:
        """Some sectors of a page reach the platter."""
        begin, end = page * PAGE, min((page + 1) * PAGE, len(inode.cache))
        if end > len(inode.platter):
            inode.platter.extend(bytes(end - len(inode.platter)))
        for at in range(begin, end, SECTOR):
            if self.random.random() < 0.5:
                until = min(at + SECTOR, end)
                inode.platter[at:until] = inode.cache[at:until]


class SimulatedClock:
    """Attributes:
    ms: The monotonic clock.
    offset: The wall clock's lead.
    """

    def __init__(self) -> None:
        self.ms = 0.0
        self.offset = BEGIN_MS

    def unix_ms(self) -> int:
        return int(self.ms) + self.offset

    def monotonic_ns(self) -> int:
        return int(self.ms * 1_000_000)


class Worker(SimulatedWorker):
    helper: Helper | None = None


class Helper(SimulatedHelper):
    def __init__(self, spawn: MachineSpawn, name: str, make_target: Callable[[], Any]) -> None:
        super().__init__(spawn, name, make_target)
        self.name = name
        self.spawn = spawn
        worker = self.worker
        assert isinstance(worker, Worker)
        worker.helper = self

    @property
    def target(self) -> Any:
        """The object that works there, as far as it is made."""
        return self._target

    @property
    def alive(self) -> bool:
        return not self.lost

    def lose(self) -> None:
        super().lose()
        worker = self.worker
        assert isinstance(worker, Worker)
        if worker in self.spawn.workers:
            self.spawn.workers.remove(worker)


class MachineSpawn(SimulatedSpawn):
    """Turns, jobs and timers; the clock goes on as timers ring."""

    def __init__(self, generator: random.Random, clock: SimulatedClock) -> None:
        super().__init__(generator)
        self.machines: list[Helper] = []
        self.clock = clock
        self._heap: list[tuple[float, int, SimulatedTimer]] = []
        self._timers = 0

    def worker(self, name: str) -> Worker:
        worker = Worker(name)
        self.workers.append(worker)
        return worker

    def helper(self, name: str, factory: str, args: tuple[Any, ...], *, background: bool = False) -> Helper:
        stand_in = self.factories[factory]
        helper = Helper(self, name, lambda: stand_in(*args))
        self.machines.append(helper)
        return helper

    def later(self, delay_ms: float, callback: Callable[[], None]) -> SimulatedTimer:
        timer = SimulatedTimer(self.clock.ms + delay_ms, callback)
        self._timers += 1
        heapq.heappush(self._heap, (timer.at, self._timers, timer))
        return timer

    def due(self) -> float | None:
        """When the next timer rings."""
        while self._heap and self._heap[0][2].cancelled:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def ring(self) -> bool:
        if self.due() is None:
            return False
        timer = heapq.heappop(self._heap)[2]
        self.clock.ms = max(self.clock.ms, timer.at)
        timer.callback()
        return True

    def ring_due(self) -> None:
        """Rings what is due by now."""
        while (at := self.due()) is not None and at <= self.clock.ms:
            self.ring()

    def work(self, worker: SimulatedWorker) -> bool:
        try:
            return super().work(worker)
        except HelperDies:
            assert isinstance(worker, Worker)
            assert worker.helper is not None
            worker.helper.lose()
            return True
