"""Random histories of the journal over the simulated disk, each checked against what was promised.

A history commits with every durability, rolls, flushes into a base, stops cleanly, is killed, loses its power, has
syncs that fail, crashes inside recovery, and may end with one damaged group. After every recovery:

- what an asker with `always` could have been told is still there (else LOST);
- what an earlier recovery did without stays away (else RESURRECTED);
- no number was given twice (else REUSED);
- damage to what something proves to be synced is refused (else UNNOTICED);
- what can be read of journal and archive together is each accepted commit once, in order (else MISREAD), with an
  archive from the very first one on (else GAP).

Some histories retain what the base covers, some archive it, to a disk that fails and is full at times.

`PLANTED` switches off one rule of the journal each: then some history must break.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from keyhaus.core.errors import Corruption, StorageError
from keyhaus.journal import archiver, reading, recovery
from keyhaus.journal import format as layout
from keyhaus.journal import journal as running
from keyhaus.journal import manifest as manifests
from keyhaus.journal.format import COMMITS, PUT, Frame
from keyhaus.journal.journal import Journal
from keyhaus.journal.manifest import Line, Manifest
from keyhaus.journal.reading import Kept, Room, Running, Stretch
from keyhaus.journal.retention import Retention
from tests.support.simulation import Crash, Inode, SimulatedDisk, SimulatedSpawn

SEGMENT_BYTES = 40 * 1024
STEPS = 140


class Broken(Exception):
    """A promise was broken; the first word says which."""


class World:
    """One history."""

    def __init__(self, seed: int, base_covers: bool = True) -> None:
        self.random = random.Random(seed)
        self.base_covers = base_covers
        self.disk = SimulatedDisk(self.random)
        self.archive = SimulatedDisk(self.random) if self.random.random() < 0.5 else None
        self.retain_bytes = self.random.choice((0, 0, 100 * 1024, 1 << 40))
        self.max_bytes = self.random.choice((12 * SEGMENT_BYTES, 1 << 40))
        self.reads = 0
        self.base: dict[int, bytes] = {}
        self.base_seqno = 0
        self.told: dict[int, bytes] = {}
        self.given: dict[int, bytes] = {}
        self.dropped: set[bytes] = set()
        self.log: list[str] = []
        self.commits = self.recoveries = self.crashes = 0
        self.journal: Journal
        self.state: dict[int, bytes] = {}
        self.recover()

    def note(self, text: str) -> None:
        self.log.append(text)

    # the running server

    def commit(self) -> None:
        journal = self.journal
        seqno = journal.last + 1
        value = b"%d." % self.commits + bytes(self.random.choice((8, 40, 900, 5000, 9000)))
        frame = layout.frame(seqno, 0, [(PUT, 0, b"k%d" % seqno, value, 0, 0)])
        try:
            if journal.room(len(frame), False) is not None:
                return
        except StorageError:
            return
        if seqno in self.given:
            raise Broken(f"REUSED {seqno}")
        self.commits += 1
        self.given[seqno] = self.state[seqno] = value
        journal.append(seqno, frame)
        durability = self.random.choice(("always", "everysec", "none", "none"))
        if durability == "always":
            journal.demand(seqno)
        elif durability == "everysec":
            journal.sync_within_a_second()
        self.note(f"commit {seqno} ({durability}, {len(value)} bytes)")

    def progress(self) -> None:
        """What is synced may be told to whoever asks."""
        synced = self.journal.synced
        self.told.update({seqno: value for seqno, value in self.state.items() if seqno <= synced})

    def turn(self) -> None:
        self.spawn.turn()

    def work(self) -> None:
        self.spawn.work(self.random.choice(self.spawn.workers))

    def ring(self) -> None:
        self.spawn.ring()

    def settle(self) -> None:
        self.spawn.settle()

    def flush(self) -> None:
        synced = self.journal.synced
        self.base = {seqno: value for seqno, value in self.state.items() if seqno <= synced}
        self.base_seqno = synced if self.base_covers else max(self.base, default=0)
        self.note(f"flush up to {self.base_seqno}")
        self.journal.release(self.base_seqno)

    def clean_stop(self) -> None:
        closed: list[BaseException | None] = []
        self.journal.close(closed.append)
        for _ in range(50):
            self.settle()
            if closed:
                break
            if not self.spawn.ring():
                raise Broken("STUCK while closing")
        self.note(f"stop: {closed}")
        self.stop_disks(power_cut=False)
        self.recover()

    def read(self) -> None:
        """Whoever follows sees each commit that is synced once, in order, page by page."""
        after = self.journal.manifest.lines[0].begins_after if self.archive is None else 0
        expected = self.expected(after, self.journal.synced)
        found: list[tuple[int, bytes]] = []
        runs = Running(self.disk, self.archive)
        for _ in range(10_000):
            room = Room(self.random.randint(1, 9), 1 << 20, True)
            manifest, synced = self.journal.manifest, self.journal.synced
            try:
                page = runs.page(manifest, synced, after, lambda frame: (frame.seqno, frame.operations[0][3]), room)
            except StorageError as error:
                raise Broken(f"GAP after {after}: {error}") from error
            found += page.entries
            if page.at == self.journal.synced:
                break
            after = page.at
        self.compare(found, expected, "a reader")
        tail = self.journal.tail
        ended = reading.page(
            iter(tail.steps(tail.begins_after, self.journal.synced)),
            tail.begins_after,
            lambda frame: (frame.seqno, frame.operations[0][3]),
            Room(1 << 30, 1 << 30, True),
        )
        newest = sorted(item for item in self.state.items() if tail.begins_after < item[0] <= self.journal.synced)
        self.compare(ended.entries, newest, "a follower")

    def expected(self, after: int, newest: int) -> list[tuple[int, bytes]]:
        if self.archive is not None and after:
            raise Broken(f"GAP up to {after}")
        return sorted(item for item in self.state.items() if after < item[0] <= newest)

    def compare(self, found: list[tuple[int, bytes]], expected: list[tuple[int, bytes]], who: str) -> None:
        self.reads += 1
        if found != expected:
            wrong = next((mine[0] for mine, theirs in zip(found, expected, strict=False) if mine != theirs), None)
            raise Broken(f"MISREAD {who} has {len(found)} commits instead of {len(expected)}; wrong is {wrong}")

    def roll(self) -> None:
        self.journal.roll_now()

    def archive_trouble(self) -> None:
        """The archive's disk is full, or has room again."""
        if self.archive is not None:
            self.archive.room = 0 if self.archive.room else 1 << 40

    # faults

    def crash(self) -> None:
        self.crashes += 1
        power_cut = self.random.random() < 0.5
        self.note("POWER CUT" if power_cut else "kill -9")
        self.stop_disks(power_cut)
        self.recover()

    def stop_disks(self, power_cut: bool) -> None:
        for disk in filter(None, (self.disk, self.archive)):
            if power_cut:
                disk.power_cut()
            else:
                disk.kill()

    def crash_within(self) -> None:
        """The process stops in the middle of what the workers do."""
        disk = self.random.choice((self.disk, self.archive or self.disk))
        disk.crash_in = self.random.randint(0, 6)
        try:
            for _ in range(self.random.randint(1, 8)):
                self.turn()
                self.work()
        except Crash:
            self.crash()
        finally:
            disk.crash_in = None

    def damage(self) -> None:
        """Destroys one group of which the chain still says that it was synced; true to its rules, recovery refuses."""
        self.disk.kill()
        manifest = manifests.read(self.disk)
        assert manifest is not None
        found = [
            (line, head)
            for line in manifest.segments
            for head in layout.groups(bytes(self.disk.inodes[line.name].cache), line.epoch)
        ]
        victims = [(line, head) for line, head in found if head.kind == COMMITS and head.last in self.told]
        if not victims:
            raise StopIteration
        line, victim = self.random.choice(victims)
        cache = self.disk.inodes[line.name].cache
        cache[victim.offset + self.random.randrange(8, victim.length)] ^= 1 << self.random.randrange(8)
        said = max(
            [max(line.counts_to or 0, line.begins_after) for line in manifest.segments]
            + [max(head.mark, head.jump[0] if head.jump else 0) for _, head in found if head is not victim]
        )
        self.note(f"DAMAGE to {victim.first}..{victim.last} in {line.name} at {victim.offset}")
        state = dict(self.base)
        try:
            walked, _ = recovery.walk(self.disk, manifest, self.base_seqno)
            for frame, _ in recovery.accepted(self.disk, manifest, self.base_seqno, walked.at):
                state[frame.seqno] = frame.operations[0][3]
        except Corruption as error:
            if error.file != line.name or not error.offset <= victim.offset:
                raise Broken(f"MISPLACED {error}") from None
            raise StopIteration from None
        lost = [seqno for seqno, value in self.told.items() if state.get(seqno) != value]
        # J9: what nothing else proves to have been synced can't be told from a crash's legal end.
        if any(seqno <= said for seqno in lost):
            raise Broken(f"UNNOTICED damage to {min(lost)}")
        raise StopIteration

    # recovery

    def recover(self) -> None:
        while True:
            self.recoveries += 1
            self.spawn = SimulatedSpawn(self.random)
            state = dict(self.base)
            self.disk.sync_failures = 0.02
            self.disk.crash_in = self.random.randint(0, 12) if self.random.random() < 0.15 else None

            def apply(frame: Frame, state: dict[int, bytes] = state) -> None:
                state[frame.seqno] = frame.operations[0][3]

            try:
                kept = self.kept()
                started = recovery.start(
                    self.disk,
                    self.random.randbytes,
                    apply,
                    segment_bytes=SEGMENT_BYTES,
                    base_seqno=self.base_seqno,
                    archives=self.archive is not None,
                )
                break
            except Crash:
                self.crashes += 1
                self.note("crash inside recovery")
                self.stop_disks(power_cut=self.random.random() < 0.5)
            except OSError:
                self.note("recovery fails at a sync, and is run again")
                self.stop_disks(power_cut=False)
        self.disk.crash_in = None
        self.disk.sync_failures = 0.04
        self.state = state
        if self.archive is not None:
            self.archive.sync_failures = 0.04
        self.journal = Journal(
            self.disk,
            self.spawn,
            started,
            clock=lambda: 0,
            segment_bytes=SEGMENT_BYTES,
            max_bytes=self.max_bytes,
            retain_bytes=self.retain_bytes,
            archive=self.archive,
        )
        self.journal.on_progress = self.progress
        self.note(f"recovered: {started.commits} commits, {started.rewritten} rewritten, goes on behind {started.last}")
        for seqno, value in self.told.items():
            if state.get(seqno) != value:
                raise Broken(f"LOST {seqno}")
        if resurrected := self.dropped & set(state.values()):
            raise Broken(f"RESURRECTED {min(resurrected)[:10]!r}")
        self.dropped |= {value for seqno, value in self.given.items() if state.get(seqno) != value}
        self.told.update(state)
        if kept is not None:
            found = [(frame.seqno, frame.operations[0][3]) for frame in kept.commits(kept.oldest)]
            self.compare(found, self.expected(kept.oldest, kept.newest), "who read before the start")

    def kept(self) -> Kept | None:
        """What is kept while nothing runs; what is read of it is read later, so all of it is read now."""
        if not self.disk.exists(manifests.NAME):
            return None
        kept = reading.stopped(self.disk, self.archive)
        return kept._replace(stretches=[_frozen(stretch) for stretch in kept.stretches])

    def run(self) -> None:
        work = (
            (self.commit, 50),
            (self.turn, 40),
            (self.work, 40),
            (self.ring, 8),
            (self.settle, 6),
            (self.flush, 4),
            (self.clean_stop, 2),
            (self.crash, 5),
            (self.crash_within, 5),
            (self.damage, 1),
            (self.read, 4),
            (self.roll, 1),
            (self.archive_trouble, 1),
        )
        steps, weights = zip(*work, strict=True)
        for _ in range(STEPS):
            self.random.choices(steps, weights)[0]()


