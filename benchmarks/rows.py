"""The rows of the larger benchmarks, by number, in an order that has nothing to do with that of the keys.

Key `n` is 16 hexadecimal digits of a bijection of n, so counting up visits the key space at random and no key comes
twice. About half of a value can be compressed away, as in db_bench; neither keys nor values hold a `-`, a CR or an LF.
So a reply with a `-` in it is an error or a null, wherever it was cut.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterable
from typing import Final

KEY_BYTES: Final = 16
_MASK: Final = (1 << 64) - 1
_SPREAD_1: Final = 0x9E3779B97F4A7C15
_SPREAD_2: Final = 0xD6E8FEB86659FD93
_POOL_BYTES: Final = 1 << 20
_STEP: Final = 257  # between the values of neighbours: their random halves are different ones


def key(number: int) -> bytes:
    """The key with a number below 2**64."""
    mixed = number * _SPREAD_1 & _MASK
    return b"%016x" % ((mixed ^ mixed >> 32) * _SPREAD_2 & _MASK)


class Rows:
    """Rows whose values have one length, as requests.

    Args:
        value_bytes: The length of each value, at most 64 KiB.
    """

    def __init__(self, value_bytes: int) -> None:
        rng = random.Random(0)
        letters = string.ascii_letters + string.digits
        half = max(1, value_bytes // 2)
        pieces = ("".join(rng.choices(letters, k=half)) + "." * half for _ in range(_POOL_BYTES // (2 * half) + 1))
        self._pool = "".join(pieces).encode()
        self._last = len(self._pool) - value_bytes
        self.value_bytes = value_bytes
        self._head = b"*3\r\n$3\r\nSET\r\n$16\r\n%b\r\n" + b"$%d\r\n" % value_bytes + b"%b\r\n"
        self.get_reply_bytes = len(b"$%d\r\n" % value_bytes) + value_bytes + 2
        self.set_reply_bytes = len(b"+OK\r\n")

    def value(self, number: int, version: int = 0) -> bytes:
        """The value of a row; another one for another version."""
        start = (number * _STEP + version * 7919) % self._last
        return self._pool[start : start + self.value_bytes]

    def sets(self, numbers: Iterable[int], version: int = 0) -> bytes:
        """SETs of rows, one behind the other."""
        pool, last, size, head = self._pool, self._last, self.value_bytes, self._head
        starts = ((n, (n * _STEP + version * 7919) % last) for n in numbers)
        return b"".join([head % (key(n), pool[start : start + size]) for n, start in starts])

    def gets(self, numbers: Iterable[int]) -> bytes:
        """GETs of rows, one behind the other."""
        return b"".join([b"*2\r\n$3\r\nGET\r\n$16\r\n%b\r\n" % key(n) for n in numbers])
