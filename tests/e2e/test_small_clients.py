"""The small clients of JSON lines and frames: typed values, errors as classes, and nothing that is sent twice."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import keyhaus
from keyhaus.client import frame, jsonl
from keyhaus.core.errors import LimitExceeded
from tests.support.processes import HOST, free_port


class Cutter:
    """Stands before a server; cuts a request with `word` off once, before or after it was executed."""

    def __init__(self, upstream: int, word: bytes, *, executed: bool) -> None:
        self._upstream, self._word, self._executed = upstream, word, executed
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client, socket.create_connection((HOST, self._upstream)) as server:
                    self._serve(client, server)

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        while request := client.recv(65536):
            cut = bool(self._word) and self._word in request
            if cut:
                self._word = b""
            if not cut or self._executed:
                server.sendall(request)
                reply = server.recv(65536)
            if cut:
                return
            client.sendall(reply)

    def __enter__(self) -> Cutter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(30)


@pytest.fixture
def lines(ports: dict[str, int]) -> Iterator[jsonl.KVClient]:
    with jsonl.KVClient(HOST, ports["json"]) as client:
        yield client


@pytest.fixture
def frames(ports: dict[str, int]) -> Iterator[frame.KVClient]:
    with frame.KVClient(HOST, ports["frame"]) as client:
        yield client


def test_json_lines(lines: jsonl.KVClient) -> None:
    assert lines.ping()
    assert lines.get("a") is None
    assert lines.delete("a") is False
    lines.put("a", {"n": [1, None, "é"]})
    assert lines.get("a") == {"n": [1, None, "é"]}
    assert lines.delete("a") is True
    lines.put("b", [b"\xff", (1,)])
    assert lines.get("b") == [b"\xff", [1]]
    for unsaid in ({1}, float("nan")):
        with pytest.raises((TypeError, ValueError)):
            lines.put("b", unsaid)
    assert lines.delete("b") is True
    lines.batch_put([f"k{number:05}" for number in range(2500)], list(range(2500)))
    rows = lines.get_range("k00001", "k02498")
    assert rows == [(f"k{number:05}", number) for number in range(1, 2499)]
    assert lines.get_range() == lines.get_range("", "z")
    with pytest.raises(keyhaus.UserError, match="1 keys and 2 values"):
        lines.batch_put(["x"], [1, 2])
    with pytest.raises(LimitExceeded, match="max-key-bytes"):
        lines.put("k" * 70_000, 1)
    assert lines.request("dbsize")["result"] == 2500


def test_frames(frames: frame.KVClient) -> None:
    values: list[Any] = [
        "x",
        b"\xff",
        None,
        (1, (2,)),
        {"a", 1},
        frozenset(),
        {1: [b"x"]},
        {"error": "CONFLICT"},
        1 << 90,
    ]
    for number, value in enumerate(values):
        assert frames.set((number, "k"), value) == "OK"
        told = frames.get((number, "k"))
        assert told == value
        assert type(told) is type(value)
    assert sorted(frames.keys()) == [(number, "k") for number in range(len(values))]
    assert frames.exists((0, "k")) is True
    assert frames.delete((0, "k")) == "OK"
    assert frames.delete((0, "k")) == "NOT_FOUND"
    assert frames.bulk_set(iter([("a", 1), ("b", 2)])) == "OK"
    assert frames.request("INCR", args=["n"]) == 1
    with pytest.raises(frame.ServerError, match="INVALID_KEY: a key is None") as refused:
        frames.get([1])
    assert refused.value.code == "INVALID_KEY"
    with pytest.raises(frame.ServerError) as unknown:
        frames.request("NONSENSE")
    assert unknown.value.code == "UNKNOWN_COMMAND"
    with pytest.raises(keyhaus.UserError):
        frames.set("k", object())


@pytest.mark.parametrize("executed", [False, True], ids=["cut before", "cut after"])
def test_a_write_is_never_sent_twice_and_says_so(ports: dict[str, int], executed: bool) -> None:
    with Cutter(ports["frame"], b"INCR", executed=executed) as between, frame.KVClient(HOST, between.port) as client:
        client.set("n", "0")
        with pytest.raises(keyhaus.OutcomeUnknown):
            client.request("INCR", args=["n"])
        assert client.get("n") == ("1" if executed else "0")
    with Cutter(ports["json"], b"INCR", executed=executed) as between, jsonl.KVClient(HOST, between.port) as lines:
        lines.put("m", "0")
        with pytest.raises(keyhaus.OutcomeUnknown):
            lines.request("INCR", args=["m"])
        with pytest.raises(keyhaus.ConnectionLost):
            lines.get("m")
        lines.connect()
        assert lines.get("m") == ("1" if executed else "0")


def test_a_read_is_sent_again(ports: dict[str, int]) -> None:
    with Cutter(ports["frame"], b"GET", executed=True) as between, frame.KVClient(HOST, between.port) as client:
        client.set("k", "v")
        assert client.get("k") == "v"


def test_what_a_lost_connection_had_begun_is_not_left_without_a_word(ports: dict[str, int]) -> None:
    with Cutter(ports["frame"], b"cut me", executed=False) as between, frame.KVClient(HOST, between.port) as client:
        client.request("BEGIN")
        client.set("k", "inside")
        with pytest.raises(keyhaus.OutcomeUnknown):
            client.set("cut me", "inside")
        for _ in range(2):
            with pytest.raises(keyhaus.ConnectionLost, match="close"):
                client.set("k", "outside")
        client.close()
        assert client.get("k") is None


def test_nobody_there() -> None:
    for client in (jsonl.KVClient(HOST, free_port()), frame.KVClient(HOST, free_port(), max_retries=1)):
        with pytest.raises(keyhaus.ConnectionLost, match=f"nobody answers at {HOST}"):
            client.get("k")


def test_another_dialect_there(ports: dict[str, int]) -> None:
    with jsonl.KVClient(HOST, ports["text"], timeout=10) as lines, pytest.raises(ConnectionError):
        lines.get("k")
    with frame.KVClient(HOST, ports["text"], timeout=0.5, max_retries=0) as frames, pytest.raises(ConnectionError):
        frames.set("k", "v")
