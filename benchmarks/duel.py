"""Two servers, one load: redis-benchmark against each in turn, in the same minute, on the same cores.

On a shared machine the figures of one server drift by tens of percent from minute to minute; the ratio of two that are
measured one right after the other drifts far less. So every measurement is a pair, who goes first alternates, and the
median of the pairs' ratios is given with their spread. Beside throughput stands the CPU time that the server spent per
operation, all its threads and processes together: it moves least of all.
"""

from __future__ import annotations

import csv
import io
import statistics
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.machine import Cores, cores, cpu_seconds, pinned
from benchmarks.servers import HOST, BenchmarkError, Contender, Running, load, program, scratch

MODES: Final = ("memory", "durable")
COMMANDS: Final = ("SET", "GET")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured.

    Attributes:
        modes: Of `memory` and `durable`.
        commands: Of `SET` and `GET`.
        pipelines: How many requests a client sends before it waits for the replies.
        rounds: How many pairs are measured for each line.
        requests: At a pipeline of 1; deeper ones get as many times more, up to ten times.
        clients: Connections of the load generator.
        keys: How many different keys there are; all of them exist before the first measurement.
        value_bytes: The length of each value.
        directory: Where the servers' data goes; None for the system's place for temporary files.
    """

    modes: tuple[str, ...] = MODES
    commands: tuple[str, ...] = COMMANDS
    pipelines: tuple[int, ...] = (1, 16, 64)
    rounds: int = 5
    requests: int = 100_000
    clients: int = 50
    keys: int = 1_000_000
    value_bytes: int = 64
    directory: str | None = None

    def requests_of(self, mode: str, command: str, pipeline: int) -> int:
        count = self.requests * min(pipeline, 10)
        # A durable write waits for the disk, which takes about four times as long as anything else here.
        return max(1, count // 4 if (mode, command) == ("durable", "SET") else count)


class Sample(msgspec.Struct, frozen=True):
    """One run of redis-benchmark."""

    requests_per_second: float
    cpu_us_per_request: float
    p50_ms: float
    p99_ms: float


class Line(msgspec.Struct, frozen=True):
    """One line of the table: the samples of both, pair by pair."""

    mode: str
    command: str
    pipeline: int
    samples: dict[str, list[Sample]]

    def ratios(self, ours: str, theirs: str) -> list[float]:
        return [
            a.requests_per_second / b.requests_per_second
            for a, b in zip(self.samples[ours], self.samples[theirs], strict=True)
        ]

    def median(self, name: str, attribute: str) -> float:
        return float(statistics.median(getattr(sample, attribute) for sample in self.samples[name]))


def duel(plan: Plan, ours: Contender, theirs: Contender, console: Console) -> list[Line]:
    """Measures both. Raises BenchmarkError."""
    program("redis-benchmark")
    layout = cores()
    if not layout.apart:
        console.print("[yellow]Only one core: server and load generator share it, the figures say little.[/]")
    lines: list[Line] = []
    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for mode in plan.modes:
            with ExitStack() as stack:
                running = {}
                for contender in (ours, theirs):
                    directory = stack.enter_context(scratch(Path(plan.directory) if plan.directory else None))
                    server = contender.start(mode, directory, layout.server)
                    stack.callback(server.stop)
                    running[contender.name] = server
                _load_both(plan, mode, running, layout, progress)
                lines += _measure_mode(plan, mode, running, layout, progress)
    return lines


def _load_both(plan: Plan, mode: str, running: dict[str, Running], layout: Cores, progress: Progress) -> None:
    for name, server in running.items():
        task = progress.add_task(f"{mode}: loading {name}", total=plan.keys)
        with pinned(layout.client):
            for done in load(server.port, plan.keys, plan.value_bytes):
                progress.update(task, completed=done)
        progress.remove_task(task)


def _measure_mode(plan: Plan, mode: str, running: dict[str, Running], layout: Cores, progress: Progress) -> list[Line]:
    lines = []
    names = list(running)
    task = progress.add_task(mode, total=len(plan.pipelines) * len(plan.commands) * plan.rounds * len(names))
    for pipeline in plan.pipelines:
        for command in plan.commands:
            samples: dict[str, list[Sample]] = {name: [] for name in names}
            for round_number in range(plan.rounds):
                for name in names if round_number % 2 == 0 else reversed(names):
                    progress.update(task, description=f"{mode} {command} P={pipeline} {name}")
                    samples[name].append(_measure(plan, mode, command, pipeline, running[name], layout))
                    progress.advance(task)
            lines.append(Line(mode, command, pipeline, samples))
    progress.update(task, description=f"{mode}: done")
    return lines


def _measure(plan: Plan, mode: str, command: str, pipeline: int, server: Running, layout: Cores) -> Sample:
    requests = plan.requests_of(mode, command, pipeline)
    options = {"-h": HOST, "-p": server.port, "-t": command.lower(), "-n": requests, "-c": plan.clients}
    options |= {"-P": pipeline, "-r": plan.keys, "-d": plan.value_bytes, "--precision": 3}
    arguments = [program("redis-benchmark"), "--csv", *(str(word) for pair in options.items() for word in pair)]
    before = cpu_seconds(server.pid)
    with pinned(layout.client):
        run = subprocess.run(arguments, capture_output=True, text=True, check=False)
    used = cpu_seconds(server.pid) - before
    if run.returncode:
        raise BenchmarkError(f"redis-benchmark failed against port {server.port}: {run.stdout}{run.stderr}")
    row = _row(run.stdout)
    return Sample(
        requests_per_second=float(row["rps"]),
        cpu_us_per_request=used / requests * 1e6,
        p50_ms=float(row["p50_latency_ms"]),
        p99_ms=float(row["p99_latency_ms"]),
    )


def _row(text: str) -> dict[str, str]:
    """The one line of figures in redis-benchmark's CSV."""
    rows = list(csv.DictReader(io.StringIO(text)))
    if len(rows) != 1 or "p99_latency_ms" not in rows[0]:
        raise BenchmarkError(f"redis-benchmark printed something unexpected: {text[:500]}")
    return rows[0]
