"""What else a line may mean: the commands of the older interactive client, and the shell's own.

Those of the table come first: an alias counts only where the server knows no command of its name. `range` is the one
exception, told apart by how it is written: with small letters and two words it is the seed's, which includes its end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from keyhaus.core.errors import Syntax

LOCAL: Final = {
    "help": "what the shell understands; help COMMAND: what a command does",
    "clear": "clears the screen",
    "quit": "leaves (as do exit and Ctrl-D)",
    "exit": "leaves",
}
ALIASES: Final = {
    "put": ("put key value", "SET; the value may have blanks"),
    "range": ("range start end", "the keys from start to end, both included, with their values"),
    "batch": ("batch key value [key value ...]", "MSET: all of them or none"),
    "delete": ("delete key [key ...]", "DEL"),
}


def translated(words: list[bytes], line: bytes, knows: Callable[[str], bool]) -> list[bytes]:
    """The command that a line stands for.

    Args:
        words: Its words.
        line: The line itself.
        knows: Whether the server has a command of a name in capitals.

    Raises:
        Syntax: It is an alias with too few words.
    """
    name = words[0]
    if name == b"range" and len(words) == 3:
        return [b"RANGE", words[1], _behind(words[2])]
    alias = name.decode("latin-1").lower()
    if alias not in ALIASES or alias == "range" or knows(alias.upper()):
        return words
    if alias == "put":
        return _put(words, line)
    if len(words) < 2 or (alias == "batch" and len(words) % 2 == 0):
        raise Syntax(f"expected {ALIASES[alias][0]}")
    return [b"MSET" if alias == "batch" else b"DEL", *words[1:]]


def _put(words: Sequence[bytes], line: bytes) -> list[bytes]:
    """`put name John Doe` stores both words, as the seed's client does; what is quoted is one word anyway."""
    if len(words) < 3:
        raise Syntax(f"expected {ALIASES['put'][0]}")
    if len(words) == 3:
        return [b"SET", *words[1:]]
    if b'"' in line or b"'" in line:
        raise Syntax("expected one value behind the key: quote all of it, or nothing")
    return [b"SET", words[1], line.split(None, 2)[2].rstrip()]


def _behind(end: bytes) -> bytes:
    """The first key behind one: RANGE excludes its end. An empty end is an open one, and stays it."""
    return end + b"\0" if end else end
