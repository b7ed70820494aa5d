"""Latencies while a flush is under way and while none is, at a fixed rate that does not wait for the server.

Run it with `python -m benchmarks.flushes` in the environment that `make test` makes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import driver, openloop, report
from benchmarks.latencies import CELLS, Latencies, summary
from benchmarks.machine import Cores, Strangers, cores, cpu_seconds, description, pinned
from benchmarks.openloop import STATES, Heard, Questions, Schedule, Timeline
from benchmarks.options import disk_of
from benchmarks.probe import Probe, Sync
from benchmarks.report import Sheet, spread
from benchmarks.rows import Rows
from benchmarks.servers import BenchmarkError, Contender, Keyhaus, Redis, Running, scratch

_DESCRIPTION = """\
Sends GETs and durable SETs, half and half, at fixed times, and tells the latencies while a flush is under way from the
others. A latency counts from when the request was due, whether the client or the server was late. The server has one
core, helpers included; the client has another one, which it shares with a prober of the disk: a process that overwrites
4 KiB and calls fdatasync, a few times a second.

keyhaus flushes when --memtable-bytes of new data have come together; its INFO is asked --ask-ms apart whether a flush
is under way. For redis-server (--appendfsync always) the rewrite of its append-only file takes the flush's place; it is
told to begin one every --rewrite-seconds. The servers take turns, one slice of --seconds each; the first second of a
slice is not counted.

How to read it: "client lag" is how late the client itself sent. Where its p99 is not far below that of the latencies,
or it was busy for most of the time, the figures are the client's. If redis-server's calm p99 makes no sense, none does.
"""
_EPILOG = """\
examples:
  python -m benchmarks.flushes
  python -m benchmarks.flushes --rate 2000 --seconds 5 --rounds 1 --keys 20000 --rewrite-seconds 2    whether it runs
  python -m benchmarks.flushes --value-bytes 1000 --memtable-bytes 64mb --keyhaus-options '--set block-cache-bytes=32mb'
