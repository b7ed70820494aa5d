"""Writes one backup, step by step; in a helper process beside a server, or in the command line's own.

    prepare → journal* (copy one file)* journal* → finish

Each step may fail, and the process may end, at any point: then there is no such backup, and those before are whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any, Final

import msgspec

from keyhaus.core.clock import SystemClock
from keyhaus.core.disk import Disk, OsDisk
from keyhaus.core.errors import ChangesTooOld, Corruption, StorageError
from keyhaus.core.limits import MIB
from keyhaus.journal import archiver, reading
from keyhaus.journal.manifest import Manifest
from keyhaus.journal.reading import Kept
from keyhaus.store.backup import form
from keyhaus.store.backup.form import Backup, Piece, Stored

COPY_BYTES: Final = MIB
SYNC_BYTES: Final = 16 * MIB  # in portions: one large sync would hold up the syncs of commits that share the device
# What a base is made of; RocksDB's own log of events and its lock are no data.
_NO_DATA: Final = ("LOG", "LOCK", "IDENTITY")


class Facts(msgspec.Struct, frozen=True):
    """What only the database knows.

    Attributes:
        history: Whose commits they are.
        base_seqno, base_ms: What the checkpoint covers.
        top: The highest number that was given.
    """

    history: str
    base_seqno: int
    base_ms: int
    top: int


class BackupWriter:
    """One backup in the making.

    Attributes:
        number: The number that it will have.
    """

    def __init__(self, target: Disk, data: str, base: str, keep: int = 0) -> None:
        """Takes the directory of backups, and takes away what earlier attempts left there.

        Args:
            target: The directory of backups.
            data: The database's directory.
            base: The directory with the files of the base, which change no more.
            keep: How many backups are to stay, this one among them; 0 for all.

        Where a backup's own file can't be read, it isn't known which files are needed: then nothing is taken away.

        Raises:
            StorageError: Another process writes there.
            OSError: The directory can't be used.
        """
        self._disk, self._data, self._base, self._keep = target, data, Path(base), keep
        self._began_ms = SystemClock().unix_ms()
        target.make_directory(form.FILES)
        target.sync_directory(".")
        self._lock = target.lock(form.LOCK)
        try:
            self._earlier, self._damaged = form.readable(target)
            if not self._damaged:
                form.sweep(target)
        except BaseException:
            self._lock.release()
            raise
        self.number = 1 + max(form.numbers(target), default=0)
        self._there = {file: size for backup in self._earlier for file, size in backup.files.items()}
        self._todo: list[Path] = []
        self._stored: list[Stored] = []
        self._pieces: list[Piece] = []
        self._added = 0

    def prepare(self, history: str, names: list[str] | None = None) -> dict[str, int]:
        """Looks at what is to be copied; how many files and bytes that is, less what earlier backups have.

        Args:
            history: Whose base it is.
            names: The files that belong to it; None for all.
        """
        known = {
            (entry.name, entry.bytes, entry.origin): entry
            for backup in self._earlier
            if backup.history == history
            for entry in backup.base
        }
        total = 0
        for path in sorted(self._base.iterdir()):
            if path.name.startswith(_NO_DATA) or (names is not None and path.name not in names):
                continue
            status = path.stat()
            origin = (status.st_ino, status.st_mtime_ns)
            entry = known.get((path.name, status.st_size, origin))
            # Files with rows never change; so the same file need not be read again.
            if entry is not None and path.suffix == ".sst" and self._is_there(entry):
                self._stored.append(entry)
            else:
                self._todo.append(path)
                total += status.st_size
        return {"number": self.number, "files": len(self._todo), "bytes": total, "shared_files": len(self._stored)}

    def _is_there(self, entry: Stored) -> bool:
        name = form.stored_name(entry.file)
        if not self._disk.exists(name):
            return False
        file = self._disk.open(name)
        try:
            return file.size() == entry.bytes
        finally:
            file.close()

    def journal(self, manifest: bytes, after: int, newest: int) -> int:
        """Copies the commits after `after` up to `newest` out of a running server's journal; how many bytes it took.

        Raises:
            StorageError: They are gone: the journal needed the room.
            Corruption: They can't be read.
        """
        source = OsDisk(self._data, read_only=True)
        kept = Kept(reading.segments(source, msgspec.json.decode(manifest, type=Manifest), newest), newest, live=True)
        try:
            return self.commits(kept, after, msgspec.json.decode(manifest, type=Manifest).history)
        except ChangesTooOld as error:
            raise StorageError(f"the journal needed the room of what was to be copied: {error.message}") from error

    def commits(self, kept: Kept, after: int, history: str) -> int:
        """The same from what is kept of any history."""
        if kept.newest <= after:
            return 0
        # Made of what it is, so that the same commits are the same file in the next backup.
        epoch = int.from_bytes(hashlib.sha256(f"{history} {after} {kept.newest}".encode()).digest()[:8], "little") or 1
        unfinished = f"{form.FILES}/journal{form.UNFINISHED}"
        header = archiver.write(kept, after, self._disk, unfinished, history, epoch)
        file = self._disk.open(unfinished)
        try:
            digest = _digest(file, header.bytes)
        finally:
            file.close()
        self._store(unfinished, digest, header.bytes)
        self._pieces.append(Piece(digest, header.bytes, header.begins_after, header.ends))
        return header.bytes

    def copy(self) -> list[int]:
        """Copies one file of the base; its bytes, and how many files are left."""
        if not self._todo:
            return [0, 0]
        path = self._todo.pop()
        status = path.stat()
        unfinished = f"{form.FILES}/base{form.UNFINISHED}"
        digest, size = self._copy(path, unfinished)
        self._store(unfinished, digest, size)
        self._stored.append(Stored(path.name, digest, size, (status.st_ino, status.st_mtime_ns)))
        return [size, len(self._todo)]

    def _store(self, unfinished: str, digest: str, size: int) -> None:
        # Also over one that is there: it may have been damaged since.
        self._disk.rename(unfinished, form.stored_name(digest))
        if digest not in self._there:
            self._there[digest] = size
            self._added += size

    def _copy(self, path: Path, name: str) -> tuple[str, int]:
        if self._disk.exists(name):
            self._disk.remove(name)
        digest, at, synced = hashlib.sha256(), 0, 0
        file = self._disk.open(name, create=True)
        try:
            with path.open("rb", buffering=0) as source:
                while data := source.read(COPY_BYTES):
                    digest.update(data)
                    file.write(data, at)
                    at += len(data)
                    if at - synced >= SYNC_BYTES:
                        file.sync()
                        synced = at
                # What was read once to be copied need not take the room of what clients read.
                os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.sync()
        finally:
            file.close()
        return digest.hexdigest(), at

    def finish(self, facts: dict[str, Any], to_seqno: int, to_ms: int) -> dict[str, Any]:
        """Makes it a backup; what it amounts to, and why nothing of earlier ones was taken away, if so."""
        told = msgspec.convert(facts, Facts)
        self._check(told, to_seqno)
        self._disk.sync_directory(form.FILES)
        backup = Backup(
            self.number,
            told.history,
            told.base_seqno,
            told.base_ms,
            to_seqno,
            to_ms,
            told.top,
            self._began_ms,
            SystemClock().unix_ms(),
            tuple(sorted(self._stored, key=lambda entry: entry.name)),
            tuple(self._pieces),
            self._added,
        )
        form.write(self._disk, backup)
        damaged = self._retain()
        self._lock.release()
        return {**summary(backup), "damaged": damaged}

    def _check(self, facts: Facts, to_seqno: int) -> None:
        at = facts.base_seqno
        for piece in self._pieces:
            if piece.begins_after != at:
                raise Corruption(f"what follows commit {at} was not copied", form.FILES, 0)
            at = piece.ends
        if at != to_seqno or self._todo:
            raise Corruption(f"the copy ends at commit {at} instead of {to_seqno}", form.FILES, 0)

    def _retain(self) -> list[str]:
        """Takes away the oldest backups; the new one is whole whatever comes of it.

        Returns:
            What is damaged, where nothing was taken away for that reason.
        """
        if not self._keep or self._damaged:
            return [error.message for error in self._damaged if self._keep]
        superfluous = self._earlier[: max(0, len(self._earlier) + 1 - self._keep)]
        with contextlib.suppress(OSError):
            for backup in superfluous:
                form.remove(self._disk, backup.number)
            if superfluous:
                form.sweep(self._disk)
        return []

    def close(self) -> None:
        """Gives up what is not finished."""
        with contextlib.suppress(OSError):
            self._lock.release()


def summary(backup: Backup) -> dict[str, Any]:
    """A backup as it is listed."""
    return {
        "number": backup.number,
        "history": backup.history,
        "began_ms": backup.began_ms,
        "ended_ms": backup.ended_ms,
        "base_seqno": backup.base_seqno,
        "base_ms": backup.base_ms,
        "to_seqno": backup.to_seqno,
        "to_ms": backup.to_ms,
        "bytes": backup.bytes,
        "added_bytes": backup.added_bytes,
        "files": len(backup.files),
    }


def _digest(file: Any, size: int) -> str:
    digest = hashlib.sha256()
    for at in range(0, size, COPY_BYTES):
        digest.update(file.read(min(COPY_BYTES, size - at), at))
    return digest.hexdigest()


def open_writer(target: str, data: str, base: str, keep: int) -> BackupWriter:
    """A factory for a helper."""
    make_directory(Path(target))
    return BackupWriter(OsDisk(target), data, base, keep)


def make_directory(directory: Path) -> None:
    """Makes a directory and what is missing above it, each name durable."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    for path in missing:
        OsDisk(path.parent).sync_directory(".")
