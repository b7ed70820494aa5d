"""Keys in order, sorted only where and when somebody looks.

Most databases are never scanned, and their writes should not pay for it. So nothing is kept until the first scan;
from then on a new key is appended to `fresh`, and a scan first deals the fresh keys out to buckets by range, each of
which is sorted when it is read. Deleted keys stay until their bucket is sorted again; whoever reads filters them
against the records. Measured against BTrees and sortedcontainers in `docs/adr/0003-lazily-sorted-keys.md`.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

BUCKET_KEYS: Final = 2048
DEAL_STEP: Final = 8192  # keys dealt at once between two turns of the loop: 2 to 4 ms
SAMPLE_KEYS: Final = 4096


class OrderedKeys:
    """The ordered view of the keys of a mapping.

    Attributes:
        built: Whether anybody has scanned; until then new keys need not be told (`fresh` is not kept).
        fresh: New keys, in the order in which they came.
    """

    __slots__ = ("_buckets", "_dealt", "_dirty", "_floors", "_source", "built", "fresh")

    def __init__(self, source: Mapping[bytes, object]) -> None:
        self._source = source
        self._reset()

    def _reset(self) -> None:
        self.built = False
        self.fresh: list[bytes] = []
        self._floors: list[bytes] = []  # the first key that each bucket but the first may hold
        self._buckets: list[list[bytes]] = [[]]
        self._dirty: list[bool] = [False]
        self._dealt = 0

    def add(self, key: bytes) -> None:
        """Tells of a new key. To be called only once `built`."""
        self.fresh.append(key)
        # Where dead entries have come to outnumber the living, or nobody scans any more, the next scan builds anew.
        if self._dealt + len(self.fresh) > 3 * len(self._source) + 65_536:
            self._reset()

    def shrink(self, keys: int) -> bool:
        """Lets go of up to about `keys` entries of a view that nobody will walk again; whether none are left."""
        del self.fresh[-keys:]
        while self._buckets and keys > 0:
            keys -= len(self._buckets.pop()) + 1
        return not self.fresh and not self._buckets

    def deal(self, keys: int = DEAL_STEP) -> bool:
        """Deals out up to `keys` fresh keys; True once there are none left."""
        if not self.built:
            self._build()
        fresh = self.fresh
        if not fresh:
            return True
        part = fresh[-keys:]
        del fresh[-keys:]
        floors, buckets, dirty = self._floors, self._buckets, self._dirty
        overfull = set()
        for key in part:
            number = bisect_right(floors, key)
            bucket = buckets[number]
            bucket.append(key)
            dirty[number] = True
            if len(bucket) > 16 * BUCKET_KEYS:
                overfull.add(number)
        self._dealt += len(part)
        for number in sorted(overfull, reverse=True):
            self._sort(number)
        return not fresh

    def ascending(self, start: bytes) -> Iterator[bytes]:
        """The keys from `start` on, dead ones among them. Everything must be dealt; no change while it is walked."""
        number = bisect_right(self._floors, start)
        first = True
        while number < len(self._buckets):
            number = self._sorted(number, start if first else None)
            bucket = self._buckets[number]
            yield from (bucket[bisect_left(bucket, start) :] if first else bucket)
            first = False
            number += 1

    def descending(self, end: bytes | None) -> Iterator[bytes]:
        """The keys before `end` (None: all), backwards; as `ascending` otherwise."""
        number = len(self._buckets) - 1 if end is None else bisect_right(self._floors, end)
        while number >= 0:
            count = len(self._buckets)
            self._sorted(number, None)
            number += len(self._buckets) - count  # a bucket that was split continues in those behind it
            if end is not None:
                number = min(number, bisect_right(self._floors, end))
            bucket = self._buckets[number]
            yield from reversed(bucket if end is None else bucket[: bisect_left(bucket, end)])
            number -= 1

    def sample(self, generator: random.Random, beside: Sequence[bytes] = ()) -> bytes | None:
        """Any key of these and `beside`, a dead one perhaps; None where there is none."""
        total = sum(map(len, self._buckets)) + len(beside)
        if not total:
            return None
        place = generator.randrange(total)
        for bucket in self._buckets:
            if place < len(bucket):
                return bucket[place]
            place -= len(bucket)
        return beside[place]

    def _build(self) -> None:
        self.fresh = list(self._source)
        count = len(self.fresh) // BUCKET_KEYS
        if count > 1:
            sample = sorted(random.Random(0).sample(self.fresh, min(len(self.fresh), SAMPLE_KEYS)))
            step = len(sample) / count
            self._floors = sorted({sample[int(place * step)] for place in range(1, count)})
        self._buckets = [[] for _ in range(len(self._floors) + 1)]
        self._dirty = [False] * len(self._buckets)
        self.built = True

    def _sorted(self, number: int, start: bytes | None) -> int:
        """Sorts a bucket; the number of the bucket that then holds `start` (the same one where that is None)."""
        if self._dirty[number]:
            self._sort(number)
            if start is not None:
                return bisect_right(self._floors, start)
        return number

    def _sort(self, number: int) -> None:
        source = self._source
        bucket = self._buckets[number]
        before = len(bucket)
        bucket.sort()
        # A key that was deleted and came back stands here twice; one that only was deleted, once too often.
        kept = [key for key in dict.fromkeys(bucket) if key in source]
        self._dealt -= before - len(kept)
        if len(kept) <= 2 * BUCKET_KEYS:
            self._buckets[number] = kept
            self._dirty[number] = False
            return
        parts = [kept[at : at + BUCKET_KEYS] for at in range(0, len(kept), BUCKET_KEYS)]
        self._buckets[number : number + 1] = parts
        self._dirty[number : number + 1] = [False] * len(parts)
        self._floors[number:number] = [part[0] for part in parts[1:]]
