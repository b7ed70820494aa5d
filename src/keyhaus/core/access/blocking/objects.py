# Made from aio/objects.py by tools/generate_client.py: change it there, then run make client.
"""Typed values: what was put comes back equal, and of the same type.

They are None, bool, int, float, str, bytes, list, tuple, dict, set and frozenset, nested; a bytearray becomes bytes.
What a plain `put` has stored reads as `str` where it is UTF-8, else as `bytes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from keyhaus.core.access.blocking.ranges import Ranges
from keyhaus.core.access.replies import typed
from keyhaus.core.access.words import ManyObjects, Seconds, Word, bounds, encode, expiry, pairs
from keyhaus.core.objects import pack, unpack


class Objects(Ranges):
    """What puts and reads typed values. A value of another type raises UserError, and nothing is put."""

    def put_object(self, key: Word, value: Any, *, ttl: Seconds | None = None, ttl_ms: int | None = None) -> None:
        """Gives a key a typed value, for good, or for a time to live."""
        self.put_objects(((key, value),), ttl=ttl, ttl_ms=ttl_ms)

    def get_object(self, key: Word, default: Any = None) -> Any:
        """A key's typed value; `default` for a missing key."""
        reply = self._ask([b"TYPED", b"GET", encode(key)])
        return typed(reply[0], default)

    def put_objects(self, values: ManyObjects, *, ttl: Seconds | None = None, ttl_ms: int | None = None) -> None:
        """Gives several keys their typed values as one, for good, or for a time to live.

        Args:
            values: A mapping, or pairs of a key and a value.
            ttl: After how many seconds, or what timedelta, the keys expire.
            ttl_ms: After how many milliseconds the keys expire.
        """
        args = [b"TYPED", b"PUT"]
        for key, value in pairs(values):
            kind, data = pack(value)
            args += (encode(key), kind.encode(), data)
        if len(args) > 2:
            self._ask([*args, *expiry(ttl, ttl_ms)])

    def get_objects(self, keys: Iterable[Word], default: Any = None) -> list[Any]:
        """The typed values of several keys at one moment, in the order of the keys; `default` for a missing one."""
        args = [b"TYPED", b"GET", *map(encode, keys)]
        return [typed(reply, default) for reply in self._ask(args)] if len(args) > 2 else []

    def range_objects(
        self,
        start: Word = b"",
        end: Word = b"",
        *,
        prefix: Word | None = None,
        reverse: bool = False,
        limit: int | None = None,
        match: Word | None = None,
    ) -> Iterator[tuple[bytes, Any]]:
        """The keys of a range with their typed values; else as `range`."""
        return _unpacked(self._walk([b"TYPED", b"RANGE"], bounds(start, end, prefix), 3, reverse, limit, match))


def _unpacked(rows: Iterator[tuple[bytes, bytes, bytes]]) -> Iterator[tuple[bytes, Any]]:
    for key, kind, data in rows:
        yield key, unpack(kind.decode(), data)
