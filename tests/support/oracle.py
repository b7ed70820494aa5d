"""A real redis-server to compare with: it listens on a socket file, so it needs no port."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hiredis

from tests.support.programs import require_program

START_SECONDS_MAX = 10.0
REPLY_SECONDS_MAX = 10.0


class Oracle:
    """One connection to it."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(REPLY_SECONDS_MAX)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise

    def ask(self, *words: bytes | str) -> bytes:
        """The bytes of a command's reply."""
        return self._ask(words)[0]

    def call(self, *words: bytes | str) -> Any:
        """A command's reply as Python data."""
        return self._ask(words)[1]

    def _ask(self, words: tuple[bytes | str, ...]) -> tuple[bytes, Any]:
        parts = [word if isinstance(word, bytes) else word.encode() for word in words]
        request = b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
        self._socket.sendall(b"*%d\r\n%b" % (len(parts), request))
        # hiredis knows where a reply ends; what it makes of it is only for `call`.
        reader = hiredis.Reader()
        received = b""
        while True:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError("redis-server closed the connection")
            received += data
            reader.feed(data)
            reply = reader.gets()
            if reply is not False or received == b"#f\r\n":
                return received, reply

    def close(self) -> None:
        self._socket.close()


class RedisServer:
    """A running redis-server."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connections: list[Oracle] = []

    def connect(self, protocol: int = 2) -> Oracle:
        oracle = Oracle(self._path)
        self._connections.append(oracle)
        if protocol != 2:
            oracle.ask("HELLO", str(protocol))
        return oracle

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


@contextlib.contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """Starts a redis-server that keeps nothing, and ends it; without one installed the test is skipped."""
    program = require_program("redis-server")
    with tempfile.TemporaryDirectory(prefix="oracle-") as directory:
        path = Path(directory) / "socket"
        command = [program, "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", directory, *options]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                _await_socket(path, process)
                server = RedisServer(path)
                yield server
                server.close()
            finally:
                process.terminate()
                process.wait()


def _await_socket(path: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            Oracle(path).close()
            return
        time.sleep(0.01)
    raise RuntimeError(f"redis-server did not start within {START_SECONDS_MAX} s")
