"""The port that recognises the dialect by a connection's first bytes.

RESP, text, JSON lines and frames go on as what they are. HTTP is recognised and told that it is not served yet; bytes
that belong to no dialect, and TLS, close the connection.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, cast

from keyhaus.protocol.sniff import Dialect, Sniffer
from keyhaus.server.connection import Connection
from keyhaus.server.dialects import RECOGNISED
from keyhaus.server.peer import address_of

if TYPE_CHECKING:
    from keyhaus.server.server import Server

log = logging.getLogger("keyhaus.connection")

_NOT_YET: Final = "{} is not spoken here yet: it comes with a later release; speak RESP (redis-cli, any Redis client)"
_ANSWERS: Final = {
    Dialect.HTTP: (
        "HTTP/1.1 501 Not Implemented\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
        + _NOT_YET.format("HTTP")
        + "\n"
    ),
}


class Recognition(asyncio.Protocol):
    """A connection whose dialect is not known yet."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._sniffer = Sniffer()
        self._transport: asyncio.Transport | None = None
        self._connected_ns = server.hub.monotonic_ns()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports only look like asyncio's, so they can't be told by isinstance.
        transport = self._transport = cast(asyncio.Transport, transport)
        if self._server.refuse_if_full(transport):
            self._transport = None
        else:
            self._server.unrecognised.add(self)

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        dialect = self._sniffer.feed(data)
        if dialect is None:
            return
        self._server.unrecognised.discard(self)
        codec = RECOGNISED.get(dialect)
        if codec is not None:
            connection = Connection(self._server, codec())
            transport.set_protocol(connection)
            connection.connection_made(transport)
            connection.data_received(self._sniffer.buffered)
            return
        peer = address_of(transport.get_extra_info("peername"))
        log.info(
            "closing a connection whose dialect is not spoken here",
            extra={"dialect": dialect.name.lower(), "client": peer},
        )
        answer = _ANSWERS.get(dialect)
        if answer is not None:
            transport.write(answer.encode())
        transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server.unrecognised.discard(self)

    def close_if_idle(self, before_ns: int) -> None:
        if self._connected_ns < before_ns:
            self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
