"""What `help` says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from keyhaus.cli.shell.aliases import ALIASES, LOCAL
from keyhaus.cli.shell.catalogue import Catalogue, Entry
from keyhaus.core.errors import UserError

_KEYS: Final = (
    ("Tab", "completes commands, options and keys; the line at the bottom says what a command takes"),
    ("Up, Ctrl-R", "earlier commands, and a search in them; what has a password in it is not kept"),
    ("Ctrl-C", "leaves the line; while a command waits: closes the connection, which rolls back what is open"),
    ("Ctrl-D", "leaves the shell"),
)
_WORDS: Final = """\
Words are quoted as redis-cli quotes them: "two words", "\\x00\\n", 'it\\'s'. A line whose quotes are open
goes on in the next one. Lines that begin with # are comments."""
_RANGE: Final = """\
range a z, in small letters and with two words, includes z. RANGE a z, in capitals or with any option, is the server's
own, which excludes its end. Both give a page of at most 10,000 keys, and say how to go on."""


class NoSuchCommand(UserError):
    """`help` knows nothing of that name."""


def overview(catalogue: Catalogue) -> str:
    """What the shell understands."""
    families: dict[str, list[str]] = {}
    for name, entry in sorted(catalogue.entries.items()):
        families.setdefault(entry.group or "others", []).append(name)
    parts = ["The server's commands (help COMMAND says what one does):", ""]
    for family, names in sorted(families.items()):
        parts += _wrapped(f"  {family}: ", names)
    parts += ["", "Shorter, where the server has no command of the name:", "", *_columns(ALIASES.values()), "", _RANGE]
    parts += ["", "The shell's own:", "", *_columns(LOCAL.items()), "", *_columns(_KEYS), "", _WORDS]
    return "\n".join(parts)


def about(words: Sequence[bytes], catalogue: Catalogue) -> str:
    """What is known of a command. Raises NoSuchCommand."""
    name = words[0].decode("utf-8", "replace").lower()
    if (found := catalogue.find(words)) is not None:
        described = "\n".join(_described(found[0]))
        return f"{described}\n\n{_RANGE}" if name == "range" else described
    if name in ALIASES:
        return "\n  ".join(ALIASES[name])
    if name in LOCAL:
        return f"{name}\n  {LOCAL[name]}"
    raise NoSuchCommand(f"there is no command {name!r}: help lists them")


def _described(entry: Entry) -> Iterator[str]:
    yield entry.usage
    yield f"  {entry.summary}"
    facts = [("since", entry.since), ("family", entry.group), ("time", entry.complexity)]
    if told := [f"{what}: {fact}" for what, fact in facts if fact]:
        yield f"  {'; '.join(told)}"
    for sub in entry.subcommands.values():
        yield f"\n  {sub.usage}\n    {sub.summary}"


def _columns(rows: Iterable[tuple[str, str]]) -> list[str]:
    pairs = list(rows)
    width = max(len(left) for left, _ in pairs)
    return [f"  {left:{width}}  {right}" for left, right in pairs]


def _wrapped(head: str, names: Sequence[str], width: int = 118) -> list[str]:
    """Names in lines of a bounded width, moved in behind a head."""
    found = [head]
    for name in names:
        if len(found[-1]) + len(name) > width:
            found.append(" " * 6)
        found[-1] += f"{name} "
    return [line.rstrip() for line in found]
