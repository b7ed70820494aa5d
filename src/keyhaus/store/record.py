"""A record: what stands under a key, as one bytes object.

    record = head [expires:i64] value
    head   = seqno:u56 flags:u8          ; little-endian
    flags  = 1 an expiry is there · 2 tombstone · 4 the value came as bytes · 8 a typed object (MessagePack)

`expires` is in milliseconds since 1970. One object a key is the smallest that Python offers; the seqno in it is what a
reply that read it depends on (C2). A record is never empty.
"""

from __future__ import annotations

from typing import Final, TypeAlias

Record: TypeAlias = bytes

EXPIRES: Final = 1
TOMBSTONE: Final = 2
BYTES: Final = 4
OBJECT: Final = 8

FLAGS_OF_KIND: Final = {b"TEXT": 0, b"BYTES": BYTES, b"OBJECT": OBJECT}  # kinds as commands name them

HEAD_BYTES: Final = 8
_EXPIRES_END: Final = 16


def make(seqno: int, flags: int, value: bytes, expires: int = 0) -> Record:
    """A record; `expires` is 0 for one that stays."""
    if expires:
        head = (seqno | (flags | EXPIRES) << 56).to_bytes(8, "little")
        return head + expires.to_bytes(8, "little", signed=True) + value
    return (seqno | (flags & ~EXPIRES) << 56).to_bytes(8, "little") + value


def tombstone(seqno: int) -> Record:
    return (seqno | TOMBSTONE << 56).to_bytes(8, "little")


def seqno_of(record: Record) -> int:
    return int.from_bytes(record[:7], "little")


def value_of(record: Record) -> bytes:
    return record[16:] if record[7] & EXPIRES else record[8:]


def value_bytes(record: Record) -> int:
    """The length of the value, without copying it."""
    return len(record) - (_EXPIRES_END if record[7] & EXPIRES else HEAD_BYTES)


def expires_of(record: Record) -> int:
    """When it expires, in milliseconds since 1970; 0 for never."""
    return int.from_bytes(record[8:16], "little", signed=True) if record[7] & EXPIRES else 0


def flags_of(record: Record) -> int:
    """What kind of value it is: BYTES, OBJECT, or 0."""
    return record[7] & ~EXPIRES


def kind_of(record: Record) -> bytes:
    """What kind of value it is, as commands name it."""
    flags = record[7]
    return b"OBJECT" if flags & OBJECT else b"BYTES" if flags & BYTES else b"TEXT"