"""
_KEYHAUS = Questions("keyhaus", "flush_running", "flushes", "compactions_running")
_WARM_UP_NS = 1_000_000_000


class Slice(msgspec.Struct, frozen=True):
    """One slice: latencies by what was measured (GET, SET, fdatasync, client lag), then by what was under way."""

    latencies: dict[str, dict[str, Latencies]]
    flushes: int
    flush_share: float
    stalls: int
    stall_ms: int
    cpu_us: float
    client_busy: float
    strangers: float

    def p99_ratio(self, what: str) -> float | None:
        """During flushes, over that of calm times; None where there was none of either."""
        calm, flush = (self.latencies[what][state] for state in ("calm", "flush"))
        return flush.p99_ms / calm.p99_ms if calm.count and flush.count else None


class Found(msgspec.Struct, frozen=True):
    """All slices of one server, and the latencies of all of them together."""

    name: str
    version: str
    slices: list[Slice]
    together: dict[str, dict[str, Latencies]]


Spans = dict[str, dict[str, list[int]]]


def spans_of(heard: Heard, syncs: list[Sync], timeline: Timeline) -> Spans:
    """The latencies of a slice in nanoseconds, sorted into what was measured and what was under way."""
    found: Spans = {what: {state: [] for state in STATES} for what in ("GET", "SET", "fdatasync", "client lag")}
    counted_ns = heard.due_ns[0] + _WARM_UP_NS
    for number, (due, latency, lag) in enumerate(zip(heard.due_ns, heard.latency_ns, heard.lag_ns, strict=True)):
        if due >= counted_ns:
            state = timeline.state(due, due + latency)
            found["SET" if number & 1 else "GET"][state].append(latency)
            found["client lag"][state].append(lag)
    last_ns = heard.answers[-1].answered_ns
    for sync in syncs:
        if counted_ns <= sync.start_ns and sync.end_ns <= last_ns:
            found["fdatasync"][timeline.state(sync.start_ns, sync.end_ns)].append(sync.end_ns - sync.start_ns)
    return found


def summed_up(spans: Spans) -> dict[str, dict[str, Latencies]]:
    return {what: {state: summary(into) for state, into in by_state.items()} for what, by_state in spans.items()}


class Bout:
    """Both servers, running, and the slices that they have had."""

    def __init__(self, options: argparse.Namespace, directory: Path, pool: ProcessPoolExecutor) -> None:
        self.options, self.directory, self.pool = options, directory, pool
        self.slices: dict[str, list[Slice]] = {}
        self.spans: dict[str, Spans] = {}

    def measure(self, name: str, server: Running, questions: Questions, turn: int) -> None:
        """One slice."""
        options = self.options
        schedule = Schedule(
            per_second=options.rate,
            seconds=options.seconds + _WARM_UP_NS / 1e9,
            keys=options.keys,
            value_bytes=options.value_bytes,
            connections=options.connections,
            ask_ms=options.ask_ms,
            seed=options.seed * 1000 + turn,
        )
        probe = Probe(self.directory / "probe", options.probe_rate)
        try:
            strangers, cpu = Strangers(), cpu_seconds(server.pid)
            heard: Heard = self.pool.submit(openloop.run, server.port, schedule, questions).result()
            cpu = cpu_seconds(server.pid) - cpu
        finally:
            syncs = probe.finish()
        timeline = Timeline(heard.answers)
        spans = spans_of(heard, syncs, timeline)
        grown = {
            field: int(heard.last.get(field, "0")) - int(heard.first.get(field, "0"))
            for field in (questions.flushes, "write_stalls", "write_stall_ms")
        }
        self.slices.setdefault(name, []).append(
            Slice(
                latencies=summed_up(spans),
                flushes=grown[questions.flushes],
                flush_share=timeline.share("flush"),
                stalls=grown["write_stalls"],
                stall_ms=grown["write_stall_ms"],
                cpu_us=cpu / len(heard.due_ns) * 1e6,
                client_busy=heard.client_busy,
                strangers=strangers.share(),
            )
        )
        before = self.spans.setdefault(name, spans)
        if before is not spans:
            for what, by_state in spans.items():
                for state, into in by_state.items():
                    before[what][state] += into


def measure(options: argparse.Namespace, layout: Cores, progress: Progress) -> tuple[list[Found], Latencies]:
    """All slices; what was found of each server, and of the disk while nothing else used it."""
    contenders: list[tuple[Contender, Questions]] = []
    if "keyhaus" in options.contenders:
        words = ["--set", f"memtable-bytes={options.memtable_bytes}", *options.keyhaus_options.split()]
        contenders.append((Keyhaus(options=words), _KEYHAUS))
    if "redis" in options.contenders:
        rewrites = Questions(
            "persistence", "aof_rewrite_in_progress", "aof_rewrites", "", "BGREWRITEAOF", options.rewrite_seconds
        )
        contenders.append((Redis(options=options.redis_options.split()), rewrites))
    with ExitStack() as stack:
        directory = stack.enter_context(scratch(Path(options.directory) if options.directory else None))
        stack.enter_context(pinned(layout.client))
        pool = stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
        running: dict[str, Running] = {}
        for contender, _ in contenders:
            place = directory / contender.name
            place.mkdir()
            running[contender.name] = server = contender.start("durable", place, layout.server)
            stack.callback(server.stop)
            task = progress.add_task(f"load {contender.name}", total=options.keys)
            for done in driver.load(server.port, Rows(options.value_bytes), range(options.keys)):
                progress.update(task, completed=done)
        idle = _idle(options, directory, progress)
        bout = Bout(options, directory, pool)
        task = progress.add_task("slices", total=options.rounds * len(contenders))
        for turn in range(options.rounds):
            for contender, questions in contenders if turn % 2 == 0 else reversed(contenders):
                progress.update(task, description=f"slice of {contender.name}")
                bout.measure(contender.name, running[contender.name], questions, turn)
                progress.advance(task)
        progress.update(task, description="slices: done")
        found = [
            Found(one.name, one.version(), bout.slices[one.name], summed_up(bout.spans[one.name]))
            for one, _ in contenders
        ]
        return found, idle


def _idle(options: argparse.Namespace, directory: Path, progress: Progress) -> Latencies:
    """The disk's own, once the servers have written what the load left."""
    task = progress.add_task("the disk, idle", total=1)
    time.sleep(options.idle_seconds)
    probe = Probe(directory / "probe", options.probe_rate)
    time.sleep(options.idle_seconds)
    syncs = probe.finish()
    progress.advance(task)
    return summary(sync.end_ns - sync.start_ns for sync in syncs)


def sheets(found: list[Found], idle: Latencies) -> list[Sheet]:
    rows = [["–", "fdatasync", "idle", *idle.cells()]]
    for one in found:
        for what, by_state in one.together.items():
            rows += [
                [f"{one.name} {one.version}", what, state, *latencies.cells()]
                for state, latencies in by_state.items()
                if latencies.count
            ]
    distributions = Sheet("latencies, all slices together", ["server", "", "under way", *CELLS], rows, words=3)
    return [distributions, Sheet("a flush beside calm, slice by slice", _HEADS, [_compared(one) for one in found])]


