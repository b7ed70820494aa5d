"""What operations were told of lists and registers, and nothing else: the ground of check 2.

A list's value is the elements that were appended to it, each unique; a register's is the unique value that was set
last. So each read says whose writes it saw (Elle, Kingsbury and Alvaro, VLDB 2020).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple, TypeAlias

from keyhaus.core.errors import Error
from tests.support.isolation.operations import DONE, FAR, GONE, Operation, Step
from tests.support.isolation.workload import LISTS, REGISTERS

Place: TypeAlias = tuple[int, bytes]  # a database and a key
Value: TypeAlias = tuple[bytes, ...]  # a list's elements, or a register's only value; nothing: empty
_UNSURE: Final = frozenset(("VANISHED", "LOST", "CRASH", "POISONED"))  # whoever died so may have been committed


class Read(NamedTuple):
    place: Place
    value: Value


class Write(NamedTuple):
    place: Place
    value: bytes


class Observed:
    """One operation, as its client knows it.

    Attributes:
        certain: Whether it was told that it is committed.
        aborted: Whether it was told that it is not.
        reads: What it saw of others, the first read of each place.
        writes: What it wrote, per place, in order.
        wrong: How it contradicts itself; nothing: empty.
    """

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        self.begun, self.ended = operation.begun, operation.ended
        self.certain = operation.outcome == DONE and operation.ended != FAR
        self.aborted = operation.outcome == GONE and operation.why not in _UNSURE
        self.reads: dict[Place, Value] = {}
        self.writes: dict[Place, list[bytes]] = {}
        self.wrong = ""
        for step in operation.steps:
            for one in _parts(step):
                self._add(one)

    def _add(self, one: Read | Write) -> None:
        if isinstance(one, Write):
            self.writes.setdefault(one.place, []).append(one.value)
            return
        before, mine = self.reads.get(one.place), self.writes.get(one.place, [])
        if one.place[1] in LISTS:
            own = tuple(mine)
            rest = one.value[: len(one.value) - len(own)]
            fits = one.value[len(rest) :] == own and before in (None, rest)
        elif mine:
            rest, fits = before or (), one.value == (mine[-1],)
        else:
            rest, fits = one.value, before in (None, one.value)
        if not fits:
            self.wrong = f"it has read {one.value} in {one.place}, after {before} and with {mine} of its own"
        if one.place[1] in LISTS or not mine:
            self.reads.setdefault(one.place, rest)

    def __str__(self) -> str:
        return str(self.operation)


def _value(key: bytes, value: bytes | None) -> Value:
    if value is None:
        return ()
    return tuple(value.split(b",")[1:]) if key in LISTS else (value,)


def _parts(step: Step) -> Iterator[Read | Write]:
    """The reads and writes of one command."""
    args, reply, database = step.args, step.reply, step.database
    name = args[0]
    if isinstance(reply, Error):
        return
    key = args[1] if len(args) > 1 else b""
    ours = key in LISTS or key in REGISTERS
    if name == b"APPEND" and ours:
        yield Write((database, key), args[2][1:])
    elif name == b"SET" and ours:
        if args[-1] == b"GET":
            yield Read((database, key), _value(key, reply))
        yield Write((database, key), args[2])
    elif name == b"GET" and ours:
        yield Read((database, key), _value(key, reply))
    elif name == b"MGET":
        for one, value in zip(args[1:], reply, strict=True):
            if one in LISTS or one in REGISTERS:
                yield Read((database, one), _value(one, value))
    elif name == b"RANGE" and len(args) == 3:
        found: dict[bytes, Any] = dict(zip(reply[1][::2], reply[1][1::2], strict=True))
        for one in (*LISTS, *REGISTERS):
            if key <= one and (not args[2] or one < args[2]):
                yield Read((database, one), _value(one, found.get(one)))
