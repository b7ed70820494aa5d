"""Store and Transaction in memory mode against plain dicts.

The model is a list of dicts, key to (value, expires, flags); a transaction's own writes go to a copy of it, which takes
the place of the other at its commit. Time is moved by hand. Several steps may fall into one transaction, as in EXEC.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

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

# Few, so that steps meet; some are neighbours, between which no other key has room.
_KEYS = st.sampled_from([b"", b"\0", b"a", b"a\0", b"a\0\0", b"b", b"c", b"d", b"\xff", b"\xff\xff"])
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
        # Deadlines lie ahead, at this moment, and behind it; most keys have none.
        self.put_one(key, value, flags, life - 20 if life > 15 else 0)

    def put_one(self, key: bytes, value: bytes, flags: int, life: int) -> None:
        expires = self._moment() + life if life else 0
        self.tx.put(key, value, expires, flags)
        self.own[self.tx.database][key] = value, expires, flags

    @rule(keys=st.lists(_KEYS, min_size=2), life=st.sampled_from([0, 0, 3]))
    def put_many(self, keys: list[bytes], life: int) -> None:
        for number, key in enumerate(keys):
            self.put_one(key, b"%d" % number, 0, life)

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

    @rule(start=st.just(b"") | _KEYS, end=st.none() | _KEYS, limit=st.integers(1, 8))
    def scan(self, start: bytes, end: bytes | None, limit: int) -> None:
        expected = [row for row in sorted(self._alive().items()) if row[0] >= start and (end is None or row[0] < end)]
        assert self._pages(start, end, limit, reverse=False) == expected
        assert self._pages(start, end, limit, reverse=True) == expected[::-1]

    def _pages(self, start: bytes, end: bytes | None, limit: int, *, reverse: bool) -> list[tuple[bytes, _Entry]]:
        """A scan page by page; each looks at no more than it may."""
        found: list[tuple[bytes, _Entry]] = []
        while True:
            rows, following = self.base.drive(self.tx.scan(start, end, limit, reverse=reverse))
            assert len(rows) <= limit
            found += _rows(rows)
            if following is None:
                return found
            if reverse:
                assert end is None or following < end
                end = following
            else:
                assert following > start
                start = following

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
        self._look_at(database)

    @rule(one=_NUMBERS, other=_NUMBERS)
    def swap(self, one: int, other: int) -> None:
        self.tx.swap(one, other)
        self.own[one], self.own[other] = self.own[other], self.own[one]
        self._look_at(one)
        self._look_at(other)

    def _look_at(self, database: int) -> None:
        home, self.tx.database = self.tx.database, database
        self.walk_all()
        self.count()
        self.tx.database = home

    @rule(by=st.integers(1, 20))
    def time_passes(self, by: int) -> None:
        """Outside of the transaction's moment: what it sees does not change before its end."""
        self.base.clock.ms += by

    # ends

    @rule(met=st.lists(_KEYS), keys=st.lists(_KEYS), flushed=st.booleans())
    def a_failed_command_leaves_nothing(self, met: list[bytes], keys: list[bytes], flushed: bool) -> None:
        mark, before = self.tx.mark(), [dict(space) for space in self.own]
        home = self.tx.database
        for key in met:
            self.get(key)
        if flushed:
            self.flush(home)
        self.put_many(keys, 0)
        lapsed = any(operation[0] == LAPSE for operation in self.tx.operations[mark:])
        self.tx.undo(mark)
        # Not the deletion of what had expired, which may have been the transaction's own: only the time stays true.
        assert self.tx.operations[mark:] == []
        assert self.tx.carries_time or not lapsed
        self.own = before

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
            assert not self.base.store.garbage


TestTransactionModel: Any = TransactionModel.TestCase
# Its steps are cheap, and what it looks for needs several of them to meet.
TestTransactionModel.settings = settings(max_examples=5 * settings().max_examples)
