"""What nobody reads any more is freed in slices: millions of records at once would stall every client."""

from __future__ import annotations

from typing import Final

from keyhaus.core.spawn import Spawn
from keyhaus.store.keyspace import Keyspace, Table

FREE_STEP: Final = 6000  # half a millisecond; what is not freed yet is memory beside the bounds


class Garbage:
    """Tables and generations that are being freed."""

    def __init__(self, spawn: Spawn) -> None:
        self._spawn = spawn
        self._tables: list[Keyspace | Table] = []

    def __len__(self) -> int:
        return len(self._tables)

    def add(self, table: Keyspace | Table) -> None:
        self._tables.append(table)
        if len(self._tables) == 1:
            self._spawn.soon(self._free)

    def _free(self) -> None:
        table = self._tables[0]
        records = table.records
        for _ in range(min(FREE_STEP, len(records))):
            records.popitem()
        left = bool(records)
        if isinstance(table, Keyspace):
            left |= not table.deadlines.shrink(FREE_STEP)
        if table.ordered.shrink(FREE_STEP) and not left:
            self._tables.pop(0)
        if self._tables:
            self._spawn.soon(self._free)
