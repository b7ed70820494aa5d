"""Replies: what a command answers, before any codec gives it a wire form.

A reply is plain Python data, so that handlers read like sentences and codecs dispatch on the exact type:

| type | meaning | RESP2 | RESP3 |
|---|---|---|---|
| `bytes` | a value | bulk string | bulk string |
| `str` | a status word such as `OK` | simple string | simple string |
| `int`, `float`, `bool` | a number, a truth | integer, bulk string, integer 0 or 1 | integer, double, boolean |
| `None` | nothing there | null bulk string | null |
| `NULL_ARRAY` | no list there (an aborted EXEC) | null array | null |
| `list` | a sequence of replies | array | array |
| `dict` | pairs of replies | array of twice the length | map |
| `SetReply` | replies in no order | array | set |
| `Verbatim` | text for people | bulk string | verbatim string |
| `BigNumber` | an integer over 64 bits | bulk string | big number |
| `Push` | out of band | array | push |
| `Attributed` | a reply with attributes beside it | the reply alone | attribute, then the reply |
| `Error` | a failure | error | error |
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeAlias

from keyhaus.core.errors import Error

OK: Final = "OK"


class NullArray:
    """The type of `NULL_ARRAY`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "NULL_ARRAY"


NULL_ARRAY: Final = NullArray()


class SetReply(list[Any]):
    """Replies in no order; a list, since order on the wire has to be some order."""


class Push(list[Any]):
    """An out-of-band message."""


class BigNumber(int):
    """An integer that may not fit into 64 bits."""


class Verbatim(bytes):
    """Text for people; a value to those who have no such type."""

    format = b"txt"


class Attributed(NamedTuple):
    """A reply with attributes that a client may ignore."""

    attributes: dict[Any, Any]
    reply: Any


# Nested replies make a precise recursive alias unreadable for no gain: the codec checks each type it meets.
Reply: TypeAlias = (
    bytes | str | int | float | bool | list[Any] | dict[Any, Any] | NullArray | Verbatim | Attributed | Error | None
)


def reply_bytes(reply: Any) -> int:
    """About how many bytes a reply takes on the wire, without encoding it."""
    if isinstance(reply, bytes | str):
        return len(reply) + 16
    if isinstance(reply, dict):
        return 16 + sum(reply_bytes(key) + reply_bytes(value) for key, value in reply.items())
    if isinstance(reply, list):
        return 16 + sum(map(reply_bytes, reply))
    if isinstance(reply, Attributed):
        return reply_bytes(reply.attributes) + reply_bytes(reply.reply)
    if isinstance(reply, Error):
        return len(reply.raw) + 16
    return 24
