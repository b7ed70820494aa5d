"""Brings a backup back: into a new directory, to its end, or to an earlier or later moment.

A moment is a prefix of the commits: all up to a number, or all up to a time (S6: the clock never falls in their order).
What the backup doesn't have of them is taken from the archive.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from keyhaus.core.disk import Disk, File, OsDisk
from keyhaus.core.errors import Corruption, NotFound, UserError
from keyhaus.core.limits import MIB
from keyhaus.core.spawn import random_bytes
from keyhaus.engines import rocksdb_files
from keyhaus.journal import archive as archives
from keyhaus.journal.format import HEADER_BYTES, Frame
from keyhaus.journal.reading import Kept, Stretch
from keyhaus.store import layout
from keyhaus.store.backup import form
from keyhaus.store.backup.form import Backup
from keyhaus.store.backup.rebuild import Rebuild, begin_in
from keyhaus.store.backup.writer import make_directory
from keyhaus.store.base import BASE

COPY_BYTES: Final = MIB

Progress = Callable[[str, int, int], None]


class Point(NamedTuple):
    """To which moment; all None: to the end of all that is at hand.

    Attributes:
        number: Which backup to begin with; None for the best.
        seqno: The last commit that is wanted.
        unix_ms: The last time that is wanted.
    """

    number: int | None = None
    seqno: int | None = None
    unix_ms: int | None = None


class Restored(NamedTuple):
    """What a restore did.

    Attributes:
        number: The backup that it began with.
        from_history: Whose commits they were.
        history: The new database's own.
        seqno: Up to where it has the old one's commits.
        unix_ms: The time of the newest of them, or of the base where none followed it.
        commits: How many were applied on top of the base.
    """

    number: int
    from_history: str
    history: str
    seqno: int
    unix_ms: int
    commits: int


class Reach(NamedTuple):
    """How far a backup and the archive lead.

    Attributes:
        backup: The backup.
        kept: The commits that follow its base.
        since_ms: The time of its base, or of the first commit where it has none.
        complete_ms: Every commit up to this time is at hand.
    """

    backup: Backup
    kept: Kept
    since_ms: int
    complete_ms: int


def reach(disk: Disk, backup: Backup, archive: Disk | None) -> Reach:
    """What can be had of a backup's history from its base on. Raises OSError, Corruption."""
    stretches = [
        Stretch(disk, form.stored_name(piece.file), 0, piece.begins_after, piece.ends) for piece in backup.journal
    ]
    found = archives.files(archive, backup.history) if archive is not None else []
    if archive is not None:
        stretches += [Stretch(archive, file.name, 0, file.begins_after, file.ends) for file in found]
    at, complete_ms, last = backup.to_seqno, backup.to_ms, ""
    while further := [file for file in found if file.begins_after <= at < file.ends]:
        furthest = max(further, key=lambda file: file.ends)
        at, last = furthest.ends, furthest.name
    if last and archive is not None:
        complete_ms = max(complete_ms, _header(archive, last).last_ms - 1)
    kept, since_ms = Kept(stretches, at), backup.base_ms
    if not backup.base_seqno and at:
        with contextlib.suppress(Corruption):  # told when it is restored; another backup may be the one that is chosen
            first = next(kept.commits(0), None)
            since_ms = backup.to_ms if first is None else first.unix_ms
    return Reach(backup, kept, since_ms, complete_ms)


def _header(archive: Disk, name: str) -> archives.Header:
    file = archive.open(name)
    try:
        return archives.read_header(file.read(HEADER_BYTES, 0), name)
    except ValueError as error:
        raise Corruption(str(error), name, 0) from None
    finally:
        file.close()


def choose(disk: Disk, point: Point, archive: Disk | None) -> Reach:
    """The backup to begin with, and how far it leads.

    Raises:
        NotFound: There is no such backup.
        UserError: The moment lies outside of what is at hand; says what is.
        Corruption: What is at hand can't be read.
        OSError: The directory can't be read.
    """
    if point.number is not None:
        if point.number not in form.numbers(disk):
            there = ", ".join(map(str, form.numbers(disk))) or "none"
            raise NotFound(f"there is no backup {point.number}: there is {there}")
        candidates = [reach(disk, form.read(disk, point.number), archive)]
    else:
        found, damaged = form.readable(disk)
        if not found and damaged:
            raise damaged[-1]
        candidates = [reach(disk, backup, archive) for backup in found]
    if not candidates:
        raise NotFound("there is no backup here")
    newest = candidates[-1]
    same = [entry for entry in candidates if entry.backup.history == newest.backup.history]
    fitting = [entry for entry in (same if point.seqno is not None else candidates) if _fits(entry, point)]
    if fitting:
        return fitting[-1]
    raise UserError(_out_of_range(same, point))


def _fits(entry: Reach, point: Point) -> bool:
    backup = entry.backup
    if point.seqno is not None:
        return backup.base_seqno <= point.seqno <= entry.kept.newest
    if point.unix_ms is not None:
        return entry.since_ms <= point.unix_ms <= entry.complete_ms
    return True


