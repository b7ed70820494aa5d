"""The union of ranges of keys: whether a key lies in any of many, told by one bisection."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable


class Cover:
    """What some ranges cover together; each is from its start to before its end (None: all behind)."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, ranges: Iterable[tuple[bytes, bytes | None]]) -> None:
        self._starts: list[bytes] = []
        self._ends: list[bytes | None] = []
        for start, end in sorted(ranges, key=lambda span: span[0]):
            if self._ends and ((last := self._ends[-1]) is None or start <= last):
                self._ends[-1] = None if last is None or end is None else max(last, end)
            else:
                self._starts.append(start)
                self._ends.append(end)

    def holds(self, key: bytes) -> bool:
        at = bisect_right(self._starts, key)
        if not at:
            return False
        end = self._ends[at - 1]
        return end is None or key < end
