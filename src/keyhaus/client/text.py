"""A client of the text dialect: a command is a line, its reply a dictionary.

with Client() as client:
    client.send_command("PUT key1 value1")  # {'status': 'Ok', 'result': {'key': 'key1', 'value': 'value1'}}
"""

from __future__ import annotations

import json
from typing import Any, Final

from keyhaus.client.errors import OutcomeUnknown
from keyhaus.client.stream import Stream

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8080


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
        self._stream = Stream(host, port, timeout)

    def __enter__(self) -> Client:
        self.connect()
        return self

    def __exit__(self, *exception: object) -> None:
        self.disconnect()

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known here."""
        return self._stream.connected

    def connect(self) -> None:
        """Opens the connection, if it is not open.

        Raises:
            ConnectionLost: Nobody answers there. It is a ConnectionError.
        """
        if not self._stream.connected:
            self._stream = Stream(self.host, self.port, self.timeout)
            self._stream.connect()

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
        return self._stream.ask(_line(command), _reply)

    def disconnect(self) -> None:
        """Closes the connection, if it is open; the server rolls back what it had begun."""
        self._stream.close()


def _reply(stream: Stream) -> dict[str, Any]:
    """The next line, parsed. Raises OSError, OutcomeUnknown."""
    try:
        reply = json.loads(stream.line())
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict) or "status" not in reply:
        raise OutcomeUnknown(f"what answers at {stream.host}:{stream.port} does not speak the text dialect")
    return reply


def _line(command: str) -> bytes:
    """What is sent for a command. Raises ValueError."""
    if "\n" in command or command.endswith("\r"):
        raise ValueError("a command is one line: it may have no line feed, and no carriage return at its end")
    line = command.encode()
    if not line.strip():
        raise ValueError("the command is empty: the server would not answer it")
    return line + b"\n"
