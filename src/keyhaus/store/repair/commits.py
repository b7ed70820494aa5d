"""Finds every commit that is still readable: in segments whose neighbours are damaged, without a manifest, in archives.

Segments are gone through in the order of their numbers, with the epoch that the manifest or their header gives, or else
the one that their newest readable group carries. A start record says up to where the segments before it count (J7), and
which numbers were never given.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from keyhaus.core.disk import Disk
from keyhaus.core.errors import Corruption
from keyhaus.journal import archive as archives
from keyhaus.journal import format as layout
from keyhaus.journal import manifest as manifests
from keyhaus.journal.format import ALIGN_BYTES, COMMITS, FAR, HEADER_BYTES, Frame, Group
from keyhaus.journal.manifest import DIRECTORY
from keyhaus.store.repair.journal import read

_EPOCH: Final = slice(8, 16)


class Source(NamedTuple):
    """One file with groups; `limit` is the last number that counts in it."""

    disk: Disk
    name: str
    epoch: int
    limit: int


class Place(NamedTuple):
    """Where a group of commits stands."""

    first: int
    last: int
    source: Source
    head: Group


class Commits:
    """The commits of a database that can be read.

    Attributes:
        history: As the manifest says; None where it can't be read.
        missing: Numbers (first, last) of commits that are known or likely to have been there, and can't be read.
        begins_after: The number after which the oldest segment or archive file begins, as far as is known.
        top: The highest number that was seen in any place (J8).
        clock: The newest time that was seen.
    """

    def __init__(self, disk: Disk, archive: Disk | None, history: str | None) -> None:
        """Args:
        disk: The database's directory.
        archive: Its archive, where there is one.
        history: As the base says; None where that isn't known.
        """
        self.missing: list[tuple[int, int]] = []
        self.top = self.clock = 0
        self.begins_after = FAR
        self._proven = 0
        self._places: list[Place] = []
        self._jumps: list[tuple[int, int]] = []
        self._loaded: tuple[str, bytes] = ("", b"")
        manifest = _manifest(disk)
        self.history = manifest.history if manifest is not None else None
        self._add_segments(disk, manifest)
        wanted = self.history or history
        if archive is not None:
            self._add_archive(archive, wanted)
        self._places.sort(key=lambda place: (place.first, place.last))

    def _add_segments(self, disk: Disk, manifest: manifests.Manifest | None) -> None:
        sources: list[Source] = []
        if manifest is not None:
            for line in manifest.lines:
                self.top = max(self.top, line.begins_after, line.counts_to or 0)
                self._proven = max(self._proven, line.begins_after, line.counts_to or 0)
                limit = FAR if line.counts_to is None else line.counts_to
                if disk.exists(line.name):
                    self.begins_after = min(self.begins_after, line.begins_after)
                    sources.append(Source(disk, line.name, line.epoch, limit))
        else:
            sources = [Source(disk, name, _epoch(read(disk, name)), FAR) for name in _segment_names(disk)]
        found: list[tuple[Source, list[Group]]] = []
        for source in sources:
            heads = list(layout.groups(read(disk, source.name), source.epoch))
            starts = [head.jump[0] for head in heads if head.jump is not None and head.jump[0] <= source.limit]
            if starts:
                # J7: what was written before a start counts up to where it went on from.
                found = [(before._replace(limit=min(before.limit, *starts)), other) for before, other in found]
            found.append((source, heads))
        for source, heads in found:
            self._add(source, heads)

    def _add_archive(self, archive: Disk, history: str | None) -> None:
        histories = [history] if history is not None else [name for name in archive.names(".") if len(name) == 32]
        if len(histories) != 1:
            return
        for file in archives.files(archive, histories[0]):
            data = read(archive, file.name)
            try:
                epoch = archives.read_header(data[:HEADER_BYTES], file.name).epoch
            except ValueError:
                epoch = _epoch(data)
            self.begins_after = min(self.begins_after, file.begins_after)
            self.top = max(self.top, file.ends)
            self._proven = max(self._proven, file.ends)
            self._add(Source(archive, file.name, epoch, file.ends), list(layout.groups(data, epoch)))

    def _add(self, source: Source, heads: list[Group]) -> None:
        for head in heads:
            self.clock = max(self.clock, head.clock)
            self.top = max(self.top, head.first - 1, head.last, head.mark)
            self._proven = max(self._proven, head.mark)
            if head.jump is not None and head.jump[0] <= source.limit:
                self._jumps.append(head.jump)
                self._proven = max(self._proven, head.jump[1] - 1)
            elif head.kind == COMMITS and head.first <= source.limit:
                self._places.append(Place(head.first, min(head.last, source.limit), source, head))

    def frames(self, after: int) -> Iterator[Frame]:
        """The commits after a number, in order; `missing` is known at the end."""
        at = after
        self.missing = []
        for place in self._places:
            if place.last <= at:
                continue
            self._miss(at + 1, place.first - 1)
            for frame in self._frames_of(place):
                if at < frame.seqno <= place.last:
                    self._miss(at + 1, frame.seqno - 1)
                    at = frame.seqno
                    yield frame
        self._miss(at + 1, self._proven)

    def _frames_of(self, place: Place) -> Iterator[Frame]:
        name = f"{id(place.source.disk)}/{place.source.name}"
        if self._loaded[0] != name:
            self._loaded = name, read(place.source.disk, place.source.name)
        data = self._loaded[1]
        try:
            for begin, _ in layout.frames(data, place.head):
                yield layout.read_frame(data, begin)
        except ValueError:
            return  # its numbers are missed when the next group is looked at

    def _miss(self, first: int, last: int) -> None:
        """Enters numbers as missing, less those that were never given."""
        for before, after in sorted(self._jumps):
            if first > last:
                return
            if before < first < after:
                first = after
            elif first <= before < last and after > first:
                self._enter(first, before)
                first = after
        if first <= last:
            self._enter(first, last)

    def _enter(self, first: int, last: int) -> None:
        if self.missing and self.missing[-1][1] + 1 == first:
            self.missing[-1] = (self.missing[-1][0], last)
        elif not self.missing or last > self.missing[-1][1]:
            self.missing.append((first, last))


def _manifest(disk: Disk) -> manifests.Manifest | None:
    try:
        return manifests.read(disk)
    except Corruption:
        return None


def _segment_names(disk: Disk) -> list[str]:
    try:
        names = disk.names(DIRECTORY)
    except FileNotFoundError:
        return []
    numbers = sorted(number for name in names if (number := manifests.segment_number(name)) is not None)
    return [manifests.segment_name(number) for number in numbers]


def _epoch(data: bytes) -> int:
    """The epoch of a file's groups: the header's, or that of the readable group with the highest number; else 0."""
    try:
        return layout.read_segment_header(data[:HEADER_BYTES])[2]
    except ValueError:
        pass
    newest, epoch = -1, 0
    for offset in range(HEADER_BYTES, len(data), ALIGN_BYTES):
        head = layout.read_group(data, offset)
        if head is not None and head.last > newest:
            newest = head.last
            epoch = int.from_bytes(data[offset + 8 : offset + 16], "little")
    return epoch
