"""Counts that are honest without a look at the disk for each write (S5).

A write to a key that nobody has looked up counts as if the base had not had it, and the key is remembered as blind.
After a flush the helper looks up the blind keys of that run, little by little, in the view before it; what it finds
corrects the count. Where that can't keep up with the flushes, the base's share of a generation is marked inexact
instead, and once somebody asks for it all of it is counted. Only the run's meta row survives a restart, so a generation
whose blind keys were not looked up by then begins inexact, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from keyhaus.store import layout

if TYPE_CHECKING:
    from keyhaus.store.keyspace import Keyspace, Table
    from keyhaus.store.record import Record
    from keyhaus.store.store import Store

STEP_KEYS: Final = 128  # looked up at once, beside what clients read
COUNT_ROWS: Final = 4000  # counted at once: some milliseconds
COUNT_BYTES: Final = 4 << 20
BACKLOG_MAX: Final = 2  # tables whose blind keys wait to be looked up
ROUNDS_MAX: Final = 5  # after so many, commits wait until a count is told

_Told: TypeAlias = Callable[[int, int, BaseException | None], None]
_Done: TypeAlias = Callable[[BaseException | None], None]


class Counts:
    """Settles the counts of a store's generations."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._backlog: deque[tuple[int, Keyspace, Table]] = deque()
        self._busy = False
        self._asked: dict[Keyspace, list[_Told]] = {}

    # after a flush

    def flushed(self, view: int, space: Keyspace, table: Table) -> None:
        """A table with blind keys goes into the base; `view`, the one before it, is still the newest."""
        if space.inexact or len(self._backlog) >= BACKLOG_MAX:
            space.inexact = True
            table.blind = {}
            return
        space.settling.append(table)
        self._store.views.hold()
        self._backlog.append((view, space, table))
        self._store.spawn.soon(self._work)

    def _work(self) -> None:
        """One step for the first of the backlog."""
        if self._busy or not self._backlog:
            return
        view, space, table = self._backlog[0]
        if space.inexact or not table.blind or space not in self._store.spaces:
            self._backlog.popleft()
            table.blind = {}
            space.settling = [other for other in space.settling if other is not table]
            self._store.views.unhold(view)
            self._store.spawn.soon(self._work)
            return
        self._busy = True

        def looked(error: BaseException | None) -> None:
            self._busy = False
            if error is not None:
                space.inexact = True
            self._store.spawn.soon(self._work)

        self._look(view, space, table, looked)

    def _look(self, view: int, space: Keyspace, table: Keyspace | Table, done: _Done) -> None:
        """Looks up some of the blind keys of a table, in a view without it and with all below it."""
        keys = [key for key, _ in zip(table.blind, range(STEP_KEYS), strict=False)]

        def answered(result: list[Record | None] | None, error: BaseException | None) -> None:
            latest = table is space or table in space.sealed or self._store.views.newest <= view + 1
            for key, record in zip(keys, result or (), strict=False):
                space.settle(table, key, record, latest=latest)
            done(error)

        ground = self._store.ground
        assert ground is not None
        ground.call("get", view, ([space.prefix + key for key in keys],), answered)

    # on demand

    def of(self, space: Keyspace, told: _Told) -> None:
        """Tells the count of a generation's keys once it is exact, and the seqno as of which it is."""
        asked = self._asked.get(space)
        if asked is not None:
            asked.append(told)
            return
        self._asked[space] = [told]
        self._round(space, 1)

    def _round(self, space: Keyspace, number: int, error: BaseException | None = None) -> None:
        store = self._store
        if error is not None or space.exact():
            store.hold(space, held=False)
            for told in self._asked.pop(space):
                told(space.count, store.last, error)
            return
        if number == ROUNDS_MAX:
            store.hold(space, held=True)  # new blind keys come faster than they are looked up
        if space.inexact:
            self._recount(space, lambda error: self._round(space, number + 1, error))
        else:
            self._settle(space, lambda error: self._round(space, number + 1, error))

    def _settle(self, space: Keyspace, done: _Done) -> None:
        """Looks up what is blind now, a step at a time; what the base has already is waited for."""
        views = self._store.views
        # A table that was ingested is part of the newest view itself: its keys would seem to have been there before.
        tables: list[Keyspace | Table] = [table for table in reversed(space.sealed) if table not in space.settling]
        tables.append(space)
        table = next((table for table in tables if table.blind), None)
        if table is None:
            self._store.spawn.later(1, lambda: done(None))
            return
        view = views.hold()

        def looked(error: BaseException | None) -> None:
            views.unhold(view)
            if error is None and table.blind and table in tables and len(table.blind) > STEP_KEYS:
                return self._settle(space, done)
            done(error)

        self._look(view, space, table, looked)

    def _recount(self, space: Keyspace, done: _Done) -> None:
        """Counts what the base has of a generation, in slices."""
        store = self._store
        view = store.views.hold()
        for table in space.settling:
            if table in space.sealed:  # not retired yet, but in the view that is counted
                space.counted_into_base(table)
        assumed = (space.base_count, space.base_volatile)
        space.inexact, space.recounting = False, True
        for table in space.settling:
            table.blind = {}  # it is counted with all the rest
        count = volatile = 0

        def finish(error: BaseException | None) -> None:
            space.recounting = False
            store.views.unhold(view)
            if error is None:
                space.base_count += count - assumed[0]
                space.base_volatile += volatile - assumed[1]
            else:
                space.inexact = True
            done(error)

        def counted(result: Any, error: BaseException | None) -> None:
            nonlocal count, volatile
            if error is not None:
                return finish(error)
            count += result[0]
            volatile += result[1]
            if result[2] is None:
                return finish(None)
            step(result[2])

        def step(start: bytes) -> None:
            ground = store.ground
            assert ground is not None
            ground.call("count", view, (start, layout.behind(space.prefix), COUNT_ROWS, COUNT_BYTES), counted)

        step(space.prefix)
