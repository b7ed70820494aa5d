"""Recovery: what the chain of segments proves, and the fresh segment that every start builds (J5–J8).

Two passes. The first walks the chain group by group and settles where the history ends (`at`), up to where it is proven
to be on disk (`proven`), and whether anything is missing that must be there. The second hands the accepted commits to
the store and copies those that are not proven into a fresh segment, since a file that was merely read proves nothing.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from msgspec.structs import replace

from keyhaus.core.disk import Disk
from keyhaus.core.errors import Corruption, OtherFormat
from keyhaus.core.limits import MIB, UNSYNCED_COMMITS_MAX
from keyhaus.journal import format as layout
from keyhaus.journal import manifest as manifests
from keyhaus.journal.format import COMMITS, END, FAR, GROUP_BYTES, HEADER_BYTES, START, Frame, Group
from keyhaus.journal.manifest import DIRECTORY, Line, Manifest
from keyhaus.journal.segments import Segment, align, prepare

JUMP = UNSYNCED_COMMITS_MAX + 1
REWRITE_BYTES = MIB  # how much one group of a rewrite holds, about


@dataclass
class Started:
    """What a start leaves behind for the running journal.

    Attributes:
        manifest: The chain, the fresh segment last.
        segment: The fresh segment.
        offset: Where its next group may begin.
        last: The last number given or jumped over; everything up to it is synced.
        clock: The highest time that the journal has seen, in milliseconds since 1970.
        unused: Names of segment files that the manifest does not name: to be recycled.
        sizes: The size of each named file, by its segment's number.
        commits: How many commits were read.
        rewritten: How many of them had to be written again.
    """

    manifest: Manifest
    segment: Segment
    offset: int
    last: int
    clock: int
    unused: list[str]
    sizes: dict[int, int]
    commits: int
    rewritten: int


class Walk:
    """The first pass: what a chain says, group by group (J5)."""

    def __init__(self, base_seqno: int) -> None:
        self.at = base_seqno
        self.proven = base_seqno
        self.whole = True
        self.clock = 0
        self.top = 0
        self.top_at = ("", 0)  # the file that says so, and behind which of its groups nothing higher stands
        self._good: list[tuple[Line, int]] = []  # each segment, and where its last accepted group ends

    def segment(self, line: Line, groups: Iterator[Group]) -> int:
        """Walks one segment; where its last whole group ends. Raises Corruption."""
        end = HEADER_BYTES
        started = False
        self._good.append((line, end))
        # J4: the manifest named this segment only once everything before it was synced.
        self.proven = max(self.proven, line.begins_after)
        self._reach(line.begins_after, line, end)
        for head in groups:
            self._group(line, head)
            started = started or head.kind == START
            end = head.offset + head.length
            if self.whole and head.first <= self.at + 1:
                self._good[-1] = (line, end)
        if line.start and not started:
            raise Corruption("the start record is missing or damaged", line.name, HEADER_BYTES)
        if line.counts_to is not None:
            self.proven = max(self.proven, line.counts_to)
            self._reach(line.counts_to, line, end)
        return end

    def _reach(self, seqno: int, line: Line, end: int) -> None:
        if seqno >= self.top:
            self.top, self.top_at = seqno, (line.name, end)

    def _group(self, line: Line, head: Group) -> None:
        limit = FAR if line.counts_to is None else line.counts_to
        self.clock = max(self.clock, head.clock)
        self.proven = max(self.proven, head.mark)
        if head.jump is not None and not self.dead(head.jump[0], limit):
            self._jump(*head.jump)
            self._reach(head.jump[1] - 1, line, head.offset + head.length)
        elif head.kind == COMMITS and not self.dead(head.first, limit):
            last = limit if self.dead(head.last, limit) else head.last
            self._reach(last, line, head.offset + head.length)
            if self.whole and head.first <= self.at + 1:
                self.at = max(self.at, last)
            elif head.first > self.at + 1:
                self.whole = False

    def _jump(self, last_before: int, first_after: int) -> None:
        self.proven = max(self.proven, self.start_proves(last_before))
        if self.whole and self.at < first_after and self.jump_counts(last_before):
            self.at = first_after - 1
            self.proven = max(self.proven, self.jump_proves())
        elif self.at < last_before:
            self.whole = False

    @staticmethod
    def dead(seqno: int, limit: int) -> bool:
        """J7: what lies beyond the number up to which a segment counts is neither data nor evidence nor jump."""
        return seqno > limit

    @staticmethod
    def start_proves(last_before: int) -> int:
        """J6: a start record was written only once everything before it was synced."""
        return last_before

    def jump_proves(self) -> int:
        """There is nothing to prove in numbers that were never given: so each segment begins where the walk stands."""
        return self.start_proves(self.at)

    def jump_counts(self, last_before: int) -> bool:
        """J5: a start record makes its jump only where the walk stands at its begin, or the base lies behind it."""
        return self.at >= last_before

    def check(self) -> None:
        """J5: raises Corruption where something that was synced is missing."""
        if not self.missing_was_synced():
            return
        line, offset = max((entry for entry in self._good if entry[0].begins_after <= self.at), key=self._good.index)
        raise Corruption(
            f"commit {self.at + 1} is missing or damaged here, yet commits up to {self.proven} were synced",
            line.name,
            offset,
        )

    def missing_was_synced(self) -> bool:
        return self.proven > self.at


def load(disk: Disk, line: Line) -> bytes:
    """A segment's bytes, its header checked. Raises Corruption, OtherFormat."""
    if not disk.exists(line.name):
        raise Corruption("the segment is named by the manifest and does not exist", line.name, 0)
    file = disk.open(line.name)
    try:
        data = file.read(file.size(), 0)
    finally:
        file.close()
    try:
        version, number, epoch = layout.read_segment_header(data[:HEADER_BYTES])
    except ValueError as error:
        raise Corruption(str(error), line.name, 0) from None
    if version != layout.VERSION:
        raise OtherFormat(line.name, version, layout.VERSION)
    if (number, epoch) != (line.number, line.epoch):
        raise Corruption("the segment is another one than the manifest names", line.name, 0)
    return data


