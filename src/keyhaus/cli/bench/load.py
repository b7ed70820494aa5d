"""The load: so many connections, each with so many requests under way, and how long each batch of them took."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from keyhaus.cli.bench.wire import Pairs, Wire

BULK_KEYS: Final = 100
_READ_BYTES: Final = 1 << 16
_READ_SHARE: Final = 0.5  # of a mixed load


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        clients: Connections at once.
        pipeline: Requests that each has under way.
        requests: Of each test, all connections together.
        keys: How many keys there are.
        value_bytes: The size of a value.
        seconds: After which a test ends all the same.
        seed: Of the choice of keys.
    """

    clients: int
    pipeline: int
    requests: int
    keys: int
    value_bytes: int
    seconds: float
    seed: int


@dataclass
class Result:
    """What a test came to.

    Attributes:
        name: The test.
        requests: How many were answered.
        keys: How many keys were put or read.
        errors: How many answers were errors.
        seconds: How long it took.
        latencies_ms: Of each batch of requests: from its first byte sent to its last reply.
    """

    name: str
    requests: int = 0
    keys: int = 0
    errors: int = 0
    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """The latency in milliseconds that so many of the batches were no slower than."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def key_of(number: int) -> str:
    return f"bench:{number:010}"


def run(plan: Plan, wire: Wire, host: str, port: int, name: str, done: Callable[[int], None]) -> Result:
    """Runs one test: write, read, bulk or mixed. Raises OSError where the server can't be reached or hangs up.

    Args:
        plan: What is to be done.
        wire: The dialect.
        host, port: The server.
        name: The test.
        done: Called with the number of requests that were answered, again and again.
    """
    return asyncio.run(_run(plan, wire, host, port, name, done))


def fill(plan: Plan, wire: Wire, host: str, port: int) -> None:
    """Puts a value under every key. Raises OSError."""
    asyncio.run(_fill(plan, wire, host, port))


async def _fill(plan: Plan, wire: Wire, host: str, port: int) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        for first in range(0, plan.keys, BULK_KEYS):
            numbers = range(first, min(plan.keys, first + BULK_KEYS))
            writer.write(wire.bulk([(key_of(number), "x" * plan.value_bytes) for number in numbers]))
            await _replies(wire, reader, b"", 1)
    finally:
        writer.close()


async def _replies(wire: Wire, reader: asyncio.StreamReader, rest: bytes, wanted: int) -> tuple[int, bytes]:
    """Waits for so many replies: how many were errors, and what came behind them. Raises ConnectionError."""
    errors = 0
    while True:
        counted = wire.count(rest)
        rest = rest[counted.size :]
        wanted -= counted.replies
        errors += counted.errors
        if wanted <= 0:
            return errors, rest
        data = await reader.read(_READ_BYTES)
        if not data:
            raise ConnectionError("the server has closed a connection in the middle of the test")
        rest += data


async def _run(plan: Plan, wire: Wire, host: str, port: int, name: str, done: Callable[[int], None]) -> Result:
    result = Result(name)
    streams = [await asyncio.open_connection(host, port) for _ in range(plan.clients)]
    began = time.perf_counter()
    try:
        until = began + plan.seconds
        shares = [
            plan.requests // plan.clients + (number < plan.requests % plan.clients) for number in range(plan.clients)
        ]
        async with asyncio.TaskGroup() as group:
            for number, (reader, writer) in enumerate(streams):
                choice = random.Random(plan.seed * 1000 + number)
                requests = _requests(plan, wire, name, choice)
                group.create_task(_client(plan, wire, reader, writer, requests, shares[number], until, result, done))
    except* OSError as errors:
        raise errors.exceptions[0] from None
    finally:
        for _, writer in streams:
            writer.close()
    result.seconds = time.perf_counter() - began
    return result


def _requests(plan: Plan, wire: Wire, name: str, choice: random.Random) -> Iterator[tuple[bytes, int]]:
    """Requests without end, each with how many keys it is about."""
    value = "".join(choice.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=plan.value_bytes))
    while True:
        key = key_of(choice.randrange(plan.keys))
        if name == "bulk":
            first = choice.randrange(plan.keys)
            pairs: Pairs = [(key_of((first + number) % plan.keys), value) for number in range(BULK_KEYS)]
            yield wire.bulk(pairs), BULK_KEYS
        elif name == "read" or (name == "mixed" and choice.random() < _READ_SHARE):
            yield wire.get(key), 1
        else:
            yield wire.set(key, value), 1


async def _client(
    plan: Plan,
    wire: Wire,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    requests: Iterator[tuple[bytes, int]],
    share: int,
    until: float,
    result: Result,
    done: Callable[[int], None],
) -> None:
    left = share
    rest = b""
    while left > 0:
        batch = [next(requests) for _ in range(min(plan.pipeline, left))]
        sent = time.perf_counter()
        if sent >= until:
            return
        writer.write(b"".join([data for data, _ in batch]))
        errors, rest = await _replies(wire, reader, rest, len(batch))
        result.errors += errors
        result.latencies_ms.append((time.perf_counter() - sent) * 1000)
        result.requests += len(batch)
        result.keys += sum(keys for _, keys in batch)
        left -= len(batch)
        done(result.requests)
