"""The row cache: single rows as the newest view of the base has them (S3).

The rows lie in parts, each in the order in which they were read: where room is needed, the parts take turns and each
gives up the row that was not read for longest. So what goes is nearly the least recently used, and no table is so
large that its growth holds up the loop (one of 800,000 rows took 160 ms once, 64 parts take 2 ms each).

That a key is absent is kept too, as an empty row. A row that a newer commit has replaced may stay while the memtable
covers it; it is dropped or replaced before that memtable goes.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final
from zlib import crc32

from keyhaus.store.record import Record

ABSENT: Final = b""
PARTS: Final = 64
ROW_BYTES: Final = 190  # what a row costs beside its bytes: two objects, and its place in the ordered dict; measured


class RowCache:
    """Rows by their key at rest.

    Attributes:
        most: How many bytes it may take.
        size: How many it takes, about.
        hits, misses: How often a row was found, and not.
    """

    def __init__(self) -> None:
        self.most = 0
        self.size = 0
        self.hits = self.misses = 0
        self._parts: list[OrderedDict[bytes, Record]] = [OrderedDict() for _ in range(PARTS)]
        self._next = 0  # whose turn it is to give up a row

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def _part(self, row: bytes) -> OrderedDict[bytes, Record]:
        return self._parts[crc32(row) % PARTS]  # no `hash`, which is another one in each process

    def get(self, row: bytes) -> Record | None:
        """The record under a row's key, ABSENT where the base has none, None where that isn't known here."""
        part = self._parts[crc32(row) % PARTS]
        record = part.get(row)
        if record is None:
            self.misses += 1
            return None
        self.hits += 1
        part.move_to_end(row)
        return record

    def peek(self, row: bytes) -> Record | None:
        """As `get`, and counts as no use."""
        return self._part(row).get(row)

    def put(self, row: bytes, record: Record | None) -> None:
        """Remembers what the newest view has under a row's key; None: nothing."""
        part = self._part(row)
        before = part.pop(row, None)
        if before is not None:
            self.size -= len(row) + len(before) + ROW_BYTES
        size = len(row) + len(record or ABSENT) + ROW_BYTES
        if size > self.most // 8:
            return  # one row is not to drive out many
        part[row] = record or ABSENT
        self.size += size
        if self.size > self.most:
            self.trim()

    def follow(self, row: bytes, record: Record | None) -> None:
        """The newest view has another record under a row's key: a row that is kept follows.

        As long as nothing has to go for it, any row that was just written is kept: it is likely to be read.
        """
        if row in self._part(row) or self.size + len(row) + len(record or ABSENT) + ROW_BYTES <= self.most:
            self.put(row, record)

    def resize(self, most: int) -> None:
        self.most = most

    def trim(self, rows: int = 64) -> None:
        """Gives up rows until it fits, at most so many at once."""
        empty = 0
        while self.size > self.most and rows > 0 and empty < PARTS:
            part = self._parts[self._next]
            self._next = (self._next + 1) % PARTS
            if not part:
                empty += 1
                continue
            row, record = part.popitem(last=False)
            self.size -= len(row) + len(record) + ROW_BYTES
            rows -= 1
            empty = 0
