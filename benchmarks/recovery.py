"""How long keyhaus and redis-server need to be back after kill -9, and how much RAM a key takes in each.

Run it with `make bench`, which does so last, or `python -m benchmarks.recovery --help` in the environment that
`make test` makes.
"""

from __future__ import annotations

import argparse
import random
import socket
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import report
from benchmarks.machine import (
    allocated_bytes,
    cores,
    cpu_seconds,
    description,
    drop_page_cache,
    pinned,
    proportional_bytes,
)
from benchmarks.options import disk_of
from benchmarks.report import Sheet, spread
from benchmarks.servers import (
    HOST,
    BenchmarkError,
    Contender,
    Keyhaus,
    Redis,
    Running,
    information,
    key_count,
    load,
    scratch,
)

_DESCRIPTION = """\
Fills durable servers with keys, kills them with -9 by turns, and measures how long the next start takes: until it
answers PING, and until it has answered GETs of 100 random keys.

redis-server runs with --appendonly yes --appendfsync always and without rewrites. Both must have every key after each
start, or the benchmark fails. Memory per key is what the server, helpers included, holds in RAM after loading (PSS),
less what it held empty.

With --unflushed keyhaus' memtable is large enough for everything, so all of it has to come from the journal; a flush
makes the benchmark fail. Without it, what has been flushed by then is read when it is asked for.
"""
_READS = 100
_UNFLUSHED = ("--set", "memtable-bytes=64gb")


class Found(msgspec.Struct, frozen=True):
    """What was measured of one server; seconds of starts are counted from the launch of the process."""

    name: str
    version: str
    bytes_per_key: float
    load_seconds: float
    disk_bytes: int
    empty_start_seconds: float
    recovery_seconds: list[float]
    first_reads_seconds: list[float]
    recovery_cpu_seconds: list[float]


class Patient:
    """One server, in a directory of its own, and what was measured of it so far."""

    def __init__(self, contender: Contender, options: argparse.Namespace, directory: Path) -> None:
        self._contender, self._options, self._directory = contender, options, directory
        directory.mkdir()
        self._layout = cores()
        self._server = self._start()
        self._empty_start = self._server.start_seconds
        self._grown = 0
        self._load_seconds = 0.0
        self._ready: list[float] = []
        self._read: list[float] = []
        self._cpu: list[float] = []

    @property
    def name(self) -> str:
        return self._contender.name

    def _start(self) -> Running:
        return self._contender.start("durable", self._directory, self._layout.server)

    def stop(self) -> None:
        self._server.stop()

    def fill(self, progress: Progress) -> None:
        """Sets all keys."""
        task = progress.add_task(f"loading {self.name}", total=self._options.keys)
        empty_bytes = proportional_bytes(self._server.pid)
        began = time.monotonic()
        with pinned(self._layout.client):
            for done in load(self._server.port, self._options.keys, self._options.value_bytes):
                progress.update(task, completed=done)
        self._load_seconds = time.monotonic() - began
        time.sleep(1)  # buffers that only the load needed are given back
        self._grown = proportional_bytes(self._server.pid) - empty_bytes
        self._check_unflushed()
        progress.update(task, description=f"loaded {self.name}")

    def _check_unflushed(self) -> None:
        flushes = information(self._server.port, "keyhaus").get("flushes", "0")
        if self._options.unflushed and flushes != "0":
            raise BenchmarkError(f"{self.name} has flushed {flushes} times: what it recovers is not the journal alone")

    def kill(self) -> None:
        """kill -9, a start, the first reads. Raises BenchmarkError where a key is missing."""
        self._server.kill()
        if self._options.drop_cache:
            drop_page_cache(self._directory)
        self._server = self._start()
        back = time.monotonic()
        first_reads(self._server.port, self._options.keys, self._options.value_bytes)
        self._read.append(self._server.start_seconds + time.monotonic() - back)
        self._ready.append(self._server.start_seconds)
        self._cpu.append(cpu_seconds(self._server.pid))
        if (there := key_count(self._server.port)) != self._options.keys:
            raise BenchmarkError(f"{self.name} came back with {there} of {self._options.keys} keys")
        self._check_unflushed()

    def found(self) -> Found:
        return Found(
            name=self.name,
            version=self._contender.version(),
            bytes_per_key=self._grown / self._options.keys,
            load_seconds=self._load_seconds,
            disk_bytes=allocated_bytes(self._directory),
            empty_start_seconds=self._empty_start,
            recovery_seconds=self._ready,
            first_reads_seconds=self._read,
            recovery_cpu_seconds=self._cpu,
        )


