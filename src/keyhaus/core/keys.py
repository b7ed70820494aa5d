"""Typed keys: what frames put under a key that is no text and no bytes, as bytes that no other dialect sees, and back.

A text names the plain key of its UTF-8, bytes name themselves. Anything else is packed as FoundationDB's tuple layer
packs it (its `design/tuple.md`) and lies behind all plain keys, which may not begin as these do:

    key       = plain | typed           plain = bytes below `PLAIN_END`
    typed     = %xFF*16 element
    element   = %x00                     None; within a tuple or a set %x00 %xFF
              | %x01 escaped %x00        bytes         escaped = the bytes, %x00 as %x00 %xFF
              | %x02 escaped %x00        text, in UTF-8
              | %x05 element* %x00       tuple
              | %x40 element* %x00       frozenset, its elements in the order of their bytes
              | integer | %x21 double    a double: IEEE 754, big-endian; the sign bit is flipped, below 0 all bits
    integer   = %x14                     0
              | (%x14 + n) n-bytes       of n bytes, 1 to 8, big-endian
              | (%x14 - n) n-bytes       below 0: the complement
              | %x1D n:u8 n-bytes        of 9 to 255 bytes
              | %x0B (n ^ %xFF) n-bytes  below 0

Invariant: keys that are equal in Python are one key: True is 1, and 2.0 is 2, which is what they read as.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Final

from keyhaus.core.collisions import made
from keyhaus.core.errors import UserError
from keyhaus.core.limits import KEY_DEPTH_MAX, KEY_INTEGER_BYTES_MAX

PLAIN_END: Final = b"\xff" * 16
"""The first key behind all plain ones."""

_NONE, _BYTES, _TEXT, _TUPLE, _ZERO, _DOUBLE, _SET = 0x00, 0x01, 0x02, 0x05, 0x14, 0x21, 0x40
_BIG, _BIG_NEGATIVE = 0x1D, 0x0B
_SMALL_BYTES: Final = 8
_ESCAPE: Final = b"\0\xff"
_double: Final = struct.Struct(">d")
_NOT_ONE: Final = "this is no typed key"


class InvalidKey(UserError):
    """A key of a type that none can have."""

    code = "INVALIDKEY"


def pack_key(key: Any) -> bytes:
    """The bytes of a key.

    Raises:
        InvalidKey: It can't be one: a list, a dict, a set, NaN, a number over 255 bytes, bytes that begin as those of a
            typed key do.
    """
    kind = type(key)
    if kind is str:
        return _utf8(key)
    if kind is bytes:
        plain: bytes = key
        if plain >= PLAIN_END:
            raise InvalidKey("bytes that begin with 16 bytes 0xFF are no key: typed keys begin so")
        return plain
    return PLAIN_END + _element(key, 0)


def unpack_key(data: bytes) -> Any:
    """A key of its bytes: a plain one is text where it is UTF-8, else bytes.

    Raises:
        UserError: It is none.
        LimitExceeded: The elements of a frozenset in it collide too often.
    """
    if data < PLAIN_END:
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data
    try:
        key, end = _read(data, len(PLAIN_END), 0)
    except (IndexError, struct.error, UnicodeDecodeError):
        raise UserError(_NOT_ONE) from None
    if end != len(data) or type(key) in (str, bytes) or PLAIN_END + _element(key, 0) != data:
        raise UserError(_NOT_ONE)
    return key


def check_key(data: bytes) -> None:
    """Refuses a typed key that nobody could read. Raises UserError."""
    if data >= PLAIN_END:
        unpack_key(data)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidKey("a key's text has to consist of characters that UTF-8 can express") from None


def _element(value: Any, depth: int) -> bytes:
    kind = type(value)
    if value is None:
        return b"\0\xff" if depth else b"\0"
    if kind is str:
        return b"\x02" + _utf8(value).replace(b"\0", _ESCAPE) + b"\0"
    if kind is bytes:
        return b"\x01" + bytes(value).replace(b"\0", _ESCAPE) + b"\0"
    if kind is bool or kind is int:
        return _integer(int(value))
    if kind is float:
        return _integer(int(value)) if math.isfinite(value) and value.is_integer() else _floating(value)
    if kind is tuple or kind is frozenset:
        if depth == KEY_DEPTH_MAX:
            raise InvalidKey(f"a key is nested in at most {KEY_DEPTH_MAX} levels")
        elements = [_element(item, depth + 1) for item in value]
        return (b"\x05" + b"".join(elements) if kind is tuple else b"\x40" + b"".join(sorted(elements))) + b"\0"
    raise InvalidKey(f"a key is None, a bool, int, float, str, bytes, tuple or frozenset, not {kind.__name__}")


def _integer(number: int) -> bytes:
    size = (abs(number).bit_length() + 7) // 8
    if size > KEY_INTEGER_BYTES_MAX:
        raise InvalidKey(f"a key's numbers have at most {KEY_INTEGER_BYTES_MAX} bytes")
    if number >= 0:
        data = number.to_bytes(size, "big")
        return bytes((_ZERO + size,)) + data if size <= _SMALL_BYTES else bytes((_BIG, size)) + data
    data = (number + (1 << 8 * size) - 1).to_bytes(size, "big")
    return bytes((_ZERO - size,)) + data if size <= _SMALL_BYTES else bytes((_BIG_NEGATIVE, size ^ 0xFF)) + data


def _floating(number: float) -> bytes:
    if math.isnan(number):
        raise InvalidKey("NaN equals nothing, itself neither, so nothing could be found under it")
    return bytes((_DOUBLE,)) + _flipped(_double.pack(number), number < 0)


def _flipped(data: bytes, negative: bool) -> bytes:
    return bytes(byte ^ 0xFF for byte in data) if negative else bytes((data[0] ^ 0x80,)) + data[1:]


def _read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    """The element that begins there, and where the next one does."""
    code = data[at]
    at += 1
    if code == _NONE:
        return None, at + 1 if depth else at
    if code in (_BYTES, _TEXT):
        return _read_string(data, at, text=code == _TEXT)
    if code in (_TUPLE, _SET):
        return _read_many(data, at, depth, code)
    if code == _DOUBLE:
        packed = data[at : at + 8]
        return _double.unpack(_flipped(packed, packed[0] < 0x80))[0], at + 8
    if code == _BIG:
        return int.from_bytes(data[at + 1 : at + 1 + data[at]], "big"), at + 1 + data[at]
    if code == _BIG_NEGATIVE:
        size = data[at] ^ 0xFF
        return _negative(data[at + 1 : at + 1 + size], size), at + 1 + size
    size = abs(code - _ZERO)
    if size > _SMALL_BYTES:
        raise UserError(_NOT_ONE)
    packed = data[at : at + size]
    return int.from_bytes(packed, "big") if code >= _ZERO else _negative(packed, size), at + size


def _negative(packed: bytes, size: int) -> int:
    return int.from_bytes(packed, "big") - (1 << 8 * size) + 1


def _read_string(data: bytes, at: int, *, text: bool) -> tuple[Any, int]:
    end = at
    while data[end] != 0 or data[end + 1 : end + 2] == b"\xff":
        end = data.find(b"\0", end if data[end] else end + 2)
        if end < 0:
            raise UserError(_NOT_ONE)
    plain = data[at:end].replace(_ESCAPE, b"\0")
    return plain.decode() if text else plain, end + 1


def _read_many(data: bytes, at: int, depth: int, code: int) -> tuple[Any, int]:
    if depth == KEY_DEPTH_MAX:
        raise UserError(_NOT_ONE)
    items: list[Any] = []
    while data[at] != 0 or data[at + 1 : at + 2] == b"\xff":
        item, at = _read(data, at, depth + 1)
        items.append(item)
    return tuple(items) if code == _TUPLE else made(frozenset, items), at + 1
