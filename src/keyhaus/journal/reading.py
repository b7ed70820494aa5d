"""Reading what was committed: the synced commits in their order, from segments and from the archive alike.

What is kept of a history is a row of stretches, each one file's part: a segment ends where the next one begins (what
lies beyond is dead, J7), the last one at what is synced (S7), a file of the archive where its name says. A reader
stands at a number and takes only what follows it without a gap: a group whose checksum and epoch are right, whose
first commit is the next, or a jump that begins where it stands. So it may read while the journal writes, in a thread
and through file handles of its own: half a group, or a file that was put to another use under it, is never taken for
data. Then it looks whether the segment is still there, and says `ChangesTooOld`, or `Corruption`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Final, NamedTuple

from keyhaus.core.disk import Disk, File
from keyhaus.core.errors import ChangesLost, ChangesTooOld, Corruption, OtherFormat, StorageError, UserError
from keyhaus.core.limits import CHANGES_PLACES_MAX, MIB
from keyhaus.journal import archive as archives
from keyhaus.journal import format as layout
from keyhaus.journal import manifest as manifests
from keyhaus.journal import recovery
from keyhaus.journal.format import ALIGN_BYTES, COMMITS, HEADER_BYTES, START, Frame, Group
from keyhaus.journal.manifest import Manifest
from keyhaus.journal.segments import align

WINDOW_BYTES: Final = MIB  # read at once
SLICE_BYTES: Final = MIB  # of frames that one page looks at
SLICE_FRAMES: Final = 1000


class Stretch(NamedTuple):
    """One file's part of a history: what comes after `begins_after`, up to `ends`.

    Attributes:
        disk: Where the file is.
        name: Its name there.
        epoch: What a segment's groups carry; 0 for a file of the archive, whose header says it.
        begins_after: The seqno after which it begins.
        ends: The last seqno that counts in it.
    """

    disk: Disk
    name: str
    epoch: int
    begins_after: int
    ends: int


class Place(NamedTuple):
    """Where in a file a reader goes on."""

    name: str
    offset: int


class Block(NamedTuple):
    """Commits `first` to `last`, whose frames fill `data` from `begin` to `end`."""

    first: int
    last: int
    data: bytes
    begin: int
    end: int


class Jump(NamedTuple):
    """The numbers between the two were never given."""

    last_before: int
    first_after: int


class Kept(NamedTuple):
    """What is kept of one history.

    Attributes:
        stretches: In order; they may overlap, and leave no gap.
        newest: Up to where it can be read.
        live: Whether a journal writes meanwhile, so that files may go.
    """

    stretches: Sequence[Stretch]
    newest: int
    live: bool = False

    @property
    def oldest(self) -> int:
        """The lowest seqno after which it can be read."""
        return min((stretch.begins_after for stretch in self.stretches), default=self.newest)

    def commits(self, after: int) -> Iterator[Frame]:
        """The commits after a number, in order; as `Reader` raises."""
        for step in Reader(self, after).steps():
            if isinstance(step, Block):
                for begin, _ in layout.frames_between(step.data, step.begin, step.end):
                    yield layout.read_frame(step.data, begin)


def segments(disk: Disk, manifest: Manifest, newest: int) -> list[Stretch]:
    """The stretches of a journal's named segments, up to `newest`."""
    lines = manifest.lines
    ends = [*(line.begins_after for line in lines[1:]), newest]
    return [
        Stretch(disk, line.name, line.epoch, line.begins_after, min(end, newest))
        for line, end in zip(lines, ends, strict=True)
    ]


def archived(archive: Disk, history: str, seqno: int) -> list[Stretch]:
    """The stretches of an archive that together lead up to `seqno`. Raises OSError."""
    found = archives.leading_to(archives.files(archive, history), seqno)
    return [Stretch(archive, file.name, 0, file.begins_after, file.ends) for file in found]


def stopped(disk: Disk, archive: Disk | None = None) -> Kept:
    """What is kept of a database that no server has open: everything that its next start will accept.

    Args:
        disk: The database's directory.
        archive: The directory of its archive, where it has one.

    Raises:
        Corruption: There is no journal, or what was synced is missing or damaged.
    """
    manifest = manifests.read(disk)
    if manifest is None:
        raise Corruption("there is no journal here", manifests.NAME, 0)
    begin = manifest.segments[0].begins_after
    walked, _ = recovery.walk(disk, manifest, begin)
    stretches = segments(disk, manifest, walked.at)
    if archive is not None:
        stretches = archived(archive, manifest.history, stretches[0].begins_after) + stretches
    return Kept(stretches, walked.at)


