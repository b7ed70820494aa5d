# Made from aio/commands.py by tools/generate_client.py: change it there, then run make client.
"""Single keys and several at once: values, conditions, counters, expiry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from keyhaus.core.access.blocking.asking import Asking
from keyhaus.core.access.words import ManyValues, Seconds, Word, encode, expiry, milliseconds, pairs


class Commands(Asking):
    """Each method is one command, or none where it is given no keys; so each happens as a whole, or not at all.

    A time to live is `ttl`, a number of seconds or a timedelta, rounded up to milliseconds; or `ttl_ms`, a number of
    milliseconds. Several keys at once are bounded by the limits of the database (`max-transaction-bytes`,
    `max-reply-bytes`), and past one of them nothing is done.
    """

    def get(self, key: Word) -> bytes | None:
        """A key's value; None for a missing key. Of a typed object it is the JSON text."""
        return cast(bytes | None, self._ask([b"GET", encode(key)]))

    def put(self, key: Word, value: Word, *, ttl: Seconds | None = None, ttl_ms: int | None = None) -> None:
        """Gives a key a value, for good, or for a time to live."""
        self._ask([b"SET", encode(key), encode(value), *expiry(ttl, ttl_ms)])

    def set(
        self,
        key: Word,
        value: Word,
        *,
        ttl: Seconds | None = None,
        ttl_ms: int | None = None,
        keep_ttl: bool = False,
        only_new: bool = False,
        only_existing: bool = False,
    ) -> bool:
        """Gives a key a value, under conditions.

        Args:
            key: The key.
            value: The value.
            ttl: After how many seconds, or what timedelta, the key expires.
            ttl_ms: After how many milliseconds the key expires.
            keep_ttl: Let it expire when it would have anyway.
            only_new: Only if the key doesn't exist.
            only_existing: Only if the key exists.

        Returns:
            Whether it was done.
        """
        args = [b"SET", encode(key), encode(value), *expiry(ttl, ttl_ms)]
        args += [word for word, wanted in ((b"KEEPTTL", keep_ttl), (b"NX", only_new), (b"XX", only_existing)) if wanted]
        return self._ask(args) is not None

    def put_if_absent(self, key: Word, value: Word, *, ttl: Seconds | None = None, ttl_ms: int | None = None) -> bool:
        """Gives a key a value if it doesn't exist; whether it was done."""
        return self._ask([b"SET", encode(key), encode(value), b"NX", *expiry(ttl, ttl_ms)]) is not None

    def compare_and_set(self, key: Word, expected: Word, new: Word) -> bool:
        """Gives a key a new value, for good, if it has the expected one; whether it was done.

        A missing key has no value: that is what `put_if_absent` is for.
        """
        return bool(self._ask([b"CAS", encode(key), encode(expected), encode(new)]))

    def delete(self, *keys: Word) -> int:
        """Deletes keys; how many there were."""
        return cast(int, self._ask([b"DEL", *map(encode, keys)]))

    def exists(self, *keys: Word) -> int:
        """How many of the keys exist; one that is named twice counts twice."""
        return cast(int, self._ask([b"EXISTS", *map(encode, keys)]))

    # several keys

    def put_many(self, values: ManyValues) -> None:
        """Gives several keys their values, for good, as one.

        Args:
            values: A mapping, or pairs of a key and a value.
        """
        args = [b"MSET"]
        for key, value in pairs(values):
            args += (encode(key), encode(value))
        if len(args) > 1:
            self._ask(args)

    mset = put_many

    def get_many(self, keys: Iterable[Word]) -> list[bytes | None]:
        """The values of several keys at one moment, in the order of the keys; None for a missing one."""
        args = [b"MGET", *map(encode, keys)]
        return cast(list[bytes | None], self._ask(args)) if len(args) > 1 else []

    def mget(self, *keys: Word) -> list[bytes | None]:
        """As `get_many`."""
        return self.get_many(keys)

    def delete_many(self, keys: Iterable[Word]) -> int:
        """Deletes several keys as one; how many there were."""
        args = [b"DEL", *map(encode, keys)]
        return cast(int, self._ask(args)) if len(args) > 1 else 0

    # counters

    def incr(self, key: Word, by: int = 1) -> int:
        """Adds to an integer, which is 0 where the key is missing; the sum."""
        return cast(int, self._ask([b"INCRBY", encode(key), encode(by)]))

    def decr(self, key: Word, by: int = 1) -> int:
        """Takes from an integer, which is 0 where the key is missing; what is left."""
        return cast(int, self._ask([b"DECRBY", encode(key), encode(by)]))

    def incr_float(self, key: Word, by: float) -> float:
        """Adds to a number with a fraction, which is 0 where the key is missing; the sum."""
        return float(self._ask([b"INCRBYFLOAT", encode(key), encode(by)]))

    # expiry

    def expire(self, key: Word, ttl: Seconds) -> bool:
        """Lets a key expire after so many seconds, or a timedelta; at once, if that is not above 0.

        Returns:
            Whether there is such a key.
        """
        return bool(self._ask([b"PEXPIRE", encode(key), encode(milliseconds(ttl))]))

    def persist(self, key: Word) -> bool:
        """Lets a key stay for good; whether it would have expired."""
        return bool(self._ask([b"PERSIST", encode(key)]))

    def ttl(self, key: Word) -> float | None:
        """In how many seconds a key expires; None for one that stays, and for a missing one."""
        left: int = self._ask([b"PTTL", encode(key)])
        return None if left < 0 else left / 1000
