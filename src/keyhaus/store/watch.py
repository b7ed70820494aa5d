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
        databases: Per database that anything is watched in, the marks by the key that they watch.
    """

    def __init__(self) -> None:
        self.databases: dict[int, dict[bytes, set[Mark]]] = {}

    def add(self, mark: Mark, database: int, keys: Iterable[bytes], space: Keyspace, now: int) -> None:
        watched = self.databases.setdefault(database, {})
        for key in keys:
            if (database, key) not in mark.keys:
                mark.keys[database, key] = _expired(space.records.get(key), now)
                watched.setdefault(key, set()).add(mark)

    def remove(self, mark: Mark) -> None:
        for database, key in mark.keys:
            watched = self.databases.get(database, {})
            marks = watched.get(key)
            if marks is not None:
                marks.discard(mark)
                if not marks:
                    del watched[key]
                if not watched:
                    del self.databases[database]
        mark.keys = {}
        mark.dirty = False

    def expired(self, mark: Mark, spaces: list[Keyspace], now: int) -> bool:
        """Whether anything watched has expired since: EXEC's last look."""
        return any(
            not before and _expired(_there(spaces[database], key), now) for (database, key), before in mark.keys.items()
        )

    def touch(self, database: int, key: bytes, *, deleted: bool) -> None:
        """A key is about to be changed, or deleted."""
        watched = self.databases.get(database)
        for mark in watched.get(key, ()) if watched is not None else ():
            if mark.keys[database, key] and deleted:
                mark.keys[database, key] = False
            else:
                mark.dirty = True

    def touch_all(self, database: int, before: Keyspace, after: Keyspace | None, now: int) -> None:
        """A database is about to be emptied (`after` is None) or to have another generation under its number."""
        for key, marks in self.databases.get(database, {}).items():
            was = _there(before, key)
            will = None if after is None else _there(after, key)
            if was is None and will is None:
                continue
            for mark in marks:
                if mark.keys[database, key]:
                    # It had expired when it was watched: to be gone, or expired again, changes nothing.
                    if will is None:
                        mark.keys[database, key] = False
                        continue
                    if _expired(will, now):
                        continue
                elif was is None and _expired(will, now):
                    mark.keys[database, key] = True
                    continue
                mark.dirty = True
