"""WATCH by marks (T7): a commit touches the marks of the keys that it changes.

No versions and no memory of past commits: a mark is dirty or it is not, by Redis' rules. A key that had expired
already when it was watched may be deleted without dirtying the mark, since nothing changes for who looks at it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from keyhaus.store import record as rec
from keyhaus.store.keyspace import Keyspace
from keyhaus.store.record import EXPIRES, TOMBSTONE, Record

_Key: TypeAlias = tuple[int, bytes]


def _there(space: Keyspace, key: bytes) -> Record | None:
    record = space.records.get(key)
    return None if record is None or record[7] & TOMBSTONE else record


def _expired(record: Record | None, now: int) -> bool:
    return record is not None and bool(record[7] & EXPIRES) and rec.expires_of(record) <= now


class Mark:
    """What one client watches.

    Attributes:
        dirty: Whether anything that it watches was changed.
        keys: What it watches: (database, key), and whether that had expired when it was watched.
    """

    __slots__ = ("dirty", "keys")

    def __init__(self) -> None:
        self.dirty = False
        self.keys: dict[_Key, bool] = {}


class Watches:
    """All marks of a store.

    Attributes:
        marks: By the (database, key) that they watch.
    """

    def __init__(self) -> None:
        self.marks: dict[_Key, set[Mark]] = {}

    def add(self, mark: Mark, database: int, keys: Iterable[bytes], space: Keyspace, now: int) -> None:
        for key in keys:
            entry = (database, key)
            if entry not in mark.keys:
                mark.keys[entry] = _expired(space.records.get(key), now)
                self.marks.setdefault(entry, set()).add(mark)

    def remove(self, mark: Mark) -> None:
        for entry in mark.keys:
            marks = self.marks.get(entry)
            if marks is not None:
                marks.discard(mark)
                if not marks:
                    del self.marks[entry]
        mark.keys = {}
        mark.dirty = False

    def expired(self, mark: Mark, spaces: list[Keyspace], now: int) -> bool:
        """Whether anything watched has expired since: EXEC's last look."""
        return any(
            not before and _expired(_there(spaces[database], key), now) for (database, key), before in mark.keys.items()
        )

    def touch(self, database: int, key: bytes, *, deleted: bool) -> None:
        """A key is about to be changed, or deleted."""
        entry = (database, key)
        for mark in self.marks.get(entry, ()):
            if mark.keys[entry] and deleted:
                mark.keys[entry] = False
            else:
                mark.dirty = True

    def touch_all(self, database: int, before: Keyspace, after: Keyspace | None, now: int) -> None:
        """A database is about to be emptied (`after` is None) or to have another generation under its number."""
        for entry, marks in self.marks.items():
            if entry[0] != database:
                continue
            was = _there(before, entry[1])
            will = None if after is None else _there(after, entry[1])
            if was is None and will is None:
                continue
            for mark in marks:
                if mark.keys[entry]:
                    # It had expired when it was watched: to be gone, or expired again, changes nothing.
                    if will is None:
                        mark.keys[entry] = False
                        continue
                    if _expired(will, now):
                        continue
                elif was is None and _expired(will, now):
                    mark.keys[entry] = True
                    continue
                mark.dirty = True
