"""The running journal: the open group, the marks, and the three threads that touch the disk.

A commit appends one frame to the open group and goes on. At the end of the turn the group is handed to the writer,
which does one `pwrite` and, if anybody waits for it, one sync, while the next group gathers. When it comes back the
marks advance, the replies that waited leave, and the next group is submitted: in that order, or groups halve.

    last      the newest commit that was appended
    written   the kernel has everything up to it
    synced    the disk has

One group is in flight at a time. The writer also rolls (J4); the syncer syncs once a second for those who asked for
`everysec`, without holding up the writer; the preparer makes segments ahead (J2). Any failure of a write or a sync
poisons the journal (C4): nothing is written, synced or confirmed ever after.

What becomes of a closed segment is said by `retention`; the archiver copies it to the archive first, if there is one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import replace

from keyhaus.core import limits
from keyhaus.core.disk import Disk
from keyhaus.core.errors import DiskFull, Poisoned
from keyhaus.core.spawn import Spawn
from keyhaus.core.wait import Wait
from keyhaus.journal import format as layout
from keyhaus.journal import manifest as manifests
from keyhaus.journal.closed import ClosedSegments
from keyhaus.journal.format import COMMITS, END, GROUP_BYTES, IDLE
from keyhaus.journal.manifest import Manifest
from keyhaus.journal.preparer import Preparer
from keyhaus.journal.recovery import Started
from keyhaus.journal.segments import Segment, align
from keyhaus.journal.tail import Tail

log = logging.getLogger("keyhaus.journal")

IDLE_MS: Final = 50
EVERYSEC_MS: Final = 1000
WRITER: Final = "journal-writer"  # the worker whose jobs replies wait for


@dataclass
class _Write:
    """What the writer does for one group, in this order; every field is settled before it begins."""

    disk: Disk
    segment: Segment
    offset: int
    data: bytes
    last: int
    sync: bool
    seal: Segment | None = None  # the segment that is left: synced to its end before this one gets its first group
    manifest: Manifest | None = None

    def run(self) -> None:
        if self.seal is not None:
            self.seal_segment()
        if self.data:
            self.segment.file.write(self.data, self.offset)
        if self.sync:
            self.segment.file.sync()

    def seal_segment(self) -> None:
        """J4: a sync proves only its own segment, so it comes before the first group of the next; J3: named first."""
        assert self.seal is not None
        assert self.manifest is not None
        self.seal.file.sync()
        manifests.replace(self.disk, self.manifest)


class Journal:
    """The write-ahead log of one database.

    Attributes:
        last, written, synced: The three marks.
        poisoned: Why nothing more is confirmed; None while all is well.
        manifest: The chain as the newest job has it.
        groups, syncs: How many there were.
        disk: Where the segments are.
        tail: The newest groups, for those who follow.
        closed: What becomes of closed segments.
        holds_back: Asked before a group goes out; if it says so, nothing is done until `go_on` is called.
    """

    def __init__(
        self,
        disk: Disk,
        spawn: Spawn,
        started: Started,
        *,
        clock: Callable[[], int],
        segment_bytes: int,
        max_bytes: int,
        retain_bytes: int = 0,
        archive: Disk | None = None,
    ) -> None:
        """Args:
        disk: Where the segments are.
        spawn: Threads and timers.
        started: What the start left behind.
        clock: The time, in milliseconds since 1970.
        segment_bytes: The size of a segment.
        max_bytes: How much all named segments may take.
        retain_bytes: How much of them is kept to be read once the base covers it.
        archive: Where closed segments are copied to before they are reused.
        """
        self.last = self.written = self.synced = started.last
        self.poisoned: Poisoned | None = None
        self.manifest = started.manifest
        self.groups = self.syncs = 0
        self.disk, self._spawn, self._clock = disk, spawn, clock
        self.tail = Tail(limits.FEED_TAIL_BYTES, started.last)
        self._roll_to = 0  # somebody wants what is up to here in closed segments
        self._rolled = Wait()
        self._block = disk.block_bytes()
        self._segment = started.segment
        self._offset = started.offset
        self._new_block = True  # a sync has begun since the last group: its block is never written again (J1)
        self._parts: list[bytes] = []
        self._open_bytes = 0
        self._first = 0
        self._demanded = 0  # somebody waits until this is synced
        self._marked = 0  # the highest mark in any group
        self._busy = self._scheduled = self._idle_armed = self._second_armed = False
        self._sync_due = self._syncing = False
        self._closing: Callable[[BaseException | None], None] | None = None
        self._archived_last = False
        self._room = Wait()  # fires when a mark moves
        self._segments = Wait()  # fires when a segment was prepared, or can't be
        self._waiters: list[Callable[[], None]] = []
        self._fits = 0
        self.on_progress: Callable[[], None] = lambda: None
        self.on_group: Callable[[int], None] = lambda last: None
        self.holds_back: Callable[[], bool] = lambda: False
        self._writer, self._syncer = spawn.worker(WRITER), spawn.worker("journal-syncer")
        self.closed = ClosedSegments(self, spawn, dict(started.sizes), max_bytes, retain_bytes, archive, self.go_on)
        self.preparer = Preparer(
            disk,
            spawn,
            started,
            self._segments_changed,
            self.fail,
            self.closed.give_way,
            self.closed.limit,
            segment_bytes,
            max_bytes,
            self._block,
        )
        self.closed.on_archive = self.preparer.look_again
        self.closed.look()

    @property
    def size(self) -> int:
        """The size of all files that the manifest names."""
        return self.closed.retention.bytes

    @property
    def oldest(self) -> int:
        """The lowest seqno after which the journal and its archive have everything."""
        return min(self.closed.oldest, self.tail.begins_after)

    # for commits

    def room(self, size: int, frees: bool) -> Wait | None:
        """Whether a frame of `size` bytes may be appended now (C1).

        Args:
            size: The frame's bytes.
            frees: Whether the commit only deletes: such may use the last reserve of a full disk (J2).

        Returns:
            None if so, else what to wait for.

        Raises:
            DiskFull: There is no room and none is being made; nothing was done.
            Poisoned: Nothing may be written any more.
        """
        open_bytes = self._open_bytes + size
        if open_bytes <= self._fits:
            return None
        if self.poisoned is not None:
            raise Poisoned(self.poisoned.message)  # a new one, since each raise adds to the traceback of an old one
        if self._parts and open_bytes > limits.GROUP_BYTES_PAUSE:
            return self._room
        if self.last - self.synced >= limits.UNSYNCED_COMMITS_MAX:
            self.demand(self.last)
            return self._room
        total = align(GROUP_BYTES + open_bytes, self._block)
        if align(self._offset, self._block) + total <= self._end_of(self._segment, frees):
            return None
        following = self.preparer.next(total)
        if following is not None and align(layout.HEADER_BYTES, self._block) + total <= self._end_of(following, frees):
            return None
        if self._parts:
            return self._room  # once the open group is on its way, the commit may fit alone
        if (reason := self.preparer.want(total, self.size)) is not None:
            raise DiskFull(reason)
        return self._segments

    def _measure(self) -> None:
        """How large the next open group may grow without another look: the common case of `room`."""
        unsynced = limits.UNSYNCED_COMMITS_MAX - (self.last - self.synced)
        end = self._end_of(self._segment, False) - self._block - align(self._offset, self._block)
        smallest = layout.FRAME_BYTES
        self._fits = min(limits.GROUP_BYTES_PAUSE, end - GROUP_BYTES, unsynced * smallest)

    def _end_of(self, segment: Segment, frees: bool) -> int:
        """Up to where commits may go: behind it are the end mark's block, and what is kept for a full disk (J2)."""
        end = segment.bytes - self._block
        if not self.preparer.has_spare(segment):
            # The next start can only build its fresh segment from what it cuts off here. On a full disk that is to
            # last for many starts, so there only deletions are taken.
            if self.preparer.refuses is not None and not frees:
                return 0
            end -= max(segment.bytes // 8, min(segment.bytes // 2, 8 * self._block))
        if frees or self.preparer.has_more(segment):
            return end
        return end - min(limits.MIB, segment.bytes // 16)

    def append(self, seqno: int, frame: bytes) -> None:
        """Adds a commit's frame to the open group; `room` has just said that it may."""
        if not self._parts:
            self._first = seqno
        self._parts.append(frame)
        self._open_bytes += len(frame)
        self.last = seqno
        if not self._busy and not self._scheduled:
            self._schedule()

    # for replies

    def demand(self, seqno: int) -> None:
        """Somebody waits until `seqno` is synced, so a sync is asked for."""
        if seqno > self._demanded:
            self._demanded = seqno
            if not self._busy and not self._scheduled:
                self._schedule()

    def wait(self, callback: Callable[[], None]) -> None:
        """Calls back, once, at the next progress of a mark (or at poison)."""
        self._waiters.append(callback)

    def sync_within_a_second(self) -> None:
        """`everysec`: what is appended by now is synced within a second."""
        if not self._second_armed:
            self._second_armed = True
            self._spawn.later(EVERYSEC_MS, self._second_over)

    # turns

    def _schedule(self) -> None:
        self._scheduled = True
        self._spawn.soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if not self._busy:
            self._submit()

    def _submit(self) -> None:
        if self.poisoned is not None or self._busy:
            return
        if self.closed.due:
            return self._submit_plan()
        if self._roll_to and not self._syncing and (roll := self._roll_job()) is not None:
            return self._submit_write(roll)
        sync = self._demanded > self.synced
        if self._sync_due and not self._syncing:
            self._sync_due = False
            if self.written > self.synced and not sync:
                self._begin_sync()
            elif self._parts and not sync:
                self._sync_due = True  # once the open group is written
        # A file is synced by one thread at a time: of two syncs that overlap the kernel tells only one of an error.
        if self._syncing and (sync or self._rolls()):
            return
        if self._parts:
            if self.holds_back():
                return
            job = self._close_group(sync)
        elif sync:
            job = _Write(self.disk, self._segment, self._offset, b"", self.last, True)
        elif self._closing is not None and not self._syncing:
            return self._end() if self.closed.archiver is None or self._archived_last else self._archive_last()
        else:
            return
        self._new_block = self._new_block or job.sync
        self._submit_write(job)

    def _submit_write(self, job: _Write) -> None:
        self._busy = True
        self._writer.submit(job.run, lambda _, error: self._written(job, error))

    def _offset_of_next(self) -> int:
        return align(self._offset, self._block if self._new_block else layout.ALIGN_BYTES)

    def _rolls(self) -> bool:
        """Whether the open group does not fit into the current segment, whose last block is the end mark's."""
        if not self._parts:
            return False
        size = align(GROUP_BYTES + self._open_bytes, self._block)
        return self._offset_of_next() + size > self._segment.bytes - self._block

    def _close_group(self, sync: bool) -> _Write:
        seal = manifest = None
        if self._rolls():
            seal, manifest = self._roll()
        offset = self._offset_of_next()
        payload = b"".join(self._parts)
        data = layout.group(self._segment.epoch, self._first, self.last, self._clock(), self.synced, COMMITS, payload)
        self.tail.append(self._first, self.last, payload)
        if sync:
            # Whole blocks: to write part of one, the kernel may first have to read it.
            data += bytes(align(len(data), self._block) - len(data))
        self._offset = offset + len(data)
        self._new_block = False
        self._marked = self.synced
        self._parts, self._open_bytes = [], 0
        self._measure()
        self.groups += 1
        self.on_group(self.last)
        return _Write(self.disk, self._segment, offset, data, self.last, sync, seal, manifest)

    def _roll(self) -> tuple[Segment, Manifest]:
        """Goes on in the next segment; the one that is left, and the manifest that names the next."""
        left = self._segment
        begins_after = self._first - 1 if self._parts else self.last
        self._segment = self.preparer.take(align(GROUP_BYTES + self._open_bytes, self._block))
        self._offset, self._new_block = align(layout.HEADER_BYTES, self._block), True
        self.closed.retention.sizes[self._segment.number] = self._segment.bytes
        self.manifest = replace(
            self.manifest,
            segments=(*self.manifest.segments, self._segment.line(begins_after)),
            ended=None,
            archived_to=self.closed.archived_to,
        )
        return left, self.manifest

    def _roll_job(self) -> _Write | None:
        """A roll because somebody wants it, once all that it is about is written; the open group goes behind it."""
        begins_after = self._first - 1 if self._parts else self.last
        if begins_after < self._roll_to:
            return None
        if self.manifest.segments[-1].begins_after >= self._roll_to:
            self._roll_over()
            return None
        if self.preparer.next(align(GROUP_BYTES + self._open_bytes, self._block)) is None:
            return None  # `_segments_changed` comes back to it
        left, manifest = self._roll()
        self._measure()
        return _Write(self.disk, self._segment, self._offset, b"", begins_after, False, left, manifest)

    def _roll_over(self) -> None:
        self._roll_to = 0
        rolled, self._rolled = self._rolled, Wait()
        rolled.fire()

    def _written(self, job: _Write, error: BaseException | None) -> None:
        self._busy = False
        if error is not None:
            return self._poison(error)
        if self.poisoned is not None:
            return self._settle()
        self.written = max(self.written, job.last)
        if job.seal is not None:
            # The seal synced every group before this one.
            job.seal.file.close()
            self.synced = max(self.synced, self._sealed_to(job))
            self.closed.look()
        if job.sync:
            self.syncs += 1
            self.synced = max(self.synced, job.last)
        self._settle()

    @staticmethod
    def _sealed_to(job: _Write) -> int:
        assert job.manifest is not None
        return next(line.begins_after for line in job.manifest.segments if line.number == job.segment.number)

    def _settle(self) -> None:
        """After a job: first the replies that waited leave, then the next group goes out."""
        self._progress()
        if self.poisoned is None:
            self._submit()
        elif self._closing is not None and not self._busy and not self._syncing:
            self._closed(self.poisoned)

    def _progress(self) -> None:
        """The marks moved, or will never move again: what waited may go, or must be refused."""
        self.on_progress()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            try:
                waiter()
            except Exception:  # one client's trouble is not the others'
                log.exception("a reply that waited for the journal could not be sent")
        room, self._room = self._room, Wait()
        room.fire()
        if self.poisoned is not None:
            self._segments_changed()
        if self.synced > self._marked and not self._idle_armed and self.poisoned is None:
            self._idle_armed = True
            self._spawn.later(IDLE_MS, self._idle)

    def _segments_changed(self) -> None:
        segments, self._segments = self._segments, Wait()
        segments.fire()
        if self._roll_to:
            self.go_on()

    # syncs beside the writer

    def _second_over(self) -> None:
        self._second_armed = False
        if self.synced < self.last and self.poisoned is None:
            self._sync_due = True
            if not self._busy and not self._scheduled:
                self._schedule()

    def _begin_sync(self) -> None:
        """J4: proves the groups whose write has returned; J1: what is written from now on starts on a new block."""
        self._new_block = True
        self._syncing = True
        covers = self.sync_covers()
        self._syncer.submit(self._segment.file.sync, lambda _, error: self._synced(covers, error))

    def sync_covers(self) -> int:
        """J4: what a sync that begins now proves."""
        return self.written

    def _synced(self, covers: int, error: BaseException | None) -> None:
        self._syncing = False
        if error is not None:
            return self._poison(error)
        if self.poisoned is None:
            self.syncs += 1
            self.synced = max(self.synced, covers)
        self._settle()

    def _idle(self) -> None:
        """J1: after its last sync an idle journal writes that down: evidence for recovery."""
        self._idle_armed = False
        if self.poisoned is not None or self._closing is not None or self.synced <= self._marked:
            return
        if self._busy or self._parts or self._syncing:
            self._idle_armed = True
            self._spawn.later(IDLE_MS, self._idle)
            return
        offset = align(self._offset, self._block)
        if offset + self._block > self._segment.bytes - self._block:
            return  # no room beside the end mark's; the next segment's groups will carry the mark
        data = layout.group(self._segment.epoch, self.last + 1, self.last, self._clock(), self.synced, IDLE, b"")
        self._marked = self.synced
        self._offset, self._new_block = offset + self._block, False
        self._measure()
        self._busy = True
        padded = data.ljust(self._block, b"\0")
        job = _Write(self.disk, self._segment, offset, padded, self.last, False)
        self._writer.submit(job.run, lambda _, error: self._written(job, error))

    # poison

    def fail(self, error: BaseException) -> None:
        """Something went wrong after which nothing more may be confirmed."""
        self._poison(error)

    def _poison(self, error: BaseException) -> None:
        """C4: nothing more is written, synced or confirmed until a restart."""
        if self.poisoned is None:
            self.poisoned = Poisoned(
                f"the journal could not be written ({error}): what was not confirmed may or may not be there after a "
                "restart; reads of what is on disk go on; mend the disk, then restart"
            )
        self._parts, self._open_bytes, self._fits = [], 0, 0
        self._roll_over()
        self._settle()

    # closed segments

    def release(self, base_seqno: int) -> None:
        """S1: everything up to `base_seqno` is durable elsewhere: segments with nothing newer are kept for readers.

        As many of them as `retain_bytes` allows; the others go, once they are archived.
        """
        self.closed.cover(base_seqno)

    def roll_now(self) -> Wait:
        """Closes the current segment, so that all commits up to now stand in closed ones: to be archived, or copied.

        Returns:
            A Wait that fires once that is so (or never will be: the journal is poisoned or closed).
        """
        rolled = self._rolled
        self._roll_to = max(self._roll_to, self.last)
        if self.poisoned is not None:
            self._roll_over()
        self.go_on()
        return rolled

    def go_on(self) -> None:
        """Looks in the next turn at what there is to do."""
        if not self._busy and not self._scheduled:
            self._schedule()

    def _submit_plan(self) -> None:
        """One job at a time: the manifest that it writes names a segment only once that one's job has succeeded."""
        plan = self.closed.plan()
        if plan is None:
            return self._submit()
        self.manifest, dropped = plan

        def released(_: None, error: BaseException | None) -> None:
            self._busy = False
            if error is not None:
                return self._poison(error)
            if dropped:
                self.closed.retention.drop(dropped)
                self.preparer.recycle([line.name for line in dropped], self.size)
            self._settle()

        self._busy = True
        self._writer.submit(lambda: manifests.replace(self.disk, plan.manifest), released)

    def _archive_last(self) -> None:
        """Before a clean stop: nothing more comes, so the current segment is archived too."""
        self._archived_last = self._busy = True

        def archived() -> None:
            self._busy = False
            self._settle()

        self.closed.finish(archived)

    # the end

    def close(self, done: Callable[[BaseException | None], None]) -> None:
        """J9: syncs everything, writes the end mark, syncs again, and says so in the manifest."""
        self._closing = done
        if self.poisoned is not None and not self._busy and not self._syncing:
            return self._closed(self.poisoned)
        self._demanded = self.last
        if not self._busy and not self._scheduled:
            self._schedule()

    def _end(self) -> None:
        offset = align(self._offset, self._block)
        segment, lines = self._segment, self.manifest.segments
        self.manifest = replace(
            self.manifest,
            segments=(*lines[:-1], replace(lines[-1], counts_to=self.last)),
            ended=offset,
            archived_to=self.closed.archived_to,
        )
        manifest = self.manifest
        data = layout.group(segment.epoch, self.last + 1, self.last, self._clock(), self.synced, END, b"")

        def run() -> None:
            segment.file.write(data.ljust(self._block, b"\0"), offset)
            segment.file.sync()
            manifests.replace(self.disk, manifest)

        self._busy = True
        self._writer.submit(run, lambda _, error: self._closed(error))

    def _closed(self, error: BaseException | None) -> None:
        done, self._closing = self._closing, None
        if done is None:
            return
        self.poisoned = self.poisoned or Poisoned("the journal is closed")
        self._roll_over()
        for worker in (self._writer, self._syncer):
            worker.close()
        self.preparer.close()
        self.closed.close()
        self._segment.file.close()
        done(error)

    def statistics(self) -> dict[str, Any]:
        return {
            "changes_oldest": self.oldest,
            "groups": self.groups,
            "syncs": self.syncs,
            "poisoned": self.poisoned.message if self.poisoned else "",
            "full": self.preparer.refuses is not None,
            **self.closed.statistics(),
        }
