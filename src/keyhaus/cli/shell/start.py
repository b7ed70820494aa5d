"""Puts a shell together: the server, the screen, and where the commands come from."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from importlib import import_module

import typer

from keyhaus.cli.shell import batch
from keyhaus.cli.shell.dialogue import Dialogue
from keyhaus.cli.shell.quoting import commands
from keyhaus.cli.shell.runner import Runner
from keyhaus.cli.shell.view import View, make_console
from keyhaus.cli.target import parse_target


def start(url: str, given: Sequence[str], as_json: bool, keep_going: bool) -> int:
    """Runs the shell.

    Args:
        url: The server.
        given: The commands to run; none: they are typed, or come as a script where nobody types.
        as_json: Whether each reply is one JSON document in a line.
        keep_going: Whether a script goes on after an error.

    Returns:
        The exit status.

    Raises:
        typer.BadParameter: The URL names no server.
    """
    try:
        target = parse_target(url)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="URL") from None
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that can't show a letter still shows which
    runner = Runner(Dialogue(target), View(make_console(sys.stdout)), as_json)
    if given:
        words = (text.encode("utf-8", "surrogateescape") for text in given)
        return batch.run(runner, ((f"-c {number}", line) for number, line in enumerate(words, 1)), keep_going)
    if not sys.stdin.isatty():
        script = commands(sys.stdin.buffer)
        return batch.run(runner, ((f"line {number}", line) for number, line in script), keep_going)
    status: int = import_module("keyhaus.cli.shell.interactive").run(runner)  # scripts do without prompt_toolkit
    return status
