"""The text dialect's client, against servers that cut their replies, keep silent, hang up or speak something else."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from keyhaus.client.errors import ConnectionLost, OutcomeUnknown
from keyhaus.client.text import Client
from tests.support.processes import HOST, free_port

OK = b'{"status": "Ok", "result": "\xc3\xa4\\n"}\n'


class Stub:
    """A server of one connection that does what a test says.

    Attributes:
        lines: What it was sent.
    """

    def __init__(self, answer: Callable[[socket.socket, bytes], None]) -> None:
        self.lines: list[bytes] = []
        self._answer = answer
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            peer, _ = self._listener.accept()
            with peer, peer.makefile("rb") as file:
                for line in file:
                    self.lines.append(line)
                    self._answer(peer, line)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@contextlib.contextmanager
def stub(answer: Callable[[socket.socket, bytes], None]) -> Iterator[Stub]:
    server = Stub(answer)
    try:
        yield server
    finally:
        server.close()


def _say(*pieces: bytes) -> Callable[[socket.socket, bytes], None]:
    def answer(peer: socket.socket, line: bytes) -> None:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            peer.sendall(piece)

    return answer


def test_a_reply_is_one_line_however_it_is_cut() -> None:
    gate = threading.Semaphore(0)

    def answer(peer: socket.socket, line: bytes) -> None:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in OK:
            peer.sendall(bytes((byte,)))
            gate.acquire(timeout=10)

    with stub(answer) as server, Client(HOST, server.port) as client:
        received: list[int] = []
        opened = client._stream._socket
        assert opened is not None

        class Slow:
            """The socket, told apart: each packet is seen before the next one is sent."""

            def __getattr__(self, name: str) -> object:
                return getattr(opened, name)

            def recv(self, size: int) -> bytes:
                data = opened.recv(size)
                received.append(len(data))
                gate.release()
                return data

        client._stream._socket = Slow()  # type: ignore[assignment]
        assert client.send_command("GET a") == {"status": "Ok", "result": "ä\n"}
        assert received == [1] * len(OK)
        assert client.send_command("GET b")["status"] == "Ok"
    assert server.lines == [b"GET a\n", b"GET b\n"]


@pytest.mark.parametrize("command", ["PUT a 1\nPUT b 2", "PUT a 1\n", "PUT a 1\r", "", "  \t", "PUT a \ud800"])
def test_what_is_not_one_line_is_refused_and_nothing_is_sent(command: str) -> None:
    with stub(_say(OK)) as server, Client(HOST, server.port) as client:
        with pytest.raises(ValueError):
            client.send_command(command)
        assert client.send_command("PING")["status"] == "Ok"
    assert server.lines == [b"PING\n"]


def test_without_a_connection_it_says_so() -> None:
    client = Client()
    assert (client.host, client.port) == ("127.0.0.1", 8080)
    with pytest.raises(ConnectionError, match=r"not connected: call connect\(\) first"):
        client.send_command("GET a")
    client.disconnect()


def test_nobody_there_is_said_with_the_place() -> None:
    port = free_port()
    with pytest.raises(ConnectionError, match=f"nobody answers at {HOST}:{port}: Connection refused"):
        Client(HOST, port).connect()
    with pytest.raises(ConnectionError, match="nobody answers at"):
        Client(HOST, 70_000).connect()


def test_a_server_that_hangs_up_amid_a_reply_leaves_it_open_what_happened() -> None:
    def answer(peer: socket.socket, line: bytes) -> None:
        peer.sendall(OK[:7])
        peer.shutdown(socket.SHUT_RDWR)

    with stub(answer) as server:
        client = Client(HOST, server.port)
        client.connect()
        with pytest.raises(OutcomeUnknown, match="^the server closed the connection") as lost:
            client.send_command("INCR n")
        assert isinstance(lost.value, ConnectionError) and not lost.value.retryable
        assert not client.connected
        with pytest.raises(ConnectionLost, match="not connected"):
            client.send_command("GET n")


def test_a_late_reply_is_never_the_next_ones() -> None:
    with stub(lambda peer, line: None) as server:
        client = Client(HOST, server.port, timeout=0.05)
        client.connect()
        with pytest.raises(ConnectionError, match=r"no reply came within 0\.05 seconds"):
            client.send_command("GET a")
        assert not client.connected


@pytest.mark.parametrize("reply", [b"+OK\r\n", b"[1]\n", b"{}\n", b"\xff\n", b"[" * 100_000 + b"\n"])
def test_what_is_no_reply_of_the_dialect_closes_the_connection(reply: bytes) -> None:
    with stub(_say(reply)) as server:
        client = Client(HOST, server.port)
        client.connect()
        with pytest.raises(ConnectionError, match="^what answers at .* does not speak the text dialect"):
            client.send_command("GET a")
        assert not client.connected


def test_more_than_was_asked_for_is_noticed() -> None:
    with stub(_say(OK + OK)) as server, Client(HOST, server.port) as client:
        assert client.send_command("GET a")["status"] == "Ok"
        with pytest.raises(ConnectionLost, match="more than it was asked"):
            client.send_command("GET b")
    assert server.lines == [b"GET a\n"]


def test_connecting_and_disconnecting_again_is_no_error() -> None:
    with stub(_say(OK)) as server:
        client = Client(HOST, server.port)
        client.connect()
        client.connect()
        assert client.send_command("PING") == {"status": "Ok", "result": "ä\n"}
        client.disconnect()
        client.disconnect()
        assert not client.connected
