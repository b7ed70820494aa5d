"""A proxy between a client and a server that cuts connections: before a request is executed, after it, or in between.

What is to happen to a request is decided by a function of the test, which sees every request, one at a time a
connection. A cut closes both sides, so that the server sees the client go.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from keyhaus.core.request import NeedData
from keyhaus.protocol.resp import RespCodec
from tests.support.processes import HOST
from tests.support.wire import Wire

JOIN_SECONDS: Final = 15.0


class Cut(enum.Enum):
    """What becomes of a request.

    PASS: it is executed, and the reply delivered.
    BEFORE: the server never sees it.
    SENT: the server gets it and is left alone with it; whether it is executed is a race.
    AFTER: the server has executed it; the client never sees the reply.
    HALF: the client sees the first half of the reply.
    LATE: the client is cut off; the server gets it only when `deliver` is called.
    HOLD: it is executed; the reply waits for `release`.
    """

    PASS = enum.auto()
    BEFORE = enum.auto()
    SENT = enum.auto()
    AFTER = enum.auto()
    HALF = enum.auto()
    LATE = enum.auto()
    HOLD = enum.auto()


# A reply in bytes is given to the client in place of the server's, which never sees the request.
Judge: TypeAlias = Callable[[list[bytes]], Cut | bytes]


class Proxy:
    """A proxy that listens.

    Attributes:
        port: Where.
        upstream: The server's port; connections to come go there.
        judge: What is to happen to each request.
        requests: All requests so far.
        held: Set once a request is held, or late.
        late_replies: What the server said to late requests.
    """

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.judge: Judge = lambda words: Cut.PASS
        self.requests: list[list[bytes]] = []
        self.held = threading.Event()
        self.late_replies: list[bytes] = []
        self._go_on = threading.Event()
        self._closing = False
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._start(self._accept)

    def _start(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._closing:
                client, _ = self._listener.accept()
                self._sockets.add(client)
                self._start(lambda client=client: self._serve(client))  # type: ignore[misc]

    def _serve(self, client: socket.socket) -> None:
        codec = RespCodec()
        try:
            with contextlib.suppress(OSError, EOFError), Wire(HOST, self.upstream) as server:
                while data := client.recv(1 << 16):
                    codec.feed(data)
                    while not isinstance(words := codec.next_request(), NeedData):
                        if not self._pass(words, client, server):
                            return
        finally:
            self._sockets.discard(client)
            client.close()

    def _pass(self, words: list[bytes], client: socket.socket, server: Wire) -> bool:
        """Handles one request; whether the connection lives on."""
        self.requests.append(words)
        cut = self.judge(words)
        if isinstance(cut, bytes):
            client.sendall(cut)
            return True
        if cut is Cut.LATE:
            client.close()
            self.held.set()
            self._go_on.wait()
            self.late_replies.append(server.call(*words))
            return False
        if cut is not Cut.BEFORE:
            server.send(words)
        if cut in (Cut.BEFORE, Cut.SENT):
            return False
        reply = server.receive()
        if cut is Cut.AFTER:
            return False
        if cut is Cut.HOLD:
            self.held.set()
            self._go_on.wait()
        client.sendall(reply[: len(reply) // 2] if cut is Cut.HALF else reply)
        return cut is not Cut.HALF

    def release(self) -> None:
        """Lets go of what is held."""
        self._go_on.set()

    def deliver(self) -> list[bytes]:
        """Delivers the late requests; the server's replies, once all connections have ended."""
        self._go_on.set()
        self.close()
        return self.late_replies

    def close(self) -> None:
        self._closing = True
        self._go_on.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in list(self._sockets):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(JOIN_SECONDS)


@contextlib.contextmanager
def proxy(upstream: int) -> Iterator[Proxy]:
    """A proxy in front of a port of loopback."""
    running = Proxy(upstream)
    try:
        yield running
    finally:
        running.close()


def at(*names: bytes, cut: Cut | bytes, times: int = 1) -> Judge:
    """Cuts the first requests whose first words are these; `TX id GET` is `TX`, `GET` here."""
    left = threading.Semaphore(times)

    def judge(words: list[bytes]) -> Cut | bytes:
        plain = [words[0], *words[2:]] if words[0].upper() == b"TX" else words
        if [word.upper() for word in plain[: len(names)]] == [*names] and left.acquire(blocking=False):
            return cut
        return Cut.PASS

    return judge
