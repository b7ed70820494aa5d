"""The archive: what closed segments held, in files that are kept for ever, maybe on another disk.

    archive = header group*              ; groups as in a segment, one behind the other at multiples of 64
    header  = magic:8 version:u32 zeros:4 history:16 epoch:u64 begins-after:u64 ends:u64 first-ms:u64 last-ms:u64
              commits:u64 bytes:u64 zeros crc:u32                                        ; 4096 bytes in all

A file has the commits after `begins-after` and up to `ends`, without a gap but for the jumps that are told by groups of
the kind START; its last group is of the kind END. Only what counts was copied: what lies beyond the number up to which
a segment counts is left behind (J7), and so are marks, since everything in the archive is synced. `bytes` is the length
of the whole file, `first-ms` and `last-ms` the times of its first and last commit (0 where it has none).

Its name is `HISTORY/BEGINS-ENDS.archive`, both numbers with 20 digits. It is written as `HISTORY/next`, synced, walked,
and renamed, and the directory is synced: a file that bears its name is whole. Files of one history may overlap (a
segment that was cut anew by a crash is copied anew); where they do they say the same. The header keeps its size, magic,
version and checksum in all versions, as a segment's does.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from google_crc32c import value as crc32c

from keyhaus.core.disk import Disk
from keyhaus.core.errors import OtherFormat
from keyhaus.journal.format import HEADER_BYTES

VERSION: Final = 1
MAGIC: Final = b"KEYHAUSA"

_HEADER = struct.Struct("<8sI4x16sQQQQQQQ")
_CRC = struct.Struct("<I")
_NAME: Final = re.compile(r"([0-9]{20})-([0-9]{20})\.archive", re.ASCII)


class Header(NamedTuple):
    """What a file says of itself."""

    history: str
    epoch: int
    begins_after: int
    ends: int
    first_ms: int
    last_ms: int
    commits: int
    bytes: int


class File(NamedTuple):
    """A file of the archive, by its name."""

    name: str
    begins_after: int
    ends: int


def pack_header(header: Header) -> bytes:
    """The first block of a file."""
    block = _HEADER.pack(MAGIC, VERSION, bytes.fromhex(header.history), *header[1:]).ljust(HEADER_BYTES - 4, b"\0")
    return block + _CRC.pack(crc32c(block))


def read_header(block: bytes, name: str) -> Header:
    """What stands in the first block of a file; raises ValueError saying what is wrong with it, OtherFormat."""
    if len(block) != HEADER_BYTES or _CRC.unpack_from(block, HEADER_BYTES - 4)[0] != crc32c(block[:-4]):
        raise ValueError("the archive's header is cut short or does not match its checksum")
    magic, version, history, *rest = _HEADER.unpack_from(block)
    if magic != MAGIC:
        raise ValueError("this is no file of an archive")
    if version != VERSION:
        raise OtherFormat(name, version, VERSION)
    return Header(history.hex(), *rest)


def file_name(history: str, begins_after: int, ends: int) -> str:
    return f"{history}/{begins_after:020}-{ends:020}.archive"


def unfinished_name(history: str) -> str:
    """The file that is being written; nothing is known of what is in it."""
    return f"{history}/next"


def files(disk: Disk, history: str) -> list[File]:
    """The files of one history, oldest first. Raises OSError."""
    try:
        names = disk.names(history)
    except FileNotFoundError:
        return []
    matches = ((name, _NAME.fullmatch(name)) for name in names)
    return sorted(
        (File(f"{history}/{name}", int(match[1]), int(match[2])) for name, match in matches if match is not None),
        key=lambda file: (file.ends, file.begins_after),
    )


def leading_to(found: Iterable[File], seqno: int) -> list[File]:
    """Those files, oldest first, that together have everything up to `seqno` without a gap."""
    chosen: list[File] = []
    best: File | None = None
    for file in sorted(found, key=lambda file: file.ends, reverse=True):
        if file.ends < seqno and best is not None:
            # Nothing further reaches up to it: the one that reaches down the furthest is the next link.
            chosen.append(best)
            seqno, best = best.begins_after, None
        if file.ends < seqno:
            break
        if file.begins_after < seqno and (best is None or file.begins_after < best.begins_after):
            best = file
    if best is not None:
        chosen.append(best)
    chosen.reverse()
    return chosen
