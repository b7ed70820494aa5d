"""Interactive transactions beside redis-server's MULTI/EXEC, with the same commands, each in one round trip.

Run it with `python -m benchmarks.transactions --help` in the environment that `make test` makes.
"""

from __future__ import annotations

import argparse
import gc
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
from benchmarks.servers import BenchmarkError, Contender, Keyhaus, Redis, Running, load, scratch

_DESCRIPTION = """\
Each client sends a whole transaction in one packet, two GETs and two SETs between its begin and its end, waits for all
replies, and sends the next one. No two clients ever use the same key, so nothing waits and nothing conflicts. Servers
run on one core, threads and helpers included; the load generator has the other one. Slices are measured by turns, who
goes first alternates; a ratio is that of keyhaus to redis in the same turn: the median, with the least and greatest.

kinds:
  pessimistic   BEGIN, GET, GET, SET, SET, COMMIT
  optimistic    BEGIN OPTIMISTIC, GET, GET, SET, SET, COMMIT
  multi         MULTI, GET, GET, SET, SET, EXEC        also redis-server's
  plain         GET, GET, SET, SET                     no transaction; also redis-server's
"""
KINDS: Final = ("pessimistic", "optimistic", "multi", "plain")
_BEGINS: Final = {"pessimistic": [b"BEGIN"], "optimistic": [b"BEGIN", b"OPTIMISTIC"], "multi": [b"MULTI"]}
_ENDS: Final = {"pessimistic": [b"COMMIT"], "optimistic": [b"COMMIT"], "multi": [b"EXEC"]}
_VALUE_BYTES: Final = 64
_OK: Final = len(b"+OK\r\n")
_QUEUED: Final = len(b"+QUEUED\r\n")
_ID: Final = len(b"$29\r\n") + 29 + 2
_GOT: Final = len(b"$64\r\n") + _VALUE_BYTES + 2
_REPLY_BYTES: Final = {
    "pessimistic": _ID + 2 * _GOT + 3 * _OK,
    "optimistic": _ID + 2 * _GOT + 3 * _OK,
    "multi": _OK + 4 * _QUEUED + len(b"*4\r\n") + 2 * _GOT + 2 * _OK,
    "plain": 2 * _GOT + 2 * _OK,
}


class Slice(msgspec.Struct, frozen=True):
    """What was done in one slice.

    Attributes:
        per_second: Transactions.
        cpu_us: What the server spent on each, all its processes together.
        latencies: Of whole transactions.
        client_busy: How much of its core the load generator used.
    """

    per_second: float
    cpu_us: float
    latencies: Latencies
    client_busy: float


