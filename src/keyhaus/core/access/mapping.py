"""A database as a mapping, in the place of dict, shelve, dbm or diskcache.

What each method means is what it means to a dict, but:

- Keys are `str`; one given as bytes is the same key as its text, and one that is no UTF-8 comes out as bytes. What
  frames have put under other keys (numbers, tuples, …) is not part of it, but for `clear`.
- Values are those of `core/objects.py`, and each is a copy: to change one in its place, put it again.
- The order is that of the keys' bytes. Iteration has a page in memory at a time, and the mapping may change meanwhile:
  a key that is there all the time comes once, one that is put or deleted meanwhile may come or not. Nothing is raised.
- `setdefault`, `pop`, `popitem`, `update` and `clear` happen as one, whatever other threads and processes do.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, MutableMapping, ValuesView
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from keyhaus.core.access.replies import told_key
from keyhaus.core.keys import PLAIN_END

if TYPE_CHECKING:
    from keyhaus.core.access.blocking.access import Door, TransactionAccess

Key: TypeAlias = str | bytes

_MISSING: Final = object()


class TypedMapping(MutableMapping[Key, Any]):
    """What `as_mapping` gives: all keys of a database, with their typed values.

    Each method raises `keyhaus.Error`, and TypeError for a key that is neither str nor bytes.

    Args:
        door: The client, or the database within the process.
    """

    def __init__(self, door: Door) -> None:
        self._door = door

    def __enter__(self) -> TypedMapping:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<keyhaus.TypedMapping of {self._door!r}>"

    # reading

    def __getitem__(self, key: Key) -> Any:
        value = self._door.get_object(_key(key), _MISSING)
        if value is _MISSING:
            raise KeyError(key)
        return value

    def get(self, key: Key, default: Any = None) -> Any:
        return self._door.get_object(_key(key), default)

    def __contains__(self, key: object) -> bool:
        return bool(self._door.exists(_key(key)))

    def __len__(self) -> int:
        typed = self._door.execute("TYPED", "RANGE", PLAIN_END, b"", "LIMIT", 1)[1]
        return self._door.count(end=PLAIN_END) if typed else self._door.count()  # at once, where it can be

    def __iter__(self) -> Iterator[Key]:
        return map(told_key, self._door.range(keys_only=True))

    def __reversed__(self) -> Iterator[Key]:
        return map(told_key, self._door.range(keys_only=True, reverse=True))

    def items(self) -> ItemsView[Key, Any]:
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        return _Values(self)

    def pairs(self) -> Iterator[tuple[Key, Any]]:
        """Keys and values, page by page."""
        for key, value in self._door.range_objects():
            yield told_key(key), value

    # writing

    def __setitem__(self, key: Key, value: Any) -> None:
        self._door.put_object(_key(key), value)

    def __delitem__(self, key: Key) -> None:
        if not self._door.delete(_key(key)):
            raise KeyError(key)

    def setdefault(self, key: Key, default: Any = None) -> Any:
        found = self.get(key, _MISSING)
        return self._door.run(lambda tx: _put_if_absent(tx, _key(key), default)) if found is _MISSING else found

    def pop(self, key: Key, default: Any = _MISSING) -> Any:
        value = self._taken(key)
        if value is not _MISSING:
            return value
        if default is _MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[Key, Any]:
        """Removes the last key; it and its value. Raises KeyError where there is none."""
        while True:
            last = next(reversed(self), None)
            if last is None:
                raise KeyError("the mapping is empty")
            value = self._taken(last)
            if value is not _MISSING:  # else somebody was faster
                return last, value

    def _taken(self, key: Key) -> Any:
        return self._door.run(lambda tx: _take(tx, _key(key)))

    def update(self, other: Any = (), /, **more: Any) -> None:
        self._door.put_objects({_key(key): value for key, value in dict(other, **more).items()})

    def clear(self) -> None:
        self._door.execute("FLUSHDB")

    # the end

    def sync(self) -> None:
        """Waits until what was put is on the disk, whatever the durability is; in memory mode it does nothing."""
        if self._door.execute("CONFIG", "GET", "engine") != {b"engine": b"memory"}:
            self._door.sync()

    def close(self) -> None:
        """Closes the client or the database that this is a face of."""
        self._door.close()


class _Items(ItemsView[Key, Any]):
    """Pairs in pages, where the mixin would ask for each value."""

    _mapping: TypedMapping

    def __iter__(self) -> Iterator[tuple[Key, Any]]:
        return self._mapping.pairs()


class _Values(ValuesView[Any]):
    _mapping: TypedMapping

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping.pairs())

    def __contains__(self, value: object) -> bool:
        return any(found is value or found == value for found in self)


def _key(key: object) -> bytes:
    if isinstance(key, str):
        return key.encode()
    if isinstance(key, bytes):
        return key
    raise TypeError(f"keys are str or bytes, not {type(key).__name__}")


def _put_if_absent(tx: TransactionAccess, key: bytes, value: Any) -> Any:
    tx.lock(key)
    found = tx.get_object(key, _MISSING)
    if found is not _MISSING:
        return found
    tx.put_object(key, value)
    return value


def _take(tx: TransactionAccess, key: bytes) -> Any:
    tx.lock(key)
    value = tx.get_object(key, _MISSING)
    if value is not _MISSING:
        tx.delete(key)
    return value
