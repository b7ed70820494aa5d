"""The server lets its core go before it goes on with rows that have come; but not to somebody who keeps it for long."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from keyhaus.server.server import YIELD_NS_MAX, YIELD_PAUSE, Server
from tests.support.sessions import Sessions


class Core:
    """A core that others keep for a while each time that it is let go of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, loop: asyncio.AbstractEventLoop) -> None:
        self.now_ns = 1
        self.takes_ns = 0
        self.yields = 0
        hub = Sessions().hub
        monkeypatch.setattr(hub, "monotonic_ns", lambda: self.now_ns)
        monkeypatch.setattr(os, "sched_yield", self._let_go)
        self.server = Server(hub, loop)

    def _let_go(self) -> None:
        self.yields += 1
        self.now_ns += self.takes_ns

    def yields_after(self, nanoseconds: int) -> bool:
        before = self.yields
        self.now_ns += nanoseconds
        self.server.yield_to_base()
        return self.yields > before


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Iterator[Core]:
    loop = asyncio.new_event_loop()
    yield Core(monkeypatch, loop)
    loop.close()


def test_a_short_yield_is_followed_by_others(core: Core) -> None:
    core.takes_ns = YIELD_NS_MAX
    assert all(core.yields_after(0) for _ in range(10))


def test_after_a_long_yield_none_comes_for_many_times_as_long(core: Core) -> None:
    for took in (YIELD_NS_MAX + 1, 50 * YIELD_NS_MAX):
        core.takes_ns = took
        assert core.yields_after(YIELD_PAUSE * 100 * YIELD_NS_MAX)
        assert not core.yields_after(0)
        assert not core.yields_after(YIELD_PAUSE * took - 1)
        core.takes_ns = 0
        assert core.yields_after(1)
        assert core.yields_after(0)
