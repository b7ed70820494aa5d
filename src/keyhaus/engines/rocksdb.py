"""RocksDB as the engine: levels, compaction, filters, compression, and nothing of its own write path.

Runs are SST files, written by `RocksRunWriter` and moved in. A view is what RocksDB held before an ingest: a snapshot,
for point reads, and an iterator, for scans, both made at that moment and kept until the view is released. The newest
view is read directly.

What rocksdict 0.3.29 (RocksDB 9.8) was found to do:

- An iterator keeps its view across ingest, drop and compaction, and can be placed anew; iterators made later from a
  snapshot see later writes. `Snapshot[key]` honours the snapshot, unless it was taken at sequence number 0: there
  compaction removes what it should keep. A run gets a number above every snapshot, so our views never meet this; a new
  database spends a number all the same.
- A damaged block ends an iteration as if there were no more rows: only `status()` tells. (`items()` has none.)
- `ReadOptions.set_iterate_lower_bound` sets the upper bound.
- An iterator keeps the database open, and locked, after `close()`.
- Ingesting syncs the file, the directory and the manifest before it returns, `finish()` of the writer the file, and a
  flush its file, the directory and the manifest (strace -f -e trace=fsync,fdatasync).
- Ingesting reads no more of a run than its ends: a block damaged in between is found when it is first read.
- Where the manifest's sync fails at the end of an ingest, RocksDB removes the file and leaves it named: `_spare`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
from rocksdict import Checkpoint, IngestExternalFileOptions, Rdict, RdictIter, ReadOptions, SstFileWriter, WriteOptions

from keyhaus.core.disk import NO_LINKS
from keyhaus.core.errors import Corruption, StorageError
from keyhaus.engines.base import Change, Row
from keyhaus.engines.rocksdb_errors import translated
from keyhaus.engines.rocksdb_options import RocksOptions, database_options, run_options

LOCK_SECONDS: Final = 10.0  # how long the process of a killed server may take to end, and to let go of the directory
COMPACTION_NICENESS: Final = 10
SPARE: Final = ".ingesting"  # a run's second name, until it is ingested
SPARES_MAX: Final = 4
PROBE: Final = "PROBE"  # made at each open, to see whether it may have a second name, and removed
_PROPERTIES: Final = {
    "bytes": ("total-sst-files-size",),
    "rows": ("estimate-num-keys",),
    "level0_files": ("num-files-at-level0",),
    "compaction_pending_bytes": ("estimate-pending-compaction-bytes",),
    "compactions_running": ("num-running-compactions",),
    "block_cache_bytes": ("block-cache-usage",),
    "block_cache_capacity": ("block-cache-capacity",),
    "memory_bytes": ("block-cache-usage", "estimate-table-readers-mem", "cur-size-all-mem-tables"),
}
_TICKERS: Final = {"rocksdb.block.cache.hit": "block_cache_hits", "rocksdb.block.cache.miss": "block_cache_misses"}


class _Kept:
    """A view that is no longer the newest."""

    def __init__(self, database: Rdict) -> None:
        options = ReadOptions()
        options.set_background_purge_on_iterator_cleanup(True)  # releasing it must not wait for files to be deleted
        self.snapshot = database.snapshot()
        self.walker = database.iter(options)


class RocksEngine:
    """`Engine` over a RocksDB directory, which is made where it is missing."""

    def __init__(self, directory: str, options: RocksOptions | None = None) -> None:
        self._directory = directory
        self.newest = 0
        self._kept: dict[int, _Kept] = {}
        _make_directory(Path(directory))
        _refuse_without_links(Path(directory))
        self._options = database_options(options or RocksOptions())
        self._spares = sorted(Path(directory).glob(f"*{SPARE}"))
        self._database = self._open()
        _remove(self._spares)
        self._unlogged = WriteOptions()
        self._unlogged.disable_wal = True
        if self._database.latest_sequence_number() == 0:
            self._database.delete(b"", self._unlogged)
            self._database.flush()

    def get(self, view: int, keys: list[bytes]) -> list[bytes | None]:
        try:
            if view == self.newest:
                return self._database.get(keys)
            return [_value(self._kept[view], key) for key in keys]
        except KeyError:
            raise
        except Exception as error:
            raise translated(error, self._directory) from error

    def scan(
        self, view: int, start: bytes, end: bytes | None, rows: int, size: int, reverse: bool = False
    ) -> tuple[list[Row], bool]:
        try:
            return _walk(self._walker(view, end), start, end, rows, size, reverse)
        except KeyError:
            raise
        except Exception as error:
            raise translated(error, self._directory) from error

    def _walker(self, view: int, end: bytes | None) -> RdictIter:
        if view != self.newest:
            return self._kept[view].walker
        options = ReadOptions()
        if end is not None:
            options.set_iterate_upper_bound(end)
        return self._database.iter(options)

    def ingest(self, run: str) -> int:
        options = IngestExternalFileOptions()
        options.set_move_files(True)
        self._spare(run)
        try:
            kept = _Kept(self._database)
            self._database.ingest_external_file([run], options)
        except Exception as error:
            raise translated(error, run) from error
        _remove(self._spares)
        self._kept[self.newest] = kept
        self.newest += 1
        _let_compaction_give_way()
        return self.newest

    def drop(self, start: bytes, end: bytes) -> None:
        if start >= end:
            return
        try:
            # Not through RocksDB's log: the flush makes it durable, and so the log is always empty.
            self._database.delete_range(start, end, self._unlogged)
            self._database.flush()
        except Exception as error:
            raise translated(error, self._directory) from error

    def release(self, view: int) -> None:
        if view == self.newest:
            raise ValueError("the newest view stays")
        del self._kept[view]

    def checkpoint(self, directory: str) -> None:
        path = Path(directory)
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), directory)
        try:
            Checkpoint(self._database).create_checkpoint(directory)
        except Exception as error:
            raise translated(error, directory) from error
        for file in path.iterdir():
            if file.stat().st_nlink == 1:  # a copy; what is linked was synced when it was written
                _sync(file)
        _sync(path)
        _sync(path.parent)

    def stats(self) -> dict[str, Any]:
        try:
            numbers = {
                name: sum(self._database.property_int_value(f"rocksdb.{part}") or 0 for part in parts)
                for name, parts in _PROPERTIES.items()
            }
        except Exception as error:
            raise translated(error, self._directory) from error
        numbers.update(dict.fromkeys(_TICKERS.values(), 0))
        for line in (self._options.get_statistics() or "").splitlines():
            ticker, _, count = line.partition(" COUNT : ")
            if ticker in _TICKERS:
                numbers[_TICKERS[ticker]] = int(count)
        return numbers

    def close(self) -> None:
        self._kept.clear()
        try:
            self._database.close()
        except Exception as error:
            raise translated(error, self._directory) from error

    def _spare(self, run: str) -> None:
        """Gives a run a second name, which is durable with the first: RocksDB syncs the directory before the manifest.

        If the manifest's sync then fails, RocksDB takes the file away although the manifest, as the next open finds it,
        may name it; and it refuses every further change. So the names stay until an ingest or an open succeeds.
        """
        if any(spare.samefile(run) for spare in self._spares):
            return
        if len(self._spares) == SPARES_MAX:
            raise OSError(errno.EIO, "too many ingests have failed: the engine must be opened again", self._directory)
        spare = Path(self._directory) / f"{len(self._spares)}{SPARE}"
        spare.hardlink_to(run)
        self._spares.append(spare)

    def _restore(self, missing: Path, spares: list[Path]) -> bool:
        """Gives a file that is missing, or was the wrong one, what the next spare holds; whether there was one."""
        if missing.suffix != ".sst" or not spares or (missing.exists() and not missing.samefile(spares[-1])):
            return False
        if missing.exists():  # tried, and found to be another file than the manifest means
            missing.unlink()
            spares.pop()
        if spares:
            missing.hardlink_to(spares[-1])
            _sync(missing.parent)
        return bool(spares)

    def _open(self) -> Rdict:
        current = Path(self._directory) / "CURRENT"
        fresh = not current.exists()
        if fresh and any(current.parent.glob("*.sst")):  # RocksDB would begin anew, and remove them
            raise Corruption("missing, and there is data", str(current), 0)
        spares = list(self._spares)
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                return Rdict(self._directory, self._options, column_families={"default": self._options})
            except Exception as error:
                failure = translated(error, self._directory)
            if isinstance(failure, Corruption) and self._restore(Path(failure.file), spares):
                continue
            if isinstance(failure, FileNotFoundError) and not fresh:
                raise Corruption(str(failure.strerror), self._directory, 0) from failure
            if not isinstance(failure, OSError) or failure.errno not in (errno.EAGAIN, errno.EACCES, errno.ENOLCK):
                raise failure
            if time.monotonic() > until or failure.errno == errno.ENOLCK:
                raise StorageError(f"{self._directory} is in use: {failure.strerror}") from failure
            time.sleep(0.02)


class RocksRunWriter:
    """`RunWriter` of RocksDB's SST files. The writer holds the interpreter's lock while it adds."""

    def __init__(self, path: str, options: RocksOptions | None = None) -> None:
        self._path = path
        self._writer = SstFileWriter(run_options(options or RocksOptions()))
        self._empty = True
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()  # an attempt that failed
        try:
            self._writer.open(path)
        except Exception as error:
            raise translated(error, path) from error

    def add(self, changes: Iterable[Change]) -> None:
        writer = self._writer
        try:
            for key, value in changes:
                if value is None:
                    del writer[key]
                else:
                    writer[key] = value
                self._empty = False
        except Exception as error:
            if "strict ascending order" in str(error):
                raise ValueError("the keys of a run must ascend strictly") from None
            self._remove()
            raise translated(error, self._path) from error

    def finish(self) -> None:
        if self._empty:
            raise ValueError("a run has at least one change")
        try:
            self._writer.finish()
        except Exception as error:
            self._remove()
            raise translated(error, self._path) from error
        _sync(Path(self._path).parent)

    def _remove(self) -> None:
        """What failed half way takes no room: the disk may be full."""
        with contextlib.suppress(OSError):
            Path(self._path).unlink()


def open_engine(directory: str, options: dict[str, Any]) -> RocksEngine:
    """A factory for a helper: the fields of `RocksOptions` come as MessagePack carries them."""
    return RocksEngine(directory, msgspec.convert(options, RocksOptions))


def open_writer(path: str, options: dict[str, Any]) -> RocksRunWriter:
    """The same for a run's writer."""
    return RocksRunWriter(path, msgspec.convert(options, RocksOptions))


