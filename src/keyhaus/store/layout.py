"""What the base holds: the keys and values at rest, and the row that says what all of it amounts to.

    row        = meta | record | deadline | outcome
    meta       = %x00 -> MessagePack of `Meta`
    record     = %x01 generation key -> record                 ; store/record.py; never a tombstone
    deadline   = %x02 expires generation key -> %x01           ; the expiry index: checked against the record when used
    outcome    = %x03 id:16 -> seqno:u64                        ; a transaction that was committed (T9)
    generation = seqno:u64 number:u32                          ; of the commit that made it, and of its operation there
    expires    = i64 + 2^63 as u64                             ; milliseconds since 1970, so that bytes order as numbers

All numbers are big-endian, so that rows lie in the order of what they mean. Each run carries the meta row, so that what
the base covers and what it holds become durable together (S1).
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from keyhaus.core.errors import Corruption, OtherFormat
from keyhaus.core.ids import ID_BYTES

Generation: TypeAlias = tuple[int, int]

VERSION: Final = 1
META: Final = b"\x00"
RECORD: Final = b"\x01"
DEADLINE: Final = b"\x02"
OUTCOME: Final = b"\x03"
DEADLINE_VALUE: Final = b"\x01"
PREFIX_BYTES: Final = 13

_SIGN: Final = 1 << 63


class Space(msgspec.Struct, array_like=True, frozen=True):
    """A database's mapping entry, and what its generation holds.

    Attributes:
        generation: Which one is under the database's number.
        count: How many keys it has; expired ones that were not swept yet are among them.
        volatile: How many of them have an expiry.
        exact: Whether the two are; where they aren't, they count some overwritten keys twice (S5).
        landmarks: Some of the keys, perhaps cut off, for RANDOMKEY.
    """

    generation: Generation
    count: int
    volatile: int
    exact: bool
    landmarks: tuple[bytes, ...] = ()


class Meta(msgspec.Struct, frozen=True):
    """What a base covers.

    Attributes:
        history: Identifies the line of sequence numbers (J8).
        seqno: Every commit up to it is in the base, jumps included.
        clock: The time of the newest of them, in milliseconds since 1970 (S6).
        spaces: Per database, in order.
        dropped: Generations that are under no number any more and were not cleaned yet (S4), each with the seqno of
            the commit that dropped it.
        forgotten_ms: The newest begin of all transactions whose outcome was forgotten (T9).
        version: The format's.
    """

    history: str
    seqno: int
    clock: int
    spaces: tuple[Space, ...]
    dropped: tuple[tuple[Generation, int], ...] = ()
    forgotten_ms: int = 0
    version: int = VERSION


class _Stamp(msgspec.Struct):
    """What meta rows of all versions have."""

    version: int = 0


def prefix(generation: Generation) -> bytes:
    """What the rows of a generation's records begin with."""
    seqno, number = generation
    return RECORD + seqno.to_bytes(8, "big") + number.to_bytes(4, "big")


def behind(prefix_: bytes) -> bytes:
    """The first row behind all that begin with a prefix."""
    return (int.from_bytes(prefix_, "big") + 1).to_bytes(len(prefix_), "big")


def deadline(expires: int, prefix_: bytes, key: bytes) -> bytes:
    """The row of the expiry index for a record, whose row begins with `prefix_`."""
    return DEADLINE + (expires + _SIGN).to_bytes(8, "big") + prefix_[1:] + key


def read_deadline(row: bytes) -> tuple[int, bytes, bytes]:
    """When, the record row's prefix, and the key."""
    return int.from_bytes(row[1:9], "big") - _SIGN, RECORD + row[9:21], row[21:]


def outcome(number: bytes, seqno: int | None) -> tuple[bytes, bytes | None]:
    """The row of a transaction's commit; without a value where it is to be deleted."""
    return OUTCOME + number, None if seqno is None else seqno.to_bytes(8, "big")


def read_outcomes(packed: bytes) -> list[tuple[bytes, int]]:
    """Ids and seqnos, from what `Base.outcomes` made of their rows."""
    size = ID_BYTES + 8
    return [
        (packed[at : at + ID_BYTES], int.from_bytes(packed[at + ID_BYTES : at + size], "big"))
        for at in range(0, len(packed), size)
    ]


def encode_meta(meta: Meta) -> bytes:
    return msgspec.msgpack.encode(meta)


def decode_meta(value: bytes | None, file: str) -> Meta | None:
    """The meta row's value; None for a base that was never flushed to. Raises Corruption, OtherFormat."""
    if value is None:
        return None
    try:
        version = msgspec.msgpack.decode(value, type=_Stamp).version
        if version != VERSION:
            raise OtherFormat(file, version, VERSION)
        return msgspec.msgpack.decode(value, type=Meta)
    except msgspec.MsgspecError as error:
        raise Corruption(f"what the base says of itself can't be read: {error}", file, 0) from error