def check_versions(disk: Disk) -> None:
    """Looks only whether the journal is one that this release reads, before anything is touched.

    Raises OtherFormat, and Corruption where the manifest is damaged; all other damage is left to `start`.
    """
    manifest = manifests.read(disk)
    for line in () if manifest is None else manifest.lines:
        if disk.exists(line.name):
            with contextlib.suppress(ValueError):
                version, _, _ = layout.read_segment_header(_first_block(disk, line.name))
                if version != layout.VERSION:
                    raise OtherFormat(line.name, version, layout.VERSION)


def _first_block(disk: Disk, name: str) -> bytes:
    file = disk.open(name)
    try:
        return file.read(HEADER_BYTES, 0)
    finally:
        file.close()


def walk(disk: Disk, manifest: Manifest, base_seqno: int) -> tuple[Walk, list[int]]:
    """The first pass over the whole chain; where each segment's last group ends. Raises Corruption."""
    if manifest.segments and base_seqno < manifest.segments[0].begins_after:
        raise Corruption(
            f"the journal begins after commit {manifest.segments[0].begins_after}, the base ends at {base_seqno}",
            manifest.segments[0].name,
            0,
        )
    result = Walk(base_seqno)
    ends: list[int] = []
    for line in manifest.segments:
        data = load(disk, line)
        if manifest.ended is not None and line is manifest.segments[-1]:
            _check_end(data, line, manifest.ended)
        ends.append(result.segment(line, layout.groups(data, line.epoch)))
    result.check()
    if manifest.segments and base_seqno > result.top:
        raise Corruption(
            f"the journal ends at commit {result.top}, the base lies ahead at {base_seqno}",
            *result.top_at,
        )
    return result, ends


def _check_end(data: bytes, line: Line, offset: int) -> None:
    """J9: after a clean stop the end mark must be there, or the file was damaged since."""
    head = next((head for head in layout.groups(data, line.epoch) if head.offset == offset), None)
    if head is None or head.kind != END:
        raise Corruption("the end mark of a clean stop is missing or damaged", line.name, offset)


def accepted(disk: Disk, manifest: Manifest, base_seqno: int, at: int) -> Iterator[tuple[Frame, bytes]]:
    """The second pass: each commit above the base that counts, in order, with its bytes. Raises Corruption."""
    last = base_seqno
    for line in manifest.segments:
        data = load(disk, line)
        limit = at if line.counts_to is None else min(line.counts_to, at)
        for head in layout.groups(data, line.epoch):
            if head.kind != COMMITS or head.last <= last:
                continue
            try:
                for begin, end in layout.frames(data, head):
                    frame = layout.read_frame(data, begin)
                    if last < frame.seqno and not Walk.dead(frame.seqno, limit):
                        last = frame.seqno
                        yield frame, data[begin:end]
            except ValueError as error:
                raise Corruption(str(error), line.name, head.offset) from None


