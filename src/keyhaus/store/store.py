"""The store: the databases, the one step in which a commit happens (C1), and what every reply depends on (C2).

Everything here runs in the owner's turn (the event loop's, or under the embedded lock), one step at a time. Without a
journal (memory mode) nothing is durable and no reply ever waits; with one, `last`, `written` and `synced` are its
marks.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from keyhaus.core.clock import Clock, SystemClock
from keyhaus.core.disk import Disk
from keyhaus.core.errors import Closed, StorageError, TransactionTooLarge
from keyhaus.core.settings import Durability, Settings
from keyhaus.core.spawn import Spawn
from keyhaus.core.wait import Wait
from keyhaus.journal import format as layout
from keyhaus.journal import recovery
from keyhaus.journal.format import DELETE, FAR, FLUSH, LAPSE, PUT, Frame, Operation
from keyhaus.journal.journal import Journal
from keyhaus.store.changes import Changes
from keyhaus.store.cursors import Cursors
from keyhaus.store.keyspace import Keyspace
from keyhaus.store.record import tombstone
from keyhaus.store.sweeper import Sweeper
from keyhaus.store.transaction import Transaction
from keyhaus.store.watch import Watches

BURY_STEP: Final = 5000
COUNTS_KEPT: Final = 64
_FREEING: Final = frozenset((DELETE, LAPSE, FLUSH))


class Store:
    """One database.

    Attributes:
        spaces: The generation under each database's number.
        mapped: The seqno of the commit that put it there: the mapping entry's own (S4).
        last: The newest executed commit.
        synced: What the disk has; without a journal, everything ever.
        journal: The write-ahead log; None in memory mode.
        history: Identifies this line of sequence numbers (J8).
        changes: What was committed, for those who follow.
    """

    def __init__(self, spawn: Spawn, clock: Clock | None = None, settings: Settings | None = None) -> None:
        self._spawn = spawn
        self._unix_ms = (clock or SystemClock()).unix_ms
        self.clock_ms = 0
        self.settings = settings or Settings()
        databases = self.settings.integer("databases")
        self.spaces = [Keyspace((0, number)) for number in range(databases)]
        self.mapped = [0] * databases
        self.last = 0
        self.synced = FAR
        self.journal: Journal | None = None
        self.history = spawn.random_bytes(16).hex()
        self.random = random.Random(spawn.random_bytes(16))
        self.cursors = Cursors()
        self.watches = Watches()
        self.expired_keys = 0
        self.recovered: recovery.Started | None = None
        self._max_bytes = 0
        self.settings.observe("max-transaction-bytes", self._set_max_bytes)
        self._refusal: StorageError | None = None
        self._everysec = False
        self.settings.observe("durability", self._set_durability)
        self._buried: deque[tuple[int, Keyspace, bytes]] = deque()
        self._counts: deque[tuple[int, dict[int, tuple[int, int]], int]] = deque()
        self._synced_counts: dict[int, tuple[int, int]] = {}
        self._synced_expired = self._expired_before = 0
        self._dropped: list[Keyspace] = []
        self.sweeper = Sweeper(self, spawn)
        self.changes = Changes(self, spawn)

    def _set_max_bytes(self, most: int) -> None:
        self._max_bytes = most

    def _set_durability(self, durability: str) -> None:
        self._everysec = durability == Durability.EVERYSEC

    @classmethod
    def open(
        cls,
        disk: Disk,
        spawn: Spawn,
        clock: Clock | None = None,
        settings: Settings | None = None,
        archive: Disk | None = None,
    ) -> Store:
        """A durable store: recovers what the disk holds; closed segments go to `archive` before they are reused.

        Raises:
            Corruption: Something that was synced is missing or damaged.
            OSError: The disk failed or is full.
        """
        store = cls(spawn, clock, settings)
        segment_bytes = store.settings.integer("journal-segment-bytes")
        started = recovery.start(
            disk, spawn.random_bytes, store.replay, segment_bytes=segment_bytes, archives=archive is not None
        )
        store.recovered = started
        store.last = store.synced = started.last
        store.clock_ms = started.clock
        store.history = started.manifest.history
        store.expired_keys = 0  # those of earlier runs were counted then
        store._synced_counts = store._count_keys()
        store.journal = Journal(
            disk,
            spawn,
            started,
            clock=store.now,
            segment_bytes=segment_bytes,
            max_bytes=store.settings.integer("journal-max-bytes"),
            retain_bytes=store.settings.integer("journal-retain-bytes"),
            archive=archive,
        )
        store.journal.on_progress = store._progress
        store.journal.on_group = store._group_closed
        return store

    @property
    def written(self) -> int:
        return FAR if self.journal is None else self.journal.written

    @property
    def poisoned(self) -> StorageError | None:
        return None if self.journal is None else self.journal.poisoned

    def now(self) -> int:
        """The store's one clock (S6), in milliseconds since 1970: where the wall clock runs back, it stands still."""
        now = self._unix_ms()
        if now < self.clock_ms:
            return self.clock_ms
        self.clock_ms = now
        return now

    def turn(self) -> Wait:
        """A Wait that fires in the owner's next turn, so that others come in between."""
        wait = Wait()
        self._spawn.soon(wait.fire)
        return wait

    # commits

    def commit(self, transaction: Transaction) -> Wait | None:
        """C1's one step; see `Transaction.commit`."""
        operations = transaction.operations
        if self._refusal is not None:
            raise self._refusal
        now = transaction.started or transaction.now()
        seqno = self.last + 1
        journal = self.journal
        if journal is None:
            size = 0
            for entry in operations:
                if entry[0] == PUT:
                    size += len(entry[2]) + len(entry[3])
            if size > self._max_bytes:
                raise TransactionTooLarge(size, self._max_bytes)
        else:
            frame = layout.frame(seqno, now, operations)
            if len(frame) > self._max_bytes:
                raise TransactionTooLarge(len(frame), self._max_bytes)
            frees = not operations or (operations[0][0] != PUT and all(entry[0] in _FREEING for entry in operations))
            wait = journal.room(len(frame), frees)
            if wait is not None:
                return wait
            self.last = seqno  # before anything can go wrong: no number is given twice (J8)
            journal.append(seqno, frame)
            if self._everysec:
                journal.sync_within_a_second()
        self.last = transaction.depends = seqno
        try:
            self._apply(seqno, now, operations)
        except BaseException as error:
            if journal is not None:
                journal.fail(error)  # what is in memory is no longer what the journal says
            raise
        if journal is None:
            self.changes.remember(seqno, now, operations, size)
        return None

    def _apply(self, seqno: int, now: int, operations: list[Operation]) -> None:
        spaces, watches = self.spaces, self.watches.databases
        for number, operation in enumerate(operations):
            if operation[0] == PUT:
                _, database, key, value, expires, flags = operation
                if watches:
                    self.watches.touch(database, key, deleted=False)
                head = (seqno | flags << 56).to_bytes(8, "little")
                if expires:
                    head += expires.to_bytes(8, "little", signed=True)
                    self.sweeper.deadline(expires)
                spaces[database].put(key, head + value, expires)
            elif operation[0] == DELETE or operation[0] == LAPSE:
                self._delete(seqno, operation[1], operation[2], lapse=operation[0] == LAPSE)
            elif operation[0] == FLUSH:
                self._flush(seqno, number, operation[1], now)
            else:
                self._swap(seqno, operation[1], operation[2], now)

    def _delete(self, seqno: int, database: int, key: bytes, *, lapse: bool) -> None:
        space = self.spaces[database]
        if self.watches.databases:
            self.watches.touch(database, key, deleted=True)
        if self.journal is None:
            gone = space.delete(key, None)
        else:
            # An absence depends on its deletion until that is synced (C2).
            gone = space.delete(key, tombstone(seqno))
            if gone:
                self._buried.append((seqno, space, key))
        if lapse and gone:
            self.expired_keys += 1

    def _flush(self, seqno: int, number: int, database: int, now: int) -> None:
        before = self.spaces[database]
        if self.watches.databases:
            self.watches.touch_all(database, before, None, now)
        self.spaces[database] = Keyspace((seqno, number))
        self.mapped[database] = seqno
        self._drop(before)

    def _swap(self, seqno: int, one: int, other: int, now: int) -> None:
        spaces, mapped = self.spaces, self.mapped
        if self.watches.databases:
            self.watches.touch_all(one, spaces[one], spaces[other], now)
            self.watches.touch_all(other, spaces[other], spaces[one], now)
        spaces[one], spaces[other] = spaces[other], spaces[one]
        mapped[one] = mapped[other] = seqno

    def _drop(self, space: Keyspace) -> None:
        """Frees a dropped generation in slices: millions of records at once would stall every client."""
        if space.records:
            self._dropped.append(space)
            if len(self._dropped) == 1:
                self._spawn.soon(self._free)

    def _free(self) -> None:
        space = self._dropped[0]
        records, deadlines = space.records, space.deadlines
        for _ in range(min(BURY_STEP, len(records))):
            records.popitem()
        del deadlines[-BURY_STEP:]
        if space.ordered.shrink(BURY_STEP) and not records and not deadlines:
            self._dropped.pop(0)
        if self._dropped:
            self._spawn.soon(self._free)

    def replay(self, frame: Frame) -> None:
        """Applies a commit that recovery accepted. Raises StorageError for a database that the settings don't know."""
        try:
            self._apply(frame.seqno, frame.unix_ms, frame.operations)
        except IndexError:
            raise StorageError(
                f"there is data beyond database {len(self.spaces) - 1}: set databases as high as it was"
            ) from None

    # progress

    def _progress(self) -> None:
        journal = self.journal
        assert journal is not None
        self.synced = synced = journal.synced
        counts, buried = self._counts, self._buried
        self.changes.progressed()
        while counts and counts[0][0] <= synced:
            _, self._synced_counts, self._synced_expired = counts.popleft()
        for _ in range(min(BURY_STEP, len(buried))):
            seqno, space, key = buried[0]
            if seqno > synced:
                break
            buried.popleft()
            space.bury(key, seqno)
        else:
            if buried:
                self._spawn.soon(self._progress)

    def _count_keys(self) -> dict[int, tuple[int, int]]:
        return {number: (space.count, space.volatile) for number, space in enumerate(self.spaces) if space.count}

    def _group_closed(self, last: int) -> None:
        """Numbers about data are told as of `synced` (C2), so they are taken at the end of each group."""
        if len(self._counts) >= COUNTS_KEPT:
            self._counts.pop()
        self._counts.append((last, self._count_keys(), self.expired_keys))
        self.changes.committed()

    def reset_expired(self) -> None:
        """CONFIG RESETSTAT: counts expired keys from here on."""
        self._expired_before = self.expired_keys

    def statistics(self) -> dict[str, Any]:
        """Numbers for INFO and the metrics; those about data are as of `synced`."""
        durable = self.journal is not None
        facts: dict[str, Any] = self.journal.statistics() if self.journal is not None else {}
        return {
            "engine": "rocksdb" if durable else "memory",
            "history": self.history,
            "synced": self.synced if durable else self.last,
            "changes_oldest": self.changes.oldest,
            "archived": 0,
            "archive_error": "",
            "journal_bytes": 0,
            "journal_bytes_retained": 0,
            "journal_bytes_max": self.settings.integer("journal-max-bytes") if durable else 0,
            "journal_segments": 0,
            "groups": 0,
            "syncs": 0,
            "poisoned": "",
            "full": False,
            "expired_keys": max(0, (self._synced_expired if durable else self.expired_keys) - self._expired_before),
            "keyspace": self._synced_counts if durable else self._count_keys(),
            **facts,
        }

    # the end

    def close(self, done: Callable[[BaseException | None], None]) -> None:
        """Refuses further commits, writes out everything and calls `done` with what went wrong, if anything did."""
        self._refusal = Closed("the database is closing")
        self.sweeper.close()
        self.changes.close()
        if self.journal is None:
            done(None)
        else:
            self.journal.close(done)
