"""The same commands to redis-server and to keyhaus, the bytes of every reply compared.

`KEYHAUS_SEED=number` repeats a run, `KEYHAUS_DIFFERENTIAL=count` sets how many sequences it sends to each engine. A
sequence that shows a difference is shortened as long as the difference stays, then told.

What may differ, and is compared by its meaning: the order of KEYS, which key RANDOMKEY picks, SCAN's pages (a whole
iteration is compared), DUMP's bytes (each server restores what the other gave), and times, by as much as passes between
two calls.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Final

import pytest

import keyhaus.commands  # noqa: F401  (fills the table)
from keyhaus.commands.spec import TABLE, Flag
from tests.support.processes import HOST, keyhaus_server, redis_server
from tests.support.sequences import CLIENTS, COMMANDS, How, Sequence, Step
from tests.support.wire import Node, Wire, parsed

SEQUENCES: Final = int(os.environ.get("KEYHAUS_DIFFERENTIAL") or 700)
SEQUENCE_STEPS: Final = 80
TOLERANCE_MS: Final = 5_000
# Data commands of which Redis knows nothing, or whose replies it does not settle.
NOT_COMPARED: Final = frozenset(("CAS", "CHANGES", "RANGE", "DELRANGE", "LOCK", "LOLWUT"))


@pytest.fixture(scope="module", params=["memory", "rocksdb", "flushing", "uncached"])
def ports(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """A redis-server's port and a keyhaus server's."""
    options = ["--engine", "memory" if request.param == "memory" else "rocksdb", "--log-level", "warning"]
    options += ["--durability", "everysec"]
    if request.param in ("flushing", "uncached"):
        options += ["--set", "memtable-size=40"]  # so that most of what is read comes from the base
    if request.param == "uncached":
        options += ["--set", "cache-bytes=0"]
    with (
        redis_server(tmp_path_factory.mktemp("redis")) as redis,
        keyhaus_server(tmp_path_factory.mktemp("keyhaus"), *options) as ours,
    ):
        yield redis, ours.port


# what counts as equal


def _same_members(one: Node, other: Node) -> bool:
    return isinstance(one.content, list) and sorted(one.plain()) == sorted(other.plain())


def _same_kind(one: Node, other: Node) -> bool:
    return (one.content is None) == (other.content is None)


def _same_page(one: Node, other: Node) -> bool:
    """Two pages of SCAN: a cursor and a list of keys each."""
    return all(
        isinstance(node.content, list) and [part.mark for part in node.content] == [b"$", b"*"] for node in (one, other)
    )


def _close(unit_ms: int) -> Callable[[Node, Node], bool]:
    def close(one: Node, other: Node) -> bool:
        return one.mark == b":" and one.plain() >= 0 and abs(one.plain() - other.plain()) * unit_ms <= TOLERANCE_MS

    return close


_COMPARISONS: Final[dict[bytes, Callable[[Node, Node], bool]]] = {
    b"KEYS": _same_members,
    b"RANDOMKEY": _same_kind,
    b"DUMP": _same_kind,
    b"SCAN": _same_page,
    b"TTL": _close(1000),
    b"EXPIRETIME": _close(1000),
    b"PTTL": _close(1),
    b"PEXPIRETIME": _close(1),
}


def _same(words: tuple[bytes, ...], queued: list[tuple[bytes, ...]], one: Node, other: Node) -> bool:
    if one == other:
        return True
    if one.mark != other.mark:
        return False
    name = words[0].upper()
    if name == b"EXEC" and isinstance(one.content, list) and len(one.content) == len(other.content) == len(queued):
        return all(map(_same, queued, [[]] * len(queued), one.content, other.content))
    compare = _COMPARISONS.get(name)
    return compare is not None and one.mark != b"-" and compare(one, other)


# running a sequence


class _Difference(AssertionError):
    pass


class _Pair:
    """One client of each server."""

    def __init__(self, ports: tuple[int, int], protocol: int, stack: ExitStack) -> None:
        self.wires = [stack.enter_context(Wire(HOST, port)) for port in ports]
        self.queued: list[tuple[bytes, ...]] = []
        self.in_multi = False
        self._unread: list[Step] = []
        for wire in self.wires:
            wire.call(b"HELLO", b"%d" % protocol)

    def send(self, step: Step) -> None:
        for wire in self.wires:
            wire.send(list(step.words))
        self._unread.append(step)

    def settle(self) -> None:
        """Reads and compares what is still to come."""
        for step in self._unread:
            replies = [wire.receive() for wire in self.wires]
            if replies[0] != replies[1] and not self._alike(step, *replies):
                raise _Difference(f"{step}\n  redis:   {replies[0]!r}\n  keyhaus: {replies[1]!r}")
            self._follow(step, replies[0])
        self._unread.clear()

    def _alike(self, step: Step, one: bytes, other: bytes) -> bool:
        return _same(step.words, self.queued, parsed(one)[0], parsed(other)[0])

    def _follow(self, step: Step, reply: bytes) -> None:
        name = step.words[0].upper()
        if reply == b"+QUEUED\r\n":
            self.queued.append(step.words)
        elif name == b"MULTI" and reply == b"+OK\r\n":
            self.in_multi = True
        elif name in (b"EXEC", b"DISCARD", b"RESET") and len(step.words) == 1:
            self.in_multi = False
            self.queued = []

    def call(self, *words: bytes) -> list[Node]:
        return [parsed(wire.call(*words))[0] for wire in self.wires]

    def whole_scan(self, options: tuple[bytes, ...]) -> None:
        found: list[set[bytes]] = []
        for wire in self.wires:
            keys: list[bytes] = []
            cursor = b"0"
            while True:
                reply = parsed(wire.call(b"SCAN", cursor, *options))[0].plain()
                cursor, page = reply
                keys += page
                if cursor == b"0":
                    break
            found.append(set(keys))
        if found[0] != found[1]:
            raise _Difference(f"SCAN with {options}: redis found {found[0]}, keyhaus {found[1]}")

    def exchange(self, key: bytes) -> None:
        payloads = [node.content for node in self.call(b"DUMP", key)]
        if None in payloads:
            if payloads != [None, None]:
                raise _Difference(f"DUMP {key!r}: {payloads}")
            return
        replies = [
            wire.call(b"RESTORE", b"restored", b"0", payload, b"REPLACE")
            for wire, payload in zip(self.wires, reversed(payloads), strict=True)
        ]
        values = self.call(b"GET", b"restored")
        if replies != [b"+OK\r\n"] * 2 or values[0] != values[1]:
            raise _Difference(f"DUMP {key!r} gave {payloads}; restored crosswise: {replies}, {values}")

    def lapse(self, key: bytes) -> None:
        for wire in self.wires:
            wire.call(b"PEXPIRE", key, b"1")
        time.sleep(0.003)
        seen = self.call(b"EXISTS", key)
        if seen != [Node(b":", b"0")] * 2:
            raise _Difference(f"EXISTS {key!r} after its expiry: {seen}")


def _run(ports: tuple[int, int], protocols: list[int], steps: list[Step]) -> None:
    """Raises _Difference where the servers answer differently."""
    with ExitStack() as stack:
        pairs = [_Pair(ports, protocols[number], stack) for number in range(CLIENTS)]
        pairs[0].call(b"FLUSHALL")
        active = pairs[0]
        for step in steps:
            pair = pairs[step.client]
            if pair is not active or step.how is not How.COMMAND:
                active.settle()
            active = pair
            if step.how is How.COMMAND:
                pair.send(step)
            elif pair.in_multi:
                continue
            elif step.how is How.WHOLE_SCAN:
                pair.whole_scan(step.words)
            elif step.how is How.EXCHANGE:
                pair.exchange(step.words[0])
            else:
                pair.lapse(step.words[0])
        active.settle()


def _shortened(ports: tuple[int, int], protocols: list[int], steps: list[Step]) -> tuple[list[Step], str]:
    """As few steps as still show a difference, and the difference."""
    shown = ""
    size = max(1, len(steps) // 2)
    while True:
        at = 0
        while at < len(steps):
            fewer = steps[:at] + steps[at + size :]
            try:
                _run(ports, protocols, fewer)
                at += size
            except (_Difference, EOFError) as difference:
                steps, shown = fewer, str(difference)
        if size == 1:
            return steps, shown
        size = max(1, size // 2)


# tests


def test_every_data_command_of_redis_is_compared() -> None:
    """The containers' subcommands about data (OBJECT, MEMORY) are shapes, not bytes."""
    data = {name for name, spec in TABLE.items() if spec.handler is not None and spec.flags & (Flag.READ | Flag.WRITE)}
    assert data - {name.decode() for name in COMMANDS} == NOT_COMPARED & data


def test_random_commands_get_the_replies_of_redis(ports: tuple[int, int], seed: int) -> None:
    for number in range(SEQUENCES):
        sequence = Sequence(f"{seed}/{number}", SEQUENCE_STEPS)
        try:
            _run(ports, sequence.protocols, sequence.steps)
        except (_Difference, EOFError) as difference:
            steps, shown = _shortened(ports, sequence.protocols, sequence.steps)
            told = "\n".join(map(str, steps))
            pytest.fail(
                f"sequence {number}, protocols {sequence.protocols}: {shown or difference}\nshortened to:\n{told}",
                pytrace=False,
            )