class Reader:
    """Goes through what is kept, from a number on.

    Attributes:
        at: Where it stands: all up to it was given, or comes before where it began.
        place: Where what it gave last stands; who goes on later at `at` may begin there.
    """

    def __init__(self, kept: Kept, after: int, place: Place | None = None) -> None:
        """Raises:
        ChangesTooOld: What follows `after` is not kept.
        UserError: `after` is above the newest.
        """
        if after < kept.oldest:
            raise too_old(after, kept.oldest)
        if after > kept.newest:
            raise UserError(f"{after} is above the newest commit, {kept.newest}")
        self.at = after
        self.place = place
        self._kept = kept
        self._asked: int | None = after  # the number that was asked for, until it is known to be one of the history's

    def steps(self) -> Generator[Block | Jump, None, None]:
        """What follows, in order.

        Raises:
            ChangesLost: The number to begin at lies inside a jump.
            ChangesTooOld: The segment was put to another use meanwhile.
            Corruption: Something that must be there is missing or damaged.
            OtherFormat: A file is of another version.
        """
        while self.at < self._kept.newest:
            yield from self._stretch(self._covering())

    def _covering(self) -> Stretch:
        best: Stretch | None = None
        for stretch in self._kept.stretches:
            if stretch.begins_after <= self.at < stretch.ends and (best is None or stretch.ends >= best.ends):
                best = stretch
        if best is None:
            raise ChangesTooOld(f"what follows {self.at} is not kept any more")
        return best

    def _stretch(self, stretch: Stretch) -> Iterator[Block | Jump]:
        try:
            file = stretch.disk.open(stretch.name)
        except FileNotFoundError:
            raise self._missing(stretch) from None
        try:
            epoch = self._epoch(file, stretch)
            offset = self.place.offset if self.place is not None and self.place.name == stretch.name else HEADER_BYTES
            for data, head, begin in _groups(file, epoch, offset):
                self.place = Place(stretch.name, begin)
                step = self._step(data, head, stretch)
                if step is not None:
                    self._asked = None
                    yield step
                    if self.at >= stretch.ends:
                        return
        finally:
            file.close()
        raise self._missing(stretch)

    def _epoch(self, file: File, stretch: Stretch) -> int:
        """What the file's groups carry, once its header says that it is the one that is meant."""
        block = file.read(HEADER_BYTES, 0)
        try:
            if not stretch.epoch:
                header = archives.read_header(block, stretch.name)
                if (header.begins_after, header.ends) != (stretch.begins_after, stretch.ends):
                    raise ValueError("the archive's header does not say what its name says")
                return header.epoch
            version, _, epoch = layout.read_segment_header(block)
            if version != layout.VERSION:
                raise OtherFormat(stretch.name, version, layout.VERSION)
            if epoch != stretch.epoch:
                raise ValueError("the segment is another one than the manifest names")
            return stretch.epoch
        except ValueError as error:
            raise self._missing(stretch, str(error)) from None

    def _step(self, data: bytes, head: Group, stretch: Stretch) -> Block | Jump | None:
        if head.kind == START and head.jump is not None:
            return self._jump(Jump(*head.jump), stretch)
        # J7: what lies beyond the stretch's end is dead.
        if head.kind != COMMITS or head.last <= self.at or head.first > stretch.ends:
            return None
        if head.first > self.at + 1:
            raise self._missing(stretch)
        block = Block(head.first, head.last, data, head.offset + layout.GROUP_BYTES, head.offset + head.length)
        try:
            block = cut(block, self.at, stretch.ends)
        except ValueError as error:
            raise Corruption(str(error), stretch.name, head.offset) from None
        self.at = block.last
        return block

    def _jump(self, jump: Jump, stretch: Stretch) -> Jump | None:
        if jump.last_before > stretch.ends or jump.first_after - 1 <= self.at:
            return None
        if jump.last_before > self.at:
            raise self._missing(stretch)
        if self._asked is not None and jump.last_before < self._asked:
            raise ChangesLost(
                f"{self._asked} is no commit of this history: after {jump.last_before} it goes on behind "
                f"{jump.first_after - 1}, and what may have been between them a crash took back"
            )
        self.at = jump.first_after - 1
        return jump

    def _missing(self, stretch: Stretch, reason: str = "") -> ChangesTooOld | Corruption:
        """What to say of a stretch in which the next commit could not be found."""
        if self._kept.live and not stretch.disk.exists(stretch.name):
            # A segment that is put to another use has another name before it has other bytes.
            return ChangesTooOld(f"what follows {self.at} is not kept any more")
        offset = self.place.offset if self.place is not None and self.place.name == stretch.name else 0
        return Corruption(reason or f"commit {self.at + 1} is missing or damaged", stretch.name, offset)


def too_old(after: int, oldest: int) -> ChangesTooOld:
    return ChangesTooOld(f"what follows {after} is not kept any more: the oldest number to go on from is {oldest}")


