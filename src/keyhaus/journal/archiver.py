"""The archiver: copies each closed segment to the archive before it may be reused (S1), in a thread of its own.

What it can't copy stays in the journal, and it tries again, later and later, up to once a minute. Nothing of that ever
poisons: the journal grows meanwhile, up to its limit. It believes its own word only: a file counts as archived once
this run has synced it and the directory, or the journal's manifest says so. Other files are written again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from keyhaus.core.disk import Disk, File
from keyhaus.core.errors import Corruption
from keyhaus.core.limits import MIB
from keyhaus.core.spawn import Spawn
from keyhaus.journal import archive as archives
from keyhaus.journal import format as layout
from keyhaus.journal.archive import Header
from keyhaus.journal.format import ALIGN_BYTES, COMMITS, END, HEADER_BYTES, START
from keyhaus.journal.reading import Block, Jump, Kept, Reader, Stretch, archived
from keyhaus.journal.segments import align

log = logging.getLogger("keyhaus.archive")

GROUP_BYTES_MAX: Final = MIB
RETRY_MS: Final = 1000
RETRY_MS_MAX: Final = 60_000


@dataclass
class _Writing:
    """A file of the archive as it is written, group by group."""

    file: File
    epoch: int
    at: int
    offset: int = HEADER_BYTES
    commits: int = 0
    first_ms: int = 0
    last_ms: int = 0

    def block(self, block: Block) -> None:
        """Copies commits, in groups of a bounded size where the frames allow it."""
        begin, first, number = block.begin, block.first, block.first - 1
        for frame_begin, frame_end in layout.frames_between(block.data, block.begin, block.end):
            number += 1
            self.last_ms = layout.time_at(block.data, frame_begin)
            self.first_ms = self.first_ms or self.last_ms
            self.commits += 1
            if frame_end - begin >= GROUP_BYTES_MAX or frame_end == block.end:
                self._group(first, number, COMMITS, block.data[begin:frame_end])
                begin, first = frame_end, number + 1

    def jump(self, jump: Jump) -> None:
        payload = layout.start_payload(jump.last_before, jump.first_after)
        self._group(jump.first_after, jump.first_after - 1, START, payload)

    def end(self) -> None:
        self._group(self.at + 1, self.at, END, b"")

    def _group(self, first: int, last: int, kind: int, payload: bytes) -> None:
        data = layout.group(self.epoch, first, last, self.last_ms, last, kind, payload)
        self.file.write(data.ljust(align(len(data), ALIGN_BYTES), b"\0"), self.offset)
        self.offset += align(len(data), ALIGN_BYTES)
        self.at = last


def copy(stretch: Stretch, archive: Disk, history: str, epoch: int) -> None:
    """Makes one stretch a file of the archive, durably.

    Args:
        stretch: What to copy; all of it is synced.
        archive: Where to.
        history: Whose it is.
        epoch: What the file's groups are to carry; random.

    Raises:
        OSError: Reading or writing failed.
        Corruption: The stretch, or the copy, can't be read.
    """
    unfinished = archives.unfinished_name(history)
    write(Kept((stretch,), stretch.ends), stretch.begins_after, archive, unfinished, history, epoch)
    archive.rename(unfinished, archives.file_name(history, stretch.begins_after, stretch.ends))
    sync_names(archive, history)


def write(kept: Kept, after: int, disk: Disk, name: str, history: str, epoch: int) -> Header:
    """Writes what follows `after` as one file in the archive's form, synced and walked; its name is not synced yet.

    Raises:
        OSError: Reading or writing failed; the file is gone again.
        Corruption, ChangesTooOld, ChangesLost: As `Reader` does.
    """
    if disk.exists(name):
        disk.remove(name)
    file = disk.open(name, create=True)
    try:
        writing = _Writing(file, epoch, after)
        for step in Reader(kept, after).steps():
            if isinstance(step, Block):
                writing.block(step)
            else:
                writing.jump(step)
        writing.end()
        header = Header(
            history, epoch, after, kept.newest, writing.first_ms, writing.last_ms, writing.commits, writing.offset
        )
        file.write(archives.pack_header(header), 0)
        sync_file(file)
    except BaseException:
        file.close()
        with contextlib.suppress(OSError):
            disk.remove(name)  # on a full disk its room may be what others wait for
        raise
    file.close()
    _verify(Stretch(disk, name, 0, after, kept.newest), writing.commits)
    return header


def sync_file(file: File) -> None:
    """What was copied is on the disk before it bears its name."""
    file.sync()


def sync_names(archive: Disk, history: str) -> None:
    """Its name is on the disk before it counts as archived."""
    archive.sync_directory(history)


def _verify(copied: Stretch, commits: int) -> None:
    """Walks a copy: every checksum, every number. Raises Corruption."""
    found = 0
    for step in Reader(Kept((copied,), copied.ends), copied.begins_after).steps():
        if isinstance(step, Block):
            found += step.last - step.first + 1
    if found != commits:
        raise Corruption(f"the copy has {found} commits instead of {commits}", copied.name, 0)


class Archiver:
    """Keeps the archive up with the journal.

    Attributes:
        archived_to: Up to where the archive has everything, durably; None while it has nothing.
        oldest: The seqno after which it has everything up to there.
        known: Whether it has looked at the archive yet.
        error: Why it can't go on at the moment; empty while all is well.
    """

    def __init__(
        self,
        archive: Disk,
        spawn: Spawn,
        history: str,
        archived_to: int | None,
        closed: Callable[[], list[Stretch]],
        on_progress: Callable[[], None],
    ) -> None:
        """Args:
        archive: Where to.
        spawn: Threads and timers.
        history: Whose commits they are.
        archived_to: What the manifest remembers.
        closed: The closed segments, oldest first; all of what counts in them is synced.
        on_progress: Called after each file.
        """
        self.archived_to = archived_to
        self.oldest: int | None = None
        self.error = ""
        self.disk = archive
        self._spawn, self._history = spawn, history
        self._closed, self._on_progress = closed, on_progress
        self.known = self._busy = self._retrying = self._ended = False
        self._delay_ms = RETRY_MS
        self._finish: Callable[[], None] | None = None
        self._last: Stretch | None = None
        self._worker = spawn.worker("journal-archiver")

    @property
    def works(self) -> bool:
        """Whether it is at work just now, so that `on_progress` will come."""
        return self._busy

    def look(self) -> None:
        """Goes on, if there is anything to do: at the start, and when a segment was closed."""
        if self._busy or self._retrying or self._ended:
            return
        job = self._look_job() if not self.known else self._copy_job()
        if job is not None:
            self._busy = True
            self._worker.submit(*job)
        elif self._finish is not None:
            self._over()

    def _look_job(self) -> tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]:
        archive, history, remembered = self.disk, self._history, self.archived_to

        def run() -> list[Stretch]:
            archive.make_directory(history)
            archive.sync_directory(".")
            return archived(archive, history, remembered) if remembered is not None else []

        return run, self._looked

    def _looked(self, found: list[Stretch] | None, error: BaseException | None) -> None:
        self._busy = False
        if found is None or error is not None:
            return self._failed(error)
        self.known = True
        if found:
            self.oldest = found[0].begins_after
        elif self.archived_to is not None:
            log.warning(
                "the archive does not have what was archived before: it begins anew with what the journal still has",
                extra={"archived": self.archived_to},
            )
            self.archived_to = None
        self._went_well()

    def _copy_job(self) -> tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]] | None:
        stretches = self._closed()
        if self._last is not None:
            stretches.append(self._last)
        for stretch in stretches:
            if stretch.ends > max(stretch.begins_after, self.archived_to or 0):
                break
        else:
            return None
        epoch = int.from_bytes(self._spawn.random_bytes(8), "little") or 1

        def copied(_: None, error: BaseException | None) -> None:
            self._busy = False
            if error is not None:
                return self._failed(error)
            if self.oldest is None:
                self.oldest = stretch.begins_after
            self.archived_to = stretch.ends
            self._went_well()

        return lambda: copy(stretch, self.disk, self._history, epoch), copied

    def _went_well(self) -> None:
        self._delay_ms, self.error = RETRY_MS, ""
        self._on_progress()
        self.look()

    def _failed(self, error: BaseException | None) -> None:
        self.error = (error.strerror if isinstance(error, OSError) else None) or str(error)
        log.warning("a segment could not be archived", extra={"reason": self.error, "again_ms": self._delay_ms})
        if self._finish is not None:
            return self._over()
        self._on_progress()
        self._retrying = True
        self._spawn.later(self._delay_ms, self._retry)
        self._delay_ms = min(2 * self._delay_ms, RETRY_MS_MAX)

    def _retry(self) -> None:
        self._retrying = False
        self.look()

    # the end

    def finish(self, last: Stretch, done: Callable[[], None]) -> None:
        """Archives what is left, the segment that was written last included; does not try twice."""
        self._last, self._finish = last, done
        self._retrying = False
        self.look()

    def _over(self) -> None:
        done, self._finish = self._finish, None
        self._ended = True
        if done is not None:
            done()

    def close(self) -> None:
        self._ended = True
        self._worker.close()
