"""Streams of bytes: given to a codec in pieces, or to a server that says what it makes of them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from keyhaus.core.errors import Error
from keyhaus.core.request import NeedData
from keyhaus.protocol.resp import RespCodec
from tests.support.processes import HOST

TIMEOUT_SECONDS: Final = 15.0


class Parsed(NamedTuple):
    """What a codec made of a stream: its requests, and the error that ended it."""

    requests: list[list[bytes]]
    error: tuple[str, bytes] | None


def drained(codec: RespCodec) -> Iterator[list[bytes]]:
    """The requests that a codec has. Raises the error that stands behind them."""
    while not isinstance(request := codec.next_request(), NeedData):
        yield request


def parse(pieces: Iterable[bytes], make: Callable[[], RespCodec] = RespCodec) -> Parsed:
    """Feeds a stream piece by piece, as a connection does.

    Also watches what holds at every step: the codec holds no more than it was fed, an error is the same for good, and
    what is fed after it is let go.
    """
    codec = make()
    requests: list[list[bytes]] = []
    fed = 0
    stream = iter(pieces)
    for piece in stream:
        fed += len(piece)
        codec.feed(piece)
        assert codec.buffered() <= fed
        try:
            requests += drained(codec)
        except Error as error:
            told = (error.code, error.raw)
            break
        assert 0 <= codec.buffered() <= fed
    else:
        return Parsed(requests, None)
    for piece in (*stream, b"*1\r\n$4\r\nPING\r\n"):
        codec.feed(piece)
        assert codec.buffered() == 0
        try:
            after: Any = codec.next_request()
        except Error as error:
            assert (error.code, error.raw) == told
        else:
            raise AssertionError(f"{after!r} came after {told}")
    return Parsed(requests, told)


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """The pieces of a stream that is cut at these places."""
    ends = sorted(places)
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


def conversation(port: int, data: bytes, *, half_close: bool = False) -> bytes:
    """All that a server says to a stream until it hangs up.

    Args:
        port: The server's, on loopback.
        data: The stream; it has to make the server hang up (an error, QUIT), unless `half_close` ends it.
        half_close: Whether to say that nothing more will come.
    """
    said = b""
    with socket.create_connection((HOST, port), TIMEOUT_SECONDS) as connection:
        connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        # A server that hangs up before it has read everything makes the kernel reset the connection.
        with contextlib.suppress(ConnectionResetError):
            while heard := connection.recv(1 << 16):
                said += heard
    return said
