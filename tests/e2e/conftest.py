"""Servers of the end-to-end tests: ended with their test, and none may ever have printed a traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

import pytest

from tests.support.load import Link
from tests.support.processes import HOST, RunningKeyhaus, keyhaus_server

_DIALECTS: Final = ("auto", "text", "json", "frame")


class Serve(Protocol):
    """Starts a server in the test's directory; several may run at once, or one after the other."""

    def __call__(self, *options: str, listen: str = "resp") -> RunningKeyhaus: ...


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started: list[RunningKeyhaus] = []
    with contextlib.ExitStack() as stack:

        def start(*options: str, listen: str = "resp") -> RunningKeyhaus:
            started.append(stack.enter_context(keyhaus_server(tmp_path, *options, listen=listen)))
            return started[-1]

        yield start
    for server in started:
        _check_lines(server)


@pytest.fixture(scope="session")
def _every_dialect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKeyhaus]:
    options = [word for dialect in _DIALECTS for word in ("--listen", f"{dialect}://{HOST}:0")]
    with keyhaus_server(tmp_path_factory.mktemp("shared"), "--engine", "memory", *options) as server:
        yield server
    _check_lines(server)


@pytest.fixture
def ports(_every_dialect: RunningKeyhaus) -> dict[str, int]:
    """The ports, by their dialects, of a server that many tests have, one after the other; it is empty for each."""
    with Link(_every_dialect.ports["resp"]) as link:
        link.ask(b"FLUSHALL")
    return _every_dialect.ports


def _check_lines(server: RunningKeyhaus) -> None:
    printed = "\n".join(server.lines)
    assert "Traceback" not in printed and "exception" not in printed.lower(), printed
