"""Text over a socket: on a port of its own and on the one that recognises it, with transactions and what others put."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Serve
from tests.support.dialects import JsonClient, TextClient
from tests.support.load import Link


@pytest.fixture(params=["text", "auto"])
def port(request: pytest.FixtureRequest, ports: dict[str, int]) -> int:
    return ports[request.param]


@pytest.fixture
def text(port: int) -> Iterator[TextClient]:
    client = TextClient(port)
    yield client
    client.close()


def test_the_commands_of_the_seeds(text: TextClient) -> None:
    assert text("PUT key1 value1") == {"status": "Ok", "result": {"key": "key1", "value": "value1"}}
    assert text("GET key1") == {"status": "Ok", "result": {"key": "key1", "value": "value1"}}
    assert text("DEL key1") == {"status": "Ok", "result": {"key": "key1"}}
    missing = text("GET key1")
    assert (missing["status"], missing["message"]) == ("Error", "Key not found: key1")
    assert text("nonsense")["status"] == "Error"
    assert text("INCR n") == {"status": "Ok", "result": 1}


def test_a_transaction_by_name_and_as_the_current_one(text: TextClient, port: int) -> None:
    begun = text("BEGIN")
    assert (begun["status"], begun["result"]) == ("Ok", "Transaction started")
    name = begun["transaction_id"]
    assert text(f"PUT key1 value1 {name}")["status"] == "Ok"
    assert text("GET key1")["result"]["value"] == "value1"
    other = TextClient(port)
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


def test_many_lines_in_one_packet_and_lines_in_many(text: TextClient) -> None:
    text.send(b"PUT a 1\r\nGET a\nbad 'line\n\nGET a\n")
    assert [text.receive()["status"] for _ in range(4)] == ["Ok", "Ok", "Error", "Ok"]
    for byte in b"PUT b two words\n":
        text.send(bytes((byte,)))
    assert text.receive()["result"]["value"] == "two words"


def test_what_other_dialects_put_is_read(ports: dict[str, int]) -> None:
    with Link(ports["auto"]) as resp:
        resp.ask(b"SET", b"k", b"\xff")
        text = TextClient(ports["text"])
        assert text("GET k")["result"]["value"] == {"base64": "/w=="}
        assert text('PUT {"key": "o", "value": {"n": [1, null]}}')["status"] == "Ok"
        assert resp.ask(b"GET", b"o") == b'{"n":[1,null]}'
        assert text("GET o")["result"]["value"] == {"n": [1, None]}
        text.close()


def test_a_browser_hangs_up(text: TextClient, port: int) -> None:
    text.send(b"PUT a 1\nPOST / HTTP/1.1\r\nHost: x\r\n\r\nPUT b 2\n")
    assert text.receive()["status"] == "Ok"
    assert "HTTP" in text.receive()["message"]
    assert text.ended()
    other = TextClient(port)
    assert other("GET b")["status"] == "Error"
    other.close()


def test_a_client_that_ends_no_line_is_answered_where_that_was_asked_for(serve: Serve) -> None:
    server = serve("--engine", "memory", "--text-unterminated", listen="text")
    text = TextClient(server.port)
    for command in (b"PUT key1 value1", b"GET key1", b"START\nDEL key1\nCOMMIT"):
        text.send(command)
        answers = [text.receive() for _ in command.split(b"\n")]
        assert [answer["status"] for answer in answers] == ["Ok"] * len(answers)
    # A long line has to have an end: a pause in it is none, not one in which another client's line was complete.
    text.send(b"PUT long " + b"x" * 1100)
    other = TextClient(server.port)
    other.send(b"GET long")
    assert other.receive()["status"] == "Error"
    other.close()
    text.send(b"y\n")
    assert text.receive()["result"]["value"] == "x" * 1100 + "y"
    text.send(b"GET key1")
    text.socket.shutdown(socket.SHUT_WR)
    assert text.receive()["message"] == "Key not found: key1"
    assert text.ended()
    text.close()


def test_ports_of_other_dialects_are_as_ever_beside_it(serve: Serve) -> None:
    server = serve("--engine", "memory", "--listen", "json://127.0.0.1:0", "--text-unterminated", listen="text")
    client = JsonClient(server.ports["json"])
    assert client("put", key="k", value="v")["status"] == "ok"
    client.close()


def test_an_unterminated_line_is_no_command_elsewhere(port: int) -> None:
    text = TextClient(port)
    text.send(b"PUT key1 value1")
    other = TextClient(port)
    assert other("GET key1")["status"] == "Error"
    text.send(b" and more\n")
    assert text.receive()["result"]["value"] == "value1 and more"
    text.close()
    other.close()
