"""Clients under load whose database may die at any moment, and the exact model of what must be there afterwards.

Each writer owns one of the numbered databases, so nobody else changes what it wrote, and its units (a command, or a
MULTI/EXEC group) happen in the order in which they were sent. After a crash there must be one point in that order such
that everything before it is there and nothing behind it: not before the last acknowledged unit, nor before one that a
reader was shown. A number is never used twice, so that what comes back from the dead is recognised.

A writer may own a second database beside it, `SPARE` numbers on, which it swaps with the first from time to time; in a
`State` its keys begin with `BESIDE`. Nobody but the writer changes either, so what it reads between its writes is known
exactly. What lives for a moment only (`Brief`) has a database of its own: nothing of it may outlive its deadline.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import hiredis

from tests.support.wire import encoded

GROUP: Final = [b"group:%d" % member for member in range(5)]
WINDOW: Final = 48
TIMEOUT_SECONDS: Final = 30.0
FAR_MS: Final = 10_000_000_000
SPARE: Final = 8
BESIDE: Final = b"beside:"
BRIEF_DATABASE: Final = 7

State = dict[bytes, tuple[bytes, bool]]  # key to value, and whether it has an expiry


class Broken(AssertionError):
    """A promise was broken; the first word says which."""


class Unit(NamedTuple):
    """What happens whole or not at all.

    Attributes:
        number: Its place in the order.
        requests: What is sent.
        replies: What comes back, in order.
        effects: Keys with their new value, or None for gone; None at all for an emptied database.
        swap: Whether it exchanges the two databases instead.
    """

    number: int
    requests: list[list[bytes]]
    replies: list[Any]
    effects: list[tuple[bytes, bytes | None, bool]] | None
    swap: bool = False


def apply(state: State, unit: Unit) -> None:
    if unit.swap:
        swapped = {other(key): entry for key, entry in state.items()}
        state.clear()
        state.update(swapped)
        return
    if unit.effects is None:
        for key in [key for key in state if not key.startswith(BESIDE)]:
            del state[key]
        return
    for key, value, expires in unit.effects:
        if value is None:
            state.pop(key, None)
        else:
            state[key] = (value, expires)


def other(key: bytes) -> bytes:
    """A key of one database as the state names it in the other."""
    return key.removeprefix(BESIDE) if key.startswith(BESIDE) else BESIDE + key


class Model:
    """What one writer sent, and what was acknowledged.

    Attributes:
        database: The number of its database; None where it neither swaps nor reads.
        settled: What was there after the last crash.
        units: Sent since then, in order.
        acknowledged: How many of them were answered.
        shown: The highest number that a reader was shown.
    """

    def __init__(self, generator: random.Random, database: int | None = None, keys: int = 300) -> None:
        self.random = generator
        self.database = database
        self._keys = keys
        self.settled: State = {}
        self.units: list[Unit] = []
        self.acknowledged = 0
        self.shown = 0
        self._number = 0
        self._head: State = {}

    def next_unit(self) -> Unit:
        self._number += 1
        kinds = (
            *(self._set, self._set_expiring, self._increment, self._delete, self._several, self._group, self._empty),
            *(self._swap, self._read, self._read_many, self._count),
        )
        beside = (0.2, 20, 10, 1) if self.database is not None else (0, 0, 0, 0)
        kind = self.random.choices(kinds, (40, 8, 15, 10, 8, 15, 0.1, *beside))[0]
        unit = kind(b"%d:" % self._number)
        apply(self._head, unit)
        self.units.append(unit)
        return unit

    def _key(self) -> bytes:
        return b"key:%d" % self.random.randrange(self._keys)

    def _value(self, mark: bytes) -> bytes:
        size = self.random.choices((20, 400, 5_000, 60_000), (60, 30, 4, 0.3))[0]
        return mark + b"v" * self.random.randrange(size)

    def _unit(self, request: list[bytes], reply: Any, effects: list[tuple[bytes, bytes | None, bool]] | None) -> Unit:
        return Unit(self._number, [request], [reply], effects)

    def _set(self, mark: bytes) -> Unit:
        key, value = self._key(), self._value(mark)
        return self._unit([b"SET", key, value], b"OK", [(key, value, False)])

    def _set_expiring(self, mark: bytes) -> Unit:
        key, value = self._key(), self._value(mark)
        return self._unit([b"SET", key, value, b"PX", b"%d" % FAR_MS], b"OK", [(key, value, True)])

    def _increment(self, mark: bytes) -> Unit:
        key = b"counter:%d" % self.random.randrange(4)
        value = int(self._head.get(key, (b"0", False))[0]) + 1
        return self._unit([b"INCR", key], value, [(key, b"%d" % value, False)])

    def _delete(self, mark: bytes) -> Unit:
        keys = sorted({self._key() for _ in range(self.random.randint(1, 3))})
        there = sum(key in self._head for key in keys)
        return self._unit([b"DEL", *keys], there, [(key, None, False) for key in keys])

    def _several(self, mark: bytes) -> Unit:
        pairs = {self._key(): self._value(mark) for _ in range(self.random.randint(2, 6))}
        words = [word for pair in pairs.items() for word in pair]
        return self._unit([b"MSET", *words], b"OK", [(key, value, False) for key, value in pairs.items()])

    def _group(self, mark: bytes) -> Unit:
        value = self._value(mark)
        sets = [[b"SET", key, value] for key in GROUP]
        requests = [[b"MULTI"], *sets, [b"EXEC"]]
        replies: list[Any] = [b"OK", *[b"QUEUED"] * len(GROUP), [b"OK"] * len(GROUP)]
        return Unit(self._number, requests, replies, [(key, value, False) for key in GROUP])

    def _empty(self, mark: bytes) -> Unit:
        return self._unit([b"FLUSHDB"], b"OK", None)

    def _swap(self, mark: bytes) -> Unit:
        assert self.database is not None
        request = [b"SWAPDB", b"%d" % self.database, b"%d" % (self.database + SPARE)]
        return Unit(self._number, [request], [b"OK"], [], swap=True)

    def _there(self, key: bytes) -> bytes | None:
        return self._head[key][0] if key in self._head else None

    def _read(self, mark: bytes) -> Unit:
        key = self._key()
        return self._unit([b"GET", key], self._there(key), [])

    def _read_many(self, mark: bytes) -> Unit:
        keys = [self._key() for _ in range(5)]
        if self.random.random() < 0.5:
            return self._unit([b"EXISTS", *keys], sum(key in self._head for key in keys), [])
        return self._unit([b"MGET", *keys, GROUP[0]], [self._there(key) for key in [*keys, GROUP[0]]], [])

    def _count(self, mark: bytes) -> Unit:
        return self._unit([b"DBSIZE"], sum(not key.startswith(BESIDE) for key in self._head), [])

    # after a crash

    def settle(self, found: State) -> int:
        """Finds the point up to which everything is there; how many unacknowledged units were kept.

        Raises:
            Broken: There is none.
        """
        for group in (GROUP, [other(member) for member in GROUP]):
            for member in group[1:]:
                if found.get(member) != found.get(group[0]):
                    raise Broken(f"TORN group: {found.get(member)!r:.60} beside {found.get(group[0])!r:.60}")
        state = dict(self.settled)
        told = max(self.acknowledged, sum(unit.number <= self.shown for unit in self.units))
        for unit in self.units[:told]:
            apply(state, unit)
        promised = dict(state)
        point = told
        while state != found:
            if point == len(self.units):
                raise Broken(self._difference(promised, found, self.units[told:]))
            apply(state, self.units[point])
            point += 1
        self.settled, self.units, self.acknowledged = state, [], 0
        self._head = dict(state)
        return point - told

    @staticmethod
    def _difference(promised: State, found: State, pending: list[Unit]) -> str:
        """The first key whose value no point of the order explains on its own; else all together are no point."""
        if any(unit.swap for unit in pending):
            return f"LOST or reordered: {len(found)} keys found, {len(promised)} promised, two databases swapped"
        possible = {key: {entry} for key, entry in promised.items()}
        absent_may: set[bytes] = set(found) - set(promised)
        state = dict(promised)
        for unit in pending:
            absent_may |= set(state) if unit.effects is None or unit.swap else set()
            apply(state, unit)
            for key, value, expires in unit.effects or ():
                if value is None:
                    absent_may.add(key)
                else:
                    possible.setdefault(key, set()).add((value, expires))
        for key in sorted(set(promised) | set(found)):
            if key not in found:
                if key not in absent_may:
                    return f"LOST {key!r}: {promised[key]!r:.60} was acknowledged and is gone"
            elif found[key] not in possible.get(key, set()):
                word = "LOST" if key in promised else "INVENTED"
                there, due = f"{found[key]!r:.60}", f"{promised.get(key)!r:.60}"
                return f"{word} {key!r}: found {there}, not {due} nor anything sent later"
        return "REORDERED: each value was sent, but no point in the order explains them together"


@dataclass
class Tally:
    """How many units were acknowledged in all; `reached` is set at the one that is aimed at."""

    aim: int
    count: int = 0

    def __post_init__(self) -> None:
        self.reached = threading.Event()
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self.count += count
        if self.count >= self.aim:
            self.reached.set()


class Link:
    """A connection that reads replies fast; an error reply is an answer like any other."""

    def __init__(self, port: int, database: int = 0) -> None:
        self._reader = hiredis.Reader()
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if database:
            assert self.ask(b"SELECT", b"%d" % database) == b"OK"

    def send(self, *requests: list[bytes]) -> None:
        self.raw(b"".join(map(encoded, requests)))

    def raw(self, data: bytes) -> None:
        self._socket.sendall(data)

    def reply(self) -> Any:
        """The next reply. Raises ConnectionError where the server hung up."""
        while (reply := self._reader.gets()) is False:
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionError("the server hung up")
            self._reader.feed(data)
        return reply

    def ask(self, *words: bytes) -> Any:
        """One request's reply."""
        self.send(list(words))
        return self.reply()

    @property
    def local_port(self) -> int:
        return int(self._socket.getsockname()[1])

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def everything(port: int, database: int) -> State:
    """All that a database holds, read in one piece."""
    found: State = {}
    with Link(port, database) as link:
        keys = link.ask(b"KEYS", b"*")
        assert link.ask(b"DBSIZE") == len(keys)
        for at in range(0, len(keys), 100):
            part = keys[at : at + 100]
            link.send([b"MGET", *part], *([b"PTTL", key] for key in part))
            for key, value in zip(part, link.reply(), strict=True):
                found[key] = (value, False)
            for key in part:
                found[key] = (found[key][0], link.reply() > 0)
    return found


