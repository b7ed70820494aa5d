"""Gathering: what a command needs of the base is fetched before its one step (C1, T8).

A command runs as if everything were in memory. Where it meets something that isn't, that is noted as a need, the run is
thrown away, what was needed is fetched, and the command is run again from the start, until it needs nothing more. What
was fetched belongs to the view that was the newest at the first need, which stays pinned meanwhile; the memtables that
lie above that view are read before it (S2). So a flush in between makes nothing wrong, and no command starves.

Needs for the same row share one question, and those of one turn go to the helper as one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from keyhaus.core.limits import PAGE_BYTES_MAX
from keyhaus.core.wait import Wait
from keyhaus.store import layout
from keyhaus.store.record import Record

if TYPE_CHECKING:
    from keyhaus.store.keyspace import Keyspace
    from keyhaus.store.store import Store

ROWS_AT_ONCE: Final = 256  # of one question, so that others come in between
MISSING: Final = object()

_Told: TypeAlias = Callable[[Record | None, BaseException | None], None]


class Segment:
    """Rows of a range of the base that were fetched, from one end on.

    Attributes:
        space, start, end, reverse, heads: What was asked for; `heads`: only the first bytes of each record.
        keys: The keys that were fetched, ascending.
        records: What stands under them.
        covered: Up to where (or, reversed, down to where) all rows are here; None once all of the range is.
    """

    def __init__(self, space: Keyspace, start: bytes, end: bytes | None, reverse: bool, heads: bool) -> None:
        self.space, self.start, self.end = space, start, end
        self.reverse, self.heads = reverse, heads
        self.keys: list[bytes] = []
        self.records: dict[bytes, Record] = {}
        self.covered: bytes | None = end if reverse else start
        self.complete = False
        self.rows = 0  # how many are to be fetched next
        self.bytes = 0

    @property
    def full(self) -> bool:
        """Whether no more of it is to be fetched: another one begins where it ends."""
        return not self.complete and self.bytes >= PAGE_BYTES_MAX

    def holds(self, space: Keyspace, start: bytes, end: bytes | None, reverse: bool, heads: bool) -> bool:
        """Whether a walk over this range may use it, and go on with it."""
        if (space, reverse, heads) != (self.space, self.reverse, self.heads):
            return False
        if reverse:
            within = self.end is None or (end is not None and end <= self.end)
            reached = end == self.end or (end is not None and self.covered is not None and end >= self.covered)
            if self.full and end == self.covered:
                return False
            return start == self.start and within and (self.complete or reached)
        if self.full and start == self.covered:
            return False
        return end == self.end and start >= self.start and (self.complete or start <= (self.covered or b""))

    def add(self, rows: list[tuple[bytes, Record]], more: bool) -> None:
        prefix = len(self.space.prefix)
        self.bytes += sum([len(row) + len(record) for row, record in rows])
        keys = [row[0][prefix:] for row in rows]
        self.records.update(zip(keys, (row[1] for row in rows), strict=True))
        if self.reverse:
            self.keys[:0] = reversed(keys)
            self.covered = keys[-1] if keys else self.covered
        else:
            self.keys += keys
            self.covered = keys[-1] + b"\0" if keys else self.covered
        self.complete = not more

    def fetched(self, start: bytes, end: bytes | None) -> list[bytes]:
        """The keys of a range that are here, ascending."""
        low = bisect_left(self.keys, start)
        high = len(self.keys) if end is None else bisect_left(self.keys, end)
        return self.keys[low:high]


class Gathered:
    """What one transaction has fetched.

    Attributes:
        view: The view that is pinned for it.
        rows: Records by their row, None where there is none.
        segments: Ranges.
        counts: Per generation, its count of keys and the seqno as of which it is.
        failure: Why something could not be fetched.
        bytes: What all of it takes, about.
    """

    def __init__(self, view: int) -> None:
        self.view = view
        self.rows: dict[bytes, Record | None] = {}
        self.segments: list[Segment] = []
        self.counts: dict[Keyspace, tuple[int, int]] = {}
        self.failure: BaseException | None = None
        self.bytes = 0


class Gatherer:
    """Fetches what transactions need."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._asked: dict[tuple[int, bytes], list[_Told]] = {}
        self._batch: list[tuple[int, Keyspace, bytes]] = []
        self.cold_reads = 0

    def row(self, view: int, space: Keyspace, key: bytes, told: _Told) -> None:
        """Asks for the row of a key, together with what else is asked for in this turn."""
        asked = self._asked.get((view, space.prefix + key))
        if asked is not None:
            asked.append(told)
            return
        self._asked[view, space.prefix + key] = [told]
        if not self._batch:
            self._store.spawn.soon(self._send)
        self._batch.append((view, space, key))

    def _send(self) -> None:
        batch, self._batch = self._batch, []
        self.cold_reads += len(batch)
        views: dict[int, list[tuple[Keyspace, bytes]]] = {}
        for view, space, key in batch:
            views.setdefault(view, []).append((space, key))
        for view, wanted in views.items():
            for at in range(0, len(wanted), ROWS_AT_ONCE):
                self._ask(view, wanted[at : at + ROWS_AT_ONCE])

    def _ask(self, view: int, wanted: list[tuple[Keyspace, bytes]]) -> None:
        def answered(result: list[Record | None] | None, error: BaseException | None) -> None:
            records = result if result is not None else [None] * len(wanted)
            if len(records) < len(wanted):
                self._ask(view, wanted[len(records) :])  # what is here is as much as one answer may hold
            for (space, key), record in zip(wanted, records, strict=False):
                if error is None:
                    self._fill(view, space, key, record)
                for told in self._asked.pop((view, space.prefix + key), ()):
                    told(record, error)

        ground = self._store.ground
        assert ground is not None
        ground.call("get", view, ([space.prefix + key for space, key in wanted],), answered)

    def _fill(self, view: int, space: Keyspace, key: bytes, record: Record | None) -> None:
        """S3: only what the newest view says, and what no memtable covers, may be remembered."""
        views = self._store.views
        if view == views.newest and space.in_memory(key) is None:
            views.cache.put(space.prefix + key, record)

    def page(self, gathered: Gathered, segment: Segment, done: Callable[[BaseException | None], None]) -> None:
        """Fetches the next rows of a range."""
        prefix = segment.space.prefix
        covered = segment.covered
        if segment.reverse:
            low, high = segment.start, covered
        else:
            low, high = covered or b"", segment.end

        def answered(result: Any, error: BaseException | None) -> None:
            if error is None:
                before = segment.bytes
                segment.add(*result)
                gathered.bytes += segment.bytes - before
            done(error)

        ground = self._store.ground
        assert ground is not None
        behind = layout.behind(prefix) if high is None else prefix + high
        arguments = (prefix + low, behind, segment.rows, PAGE_BYTES_MAX, segment.reverse, segment.heads)
        ground.call("page", gathered.view, arguments, answered)

    def gather(self, gathered: Gathered, needs: list[Any]) -> Wait:
        """Fetches what a run has noted: (space, key) for a row, a Segment for more of a range, a Keyspace to count."""
        wait = Wait(cold=True)
        left = len(needs)

        def settled(error: BaseException | None) -> None:
            nonlocal left
            left -= 1
            if error is not None:
                gathered.failure = error
            if not left:
                wait.fire()

        for need in needs:
            if isinstance(need, Segment):
                self.page(gathered, need, settled)
            elif isinstance(need, tuple):
                self._row_of(gathered, need[0], need[1], settled)
            else:
                self._store.counts.of(need, self._counted(gathered, need, settled))
        return wait

    def _row_of(
        self, gathered: Gathered, space: Keyspace, key: bytes, settled: Callable[[BaseException | None], None]
    ) -> None:
        def told(record: Record | None, error: BaseException | None) -> None:
            if error is None:  # else nothing is known of it, not that it is absent
                gathered.rows[space.prefix + key] = record
                gathered.bytes += len(record or b"")
            settled(error)

        self.row(gathered.view, space, key, told)

    @staticmethod
    def _counted(
        gathered: Gathered, space: Keyspace, settled: Callable[[BaseException | None], None]
    ) -> Callable[[int, int, BaseException | None], None]:
        def counted(count: int, seqno: int, error: BaseException | None) -> None:
            if error is None:
                gathered.counts[space] = (count, seqno)
            settled(error)

        return counted
