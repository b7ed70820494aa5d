"""The hub: what all sessions of one database share, be they connections or embedded callers."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from keyhaus.commands.spec import CommandSpec, Flag
from keyhaus.core.clock import Clock
from keyhaus.core.context import ClientView
from keyhaus.core.errors import Error
from keyhaus.core.request import Request
from keyhaus.core.settings import Durability, Settings
from keyhaus.core.statistics import Statistics
from keyhaus.session.session import Session
from keyhaus.store.store import Store

NEVER_NS: Final = 1 << 62


class Hub:
    """Implements `core.context.Server` over a store.

    Attributes:
        store: The database.
        sessions: Every open session by its id.
        own_facts: What the process around it adds to `facts`.
    """

    def __init__(self, store: Store, settings: Settings, clock: Clock, run_id: str) -> None:
        self.store = store
        self.settings = settings
        self.statistics = Statistics(settings)
        self.run_id = run_id
        self.sessions: dict[int, Session] = {}
        self.monotonic_ns = clock.monotonic_ns
        self.unix_ms = clock.unix_ms
        self.started_ns = clock.monotonic_ns()
        self.own_facts: Callable[[], dict[str, Any]] = dict
        self._next_id = 1
        self.slow_ns = 0  # from how long on `note_slow` wants to hear of a command
        self._slowlog_ns = self._latency_ns = NEVER_NS
        self.always = True  # whether a reply needs what it depends on synced
        settings.observe("slowlog-log-slower-than", self._set_slowlog)
        settings.observe("latency-monitor-threshold", self._set_latency)
        settings.observe("durability", self._set_durability)

    def _set_slowlog(self, microseconds: int) -> None:
        self._slowlog_ns = microseconds * 1000 if microseconds >= 0 else NEVER_NS
        self.slow_ns = min(self._slowlog_ns, self._latency_ns)

    def _set_latency(self, milliseconds: int) -> None:
        self._latency_ns = milliseconds * 1_000_000 if milliseconds else NEVER_NS
        self.slow_ns = min(self._slowlog_ns, self._latency_ns)

    def note_slow(self, session: Session, request: Request, elapsed_ns: int) -> None:
        """Enters a slow command into the slow log and the latency history, as the settings want it."""
        now = self.unix_ms() // 1000
        spec = session.spec
        if elapsed_ns >= self._slowlog_ns and not (spec is not None and spec.flags & Flag.SKIP_SLOWLOG):
            self.statistics.note_slow(now, elapsed_ns // 1000, request, session.address, session.name)
        if elapsed_ns >= self._latency_ns:
            fast = spec is not None and spec.flags & Flag.FAST
            self.statistics.note_latency("fast-command" if fast else "command", now, elapsed_ns // 1_000_000)

    def _set_durability(self, durability: str) -> None:
        self.always = durability == Durability.ALWAYS

    def open_session(self, kind: type[Session] = Session) -> Session:
        session = kind(self, self._next_id)
        self._next_id += 1
        self.sessions[session.id] = session
        return session

    def close_session(self, session: Session) -> None:
        self.sessions.pop(session.id, None)
        session.abandon()

    def count(self, spec: CommandSpec | None, calls: int, elapsed_ns: int) -> None:
        """Counts a run of one command."""
        if calls:
            statistics = self.statistics
            statistics.commands += calls
            if spec is not None:
                entry = statistics.calls.get(spec.wire_name)
                if entry is None:
                    entry = statistics.calls[spec.wire_name] = [0, 0, 0, 0]
                entry[0] += calls
                entry[3] += elapsed_ns // 1000

    def count_hit(self, name: str) -> None:
        """Counts a command, by its name on the wire, that has found its key; its time was not taken."""
        statistics = self.statistics
        statistics.commands += 1
        statistics.hits += 1
        entry = statistics.calls.get(name)
        if entry is None:
            entry = statistics.calls[name] = [0, 0, 0, 0]
        entry[0] += 1

    def count_failure(self, spec: CommandSpec | None, error: Error) -> None:
        self.statistics.count_error(error.code)
        if spec is not None:
            self.statistics.calls.setdefault(spec.wire_name, [0, 0, 0, 0])[2] += 1

    def clients(self) -> list[ClientView]:
        return list(self.sessions.values())

    def facts(self) -> dict[str, Any]:
        return {"process_id": os.getpid(), **self.own_facts()}
