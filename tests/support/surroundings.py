"""A session and its server as commands see them, without either: what a handler asks of them is written down."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from keyhaus.commands.spec import CommandSpec
from keyhaus.core.context import ClientView
from keyhaus.core.settings import Settings
from keyhaus.core.statistics import Statistics
from keyhaus.core.wait import Wait
from tests.support.turns import Loopless

SECOND_NS = 1_000_000_000


class PlainServer:
    """The process around a command: it lists the clients that it is given."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self.statistics = Statistics(self.settings)
        self.run_id = "0" * 40
        self.history = "1" * 32
        self.started_ns = 0
        self.connected: list[ClientView] = []
        self.now_ns = 90 * SECOND_NS

    def clients(self) -> list[ClientView]:
        return list(self.connected)

    def monotonic_ns(self) -> int:
        return self.now_ns

    def facts(self) -> dict[str, Any]:
        return {"tcp_port": 19272, "process_id": 4711, "fast_lane": "none", "bind": "127.0.0.1"}


class PlainClient:
    """A client and its session; `done` lists what was asked of the session."""

    def __init__(self, server: PlainServer | None = None, number: int = 1) -> None:
        self.server = server or PlainServer()
        self.server.connected.append(self)
        self.id = number
        self.name = b""
        self.user = "default"
        self.database = 0
        self.protocol = 2
        self.address = f"127.0.0.1:{50_000 + number}"
        self.local_address = "127.0.0.1:19272"
        self.descriptor = 8
        self.library_name = b""
        self.library_version = b""
        self.connected_ns = 60 * SECOND_NS
        self.active_ns = 80 * SECOND_NS
        self.last_command = "client|list"
        self.no_evict = False
        self.in_multi = False
        self.letters = "N"
        self.done: list[tuple[Any, ...]] = []

    def flag_letters(self) -> str:
        return self.letters

    def queued_commands(self) -> int:
        return 0 if self.in_multi else -1

    def watched_keys(self) -> int:
        return 0

    def buffers(self) -> dict[str, int]:
        return {"input": 26, "input_free": 100, "queued": 0, "output": 0, "total": 126}

    def close(self, *, after_reply: bool = False) -> None:
        self.done.append(("close", after_reply))

    def select(self, database: int) -> None:
        self.database = database

    def authenticate(self, user: str, password: bytes) -> bool:
        return user == "default"

    def set_protocol(self, version: int) -> None:
        self.protocol = version

    def set_reply_mode(self, mode: str) -> None:
        self.done.append(("reply", mode))

    def reset(self) -> None:
        self.done.append(("reset",))

    def quit(self) -> None:
        self.done.append(("quit",))

    def begin_multi(self) -> None:
        self.in_multi = True

    def discard(self) -> None:
        self.in_multi = False

    async def execute_queued(self) -> Any:
        self.in_multi = False
        return ["queued"]

    def watch(self, keys: list[bytes]) -> None:
        self.done.append(("watch", keys))

    def unwatch(self) -> None:
        self.done.append(("unwatch",))


class Surrounded(Loopless):
    """A database in memory and one client; where a command waits for a time, that time is over at once.

    Attributes:
        waited_ms: The times that commands waited for.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.server = PlainServer(**settings)
        self.client = PlainClient(self.server)
        self.waited_ms: list[float] = []

    def handle(self, spec: CommandSpec, args: list[bytes], context: Any = None) -> Any:
        return super().handle(spec, args, context or self.client)

    def drive(self, running: Coroutine[Wait, None, Any]) -> Any:
        while True:
            try:
                wait = running.send(None)
            except StopIteration as stop:
                return stop.value
            if wait.timeout_ms is not None:
                self.waited_ms.append(wait.timeout_ms)
                continue
            while not wait.fired:
                assert self.spawn.take_turn(), "it waits for something that never comes"
