"""A house for each test: the database behind one of its doors, empty, with servers that are shared by all tests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.support.doors import Client, House, SessionHouse, WireHouse
from tests.support.processes import RunningKeyhaus, keyhaus_server

Servers = Callable[[str], RunningKeyhaus]


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The server of an engine, started by who asks first."""
    running: dict[str, RunningKeyhaus] = {}
    with contextlib.ExitStack() as stack:

        def server(engine: str) -> RunningKeyhaus:
            if engine not in running:
                directory = tmp_path_factory.mktemp(engine)
                options = ("--engine", engine, "--data-dir", str(directory / "data"), "--log-level", "warning")
                running[engine] = stack.enter_context(keyhaus_server(directory, *options))
            return running[engine]

        yield server


@pytest.fixture(params=["sessions", "memory", "rocksdb"])
def house(request: pytest.FixtureRequest, shared_server: Servers) -> Iterator[House]:
    house = SessionHouse() if request.param == "sessions" else WireHouse(shared_server(request.param))
    yield house
    house.close()


@pytest.fixture
def one(house: House) -> Client:
    return house.connect()


@pytest.fixture
def other(house: House) -> Client:
    return house.connect()


@pytest.fixture
def third(house: House) -> Client:
    return house.connect()
