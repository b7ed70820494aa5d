"""JSON lines over a socket: on a port of its own and on the one that recognises it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Serve
from tests.support.dialects import JsonClient
from tests.support.load import Link


@pytest.fixture(params=["json", "auto"])
def port(request: pytest.FixtureRequest, ports: dict[str, int]) -> int:
    return ports[request.param]


@pytest.fixture
def client(port: int) -> Iterator[JsonClient]:
    client = JsonClient(port)
    yield client
    client.close()


def test_the_commands_of_the_seed(client: JsonClient) -> None:
    assert client("put", key="mykey", value="myvalue") == {"status": "ok", "message": "Key-value pair stored"}
    assert client("get", key="mykey") == {"status": "ok", "value": "myvalue"}
    stored = client("batch_put", keys=["key1", "key2"], values=["value1", "value2"])
    assert stored == {"status": "ok", "message": "2 key-value pairs stored"}
    data = [["key1", "value1"], ["key2", "value2"], ["mykey", "myvalue"]]
    assert client("get_range", start_key="a", end_key="z") == {"status": "ok", "data": data}
    assert client("get_range", start_key="key1", end_key="key2") == {"status": "ok", "data": data[:2]}
    assert client("delete", key="mykey") == {"status": "ok", "message": "Key deleted"}
    for command in ("get", "delete"):
        assert client(command, key="mykey") == {"status": "error", "message": "Key not found"}
    assert client("ping") == {"status": "ok", "message": "pong"}


def test_ranges_with_a_limit_say_where_to_go_on(client: JsonClient) -> None:
    client("batch_put", keys=list("abcde"), values=list("12345"))
    page = client("get_range", limit=2)
    assert page == {"status": "ok", "data": [["a", "1"], ["b", "2"]], "next": "c"}
    assert client("get_range", start_key=page["next"], limit=3)["data"] == [["c", "3"], ["d", "4"], ["e", "5"]]
    page = client("get_range", reverse=True, limit=2)
    assert page == {"status": "ok", "data": [["e", "5"], ["d", "4"]], "next": "c"}
    assert client("get_range", end_key=page["next"], reverse=True) == {
        "status": "ok",
        "data": [["c", "3"], ["b", "2"], ["a", "1"]],
    }


def test_a_batch_is_stored_whole_or_not_at_all(client: JsonClient) -> None:
    assert client("batch_put", keys=["a", "b"], values=["1"])["status"] == "error"
    assert client("batch_put", keys=["a", 5], values=["1", "2"])["status"] == "error"
    assert client("batch_put", keys=["a", "b" * 70_000], values=["1", "2"])["code"] == "LIMIT"
    assert client("get_range") == {"status": "ok", "data": []}


def test_transactions(client: JsonClient, port: int) -> None:
    name = client("begin")["transaction_id"]
    assert client("put", key="k", value="v", transaction_id=name)["status"] == "ok"
    other = JsonClient(port)
    assert other("get", key="k") == {"status": "error", "message": "Key not found"}
    assert other("put", key="k", value="x", transaction_id=name)["code"] == "NOTX"
    assert client("commit", transaction_id=name) == {"status": "ok", "message": "Transaction committed"}
    assert other("get", key="k")["value"] == "v"
    client("begin", mode="optimistic")
    assert client("delete", key="k")["status"] == "ok"
    assert client("rollback") == {"status": "ok", "message": "Transaction rolled back"}
    assert other("get", key="k")["value"] == "v"
    other.close()


def test_any_command_and_an_id_for_each_reply(client: JsonClient) -> None:
    client.send(b'{"command": "INCRBY", "args": ["n", 5], "id": 1}\n{"command": "nonsense", "id": 2}\nbad\n')
    first, second, third = client.receive(), client.receive(), client.receive()
    assert first == {"status": "ok", "result": 5, "id": 1}
    assert (second["status"], second["id"]) == ("error", 2)
    assert third["status"] == "error"
    assert client("mget", args=["n", "none"])["result"] == ["5", None]


def test_what_other_dialects_put_is_read(ports: dict[str, int]) -> None:
    with Link(ports["auto"]) as resp:
        resp.ask(b"SET", b"k", b"\xff")
        client = JsonClient(ports["json"])
        assert client("get", key="k")["value"] == {"base64": "/w=="}
        assert client("put", key="o", value={"n": [1, None]})["status"] == "ok"
        assert resp.ask(b"GET", b"o") == b'{"n":[1,null]}'
        assert client("get", key="o")["value"] == {"n": [1, None]}
        assert client("put", key={"base64": "/w=="}, value="v")["status"] == "ok"
        assert resp.ask(b"GET", b"\xff") == b"v"
        assert client("get_range", start_key={"base64": "/w=="})["data"] == [[{"base64": "/w=="}, "v"]]
        client.close()


def test_a_browser_hangs_up(client: JsonClient, port: int) -> None:
    client.send(
        b'{"command": "ping"}\nPOST / HTTP/1.1\r\nHost: x\r\n\r\n{"command": "put", "key": "b", "value": "2"}\n'
    )
    assert client.receive()["message"] == "pong"
    assert "HTTP" in client.receive()["message"]
    assert client.ended()
    other = JsonClient(port)
    assert other("get", key="b")["message"] == "Key not found"
    other.close()


def test_a_range_over_a_reply_s_limit_is_an_error_that_says_so(serve: Serve) -> None:
    server = serve("--engine", "memory", "--set", "max-reply-bytes=2mb", listen="json")
    client = JsonClient(server.port)
    for number in range(30):
        client("put", key=f"{number:02}", value="x" * 100_000)
    refused = client("get_range")
    assert (refused["status"], refused["code"]) == ("error", "LIMIT")
    assert "max-reply-bytes" in refused["message"]
    assert client("get_range", limit=5)["next"] == "05"
    client.close()
