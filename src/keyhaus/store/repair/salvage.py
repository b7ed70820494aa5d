"""Brings back all that is readable of a damaged database, as a new one, and says what could not be.

The base is copied as it is where nothing is wrong with it; else its records are read one by one. Then every commit that
is readable follows, those behind a damaged group too. The result may be no state that the database ever was in: that is
the difference to a restore, and why what is missing is told as exactly as it is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from keyhaus.core.disk import Disk, OsDisk
from keyhaus.core.errors import NotFound
from keyhaus.core.spawn import random_bytes
from keyhaus.engines import rocksdb_files
from keyhaus.journal.format import FLUSH, PUT, SWAP, Frame
from keyhaus.store import record as rec
from keyhaus.store.backup.rebuild import Rebuild, begin_in
from keyhaus.store.backup.writer import make_directory
from keyhaus.store.base import BASE
from keyhaus.store.layout import Generation, Meta
from keyhaus.store.record import tombstone
from keyhaus.store.repair import base as bases
from keyhaus.store.repair import journal
from keyhaus.store.repair.check import DATABASE, kind
from keyhaus.store.repair.commits import Commits
from keyhaus.store.repair.findings import DAMAGE, Finding, Progress, silent
from keyhaus.store.repair.rows import BaseRows


class Salvaged(msgspec.Struct):
    """What was brought back, and what was not.

    Attributes:
        from_history: Whose commits they were; None where nothing says it.
        history: The new database's own.
        base_whole: Whether the base was undamaged, and was copied as it was.
        rows: How many records were read one by one.
        uncertain_rows: How many of them may be deleted or older versions, since a damaged file can't tell.
        base_seqno: What the base covered, as far as it says so.
        commits: How many commits were applied.
        corrected: How many commits up to base_seqno corrected what was read of the base.
        from_the_first: Whether journal and archive have all that there ever were, so that the base isn't needed.
        seqno: The last one.
        missing: Numbers (first, last) of commits that can't be read; some may never have been.
        lost_keys: Stretches of rows in which a damaged block hides some: the rows before and behind it.
        unreadable: Files of the base of which nothing could be read.
        adopted: Generations that were put under a database's number by guess: the row that says it is lost.
        findings: What is damaged.
    """

    from_history: str | None
    history: str
    base_whole: bool
    rows: int = 0
    uncertain_rows: int = 0
    base_seqno: int = 0
    commits: int = 0
    corrected: int = 0
    from_the_first: bool = False
    seqno: int = 0
    missing: list[tuple[int, int]] = []
    lost_keys: list[tuple[str, str]] = []
    unreadable: list[str] = []
    adopted: list[Generation] = []
    findings: list[Finding] = []

    @property
    def complete(self) -> bool:
        """Whether nothing is known to be lost."""
        of_the_base = self.lost_keys or self.unreadable or self.uncertain_rows or self.adopted
        return not self.missing and (self.from_the_first or not of_the_base)


def salvage(source: Path, target: Path, archive: Disk | None = None, progress: Progress = silent) -> Salvaged:
    """Makes a new database of what is readable of a damaged one, which stays as it is.

    Args:
        source: The damaged one's directory.
        target: Where to; missing or empty.
        archive: Its archive, where there is one.
        progress: Told of what is done.

    Raises:
        NotFound: There is no database.
        StorageError: A process has it open.
        FileExistsError: There is something in the target.
        OSError: Reading or writing failed.
    """
    if kind(source) != DATABASE:
        raise NotFound(f"{source} is no database")
    disk = OsDisk(source, read_only=True)
    lock = disk.lock_to_read()
    try:
        make_directory(target)
        begin_in(target)
        mine = OsDisk(target).lock("LOCK")
        try:
            return _salvage(source, disk, target, archive, progress)
        finally:
            mine.release()
    finally:
        lock.release()


def _salvage(source: Path, disk: OsDisk, target: Path, archive: Disk | None, progress: Progress) -> Salvaged:
    base = source / BASE
    progress("base", 0, 0)
    findings = list(bases.check(base, progress)) if base.exists() else [Finding(BASE, None, "missing")]
    meta, problem = bases.meta_or_finding(base) if not findings else (None, None)
    if problem is not None:
        findings.append(problem)
    whole = not findings
    findings += [found for found in journal.check(disk, None, progress) if found.kind == DAMAGE]
    rebuild = None
    rows: BaseRows | None = None
    try:
        if whole:
            _copy(base, target / BASE)
            rebuild = Rebuild(target, meta, random_bytes)
            told = Salvaged(None, rebuild.history, True)
        else:
            rows = BaseRows(base)
            meta = rows.meta
            rebuild = Rebuild(target, _without_counts(meta), random_bytes)
            told = Salvaged(None, rebuild.history, False)
            _read_rows(rows, rebuild, told, progress)
        commits = Commits(disk, archive, None if meta is None else meta.history)
        told.from_history = commits.history or (None if meta is None else meta.history)
        told.base_seqno, told.findings = rebuild.seqno, findings
        if not whole and meta is not None:
            told.corrected, told.from_the_first = _correct(rebuild, commits, meta)
        from_none = rebuild.seqno == 0
        _apply(rebuild, commits, told, progress)
        if from_none and commits.begins_after == 0 and not told.missing:
            told.from_the_first = True
        if rows is not None:
            told.adopted = rebuild.adopt()
        rebuild.clock = max(rebuild.clock, commits.clock)
        rebuild.finish(max(commits.top, rebuild.seqno, 0 if rows is None else rows.top))
    except BaseException:
        if rebuild is not None:
            rebuild.close()
        raise
    finally:
        if rows is not None:
            rows.close()
    told.seqno = rebuild.seqno
    return told


def _copy(base: Path, target: Path) -> None:
    target.mkdir(mode=0o750)
    for name in rocksdb_files.live(str(base)):
        rocksdb_files.copy(base / name, target / name)
    OsDisk(target).sync_directory(".")


def _without_counts(meta: Meta | None) -> Meta | None:
    """What a base says of itself, with nothing in it yet: what became of transactions isn't known any more."""
    if meta is None:
        return None
    spaces = tuple(msgspec.structs.replace(space, count=0, volatile=0, exact=True) for space in meta.spaces)
    return msgspec.structs.replace(meta, spaces=spaces, forgotten_ms=meta.clock)


