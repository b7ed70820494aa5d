"""The closed segments: kept for readers, copied to the archive, and in the end reused (S1).

`retention` says which may go; the archiver copies them before. Here both meet the running journal: what its manifest
says, what is synced, and where its preparer finds no room for another segment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from msgspec.structs import replace

from keyhaus.core.disk import Disk
from keyhaus.core.spawn import Spawn
from keyhaus.journal import reading
from keyhaus.journal.archiver import Archiver
from keyhaus.journal.manifest import Manifest
from keyhaus.journal.reading import Stretch
from keyhaus.journal.retention import Plan, Retention


class Chain(Protocol):
    """What has to be known of the journal."""

    disk: Disk
    manifest: Manifest
    synced: int


class ClosedSegments:
    """What becomes of a journal's closed segments.

    Attributes:
        archiver: What fills the archive; None without one.
        retention: Which segments may go.
        due: Whether a plan may have something to do.
    """

    def __init__(
        self,
        chain: Chain,
        spawn: Spawn,
        sizes: dict[int, int],
        max_bytes: int,
        retain_bytes: int,
        archive: Disk | None,
        on_change: Callable[[], None],
    ) -> None:
        """Args:
        chain: The journal.
        spawn: Threads and timers.
        sizes: The size of each named file, by its segment's number.
        max_bytes: How much all of them may take.
        retain_bytes: How much is kept of what the base covers.
        archive: Where closed segments are copied to; None for nowhere.
        on_change: Called when a plan is due.
        """
        self._chain, self._on_change = chain, on_change
        self._max_bytes = max_bytes
        self.due = False
        self.retention = Retention(sizes, retain_bytes, archive is not None)
        self.archiver: Archiver | None = None
        self.on_archive: Callable[[], None] = lambda: None
        if archive is not None:
            remembered = chain.manifest.archived_to
            self.archiver = Archiver(
                archive, spawn, chain.manifest.history, remembered, self._stretches, self._archived
            )

    @property
    def oldest(self) -> int:
        """The lowest seqno after which segments and archive have everything."""
        begin = self._chain.manifest.lines[0].begins_after
        archiver = self.archiver
        if archiver is None or archiver.oldest is None or (archiver.archived_to or 0) < begin:
            return begin
        return min(begin, archiver.oldest)

    @property
    def archived_to(self) -> int | None:
        """What a manifest has to remember of the archive."""
        return None if self.archiver is None else self.archiver.archived_to

    def look(self) -> None:
        """A segment was closed, or the journal begins."""
        if self.archiver is not None:
            self.archiver.look()

    def cover(self, base_seqno: int) -> None:
        """The base has everything up to there, durably."""
        self.retention.covered = max(self.retention.covered, base_seqno)
        self._plan_soon()

    def pin(self, after: int) -> Callable[[], None]:
        """Keeps what follows a number while it is copied, unless its room is needed; what it returns ends that."""
        pins = self.retention.pins
        pins.append(after)

        def unpin() -> None:
            pins.remove(after)
            self._plan_soon()

        return unpin

    def plan(self) -> Plan | None:
        """What is to be done now; None for nothing."""
        self.due = False
        if self.archiver is not None and not self.archiver.known:
            return None  # what is in the archive is not certain yet; then it is due again
        return self.retention.plan(self._manifest())

    def give_way(self, wanted: int) -> bool:
        """Whether room for new segments is on its way: retained ones make it, at once or as soon as they are archived.

        Then the preparer looks again in time.
        """
        archiver = self.archiver
        if archiver is not None and not archiver.known:
            return archiver.works
        if self.retention.give_way(self._manifest(), wanted):
            self._plan_soon()
            return True
        return archiver is not None and archiver.works and self.retention.waits_for_archive(self._manifest())

    def limit(self) -> str:
        """Why there is no room within the limit."""
        text = f"the journal has reached its limit of {self._max_bytes} bytes (journal-max-bytes)"
        if self.archiver is not None and self.archiver.error:
            return f"{text}, and its segments can't be archived ({self.archiver.error}): mend what archive-dir names"
        return f"{text}: restart with a higher one"

    def finish(self, done: Callable[[], None]) -> None:
        """Archives what is left before a clean stop, the current segment included."""
        assert self.archiver is not None
        chain = self._chain
        self.archiver.finish(reading.segments(chain.disk, chain.manifest, chain.synced)[-1], done)

    def close(self) -> None:
        if self.archiver is not None:
            self.archiver.close()

    def statistics(self) -> dict[str, Any]:
        return {
            "journal_bytes": self.retention.bytes,
            "journal_bytes_retained": self.retention.retained_bytes(self._chain.manifest),
            "journal_segments": len(self._chain.manifest.lines),
            "archived": self.archived_to or 0,
            "archive_error": self.archiver.error if self.archiver is not None else "",
        }

    def _manifest(self) -> Manifest:
        return replace(self._chain.manifest, archived_to=self.archived_to)

    def _plan_soon(self) -> None:
        self.due = True
        self._on_change()

    def _archived(self) -> None:
        """The archiver went on, or can't: what waited for it may go, or is refused."""
        self._plan_soon()
        self.on_archive()

    def _stretches(self) -> list[Stretch]:
        """The closed segments; the last may be about to be closed, and is none before all of it is synced."""
        chain = self._chain
        ends = [line.begins_after for line in chain.manifest.lines[1:]]
        closed = reading.segments(chain.disk, chain.manifest, chain.synced)[:-1]
        return [stretch for stretch, end in zip(closed, ends, strict=True) if end <= chain.synced]
