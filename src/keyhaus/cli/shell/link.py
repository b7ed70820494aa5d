"""One connection to a server, as the shell needs it, and what else asks one: opened when told to, closed at any doubt.

A request is sent once.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from keyhaus.cli.shell.replies import Reader
from keyhaus.cli.target import Target
from keyhaus.client.errors import ConnectionLost, OutcomeUnknown
from keyhaus.client.words import request
from keyhaus.core.errors import Error
from keyhaus.core.reply import Push

CONNECT_SECONDS: Final = 5.0


class Gone(ConnectionLost):
    """The server has closed a connection that nothing was asked on; nothing was sent."""


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _is_gone(opened: socket.socket) -> bool:
    """Whether the other side has closed a connection on which nothing is under way."""
    try:
        if not select.select([opened], [], [], 0)[0]:
            return False
        return not opened.recv(1, socket.MSG_PEEK)
    except OSError:
        return True


class Link:
    """A connection that may be closed and opened again.

    Args:
        target: Where to.
        seconds: How long a reply may take; None: as long as it takes. Connecting is limited in any case.
        name: What CLIENT LIST calls it.

    Attributes:
        target: Where to, with the database and the password that a connection begins with.
        wants_password: Whether the server refused to greet whoever names no user.
    """

    def __init__(self, target: Target, seconds: float | None = None, name: str = "keyhaus-shell") -> None:
        self.target = target
        self.wants_password = False
        self._seconds, self._name = seconds, name
        self._socket: socket.socket | None = None
        self._reader: Reader | None = None

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def open(self) -> None:
        """Connects: says who asks, asks for RESP3, selects the database.

        Raises:
            ConnectionLost: Nobody answers there, or nobody who speaks RESP.
            Error: The server refuses the password or the database.
        """
        place = (self.target.host, self.target.port)
        try:
            opened = socket.create_connection(place, CONNECT_SECONDS if self._seconds is None else self._seconds)
        except (OSError, UnicodeError, OverflowError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or error
            raise ConnectionLost(f"nobody answers at {self.target}: {reason}") from error
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._socket, self._reader = opened, Reader(opened.makefile("rb"))
        try:
            self._greet()
        except OutcomeUnknown as error:
            raise ConnectionLost(f"{self.target} was reached, but {error.message}") from error
        except BaseException:
            self.close()
            raise
        opened.settimeout(self._seconds)

    def _greet(self) -> None:
        target = self.target
        answer = self.hello()
        if isinstance(answer, Error) and answer.code not in ("NOAUTH", "NOPROTO", "ERR"):
            raise answer
        if isinstance(answer, Error) and answer.code != "NOAUTH" and target.password is not None:
            self._must("AUTH", *filter(None, (target.user,)), target.password)
        self.wants_password = isinstance(answer, Error) and answer.code == "NOAUTH"
        if target.database and not self.wants_password:
            self._must("SELECT", str(target.database))

    def hello(self) -> Any:
        """Asks for RESP3, where maps are maps; the server's answer, which may be an error. Raises OutcomeUnknown."""
        target = self.target
        words = ["HELLO", "3"]
        if target.password is not None:
            words += ["AUTH", target.user or "default", target.password]
        return self.ask([_bytes(word) for word in (*words, "SETNAME", self._name)])

    def _must(self, *words: str) -> None:
        answer = self.ask([_bytes(word) for word in words])
        if isinstance(answer, Error):
            raise answer

    def ask(self, words: Sequence[bytes], pushed: Callable[[Push], None] | None = None) -> Any:
        """A request's reply, which may be an Error.

        Args:
            words: The request.
            pushed: Is given what the server says without being asked, before the reply.

        Raises:
            ConnectionLost: It is closed; nothing was sent. Gone: the server had closed it since the last reply.
            OutcomeUnknown: It broke, or no reply came in time; it is closed now.
        """
        opened = self._socket
        if opened is None:
            raise ConnectionLost("not connected")
        if _is_gone(opened):
            self.close()
            raise Gone("the server has closed the connection")
        try:
            opened.sendall(request(list(words)))
            return self.receive(pushed)
        except OutcomeUnknown:
            raise
        except OSError as error:
            self.close()
            raise OutcomeUnknown(f"the connection was lost: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise

    def receive(self, pushed: Callable[[Push], None] | None = None) -> Any:
        """What comes next. Raises OutcomeUnknown, OSError."""
        reader = self._reader
        if reader is None:
            raise ConnectionLost("not connected")
        try:
            while isinstance(reply := reader.reply(), Push):
                if pushed is not None:
                    pushed(reply)
            return reply
        except TimeoutError as error:
            self.close()
            raise OutcomeUnknown("no reply came in time") from error
        except (EOFError, Error, OSError) as error:
            self.close()
            reason = error.message if isinstance(error, Error) else error
            raise OutcomeUnknown(f"the connection was lost: {reason}") from error

    def close(self) -> None:
        """Closes it; the server rolls back what it had begun."""
        opened, reader, self._socket, self._reader = self._socket, self._reader, None, None
        if opened is None or reader is None:
            return
        with contextlib.suppress(OSError):
            opened.shutdown(socket.SHUT_RDWR)  # the server is to see it at once, whoever still holds what it is read by
        with contextlib.suppress(OSError):
            reader.close()
        with contextlib.suppress(OSError):
            opened.close()
