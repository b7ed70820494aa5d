"""Reads everything that a RocksDB directory holds, and says which files are damaged.

The walk goes through every data and index block of every file, with checksums verified and nothing taken from a cache.
Not read are Bloom filters (a damaged one costs time, never an answer) and blocks that a `drop` covers entirely. A
manifest that lost its last records is that of an older database, as after a crash: whoever owns the data must know what
was the last that it ingested.
"""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path

from rocksdict import AccessType, Rdict, RdictIter, ReadOptions

from keyhaus.core.errors import Corruption
from keyhaus.engines.rocksdb_errors import translated
from keyhaus.engines.rocksdb_options import RocksOptions, database_options


def verify(directory: str) -> list[tuple[str, str]]:
    """The damaged files of a directory that no process has open, each with what is wrong with it; empty: none.

    Between a damaged block and the next bound of a file the walk comes from behind: what lies between two damaged
    blocks there isn't read.
    """
    options = database_options(RocksOptions(block_cache_bytes=1 << 20))
    current = Path(directory) / "CURRENT"
    if not current.exists():
        return [(str(current), "missing")]
    try:
        database = Rdict(
            directory,
            options,
            column_families={"default": options},
            access_type=AccessType.read_only(error_if_log_file_exist=False),
        )
    except Exception as error:
        return [_finding(error, directory)]
    try:
        files = database.live_files()
        bounds = sorted({file[end] for file in files for end in ("start_key", "end_key")})
        return _walk(database.iter(_uncached()), bounds, directory)
    finally:
        database.close()


def _uncached() -> ReadOptions:
    options = ReadOptions()
    options.set_verify_checksums(True)
    options.fill_cache(False)
    options.set_readahead_size(2 << 20)
    return options


def _walk(walker: RdictIter, bounds: list[bytes], directory: str) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    begin: bytes | None = b""
    while begin is not None:
        walker.seek(begin)
        reached = begin
        while walker.valid():
            reached = walker.key()
            walker.next()
        if not _damaged(walker, found, directory):
            break
        at = bisect_right(bounds, reached)
        begin = bounds[at] if at < len(bounds) else None
        if begin is None:
            walker.seek_to_last()
        else:
            walker.seek_for_prev(begin)
        while walker.valid() and walker.key() > reached:
            walker.prev()
        _damaged(walker, found, directory)
    return list(found.items())


def _damaged(walker: RdictIter, found: dict[str, str], directory: str) -> bool:
    try:
        walker.status()
    except Exception as error:
        file, message = _finding(error, directory)
        found.setdefault(file, message)
        return True
    return False


def _finding(error: Exception, directory: str) -> tuple[str, str]:
    failure = translated(error, directory)
    if isinstance(failure, Corruption):
        return failure.file, failure.message
    return directory, str(failure)
