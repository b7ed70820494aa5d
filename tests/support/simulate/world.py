"""One seed: the whole history of one store, with its clients, its faults, its ends and its new beginnings.

A history is a sequence of lives. In each, one thing at a time happens: a turn of the owner, a job of a worker or of a
helper, a timer, a request, a page of a snapshot, a jump of the clock. A life ends by a clean stop, a kill, a loss of
power, each at any step; what the next one finds is checked, and the next one may be cut off while it still recovers.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch

from keyhaus.core.errors import Corruption, Error, SnapshotTooOld, StorageError
from keyhaus.core.settings import Settings
from keyhaus.core.wait import Wait
from keyhaus.engines.model import ModelEngine, ModelRunWriter
from keyhaus.journal import recovery
from keyhaus.store import layout
from keyhaus.store import record as rec
from keyhaus.store.base import Base
from keyhaus.store.ground import DEATHS_MAX, Ground
from keyhaus.store.record import TOMBSTONE
from keyhaus.store.runs import RunBuilder
from keyhaus.store.store import Store
from tests.support.simulate.clients import Client, House, Loop, ObservedHub, Workload
from tests.support.simulate.machine import FaultyDisk, MachineSpawn, SimulatedClock
from tests.support.simulate.oracle import DATABASES, Broken, Moment, Oracle
from tests.support.simulation import Crash

COMMITS_LEAST: Final = 200
STEPS_MAX: Final = 60_000
POISONED_SENDS: Final = 12  # how often clients try on after a journal failed
SETTLE_MAX: Final = 20_000
DURABILITIES: Final = ("always", "everysec", "none")
KILL, POWER, STOP = "kill", "power cut", "stop"


class Faults(logging.Handler):
    """What the product logs with a traceback is a fault of its own."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.seen.append(logging.Formatter().format(record))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hears all that the product logs, and nobody else does."""
        logger = logging.getLogger("keyhaus")
        before = logger.level, logger.propagate
        logger.addHandler(self)
        logger.setLevel(logging.ERROR)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(self)
            logger.level, logger.propagate = before


class Reader:
    """Reads a snapshot page by page, or some keys of it, while everything goes on."""

    def __init__(self, world: World, moment: Moment) -> None:
        self._world, self.moment, self.snapshot = world, moment, moment.snapshot
        self._random = world.random
        self._running: Any = None
        self.over = False
        self._begin()

    def _begin(self) -> None:
        self._database = self._random.randrange(DATABASES)
        self._reverse = self._random.random() < 0.4
        self._rest: bytes | None = None if self._reverse else b""
        self._found: list[tuple[bytes, bytes]] = []

    def step(self) -> None:
        if self._running is not None or self.over:
            return
        if self._random.random() < 0.35:
            key = self._world.workload.key()
            self._running = self._get(self._random.randrange(DATABASES), key)
        else:
            self._running = self._page()
        self._go_on()

    def _go_on(self) -> None:
        if self.over or self._running is None:
            return
        try:
            wait = self._running.send(None)
        except StopIteration:
            self._running = None
        except SnapshotTooOld as error:
            if not self._world.oracle.may_be_too_old(self.moment):
                raise Broken(f"SNAPSHOT too old for no reason: {error}") from None
            self._world.oracle.counts["snapshots too old"] += 1
            self._running = None
            self.close()
        except StorageError as error:
            if not self._world.unreadable():
                raise Broken(f"SNAPSHOT can't be read for no reason: {error}") from None
            self._running = None
            self.close()
        else:
            self._await(wait)

    def _await(self, wait: Wait) -> None:
        spawn = self._world.spawn
        wait.on_fire(lambda: spawn.soon(self._go_on))

    async def _get(self, database: int, key: bytes) -> None:
        record = await self.snapshot.get(database, key)
        row = self.moment.rows[database].get(key)
        found = None if record is None else (rec.value_of(record), rec.expires_of(record))
        if found != row:
            raise Broken(f"SNAPSHOT at {self.snapshot.seqno}: {key!r} in {database} is {found}, was {row}")

    async def _page(self) -> None:
        limit = self._random.choice((1, 3, 10))
        low, high = (b"", self._rest) if self._reverse else (self._rest or b"", None)
        rows, rest = await self.snapshot.page(self._database, low, high, limit, reverse=self._reverse)
        self._found += [(key, rec.value_of(record)) for key, record in rows]
        self._rest = rest
        if rest is None:
            self._compare()
            self._begin()
            if self._random.random() < 0.5:
                self.close()

    def _compare(self) -> None:
        rows = self.moment.rows[self._database]
        expected = [(key, rows[key][0]) for key in sorted(rows, reverse=self._reverse)]
        if self._found != expected:
            raise Broken(f"SNAPSHOT at {self.snapshot.seqno} of {self._database}: found {self._found}, was {expected}")
        self._world.oracle.counts["snapshots read"] += 1

    def close(self) -> None:
        if not self.over:
            self.over = True
            self.snapshot.close()


