"""When keys expire, the next one first: a heap whose entries hold only as long as the record says the same.

A key that is overwritten or deleted leaves its entry behind. Once those outnumber the ones that hold, they are dropped,
a few with each new entry: all at once would stall every client for seconds. Meanwhile there are two heaps, the old one
losing its entries from the end, which leaves the rest of it a heap.

An entry that stands twice holds twice. So where more hold than there are deadlines, they are dropped by a set of those
that were met, which takes memory of its own for a while.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Final, TypeAlias

from keyhaus.store import record as rec
from keyhaus.store.record import EXPIRES, Record

Deadline: TypeAlias = tuple[int, bytes]

ENTRIES_LEAST: Final = 1024  # up to so many are kept whatever they say
SIFT_STEP: Final = 8  # old entries that are looked at with each new one


class Deadlines:
    """The deadlines of one table of records.

    Args:
        records: The records, by which entries are judged.
    """

    __slots__ = ("_heap", "_met", "_old", "_records")

    def __init__(self, records: dict[bytes, Record]) -> None:
        self._records = records
        self._heap: list[Deadline] = []
        self._old: list[Deadline] = []
        self._met: set[Deadline] | None = None

    def __len__(self) -> int:
        """How many entries there are, whether they hold or not."""
        return len(self._heap) + len(self._old)

    def push(self, expires: int, key: bytes, living: int) -> int:
        """A record has got a deadline.

        Args:
            expires: When.
            key: Its key.
            living: How many records have one.

        Returns:
            How many entries that did not hold were dropped on the occasion.
        """
        heappush(self._heap, (expires, key))
        if self._old:
            return self._sift(living)
        if len(self._heap) > 2 * living + ENTRIES_LEAST:
            self._old, self._heap = self._heap, []
        return 0

    def _sift(self, living: int) -> int:
        dropped = 0
        old, met = self._old, self._met
        for _ in range(min(SIFT_STEP, len(old))):
            entry = old.pop()
            if not self.holds(entry) or (met is not None and entry in met):
                dropped += 1
                continue
            heappush(self._heap, entry)
            if met is not None:
                met.add(entry)
        if not old:
            twice = met is None and len(self._heap) > 2 * living + ENTRIES_LEAST
            self._met = set() if twice else None
        return dropped

    def holds(self, entry: Deadline) -> bool:
        """Whether the record says what the entry says."""
        record = self._records.get(entry[1])
        return record is not None and bool(record[7] & EXPIRES) and rec.expires_of(record) == entry[0]

    def first(self) -> Deadline | None:
        """The entry that comes first, whether it holds or not."""
        if self._old and (not self._heap or self._old[0] < self._heap[0]):
            return self._old[0]
        return self._heap[0] if self._heap else None

    def pop(self) -> Deadline:
        """Takes the first entry out. There must be one."""
        if self._old and (not self._heap or self._old[0] < self._heap[0]):
            return heappop(self._old)
        return heappop(self._heap)

    def shrink(self, entries: int) -> bool:
        """Lets go of up to about `entries` of what nobody will ask again; whether none are left."""
        for part in (self._heap, self._old):
            del part[-entries:]
        for _ in range(min(entries, len(self._met or ()))):
            assert self._met is not None
            self._met.pop()
        return not self and not self._met
