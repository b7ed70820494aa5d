"""A disk and a scheduler that live in memory, obey a seed, and fail as real ones do.

The disk keeps, page by page, what the cache holds and what the platter holds. A sync moves dirty pages to the platter;
a failed one leaves them in the cache, clean, as Linux does. A kill keeps the cache; a power cut keeps any of the dirty
pages, a prefix of the unsynced changes of names, and nothing else. The scheduler runs callbacks, timers and the jobs
of workers one at a time, in an order that it is told.
"""

from __future__ import annotations

import errno
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from keyhaus.core.helper import make, packed_error, unpacked_error
from keyhaus.core.spawn import HelperLost

PAGE = 4096


class Crash(BaseException):
    """The process stops here."""


class Inode:
    def __init__(self) -> None:
        self.cache = bytearray()
        self.platter = bytearray()
        self.dirty: set[int] = set()

    def store(self, pages: set[int]) -> None:
        for page in pages:
            begin, end = page * PAGE, min((page + 1) * PAGE, len(self.cache))
            if end > len(self.platter):
                self.platter.extend(bytes(end - len(self.platter)))
            self.platter[begin:end] = self.cache[begin:end]


class SimulatedFile:
    def __init__(self, disk: SimulatedDisk, inode: Inode, name: str) -> None:
        self._disk, self.inode, self.name = disk, inode, name
        self._life = disk.life
        self._closed = False

    def _step(self, what: str) -> None:
        if self._closed:
            raise OSError(errno.EBADF, f"{what} of a closed file")
        if self._life != self._disk.life:
            raise Crash
        self._disk.step(what, self.name)

    def read(self, count: int, offset: int) -> bytes:
        return bytes(self.inode.cache[offset : offset + count])

    def write(self, data: bytes, offset: int) -> None:
        self._step("write")
        cache = self.inode.cache
        growth = offset + len(data) - len(cache)
        if growth > self._disk.room:
            # As a real one: what fits is written, and then there is no space left.
            fits = len(data) - growth + self._disk.room
            if fits > 0:
                self.write(data[:fits], offset)
            self._disk.use(growth)
        if growth > 0:
            self._disk.use(growth)
            cache.extend(bytes(growth))
        cache[offset : offset + len(data)] = data
        self.inode.dirty.update(range(offset // PAGE, (offset + len(data) - 1) // PAGE + 1))

    def sync(self) -> None:
        self._step("sync")
        dirty, self.inode.dirty = self.inode.dirty, set()
        if self._disk.sync_fails():
            raise OSError(errno.EIO, "the sync failed")
        self.inode.store(dirty)

    def size(self) -> int:
        return len(self.inode.cache)

    def zero(self, start: int, end: int) -> None:
        self.write(bytes(end - start), start)

    def truncate(self, size: int) -> None:
        self._step("truncate")
        self._disk.use(size - len(self.inode.cache))
        del self.inode.cache[size:]
        # A shorter file is harmless to keep longer on the platter; to lose its end at once is the harder case.
        del self.inode.platter[size:]
        self.inode.dirty = {page for page in self.inode.dirty if page * PAGE < size}

    def close(self) -> None:
        self._closed = True


class SimulatedLock:
    def release(self) -> None:
        pass


class SimulatedDisk:
    """Attributes:
    life: Counts the crashes: what belongs to an earlier life does nothing any more.
    crash_in: After how many more steps the process stops; None for not.
    room: How many bytes are left.
    sync_failures: The probability that a sync fails.
    """

    def __init__(self, generator: random.Random, room: int = 1 << 40) -> None:
        self.random = generator
        self.life = 0
        self.crash_in: int | None = None
        self.room = room
        self.sync_failures = 0.0
        self.inodes: dict[str, Inode] = {}
        self._durable: dict[str, Inode] = {}
        self._changes: list[Callable[[dict[str, Inode]], None]] = []
        self.log: list[str] = []

    def step(self, what: str, name: str) -> None:
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in < 0:
                raise Crash

    def use(self, growth: int) -> None:
        if growth > self.room:
            raise OSError(errno.ENOSPC, "no space left on the simulated disk")
        self.room -= growth

    def sync_fails(self) -> bool:
        return self.random.random() < self.sync_failures

    def _change(self, change: Callable[[dict[str, Inode]], None]) -> None:
        change(self.inodes)
        self._changes.append(change)

    def open(self, name: str, *, create: bool = False) -> SimulatedFile:
        if name not in self.inodes:
            if not create:
                raise FileNotFoundError(errno.ENOENT, "no such simulated file", name)
            self.step("create", name)
            inode = Inode()
            self._change(lambda names: names.__setitem__(name, inode))
        return SimulatedFile(self, self.inodes[name], name)

    def names(self, directory: str) -> list[str]:
        return sorted(name.rpartition("/")[2] for name in self.inodes if name.startswith(directory + "/"))

    def exists(self, name: str) -> bool:
        return name in self.inodes

    def rename(self, old: str, new: str) -> None:
        self.step("rename", old)
        self._give_back(new)

        def change(names: dict[str, Inode]) -> None:
            if old in names:
                names[new] = names.pop(old)

        self._change(change)

    def link(self, name: str, other: str) -> None:
        self.step("link", name)
        if other in self.inodes:
            raise FileExistsError(errno.EEXIST, "there is such a simulated file", other)
        inode = self.inodes[name]
        self._change(lambda names: names.__setitem__(other, inode))

    def _give_back(self, name: str) -> None:
        """A name goes: with the last one of a file goes what it takes."""
        inode = self.inodes.get(name)
        if inode is not None and sum(other is inode for other in self.inodes.values()) == 1:
            self.room += len(inode.cache)

    def remove(self, name: str) -> None:
        self.step("remove", name)
        self._give_back(name)
        self._change(lambda names: names.__delitem__(name))

    def empty(self, directory: str) -> None:
        """Removes every file of a directory."""
        for name in self.names(directory):
            self.remove(f"{directory}/{name}")

    def make_directory(self, name: str) -> None:
        pass

    def sync_directory(self, name: str) -> None:
        self.step("sync", name)
        if self.sync_fails():
            raise OSError(errno.EIO, "the directory's sync failed")
        self._durable = dict(self.inodes)
        self._changes = []

    def block_bytes(self) -> int:
        return PAGE

    def lock(self, name: str) -> SimulatedLock:
        return SimulatedLock()

    def kill(self) -> None:
        """The process dies; the kernel goes on."""
        self.life += 1
        self.crash_in = None

    def power_cut(self) -> None:
        """Everything dies: of what was not synced, any page and any prefix of the names' changes may have survived."""
        self.kill()
        for change in self._changes[: self.random.randint(0, len(self._changes))]:
            change(self._durable)
        self.inodes = dict(self._durable)
        self._changes = []
        for inode in dict.fromkeys(self.inodes.values()):  # in an order that no address decides
            inode.store({page for page in sorted(inode.dirty) if self.random.random() < 0.5})
            inode.cache = bytearray(inode.platter)
            inode.dirty = set()


class SimulatedTimer:
    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at, self.callback, self.cancelled = at, callback, False

    def cancel(self) -> None:
        self.cancelled = True


class SimulatedWorker:
    def __init__(self, name: str) -> None:
        self.name = name
        self.jobs: deque[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]] = deque()

    def submit(self, job: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self.jobs.append((job, done))

    def close(self) -> None:
        pass


class SimulatedHelper:
    """A helper whose process is a worker of the simulation; what goes there and back is packed and unpacked.

    Attributes:
        asked: The methods that it was called for and has not executed yet.
        lost: Whether its process has ended.
    """

    def __init__(self, spawn: SimulatedSpawn, name: str, make_target: Callable[[], Any]) -> None:
        self._spawn, self._make_target = spawn, make_target
        self.name = name
        self.worker = spawn.worker(name)
        self.asked: deque[str] = deque()
        self._target: Any = None
        self.lost = False
        self._calls: dict[int, Callable[[Any, BaseException | None], None]] = {}
        self._next = 0

    def call(self, method: str, args: tuple[Any, ...], done: Callable[[Any, BaseException | None], None]) -> None:
        if self.lost:
            self._spawn.soon(lambda: done(None, HelperLost("the simulated helper has ended")))
            return
        number, self._next = self._next, self._next + 1
        self._calls[number] = done
        packed = msgspec.msgpack.encode(args)
        self.asked.append(method)
        self.worker.submit(lambda: self._execute(method, packed), lambda result, _: self._answer(number, result))

    def lose(self) -> None:
        """The process dies."""
        self.lost = True
        self.worker.jobs.clear()
        self.asked.clear()
        for number in list(self._calls):
            self._spawn.soon(partial(self._calls.pop(number), None, HelperLost("the simulated helper has died")))

    def close(self) -> None:
        self.lose()

    def _execute(self, method: str, packed: bytes) -> bytes:
        self.asked.popleft()
        try:
            if self._target is None:
                self._target = self._make_target()
            result = getattr(self._target, method)(*msgspec.msgpack.decode(packed))
            return msgspec.msgpack.encode((True, result))
        except Exception as error:
            return msgspec.msgpack.encode((False, *packed_error(error)))

    def _answer(self, number: int, packed: bytes) -> None:
        done = self._calls.pop(number, None)
        if done is None:
            return
        fine, *rest = msgspec.msgpack.decode(packed)
        if fine:
            done(rest[0], None)
        else:
            done(None, unpacked_error(*rest))


class SimulatedSpawn:
    """Threads, helpers, timers and randomness, one step at a time.

    Attributes:
        factories: What stands in for a helper's factory here, by its name: the real one where there is none.
    """

    def __init__(self, generator: random.Random) -> None:
        self.factories: dict[str, Callable[..., Any]] = {}
        self.helpers: list[SimulatedHelper] = []
        self.random = generator
        self.now_ms = 0.0
        self.callbacks: deque[Callable[[], None]] = deque()
        self.timers: list[SimulatedTimer] = []
        self.workers: list[SimulatedWorker] = []

    def worker(self, name: str) -> SimulatedWorker:
        self.workers.append(SimulatedWorker(name))
        return self.workers[-1]

    def helper(self, name: str, factory: str, args: tuple[Any, ...], *, background: bool = False) -> SimulatedHelper:
        def make_target() -> Any:
            copied = msgspec.msgpack.decode(msgspec.msgpack.encode(args))
            stand_in = self.factories.get(factory)
            return stand_in(*copied) if stand_in else make(factory, copied)

        self.helpers.append(SimulatedHelper(self, name, make_target))
        return self.helpers[-1]

    def soon(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def later(self, delay_ms: float, callback: Callable[[], None]) -> SimulatedTimer:
        timer = SimulatedTimer(self.now_ms + delay_ms, callback)
        self.timers.append(timer)
        return timer

    def random_bytes(self, count: int) -> bytes:
        return self.random.randbytes(count)

    def turn(self) -> bool:
        """Runs one callback of the owner; whether there was one."""
        if not self.callbacks:
            return False
        self.callbacks.popleft()()
        return True

    def work(self, worker: SimulatedWorker) -> bool:
        """Runs one job of a worker, whose result is handed over in a later turn; whether there was one."""
        if not worker.jobs:
            return False
        job, done = worker.jobs.popleft()
        result: Any = None
        failure: BaseException | None = None
        try:
            result = job()
        except Exception as error:
            failure = error
        self.callbacks.append(lambda: done(result, failure))
        return True

    def ring(self) -> bool:
        """Lets the next timer's time come; whether there was one."""
        self.timers = [timer for timer in self.timers if not timer.cancelled]
        if not self.timers:
            return False
        timer = min(self.timers, key=lambda entry: entry.at)
        self.timers.remove(timer)
        self.now_ms = max(self.now_ms, timer.at)
        timer.callback()
        return True

    def settle(self) -> None:
        """Runs turns and jobs until nothing is left but timers."""
        while self.turn() or sum(self.work(worker) for worker in self.workers):
            pass
