"""Every dialect of keyhaus, and redis-server beside them, with the same reads and writes.

Run it with `python -m benchmarks.dialects --help` in the environment that `make test` makes.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import random
import select
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.driver import SILENCE_SECONDS_MAX, connect
from benchmarks.latencies import Latencies, summary
from benchmarks.machine import cores, cpu_seconds, pinned
from benchmarks.servers import HOST, BenchmarkError, Keyhaus, Redis, Running, free_port, load, scratch
from keyhaus.cli.bench.wire import WIRES

_DESCRIPTION = """\
Each client sends so many requests in one packet, waits for all replies, and sends the next ones; keys are drawn at
random among those that are there, values have 64 bytes. Servers run on one core, threads and helpers included; the load
generator, which counts bytes of replies, has the other one. Slices are measured by turns, who goes first alternates; a
ratio is that of the dialect to redis-server in the same turn: the median, with the least and greatest.
"""
VERBS: Final = ("set", "get")
_VALUE: Final = "y" * 64
_BATCHES: Final = 64  # of requests, made before the slice; each client sends them in a circle


class Slice(msgspec.Struct, frozen=True):
    """What was done in one slice.

    Attributes:
        per_second: Requests.
        cpu_us: What the server spent on each, all its processes together.
        latencies: Of whole packets.
        client_busy: How much of its core the load generator used.
    """

    per_second: float
    cpu_us: float
    latencies: Latencies
    client_busy: float


class _Client:
    """One connection."""

    def __init__(self, port: int, dialect: str, verb: str, pipeline: int, keys: int, number: int, size: int) -> None:
        self.socket = connect(port)
        wire, choice = WIRES[dialect](), random.Random(number)
        names = (f"key:{choice.randrange(keys):012}" for _ in itertools.repeat(None))
        make = wire.get if verb == "get" else (lambda key: wire.set(key, _VALUE))
        self._batches = itertools.cycle([b"".join(make(next(names)) for _ in range(pipeline)) for _ in range(_BATCHES)])
        self._size = size * pipeline
        self._missing = self._sent_ns = 0
        self.spans: list[int] = []

    def send(self) -> None:
        self._missing = self._size
        self._sent_ns = time.monotonic_ns()
        self.socket.sendall(next(self._batches))

    def receive(self, deadline_ns: int) -> bool:
        """Takes what has come; whether that completes the replies."""
        piece = self.socket.recv(1 << 18)
        if not piece or b"rror" in piece or piece.startswith(b"-"):
            raise BenchmarkError(f"not what replies look like: {piece[:300].decode(errors='replace')}")
        self._missing -= len(piece)
        if self._missing > 0:
            return False
        now = time.monotonic_ns()
        if now <= deadline_ns:
            self.spans.append(now - self._sent_ns)
        return True


def _reply_bytes(port: int, dialect: str, verb: str) -> int:
    """How long each reply is: all values and keys have one length."""
    wire = WIRES[dialect]()
    key = f"key:{0:012}"
    with connect(port) as connection:
        connection.sendall(wire.get(key) if verb == "get" else wire.set(key, _VALUE))
        data = b""
        while not (counted := wire.count(data)).replies:
            data += connection.recv(4096)
    return counted.size


def drive(
    port: int, dialect: str, verb: str, pipeline: int, clients: int, keys: int, seconds: float
) -> tuple[int, float, Latencies]:
    """Lets clients work for some seconds: packets, the generator's own use of its core, latencies."""
    size = _reply_bytes(port, dialect, verb)
    poll = select.epoll()
    members = [_Client(port, dialect, verb, pipeline, keys, number, size) for number in range(clients)]
    by_descriptor = {client.socket.fileno(): client for client in members}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.EPOLLIN)
    gc.disable()
    try:
        began_cpu, began = time.process_time(), time.monotonic_ns()
        deadline = began + int(seconds * 1e9)
        for client in members:
            client.send()
        waiting = len(members)
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
        for client in members:
            client.socket.close()
    spans = [span for client in members for span in client.spans]
    return len(spans), busy, summary(spans)


