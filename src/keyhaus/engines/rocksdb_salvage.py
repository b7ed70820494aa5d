"""Reads what can still be read of RocksDB's files: round damaged blocks, and single files without their database.

A damaged block ends a walk. What lies behind it is found from behind, starting at the next bound of a file, and between
two damaged blocks by looking at keys half-way. A single file is read by a scratch database that takes it in: a run that
was ingested is ingested again, what a compaction wrote is taken over by RocksDB's repair, which refuses a file with a
damaged block. Deletions in a single file can't be seen.
"""

from __future__ import annotations

import contextlib
import tempfile
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from rocksdict import AccessType, IngestExternalFileOptions, Rdict, RdictIter, ReadOptions

from keyhaus.core.errors import StorageError
from keyhaus.engines.base import Row
from keyhaus.engines.rocksdb_errors import translated
from keyhaus.engines.rocksdb_options import RocksOptions, database_options

BEHIND_ALL: Final = b"\xff" * 16
PROBES_MAX: Final = 64  # keys that are looked at in one damaged stretch


class Gap(NamedTuple):
    """Nothing between the two keys could be read; None: up to the end."""

    after: bytes
    before: bytes | None


def rows(database: Rdict, start: bytes, end: bytes) -> Iterator[Row | Gap]:
    """The rows of a range in order, and the stretches that can't be read."""
    options = ReadOptions()
    options.set_verify_checksums(True)
    options.fill_cache(False)
    options.set_iterate_upper_bound(end)
    files = database.live_files()
    bounds = sorted({file[side] for file in files for side in ("start_key", "end_key") if start < file[side] < end})
    begin: bytes | None = start
    while begin is not None:
        reached = begin
        walker = database.iter(options)  # a new one: what has met a damaged block may fail again behind it
        walker.seek(begin)
        while walker.valid():
            reached = walker.key()
            yield reached, walker.value()
            walker.next()
        if _fine(walker):
            return
        begin = _island(walker, reached, bounds)
        yield Gap(reached, begin)


def _fine(walker: RdictIter) -> bool:
    try:
        walker.status()
    except Exception:
        return False
    return True


def _island(walker: RdictIter, reached: bytes, bounds: list[bytes]) -> bytes | None:
    """The next key behind a damaged stretch that can be read."""
    for at in range(bisect_right(bounds, reached), len(bounds) + 1):
        if at < len(bounds):
            walker.seek_for_prev(bounds[at])
        else:
            walker.seek_to_last()
        found = _back(walker, reached)
        if found is not None:
            return _probe(walker, reached, found)
    return None


def _back(walker: RdictIter, reached: bytes) -> bytes | None:
    """The first key of the stretch in which the walker stands, as far as it lies behind `reached`."""
    found: bytes | None = None
    while walker.valid() and walker.key() > reached:
        found = walker.key()
        walker.prev()
    return found


def _probe(walker: RdictIter, reached: bytes, found: bytes) -> bytes:
    """A key between the two that can be read, as near to the first as looking half-way finds one."""
    ranges = [(reached, found)]
    for _ in range(PROBES_MAX):
        if not ranges:
            break
        low, high = ranges.pop()
        middle = _middle(low, high)
        if not low < middle < high:
            continue
        walker.seek(middle)
        if walker.valid() and low < walker.key() < high:
            found = _back(walker, low) or found
            ranges = [(reached, found)]
        else:
            ranges = [(middle, high), (low, middle), *ranges][:PROBES_MAX]
    return found


def _middle(low: bytes, high: bytes) -> bytes:
    length = max(len(low), len(high)) + 1
    one, other = (int.from_bytes(key.ljust(length, b"\0"), "big") for key in (low, high))
    return ((one + other) // 2).to_bytes(length, "big")


@contextlib.contextmanager
def opened(directory: str, paranoid: bool) -> Iterator[Rdict]:
    """A database that is only read, through a mirror; where not `paranoid`, with files missing or cut short, too.

    Raises Corruption, OSError, StorageError.
    """
    options = database_options(RocksOptions(block_cache_bytes=8 << 20))
    options.set_paranoid_checks(paranoid)
    try:
        database = Rdict(
            directory,
            options,
            column_families={"default": options},
            access_type=AccessType.read_only(error_if_log_file_exist=False),
        )
    except Exception as error:
        raise translated(error, directory) from error
    try:
        yield database
    finally:
        database.close()


def problem(path: Path) -> str | None:
    """What is wrong with a single file with rows, all of which is read; None for nothing."""
    try:
        with table(path) as database:
            if not database.live_files():
                return "a block is damaged"
            gaps = sum(isinstance(item, Gap) for item in rows(database, b"", BEHIND_ALL))
    except (OSError, StorageError) as error:
        return str(error)
    return f"{gaps} stretches of blocks are damaged" if gaps else None


@contextlib.contextmanager
def table(path: Path) -> Iterator[Rdict]:
    """A single file with rows, as a database of its own. Raises Corruption, OSError, StorageError."""
    with tempfile.TemporaryDirectory(prefix="keyhaus-") as place, _taken(path, place) as database:
        yield database


@contextlib.contextmanager
def _taken(path: Path, place: str) -> Iterator[Rdict]:
    options = database_options(RocksOptions(block_cache_bytes=8 << 20))
    database = Rdict(place, options, column_families={"default": options})
    try:
        database.ingest_external_file([str(path)], IngestExternalFileOptions())
    except Exception:
        database.close()
        with _repaired(path) as other:
            yield other
        return
    try:
        yield database
    finally:
        database.close()


@contextlib.contextmanager
def _repaired(path: Path) -> Iterator[Rdict]:
    with tempfile.TemporaryDirectory(prefix="keyhaus-") as place:
        (Path(place) / path.name).symlink_to(path)
        try:
            Rdict.repair(place, database_options(RocksOptions(block_cache_bytes=8 << 20)))
        except Exception as error:
            raise translated(error, str(path)) from error
        with opened(place, paranoid=False) as database:
            yield database