def _read_rows(rows: BaseRows, rebuild: Rebuild, told: Salvaged, progress: Progress) -> None:
    for generation, key, record in rows.records():
        if rebuild.knows(generation):
            rebuild.put(generation, key, record)
            told.rows += 1
            if told.rows % 10_000 == 0:
                progress("rows", told.rows, 0)
    told.uncertain_rows = rows.uncertain
    told.lost_keys = [(gap.after.hex(), "" if gap.before is None else gap.before.hex()) for gap in rows.gaps]
    told.unreadable = [f"{BASE}/{name}" for name in rows.unreadable]


def _correct(rebuild: Rebuild, commits: Commits, meta: Meta) -> tuple[int, bool]:
    """Applies those commits that the base should have, and that lead up to its end without a gap.

    Returns:
        How many there were, and whether they begin with the very first one.
    """
    begin = _unbroken_from(commits, meta.seqno)
    mapping: list[Generation | None] = list(rebuild.mapping())
    moves = [
        operation
        for frame in _up_to(commits, begin, meta.seqno)
        for operation in frame.operations
        if operation[0] in (FLUSH, SWAP)
    ]
    for operation in reversed(moves):  # what was under each number before the first of them
        _go_back(mapping, operation)
    corrected = 0
    for frame in _up_to(commits, begin, meta.seqno):  # read once more: all of them may be more than the memory holds
        for number, operation in enumerate(frame.operations):
            if operation[0] == FLUSH:
                mapping[operation[1]] = (frame.seqno, number)
            elif operation[0] == SWAP:
                _swap(mapping, operation)
            elif (generation := mapping[operation[1]]) is not None and rebuild.knows(generation):
                rebuild.put(generation, operation[2], _record(frame.seqno, operation))
        corrected += 1
    return corrected, begin == commits.begins_after == 0


def _unbroken_from(commits: Commits, seqno: int) -> int:
    """The number after which no commit up to `seqno` is missing."""
    for _ in commits.frames(0):
        pass
    return max((min(last, seqno) for first, last in commits.missing if first <= seqno), default=0)


def _up_to(commits: Commits, after: int, seqno: int) -> Iterator[Frame]:
    for frame in commits.frames(after):
        if frame.seqno > seqno:
            return
        yield frame


def _go_back(mapping: list[Generation | None], operation: Any) -> None:
    if operation[0] == FLUSH:
        mapping[operation[1]] = None
    elif operation[0] == SWAP:
        _swap(mapping, operation)


def _swap(mapping: list[Generation | None], operation: Any) -> None:
    _, one, other = operation
    mapping[one], mapping[other] = mapping[other], mapping[one]


def _record(seqno: int, operation: Any) -> bytes:
    if operation[0] != PUT:
        return tombstone(seqno)
    return rec.make(seqno, operation[5], operation[3], operation[4])


def _apply(rebuild: Rebuild, commits: Commits, told: Salvaged, progress: Progress) -> None:
    for frame in commits.frames(rebuild.seqno):
        rebuild.apply(frame)
        told.commits += 1
        if told.commits % 10_000 == 0:
            progress("commits", told.commits, 0)
    told.missing = commits.missing
