"""What becomes of closed segments (S1).

A segment that the base covers leaves the chain that recovery walks, and is retained: named, read by the feed, skipped
by a start. The oldest ones go once they are archived (where there is an archive), as long as what is retained is more
than `journal-retain-bytes`, or when their room is needed. To go means: a manifest without them is durable, then their
files are reused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from msgspec.structs import replace

from keyhaus.journal.manifest import Line, Manifest


class Plan(NamedTuple):
    """The next manifest, and the segments that it does not name any more."""

    manifest: Manifest
    dropped: tuple[Line, ...]


class Retention:
    """Keeps account of the named files, and says which may go.

    Attributes:
        sizes: The size of each named file, by its segment's number.
        covered: Up to where a base is durable.
        pins: What follows each of these numbers is being copied: it stays, unless its room is needed.
    """

    def __init__(self, sizes: dict[int, int], retain_bytes: int, archives: bool) -> None:
        """Args:
        sizes: As above, at the start.
        retain_bytes: How much is kept of what the base covers.
        archives: Whether there is an archive that each segment has to be in before it goes.
        """
        self.sizes = sizes
        self.covered = 0
        self.pins: list[int] = []
        self._retain_bytes = retain_bytes
        self._archives = archives
        self._wanted = 0  # bytes that are needed for new segments

    @property
    def bytes(self) -> int:
        """The size of all named files."""
        return sum(self.sizes.values())

    def retained_bytes(self, manifest: Manifest) -> int:
        """The size of those that only the feed needs."""
        return sum(self.sizes[line.number] for line in manifest.retained)

    def give_way(self, manifest: Manifest, wanted: int) -> bool:
        """Whether retained segments can make room; if so, the next plan drops as many as it takes."""
        can = next(self._free(manifest), None) is not None
        if can:
            self._wanted = max(self._wanted, wanted)
        return can

    def waits_for_archive(self, manifest: Manifest) -> bool:
        """Whether nothing but the archive keeps a segment."""
        covered = bool(manifest.retained) or self._covered_lines(manifest) > 0
        return self._archives and covered and next(self._free(manifest), None) is None

    def plan(self, manifest: Manifest) -> Plan | None:
        """What is to be done now; None for nothing."""
        leaving = self._covered_lines(manifest)
        lines = manifest.segments
        moved = replace(manifest, retained=manifest.retained + lines[:leaving], segments=lines[leaving:])
        kept = self.retained_bytes(moved)
        dropped: list[Line] = []
        for line, ends in self._free(moved):
            size = self.sizes[line.number]
            # They stay while they are the newest so many bytes, whole segments only.
            if self._wanted <= 0 and (kept <= self._retain_bytes or any(pin < ends for pin in self.pins)):
                break
            dropped.append(line)
            kept -= size
            self._wanted -= size
        self._wanted = 0
        if not leaving and not dropped:
            return None
        return Plan(replace(moved, retained=moved.retained[len(dropped) :]), tuple(dropped))

    def _covered_lines(self, manifest: Manifest) -> int:
        """How many segments of the chain the base covers; the last one is never among them."""
        lines = manifest.segments
        return next((at for at in range(len(lines) - 1) if lines[at + 1].begins_after > self.covered), len(lines) - 1)

    def _free(self, manifest: Manifest) -> Iterator[tuple[Line, int]]:
        """The retained segments that may go, oldest first, and where each ends: with an archive those that it has."""
        lines = manifest.lines
        for line, following in zip(manifest.retained, lines[1:], strict=False):
            if self.archived(following.begins_after, manifest):
                yield line, following.begins_after
            else:
                return

    def archived(self, ends: int, manifest: Manifest) -> bool:
        """S1: the archive comes before reuse."""
        return not self._archives or (manifest.archived_to is not None and ends <= manifest.archived_to)

    def drop(self, lines: tuple[Line, ...]) -> None:
        """They are named no more."""
        for line in lines:
            del self.sizes[line.number]
