"""A connection to a server for the commands that ask one: requests and replies of RESP2, one at a time."""

from __future__ import annotations

import socket
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from keyhaus.core.errors import Error

DEFAULT_PORT: Final = 19272
SECONDS: Final = 30.0


class Refused(Error):
    """The server's own answer to a request, which is an error."""


class Remote:
    """A connection.

    Args:
        url: `redis://[[user]:password@]host[:port]`.

    Raises:
        ValueError: The URL is none.
        OSError: Nobody answers there.
        Refused: The password is wrong.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "redis" or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a server: expected redis://HOST:PORT")
        place = (parts.hostname, parts.port or DEFAULT_PORT)
        try:
            self._socket = socket.create_connection(place, SECONDS)
        except OSError as error:
            raise ConnectionError(f"nobody answers at {place[0]}:{place[1]}: {error.strerror or error}") from error
        self._reader = self._socket.makefile("rb")
        if parts.password is not None:
            words = ("AUTH", unquote(parts.username), unquote(parts.password)) if parts.username else None
            self.ask(*(words or ("AUTH", unquote(parts.password))))

    def ask(self, *words: str | bytes) -> Any:
        """A request's reply. Raises Refused where it is an error, OSError where the connection is lost."""
        encoded = [word if isinstance(word, bytes) else word.encode("utf-8", "surrogateescape") for word in words]
        self._socket.sendall(
            b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)
        )
        return self._reply()

    def _reply(self) -> Any:
        line = self._reader.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            raise Refused(rest.removeprefix(b"ERR "))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._reader.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self._reply() for _ in range(int(rest))]
        raise ConnectionError("what answers there is no server of Redis' protocol")

    def table(self, *words: str) -> dict[str, Any]:
        """A reply of names and values."""
        flat = self.ask(*words)
        return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}

    def close(self) -> None:
        self._reader.close()
        self._socket.close()
