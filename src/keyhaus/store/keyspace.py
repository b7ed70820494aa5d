"""One generation of a database: what is in memory of it, and what is known of what lies below.

Its newest records are in the active table. Where the base is in use, the active table is sealed from time to time and
flushed; until the base has it, a sealed table is read between the active one and the base. FLUSHDB, FLUSHALL and
SWAPDB put another generation under a database's number instead of touching keys (S4).

A deletion leaves a tombstone: as long as it is not synced, since an absence that a client is told of depends on it
(C2); where there is anything below, until it is flushed; and as long as a snapshot may look for what was there before.

A write to a key that is not in the active table doesn't look whether the base has it. Such a key counts as if it had
been absent, and is remembered as blind until somebody has looked (S5).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from keyhaus.store import layout
from keyhaus.store import record as rec
from keyhaus.store.cache import ABSENT
from keyhaus.store.deadlines import Deadlines
from keyhaus.store.ordered import OrderedKeys
from keyhaus.store.record import EXPIRES, TOMBSTONE, Record
from keyhaus.store.uses import Uses
from keyhaus.store.views import Views

ENTRY_BYTES: Final = 134  # what an entry takes beside its key's and its record's own bytes; measured
CHURN_BYTES: Final = 44  # and more where keys come and go, since a dict takes more room then; measured
DEADLINE_BYTES: Final = 126  # what an entry among the deadlines takes; measured
DEADLINE_CHURN_BYTES: Final = 130  # and more where keys go before their time, and their deadlines stay; measured
VERSION_BYTES: Final = 120  # what a kept version takes beside its bytes


class Table:
    """A generation's part of a sealed memtable: it changes no more.

    Attributes:
        records: Key to record, tombstones included.
        versions: Key to the records that it had before, oldest first, as far as snapshots may need them.
        ordered: The order of the keys.
        blind: Keys of which nobody knows yet whether the base had them before.
        bytes: What it takes in memory, about.
        added: How many keys it adds to what lies below; blind ones count as new ones.
        volatile: How many it adds to those with an expiry.
    """

    __slots__ = ("added", "blind", "bytes", "ordered", "records", "versions", "volatile")

    def __init__(self, space: Keyspace) -> None:
        self.records = space.records
        self.versions = space.versions
        self.ordered = space.ordered
        self.blind = space.blind
        self.bytes = space.bytes
        self.added = space.added
        self.volatile = space.volatile


class Keyspace:
    """The keys and records of one generation.

    Attributes:
        records: The active table: key to record, tombstones included.
        versions: As in `Table`.
        ordered: The order of the active table's keys, for scans.
        blind: As in `Table`.
        bytes: What the active table takes in memory, about.
        sealed: Sealed tables that the base does not have yet, the newest first.
        retired: Tables that the base has, the newest first, with the view since which; kept for readers of older ones.
        based: Whether the base may have records of it.
        below: Whether there is anything below the active table.
        added: How many keys the active table adds to what lies below; blind ones count as new ones.
        volatile: How many it adds to those with an expiry.
        base_count, base_volatile: How many the base has of either.
        inexact: Whether these two are not exactly so.
        recounting: Whether they are being counted.
        deadlines: When the active table's keys expire, the next one first.
        entry_bytes: What an entry of the active table is taken to cost beside its key's and its record's own bytes.
        uses: How its keys are used, where eviction wants to know.
        settling: Tables that the base has, of whose blind keys nobody has looked yet what it had before.
        landmarks: Some keys of the base, perhaps cut off, that RANDOMKEY goes out from.
        generation: The seqno of the commit that made it and the number of the operation in that commit.
        prefix: What its records' rows in the base begin with.
    """

    __slots__ = (
        "added",
        "base_count",
        "base_volatile",
        "based",
        "below",
        "blind",
        "bytes",
        "deadlines",
        "entry_bytes",
        "generation",
        "inexact",
        "landmarks",
        "ordered",
        "prefix",
        "records",
        "recounting",
        "retired",
        "sealed",
        "settling",
        "uses",
        "versions",
        "views",
        "volatile",
    )

    def __init__(self, generation: layout.Generation, views: Views | None = None) -> None:
        self.generation = generation
        self.prefix = layout.prefix(generation)
        self.views = views or Views()
        self.base_count = self.base_volatile = 0
        self.inexact = self.recounting = False
        self.sealed: list[Table] = []
        self.retired: list[tuple[int, Table]] = []
        self.settling: list[Table] = []
        self.landmarks: list[bytes] = []
        self.based = self.below = False
        self._renew()
        self.uses: Uses | None = None
        self.entry_bytes = ENTRY_BYTES
        self.views.dress(self)

    def _renew(self) -> None:
        self.records: dict[bytes, Record] = {}
        self.versions: dict[bytes, list[Record]] = {}
        self.ordered = OrderedKeys(self.records)
        self.blind: dict[bytes, None] = {}
        self.deadlines = Deadlines(self.records)
        self.bytes = 0
        self.added = self.volatile = 0

    # counts

    @property
    def count(self) -> int:
        """Keys that are there; expired ones that were not swept yet count, as in Redis. Too high where not `exact`."""
        return self.base_count + self.added + sum(table.added for table in self.sealed)

    def count_volatile(self) -> int:
        """How many of them have an expiry."""
        return self.base_volatile + self.volatile + sum(table.volatile for table in self.sealed)

    def exact(self) -> bool:
        """Whether `count` is exactly so."""
        if self.inexact or self.recounting or self.blind or self.settling:
            return False
        return not any(table.blind for table in self.sealed)

    # writing

    def put(self, key: bytes, record: Record, expires: int) -> None:
        records = self.records
        old = records.get(key)
        records[key] = record
        if old is None:
            self.bytes += len(key) + len(record) + self.entry_bytes
            if self.ordered.built:
                self.ordered.add(key)
            if not self.below or not self._leave_below(key):
                self.added += 1
            if self.uses is not None:
                self.uses.add(key)
        else:
            self.bytes += len(record) - len(old)
            if old[7]:
                if old[7] & TOMBSTONE:
                    self.added += 1
                    if self.uses is not None:
                        self.uses.add(key)
                elif old[7] & EXPIRES:
                    self.volatile -= 1
            if self.views.keep:
                self._keep(key, old)
        if expires:
            self.volatile += 1
            if old is None or not old[7] & EXPIRES or rec.expires_of(old) != expires:
                self.push_deadline(expires, key)

    def delete(self, key: bytes, tombstone: Record | None) -> bool:
        """Deletes a key, leaving `tombstone` where one is given; whether it was there, as far as is known."""
        records = self.records
        old = records.get(key)
        if old is None:
            return self._delete_below(key, tombstone)
        if old[7] & TOMBSTONE:
            return False
        if old[7] & EXPIRES:
            self.volatile -= 1
        self.added -= 1
        if self.uses is not None:
            self.uses.remove(key)
        if tombstone is None:
            del records[key]
            self._forget_versions(key)
            self.bytes -= len(key) + len(old) + self.entry_bytes
        else:
            records[key] = tombstone
            self.bytes += len(tombstone) - len(old)
            if self.views.keep:
                self._keep(key, old)
        return True

    def _delete_below(self, key: bytes, tombstone: Record | None) -> bool:
        if not self.below:
            return False
        there = self._leave_below(key)
        if not there and key not in self.blind:
            return False
        assert tombstone is not None  # memory mode has nothing below
        self.records[key] = tombstone
        self.bytes += len(key) + len(tombstone) + self.entry_bytes
        if self.ordered.built:
            self.ordered.add(key)
        if there:
            self.added -= 1
        return there

    def _leave_below(self, key: bytes) -> bool:
        """A key gets its first entry in the active table; whether it was there below, as far as that is known."""
        record: Record | None = None
        for table in self.sealed:
            record = table.records.get(key)
            if record is not None:
                if record[7] & TOMBSTONE:
                    return False
                if record[7] & EXPIRES:
                    self.volatile -= 1
                return True
        if not self.based:
            return False
        record = self.views.cache.peek(self.prefix + key)
        if record is None:
            self.blind[key] = None
            self.bytes += 8 + 24  # its slot
            return False
        if record == ABSENT:
            return False
        if record[7] & EXPIRES:
            self.volatile -= 1
            self._forget_deadline(key, record)
        return True

    def _forget_deadline(self, key: bytes, record: Record) -> None:
        """A record of the base with an expiry has a successor: its row in the expiry index is of no use any more."""
        if not self.views.many_dead_deadlines:
            self.views.forget_deadlines([layout.deadline(rec.expires_of(record), self.prefix, key)])

    def settle(self, table: Table | Keyspace, key: bytes, record: Record | None, *, latest: bool) -> None:
        """Somebody has looked what the base had under a blind key of a table (S5); `latest`: no later run is there."""
        if key not in table.blind:
            return
        del table.blind[key]
        if record is None:
            return
        volatile = 1 if record[7] & EXPIRES else 0
        if table is self or table in self.sealed:
            table.added -= 1
            table.volatile -= volatile
        else:  # it is in the base by now
            self.base_count -= 1
            self.base_volatile -= volatile
        if volatile and latest and not self._stands_again(table, key, record):
            self._forget_deadline(key, record)

    def _stands_again(self, table: Table | Keyspace, key: bytes, record: Record) -> bool:
        """Whether a row of the expiry index was written anew by a run that comes before the one that would delete it.

        What is in the active table goes with that one; there the new row wins. Of a table that was let go of already
        nobody knows; where nothing was written anew, the sweeper finds the row once it is due.
        """
        if table is self:
            return False
        if key not in table.records:
            return True
        later = [other.records.get(key) for other in (table, *self.sealed)]
        return rec.expires_of(record) in [rec.expires_of(one) for one in later if one is not None]

    def _keep(self, key: bytes, old: Record) -> None:
        """A snapshot may still have to see what is replaced."""
        if rec.seqno_of(old) <= self.views.keep:
            self.versions.setdefault(key, []).append(old)
            self.views.version_bytes += len(old) + VERSION_BYTES
            if self.views.version_bytes > self.views.version_bytes_alarm:
                self.views.alarm()

    def _forget_versions(self, key: bytes) -> None:
        if self.versions:
            self.views.version_bytes -= version_bytes(self.versions.pop(key, ()))

    def bury(self, key: bytes, seqno: int) -> None:
        """Removes the tombstone of a deletion that is synced, if it still stands and hides nothing."""
        record = self.records.get(key)
        if record is not None and record[7] & TOMBSTONE and not self.below and rec.seqno_of(record) == seqno:
            del self.records[key]
            self._forget_versions(key)
            self.bytes -= len(key) + len(record) + self.entry_bytes

    def seal(self) -> Table:
        """Closes the active table, which goes below an empty one."""
        table = Table(self)
        self.sealed = [table, *self.sealed]
        self.below = True
        self._renew()
        return table

    # reading

    def in_memory(self, key: bytes) -> Record | None:
        """The newest record or tombstone of a key that the base does not have yet."""
        record = self.records.get(key)
        if record is None:
            for table in self.sealed:
                record = table.records.get(key)
                if record is not None:
                    break
        return record

    def landmark(self, choice: float) -> bytes:
        """One of the landmarks, or the beginning."""
        return self.landmarks[int(choice * len(self.landmarks))] if self.landmarks else b""

    def counted_into_base(self, table: Table) -> None:
        """The newest view has a sealed table: whoever counts that view counts it there."""
        self.base_count += table.added
        self.base_volatile += table.volatile
        table.added = table.volatile = 0

    def retired_into_base(self, table: Table) -> None:
        """A sealed table is part of the base now."""
        self.sealed = [other for other in self.sealed if other is not table]
        self.based = True
        self.counted_into_base(table)  # what was found out since

    def tables(self, view: int) -> list[Table | Keyspace]:
        """What lies above a view of the base, the newest first."""
        return [self, *self.sealed, *(table for since, table in self.retired if since > view)]

    def due(self, now_ms: int, most: int) -> list[bytes]:
        """Up to `most` keys whose time is over, out of as many entries of the heap, which leave it."""
        keys: dict[bytes, None] = {}
        deadlines = self.deadlines
        for _ in range(most):
            first = deadlines.first()
            if first is None or first[0] > now_ms:
                break
            if deadlines.holds(first):
                keys[first[1]] = None
            self.pop_deadline()
        return list(keys)

    def still_due(self, keys: list[bytes]) -> None:
        """Keys whose deadline was taken out were not deleted: where they still have one it comes again."""
        for key in keys:
            record = self.records.get(key)
            if record is not None and record[7] & EXPIRES and not record[7] & TOMBSTONE:
                self.push_deadline(rec.expires_of(record), key)

    def push_deadline(self, expires: int, key: bytes) -> None:
        """A record has got a deadline."""
        self.bytes += DEADLINE_BYTES * (1 - self.deadlines.push(expires, key, self.volatile))

    def pop_deadline(self) -> None:
        """Takes the first deadline out."""
        self.deadlines.pop()
        self.bytes -= DEADLINE_BYTES

    def weigh(self, entry_bytes: int) -> None:
        """Counts something else for an entry from here on, and for those that are there."""
        self.bytes += (entry_bytes - self.entry_bytes) * len(self.records)
        self.entry_bytes = entry_bytes


def version_bytes(versions: Iterable[Record]) -> int:
    """What kept versions take."""
    return sum(len(version) + VERSION_BYTES for version in versions)


def as_of(table: Table | Keyspace, key: bytes, seqno: int) -> Record | None:
    """The record or tombstone that a table had under a key at a snapshot; None where it said nothing of it."""
    record = table.records.get(key)
    if record is None or rec.seqno_of(record) <= seqno:
        return record
    for older in reversed(table.versions.get(key, ())):
        if rec.seqno_of(older) <= seqno:
            return older
    return None
