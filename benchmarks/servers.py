"""Servers under measurement: started on a free port of the loopback, pinned to one core, and ended by their pid.

Everything that a server writes goes into a temporary directory of its own, which goes with it.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks.machine import family, pinned

HOST: Final = "127.0.0.1"
START_SECONDS_MAX: Final = 600  # a start may have a large journal to read
STOP_SECONDS_MAX: Final = 60
_READY: Final = re.compile(rf"resp://{re.escape(HOST)}:(\d+)")
_LOAD_BATCH: Final = 1000


class BenchmarkError(Exception):
    """The benchmark can't go on; the message says why, for people."""


class Running:
    """A server that accepts connections.

    Attributes:
        pid: Its process.
        port: Where it listens, on the loopback.
        start_seconds: How long it took until it answered PING.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int, start_seconds: float) -> None:
        self._process = process
        self.pid = process.pid
        self.port = port
        self.start_seconds = start_seconds
        self._members: list[int] = []

    def kill(self) -> None:
        """kill -9, of the server alone: its helpers have to notice by themselves."""
        self._members = self._members or family(self.pid)
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Asks it to stop, and insists after a while."""
        self._members = family(self.pid)
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()

    def left_behind(self, seconds: float = 5.0) -> list[int]:
        """The processes of the server that still run some time after its end."""
        deadline = time.monotonic() + seconds
        while (
            alive := [pid for pid in self._members if Path(f"/proc/{pid}").exists()]
        ) and time.monotonic() < deadline:
            time.sleep(0.02)
        return alive


class Contender:
    """A server that can be started, in memory mode or durable, again and again on the same directory."""

    name: str

    def version(self) -> str:
        raise NotImplementedError

    def start(self, mode: str, directory: Path, core: frozenset[int]) -> Running:
        """Starts it.

        Args:
            mode: `memory` or `durable`.
            directory: Holds its data and its log; what an earlier start left there is recovered.
            core: Where it and all its threads and helpers run.
        """
        raise NotImplementedError


class Redis(Contender):
    """redis-server, without persistence or with an append-only file that is synced before each reply.

    Args:
        name: What the tables call it.
        options: More options for `redis-server`.
    """

    def __init__(self, name: str = "redis", options: Sequence[str] = ()) -> None:
        self.name = name
        self.options = list(options)

    def version(self) -> str:
        line = subprocess.run([program("redis-server"), "--version"], check=True, capture_output=True, text=True).stdout
        found = re.search(r"v=(\S+)", line)
        return found[1] if found else "unknown"

    def start(self, mode: str, directory: Path, core: frozenset[int]) -> Running:
        port = free_port()
        command = [program("redis-server"), "--bind", HOST, "--port", str(port), "--dir", str(directory), "--save", ""]
        if mode == "durable":
            # A rewrite of the append-only file in the middle of a run would be charged to redis alone.
            command += ["--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"]
        else:
            command += ["--appendonly", "no"]
        return _launch(self.name, command + self.options, directory, core, port)


class Keyhaus(Contender):
    """keyhaus, of this tree or of another one.

    Args:
        name: What the tables call it.
        python: The interpreter of the environment that it is installed in.
        options: More options for `keyhaus serve`.
    """

    def __init__(self, name: str = "keyhaus", python: str | Path = sys.executable, options: Sequence[str] = ()) -> None:
        self.name = name
        self.python = python
        self.options = list(options)

    def version(self) -> str:
        command = [str(self.python), "-c", "import keyhaus; print(keyhaus.__version__)"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def start(self, mode: str, directory: Path, core: frozenset[int]) -> Running:
        command = [str(self.python), "-c", "from keyhaus.cli.main import main; main()", "serve"]
        command += ["--listen", f"resp://{HOST}:0"]
        command += ["--engine", "memory"] if mode == "memory" else ["--data-dir", str(directory / "data")]
        return _launch(self.name, command + self.options, directory, core, None)


def _launch(name: str, command: list[str], directory: Path, core: frozenset[int], port: int | None) -> Running:
    log = directory / "log"
    began = time.monotonic()
    with log.open("wb") as output, pinned(core):
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=directory
        )
    try:
        while True:
            if port is None and (ready := _READY.search(log.read_text(errors="replace"))):
                port = int(ready[1])
            if port is not None and answers(port):
                return Running(process, port, time.monotonic() - began)
            if process.poll() is not None or time.monotonic() - began > START_SECONDS_MAX:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
                raise BenchmarkError(f"{name} did not start: {' '.join(command)}\n{tail}")
            time.sleep(0.005)
    except BaseException:
        process.kill()
        process.wait()
        raise


def answers(port: int) -> bool:
    """Whether a server answers PING with PONG; one that still loads its data answers something else."""
    try:
        return ask(port, b"*1\r\n$4\r\nPING\r\n").startswith(b"+PONG")
    except OSError:
        return False


def ask(port: int, request: bytes) -> bytes:
    """Sends one request on a connection of its own; the first piece of the answer."""
    with socket.create_connection((HOST, port), timeout=30) as connection:
        connection.sendall(request)
        return connection.recv(4096)


def information(port: int, section: str) -> dict[str, str]:
    """The fields of one section of INFO, whichever the server has."""
    with socket.create_connection((HOST, port), timeout=30) as connection, connection.makefile("rb") as replies:
        connection.sendall(b"*2\r\n$4\r\nINFO\r\n$%d\r\n%b\r\n" % (len(section), section.encode()))
        text = replies.read(int(replies.readline()[1:]))
    return fields_of(text)


def fields_of(text: bytes) -> dict[str, str]:
    """The fields of a reply to INFO."""
    pairs = (line.partition(":") for line in text.decode(errors="replace").splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in pairs if colon}


def key_count(port: int) -> int:
    return int(ask(port, b"*1\r\n$6\r\nDBSIZE\r\n")[1:].split(b"\r\n")[0])


def load(port: int, keys: int, value_bytes: int) -> Iterator[int]:
    """Sets every key that redis-benchmark may ask for; yields how many are done.

    redis-benchmark itself would draw keys at random and leave out more than a third of them.
    """
    value = b"$%d\r\n%b\r\n" % (value_bytes, b"x" * value_bytes)
    with socket.create_connection((HOST, port), timeout=60) as connection:
        for first in range(0, keys, _LOAD_BATCH):
            count = min(_LOAD_BATCH, keys - first)
            connection.sendall(
                b"".join(b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n%b" % (first + n, value) for n in range(count))
            )
            left = count * len(b"+OK\r\n")
            while left:
                piece = connection.recv(min(left, 65536))
                if not piece:
                    raise BenchmarkError("the server closed the connection while keys were loaded")
                if b"-" in piece:
                    raise BenchmarkError(f"a key could not be set: {piece[:200].decode(errors='replace')}")
                left -= len(piece)
            yield first + count


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def program(name: str) -> str:
    """The path of a program. Raises BenchmarkError saying what to install."""
    if found := shutil.which(name):
        return found
    package = {"redis-server": "redis-server", "redis-benchmark": "redis-tools"}.get(name, name)
    raise BenchmarkError(f"{name} is not installed: apt-get install {package}")


@contextlib.contextmanager
def scratch(where: Path | None) -> Iterator[Path]:
    """A temporary directory for one server."""
    with tempfile.TemporaryDirectory(prefix="keyhaus-bench-", dir=where, ignore_cleanup_errors=True) as name:
        yield Path(name)
