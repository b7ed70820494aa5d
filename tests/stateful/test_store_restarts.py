"""The store over a simulated disk against a dict: every kind of commit, and every kind of end, in any order.

After a clean stop everything is there. After a kill, everything that was written; after a power cut, everything that an
asker with `always` could have been told of; and of the rest a prefix of the commits' order, never a part from its
middle, never half a commit, and never what an earlier restart had lost. Every value is used once, so that it is
recognised.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from keyhaus.core.settings import Settings
from keyhaus.store.record import expires_of, value_of
from keyhaus.store.store import Store
from keyhaus.store.transaction import Transaction
from tests.support.simulation import Crash, SimulatedDisk, SimulatedSpawn
from tests.support.turns import ManualClock

DATABASES = 3
KEYS = [b"", b"a", b"a\0", b"b", b"\xff"]
STEPS = ["nothing", "nothing", "turn", "work", "work", "ring", "settle", "sync"]
State = list[dict[bytes, tuple[bytes, int]]]  # per database: key to value and deadline, 0 for none

databases = st.integers(0, DATABASES - 1)
keys = st.sampled_from(KEYS)
ttls = st.sampled_from([0, 0, 0, 1, 50, 500, 100_000])
sizes = st.sampled_from([0, 1, 30, 5_000, 20_000])
operations = st.one_of(
    st.tuples(st.just("put"), databases, keys, sizes, ttls),
    st.tuples(st.just("put"), databases, keys, sizes, ttls),
    st.tuples(st.just("delete"), databases, keys),
    st.tuples(st.just("flush"), databases),
    st.tuples(st.just("swap"), databases, databases),
)


class Commit(NamedTuple):
    """One point of the order: its number, and everything that was there then."""

    seqno: int
    state: State


def copied(state: State) -> State:
    return [dict(space) for space in state]


class Restarts(RuleBasedStateMachine):
    """One database through its lives."""

    @initialize(seed=st.integers(0, 1 << 32))
    def first_start(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.disk = SimulatedDisk(self.random)
        self.clock = ManualClock()
        self.settings = Settings(databases=DATABASES, journal_segment_bytes=64 << 10)
        self.values = 0
        self.state: State = [{} for _ in range(DATABASES)]
        self.order: list[Commit] = []
        self.start()

    # lives

    def start(self, crash_in: int | None = None) -> None:
        self.disk.crash_in = crash_in
        while True:
            self.spawn = SimulatedSpawn(self.random)
            try:
                self.store = Store.open(self.disk, self.spawn, self.clock, self.settings)
                break
            except Crash:
                self.disk.power_cut()
        self.disk.crash_in = None
        self.order.append(Commit(self.store.last, copied(self.state)))

    def visible(self, state: State) -> State:
        now = self.clock.ms
        return [{key: entry for key, entry in space.items() if not entry[1] or entry[1] > now} for space in state]

    def found(self) -> State:
        return self.visible(
            [
                {key: (value_of(record), expires_of(record)) for key, record in space.records.items()}
                for space in self.store.spaces
            ]
        )

    def restart(self, promised: int, crash_in: int | None = None) -> None:
        """Starts anew; what is there must be the state at a point of the order, not before `promised`."""
        order, self.order = self.order, []
        self.start(crash_in)
        found = self.found()
        floor = max(at for at, commit in enumerate(order) if commit.seqno <= promised or at == 0)
        matching = [commit for commit in order[floor:] if self.visible(commit.state) == found]
        assert matching, f"no point from {promised} on explains {found}"
        assert self.store.last > order[-1].seqno, "a number is given twice"
        self.state = copied(matching[0].state)
        self.order = [Commit(self.store.last, copied(self.state))]

    @rule(
        how=st.sampled_from(["stop", "kill", "power", "work"]),
        crash_in=st.none() | st.integers(0, 12),
        power=st.booleans(),
    )
    def end_a_life(self, how: str, crash_in: int | None, power: bool) -> None:
        if how == "stop":
            self.stop_cleanly()
        elif how == "kill":
            # What was written the kernel has; unless the power is cut while the next start is at work.
            promised = self.store.written if crash_in is None else self.store.synced
            self.disk.kill()
            self.restart(promised, crash_in)
        elif how == "power":
            self.disk.power_cut()
            self.restart(self.store.synced, crash_in)
        else:
            self.crash_at_work(crash_in or 0, power)

    def stop_cleanly(self) -> None:
        closed: list[BaseException | None] = []
        self.store.close(closed.append)
        self.spawn.settle()
        while not closed:
            assert self.spawn.ring(), "the close waits for something that never comes"
            self.spawn.settle()
        assert closed == [None]
        assert self.store.synced == self.store.last
        self.disk.power_cut()
        self.restart(self.order[-1].seqno)

    def crash_at_work(self, steps: int, power: bool) -> None:
        """The process stops in the middle of what its workers do."""
        self.disk.crash_in = steps
        try:
            self.spawn.settle()
        except Crash:
            promised = self.store.synced
            if power:
                self.disk.power_cut()
            else:
                self.disk.kill()
            self.restart(promised)
        self.disk.crash_in = None

    # commits

    def staged(self, transaction: Transaction, chosen: list[tuple[Any, ...]]) -> State:
        """Stages operations; what everything will be once they are committed."""
        state = self.visible(self.state)
        for name, database, *rest in chosen:
            transaction.database = database
            if name == "put":
                key, size, ttl = rest
                self.values += 1
                value = b"%d:" % self.values + bytes(size)
                expires = transaction.now() + ttl if ttl else 0
                transaction.put(key, value, expires)
                state[database][key] = (value, expires)
            elif name == "delete":
                transaction.delete(rest[0])
                state[database].pop(rest[0], None)
            elif name == "flush":
                transaction.flush(database)
                state[database] = {}
            else:
                transaction.swap(database, rest[0])
                state[database], state[rest[0]] = state[rest[0]], state[database]
        return state

    @rule(
        many=st.lists(st.lists(operations, min_size=1, max_size=4), min_size=1, max_size=12),
        demands=st.integers(0, 1 << 12),
        steps=st.lists(st.sampled_from(STEPS), max_size=12),
    )
    def commit_many(self, many: list[list[tuple[Any, ...]]], demands: int, steps: list[str]) -> None:
        """One commit after the other, the workers somewhere behind."""
        for number, chosen in enumerate(many):
            self.commit(chosen, bool(demands >> number & 1), number % DATABASES)
            if number < len(steps):
                self.take_a_step(steps[number])

    @rule(chosen=st.lists(operations, min_size=1, max_size=5), demanded=st.booleans(), looked_at=databases)
    def commit(self, chosen: list[tuple[Any, ...]], demanded: bool, looked_at: int) -> None:
        while True:
            transaction = Transaction(self.store)
            state = self.staged(transaction, chosen)
            # It sees its own writes before anybody else does.
            transaction.database = looked_at
            assert self.page(transaction) == sorted(
                (key, value) for key, (value, _) in self.visible(state)[looked_at].items()
            )
            for key in KEYS:
                record = transaction.get(key)
                entry = self.visible(state)[looked_at].get(key)
                assert (None if record is None else value_of(record)) == (entry[0] if entry else None)
            wait = transaction.commit()
            if wait is None:
                break
            self.spawn.settle()
            assert wait.fired or self.spawn.ring(), "the commit waits for something that never comes"
        self.state = state
        self.order.append(Commit(self.store.last, copied(state)))
        assert self.store.last == transaction.depends
        if demanded:
            assert self.store.journal is not None
            self.store.journal.demand(transaction.depends)

    @rule(demanded=st.booleans())
    def undo(self, demanded: bool) -> None:
        """What was staged and given up never happens."""
        before = self.store.last
        transaction = Transaction(self.store)
        self.staged(transaction, [("put", 0, b"a", 1, 0), ("flush", 1), ("swap", 0, 2)])
        transaction.rollback()
        assert transaction.commit() is None
        assert self.store.last == before

    # time passes

    @rule(ms=st.sampled_from([1, 60, 1_000, 200_000]))
    def wait(self, ms: int) -> None:
        self.clock.ms += ms

    @rule()
    def run_back(self) -> None:
        """S6: where the wall clock runs back, the store's stands still."""
        now = self.store.now()
        self.clock.ms -= 500
        assert self.store.now() == now
        self.clock.ms = now

    @rule(step=st.sampled_from(STEPS))
    def take_a_step(self, step: str) -> None:
        journal = self.store.journal
        assert journal is not None
        if step == "turn":
            self.spawn.turn()
        elif step == "work":
            for worker in self.spawn.workers:
                self.spawn.work(worker)
        elif step == "ring":  # the sweeper's timer, the idle journal's, the second of `everysec`
            self.spawn.ring()
        elif step == "settle":
            self.spawn.settle()
            assert self.store.written == self.store.last
        elif step == "sync":
            journal.demand(self.store.last)
            self.spawn.settle()
            assert self.store.synced == self.store.last

    # what is seen

    @staticmethod
    def page(transaction: Transaction, **named: Any) -> list[tuple[bytes, bytes]]:
        rows, following = transaction.page(b"", None, 1000, **named)
        assert following is None
        return [(key, value_of(record)) for key, record in rows]

    @invariant()
    def everything_is_seen(self) -> None:
        for database, space in enumerate(self.visible(self.state)):
            expected = sorted((key, value) for key, (value, _) in space.items())
            transaction = Transaction(self.store, database)
            assert self.page(transaction) == expected
            assert self.page(transaction, reverse=True) == expected[::-1]
            assert sorted((key, value_of(record)) for key, record in transaction.all()) == expected
            assert len(space) <= transaction.count() <= len(self.state[database]) + len(KEYS)
            transaction.rollback()
            for key in KEYS:
                single = Transaction(self.store, database)
                record = single.get(key)
                assert (None if record is None else (value_of(record), expires_of(record))) == space.get(key)
                single.rollback()

    @rule(database=databases, start=keys, end=st.none() | keys, limit=st.integers(1, 4), reverse=st.booleans())
    def scan_in_pages(self, database: int, start: bytes, end: bytes | None, limit: int, reverse: bool) -> None:
        space = self.visible(self.state)[database]
        expected = sorted(key for key in space if key >= start and (end is None or key < end))
        found: list[bytes] = []
        low, high = start, end
        for _ in range(2 * len(KEYS) + 2):
            rows, following = Transaction(self.store, database).page(low, high, limit, reverse=reverse)
            found += [key for key, _ in rows]
            if following is None:
                break
            low, high = (low, following) if reverse else (following, high)
        else:
            raise AssertionError("the pages have no end")
        assert found == (expected[::-1] if reverse else expected)

    @rule()
    def the_count_is_exact_once_all_is_swept(self) -> None:
        for _ in range(20):
            self.spawn.settle()
            firsts = [space.deadlines.first() for space in self.store.spaces]
            if not any(first is not None and first[0] <= self.clock.ms for first in firsts):
                break
            self.spawn.ring()
        for database, space in enumerate(self.visible(self.state)):
            assert Transaction(self.store, database).count() == len(space)
        self.order.append(Commit(self.store.last, copied(self.state)))

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.stop_cleanly()


TestRestarts = Restarts.TestCase
if settings.get_current_profile_name() == "default":
    TestRestarts.settings = settings(max_examples=150, stateful_step_count=50)
