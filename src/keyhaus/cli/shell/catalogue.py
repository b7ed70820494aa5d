"""The server's own command table, as COMMAND DOCS tells it: what completion, the toolbar and `help` know.

It is another program's answer, so nothing in it is trusted to have its form: what has another one is left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from keyhaus.cli.shell.quoting import escaped
from keyhaus.core.errors import Error

_NAME: Final = re.compile(r"[A-Z0-9][A-Z0-9_.-]*$")
_DEPTH_MAX: Final = 16
_KEYS_BY_ANOTHER_NAME: Final = ("DELRANGE", "RANGE")  # their bounds are keys, or what keys begin with


@dataclass(frozen=True)
class Argument:
    """One argument, or a group of them, in COMMAND DOCS' words.

    Attributes:
        name: For people.
        kind: key, string, integer, pure-token, oneof, block, …
        token: What is typed in front of it; a pure token alone.
        optional: Whether it may be left out.
        multiple: Whether it may be repeated.
        parts: Of a oneof its choices, of a block what follows one another.
    """

    name: str
    kind: str
    token: str = ""
    optional: bool = False
    multiple: bool = False
    parts: tuple[Argument, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A command, or a subcommand (`CONFIG GET`)."""

    name: str
    summary: str = ""
    since: str = ""
    group: str = ""
    complexity: str = ""
    arguments: tuple[Argument, ...] = ()
    subcommands: dict[str, Entry] = field(default_factory=dict)

    @property
    def usage(self) -> str:
        """Its name and its arguments, as manuals write them."""
        inner = ("<subcommand>",) if self.subcommands and not self.arguments else ()
        return " ".join((self.name, *map(_written, self.arguments), *inner))


class Catalogue:
    """The commands by their names in capitals."""

    def __init__(self, entries: dict[str, Entry] | None = None) -> None:
        self.entries = entries or {}

    def knows(self, name: str) -> bool:
        return name in self.entries

    def find(self, words: Sequence[bytes]) -> tuple[Entry, list[bytes]] | None:
        """The command that words begin with, and its arguments; with its subcommand, where it has some."""
        if not words:
            return None
        entry = self.entries.get(words[0].decode("latin-1").upper())
        if entry is None:
            return None
        if len(words) > 1 and (sub := entry.subcommands.get(words[1].decode("latin-1").upper())):
            return sub, list(words[2:])
        return entry, list(words[1:])


def read(reply: Any) -> Catalogue:
    """The catalogue of a reply to COMMAND DOCS; an empty one where it is an error."""
    if isinstance(reply, Error):
        return Catalogue()
    return Catalogue(_entries(reply, ""))


def _entries(told: Any, container: str) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for name, docs in _table(told).items():
        short = name.upper().rpartition("|")[2]
        if _NAME.match(short):
            found[short] = _entry(f"{container} {short}".lstrip(), _table(docs))
    return found


def _entry(name: str, docs: dict[str, Any]) -> Entry:
    texts = {field: _text(docs.get(field)) for field in ("summary", "since", "group", "complexity")}
    arguments = _arguments(docs.get("arguments"), 0)
    if name in _KEYS_BY_ANOTHER_NAME:
        arguments = tuple(Argument(a.name, "key") if not a.optional and not a.token else a for a in arguments)
    subcommands = _entries(docs["subcommands"], name) if "subcommands" in docs and " " not in name else {}
    return Entry(name, **texts, arguments=arguments, subcommands=subcommands)


def _arguments(told: Any, depth: int) -> tuple[Argument, ...]:
    if not isinstance(told, list) or depth > _DEPTH_MAX:
        return ()
    return tuple(_argument(_table(item), depth) for item in told)


def _argument(told: dict[str, Any], depth: int) -> Argument:
    words = told.get("flags")
    flags = {_text(word) for word in words} if isinstance(words, list) else set()
    return Argument(
        _text(told.get("display_text")) or _text(told.get("name")),
        _text(told.get("type")),
        _text(told.get("token")),
        "optional" in flags,
        bool(flags & {"multiple", "multiple_token"}),
        _arguments(told.get("arguments"), depth + 1),
    )


def _table(told: Any) -> dict[str, Any]:
    """Names and what they name, of a map of RESP3 or a flat list of RESP2."""
    if isinstance(told, dict):
        return {_text(name): value for name, value in told.items()}
    if isinstance(told, list) and len(told) % 2 == 0:
        return {_text(name): value for name, value in zip(told[::2], told[1::2], strict=True)}
    return {}


def _text(told: Any) -> str:
    return escaped(told) if isinstance(told, bytes | str) else ""


def _written(argument: Argument) -> str:
    if argument.kind == "pure-token":
        body = argument.token
    elif argument.kind == "oneof":
        body = " | ".join(map(_written, argument.parts))
        body = body if argument.optional and not argument.token else f"<{body}>"
    elif argument.kind == "block":
        body = " ".join(map(_written, argument.parts))
    else:
        body = argument.name
    if argument.multiple:
        body = f"{body} ..." if argument.optional and not argument.token else f"{body} [{body} ...]"
    if argument.token and argument.kind != "pure-token":
        body = f"{argument.token} {body}"
    return f"[{body}]" if argument.optional else body
