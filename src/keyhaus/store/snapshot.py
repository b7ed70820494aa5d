"""Snapshots: the whole store as it was at one commit, for readers that take their time.

A snapshot is a sequence number, a time, the generations that lay under the databases' numbers, and a pinned view of the
base. What was in memory then is still there: a table keeps what a commit replaces while a snapshot may need it, and a
flushed table stays while an older view is pinned. Scans go page by page, however many commits, flushes and compactions
come in between. What snapshots retain is bounded, and so is their age: the oldest is ended before it could stop the
writers (S8).
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from keyhaus.core.errors import SnapshotTooOld
from keyhaus.core.limits import PAGE_BYTES_MAX, SCAN_COUNT_MAX
from keyhaus.core.spawn import Timer
from keyhaus.core.wait import Wait
from keyhaus.store import layout
from keyhaus.store import record as rec
from keyhaus.store.keyspace import VERSION_BYTES, Keyspace, Table, as_of
from keyhaus.store.record import EXPIRES, TOMBSTONE, Record

if TYPE_CHECKING:
    from keyhaus.store.store import Store

PRUNE_STEP = 2000


class Snapshot:
    """The store at one moment. To be closed.

    Attributes:
        seqno: The newest commit that it sees.
        unix_ms: The time by which it judges expiry.
        ended: Why it can't be read any more.
        saw_expired: Whether anything that it read had expired: then an answer rests on its time (S6).
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.seqno = store.last
        self.unix_ms = store.now()
        self.view = store.views.pin()
        self.spaces = list(store.spaces)
        self.counts = [(space.count, space.exact()) for space in self.spaces]
        self.ended: SnapshotTooOld | None = None
        self.closed = self.saw_expired = False
        self.timer: Timer | None = None

    def close(self) -> None:
        """Lets go of what it retains. Doing it twice is doing it once."""
        if not self.closed:
            self.closed = True
            self._store.snapshots.remove(self)

    def _check(self) -> None:
        if self.ended is not None:
            raise SnapshotTooOld(self.ended.message)
        if self.closed:  # whoever read it is gone; what was under way for it ends here
            raise SnapshotTooOld("the snapshot was closed")

    def _alive(self, record: Record | None) -> bool:
        if record is None or record[7] & TOMBSTONE:
            return False
        if record[7] & EXPIRES and rec.expires_of(record) <= self.unix_ms:
            self.saw_expired = True
            return False
        return True

    async def get(self, database: int, key: bytes) -> Record | None:
        """The record under a key. Raises SnapshotTooOld, StorageError."""
        self._check()
        space = self.spaces[database]
        record: Record | None = None
        for table in space.tables(self.view):
            record = as_of(table, key, self.seqno)
            if record is not None:
                break
        if record is None and space.based:
            result: list[tuple[Record | None, BaseException | None]] = []
            wait = Wait(cold=True)

            def told(found: Record | None, error: BaseException | None) -> None:
                result.append((found, error))
                wait.fire()

            self._store.gatherer.row(self.view, space, key, told)
            await wait
            self._check()
            record, error = result[0]
            if error is not None:
                raise error
        return record if self._alive(record) else None

    async def page(
        self,
        database: int,
        start: bytes,
        end: bytes | None,
        limit: int,
        *,
        reverse: bool = False,
        heads: bool = False,
    ) -> tuple[list[tuple[bytes, Record]], bytes | None]:
        """A page of records in the order of their keys, as `Transaction.scan` gives them.

        Raises:
            SnapshotTooOld: It was ended; begin again at another one.
            StorageError: The base can't be read.
        """
        rows, following = await self._all(database, start, end, limit, reverse=reverse, heads=heads)
        return [row for row in rows if self._alive(row[1])], following

    async def _all(
        self, database: int, start: bytes, end: bytes | None, limit: int, *, reverse: bool, heads: bool
    ) -> tuple[list[tuple[bytes, Record]], bytes | None]:
        """A page of all there is, tombstones and what has expired included."""
        self._check()
        space = self.spaces[database]
        base: list[tuple[bytes, Record]] = []
        more = False
        if space.based:
            base, more = await self._base_rows(space, start, end, limit, reverse, heads)
            self._check()
        while not all(table.ordered.deal() for table in space.tables(self.view)):
            await self._store.turn()
            self._check()
        # What the base has not told yet begins here: nothing behind it can be said now.
        edge = base[-1][0] if more and base else None
        rows: list[tuple[bytes, Record]] = []
        for looked_at, (key, record) in enumerate(self._merged(space, start, end, reverse, base)):
            if edge is not None and (key < edge if reverse else key > edge):
                break
            if looked_at == limit:
                return rows, key + b"\0" if reverse else key
            rows.append((key, record))
        if edge is not None:
            return rows, edge if reverse else edge + b"\0"
        return rows, None

    async def count(self, database: int) -> None:
        """Makes the count of a database's keys exact; expired ones that were not swept then count (S5).

        Raises:
            SnapshotTooOld: It was ended; begin again at another one.
            StorageError: The base can't be read.
        """
        total = 0
        start: bytes | None = b""
        while start is not None and not self.counts[database][1]:
            rows, start = await self._all(database, start, None, SCAN_COUNT_MAX, reverse=False, heads=True)
            total += sum(1 for _, record in rows if not record[7] & TOMBSTONE)
            if start is None:
                self.counts[database] = (total, True)

    def _merged(
        self, space: Keyspace, start: bytes, end: bytes | None, reverse: bool, base: list[tuple[bytes, Record]]
    ) -> Iterator[tuple[bytes, Record]]:
        tables = space.tables(self.view)
        sources: list[Iterator[bytes]] = [
            table.ordered.descending(end) if reverse else table.ordered.ascending(start) for table in tables
        ]
        below = dict(base)
        sources.append(iter(below))
        before: bytes | None = None
        for key in heapq.merge(*sources, reverse=reverse):
            if key < start if reverse else (end is not None and key >= end):
                return
            if key == before:
                continue
            before = key
            for table in tables:
                record = as_of(table, key, self.seqno)
                if record is not None:
                    break
            else:
                record = below.get(key)
            if record is not None:
                yield key, record

    async def _base_rows(
        self, space: Keyspace, start: bytes, end: bytes | None, rows: int, reverse: bool, heads: bool
    ) -> tuple[list[tuple[bytes, Record]], bool]:
        ground = self._store.ground
        assert ground is not None
        prefix = space.prefix
        behind = layout.behind(prefix) if end is None else prefix + end
        wait = Wait(cold=True)
        answer: list[tuple[Any, BaseException | None]] = []

        def answered(result: Any, error: BaseException | None) -> None:
            answer.append((result, error))
            wait.fire()

        ground.call("page", self.view, (prefix + start, behind, rows, PAGE_BYTES_MAX, reverse, heads), answered)
        await wait
        result, error = answer[0]
        if error is not None:
            raise error
        return [(row[len(prefix) :], record) for row, record in result[0]], result[1]


