"""The commands that a client and a transaction have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, cast

from keyhaus.client.words import Word

PAGE: Final = 1_000


class AsyncCommands(ABC):
    """Keys and values are bytes; `str` is sent as UTF-8, `int` in decimal. All methods raise `keyhaus.Error`."""

    @abstractmethod
    async def execute(self, *words: Word) -> Any:
        """Sends any command, word by word: `execute("APPEND", "key", "tail")`.

        Returns:
            The reply: bytes, int, None, or a list of them.
        """

    async def get(self, key: Word) -> bytes | None:
        """A key's value; None for a missing key."""
        return cast(bytes | None, await self.execute("GET", key))

    async def put(self, key: Word, value: Word) -> None:
        """Gives a key a value, and no expiry."""
        await self.execute("SET", key, value)

    async def set(
        self,
        key: Word,
        value: Word,
        *,
        ttl_ms: int | None = None,
        keep_ttl: bool = False,
        only_new: bool = False,
        only_existing: bool = False,
    ) -> bool:
        """Gives a key a value, under conditions.

        Args:
            key: The key.
            value: The value.
            ttl_ms: After how many milliseconds the key expires.
            keep_ttl: Let it expire when it would have anyway.
            only_new: Only if the key doesn't exist.
            only_existing: Only if the key exists.

        Returns:
            Whether it was done.
        """
        words: list[Word] = ["SET", key, value]
        if ttl_ms is not None:
            words += ["PX", ttl_ms]
        words += [word for word, wanted in (("KEEPTTL", keep_ttl), ("NX", only_new), ("XX", only_existing)) if wanted]
        return await self.execute(*words) is not None

    async def delete(self, *keys: Word) -> int:
        """Deletes keys; how many there were."""
        return cast(int, await self.execute("DEL", *keys))

    async def exists(self, *keys: Word) -> int:
        """How many of the keys exist; one that is named twice counts twice."""
        return cast(int, await self.execute("EXISTS", *keys))

    async def incr(self, key: Word, by: int = 1) -> int:
        """Adds to a number, which is 0 where the key is missing; the sum."""
        return cast(int, await self.execute("INCRBY", key, by))

    async def mget(self, *keys: Word) -> list[bytes | None]:
        """The values of several keys at one moment, in their order."""
        return cast(list[bytes | None], await self.execute("MGET", *keys))

    async def mset(self, values: Mapping[bytes, Word] | Mapping[str, Word]) -> None:
        """Gives several keys their values, as one."""
        await self.execute("MSET", *[word for pair in values.items() for word in pair])

    async def scan(
        self, start: Word = b"", end: Word = b"", *, reverse: bool = False, limit: int | None = None
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        """Keys and values of a range, in the order of the keys' bytes, fetched page by page.

        Within a transaction all pages show the same state. Outside of one each page shows the state at its own time.

        Args:
            start: The first key (inclusive); empty for the first of all.
            end: Where it ends (exclusive); empty for the end of all.
            reverse: From the end to the start.
            limit: How many at most.
        """
        left = limit
        while left is None or left > 0:
            page = PAGE if left is None else min(left, PAGE)
            order = ("REV",) if reverse else ()
            following, flat = await self.execute("RANGE", start, end, *order, "LIMIT", page)
            for place in range(0, len(flat), 2):
                yield flat[place], flat[place + 1]
            if following is None:
                return
            if left is not None:
                left -= len(flat) // 2
            start, end = (start, following) if reverse else (following, end)
