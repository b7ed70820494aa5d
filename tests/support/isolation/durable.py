"""A history of a durable store: over the simulated disk, with flushes all the time, crashes and recoveries.

It is the simulation's world with transactions in it: cold reads wait, memtables are sealed after a few entries, replies
wait for the mark that their asker wants (C3), helpers die, the process is killed, or the power goes. After each crash
the recorder checks both what was executed and what has survived.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from keyhaus.core.settings import Settings
from tests.support.isolation.cast import Cast
from tests.support.isolation.circles import check_free
from tests.support.isolation.graph import Graph
from tests.support.isolation.pace import bounded, hurried
from tests.support.isolation.recorder import Recorder
from tests.support.isolation.workload import Workload
from tests.support.simulate.oracle import DATABASES
from tests.support.simulate.world import DURABILITIES, KILL, POWER, World

UNIT_MS: Final = 10
STUCK_MS: Final = 60_000
QUIET_RINGS: Final = 40


class Durable(World):
    """One history.

    Attributes:
        recorder: What happened.
        workload: What was sent.
    """

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None, lives: int = 0) -> None:
        super().__init__(seed, trace)
        generator = self.random
        self.oracle = self.recorder = Recorder(self._note if trace is not None else None)
        self.oracle.unreadable = self.unreadable
        self.counts = self.oracle.counts
        self.lives = lives or generator.choice((1, 2, 3))
        self.requests = Workload(generator, UNIT_MS, seed)
        durabilities = ["always", *generator.choices(DURABILITIES, k=generator.choice((2, 3, 4)))]
        self.cast = Cast(generator, self.recorder, durabilities, self.requests)
        self.cast.house = lambda caller: self._houses[caller.durability]
        self.clients = list(self.cast.callers)
        self._lock_timeout = generator.choice((0, 0, 30, 100))

    def _run(self) -> None:
        with hurried(self.random), bounded(self.seed):
            self._start(killed=False)
            for life in range(self.lives):
                lives = self._live(self.random.choice((10, 20, 40)))
                if life == self.lives - 1 and lives and self.store.poisoned is None:
                    break
                self._end(None if lives else self.random.choice((KILL, POWER)))
            self.disk.faults = []
            self._make_room()
            if self.store.poisoned is None:
                self._bring_to_an_end()
            self._end(POWER)
        if self.requests.graph:
            Graph(self.recorder.survived).check()

    def _bring_to_an_end(self) -> None:
        self.cast.finish(self._calm, self._wait_longer)
        self.cast.look(lambda: self._settle(lambda: self.cast.callers[0].idle, "the last look"))
        self.cast.leave()
        if self.store.poisoned is None:
            check_free(self.store)
            self._quiesce()

    def _settings(self) -> Settings:
        choice = self.random.choice
        return Settings(
            databases=DATABASES,
            durability=choice(DURABILITIES),
            journal_segment_bytes=64 << 10,
            memtable_size=choice((1, 2, 4, 8)),
            cache_bytes=choice((0, 0, 1 << 10, 64 << 20)),
            snapshot_max_ms=choice((5000, 1_000_000, 1_000_000)),
            snapshot_max_bytes=choice((2000, 1 << 20, 1 << 20)),
            lock_timeout=self._lock_timeout,
            transaction_idle_ms=choice((1_000_000_000, 1_000_000_000, 100)),
            transaction_max_ms=choice((1_000_000_000, 1_000_000_000, 500)),
        )

    # a life

    def _events(self) -> list[Callable[[], None]]:
        table: tuple[tuple[Callable[[], None], int], ...] = (
            (self._turn, 300),
            (self._work, 250),
            (self._send, 250),
            (self._ring, 5),
            (self._pass_time, 40),
            (self._jump, 1),
            (self._disconnect, 3),
            (self._lose_helper, 1),
            (self._fill_disk, 1),
            (self._make_room, 6),
            (self._arm, 1),
        )
        return [event for event, weight in table for _ in range(weight)]

    def _send(self) -> None:
        if self.store.poisoned is not None:
            self._poisoned_for += 1
            if self._poisoned_for > 12:
                self._most = 0  # it has been seen enough
                return
        self.cast.act()

    def _pass_time(self) -> None:
        self.clock.ms += self.random.choice((1, 2, UNIT_MS))
        self.spawn.ring_due()

    def _disconnect(self) -> None:
        self.cast.vanish()

    def _end(self, how: str | None = None) -> None:
        super()._end(how)
        self.cast.inquire()

    def _stop(self) -> str:
        self.cast.leave()
        return super()._stop()

    # the end

    def _calm(self) -> None:
        """Everything goes on until nothing moves but the timers, and a few of those ring."""
        spawn = self.spawn
        for _ in range(QUIET_RINGS):
            while spawn.callbacks or any(worker.jobs for worker in spawn.workers):
                self._turn()
                self._work()
            due = spawn.due()
            if due is None or due > self.clock.ms + UNIT_MS or all(caller.idle for caller in self.cast.callers):
                return
            spawn.ring()

    def _wait_longer(self) -> bool:
        """Lets time pass that may help: until replies have left, until a lock's time is over, but not for ever."""
        begin = self.clock.ms
        waiting = [caller for caller in self.cast.callers if not caller.idle]
        while self.clock.ms < begin + STUCK_MS:
            if any(caller.idle for caller in waiting) or not self.spawn.ring():
                return True
            self._calm()
        return False
