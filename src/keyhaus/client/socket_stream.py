"""One connection of a small client: bytes out, lines or so many bytes in. Whatever fails, the connection is closed.

A reply that comes too late belongs to no later request, so a time-out closes the connection as any other failure does.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import TracebackType
from typing import Final, TypeVar

_READ_BYTES: Final = 65_536
_Result = TypeVar("_Result")


class SocketStream:
    """A connection that is opened when it is needed.

    Args:
        host: The server's name or address.
        port: Its port.
        timeout: Seconds to wait for a connection, or for further bytes of a reply.
    """

    def __init__(self, host: str, port: int, timeout: float) -> None:
        self.host, self.port, self.timeout = host, port, timeout
        self._socket: socket.socket | None = None
        self._rest = bytearray()

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._socket is not None

    def connect(self) -> None:
        """Opens the connection, if there is none. Raises ConnectionError."""
        if self._socket is None:
            try:
                self._socket = socket.create_connection((self.host, self.port), self.timeout)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                self.close()
                raise ConnectionError(f"no connection to {self.host}:{self.port}: {error}") from error

    def close(self) -> None:
        """Closes the connection; the next use opens another one."""
        own, self._socket = self._socket, None
        self._rest.clear()
        if own is not None:
            own.close()

    def send(self, data: bytes) -> None:
        """Sends all of it. Raises ConnectionError."""
        self.connect()
        own = self._socket
        assert own is not None
        self._guarded(lambda: own.sendall(data))

    def read_line(self) -> bytes:
        """The next line, without its end. Raises ConnectionError."""
        searched = 0
        while (end := self._rest.find(b"\n", searched)) < 0:
            searched = len(self._rest)
            self._receive()
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        return line

    def read(self, size: int) -> bytes:
        """The next `size` bytes. Raises ConnectionError."""
        while len(self._rest) < size:
            self._receive()
        data = bytes(self._rest[:size])
        del self._rest[:size]
        return data

    def _receive(self) -> None:
        own = self._socket
        if own is None:
            raise ConnectionError(f"there is no connection to {self.host}:{self.port}")
        data = self._guarded(lambda: own.recv(_READ_BYTES))
        if not data:
            self.close()
            raise ConnectionError(f"{self.host}:{self.port} has closed the connection")
        self._rest += data

    def _guarded(self, action: Callable[[], _Result]) -> _Result:
        try:
            return action()
        except TimeoutError as error:
            self.close()
            raise ConnectionError(f"{self.host}:{self.port} has not answered within {self.timeout} s") from error
        except OSError as error:
            self.close()
            raise ConnectionError(f"the connection to {self.host}:{self.port} broke: {error}") from error
        except BaseException:  # interrupted in the middle: what comes next is not what was asked for
            self.close()
            raise

    def __enter__(self) -> SocketStream:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
