"""Closed segments over a simulated disk: retained, archived before they are reused, and read (S1, S7, J7).

The random histories of test_journal_histories read journal and archive after each crash; here stands what they don't
reach: each single step of an archive that fails, the limits, and readers whose files go away.
"""

from __future__ import annotations

import errno
import random
import re
from typing import Any

import pytest
from google_crc32c import value as crc32c

from keyhaus.core.errors import ChangesLost, ChangesTooOld, Corruption, DiskFull, OtherFormat, StorageError, UserError
from keyhaus.core.wait import Wait
from keyhaus.journal import archive as archives
from keyhaus.journal import format as layout
from keyhaus.journal import reading, recovery
from keyhaus.journal.archive import File
from keyhaus.journal.format import HEADER_BYTES, PUT
from keyhaus.journal.journal import Journal
from keyhaus.journal.reading import Kept, Reader, Room, Running
from tests.support.simulation import Crash, SimulatedDisk, SimulatedSpawn

KIB = 1024
SEGMENT = 64 * KIB
VALUE = b"v" * 3000
PLENTY = 1 << 40


class Database:
    """A journal over simulated disks, the data's and maybe an archive's, under a base that only counts."""

    def __init__(self, *, archive: bool = True, retain_bytes: int = 0, max_bytes: int = PLENTY) -> None:
        self.random = random.Random(1)
        self.disk = SimulatedDisk(self.random)
        self.archive = SimulatedDisk(self.random) if archive else None
        self.retain_bytes, self.max_bytes = retain_bytes, max_bytes
        self.written: list[bytes] = []
        self.base_seqno = 0
        self.start()

    def start(self) -> None:
        self.spawn = SimulatedSpawn(self.random)
        self.started = recovery.start(
            self.disk,
            self.random.randbytes,
            lambda frame: None,
            segment_bytes=SEGMENT,
            base_seqno=self.base_seqno,
            archives=self.archive is not None,
        )
        self.journal = Journal(
            self.disk,
            self.spawn,
            self.started,
            clock=lambda: 0,
            segment_bytes=SEGMENT,
            max_bytes=self.max_bytes,
            retain_bytes=self.retain_bytes,
            archive=self.archive,
        )
        self.spawn.settle()

    @property
    def history(self) -> str:
        return self.journal.manifest.history

    def begin(self, value: bytes = VALUE) -> Wait | None:
        """A commit that wants to be synced; None, or what it would have to wait for. Raises DiskFull."""
        key = b"%d" % len(self.written)
        seqno = self.journal.last + 1
        frame = layout.frame(seqno, 0, [(PUT, 0, key, value, 0, 0)])
        wait = self.journal.room(len(frame), False)
        if wait is None:
            self.written.append(key)
            self.journal.append(seqno, frame)
            self.journal.demand(seqno)
        return wait

    def put(self, value: bytes = VALUE) -> bool:
        """Whether there was room for another commit; all that can happen without time has happened then."""
        wait = self.begin(value)
        self.spawn.settle()
        return wait is None

    def refused(self) -> str:
        """Writes until it is refused; why it is."""
        for _ in range(400):
            try:
                self.put()
            except DiskFull as error:
                return error.message
            self.cover()
        raise AssertionError("it is never refused")

    def fill(self, segments: int = 3) -> None:
        """Writes until so many segments were closed."""
        closed = self.journal.manifest.lines[-1].number + segments
        while self.journal.manifest.lines[-1].number < closed:
            self.put()

    def cover(self) -> None:
        """A flush: the base has everything that is synced."""
        self.base_seqno = self.journal.synced
        self.journal.release(self.base_seqno)
        self.spawn.settle()

    def fill_disk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Somebody else takes all room, that of the spares and of what a start cuts off too."""
        named = {line.name for line in self.journal.manifest.lines}
        for name in [name for name in self.disk.inodes if name.endswith(".segment") and name not in named]:
            self.disk.remove(name)
        self.disk.room = 0
        monkeypatch.setattr(recovery, "_cut", lambda disk, line, end: SEGMENT)

    def time(self) -> None:
        """A second passes: what waits for a timer goes on."""
        for _ in range(4):
            self.spawn.ring()
            self.spawn.settle()

    def stop(self) -> None:
        done: list[Any] = []
        self.journal.close(done.append)
        self.spawn.settle()
        assert done == [None]

    def keys(self, kept: Kept, after: int = 0) -> list[bytes]:
        return [frame.operations[0][2] for frame in kept.commits(after)]

    def kept(self) -> Kept:
        return reading.stopped(self.disk, self.archive)

    def files(self) -> list[File]:
        assert self.archive is not None
        return archives.files(self.archive, self.history)


# the archive


def test_a_closed_segment_is_archived_and_then_reused() -> None:
    database = Database()
    database.fill(3)
    names = set(database.disk.inodes)
    assert len(database.files()) == 3
    database.cover()
    database.fill(3)
    assert len({name for name in database.disk.inodes if name.endswith(".segment")}) <= len(names)
    assert database.keys(database.kept()) == database.written


def test_a_clean_stop_archives_the_last_segment() -> None:
    database = Database()
    database.put()
    database.stop()
    archive = database.archive
    assert archive is not None
    kept = Kept(reading.archived(archive, database.history, database.journal.last), database.journal.last)
    assert database.keys(kept) == database.written
    copies = len(database.files())
    database.start()
    assert len(database.files()) == copies, "what was archived at the stop is archived again at the start"


def test_a_roll_on_demand_closes_what_was_committed() -> None:
    database = Database()
    database.put()
    last = database.journal.last
    rolled = database.journal.roll_now()
    database.spawn.settle()
    assert rolled.fired
    assert [file.ends for file in database.files()] == [last]
    database.put()
    assert database.keys(database.kept()) == database.written


def test_a_roll_on_demand_waits_for_the_group_that_gathers() -> None:
    database = Database()
    assert database.begin() is None
    rolled = database.journal.roll_now()
    assert not rolled.fired
    database.spawn.settle()
    assert rolled.fired
    assert database.journal.manifest.segments[-1].begins_after == database.journal.last
    assert database.keys(database.kept()) == database.written


def test_a_roll_on_demand_ends_with_the_poison() -> None:
    database = Database()
    database.put()
    rolled = database.journal.roll_now()
    database.journal.fail(OSError("broken"))
    assert rolled.fired
    assert database.journal.roll_now().fired


def _steps() -> int:
    """How many steps the archive's disk takes for one segment."""
    database = Database()
    assert database.archive is not None
    database.archive.crash_in = 10_000
    database.fill(1)
    return 10_000 - database.archive.crash_in


