"""The same client through two doors: a session without a network, and a connection to a server.

A request is sent, and then it is asked whether it waits. Nothing sleeps and guesses: without a network turns are taken
until nothing moves; a server is asked whether the client is blocked (CLIENT LIST), until it is or its reply has come.

Replies are told alike: a status and a value are bytes, an error is a `Failure` with its code, no list is None.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any, Final, NamedTuple

from keyhaus.protocol.resp import RespCodec
from tests.support.processes import HOST, RunningKeyhaus
from tests.support.sessions import Caller, Pending, Sessions
from tests.support.wire import Node, Wire, parsed

PATIENCE_SECONDS: Final = 20.0
LOCK_TIMEOUT_MS: Final = 5_000  # what should not wait, and does, fails the test soon

Word = bytes | str | int


class Failure(NamedTuple):
    """An error: its code, and what it says."""

    code: str
    message: str


class Client(ABC):
    """One client. It has one request under way at a time."""

    @abstractmethod
    def send(self, *words: Word) -> None:
        """Begins a request; its reply is to be asked for."""

    @abstractmethod
    def waits(self) -> bool:
        """Whether the request under way can't go on for now; False once its reply is there."""

    @abstractmethod
    def reply(self) -> Any:
        """The reply of the request under way."""

    @abstractmethod
    def vanish(self) -> None:
        """The client is gone, and says nothing before."""

    def __call__(self, *words: Word) -> Any:
        """The reply to a request."""
        self.send(*words)
        return self.reply()

    def fails(self, *words: Word) -> str:
        """The code of the error that answers a request."""
        reply = self(*words)
        assert isinstance(reply, Failure), f"{words} was answered with {reply!r}"
        return reply.code


class House(ABC):
    """A database whose clients come through one door; empty when the test begins."""

    @abstractmethod
    def connect(self) -> Client:
        """One client more."""

    @abstractmethod
    def close(self) -> None:
        """All clients are gone."""


def encoded(words: tuple[Word, ...]) -> list[bytes]:
    return [word if isinstance(word, bytes) else str(word).encode() for word in words]


def begin(*clients: Client) -> None:
    """Each begins a PESSIMISTIC transaction; the last one is the youngest."""
    for client in clients:
        assert client("BEGIN").startswith(b"tx-")


def waiting(client: Client, *words: Word) -> Client:
    """Sends a request that has to wait."""
    client.send(*words)
    assert client.waits(), f"{words} does not wait, but is answered {client.reply()!r}"
    return client


# without a network


class _SessionClient(Client):
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._caller: Caller = sessions.connect()
        self._codec = RespCodec()
        self._result: Any = None

    def send(self, *words: Word) -> None:
        self._result = self._caller.send(*words)

    def waits(self) -> bool:
        self._sessions.settle()
        return isinstance(self._result, Pending) and not self._result.done

    def reply(self) -> Any:
        assert not self.waits(), "it waits for something that does not come"
        reply = self._result.reply if isinstance(self._result, Pending) else self._result
        return _read(parsed(self._codec.encode(reply))[0])

    def vanish(self) -> None:
        self._caller.vanish()


class SessionHouse(House):
    """A store in memory, driven by hand."""

    def __init__(self) -> None:
        self.sessions = Sessions(lock_timeout=LOCK_TIMEOUT_MS)

    def connect(self) -> Client:
        return _SessionClient(self.sessions)

    def close(self) -> None:
        pass


# over RESP


class WireClient(Client):
    """A connection."""

    def __init__(self, house: WireHouse, port: int) -> None:
        self._house = house
        self.wire = Wire(HOST, port)
        self.id = self("CLIENT", "ID")

    def send(self, *words: Word) -> None:
        self.wire.send(encoded(words))

    def waits(self) -> bool:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if self.wire.readable():
                return False
            if self._house.blocks(self.id):
                return True
        raise AssertionError("the request neither waits nor is answered")

    def reply(self) -> Any:
        return _read(parsed(self.wire.receive())[0])

    def vanish(self) -> None:
        self.wire.close()


class WireHouse(House):
    """A running server, whose data is deleted."""

    def __init__(self, server: RunningKeyhaus) -> None:
        self._server = server
        self._clients: list[WireClient] = []
        self._watching = Wire(HOST, server.port)
        assert self._ask(b"FLUSHALL") == b"OK"
        assert self._ask(b"CONFIG", b"SET", b"lock-timeout", b"%d" % LOCK_TIMEOUT_MS) == b"OK"

    def _ask(self, *words: bytes) -> Any:
        return _read(parsed(self._watching.call(*words))[0])

    def connect(self) -> WireClient:
        self._clients.append(WireClient(self, self._server.port))
        return self._clients[-1]

    def blocks(self, client: int) -> bool:
        """Whether a client's request waits for something."""
        row = self._ask(b"CLIENT", b"LIST", b"ID", b"%d" % client)
        return b"b" in row.partition(b" flags=")[2].partition(b" ")[0]

    def close(self) -> None:
        for client in self._clients:
            client.wire.close()
        self._watching.close()


def _read(node: Node) -> Any:
    if node.mark == b"-":
        code, _, message = node.content.decode().partition(" ")
        return Failure(code, message)
    if isinstance(node.content, list):
        return [_read(part) for part in node.content]
    return node.plain()
