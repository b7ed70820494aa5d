"""Segments: the files of the journal, prepared ahead (J2).

A segment is zeroed (or recycled), its header with a fresh random epoch is written, and both it and its name are synced
before the first group may go to it. A recycled file may hold groups of its former life: their epoch is another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from keyhaus.core.disk import Disk, File
from keyhaus.journal import format as layout
from keyhaus.journal.manifest import DIRECTORY, Line, segment_name


@dataclass
class Segment:
    """A prepared file.

    Attributes:
        number: Names the file.
        epoch: What its header and each of its groups carry.
        bytes: Its size.
        file: Open for writing.
    """

    number: int
    epoch: int
    bytes: int
    file: File

    @property
    def name(self) -> str:
        return segment_name(self.number)

    def line(self, begins_after: int, *, start: bool = False) -> Line:
        return Line(self.number, self.epoch, begins_after, start=start)


def align(offset: int, step: int) -> int:
    return -(-offset // step) * step


def prepare(
    disk: Disk, number: int, size: int, random_bytes: Callable[[int], bytes], recycled: str | None = None
) -> Segment:
    """Makes a segment ready for its first group. Raises OSError, having removed what it made.

    Args:
        disk: Where.
        number: The new segment's number, higher than any before.
        size: How many bytes it has.
        random_bytes: Where its epoch comes from.
        recycled: The name of a file to reuse instead of making one.
    """
    name = segment_name(number)
    if recycled is not None:
        disk.rename(recycled, name)
    file = disk.open(name, create=True)
    try:
        start = file.size()
        if start < size:
            file.zero(start, size)
        size = max(size, start)
        epoch = int.from_bytes(random_bytes(8), "little") or 1
        file.write(layout.segment_header(number, epoch, size), 0)
        file.sync()
        disk.sync_directory(DIRECTORY)
    except OSError:
        file.close()
        with contextlib.suppress(OSError):
            disk.remove(name)
        raise
    return Segment(number, epoch, size, file)
