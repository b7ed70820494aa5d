"""A client of the text dialect: a command is a line, its reply a dictionary.

    with Client() as client:
        client.send_command("PUT key1 value1")  # {'status': 'Ok', 'result': {'key': 'key1', 'value': 'value1'}}

Invariants: a command is sent once, on the connection that was open before, and its reply is the next line, however it
is cut into packets. Whatever else happens closes the connection, so nobody ever reads the reply to an earlier command.
"""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any, Final

from keyhaus.client.errors import ConnectionLost, OutcomeUnknown
from keyhaus.core import limits

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8080
_RECEIVE_BYTES: Final = 1 << 16


class Client:
    """One connection to a port that speaks text (`keyhaus serve --listen text://127.0.0.1:8080`, or an `auto` port).

    It connects when told to, by `connect` or a `with` block, and serves one thread at a time.

    Args:
        host: The server's.
        port: The server's.
        timeout: Seconds to wait for a connection, and for each reply; None waits for as long as it takes.
    """

    def __init__(self, host: str = DEFAULT_HOST, port: int = DEFAULT_PORT, *, timeout: float | None = 30.0) -> None:
        self.host, self.port, self.timeout = host, port, timeout
        self._socket: socket.socket | None = None
        self._rest = bytearray()

    def __enter__(self) -> Client:
        self.connect()
        return self

    def __exit__(self, *exception: object) -> None:
        self.disconnect()

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known here."""
        return self._socket is not None

    def connect(self) -> None:
        """Opens the connection, if it is not open.

        Raises:
            ConnectionLost: Nobody answers there. It is a ConnectionError.
        """
        if self._socket is not None:
            return
        try:
            opened = socket.create_connection((self.host, self.port), self.timeout)
        except (OSError, OverflowError, UnicodeError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or error
            raise ConnectionLost(f"nobody answers at {self.host}:{self.port}: {reason}") from error
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = opened

    def send_command(self, command: str) -> dict[str, Any]:
        """Sends a line, and waits for its reply.

        Args:
            command: One command, without a line feed: two lines would be two commands.

        Returns:
            `{"status": "Ok" | "Error", "result"?: …, "message"?: …, "transaction_id"?: …}`.

        Raises:
            ValueError: It is no line, or an empty one. Nothing was sent.
            ConnectionLost: There is no connection. Nothing was sent. It is a ConnectionError, as is the next one.
            OutcomeUnknown: The connection was lost, or no reply came in time: the command was executed once, or not at
                all. The connection is closed, and what it had begun is rolled back.
        """
        line = _line(command)
        opened = self._socket
        if opened is None:
            raise ConnectionLost("not connected: call connect() first")
        if self._rest:
            self.disconnect()
            raise ConnectionLost("the server had said more than it was asked: the connection is closed")
        try:
            opened.sendall(line)
            return self._reply(opened)
        except TimeoutError as error:
            self.disconnect()
            raise OutcomeUnknown(f"no reply came within {self.timeout} seconds") from error
        except OutcomeUnknown:
            self.disconnect()
            raise
        except OSError as error:
            self.disconnect()
            raise OutcomeUnknown(f"the connection was lost: {error.strerror or error}") from error
        except BaseException:
            self.disconnect()
            raise

    def disconnect(self) -> None:
        """Closes the connection, if it is open; the server rolls back what it had begun."""
        opened, self._socket = self._socket, None
        self._rest.clear()
        if opened is not None:
            with contextlib.suppress(OSError):
                opened.close()

    def _reply(self, opened: socket.socket) -> dict[str, Any]:
        """The next line, parsed. Raises OSError, OutcomeUnknown."""
        searched = 0
        while (end := self._rest.find(b"\n", searched)) < 0:
            searched = len(self._rest)
            if searched > limits.REPLY_BYTES_MAX:
                raise OutcomeUnknown(f"the reply has more than {limits.REPLY_BYTES_MAX} bytes")
            data = opened.recv(_RECEIVE_BYTES)
            if not data:
                raise OutcomeUnknown("the server closed the connection")
            self._rest += data
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict) or "status" not in reply:
            raise OutcomeUnknown(f"what answers at {self.host}:{self.port} does not speak the text dialect")
        return reply


def _line(command: str) -> bytes:
    """What is sent for a command. Raises ValueError."""
    if "\n" in command or command.endswith("\r"):
        raise ValueError("a command is one line: it may have no line feed, and no carriage return at its end")
    line = command.encode()
    if not line.strip():
        raise ValueError("the command is empty: the server would not answer it")
    return line + b"\n"
