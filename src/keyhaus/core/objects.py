"""Typed values: what Python, JSON and frames put under a key, as a kind and bytes, and back.

    kind    value                       bytes
    TEXT    str                         its UTF-8
    BYTES   bytes, bytearray            themselves
    OBJECT  anything else of the list   MessagePack

An object is None, a bool, int, float, str, bytes, list, tuple, dict, set or frozenset, nested. What MessagePack has no
form for are extensions, each around the MessagePack of an array: 1 a tuple, 2 a set, 3 a frozenset; and 4, an integer
beyond 64 bits, as its two's complement, big-endian; and 5, a dict some of whose keys are extensions, as an array of
keys and values by turns. A TEXT or BYTES value is what Redis calls a string.

Invariant: reading a value takes memory and time that are linear in its bytes, whoever chose them.
"""

from __future__ import annotations

import base64
import json
import math
from typing import Any, Final

import msgspec

from keyhaus.core.budget import too_deep
from keyhaus.core.collisions import fill, made
from keyhaus.core.errors import LimitExceeded, UserError
from keyhaus.core.limits import INTEGER_BYTES_MAX, VALUE_BYTES_UNCHECKED, VALUE_DEPTH_MAX
from keyhaus.core.packed import FROZENSET, INTEGER, PAIRS, SET, TUPLE, look

TEXT: Final = "TEXT"
BYTES: Final = "BYTES"
OBJECT: Final = "OBJECT"

_ARRAYS: Final[dict[type, int]] = {tuple: TUPLE, set: SET, frozenset: FROZENSET}
_AS_IT_IS: Final = frozenset((type(None), bool, float, bytes))
_PLAIN: Final = _AS_IT_IS | {int, str}
_NESTS: Final = frozenset((list, dict, *_ARRAYS))
_INT_MIN, _INT_END = -(1 << 63), 1 << 64
_encoder: Final = msgspec.msgpack.Encoder()


def pack(value: Any) -> tuple[str, bytes]:
    """The kind and bytes of a value.

    Raises:
        UserError: It is, or holds, something else than the types above.
        LimitExceeded: It is nested too deeply, or stands for more than may be read again.
    """
    kind = type(value)
    if kind is str:
        return TEXT, _utf8(value)
    if kind is bytes or kind is bytearray:
        return BYTES, bytes(value)
    data = encode(value)
    if len(data) > VALUE_BYTES_UNCHECKED:
        look(data)
    return OBJECT, data


def encode(value: Any) -> bytes:
    """The MessagePack of any value, text and bytes too. Raises as `pack`, but not for how much it stands for."""
    return _encoder.encode(_packable(value, VALUE_DEPTH_MAX))


def unpack(kind: str, data: bytes) -> Any:
    """The value of a kind and bytes. TEXT that is not UTF-8 is bytes. Raises UserError for what `pack` did not make."""
    if kind == TEXT:
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data
    return data if kind == BYTES else decode(data)


def decode(data: bytes | memoryview) -> Any:
    """The object of its MessagePack.

    Raises:
        UserError: It is none that `pack` makes.
        LimitExceeded: It is nested too deeply, stands for too much, or keys in it collide too often.
    """
    try:
        if len(data) > VALUE_BYTES_UNCHECKED:
            look(bytes(data), _decoder.decode)
        value = _decoder.decode(data)
    except RecursionError:
        raise too_deep() from None
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise UserError(f"this is no value in MessagePack: {error}") from None
    if type(value) in _NESTS:
        check_depth(value)
    elif type(value) not in _PLAIN:
        raise _foreign(value)
    return value


def _extension(code: int, data: memoryview) -> Any:
    if code == INTEGER:
        if len(data) > INTEGER_BYTES_MAX:
            raise LimitExceeded("integer-bytes", len(data), INTEGER_BYTES_MAX)
        return int.from_bytes(data, "big", signed=True)
    if code not in (TUPLE, SET, FROZENSET, PAIRS):
        raise UserError(f"this is no value in MessagePack: extension {code} is unknown")
    items = _decoder.decode(data)  # what it is nested in is bounded by Python's own recursion until `check_depth` looks
    if not isinstance(items, list) or (code == PAIRS and len(items) % 2):
        raise UserError(f"this is no value in MessagePack: extension {code} holds no array of its kind")
    if code == TUPLE:
        return tuple(items)
    if code == SET:
        return made(set, items)
    if code == FROZENSET:
        return made(frozenset, items)
    pairs: dict[Any, Any] = {}
    fill(pairs, items[::2], items[1::2])
    return pairs


_decoder: Final = msgspec.msgpack.Decoder(ext_hook=_extension)