def _request(words: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


class _Client:
    """One connection; its keys are those whose numbers leave its own remainder."""

    def __init__(self, port: int, kind: str, number: int, clients: int, keys: int) -> None:
        self.socket = connect(port)
        self._random = random.Random(number)
        self._kind, self._number, self._clients, self._keys = kind, number, clients, keys // clients
        self._begin = _request(_BEGINS[kind]) if kind in _BEGINS else b""
        self._end = _request(_ENDS[kind]) if kind in _ENDS else b""
        self._missing = 0
        self._sent_ns = 0
        self.spans: list[int] = []

    def _key(self) -> bytes:
        return b"key:%012d" % (int(self._random.random() * self._keys) * self._clients + self._number)

    def send(self) -> None:
        one, other = self._key(), self._key()
        body = b"".join(b"*2\r\n$3\r\nGET\r\n$16\r\n%b\r\n" % key for key in (one, other))
        body += b"".join(b"*3\r\n$3\r\nSET\r\n$16\r\n%b\r\n$64\r\n%b\r\n" % (key, b"y" * 64) for key in (one, other))
        self._missing = _REPLY_BYTES[self._kind]
        self._sent_ns = time.monotonic_ns()
        self.socket.sendall(self._begin + body + self._end)

    def receive(self, deadline_ns: int) -> bool:
        """Takes what has come; whether that completes the replies."""
        piece = self.socket.recv(1 << 16)
        if not piece or piece.startswith(b"-") or b"\n-" in piece:
            raise BenchmarkError(f"not what a transaction's replies look like: {piece[:300].decode(errors='replace')}")
        self._missing -= len(piece)
        if self._missing > 0:
            return False
        now = time.monotonic_ns()
        if now <= deadline_ns:
            self.spans.append(now - self._sent_ns)
        return True


def drive(port: int, kind: str, clients: int, keys: int, seconds: float) -> tuple[int, float, Latencies]:
    """Lets clients work for some seconds: transactions, the generator's own use of its core, latencies."""
    poll = select.epoll()
    members = [_Client(port, kind, number, clients, keys) for number in range(clients)]
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


def _slice(server: Running, kind: str, options: argparse.Namespace, core: frozenset[int]) -> Slice:
    before = cpu_seconds(server.pid)
    with pinned(core), get_context("spawn").Pool(1) as pool:
        arguments = (server.port, kind, options.clients, options.keys, options.seconds)
        done, busy, latencies = pool.apply(drive, arguments)
    spent = cpu_seconds(server.pid) - before
    return Slice(done / options.seconds, spent / max(done, 1) * 1e6, latencies, busy)


def measure(options: argparse.Namespace, console: Console) -> dict[str, dict[str, list[Slice]]]:
    """Slices by mode, and by contender and kind."""
    layout = cores()
    contenders: list[Contender] = [Keyhaus(options=options.keyhaus_options.split()), Redis()]
    found: dict[str, dict[str, list[Slice]]] = {}
    for mode in options.modes.split(","):
        with ExitStack() as stack:
            servers: dict[str, Running] = {}
            for contender in contenders:
                directory = stack.enter_context(scratch(Path(options.directory) if options.directory else None))
                server = servers[contender.name] = contender.start(mode, directory, layout.server)
                stack.callback(server.stop)
                for _ in load(server.port, options.keys, _VALUE_BYTES):
                    pass
            lines = [("keyhaus", kind) for kind in KINDS] + [("redis", "multi"), ("redis", "plain")]
            slices = found[mode] = {f"{name} {kind}": [] for name, kind in lines}
            for number in range(options.rounds):
                for name, kind in lines if number % 2 == 0 else lines[::-1]:
                    console.print(f"{mode}, round {number + 1}: {name} {kind}", highlight=False)
                    slices[f"{name} {kind}"].append(_slice(servers[name], kind, options, layout.client))
    return found


def table(found: dict[str, dict[str, list[Slice]]]) -> Table:
    made = Table(title="transactions of two GETs and two SETs, one round trip each")
    for heading in (
        "mode",
        "",
        "a second [min–max]",
        "keyhaus / redis multi",
        "µs CPU",
        "p50 ms",
        "p99 ms",
        "client busy",
    ):
        made.add_column(heading)
    for mode, lines in found.items():
        theirs = [one.per_second for one in lines["redis multi"]]
        for name, slices in lines.items():
            rates = [one.per_second for one in slices]
            ratios = [ours / other for ours, other in zip(rates, theirs, strict=True)]
            ratio = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}–{max(ratios):.2f}]"
            made.add_row(
                mode,
                name,
                f"{statistics.median(rates):,.0f} [{min(rates):,.0f}–{max(rates):,.0f}]",
                ratio,
                f"{statistics.median([one.cpu_us for one in slices]):.1f}",
                f"{statistics.median([one.latencies.p50_ms for one in slices]):.2f}",
                f"{statistics.median([one.latencies.p99_ms for one in slices]):.2f}",
                f"{max(one.client_busy for one in slices):.0%}",
            )
    return made


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transactions",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--modes", default="memory,durable", help="which of them (%(default)s)")
    add("--rounds", type=int, default=5, help="slices of each line (%(default)s)")
    add("--seconds", type=float, default=4.0, help="length of a slice (%(default)s)")
    add("--clients", type=int, default=50, help="connections (%(default)s)")
    add("--keys", type=int, default=100_000, help="keys, all of them loaded beforehand (%(default)s)")
    add("--keyhaus-options", default="", help="more options for keyhaus serve")
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
