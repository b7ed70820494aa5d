"""The manifest (J3): the one small file that says which segments are the journal.

    manifest = crc:8 hexadecimal digits, " ", JSON, "\\n", zeros up to 64 KiB

The checksum is CRC32C over the JSON. It is replaced atomically: the next version is written beside it, synced, renamed
over it, and the directory synced. The version that was replaced then becomes the file beside it: its room is never
given up in between, so that a full disk, or whoever else fills it, never stands in the way of a replacement (J2).

The checksum and a JSON object with `version` are there in all versions, whatever else becomes of it: so a release that
doesn't know a version says so.
"""

from __future__ import annotations

import errno
from typing import Final

import msgspec
from google_crc32c import value as crc32c

from keyhaus.core.disk import NO_LINKS, Disk
from keyhaus.core.errors import Corruption, OtherFormat

DIRECTORY: Final = "journal"
NAME: Final = "journal/MANIFEST"
NEXT: Final = "journal/MANIFEST.next"
LAST: Final = "journal/MANIFEST.last"  # a second name of the one that is being replaced
VERSION: Final = 1
RESERVE_BYTES: Final = 64 << 10
# Where a file can't have a second name its room is given up and taken again.
_NO_LINK: Final = (*NO_LINKS, errno.ENOSPC, errno.EDQUOT)


class Line(msgspec.Struct, frozen=True):
    """One segment of the chain.

    Attributes:
        number: The segment's number, which names its file.
        epoch: What its header and each of its groups carry.
        begins_after: The seqno after which it begins.
        counts_to: For a segment of an earlier run, the last seqno up to which it counts (J7).
        start: Whether a start built it, so that a start record must stand in it.
    """

    number: int
    epoch: int
    begins_after: int
    counts_to: int | None = None
    start: bool = False

    @property
    def name(self) -> str:
        return segment_name(self.number)


class Manifest(msgspec.Struct, frozen=True):
    """The chain, and whose it is.

    Attributes:
        history: Identifies this line of sequence numbers (J8); random.
        segments: The chain that recovery walks, oldest first.
        ended: Where the end mark of the last clean stop stands, in the last segment (J9).
        retained: Segments before the chain, oldest first: the base covers them, and they are kept to be read (S1).
        archived_to: Up to where the archive has everything, durably; None where there is none.
    """

    history: str
    segments: tuple[Line, ...]
    ended: int | None = None
    version: int = VERSION
    retained: tuple[Line, ...] = ()
    archived_to: int | None = None

    @property
    def lines(self) -> tuple[Line, ...]:
        """Every segment that is named, oldest first; each ends where the next one begins."""
        return self.retained + self.segments


class _Stamp(msgspec.Struct):
    """What manifests of all versions have."""

    version: int = 0


def segment_name(number: int) -> str:
    return f"{DIRECTORY}/{number:010}.segment"


def segment_number(name: str) -> int | None:
    """The number in a file's name; None for a file that is no segment."""
    stem, dot, suffix = name.rpartition("/")[2].partition(".")
    return int(stem) if dot and suffix == "segment" and stem.isdigit() else None


def read(disk: Disk) -> Manifest | None:
    """The manifest on disk, None where there never was one. Raises Corruption, OtherFormat."""
    if not disk.exists(NAME):
        return None
    file = disk.open(NAME)
    try:
        line, _, _ = file.read(file.size(), 0).partition(b"\n")
    finally:
        file.close()
    checksum, _, body = line.partition(b" ")
    if checksum != b"%08x" % crc32c(body):
        raise Corruption("the manifest does not match its checksum", NAME, 0)
    try:
        version = msgspec.json.decode(body, type=_Stamp).version
        if version != VERSION:
            raise OtherFormat(NAME, version, VERSION)
        return msgspec.json.decode(body, type=Manifest)
    except msgspec.MsgspecError as error:
        raise Corruption(f"the manifest can't be read: {error}", NAME, 0) from error


def replace(disk: Disk, manifest: Manifest) -> None:
    """Makes `manifest` the one on disk, durably. Raises OSError."""
    body = msgspec.json.encode(manifest)
    text = b"%08x %b\n" % (crc32c(body), body)
    if disk.exists(LAST):  # a replacement was cut off
        disk.remove(LAST)
    file = disk.open(NEXT, create=True)
    try:
        # In its whole length, since it will be the room of a later one.
        file.write(text.ljust(RESERVE_BYTES, b"\0"), 0)
        file.sync()
    finally:
        file.close()
    kept = _keep(disk)
    disk.rename(NEXT, NAME)
    disk.sync_directory(DIRECTORY)
    if kept:
        # Nothing rests on this name's being durable: where it is lost, the next replacement finds LAST and makes room
        # anew. A sync of the directory would cost the next group as much again as the one above.
        disk.rename(LAST, NEXT)
    else:
        _reserve(disk)


def _keep(disk: Disk) -> bool:
    """Gives the file that is to be replaced a second name; whether it has one."""
    if not disk.exists(NAME):
        return False
    try:
        disk.link(NAME, LAST)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        return False
    return True


def _reserve(disk: Disk) -> None:
    """Allocates the room for the next replacement, durably; a disk that has none left is no failure yet."""
    try:
        file = disk.open(NEXT, create=True)
        try:
            if file.size() < RESERVE_BYTES:
                file.zero(file.size(), RESERVE_BYTES)
                file.sync()
        finally:
            file.close()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
    disk.sync_directory(DIRECTORY)
