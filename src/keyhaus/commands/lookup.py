"""From a request's words to the command that they name, or to the error that Redis would give.

The errors are part of the wire format, truncation included: an unknown command is quoted with up to 128 bytes of its
name and its arguments up to about 128 bytes in all, each cut at a zero byte.
"""

from __future__ import annotations

from typing import Final

from keyhaus.commands.spec import TABLE, CommandSpec
from keyhaus.core.errors import ExecAborted, Syntax, UnknownCommand

QUOTED_BYTES_MAX: Final = 128
NAME_BYTES_MAX: Final = 64  # no command's name is longer, so a longer word is not even looked up


def find(args: list[bytes]) -> CommandSpec:
    """The command, or the subcommand of a container, that a request names.

    Args:
        args: The request's words, at least one.

    Raises:
        UnknownCommand: There is no such command or subcommand.
        Syntax: It has too few or too many words.
        ExecAborted: So has EXEC, and Redis gives up the whole transaction for it.
    """
    spec = by_name(args)
    if spec is None:
        raise unknown(args)
    if not spec.accepts(len(args)):
        raise wrong_arity(spec)
    return spec


def by_name(args: list[bytes]) -> CommandSpec | None:
    """As `find`, with any number of words; None where there is no such command or subcommand."""
    spec = TABLE.get(_table_name(args[0]))
    if spec is not None and spec.subcommands and len(args) > 1:
        return spec.subcommands.get(_table_name(args[1]))
    return spec


def by_full_name(name: bytes) -> CommandSpec | None:
    """A command by its name as COMMAND gives it: `get`, `config|get`."""
    container, bar, sub = name.partition(b"|")
    spec = TABLE.get(_table_name(container))
    if spec is None or not bar:
        return spec
    return spec.subcommands.get(_table_name(sub))


def unknown(args: list[bytes]) -> UnknownCommand:
    """The error for words that name no command."""
    spec = TABLE.get(_table_name(args[0]))
    if spec is not None:
        return UnknownCommand(b"unknown subcommand '%s'. Try %s HELP." % (_quoted(args[1]), spec.name.encode()))
    shown = b""
    for arg in args[1:]:
        if len(shown) >= QUOTED_BYTES_MAX:
            break
        shown += b"'%s' " % _quoted(arg, QUOTED_BYTES_MAX - len(shown))
    return UnknownCommand(b"unknown command '%s', with args beginning with: %s" % (_quoted(args[0]), shown))


def wrong_arity(spec: CommandSpec) -> Syntax | ExecAborted:
    """The error for a command with too few or too many words."""
    message = f"wrong number of arguments for '{spec.wire_name}' command"
    if spec.name == "EXEC":
        return ExecAborted(f"Transaction discarded because of: {message}")
    return Syntax(message)


def _table_name(word: bytes) -> str:
    return word.upper().decode("latin-1") if len(word) <= NAME_BYTES_MAX else ""


def _quoted(word: bytes, most: int = QUOTED_BYTES_MAX) -> bytes:
    return word[:most].split(b"\0", 1)[0]
