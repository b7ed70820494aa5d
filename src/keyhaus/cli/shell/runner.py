"""Runs one line: what it means, the server's answer, and how that is shown. The prompt and scripts both use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keyhaus.cli.shell import catalogue, local
from keyhaus.cli.shell.aliases import translated
from keyhaus.cli.shell.catalogue import Catalogue
from keyhaus.cli.shell.dialogue import Dialogue
from keyhaus.cli.shell.documents import document
from keyhaus.cli.shell.link import CONNECT_SECONDS, Link
from keyhaus.cli.shell.quoting import split
from keyhaus.cli.shell.view import View
from keyhaus.core.errors import Error
from keyhaus.core.reply import Push


class Leave(Exception):
    """The line said that this is the end."""


class Runner:
    """Runs lines.

    Args:
        dialogue: The conversation.
        view: Where replies go.
        as_json: Whether each reply is one JSON document in a line.
    """

    def __init__(self, dialogue: Dialogue, view: View, as_json: bool = False) -> None:
        self.dialogue, self.view, self.as_json = dialogue, view, as_json
        self._catalogue: Catalogue | None = None

    @property
    def catalogue(self) -> Catalogue:
        """What the server knows, as far as it was asked."""
        return self._catalogue or Catalogue()

    def learn(self) -> None:
        """Asks the server for its table, unless that was done. Raises what `Dialogue.ask` raises."""
        if not self.catalogue.entries:
            self._catalogue = catalogue.read(self._table())

    def _table(self) -> Any:
        words = [b"COMMAND", b"DOCS"]
        if not self.dialogue.state.multi:
            return self.dialogue.ask(words)
        beside = Link(self.dialogue.target, CONNECT_SECONDS)  # between MULTI and EXEC it would be queued
        try:
            beside.open()
            return beside.ask(words)
        finally:
            beside.close()

    def run(self, line: bytes) -> Any:
        """Runs a line and shows its reply, which is returned; None where there is none.

        Raises:
            Leave: It was `quit` or `exit`.
            Error: It was not sent, or its connection was lost, or nobody wanted to wait for the reply any longer.
        """
        words = split(line)
        if not words:
            return None
        name = words[0].lower()
        if name in (b"quit", b"exit") and len(words) == 1:
            raise Leave
        if name == b"clear" and len(words) == 1:
            self.view.console.clear()
            return None
        if name == b"help":
            self._help(words[1:])
            return None
        words = translated(words, line, self._knows)
        reply = self.dialogue.ask(words, self._pushed)
        self.show(words, reply)
        if name == b"monitor" and reply == "OK":
            self.dialogue.listen(self._heard)
        if name in (b"auth", b"hello") and self._catalogue is not None:
            self.learn()  # it may have been refused before somebody said who asks
        return reply

    def show(self, words: Sequence[bytes], reply: Any) -> None:
        """Shows a reply."""
        if self.as_json:
            self.view.console.file.write(document(reply) + "\n")
            self.view.console.file.flush()
        else:
            self.view.show(words, reply)

    def _knows(self, name: str) -> bool:
        self.learn()
        return self.catalogue.knows(name)

    def _help(self, words: Sequence[bytes]) -> None:
        self.learn()
        self.view.say(local.about(words, self.catalogue) if words else local.overview(self.catalogue))

    def _pushed(self, push: Push) -> None:
        self.show((), push)

    def _heard(self, told: Any) -> None:
        self.show((), told)


def has_error(reply: Any) -> bool:
    """Whether a reply is an error, or has one in it, as EXEC's may."""
    return isinstance(reply, Error) or (isinstance(reply, list) and any(map(has_error, reply)))