def _frozen(stretch: Stretch) -> Stretch:
    """A stretch on a disk that nobody changes any more."""
    assert isinstance(stretch.disk, SimulatedDisk)
    frozen = SimulatedDisk(stretch.disk.random)
    frozen.inodes[stretch.name] = inode = Inode()
    inode.cache = bytearray(stretch.disk.inodes[stretch.name].cache)
    return stretch._replace(disk=frozen)


def history(seed: int, base_covers: bool = True) -> tuple[str | None, World | None]:
    """What broke in one history (None if nothing did), and its world."""
    world = None
    try:
        world = World.__new__(World)
        world.__init__(seed, base_covers)  # type: ignore[misc]
        world.run()
    except StopIteration:
        pass
    except Broken as error:
        return str(error), world
    except Corruption as error:
        return f"FALSE ALARM {error}", world
    return None, world


# Each leaves out one rule.


def _all_segments(disk: Any) -> Manifest | None:
    lines = []
    for name in disk.names(manifests.DIRECTORY):
        number = manifests.segment_number(name)
        if number is not None:
            header = bytes(disk.inodes[manifests.segment_name(number)].cache[: layout.HEADER_BYTES])
            with contextlib.suppress(ValueError):
                lines.append(Line(number, layout.read_segment_header(header)[2], 0))
    return Manifest("history", tuple(lines)) if lines else None