def _groups(file: File, epoch: int, offset: int) -> Iterator[tuple[bytes, Group, int]]:
    """Every whole group of this epoch from an offset on: the window that it stands in, its head, its own offset.

    What a window cuts is read again as a whole, and what stands inside a group is never looked at: a value may look
    like a group.
    """
    sought = epoch.to_bytes(8, "little")
    wanted = WINDOW_BYTES
    while data := file.read(wanted, offset):
        last = len(data) < wanted
        at, wanted = 0, WINDOW_BYTES
        while True:
            epoch_at = data.find(sought, at + 8)
            if epoch_at < 0:
                if last:
                    return
                # An epoch that the window cuts in two belongs to a group at the next multiple of the alignment.
                offset += (len(data) - 16) // ALIGN_BYTES * ALIGN_BYTES
                break
            begin = epoch_at - 8
            if begin % ALIGN_BYTES:
                at = begin + 1
                continue
            length = layout.length_at(data, begin)
            if begin + length > len(data) and not last:
                offset += begin
                wanted = max(WINDOW_BYTES, length)
                break
            head = layout.read_group(data, begin)
            if head is None:
                at = begin + 1
            else:
                yield data, head, offset + begin
                at = align(begin + length, ALIGN_BYTES)


def cut(block: Block, after: int, ends: int) -> Block:
    """Those commits of a block that lie after a number and up to another. Raises ValueError for bad lengths."""
    skip, keep = max(0, after + 1 - block.first), min(block.last, ends) + 1 - block.first
    if not skip and keep > block.last - block.first:
        return block
    begin, end = block.begin, block.end
    for number, (frame_begin, frame_end) in enumerate(layout.frames_between(block.data, block.begin, block.end)):
        if number == skip:
            begin = frame_begin
        if number == keep - 1:
            end = frame_end
            break
    return Block(block.first + skip, block.first + keep - 1, block.data, begin, end)


# pages


class Room(NamedTuple):
    """What a page may still take.

    Attributes:
        entries: How many.
        bytes: How large their frames may be together.
        empty: Whether nothing is in it yet: then a single entry may be larger.
    """

    entries: int
    bytes: int
    empty: bool


class Page(NamedTuple):
    """Some of what follows a number.

    Attributes:
        entries: What was chosen.
        bytes: The size of their frames.
        at: Up to where was looked.
        full: Whether it ended since the next entry did not fit.
    """

    entries: list[Any]
    bytes: int
    at: int
    full: bool


def page(steps: Iterator[Block | Jump], at: int, choose: Callable[[Frame], Any], room: Room) -> Page:
    """Chooses from what follows `at`, looking at no more than a slice.

    Args:
        steps: What follows.
        at: Where it begins.
        choose: The entry for a commit; None for one that is to be passed over.
        room: What the page may take.
    """
    entries: list[Any] = []
    size = looked_at = frames = 0
    for step in steps:
        if isinstance(step, Jump):
            at = step.first_after - 1
            continue
        for begin, end in layout.frames_between(step.data, step.begin, step.end):
            frame = layout.read_frame(step.data, begin)
            entry = choose(frame)
            if entry is not None:
                if size + end - begin > room.bytes and (entries or not room.empty):
                    return Page(entries, size, at, True)
                entries.append(entry)
                size += end - begin
            at = frame.seqno
            looked_at += end - begin
            frames += 1
            if len(entries) >= room.entries or looked_at >= SLICE_BYTES or frames >= SLICE_FRAMES:
                return Page(entries, size, at, False)
    return Page(entries, size, at, False)


class Running:
    """Reads what a running journal keeps; its methods run in one worker, one at a time."""

    def __init__(self, disk: Disk, archive: Disk | None) -> None:
        self._disk, self._archive = disk, archive
        self._archived: list[Stretch] = []
        self._places: OrderedDict[int, Place] = OrderedDict()

    def page(self, manifest: Manifest, newest: int, after: int, choose: Callable[[Frame], Any], room: Room) -> Page:
        """A page of what follows `after`.

        Args:
            manifest: The chain, as the journal has it.
            newest: What is synced.
            after: Where to begin.
            choose: As for `page`.
            room: As for `page`.

        Raises:
            ChangesTooOld, ChangesLost, Corruption: As `Reader` does.
            OSError: A file can't be read.
        """
        stretches = segments(self._disk, manifest, newest)
        if self._archive is not None and after < stretches[0].begins_after:
            stretches = self._archived_for(manifest.history, after, stretches[0].begins_after) + stretches
        reader = Reader(Kept(stretches, newest, live=True), after, self._places.get(after))
        steps = reader.steps()
        try:
            found = page(steps, after, choose, room)
        except StorageError:
            self._archived = []  # somebody may have moved files away
            raise
        finally:
            steps.close()
        if reader.place is not None:
            self._places[found.at] = reader.place
            self._places.move_to_end(found.at)
            if len(self._places) > CHANGES_PLACES_MAX:
                self._places.popitem(last=False)
        return found

    def _archived_for(self, history: str, after: int, seqno: int) -> list[Stretch]:
        """The archive's stretches up to `seqno`, listed anew only where those that are known do not do."""
        known = self._archived
        if not known or after < known[0].begins_after or known[-1].ends < seqno:
            assert self._archive is not None
            self._archived = known = archived(self._archive, history, seqno)
        return known
