"""Builds a database anew: rows at rest, the commits that follow them, and a journal that begins behind both.

Restore and salvage both end here. Commits are not kept as such: they are applied in memory, as a server applies them,
and every so many bytes become a run. The new database has a history of its own, and its first number lies above all
that was ever seen of the old one (J8). A mark stands in the directory from the first step to the last, and a server
refuses it: so what was not finished is never taken for a database.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from keyhaus.core.disk import Disk, OsDisk
from keyhaus.core.errors import StorageError
from keyhaus.core.limits import DATABASES
from keyhaus.engines import rocksdb
from keyhaus.engines.base import Engine
from keyhaus.journal import format as layout
from keyhaus.journal import manifest as manifests
from keyhaus.journal.format import FLUSH, HEADER_BYTES, PUT, START, SWAP, Frame
from keyhaus.journal.manifest import Line, Manifest
from keyhaus.journal.segments import align, prepare
from keyhaus.store import layout as rows
from keyhaus.store import record as rec
from keyhaus.store.base import BASE, RUNS
from keyhaus.store.layout import Generation, Meta, Space
from keyhaus.store.record import EXPIRES, Record, tombstone
from keyhaus.store.runs import RunBuilder

RUN_BYTES: Final = 64 << 20  # of keys and values that are held in memory
LOOK_UP: Final = 1000
UNFINISHED: Final = "UNFINISHED"
OVERHEAD: Final = 150  # of an entry, beside its own bytes

RandomBytes = Callable[[int], bytes]


class Rebuild:
    """A database in the making, in a directory whose `base` holds rows already, or nothing.

    Attributes:
        history: The new one.
        seqno: Up to where everything is in it.
        clock: The newest time that was seen.
        applied: How many commits were applied.
    """

    def __init__(self, directory: Path, meta: Meta | None, random_bytes: RandomBytes) -> None:
        """Args:
        directory: The new database's.
        meta: What the rows that are there amount to; None where there are none.
        random_bytes: Where the history id comes from.
        """
        self._directory = directory
        self._random_bytes = random_bytes
        self.history = random_bytes(16).hex()
        self.seqno, self.clock = (0, 0) if meta is None else (meta.seqno, meta.clock)
        self.applied = 0
        self._spaces: list[Space] = list(meta.spaces) if meta is not None else []
        self._dropped = dict(meta.dropped) if meta is not None else {}
        self._know(DATABASES - 1)
        # What is rebuilt from rows alone knows nothing of transactions: all up to then are expired.
        self._forgotten_ms = None if meta is None else meta.forgotten_ms
        self._outcomes: list[tuple[bytes, int | None]] = []
        self._others: dict[Generation, Space] = {}  # generations that are under no number, as far as is known
        self._changes: dict[Generation, dict[bytes, Record]] = {}
        self._bytes = 0
        self._runs = 0
        (directory / RUNS).mkdir(mode=0o750, exist_ok=True)
        self._builder = RunBuilder(lambda name: rocksdb.open_writer(str(directory / RUNS / name), {}))
        self._engine: Engine = rocksdb.open_engine(str(directory / BASE), {})

    def _know(self, database: int) -> None:
        for number in range(len(self._spaces), database + 1):
            self._spaces.append(Space((0, number), 0, 0, True))

    # commits

    def apply(self, frame: Frame) -> None:
        """Applies a commit; they come in order."""
        for number, operation in enumerate(frame.operations):
            kind = operation[0]
            self._know(max(operation[1], operation[2] if kind == SWAP else 0))
            if kind == FLUSH:
                self._flush(frame.seqno, number, operation[1])
            elif kind == SWAP:
                one, other = operation[1:]
                self._spaces[one], self._spaces[other] = self._spaces[other], self._spaces[one]
            else:
                record = _record(frame.seqno, operation) if kind == PUT else tombstone(frame.seqno)
                self._put(self._spaces[operation[1]].generation, operation[2], record)
        if frame.transaction is not None:
            self._outcomes.append((frame.transaction, frame.seqno))
        self.seqno, self.clock = frame.seqno, max(self.clock, frame.unix_ms)
        self.applied += 1
        if self._bytes >= RUN_BYTES:
            self.settle()

    def put(self, generation: Generation, key: bytes, record: Record) -> None:
        """Puts a record, or a tombstone, unless there is a newer one."""
        self._put(generation, key, record)
        if self._bytes >= RUN_BYTES:
            self.settle()

    def adopt(self) -> list[Generation]:
        """Puts generations that are under no number under that of their operation, where they are newer; these."""
        self.settle()
        adopted: list[Generation] = []
        for generation in sorted(self._others):
            self._know(generation[1])
            before = self._spaces[generation[1]]
            if generation not in self._dropped and generation > before.generation:
                self._dropped[before.generation] = generation[0]
                self._spaces[generation[1]] = self._others.pop(generation)
                adopted.append(generation)
        return adopted

    def mapping(self) -> list[Generation]:
        """The generation under each database's number."""
        return [space.generation for space in self._spaces]

    def knows(self, generation: Generation) -> bool:
        """Whether a generation is, or may have been, under a number at the end."""
        if generation in self._dropped:
            return False
        return generation[0] > self.seqno or any(space.generation == generation for space in self._spaces)

    def _put(self, generation: Generation, key: bytes, record: Record) -> None:
        changes = self._changes.setdefault(generation, {})
        there = changes.get(key)
        if there is not None and rec.seqno_of(there) > rec.seqno_of(record):
            return
        changes[key] = record
        self._bytes += len(key) + len(record) + OVERHEAD

    def _flush(self, seqno: int, number: int, database: int) -> None:
        before = self._spaces[database].generation
        self._changes.pop(before, None)
        self._dropped[before] = seqno
        made = (seqno, number)
        self._spaces[database] = self._others.pop(made, Space(made, 0, 0, True))

    # rows

    def settle(self) -> None:
        """Makes a run of what is in memory, and takes it into the base."""
        self._runs += 1
        name = f"{self._runs:06}"
        changes, self._changes, self._bytes = self._changes, {}, 0
        places = {space.generation: number for number, space in enumerate(self._spaces)}
        for generation, records in changes.items():
            prefix = rows.prefix(generation)
            count, volatile = self._compare(prefix, records)
            self._count(places.get(generation), generation, count, volatile)
            self._builder.add(prefix, list(records.items()))
        self._builder.outcomes(self._outcomes)
        self._outcomes = []
        self._builder.finish(name, rows.encode_meta(self.meta()))
        before = self._engine.newest
        self._engine.ingest(str(self._directory / RUNS / name))
        self._engine.release(before)

    def _count(self, place: int | None, generation: Generation, count: int, volatile: int) -> None:
        space = self._others.get(generation, Space(generation, 0, 0, True)) if place is None else self._spaces[place]
        space = msgspec.structs.replace(space, count=space.count + count, volatile=space.volatile + volatile)
        if place is None:
            self._others[generation] = space
        else:
            self._spaces[place] = space

    def _compare(self, prefix: bytes, records: dict[bytes, Record]) -> tuple[int, int]:
        """By how much keys, and keys with an expiry, become more; deadlines that are over leave the index.

        What is older than what is there leaves the records.
        """
        count = volatile = 0
        keys = list(records)
        for at in range(0, len(keys), LOOK_UP):
            part = keys[at : at + LOOK_UP]
            dead: list[bytes] = []
            found = self._engine.get(self._engine.newest, [prefix + key for key in part])
            for key, old in zip(part, found, strict=True):
                new = records[key]
                if old is not None and rec.seqno_of(old) > rec.seqno_of(new):
                    del records[key]
                    continue
                lives = not new[7] & rec.TOMBSTONE
                count += lives - (old is not None)
                volatile += bool(lives and new[7] & EXPIRES)
                if old is not None and old[7] & EXPIRES:
                    volatile -= 1
                    dead.append(rows.deadline(rec.expires_of(old), prefix, key))
            if dead:
                self._builder.forget(dead)
        return count, volatile

    def meta(self) -> Meta:
        """What the base amounts to with the next run."""
        forgotten_ms = self.clock if self._forgotten_ms is None else self._forgotten_ms
        return Meta(
            self.history, self.seqno, self.clock, tuple(self._spaces), tuple(self._dropped.items()), forgotten_ms
        )

    # the end

    def finish(self, top: int) -> None:
        """Makes it a database whose first number lies above `top`."""
        self.settle()
        self._engine.close()
        disk = OsDisk(self._directory)
        write_journal(disk, self.history, self.seqno, max(top, self.seqno), self.clock, self._random_bytes)
        if disk.exists(UNFINISHED):
            disk.remove(UNFINISHED)
            disk.sync_directory(".")

    def close(self) -> None:
        """Gives up."""
        self._engine.close()


