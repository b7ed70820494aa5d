"""Frames over a socket: on a port of their own and on the one that recognises them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Serve
from tests.support.dialects import FrameClient
from tests.support.load import Link

VALUES: list[Any] = [
    *["bar", "", "é", b"\xff", b"plain", None, True, 5, -(1 << 40), 1 << 70, 0.5, float("inf")],
    *[[1, [2, "x"]], (1, ("a",)), {"name": "Alice", "age": 30}, {1: "a", (2,): "b"}, {"set": {1, 2}}],
    *[frozenset({"a"}), set(), [], {}, (), [None, b"x"]],
]
KEYS: list[Any] = ["foo", b"\xff\x00", None, 7, -3, 0.5, (1, "a", (None,)), frozenset({1, "b"}), 1 << 100]


@pytest.fixture(params=["frame", "auto"])
def port(request: pytest.FixtureRequest, ports: dict[str, int]) -> int:
    return ports[request.param]


@pytest.fixture(params=[0, 2, 4, 5, "messagepack"])
def client(request: pytest.FixtureRequest, port: int) -> Iterator[FrameClient]:
    packed = request.param == "messagepack"
    client = FrameClient(port, packed=packed, protocol=4 if packed else request.param)
    yield client
    client.close()


def test_the_commands_of_the_seed(client: FrameClient) -> None:
    assert client("SET", key="foo", value="bar") == "OK"
    assert client("GET", key="foo") == "bar"
    assert client("EXISTS", key="foo") is True
    assert client("DELETE", key="foo") == "OK"
    assert client("DELETE", key="foo") == "NOT_FOUND"
    assert client("GET", key="foo") is None
    assert client("EXISTS", key="foo") is False
    assert client("BULKSET", items=[("a", 1), ("b", 2), ("c", 3)]) == "OK"
    assert sorted(client("KEYS")) == ["a", "b", "c"]
    assert client("INCR", args=["n"]) == 1
    assert client("nonsense") == {"error": "UNKNOWN_COMMAND"}


def test_values_and_keys_come_back_equal_and_of_their_types(client: FrameClient) -> None:
    for value in VALUES:
        assert client("SET", key="k", value=value) == "OK"
        told = client("GET", key="k")
        assert told == value
        assert type(told) is type(value)
    client("DELETE", key="k")
    for number, key in enumerate(KEYS):
        assert client("SET", key=key, value=number) == "OK"
    assert [client("GET", key=key) for key in KEYS] == list(range(len(KEYS)))
    assert set(client("KEYS")) == {*KEYS, b"\xff\x00"}
    assert client("GET", key=7.0) == KEYS.index(7)
    assert client("DBSIZE") == len(KEYS)
    for bad in ([1], {"a": 1}, {1}, float("nan")):
        assert client("SET", key=bad, value=1) == {"error": "INVALID_KEY"}


def test_transactions(client: FrameClient, port: int) -> None:
    name = client("BEGIN")
    assert client("SET", key=(1,), value="mine", transaction_id=name) == "OK"
    other = FrameClient(port)
    assert other("GET", key=(1,)) is None
    assert other("GET", key=(1,), transaction_id=name) == {"error": "NO_TRANSACTION"}
    assert client("COMMIT", transaction_id=name) == "OK"
    assert other("GET", key=(1,)) == "mine"
    client("BEGIN", mode="readonly")
    assert client("SET", key="x", value=1) == {"error": "READ_ONLY"}
    assert client("ROLLBACK") == "OK"
    other.close()


def test_many_frames_in_one_packet_and_one_in_many(client: FrameClient) -> None:
    payload = pickle.dumps({"cmd": "INCR", "args": ["n"]})
    whole = (len(payload).to_bytes(4, "big") + payload) * 3
    plain = FrameClient(client.socket.getpeername()[1])
    plain.send(whole)
    assert [plain.receive() for _ in range(3)] == [1, 2, 3]
    for byte in whole:
        plain.send(bytes((byte,)))
    assert [plain.receive() for _ in range(3)] == [4, 5, 6]
    plain.close()


class _Evil:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_no_pickle_is_executed_and_the_connection_goes_on(ports: dict[str, int], tmp_path: Path) -> None:
    client = FrameClient(ports["frame"])
    canary = tmp_path / "canary"
    for protocol in range(6):
        for hostile in (_Evil(str(canary)), {"cmd": "SET", "key": "k", "value": [_Evil(str(canary))]}):
            client.send_payload(pickle.dumps(hostile, protocol))
            assert client.receive() == {"error": "UNSAFE_PICKLE"}
    for broken in (b"", b"junk", b"\x80\x04", pickle.dumps({"cmd": "KEYS"})[:-1]):
        client.send_payload(broken)
        assert client.receive() == {"error": "BAD_PAYLOAD"}
    client.send_payload(pickle.dumps([1]))
    assert client.receive() == {"error": "BAD_REQUEST"}
    assert not canary.exists()
    assert client("KEYS") == []
    client.close()


def test_a_length_over_the_limit_is_answered_and_closes(serve: Serve) -> None:
    server = serve("--engine", "memory", "--set", "max-request-bytes=1mb", listen="frame")
    client = FrameClient(server.port)
    assert client("SET", key="k", value="x" * 1000) == "OK"
    client.send((2 << 20).to_bytes(4, "big") + b"x" * 1000)
    assert client.receive() == {"error": "LIMIT_EXCEEDED"}
    assert client.ended()
    client.close()
    stranger = FrameClient(server.port)
    stranger.send(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert stranger.receive() == {"error": "LIMIT_EXCEEDED"}
    assert stranger.ended()
    stranger.close()


def test_who_is_one_too_many_is_told_so(serve: Serve) -> None:
    server = serve("--engine", "memory", "--maxclients", "1", listen="frame")
    client = FrameClient(server.port)
    assert client("KEYS") == []
    other = FrameClient(server.port)
    assert other.receive() == {"error": "LIMIT_EXCEEDED"}
    assert other.ended()
    client.close()
    other.close()


def test_what_other_dialects_see_of_it(ports: dict[str, int]) -> None:
    client = FrameClient(ports["frame"])
    with Link(ports["resp"]) as resp:
        client("SET", key="o", value={"set": {2, 1}, "bytes": b"\xff", "nan": float("nan"), 5: None})
        assert resp.ask(b"GET", b"o") == b'{"set":[1,2],"bytes":{"base64":"/w=="},"nan":null,"5":null}'
        assert resp.ask(b"TYPE", b"o") == b"object"
        client("SET", key=b"\xff", value=b"bytes")
        assert resp.ask(b"GET", b"\xff") == b"bytes"
        client("SET", key=(1, 2), value="typed")
        assert sorted(resp.ask(b"KEYS", b"*")) == [b"o", b"\xff"]
        assert resp.ask(b"DBSIZE") == 3
        resp.ask(b"SET", b"k", b"\xfe")
        assert client("GET", key="k") == b"\xfe"
        resp.ask(b"FLUSHDB")
        assert client("KEYS") == []
    client.close()
