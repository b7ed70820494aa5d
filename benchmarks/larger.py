"""Data larger than RAM: keyhaus beside redis-server and beside RocksDB used directly.

Run it with `make bench-larger`, or `python -m benchmarks.larger --help` in the environment that `make test` makes.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import random
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

from benchmarks import report
from benchmarks.larger_report import Findings, Load, Mixed, Restart, sheets
from benchmarks.machine import Cores, cores, cpu_seconds, description, memory_watched, pinned, proportional_bytes
from benchmarks.options import disk_of
from benchmarks.rows import Rows
from benchmarks.servers import BenchmarkError, Keyhaus, Redis, scratch
from benchmarks.subjects import Bench, Embedded, Rate, Served, Subject

PHASES = ("load", "hot", "cold", "overwrite", "latency", "restart")
CONTENDERS = ("keyhaus", "redis", "rocksdict")
_PLAN_FILE = "larger.json"
_RECOVERED = 1.5  # times the least that a read took the disk so far
_RECOVERY_SECONDS = 30
_DESCRIPTION = """\
Loads many rows into keyhaus, redis-server and RocksDB (rocksdict in a process of its own, without a network), and
measures each, taking turns, slice by slice. Servers have one core, threads and helpers included; the load generator has
another one. Every write is confirmed once it is synced, in all three.

phases:
  load       rows in random order, pipelined; the rate as a whole and of each tenth, disk, time until idle afterwards
  hot        GETs of --hot-keys rows that were read before
  cold       GETs of any row, the page cache dropped before each slice; RocksDB reads past it
  overwrite  SETs of any row; how much that read from the disk, beside an idle span just before
  latency    hot GETs of 10 clients, alone and while 10 others read any row, by turns
  restart    kill -9, and a clean stop: seconds until the first row is read again

Memory is the proportional set size (PSS) of a server and all its descendants, sampled every second, the greatest value
of each phase. In the latency phase it is sampled between slices only, since sampling would show in the latencies.
rocksdict has the two caches' bytes together for its block cache, which also holds indexes and filters. Its reads are
those of one thread, P of them with one multi-get; its writes are batches with one sync for as many rows as all clients
of a server send at once. In the latency phase that thread serves the clients in turn. "Client busy" is how much of its
core the load generator used, "strangers" how much of the machine processes took that do not belong to the run. "Disk
µs" is what 4 KiB at a random place took, read past the page cache, one at a time, just before a slice: the disk's own
speed. Some virtual disks cut it down after a burst, so a cold slice waits until it is there again, for half a minute at
the most.
"""
_EPILOG = """\
examples:
  make bench-larger                                           10 million rows: takes long, and GB of disk and RAM
  make bench-larger ARGS='--keys 100000 --seconds 1 --rounds 2'     whether it runs at all; the figures say nothing
  make bench-larger ARGS='--keep /var/tmp/rows --phases load'       loads only, and keeps the data
  make bench-larger ARGS='--reuse /var/tmp/rows --phases cold,latency --contenders keyhaus,rocksdict'
  make bench-larger ARGS='--reuse /var/tmp/rows --phases overwrite --keyhaus-options "--set memtable-bytes=4gb"'
                                              without a flush on the way: what is read then, the writes themselves read
