"""The journal's layout on disk: what a segment, a group and a frame are, byte by byte.

All integers are little-endian. `docs/reference/journal.md` has the same grammar with a worked example.

    segment  = header group*                     ; groups start at multiples of 64, or of the block after a sync (J1)
    header   = magic:8 version:u32 number:u32 epoch:u64 bytes:u64 zeros crc:u32       ; 4096 bytes in all
    group    = crc:u32 length:u32 epoch:u64 first:u64 last:u64 clock:u64 mark:u64 kind:u8 zeros:7 payload
    payload  = frame*                            ; kind COMMITS: commits first..last, without a gap
             | from:u64 to:u64                   ; kind START: the numbers between them were never given (J5, J8)
             |                                   ; kinds IDLE (a mark only) and END (a clean stop, J9)
    frame    = length:u32 seqno:u64 unix-ms:u64 flags:u32 operations:u32 [transaction:16] operation*
    operation= kind:u8 database:u8 flags:u8 other:u8 key-length:u32 value-length:u32 [expires:i64] key value

`crc` is CRC32C over all that follows it (in a header: over all that stands before it). `length` counts the whole group
or frame, padding aside. `mark` is the highest seqno known to be synced when the group was written, `clock` the wall
clock's milliseconds then. A frame's flags: 1, a transaction id is there. An operation's flags are the record's (store),
of which only 1, an expiry is there, concerns the layout. `other` is the second database of a swap.

Whatever else a later version changes, the header keeps its size, its magic and version at the begin, and its checksum
at the end: so a release that doesn't know a version says so, instead of taking the segment for a damaged one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
from google_crc32c import value as crc32c

VERSION: Final = 1
MAGIC: Final = b"KEYHAUSJ"
HEADER_BYTES: Final = 4096
ALIGN_BYTES: Final = 64
FAR: Final = (1 << 63) - 1

COMMITS, START, IDLE, END = 1, 2, 3, 4
PUT, DELETE, LAPSE, FLUSH, SWAP = 1, 2, 3, 4, 5
HAS_TRANSACTION: Final = 1
HAS_EXPIRY: Final = 1

_HEADER = struct.Struct("<8sIIQQ")
_GROUP = struct.Struct("<IIQQQQQB7x")
_FRAME = struct.Struct("<IQQII")
_OPERATION = struct.Struct("<BBBBII")
_PUT_FRAME = struct.Struct("<IQQIIBBBBII")  # the frame of one put, head to head
_TWO = struct.Struct("<QQ")
_I64 = struct.Struct("<q")
_CRC = struct.Struct("<I")

GROUP_BYTES: Final = _GROUP.size
FRAME_BYTES: Final = _FRAME.size
OPERATION_BYTES: Final = _OPERATION.size
_PUT_FRAME_BYTES: Final = _PUT_FRAME.size

# What a commit did, in order. (PUT, database, key, value, expires-unix-ms or 0, record flags) · (DELETE, database, key)
# (LAPSE, database, key): a deletion because its time was over · (FLUSH, database) · (SWAP, database, database)
Operation: TypeAlias = tuple[Any, ...]


class Group(NamedTuple):
    """A group's head, as it was read; `offset` is where the group stands in its file."""

    offset: int
    length: int
    first: int
    last: int
    clock: int
    mark: int
    kind: int
    jump: tuple[int, int] | None


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One commit, as it was read."""

    seqno: int
    unix_ms: int
    transaction: bytes | None
    operations: list[Operation]


def segment_header(number: int, epoch: int, size: int) -> bytes:
    """The first block of a segment."""
    block = _HEADER.pack(MAGIC, VERSION, number, epoch, size).ljust(HEADER_BYTES - 4, b"\0")
    return block + _CRC.pack(crc32c(block))


def read_segment_header(block: bytes) -> tuple[int, int, int]:
    """The version, number and epoch in a segment's first block; raises ValueError saying what is wrong with it.

    Where the version is another one than VERSION, the other two mean nothing.
    """
    if len(block) != HEADER_BYTES:
        raise ValueError("the segment's header is cut short")
    if _CRC.unpack_from(block, HEADER_BYTES - 4)[0] != crc32c(block[:-4]):
        raise ValueError("the segment's header does not match its checksum")
    magic, version, number, epoch, _ = _HEADER.unpack_from(block)
    if magic != MAGIC:
        raise ValueError("this is no segment of a journal")
    return version, number, epoch


def group(epoch: int, first: int, last: int, clock: int, mark: int, kind: int, payload: bytes) -> bytes:
    """A whole group, without padding."""
    length = GROUP_BYTES + len(payload)
    body = _GROUP.pack(0, length, epoch, first, last, clock, mark, kind)[4:] + payload
    return _CRC.pack(crc32c(body)) + body


def start_payload(last_before: int, first_after: int) -> bytes:
    return _TWO.pack(last_before, first_after)


def groups(data: bytes, epoch: int) -> Iterator[Group]:
    """Every whole group of this epoch in a segment's bytes, in order, also those behind damaged ones."""
    sought = epoch.to_bytes(8, "little")
    at, end = HEADER_BYTES, len(data)
    while at < end:
        found = data.find(sought, at + 8)
        if found < 0:
            return
        offset = found - 8
        if offset % ALIGN_BYTES == 0 and (head := read_group(data, offset)) is not None:
            yield head
            at = offset + head.length
        else:
            at = offset + 1