class _Client(threading.Thread):
    """A connection in a thread of its own, until the server dies."""

    def __init__(self, port: int, database: int, tally: Tally) -> None:
        super().__init__(daemon=True)
        self.failure: BaseException | None = None
        self._tally = tally
        self._link = Link(port, database)

    def run(self) -> None:
        try:
            with self._link:
                self._work()
        except ConnectionError:
            pass  # that is how it ends
        except BaseException as error:
            self.failure = error
            self._tally.reached.set()

    def _work(self) -> None:
        raise NotImplementedError


class Writer(_Client):
    """Pipelines the units of a model; every reply is checked."""

    def __init__(self, port: int, database: int, tally: Tally, model: Model) -> None:
        self._model = model
        super().__init__(port, database, tally)

    def _work(self) -> None:
        model = self._model
        expected: deque[Unit] = deque()
        while True:
            batch = [model.next_unit() for _ in range(model.random.randint(1, WINDOW))]
            self._link.send(*(request for unit in batch for request in unit.requests))
            expected.extend(batch)
            left = model.random.randrange(WINDOW)
            done = 0
            try:
                while len(expected) > left:
                    unit = expected[0]
                    for reply in unit.replies:
                        if (got := self._link.reply()) != reply:
                            raise Broken(f"WRONG reply {got!r:.60} to {unit.requests[0]!r:.60}, not {reply!r:.60}")
                    expected.popleft()
                    model.acknowledged += 1
                    done += 1
            finally:
                self._tally.add(done)


