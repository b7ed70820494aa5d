"""The server: its listeners, and its life from the first `ready` to the last reply.

A stop drains: nothing more is accepted or executed, every reply that waits for a sync still leaves, the journal gets
its end mark, and only then the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from keyhaus.core.codec import Codec
from keyhaus.core.errors import LimitExceeded, StorageError
from keyhaus.protocol.resp import RespCodec
from keyhaus.protocol.text import TextCodec
from keyhaus.server.connection import Connection
from keyhaus.server.dialects import OF_PORTS
from keyhaus.server.recognition import Recognition
from keyhaus.server.state import StateFile
from keyhaus.server.unterminated import UnterminatedConnection
from keyhaus.session.hub import Hub

log = logging.getLogger("keyhaus.server")

BACKLOG: Final = 511
DRAIN_SECONDS: Final = 10.0
YIELD_NS_MAX: Final = 1_000_000  # the base has long begun its next wait for the disk: somebody else keeps the core,
YIELD_PAUSE: Final = 10  # and gets no more of it for so many times as long


@dataclass(frozen=True)
class Address:
    """Where a dialect is spoken.

    Attributes:
        dialect: One of `DIALECTS`.
        host, port: Where.
        unterminated: Whether a line of text needs no end (see `UnterminatedConnection`).
    """

    dialect: str
    host: str
    port: int
    unterminated: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.dialect}://{host}:{self.port}"


DIALECTS: Final = ("auto", *OF_PORTS)
# The ports of the systems whose dialects these are.
SEED_PORTS: Final = (
    Address("text", "127.0.0.1", 8080, unterminated=True),
    Address("json", "127.0.0.1", 9999),
    Address("frame", "127.0.0.1", 65433),
)


_REDIS_REFUSAL: Final = b"-ERR max number of clients reached\r\n"


def parse_address(text: str) -> Address:
    """`DIALECT://HOST:PORT` as `--listen` takes it. Raises ValueError saying what was expected."""
    dialect, separator, rest = text.partition("://")
    host, colon, port = rest.rpartition(":")
    if not separator or not colon or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(f"{text!r} is no address: expected DIALECT://HOST:PORT, such as resp://127.0.0.1:6379")
    if dialect not in DIALECTS:
        raise ValueError(f"{text!r}: the dialects that this release serves are {', '.join(DIALECTS)}")
    return Address(dialect, host.strip("[]") or "127.0.0.1", int(port))


class Server:
    """The listeners of one hub."""

    def __init__(self, hub: Hub, loop: asyncio.AbstractEventLoop) -> None:
        self.hub = hub
        self.loop = loop
        self.connections: set[Connection] = set()
        self.unrecognised: set[Recognition] = set()
        self.addresses: list[Address] = []
        self.state: StateFile | None = None
        self._listeners: list[asyncio.Server] = []
        self._drained = asyncio.Event()
        self._yields_from_ns = 0
        hub.own_facts = self._facts
        for name in ("proto-max-bulk-len", "max-request-bytes", "max-reply-bytes"):
            hub.settings.observe(name, self._apply_settings)

    def yield_to_base(self) -> None:
        """Before a command goes on whose rows have come: on a shared core the base begins its next read meanwhile.

        So the core is busy while the base waits for the disk; see docs/adr/0006.
        """
        clock = self.hub.monotonic_ns
        before = clock()
        if before >= self._yields_from_ns:
            os.sched_yield()
            after = clock()
            if after - before > YIELD_NS_MAX:
                self._yields_from_ns = after + YIELD_PAUSE * (after - before)

    def refuse_if_full(self, transport: asyncio.Transport, codec: Codec | None = None) -> bool:
        """Turns a new connection away where there are `maxclients` already; whether it did."""
        hub = self.hub
        if len(hub.sessions) + len(self.unrecognised) < hub.settings.integer("maxclients"):
            return False
        hub.statistics.rejected_connections += 1
        refusal = LimitExceeded("maxclients", len(hub.sessions), hub.settings.integer("maxclients"), "clients")
        transport.write(_REDIS_REFUSAL if codec is None or isinstance(codec, RespCodec) else codec.encode(refusal))
        transport.close()
        return True

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        if not self.connections:
            self._drained.set()

    def _apply_settings(self, _: object) -> None:
        for connection in self.connections:
            connection.apply_settings()

    async def listen(self, address: Address, sockets: list[socket.socket]) -> None:
        """Accepts connections on sockets that are bound to an address. Raises OSError."""
        for own in sockets:
            self._listeners.append(await self.loop.create_server(self._factory(address), sock=own, backlog=BACKLOG))
            host, port = own.getsockname()[:2]
            self.addresses.append(Address(address.dialect, host, port))

    def _factory(self, address: Address) -> Callable[[], asyncio.Protocol]:
        codec = OF_PORTS.get(address.dialect)
        if codec is None:
            return lambda: Recognition(self)
        if address.unterminated:
            return lambda: UnterminatedConnection(self, TextCodec())
        return lambda: Connection(self, codec())

    def _facts(self) -> dict[str, Any]:
        ports = [address.port for address in self.addresses]
        hosts = list(dict.fromkeys(address.host for address in self.addresses))
        return {
            "tcp_port": ports[0] if ports else 0,
            "bind": " ".join(hosts),
            "fast_lane": "none",
            "executable": sys.executable,
            **({} if self.state is None else self.state.facts()),
        }

    def watch_idle(self) -> None:
        """Once a second: closes the connections that have been idle for longer than `timeout` allows."""
        timeout = self.hub.settings.integer("timeout")
        if timeout:
            before = self.hub.monotonic_ns() - timeout * 1_000_000_000
            for connection in list(self.connections):
                connection.close_if_idle(before)
            for stranger in list(self.unrecognised):
                stranger.close_if_idle(before)
        self.loop.call_later(1, self.watch_idle)

    async def stop(self) -> None:
        """Drains and closes. Raises StorageError where the journal could not be closed cleanly."""
        for server in self._listeners:
            server.close()
        for stranger in list(self.unrecognised):
            stranger.close()
        self._drained.clear()
        for connection in list(self.connections):
            connection.drain()
        if self.connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._drained.wait(), DRAIN_SECONDS)
        for connection in list(self.connections):
            connection.close()
        closed: asyncio.Future[BaseException | None] = self.loop.create_future()
        self.hub.store.close(closed.set_result)
        error = await closed
        self.hub.store.close_ground()
        if error is not None:
            raise (
                error if isinstance(error, StorageError) else StorageError(f"the journal could not be closed: {error}")
            )
