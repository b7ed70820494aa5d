"""The base, as it lives in its helper process: an engine, and what is best done beside it.

A cold read costs a disk access during which RocksDB's binding holds the interpreter's lock, so all of it happens in a
process of its own; `store/ground.py` is the other end. Every answer is of the view that was asked for (S2).
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any, Final

from keyhaus.engines import rocksdb
from keyhaus.engines.base import Engine
from keyhaus.store import layout
from keyhaus.store.record import EXPIRES

BASE: Final = "base"  # directories of a database
RUNS: Final = "runs"
HEAD_BYTES: Final = 16  # of a record: the head, and the expiry where there is one


class Base:
    """The object behind `Ground`.

    Args:
        engine: The engine.
        runs: The directory that runs are written to.
    """

    def __init__(self, engine: Engine, runs: str) -> None:
        self._engine, self._runs = engine, runs

    def meta(self) -> tuple[int, bytes | None]:
        """The newest view's number, and its meta row."""
        newest = self._engine.newest
        return newest, self._engine.get(newest, [layout.META])[0]

    def get(self, view: int, keys: list[bytes]) -> list[bytes | None]:
        return self._engine.get(view, keys)

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


def open_rocksdb(directory: str, options: dict[str, Any]) -> Base:
    """The base in a database's directory; runs that an earlier process left behind are removed."""
    runs = Path(directory) / RUNS
    runs.mkdir(mode=0o750, exist_ok=True)
    for left in list(runs.iterdir()):
        left.unlink()
    return Base(rocksdb.open_engine(str(Path(directory) / BASE), options), str(runs))
