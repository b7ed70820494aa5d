"""What a duel found, as a table for the terminal, as Markdown, and as JSON."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.duel import Line, Plan
from benchmarks.machine import description


class Sheet(msgspec.Struct, frozen=True):
    """A table of words and figures that are ready to be read.

    Attributes:
        title: What it shows.
        heads: The columns' names.
        rows: As many cells each as there are heads.
        words: How many columns, from the left, hold words rather than figures.
    """

    title: str
    heads: list[str]
    rows: list[list[str]]
    words: int = 1

    def markdown(self) -> str:
        rules = ["---"] * self.words + ["---:"] * (len(self.heads) - self.words)
        lines = ["| " + " | ".join(cells) + " |" for cells in (self.heads, rules, *self.rows)]
        return "\n".join((f"**{self.title}**", "", *lines)) + "\n"


def show_sheets(console: Console, sheets: Sequence[Sheet]) -> None:
    """Prints tables for people."""
    for sheet in sheets:
        table = Table(title=escape(sheet.title))
        for number, head in enumerate(sheet.heads):
            table.add_column(escape(head), justify="left" if number < sheet.words else "right", no_wrap=True)
        for row in sheet.rows:
            table.add_row(*map(escape, row))
        Console(file=console.file, width=max(console.width, 300)).print(table)


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The median with the least and the greatest: `1.20 [1.10–1.40]`."""
    if not values:
        return "–"
    return f"{statistics.median(values):{form}} [{min(values):{form}}–{max(values):{form}}]"


def heads(ours: str, theirs: str) -> list[str]:
    return [
        "mode",
        "command",
        "P",
        f"{theirs} req/s",
        f"{ours} req/s",
        "ratio [min–max]",
        f"µs CPU {theirs} / {ours}",
        f"p50 ms {theirs} / {ours}",
        f"p99 ms {theirs} / {ours}",
    ]


def rows(lines: Sequence[Line], ours: str, theirs: str) -> Iterator[list[str]]:
    for line in lines:
        ratios = line.ratios(ours, theirs)
        yield [
            line.mode,
            line.command,
            str(line.pipeline),
            f"{line.median(theirs, 'requests_per_second'):,.0f}",
            f"{line.median(ours, 'requests_per_second'):,.0f}",
            f"{statistics.median(ratios):.2f} [{min(ratios):.2f}–{max(ratios):.2f}]",
            *(
                f"{line.median(theirs, attribute):.2f} / {line.median(ours, attribute):.2f}"
                for attribute in ("cpu_us_per_request", "p50_ms", "p99_ms")
            ),
        ]


def show(console: Console, lines: Sequence[Line], ours: str, theirs: str) -> None:
    table = Table(title=f"medians; the ratio is {ours} / {theirs}, in requests a second")
    for number, head in enumerate(heads(ours, theirs)):
        table.add_column(escape(head), justify="left" if number < 2 else "right", no_wrap=True)
    for row in rows(lines, ours, theirs):
        table.add_row(*map(escape, row))
    # Wider than a narrow terminal rather than cut: what is piped into a file should hold every figure.
    Console(file=console.file, width=max(console.width, 200)).print(table)


def markdown(lines: Sequence[Line], ours: str, theirs: str) -> str:
    table = [heads(ours, theirs), ["---"] * 2 + ["---:"] * 7, *rows(lines, ours, theirs)]
    return "\n".join("| " + " | ".join(row) + " |" for row in table) + "\n"


def document(plan: Plan, lines: Sequence[Line], versions: dict[str, str], **more: Any) -> bytes:
    """Everything that was measured, as JSON."""
    return msgspec.json.format(
        msgspec.json.encode(
            {
                "unix_seconds": int(time.time()),
                "machine": description(),
                "versions": versions,
                "plan": plan,
                "lines": lines,
                **more,
            }
        ),
        indent=2,
    )


def write(path: str | None, content: bytes, console: Console) -> None:
    """Writes a report where one was asked for; `-` is the standard output."""
    if path == "-":
        print(content.decode())
    elif path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content)
        console.print(f"Written to {path}")
