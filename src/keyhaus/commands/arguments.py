"""A command's syntax as a tree of arguments, as COMMAND DOCS gives it and shells show it.

The syntax of a `CommandSpec` is written as in manuals:

    syntax       = item*
    item         = element ["..."]                     ; "...": may be repeated
    element      = WORD                                ; capitals: typed as it stands
                 | word                                ; a value of the user's
                 | "[" alternatives "]"                ; may be left out
                 | "<" alternatives ">"                ; one of them
    alternatives = syntax ("|" syntax)*

`key [key ...]` is one argument that may be repeated, `key value [key value ...]` a block that may be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final

_WORD: Final = re.compile(r"\.\.\.|[\[\]<>|]|[^\s\[\]<>|]+")
_KEYS: Final = frozenset(("key", "newkey", "source", "destination", "key1", "key2"))
_INTEGERS: Final = frozenset(
    (
        *("client-id", "count", "cursor", "decrement", "end", "frequency", "increment", "index", "index1", "index2"),
        *("milliseconds", "min-match-len", "numlocal", "numreplicas", "offset", "protover", "seconds", "start"),
        *("timeout", "ttl", "destination-db", "db", "limit", "n", "ms", "seqno"),
    )
)


@dataclass(frozen=True)
class Argument:
    """One argument, or a group of them.

    Attributes:
        name: For people.
        kind: In Redis' words: key, string, integer, unix-time, pattern, pure-token, oneof, block.
        token: What is typed in front of it, or for a pure token alone.
        optional: Whether it may be left out.
        multiple: Whether it may be repeated.
        parts: Of a oneof its choices, of a block what follows one another.
    """

    name: str
    kind: str
    token: str = ""
    optional: bool = False
    multiple: bool = False
    parts: tuple[Argument, ...] = field(default=())


def arguments_of(syntax: str) -> list[Argument]:
    """The arguments that a syntax describes. Raises ValueError where it is not well-formed."""
    words = _WORD.findall(syntax)
    words.reverse()
    arguments = _sequence(words)
    if words:
        raise ValueError(f"unexpected {words[-1]!r} in {syntax!r}")
    return arguments


def _sequence(words: list[str]) -> list[Argument]:
    """The arguments up to the next `|`, closing bracket or end; what is read leaves the end of `words`."""
    found: list[Argument] = []
    while words and words[-1] not in ("|", "]", ">"):
        word = words.pop()
        if word == "...":
            found[-1] = replace(found[-1], multiple=True)
        elif word in ("[", "<"):
            group = _group(words, "]" if word == "[" else ">")
            if word == "[" and not _repeats(found, group):
                group = replace(group, optional=True)
                found.append(group)
            elif word == "<":
                found.append(group)
        else:
            found.append(_single(word))
    return _with_tokens(found)


def _group(words: list[str], closing: str) -> Argument:
    choices = [_joined(_sequence(words))]
    while words and words[-1] == "|":
        words.pop()
        choices.append(_joined(_sequence(words)))
    if not words or words.pop() != closing:
        raise ValueError(f"a {closing!r} is missing")
    if len(choices) == 1:
        return choices[0]
    return Argument("_".join(choice.name for choice in choices), "oneof", parts=tuple(choices))


def _single(word: str) -> Argument:
    if word.isupper():
        return Argument(word.lower(), "pure-token", token=word)
    if word in _KEYS:
        return Argument(word, "key")
    if word in _INTEGERS:
        return Argument(word, "integer")
    if word.startswith("unix-time"):
        return Argument(word, "unix-time")
    return Argument(word, "pattern" if word == "pattern" else "string")


def _joined(arguments: list[Argument]) -> Argument:
    """What stands together as one argument: itself, or a block; a leading token becomes the block's."""
    if not arguments:
        raise ValueError("an empty group")
    if len(arguments) == 1:
        return arguments[0]
    first, *rest = arguments
    if first.kind != "pure-token" and first.token and not first.parts:
        # `AUTH username password`: the token was given to the first word, and is that of all.
        parts = (replace(first, token=""), *rest)
        return Argument(first.token.lower(), "block", token=first.token, parts=parts)
    multiple = any(part.multiple for part in rest[-1:]) and len(arguments) > 1
    if multiple:
        arguments = [*arguments[:-1], replace(arguments[-1], multiple=False)]
    name = "_".join(part.name for part in arguments)
    return Argument(name, "block", multiple=multiple, parts=tuple(arguments))


def _with_tokens(arguments: list[Argument]) -> list[Argument]:
    """Gives each token the value behind it: `EX seconds` is one argument."""
    found: list[Argument] = []
    for argument in arguments:
        before = found[-1] if found else None
        takes = not argument.token and not argument.optional and argument.kind != "pure-token"
        if before is not None and before.kind == "pure-token" and takes:
            found[-1] = replace(argument, token=before.token)
        else:
            found.append(argument)
    return found


def _repeats(found: list[Argument], group: Argument) -> bool:
    """Whether `[group ...]` only says that what stands before it may be repeated; then `found` says so itself."""
    if not group.multiple:
        return False
    parts = list(group.parts) if group.kind == "block" else [replace(group, multiple=False)]
    if len(found) < len(parts) or found[-len(parts) :] != parts:
        return False
    found[-len(parts) :] = [group]
    return True