def _record(seqno: int, operation: tuple[Any, ...]) -> Record:
    _, _, _, value, expires, flags = operation
    return rec.make(seqno, flags, value, expires)


def write_journal(disk: Disk, history: str, seqno: int, top: int, clock: int, random_bytes: RandomBytes) -> None:
    """A journal without a commit: it begins after `seqno`, and goes on above `top`."""
    disk.make_directory(manifests.DIRECTORY)
    disk.sync_directory(".")
    block = disk.block_bytes()
    begin = align(HEADER_BYTES, block)
    segment = prepare(disk, 1, begin + 2 * block, random_bytes)
    try:
        jump = layout.start_payload(seqno, top + 1)
        segment.file.write(layout.group(segment.epoch, top + 1, top, clock, seqno, START, jump), begin)
        segment.file.sync()
    finally:
        segment.file.close()
    line = Line(1, segment.epoch, seqno, counts_to=top, start=True)
    manifests.replace(disk, Manifest(history, (line,)))


def begin_in(directory: Path) -> None:
    """Marks an empty directory as one in which a database is in the making.

    Raises FileExistsError where there is anything in it, OSError where it can't be written.
    """
    if any(directory.iterdir()):
        raise FileExistsError(errno.EEXIST, "it is not empty", str(directory))
    disk = OsDisk(directory)
    file = disk.open(UNFINISHED, create=True)
    try:
        file.sync()
    finally:
        file.close()
    disk.sync_directory(".")


def refuse_unfinished(disk: Disk) -> None:
    """Raises StorageError for a directory in which a database was never finished."""
    if disk.exists(UNFINISHED):
        raise StorageError("a restore or a salvage into it was not finished: remove the directory, then do it again")
