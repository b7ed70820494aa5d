"""Servers as processes of their own, on loopback, in directories of their own, ended with the test that started them.

A server is ready when it says so on standard output; nothing sleeps and guesses. Each is ended by its own process id.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.support.programs import require_program

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 15.0
HOST: Final = "127.0.0.1"
SOURCE: Final = Path(__file__).parents[2] / "src"

_READY_ADDRESS = re.compile(r"(\w[\w+]*)://([^\s:]+):(\d+)")


class ServerFailed(AssertionError):
    """A server did not start, or ended when it should not have; the message holds what it printed."""


class ServerProcess:
    """A running server.

    Attributes:
        process: The process.
        lines: What it printed so far, standard error among it.
    """

    def __init__(self, command: Sequence[str], directory: Path, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                with self._changed:
                    self.lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for_line(self, pattern: str, seconds: float = START_SECONDS) -> str:
        """The first line that matches. Raises ServerFailed where none comes."""
        expression = re.compile(pattern)

        def found() -> bool:
            return self._ended or any(map(expression.search, self.lines))

        with self._changed:
            self._changed.wait_for(found, seconds)
            for line in self.lines:
                if expression.search(line):
                    return line
        printed = "\n".join(self.lines)
        raise ServerFailed(f"{self.process.args!r} never printed {pattern!r}:\n{printed}")

    def stop(self) -> int:
        """Ends it as its operator would, by force where that takes too long; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        self._reader.join(STOP_SECONDS)
        return self.process.returncode

    def kill(self) -> None:
        """Ends it as a crash would."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)


def free_port() -> int:
    """A port of loopback that nobody listens on right now."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def redis_server(directory: Path, *options: str) -> Iterator[int]:
    """A redis-server that keeps nothing on disk; its port. Skips the test, or in CI fails it, where there is none."""
    program = require_program("redis-server")
    settings = shlex.split("--save '' --appendonly no --enable-debug-command no --daemonize no --logfile ''")
    for attempt in range(5):
        port = free_port()
        command = (program, "--bind", HOST, "--port", str(port), *settings, *options, "--dir", str(directory))
        server = ServerProcess(command, directory)
        try:
            server.wait_for_line("Ready to accept connections|Address already in use")
            if any("Address already in use" in line for line in server.lines) and attempt < 4:
                continue  # somebody else was faster to take the port
            yield port
            return
        finally:
            server.stop()


@contextlib.contextmanager
def keyhaus_server(directory: Path, *options: str, listen: str = "resp") -> Iterator[RunningKeyhaus]:
    """A `keyhaus serve` on a free port of loopback."""
    command = (sys.executable, "-m", "keyhaus", "serve", "--listen", f"{listen}://{HOST}:0", *options)
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", ""))))
    running = RunningKeyhaus(command, directory, {"PYTHONPATH": path})
    try:
        yield running
    finally:
        running.stop()


class RunningKeyhaus(ServerProcess):
    """A keyhaus server that is ready.

    Attributes:
        ports: The port of each dialect, as the ready line gives it.
    """

    def __init__(self, command: Sequence[str], directory: Path, environment: dict[str, str]) -> None:
        super().__init__(command, directory, environment)
        try:
            line = self.wait_for_line(r"^ready |\"ready\"")
        except ServerFailed:
            self.stop()
            raise
        self.ports = {dialect: int(port) for dialect, _, port in _READY_ADDRESS.findall(line)}

    @property
    def port(self) -> int:
        """The only port, where there is one."""
        (port,) = self.ports.values()
        return port


def ended(process: int) -> bool:
    """Whether a process is gone, or only waits to be asked for its status."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


def children(process: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [
            int(child)
            for task in Path(f"/proc/{process}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    return []
