"""The command-line options that the benchmarks share, and what they all do with them."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from benchmarks import report
from benchmarks.duel import COMMANDS, MODES, Plan, duel
from benchmarks.machine import file_system
from benchmarks.servers import Contender


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Adds the options that make a Plan, and those that say where the results go."""
    given = Plan()
    add = parser.add_argument
    add("--rounds", type=int, default=given.rounds, help="pairs per line (%(default)s)")
    add(
        "--requests",
        type=int,
        default=given.requests,
        help="requests per measurement at P=1 (%(default)s); deeper pipelines get up to ten times as many, "
        "durable SETs a quarter",
    )
    add("--modes", default=",".join(MODES), help="which of them (%(default)s)")
    add("--commands", default=",".join(COMMANDS), help="which of them (%(default)s)")
    add("--pipelines", default=",".join(map(str, given.pipelines)), help="pipeline depths (%(default)s)")
    add("--clients", type=int, default=given.clients, help="connections (%(default)s)")
    add("--keys", type=int, default=given.keys, help="keys, all of them loaded beforehand (%(default)s)")
    add("--value-bytes", type=int, default=given.value_bytes, help="length of a value (%(default)s)")
    add("--directory", help=f"where the data goes: the disk that durable mode measures ({tempfile.gettempdir()})")
    add("--json", metavar="FILE", help="every single figure goes there; - is the standard output")
    add("--markdown", metavar="FILE", help="the table goes there as Markdown; - is the standard output")
    add(
        "--quick",
        action="store_true",
        help="2 rounds of few requests on 10,000 keys: whether it runs at all; the figures say nothing",
    )


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that a command line asks for. Raises ValueError."""
    plan = Plan(
        modes=_words(options.modes, MODES),
        commands=_words(options.commands.upper(), COMMANDS),
        pipelines=tuple(int(word) for word in options.pipelines.split(",")),
        rounds=options.rounds,
        requests=options.requests,
        clients=options.clients,
        keys=options.keys,
        value_bytes=options.value_bytes,
        directory=options.directory,
    )
    if options.quick:
        plan = msgspec.structs.replace(plan, rounds=2, requests=2_000, keys=10_000)
    if min(plan.rounds, plan.requests, plan.clients, plan.keys, *plan.pipelines) < 1:
        raise ValueError("rounds, requests, clients, keys and pipelines are at least 1")
    return plan


def _words(text: str, allowed: Sequence[str]) -> tuple[str, ...]:
    found = tuple(text.split(","))
    for word in found:
        if word not in allowed:
            raise ValueError(f"{word!r} is none of {', '.join(allowed)}")
    return found


def disk_of(directory: str | None, console: Console) -> str:
    """The type of the file system that durable mode will measure; warns where it is none on a disk."""
    where = Path(directory or tempfile.gettempdir())
    disk = file_system(where)
    if disk in ("tmpfs", "ramfs"):
        console.print(
            f"{where} is a {disk}: durable mode measures no disk there; give another --directory", style="yellow"
        )
    return disk


def fight(plan: Plan, ours: Contender, theirs: Contender, console: Console, options: argparse.Namespace) -> None:
    """Measures both and reports as the options say. Raises BenchmarkError."""
    disk = disk_of(plan.directory, console)
    versions = {contender.name: contender.version() for contender in (ours, theirs)}
    lines = duel(plan, ours, theirs, console)
    report.show(Console(), lines, ours.name, theirs.name)
    report.write(options.json, report.document(plan, lines, versions, file_system=disk), console)
    report.write(options.markdown, report.markdown(lines, ours.name, theirs.name).encode(), console)
