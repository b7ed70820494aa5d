"""How well keyhaus evicts: hit ratios beside redis-server, with as many keys fitting into either, and what it costs.

Run it with `python -m benchmarks.eviction --help` in the environment that `make test` makes.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from benchmarks import report
from benchmarks.machine import cores, cpu_seconds, description, pinned
from benchmarks.report import Sheet
from benchmarks.servers import BenchmarkError, Contender, Keyhaus, Redis, Running, information, key_count, scratch
from tests.support.wire import Wire

_DESCRIPTION = """\
Plays one trace of reads to a keyhaus server, a redis-server and an exact LRU in this process; whoever misses a key sets
it. The trace follows from --seed. redis-server gets just as much memory as the number of keys that fit into keyhaus'
takes in it, found by filling it without a limit.

zipf: keys drawn with probability 1/rank^0.99. scan: the same, and now and then a run over keys that never come again.
shift: the same as zipf, the ranks drawn anew after half of the trace.
"""
BATCH: Final = 50  # reads that are sent at once; what they miss is set before the next ones
ZIPF_EXPONENT: Final = 0.99
SCAN_EVERY: Final = 5  # one read in so many of the scan trace belongs to a scan
_HOST: Final = "127.0.0.1"


class Found(msgspec.Struct, frozen=True):
    """What one cache did with one trace; `keys` is how many it had in the end."""

    trace: str
    policy: str
    cache: str
    keys: int
    hit_ratio: float
    cpu_us_per_operation: float


# traces


def ranks(generator: random.Random, keys: int) -> Callable[[], int]:
    """Draws numbers below `keys`, small ones more often, as Zipf's law has it."""
    weights = list(itertools.accumulate((rank + 1) ** -ZIPF_EXPONENT for rank in range(keys)))
    return lambda: bisect.bisect_left(weights, generator.random() * weights[-1])


def trace(name: str, keys: int, reads: int, seed: int) -> Iterator[bytes]:
    """The keys that are read, in order."""
    generator = random.Random(seed)
    draw = ranks(generator, keys)
    names = [b"key:%012d" % number for number in range(keys)]
    generator.shuffle(names)
    scanned = keys
    for number in range(reads):
        if name == "scan" and number % (SCAN_EVERY * 1000) >= (SCAN_EVERY - 1) * 1000:
            scanned += 1
            yield b"key:%012d" % scanned
            continue
        if name == "shift" and number == reads // 2:
            generator.shuffle(names)
        yield names[draw()]


# caches


def play_exact(keys: Iterator[bytes], most: int) -> float:
    """The hit ratio of an exact LRU of `most` keys."""
    cache: OrderedDict[bytes, None] = OrderedDict()
    hits = reads = 0
    for key in keys:
        reads += 1
        if key in cache:
            hits += 1
            cache.move_to_end(key)
        else:
            cache[key] = None
            if len(cache) > most:
                cache.popitem(last=False)
    return hits / reads


def play(server: Running, keys: Iterator[bytes], value: bytes) -> tuple[float, float]:
    """The hit ratio of a server, and the microseconds of CPU that an operation took."""
    hits = reads = 0
    with Wire(_HOST, server.port) as wire:
        before = cpu_seconds(server.pid)
        while batch := list(itertools.islice(keys, BATCH)):
            wire.send(*([b"GET", key] for key in batch))
            missed = dict.fromkeys(key for key in batch if wire.receive() == b"$-1\r\n")
            reads += len(batch)
            hits += len(batch) - len(missed)
            wire.send(*([b"SET", key, value] for key in missed))
            for _ in missed:
                if (reply := wire.receive()) != b"+OK\r\n":
                    raise BenchmarkError(f"SET failed: {reply!r}")
        elapsed = cpu_seconds(server.pid) - before
    return hits / reads, 1e6 * elapsed / (2 * reads - hits)


