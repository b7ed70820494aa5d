"""What a value may stand for: the bound on the memory that reading one takes.

A few bytes of MessagePack or of a pickle can stand for very much: a single one for an empty list, and with references,
which double a list with each level, for anything. So whatever costs more than the bytes that say it is counted, in
bytes, up to `VALUE_BYTES_FREE` and `VALUE_BYTES_FACTOR` more for each byte that was given:

    a list, dict or tuple      64
    a set or frozenset        256

Invariant: what is counted is counted before it is built, and what passes the bound never is.
"""

from __future__ import annotations

from typing import Final

from keyhaus.core import limits
from keyhaus.core.errors import LimitExceeded

CONTAINER_BYTES: Final = 64
SET_BYTES: Final = 256


class Budget:
    """The budget of one value.

    Attributes:
        spent, most: Bytes.
    """

    __slots__ = ("most", "spent")

    def __init__(self, size: int) -> None:
        self.spent = 0
        self.most = limits.VALUE_BYTES_FREE + limits.VALUE_BYTES_FACTOR * size

    def spend(self, count: int) -> None:
        """Counts bytes before they are taken. Raises LimitExceeded."""
        self.spent += count
        if self.spent > self.most:
            raise LimitExceeded("value-bytes", self.spent, self.most)


def too_deep() -> LimitExceeded:
    """The error of what is nested too deeply."""
    return LimitExceeded("value-depth", limits.VALUE_DEPTH_MAX + 1, limits.VALUE_DEPTH_MAX, "levels of nesting")
