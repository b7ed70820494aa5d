"""Counters, the slow log and the latency history: what happened, in bounded memory."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from keyhaus.core import limits
from keyhaus.core.settings import Settings


class SlowCommand(NamedTuple):
    """One entry of the slow log."""

    id: int
    unix_seconds: int
    microseconds: int
    arguments: list[bytes]
    address: str
    name: bytes


class Statistics:
    """What the server has counted since its start or the last CONFIG RESETSTAT.

    Attributes:
        calls: Per command (its name in lower case, `config|get`): how often it was called, a 0 that nobody reads, how
            often it failed, and the microseconds that it took altogether.
        errors: Replies with an error, by the error's code.
        latency: Per event, the newest of (seconds since 1970, the longest in that second in milliseconds).
        latency_worst: Per event, the longest ever, in milliseconds.
        slow: The slow log, newest first; it is no counter, so RESETSTAT leaves it.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.slow_id = 0
        self.slow: deque[SlowCommand] = deque(maxlen=limits.SLOWLOG_ENTRIES_MAX)
        self.latency: dict[str, deque[tuple[int, int]]] = {}
        self.latency_worst: dict[str, int] = {}
        self.reset()
        if settings is not None:
            settings.observe("slowlog-max-len", self._bound_slow)

    def reset(self) -> None:
        self.connections = 0
        self.rejected_connections = 0
        self.commands = 0
        self.input_bytes = 0
        self.output_bytes = 0
        self.hits = 0
        self.misses = 0
        self.errors: dict[str, int] = {}
        self.calls: dict[str, list[int]] = {}
        self.protocol_errors = 0

    def count_error(self, code: str) -> None:
        # At most one entry a code of core/errors.py, so it needs no bound of its own.
        self.errors[code] = self.errors.get(code, 0) + 1

    def note_slow(
        self, unix_seconds: int, microseconds: int, arguments: list[bytes], address: str, name: bytes
    ) -> None:
        """Enters a slow command; long arguments and long lists of them are cut, as Redis does."""
        kept = [_cut(argument) for argument in arguments[: 31 if len(arguments) > 32 else 32]]
        if len(arguments) > 32:
            kept.append(b"... (%d more arguments)" % (len(arguments) - 31))
        self.slow.appendleft(SlowCommand(self.slow_id, unix_seconds, microseconds, kept, address, name))
        self.slow_id += 1

    def note_latency(self, event: str, unix_seconds: int, milliseconds: int) -> None:
        """Enters how long an event took. Events are named by the server (`command`, …), so they are few."""
        history = self.latency.setdefault(event, deque(maxlen=limits.LATENCY_ENTRIES_MAX))
        if history and history[-1][0] == unix_seconds:
            history[-1] = (unix_seconds, max(milliseconds, history[-1][1]))
        else:
            history.append((unix_seconds, milliseconds))
        self.latency_worst[event] = max(milliseconds, self.latency_worst.get(event, 0))

    def forget_latency(self, events: list[str]) -> int:
        """Forgets the named events, or all if none is named; how many there were."""
        there = [event for event in events or list(self.latency) if event in self.latency]
        for event in set(there):
            del self.latency[event]
            del self.latency_worst[event]
        return len(set(there))

    def _bound_slow(self, entries_max: int) -> None:
        # A deque made shorter keeps its last entries, but here the newest stand first.
        kept = list(self.slow)[:entries_max]
        self.slow = deque(kept, maxlen=entries_max)


def _cut(argument: bytes) -> bytes:
    if len(argument) <= 128:
        return argument
    return argument[:128] + b"... (%d more bytes)" % (len(argument) - 128)