class World:
    """One history.

    Attributes:
        seed: Where all that is random comes from.
        counts: What happened.
    """

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self._trace = trace
        self.oracle = Oracle(self._note if trace is not None else None)
        self.counts: Counter[str] = self.oracle.counts
        self.oracle.unreadable = self.unreadable
        self.disk = FaultyDisk(self.random)
        self.clock = SimulatedClock()
        self.workload = Workload(self.random, self.clock.unix_ms)
        self.clients = [
            Client(self.oracle, number, durability)
            for number, durability in enumerate(("always", *self.random.choices(DURABILITIES, k=3)))
        ]
        follower = Client(self.oracle, len(self.clients), self.random.choice(DURABILITIES))
        follower.follows = True
        self.clients.append(follower)
        self.readers: list[Reader] = []
        self.spawn: MachineSpawn
        self.store: Store
        self.ground: Ground
        self._faults = Faults()
        self._ats: list[int] = []
        self._steps = 0
        self._taken = 0  # of the disk's room, while it is full

    def _note(self, text: str) -> None:
        assert self._trace is not None
        self._trace(f"{self._steps:6} {self.clock.ms:9.1f} {text}")

    def note(self, text: str) -> None:
        if self._trace is not None:
            self._note(text)

    # the whole

    def run(self) -> None:
        """Raises Broken."""
        with self._faults.watching(), self._watching_recoveries():
            self._run()

    def _run(self) -> None:
        self._start(killed=False)
        while True:
            missing = COMMITS_LEAST - self.counts["commits"]
            if not self._live(max(10, min(missing, self.random.choice((10, 30, 60, 100))))):
                self._end(self.random.choice((KILL, POWER)))
                continue
            if self.counts["commits"] >= COMMITS_LEAST and self._crashes() and self.counts["flushes"]:
                break
            self._end()
        self._quiesce()
        self._end(POWER)

    def _crashes(self) -> int:
        return self.counts[KILL] + self.counts[POWER]

    @contextmanager
    def _watching_recoveries(self) -> Iterator[None]:
        walk = recovery.walk

        def watched(*args: Any) -> Any:
            found = walk(*args)
            self._ats.append(found[0].at)
            return found

        with patch.object(recovery, "walk", watched):
            yield

    # a start

    def _start(self, killed: bool) -> None:
        first = not hasattr(self, "store")
        self._ats = []
        tries = 0
        while True:
            tries += 1
            self.counts["recoveries"] += 1
            self._arm_for_start(tries)
            struck = dict(self.disk.struck)
            try:
                self._open()
                break
            except Crash:
                self.counts["crashes in recovery"] += 1
                if self.random.random() < 0.5:
                    killed = False
                    self.disk.power_cut()
                else:
                    self.disk.kill()
                self.note(f"crash in recovery, {'kill' if killed else 'power cut, perhaps before'}")
            except Corruption as error:
                raise Broken(f"FALSE ALARM: {error}") from None
            except (OSError, Error) as error:
                self.note(f"a start fails: {error!r}")
                if struck == self.disk.struck and not self._taken:
                    raise Broken(f"START fails without a reason: {error!r}") from None
                self.disk.kill()
                self._make_room()
        self.disk.faults = []
        final = self._ats[-1]
        if not first:
            # Where a start that was cut off has made its jump, the history ends where that one had cut it.
            given = self.oracle.given
            candidates = [final] if final <= given else [at for at in reversed(self._ats) if at <= given]
            self.oracle.recovered(candidates, self._contents(), killed)
        self.oracle.watch(self.store)
        self.note(f"started: last {self.store.last}, base {self.store.base_seqno}")

    def _arm_for_start(self, tries: int) -> None:
        self.disk.faults = []
        chance = self.random.random()
        if tries > 4:
            return
        if chance < 0.2:
            self.disk.arm("crash", "", int(self.random.random() * 40))
        elif chance < 0.26:
            kind = "sync" if chance < 0.24 else "write"
            self.disk.arm(kind, self.random.choice(("journal/", "base/", "")), int(self.random.random() * 12))

    def _open(self) -> None:
        self.spawn = spawn = MachineSpawn(self.random, self.clock)
        spawn.factories = {"base": self._make_base, "run": self._make_builder}
        settings = self._settings()
        self.disk.empty("runs")
        self.ground = ground = Ground(spawn, "base", ())
        opened: list[BaseException | None] = []
        ground.open(opened.append)
        spawn.settle()
        while not opened:
            spawn.ring()
            spawn.settle()
        if opened[0] is not None:
            raise opened[0]
        self.store = Store.open(self.disk, spawn, self.clock, settings, ground, ("run", ()))
        flusher = self.store.flusher
        assert flusher is not None
        flusher.on_step = self._flush_step
        self._struck = dict(self.disk.struck)
        loop = Loop(spawn)
        self._houses = {
            durability: House(ObservedHub(self.store, Settings(durability=durability), self.clock, "run"), loop)
            for durability in DURABILITIES
        }
        self.readers = []
        for client in self.clients:
            client.connection = None  # it was to the process before
        self.oracle.excused = set()
        self._slow = self.random.choice(((), (), ("journal-writer", "journal-syncer"), ("base",), ("run-writer",)))
        self._table = self._events()

    def _settings(self) -> Settings:
        choice = self.random.choice
        return Settings(
            databases=DATABASES,
            durability=choice(DURABILITIES),
            journal_segment_bytes=64 << 10,
            journal_retain_bytes=choice((0, 100_000, 300_000)),
            memtable_size=choice((8, 20, 40)),
            cache_bytes=choice((0, 0, 4 << 10, 64 << 20, 64 << 20)),
            snapshot_max_ms=choice((300, 5000, 100_000)),
            snapshot_max_bytes=choice((2000, 1 << 20)),
        )

    def _flush_step(self, step: str) -> None:
        if step == "release":
            self.counts["flushes"] += 1

    def _make_base(self) -> Base:
        return Base(ModelEngine(self.disk, "base"), "runs", lambda: None)

    def _make_builder(self) -> RunBuilder:
        return RunBuilder(self._open_run, clock=self.clock)

    def _open_run(self, name: str) -> ModelRunWriter:
        self.disk.empty("runs")
        return ModelRunWriter(self.disk, f"runs/{name}")

    @property
    def engine(self) -> Any:
        """The engine in the base's helper."""
        helper = next(helper for helper in reversed(self.spawn.machines) if helper.name == "base")
        return helper.target._engine

    def _contents(self) -> list[dict[bytes, tuple[bytes, int]]]:
        """What is there after a recovery, expired keys included."""
        below: dict[bytes, dict[bytes, bytes]] = {}
        engine = self.engine
        for row, value in engine._views[engine.newest].rows.items():
            if row[:1] == layout.RECORD:
                below.setdefault(row[: layout.PREFIX_BYTES], {})[row[layout.PREFIX_BYTES :]] = value
        found = []
        for space in self.store.spaces:
            records = {**below.get(space.prefix, {}), **space.records}
            found.append(
                {
                    key: (rec.value_of(record), rec.expires_of(record))
                    for key, record in records.items()
                    if not record[7] & TOMBSTONE
                }
            )
        return found

    # a life

    def _events(self) -> list[Callable[[], None]]:
        table: tuple[tuple[Callable[[], None], int], ...] = (
            (self._turn, 300),
            (self._work, 300),
            (self._send, 200),
            (self._ring, 25),
            (self._pass_time, 8),
            (self._jump, 1),
            (self._open_snapshot, 8),
            (self._read_snapshot, 40),
            (self._disconnect, 2),
            (self._lose_helper, 1),
            (self._fill_disk, 1),
            (self._make_room, 6),
            (self._arm, 1),
        )
        return [event for event, weight in table for _ in range(weight)]

    def _live(self, commits: int) -> bool:
        """Up to about so many commits; whether the process still lives."""
        until = self.counts["commits"] + commits
        self._most = self._steps + 40 * commits + 1000
        self._poisoned_for = 0
        draw = self.random.random
        table = self._table
        size = len(table)
        try:
            while self.counts["commits"] < until and self._steps < self._most:
                self._steps += 1
                table[int(draw() * size)]()
        except Crash:
            self.note("the armed crash")
            self._check_life()
            return False
        self._check_life()
        return True

    def _check_life(self) -> None:
        if self._faults.seen:
            raise Broken(f"FAULT {self._faults.seen[0]}")
        poisoned = self.store.poisoned
        if poisoned is not None and not self._struck_since("journal"):
            raise Broken(f"POISONED without a reason: {poisoned}")

    def unreadable(self) -> bool:
        """Whether the base had its faults in this life."""
        died_often = self.ground.restarts >= DEATHS_MAX
        return self._taken > 0 or "full" in self.oracle.excused or self._struck_since("base") or died_often

    def _struck_since(self, what: str) -> bool:
        return any(count > self._struck.get(kind, 0) for kind, count in self.disk.struck.items() if kind.endswith(what))

    def _turn(self) -> None:
        callbacks = self.spawn.callbacks
        if callbacks:
            for _ in range(1 + int(self.random.random() * 3)):
                if not callbacks:
                    break
                callbacks.popleft()()

    def _work(self) -> None:
        workers = [worker for worker in self.spawn.workers if worker.jobs]
        if not workers:
            return
        worker = workers[int(self.random.random() * len(workers))]
        if worker.name in self._slow and self.random.random() < 0.85:
            return
        self.spawn.work(worker)

    def _send(self) -> None:
        client = self.clients[int(self.random.random() * len(self.clients))]
        if self.store.poisoned is not None:
            self._poisoned_for += 1
            if self._poisoned_for > POISONED_SENDS:
                self._most = 0  # it has been seen enough
                return
        if not client.connected:
            client.connect(self._houses[client.durability])
        if client.outstanding < 8:
            client.send(self.workload.requests(client))

    def _ring(self) -> None:
        self.spawn.ring()

    def _pass_time(self) -> None:
        self.clock.ms += self.random.choice((1, 10, 200, 1000))
        self.spawn.ring_due()

    def _jump(self) -> None:
        """The wall clock is set, forth or back."""
        self.clock.offset += self.random.choice((-3000, -300, 300, 3000))
        self.counts["clock jumps"] += 1

    def _open_snapshot(self) -> None:
        self.readers = [reader for reader in self.readers if not reader.over]
        if len(self.readers) < 3:
            snapshot = self.store.snapshot()
            self.readers.append(Reader(self, self.oracle.moments[snapshot]))
            self.note(f"snapshot at {snapshot.seqno}")

    def _read_snapshot(self) -> None:
        if self.readers:
            reader = self.random.choice(self.readers)
            if self.random.random() < 0.03:
                reader.close()
            else:
                reader.step()

    def _disconnect(self) -> None:
        self.random.choice(self.clients).disconnect()

    def _lose_helper(self) -> None:
        helpers = [helper for helper in self.spawn.machines if helper.alive]
        self.spawn.machines = helpers
        if helpers and self.random.random() < 0.3:
            helper = self.random.choice(helpers)
            self._died(helper.name)
            helper.lose()

    def _died(self, name: str) -> None:
        self.note(f"{name} dies")
        self.counts[f"deaths of {name}"] += 1
        self.oracle.excused.add("death")

    def _fill_disk(self) -> None:
        if not self._taken and self.random.random() < 0.3:
            left = self.random.choice((0, 5_000, 100_000))
            self._taken = self.disk.room - left
            self.disk.room = left
            self.oracle.excused.add("full")
            self.counts["full disks"] += 1
            self.note(f"the disk is full, but for {left} bytes")

    def _make_room(self) -> None:
        if self._taken:
            self.disk.room += self._taken
            self._taken = 0
            self.note("there is room again")

    def _arm(self) -> None:
        """A fault at a step that is still to come."""
        steps = int(self.random.random() * 30)
        kind, prefix = self.random.choice(
            (
                ("crash", ""),
                ("crash", "base/"),
                ("crash", "runs/"),
                ("crash", "journal/MANIFEST"),
                ("death", "base/"),
                ("death", "runs/"),
                ("write", "base/"),
                ("sync", "base/"),
                ("write", "runs/"),
                ("sync", "runs/"),
                ("sync", "journal/"),
                ("write", "journal/"),
            )
        )
        if prefix == "journal/" and self.random.random() < 0.5:
            return
        if kind == "death":
            self.oracle.excused.add("death")
        self.note(f"armed: {kind} {prefix} in {steps}")
        self.disk.arm(kind, prefix, steps)

    # an end

    def _end(self, how: str | None = None) -> None:
        """The process ends, and another one starts."""
        if how is None:
            how = self.random.choice((KILL, KILL, POWER, POWER, POWER, STOP))
        if how == STOP and self.store.poisoned is None and self.random.random() < 0.9:
            how = self._stop()
        self.note(how.upper())
        self.counts[how] += 1
        if how == POWER:
            self.disk.power_cut()
        else:
            self.disk.kill()
        self._make_room()
        self._start(killed=how != POWER)

    def _stop(self) -> str:
        """A clean stop; then even a loss of power takes nothing."""
        self.disk.faults = []
        self._make_room()
        for client in self.clients:
            client.disconnect()
        last = self.store.last
        closed: list[BaseException | None] = []
        self.store.close(closed.append)
        self._settle(lambda: bool(closed), "the clean stop")
        self.store.close_ground()
        if closed[0] is None:
            self.oracle.told_always = self.oracle.told_any = max(last, self.oracle.told_always)
            self.counts["clean stops"] += 1
            return self.random.choice((KILL, POWER))
        return KILL

    # quiet

    def _settle(self, over: Callable[[], bool], what: str) -> None:
        """Everything goes on, and nothing new comes, until it is over."""
        spawn = self.spawn
        for _ in range(SETTLE_MAX):
            if spawn.callbacks:
                spawn.callbacks.popleft()()
                continue
            workers = [worker for worker in spawn.workers if worker.jobs]
            if workers:
                spawn.work(self.random.choice(workers))
            elif over():
                return
            elif not spawn.ring():
                break
        raise Broken(f"STUCK: {what} has no end")

    def _quiesce(self) -> None:
        """Nothing is asked for any more: what was in memory for somebody's sake must go, and what expired too."""
        self.disk.faults = []
        self._make_room()
        if self._poisoned():
            return
        for reader in self.readers:
            reader.close()
        self._settle(lambda: not any(client.outstanding for client in self.clients if client.connected), "a request")
        for client in self.clients:
            client.disconnect()
        if self._poisoned():  # by what had failed before
            return
        self.clock.ms += 300_000
        flusher = self.store.flusher
        assert flusher is not None
        self._settle(self._swept, "the sweeping of expired keys")
        self._settle(lambda: flusher.sealed is None, "a flush")
        flusher.want()
        self._settle(lambda: flusher.sealed is None and not self.store.dropped, "the last flush and the cleaning")
        self._check_life()
        self._check_leaks()

    def _poisoned(self) -> bool:
        return self.store.poisoned is not None

    def _swept(self) -> bool:
        now = self.store.now()
        return not any(row[1] and row[1] <= now for space in self.oracle.model.spaces for row in space.rows.values())

    def _check_leaks(self) -> None:
        store = self.store
        views, engine = store.views, self.engine
        left = {
            "snapshots": len(store.snapshots),
            "pins": views.pinned() + len(views._held),
            "version_bytes": views.version_bytes,
            "retired_bytes": views.retired_bytes,
            "sealed": sum(len(space.sealed) + len(space.retired) + len(space.settling) for space in store.spaces),
            "versions": sum(len(space.versions) for space in store.spaces),
            "unfreed": len(store._unfreed),
            "garbage": len(store.garbage),
            "asked": len(store.gatherer._asked),
            "backlog": len(store.counts._backlog),
            "calls": len(self.ground._calls),
            "views": len(engine._views) - 1,
        }
        if any(left.values()):
            raise Broken(f"LEAK: {left}")
        prefixes = {space.prefix for space in store.spaces}
        for row in engine._views[engine.newest].rows:
            if row[:1] == layout.RECORD and row[: layout.PREFIX_BYTES] not in prefixes:
                raise Broken(f"LEAK: {row!r} belongs to a generation that was dropped")
        if self._contents() != [space.rows for space in self.oracle.model.spaces]:
            raise Broken("STATE differs after the last flush")
        for number, space in enumerate(store.spaces):
            count = len(self.oracle.model.spaces[number].rows)
            if space.exact() and space.count != count:
                raise Broken(f"COUNT of {number} is {space.count}, exactly, and there are {count}")
