"""What `keyhaus bench` does: the tests one after the other, with bars, and the table that they come to."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from keyhaus.cli import report
from keyhaus.cli.bench import durability, load
from keyhaus.cli.bench.durability import Kept
from keyhaus.cli.bench.load import Plan, Result
from keyhaus.cli.bench.wire import WIRES, Wire
from keyhaus.cli.target import DEFAULT_TARGET, REDIS_PORT

_SCHEMES: Final = {
    "redis": ("resp", REDIS_PORT),
    "keyhaus": ("resp", DEFAULT_TARGET.port),
    "resp": ("resp", DEFAULT_TARGET.port),
    "text": ("text", 8080),
    "json": ("json", 9999),
    "frame": ("messagepack", 65433),
}
_BAR_CELLS: Final = 40


def run(
    url: str | None,
    tests: list[str],
    dialect: str | None,
    plan: Plan,
    *,
    kills: int,
    start: str | None,
    plot: bool,
    json: bool,
) -> None:
    """Runs the tests and prints what they come to; ends the process with 1 where anything went wrong."""
    with report.failures():
        spoken, host, port = _place(url, dialect)
        wire = WIRES[spoken]()
        if "durability" in tests and url is not None and start is None:
            if len(tests) == 1:
                raise ValueError("the durability test kills a server of its own: leave the URL out, or say --start")
            tests.remove("durability")
        command = start or durability.own_command(spoken)
        results: list[Result] = []
        kept: Kept | None = None
        with _progress(json) as progress:
            loads = [name for name in tests if name != "durability"]
            if loads:
                with _server(command, wire, url, host, port) as (at, number):
                    results = [_measure(plan, wire, at, number, name, progress) for name in loads]
            if "durability" in tests:
                kept = _kill(command, wire, kills, plan.seed, progress)
        if json:
            report.as_json(_told(spoken, plan, results, kept))
        else:
            _show(spoken, plan, results, kept, plot)
        if (kept is not None and kept.lost) or any(result.errors for result in results):
            raise typer.Exit(1)


def _place(url: str | None, dialect: str | None) -> tuple[str, str, int]:
    """What to speak, and where. Raises ValueError."""
    if url is None:
        return dialect or "resp", durability.HOST, 0
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname or parts.username or parts.path.strip("/"):
        raise ValueError(f"{url!r} is no address: expected {', '.join(_SCHEMES)}, then ://HOST:PORT")
    spoken, port = _SCHEMES[parts.scheme]
    return dialect or spoken, parts.hostname, parts.port or port


@contextlib.contextmanager
def _server(command: str, wire: Wire, url: str | None, host: str, port: int) -> Iterator[tuple[str, int]]:
    if url is not None:
        yield host, port
        return
    with (
        tempfile.TemporaryDirectory(prefix="keyhaus-bench-") as name,
        durability.server(command, Path(name), wire) as (_, own),
    ):
        yield host, own


@contextlib.contextmanager
def _progress(silent: bool) -> Iterator[Progress]:
    """Bars on standard error, where somebody looks at it."""
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=silent or not sys.stderr.isatty()) as progress:
        yield progress


def _measure(plan: Plan, wire: Wire, host: str, port: int, name: str, progress: Progress) -> Result:
    if name in ("read", "mixed"):
        load.fill(plan, wire, host, port)  # what is read is there
    task = progress.add_task(name, total=plan.requests, told="")

    def done(requests: int) -> None:
        progress.update(task, completed=requests, told=f"{requests:,} of {plan.requests:,}")

    result = load.run(plan, wire, host, port, name, done)
    progress.remove_task(task)
    return result


def _kill(command: str, wire: Wire, kills: int, seed: int, progress: Progress) -> Kept:
    task = progress.add_task("durability", total=kills, told="")

    def done(kept: Kept) -> None:
        progress.update(task, completed=kept.kills, told=f"{kept.confirmed:,} writes confirmed, {kept.lost} lost")

    return durability.kill_cycles(command, wire, kills, seed, done)


def _told(dialect: str, plan: Plan, results: list[Result], kept: Kept | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "dialect": dialect,
        "clients": plan.clients,
        "pipeline": plan.pipeline,
        "value_bytes": plan.value_bytes,
        "tests": [
            {
                "name": result.name,
                "requests": result.requests,
                "errors": result.errors,
                "seconds": round(result.seconds, 3),
                "requests_per_second": round(_rate(result.requests, result), 1),
                "keys_per_second": round(_rate(result.keys, result), 1),
                "p50_ms": round(result.percentile(0.5), 3),
                "p99_ms": round(result.percentile(0.99), 3),
            }
            for result in results
        ],
    }
    if kept is not None:
        told["durability"] = {**vars(kept), "rate": kept.rate}
    return told


def _rate(count: int, result: Result) -> float:
    return count / result.seconds if result.seconds else 0.0


def _show(dialect: str, plan: Plan, results: list[Result], kept: Kept | None, plot: bool) -> None:
    console = Console()
    if results:
        title = f"{dialect}, {plan.clients} clients, {plan.pipeline} under way, values of {plan.value_bytes} bytes"
        table = Table("test", title=title)
        for heading in ("requests/s", "keys/s", "p50 ms", "p99 ms", "requests", "errors"):
            table.add_column(heading, justify="right")
        for result in results:
            table.add_row(
                result.name,
                f"{_rate(result.requests, result):,.0f}",
                f"{_rate(result.keys, result):,.0f}",
                f"{result.percentile(0.5):.2f}",
                f"{result.percentile(0.99):.2f}",
                f"{result.requests:,}",
                f"{result.errors:,}",
            )
        console.print(table)
        if plot:
            most = max(_rate(result.keys, result) for result in results) or 1.0
            for result in results:
                rate = _rate(result.keys, result)
                bar = "█" * round(_BAR_CELLS * rate / most)
                console.print(f"{result.name:>10} {bar} {rate:,.0f} keys/s", highlight=False)
    if kept is not None:
        console.print(
            f"durability: {kept.kills} kills, {kept.confirmed:,} writes confirmed, {kept.checked:,} keys read, "
            f"{kept.lost:,} lost: {kept.rate:.2f} % kept",
            highlight=False,
        )
