"""A whole session is answered as redis-server answers it, byte for byte: MULTI, WATCH, CLIENT REPLY, KILL, pipelined.

Each script is sent in one piece and ends with QUIT, so that silence, order and the closing of the connection are
compared too.
"""

from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Iterator

import pytest

from tests.protocol.test_replies_like_redis import SCRIPTS
from tests.support.processes import HOST, keyhaus_server, redis_server
from tests.support.wire import encoded

SESSIONS = {
    "exec aborts": [
        *("MULTI", "SELECT 99", "CLIENT FOO", "CLIENT SETNAME", "EXEC", "EXEC", "MULTI", "DISCARD x", "EXEC"),
        *(
            "MULTI",
            "MULTI x",
            "EXEC",
            "MULTI",
            "WATCH",
            "EXEC",
            "MULTI",
            "MULTI",
            "WATCH a",
            "EXEC",
            "MULTI",
            "NOTHING",
        ),
        *("PING", "EXEC", "PING"),
    ],
    "exec with an argument ends it": ["MULTI", "EXEC x", "EXEC"],
    "exec runs all": [
        *("MULTI", "SELECT 99", "SELECT 2", "SET a b", "GET a", "INCR a", "CLIENT KILL 1.1.1.1:1", "INFO cluster"),
        *("WAIT 1 0", "CONFIG GET maxmemory", "CLIENT SETNAME x", "EXEC", "CLIENT GETNAME", "GET a", "SELECT 0"),
    ],
    "watch": [
        *("WATCH k", "SET k 1", "MULTI", "GET k", "EXEC", "WATCH k", "MULTI", "UNWATCH", "EXEC", "WATCH k", "UNWATCH"),
        *("SET k 2", "MULTI", "GET k", "EXEC", "WATCH k", "FLUSHALL", "MULTI", "EXEC", "WATCH k", "DEL k", "MULTI"),
        *("EXEC", "WATCH k", "SWAPDB 0 1", "MULTI", "EXEC", "SET k 1", "WATCH k", "SWAPDB 0 1", "MULTI", "EXEC"),
        *("WATCH k", "DISCARD", "MULTI", "DISCARD", "SET k 3", "MULTI", "EXEC"),
    ],
    "quit ends multi": ["MULTI", "PING"],
    "reset": [
        "SELECT 3",
        "CLIENT SETNAME a",
        "HELLO 3",
        "MULTI",
        "RESET",
        "CLIENT GETNAME",
        "EXEC",
        "GET none",
        "PING",
    ],
    "client reply": [
        *("CLIENT REPLY OFF", "PING", "CLIENT REPLY SKIP", "CLIENT REPLY ON", "PING", "CLIENT REPLY SKIP", "GET"),
        *("PING", "CLIENT REPLY SKIP", "ECHO a", "ECHO b", "CLIENT REPLY OFF", "NOTHING", "RESET", "PING"),
    ],
    "client kill me": ["PING", "CLIENT KILL TYPE normal SKIPME no", "PING"],
    "wait keeps the order": ["WAIT 1 30", "PING", "SET k v", "WAIT 0 0", "GET k"],
}
_ID = re.compile(rb"\$2\r\nid\r\n:\d+")


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_server(tmp_path_factory.mktemp("redis"), "--appendfsync", "always") as port:
        yield port


@pytest.fixture(scope="module", params=["rocksdb", "memory"])
def keyhaus_port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    directory = tmp_path_factory.mktemp("keyhaus")
    with keyhaus_server(directory, "--engine", request.param, "--data-dir", str(directory)) as server:
        yield server.ports["resp"]


def conversation(port: int, lines: list[str]) -> bytes:
    """All that a server says to these lines, and QUIT, until it hangs up."""
    requests = [[word.encode() for word in shlex.split(line)] for line in [*lines, "QUIT"]]
    said = b""
    with socket.create_connection((HOST, port), 10) as connection:
        connection.sendall(b"".join(map(encoded, requests)))
        while data := connection.recv(65536):
            said += data
    return _ID.sub(b"id", said)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("name", [*SESSIONS, *SCRIPTS])
def test_a_session_is_answered_as_redis_answers_it(
    name: str, protocol: int, redis_port: int, keyhaus_port: int
) -> None:
    script = SESSIONS.get(name) or [line for line in SCRIPTS[name] if line != "CLIENT ID"]
    lines = [f"HELLO {protocol}", "FLUSHALL", *script]
    assert conversation(keyhaus_port, lines) == conversation(redis_port, lines)
