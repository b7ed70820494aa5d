"""DUMP's payload: one value in the format of Redis' RDB files, version 10, as Redis 7.0 writes it.

    payload = type:u8 object version:u16 crc:u64           ; crc and version little-endian
    object  = string                                       ; for type 0; the other types are refused
    string  = length byte*                                 ; as many bytes as the length says
            | 0xC0 i8 | 0xC1 i16 | 0xC2 i32                ; a number, little-endian, meaning its decimal text
            | 0xC3 length length lzf                       ; compressed length, length, compressed bytes
    length  = 0b00xxxxxx                                   ; below 64
            | 0b01xxxxxx u8                                ; below 16384, high bits first
            | 0x80 u32 | 0x81 u64                          ; big-endian
    lzf     = (0b000nnnnn byte{n+1}                        ; literals
            | 0bnnndddddd… )*                              ; n+2 bytes again from d+1 bytes back:
    copy    = 0bnnnddddd u8                                ; n from 1 to 6, d has 13 bits
            | 0b111ddddd u8 u8                             ; n = 7 + the first byte behind, then d's low bits

`crc` is CRC-64 (Jones' polynomial, reflected, Redis' variant) over all that stands before it. What stands behind the
object and before the version is ignored, as in Redis. Written is the plain form, and numbers of up to 32 bits as such.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from anycrc import Model  # type: ignore[import-untyped]

from keyhaus.commands.spec import integer
from keyhaus.core.errors import LimitExceeded, Syntax, TransactionTooLarge, UserError
from keyhaus.core.limits import LZF_BYTES_MAX

VERSION: Final = 10
STRING: Final = 0
# What Redis 7.0 knows beside strings: worth a word of its own, since the payload is not damaged.
OTHER_TYPES: Final = frozenset((*range(1, 8), *range(9, 20)))
_FOOTER_BYTES: Final = 10
# One LZF copy of three bytes makes this many at the most.
_LZF_COPY_BYTES: Final = 264
_INTEGER_TEXT_BYTES_MAX: Final = 11

_crc64: Callable[[bytes], int] = Model("CRC64-REDIS").calc


class _Damaged(Exception):
    """The bytes do not follow the grammar."""


def dumped(value: bytes) -> bytes:
    """The payload of a string."""
    body = bytes([STRING]) + (_number(value) or _length(len(value)) + value) + VERSION.to_bytes(2, "little")
    return body + _crc64(body).to_bytes(8, "little")


def restored(payload: bytes, most_bytes: int) -> bytes:
    """The string in a payload.

    Args:
        payload: What DUMP gave, here or in Redis.
        most_bytes: How long the string may be.

    Raises:
        UserError: The payload is damaged, of a later version, or of a type that is no string; in Redis' words.
        LimitExceeded: It has more compressed bytes than can be unpacked without a pause that others feel.
        TransactionTooLarge: It announces a longer string.
    """
    footer = payload[-_FOOTER_BYTES:]
    version, crc = int.from_bytes(footer[:2], "little"), int.from_bytes(footer[2:], "little")
    if len(payload) < _FOOTER_BYTES or version > VERSION or _crc64(payload[:-8]) != crc:
        raise UserError("DUMP payload version or checksum are wrong")
    kind = payload[0]
    if kind in OTHER_TYPES:
        raise UserError(f"Bad data format: the payload's type is {kind}, and only strings (type 0) can be restored")
    try:
        if kind != STRING:
            raise _Damaged
        return _Reader(payload[1:-_FOOTER_BYTES], most_bytes).string()
    except _Damaged:
        raise UserError("Bad data format") from None


def _number(value: bytes) -> bytes | None:
    """The short form of a string that is the one spelling of a number of up to 32 bits; None for any other."""
    if not 0 < len(value) <= _INTEGER_TEXT_BYTES_MAX:
        return None
    try:
        number = integer(value)
    except Syntax:
        return None
    for kind, size in ((0xC0, 1), (0xC1, 2), (0xC2, 4)):
        if -(1 << 8 * size - 1) <= number < 1 << 8 * size - 1:
            return bytes([kind]) + number.to_bytes(size, "little", signed=True)
    return None


def _length(length: int) -> bytes:
    if length < 1 << 6:
        return bytes([length])
    if length < 1 << 14:
        return bytes([0x40 | length >> 8, length & 0xFF])
    if length < 1 << 32:
        return b"\x80" + length.to_bytes(4, "big")
    return b"\x81" + length.to_bytes(8, "big")


class _Reader:
    """Reads an object's bytes from their beginning."""

    def __init__(self, data: bytes, most_bytes: int) -> None:
        self._data = data
        self._place = 0
        self._most_bytes = most_bytes

    def string(self) -> bytes:
        first = self._take(1)[0]
        if first in (0xC0, 0xC1, 0xC2):
            return b"%d" % int.from_bytes(self._take(1 << first - 0xC0), "little", signed=True)
        if first == 0xC3:
            packed_bytes, length = self._length(self._take(1)[0]), self._length(self._take(1)[0])
            if packed_bytes > LZF_BYTES_MAX:
                raise LimitExceeded("lzf-bytes", packed_bytes, LZF_BYTES_MAX)
            packed = self._take(packed_bytes)
            # Nothing is made that the packed bytes could not fill: an announced length alone costs no memory.
            if length > packed_bytes * _LZF_COPY_BYTES // 3 + _LZF_COPY_BYTES:
                raise _Damaged
            return _unpacked(packed, self._allowed(length))
        return self._take(self._allowed(self._length(first)))

    def _take(self, count: int) -> bytes:
        part = self._data[self._place : self._place + count]
        if len(part) < count:
            raise _Damaged
        self._place += count
        return part

    def _length(self, first: int) -> int:
        if first < 0x40:
            return first
        if first < 0x80:
            return (first & 0x3F) << 8 | self._take(1)[0]
        if first in (0x80, 0x81):
            return int.from_bytes(self._take(4 if first == 0x80 else 8), "big")
        raise _Damaged

    def _allowed(self, length: int) -> int:
        if length > self._most_bytes:
            raise TransactionTooLarge(length, self._most_bytes)
        return length


def _unpacked(packed: bytes, length: int) -> bytes:
    """The `length` bytes that LZF packed."""
    # Each turn takes two bytes at least, so LZF_BYTES_MAX bounds them; all clients wait for them, so they are bare.
    out = bytearray()
    place, end, made = 0, len(packed), 0
    try:
        while place < end:
            control = packed[place]
            if control < 32:
                place += 2
                stop = place + control
                if stop > end:
                    raise _Damaged
                out += packed[place - 1 : stop]
                place = stop
                made += control + 1
            else:
                count = (control >> 5) + 2
                if count == 9:
                    place += 1
                    count += packed[place]
                back = ((control & 31) << 8 | packed[place + 1]) + 1
                place += 2
                if back > made:
                    raise _Damaged
                if back < count:  # it reaches into what it makes, so that repeats
                    out += (out[-back:] * (count // back + 1))[:count]
                else:
                    out += out[made - back : made - back + count]
                made += count
            if made > length:
                raise _Damaged
    except IndexError:
        raise _Damaged from None
    if made != length:
        raise _Damaged
    return bytes(out)
