"""Runs in the making, as they live in their helper process: a sealed memtable becomes one sorted file.

Sorting and writing half a million rows takes seconds of an interpreter's time, so it happens beside the server, at low
priority. Each part is sorted as it comes, and the parts are merged as the file is written.

Where server and helper share a core a low priority is not enough: whoever has it when the server wakes may keep it for
milliseconds (Linux' EEVDF, without a timer for that). So the helper yields about every tenth of a millisecond while it
writes, and is kept from the first flush on, since the start of an interpreter can't yield. What a run took is given
back to the operating system; helpers in the background use the C library's allocator for that.
"""

from __future__ import annotations

import contextlib
import ctypes
import heapq
import os
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from keyhaus.core.clock import Clock, SystemClock
from keyhaus.engines import rocksdb
from keyhaus.engines.base import Change, RunWriter
from keyhaus.store import layout
from keyhaus.store import record as rec
from keyhaus.store.base import RUN_RESERVE, RUNS, give_up, remove_runs
from keyhaus.store.record import EXPIRES, TOMBSTONE

RUN_ROWS_A_YIELD: Final = 64  # a tenth of a millisecond; measured, see docs/benchmarks.md
YIELDED_TIMES_MAX: Final = 3  # waited, in multiples of worked: above it none, so that a run gets a quarter of a core
_KEY = itemgetter(0)


class RunBuilder:
    """The object behind flushes: one run after the other.

    Args:
        open_writer: Opens the file of a run of that name; once more, if it has to be written anew.
        reserve: A file that keeps room free for it.
        clock: How long it works and waits is measured with it.
    """

    def __init__(
        self, open_writer: Callable[[str], RunWriter], reserve: Path | None = None, clock: Clock | None = None
    ) -> None:
        self._open, self._reserve, self._clock = open_writer, reserve, clock or SystemClock()
        self._parts: list[list[Change]] = []
        self._worked_since_ns = self._worked_ns = self._waited_ns = 0

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

    def outcomes(self, rows: list[tuple[bytes, int | None]]) -> None:
        """Takes transactions that were committed, with their seqnos, and (None) those that are forgotten."""
        self._parts.append(sorted([layout.outcome(*row) for row in rows], key=_KEY))

    def finish(self, name: str, meta: bytes) -> int:
        """Writes the run, durably; how many rows it has. On a full disk the room that was kept free for it is used."""
        try:
            return self._finish(name, meta)
        finally:
            with contextlib.suppress(OSError, AttributeError):  # not glibc
                ctypes.CDLL(None).malloc_trim(0)

    def _finish(self, name: str, meta: bytes) -> int:
        parts, self._parts = self._parts, []
        parts.append([(layout.META, meta)])
        self._worked_since_ns, self._worked_ns, self._waited_ns = self._clock.monotonic_ns(), 0, 0
        try:
            return self._write(name, parts)
        except OSError as error:
            if self._reserve is None or not give_up(self._reserve, error):
                raise
        return self._write(name, parts)  # not above, where the error still holds the first file open

    def _write(self, name: str, parts: list[list[Change]]) -> int:
        rows = 0

        def counted() -> Iterator[Change]:
            nonlocal rows
            for change in _merged(parts):
                rows += 1
                if not rows % RUN_ROWS_A_YIELD:
                    self._yield()
                yield change

        writer = self._open(name)
        writer.add(counted())
        writer.finish()
        return rows

    def _yield(self) -> None:
        """Lets others go first, unless they take nearly all there is: writers wait for the run, too."""
        before = self._clock.monotonic_ns()
        self._worked_ns += before - self._worked_since_ns
        if self._waited_ns <= YIELDED_TIMES_MAX * self._worked_ns:
            os.sched_yield()
        self._worked_since_ns = self._clock.monotonic_ns()
        self._waited_ns += self._worked_since_ns - before


def _merged(parts: list[list[Change]]) -> Iterator[Change]:
    """All parts in order, each row once: of a deadline that was forgotten and came anew, the new one."""
    before: Change | None = None
    for change in heapq.merge(*parts, key=_KEY):
        if before is not None and change[0] == before[0]:
            before = change if before[1] is None else before
            continue
        if before is not None:
            yield before
        before = change
    if before is not None:
        yield before


def open_rocksdb(directory: str, options: dict[str, Any], run_bytes: int) -> RunBuilder:
    """Runs in a database's directory; what attempts that failed have left there is removed: there is one at a time."""
    place = Path(directory)

    def open_writer(name: str) -> RunWriter:
        remove_runs(place)
        return rocksdb.open_writer(str(place / RUNS / name), options)

    return RunBuilder(open_writer, place / RUNS / RUN_RESERVE)
