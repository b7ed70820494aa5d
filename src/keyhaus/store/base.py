"""The base, as it lives in its helper process: an engine, and what is best done beside it.

A cold read costs a disk access during which RocksDB's binding holds the interpreter's lock, so all of it happens in a
process of its own; `store/ground.py` is the other end. Every answer is of the view that was asked for (S2).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from keyhaus.core.limits import PAGE_BYTES_MAX
from keyhaus.engines import rocksdb
from keyhaus.engines.base import Engine
from keyhaus.store import layout
from keyhaus.store.record import EXPIRES

BASE: Final = "base"  # directories of a database
RUNS: Final = "runs"
OPEN_RESERVE: Final = "RESERVE"  # in the database's directory
RUN_RESERVE: Final = "RUN_RESERVE"  # in that of the runs
OPEN_RESERVE_BYTES: Final = 1 << 20
RESERVE_BYTES_LEAST: Final = 1 << 14
ROWS_A_YIELD: Final = 3  # a tenth of a millisecond; measured, see docs/adr/0006
OUTCOME_ROWS: Final = 10_000
HEAD_BYTES: Final = 16  # of a record: the head, and the expiry where there is one


class Base:
    """The object behind `Ground`.

    Args:
        engine: The engine.
        runs: The directory that runs are written to.
        give_way: Called every few rows of a read.
    """

    def __init__(self, engine: Engine, runs: str, give_way: Callable[[], None] = os.sched_yield) -> None:
        self._engine, self._runs, self._give_way = engine, runs, give_way
        self.reserves: dict[Path, int] = {}

    def meta(self) -> tuple[int, bytes | None]:
        """The newest view's number, and its meta row."""
        newest = self._engine.newest
        return newest, self._engine.get(newest, [layout.META])[0]

    def outcomes(self) -> bytes:
        """The rows of transactions' commits in the newest view, one behind the other, without their first byte."""
        rows: list[bytes] = []
        start: bytes | None = layout.OUTCOME
        while start is not None:
            found, more = self._engine.scan(
                self._engine.newest, start, bytes([layout.OUTCOME[0] + 1]), rows=OUTCOME_ROWS, size=PAGE_BYTES_MAX
            )
            rows += [key[1:] + value for key, value in found]
            start = found[-1][0] + b"\0" if more else None
        return b"".join(rows)

    def get(self, view: int, keys: list[bytes]) -> list[bytes | None]:
        """The rows under the first of some keys: all of them, unless they are too large for one answer.

        Where server and base share a core, who waits for no disk goes first.
        """
        found: list[bytes | None] = []
        size = 0
        for at in range(0, len(keys), ROWS_A_YIELD):
            rows = self._engine.get(view, keys[at : at + ROWS_A_YIELD])
            found += rows
            size += sum([len(row) for row in rows if row is not None])
            if size >= PAGE_BYTES_MAX:
                break
            self._give_way()
        return found

    def page(
        self, view: int, start: bytes, end: bytes | None, rows: int, size: int, reverse: bool, heads: bool
    ) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Rows of a range, as `Engine.scan` gives them; of each value only the head where `heads`."""
        found, more = self._engine.scan(view, start, end, rows=rows, size=size, reverse=reverse)
        return ([(key, value[:HEAD_BYTES]) for key, value in found] if heads else found), more

    def count(self, view: int, start: bytes, end: bytes, rows: int, size: int) -> tuple[int, int, bytes | None]:
        """Up to so many records of a range: how many, how many with an expiry, and where the next ones begin."""
        found, more = self._engine.scan(view, start, end, rows=rows, size=size)
        volatile = sum(1 for _, value in found if value[7] & EXPIRES)
        return len(found), volatile, found[-1][0] + b"\0" if more else None

    def ingest(self, run: str) -> tuple[int, dict[str, Any]]:
        return self._engine.ingest(f"{self._runs}/{run}"), self._engine.stats()

    def reserve(self) -> None:
        """Keeps room free for the next open and the next flush, where there is enough.

        On a disk that is nearly full what is free for a moment is the journal's: of its manifest between two versions.
        """
        for path, size in self.reserves.items():
            disk = os.statvfs(path.parent)
            free = disk.f_bavail * disk.f_frsize
            if free >= 2 * OPEN_RESERVE_BYTES:
                _allocate(path, size if path.name == OPEN_RESERVE else min(size, free // 8))

    def drop(self, start: bytes, end: bytes) -> None:
        self._engine.drop(start, end)

    def release(self, view: int) -> None:
        self._engine.release(view)

    def checkpoint(self, directory: str) -> bytes | None:
        """Makes a copy of the newest view in place of what an earlier attempt left there; its meta row."""
        self.discard(directory)
        self._engine.checkpoint(directory)
        return self.meta()[1]

    def discard(self, directory: str) -> None:
        """Takes away a checkpoint, where there is one."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory)

    def stats(self) -> dict[str, Any]:
        return self._engine.stats()

    def close(self) -> None:
        self._engine.close()


def open_rocksdb(directory: str, options: dict[str, Any], run_bytes: int) -> Base:
    """The base in a database's directory. A run that is in the making beside it, or waits to be ingested, stays.

    Two files keep room free, so that a full disk can be opened (the engine writes a little then), and flushed to once
    (J2). Each is given up when it is needed, and made anew once there is room.

    Args:
        directory: The database's.
        options: The engine's.
        run_bytes: How large a run may become.
    """
    place = Path(directory)
    runs = place / RUNS
    runs.mkdir(mode=0o750, exist_ok=True)
    base = Base(_open_engine(place, options), str(runs))
    base.reserves = {place / OPEN_RESERVE: OPEN_RESERVE_BYTES, runs / RUN_RESERVE: run_bytes}
    return base


def remove_runs(directory: Path) -> None:
    """Takes away what an earlier process or attempt left of its runs: as a server starts, and before a run is begun.

    Not when only the base is opened again, since the process that writes a run may live on.
    """
    with contextlib.suppress(FileNotFoundError):
        for left in list((directory / RUNS).iterdir()):
            if left.name != RUN_RESERVE:
                left.unlink(missing_ok=True)


def _open_engine(place: Path, options: dict[str, Any]) -> Engine:
    """Opens the engine; where the disk is full, with the room that was kept, or that its old logs take.

    What it leaves of that room is kept again at once, or the journal would take it.
    """
    reserve = place / OPEN_RESERVE
    kept = reserve.stat().st_size if reserve.exists() else 0
    spendable = [reserve, place / RUNS / RUN_RESERVE, *(place / BASE).glob("LOG.old.*")]
    while True:
        try:
            engine = rocksdb.open_engine(str(place / BASE), options)
        except OSError as error:
            while spendable and not give_up(spendable[0], error):
                spendable.pop(0)
            if not spendable:
                raise
        else:
            if kept and not reserve.exists():
                disk = os.statvfs(place)
                _allocate(reserve, min(kept, disk.f_bavail * disk.f_frsize))
            return engine


def give_up(reserve: Path, error: OSError) -> bool:
    """Where `error` says that the disk is full: frees what a file kept free; whether there is room now."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not reserve.exists():
        return False
    reserve.unlink()
    return True


def _allocate(path: Path, size: int) -> None:
    """Keeps room free, as much as there is up to `size`: a full disk is no reason to fail here."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        while size >= RESERVE_BYTES_LEAST and os.fstat(descriptor).st_size < size:
            try:
                os.posix_fallocate(descriptor, 0, size)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                size //= 2
    finally:
        os.close(descriptor)
