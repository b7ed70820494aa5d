"""Clients of a history: over the server's own connection, so that replies leave as they do there (C3).

What a client knows of its session follows from what it was answered alone: which database, whether in MULTI, what it
watches, which transactions are open, which of them is the current one, and whether that one has ended by itself.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from tests.support.isolation.operations import Operation, Placed, Step
from tests.support.simulate.clients import Client, House
from tests.support.simulate.oracle import Oracle


class Call:
    """One request.

    Attributes:
        sent, point: The ticks as it was sent and as it was answered.
        begun_at: The store's time as it was sent.
        commits: What was committed for it.
        snapshot: Tick and time of the last snapshot that was begun for it.
        waited: Whether it had to wait for a lock.
        steps: What it told, as parts of operations.
        finishes: The operation that is over with it.
        sync: Whether its reply waits for a sync.
    """

    def __init__(self, caller: Caller, args: list[bytes], sent: tuple[int, int]) -> None:
        self.caller, self.args = caller, args
        self.sent, self.begun_at = sent
        self.commits: list[Placed] = []
        self.snapshot: tuple[int, int] | None = None
        self.waited = False
        self.reply: Any = None
        self.point = self.time = self.depends = self.synced = 0
        self.steps: list[Step] = []
        self.finishes: Operation | None = None
        self.sync = caller.durability == "always"


class State:
    """What a client knows of its session.

    Attributes:
        database: The selected one.
        queue: What was queued since MULTI; None outside.
        marks: What it watches, each with the tick of WATCH.
        watched: What it has read of that since.
        current: The transaction that its commands go to.
        broken: The one that was it and has ended by itself; None once it has taken note.
        open: All of its transactions, by id.
    """

    def __init__(self) -> None:
        self.database = 0
        self.queue: list[list[bytes]] | None = None
        self.marks: dict[tuple[int, bytes], int] = {}
        self.watched: list[Step] = []
        self.current: Operation | None = None
        self.broken: Operation | None = None
        self.open: dict[bytes, Operation] = {}


class Caller(Client):
    """One client.

    Attributes:
        state: What it knows of its session.
        call: What is being executed for it.
        untold: What was executed and not told yet, in order.
    """

    def __init__(self, oracle: Oracle, number: int, durability: str) -> None:
        super().__init__(oracle, number, durability)
        self.state = State()
        self.call: Call | None = None
        self.untold: deque[Call] = deque()
        self._sent: deque[tuple[int, int]] = deque()

    def connect(self, house: House) -> None:
        self.forget()
        super().connect(house)

    def forget(self) -> None:
        """The connection is gone, and with it what was not told."""
        self.state = State()
        self.call = None
        self.untold.clear()
        self._sent.clear()
        self.outstanding = 0

    def ask(self, requests: list[list[bytes]], tick: int, time: int) -> None:
        """Sends a pipeline."""
        self._sent.extend([(tick, time)] * len(requests))
        self.send(requests)

    def next_call(self, args: list[bytes]) -> Call:
        self.call = Call(self, args, self._sent.popleft())
        return self.call

    @property
    def idle(self) -> bool:
        """Whether all that it sent was answered."""
        return self.outstanding == 0
