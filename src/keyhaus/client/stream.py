"""The one connection of a small client: a request out, its reply in, the next request.

Invariants: a request is sent once, on the connection that was open before. Whatever else happens than that its reply
comes closes the connection, so nobody ever reads the reply to an earlier request.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Final, TypeVar

from keyhaus.client.errors import ConnectionLost, OutcomeUnknown
from keyhaus.core import limits

_RECEIVE_BYTES: Final = 1 << 16
Reply = TypeVar("Reply")


class Stream:
    """A connection that is opened when told to, and serves one thread at a time.

    Args:
        host: The server's.
        port: The server's.
        timeout: Seconds to wait for a connection, and for further bytes of a reply; None waits for as long as it takes.
    """

    def __init__(self, host: str, port: int, timeout: float | None) -> None:
        self.host, self.port, self.timeout = host, port, timeout
        self._socket: socket.socket | None = None
        self._rest = bytearray()

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

    def close(self) -> None:
        """Closes the connection, if it is open; the server rolls back what it had begun."""
        opened, self._socket = self._socket, None
        self._rest.clear()
        if opened is not None:
            with contextlib.suppress(OSError):
                opened.close()

    def ask(self, request: bytes, read: Callable[[Stream], Reply]) -> Reply:
        """Sends a request and reads its reply.

        Args:
            request: Its bytes.
            read: Reads the reply, with `line` and `exactly`.

        Raises:
            ConnectionLost: There is no connection. Nothing was sent.
            OutcomeUnknown: The connection was lost, or no reply came in time: the request was executed once, or not at
                all. Both are ConnectionErrors.
        """
        opened = self._socket
        if opened is None:
            raise ConnectionLost("not connected: call connect() first")
        if self._rest:
            self.close()
            raise ConnectionLost("the server had said more than it was asked: the connection is closed")
        try:
            opened.sendall(request)
            return read(self)
        except TimeoutError as error:
            self.close()
            raise OutcomeUnknown(f"no reply came within {self.timeout} seconds") from error
        except OutcomeUnknown:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise OutcomeUnknown(f"the connection was lost: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise

    def line(self) -> bytes:
        """The next line of a reply, without its end; only within `ask`."""
        searched = 0
        while (end := self._rest.find(b"\n", searched)) < 0:
            searched = len(self._rest)
            if searched > limits.REPLY_BYTES_MAX:
                raise OutcomeUnknown(f"the reply has more than {limits.REPLY_BYTES_MAX} bytes")
            self._receive()
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        return line

    def exactly(self, size: int) -> bytes:
        """The next `size` bytes of a reply; only within `ask`."""
        if size > limits.REPLY_BYTES_MAX:
            raise OutcomeUnknown(f"the reply has {size} bytes, more than {limits.REPLY_BYTES_MAX}")
        while len(self._rest) < size:
            self._receive()
        data = bytes(self._rest[:size])
        del self._rest[:size]
        return data

    def _receive(self) -> None:
        opened = self._socket
        assert opened is not None
        data = opened.recv(_RECEIVE_BYTES)
        if not data:
            raise OutcomeUnknown("the server closed the connection")
        self._rest += data