def first_reads(port: int, keys: int, value_bytes: int) -> None:
    """Reads random keys. Raises BenchmarkError where one is missing."""
    wanted = [random.randrange(keys) for _ in range(_READS)]
    with socket.create_connection((HOST, port), timeout=60) as connection, connection.makefile("rb") as replies:
        connection.sendall(b"".join(b"*2\r\n$3\r\nGET\r\n$16\r\nkey:%012d\r\n" % number for number in wanted))
        for number in wanted:
            head = replies.readline()
            if head != b"$%d\r\n" % value_bytes or len(replies.read(value_bytes + 2)) != value_bytes + 2:
                raise BenchmarkError(f"key:{number:012d} could not be read: {head!r}")


def measure(contenders: list[Contender], options: argparse.Namespace, progress: Progress) -> list[Found]:
    """Loads all, then kills and restarts them by turns. Raises BenchmarkError."""
    with ExitStack() as stack:
        directory = stack.enter_context(scratch(Path(options.directory) if options.directory else None))
        patients = []
        for contender in contenders:
            patient = Patient(contender, options, directory / contender.name)
            stack.callback(patient.stop)
            patient.fill(progress)
            patients.append(patient)
        task = progress.add_task("kills", total=options.rounds * len(patients))
        for turn in range(options.rounds):
            for patient in patients if turn % 2 == 0 else reversed(patients):
                progress.update(task, description=f"kill -9 {turn + 1} of {options.rounds}, {patient.name}")
                patient.kill()
                progress.advance(task)
        progress.update(task, description="kills: done")
        return [patient.found() for patient in patients]


def sheet(found: list[Found], keys: int, unflushed: bool) -> Sheet:
    heads = ["", "memory per key", "loaded in", "on disk", "start, empty", "ready after kill -9 [min–max]"]
    heads += ["first reads after it [min–max]", "ratio to redis [min–max]", "CPU"]
    redis = next((one for one in found if one.name == "redis"), None)
    rows = []
    for one in found:
        pairs = zip(one.first_reads_seconds, redis.first_reads_seconds if redis else (), strict=False)
        rows.append(
            [
                f"{one.name} {one.version}",
                f"{one.bytes_per_key:.0f} B",
                f"{one.load_seconds:.1f} s",
                f"{one.disk_bytes / 1e6:,.0f} MB",
                f"{one.empty_start_seconds:.2f} s",
                f"{spread(one.recovery_seconds)} s",
                f"{spread(one.first_reads_seconds)} s",
                "–" if redis in (None, one) else spread([ours / theirs for ours, theirs in pairs]),
                f"{spread(one.recovery_cpu_seconds)} s",
            ]
        )
    return Sheet(f"{keys:,} keys, durable{', nothing flushed' if unflushed else ''}", heads, rows)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recovery",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--keys", type=int, default=1_000_000, help="how many keys (%(default)s)")
    add("--value-bytes", type=int, default=64, help="length of a value (%(default)s)")
    add("--rounds", type=int, default=3, help="how many kills of each (%(default)s)")
    add("--unflushed", action="store_true", help="everything has to come from keyhaus' journal")
    add(
        "--drop-cache",
        action="store_true",
        help="starts read from the disk: the page cache is dropped before",
    )
    add("--keyhaus-options", default="", help="more options for keyhaus serve")
    add("--directory", help=f"where the data goes ({tempfile.gettempdir()})")
    add("--json", metavar="FILE", help="the figures go there; - is the standard output")
    add("--markdown", metavar="FILE", help="the table goes there as Markdown; - is the standard output")
    add("--redis-only", action="store_true", help="without keyhaus: whether the harness runs")
    options = parser.parse_args()
    if min(options.keys, options.rounds) < 1:
        parser.error("keys and rounds are at least 1")
    console = Console(stderr=True)
    disk = disk_of(options.directory, console)
    words = [*(_UNFLUSHED if options.unflushed else ()), *options.keyhaus_options.split()]
    contenders: list[Contender] = [Redis()] if options.redis_only else [Keyhaus(options=words), Redis()]
    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console) as progress:
            found = measure(contenders, options, progress)
    except BenchmarkError as error:
        console.print(error, style="red", markup=False)
        return 1
    made = sheet(found, options.keys, options.unflushed)
    report.show_sheets(Console(), [made])
    facts = {
        "machine": description(),
        "file_system": disk,
        "keys": options.keys,
        "options": vars(options),
        "servers": found,
    }
    report.write(options.json, msgspec.json.format(msgspec.json.encode(facts), indent=2), console)
    report.write(options.markdown, made.markdown().encode(), console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