class Snapshots:
    """The open snapshots of a store, oldest first, and what they may retain."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: deque[Snapshot] = deque()
        self.ended = 0
        self._pruned_bytes = 0
        self._pruning = self._checking = False
        self._most = 0
        store.views.alarm = self.check_soon
        store.settings.observe("snapshot-max-bytes", self._set_most)

    def _set_most(self, most: int) -> None:
        self._most = most
        self._store.views.version_bytes_alarm = most // 2

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, aging: bool) -> Snapshot:
        snapshot = Snapshot(self._store)
        self._open.append(snapshot)
        self._store.views.keep = snapshot.seqno
        if aging:
            age = self._store.settings.integer("snapshot-max-ms")
            snapshot.timer = self._store.spawn.later(age, lambda: self._too_old(snapshot))
        return snapshot

    def _too_old(self, snapshot: Snapshot) -> None:
        if not snapshot.closed:
            self._end(snapshot, "the snapshot is older than snapshot-max-ms allows: begin again")

    def _end(self, snapshot: Snapshot, reason: str) -> None:
        snapshot.ended = SnapshotTooOld(reason)
        self.ended += 1
        snapshot.close()

    def remove(self, snapshot: Snapshot) -> None:
        self._open.remove(snapshot)
        if snapshot.timer is not None:
            snapshot.timer.cancel()
        views = self._store.views
        views.unpin(snapshot.view)
        if not self._open:
            views.keep = 0
            self._forget_all()
        else:
            views.keep = max(views.keep if snapshot.seqno < views.keep else 0, self._open[-1].seqno)
        self._store.snapshot_ended()

    def oldest_seqno(self) -> int | None:
        """What the oldest snapshot sees; None where there is none."""
        return self._open[0].seqno if self._open else None

    def reached(self, dropped: dict[Keyspace, int]) -> dict[Keyspace, int]:
        """Those of some dropped generations that an open snapshot sees: begun after they were made, before they went.

        Args:
            dropped: Generations, each with the seqno of the commit that dropped it.
        """
        seqnos = [snapshot.seqno for snapshot in self._open]  # in order
        found: dict[Keyspace, int] = {}
        for space, seqno in dropped.items():
            at = bisect_left(seqnos, space.generation[0])
            if at < len(seqnos) and seqnos[at] < seqno:
                found[space] = seqno
        return found

    def retained(self) -> int:
        """How many bytes snapshots and other readers of older views retain, about."""
        views = self._store.views
        return views.version_bytes + views.retired_bytes + self._store.unfreed_bytes()

    def check_soon(self) -> None:
        """More is retained than before."""
        if not self._checking:
            self._checking = True
            self._store.spawn.soon(self.check)

    def check(self) -> None:
        """S8: where too much is retained, what nobody needs goes, and if that isn't enough the oldest snapshot ends."""
        self._checking = False
        most = self._most
        if self.retained() <= most // 2 or not self._open:
            return
        if self._store.views.version_bytes > 2 * self._pruned_bytes + (1 << 20):
            self._prune()
        while self.retained() > most and not self._pruning:
            oldest = next((snapshot for snapshot in self._open if snapshot.timer is not None), None)
            if oldest is None:
                return
            self._end(oldest, "the snapshot retains more than snapshot-max-bytes allows: begin again")
            if self._open:
                self._prune()

    # old versions

    def _tables(self) -> list[Keyspace | Table]:
        spaces = {id(space): space for snapshot in self._open for space in snapshot.spaces}
        spaces.update((id(space), space) for space in self._store.spaces)
        return [table for space in spaces.values() for table in space.tables(-1)]

    def _forget_all(self) -> None:
        """No snapshot is left, and so is no use for older versions."""
        for space in self._store.spaces:
            for table in space.tables(-1):
                if table.versions:
                    table.versions = {}
        self._store.views.version_bytes = self._pruned_bytes = 0

    def _prune(self) -> None:
        """Drops the versions that no open snapshot needs, in slices."""
        if not self._pruning:
            self._pruning = True
            self._prune_slice(self._slices())

    def _prune_slice(self, slices: Iterator[None]) -> None:
        if self._open and next(slices, self) is None:
            self._store.spawn.soon(lambda: self._prune_slice(slices))
        else:
            self._pruning = False
            self._pruned_bytes = self._store.views.version_bytes
            self.check()

    def _slices(self) -> Iterator[None]:
        for table in self._tables():
            keys = list(table.versions)
            for at in range(0, len(keys), PRUNE_STEP):
                seqnos = [snapshot.seqno for snapshot in self._open]
                for key in keys[at : at + PRUNE_STEP]:
                    self._prune_key(table, key, seqnos)
                yield None

    def _prune_key(self, table: Keyspace | Table, key: bytes, seqnos: list[int]) -> None:
        versions = table.versions.get(key)
        if versions is None:
            return
        newest = table.records.get(key)
        following = rec.seqno_of(newest) if newest is not None else 0
        kept: list[Record] = []
        for version in reversed(versions):
            begin = rec.seqno_of(version)
            if any(begin <= seqno < following for seqno in seqnos):
                kept.append(version)
            else:
                self._store.views.version_bytes -= len(version) + VERSION_BYTES
            following = begin
        if kept:
            table.versions[key] = kept[::-1]
        else:
            del table.versions[key]
