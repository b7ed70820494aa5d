"""The preparer: segments made ahead, in a thread of their own (J2).

Two are kept: the one that the journal rolls to next, and a spare that is as large as any in use, which no commit ever
gets: the next start builds its fresh segment from it, so that a full disk can be started and emptied. No room for
another is no failure: what is only retained gives way; then commits that don't fit are refused (`refuses`), and it is
tried again every second.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from typing import Final

from keyhaus.core.disk import Disk
from keyhaus.core.spawn import Spawn
from keyhaus.journal import format as layout
from keyhaus.journal.manifest import DIRECTORY, segment_number
from keyhaus.journal.recovery import Started
from keyhaus.journal.segments import Segment, align, prepare

RETRY_MS: Final = 1000
KEPT: Final = 2


class Preparer:
    """Keeps prepared segments at hand.

    Attributes:
        refuses: Why no further segment can be had at the moment; None while one can.
    """

    def __init__(
        self,
        disk: Disk,
        spawn: Spawn,
        started: Started,
        on_change: Callable[[], None],
        on_failure: Callable[[BaseException], None],
        give_way: Callable[[int], bool],
        limit: Callable[[], str],
        segment_bytes: int,
        max_bytes: int,
        block: int,
    ) -> None:
        """Args:
        disk: Where segments are made.
        spawn: Threads and timers.
        started: What the start left behind.
        on_change: Called when a segment was prepared, or can't be.
        on_failure: Called when the disk failed.
        give_way: Whether so many bytes of named files will be given back; then `recycle` follows.
        limit: What to say where there is no room within `max_bytes`.
        segment_bytes: The size of a segment.
        max_bytes: How much the named files may take.
        block: The device's block.
        """
        self.refuses: str | None = None
        self._give_way, self._limit = give_way, limit
        self._disk, self._spawn = disk, spawn
        self._on_change, self._on_failure = on_change, on_failure
        self._segment_bytes, self._max_bytes, self._block = segment_bytes, max_bytes, block
        self._prepared: list[Segment] = []
        self._unused = list(started.unused)
        self._used = sum(started.sizes.values())
        # Above every file there is, also those that no manifest names.
        names = disk.names(DIRECTORY)
        self._number = max([started.segment.number, *(segment_number(name) or 0 for name in names)])
        self._largest = self._used_largest = max(segment_bytes, started.segment.bytes)
        self._busy = self._closed = self._retrying = False
        self._worker = spawn.worker("journal-preparer")
        self._fill()

    def next(self, total: int) -> Segment | None:
        """The segment that a group of `total` bytes with its padding would roll to; None while there is none."""
        for segment in self._prepared:
            if align(layout.HEADER_BYTES, self._block) + total <= segment.bytes - self._block and self._spare(segment):
                return segment
        return None

    def _spare(self, other: Segment) -> bool:
        """Whether a spare stays when `other` is taken."""
        return any(segment is not other and segment.bytes >= other.bytes for segment in self._prepared)

    def has_spare(self, segment: Segment) -> bool:
        """Whether the next start finds a file to build its fresh segment from, should `segment` be the current one."""
        return any(other is not segment for other in self._prepared)

    def has_more(self, segment: Segment) -> bool:
        """Whether another segment could follow this one without touching the spare."""
        return sum(other is not segment for other in self._prepared) >= KEPT

    def take(self, total: int) -> Segment:
        segment = self.next(total)
        assert segment is not None, "the journal's room was promised"
        self._prepared.remove(segment)
        self._used += segment.bytes
        self._used_largest = max(self._used_largest, segment.bytes)
        self._fill()
        return segment

    def want(self, total: int, used: int) -> str | None:
        """A group of `total` bytes needs a segment, perhaps one of its own size; why it can't be had, if it can't."""
        self._used = used
        size = align(layout.HEADER_BYTES, self._block) + total + 2 * self._block
        # What deletes may use stays free behind it, in a segment of its own size too.
        size += min(1 << 20, align(size // 8, self._block))
        if size > self._largest and used + size > self._max_bytes:
            # Smaller ones may still fit, so nothing is kept ready for this one.
            return None if self._give_way(used + size - self._max_bytes) else self._limit()
        if not self._retrying:
            self._largest = max(self._largest, size)
        self._fill()
        return self.refuses

    def recycle(self, names: list[str], used: int) -> None:
        """Files whose segments left the manifest, which now names `used` bytes."""
        self._unused += names
        self._used = used
        self.look_again()

    def look_again(self) -> None:
        """What stood in the way may have changed: those who wait look again, too."""
        self._fill()
        self._on_change()

    def close(self) -> None:
        self._closed = True
        self._worker.close()
        for segment in self._prepared:
            segment.file.close()

    def _fill(self) -> None:
        if self._busy or self._closed or self._retrying:
            return
        large_enough = sum(segment.bytes >= self._largest for segment in self._prepared)
        if large_enough >= KEPT and not self._unused:
            return
        if large_enough >= KEPT:
            return self._submit_removal()
        if large_enough and self._used + self._largest > self._max_bytes:
            # The spare is beyond the limit; another one to roll to is not made.
            gives_way = self._give_way(self._used + self._largest - self._max_bytes)
            self.refuses = None if gives_way else self._limit()
            return
        self._busy = True
        self._number += 1
        number, size, recycled = self._number, self._largest, self._unused.pop() if self._unused else None
        self._worker.submit(
            lambda: prepare(self._disk, number, size, self._spawn.random_bytes, recycled), self._prepared_one
        )

    def _prepared_one(self, segment: Segment | None, error: BaseException | None) -> None:
        self._busy = False
        if error is not None:
            if not (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
                return self._on_failure(error)  # C4: only a lack of room is no failure
            if not self._closed and self._give_way(self._largest):
                return
            self.refuses = "the disk is full: the write was refused and nothing was done; it goes on once there is room"
            self._largest = max([self._used_largest, *(entry.bytes for entry in self._prepared)])
            if not self._closed:
                self._retrying = True
                self._spawn.later(RETRY_MS, self._retry)
        elif segment is not None:
            self.refuses = None
            if self._closed:
                segment.file.close()
            else:
                self._prepared.append(segment)
                self._prepared.sort(key=lambda entry: entry.bytes)
                self._fill()
        self._on_change()

    def _retry(self) -> None:
        self._retrying = False
        self._fill()

    def _submit_removal(self) -> None:
        """What is neither next nor spare gives its room back."""
        names, self._unused = self._unused, []

        def remove() -> None:
            for name in names:
                with contextlib.suppress(OSError):
                    self._disk.remove(name)

        self._busy = True
        self._worker.submit(remove, self._removed)

    def _removed(self, _: object, error: BaseException | None) -> None:
        self._busy = False
        self._fill()
