"""The sweeper: deletes what has expired and nobody reads any more, in small commits of its own.

Reads filter expired keys and delete them as they meet them (lazy expiry); this is for the rest. It runs ten times a
second while there is anything with a deadline, and goes on at once where one commit was not enough. In memory a heap
says what is due; in the base it is the expiry index, whose rows are checked against the records: a row that no record
confirms is deleted with the next run.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from keyhaus.core.errors import Error
from keyhaus.core.limits import SWEEP_KEYS_MAX
from keyhaus.core.spawn import Spawn
from keyhaus.journal.format import LAPSE
from keyhaus.store import layout
from keyhaus.store import record as rec
from keyhaus.store.keyspace import Keyspace
from keyhaus.store.record import EXPIRES, TOMBSTONE, Record
from keyhaus.store.transaction import Transaction

if TYPE_CHECKING:
    from keyhaus.store.store import Store

log = logging.getLogger("keyhaus.store")

SWEEP_MS: Final = 100
SWEEP_MS_MAX: Final = 30_000
COME_BACK_KEYS: Final = 1000  # at once
INDEX_BYTES: Final = 1 << 20


class _Passed(NamedTuple):
    """What one look at the expiry index has passed over.

    Attributes:
        behind: Where the next look begins.
        first_locked: The first row whose key was locked; None for none.
        locked: How many there were.
    """

    behind: bytes
    first_locked: bytes | None
    locked: int


class Sweeper:
    """Turns the expiry index into deletions.

    Attributes:
        failed: Whether its last look into the base failed; it is repeated.
    """

    def __init__(self, store: Store, spawn: Spawn) -> None:
        self._store, self._spawn = store, spawn
        self._armed = self._closed = False
        self._looking = False
        self._flushed = False  # since the look that is under way began
        self._from = layout.DEADLINE  # where the rows of the index begin that were not looked at yet
        self._first_locked: bytes | None = None  # the first row before that whose key was locked
        self._locked_rows = 0  # how many there were
        self._locked_due: list[tuple[Keyspace, bytes]] = []  # keys in memory that are due, and were locked
        self._come_back_ns = 0  # when these are looked at again
        self._next_ms: int | None = None  # when the first of them is due; None where there is none
        self.failed = False
        self._failures = 0  # in a row

    def deadline(self) -> None:
        """There is a key with a deadline."""
        if not self._armed and not self._closed:
            self._armed = True
            self._spawn.later(SWEEP_MS, self._sweep)

    def close(self) -> None:
        self._closed = True

    def _sweep(self) -> None:
        self._armed = False
        if self._closed:
            return
        if self._locked_due and self._store.monotonic_ns() >= self._come_back_ns:
            self._come_back()
        more = sum(self._sweep_one(number) for number in range(len(self._store.spaces)))
        if self._next_ms is not None and self._next_ms <= self._store.now():
            self.look_below()
        if self._next_ms is not None or self._locked_due or any(space.deadlines for space in self._store.spaces):
            self._armed = True
            if more:
                self._spawn.soon(self._sweep)
            else:
                self._spawn.later(SWEEP_MS, self._sweep)

    def _sweep_one(self, number: int) -> bool:
        """One commit for one database; whether there is more to do."""
        space = self._store.spaces[number]
        now = self._store.now()
        keys = space.due(now, SWEEP_KEYS_MAX)
        first = space.deadlines.first()
        more = first is not None and first[0] <= now
        if not keys:
            return more
        locked = self._lapse(number, keys)
        if locked is None:
            space.still_due(keys)
            return False
        if locked:
            self._locked_due += [(space, key) for key in locked]
            self._come_back_ns = self._store.monotonic_ns() + _patience_ms(len(self._locked_due)) * 1_000_000
        return more

    def _come_back(self) -> None:
        """Some keys that were locked are looked at again."""
        for space, key in self._locked_due[-COME_BACK_KEYS:]:
            space.still_due([key])
        del self._locked_due[-COME_BACK_KEYS:]

    def _lapse(self, number: int, keys: list[bytes]) -> list[bytes] | None:
        """Deletes keys, in one commit, but for those under a lock, which it gives (T2); None where nothing is done."""
        locks = self._store.locks
        locked = {key: None for key in keys if locks.locked(number, key)} if locks.active else {}
        free = [key for key in keys if key not in locked] if locked else keys
        transaction = Transaction(self._store, number)
        transaction.operations = [(LAPSE, number, key) for key in free]
        try:
            return list(locked) if transaction.commit() is None else None
        except Error:
            return None  # full or poisoned: tried again later

    # in the base

    def look_below(self) -> None:
        """Looks at the first rows of the base's expiry index that were not looked at yet, if they are due.

        To be called after each flush too, since a run may bring rows that are due before those.
        """
        store = self._store
        ground = store.ground
        if ground is None or self._looking or self._closed:
            return
        if store.views.many_dead_deadlines:
            assert store.flusher is not None
            store.flusher.want()  # they go with a run; until then there is no point in finding more
            return
        self._looking, self.failed, self._flushed = True, False, False
        view = store.views.pin()
        now = store.now()

        def found(result: Any, error: BaseException | None) -> None:
            if error is None and not self._closed:
                self._failures = 0
                self._judge([row for row, _ in result[0]], view, now)
            else:
                self.failed = True
                self._failures += error is not None
                if self._failures == 1 and error is not None:
                    log.warning("what has expired in the base can't be found: %s; it is tried again", error)
                self._end(view, now + min(SWEEP_MS << min(self._failures, 10), SWEEP_MS_MAX))

        behind = bytes([layout.DEADLINE[0] + 1])
        ground.call("page", view, (self._from, behind, SWEEP_KEYS_MAX, INDEX_BYTES, False, True), found)

    def flushed(self) -> None:
        """There is a new run: what was looked at is gone from the index, and there may be earlier rows."""
        self._from, self._first_locked, self._locked_rows = layout.DEADLINE, None, 0
        self._flushed = True  # a look under way is at the view before
        self.look_below()

    def _end(self, view: int, next_ms: int | None) -> None:
        self._looking = False
        self._store.views.unpin(view)
        self._next_ms = next_ms
        if next_ms is not None:
            self.deadline()
        if self._flushed:
            self._spawn.soon(self.look_below)

    def _judge(self, rows: list[bytes], view: int, now: int) -> None:
        """Rows of the index in their order: the records of those that are due are looked at."""
        spaces = {space.prefix: space for space in self._store.spaces}
        due: list[bytes] = []
        asked: list[tuple[Keyspace, bytes, int]] = []
        passed = _Passed(self._from, None, 0)
        next_ms: int | None = None
        for row in rows:
            expires, prefix, key = layout.read_deadline(row)
            if expires > now:
                next_ms = expires
                break
            space = spaces.get(prefix)
            if space is not None and self._store.locked(space, key):
                passed = _Passed(row + b"\0", passed.first_locked or row, passed.locked + 1)
                continue
            passed = passed._replace(behind=row + b"\0")
            due.append(row)
            if space is not None:  # else its generation was dropped
                asked.append((space, key, expires))
        if not due:
            if passed.locked:  # perhaps not those that follow
                self._pass(passed)
                self._end(view, now)
                self._spawn.soon(self.look_below)
                return None
            if self._first_locked is not None:
                next_ms = now + _patience_ms(self._locked_rows)
                self._from, self._first_locked, self._locked_rows = self._first_locked, None, 0
            return self._end(view, next_ms)
        answers: list[tuple[Keyspace, bytes, int, Record | None]] = []

        def answered(space: Keyspace, key: bytes, expires: int, record: Record | None, failed: bool = False) -> None:
            self.failed = self.failed or failed
            answers.append((space, key, expires, record))
            if len(answers) == len(asked):
                self._settle(answers, due, passed, view)

        if not asked:
            return self._settle(answers, due, passed, view)
        for space, key, expires in asked:
            self._ask(space, key, expires, view, answered)
        return None

    def _pass(self, passed: _Passed) -> None:
        """Rows are looked at, and the next look begins behind them; after a flush all of them are looked at anew."""
        if self._flushed:
            return
        self._from = passed.behind
        self._first_locked = self._first_locked or passed.first_locked
        self._locked_rows += passed.locked

    def _ask(self, space: Keyspace, key: bytes, expires: int, view: int, answered: Any) -> None:
        def told(record: Record | None, error: BaseException | None) -> None:
            answered(space, key, expires, record, error is not None)

        if _newest(space, view, key, None) is not None:
            answered(space, key, expires, None)
        else:
            self._store.gatherer.row(view, space, key, told)

    def _settle(
        self, answers: list[tuple[Keyspace, bytes, int, Record | None]], due: list[bytes], passed: _Passed, view: int
    ) -> None:
        """What the newest records confirm is deleted; the rows of what is done are gone, and are not looked at again.

        The rows were answered one after another, and clients wrote meanwhile: the records that count are those of now.
        """
        store = self._store
        confirmed: dict[Keyspace, list[bytes]] = {}
        for space, key, expires, below in answers:
            record = _newest(space, view, key, below)
            if record is None or record[7] & TOMBSTONE or not record[7] & EXPIRES:
                continue
            if rec.expires_of(record) == expires:
                confirmed.setdefault(space, []).append(key)
        spaces = store.spaces
        # What was locked while the rows came is left: all of these are looked at once more.
        done = [self._lapse(spaces.index(space), keys) == [] for space, keys in confirmed.items() if space in spaces]
        now = store.now()
        if all(done) and not self.failed:
            self._pass(passed)
            store.views.forget_deadlines(due)
            self._end(view, now)
            self._spawn.soon(self.look_below)
        else:
            self._end(view, now + SWEEP_MS)


def _patience_ms(locked: int) -> int:
    """After how long locked keys are looked at again: the more there are, the later, so that they take little time."""
    return SWEEP_MS * (1 + locked // SWEEP_KEYS_MAX)


def _newest(space: Keyspace, view: int, key: bytes, below: Record | None) -> Record | None:
    """The newest record or tombstone of a key, `below` being what a view of the base has."""
    for table in space.tables(view):
        record = table.records.get(key)
        if record is not None:
            return record
    return below
