"""What callers give, as commands take it: keys and values as bytes, times in milliseconds, bounds, options of BEGIN."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias

from keyhaus.core.errors import UserError

Word: TypeAlias = bytes | str | int | float | bytearray | memoryview
Seconds: TypeAlias = int | float | timedelta
ManyValues: TypeAlias = Mapping[bytes, Word] | Mapping[str, Word] | Iterable[tuple[Word, Word]]
ManyObjects: TypeAlias = Mapping[bytes, Any] | Mapping[str, Any] | Iterable[tuple[Word, Any]]
Mode: TypeAlias = Literal["pessimistic", "optimistic", "readonly"]
Durability: TypeAlias = Literal["always", "everysec", "none"]

MODES: Final = ("pessimistic", "optimistic", "readonly")


def encode(word: Word) -> bytes:
    """A key, a value or an argument as commands take it: text as UTF-8, numbers as their text.

    Raises:
        TypeError: It is something else. A bool, too: whether True is 1 or a word, its writer should say.
    """
    if isinstance(word, bytes):
        return word
    if isinstance(word, str):
        return word.encode()
    if isinstance(word, bytearray | memoryview):
        return bytes(word)
    if word.__class__ is int or word.__class__ is float:
        return repr(word).encode()
    raise TypeError(f"keys, values and arguments are bytes, str, int or float, not {type(word).__name__}")


def milliseconds(seconds: Seconds) -> int:
    """A length of time, rounded up. Raises TypeError, ValueError for what is none."""
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    elif seconds.__class__ is not int and seconds.__class__ is not float:
        raise TypeError(f"a time is a number of seconds or a timedelta, not {type(seconds).__name__}")
    if not math.isfinite(seconds):
        raise ValueError(f"a time is a finite number of seconds, not {seconds}")
    return math.ceil(round(seconds * 1000, 6))  # 0.07 * 1000 is a little more than 70


def expiry(ttl: Seconds | None, ttl_ms: int | None = None) -> list[bytes]:
    """The option for a time to live; none where there is no end. Raises TypeError where both are given."""
    if ttl is not None and ttl_ms is not None:
        raise TypeError("a time to live is given as ttl, in seconds, or as ttl_ms, not as both")
    if ttl is not None:
        ttl_ms = milliseconds(ttl)
    return [] if ttl_ms is None else [b"PX", encode(ttl_ms)]


def pairs(values: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> Iterable[tuple[Any, Any]]:
    """The pairs of a mapping, or of what consists of pairs."""
    return values.items() if isinstance(values, Mapping) else values


# ranges


def prefix_end(prefix: bytes) -> bytes:
    """The first key behind all that begin with a prefix; empty (an open end) where there is none."""
    shortened = prefix.rstrip(b"\xff")
    return shortened[:-1] + bytes((shortened[-1] + 1,)) if shortened else b""


def bounds(start: Word, end: Word, prefix: Word | None) -> tuple[bytes, bytes]:
    """The two bounds of a range, or of all keys that begin with a prefix. Raises TypeError where both are given."""
    low, high = encode(start), encode(end)
    if prefix is None:
        return low, high
    if low or high:
        raise TypeError("a range has a start and an end, or a prefix, not both")
    low = encode(prefix)
    return low, prefix_end(low)


# transactions


def begin_words(mode: Mode, durability: Durability | None, timeout_ms: int | None) -> list[bytes]:
    """The BEGIN of a transaction. Raises UserError."""
    if mode.lower() not in MODES:
        raise UserError("a transaction's mode is pessimistic, optimistic or readonly")
    args = [b"BEGIN", mode.encode()]
    if durability is not None:
        args += (b"DURABILITY", durability.encode())
    if timeout_ms is not None:
        args += (b"TIMEOUT", encode(timeout_ms))
    return args
