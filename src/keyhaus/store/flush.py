"""Flushing: a sealed memtable becomes one run of the base (S1), while reads and writes go on.

    seal      the active tables go below empty ones; everything up to the newest commit is in them or in the base
    send      their records go to a helper process, slice by slice, which sorts and writes them as a run
    finish    the run is durable; it carries the meta row, so that it says itself up to where the base reaches
    sync      the journal has synced all that is in it: nothing may be in the base that could still be lost
    ingest    the base takes the run, whole or not at all, and has a new view
    retire    the row cache follows, then the sealed tables go, or stay for readers of older views
    release   the journal may give back the segments that hold nothing newer

What fails is tried again, and the sealed tables are read as long as it takes. Meanwhile writers are slowed down: the
fuller the active tables, the more, by as much as flushing can keep up with; at the end they wait.
"""

from __future__ import annotations

import errno
import logging
import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from keyhaus.core.errors import DiskFull, StorageError
from keyhaus.core.spawn import Helper, HelperLost
from keyhaus.core.wait import Wait
from keyhaus.journal.manifest import Line
from keyhaus.store import layout
from keyhaus.store.layout import Meta, Space
from keyhaus.store.record import TOMBSTONE

if TYPE_CHECKING:
    from keyhaus.store.keyspace import Keyspace, Table
    from keyhaus.store.record import Record
    from keyhaus.store.store import Store
    from keyhaus.store.transaction import Transaction

log = logging.getLogger("keyhaus.store")

SLICE_ROWS: Final = 250  # sent in one turn: an eighth of a millisecond
FOLLOW_ROWS: Final = 64  # that the row cache follows at once,
FOLLOW_NS: Final = 110_000  # which takes so long, and is done as often in a turn
FOLLOW_SHARE: Final = 4  # as makes it this part of the time since the last turn: turns may be long
SLICE_BYTES: Final = 256 << 10
IN_FLIGHT_MAX: Final = 6
RETRY_MS: Final = 500
RETRY_MS_MAX: Final = 30_000
FAILURES_WAITED: Final = 5  # after so many failures in a row, who would have to wait for a flush is told instead
SLOW_FROM: Final = 0.5  # of memtable-bytes in the active tables while a flush is under way: from here on slower
STOP_AT: Final = 1.0  # and here writers wait for its end
AHEAD_NS: Final = 2_000_000  # so far ahead of its slot a writer may go on: a timer's step is a millisecond
SLOT_NS_MAX: Final = 500_000_000  # for longer nobody waits before it is looked at anew
RATE_LEAST: Final = 0.02  # of the rate of flushing, however full it is
RATE_FIRST: Final = 32 << 20  # bytes a second, until a flush has shown better
LEVEL0_SLOW: Final = 12  # files that compaction has still to merge: from here on writers are slowed down
LEVEL0_STOP: Final = 40  # and here no further run is ingested
JOURNAL_MEMTABLES: Final = 4  # a journal that many times longer than a memtable is a reason to flush
LANDMARKS_MAX: Final = 256
LANDMARKS_A_RUN: Final = 32
SAMPLED_KEYS: Final = 10_000
LANDMARK_BYTES: Final = 64


class Sealed:
    """A memtable that is being flushed.

    Attributes:
        tables: Its parts.
        meta: What the base covers once it has it.
        dead: Rows of the expiry index that its run deletes.
        outcomes: Transactions that were committed since the last one, and (None) those that are forgotten (T9).
        bytes: What it takes in memory.
    """

    def __init__(
        self,
        tables: list[tuple[Keyspace, Table]],
        meta: Meta,
        dead: list[bytes],
        outcomes: list[tuple[bytes, int | None]],
    ) -> None:
        self.tables, self.meta, self.dead, self.outcomes = tables, meta, dead, outcomes
        self.bytes = sum(table.bytes for _, table in tables)