def check_depth(value: Any, room: int = VALUE_DEPTH_MAX) -> None:
    """Raises LimitExceeded for a list, dict, tuple, set or frozenset that is nested too deeply.

    Raises UserError for what is none of the types above: msgspec reads MessagePack's own timestamps, unasked.
    """
    if not room:
        raise too_deep()
    for item in value:
        if type(item) in _NESTS:
            check_depth(item, room - 1)
        elif type(item) not in _PLAIN:
            raise _foreign(item)
    if type(value) is dict:
        for item in value.values():
            if type(item) in _NESTS:
                check_depth(item, room - 1)
            elif type(item) not in _PLAIN:
                raise _foreign(item)


def _foreign(value: Any) -> UserError:
    return UserError(f"this is no value in MessagePack: a {type(value).__name__} in it is none of the types")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise UserError("a text has to consist of characters that UTF-8 can express: surrogates are none") from None


def _packable(value: Any, room: int) -> Any:
    """A value of what msgspec can encode as itself, extensions in place of the rest."""
    kind = type(value)
    if kind is str:
        _utf8(value)
        return value
    if kind in _AS_IT_IS:
        return value
    if kind is int:
        if _INT_MIN <= value < _INT_END:
            return value
        size = value.bit_length() // 8 + 1
        if size > INTEGER_BYTES_MAX:
            raise LimitExceeded("integer-bytes", size, INTEGER_BYTES_MAX)
        return msgspec.msgpack.Ext(INTEGER, value.to_bytes(size, "big", signed=True))
    if kind is bytearray:
        return bytes(value)
    if kind not in _NESTS:
        raise UserError(
            f"values are None, bool, int, float, str, bytes, list, tuple, dict, set and frozenset, not {kind.__name__}"
        )
    if not room:
        raise too_deep()
    if kind is dict:
        keys = [_packable(key, room - 1) for key in value]
        items = [_packable(item, room - 1) for item in value.values()]
        if not any(isinstance(key, msgspec.msgpack.Ext) for key in keys):
            return dict(zip(keys, items, strict=True))
        pairs = [part for pair in zip(keys, items, strict=True) for part in pair]
        return msgspec.msgpack.Ext(PAIRS, _encoder.encode(pairs))
    packed = [_packable(item, room - 1) for item in value]
    return packed if kind is list else msgspec.msgpack.Ext(_ARRAYS[kind], _encoder.encode(packed))


def number_text(number: float) -> bytes:
    """A number as a command's argument. Raises LimitExceeded for an integer that Python does not write out."""
    if isinstance(number, int) and number.bit_length() > 8 * INTEGER_BYTES_MAX:
        raise LimitExceeded("integer-bytes", number.bit_length() // 8 + 1, INTEGER_BYTES_MAX)
    return repr(number).encode()


# JSON


def jsonable(value: Any) -> Any:
    """A value as JSON tells it: sets as sorted arrays, bytes that are no UTF-8 as `{"base64": …}`, NaN as null.

    Dict keys become their text.
    """
    kind = type(value)
    if value is None or kind is bool or kind is int or kind is str:
        return value
    if kind is float:
        return value if math.isfinite(value) else None
    if kind is bytes:
        return {"base64": base64.b64encode(value).decode()}
    if kind is dict:
        return {key if type(key) is str else _text(key): jsonable(item) for key, item in value.items()}
    items = [jsonable(item) for item in value]
    return sorted(items, key=_rank) if kind in (set, frozenset) else items


def _rank(item: Any) -> tuple[int, float, str]:
    """By what a set's members are sorted: numbers, then whatever else by its JSON. Neither NaN nor infinity is left."""
    return (0, item, "") if isinstance(item, int | float) else (1, 0, _json(item))


def _text(key: Any) -> str:
    return json_text(key).decode() if type(key) is not bytes else base64.b64encode(key).decode()


def json_text(value: Any) -> bytes:
    """The JSON of a value, in UTF-8. An integer of any size is a number."""
    return _json(jsonable(value)).encode()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def from_json(value: Any) -> Any:
    """A value of what JSON has told: `{"base64": …}` alone is bytes. Raises UserError where that is no base64."""
    if isinstance(value, dict):
        if value.keys() == {"base64"} and isinstance(value["base64"], str):
            try:
                return base64.b64decode(value["base64"], validate=True)
            except ValueError:
                raise UserError('{"base64": …} has to hold base64 as RFC 4648 has it') from None
        return {key: from_json(item) for key, item in value.items()}
    return [from_json(item) for item in value] if isinstance(value, list) else value
