"""Commands that nobody types: those of `-c`, and scripts on standard input. What went wrong is told by the exit status.

Invariant: behind a lost connection nothing more is run, whatever the options: it would be outside of what was open.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Final

from keyhaus.cli.shell.dialogue import Dialogue, Interrupted, start_hint
from keyhaus.cli.shell.documents import document
from keyhaus.cli.shell.quoting import paragraphs, quoted
from keyhaus.cli.shell.runner import Leave, Runner, has_error
from keyhaus.client.errors import ConnectionLost, OutcomeUnknown
from keyhaus.core.errors import Error
from keyhaus.protocol.inline import split_words

FAILED: Final = 1
INTERRUPTED: Final = 130


def run(runner: Runner, commands: Iterable[tuple[str, bytes]], keep_going: bool) -> int:
    """Runs commands one after the other.

    Args:
        runner: Runs them.
        commands: Each with where it stands, for messages.
        keep_going: Whether to go on after an error.

    Returns:
        The exit status: 0, or 1 where there was an error, or a transaction was left open.
    """
    try:
        status = _run(runner, commands, keep_going)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush fails too
        return FAILED
    if left := runner.dialogue.close():
        tell("\n".join(left))
        return status or FAILED
    return status


def _run(runner: Runner, commands: Iterable[tuple[str, bytes]], keep_going: bool) -> int:
    status = 0
    try:
        runner.dialogue.connect()
        for place, command in commands:
            problem = _one(runner, place, command)
            if problem:
                status = FAILED
                tell(problem if keep_going else f"{problem}; nothing behind it was run")
                if not keep_going:
                    break
    except Leave:
        pass
    except Interrupted as error:
        tell(error.message)
        return INTERRUPTED
    except Error as error:
        failed_to_connect(runner.dialogue, error)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    runner.view.console.file.flush()
    return status


def _one(runner: Runner, place: str, command: bytes) -> str:
    """Runs a command; what went wrong, or nothing. Raises what ends a script in any case."""
    try:
        reply = runner.run(command)
    except (ConnectionLost, OutcomeUnknown, Interrupted):
        raise
    except Error as error:
        if runner.as_json:
            runner.view.console.file.write(document(error) + "\n")
        return f"{place}: {error.message}"
    if has_error(reply):
        words = split_words(command) or [b"?"]
        return f"{place}: {quoted(words[0])} was answered with an error"  # its words may be secret
    return ""


def failed_to_connect(dialogue: Dialogue, error: Error) -> None:
    """Says why there is no connection, and what to do about it."""
    tell(error.message)
    if hint := start_hint(dialogue.target, error):
        tell(hint)


def tell(text: str) -> None:
    """Says something on standard error."""
    sys.stdout.flush()
    for line in paragraphs(text).split("\n"):
        sys.stderr.write(f"keyhaus: {line}\n")
    sys.stderr.flush()