def fill(server: Running, keys: int, value: bytes) -> None:
    with Wire(_HOST, server.port) as wire:
        for first in range(0, keys, 1000):
            numbers = range(first, min(keys, first + 1000))
            wire.send(*([b"SET", b"old:%012d" % number, value] for number in numbers))
            for _ in numbers:
                wire.receive()


def configure(server: Running, *words: str) -> None:
    with Wire(_HOST, server.port) as wire:
        reply = wire.call(b"CONFIG", b"SET", *map(str.encode, words))
        if reply != b"+OK\r\n":
            raise BenchmarkError(f"CONFIG SET {' '.join(words)}: {reply!r}")


class Caches:
    """A keyhaus and a redis-server into which equally many keys fit."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._value = b"x" * options.value_bytes
        self._core = cores().server

    def measure(self, name: str, policy: str) -> Iterator[Found]:
        options = self._options
        limit = str(options.max_memory)
        with ExitStack() as stack:
            ours = self._start(stack, Keyhaus())
            configure(ours, "maxmemory", limit, "maxmemory-policy", policy, "maxmemory-samples", str(options.samples))
            fill(ours, options.max_memory // (options.value_bytes + 150), self._value)
            fitting = key_count(ours.port)
            yield self._play(ours, name, policy, "keyhaus")
        with ExitStack() as stack:
            theirs = self._start(stack, Redis())
            fill(theirs, fitting, self._value)
            used = information(theirs.port, "memory")["used_memory"]
            configure(theirs, "maxmemory", used, "maxmemory-policy", policy, "maxmemory-samples", str(options.samples))
            yield self._play(theirs, name, policy, "redis")
        exact = play_exact(self._trace(name), fitting)
        yield Found(name, policy, "exact LRU", fitting, exact, 0.0)

    def _start(self, stack: ExitStack, contender: Contender) -> Running:
        directory = stack.enter_context(scratch(self._options.directory))
        server = contender.start("memory", directory, self._core)
        stack.callback(server.stop)
        return server

    def _trace(self, name: str) -> Iterator[bytes]:
        return trace(name, self._options.keys, self._options.reads, self._options.seed)

    def _play(self, server: Running, name: str, policy: str, cache: str) -> Found:
        ratio, cost = play(server, self._trace(name), self._value)
        return Found(name, policy, cache, key_count(server.port), ratio, cost)


def sheet(found: list[Found], seed: int) -> Sheet:
    return Sheet(
        f"hit ratios, seed {seed}",
        ["trace", "policy", "cache", "keys", "hit ratio", "µs CPU an operation"],
        [
            [
                one.trace,
                one.policy,
                one.cache,
                f"{one.keys:,}",
                f"{one.hit_ratio:.4f}",
                f"{one.cpu_us_per_operation:.2f}" if one.cpu_us_per_operation else "",
            ]
            for one in found
        ],
        words=3,
    )


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--keys", type=int, default=100_000, help="different keys of the zipf trace")
    made.add_argument("--reads", type=int, default=500_000)
    made.add_argument("--max-memory", type=int, default=3_000_000, help="keyhaus' limit, in bytes")
    made.add_argument("--value-bytes", type=int, default=100)
    made.add_argument("--samples", type=int, default=5)
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--directory", type=Path, help="where servers keep their logs")
    made.add_argument("--json", metavar="FILE", help="write the figures there too")
    return made


def main() -> int:
    options = parser().parse_args()
    console = Console()
    found: list[Found] = []
    try:
        with pinned(cores().client):
            caches = Caches(options)
            for name, policy in itertools.product(("zipf", "scan", "shift"), ("allkeys-lru", "allkeys-lfu")):
                found += caches.measure(name, policy)
    except BenchmarkError as error:
        console.print(str(error), style="red")
        return 1
    report.show_sheets(console, [sheet(found, options.seed)])
    if options.json:
        content = {"machine": description(), "seed": options.seed, "found": found}
        report.write(options.json, msgspec.json.format(msgspec.json.encode(content)), console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
