# Made from aio/ranges.py by tools/generate_client.py: change it there, then run make client.
"""Ranges of keys, in the order of their bytes, page by page.

An iterator has one page in memory, of `PAGE` keys and 16 MiB at the most (a single larger row goes alone), and asks for
the next one when that is used up. It may be left anywhere: between two pages it holds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal, cast, overload

from keyhaus.core.access.blocking.asking import Asking
from keyhaus.core.access.words import Word, bounds, encode

PAGE: Final = 1_000


class Ranges(Asking):
    """What reads, counts and deletes ranges.

    A range begins with `start` and ends before `end`; empty, as they are where they are not given, both are open.
    `prefix` stands in their place, for the keys that begin so.

    Within a transaction all pages show the same state; outside of one each page shows the state at its own time: a key
    that is there from the first page to the last is told, once.
    """

    def page(
        self,
        start: Word = b"",
        end: Word = b"",
        *,
        limit: int | None = None,
        reverse: bool = False,
        match: Word | None = None,
    ) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """Some keys of a range with their values, in the order of the keys' bytes, as they are at one moment.

        Args:
            start: The first key (inclusive); empty for the very first.
            end: Where it ends (exclusive); empty for an open end.
            limit: How many at most. A page may be shorter although more follow.
            reverse: From the end to the start.
            match: A pattern as KEYS has them; only keys that match.

        Returns:
            The pairs, and where the next page goes on (its `start`, or when reversed its `end`); None at the end.
        """
        following, flat = self._ask([b"RANGE", encode(start), encode(end), *_options(reverse, limit, match)])
        return list(zip(flat[::2], flat[1::2], strict=True)), following

    @overload
    def scan(
        self,
        start: Word = b"",
        end: Word = b"",
        *,
        prefix: Word | None = None,
        reverse: bool = False,
        limit: int | None = None,
        match: Word | None = None,
        keys_only: Literal[False] = False,
    ) -> Iterator[tuple[bytes, bytes]]: ...

    @overload
    def scan(
        self,
        start: Word = b"",
        end: Word = b"",
        *,
        prefix: Word | None = None,
        reverse: bool = False,
        limit: int | None = None,
        match: Word | None = None,
        keys_only: Literal[True],
    ) -> Iterator[bytes]: ...

    def scan(
        self,
        start: Word = b"",
        end: Word = b"",
        *,
        prefix: Word | None = None,
        reverse: bool = False,
        limit: int | None = None,
        match: Word | None = None,
        keys_only: bool = False,
    ) -> Iterator[Any]:
        """The keys of a range with their values, in the order of the keys' bytes.

        Args:
            start: The first key (inclusive); empty for the very first.
            end: Where it ends (exclusive); empty for an open end.
            prefix: In place of the two: the keys that begin so.
            reverse: From the end to the start.
            limit: How many at most.
            match: A pattern as KEYS has them; only keys that match.
            keys_only: Keys alone, in place of pairs of a key and its value.

        Raises:
            TypeError: There is a prefix as well as a start or an end.
            ValueError: The limit is below 0.
        """
        return self._walk([b"RANGE"], bounds(start, end, prefix), 1 if keys_only else 2, reverse, limit, match)

    range = scan

    def count(
        self, start: Word = b"", end: Word = b"", *, prefix: Word | None = None, match: Word | None = None
    ) -> int:
        """How many keys there are: of a range by walking over its keys.

        Of the whole database it is known at once, and includes the keys that frames have put under neither text nor
        bytes.
        """
        low, high = bounds(start, end, prefix)
        if not low and not high and match is None:
            return cast(int, self._ask([b"DBSIZE"]))
        keys = 0
        for _ in self._walk([b"RANGE"], (low, high), 1, False, None, match):
            keys += 1
        return keys

    def delete_range(self, start: Word | None = None, end: Word | None = None, *, prefix: Word | None = None) -> int:
        """Deletes the keys of a range, all at once; how many there were.

        Raises:
            TypeError: Nothing says which keys; `delete_range(b"", b"")` means all. Or there are bounds and a prefix.
            TransactionTooLarge: They are more than one commit may delete (`max-transaction-bytes`).
        """
        if start is None and end is None and prefix is None:
            raise TypeError('say which keys are to be deleted: a start, an end or a prefix; (b"", b"") are all')
        low, high = bounds(b"" if start is None else start, b"" if end is None else end, prefix)
        return cast(int, self._ask([b"DELRANGE", low, high]))

    def _pages(
        self,
        command: list[bytes],
        low_high: tuple[bytes, bytes],
        width: int,
        reverse: bool,
        limit: int | None,
        match: Word | None,
    ) -> Iterator[list[Any]]:
        """The pages of a range, flat: `width` elements a key, of which the first is the key."""
        low, high = low_high
        left = limit
        while left is None or left > 0:
            options = _options(reverse, PAGE if left is None else min(left, PAGE), match)
            if width == 1:
                options.append(b"KEYS")
            following, flat = self._ask([*command, low, high, *options])
            yield flat
            if following is None:
                return
            if left is not None:
                left -= len(flat) // width
            low, high = (low, following) if reverse else (following, high)

    def _walk(
        self,
        command: list[bytes],
        low_high: tuple[bytes, bytes],
        width: int,
        reverse: bool,
        limit: int | None,
        match: Word | None,
    ) -> Iterator[Any]:
        if limit is not None and limit < 0:
            raise ValueError(f"a limit is counted from 0, and this one is {limit}")
        return _rows(self._pages(command, low_high, width, reverse, limit, match), width)


def _rows(pages: Iterator[list[Any]], width: int) -> Iterator[Any]:
    """The keys of pages, or what each key comes with as a tuple."""
    for flat in pages:
        for row in zip(*[iter(flat)] * width, strict=True):
            yield row[0] if width == 1 else row


def _options(reverse: bool, limit: int | None, match: Word | None) -> list[bytes]:
    options = [b"REV"] if reverse else []
    if limit is not None:
        options += (b"LIMIT", encode(limit))
    if match is not None:
        options += (b"MATCH", encode(match))
    return options