def start(
    disk: Disk,
    random_bytes: Callable[[int], bytes],
    apply: Callable[[Frame], None],
    *,
    segment_bytes: int,
    base_seqno: int = 0,
    history: str | None = None,
    archives: bool = False,
) -> Started:
    """Recovers what is there and makes the journal ready for its first commit (J6).

    It appends to nothing that it read, may fail or crash at any point, and may then be run again.

    Args:
        disk: The database's directory.
        random_bytes: Where a history id and epochs come from.
        apply: Called with each commit above the base, in order.
        segment_bytes: The size of a segment.
        base_seqno: Up to where the base has everything.
        history: The history that the base belongs to, where there is one.
        archives: Whether there is an archive that a retained segment has to be in before it goes (S1).

    Raises:
        Corruption: Something that was synced is missing or damaged; names the file and the offset.
        OtherFormat: A file is of another version; nothing was changed.
        OSError: The disk failed, or has no room for the fresh segment.
    """
    disk.make_directory(DIRECTORY)
    disk.sync_directory(".")
    disk.sync_directory(DIRECTORY)
    before = manifests.read(disk)
    if before is None:
        if history is not None:
            raise Corruption("the manifest is missing, but there is a base", manifests.NAME, 0)
        _refuse_orphans(disk)
        before = Manifest(random_bytes(16).hex(), ())
    if history is not None and history != before.history:
        raise Corruption(f"the journal belongs to history {before.history}, the base to {history}", manifests.NAME, 0)
    found, ends = walk(disk, before, base_seqno)
    proven = proven_of(found)
    commits, unproven = 0, []
    for frame, raw in accepted(disk, before, base_seqno, found.at):
        apply(frame)
        commits += 1
        found.clock = max(found.clock, frame.unix_ms)
        if frame.seqno > proven:
            unproven.append((frame.seqno, raw))
    before = _present(disk, before)
    try:
        last, offset, segment = _fresh(disk, random_bytes, before, ends, found, proven, unproven, segment_bytes)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not (free := _free(before, archives)):
            raise
        before = _give_back(disk, before, free)
        last, offset, segment = _fresh(disk, random_bytes, before, ends, found, proven, unproven, segment_bytes)
    older = tuple(
        replace(line, counts_to=proven if line.counts_to is None else min(line.counts_to, proven))
        for line in before.segments
    )
    chain = replace(before, segments=(*older, segment.line(proven, start=True)), ended=None)
    manifests.replace(disk, chain)
    sizes = {line.number: _cut(disk, line, end) for line, end in zip(older, ends, strict=True)}
    sizes.update({line.number: _size(disk, line.name) for line in chain.retained})
    sizes[segment.number] = segment.bytes
    return Started(chain, segment, offset, last, found.clock, unnamed(disk, chain), sizes, commits, len(unproven))


def _present(disk: Disk, manifest: Manifest) -> Manifest:
    """The manifest without retained segments that are gone, and what came before them: none is needed for the data."""
    gone = max((at for at, line in enumerate(manifest.retained) if not disk.exists(line.name)), default=-1)
    return replace(manifest, retained=manifest.retained[gone + 1 :])


def _free(manifest: Manifest, archives: bool) -> int:
    """How many retained segments may go: without an archive all, else those that are in it (S1)."""
    if not archives:
        return len(manifest.retained)
    to = manifest.archived_to or 0
    return sum(line.begins_after <= to for line in manifest.lines[1 : len(manifest.retained) + 1])


def _give_back(disk: Disk, manifest: Manifest, count: int) -> Manifest:
    """On a full disk the oldest retained segments make room, once a manifest without them is durable."""
    rest = replace(manifest, retained=manifest.retained[count:])
    manifests.replace(disk, rest)
    for line in manifest.retained[:count]:
        disk.remove(line.name)
    return rest


def proven_of(found: Walk) -> int:
    """J6: what is on the disk for sure; a file that was merely read proves nothing, so the rest is written again."""
    return min(found.proven, found.at)


