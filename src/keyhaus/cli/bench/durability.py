"""What a server keeps that is killed: it is started, written to, killed with SIGKILL, started again and read.

Every write that was confirmed has to be there, with the value that was written last, or the one whose confirmation was
still on its way.
"""

from __future__ import annotations

import contextlib
import random
import shlex
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keyhaus.cli import child
from keyhaus.cli.bench.wire import Wire

HOST: Final = "127.0.0.1"
START_SECONDS: Final = 60.0
_WRITERS: Final = 8
_KEYS_OF_ONE: Final = 50
_RUN_SECONDS: Final = (0.2, 1.0)
_TIMEOUT_SECONDS: Final = 30.0
_RETRY_SECONDS: Final = 0.02


class StartFailed(OSError):
    """A server did not come up; the message has what it said."""


@dataclass
class Kept:
    """What became of confirmed writes.

    Attributes:
        kills: How often the server was killed.
        confirmed: How many writes it had confirmed.
        checked: How many keys were read afterwards.
        lost: Of those, how many were not what had been confirmed.
    """

    kills: int = 0
    confirmed: int = 0
    checked: int = 0
    lost: int = 0

    @property
    def rate(self) -> float:
        """The share of the keys that were as confirmed, in percent."""
        return 100.0 * (self.checked - self.lost) / self.checked if self.checked else 100.0


def free_port() -> int:
    """A port of the loopback that nobody listens on right now."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def own_command(dialect: str) -> str:
    """What starts a keyhaus of this installation that speaks a dialect."""
    own = "frame" if dialect in ("pickle", "messagepack") else dialect
    return shlex.join(child.SERVE) + f" --data-dir {{dir}} --listen {own}://{HOST}:{{port}}"


@contextlib.contextmanager
def server(command: str, directory: Path, wire: Wire) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Runs a server, `{port}` and `{dir}` of its command filled in, until the block ends. Raises StartFailed."""
    port = free_port()
    data = directory / "data"
    data.mkdir(exist_ok=True)
    words = [word.format(port=port, dir=data) for word in shlex.split(command)]
    with (directory / "server.log").open("ab") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory)
    try:
        _wait_for(process, port, directory, words, wire)
        yield process, port
    finally:
        child.end(process)


def _wait_for(process: subprocess.Popen[bytes], port: int, directory: Path, words: list[str], wire: Wire) -> None:
    """Waits until it takes a write: redis-server listens while it still loads its data."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), _Link(wire, port) as link:
            if link.ask(wire.set("bench:ready", "yes")) is not None:
                return
        time.sleep(_RETRY_SECONDS)
    said = (directory / "server.log").read_text(errors="replace")[-2000:]
    raise StartFailed(f"{shlex.join(words)} did not listen on port {port}: {said.strip() or 'it said nothing'}")


def kill_cycles(command: str, wire: Wire, cycles: int, seed: int, done: Callable[[Kept], None]) -> Kept:
    """Kills a server again and again while it is written to, and looks what it has kept.

    Args:
        command: What starts it, with `{port}` and `{dir}`.
        wire: The dialect to write in.
        cycles: How often.
        seed: Of when it is killed.
        done: Called after each kill.

    Raises:
        StartFailed: The server does not start, or not again.
    """
    choice = random.Random(seed)
    kept = Kept()
    writers = [_Writer(wire, number) for number in range(_WRITERS)]
    with tempfile.TemporaryDirectory(prefix="keyhaus-bench-") as name:
        directory = Path(name)
        for _ in range(cycles):
            with server(command, directory, wire) as (process, port):
                _check(writers, port, kept)
                threads = [threading.Thread(target=writer.run, args=(port,), daemon=True) for writer in writers]
                for thread in threads:
                    thread.start()
                time.sleep(choice.uniform(*_RUN_SECONDS))
                process.kill()
                process.wait()
                for thread in threads:
                    thread.join()
            kept.kills += 1
            kept.confirmed = sum(writer.confirmed_writes for writer in writers)
            done(kept)
        with server(command, directory, wire) as (_, port):
            _check(writers, port, kept)
    return kept


class _Writer:
    """One connection after the other, each until the server dies; its keys are its own."""

    def __init__(self, wire: Wire, number: int) -> None:
        self.wire = wire
        self._prefix = f"bench:{number}:"
        self._next = 0
        self.confirmed: dict[str, str] = {}
        self.possible: dict[str, str] = {}  # sent, and not confirmed
        self.confirmed_writes = 0

    def run(self, port: int) -> None:
        with contextlib.suppress(OSError), _Link(self.wire, port) as link:
            while True:
                key, value = f"{self._prefix}{self._next % _KEYS_OF_ONE}", f"value-{self._next}"
                self._next += 1
                self.possible[key] = value
                if link.ask(self.wire.set(key, value)) is None:
                    return
                self.confirmed[key] = value
                del self.possible[key]
                self.confirmed_writes += 1


def _check(writers: list[_Writer], port: int, kept: Kept) -> None:
    for writer in writers:
        with _Link(writer.wire, port) as link:
            for key, value in list(writer.confirmed.items()):
                reply = link.ask(writer.wire.get(key))
                found = None if reply is None else writer.wire.found(reply)
                kept.checked += 1
                if found == writer.possible.get(key, value):
                    writer.confirmed[key] = found
                elif found != value:
                    kept.lost += 1
                    del writer.confirmed[key]
        writer.possible.clear()


class _Link:
    """One request after the other."""

    def __init__(self, wire: Wire, port: int) -> None:
        self.wire = wire
        self._socket = socket.create_connection((HOST, port), _TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> bytes | None:
        """The bytes of a reply; None for an error. Raises OSError."""
        self._socket.sendall(request)
        data = b""
        while not (counted := self.wire.count(data)).replies:
            part = self._socket.recv(65536)
            if not part:
                raise ConnectionError("the server has closed the connection")
            data += part
        return None if counted.errors else data

    def __enter__(self) -> _Link:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()
