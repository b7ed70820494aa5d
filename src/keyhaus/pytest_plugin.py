"""Fixtures for pytest: a server of one's own, a client of it, and an embedded database, each empty for each test.

    def test_a_session_is_found(keyhaus_client):
        keyhaus_client.put("session:1", "ada")
        assert find_session(keyhaus_client, 1) == "ada"

It is loaded by pytest where keyhaus is installed, and imports nothing of keyhaus before a fixture is used.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import keyhaus

if TYPE_CHECKING:
    from keyhaus import Client, Database

HOST: Final = "127.0.0.1"
START_SECONDS: Final = 60.0
LOG_LINES: Final = 20  # of a server that does not start
_ENGINES: Final = ("memory", "rocksdb")
_DURABILITIES: Final = ("always", "everysec", "none")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("keyhaus_engine", "The engine of keyhaus' fixtures: memory or rocksdb.", default="memory")
    parser.addini("keyhaus_durability", "Their durability: always, everysec or none.", default="always")
    parser.addini("keyhaus_options", "Further options of `keyhaus serve`, one a line.", type="linelist", default=[])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "keyhaus(engine='memory', durability='always'): what keyhaus_client and keyhaus_db work with in this test.",
    )


class KeyhausServer:
    """A server process on a free port of loopback, which ends with the session.

    Attributes:
        host, port: Where it listens, for every dialect.
        engine, durability: How it keeps its data.
        process: The process.
        log: The file with what it logs.
    """

    def __init__(self, directory: Path, engine: str, durability: str, options: list[str]) -> None:
        self.host, self.engine, self.durability = HOST, engine, durability
        self.log = directory / "log"
        self._child = import_module("keyhaus.cli.child")
        words = ["--engine", engine, "--durability", durability, "--data-dir", str(directory / "data")]
        with self.log.open("wb") as log:
            self.process: subprocess.Popen[str] = self._child.serve(
                "--listen", f"auto://{HOST}:0", *words, *options, directory=directory, log=log
            )
        line = self._child.ready_line(self.process, START_SECONDS)
        if not line:
            self.stop()
            last = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            raise pytest.UsageError("\n".join(["keyhaus serve has not started:", *last]))
        self.port = int(line.rpartition(":")[2])

    @property
    def url(self) -> str:
        """For `keyhaus.Client`."""
        return f"keyhaus://{self.host}:{self.port}"

    @property
    def redis_url(self) -> str:
        """For clients of Redis."""
        return f"redis://{self.host}:{self.port}"

    def stop(self) -> None:
        """Ends it, by force where that takes too long."""
        self._child.end(self.process)


class _Servers:
    """The session's servers, one for each way of keeping data that a test wants."""

    def __init__(self, config: pytest.Config, directories: pytest.TempPathFactory) -> None:
        self._config, self._directories = config, directories
        self._running: dict[tuple[str, str], KeyhausServer] = {}

    def of(self, marker: pytest.Mark | None) -> KeyhausServer:
        wanted = _wanted(self._config, marker)
        server = self._running.get(wanted)
        if server is None:
            options = [word for line in self._config.getini("keyhaus_options") for word in line.split()]
            server = KeyhausServer(self._directories.mktemp("keyhaus-server"), *wanted, options)
            self._running[wanted] = server
        return server

    def stop(self) -> None:
        with contextlib.ExitStack() as stack:
            for server in self._running.values():
                stack.callback(server.stop)


def _wanted(config: pytest.Config, marker: pytest.Mark | None) -> tuple[str, str]:
    """The engine and the durability that a test wants. Raises UsageError for words that are none."""
    words: dict[str, Any] = {} if marker is None else dict(marker.kwargs)
    if marker is not None and (marker.args or words.keys() - {"engine", "durability"}):
        raise pytest.UsageError("the marker keyhaus takes engine=… and durability=…")
    engine = words.get("engine", config.getini("keyhaus_engine"))
    durability = words.get("durability", config.getini("keyhaus_durability"))
    for name, word, choices in (("engine", engine, _ENGINES), ("durability", durability, _DURABILITIES)):
        if word not in choices:
            raise pytest.UsageError(f"keyhaus' {name} is one of {', '.join(choices)}, not {word!r}")
    return engine, durability


@pytest.fixture(scope="session")
def _keyhaus_servers(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Servers]:
    servers = _Servers(pytestconfig, tmp_path_factory)
    try:
        yield servers
    finally:
        servers.stop()


@pytest.fixture(scope="session")
def keyhaus_server(_keyhaus_servers: _Servers) -> KeyhausServer:
    """A server for all tests of the session; of a process, where pytest-xdist runs several."""
    return _keyhaus_servers.of(None)


@pytest.fixture
def keyhaus_client(request: pytest.FixtureRequest, _keyhaus_servers: _Servers) -> Iterator[Client]:
    """A `keyhaus.Client` of a server whose databases are all empty."""
    server = _keyhaus_servers.of(request.node.get_closest_marker("keyhaus"))
    with keyhaus.Client(server.url) as client:
        client.execute("FLUSHALL")
        yield client


@pytest.fixture
def keyhaus_db(request: pytest.FixtureRequest) -> Iterator[Database]:
    """An embedded database, new for the test: in memory, or with the engine rocksdb below `tmp_path`."""
    engine, durability = _wanted(request.config, request.node.get_closest_marker("keyhaus"))
    path = None if engine == "memory" else request.getfixturevalue("tmp_path") / "keyhaus"
    with keyhaus.open(path, engine=engine, durability=durability) as database:
        yield database
