"""The store: the databases, the one step in which a commit happens (C1), and what every reply depends on (C2).

Everything here runs in the owner's turn (the event loop's, or under the embedded lock), one step at a time. Without a
journal (memory mode) nothing is durable and no reply ever waits; with one, `last`, `written` and `synced` are its
marks. With a ground, what is in memory is flushed to it, and what is not in memory is read from it.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from keyhaus.core.clock import Clock, SystemClock
from keyhaus.core.disk import Disk
from keyhaus.core.errors import Closed, DiskFull, StorageError, TransactionTooLarge
from keyhaus.core.settings import Durability, Settings
from keyhaus.core.spawn import Spawn
from keyhaus.core.wait import Wait
from keyhaus.journal import format as layout
from keyhaus.journal import recovery
from keyhaus.journal.format import DELETE, FAR, FLUSH, LAPSE, PUT, Frame, Operation
from keyhaus.journal.journal import Journal
from keyhaus.store import layout as rows
from keyhaus.store.backup.online import Backups
from keyhaus.store.changes import Changes
from keyhaus.store.counts import Counts
from keyhaus.store.cursors import Cursors
from keyhaus.store.eviction import Evictor
from keyhaus.store.flush import Flusher
from keyhaus.store.garbage import FREE_STEP, Garbage
from keyhaus.store.gather import Gatherer
from keyhaus.store.ground import Ground
from keyhaus.store.keyspace import Keyspace, Table, version_bytes
from keyhaus.store.layout import Generation, Meta
from keyhaus.store.locks import Locks
from keyhaus.store.optimistic import Guard
from keyhaus.store.record import tombstone
from keyhaus.store.snapshot import Snapshot, Snapshots
from keyhaus.store.statistics import SyncedCounts, statistics
from keyhaus.store.sweeper import Sweeper
from keyhaus.store.transaction import Transaction
from keyhaus.store.transactions import Transactions
from keyhaus.store.turns import wait_for_turn
from keyhaus.store.views import Views
from keyhaus.store.watch import Watches

log = logging.getLogger("keyhaus.store")

BURY_STEP: Final = 2000
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
        ground: The base under the memtable; None where everything stays in memory.
        base_seqno: Every commit up to it is in the base.
        dropped: Generations that are to be cleaned in the base, each with the seqno that dropped it (S4).
        garbage: What is being freed.
        max_bytes: How much one transaction or command may write.
        locks: Who holds what, and who waits for it.
        guards: What optimistic transactions are validating.
        transactions: The interactive ones that are open, and what became of the others.
        changes: What was committed, for those who follow.
        counts_synced: How many keys there are, as of `synced`.
        expired_keys, expired_before: How many expired since the start, and up to the last CONFIG RESETSTAT.
        backups: What makes backups of it; None where there is nothing on disk.
    """

    def __init__(self, spawn: Spawn, clock: Clock | None = None, settings: Settings | None = None) -> None:
        self.spawn = spawn
        clock = clock or SystemClock()
        self._unix_ms, self.monotonic_ns = clock.unix_ms, clock.monotonic_ns
        self.clock_ms = 0
        self.settings = settings or Settings()
        databases = self.settings.integer("databases")
        self.views = Views()
        self.settings.observe("cache-bytes", self._resize_cache)
        self.views.free = self._drop
        self.spaces = [Keyspace((0, number), self.views) for number in range(databases)]
        self.mapped = [0] * databases
        self.last = 0
        self.synced = FAR
        self.journal: Journal | None = None
        self.history = spawn.random_bytes(16).hex()
        self.random = random.Random(spawn.random_bytes(16))
        self.ground: Ground | None = None
        self.flusher: Flusher | None = None
        self.base_seqno = 0
        self.dropped: dict[Generation, int] = {}
        self._cleaning = False
        self.snapshots = Snapshots(self)
        self.gatherer = Gatherer(self)
        self.counts = Counts(self)
        self._gates: set[object] = set()
        self._gate = Wait()
        self._unfreed: dict[Keyspace, int] = {}  # dropped, each with the seqno that dropped it
        self.cursors = Cursors(random.Random(spawn.random_bytes(16)))
        self.watches = Watches()
        self.expired_keys = 0
        self.recovered: recovery.Started | None = None
        self.max_bytes = 0
        self.settings.observe("max-transaction-bytes", self._set_max_bytes)
        self._refusal: StorageError | None = None
        self._everysec = False
        self.settings.observe("durability", self._set_durability)
        self._buried: deque[tuple[int, Keyspace, bytes]] = deque()
        self.counts_synced = SyncedCounts(self)
        self.expired_before = 0
        self.garbage = Garbage(spawn)
        self.sweeper = Sweeper(self, spawn)
        self.locks = Locks(self.monotonic_ns)
        self.guards: list[Guard] = []
        self.transactions = Transactions(self)
        self.changes = Changes(self, spawn)
        self.backups: Backups | None = None
        self.evictor = Evictor(self)

    def _set_max_bytes(self, most: int) -> None:
        self.max_bytes = most

    def _resize_cache(self, most: int) -> None:
        self.views.cache.resize(most)
        self._trim_cache()

    def _trim_cache(self) -> None:
        """Gives back in slices what a smaller cache has no room for."""
        cache = self.views.cache
        cache.trim(FREE_STEP)
        if cache.size > cache.most:
            self.spawn.soon(self._trim_cache)

    def _set_durability(self, durability: str) -> None:
        self._everysec = durability == Durability.EVERYSEC

    @classmethod
    def open(
        cls,
        disk: Disk,
        spawn: Spawn,
        clock: Clock | None = None,
        settings: Settings | None = None,
        ground: Ground | None = None,
        writer: tuple[str, tuple[Any, ...]] = ("", ()),
        archive: Disk | None = None,
    ) -> Store:
        """A durable store: recovers what the disk holds.

        Args:
            disk: Where the journal is.
            spawn: Threads, processes, timers and randomness.
            clock: The time.
            settings: The settings in force.
            ground: The base, opened; without one all data stays in memory, and the journal is never given back.
            writer: The factory of the helper that writes runs, and its arguments.
            archive: Where closed segments of the journal go before they are reused.

        Raises:
            Corruption: Something that was synced is missing or damaged.
            OtherFormat: A file is of another version.
            OSError: The disk failed or is full.
        """
        store = cls(spawn, clock, settings)
        segment_bytes = store.settings.integer("journal-segment-bytes")
        meta = None if ground is None else ground.meta
        if meta is not None:
            store._stand_on(meta)
            assert ground is not None
            store.transactions.outcomes.load(ground.outcomes, meta.forgotten_ms)
        started = recovery.start(
            disk,
            spawn.random_bytes,
            store.replay,
            segment_bytes=segment_bytes,
            base_seqno=store.base_seqno,
            history=None if meta is None else meta.history,
            archives=archive is not None,
        )
        store.recovered = started
        store.last = store.synced = started.last
        store.clock_ms = max(store.clock_ms, started.clock)
        store.history = started.manifest.history
        store.expired_keys = 0  # those of earlier runs were counted then
        store.counts_synced.begin()
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
        if ground is not None:
            store.ground = ground
            store.views.release = ground.release
            store.flusher = Flusher(store, *writer)
            store.journal.release(store.base_seqno)
            store._reserve()  # only now: the journal's start comes first
            spawn.soon(store.flusher.check)
            store.sweeper.look_below()
        return store

    def _stand_on(self, meta: Meta) -> None:
        """Takes over what a base says of itself. Raises StorageError for a database that the settings don't know."""
        if any(space.count for space in meta.spaces[len(self.spaces) :]):
            raise self._unknown_database()
        self.base_seqno, self.clock_ms = meta.seqno, meta.clock
        self.dropped = dict(meta.dropped)
        for number, entry in enumerate(meta.spaces[: len(self.spaces)]):
            space = Keyspace(entry.generation, self.views)
            space.based = space.below = True
            space.base_count, space.base_volatile = entry.count, entry.volatile
            space.inexact = not entry.exact
            space.landmarks = list(entry.landmarks)
            self.spaces[number] = space

    @property
    def written(self) -> int:
        return FAR if self.journal is None else self.journal.written

    @property
    def poisoned(self) -> StorageError | None:
        return None if self.journal is None else self.journal.poisoned

    def may_be_told(self, seqno: int, needs_sync: bool) -> bool:
        """C3: whether somebody may be told now what depends on a seqno. What is poisoned and not synced never is."""
        return seqno <= (self.synced if needs_sync or self.poisoned is not None else self.written)

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
        self.spawn.soon(wait.fire)
        return wait

    def check_open(self) -> None:
        """Raises Closed where no more is taken."""
        if self._refusal is not None:
            raise self._refusal

    # commits

    def commit(self, transaction: Transaction) -> Wait | None:
        """C1's one step; see `Transaction.commit`."""
        if self._refusal is not None:
            raise self._refusal
        if self._gates:
            return self._gate
        if self.locks.active and transaction.takes_turns and (turn := wait_for_turn(self.locks, transaction)):
            return turn
        operations = transaction.operations
        now = transaction.started or transaction.now()
        seqno = self.last + 1
        journal = self.journal
        if journal is None:
            size = 0
            for entry in operations:
                if entry[0] == PUT:
                    size += len(entry[2]) + len(entry[3])
            if size > self.max_bytes:
                raise TransactionTooLarge(size, self.max_bytes)
        else:
            frame = layout.frame(seqno, now, operations, transaction.id)
            if len(frame) > self.max_bytes:
                raise TransactionTooLarge(len(frame), self.max_bytes)
            frees = not operations or (operations[0][0] != PUT and all(entry[0] in _FREEING for entry in operations))
            wait = self._room(journal, transaction, len(frame), frees)
            if wait is not None:
                return wait
            self.last = seqno  # before anything can go wrong: no number is given twice (J8)
            journal.append(seqno, frame)
            if self._everysec:
                journal.sync_within_a_second()
        self.last = transaction.depends = seqno
        try:
            self._apply(seqno, now, operations, transaction)
        except BaseException as error:
            if journal is not None:
                journal.fail(error)  # what is in memory is no longer what the journal says
            raise
        if journal is None:
            self.changes.remember(seqno, now, operations, size)
        if self.guards or transaction.owner is not None or transaction.id is not None:
            self._finish_commit(transaction)
        return None

    def _finish_commit(self, transaction: Transaction) -> None:
        """What interactive transactions, and those that waited for them, add to a commit's step."""
        if transaction.id is not None:
            self.transactions.outcomes.committed(transaction.id, transaction.depends)
        for guard in self.guards:
            guard.note(transaction.operations)
        if transaction.owner is not None:
            self.locks.end(transaction.owner)
            transaction.owner = None

    def _room(self, journal: Journal, transaction: Transaction, size: int, frees: bool) -> Wait | None:
        """What a commit has to wait for: room in the journal, or flushing to keep up."""
        flusher = self.flusher
        try:
            wait = journal.room(size, frees)
        except DiskFull:
            if flusher is None or not flusher.can_make_room():
                raise
            return flusher.make_room()
        if wait is None and flusher is not None and flusher.slow:
            return flusher.stall(transaction, size, frees)
        return wait

    def _apply(self, seqno: int, now: int, operations: list[Operation], transaction: Transaction | None = None) -> None:
        spaces, watches = self.spaces, self.watches.databases
        for number, operation in enumerate(operations):
            if operation[0] == PUT:
                _, database, key, value, expires, flags = operation
                if watches:
                    self.watches.touch(database, key, deleted=False)
                head = (seqno | flags << 56).to_bytes(8, "little")
                if expires:
                    head += expires.to_bytes(8, "little", signed=True)
                    self.sweeper.deadline()
                spaces[database].put(key, head + value, expires)
            elif operation[0] == DELETE or operation[0] == LAPSE:
                self._delete(seqno, operation[1], operation[2], lapse=operation[0] == LAPSE)
            elif operation[0] == FLUSH:
                self._flush(seqno, number, operation[1], now)
            else:
                self._swap(seqno, operation[1], operation[2], now, transaction)

    def _delete(self, seqno: int, database: int, key: bytes, *, lapse: bool) -> None:
        space = self.spaces[database]
        if self.watches.databases:
            self.watches.touch(database, key, deleted=True)
        if self.journal is None and not self.views.keep and not space.below:
            gone = space.delete(key, None)
        else:
            # An absence depends on its deletion until that is synced (C2).
            gone = space.delete(key, tombstone(seqno))
            if gone and not space.below:
                self._buried.append((seqno, space, key))
        if lapse and (gone or space.below):
            self.expired_keys += 1

    def _flush(self, seqno: int, number: int, database: int, now: int) -> None:
        before = self.spaces[database]
        if self.watches.databases:
            self.watches.touch_all(database, None, now)
        self.spaces[database] = Keyspace((seqno, number), self.views)
        self.mapped[database] = seqno
        before.uses = None
        if before.below:
            self.dropped[before.generation] = seqno
        if self.snapshots.reached({before: seqno}):
            self._unfreed[before] = seqno
            self.snapshots.check_soon()
        else:
            self._drop(before)

    def _swap(self, seqno: int, one: int, other: int, now: int, transaction: Transaction | None) -> None:
        spaces, mapped = self.spaces, self.mapped
        if transaction is not None and self.watches.databases:
            self.watches.touch_all(one, lambda key: transaction.look(spaces[other], key), now)
            self.watches.touch_all(other, lambda key: transaction.look(spaces[one], key), now)
        spaces[one], spaces[other] = spaces[other], spaces[one]
        mapped[one] = mapped[other] = seqno

    def _drop(self, table: Keyspace | Table) -> None:
        """Lets go of what nobody reads any more."""
        if table.versions:
            if len(self.snapshots):  # else all of them are forgotten at once
                self.views.version_bytes -= sum(map(version_bytes, table.versions.values()))
            table.versions = {}
        if table.records:
            self.garbage.add(table)

    def replay(self, frame: Frame) -> None:
        """Applies a commit that recovery accepted. Raises StorageError for a database that the settings don't know."""
        operations = frame.operations
        try:
            if len(operations) == 1 and operations[0][0] == PUT and not operations[0][4] and not frame.transaction:
                # What most commits are, and a start has millions of them: `_apply` in short.
                _, database, key, value, _, flags = operations[0]
                self.spaces[database].put(key, (frame.seqno | flags << 56).to_bytes(8, "little") + value, 0)
            else:
                self._apply(frame.seqno, frame.unix_ms, operations)
                if frame.transaction is not None:
                    self.transactions.outcomes.committed(frame.transaction, frame.seqno)
        except IndexError:
            raise self._unknown_database() from None

    def _unknown_database(self) -> StorageError:
        return StorageError(f"there is data beyond database {len(self.spaces) - 1}: set databases as high as it was")

    # progress

    def _progress(self) -> None:
        synced = self.synced
        if self.journal is not None:
            self.synced = synced = self.journal.synced
        buried = self._buried
        self.changes.progressed()
        self.counts_synced.progressed(synced)
        oldest = self.snapshots.oldest_seqno()
        if oldest is not None:
            synced = min(synced, oldest)
        for _ in range(min(BURY_STEP, len(buried))):
            seqno, space, key = buried[0]
            if seqno > synced:
                break
            buried.popleft()
            space.bury(key, seqno)
        else:
            if buried:
                self.spawn.soon(self._progress)

    def _group_closed(self, last: int) -> None:
        self.counts_synced.group_closed(last)
        self.changes.committed()
        if self.flusher is not None:
            self.flusher.check()

    def locked(self, space: Keyspace, key: bytes) -> bool:
        """T2: whether a key of a current generation is under a lock: sweeping and eviction pass over it."""
        locks = self.locks
        return bool(locks.active) and locks.locked(self.spaces.index(space), key)

    # the base

    def snapshot(self, *, aging: bool = True) -> Snapshot:
        """The store as it is now, to be read page by page; to be closed.

        Args:
            aging: Whether it ends once it is older than `snapshot-max-ms`, or retains more than `snapshot-max-bytes`.
                What does not age may retain as much again as there is data when it begins.
        """
        return self.snapshots.begin(aging)

    def snapshot_ended(self) -> None:
        """What only ended snapshots reached may go."""
        reached = self.snapshots.reached(self._unfreed)
        for space in self._unfreed:
            if space not in reached:
                self._drop(space)
        self._unfreed = reached
        if self._buried:
            self.spawn.soon(self._progress)
        if self.dropped:
            self._clean()

    def flushed(self) -> None:
        """A run is in the base, and the memtables that it was made of are gone."""
        assert self.ground is not None
        assert self.ground.meta is not None
        self.base_seqno = self.ground.meta.seqno
        self._reserve()
        self.snapshots.check_soon()
        self.sweeper.flushed()
        self._clean()

    def _reserve(self) -> None:
        assert self.ground is not None
        self.ground.call("reserve", None, (), self.ground.told("no room could be kept for the next start and flush"))

    def _clean(self) -> None:
        """S4: cleans generations that were dropped, once nothing can reach them or bring them back."""
        ground = self.ground
        if ground is None or self._cleaning or self._refusal is not None:
            return
        oldest = self.snapshots.oldest_seqno()
        ripe = (
            generation
            for generation, seqno in self.dropped.items()
            if seqno <= self.base_seqno and (oldest is None or seqno <= oldest)
        )
        generation = next(ripe, None)
        if generation is None:
            return
        self._cleaning = True
        prefix = rows.prefix(generation)

        def cleaned(_: Any, error: BaseException | None) -> None:
            self._cleaning = False
            if error is None:
                self.dropped.pop(generation, None)
                self._clean()
            else:
                log.warning("what a dropped database held can't be cleaned yet: %s", error)

        ground.call("drop", None, (prefix, rows.behind(prefix)), cleaned)

    def ground_stats(self) -> dict[str, Any]:
        """The engine's numbers, as of the newest flush."""
        return {} if self.ground is None else self.ground.stats

    def hold(self, holder: object, *, held: bool) -> None:
        """Makes commits wait, or lets them go on; for the moment that a count needs."""
        if held:
            self._gates.add(holder)
        elif holder in self._gates:
            self._gates.discard(holder)
            gate, self._gate = self._gate, Wait()
            gate.fire()

    def unfreed_bytes(self) -> int:
        """What generations take in memory that were dropped while snapshots reach them."""
        return sum(space.bytes + sum(table.bytes for table in space.sealed) for space in self._unfreed)

    def unburied(self) -> int:
        """How many tombstones wait to be removed."""
        return len(self._buried)

    def reset_counters(self) -> None:
        """CONFIG RESETSTAT: counts expired and evicted keys, and what becomes of transactions, from here on."""
        self.expired_before = self.expired_keys
        self.evictor.evicted_keys = 0
        self.transactions.reset_counters()

    def statistics(self) -> dict[str, Any]:
        """Numbers for INFO and the metrics; those about data are as of `synced`."""
        return statistics(self)

    # the end

    def close(self, done: Callable[[BaseException | None], None]) -> None:
        """Refuses further commits, writes out everything and calls `done` with what went wrong, if anything did."""
        self._refusal = Closed("the database is closing")
        if self.backups is not None:
            self.backups.close()
        self.sweeper.close()
        if self.flusher is not None:
            self.flusher.close()
        self.changes.close()
        if self.journal is None:
            done(None)
        else:
            self.journal.close(done)

    def close_ground(self) -> None:
        """Ends the base's helper; nothing is read any more."""
        if self.ground is not None:
            self.ground.close()
