"""Reading and writing in Python's terms: what a database and a transaction of it have in common.

Each method is one command of the table, so it means what the command means. Keys and values are bytes; what is given as
`str` becomes its UTF-8, numbers become their text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, TypeAlias

Word: TypeAlias = bytes | str | int | float | bytearray | memoryview


def as_bytes(word: Word) -> bytes:
    """A key, a value or an argument as commands take it. Raises TypeError."""
    if isinstance(word, bytes):
        return word
    if isinstance(word, str):
        return word.encode()
    if isinstance(word, bytearray | memoryview):
        return bytes(word)
    if word.__class__ is int or word.__class__ is float:
        return repr(word).encode()
    raise TypeError(f"keys, values and arguments are bytes, str, int or float, not {type(word).__name__}")


def prefix_end(prefix: bytes) -> bytes:
    """The first key behind all that begin with a prefix; empty (an open end) where there is none."""
    shortened = prefix.rstrip(b"\xff")
    return shortened[:-1] + bytes((shortened[-1] + 1,)) if shortened else b""


class Access(ABC):
    """What has commands."""

    @abstractmethod
    def _execute(self, args: list[bytes]) -> Any:
        """The reply of a command. Raises Error."""

    def execute(self, *words: Word) -> Any:
        """Runs any command of the table: `execute("SET", "k", "v", "EX", 60)`.

        Returns:
            What the command replies: bytes, a status such as `"OK"`, numbers, None, lists and dicts of those. An error
            that is one reply among others (EXEC's) is an `Error` object in its list.

        Raises:
            Error: What the command replies, if that is an error.
        """
        return self._execute([as_bytes(word) for word in words])

    def get(self, key: Word) -> bytes | None:
        """The value under a key, or None. Raises Error."""
        value: bytes | None = self._execute([b"GET", as_bytes(key)])
        return value

    def put(self, key: Word, value: Word, *, ttl_ms: int | None = None) -> None:
        """Stores a value, for good, or for `ttl_ms` milliseconds. Raises Error."""
        args = [b"SET", as_bytes(key), as_bytes(value)]
        if ttl_ms is not None:
            args += (b"PX", as_bytes(ttl_ms))
        self._execute(args)

    set = put

    def delete(self, *keys: Word) -> int:
        """Deletes keys; how many there were. Raises Error."""
        count: int = self._execute([b"DEL", *map(as_bytes, keys)])
        return count

    def exists(self, key: Word) -> bool:
        """Whether there is a key. Raises Error."""
        return bool(self._execute([b"EXISTS", as_bytes(key)]))

    def incr(self, key: Word, by: int = 1) -> int:
        """Adds to a number; the sum. A missing key counts as 0. Raises Error."""
        total: int = self._execute([b"INCRBY", as_bytes(key), as_bytes(by)])
        return total

    def page(
        self,
        start: Word = b"",
        end: Word = b"",
        *,
        limit: int | None = None,
        reverse: bool = False,
        match: Word | None = None,
    ) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """Some keys of a range with their values, in the order of their bytes, as they are at one moment.

        Args:
            start: The first key; empty for the very first.
            end: The first key behind the range; empty for an open end.
            limit: How many at the most. A page may be shorter although more follow.
            reverse: From the end.
            match: A pattern as KEYS has them; only keys that match.

        Returns:
            The pairs, and where the next page goes on (its `start`, or when reversed its `end`); None at the end.

        Raises:
            Error: What RANGE replies.
        """
        args = [b"RANGE", as_bytes(start), as_bytes(end)]
        if reverse:
            args.append(b"REV")
        if limit is not None:
            args += (b"LIMIT", as_bytes(limit))
        if match is not None:
            args += (b"MATCH", as_bytes(match))
        following, flat = self._execute(args)
        return list(zip(flat[::2], flat[1::2], strict=True)), following

    def scan(
        self,
        start: Word = b"",
        end: Word = b"",
        *,
        prefix: Word | None = None,
        limit: int | None = None,
        reverse: bool = False,
        match: Word | None = None,
    ) -> Iterator[tuple[bytes, bytes]]:
        """All keys of a range with their values, page by page.

        Outside of a transaction each page is of its own moment; inside all are of one.

        Args:
            start, end, limit, reverse, match: As `page` has them; `limit` is that of all pages together.
            prefix: In place of `start` and `end`: the keys that begin so.

        Raises:
            Error: What RANGE replies.
        """
        low, high = as_bytes(start), as_bytes(end)
        if prefix is not None:
            low = as_bytes(prefix)
            high = prefix_end(low)
        left = limit
        while left is None or left > 0:
            pairs, following = self.page(low, high, limit=left, reverse=reverse, match=match)
            yield from pairs
            if following is None:
                return
            if left is not None:
                left -= len(pairs)
            if reverse:
                high = following
            else:
                low = following
