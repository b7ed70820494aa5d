"""Clients that mean harm, or know no better, cost bounded memory and hold nobody up."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import hiredis
import pytest

from tests.e2e.conftest import Serve
from tests.support.load import Link
from tests.support.processes import HOST, RunningKeyhaus, children
from tests.support.wire import encoded

MIB: Final = 1 << 20
SECONDS: Final = 30
SMALL: Final = ("--journal-segment-bytes", "4mb")


def memory(server: RunningKeyhaus, name: str) -> int:
    status = Path(f"/proc/{server.pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(name))


def resident(server: RunningKeyhaus) -> int:
    """The bytes of memory that the process has now."""
    return memory(server, "VmRSS:")


def peak(server: RunningKeyhaus) -> int:
    """The most that it ever had."""
    return memory(server, "VmHWM:")


def worked_seconds(server: RunningKeyhaus) -> float:
    """How long the processor has worked for a server."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Others:
    """Somebody who has nothing to do with it, and must be served meanwhile."""

    def __init__(self, server: RunningKeyhaus) -> None:
        self.server = server
        self.link = Link(server.port)
        assert self.link.ask(b"SET", b"others", b"value") == b"OK"
        self.before = resident(server)

    def are_served(self) -> None:
        for _ in range(5):
            begin = worked_seconds(self.server)
            assert self.link.ask(b"PING") == b"PONG"
            assert self.link.ask(b"GET", b"others") == b"value"
            assert self.link.ask(b"SET", b"others", b"value") == b"OK"
            # Its own time, whatever else the machine does: how long it worked for somebody before it answered these.
            assert worked_seconds(self.server) - begin < 5

    def growth(self) -> int:
        return peak(self.server) - self.before

    def wait_for_clients(self, count: int) -> None:
        deadline = time.monotonic() + SECONDS
        while b"connected_clients:%d\r\n" % count not in self.link.ask(b"INFO", b"clients"):
            assert time.monotonic() < deadline, "the server keeps connections that are gone"


@pytest.fixture(params=["rocksdb", "memory"])
def server(request: pytest.FixtureRequest, serve: Serve) -> RunningKeyhaus:
    options = SMALL if request.param == "rocksdb" else ("--engine", "memory")
    return serve(*options, "--max-transaction-bytes", "4mb", "--set", "max-request-bytes=8mb")


@pytest.fixture
def others(server: RunningKeyhaus) -> Iterator[Others]:
    others = Others(server)
    yield others
    others.are_served()
    others.wait_for_clients(1)
    others.link.close()


def send_while_it_is_taken(connection: socket.socket, data: bytes, seconds: float) -> int:
    """Sends the same again and again until the server has taken nothing for a while; how many bytes it took."""
    connection.settimeout(seconds)
    taken = 0
    try:
        while True:
            taken += connection.send(data)
    except TimeoutError:
        return taken


def test_one_who_never_reads(server: RunningKeyhaus, others: Others) -> None:
    """Thousands of answers of a megabyte: they are made as they are read; then the requests wait with the client."""
    assert others.link.ask(b"SET", b"large", bytes(MIB)) == b"OK"
    with socket.create_connection((HOST, server.port), SECONDS) as greedy:
        taken = send_while_it_is_taken(greedy, encoded([b"GET", b"large"]) * 500, 0.5)
        assert taken > 1000
        others.are_served()
        assert others.growth() < 40 * MIB


def test_many_who_never_read(server: RunningKeyhaus, others: Others) -> None:
    assert others.link.ask(b"SET", b"large", bytes(MIB)) == b"OK"
    greedy = [socket.create_connection((HOST, server.port), SECONDS) for _ in range(20)]
    for connection in greedy:
        connection.sendall(encoded([b"GET", b"large"]) * 200)
    others.are_served()
    for connection in greedy:
        connection.close()
    assert others.growth() < 20 * 5 * MIB


def test_one_who_never_reads_small_answers(server: RunningKeyhaus, others: Others) -> None:
    """Requests that are taken must be bounded too: what is not executed is not read."""
    with socket.create_connection((HOST, server.port), SECONDS) as greedy:
        taken = send_while_it_is_taken(greedy, encoded([b"ECHO", b"x" * 1000]) * 100, 0.5)
        others.are_served()
        assert others.growth() < 40 * MIB
        # It is all there once somebody reads.
        greedy.settimeout(SECONDS)
        greedy.shutdown(socket.SHUT_WR)
        got = 0
        while part := greedy.recv(MIB):
            got += len(part)
        whole = taken // len(encoded([b"ECHO", b"x" * 1000]))
        assert got == whole * len(b"$1000\r\n" + b"x" * 1000 + b"\r\n")


