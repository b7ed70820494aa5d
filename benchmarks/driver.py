"""The client side of the larger benchmarks: raw sockets, requests in bulk, replies that are counted rather than parsed.

Every row that is asked for exists and all values have one length. So a reply is known to be right by its length and by
what it does not hold (see `rows`), and the client is cheap enough to drive a server from one core. How much of that
core it used is told beside each figure: from 0.9 on, the figure is the client's as much as the server's.
"""

from __future__ import annotations

import gc
import random
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from typing import Final, Literal, TypeAlias

import msgspec

from benchmarks.latencies import Latencies, summary
from benchmarks.rows import Rows
from benchmarks.servers import HOST, BenchmarkError

SILENCE_SECONDS_MAX: Final = 120.0
_LOAD_CONNECTIONS: Final = 4
LOAD_IN_FLIGHT: Final = 16  # batches, of all connections together
LOAD_BATCH: Final = 250

Verb: TypeAlias = Literal["GET", "SET"]


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Clients that do the same: each asks for rows chosen at random, waits for the replies, and asks again.

    Attributes:
        verb: What they do.
        keys: Of how many rows, counted from the first, they choose.
        clients: How many connections.
        pipeline: How many requests are sent at once.
        version: Of the values that are set.
    """

    verb: Verb
    keys: int
    clients: int
    pipeline: int = 1
    version: int = 0


class Driven(msgspec.Struct, frozen=True):
    """What a group of clients got done.

    Attributes:
        operations: How many requests were answered in time.
        per_second: Those, a second.
        latencies: Of whole pipelines, from the sending to the last byte of the replies.
        client_busy: How much of its core the load generator used, all groups together.
    """

    operations: int
    per_second: float
    latencies: Latencies
    client_busy: float


class _Client:
    """One connection, with at most one pipeline under way."""

    def __init__(self, port: int, group: Group, rows: Rows, rng: random.Random) -> None:
        self.socket = connect(port)
        self.spans: list[int] = []
        self._group, self._rows, self._rng = group, rows, rng
        self._reply_bytes = group.pipeline * (rows.get_reply_bytes if group.verb == "GET" else rows.set_reply_bytes)
        self._missing = 0
        self._sent_ns = 0

    def send(self) -> None:
        group = self._group
        pick = self._rng.random
        numbers = [int(pick() * group.keys) for _ in range(group.pipeline)]
        request = self._rows.gets(numbers) if group.verb == "GET" else self._rows.sets(numbers, group.version)
        self._missing = self._reply_bytes
        self._sent_ns = time.monotonic_ns()
        self.socket.sendall(request)

    def receive(self, deadline_ns: int) -> bool:
        """Takes what has come; whether that completes the replies."""
        self._missing -= len(received(self.socket))
        if self._missing > 0:
            return False
        now = time.monotonic_ns()
        if self._missing < 0:
            raise BenchmarkError("the server sent more than was asked for")
        if now <= deadline_ns:
            self.spans.append(now - self._sent_ns)
        return True


def connect(port: int) -> socket.socket:
    """A connection whose requests leave at once."""
    made = socket.create_connection((HOST, port), timeout=SILENCE_SECONDS_MAX)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def received(connection: socket.socket) -> bytes:
    """What has come. Raises BenchmarkError where it holds an error or a null, or the connection is closed."""
    piece = connection.recv(1 << 18)
    if not piece:
        raise BenchmarkError("the server closed a connection")
    if b"-" in piece:
        raise BenchmarkError(f"not what a row's reply looks like: {piece[:200].decode(errors='replace')}")
    return piece


def closed_loop(port: int, value_bytes: int, groups: list[Group], seconds: float, seed: int) -> list[Driven]:
    """Lets groups of clients ask for some seconds, all at once. Meant to run in a process of its own."""
    rng, rows = random.Random(seed), Rows(value_bytes)
    poll = select.epoll()
    members = [[_Client(port, group, rows, rng) for _ in range(group.clients)] for group in groups]
    by_descriptor = {client.socket.fileno(): client for clients in members for client in clients}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.EPOLLIN)
    gc.disable()
    try:
        began_cpu, began = time.process_time(), time.monotonic_ns()
        deadline = began + int(seconds * 1e9)
        for client in by_descriptor.values():
            client.send()
        waiting = len(by_descriptor)
        while waiting:
            ready = poll.poll(SILENCE_SECONDS_MAX)
            if not ready:
                raise BenchmarkError(f"no reply for {SILENCE_SECONDS_MAX:.0f} s")
            for descriptor, _ in ready:
                client = by_descriptor[descriptor]
                if client.receive(deadline):
                    if time.monotonic_ns() < deadline:
                        client.send()
                    else:
                        waiting -= 1
        busy = (time.process_time() - began_cpu) / ((time.monotonic_ns() - began) / 1e9)
    finally:
        gc.enable()
        poll.close()
        for client in by_descriptor.values():
            client.socket.close()
    return [_driven(group, clients, seconds, busy) for group, clients in zip(groups, members, strict=True)]


def _driven(group: Group, clients: list[_Client], seconds: float, busy: float) -> Driven:
    spans = [span for client in clients for span in client.spans]
    operations = len(spans) * group.pipeline
    return Driven(operations, operations / seconds, summary(spans), busy)


def load(port: int, rows: Rows, numbers: range, version: int = 0) -> Iterator[int]:
    """Sets rows, many at once on a few connections; yields how many are confirmed."""
    connections = [connect(port) for _ in range(_LOAD_CONNECTIONS)]
    under_way: deque[tuple[socket.socket, int]] = deque()
    done = 0
    try:
        for turn, first in enumerate(range(0, len(numbers), LOAD_BATCH)):
            batch = numbers[first : first + LOAD_BATCH]
            connection = connections[turn % len(connections)]
            connection.sendall(rows.sets(batch, version))
            under_way.append((connection, len(batch)))
            if len(under_way) >= LOAD_IN_FLIGHT:
                done += _confirmed(*under_way.popleft(), rows)
                yield done
        while under_way:
            done += _confirmed(*under_way.popleft(), rows)
            yield done
    finally:
        for connection in connections:
            connection.close()


def _confirmed(connection: socket.socket, count: int, rows: Rows) -> int:
    missing = count * rows.set_reply_bytes
    while missing:
        piece = connection.recv(missing)
        if not piece or b"-" in piece:
            raise BenchmarkError(f"a row could not be set: {piece[:200].decode(errors='replace') or 'closed'}")
        missing -= len(piece)
    return count


def warm(port: int, rows: Rows, numbers: range, batch: int = 100) -> None:
    """Reads rows once each."""
    with connect(port) as connection:
        for first in range(0, len(numbers), batch):
            some = numbers[first : first + batch]
            connection.sendall(rows.gets(some))
            missing = len(some) * rows.get_reply_bytes
            while missing > 0:
                missing -= len(received(connection))


def check(port: int, rows: Rows, numbers: list[int]) -> None:
    """Reads rows of version 0 and compares. Raises BenchmarkError with the first that is wrong."""
    with connect(port) as connection, connection.makefile("rb") as replies:
        for number in numbers:
            connection.sendall(rows.gets([number]))
            head = replies.readline()
            value = replies.read(rows.value_bytes + 2)[:-2] if head.startswith(b"$%d" % rows.value_bytes) else head
            if value != rows.value(number):
                raise BenchmarkError(f"row {number} is not what was written: {value[:100]!r}")


def read_any(port: int, rows: Rows, number: int) -> bool:
    """Whether a row can be read, whatever its version."""
    try:
        with connect(port) as connection, connection.makefile("rb") as replies:
            connection.sendall(rows.gets([number]))
            return replies.readline() == b"$%d\r\n" % rows.value_bytes
    except OSError:
        return False
