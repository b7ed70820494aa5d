"""A run in the making, as it lives in its helper process: a sealed memtable becomes one sorted file.

Sorting and writing half a million rows takes seconds of an interpreter's time, so it happens beside the server, at low
priority. Each part is sorted as it comes, and the parts are merged as the file is written.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

from keyhaus.engines import rocksdb
from keyhaus.engines.base import Change, RunWriter
from keyhaus.store import layout
from keyhaus.store import record as rec
from keyhaus.store.base import RUN_RESERVE, RUNS, give_up, remove_runs
from keyhaus.store.record import EXPIRES, TOMBSTONE

_KEY = itemgetter(0)


class RunBuilder:
    """The object behind a flush.

    Args:
        open_writer: Opens the file; once more, if it has to be written anew.
        reserve: A file that keeps room free for it.
    """

    def __init__(self, open_writer: Callable[[], RunWriter], reserve: Path | None = None) -> None:
        self._open, self._reserve = open_writer, reserve
        self._writer = open_writer()
        self._parts: list[list[Change]] = []

    def add(self, prefix: bytes, records: list[tuple[bytes, bytes]]) -> None:
        """Takes records of one generation, in any order; no key comes twice."""
        rows: list[Change] = []
        deadlines: list[Change] = []
        for key, record in records:
            if record[7] & TOMBSTONE:
                rows.append((prefix + key, None))
                continue
            rows.append((prefix + key, record))
            if record[7] & EXPIRES:
                deadlines.append((layout.deadline(rec.expires_of(record), prefix, key), layout.DEADLINE_VALUE))
        for part in (rows, deadlines):
            part.sort(key=_KEY)
            if part:
                self._parts.append(part)

    def forget(self, deadlines: list[bytes]) -> None:
        """Takes rows of the expiry index that no record confirms any more; those that came as new ones stay."""
        self._parts.append(sorted([(row, None) for row in deadlines], key=_KEY))

    def finish(self, meta: bytes) -> int:
        """Writes the run, durably; how many rows it has. On a full disk the room that was kept free for it is used."""
        self._parts.append([(layout.META, meta)])
        try:
            return self._write()
        except OSError as error:
            if self._reserve is None or not give_up(self._reserve, error):
                raise
            self._writer = self._open()
            return self._write()

    def _write(self) -> int:
        rows = 0

        def counted() -> Iterator[Change]:
            nonlocal rows
            for change in self._merged():
                rows += 1
                yield change

        self._writer.add(counted())
        self._writer.finish()
        return rows

    def _merged(self) -> Iterator[Change]:
        """All parts in order, each row once: of a deadline that was forgotten and came anew, the new one."""
        before: Change | None = None
        for change in heapq.merge(*self._parts, key=_KEY):
            if before is not None and change[0] == before[0]:
                before = change if before[1] is None else before
                continue
            if before is not None:
                yield before
            before = change
        if before is not None:
            yield before


def open_rocksdb(directory: str, options: dict[str, Any], run_bytes: int, name: str) -> RunBuilder:
    """A run in a database's directory; what attempts that failed have left there is removed: there is one at a time."""
    runs = Path(directory) / RUNS
    remove_runs(Path(directory))

    def open_writer() -> RunWriter:
        (runs / name).unlink(missing_ok=True)
        return rocksdb.open_writer(str(runs / name), options)

    return RunBuilder(open_writer, runs / RUN_RESERVE)
