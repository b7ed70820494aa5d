"""WATCH by marks (T7): a commit touches the marks of the keys that it changes.

No versions and no memory of past commits: a mark is dirty or it is not, by Redis' rules. A key that had expired
already when it was watched may be deleted without dirtying the mark, since nothing changes for who looks at it. What a
mark knows of its keys stays true for as long as nothing touches it, so nobody has to look them up again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from keyhaus.store import record as rec
from keyhaus.store.record import EXPIRES, TOMBSTONE, Record

_Key: TypeAlias = tuple[int, bytes]

# What a mark knows of a key: that it wasn't there, that it had expired when it was watched, or when it will expire
# (0: never).
ABSENT: Final = -2
EXPIRED: Final = -1


def state_of(record: Record | None, now: int) -> int:
    if record is None or record[7] & TOMBSTONE:
        return ABSENT
    if not record[7] & EXPIRES:
        return 0
    expires = rec.expires_of(record)
    return expires if expires > now else EXPIRED


class Mark:
    """What one client watches.

    Attributes:
        dirty: Whether anything that it watches was changed.
        keys: What it watches: (database, key), and what was known of it when it was watched.
    """

    __slots__ = ("dirty", "keys")

    def __init__(self) -> None:
        self.dirty = False
        self.keys: dict[_Key, int] = {}


class Watches:
    """All marks of a store.

    Attributes:
        databases: Per database that anything is watched in, the marks by the key that they watch.
    """

    def __init__(self) -> None:
        self.databases: dict[int, dict[bytes, set[Mark]]] = {}

    def add(self, mark: Mark, database: int, keys: Iterable[tuple[bytes, Record | None]], now: int) -> None:
        """Marks keys, whose records are given as they are now."""
        watched = self.databases.setdefault(database, {})
        for key, record in keys:
            if (database, key) not in mark.keys:
                mark.keys[database, key] = state_of(record, now)
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

    def expired(self, mark: Mark, now: int) -> bool:
        """Whether anything watched has expired since: EXEC's last look."""
        return any(0 < state <= now for state in mark.keys.values())

    def touch(self, database: int, key: bytes, *, deleted: bool) -> None:
        """A key is about to be changed, or deleted."""
        watched = self.databases.get(database)
        for mark in watched.get(key, ()) if watched is not None else ():
            if mark.keys[database, key] == EXPIRED and deleted:
                mark.keys[database, key] = ABSENT
            else:
                mark.dirty = True

    def touch_all(self, database: int, after: Callable[[bytes], Record | None] | None, now: int) -> None:
        """A database is about to be emptied (`after` is None), or to hold what `after` says from now on."""
        for key, marks in self.databases.get(database, {}).items():
            will = ABSENT if after is None else state_of(after(key), now)
            for mark in marks:
                was = mark.keys[database, key]
                if was == ABSENT and will == ABSENT:
                    continue
                # To be gone or expired where it had expired, or to be expired where nothing was, changes nothing.
                if was in (EXPIRED, ABSENT) and will in (EXPIRED, ABSENT):
                    mark.keys[database, key] = will
                    continue
                mark.dirty = True