"""


class Kept(msgspec.Struct, frozen=True):
    """What kept data was made with; it can be reused with the same only."""

    keys: int
    value_bytes: int


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.larger",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--keys", type=int, default=10_000_000, help="how many rows (%(default)s)")
    add("--value-bytes", type=int, default=100, help="length of a value; a key has 16 (%(default)s)")
    add("--hot-keys", type=int, default=100_000, help="how many rows the hot reads choose from (%(default)s)")
    add("--cache-bytes", type=int, default=128 << 20, help="keyhaus' cache of rows (%(default)s)")
    add("--block-cache-bytes", type=int, default=128 << 20, help="keyhaus' cache of blocks (%(default)s)")
    add("--memory-bound-mb", type=int, default=700, help="what keyhaus may take at most, in MB (%(default)s)")
    add("--phases", default=",".join(PHASES), help="which of them, in this order (%(default)s)")
    add("--contenders", default=",".join(CONTENDERS), help="which of them (%(default)s)")
    add("--pipelines", default="1,16", help="how many requests a client sends at once (%(default)s)")
    add("--clients", type=int, default=50, help="connections for rates (%(default)s)")
    add("--latency-clients", type=int, default=10, help="hot readers, and as many cold ones (%(default)s)")
    add("--rounds", type=int, default=5, help="slices of each measurement, by turns (%(default)s)")
    add("--seconds", type=float, default=5.0, help="length of a slice (%(default)s)")
    add("--seed", type=int, default=1, help="of the random choices (%(default)s)")
    add("--keyhaus-options", default="", help="more options for keyhaus serve")
    add("--redis-options", default="", help="more options for redis-server")
    add("--directory", help=f"where the data goes, to be deleted afterwards ({tempfile.gettempdir()})")
    add("--keep", metavar="DIR", help="the data goes there and stays; it must not hold anything yet")
    add("--reuse", metavar="DIR", help="the data that --keep left there; it is changed by overwrite and loaded no more")
    add("--json", metavar="FILE", help="every single figure goes there; - is the standard output")
    add("--markdown", metavar="FILE", help="the tables go there as Markdown; - is the standard output")
    return made


def checked(made: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, with lists as tuples; ends the program where they make no sense."""
    options = made.parse_args()
    for name, allowed in (("phases", PHASES), ("contenders", CONTENDERS)):
        words = getattr(options, name).split(",")
        if unknown := set(words) - set(allowed):
            made.error(f"{', '.join(sorted(unknown))}: none of {', '.join(allowed)}")
        setattr(options, name, tuple(word for word in allowed if word in words))
    try:
        options.pipelines = tuple(int(word) for word in options.pipelines.split(","))
    except ValueError:
        made.error(f"--pipelines {options.pipelines}: expected numbers with commas between")
    counts = (options.keys, options.value_bytes, options.hot_keys, options.rounds, options.clients, *options.pipelines)
    if min(counts) < 1 or options.seconds <= 0 or options.latency_clients < 1:
        made.error("numbers are at least 1")
    if options.keep and options.reuse:
        made.error("--keep is for new data, --reuse for old")
    if ("load" in options.phases) == bool(options.reuse):
        made.error("the load phase makes the data: leave it out with --reuse, and only then")
    options.hot_keys = min(options.hot_keys, options.keys)
    return options