@pytest.mark.parametrize("power_cut", [False, True])
@pytest.mark.parametrize("step", range(_steps() + 1))
def test_a_crash_at_any_step_of_the_archive_loses_and_doubles_nothing(step: int, power_cut: bool) -> None:
    database = Database()
    assert database.archive is not None
    database.fill(1)
    database.cover()
    database.archive.crash_in = step
    try:
        database.fill(1)
        database.cover()
    except Crash:
        pass
    for disk in (database.disk, database.archive):
        if power_cut:
            disk.power_cut()
        else:
            disk.kill()
    for file in database.files():
        stretch = reading.Stretch(database.archive, file.name, 0, file.begins_after, file.ends)
        assert list(Kept((stretch,), file.ends).commits(file.begins_after)), "a file that bears its name is whole"
    synced = database.keys(database.kept())
    assert synced == database.written[: len(synced)]
    assert len(synced) >= len(database.written) - 1, "the commit that was under way at the crash, and no other"
    database.written[len(synced) :] = []
    database.start()
    database.fill(2)
    database.cover()
    database.stop()
    assert database.keys(database.kept()) == database.written


@pytest.mark.parametrize("failure", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("step", ["create", "write", "sync", "rename"])
def test_an_archive_that_fails_keeps_the_segment_and_is_tried_again(
    step: str, failure: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database()
    archive = database.archive
    assert archive is not None
    broken = True

    def fails(what: str, name: str) -> None:
        if broken and what == step:
            raise OSError(failure, "the archive is broken")

    monkeypatch.setattr(archive, "step", fails)
    database.fill(2)
    database.cover()
    told = database.journal.statistics()
    assert (told["archived"], told["archive_error"]) == (0, "the archive is broken")
    assert database.journal.poisoned is None
    assert not database.files() or step == "sync"
    assert database.keys(database.kept()) == database.written
    broken = False
    while database.journal.statistics()["archive_error"]:
        assert database.spawn.ring()
        database.spawn.settle()
    assert len(database.files()) == 2
    assert not archive.exists(archives.unfinished_name(database.history))
    database.cover()
    assert database.journal.manifest.lines[0].begins_after > 0
    assert database.keys(database.kept()) == database.written


def test_tries_come_later_and_later(monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database()
    assert database.archive is not None
    database.archive.room = 0
    database.fill(1)
    delays: list[float] = []
    later = database.spawn.later
    monkeypatch.setattr(database.spawn, "later", lambda ms, call: (delays.append(ms), later(ms, call))[1])
    while len(delays) < 9:
        database.spawn.ring()
        database.spawn.settle()
    assert delays == [2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000, 60_000]


def test_at_the_limit_writes_are_refused_naming_the_archive_and_go_on_once_it_is_mended() -> None:
    database = Database(max_bytes=8 * SEGMENT)
    assert database.archive is not None
    database.archive.room = 0
    assert re.search(r"can't be archived \(no space left.*archive-dir", database.refused())
    assert database.journal.size <= 8 * SEGMENT
    assert database.journal.poisoned is None
    database.archive.room = PLENTY
    for _ in range(12):
        database.time()
    assert database.put()
    for _ in range(100):
        database.put()
        database.cover()
    assert database.keys(database.kept()) == database.written


def _writer_waits_for_the_archive(database: Database) -> Wait:
    """Writes, while the archive's thread stands still, up to where a commit has to wait for it."""
    archiver = next(worker for worker in database.spawn.workers if worker.name == "journal-archiver")
    others = [worker for worker in database.spawn.workers if worker is not archiver]
    database.cover()
    for _ in range(400):
        wait = database.begin()
        database.journal.release(database.journal.synced)
        while database.spawn.turn() or sum(database.spawn.work(worker) for worker in others):
            pass
        if wait is not None and not wait.fired:
            return wait
    raise AssertionError("the limit was never reached")


def test_a_writer_that_waits_while_the_archive_is_at_work_is_not_refused() -> None:
    """At the limit the archive's next file makes room: the commit waits for it."""
    database = Database(max_bytes=6 * SEGMENT)
    wait = _writer_waits_for_the_archive(database)
    database.spawn.settle()
    assert wait.fired
    assert database.put()


def test_a_writer_that_waits_for_an_archive_that_then_fails_is_refused() -> None:
    database = Database(max_bytes=6 * SEGMENT)
    wait = _writer_waits_for_the_archive(database)
    assert database.archive is not None
    database.archive.room = 0
    database.spawn.settle()
    assert wait.fired
    with pytest.raises(DiskFull, match="can't be archived"):
        database.begin()


def test_a_file_of_another_format_is_refused_with_both_versions() -> None:
    database = Database()
    database.fill(1)
    assert database.archive is not None
    (file,) = database.files()
    inode = database.archive.inodes[file.name]
    header = bytearray(inode.cache[:HEADER_BYTES])
    header[8] = 2
    header[-4:] = crc32c(bytes(header[:-4])).to_bytes(4, "little")
    inode.cache[:HEADER_BYTES] = header
    kept = Kept(reading.archived(database.archive, database.history, file.ends), file.ends)
    with pytest.raises(OtherFormat, match=f"{file.name} has format 2, this release reads format 1: a newer release"):
        list(reading.Reader(kept, file.begins_after).steps())


def test_a_file_of_the_archive_is_as_its_grammar_says() -> None:
    database = Database()
    database.fill(1)
    assert database.archive is not None
    (file,) = database.files()
    data = bytes(database.archive.inodes[file.name].cache)
    header = archives.read_header(data[:HEADER_BYTES], "a file")
    assert (header.history, header.begins_after, header.ends) == (database.history, file.begins_after, file.ends)
    assert header.bytes == len(data)
    assert header.commits == len(database.written) - 1
    kinds = [head.kind for head in layout.groups(data, header.epoch)]
    assert kinds[0] == layout.START
    assert set(kinds[1:-1]) == {layout.COMMITS}
    assert kinds[-1] == layout.END


def test_an_archive_that_was_lost_begins_anew_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    database = Database(retain_bytes=PLENTY)
    database.fill(2)
    database.cover()
    database.stop()
    database.archive = SimulatedDisk(database.random)
    database.start()
    assert "begins anew" in caplog.text
    assert len(database.files()) == 3
    assert database.keys(database.kept()) == database.written


def test_an_archive_that_is_asked_for_later_begins_with_what_is_there() -> None:
    database = Database(archive=False, retain_bytes=2 * SEGMENT)
    database.fill(4)
    database.cover()
    database.stop()
    begin = database.journal.manifest.lines[0].begins_after
    assert begin > 0
    database.archive = SimulatedDisk(database.random)
    database.start()
    assert database.files()[0].begins_after == begin
    assert database.journal.oldest == begin


def test_what_a_crash_took_back_is_not_archived() -> None:
    """J7: beyond the number up to which a segment counts all is dead, and written again in the next one."""
    database = Database()
    database.put()
    assert database.begin() is None
    while database.journal.written < database.journal.last:
        database.spawn.turn() or [database.spawn.work(worker) for worker in database.spawn.workers]
    database.disk.kill()
    assert database.archive is not None
    database.archive.kill()
    database.start()
    assert database.started.rewritten == 1
    database.fill(1)
    first, second = database.files()[:2]
    assert first.ends == second.begins_after
    assert database.keys(database.kept()) == database.written


def test_a_damaged_file_of_the_archive_is_noticed_by_its_reader() -> None:
    database = Database()
    database.fill(2)
    database.cover()
    assert database.archive is not None
    cache = database.archive.inodes[database.files()[0].name].cache
    cache[HEADER_BYTES + 300] ^= 1
    with pytest.raises(Corruption, match=r"\.archive at offset"):
        database.keys(database.kept())


# retention


def _numbers(database: Database) -> tuple[list[int], list[int]]:
    manifest = database.journal.manifest
    return [line.number for line in manifest.retained], [line.number for line in manifest.segments]


def test_the_newest_covered_segments_are_retained() -> None:
    database = Database(archive=False, retain_bytes=3 * SEGMENT)
    database.fill(6)
    before = database.journal.manifest.segments
    database.cover()
    retained, chain = _numbers(database)
    assert retained == [line.number for line in before[-4:-1]]
    assert chain == [before[-1].number]
    assert database.journal.statistics()["journal_bytes_retained"] == 3 * SEGMENT
    assert database.journal.closed.oldest == before[-4].begins_after


def test_a_start_reads_no_retained_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(archive=False, retain_bytes=PLENTY)
    database.fill(6)
    database.cover()
    retained = {line.name for line in database.journal.manifest.retained}
    database.disk.kill()
    read: list[str] = []
    load = recovery.load
    monkeypatch.setattr(recovery, "load", lambda disk, line: (read.append(line.name), load(disk, line))[1])
    database.start()
    assert read
    assert not retained & set(read)
    assert {line.name for line in database.started.manifest.retained} == retained
    assert database.keys(reading.stopped(database.disk)) == database.written


def test_retained_segments_give_way_before_writes_are_refused_at_the_limit() -> None:
    database = Database(archive=False, retain_bytes=PLENTY, max_bytes=8 * SEGMENT)
    for _ in range(400):
        assert database.put()
        database.cover()
        assert database.journal.size <= 8 * SEGMENT
    assert database.journal.manifest.retained


def test_a_large_commit_makes_retained_segments_give_way_too() -> None:
    database = Database(archive=False, retain_bytes=PLENTY, max_bytes=8 * SEGMENT)
    for _ in range(200):
        database.put()
        database.cover()
    large = bytes(4 * SEGMENT)
    assert any(database.put(large) for _ in range(4))
    assert database.journal.size <= 8 * SEGMENT + SEGMENT


def test_retained_segments_give_way_on_a_full_disk() -> None:
    database = Database(archive=False, retain_bytes=PLENTY)
    database.fill(6)
    database.cover()
    retained = len(database.journal.manifest.retained)
    database.disk.room = 0
    for _ in range(60):
        database.put()
        database.cover()
    assert len(database.journal.manifest.retained) <= retained
    assert database.journal.poisoned is None
    assert database.journal.preparer.refuses is None


def test_a_full_disk_is_started_with_the_room_of_retained_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(archive=False, retain_bytes=PLENTY)
    database.fill(4)
    database.cover()
    database.disk.kill()
    database.fill_disk(monkeypatch)
    database.start()
    assert not database.started.manifest.retained
    assert database.keys(database.kept(), database.base_seqno) == []


def test_what_is_not_archived_yet_does_not_give_way_to_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(retain_bytes=PLENTY)
    assert database.archive is not None
    database.archive.room = 0
    database.fill(4)
    database.cover()
    database.disk.kill()
    database.fill_disk(monkeypatch)
    with pytest.raises(OSError, match="no space"):
        database.start()
    assert {line.name for line in database.journal.manifest.lines} <= set(database.disk.inodes)


def test_a_retained_segment_that_is_gone_takes_those_before_it_out_of_the_feed() -> None:
    database = Database(archive=False, retain_bytes=PLENTY)
    database.fill(4)
    database.cover()
    database.stop()
    lines = database.journal.manifest.lines
    database.disk.remove(lines[1].name)
    database.start()
    assert database.journal.oldest == lines[2].begins_after
    assert database.keys(database.kept(), lines[2].begins_after)[-1] == database.written[-1]


# readers


@pytest.fixture
def jumped() -> Database:
    """A database with a crash, and so a jump, in its middle."""
    database = Database(archive=False, retain_bytes=PLENTY)
    for _ in range(5):
        database.put()
    database.disk.kill()
    database.start()
    for _ in range(5):
        database.put()
    return database


def test_too_old_lost_and_too_new_are_told_apart(jumped: Database) -> None:
    kept = jumped.kept()
    last = next(frame.seqno for frame in kept.commits(0) if frame.operations[0][2] == b"4")
    following = next(kept.commits(last)).seqno
    assert following > last + 1
    assert jumped.keys(kept, last) == jumped.keys(kept, following - 1) == jumped.written[5:]
    for seqno in (last + 1, following - 2):
        with pytest.raises(ChangesLost, match=f"after {last} it goes on behind {following - 1}"):
            next(kept.commits(seqno))
    with pytest.raises(UserError, match="above the newest"):
        next(kept.commits(kept.newest + 1))
    jumped.fill(1)
    manifest = jumped.journal.manifest
    shortened = reading.segments(jumped.disk, manifest, jumped.journal.synced)[-1:]
    with pytest.raises(ChangesTooOld):
        next(Kept(shortened, jumped.journal.synced).commits(0))


def test_a_page_goes_on_where_the_last_one_ended(jumped: Database) -> None:
    running = Running(jumped.disk, None)
    found: list[bytes] = []
    after = 0
    while after < jumped.journal.synced:
        page = running.page(
            jumped.journal.manifest,
            jumped.journal.synced,
            after,
            lambda frame: frame.operations[0][2],
            Room(3, 1 << 30, True),
        )
        found += page.entries
        after = page.at
    assert found == jumped.written


def test_a_page_is_not_looked_for_from_the_segments_begin(jumped: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    offsets: list[int] = []
    groups = reading._groups

    def noting(file: Any, epoch: int, offset: int) -> Any:
        offsets.append(offset)
        return groups(file, epoch, offset)

    monkeypatch.setattr(reading, "_groups", noting)
    running, after = Running(jumped.disk, None), jumped.journal.manifest.segments[-1].begins_after
    for _ in range(4):
        manifest, synced = jumped.journal.manifest, jumped.journal.synced
        after = running.page(manifest, synced, after, lambda frame: frame, Room(1, 1 << 30, True)).at
    assert offsets[0] == HEADER_BYTES
    assert offsets == sorted(offsets)
    assert offsets[-1] > offsets[-2] > HEADER_BYTES


def test_a_file_that_is_another_one_than_its_name_says_is_damage() -> None:
    database = Database(archive=False, retain_bytes=PLENTY)
    database.fill(3)
    one, other = (database.disk.inodes[line.name] for line in database.journal.manifest.lines[:2])
    one.cache, other.cache = other.cache, one.cache
    running = Running(database.disk, None)
    with pytest.raises(Corruption, match="another one than the manifest names"):
        running.page(database.journal.manifest, database.journal.synced, 0, lambda frame: frame, Room(9, 1 << 30, True))


def test_a_segment_that_is_reused_under_its_reader_is_too_old_and_never_wrong() -> None:
    database = Database(archive=False)
    database.fill(2)
    journal = database.journal
    stretches = reading.segments(database.disk, journal.manifest, journal.synced)
    reader = Reader(Kept(stretches, journal.synced, live=True), 0).steps()
    seen = []
    step = next(reader)
    while isinstance(step, reading.Jump):
        step = next(reader)
    seen.append(step.first)
    database.cover()
    database.fill(4)
    try:
        for step in reader:
            assert isinstance(step, reading.Block)
            assert step.first == seen[-1] + 1
            seen.append(step.last)
    except ChangesTooOld:
        assert seen[-1] < stretches[-1].ends
    else:
        pytest.fail("it read to the end")
    with pytest.raises(ChangesTooOld):
        next(Reader(Kept(stretches, stretches[-1].ends, live=True), 0).steps())


def test_a_value_that_looks_like_a_group_is_never_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The windows in which a file is read may begin anywhere in a group."""
    monkeypatch.setattr(reading, "WINDOW_BYTES", 256)
    database = Database(archive=False, retain_bytes=PLENTY)
    epoch, last = database.journal.manifest.segments[-1].epoch, database.journal.last
    forged = layout.frame(last + 2, 0, [(PUT, 0, b"forged", b"", 0, 0)])
    group = layout.group(epoch, last + 2, last + 2, 0, 0, layout.COMMITS, forged)
    value = b"".join(bytes(pad) + group for pad in range(0, 64, 4))
    for _ in range(5):
        database.put(value)
    assert database.keys(database.kept()) == database.written


def test_damage_in_the_middle_of_what_is_read_is_refused_with_file_and_offset() -> None:
    database = Database(archive=False, retain_bytes=PLENTY)
    database.fill(2)
    database.cover()
    line = database.journal.manifest.retained[0]
    head = next(head for head in layout.groups(bytes(database.disk.inodes[line.name].cache), line.epoch) if head.mark)
    database.disk.inodes[line.name].cache[head.offset + 60] ^= 1
    running = Running(database.disk, None)
    with pytest.raises(Corruption, match=line.name):
        running.page(
            database.journal.manifest, database.journal.synced, 0, lambda frame: frame, Room(99, 1 << 30, True)
        )


def test_without_a_journal_there_is_nothing_to_read() -> None:
    with pytest.raises(StorageError, match="no journal"):
        reading.stopped(SimulatedDisk(random.Random(1)))


def test_files_that_overlap_lead_to_their_end_without_a_gap() -> None:
    found = [File("a", 0, 5), File("b", 3, 9), File("c", 5, 7), File("d", 9, 12), File("e", 20, 30)]
    assert [file.name for file in archives.leading_to(found, 12)] == ["a", "b", "d"]
    assert [file.name for file in archives.leading_to(found, 30)] == ["e"]
    assert archives.leading_to(found, 15) == []
