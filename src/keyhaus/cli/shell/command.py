"""The command line of `keyhaus shell`."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer

from keyhaus.cli.serve import DEFAULT_PORT


def shell(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            envvar="KEYHAUS_URL",
            help="The server: keyhaus://HOST:PORT/DATABASE, HOST:PORT, or "
            "redis://[[USER]:PASSWORD@]HOST:PORT/DATABASE.",
        ),
    ] = f"keyhaus://127.0.0.1:{DEFAULT_PORT}/0",
    command: Annotated[
        list[str] | None,
        typer.Option("--command", "-c", help="Run this command instead of reading any, repeatable.", metavar="COMMAND"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print each reply as one line of JSON.")] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="With -c or a script: go on after an error.")
    ] = False,
) -> None:
    """Type commands and see their replies: with completion, hints, history, tables, and transactions in the prompt.

    If standard input is no terminal, it is read as a script: a command a line, # begins a comment. A script, like the
    commands of -c, ends at the first error, and the exit status is 1 then.

    Examples:

      keyhaus shell

      keyhaus shell -c "SET greeting hello" -c "GET greeting"

      keyhaus shell --json keyhaus://127.0.0.1:19272/3 < script.txt
    """
    # The shell takes a second to import, and no other command needs it.
    raise typer.Exit(import_module("keyhaus.cli.shell.start").start(url, command or [], json, keep_going))
