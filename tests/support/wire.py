"""RESP as a client sees it, byte for byte: what came back is kept as it was, and only read to find where it ends.

Written for comparing servers, so it knows no type beyond its mark: `(b"$", b"text")`, `(b"*", [...])`, `(b":", b"1")`.
"""

from __future__ import annotations

import select
import socket
from typing import Any, Final, NamedTuple

TIMEOUT_SECONDS: Final = 30.0


class Node(NamedTuple):
    """A reply: its mark, and its bytes, its parts, or None for a null."""

    mark: bytes
    content: Any

    def plain(self) -> Any:
        """Without marks, as a client's user sees it; maps as lists of their keys and values in turn."""
        if isinstance(self.content, list):
            return [node.plain() for node in self.content]
        return int(self.content) if self.mark == b":" else self.content


class _Incomplete(Exception):
    pass


def encoded(args: list[bytes]) -> bytes:
    """A request."""
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in args)


def parsed(data: bytes, at: int = 0) -> tuple[Node, int]:
    """The reply that begins at an offset, and where it ends."""
    end = data.find(b"\r\n", at)
    if end < 0:
        raise _Incomplete
    mark, line = data[at : at + 1], data[at + 1 : end]
    at = end + 2
    if mark in (b"$", b"=", b"!"):
        if line == b"-1":
            return Node(mark, None), at
        end = at + int(line)
        if len(data) < end + 2:
            raise _Incomplete
        assert data[end : end + 2] == b"\r\n", data[at : end + 2]
        return Node(mark, data[at:end]), end + 2
    if mark in (b"*", b"%", b"~", b">", b"|"):
        if line == b"-1":
            return Node(mark, None), at
        nodes = []
        for _ in range(int(line) * (2 if mark in (b"%", b"|") else 1)):
            node, at = parsed(data, at)
            nodes.append(node)
        return Node(mark, nodes), at
    assert mark in (b"+", b"-", b":", b"_", b"#", b",", b"("), data[at - 20 : at + 20]
    return Node(mark, None if mark == b"_" else line), at


class Wire:
    """One connection."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def send(self, *requests: list[bytes]) -> None:
        self._socket.sendall(b"".join(map(encoded, requests)))

    def receive(self) -> bytes:
        """The bytes of the next reply. Raises EOFError where the server hung up."""
        while True:
            try:
                _, end = parsed(self._rest)
            except _Incomplete:
                data = self._socket.recv(1 << 16)
                if not data:
                    raise EOFError(f"the server hung up after {self._rest!r}") from None
                self._rest += data
                continue
            reply, self._rest = self._rest[:end], self._rest[end:]
            return reply

    def readable(self) -> bool:
        """Whether anything has come that was not received yet."""
        return bool(self._rest) or bool(select.select([self._socket], [], [], 0)[0])

    def call(self, *words: bytes) -> bytes:
        """One request's reply."""
        self.send(list(words))
        return self.receive()

    def say_no_more(self) -> None:
        """Ends the client's side; what the server still has to say can be received."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
