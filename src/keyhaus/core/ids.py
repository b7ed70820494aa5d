"""Transaction ids: 16 bytes, the milliseconds since 1970 of the begin (48 bits) and 80 bits that nobody can guess.

The form of a ULID; as text it is `tx-` and 26 letters and digits.
"""

from __future__ import annotations

from typing import Final

ID_BYTES: Final = 16
PREFIX: Final = "tx-"
NO_ID: Final = "this is no transaction id: expected tx- and 26 letters and digits, as BEGIN gave it"
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32
_PAIRS: Final = [one + other for one in _ALPHABET for other in _ALPHABET]
_VALUES: Final = {letter: value for value, letter in enumerate(_ALPHABET)}
_PREFIX: Final = PREFIX.encode()
_LETTERS: Final = 26
SHOWN_LETTERS: Final = len(PREFIX) + _LETTERS
"""The length of an id as clients see it."""
_SHIFTS: Final = range(5 * (_LETTERS - 2), -1, -10)


def make_id(unix_ms: int, unguessable: bytes) -> bytes:
    """An id; `unguessable` has 10 bytes."""
    return unix_ms.to_bytes(6, "big") + unguessable


def begun_ms(number: bytes) -> int:
    """When a transaction was begun, in milliseconds since 1970."""
    return int.from_bytes(number[:6], "big")


def shown_id(number: bytes) -> str:
    """An id as clients see it."""
    value = int.from_bytes(number, "big")
    return PREFIX + "".join([_PAIRS[value >> shift & 1023] for shift in _SHIFTS])


def read_id(word: bytes) -> bytes | None:
    """The id that a word names; None where it has another form."""
    if len(word) != SHOWN_LETTERS or not word.startswith(_PREFIX):
        return None
    value = 0
    for letter in word[len(PREFIX) :].decode("latin-1"):
        digit = _VALUES.get(letter)
        if digit is None:
            return None
        value = value << 5 | digit
    return value.to_bytes(ID_BYTES, "big") if value < 1 << 8 * ID_BYTES else None
