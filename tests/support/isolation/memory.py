"""A history in memory: the sessions of one store, one step at a time, and time in milliseconds.

Every wait is for a lock, every step is chosen by the seed; nothing is durable. Where no time-out helps, everybody has
to come to an end without one: that is how a deadlock that was not found shows.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, cast

from tests.support.isolation.cast import Cast
from tests.support.isolation.circles import check_free
from tests.support.isolation.graph import Graph
from tests.support.isolation.pace import bounded, hurried
from tests.support.isolation.recorder import Recorder
from tests.support.isolation.workload import DATABASES, Workload
from tests.support.sessions import Sessions
from tests.support.simulate.clients import House, Loop, ObservedHub
from tests.support.simulate.model import Model
from tests.support.simulate.oracle import Broken
from tests.support.simulate.world import Faults

STEPS_MAX = 100_000
PATIENCE_MS = 100


class Memory:
    """One history.

    Attributes:
        recorder: What happened.
        workload: What was sent.
    """

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None, requests: int = 0) -> None:
        self.seed = seed
        self.random = generator = random.Random(seed)
        self._trace = trace
        self.recorder = Recorder(self._note if trace is not None else None)
        self.requests = requests or generator.choice((30, 60, 120))
        self._lock_timeout = generator.choice((0, 0, 0, 3, 10))
        with bounded(seed):
            self._sessions = sessions = Sessions(
                databases=DATABASES,
                lock_timeout=self._lock_timeout,
                transaction_idle_ms=generator.choice((1_000_000, 1_000_000, 10)),
                transaction_max_ms=generator.choice((1_000_000, 1_000_000, 30)),
                max_memory_policy="allkeys-lru",
            )
        self.recorder.model = Model(DATABASES)
        self._begin = self.recorder.model.copy()
        self.recorder.watch(sessions.store)
        hub = ObservedHub(sessions.store, sessions.settings, sessions.clock, "run")
        house = House(hub, Loop(cast(Any, sessions.spawn)))
        self.workload = Workload(generator, 1, seed)
        self.cast = Cast(generator, self.recorder, ["always"] * generator.choice((2, 3, 4, 5)), self.workload)
        self.cast.house = lambda caller: house
        self._pass_chance = generator.choice((0.02, 0.06, 0.15))
        self._evicts = not self.workload.graph and generator.random() < 0.25

    def _note(self, text: str) -> None:
        assert self._trace is not None
        self._trace(f"{self.recorder.ticks:5} {self._sessions.clock.ms % 1_000_000:6} {text}")

    def run(self) -> None:
        """Raises Broken."""
        faults = Faults()
        with hurried(self.random), bounded(self.seed), faults.watching():
            sent = 0
            for _ in range(STEPS_MAX):
                if sent >= self.requests:
                    break
                sent += self._step()
            self.cast.finish(self._settle, self._wait_longer)
            self._squeeze(0)
            self.cast.look(self._settle)
            self.cast.leave()
            self._settle()
        if faults.seen:
            raise Broken(f"FAULT {faults.seen[0]}")
        check_free(self._sessions.store)
        self.recorder.check_life(self._begin)
        self.recorder.survived += self.recorder.ledger.operations
        if self.workload.graph:
            Graph(self.recorder.survived).check()

    def _step(self) -> int:
        chance = self.random.random()
        if chance < self._pass_chance:
            self._pass_time(1)
        elif chance < self._pass_chance + 0.003:
            self.cast.vanish()
        elif chance < self._pass_chance + 0.01 and self._evicts:
            self._squeeze(self.random.choice((0, 1, 500)))
        elif chance < 0.6:
            self._sessions.spawn.take_turn()
        else:
            return int(self.cast.act())
        return 0

    def _squeeze(self, bytes_: int) -> None:
        """There may be so much data, and no more; 0: as much as one likes."""
        if self._evicts:
            self._sessions.settings.put("max-memory", bytes_)

    def _pass_time(self, milliseconds: int) -> None:
        sessions = self._sessions
        sessions.clock.ms += milliseconds
        while sessions.spawn.fire_due():
            pass

    def _settle(self) -> None:
        self._sessions.settle()

    def _wait_longer(self) -> bool:
        """Whether time may help."""
        if not self._lock_timeout:
            return False
        for _ in range(self._lock_timeout + 1):
            self._pass_time(1)
            self._settle()
        return True