def length_at(data: bytes, offset: int) -> int:
    """The length that a group which may stand at an offset gives; whether it is one, its checksum says."""
    return int(_CRC.unpack_from(data, offset + 4)[0])


def read_group(data: bytes, offset: int) -> Group | None:
    """The head of the group that stands whole at an offset of `data`; None where there is none."""
    if offset + GROUP_BYTES > len(data):
        return None
    crc, length, _, first, last, clock, mark, kind = _GROUP.unpack_from(data, offset)
    if length < GROUP_BYTES or offset + length > len(data) or crc != crc32c(data[offset + 4 : offset + length]):
        return None
    jump = _TWO.unpack_from(data, offset + GROUP_BYTES) if kind == START else None
    return Group(offset, length, first, last, clock, mark, kind, jump)


def frame(seqno: int, unix_ms: int, operations: Sequence[Operation], transaction: bytes | None = None) -> bytes:
    """One commit's frame.

    Args:
        seqno: The commit's sequence number.
        unix_ms: The commit's time.
        operations: What it did, in order; none at all is a commit that carries only its time.
        transaction: The 16 bytes of the transaction's id, where it has one.
    """
    if len(operations) == 1 and transaction is None:
        operation = operations[0]
        if operation[0] == PUT and not operation[4]:
            _, database, key, value, _, flags = operation
            length = _PUT_FRAME_BYTES + len(key) + len(value)
            head = _PUT_FRAME.pack(length, seqno, unix_ms, 0, 1, PUT, database, flags, 0, len(key), len(value))
            return head + key + value  # type: ignore[no-any-return]
    parts = [b"", transaction or b""]
    for operation in operations:
        _append_operation(parts, operation)
    length = FRAME_BYTES + sum(map(len, parts))
    parts[0] = _FRAME.pack(length, seqno, unix_ms, HAS_TRANSACTION if transaction else 0, len(operations))
    return b"".join(parts)


def _append_operation(parts: list[bytes], operation: Operation) -> None:
    kind = operation[0]
    if kind == PUT:
        _, database, key, value, expires, flags = operation
        parts.append(_OPERATION.pack(kind, database, flags, 0, len(key), len(value)))
        if expires:
            parts.append(_I64.pack(expires))
        parts.append(key)
        parts.append(value)
    elif kind in (DELETE, LAPSE):
        parts.append(_OPERATION.pack(kind, operation[1], 0, 0, len(operation[2]), 0))
        parts.append(operation[2])
    elif kind == FLUSH:
        parts.append(_OPERATION.pack(kind, operation[1], 0, 0, 0, 0))
    else:
        parts.append(_OPERATION.pack(kind, operation[1], 0, operation[2], 0, 0))


def frames(data: bytes, head: Group) -> Iterator[tuple[int, int]]:
    """Where each frame of a group begins and ends. Raises ValueError where the lengths make no sense."""
    return frames_between(data, head.offset + GROUP_BYTES, head.offset + head.length)


def frames_between(data: bytes, at: int, end: int) -> Iterator[tuple[int, int]]:
    """Where each of the frames that fill a part of `data` begins and ends. Raises ValueError as `frames` does."""
    while at < end:
        length = _CRC.unpack_from(data, at)[0]
        if length < FRAME_BYTES or at + length > end:
            raise ValueError(f"a frame of {length} bytes at offset {at} does not fit its group")
        yield at, at + length
        at += length


def time_at(data: bytes, at: int) -> int:
    """The time of the frame that begins at an offset, in milliseconds since 1970."""
    return int(_FRAME.unpack_from(data, at)[2])


def read_frame(data: bytes, at: int) -> Frame:
    """The frame that begins at an offset of `data`."""
    _, seqno, unix_ms, flags, count = _FRAME.unpack_from(data, at)
    if count == 1 and not flags:
        kind, database, kept, _, key_length, value_length = _OPERATION.unpack_from(data, at + FRAME_BYTES)
        if kind == PUT and not kept & HAS_EXPIRY:  # a start reads millions of these
            value_at = at + _PUT_FRAME_BYTES + key_length
            key, value = data[value_at - key_length : value_at], data[value_at : value_at + value_length]
            return Frame(seqno, unix_ms, None, [(PUT, database, key, value, 0, kept)])
    at += FRAME_BYTES
    transaction = None
    if flags & HAS_TRANSACTION:
        transaction = data[at : at + 16]
        at += 16
    operations: list[Operation] = []
    for _ in range(count):
        kind, database, record_flags, other, key_length, value_length = _OPERATION.unpack_from(data, at)
        at += OPERATION_BYTES
        if kind == PUT:
            expires = 0
            if record_flags & HAS_EXPIRY:
                expires = _I64.unpack_from(data, at)[0]
                at += 8
            key = data[at : at + key_length]
            at += key_length
            operations.append((PUT, database, key, data[at : at + value_length], expires, record_flags))
            at += value_length
        elif kind in (DELETE, LAPSE):
            operations.append((kind, database, data[at : at + key_length]))
            at += key_length
        elif kind == FLUSH:
            operations.append((FLUSH, database))
        elif kind == SWAP:
            operations.append((SWAP, database, other))
        else:
            raise ValueError(f"operation kind {kind} at offset {at} is unknown to this release")
    return Frame(seqno, unix_ms, transaction, operations)
