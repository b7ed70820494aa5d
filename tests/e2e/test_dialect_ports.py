"""Which dialect a port speaks: recognised by the first bytes, and nothing that a browser sends is run."""

from __future__ import annotations

import json
import socket
from typing import Final

import pytest

from tests.e2e.conftest import Serve
from tests.support.load import Link
from tests.support.processes import HOST
from tests.support.wire import encoded

SECONDS: Final = 30
HTTP_POST: Final = (
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\nContent-Length: 60\r\n\r\n"
    b"SET evil 1\r\n*3\r\n$3\r\nSET\r\n$4\r\nevil\r\n$1\r\n1\r\n"
)


def conversation(port: int, data: bytes) -> bytes:
    """All that a server says to some bytes, until it hangs up."""
    said = b""
    with socket.create_connection((HOST, port), SECONDS) as connection:
        connection.sendall(data)
        while part := connection.recv(65536):
            said += part
    return said


@pytest.mark.parametrize("cut", [1 << 20, 1, 7])
@pytest.mark.parametrize("listen", ["resp", "auto"])
@pytest.mark.parametrize("data", [HTTP_POST, HTTP_POST.partition(b"\r\n")[2]], ids=["POST", "Host"])
def test_a_browser_runs_nothing(data: bytes, listen: str, cut: int, serve: Serve) -> None:
    server = serve("--engine", "memory", listen=listen)
    with socket.create_connection((HOST, server.port), SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        said = b""
        try:
            for at in range(0, len(data), cut):
                connection.sendall(data[at : at + cut])
            while part := connection.recv(65536):
                said += part
        except ConnectionError:
            pass  # it hung up while we were still talking
    assert b"OK" not in said
    with Link(server.port) as link:
        assert link.ask(b"GET", b"evil") is None
    assert server.wait_for_line("closing")


def test_the_dialect_is_told_by_the_first_bytes(serve: Serve) -> None:
    server = serve("--engine", "memory", listen="auto")
    with socket.create_connection((HOST, server.port), SECONDS) as connection:
        connection.sendall(b'{"command": "ping"}\n')
        assert json.loads(connection.makefile("rb").readline()) == {"status": "ok", "message": "pong"}
    with socket.create_connection((HOST, server.port), SECONDS) as connection:
        connection.sendall(b"\0\0\0\5hello")
        assert b"BAD_PAYLOAD" in connection.recv(1000)
    with socket.create_connection((HOST, server.port), SECONDS) as connection:
        connection.sendall(b"PING\n")
        assert json.loads(connection.makefile("rb").readline()) == {"status": "Ok", "result": "PONG"}
    http = conversation(server.port, b"GET /v1/keys/a HTTP/1.1\r\nHost: x\r\n\r\n")
    assert http.startswith(b"HTTP/1.1 501 ")
    assert b"later release" in http
    for nobody in (b"\x16\x03\x01\x02\x00\x01", b"\xff\xfe", b"\x01", b"PING\0\n", b"x" * 70_000):
        assert conversation(server.port, nobody) == b"", nobody[:10]
    with Link(server.port) as link:
        assert link.ask(b"PING") == b"PONG"
        assert link.ask(b"DBSIZE") == 0


def test_inline_commands_are_spoken_on_a_resp_port_only(serve: Serve) -> None:
    resp, auto = serve("--engine", "memory"), serve("--engine", "memory", listen="auto")
    assert conversation(resp.port, b"PING\r\nQUIT\r\n") == b"+PONG\r\n+OK\r\n"
    said = conversation(auto.port, encoded([b"PING"]) + b"SET evil 1\r\n")
    assert said.startswith(b"+PONG\r\n-ERR Protocol error")
    with Link(auto.port) as link:
        assert link.ask(b"GET", b"evil") is None