class Larger:
    """One run: the subjects, and what was found so far."""

    def __init__(self, options: argparse.Namespace, subjects: list[Subject], bench: Bench, progress: Progress) -> None:
        self.options, self.subjects, self.bench, self.progress = options, subjects, bench, progress
        self.found = Findings(
            versions={subject.name: subject.version() for subject in subjects},
            memory_bound_mb=options.memory_bound_mb,
        )
        self._disk_us = math.inf  # the least so far
        self._slice = 0

    def run(self) -> Findings:
        for subject in self.subjects:
            subject.start()
        for phase in self.options.phases:
            getattr(self, phase)()
            for subject in self.subjects:
                self.found.counters.setdefault(subject.name, {})[phase] = subject.counters()
        return self.found

    def load(self) -> None:
        for subject in self.subjects:
            task = self.progress.add_task(f"load {subject.name}", total=self.bench.keys)
            marks: list[float] = []
            cpu, own, began = cpu_seconds(subject.pid), time.process_time(), time.monotonic()
            with memory_watched(subject.pid) as memory:
                for done in subject.load():
                    self.progress.update(task, completed=done)
                    while done * 10 >= self.bench.keys * (len(marks) + 1):
                        marks.append(time.monotonic() - began)
                seconds = time.monotonic() - began
                own, cpu = time.process_time() - own, cpu_seconds(subject.pid) - cpu
                self.progress.update(task, description=f"settle {subject.name}")
                settled = subject.settle()
            tenth = self.bench.keys / 10
            rates = [tenth / max(1e-9, end - start) for start, end in zip([0.0, *marks], marks, strict=False)]
            self.found.loads[subject.name] = Load(
                self.bench.keys / seconds, rates, cpu / self.bench.keys * 1e6, own / seconds, settled,
                subject.disk_bytes(),
            )  # fmt: skip
            self._note_memory(subject, "load", memory)
            subject.check(self._sample())
            self.progress.update(task, description=f"load {subject.name}: done", completed=self.bench.keys)

    def _sample(self) -> list[int]:
        rng = random.Random(self.options.seed)
        return [rng.randrange(self.bench.keys) for _ in range(1000)]

    def _note_memory(self, subject: Subject, phase: str, samples: list[int]) -> None:
        peaks = self.found.memory_bytes.setdefault(subject.name, {})
        peaks[phase] = max(samples, default=0)

    def hot(self) -> None:
        self._rates("hot", "GET", self.options.hot_keys)

    def cold(self) -> None:
        self._rates("cold", "GET", self.bench.keys)

    def overwrite(self) -> None:
        self._rates("overwrite", "SET", self.bench.keys)

    def _rates(self, phase: str, verb: str, keys: int) -> None:
        turns = self.options.rounds * len(self.options.pipelines) * len(self.subjects)
        task = self.progress.add_task(phase, total=turns)
        peaks: dict[str, list[int]] = {}
        for pipeline in self.options.pipelines:
            for turn in range(self.options.rounds):
                for subject in self.subjects if turn % 2 == 0 else reversed(self.subjects):
                    self.progress.update(task, description=f"{phase} P={pipeline} {subject.name}")
                    with memory_watched(subject.pid) as memory:
                        rate = self._slice_of(phase, subject, keys, pipeline)
                    peaks.setdefault(subject.name, []).extend(memory)
                    by_name = self.found.rates.setdefault(f"{phase} {verb} {pipeline}", {})
                    by_name.setdefault(subject.name, []).append(rate)
                    self.progress.advance(task)
        for subject in self.subjects:
            self._note_memory(subject, phase, peaks[subject.name])
        self.progress.update(task, description=f"{phase}: done")

    def _slice_of(self, phase: str, subject: Subject, keys: int, pipeline: int) -> Rate:
        self._slice += 1
        seed = self.options.seed * 10_000 + self._slice
        if phase == "hot":
            subject.warm(keys)
            return subject.rate("GET", keys, pipeline, self.options.seconds, seed)
        subject.settle()
        subject.forget_pages()
        if phase == "cold":
            self.found.disk_us.setdefault(subject.name, []).append(self._recovered_disk_us(subject))
            return subject.rate("GET", keys, pipeline, self.options.seconds, seed)
        idle = subject.disk_read_bytes()
        time.sleep(2)
        idle = subject.disk_read_bytes() - idle
        self.found.idle_read_bytes_per_second.setdefault(subject.name, []).append(idle / 2)
        return subject.rate("SET", keys, pipeline, self.options.seconds, seed)

    def _recovered_disk_us(self, subject: Subject) -> float:
        """What a read takes the disk, once it is not slowed down any more for the slice before."""
        until = time.monotonic() + _RECOVERY_SECONDS
        while True:
            now = subject.disk_us()
            self._disk_us = min(self._disk_us, now)
            if now < _RECOVERED * self._disk_us or time.monotonic() > until:
                return now
            time.sleep(1)

    def latency(self) -> None:
        task = self.progress.add_task("latency", total=self.options.rounds * len(self.subjects))
        peaks: dict[str, list[int]] = {}
        for turn in range(self.options.rounds):
            for subject in self.subjects if turn % 2 == 0 else reversed(self.subjects):
                self.progress.update(task, description=f"latency {subject.name}")
                subject.settle()
                subject.forget_pages()
                subject.warm(self.options.hot_keys)
                self._slice += 1
                seed = self.options.seed * 10_000 + self._slice
                disk_us = subject.disk_us()
                clients, seconds = self.options.latency_clients, self.options.seconds
                alone, _ = subject.mixed(self.options.hot_keys, clients, 0, seconds, seed)
                peaks.setdefault(subject.name, []).append(proportional_bytes(subject.pid))
                hot, cold = subject.mixed(self.options.hot_keys, clients, clients, seconds, seed + 5000)
                peaks[subject.name].append(proportional_bytes(subject.pid))
                self.found.mixed.setdefault(subject.name, []).append(Mixed(alone, hot, cold, disk_us))
                self.progress.advance(task)
        for subject in self.subjects:
            self._note_memory(subject, "latency", peaks[subject.name])
        self.progress.update(task, description="latency: done")

    def restart(self) -> None:
        task = self.progress.add_task("restart", total=self.options.rounds * len(self.subjects))
        for turn in range(self.options.rounds):
            for subject in self.subjects if turn % 2 == 0 else reversed(self.subjects):
                self.progress.update(task, description=f"restart {subject.name}")
                subject.settle()
                subject.kill()
                killed = subject.start()
                with memory_watched(subject.pid) as memory:
                    subject.settle()
                began = time.monotonic()
                subject.stop()
                stopping = time.monotonic() - began
                self.found.restarts.setdefault(subject.name, []).append(Restart(killed, stopping, subject.start()))
                known = self.found.memory_bytes.setdefault(subject.name, {})
                known["restart"] = max(known.get("restart", 0), *memory)
                self.progress.advance(task)
        self.progress.update(task, description="restart: done")


