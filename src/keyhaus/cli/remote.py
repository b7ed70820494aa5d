"""A connection to a server for the commands that ask one."""

from __future__ import annotations

from typing import Any, Final

from keyhaus.cli.shell.link import Link
from keyhaus.cli.target import parse_target
from keyhaus.core.errors import Error

SECONDS: Final = 30.0
_NAME: Final = "keyhaus-cli"


class Remote:
    """A connection.

    Args:
        url: The server, as `target` has it; of no database, since a command says itself which one it is about.

    Raises:
        ValueError: The URL is none.
        ConnectionLost: Nobody answers there.
        Error: The password is wrong.
    """

    def __init__(self, url: str) -> None:
        target = parse_target(url)
        if target.database:
            raise ValueError(
                f"the URL names database {target.database}, and all are meant: leave it out; export and import take "
                "--database"
            )
        self._link = Link(target, SECONDS, _NAME)
        self._link.open()

    def ask(self, *words: str | bytes) -> Any:
        """A request's reply.

        Raises:
            Error: The server's own answer, with the code that it gave.
            ConnectionLost: There is no connection any more.
            OutcomeUnknown: The connection broke, or no reply came in time.
        """
        encoded = [word if isinstance(word, bytes) else word.encode("utf-8", "surrogateescape") for word in words]
        reply = self._link.ask(encoded)
        if isinstance(reply, Error):
            raise reply
        return reply

    def table(self, *words: str) -> dict[str, Any]:
        """A reply of names and values."""
        return {name.decode(): value for name, value in self.ask(*words).items()}

    def close(self) -> None:
        self._link.close()
