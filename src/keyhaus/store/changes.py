"""The change feed: what was committed, in order, for those who follow.

It tells what is synced, and nothing else (S7). The newest commits are in RAM; older ones are read from the journal's
segments and the archive, in a worker, a slice at a time. Without a journal a bounded number of bytes in RAM is all.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from keyhaus.core import limits
from keyhaus.core.errors import Poisoned, StorageError, UserError
from keyhaus.core.keys import PLAIN_END
from keyhaus.core.spawn import Spawn, Worker
from keyhaus.core.wait import Wait
from keyhaus.journal import reading
from keyhaus.journal.format import FLUSH, PUT, SWAP, Frame, Operation
from keyhaus.journal.reading import Page, Room, Running

if TYPE_CHECKING:
    from keyhaus.store.store import Store

SYNC_MS: Final = 1000
PASSED_BYTES_MAX: Final = limits.MIB
COMMIT_OVERHEAD: Final = 300  # of a commit in RAM: its tuple and its list of operations
OPERATION_OVERHEAD: Final = 200  # of an operation: a tuple and the heads of two bytes objects

__all__ = ["Changes", "Page", "Room", "Wanted"]


class Wanted(NamedTuple):
    """Which operations a reader wants.

    Attributes:
        database: Those of one database; None for all.
        prefix: Those whose key begins with it; operations on whole databases have no key and are always wanted. Typed
            keys (core/keys.py) are told only where it begins as they do.
    """

    database: int | None
    prefix: bytes


def entry(wanted: Wanted, frame: Frame) -> list[Any] | None:
    """A commit as a reader is told of it: [seqno, unix-ms, [operation, …]]; None if nothing of it is wanted."""
    database, prefix = wanted
    typed = prefix >= PLAIN_END
    told = []
    for operation in frame.operations:
        kind = operation[0]
        if kind == SWAP:
            if database is None or database in operation[1:]:
                told.append([b"swap", *operation[1:]])
        elif database is not None and operation[1] != database:
            continue
        elif kind == FLUSH:
            told.append([b"flush", operation[1]])
        elif not operation[2].startswith(prefix) or (operation[2] >= PLAIN_END and not typed):
            continue
        elif kind == PUT:
            _, number, key, value, expires, _ = operation
            told.append([b"put", number, key, value, expires] if expires else [b"put", number, key, value])
        else:
            told.append([b"del", *operation[1:]])
    return [frame.seqno, frame.unix_ms, told] if told else None


class Recent:
    """Memory mode's feed: the newest commits, up to a number of bytes. Its seqnos are without a gap.

    Attributes:
        begins_after: The seqno after which it has everything.
    """

    def __init__(self) -> None:
        self.begins_after = 0
        self.bytes_max = 0
        self._bytes = 0
        self._commits: deque[tuple[int, int, list[Operation], int]] = deque()  # the last is its size

    def bound(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._shrink()

    def append(self, seqno: int, unix_ms: int, operations: list[Operation], put_bytes: int) -> None:
        """Adds a commit; `put_bytes` is the size of the keys and values that it put."""
        size = put_bytes + OPERATION_OVERHEAD * len(operations) + COMMIT_OVERHEAD
        self._commits.append((seqno, unix_ms, operations, size))
        self._bytes += size
        if self._bytes > self.bytes_max:
            self._shrink()

    def _shrink(self) -> None:
        while self._bytes > self.bytes_max:
            self.begins_after, _, _, size = self._commits.popleft()
            self._bytes -= size

    def page(self, after: int, wanted: Wanted, room: Room) -> Page:
        """As `reading.page`."""
        entries: list[Any] = []
        size, at = 0, after
        for index in self._slice(after):
            at_next, unix_ms, operations, commit_bytes = self._commits[index]
            told = entry(wanted, Frame(at_next, unix_ms, None, operations))
            if told is not None:
                if size + commit_bytes > room.bytes and (entries or not room.empty):
                    return Page(entries, size, at, True)
                entries.append(told)
                size += commit_bytes
            at = at_next
            if len(entries) >= room.entries:
                break
        return Page(entries, size, at, False)

    def _slice(self, after: int) -> Iterator[int]:
        begin = after - self.begins_after
        return iter(range(begin, min(begin + reading.SLICE_FRAMES, len(self._commits))))


class Changes:
    """The change feed of one store."""

    def __init__(self, store: Store, spawn: Spawn) -> None:
        self._store, self._spawn = store, spawn
        self._recent = Recent()
        store.settings.observe("feed-bytes", self._recent.bound)
        self._running: Running | None = None
        self._worker: Worker | None = None
        self._waiting: set[Wait] = set()
        self._told = 0  # the newest that those who wait know of
        self._asked = self._waking = False
        self._passed: OrderedDict[tuple[int, Wanted], int] = OrderedDict()
        self._passed_bytes = 0

    @property
    def newest(self) -> int:
        """What can be told by now (S7)."""
        return self._store.last if self._store.journal is None else self._store.synced

    @property
    def oldest(self) -> int:
        """The lowest seqno after which everything can be told, as far as is known."""
        journal = self._store.journal
        return self._recent.begins_after if journal is None else journal.oldest

    # reading

    async def page(self, after: int, wanted: Wanted, room: Room, *, may_wait: bool) -> Page:
        """Some of what follows a number that is below `newest`; it looks at no more than a slice.

        Args:
            after: Where to begin.
            wanted: What to choose.
            room: How much to choose.
            may_wait: Whether the disk may be read.

        Raises:
            ChangesTooOld: It is not kept any more.
            ChangesLost: `after` is none of this history's numbers.
            StorageError: It can't be read.
            UserError: It would have to be read, and that may not be waited for.
        """
        journal = self._store.journal
        if journal is None:
            if after < self._recent.begins_after:
                raise reading.too_old(after, self._recent.begins_after)
            return self._recent.page(after, wanted, room)
        choose = partial(entry, wanted)
        if after >= journal.tail.begins_after:
            return reading.page(journal.tail.steps(after, journal.synced), after, choose, room)
        if not may_wait:
            raise UserError(
                f"what follows {after} is not in memory any more, and inside MULTI the disk is not waited for: "
                "ask outside of it"
            )
        if self._running is None or self._worker is None:
            archiver = journal.closed.archiver
            self._running = Running(journal.disk, archiver.disk if archiver is not None else None)
            self._worker = self._spawn.worker("changes-reader")
        job = partial(self._running.page, journal.manifest, journal.synced, after, choose, room)
        return await _done(self._worker, job)

    # waiting

    async def further(self, timeout_ms: float | None) -> bool:
        """Waits until there may be more to tell; whether there may be (False: the time was over).

        Raises:
            Poisoned: There will be no more.
        """
        if self._store.poisoned is not None:
            raise Poisoned(self._store.poisoned.message)
        wait = Wait(timeout_ms, outside=True)
        self._waiting.add(wait)
        self._told = self._store.synced
        self.ask_for_sync()
        try:
            return await wait
        finally:
            self._waiting.discard(wait)

    def ask_for_sync(self) -> None:
        """S7: a reader makes a sync be asked for, once a second at most."""
        store = self._store
        if store.journal is None or self._asked or store.last <= store.synced:
            return
        self._asked = True
        store.journal.demand(store.last)
        self._spawn.later(SYNC_MS, self._ask_again)

    def _ask_again(self) -> None:
        self._asked = False
        if self._waiting:
            self.ask_for_sync()

    def committed(self) -> None:
        """There is something that is not synced yet."""
        if self._waiting:
            self.ask_for_sync()

    def remember(self, seqno: int, unix_ms: int, operations: list[Operation], put_bytes: int) -> None:
        """A commit of memory mode; see `Recent.append`."""
        self._recent.append(seqno, unix_ms, operations, put_bytes)
        if self._waiting and not self._waking:
            self._waking = True
            self._spawn.soon(self._wake)

    def progressed(self) -> None:
        """A mark has moved, or never will again."""
        if self._waiting and (self._store.synced > self._told or self._store.poisoned is not None):
            self._told = self._store.synced
            self._wake()

    def _wake(self) -> None:
        self._waking = False
        waiting, self._waiting = self._waiting, set()
        for wait in waiting:
            wait.fire()

    # what was looked at in vain

    def passed(self, after: int, wanted: Wanted) -> int:
        """Up to where it is known that nothing wanted follows `after`."""
        return self._passed.get((after, wanted), after)

    def pass_over(self, after: int, wanted: Wanted, at: int) -> None:
        """Nothing wanted lies between the two: whoever asks again need not look again, be it far."""
        key = (after, wanted)
        if self._passed.pop(key, None) is not None:
            self._passed_bytes -= len(wanted.prefix)
        self._passed[key] = at
        self._passed_bytes += len(wanted.prefix)
        while len(self._passed) > limits.CHANGES_PLACES_MAX or self._passed_bytes > PASSED_BYTES_MAX:
            (_, forgotten), _ = self._passed.popitem(last=False)
            self._passed_bytes -= len(forgotten.prefix)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()


async def _done(worker: Worker, job: partial[Page]) -> Page:
    """A worker's answer, waited for."""
    wait = Wait()
    answers: list[tuple[Page, BaseException | None]] = []

    def answered(page: Page, error: BaseException | None) -> None:
        answers.append((page, error))
        wait.fire()

    worker.submit(job, answered)
    await wait
    page, error = answers[0]
    if isinstance(error, OSError):
        raise StorageError(f"the journal or its archive can't be read: {error.strerror or error}") from None
    if error is not None:
        raise error
    return page
