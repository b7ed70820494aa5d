"""A store over a base whose helpers do nothing until they are told to: one turn, one answer, one death at a time.

The base is the model engine on the simulated disk, and what a helper is asked stays in its queue until the test lets it
work. So a test says in which order a flush, a write and the answer to a cold read come, and which of them never comes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any

from keyhaus.core.settings import Settings
from keyhaus.core.wait import Wait
from keyhaus.engines.model import ModelEngine, ModelRunWriter
from keyhaus.store.base import Base
from keyhaus.store.ground import Ground
from keyhaus.store.record import value_of
from keyhaus.store.runs import RunBuilder
from keyhaus.store.store import Store
from keyhaus.store.transaction import Transaction
from tests.support.simulation import SimulatedDisk, SimulatedHelper, SimulatedSpawn
from tests.support.turns import ManualClock


class Asked:
    """A command that may have to wait: `reply` is there once it is done."""

    def __init__(self, running: Coroutine[Wait, None, Any]) -> None:
        self.reply: Any = None
        self.error: BaseException | None = None
        self.done = False
        self.waits = 0
        self._running = running
        self._step()

    def _step(self) -> None:
        try:
            wait = self._running.send(None)
        except StopIteration as stop:
            self.reply, self.done = stop.value, True
        except Exception as error:
            self.error, self.done = error, True
        else:
            self.waits += 1
            wait.on_fire(self._step)

    def result(self) -> Any:
        assert self.done, "it still waits"
        if self.error is not None:
            raise self.error
        return self.reply


class BasedStore:
    """One database over a simulated disk, with a base.

    Attributes:
        calls: Every method that the base was asked to execute, with its arguments, in order.
        fails: Called with a helper's name and method before it is executed; what it raises is the answer.
        after: The same, called when it was executed.
    """

    def __init__(self, seed: int = 0, disk: SimulatedDisk | None = None, **settings: Any) -> None:
        self.random = random.Random(seed)
        self.disk = disk or SimulatedDisk(self.random)
        self.clock = ManualClock()
        self.values: dict[str, Any] = {"databases": 3, "journal_segment_bytes": 256 << 10, **settings}
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.fails: Callable[[str, str], None] = lambda helper, method: None
        self.after: Callable[[str, str], None] = lambda helper, method: None
        self.start()

    def start(self) -> None:
        self.spawn = SimulatedSpawn(self.random)
        self.spawn.factories = {"base": self._base, "writer": self._writer}
        self.disk.empty("runs")
        ground = Ground(self.spawn, "base", ())
        opened: list[BaseException | None] = []
        ground.open(opened.append)
        self.spawn.settle()
        assert opened
        if opened[0] is not None:
            raise opened[0]
        settings = Settings(**self.values)
        self.store = Store.open(self.disk, self.spawn, self.clock, settings, ground, ("writer", ()))
        self.spawn.settle()

    def _base(self) -> _Watched:
        return _Watched(self, "base", Base(ModelEngine(self.disk, "base"), "runs", lambda: None))

    def _writer(self) -> _Watched:
        return _Watched(self, "run-writer", RunBuilder(self._open_run, clock=self.clock))

    def _open_run(self, name: str) -> ModelRunWriter:
        self.disk.empty("runs")
        return ModelRunWriter(self.disk, f"runs/{name}")

    def forget_rows(self) -> None:
        """Empties the row cache, so that what is in the base is cold."""
        cache = self.store.views.cache
        most, cache.most = cache.most, 0
        cache.trim(1 << 30)
        cache.most = most

    def stop(self) -> BaseException | None:
        """A clean stop; what went wrong with it."""
        closed: list[BaseException | None] = []
        self.store.close(closed.append)
        self.settle()
        while not closed:
            assert self.spawn.ring(), "the stop waits for something that never comes"
            self.settle()
        self.store.close_ground()
        self.settle()
        self.disk.kill()
        return closed[0]

    def power_cut(self) -> None:
        self.disk.power_cut()
        self.start()

    def kill(self) -> None:
        self.disk.kill()
        self.start()

    # helpers, one step at a time

    @property
    def base(self) -> SimulatedHelper:
        """The base's helper of now."""
        return [helper for helper in self.spawn.helpers if helper.name == "base"][-1]

    @property
    def run_writer(self) -> SimulatedHelper:
        return [helper for helper in self.spawn.helpers if helper.name == "run-writer"][-1]

    def turns(self) -> None:
        """Everything but what the helpers have to do: turns, the journal's threads."""
        helpers = {id(helper.worker) for helper in self.spawn.helpers}
        own = [worker for worker in self.spawn.workers if id(worker) not in helpers]
        while self.spawn.turn() or sum(self.spawn.work(worker) for worker in own):
            pass

    def work(self, helper: SimulatedHelper, calls: int = 1) -> None:
        """A helper executes its next calls, and their answers are heard."""
        for _ in range(calls):
            assert self.spawn.work(helper.worker), f"{helper.name} has nothing to do"
        self.turns()

    def settle(self) -> None:
        self.spawn.settle()

    def soon(self, asked: Asked) -> Any:
        """The reply of a command that needs nothing of the base, which does nothing meanwhile."""
        self.turns()
        return asked.result()

    def synced(self) -> None:
        """Whatever was committed is on the disk, though no helper has done anything."""
        assert self.store.journal is not None
        self.store.journal.demand(self.store.last)
        self.turns()
        assert self.store.synced == self.store.last

    def forget_cached(self) -> None:
        """Empties the row cache."""
        cache = self.store.views.cache
        most = cache.most
        cache.resize(0)
        while len(cache):
            cache.trim()
        cache.resize(most)

    def until(self, asked: Asked) -> Any:
        """Lets everything go on, time too, until a command is done; its reply."""
        self.settle()
        for _ in range(100):
            if asked.done:
                break
            assert self.spawn.ring(), "it waits for something that never comes"
            self.settle()
        return asked.result()

    # commands

    def ask(self, command: Callable[[Transaction], Any], database: int = 0, *, atomic: bool = False) -> Asked:
        """Runs a command as a session does: again from the start after each wait."""

        async def run() -> Any:
            transaction = Transaction(self.store, database)
            transaction.atomic = atomic
            try:
                while True:
                    transaction.begin()
                    result = command(transaction)
                    if isinstance(result, Coroutine):
                        result = await result
                    wait = transaction.gather() if transaction.needs else transaction.commit()
                    if wait is None:
                        return result
                    transaction.rollback()
                    await wait
            finally:
                transaction.let_go()

        return Asked(run())

    def get(self, key: bytes, database: int = 0) -> Asked:
        def command(transaction: Transaction) -> bytes | None:
            record = transaction.get(key)
            return None if record is None else value_of(record)

        return self.ask(command, database)

    def put(self, key: bytes, value: bytes, expires: int = 0, database: int = 0) -> Asked:
        return self.ask(lambda transaction: transaction.put(key, value, expires), database)

    def delete(self, key: bytes, database: int = 0) -> Asked:
        def command(transaction: Transaction) -> int:
            if transaction.get(key) is None:
                return 0
            transaction.delete(key)
            return 1

        return self.ask(command, database)

    def count(self, database: int = 0) -> Asked:
        return self.ask(lambda transaction: transaction.count(), database)

    def rows(self, database: int = 0) -> dict[bytes, bytes]:
        """All that is there, read as one range."""

        async def command(transaction: Transaction) -> dict[bytes, bytes]:
            page, following = await transaction.scan(b"", None, 10_000)
            assert following is None
            return {key: value_of(record) for key, record in page}

        found: dict[bytes, bytes] = self.until(self.ask(command, database))
        return found

    def base_rows(self) -> dict[bytes, bytes]:
        """All rows of the base's newest view, whatever they mean."""
        engine = ModelEngine(self.disk, "base")
        rows: dict[bytes, bytes] = engine._views[engine.newest].rows
        return rows

    @staticmethod
    def driven(running: Coroutine[Wait, None, Any]) -> Asked:
        """Something that may wait, such as a snapshot's page."""
        return Asked(running)

    # flushes

    def begin_flush(self) -> Wait:
        """Seals what there is; nothing of the helpers' work is done."""
        assert self.store.flusher is not None
        return self.store.flusher.want()

    def write_run(self) -> None:
        """Lets the run of the flush that has begun be written and synced: the base is asked to ingest it."""
        self.turns()
        while "ingest" not in self.base.asked:
            self.work(self.run_writer)

    def flush(self) -> None:
        over = self.begin_flush()
        for _ in range(100):
            self.settle()
            if over.fired:
                return
            assert self.spawn.ring(), "the flush waits for something that never comes"
        raise AssertionError("the flush does not end")


class _Watched:
    """A helper's object, each of whose calls is noted and may be made to fail."""

    def __init__(self, owner: BasedStore, name: str, target: Any) -> None:
        self._owner, self._name, self._target = owner, name, target

    def __getattr__(self, method: str) -> Any:
        function = getattr(self._target, method)

        def call(*args: Any) -> Any:
            if self._name == "base":
                self._owner.calls.append((method, args))
            self._owner.fails(self._name, method)
            result = function(*args)
            self._owner.after(self._name, method)
            return result

        return call