class Brief(_Client):
    """Writes what lives for a moment; a value names its own deadline, and is never shown after it."""

    def __init__(self, port: int, tally: Tally, seed: int) -> None:
        self._random = random.Random(seed)
        self.told = 0
        super().__init__(port, BRIEF_DATABASE, tally)

    def _work(self) -> None:
        while True:
            keys = [b"brief:%d" % self._random.randrange(2000) for _ in range(20)]
            for key in keys:
                deadline = int(time.time() * 1000) + self._random.choice((1, 20, 300, 2000))
                self._link.send([b"SET", key, b"%d" % deadline, b"PXAT", b"%d" % deadline])
            for _ in keys:
                assert self._link.reply() == b"OK"
            self.told += check_brief(self._link, [b"brief:%d" % self._random.randrange(2000) for _ in range(20)])


def check_brief(link: Link, keys: list[bytes]) -> int:
    """Nothing is shown after its deadline; how many were shown."""
    asked_ms = int(time.time() * 1000)
    values = [value for value in link.ask(b"MGET", *keys) if value is not None]
    for value in values:
        if int(value) <= asked_ms:
            raise Broken(f"UNDEAD: shown {asked_ms - int(value)} ms after its deadline")
    return len(values)


class Reader(_Client):
    """Reads what a writer writes: groups must be whole, nothing goes back, and what was shown must survive."""

    def __init__(self, port: int, database: int, tally: Tally, model: Model) -> None:
        self._model = model
        self._random = random.Random(database)
        self.reads = 0
        super().__init__(port, database, tally)

    def _work(self) -> None:
        before = 0
        while True:
            keys = [b"key:%d" % self._random.randrange(300) for _ in range(8)]
            self._link.send([b"MGET", *GROUP], [b"MGET", *keys])
            group, values = self._link.reply(), self._link.reply()
            if len(set(group)) > 1:
                raise Broken(f"TORN group was shown: {group!r:.200}")
            for value in filter(None, [group[0], *values]):
                self._model.shown = max(self._model.shown, int(value.partition(b":")[0]))
            if group[0] is not None:
                number = int(group[0].partition(b":")[0])
                # A swap or an emptied database may bring an older one to the front.
                if number < before and self._model.database is None:
                    raise Broken(f"BACK: a group of {number} was shown after one of {before}")
                before = number
            self.reads += 1
