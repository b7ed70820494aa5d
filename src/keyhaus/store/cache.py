"""The row cache: single rows as the newest view of the base has them (S3).

The row that was not read for longest goes first. That a key is absent is kept too, as an empty row. A row that a newer
commit has replaced may stay while the memtable covers it; it is dropped or replaced before that memtable goes.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from keyhaus.store.record import Record

ABSENT: Final = b""
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
        self._rows: OrderedDict[bytes, Record] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, row: bytes) -> Record | None:
        """The record under a row's key, ABSENT where the base has none, None where that isn't known here."""
        record = self._rows.get(row)
        if record is None:
            self.misses += 1
            return None
        self.hits += 1
        self._rows.move_to_end(row)
        return record

    def peek(self, row: bytes) -> Record | None:
        """As `get`, and counts as no use."""
        return self._rows.get(row)

    def put(self, row: bytes, record: Record | None) -> None:
        """Remembers what the newest view has under a row's key; None: nothing."""
        before = self._rows.pop(row, None)
        if before is not None:
            self.size -= len(row) + len(before) + ROW_BYTES
        size = len(row) + len(record or ABSENT) + ROW_BYTES
        if size > self.most // 8:
            return  # one row is not to drive out many
        self._rows[row] = record or ABSENT
        self.size += size
        if self.size > self.most:
            self.trim()

    def follow(self, row: bytes, record: Record | None) -> None:
        """The newest view has another record under a row's key: a row that is kept follows.

        As long as nothing has to go for it, any row that was just written is kept: it is likely to be read.
        """
        if row in self._rows or self.size + len(row) + len(record or ABSENT) + ROW_BYTES <= self.most:
            self.put(row, record)

    def resize(self, most: int) -> None:
        self.most = most

    def trim(self, rows: int = 64) -> None:
        """Gives up rows until it fits, at most so many at once."""
        while self.size > self.most and self._rows and rows > 0:
            row, record = self._rows.popitem(last=False)
            self.size -= len(row) + len(record) + ROW_BYTES
            rows -= 1
