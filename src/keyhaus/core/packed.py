"""A look at MessagePack before anything is built of it.

msgspec builds lists and dicts at once, before anybody can count them. So a long MessagePack is walked through first,
without building anything: its containers are counted (`budget.py`), and the keys of a map with many, where many of them
are neither text nor bytes, are given their places on trial (`collisions.py`). That costs more than to read it, so it is
done only where the bytes show that it may matter: a value without a large map and with few containers is not walked
through.

What is in extensions 1, 2, 3 and 5 is MessagePack again and walked through in its place. If it is anything else,
msgspec stops there, so that what the walk took it for does not matter.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any, Final

from keyhaus.core import limits
from keyhaus.core.budget import CONTAINER_BYTES, SET_BYTES, Budget, too_deep
from keyhaus.core.collisions import fill
from keyhaus.core.errors import UserError

TUPLE, SET, FROZENSET, INTEGER, PAIRS = 1, 2, 3, 4, 5
"""The codes of extensions."""

_ARRAYS: Final = frozenset((TUPLE, SET, FROZENSET, PAIRS))
_SETS: Final = frozenset((SET, FROZENSET))
_SET_BYTES_MIN: Final = 3  # of its MessagePack: nothing stands for more
_FIXED_EXTENSIONS: Final = {0xD4 + power: 1 << power for power in range(5)}
_EXTENSIONS: Final = frozenset((0xC7, 0xC8, 0xC9, *_FIXED_EXTENSIONS))
_STRINGS: Final = frozenset((0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB))
_SALTED: Final = _STRINGS | frozenset(range(0xA0, 0xC0))
_MAPS: Final = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
_LISTS: Final = frozenset((*range(0x90, 0xA0), 0xDC, 0xDD))
_COSTLY: Final = bytes(sorted(_MAPS | _LISTS | _EXTENSIONS))
_WIDTHS: Final = {  # of the length that comes behind the first byte
    **dict.fromkeys((0xC4, 0xC7, 0xD9), 1),
    **dict.fromkeys((0xC5, 0xC8, 0xDA, 0xDC, 0xDE), 2),
    **dict.fromkeys((0xC6, 0xC9, 0xDB, 0xDD, 0xDF), 4),
}
_NUMBERS: Final = {0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}


def _size(first: int) -> int:
    """How long what begins with a byte is; 0 where other bytes say so, or it holds something."""
    if first in _COSTLY or first in _STRINGS:
        return 0
    return first - 0x9F if 0xA0 <= first < 0xC0 else _NUMBERS.get(first, 1)


_SIZES: Final = tuple(_size(first) for first in range(256))


def look(data: bytes, decode: Callable[[bytes], Any] | None = None) -> None:
    """Looks whether MessagePack may be read.

    Args:
        data: Whatever was given.
        decode: Reads the keys of maps; without it, they are known to be harmless.

    Raises:
        UserError: It ends early. Whatever else is wrong with it may remain.
        LimitExceeded: It stands for too much, is nested too deeply, or keys in it collide too often.
        Exception: As `decode`.
    """
    if (decode is not None and _may_collide(data)) or _may_be_much(data):
        _walk(data, Budget(len(data)), decode)


def _may_collide(data: bytes) -> bool:
    """Whether there are bytes that could be the head of a map with many keys."""
    if 0xDF in data:
        return True
    at = data.find(0xDE)
    while at >= 0:
        if int.from_bytes(data[at + 1 : at + 3], "big") > limits.KEYS_UNCHECKED:
            return True
        at = data.find(0xDE, at + 1)
    return False


def _may_be_much(data: bytes) -> bool:
    size = len(data)
    if SET_BYTES * size <= _SET_BYTES_MIN * limits.VALUE_BYTES_FREE:
        return False
    costly = size - len(data.translate(None, _COSTLY))
    return SET_BYTES * costly > limits.VALUE_BYTES_FREE + limits.VALUE_BYTES_FACTOR * size


def _walk(data: bytes, budget: Budget, decode: Callable[[bytes], Any] | None) -> None:
    """Walks through it. Raises as `look`."""
    at, end = 0, len(data)
    left = 1  # items of the innermost container that are still to come
    keys: array[int] | None = None  # where each of its items begins, if it is a map with many
    outer: list[tuple[int, array[int] | None]] = []
    while at < end:
        first = data[at]
        size = _SIZES[first]
        if size:
            at += size
        else:
            width = _WIDTHS.get(first, 0)
            body = at + 1 + width
            count = int.from_bytes(data[at + 1 : body], "big") if width else first & 0xF
            if first in _STRINGS:
                at = body + count
            elif first in _EXTENSIONS:
                code = int.from_bytes(data[body : body + 1], "big")
                at = body + 1
                if code in _ARRAYS:
                    budget.spend(SET_BYTES - CONTAINER_BYTES if code in _SETS else 0)
                    continue  # the array that it holds stands for it
                at += _FIXED_EXTENSIONS.get(first, count)
            else:
                budget.spend(CONTAINER_BYTES)
                if len(outer) == limits.VALUE_DEPTH_MAX:
                    raise too_deep()
                at = body
                if count:
                    outer.append((left, keys))
                    is_map = first in _MAPS
                    left = 2 * count if is_map else count
                    keys = array("Q", (at,)) if is_map and count > limits.KEYS_UNCHECKED else None
                    continue
        left -= 1
        if keys is not None:
            keys.append(at)
        while not left:
            if keys is not None and decode is not None:
                _try_keys(data, keys, decode)
            if not outer:
                return
            left, keys = outer.pop()
            left -= 1
            if keys is not None:
                keys.append(at)
    raise UserError("this is no value in MessagePack: it ends early")


def _try_keys(data: bytes, places: array[int], decode: Callable[[bytes], Any]) -> None:
    """Puts the keys of a map into a dict that is not kept. Raises as `look`."""
    begins, ends = places[:-1:2], places[1::2]
    if sum([data[at] not in _SALTED for at in begins]) <= limits.KEYS_UNCHECKED:
        return
    items = b"".join([data[begin:end] for begin, end in zip(begins, ends, strict=True)])
    keys = [_as_key(key) for key in decode(b"\xdd" + len(begins).to_bytes(4, "big") + items)]
    fill({}, keys, keys)


def _as_key(item: Any) -> Any:
    """An item as it is where it is a key: a tuple in place of a list."""
    return tuple(map(_as_key, item)) if type(item) is list else item
