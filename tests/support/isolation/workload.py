"""What the clients of a history send, out of its seed: few keys, so that they are in each other's way all the time.

    a b c …        anything may happen to them; in some histories there are many of them
    l0 l1 l2       lists: unique elements are appended, and nothing else
    r0 r1          registers: unique values are set, and nothing else

Histories of the graph's kind (check 2) leave the last two alone otherwise; there nobody empties or exchanges databases.
"""

from __future__ import annotations

import random
from typing import Any, Final

from tests.support.isolation.callers import Caller, State
from tests.support.isolation.operations import OPTIMISTIC, PESSIMISTIC, READONLY, Operation

LISTS: Final = [b"l0", b"l1", b"l2"]
REGISTERS: Final = [b"r0", b"r1"]
OPEN_MAX: Final = 3  # transactions of one client
MANY_KEYS: Final = 0.15  # of all histories
DATABASES: Final = 2  # that clients use


class Workload:
    """Attributes:
    graph: Whether the history is one for check 2.
    unit_ms: How long the shortest times are.

    Args:
        seed: The history's, for what must not change what `generator` gives: histories stay as they are for each seed.
    """

    def __init__(self, generator: random.Random, unit_ms: int, seed: int) -> None:
        self.random, self.unit_ms = generator, unit_ms
        choice = generator.choice
        self.graph = generator.random() < 0.5
        self.keys = [b"a", b"b", b"c", b"d", b"e"][: choice((2, 3, 4, 5))]
        if random.Random(f"keys {seed}").random() < MANY_KEYS:
            self.keys += [b"e%d" % number for number in range(10)]
        self._lockable = [*self.keys, *LISTS, *REGISTERS] if self.graph else self.keys
        self._values = 0
        self._begin_chance = choice((0.35, 0.55, 0.7))
        self._commit_chance = choice((0.15, 0.25, 0.4))
        self._optimistic = choice((0.1, 0.15, 0.3, 0.85))
        self._elsewhere = choice((0.0, 0.1, 0.3))  # in another database than the first
        self._short = choice((0.1, 0.3, 0.5))  # keys that get a deadline
        self._timeouts = choice((0.0, 0.0, 0.1))
        self._reads, self._writes = self._tables()

    def _tables(self) -> tuple[list[Any], list[Any]]:
        whole = 0 if self.graph else 1
        own = 12 if self.graph else 0
        reads = (
            (self._get, 8),
            (self._mget, 3),
            (self._range, self.random.choice((3, 6, 15))),
            (self._size, self.random.choice((2, 5, 12))),
            (self._names, 2),
            (self._ttl, 2),
            (self._list, own),
            (self._lists, own // 2),
            (self._register, own // 2),
        )
        writes = (
            (self._set, 7),
            (self._set_deadline, self.random.choice((4, 8, 20))),
            (self._set_options, 5),
            (self._number, 5),
            (self._mset, 3),
            (self._delete, 6),
            (self._expire, 4),
            (self._rename, 3),
            (self._copy, 3),
            (self._delrange, 3),
            (self._flush, whole),
            (self._append, own),
            (self._assign, own // 2),
        )
        return ([make for make, weight in table for _ in range(weight)] for table in (reads, writes))  # type: ignore[return-value]

    # what comes next

    def requests(self, caller: Caller, others: list[bytes]) -> list[list[bytes]]:
        """A pipeline; `others` are the transactions that anybody has named."""
        state, chance = caller.state, self.random.random()
        if state.queue is not None:
            return self._finish_multi()
        if chance < 0.02 and others:
            return [[b"TRANSACTION", self.random.choice((b"KILL", b"STATUS", b"STATUS")), self.random.choice(others)]]
        if chance < 0.024:
            return [[b"RESET"]]
        if state.current is not None:
            return self._within(state, state.current)
        if state.broken is not None:
            return [self._command(None), self.random.choice(([b"ROLLBACK"], [b"COMMIT"]))][self.random.randrange(2) :]
        if state.open and self.random.random() < 0.4:
            return [self._parked(state)]
        if state.marks:
            return self._watching(state)
        return self._fresh(state)

    def _fresh(self, state: State) -> list[list[bytes]]:
        chance = self.random.random()
        if chance < self._begin_chance:
            return self._begin()
        if chance < self._begin_chance + 0.04:
            return [[b"SELECT", b"%d" % self._database()]]
        if chance < self._begin_chance + 0.16:
            return [[b"WATCH", *self.random.sample(self._lockable, 2)]]
        if chance < self._begin_chance + 0.22:
            return self._multi()
        if chance < self._begin_chance + 0.24 and not self.graph:
            return [self.random.choice(([b"FLUSHALL"], [b"SWAPDB", b"0", b"1"]))]
        return [self._command(None)]

    def _watching(self, state: State) -> list[list[bytes]]:
        chance = self.random.random()
        if chance < 0.5:
            return [[b"GET", self.random.choice([key for _, key in state.marks])]]
        return [[b"UNWATCH"]] if chance < 0.53 else self._multi()

    def _multi(self) -> list[list[bytes]]:
        requests = [[b"MULTI"], *(self._queued() for _ in range(self.random.choice((1, 2, 2, 4))))]
        if self.random.random() < 0.1:
            requests.insert(self.random.randrange(1, len(requests)), [b"SELECT", b"%d" % self._database()])
        if not self.graph and self.random.random() < 0.1:
            requests.append(self.random.choice(([b"FLUSHALL"], [b"SWAPDB", b"0", b"1"])))
        return [*requests, [b"EXEC"]] if self.random.random() < 0.8 else requests

    def _queued(self) -> list[bytes]:
        # RANDOMKEY lets expired keys go that it meets: which, and so what comes after it counts, nobody could say.
        request = self._command(None)
        return [b"KEYS", b"*"] if request == [b"RANDOMKEY"] else request

    def _finish_multi(self) -> list[list[bytes]]:
        return [[b"EXEC"] if self.random.random() < 0.9 else [b"DISCARD"]]

    def _begin(self) -> list[list[bytes]]:
        chance, request = self.random.random(), [b"BEGIN"]
        mode = b"OPTIMISTIC" if chance < self._optimistic else b"READONLY" if chance > 0.92 else b"PESSIMISTIC"
        if mode != b"PESSIMISTIC" or self.random.random() < 0.5:
            request.append(mode)
        if self.random.random() < 0.15:
            request += [b"DURABILITY", self.random.choice((b"always", b"everysec", b"none"))]
        if self.random.random() < self._timeouts:
            request += [b"TIMEOUT", b"%d" % (self.unit_ms * self.random.choice((1, 5, 20)))]
        if self.random.random() < 0.85:
            return [request]
        inside = [self._command(mode.decode().lower()) for _ in range(self.random.choice((1, 2, 3)))]
        return [request, *inside, [b"COMMIT", b"WITHSEQNO"]]

    def _within(self, state: State, current: Operation) -> list[list[bytes]]:
        """A transaction is the current one."""
        chance = self.random.random()
        if chance < self._commit_chance and current.steps:
            return [self._commit(current if self.random.random() < 0.3 else None)]
        if chance > 0.98:
            return [[b"ROLLBACK"]]
        if chance > 0.93 and len(state.open) < OPEN_MAX:
            return self._begin()
        if chance > 0.9:
            return [self._parked(state)]
        if chance > 0.89:
            return [self.random.choice(([b"MULTI"], [b"WATCH", b"a"], [b"SELECT", b"1"], [b"FLUSHALL"]))]
        if chance > 0.82:  # several at once
            return [self._command(current.mode), self._command(current.mode), self._commit(None)]
        return [self._command(current.mode)]

    def _parked(self, state: State) -> list[bytes]:
        """Something for any of its transactions, by id."""
        operation = self.random.choice(list(state.open.values()))
        chance = self.random.random()
        if chance < 0.3:
            return self._commit(operation)
        return (
            [b"ROLLBACK", operation.name] if chance < 0.34 else [b"TX", operation.name, *self._command(operation.mode)]
        )

    def _commit(self, operation: Operation | None) -> list[bytes]:
        request = [b"COMMIT"] if operation is None else [b"COMMIT", operation.name]
        return [*request, b"WITHSEQNO"] if self.random.random() < 0.7 else request

    def last(self, caller: Caller) -> list[bytes] | None:
        """What brings a client's affairs to an end, one after another; None once there are none."""
        state = caller.state
        if state.queue is not None:
            return [b"EXEC"]
        if state.broken is not None:
            return [b"ROLLBACK"]
        for operation in state.open.values():
            return self._commit(operation) if self.random.random() < 0.8 else [b"ROLLBACK", operation.name]
        return None

    # commands

    def _command(self, mode: str | None) -> list[bytes]:
        chance = self.random.random()
        if mode == PESSIMISTIC and chance < 0.05:
            return [b"LOCK", *self.random.sample(self._lockable, self.random.choice((1, 2)))]
        reading = {READONLY: 0.95, OPTIMISTIC: 0.5, PESSIMISTIC: 0.45}.get(mode or "", 0.3)
        request: list[bytes] = self.random.choice(self._reads if self.random.random() < reading else self._writes)()
        return request

    def _key(self) -> bytes:
        return self.random.choice(self.keys)

    def _database(self) -> int:
        return self.random.randrange(DATABASES) if self.random.random() < 2 * self._elsewhere else 0

    def _value(self) -> bytes:
        self._values += 1
        return b"%d" % self._values if self.random.random() < 0.4 else b"v%d" % self._values

    def _deadline(self) -> list[bytes]:
        return [b"PX", b"%d" % (self.unit_ms * self.random.choice((1, 2, 3, 5, 8, 20)))]

    def _get(self) -> list[bytes]:
        return [self.random.choice((b"GET", b"GET", b"GET", b"STRLEN", b"EXISTS")), self._key()]

    def _mget(self) -> list[bytes]:
        return [self.random.choice((b"MGET", b"MGET", b"EXISTS")), *(self._key() for _ in range(2))]

    def _range(self) -> list[bytes]:
        start, end = sorted(self.random.sample([b"", *self.keys, b"f"], 2))
        request = [b"RANGE", start, self.random.choice((end, end, b""))]
        if self.random.random() < 0.3:
            request.append(b"REV")
        if self.random.random() < 0.5:
            request += [b"LIMIT", self.random.choice((b"1", b"2"))]
        return [*request, b"KEYS"] if self.random.random() < 0.3 else request

    def _size(self) -> list[bytes]:
        return [b"DBSIZE"]

    def _names(self) -> list[bytes]:
        return self.random.choice(([b"KEYS", b"*"], [b"RANDOMKEY"], [b"SCAN", b"0", b"COUNT", b"2"]))

    def _ttl(self) -> list[bytes]:
        return [self.random.choice((b"PTTL", b"PEXPIRETIME")), self._key()]

    def _set(self) -> list[bytes]:
        return [b"SET", self._key(), self._value()]

    def _set_deadline(self) -> list[bytes]:
        request = self._set()
        return [*request, *self._deadline()] if self.random.random() < 2 * self._short else request

    def _set_options(self) -> list[bytes]:
        options = ([b"NX"], [b"XX"], [b"GET"], [b"KEEPTTL"], [b"NX", *self._deadline()], [b"XX", b"GET"])
        return [*self._set(), *self.random.choice(options)]

    def _number(self) -> list[bytes]:
        return self.random.choice(
            ([b"INCR", self._key()], [b"INCRBY", self._key(), b"7"], [b"APPEND", self._key(), b"+"])
        )

    def _mset(self) -> list[bytes]:
        name = self.random.choice((b"MSET", b"MSET", b"MSETNX"))
        return [name, *(word for key in self.random.sample(self.keys, 2) for word in (key, self._value()))]

    def _delete(self) -> list[bytes]:
        return self.random.choice(
            ([b"DEL", self._key()], [b"DEL", *self.random.sample(self.keys, 2)], [b"GETDEL", self._key()])
        )

    def _expire(self) -> list[bytes]:
        if self.random.random() < 0.3:
            return [b"PERSIST", self._key()]
        return [b"PEXPIRE", self._key(), self._deadline()[1], *self.random.choice(([], [], [b"GT"], [b"NX"]))]

    def _rename(self) -> list[bytes]:
        return [self.random.choice((b"RENAME", b"RENAMENX")), *self.random.sample(self.keys, 2)]

    def _copy(self) -> list[bytes]:
        if self.random.random() < self._elsewhere:
            return [b"COPY", self._key(), self._key(), b"DB", b"1", b"REPLACE"]
        request = [b"COPY", *self.random.sample(self.keys, 2)]
        return [*request, b"REPLACE"] if self.random.random() < 0.6 else request

    def _delrange(self) -> list[bytes]:
        return [b"DELRANGE", *sorted(self.random.sample([b"", *self.keys, b"f"], 2))]

    def _flush(self) -> list[bytes]:
        return [b"FLUSHDB"]

    # lists and registers

    def _list(self) -> list[bytes]:
        return [b"GET", self.random.choice(LISTS)]

    def _lists(self) -> list[bytes]:
        return self.random.choice(([b"MGET", *LISTS, *REGISTERS], [b"RANGE", b"l", b"s"], [b"RANGE", b"l1", b"r1"]))

    def _register(self) -> list[bytes]:
        return [b"GET", self.random.choice(REGISTERS)]

    def _append(self) -> list[bytes]:
        self._values += 1
        return [b"APPEND", self.random.choice(LISTS), b",%d" % self._values]

    def _assign(self) -> list[bytes]:
        self._values += 1
        request = [b"SET", self.random.choice(REGISTERS), b"%d" % self._values]
        return [*request, b"GET"] if self.random.random() < 0.6 else request