def _slice(
    server: Running,
    port: int,
    dialect: str,
    verb: str,
    pipeline: int,
    options: argparse.Namespace,
    core: frozenset[int],
) -> Slice:
    before = cpu_seconds(server.pid)
    with pinned(core), get_context("spawn").Pool(1) as pool:
        arguments = (port, dialect, verb, pipeline, options.clients, options.keys, options.seconds)
        done, busy, latencies = pool.apply(drive, arguments)
    requests = done * pipeline
    spent = cpu_seconds(server.pid) - before
    return Slice(requests / options.seconds, spent / max(requests, 1) * 1e6, latencies, busy)


def measure(options: argparse.Namespace, console: Console) -> dict[str, list[Slice]]:
    """Slices by mode, verb, pipeline and dialect, all in one name."""
    layout = cores()
    found: dict[str, list[Slice]] = {}
    for mode in options.modes.split(","):
        with ExitStack() as stack:
            auto = free_port()
            servers = []
            for contender in (Keyhaus(options=["--listen", f"auto://{HOST}:{auto}"]), Redis()):
                directory = stack.enter_context(scratch(Path(options.directory) if options.directory else None))
                server = contender.start(mode, directory, layout.server)
                stack.callback(server.stop)
                for _ in load(server.port, options.keys, len(_VALUE)):
                    pass
                servers.append(server)
            ours, theirs = servers
            lines = [(ours, auto, dialect) for dialect in options.dialects.split(",")] + [
                (theirs, theirs.port, "redis")
            ]
            for pipeline, verb in itertools.product(map(int, options.pipelines.split(",")), VERBS):
                for number in range(options.rounds):
                    for server, port, name in lines if number % 2 == 0 else lines[::-1]:
                        dialect = "resp" if name == "redis" else name
                        one = _slice(server, port, dialect, verb, pipeline, options, layout.client)
                        found.setdefault(f"{mode} {verb} {pipeline} {name}", []).append(one)
                console.print(f"{mode}: {verb}, {pipeline} a packet, done", highlight=False)
    return found


def table(found: dict[str, list[Slice]]) -> Table:
    made = Table(title="requests with values of 64 bytes")
    for heading in (
        "mode",
        "",
        "P",
        "dialect",
        "a second [min–max]",
        "beside redis",
        "µs CPU",
        "p99 ms",
        "client busy",
    ):
        made.add_column(heading)
    for line, slices in found.items():
        mode, verb, pipeline, dialect = line.split()
        theirs = found[f"{mode} {verb} {pipeline} redis"]
        rates = [one.per_second for one in slices]
        ratios = [one.per_second / other.per_second for one, other in zip(slices, theirs, strict=True)]
        made.add_row(
            mode,
            verb,
            pipeline,
            dialect,
            f"{statistics.median(rates):,.0f} [{min(rates):,.0f}–{max(rates):,.0f}]",
            f"{statistics.median(ratios):.2f} [{min(ratios):.2f}–{max(ratios):.2f}]",
            f"{statistics.median([one.cpu_us for one in slices]):.2f}",
            f"{statistics.median([one.latencies.p99_ms for one in slices]):.2f}",
            f"{max(one.client_busy for one in slices):.0%}",
        )
    return made


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dialects",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--modes", default="memory,durable", help="which of them (%(default)s)")
    add("--dialects", default=",".join(WIRES), help="which of them (%(default)s)")
    add("--pipelines", default="1,16", help="how many requests a packet has (%(default)s)")
    add("--rounds", type=int, default=5, help="slices of each line (%(default)s)")
    add("--seconds", type=float, default=3.0, help="length of a slice (%(default)s)")
    add("--clients", type=int, default=50, help="connections (%(default)s)")
    add("--keys", type=int, default=100_000, help="keys, all of them loaded beforehand (%(default)s)")
    add("--directory", help=f"where the data goes ({tempfile.gettempdir()})")
    add("--json", metavar="FILE", help="every single figure goes there; - is the standard output")
    options = parser.parse_args()
    console = Console(stderr=True)
    try:
        found = measure(options, console)
    except BenchmarkError as error:
        console.print(error, style="red", markup=False)
        return 1
    Console(width=160).print(table(found))
    if options.json:
        text = msgspec.json.format(msgspec.json.encode(found)).decode() + "\n"
        if options.json == "-":
            sys.stdout.write(text)
        else:
            Path(options.json).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
