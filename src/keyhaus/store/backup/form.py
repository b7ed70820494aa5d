"""What a directory of backups holds.

    directory = LOCK files/FILE* NUMBER.backup*
    FILE      = the SHA-256 of its content, 64 hexadecimal digits
    backup    = crc:8 hexadecimal digits, " ", JSON of `Backup`, "\\n"

A backup is a checkpoint of the base, which has every commit up to `base_seqno`, and the commits that follow it up to
`to_seqno`, as files in the archive's form: together they are the database at exactly `to_seqno`. Files are shared: what
an earlier backup has, a later one names too. A backup's own file is written last, synced, and renamed to its name,
after every file that it names is on the disk under its own: so what bears the name of a backup is a whole one. What no
backup names is left from an attempt that was cut off, and the next one removes it.

The checksum and a JSON object with `version` are there in all versions, as in the journal's manifest.
"""

from __future__ import annotations

import contextlib
import re
from typing import Final

import msgspec
from google_crc32c import value as crc32c

from keyhaus.core.disk import Disk
from keyhaus.core.errors import Corruption, OtherFormat

VERSION: Final = 1
FILES: Final = "files"
LOCK: Final = "LOCK"
UNFINISHED: Final = ".unfinished"  # what is being written; nothing is known of what is in it

_NAME: Final = re.compile(r"([0-9]{6,19})\.backup", re.ASCII)


class Stored(msgspec.Struct, frozen=True):
    """One file of the base.

    Attributes:
        name: Its name there.
        file: Under which name it is stored: its SHA-256.
        bytes: Its size.
        origin: Inode and time of change of the original, by which the next backup knows it again without reading it.
    """

    name: str
    file: str
    bytes: int
    origin: tuple[int, int]


class Piece(msgspec.Struct, frozen=True):
    """The commits after `begins_after` up to `ends`, as a file in the archive's form."""

    file: str
    bytes: int
    begins_after: int
    ends: int


class Backup(msgspec.Struct, frozen=True):
    """One backup.

    Attributes:
        number: Names it, in its directory.
        history: Whose commits they are (J8).
        base_seqno: What the checkpoint covers: the oldest moment that it can be brought back to.
        base_ms: The time of that; no commit behind it is older.
        to_seqno: What the whole covers.
        to_ms: Every commit up to this time is in it.
        top: The highest number that the database had given when the backup ended.
        began_ms, ended_ms: When it was made. Times are in milliseconds since 1970.
        base: The checkpoint's files.
        journal: What follows the checkpoint, without a gap, in order.
        added_bytes: How much of it no earlier backup had.
    """

    number: int
    history: str
    base_seqno: int
    base_ms: int
    to_seqno: int
    to_ms: int
    top: int
    began_ms: int
    ended_ms: int
    base: tuple[Stored, ...]
    journal: tuple[Piece, ...]
    added_bytes: int
    version: int = VERSION

    @property
    def files(self) -> dict[str, int]:
        """The size of each file that it needs, by the name under which it is stored."""
        return {entry.file: entry.bytes for entry in self.base} | {piece.file: piece.bytes for piece in self.journal}

    @property
    def bytes(self) -> int:
        """The size of all that it needs."""
        return sum(self.files.values())


class _Stamp(msgspec.Struct):
    """What backups of all versions have."""

    version: int = 0


def backup_name(number: int) -> str:
    return f"{number:06}.backup"


def backup_number(name: str) -> int | None:
    """The number in a file's name; None for a file that is no backup's."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def stored_name(file: str) -> str:
    return f"{FILES}/{file}"


def numbers(disk: Disk) -> list[int]:
    """The numbers of the backups in a directory, the oldest first. Raises OSError."""
    return sorted(number for name in disk.names(".") if (number := backup_number(name)) is not None)


def read(disk: Disk, number: int) -> Backup:
    """One backup's own file. Raises Corruption, OtherFormat, OSError."""
    name = backup_name(number)
    file = disk.open(name)
    try:
        line, _, _ = file.read(file.size(), 0).partition(b"\n")
    finally:
        file.close()
    checksum, _, body = line.partition(b" ")
    if checksum != b"%08x" % crc32c(body):
        raise Corruption("the backup's own file does not match its checksum", name, 0)
    try:
        version = msgspec.json.decode(body, type=_Stamp).version
        if version != VERSION:
            raise OtherFormat(name, version, VERSION)
        return msgspec.json.decode(body, type=Backup)
    except msgspec.MsgspecError as error:
        raise Corruption(f"the backup's own file can't be read: {error}", name, 0) from error


def readable(disk: Disk) -> tuple[list[Backup], list[Corruption]]:
    """The backups of a directory, the oldest first, and what is wrong with those that are damaged.

    Raises OSError, OtherFormat.
    """
    found: list[Backup] = []
    damaged: list[Corruption] = []
    for number in numbers(disk):
        try:
            found.append(read(disk, number))
        except Corruption as error:
            damaged.append(error)
    return found, damaged


def write(disk: Disk, backup: Backup) -> None:
    """Makes a backup whole: every file that it names is on the disk already. Raises OSError."""
    body = msgspec.json.encode(backup)
    unfinished = backup_name(backup.number) + UNFINISHED
    file = disk.open(unfinished, create=True)
    try:
        file.truncate(0)
        file.write(b"%08x %b\n" % (crc32c(body), body), 0)
        file.sync()
    finally:
        file.close()
    disk.rename(unfinished, backup_name(backup.number))
    disk.sync_directory(".")


def remove(disk: Disk, number: int) -> None:
    """A backup is none any more; its files are still there. Raises OSError."""
    disk.remove(backup_name(number))
    disk.sync_directory(".")


def sweep(disk: Disk) -> None:
    """Removes files that no backup names. Raises OSError, and Corruption where it can't be known what is needed."""
    needed = {file for number in numbers(disk) for file in read(disk, number).files}
    for name in disk.names("."):
        if name.endswith(UNFINISHED):
            disk.remove(name)
    with contextlib.suppress(FileNotFoundError):
        for name in disk.names(FILES):
            if name not in needed:
                disk.remove(stored_name(name))
