"""Servers of the end-to-end tests: ended with their test, and none may ever have printed a traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.support.processes import RunningKeyhaus, keyhaus_server


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
        printed = "\n".join(server.lines)
        assert "Traceback" not in printed and "exception" not in printed.lower(), printed
