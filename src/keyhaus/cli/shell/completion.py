"""Completion: commands, subcommands, options and keys, all of them as the server tells them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from keyhaus.cli.shell.aliases import ALIASES, LOCAL
from keyhaus.cli.shell.catalogue import Catalogue
from keyhaus.cli.shell.quoting import Fragment, fragment, quoted
from keyhaus.cli.shell.syntax import expected

_SHOWN_LETTERS_MAX: Final = 60
_NESTED: Final = {b"TX": 2, b"HELP": 1}  # behind so many words a whole command follows

FindKeys = Callable[[bytes], list[bytes]]


class ShellCompleter(Completer):
    """Completes what stands before the cursor.

    Args:
        catalogue: What the server knows, as of now.
        find_keys: Gives the keys that begin with something, soon.
    """

    def __init__(self, catalogue: Callable[[], Catalogue], find_keys: FindKeys) -> None:
        self._catalogue, self._find_keys = catalogue, find_keys

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        part = fragment(document.text_before_cursor.encode("utf-8", "surrogateescape"))
        if part is None:
            return
        replaced = len(part.raw.decode("utf-8", "surrogateescape"))
        for text, remark in self._of(part):
            short = text if len(text) <= _SHOWN_LETTERS_MAX else f"{text[:_SHOWN_LETTERS_MAX]}…"
            yield Completion(text, -replaced, display=short, display_meta=remark)

    def _of(self, part: Fragment) -> Iterator[tuple[str, str]]:
        """What may be inserted in place of the last word, each with a remark."""
        words = part.words
        while words and (skipped := _NESTED.get(words[0].upper())) is not None and len(words) >= skipped:
            part = part._replace(words=(words := words[skipped:]))
        if not words:
            yield from self._commands(part)
            return
        catalogue = self._catalogue()
        found = catalogue.find(words)
        if found is None:
            if words[0].decode("latin-1").lower() in ALIASES:
                yield from self._keys(part.word)
            return
        entry, given = found
        for name, sub in entry.subcommands.items():
            if not given and name.startswith(_capitals(part.word)):
                yield name, sub.summary
        comes = expected(entry.arguments, given)
        for token in sorted(comes.tokens):
            if token.upper().startswith(_capitals(part.word)):
                yield token, ""
        if comes.key:
            yield from self._keys(part.word)

    def _commands(self, part: Fragment) -> Iterator[tuple[str, str]]:
        typed, entries = _capitals(part.word), self._catalogue().entries
        for name, entry in sorted(entries.items()):
            if name.startswith(typed):
                yield name, entry.summary
        told = {name: what for name, (_, what) in ALIASES.items()} | LOCAL
        for name, what in told.items():
            # `range` means something else than RANGE; the others give way to a command of their name.
            if name.upper().startswith(typed) and (name == "range" or name.upper() not in entries):
                yield name, what

    def _keys(self, prefix: bytes) -> Iterator[tuple[str, str]]:
        for key in self._find_keys(prefix):
            yield quoted(key), ""


def _capitals(word: bytes) -> str:
    return word.decode("latin-1").upper()
