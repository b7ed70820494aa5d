"""One generation of a database: its records, their order, their deadlines and their number.

FLUSHDB, FLUSHALL and SWAPDB put another generation under a database's number instead of touching keys (S4). A
deletion leaves a tombstone as long as it is not synced: an absence that a client is told of depends on it (C2).
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from keyhaus.store import record as rec
from keyhaus.store.ordered import OrderedKeys
from keyhaus.store.record import EXPIRES, TOMBSTONE, Record


class Keyspace:
    """The keys and records of one generation.

    Attributes:
        records: Key to record, tombstones included.
        count: Keys that are there; expired ones that were not swept yet count, as in Redis.
        volatile: How many of them have an expiry.
        ordered: Their order, for scans.
        deadlines: A heap of (expires, key); an entry holds only if the record says the same (lazily dropped).
        generation: The seqno of the commit that made it and the number of the operation in that commit.
    """

    __slots__ = ("count", "deadlines", "generation", "ordered", "records", "volatile")

    def __init__(self, generation: tuple[int, int]) -> None:
        self.records: dict[bytes, Record] = {}
        self.count = 0
        self.volatile = 0
        self.ordered = OrderedKeys(self.records)
        self.deadlines: list[tuple[int, bytes]] = []
        self.generation = generation

    def put(self, key: bytes, record: Record, expires: int) -> None:
        records = self.records
        old = records.get(key)
        records[key] = record
        if old is None:
            self.count += 1
            if self.ordered.built:
                self.ordered.add(key)
        elif old[7]:
            if old[7] & TOMBSTONE:
                self.count += 1
            elif old[7] & EXPIRES:
                self.volatile -= 1
        if expires:
            self.volatile += 1
            heappush(self.deadlines, (expires, key))
            if len(self.deadlines) > 4 * self.volatile + 1024:
                self._rebuild_deadlines()

    def delete(self, key: bytes, tombstone: Record | None) -> bool:
        """Deletes a key, leaving `tombstone` where one is given; whether it was there."""
        records = self.records
        old = records.get(key)
        if old is None or old[7] & TOMBSTONE:
            return False
        if old[7] & EXPIRES:
            self.volatile -= 1
        self.count -= 1
        if tombstone is None:
            del records[key]
        else:
            records[key] = tombstone
        return True

    def bury(self, key: bytes, seqno: int) -> None:
        """Removes the tombstone of a deletion that is synced, if it still stands."""
        record = self.records.get(key)
        if record is not None and record[7] & TOMBSTONE and rec.seqno_of(record) == seqno:
            del self.records[key]

    def due(self, now_ms: int, most: int) -> list[bytes]:
        """Up to `most` keys whose time is over, out of as many entries of the heap, which leave it."""
        keys: dict[bytes, None] = {}
        deadlines = self.deadlines
        for _ in range(most):
            if not deadlines or deadlines[0][0] > now_ms:
                break
            entry = heappop(deadlines)
            if self._holds(entry):
                keys[entry[1]] = None
        return list(keys)

    def _holds(self, entry: tuple[int, bytes]) -> bool:
        """Whether the record still says what the entry says."""
        record = self.records.get(entry[1])
        return record is not None and bool(record[7] & EXPIRES) and rec.expires_of(record) == entry[0]

    def _rebuild_deadlines(self) -> None:
        """Drops the entries that no record confirms any more, and those that stand twice."""
        self.deadlines = list({entry for entry in self.deadlines if self._holds(entry)})
        heapify(self.deadlines)