def _forgive(journal: Journal, error: BaseException) -> None:
    journal._settle()


def _sync_instead(disk_of: Callable[[], SimulatedDisk]) -> Callable[[recovery.Walk], int]:
    def proven(found: recovery.Walk) -> int:
        for inode in disk_of().inodes.values():
            dirty, inode.dirty = inode.dirty, set()
            inode.store(dirty)
        return found.at

    return proven


def _seal_without_sync(job: Any) -> None:
    manifests.replace(job.disk, job.manifest)


def _all_to_the_newest(disk: Any, manifest: Manifest, newest: int) -> list[Stretch]:
    return [Stretch(disk, line.name, line.epoch, line.begins_after, newest) for line in manifest.lines]


PLANTED: dict[str, tuple[Any, str, Any]] = {
    "roll-syncs": (running._Write, "seal_segment", _seal_without_sync),
    "sync-covers-written": (Journal, "sync_covers", lambda journal: journal.last),
    "manifest": (manifests, "read", _all_segments),
    "evidence": (recovery.Walk, "missing_was_synced", lambda walk: False),
    "start-from": (recovery.Walk, "jump_counts", lambda walk, last_before: True),
    "rewrite": (recovery, "proven_of", None),
    "start-proves": (recovery.Walk, "start_proves", staticmethod(lambda last_before: 0)),
    "dead-data": (recovery.Walk, "dead", staticmethod(lambda seqno, limit: False)),
    "jump": (recovery, "JUMP", 0),
    "poison": (Journal, "_poison", _forgive),
    "archive-before-reuse": (Retention, "archived", lambda retention, ends, manifest: True),
    "archive-syncs-files": (archiver, "sync_file", lambda file: None),
    "archive-syncs-names": (archiver, "sync_names", lambda archive, history: None),
    "segments-end": (reading, "segments", _all_to_the_newest),
    "base-covers": (recovery.Walk, "jump_proves", lambda walk: 0),
}


@contextlib.contextmanager
def planted(rule: str | None) -> Iterator[bool]:
    """Switches a rule off; what `base_covers` is to be for the histories run inside."""
    if rule is None:
        yield True
        return
    owner, name, replacement = PLANTED[rule]
    if rule == "rewrite":
        worlds: list[SimulatedDisk] = []
        start = recovery.start

        def remembering(disk: Any, *args: Any, **named: Any) -> Any:
            worlds[:] = [disk]
            return start(disk, *args, **named)

        with (
            patch.object(recovery, "start", remembering),
            patch.object(owner, name, _sync_instead(lambda: worlds[0])),
        ):
            yield True
        return
    with patch.object(owner, name, replacement):
        yield rule != "base-covers"
