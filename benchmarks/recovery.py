"""How long keyhaus and redis-server need to be back after kill -9, and how much RAM a key takes in each.

Run it with `make bench`, which does so last, or `python -m benchmarks.recovery --help` in the environment that
`make test` makes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import report
from benchmarks.machine import cores, description, pinned, resident_bytes
from benchmarks.options import disk_of
from benchmarks.servers import BenchmarkError, Contender, Keyhaus, Redis, key_count, load, scratch

_DESCRIPTION = """\
Fills a durable server with keys, kills it with -9, and measures how long the next start takes until it answers.

redis-server runs with --appendonly yes --appendfsync always and without rewrites. Both must have every key after each
start, or the benchmark fails. Memory per key is what the server holds in RAM after loading, less what it held empty.
"""


class Found(msgspec.Struct, frozen=True):
    """What was measured of one server."""

    name: str
    version: str
    bytes_per_key: float
    load_seconds: float
    empty_start_seconds: float
    recovery_seconds: list[float]


def measure(contender: Contender, options: argparse.Namespace, progress: Progress) -> Found:
    """Loads, kills and restarts one server. Raises BenchmarkError."""
    layout = cores()
    task = progress.add_task(f"loading {contender.name}", total=options.keys)
    with scratch(Path(options.directory) if options.directory else None) as directory:
        server = contender.start("durable", directory, layout.server)
        try:
            empty_start = server.start_seconds
            empty_bytes = resident_bytes(server.pid)
            began = time.monotonic()
            with pinned(layout.client):
                for done in load(server.port, options.keys, options.value_bytes):
                    progress.update(task, completed=done)
            load_seconds = time.monotonic() - began
            time.sleep(1)  # buffers that only the load needed are given back
            grown = resident_bytes(server.pid) - empty_bytes
            starts = []
            for number in range(options.rounds):
                progress.update(task, description=f"kill -9 {number + 1} of {options.rounds}, {contender.name}")
                server.kill()
                server = contender.start("durable", directory, layout.server)
                starts.append(server.start_seconds)
                if (there := key_count(server.port)) != options.keys:
                    raise BenchmarkError(f"{contender.name} came back with {there} of {options.keys} keys")
        finally:
            server.stop()
    progress.update(task, description=f"{contender.name}: done")
    return Found(contender.name, contender.version(), grown / options.keys, load_seconds, empty_start, starts)


def table(found: list[Found], keys: int) -> Table:
    made = Table(title=f"{keys:,} keys, durable")
    for head in ("", "memory per key", "loaded in", "start, empty", "start after kill -9: median [min–max]"):
        made.add_column(escape(head), justify="right" if head else "left")
    for one in found:
        starts = one.recovery_seconds
        made.add_row(
            f"{one.name} {one.version}",
            f"{one.bytes_per_key:.0f} B",
            f"{one.load_seconds:.1f} s",
            f"{one.empty_start_seconds:.2f} s",
            escape(f"{statistics.median(starts):.2f} s [{min(starts):.2f}–{max(starts):.2f}]"),
        )
    return made


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recovery",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--keys", type=int, default=1_000_000, help="how many keys (%(default)s)")
    parser.add_argument("--value-bytes", type=int, default=64, help="length of a value (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how many kills (%(default)s)")
    parser.add_argument("--directory", help=f"where the data goes ({tempfile.gettempdir()})")
    parser.add_argument("--json", metavar="FILE", help="the figures go there; - is the standard output")
    parser.add_argument("--redis-only", action="store_true", help="without keyhaus: whether the harness runs")
    options = parser.parse_args()
    if min(options.keys, options.rounds) < 1:
        parser.error("keys and rounds are at least 1")
    console = Console(stderr=True)
    disk = disk_of(options.directory, console)
    contenders: list[Contender] = [Redis()] if options.redis_only else [Keyhaus(), Redis()]
    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console) as progress:
            found = [measure(contender, options, progress) for contender in contenders]
    except BenchmarkError as error:
        console.print(error, style="red", markup=False)
        return 1
    Console(width=max(console.width, 120)).print(table(found, options.keys))
    facts = {"machine": description(), "file_system": disk, "keys": options.keys, "servers": found}
    report.write(options.json, msgspec.json.format(msgspec.json.encode(facts), indent=2), console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
