"""A conversation with a server over one connection: requests, replies, what state it is in, and what a loss means.

Invariants: nothing is sent twice. After a loss the next request finds a new connection, which begins where the old one
can be continued honestly: the same user, the same database, no transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from keyhaus.cli.shell.link import Gone, Link
from keyhaus.cli.shell.state import State
from keyhaus.cli.target import DEFAULT_TARGET, Target
from keyhaus.client.errors import ConnectionLost, OutcomeUnknown
from keyhaus.core.errors import Error, UserError
from keyhaus.core.reply import Push

_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


class Interrupted(Error):
    """The user did not want to wait for a reply any longer: the connection is closed."""


class Dialogue:
    """A conversation.

    Args:
        target: With whom.

    Attributes:
        link: The connection.
        state: What it is in the middle of.
    """

    def __init__(self, target: Target) -> None:
        self.link = Link(target)
        self.state = State(target.database)

    @property
    def target(self) -> Target:
        """Where a new connection would begin."""
        return self.link.target._replace(database=self.state.database)

    def connect(self) -> None:
        """Opens the connection, if it is not open.

        Raises:
            ConnectionLost: Nobody answers there; how to start a server.
            Error: The server refuses the password or the database.
        """
        if not self.link.is_open:
            self.link.target = self.target
            self.link.open()

    def ask(self, words: Sequence[bytes], pushed: Callable[[Push], None] | None = None) -> Any:
        """A request's reply, which may be an Error.

        Raises:
            ConnectionLost: There is no connection and none to be had. Nothing was sent. Gone: there was one, with
                something open on it; the message says what that means.
            OutcomeUnknown: The connection was lost; the message says what that means.
            Interrupted: KeyboardInterrupt came while it waited; the message says what that means.
            UserError: It is a command that a shell can't send.
        """
        _refuse_silence(words)
        self.connect()
        try:
            reply = self._asked(words, pushed)
        except OutcomeUnknown as error:
            raise OutcomeUnknown("\n".join((error.message, *self.state.lost(words)))) from error
        except KeyboardInterrupt:
            self.link.close()
            raise Interrupted("\n".join(("the connection was closed", *self.state.lost(words)))) from None
        self._saw(words, reply)
        return reply

    def _asked(self, words: Sequence[bytes], pushed: Callable[[Push], None] | None) -> Any:
        try:
            return self.link.ask(words, pushed)
        except Gone as error:
            if told := self.state.lost(None):
                raise Gone("\n".join((error.message, *told, "nothing was sent"))) from error
            self.connect()  # nothing was open and nothing was sent: another connection is as good
            return self.link.ask(words, pushed)

    def listen(self, heard: Callable[[Any], None]) -> None:
        """Hands over whatever the server says, until KeyboardInterrupt. Raises OutcomeUnknown, Interrupted."""
        try:
            while True:
                heard(self.link.receive(heard))
        except KeyboardInterrupt:
            self.link.close()
            raise Interrupted("\n".join(("the connection was closed", *self.state.lost(None)))) from None

    def close(self) -> list[str]:
        """Closes it; what that means for what was open, sentence by sentence."""
        self.link.close()
        return self.state.lost(None)

    def _saw(self, words: Sequence[bytes], reply: Any) -> None:
        self.state.saw(words, reply)
        name = words[0].upper()
        if isinstance(reply, Error) or reply == "QUEUED":
            return
        if name == b"AUTH":
            self._authenticated(words[1:])
        elif name == b"HELLO":
            upper = [word.upper() for word in words]
            if b"AUTH" in upper:
                place = upper.index(b"AUTH")
                self._authenticated(words[place + 1 : place + 3])
        elif name == b"RESET":
            self.link.target = self.link.target._replace(user="", password=None)
            self.link.hello()  # RESET went back to RESP2

    def _authenticated(self, words: Sequence[bytes]) -> None:
        """A new connection is to begin as the same user."""
        texts = [word.decode("utf-8", "surrogateescape") for word in words]
        user, password = texts if len(texts) == 2 else ("", texts[0])
        self.link.target = self.link.target._replace(user=user, password=password)
        if self.link.wants_password:
            self.link.wants_password = False
            self.link.hello()
            if self.state.database:
                self.link.ask([b"SELECT", b"%d" % self.state.database])


def start_hint(target: Target, error: Error) -> str:
    """How to start a server where nobody answered; empty where that is not what happened, or not this machine's."""
    if target.host not in _LOOPBACK or not isinstance(error, ConnectionLost) or isinstance(error, Gone):
        return ""
    port = "" if target.port == DEFAULT_TARGET.port else f" --port {target.port}"
    return f"start a server there with: keyhaus serve{port}"


def _refuse_silence(words: Sequence[bytes]) -> None:
    """Raises UserError for a command after which no reply comes: the shell would wait for it for ever."""
    upper = [word.upper() for word in words[:3]]
    if upper[:2] == [b"CLIENT", b"REPLY"] and upper[2:] != [b"ON"]:
        raise UserError("CLIENT REPLY OFF and SKIP are not for the shell: it waits for every reply")