def _value(view: _Kept, key: bytes) -> bytes | None:
    try:
        return view.snapshot[key]
    except Exception as error:
        if str(error) == "key not found":
            return None
        raise


def _walk(
    walker: RdictIter, start: bytes, end: bytes | None, rows: int, size: int, reverse: bool
) -> tuple[list[Row], bool]:
    if not reverse:
        walker.seek(start)
    elif end is None:
        walker.seek_to_last()
    else:
        walker.seek_for_prev(end)
        if walker.valid() and walker.key() == end:
            walker.prev()
    step = walker.prev if reverse else walker.next
    page: list[Row] = []
    while walker.valid():
        key = walker.key()
        if key < start or (end is not None and key >= end):
            break
        if page and (len(page) >= rows or size <= 0):
            return page, True
        value = walker.value()
        page.append((key, value))
        size -= len(key) + len(value)
        step()
    walker.status()
    return page, False


def _let_compaction_give_way() -> None:
    """Lowers the priority of RocksDB's threads for compaction, which it starts when it first needs them."""
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if (task / "comm").read_text().startswith("rocksdb:low"):
                os.setpriority(os.PRIO_PROCESS, int(task.name), COMPACTION_NICENESS)


def _remove(spares: list[Path]) -> None:
    """Takes spare names away; one that stays is taken away by the next open."""
    with contextlib.suppress(OSError):
        while spares:
            spares[-1].unlink()
            spares.pop()


def _make_directory(path: Path) -> None:
    if not path.exists():
        path.mkdir(mode=0o750)
        _sync(path.parent)


def _refuse_without_links(directory: Path) -> None:
    """A run has two names until it is ingested: where no file may have, that is said at the start, not at a flush.

    Raises:
        StorageError: No file may have two names there.
    """
    one, other = directory / PROBE, directory / f"{PROBE}.link"
    try:
        other.unlink(missing_ok=True)
        one.touch()
    except OSError:
        return  # whatever is wrong, such as a full disk, has its own message where it matters
    try:
        other.hardlink_to(one)
    except OSError as error:
        if error.errno in NO_LINKS:
            raise StorageError(
                f"{directory}: this file system has no hard links ({error.strerror}): choose a directory on another one"
            ) from error
    finally:
        for probe in (one, other):
            with contextlib.suppress(OSError):
                probe.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
