"""Many open transactions with many locks: what they take in memory, and what the others feel of it.

Run it with `python -m benchmarks.open_transactions --help` in the environment that `make test` makes.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.driver import connect
from benchmarks.latencies import CELLS, Latencies, summary
from benchmarks.machine import cores, pinned, proportional_bytes
from benchmarks.servers import BenchmarkError, Keyhaus, information, load, scratch

_DESCRIPTION = """\
Opens PESSIMISTIC transactions, several on each connection, and lets each lock keys of its own with one LOCK. Before,
while they are open, and after their COMMITs a client on a connection of its own reads and writes keys that nobody has
locked. Memory is the proportional set size of the server's own process.
"""
_VALUE: Final = b"x" * 64


class Connection:
    """One connection, one request at a time."""

    def __init__(self, port: int) -> None:
        self._socket = connect(port)
        self._replies = self._socket.makefile("rb")

    def ask(self, *words: bytes) -> bytes:
        self._socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))
        line = self._replies.readline()
        if line.startswith(b"-"):
            raise BenchmarkError(line.decode(errors="replace"))
        if line.startswith(b"$") and line != b"$-1\r\n":
            return self._replies.read(int(line[1:]) + 2)[:-2]
        return line[1:-2]

    def close(self) -> None:
        self._replies.close()
        self._socket.close()


def _timed(ask: Connection, verb: bytes, keys: range, count: int) -> Latencies:
    chosen = random.Random(1)
    spans: list[int] = []
    for _ in range(count):
        key = b"key:%012d" % chosen.choice(keys)
        words = (verb, key) if verb == b"GET" else (verb, key, _VALUE)
        began = time.monotonic_ns()
        ask.ask(*words)
        spans.append(time.monotonic_ns() - began)
    return summary(spans)


def _phase(name: str, ask: Connection, free: range, requests: int, rows: dict[str, Latencies]) -> None:
    for verb in (b"GET", b"SET"):
        rows[f"plain {verb.decode()}, {name}"] = _timed(ask, verb, free, requests)


def measure(options: argparse.Namespace) -> tuple[dict[str, Latencies], dict[str, float]]:
    """Latencies by phase, and megabytes."""
    layout = cores()
    locked = options.transactions * options.locks
    rows: dict[str, Latencies] = {}
    memory: dict[str, float] = {}
    with scratch(Path(options.directory) if options.directory else None) as directory:
        server = Keyhaus(options=["--set", "transaction-idle-ms=3600000"]).start(options.mode, directory, layout.server)
        connections: list[Connection] = []
        try:
            with pinned(layout.client):
                keys = locked + options.requests
                for _ in load(server.port, keys, len(_VALUE)):
                    pass
                ask, free = Connection(server.port), range(locked, keys)
                connections = [Connection(server.port) for _ in range(options.connections)]
                _phase("before", ask, free, options.requests, rows)
                memory["before"] = proportional_bytes(server.pid) / 1e6
                numbers, begins, locks = [], list[int](), list[int]()
                for number in range(options.transactions):
                    connection = connections[number % len(connections)]
                    began = time.monotonic_ns()
                    numbers.append(connection.ask(b"BEGIN"))
                    between = time.monotonic_ns()
                    first = number * options.locks
                    connection.ask(b"LOCK", *(b"key:%012d" % key for key in range(first, first + options.locks)))
                    begins.append(between - began)
                    locks.append(time.monotonic_ns() - between)
                rows["BEGIN"], rows[f"LOCK of {options.locks} keys"] = summary(begins), summary(locks)
                memory["all open"] = proportional_bytes(server.pid) / 1e6
                memory["as counted"] = int(information(server.port, "transactions")["transactions_bytes"]) / 1e6
                _phase("all open", ask, free, options.requests, rows)
                ends: list[int] = []
                for place, name in enumerate(numbers):
                    began = time.monotonic_ns()
                    connections[place % len(connections)].ask(b"COMMIT", name)
                    ends.append(time.monotonic_ns() - began)
                rows["COMMIT, nothing written"] = summary(ends)
                memory["after"] = proportional_bytes(server.pid) / 1e6
                ask.close()
        finally:
            for connection in connections:
                connection.close()
            server.stop()
    return rows, memory


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.open_transactions",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--mode", default="memory", choices=["memory", "durable"], help="(%(default)s)")
    add("--transactions", type=int, default=1000, help="how many are open at once (%(default)s)")
    add("--locks", type=int, default=100, help="keys that each locks (%(default)s)")
    add("--connections", type=int, default=50, help="of those that have them (%(default)s)")
    add("--requests", type=int, default=5000, help="plain ones of each kind and phase (%(default)s)")
    add("--directory", help=f"where the data goes ({tempfile.gettempdir()})")
    add("--json", metavar="FILE", help="every figure goes there; - is the standard output")
    options = parser.parse_args()
    try:
        rows, memory = measure(options)
    except BenchmarkError as error:
        Console(stderr=True).print(error, style="red", markup=False)
        return 1
    made = Table(title=f"{options.transactions:,} open transactions with {options.locks} locks each")
    for heading in ("", *CELLS):
        made.add_column(heading)
    for name, latencies in rows.items():
        made.add_row(name, *latencies.cells())
    console = Console(width=120)
    console.print(made)
    console.print(", ".join(f"{name}: {size:.0f} MB" for name, size in memory.items()), highlight=False)
    if options.json:
        text = msgspec.json.format(msgspec.json.encode({"latencies": rows, "memory_mb": memory})).decode() + "\n"
        if options.json == "-":
            sys.stdout.write(text)
        else:
            Path(options.json).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
