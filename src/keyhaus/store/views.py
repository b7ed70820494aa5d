"""Views of the base and what is kept in memory for those who read older ones (S2, S8).

The base has a new view with each flush. Whoever reads it pins the view that is the newest then: that view stays, and so
does every memtable that was flushed into a later one, since together they are what the reader has to see. Snapshots
are pins with a sequence number: while any is open, a record that is replaced is kept beside its successor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from keyhaus.store.cache import RowCache

if TYPE_CHECKING:
    from keyhaus.store.keyspace import Keyspace, Table

DEAD_DEADLINE_BYTES_MAX: Final = 32 << 20
DEAD_DEADLINE_BYTES: Final = 64  # what one takes beside its row's bytes


class Views:
    """What is shared by all generations of a store.

    Attributes:
        newest: The number of the base's newest view.
        cache: Rows of that view.
        keep: The seqno of the newest snapshot; a record up to it is kept when it is replaced. 0 where there is none.
        version_bytes: What the kept records take, about.
        retired_bytes: What memtables take that are flushed and still needed by readers of older views.
        dead_deadlines: Rows of the base's expiry index that no record confirms any more; the next run deletes them.
        version_bytes_alarm: From how many on `alarm` wants to hear of each more.
        alarm: Told that much is kept.
        release: Tells the base that a view is not needed any more.
        free: Lets go of a table that nobody reads any more.
        dress: Gives a new generation what eviction keeps of it.
    """

    def __init__(self) -> None:
        self.newest = 0
        self.cache = RowCache()
        self.keep = 0
        self.version_bytes = 0
        self.version_bytes_alarm = 0
        self.alarm: Callable[[], None] = lambda: None
        self.retired_bytes = 0
        self.dead_deadlines: list[bytes] = []
        self._dead_deadline_bytes = 0
        self.release: Callable[[int], None] = lambda view: None
        self.free: Callable[[Any], None] = lambda table: None
        self.dress: Callable[[Keyspace], None] = lambda space: None
        self._pins: dict[int, int] = {}
        self._held: dict[int, int] = {}
        self._retired: deque[tuple[int, Keyspace, Table]] = deque()

    @property
    def many_dead_deadlines(self) -> bool:
        """Whether no more are to be kept: the sweeper finds the others once they are due."""
        return self._dead_deadline_bytes >= DEAD_DEADLINE_BYTES_MAX

    def forget_deadlines(self, rows: list[bytes]) -> None:
        """Rows of the base's expiry index that no record confirms any more."""
        self.dead_deadlines += rows
        self._dead_deadline_bytes += sum([len(row) + DEAD_DEADLINE_BYTES for row in rows])

    def take_dead_deadlines(self) -> list[bytes]:
        """Hands them over to the run that deletes them."""
        rows, self.dead_deadlines, self._dead_deadline_bytes = self.dead_deadlines, [], 0
        return rows

    def pin(self) -> int:
        """Pins the newest view; its number."""
        view = self.newest
        self._pins[view] = self._pins.get(view, 0) + 1
        return view

    def pin_again(self, view: int) -> int:
        """Pins a view that is pinned already; its number."""
        self._pins[view] += 1
        return view

    def unpin(self, view: int) -> None:
        left = self._pins[view] - 1
        if left:
            self._pins[view] = left
            return
        del self._pins[view]
        if view < self.newest:
            if view not in self._held:
                self.release(view)
            self._let_go()

    def hold(self) -> int:
        """Keeps the newest view in the base, but no memtable for it: for who only asks what the base had."""
        view = self.newest
        self._held[view] = self._held.get(view, 0) + 1
        return view

    def unhold(self, view: int) -> None:
        left = self._held[view] - 1
        if left:
            self._held[view] = left
            return
        del self._held[view]
        if view < self.newest and view not in self._pins:
            self.release(view)

    def pinned(self) -> int:
        """How many readers there are."""
        return sum(self._pins.values()) + sum(self._held.values())

    def oldest(self) -> int:
        """The oldest view that anybody reads."""
        return min(self._pins, default=self.newest)

    def advance(self) -> None:
        """A run was ingested."""
        before = self.newest
        self.newest += 1
        if before not in self._pins and before not in self._held:
            self.release(before)

    def retire(self, space: Keyspace, table: Table) -> None:
        """A sealed table is in the newest view, and the row cache knows: it goes, or stays for older readers."""
        space.retired_into_base(table)
        if self.oldest() < self.newest:
            space.retired.insert(0, (self.newest, table))
            self._retired.append((self.newest, space, table))
            self.retired_bytes += table.bytes
        else:
            self.free(table)

    def _let_go(self) -> None:
        oldest = self.oldest()
        while self._retired and self._retired[0][0] <= oldest:
            _, space, table = self._retired.popleft()
            space.retired = [entry for entry in space.retired if entry[1] is not table]
            self.retired_bytes -= table.bytes
            self.free(table)
