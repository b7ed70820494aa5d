"""Text over a socket: on a port of its own and on the one that recognises it, with transactions and what others put."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Serve
from tests.support.load import Link
from tests.support.processes import HOST

SECONDS = 30


class Text:
    """One client that sends lines and reads JSON."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port), SECONDS)
        self._file = self._socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self) -> Any:
        return json.loads(self._file.readline())

    def __call__(self, line: str) -> Any:
        self.send(line.encode() + b"\n")
        return self.receive()

    def ended(self) -> bool:
        return self._file.readline() == b""

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@pytest.fixture(params=["text", "auto"])
def port(request: pytest.FixtureRequest, serve: Serve) -> int:
    return serve("--engine", "memory", listen=request.param).port


@pytest.fixture
def text(port: int) -> Iterator[Text]:
    client = Text(port)
    yield client
    client.close()


def test_the_commands_of_the_seeds(text: Text) -> None:
    assert text("PUT key1 value1") == {"status": "Ok", "result": {"key": "key1", "value": "value1"}}
    assert text("GET key1") == {"status": "Ok", "result": {"key": "key1", "value": "value1"}}
    assert text("DEL key1") == {"status": "Ok", "result": {"key": "key1"}}
    missing = text("GET key1")
    assert (missing["status"], missing["message"]) == ("Error", "Key not found: key1")
    assert text("nonsense")["status"] == "Error"
    assert text("INCR n") == {"status": "Ok", "result": 1}


def test_a_transaction_by_name_and_as_the_current_one(text: Text, port: int) -> None:
    begun = text("BEGIN")
    assert (begun["status"], begun["result"]) == ("Ok", "Transaction started")
    name = begun["transaction_id"]
    assert text(f"PUT key1 value1 {name}")["status"] == "Ok"
    assert text("GET key1")["result"]["value"] == "value1"
    other = Text(port)
    assert other("GET key1")["status"] == "Error"
    refused = other(f"PUT key1 theirs {name}")
    assert (refused["status"], refused["code"]) == ("Error", "NOTX")
    assert text(f"COMMIT {name}") == {"status": "Ok", "result": "Transaction committed"}
    assert other("GET key1")["result"]["value"] == "value1"
    assert text("START")["status"] == "Ok"
    assert text("DEL key1")["status"] == "Ok"
    assert text("ROLLBACK") == {"status": "Ok", "result": "Transaction rolled back"}
    assert other("GET key1")["status"] == "Ok"
    other.close()


def test_many_lines_in_one_packet_and_lines_in_many(text: Text) -> None:
    text.send(b"PUT a 1\r\nGET a\nbad 'line\n\nGET a\n")
    assert [text.receive()["status"] for _ in range(4)] == ["Ok", "Ok", "Error", "Ok"]
    for byte in b"PUT b two words\n":
        text.send(bytes((byte,)))
    assert text.receive()["result"]["value"] == "two words"


def test_what_other_dialects_put_is_read(serve: Serve) -> None:
    server = serve("--engine", "memory", listen="auto")
    with Link(server.port) as resp:
        resp.ask(b"SET", b"k", b"\xff")
        text = Text(server.port)
        assert text("GET k")["result"]["value"] == {"base64": "/w=="}
        assert text('PUT {"key": "o", "value": {"n": [1, null]}}')["status"] == "Ok"
        assert resp.ask(b"GET", b"o") == b'{"n":[1,null]}'
        assert text("GET o")["result"]["value"] == {"n": [1, None]}
        text.close()


def test_a_browser_hangs_up(text: Text, port: int) -> None:
    text.send(b"PUT a 1\nPOST / HTTP/1.1\r\nHost: x\r\n\r\nPUT b 2\n")
    assert text.receive()["status"] == "Ok"
    assert "HTTP" in text.receive()["message"]
    assert text.ended()
    other = Text(port)
    assert other("GET b")["status"] == "Error"
    other.close()