def test_one_who_dribbles(server: RunningKeyhaus, others: Others) -> None:
    requests = encoded([b"SET", b"slow", b"v" * 300]) + encoded([b"GET", b"slow"]) + b"PING\r\n"
    with socket.create_connection((HOST, server.port), SECONDS) as slow:
        slow.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(requests)):
            slow.sendall(requests[at : at + 1])
            if at % 50 == 0:
                assert others.link.ask(b"PING") == b"PONG"
        expected = b"+OK\r\n$300\r\n" + b"v" * 300 + b"\r\n+PONG\r\n"
        got = b""
        while len(got) < len(expected):
            got += slow.recv(4096)
        assert got == expected


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"*1000000\r\n", b""),
        (b"*2147483647\r\n", b"-ERR max-arguments exceeded"),
        (b"*99999999999999\r\n", b"-ERR Protocol error: invalid multibulk length"),
        (b"*2\r\n$3\r\nGET\r\n$536870912\r\n", b"-ERR max-request-bytes exceeded"),
        (b"*2\r\n$3\r\nGET\r\n$536870913\r\n", b"-ERR Protocol error: invalid bulk length"),
        (b"*2\r\n$3\r\nGET\r\n$512mb\r\n", b"-ERR Protocol error: invalid bulk length"),
        (b"*2\r\n$3\r\nGET\r\n$-2\r\n", b"-ERR Protocol error: invalid bulk length"),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$8000000\r\n" + b"x" * 1000, b""),
        (b"*1\r\n$70000\r\n", b""),
        (b"x" * 70_000, b"-ERR Protocol error: too big inline request"),
        (b"*" + b"1" * 70_000, b"-ERR Protocol error: too big mbulk count string"),
        (b"*1\r\n$" + b"1" * 70_000, b"-ERR Protocol error: too big bulk count string"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_one_who_announces_more_than_comes(data: bytes, said: bytes, server: RunningKeyhaus, others: Others) -> None:
    with socket.create_connection((HOST, server.port), SECONDS) as boaster:
        boaster.sendall(data)
        others.are_served()
        if said:
            got = b""
            while part := boaster.recv(4096):
                got += part
            assert got.startswith(said)
    assert others.growth() < 20 * MIB, "it set aside what was only announced"


def test_arguments_that_come_without_end(server: RunningKeyhaus, others: Others) -> None:
    """A request of a million empty words is one request; it is refused by what it says, and costs what it is."""
    with socket.create_connection((HOST, server.port), SECONDS) as boaster:
        boaster.sendall(b"*1000000\r\n" + b"$0\r\n\r\n" * 999_999)
        others.are_served()
        boaster.sendall(b"$0\r\n\r\n")
        assert boaster.recv(100).startswith(b"-ERR unknown command")
    assert others.growth() < 60 * MIB


def test_a_transaction_that_grows_without_end(server: RunningKeyhaus, others: Others) -> None:
    with Link(server.port) as link:
        assert link.ask(b"MULTI") == b"OK"
        refused = None
        for number in range(400):
            reply = link.ask(b"SET", b"k:%d" % number, bytes(100_000))
            if isinstance(reply, hiredis.ReplyError):
                refused = refused or number
            else:
                assert refused is None, "it was taken in again"
        assert refused is not None
        assert 30 <= refused <= 45
        others.are_served()
        assert str(link.ask(b"EXEC")).startswith("EXECABORT")
        assert link.ask(b"EXISTS", b"k:0") == 0
        assert link.ask(b"SET", b"k", b"v") == b"OK", "the connection lives on"
    assert others.growth() < 60 * MIB


def test_a_write_that_is_too_large(server: RunningKeyhaus, others: Others) -> None:
    with Link(server.port) as link:
        for _ in range(20):
            reply = link.ask(b"SET", b"k", bytes(5 * MIB))
            assert str(reply).startswith("TXTOOLARGE")
            assert "max-transaction-bytes" in str(reply)
        assert link.ask(b"EXISTS", b"k") == 0
    assert others.growth() < 60 * MIB


@pytest.mark.parametrize(
    "words",
    [[b"SET"], [b"GETRANGE", b"k", b"first"], [b"NOTHING"], [b"INCRBY", b"others"], [b"SET", b"k", b"v", b"XX", b"NX"]],
    ids=lambda words: b" ".join(words).decode(),
)
def test_large_requests_that_fail_are_forgotten(words: list[bytes], server: RunningKeyhaus, others: Others) -> None:
    with Link(server.port) as link:
        for _ in range(30):
            assert isinstance(link.ask(*words, bytes(5 * MIB)), hiredis.ReplyError)
    assert others.growth() < 60 * MIB


def test_large_requests_that_break_off_are_forgotten(server: RunningKeyhaus, others: Others) -> None:
    for _ in range(30):
        with socket.create_connection((HOST, server.port), SECONDS) as connection:
            connection.sendall(b"*3\r\n$3\r\nSET\r\n$5000000\r\n" + bytes(5_000_000) + b"\r\n:1\r\n")
            assert connection.recv(100).startswith(b"-ERR Protocol error: expected '$', got ':'")
    assert others.growth() < 60 * MIB


def test_large_requests_whose_client_leaves_are_forgotten(server: RunningKeyhaus, others: Others) -> None:
    for _ in range(30):
        with socket.create_connection((HOST, server.port), SECONDS) as connection:
            connection.sendall(
                encoded([b"PING"]) + b"*4\r\n$3\r\nSET\r\n$5000000\r\n" + bytes(5_000_000) + b"\r\n$9\r\n"
            )
            assert connection.recv(100) == b"+PONG\r\n"
    others.wait_for_clients(1)
    assert others.growth() < 60 * MIB


def test_those_who_leave_in_the_middle(server: RunningKeyhaus, others: Others) -> None:
    """In the middle of a request, of a transaction, of a reply, or while their command waits for something."""
    assert others.link.ask(b"SET", b"large", bytes(MIB)) == b"OK"
    leavings = [
        b"*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$100\r\nabc",
        encoded([b"MULTI"]) + encoded([b"SET", b"half", b"v"]),
        encoded([b"GET", b"large"]) * 50,
        encoded([b"WAIT", b"1", b"0"]),
        encoded([b"SET", b"whole", b"v"]) + encoded([b"WAIT", b"1", b"0"]) + encoded([b"SET", b"half", b"v"]),
        encoded([b"WATCH", b"others"]),
        encoded([b"CLIENT", b"REPLY", b"OFF"]) + encoded([b"GET", b"large"]) * 50,
        b"PING",
        b"",
    ]
    for number in range(10 * len(leavings)):
        connection = socket.create_connection((HOST, server.port), SECONDS)
        connection.sendall(leavings[number % len(leavings)])
        if number % 3 == 0:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
        elif number % 3 == 1:
            connection.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                connection.recv(1000)
        connection.close()
    others.are_served()
    others.wait_for_clients(1)
    assert others.link.ask(b"EXISTS", b"half") == 0
    assert others.growth() < 80 * MIB


def test_thousands_who_say_nothing(server: RunningKeyhaus, others: Others) -> None:
    idle = [socket.create_connection((HOST, server.port), SECONDS) for _ in range(500)]
    others.wait_for_clients(501)
    others.are_served()
    for connection in idle:
        connection.close()
    others.wait_for_clients(1)
    assert others.growth() < 500 * 40_000


def test_what_a_flush_took_is_given_back(serve: Serve) -> None:
    """The process that writes runs lives on between two flushes, and keeps next to nothing then."""
    server = serve("--set", "memtable-bytes=32mb", "--set", "cache-bytes=0", "--set", "block-cache-bytes=1mb")
    with Link(server.port) as link:
        for number in range(300):
            rows = [word for row in range(500) for word in (b"%d:%d" % (number, row), b"v" * 100)]
            assert link.ask(b"MSET", *rows) == b"OK"
        deadline = time.monotonic() + SECONDS
        while b"flush_running:0\r\n" not in link.ask(b"INFO", b"keyhaus"):
            assert time.monotonic() < deadline, "the flush does not end"
            time.sleep(0.05)
        assert b"flushes:0\r\n" not in link.ask(b"INFO", b"keyhaus")
    (writer,) = (child for child in children(server.pid) if Path(f"/proc/{child}/comm").read_text() == "run-writer\n")
    rollup = Path(f"/proc/{writer}/smaps_rollup").read_text(encoding="ascii")
    assert next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) < 35 << 10