def _fresh(
    disk: Disk,
    random_bytes: Callable[[int], bytes],
    before: Manifest,
    ends: list[int],
    found: Walk,
    proven: int,
    unproven: list[tuple[int, bytes]],
    segment_bytes: int,
) -> tuple[int, int, Segment]:
    """Builds and syncs the fresh segment: what is not proven once more, then the start record."""
    block = disk.block_bytes()
    rewritten = rewrites(unproven)
    size = sum(align(GROUP_BYTES + sum(map(len, frames)), layout.ALIGN_BYTES) for _, _, frames in rewritten)
    need = align(HEADER_BYTES, block) + align(size, block) + 3 * block
    segment = _room_for_fresh(disk, random_bytes, before, ends, need, segment_bytes)
    offset = align(HEADER_BYTES, block)
    try:
        for first, last, frames in rewritten:
            group = layout.group(segment.epoch, first, last, found.clock, proven, COMMITS, b"".join(frames))
            segment.file.write(group, offset)
            offset = align(offset + len(group), layout.ALIGN_BYTES)
        first_after = found.at + 1 + JUMP
        record = layout.start_payload(found.at, first_after)
        group = layout.group(segment.epoch, first_after, first_after - 1, found.clock, proven, START, record)
        segment.file.write(group, offset)
        segment.file.sync()
    except OSError:
        segment.file.close()
        raise
    return first_after - 1, align(offset + len(group), block), segment


def _room_for_fresh(
    disk: Disk,
    random_bytes: Callable[[int], bytes],
    before: Manifest,
    ends: list[int],
    need: int,
    segment_bytes: int,
) -> Segment:
    """A file for the fresh segment: one that lies unused, or a new one, on a full disk a small one (J2)."""
    spares = unnamed(disk, before)
    numbers = [manifests.segment_number(name) or 0 for name in disk.names(DIRECTORY)]
    number = 1 + max([0, *numbers, *(line.number for line in before.lines)])
    # A smaller one may be what a preparation left that was cut off: the room is better used for a whole one.
    fitting = [name for name in spares if _size(disk, name) >= max(need, segment_bytes // 2)]
    if fitting:
        return prepare(disk, number, need, random_bytes, min(fitting, key=lambda name: _size(disk, name)))
    try:
        return prepare(disk, number, max(segment_bytes, need), random_bytes)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
    # What no manifest names, and what lies behind the last group that was read, is nobody's: it makes room.
    for name in spares:
        disk.remove(name)
    for line, end in zip(before.segments, ends, strict=True):
        _cut(disk, line, end)
    size = max(segment_bytes, need)
    while True:
        try:
            return prepare(disk, number, size, random_bytes)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or size == need:
                raise
            size = max(size - size // 8, need)


def rewrites(unproven: list[tuple[int, bytes]]) -> list[tuple[int, int, list[bytes]]]:
    """J6: commits to be written again, as (first, last, frames) of groups; unbroken numbers share one."""
    result: list[tuple[int, int, list[bytes]]] = []
    room = 0
    for seqno, raw in unproven:
        if result and result[-1][1] == seqno - 1 and room >= len(raw):
            first, _, frames = result[-1]
            frames.append(raw)
            result[-1] = (first, seqno, frames)
            room -= len(raw)
        else:
            result.append((seqno, seqno, [raw]))
            room = REWRITE_BYTES - len(raw)
    return result


def unnamed(disk: Disk, manifest: Manifest) -> list[str]:
    """Segment files that the manifest does not name: none of the database, and free for reuse (J3)."""
    named = {line.name for line in manifest.lines}
    names = (f"{DIRECTORY}/{name}" for name in disk.names(DIRECTORY))
    return [name for name in names if manifests.segment_number(name) is not None and name not in named]


def _refuse_orphans(disk: Disk) -> None:
    """A directory without a manifest is a new one, unless there are commits in it: then the manifest was lost."""
    for name in unnamed(disk, Manifest("", ())):
        file = disk.open(name)
        try:
            data = file.read(file.size(), 0)
        finally:
            file.close()
        with contextlib.suppress(ValueError):
            version, _, epoch = layout.read_segment_header(data[:HEADER_BYTES])
            if version != layout.VERSION:
                raise OtherFormat(name, version, layout.VERSION)
            if any(head.kind == COMMITS for head in layout.groups(data, epoch)):
                raise Corruption(f"the manifest is missing, but {name} holds commits", manifests.NAME, 0)


def _size(disk: Disk, name: str) -> int:
    file = disk.open(name)
    try:
        return file.size()
    finally:
        file.close()


def _cut(disk: Disk, line: Line, end: int) -> int:
    """Gives back what an older segment never used; its size. Not doing so would only cost room."""
    size = end
    with contextlib.suppress(OSError):
        file = disk.open(line.name)
        try:
            size = file.size()
            if size > end:
                file.truncate(end)
                size = end
        finally:
            file.close()
    return size
