"""HELP for the commands that have subcommands, made from the table."""

from __future__ import annotations

import textwrap
from typing import Any, Final

from keyhaus.commands.spec import TABLE, Flag, command
from keyhaus.core.context import Context
from keyhaus.store.transaction import Transaction

INDENT: Final = "    "
WIDTH: Final = 80


def help_lines(name: str) -> list[str]:
    """What HELP says of a container: each subcommand with its syntax, and under it its summary."""
    spec = TABLE[name]
    lines = [f"{name} <subcommand>: {spec.summary}"]
    for sub, subspec in sorted(spec.subcommands.items()):
        lines.append(f"{sub} {subspec.syntax}".rstrip())
        lines += textwrap.wrap(subspec.summary, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)
    return lines


def add_help(name: str, *, group: str, since: str) -> None:
    """Enters the subcommand HELP of a container."""

    @command(
        f"{name}|HELP",
        2,
        Flag.CONNECTION,
        summary=f"Lists the subcommands of {name}.",
        since=since,
        group=group,
    )
    async def show_help(tx: Transaction, args: list[bytes], context: Context) -> Any:
        return help_lines(name)