def _out_of_range(candidates: list[Reach], point: Point) -> str:
    if point.seqno is not None:
        spans = [(entry.backup.base_seqno, entry.kept.newest) for entry in candidates]
        parts = ", ".join(f"{begin} to {end}" for begin, end in _joined(spans))
        return f"commit {point.seqno} is not at hand: what can be restored is {parts} of history " + (
            candidates[-1].backup.history
        )
    spans = [(entry.since_ms, entry.complete_ms) for entry in candidates]
    parts = ", ".join(f"{shown(begin)} to {shown(end)}" for begin, end in _joined(spans))
    assert point.unix_ms is not None
    later = max(end for _, end in spans) < point.unix_ms
    hint = "; what is newer is in the database's own journal: make a backup of it, or stop its server" if later else ""
    return f"{shown(point.unix_ms)} is not at hand: what can be restored is {parts}{hint}"


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return joined


def shown(unix_ms: int) -> str:
    """A time as people and `--to-time` write it."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def restore(
    disk: Disk, directory: Path, point: Point, archive: Disk | None = None, progress: Progress = lambda *_: None
) -> Restored:
    """Makes a new database of a backup.

    Args:
        disk: The directory of backups.
        directory: Where to; missing or empty.
        point: To which moment.
        archive: Where commits are that the backup doesn't have.
        progress: Called with what is done, how much of it, and how much there is.

    Raises:
        NotFound, UserError: As `choose` does; nothing was written.
        FileExistsError: There is something in the directory.
        Corruption: A file is damaged; names it. What was written so far no server takes for a database.
        OSError: Reading or writing failed.
    """
    chosen = choose(disk, point, archive)
    backup = chosen.backup
    make_directory(directory)
    begin_in(directory)
    lock = OsDisk(directory).lock("LOCK")
    try:
        _copy_base(disk, backup, directory / BASE, progress)
        row = rocksdb_files.read_row(str(directory / BASE), layout.META)
        rebuild = Rebuild(directory, layout.decode_meta(row, BASE), random_bytes)
        try:
            unix_ms = _apply(chosen, point, rebuild, progress)
            rebuild.finish(_top(disk, backup, archive))
        except BaseException:
            rebuild.close()
            raise
    finally:
        lock.release()
    return Restored(backup.number, backup.history, rebuild.history, rebuild.seqno, unix_ms, rebuild.applied)


def _apply(chosen: Reach, point: Point, rebuild: Rebuild, progress: Progress) -> int:
    unix_ms = chosen.backup.base_ms
    last = chosen.kept.newest
    for frame in _wanted(chosen, point):
        rebuild.apply(frame)
        unix_ms = frame.unix_ms
        if rebuild.applied % 1000 == 0:
            progress("commits", frame.seqno, last)
    return unix_ms


def _wanted(chosen: Reach, point: Point) -> Iterator[Frame]:
    """The commits on top of the base, up to the moment."""
    kept, seqno = chosen.kept, chosen.kept.newest if point.seqno is None else point.seqno
    if seqno <= chosen.backup.base_seqno:
        return
    for frame in kept.commits(chosen.backup.base_seqno):
        if frame.seqno > seqno or (point.unix_ms is not None and frame.unix_ms > point.unix_ms):
            return
        yield frame


def _top(disk: Disk, backup: Backup, archive: Disk | None) -> int:
    """J8: the highest number seen anywhere at hand."""
    found, _ = form.readable(disk)
    seen = [entry.top for entry in found] + [entry.to_seqno for entry in found] + [backup.top]
    if archive is not None:
        seen += [file.ends for file in archives.files(archive, backup.history)]
    return max(seen)


def _copy_base(disk: Disk, backup: Backup, base: Path, progress: Progress) -> None:
    """Copies the checkpoint, each file checked as it goes by; CURRENT, without which it is no base, last."""
    base.mkdir(mode=0o750)
    done, total = 0, sum(entry.bytes for entry in backup.base)
    for entry in sorted(backup.base, key=lambda entry: (entry.name == "CURRENT", not entry.name.endswith(".sst"))):
        progress("files", done, total)
        copy_stored(disk, entry.file, entry.bytes, base / entry.name)
        done += entry.bytes
    progress("files", done, total)
    OsDisk(base).sync_directory(".")
    OsDisk(base.parent).sync_directory(".")


def copy_stored(disk: Disk, file: str, size: int, path: Path) -> None:
    """Copies one stored file, and checks it. Raises Corruption, OSError."""
    with path.open("xb", buffering=0) as target:
        for data in read_stored(disk, file, size):
            target.write(data)
        os.fsync(target.fileno())


def read_stored(disk: Disk, file: str, size: int) -> Iterator[bytes]:
    """A stored file's bytes; raises Corruption at its end where they are not what was stored."""
    name = form.stored_name(file)
    try:
        source: File = disk.open(name)
    except FileNotFoundError:
        raise Corruption("a file of the backup is missing", name, 0) from None
    digest: Any = hashlib.sha256()
    at = 0
    try:
        while data := source.read(COPY_BYTES, at):
            digest.update(data)
            at += len(data)
            yield data
    finally:
        source.close()
    if at != size:
        raise Corruption(f"a file of the backup has {at} bytes instead of {size}", name, min(at, size))
    if digest.hexdigest() != file:
        raise Corruption("a file of the backup is damaged: its SHA-256 is not what its name says", name, 0)