class Flusher:
    """Flushes a store's memtable when it is full.

    Attributes:
        sealed: What is being flushed; None where nothing is.
        flushes, failures, flushed_bytes, stalls, stall_ms: Counts for INFO.
        failure: Why the last attempt failed; empty once one succeeded.
        on_step: Called at each named step, for tests that stop there.
    """

    def __init__(self, store: Store, factory: str, args: tuple[Any, ...]) -> None:
        self._store, self._factory, self._args = store, factory, args
        self._spawn = store.spawn
        self.sealed: Sealed | None = None
        self.flushes = self.failures = self.flushed_bytes = 0
        self.stalls = self.stall_ms = 0
        self.failure = ""
        self.slow = False
        self.on_step: Callable[[str], None] = lambda step: None
        self._full = False
        self._failed_in_a_row = 0
        self._attempt = 0
        self._retry_ms = RETRY_MS
        self._begun_ns = self._followed_ns = 0
        self._rate = float(RATE_FIRST)
        self._free_ns = 0
        self._writer: Helper | None = None
        self._closed = False
        self._wanted = False
        self._over = Wait()
        self._stalled = Wait()  # fires when a stalled commit is to look again
        self._lines: tuple[Line, ...] = ()
        self._random = random.Random(store.spawn.random_bytes(8))
        self._bytes_max = self._rows_max = 0
        store.settings.observe("memtable-bytes", self._set_bytes)
        store.settings.observe("memtable-size", self._set_rows)

    def _set_bytes(self, most: int) -> None:
        self._bytes_max = most

    def _set_rows(self, most: int) -> None:
        self._rows_max = most

    # when

    def active_bytes(self) -> int:
        return sum([space.bytes for space in self._store.spaces])

    def check(self) -> None:
        """Called at the end of each group: seals what is full, and slows down writers while that is not flushed."""
        active = self.active_bytes()
        if self.sealed is not None:
            self.slow = active > SLOW_FROM * self._bytes_max
        elif active >= self._bytes_max or self._wanted or self._many_rows() or self._long_journal():
            self.begin()

    def _many_rows(self) -> bool:
        return 0 < self._rows_max <= sum([len(space.records) for space in self._store.spaces])

    def _long_journal(self) -> bool:
        journal = self._store.journal
        assert journal is not None
        lines = journal.manifest.segments
        if lines is self._lines:
            return False
        self._lines = lines
        behind = self._segments_behind()
        if not behind:
            return False  # a flush would give back nothing
        settings = self._store.settings
        most = min(JOURNAL_MEMTABLES * self._bytes_max, settings.integer("journal-max-bytes") // 2)
        return (1 + behind) * settings.integer("journal-segment-bytes") > most

    def _segments_behind(self) -> int:
        """How many segments of the journal a flush would give back."""
        journal, base = self._store.journal, self._store.base_seqno
        assert journal is not None
        return sum([1 for line in journal.manifest.segments[1:] if line.begins_after > base])

    def can_make_room(self) -> bool:
        """Whether a flush would give back any of the journal: none has failed, and more than one segment is needed."""
        journal = self._store.journal
        assert journal is not None
        if self.failure or self._closed or journal.poisoned is not None:
            return False
        return self.sealed is not None or self._segments_behind() > 0

    def make_room(self) -> Wait:
        """Asks for a flush; the Wait fires when it is worth looking again: at its end, or at a failure."""
        self.want()
        return self._stalled

    def want(self) -> Wait:
        """Asks for a flush; the Wait fires at the end of the next one to end, which may be under way already."""
        self._wanted = True
        over = self._over
        if self.sealed is None:
            self._spawn.soon(self.check)
        return over

    def begin(self) -> None:
        """Seals the active tables and starts to flush them, where they hold anything that the base doesn't have."""
        store = self._store
        self._wanted = False
        if self._closed or store.last <= store.base_seqno:
            return self._end()
        for space in store.spaces:
            self._sample(space)
        tables = [(space, space.seal()) for space in store.spaces if space.records]
        dead = store.views.take_dead_deadlines()
        self.sealed = Sealed(tables, self._meta(), dead, store.transactions.outcomes.take())
        self._begun_ns = store.monotonic_ns()
        assert store.journal is not None
        store.journal.demand(self.sealed.meta.seqno)
        self.on_step("seal")
        self._spawn.soon(self._start)

    def _meta(self) -> Meta:
        store = self._store
        spaces = tuple(
            Space(space.generation, space.count, space.count_volatile(), space.exact(), tuple(space.landmarks))
            for space in store.spaces
        )
        forgotten_ms = store.transactions.outcomes.forgotten_ms
        return Meta(store.history, store.last, store.clock_ms, spaces, tuple(store.dropped.items()), forgotten_ms)

    # how

    def _start(self) -> None:
        """One attempt: the helper gets the records slice by slice."""
        if self.sealed is None or self._closed:
            return
        level0 = self._store.ground_stats().get("level0_files", 0)
        if level0 >= LEVEL0_STOP:
            self._wait_for_compaction()
            return
        self._attempt += 1
        name = f"{self.sealed.meta.seqno:020}-{self._attempt}"
        kept = self._writer is not None
        if self._writer is None:
            try:
                self._writer = self._spawn.helper("run-writer", self._factory, self._args, background=True)
            except OSError as error:
                return self._failed(error)
        self._send(self._writer, name, self._slices(self.sealed, name), kept)

    def _wait_for_compaction(self) -> None:
        ground = self._store.ground
        assert ground is not None

        def told(result: Any, error: BaseException | None) -> None:
            if error is None:
                ground.stats = result
            self._spawn.later(100, self._start)

        ground.call("stats", None, (), told)

    def _slices(self, sealed: Sealed, name: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
        for space, table in sealed.tables:
            records = iter(table.records.items())
            part: list[tuple[bytes, Record]] = []
            size = 0
            for item in records:
                part.append(item)
                size += len(item[1])
                if len(part) == SLICE_ROWS or size > SLICE_BYTES:
                    yield "add", (space.prefix, part)
                    part, size = [], 0
            if part:
                yield "add", (space.prefix, part)
        rows = max(1, min(SLICE_ROWS, SLICE_BYTES // max(map(len, sealed.dead), default=1)))
        for at in range(0, len(sealed.dead), rows):
            yield "forget", (sealed.dead[at : at + rows],)
        for at in range(0, len(sealed.outcomes), SLICE_ROWS):
            yield "outcomes", (sealed.outcomes[at : at + SLICE_ROWS],)
        yield "finish", (name, layout.encode_meta(sealed.meta))

    def _sample(self, space: Keyspace) -> None:
        """Landmarks: a sample of the keys, for RANDOMKEY; of those that came first, since to walk all takes long."""
        step = max(1, min(len(space.records), SAMPLED_KEYS) // LANDMARKS_A_RUN)
        for key in islice(space.records, 0, SAMPLED_KEYS, step):
            if len(space.landmarks) < LANDMARKS_MAX:
                space.landmarks.append(key[:LANDMARK_BYTES])
            else:
                space.landmarks[self._random.randrange(LANDMARKS_MAX)] = key[:LANDMARK_BYTES]

    def _send(self, writer: Helper, name: str, slices: Iterator[tuple[str, tuple[Any, ...]]], kept: bool) -> None:
        pending = 0

        def step() -> None:
            nonlocal pending
            if writer is not self._writer:
                return
            call = next(slices, None)
            if call is None:
                return
            pending += 1
            writer.call(*call, answered_last if call[0] == "finish" else answered)
            if pending < IN_FLIGHT_MAX and call[0] != "finish":
                self._spawn.soon(step)

        def answered(_: Any, error: BaseException | None) -> None:
            nonlocal pending
            if writer is not self._writer:
                return
            pending -= 1
            if error is not None:
                return failed(error)
            step()

        def failed(error: BaseException) -> None:
            if kept and isinstance(error, HelperLost):  # perhaps long ago: that is no failure of this flush
                writer.close()
                self._writer = None
                return self._start()
            self._failed(error)

        def answered_last(_: Any, error: BaseException | None) -> None:
            if writer is not self._writer:
                return
            if error is not None:
                return failed(error)
            self.on_step("finish")
            self._when_synced(name)

        step()

    def _when_synced(self, name: str) -> None:
        """S1: only what is synced goes into the base."""
        store, sealed = self._store, self.sealed
        journal = store.journal
        assert journal is not None
        assert sealed is not None
        if self._closed or journal.poisoned is not None:
            return self._look_again()  # nothing more is flushed; what was synced is in the journal
        if not self.synced(sealed.meta.seqno):
            journal.demand(sealed.meta.seqno)
            journal.wait(lambda: self._when_synced(name))
            return
        self.on_step("sync")
        ground = store.ground
        assert ground is not None
        ground.ingest(name, sealed.meta, self._ingested)

    def synced(self, seqno: int) -> bool:
        """S1: whether a memtable that ends there may be ingested."""
        return self._store.synced >= seqno

    def _ingested(self, _: Any, error: BaseException | None) -> None:
        store, sealed = self._store, self.sealed
        assert sealed is not None
        if error is not None:
            return self._failed(error)
        self.on_step("ingest")
        views = store.views
        for space, table in sealed.tables:
            if table.blind:
                store.counts.flushed(views.newest, space, table)
            space.counted_into_base(table)
        views.advance()
        self._followed_ns = store.monotonic_ns()
        self._retire(self._followed(sealed))

    def _followed(self, sealed: Sealed) -> Iterator[None]:
        """S3: the rows of the run leave the cache, or follow, before the tables that cover them go."""
        cache = self._store.views.cache
        for space, table in sealed.tables:
            prefix = space.prefix
            items = iter(table.records.items())
            while (cache.most or len(cache)) and (part := list(islice(items, FOLLOW_ROWS))):
                for key, record in part:
                    cache.follow(prefix + key, None if record[7] & TOMBSTONE else record)
                yield

    def _retire(self, slices: Iterator[None]) -> None:
        clock = self._store.monotonic_ns
        for _ in range(max(1, (clock() - self._followed_ns) // (FOLLOW_SHARE * FOLLOW_NS))):
            if next(slices, self) is not None:
                return self._retired()
        self._followed_ns = clock()
        self._spawn.soon(lambda: self._retire(slices))

    def _retired(self) -> None:
        store, sealed = self._store, self.sealed
        assert sealed is not None
        for space, table in sealed.tables:
            store.views.retire(space, table)
        self.on_step("retire")
        self.flushes += 1
        self.flushed_bytes += sealed.bytes
        seconds = (store.monotonic_ns() - self._begun_ns) / 1e9
        if sealed.bytes > self._bytes_max // 4:
            self._rate = 0.5 * self._rate + 0.5 * sealed.bytes / max(seconds, 0.01)
        self.failure, self._full, self._failed_in_a_row, self._retry_ms = "", False, 0, RETRY_MS
        journal = store.journal
        assert journal is not None
        journal.release(sealed.meta.seqno)
        self.on_step("release")
        self.sealed = None
        store.flushed()
        self._end()
        self.check()

    def _end(self) -> None:
        """An attempt is over: who waits for it looks again."""
        self.slow = False
        self._free_ns = 0
        over, self._over = self._over, Wait()
        over.fire()
        self._look_again()

    def _look_again(self) -> None:
        stalled, self._stalled = self._stalled, Wait()
        stalled.fire()

    def _failed(self, error: BaseException) -> None:
        """Nothing is lost by it: the tables are still read, and it is tried again."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()  # it may hold parts of what has failed
        if self._closed:
            return
        self.failures += 1
        self._failed_in_a_row += 1
        self.failure = str(error) or type(error).__name__
        self._full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        log.error("a flush has failed and is tried again: %s", self.failure)
        self._spawn.later(self._retry_ms, self._start)
        self._retry_ms = min(2 * self._retry_ms, RETRY_MS_MAX)
        self._look_again()

    # slowing down

    def stall(self, transaction: Transaction, size: int, frees: bool) -> Wait | None:
        """C1: what a commit of `size` bytes has to wait for, while flushing can't keep up; None for nothing.

        Raises:
            DiskFull: It can't go on because the disk is full, and the commit does not only delete (J2).
            StorageError: Flushes fail again and again.
        """
        most = self._bytes_max
        filled = self.active_bytes() / most
        if filled >= STOP_AT:
            if self._full and frees:
                return None
            if self._full:
                raise DiskFull(f"the memtable can't be flushed: {self.failure}: make room, then writes go on")
            if self._failed_in_a_row >= FAILURES_WAITED:
                raise StorageError(f"the memtable can't be flushed: {self.failure}; it is tried again and again")
            self.stalls += 1
            return self._stalled
        store = self._store
        now = store.monotonic_ns()
        if transaction.slot:
            if now >= transaction.slot:
                return None
        else:
            allowed = self._rate * max(RATE_LEAST, 2 * (STOP_AT - filled) / (STOP_AT - SLOW_FROM))
            allowed /= max(1.0, store.ground_stats().get("level0_files", 0) / LEVEL0_SLOW)
            transaction.slot = min(max(now, self._free_ns), now + SLOT_NS_MAX)
            self._free_ns = transaction.slot + int(size / allowed * 1e9)
            if transaction.slot <= now + AHEAD_NS:
                return None
            self.stalls += 1
            self.stall_ms += (transaction.slot - now) // 1_000_000
        wait = Wait()
        self._spawn.later((transaction.slot - now) / 1e6, wait.fire)
        return wait

    def close(self) -> None:
        """Ends what is under way; what was sealed is in the journal."""
        self._closed = True
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        self._end()

    def statistics(self) -> dict[str, Any]:
        return {
            "memtable_bytes": self.active_bytes(),
            "memtables_sealed": int(self.sealed is not None),
            "memtables_sealed_bytes": self.sealed.bytes if self.sealed is not None else 0,
            "flush_running": int(self.sealed is not None),
            "flushes": self.flushes,
            "flush_failures": self.failures,
            "flush_last_error": self.failure,
            "flushed_bytes": self.flushed_bytes,
            "write_stalled": int(self.slow),
            "write_stalls": self.stalls,
            "write_stall_ms": self.stall_ms,
        }