def subjects_of(options: argparse.Namespace, bench: Bench, directory: Path) -> list[Subject]:
    caches = {"cache-bytes": options.cache_bytes, "block-cache-bytes": options.block_cache_bytes, "direct-reads": "yes"}
    settings = [word for name, value in caches.items() for word in ("--set", f"{name}={value}")]
    keyhaus = Keyhaus(options=settings + options.keyhaus_options.split())
    redis = Redis(options=options.redis_options.split())
    made: dict[str, Subject] = {}
    if "keyhaus" in options.contenders:
        made["keyhaus"] = Served(bench, directory / "keyhaus", keyhaus, "keyhaus")
    if "redis" in options.contenders:
        made["redis"] = Served(bench, directory / "redis", redis, "persistence")
    if "rocksdict" in options.contenders:
        made["rocksdict"] = Embedded(bench, directory / "rocksdict", options.cache_bytes + options.block_cache_bytes)
    return list(made.values())


def place(options: argparse.Namespace, stack: ExitStack) -> Path:
    """Where the data is. Raises BenchmarkError where kept data does not fit."""
    kept = Kept(options.keys, options.value_bytes)
    if options.reuse:
        directory = Path(options.reuse).resolve()
        try:
            there = msgspec.json.decode((directory / _PLAN_FILE).read_bytes(), type=Kept)
        except (OSError, msgspec.MsgspecError) as error:
            raise BenchmarkError(f"{directory} holds nothing that --keep left: {error}") from None
        if there != kept:
            raise BenchmarkError(f"{directory} has {there}: give the same --keys and --value-bytes")
        return directory
    if options.keep:
        directory = Path(options.keep).resolve()
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise BenchmarkError(f"{directory} is not empty; --reuse takes what is there")
        (directory / _PLAN_FILE).write_bytes(msgspec.json.encode(kept))
        return directory
    return stack.enter_context(scratch(Path(options.directory) if options.directory else None))


def measure(options: argparse.Namespace, layout: Cores, progress: Progress) -> Findings:
    """Starts everything, measures, ends everything. Raises BenchmarkError."""
    with ExitStack() as stack:
        directory = place(options, stack)
        stack.enter_context(pinned(layout.client))
        pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=gc.freeze)
        stack.enter_context(pool)
        bench = Bench(layout, pool, Rows(options.value_bytes), options.keys, options.clients)
        subjects = subjects_of(options, bench, directory)
        for subject in subjects:
            stack.callback(subject.stop)
        return Larger(options, subjects, bench, progress).run()


def main() -> int:
    options = checked(parser())
    console = Console(stderr=True)
    disk = disk_of(options.keep or options.reuse or options.directory, console)
    layout = cores()
    if not layout.apart:
        console.print("[yellow]Only one core: server and load generator share it, the figures say little.[/]")
    caches = options.cache_bytes + options.block_cache_bytes
    if options.keys * (options.value_bytes + 16) < 4 * caches:
        console.print("[yellow]The rows are less than four times the caches: cold reads will not be cold.[/]")
    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console, refresh_per_second=2) as progress:
            found = measure(options, layout, progress)
    except BenchmarkError as error:
        console.print(error, style="red", markup=False)
        return 1
    tables = sheets(found)
    report.show_sheets(Console(), tables)
    facts = {
        "unix_seconds": int(time.time()),
        "machine": description() | {"ram_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")},
        "file_system": disk,
        "options": vars(options),
        "found": found,
    }
    report.write(options.json, msgspec.json.format(msgspec.json.encode(facts), indent=2), console)
    report.write(options.markdown, "\n".join(sheet.markdown() for sheet in tables).encode(), console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
