"""Store and Transaction in memory mode against plain dicts.

The model is a list of dicts, key to (value, expires, flags); a transaction's own writes go to a copy of it, which takes
the place of the other at its commit. Time is moved by hand. Several steps may fall into one transaction, as in EXEC.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keyhaus.core import limits
from keyhaus.core.errors import TransactionTooLarge
from keyhaus.journal.format import LAPSE
from keyhaus.store import ordered
from keyhaus.store import record as rec
from keyhaus.store.record import BYTES, OBJECT
from keyhaus.store.transaction import Transaction
from tests.support.turns import Loopless

_DATABASES = 3
_MOST_BYTES = 4096
_Entry = tuple[bytes, int, int]
_Model = list[dict[bytes, _Entry]]

_KEYS = st.binary(max_size=2) | st.sampled_from([b"a", b"b", b"c", b"a\0", b"\xff"])
_NUMBERS = st.integers(0, _DATABASES - 1)


def _rows(rows: list[tuple[bytes, bytes]]) -> list[tuple[bytes, _Entry]]:
    return [(key, _entry(record)) for key, record in rows]


def _entry(record: bytes) -> _Entry:
    return rec.value_of(record), rec.expires_of(record), rec.flags_of(record)


class TransactionModel(RuleBasedStateMachine):
    @initialize(bucket_keys=st.integers(1, 5))
    def begin(self, bucket_keys: int) -> None:
        self.small = patch.object(ordered, "BUCKET_KEYS", bucket_keys)
        self.small.start()
        self.base = Loopless(databases=_DATABASES, max_transaction_bytes=_MOST_BYTES)
        self.tx = Transaction(self.base.store)
        self.committed: _Model = [{} for _ in range(_DATABASES)]
        self.own: _Model = [{} for _ in range(_DATABASES)]
        self.marks: list[tuple[int, _Model]] = []
        # What one transaction reads and writes happens at one moment, that of its first look at the clock.
        self.now = 0

    def teardown(self) -> None:
        if hasattr(self, "small"):
            self.small.stop()

    # the model

    def _moment(self) -> int:
        if not self.now:
            self.now = self.base.clock.ms
            assert self.tx.now() == self.now
        return self.now

    def _alive(self, database: int | None = None) -> dict[bytes, _Entry]:
        now = self._moment()
        space = self.own[self.tx.database if database is None else database]
        return {key: entry for key, entry in space.items() if not entry[1] or entry[1] > now}

    def _forget(self, key: bytes) -> None:
        """What has expired is gone once it was looked at."""
        space = self.own[self.tx.database]
        if key in space and key not in self._alive():
            del space[key]

    # steps

    @rule(key=_KEYS, value=st.binary(max_size=4), flags=st.sampled_from([0, 0, BYTES, OBJECT]), life=st.integers(0, 30))
    def put(self, key: bytes, value: bytes, flags: int, life: int) -> None:
        # Deadlines lie ahead, at this moment, and behind it; half of the keys have none.
        expires = self._moment() + life - 5 if life > 15 else 0
        self.tx.put(key, value, expires, flags)
        self.own[self.tx.database][key] = value, expires, flags

    @rule(key=_KEYS)
    def delete(self, key: bytes) -> None:
        self.tx.delete(key)
        self.own[self.tx.database].pop(key, None)

    @rule(key=_KEYS)
    def get(self, key: bytes) -> None:
        expected = self._alive().get(key)
        record = self.tx.get(key)
        assert (None if record is None else _entry(record)) == expected
        self._forget(key)

    @rule(start=_KEYS, end=st.none() | _KEYS, limit=st.integers(1, 8), reverse=st.booleans())
    def scan(self, start: bytes, end: bytes | None, limit: int, reverse: bool) -> None:
        """Page by page; the pages join without a gap, and each looks at no more than it may."""
        expected = [
            row for row in sorted(self._alive().items()) if row[0] >= start and (end is None or row[0] < end)
        ]
        found: list[tuple[bytes, _Entry]] = []
        first: bytes | None = start
        while True:
            assert first is not None
            rows, following = self.base.drive(self.tx.scan(first, end, limit, reverse=reverse))
            assert len(rows) <= limit
            found += _rows(rows)
            if following is None:
                break
            assert following < (end or b"\xff" * 9) if reverse else following > first
            if reverse:
                end = following
            else:
                first = following
        assert found == (expected[::-1] if reverse else expected)

    @rule()
    def walk_all(self) -> None:
        assert sorted(_rows(list(self.tx.all()))) == sorted(self._alive().items())

    @rule()
    def random_key(self) -> None:
        key = self.base.drive(self.tx.random_key())
        alive = self._alive()
        assert key in alive if alive else key is None
        # Expired keys that it met on its way may be gone now.
        gone = {operation[2] for operation in self.tx.operations if operation[0] == LAPSE}
        for met in gone - alive.keys():
            self._forget(met)

    @rule()
    def count(self) -> None:
        assert self.tx.count() == len(self.own[self.tx.database])

    @rule(database=_NUMBERS)
    def select(self, database: int) -> None:
        self.tx.database = database

    @rule(database=_NUMBERS)
    def flush(self, database: int) -> None:
        self.tx.flush(database)
        self.own[database] = {}

    @rule(one=_NUMBERS, other=_NUMBERS)
    def swap(self, one: int, other: int) -> None:
        self.tx.swap(one, other)
        self.own[one], self.own[other] = self.own[other], self.own[one]

    @rule(by=st.integers(1, 20))
    def time_passes(self, by: int) -> None:
        """Outside of the transaction's moment: what it sees does not change before its end."""
        self.base.clock.ms += by

    # ends

    @rule()
    def mark(self) -> None:
        self.marks.append((self.tx.mark(), [dict(space) for space in self.own]))

    @precondition(lambda self: self.marks)
    @rule()
    def undo(self) -> None:
        mark, before = self.marks.pop()
        lapsed = [operation for operation in self.tx.operations[mark:] if operation[0] == LAPSE]
        self.tx.undo(mark)
        assert self.tx.operations[mark:] == lapsed
        self.own = before
        # A deletion of what had expired stays; at that place it deletes nothing else.
        for _, database, key in lapsed:
            if key not in self._alive(database):
                self.own[database].pop(key, None)

    @rule()
    def commit(self) -> None:
        before, changes = self.base.store.last, bool(self.tx.operations or self.tx.carries_time)
        assert self.tx.commit() is None
        assert self.base.store.last == before + changes
        self.committed = [dict(space) for space in self.own]
        self._end()

    @rule()
    def rollback(self) -> None:
        before = self.base.store.last
        self.tx.rollback()
        assert self.base.store.last == before
        self.own = [dict(space) for space in self.committed]
        self._end()

    @rule(key=_KEYS)
    def a_transaction_too_large_changes_nothing(self, key: bytes) -> None:
        before = self.base.store.last
        self.tx.put(key, b"x" * (_MOST_BYTES + 1))
        try:
            self.tx.commit()
        except TransactionTooLarge:
            self.tx.rollback()
        assert self.base.store.last == before
        self.own = [dict(space) for space in self.committed]
        self._end()

    @rule()
    def sweep(self) -> None:
        """The sweeper's work, done at once: nobody can tell but by the count."""
        self.rollback()
        now = self.base.store.now()
        for number, space in enumerate(self.base.store.spaces):
            keys = space.due(now, limits.SWEEP_KEYS_MAX)
            sweeper = Transaction(self.base.store, number)
            sweeper.operations = [(LAPSE, number, key) for key in keys]
            assert sweeper.commit() is None
            model = self.committed[number]
            assert set(keys) == {key for key, entry in model.items() if entry[1] and entry[1] <= now}
            for key in keys:
                del model[key]
        self.own = [dict(space) for space in self.committed]

    def _end(self) -> None:
        self.marks = []
        self.now = 0
        self.tx.begin()

    # always

    @invariant()
    def nothing_is_seen_before_its_commit(self) -> None:
        if not hasattr(self, "base"):
            return
        for number, space in enumerate(self.base.store.spaces):
            model = self.committed[number]
            assert {key: _entry(record) for key, record in space.records.items()} == model
            assert space.count == len(model)
            assert space.volatile == sum(1 for entry in model.values() if entry[1])

    @invariant()
    def dropped_generations_are_freed(self) -> None:
        if hasattr(self, "base"):
            while self.base.spawn.take_turn():
                pass
            assert not self.base.store._dropped


TestTransactionModel: Any = TransactionModel.TestCase
