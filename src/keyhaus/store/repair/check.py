"""Checks a directory, whatever of ours it is: a database that no server has open, backups, or an archive.

Nothing is changed, not even a time: files are opened to be read, and RocksDB sees links elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from keyhaus.core.disk import OsDisk
from keyhaus.core.errors import Corruption, NotFound
from keyhaus.journal import manifest as manifests
from keyhaus.journal.manifest import DIRECTORY as JOURNAL
from keyhaus.store.backup import form
from keyhaus.store.backup.online import CHECKPOINT
from keyhaus.store.base import BASE, RUN_RESERVE, RUNS
from keyhaus.store.repair import archives, backups, base, journal
from keyhaus.store.repair.findings import DAMAGE, NOTE, Finding, Progress, silent

DATABASE: Final = "database"
BACKUPS: Final = "backups"
ARCHIVE: Final = "archive"


def kind(directory: Path) -> str:
    """What a directory is. Raises NotFound where it is none of ours, OSError."""
    disk = OsDisk(directory, read_only=True)
    names = disk.names(".")
    if JOURNAL in names or BASE in names:
        return DATABASE
    if form.FILES in names or form.numbers(disk):
        return BACKUPS
    if archives.histories(disk):
        return ARCHIVE
    raise NotFound(f"{directory} is no database, no directory of backups and no archive")


def check(directory: Path, progress: Progress = silent) -> Iterator[Finding]:
    """What is wrong with a directory.

    Raises:
        NotFound: It is none of ours.
        OtherFormat: A file is of another version, which is no damage.
        StorageError: A process writes there.
        OSError: It can't be read.
    """
    what = kind(directory)
    disk = OsDisk(directory, read_only=True)
    lock = disk.lock_to_read()
    try:
        if what == BACKUPS:
            yield from backups.check(disk, None, progress)
        elif what == ARCHIVE:
            yield from archives.check(disk, progress)
        else:
            yield from _database(directory, disk, progress)
    finally:
        lock.release()


def _database(directory: Path, disk: OsDisk, progress: Progress) -> Iterator[Finding]:
    progress("base", 0, 0)
    found = (
        list(base.check(directory / BASE, progress))
        if (directory / BASE).exists()
        else [Finding(BASE, None, "missing")]
    )
    yield from found
    meta, problem = base.meta_or_finding(directory / BASE)
    if problem is not None and not found:
        found.append(problem)
        yield problem
    yield from journal.check(disk, None if found else (0 if meta is None else meta.seqno), progress)
    if meta is not None:
        yield from _history(disk, meta.history)
    for name, what in ((RUNS, "run"), (CHECKPOINT, "checkpoint's file")):
        left = [entry for entry in disk.names(name) if entry != RUN_RESERVE] if disk.exists(name) else []
        if left:
            yield Finding(name, None, f"{len(left)} {what}s are left over: the next start removes them", NOTE)


def _history(disk: OsDisk, history: str) -> Iterator[Finding]:
    try:
        manifest = manifests.read(disk)
    except Corruption:  # it was found already
        return
    if manifest is not None and manifest.history != history:
        problem = f"the journal belongs to history {manifest.history}, the base to {history}"
        yield Finding(manifests.NAME, 0, problem, DAMAGE)