_HEADS = ["server", "flushes", "of the time", "GET p99 flush / calm [min–max]", "SET p99 flush / calm [min–max]"]
_HEADS += ["SET p99 / fdatasync p99, calm", "the same, flush", "stalls", "stalled ms", "µs CPU", "client busy"]
_HEADS += ["strangers"]


def _compared(one: Found) -> list[str]:
    slices = one.slices
    ratios = {what: [ratio for each in slices if (ratio := each.p99_ratio(what))] for what in ("GET", "SET")}
    beside_disk = []
    for state in ("calm", "flush"):
        ours, disk = one.together["SET"][state], one.together["fdatasync"][state]
        beside_disk.append(f"{ours.p99_ms / disk.p99_ms:.2f}" if ours.count and disk.count else "–")
    return [
        f"{one.name} {one.version}",
        str(sum(each.flushes for each in slices)),
        f"{statistics.mean(each.flush_share for each in slices):.0%}",
        spread(ratios["GET"]),
        spread(ratios["SET"]),
        *beside_disk,
        str(sum(each.stalls for each in slices)),
        str(sum(each.stall_ms for each in slices)),
        f"{statistics.median(each.cpu_us for each in slices):.2f}",
        f"{max(each.client_busy for each in slices):.0%}",
        f"{statistics.median(each.strangers for each in slices):.0%}",
    ]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.flushes",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--rate", type=int, default=10_000, help="requests a second (%(default)s)")
    add("--seconds", type=float, default=30.0, help="length of a slice (%(default)s)")
    add("--rounds", type=int, default=5, help="slices of each server (%(default)s)")
    add("--keys", type=int, default=150_000, help="rows, all loaded beforehand; the cache holds so many (%(default)s)")
    add("--value-bytes", type=int, default=100, help="length of a value; a key has 16 (%(default)s)")
    add("--connections", type=int, default=50, help="half of them for GETs, half for SETs (%(default)s)")
    add("--memtable-bytes", default="8mb", help="keyhaus' setting: how often flushes come (%(default)s)")
    add("--rewrite-seconds", type=float, default=5.0, help="how often redis rewrites (%(default)s)")
    add("--ask-ms", type=int, default=100, help="how often INFO is asked for (%(default)s)")
    add("--probe-rate", type=float, default=20.0, help="syncs a second of the prober (%(default)s)")
    add("--idle-seconds", type=float, default=5.0, help="how long the idle disk is probed (%(default)s)")
    add("--contenders", default="keyhaus,redis", help="which of them (%(default)s)")
    add("--keyhaus-options", default="", help="more options for keyhaus serve")
    add("--redis-options", default="", help="more options for redis-server")
    add("--seed", type=int, default=1, help="of the random choices (%(default)s)")
    add("--directory", help=f"where the data goes: the disk that is measured ({tempfile.gettempdir()})")
    add("--json", metavar="FILE", help="the figures of every slice go there; - is the standard output")
    add("--markdown", metavar="FILE", help="the tables go there as Markdown; - is the standard output")
    return made


def main() -> int:
    made = parser()
    options = made.parse_args()
    options.contenders = options.contenders.split(",")
    if unknown := set(options.contenders) - {"keyhaus", "redis"}:
        made.error(f"{', '.join(sorted(unknown))}: none of keyhaus, redis")
    numbers = (options.rate, options.rounds, options.keys, options.value_bytes, options.ask_ms)
    if min(numbers) < 1 or min(options.seconds, options.probe_rate, options.rewrite_seconds) <= 0:
        made.error("numbers are greater than 0")
    console = Console(stderr=True)
    disk = disk_of(options.directory, console)
    layout = cores()
    if not layout.apart:
        console.print("[yellow]Only one core: server and client share it, the figures say nothing.[/]")
    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console, refresh_per_second=1) as progress:
            found, idle = measure(options, layout, progress)
    except BenchmarkError as error:
        console.print(error, style="red", markup=False)
        return 1
    for one in found:
        if not sum(each.flushes for each in one.slices):
            console.print(f"[yellow]No flush of {one.name} was seen: nothing is compared.[/]")
    tables = sheets(found, idle)
    report.show_sheets(Console(), tables)
    facts = {
        "unix_seconds": int(time.time()),
        "machine": description(),
        "file_system": disk,
        "options": vars(options),
        "idle_fdatasync": idle,
        "servers": found,
    }
    report.write(options.json, msgspec.json.format(msgspec.json.encode(facts), indent=2), console)
    report.write(options.markdown, "\n".join(sheet.markdown() for sheet in tables).encode(), console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
