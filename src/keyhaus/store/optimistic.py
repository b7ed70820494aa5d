"""Transactions that read at a snapshot: READONLY, and OPTIMISTIC, which is validated at its COMMIT.

The commit protocol of an optimistic one, in one step of the store (C1):

    1. wait for its turn among the locks of others on what it writes (T6); then begin anew
    2. has a record that it read alive expired since? (T2)
    3. was a database's mapping entry written after its begin? (S4)
    4. does the newest record or tombstone in memory of any key that it read come from after its begin?
    5. the same for every key in memory within a range that it read (T3)
    6. the commit

No memory of past commits is needed: since its snapshot is open, all that was committed after its begin still stands in
the memtables above the view that it has pinned, and those are bounded (S8). Where it has read much, that is looked
through in slices beforehand, while a guard notes what is committed into it meanwhile.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Final

from keyhaus.core.errors import Conflict, Error, Internal, ReadOnly, SnapshotTooOld, UnknownTransaction, quoted
from keyhaus.core.wait import Wait
from keyhaus.journal.format import DELETE, LAPSE, OPERATION_BYTES, PUT
from keyhaus.store import record as rec
from keyhaus.store.cover import Cover
from keyhaus.store.gather import MISSING
from keyhaus.store.interactive import Interactive, check_bounds, read_by_page
from keyhaus.store.keyspace import Keyspace, as_of
from keyhaus.store.lock_requests import Client
from keyhaus.store.ordered import OrderedKeys
from keyhaus.store.record import TOMBSTONE, Record
from keyhaus.store.snapshot import Snapshot

if TYPE_CHECKING:
    from keyhaus.store.store import Store

log = logging.getLogger("keyhaus.store")

SLICE_KEYS: Final = 2000  # that are validated at once
RANGE_KEYS: Final = 30  # what a range costs beside its keys, in keys


class SnapshotTransaction(Interactive):
    """READONLY: the store as it was at its begin, which is its serial point (T1)."""

    mode = "readonly"

    __slots__ = ("_counting", "_failure", "snapshot")

    def __init__(self, store: Store, database: int, client: Client, number: bytes) -> None:
        super().__init__(store, database, client, number)
        self.snapshot: Snapshot = store.snapshot()
        self._counting = False  # the number of keys is to be found out
        self._failure: Error | None = None

    def enter(self, writes: bool) -> None:
        super().enter(writes)
        self._check_snapshot()
        if writes:
            self._refuse_write()

    def _refuse_write(self) -> None:
        raise ReadOnly

    def rests_on_unsynced(self) -> bool:
        return self.snapshot.seqno > self.store.synced

    def _check_snapshot(self) -> None:
        if self.snapshot.ended is not None:
            raise SnapshotTooOld(self.snapshot.ended.message)
        if self.snapshot.closed:
            raise UnknownTransaction("it has ended")

    def check_alive(self) -> None:
        """Its serial point is its begin: what expires later is no concern of it."""

    def forget(self) -> None:
        super().forget()
        self.snapshot.close()

    def _judged_at(self) -> int:
        return self.snapshot.unix_ms

    def _committed_space(self) -> Keyspace:
        return self.snapshot.spaces[self.database]

    def _pin(self) -> int:
        return self.store.views.pin_again(self.snapshot.view)

    def _tables(self, space: Keyspace) -> list[Any]:
        return space.tables(self.snapshot.view)

    def look(self, space: Keyspace, key: bytes) -> Record | None:
        seqno = self.snapshot.seqno
        for table in space.tables(self.snapshot.view):
            record = as_of(table, key, seqno)
            if record is not None:
                return record
        if not space.based:
            return None
        views, row = self.store.views, space.prefix + key
        if self.snapshot.view == views.newest and (record := views.cache.get(row)) is not None:
            return record or None
        if self._gathered is not None:
            found = self._gathered.rows.get(row, MISSING)
            if found is not MISSING:
                return found  # type: ignore[return-value]
        self.needs[space, key] = None
        return None

    def _record_of(self, key: bytes, tables: list[Any], segment: Any) -> Record | None:
        for table in tables:
            record = as_of(table, key, self.snapshot.seqno)
            if record is not None:
                return record
        found: Record | None = None if segment is None else segment.records.get(key)
        return found

    def _committed(self, key: bytes) -> Record | None:
        self._remember(key)
        self.depends = max(self.depends, self.snapshot.seqno)
        return self.look(self._space(), key)

    def _remember(self, key: bytes) -> None:
        """It reads a key."""

    def _remember_range(self, start: bytes, end: bytes | None) -> None:
        """It reads a range."""

    def page(
        self, start: bytes, end: bytes | None, limit: int, *, reverse: bool = False, heads: bool = False
    ) -> tuple[list[tuple[bytes, Record]], bytes | None]:
        depends = self.depends
        rows, following = super().page(start, end, limit, reverse=reverse, heads=heads)
        self.depends = max(depends, self.snapshot.seqno)
        if not self.needs:  # else where the page ends isn't known yet
            self._remember_range(*read_by_page(start, end, following, reverse=reverse))
        return rows, following

    def count(self) -> int:
        self._apply_own()
        self._remember_range(b"", None)
        self.depends = max(self.depends, self.snapshot.seqno)
        space = self._space()
        count, exact = (space.count, True) if space is not self._committed_space() else self._counted()
        if not exact:
            self._counting = True
            self.needs[self.snapshot] = None
            return 0
        for key, record in (self._own.get(self.database) or {}).items():
            there = self.look(space, key)
            count += (record is not None) - (there is not None and not there[7] & TOMBSTONE)
        return count

    def _counted(self) -> tuple[int, bool]:
        return self.snapshot.counts[self.database]

    async def random_key(self) -> bytes | None:
        await self.order()
        self._remember_range(b"", None)
        space = self._space()
        while not space.ordered.deal():
            pass
        start = None if space.below else space.ordered.sample(self.store.random, [])
        return self._random_below(space, start)

    def gather(self) -> Wait:
        self._check_snapshot()
        failure: BaseException | None = self._failure
        self._failure = None
        if failure is None and self._gathered is not None:
            failure = self._gathered.failure
        if failure is not None:
            raise failure
        if not self._counting:
            return super().gather()
        self._counting, self.needs = False, {}
        done = Wait(cold=True)
        _drive(self._count_keys(), done.fire, self.store.spawn.soon)
        return done

    async def _count_keys(self) -> None:
        try:
            await self.snapshot.count(self.database)
        except Error as error:
            self._failure = error
        except Exception:
            log.exception("the keys of a snapshot could not be counted")
            self._failure = Internal()


class OptimisticTransaction(SnapshotTransaction):
    """Validated at its COMMIT, which is its serial point.

    Attributes:
        points: The keys that it has read, by database.
        ranges: The ranges that it has read.
        databases: Those whose mapping entry it rests on.
    """

    mode = "optimistic"

    __slots__ = ("_guard", "_validated", "_validated_at", "databases", "points", "ranges")

    def __init__(self, store: Store, database: int, client: Client, number: bytes) -> None:
        super().__init__(store, database, client, number)
        self.points: dict[int, dict[bytes, None]] = {}
        self.ranges: list[tuple[int, bytes, bytes | None]] = []
        self.databases: set[int] = set()
        self._guard: Guard | None = None
        self._validated = False
        self._validated_at = -1  # the newest commit then, where there is no guard

    def _refuse_write(self) -> None:
        """It may write."""

    def rests_on_unsynced(self) -> bool:
        return True

    def check_alive(self) -> None:
        Interactive.check_alive(self)

    def forget(self) -> None:
        super().forget()
        self.points, self.ranges = {}, []

    def let_go(self) -> None:
        super().let_go()
        self._leave_guard()  # of a COMMIT that was refused: what comes now may read more
        self._validated = False

    # what it reads

    def _remember(self, key: bytes) -> None:
        if self._flushed and self.database in self._flushed:
            return
        self.databases.add(self.database)
        points = self.points.setdefault(self.database, {})
        if key not in points:
            check_bounds(key)
            points[key] = None
            self.keep(len(key))

    def _remember_range(self, start: bytes, end: bytes | None) -> None:
        if self._flushed and self.database in self._flushed:
            return
        self.databases.add(self.database)
        for at, (database, low, high) in enumerate(self.ranges):
            if database == self.database and _adjoin(low, high, start, end):
                joined = None if high is None or end is None else max(high, end)
                self.ranges[at] = (database, min(low, start), joined)
                return
        check_bounds(start, end)
        self.ranges.append((self.database, start, end))
        self.check_ranges(len(self.ranges))
        self.keep(len(start) + len(end or b""))

    def put(self, key: bytes, value: bytes, expires: int = 0, flags: int = 0, *, typed: bool = False) -> None:
        self.databases.add(self.database)
        super().put(key, value, expires, flags, typed=typed)

    def delete(self, key: bytes) -> None:
        self.databases.add(self.database)
        super().delete(key)

    def flush(self, database: int) -> None:
        self.databases.add(database)
        self._write(OPERATION_BYTES)
        super().flush(database)

    # validation

    def prepare(self) -> Wait | None:
        """Looks for later commits; where that is much, in slices, while a guard notes what is committed meanwhile."""
        if self._validated:
            return None
        slices = self._later_keys()
        if next(slices, self) is self:
            self._validated_at = self.store.last
            return None
        self._guard = Guard(self.points, self.ranges)
        self.store.guards.append(self._guard)
        wait = Wait()
        self.store.spawn.soon(lambda: self._look_through(slices, wait))
        return wait

    def _look_through(self, slices: Iterator[None], wait: Wait) -> None:
        """One slice. A conflict is noted in the guard, to be raised in the step."""
        guard = self._guard
        if guard is None:  # it has ended
            return wait.fire()
        try:
            ended = next(slices, guard) is guard
        except Conflict:
            guard.touched = ended = True
        if not ended:
            return self.store.spawn.soon(lambda: self._look_through(slices, wait))
        self._validated = True
        wait.fire()

    def check_commit(self) -> None:
        self._check_snapshot()
        self.check_alive()
        store, since = self.store, self.snapshot.seqno
        for database in self.databases:
            if store.mapped[database] > since:
                raise Conflict(
                    "a database that the transaction used was flushed or swapped since it began: run it again"
                )
        if self._guard is not None and self._guard.touched:
            raise Conflict("something that the transaction read was changed since it began: run it again")
        assert self._validated or self._validated_at == store.last, "it is prepared in the same step"

    def _later_keys(self) -> Iterator[None]:
        """Looks for all that it read in memory, and pauses after every SLICE_KEYS. Raises Conflict."""
        looked_at = 0
        for cost in itertools.chain(self._later_points(), self._later_in_ranges()):
            looked_at += cost
            if looked_at >= SLICE_KEYS:
                looked_at = 0
                yield None

    def _later_points(self) -> Iterator[int]:
        """Gives what each step costs, in keys."""
        since = self.snapshot.seqno
        for database, keys in self.points.items():
            space = self.store.spaces[database]
            for key in keys:
                for table in space.tables(self.snapshot.view):  # anew each time: the active one may have been sealed
                    record = table.records.get(key)
                    if record is not None:
                        if rec.seqno_of(record) > since:
                            raise _changed(key)
                        break
                yield 1

    def _later_in_ranges(self) -> Iterator[int]:
        since = self.snapshot.seqno
        for database, start, end in self.ranges:
            tables = self.store.spaces[database].tables(self.snapshot.view)
            # What the active table has now it takes along when it is sealed meanwhile; what comes then the guard notes.
            for records, ordered in [(table.records, table.ordered) for table in tables]:
                yield RANGE_KEYS
                while not ordered.deal():
                    yield SLICE_KEYS
                at: bytes | None = start
                while at is not None:
                    at, looked_at = self._later_slice(records, ordered, at, end, since)
                    yield looked_at

    @staticmethod
    def _later_slice(
        records: dict[bytes, Record], ordered: OrderedKeys, start: bytes, end: bytes | None, since: int
    ) -> tuple[bytes | None, int]:
        """Looks at some keys of a table; where the next ones begin (None at the end), and how many these were."""
        while not ordered.deal():
            pass
        looked_at = 0
        for key in ordered.ascending(start):
            if end is not None and key >= end:
                break
            if looked_at == SLICE_KEYS:
                return key, looked_at
            looked_at += 1
            record = records.get(key)
            if record is not None and rec.seqno_of(record) > since:
                raise _changed(key)
        return None, looked_at

    def _leave_guard(self) -> None:
        if self._guard is not None:
            self.store.guards.remove(self._guard)
            self._guard = None


class Guard:
    """Notes whether anything is committed to some keys, or into some ranges.

    Attributes:
        touched: Whether anything was.
    """

    def __init__(self, points: dict[int, dict[bytes, None]], ranges: list[tuple[int, bytes, bytes | None]]) -> None:
        self._points = points
        self._covers: dict[int, Cover] = {}
        for number in {number for number, _, _ in ranges}:
            self._covers[number] = Cover((start, end) for database, start, end in ranges if database == number)
        self.touched = False

    def note(self, operations: list[Any]) -> None:
        """A commit is made."""
        if not self.touched:
            self.touched = any(
                operation[0] in (PUT, DELETE, LAPSE) and self._holds(operation[1], operation[2])
                for operation in operations
            )

    def _holds(self, database: int, key: bytes) -> bool:
        if key in self._points.get(database, ()):
            return True
        cover = self._covers.get(database)
        return cover is not None and cover.holds(key)


def _changed(key: bytes) -> Conflict:
    return Conflict(f"key {quoted(key)} was changed since the transaction began: run it again")


def _adjoin(low: bytes, high: bytes | None, start: bytes, end: bytes | None) -> bool:
    return (high is None or start <= high) and (end is None or low <= end)


def _drive(running: Coroutine[Wait, None, None], done: Callable[[], None], soon: Callable[[Any], None]) -> None:
    """Runs a coroutine to its end."""

    def step() -> None:
        try:
            wait = running.send(None)
        except StopIteration:
            return done()
        wait.on_fire(lambda: soon(step))

    step()
