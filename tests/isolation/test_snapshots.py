"""Snapshots: what they show is the store at one moment, whatever happens meanwhile, and an idle one stops nobody (S8).

Random histories over the model engine, and a soak over the real RocksDB that lasts `KEYHAUS_SNAPSHOT_SECONDS`.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import uvloop

from keyhaus.core.errors import SnapshotTooOld
from keyhaus.store.lock_requests import Client
from keyhaus.store.record import value_of
from keyhaus.store.snapshot import Snapshot
from keyhaus.store.transaction import Transaction
from tests.crash.test_flush_steps import Opened
from tests.support.based import BasedStore

HISTORIES: Final = int(os.environ.get("KEYHAUS_HISTORIES", "600")) // 20
SECONDS: Final = float(os.environ.get("KEYHAUS_SNAPSHOT_SECONDS", "4"))
DATABASES: Final = 3

State = list[dict[bytes, tuple[bytes, int]]]


class Reading:
    """A snapshot that is read little by little, and what it has to show."""

    def __init__(self, it: BasedStore, state: State) -> None:
        self.snapshot = it.store.snapshot()
        now = self.snapshot.unix_ms
        self.expected = [
            {key: value for key, (value, expires) in space.items() if not expires or expires > now} for space in state
        ]
        self.database = it.random.randrange(DATABASES)
        self.reverse = it.random.random() < 0.4
        self.rows: list[tuple[bytes, bytes]] = []
        self.at: bytes | None = None
        self.over = False

    def page(self, it: BasedStore) -> None:
        low, high = (b"", self.at) if self.reverse else (self.at or b"", None)
        limit = it.random.randint(1, 9)
        rows, self.at = it.until(it.driven(self.snapshot.page(self.database, low, high, limit, reverse=self.reverse)))
        self.rows += [(key, value_of(record)) for key, record in rows]
        self.over = self.at is None

    def get(self, it: BasedStore, key: bytes) -> None:
        record = it.until(it.driven(self.snapshot.get(self.database, key)))
        assert (None if record is None else value_of(record)) == self.expected[self.database].get(key)

    def check(self) -> None:
        expected = sorted(self.expected[self.database].items(), reverse=self.reverse)
        assert self.rows == expected


class History:
    """One database under random commits, and the snapshots that are read meanwhile."""

    def __init__(self, seed: int) -> None:
        self.it = BasedStore(seed, databases=DATABASES, cache_bytes=random.Random(seed).choice((0, 3000, 1 << 20)))
        self.random = random.Random(seed)
        self.state: State = [{} for _ in range(DATABASES)]
        self.readings: list[Reading] = []
        self.number = self.finished = 0

    def commit(self) -> None:
        it, database = self.it, self.random.randrange(DATABASES)
        key = b"%02d" % self.random.randrange(30)
        self.number += 1
        match self.random.choices(range(5), (60, 20, 8, 2, 3))[0]:
            case 0:
                expires = it.store.now() + self.random.choice((5, 50, 5000)) if self.random.random() < 0.2 else 0
                it.soon(it.put(key, b"%d" % self.number, expires, database))
                self.state[database][key] = (b"%d" % self.number, expires)
            case 1:
                it.soon(it.ask(lambda tx: tx.delete(key), database))
                self.state[database].pop(key, None)
            case 2:
                other = self.random.randrange(DATABASES)
                it.soon(it.ask(lambda tx: tx.swap(database, other)))
                state = self.state
                state[database], state[other] = state[other], state[database]
            case 3:
                it.soon(it.ask(lambda tx: [tx.flush(number) for number in range(DATABASES)]))
                self.state = [{} for _ in range(DATABASES)]
            case _:
                it.soon(it.ask(lambda tx: tx.flush(database)))
                self.state[database] = {}

    def step(self) -> None:
        it = self.it
        match self.random.choices(range(7), (50, 8, 10, 6, 12, 8, 8))[0]:
            case 0:
                self.commit()
            case 1:
                it.clock.ms += self.random.choice((1, 10, 100))
                it.begin_flush()
            case 2:
                it.settle() if self.random.random() < 0.5 else it.turns()
            case 3 if len(self.readings) < 4:
                self.readings.append(Reading(it, self.state))
            case 4 if self.readings:
                self.read(self.random.choice(self.readings))
            case 5 if self.readings:
                self.random.choice(self.readings).get(it, b"%02d" % self.random.randrange(30))
            case _:
                it.spawn.work(self.random.choice(it.spawn.workers))

    def read(self, reading: Reading) -> None:
        reading.page(self.it)
        if reading.over:
            self.readings.remove(reading)
            reading.check()
            reading.snapshot.close()
            self.finished += 1


def test_a_snapshot_shows_its_moment_whatever_comes_between_two_pages(seed: int) -> None:
    finished = 0
    for number in range(HISTORIES):
        history = History(seed + number)
        try:
            for _ in range(200):
                history.step()
            while history.readings:
                history.read(history.readings[0])
        except AssertionError as error:
            raise AssertionError(f"history {seed} + {number}: {error}") from error
        finished += history.finished
        nothing_is_kept(history.it)
    assert finished > 2 * HISTORIES


def nothing_is_kept(it: BasedStore) -> None:
    """Once nobody reads an older view, nothing of it is left."""
    it.flush()
    it.settle()
    views = it.store.views
    assert (views.keep, views.version_bytes, views.retired_bytes, views.pinned()) == (0, 0, 0, 0)
    for space in it.store.spaces:
        assert space.retired == []
        assert not any(table.versions for table in space.tables(-1))
    assert len(it.store.snapshots) == 0


def test_an_idle_snapshot_ends_by_its_age_and_no_other_does() -> None:
    it = BasedStore(snapshot_max_ms=1000)
    it.soon(it.put(b"a", b"1"))
    old = it.store.snapshot()
    it.spawn.now_ms += 600
    young = it.store.snapshot()
    it.soon(it.put(b"a", b"2"))
    while old.ended is None:
        assert it.spawn.ring()
    with pytest.raises(SnapshotTooOld, match="snapshot-max-ms"):
        it.until(it.driven(old.page(0, b"", None, 10)))
    assert value_of(it.until(it.driven(young.get(0, b"a")))) == b"1"
    old.close()
    young.close()
    nothing_is_kept(it)


def test_a_transaction_may_end_while_its_keys_are_counted() -> None:
    it = BasedStore(cache_bytes=0)
    for key in (b"a", b"b"):
        it.soon(it.put(key, b"1"))
    it.flush()
    it.settle()
    it.soon(it.put(b"a", b"2"))  # nobody knows whether the base has it
    transaction = it.store.transactions.begin("readonly", 0, Client())
    transaction.enter(False)
    transaction.count()
    counted = transaction.gather()
    it.store.transactions.end(transaction)
    it.settle()
    assert counted.fired
    nothing_is_kept(it)


@pytest.mark.parametrize("flushes", [False, True], ids=["versions", "retired tables"])
def test_an_idle_snapshot_never_stops_writers(flushes: bool) -> None:
    it = BasedStore(snapshot_max_bytes=1 << 20, memtable_bytes=1 << 20, journal_segment_bytes=4 << 20)
    for number in range(200):
        it.clock.ms += 1000
        it.until(it.put(b"%d" % number, b"v" * 10_000))
    oldest = it.store.snapshot()
    for number in range(600):
        it.clock.ms += 1000
        it.until(it.put(b"%d" % (number % 200), b"%d:" % number + b"v" * 10_000))
        if flushes and number % 50 == 49:
            it.flush()
        it.settle()
        assert it.store.snapshots.retained() < 3 << 20, "what a snapshot retains has a bound"
    with pytest.raises(SnapshotTooOld, match="snapshot-max-bytes"):
        it.until(it.driven(oldest.page(0, b"", None, 10)))
    late = it.store.snapshot()
    it.until(it.put(b"0", b"later"))
    assert value_of(it.until(it.driven(late.get(0, b"0")))) != b"later"
    oldest.close()
    late.close()
    nothing_is_kept(it)


def test_a_snapshot_that_does_not_age_is_read_to_its_end() -> None:
    """It may retain as much again as there is data: the state file would never be whole else, where much is written."""
    it = BasedStore(snapshot_max_bytes=1 << 20, snapshot_max_ms=1000, memtable_bytes=64 << 20)
    for number in range(300):
        it.until(it.put(b"%03d" % number, b"old" * 3_000))
    snapshot, aging = it.store.snapshot(aging=False), it.store.snapshot()
    for number in range(900):
        it.clock.ms += 1000
        it.until(it.put(b"%03d" % (number % 300), b"new" * 3_000))
        it.settle()
    rows, following = it.until(it.driven(snapshot.page(0, b"", None, 400)))
    assert following is None and [value_of(record) for _, record in rows] == [b"old" * 3_000] * 300
    assert it.store.snapshots.retained() < 2 * 300 * 9_100
    with pytest.raises(SnapshotTooOld):
        it.until(it.driven(aging.page(0, b"", None, 10)))
    snapshot.close()
    aging.close()
    nothing_is_kept(it)


# Over the real RocksDB.


class Soak:
    """Commits, flushes and scans at snapshots, side by side, over real files."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.loop = uvloop.new_event_loop()
        self.opened = Opened(directory, self.loop)
        self.model: dict[bytes, bytes] = {}
        self.commits = self.scans = self.rows = 0
        self.until = time.monotonic() + SECONDS

    async def drive(self, running: Any) -> Any:
        while True:
            try:
                wait = running.send(None)
            except StopIteration as stop:
                return stop.value
            fired = self.loop.create_future()
            wait.on_fire(lambda fired=fired: fired.done() or fired.set_result(None))
            await fired

    async def run(self, command: Callable[[Transaction], Any]) -> None:
        transaction = Transaction(self.opened.store)
        while True:
            transaction.begin()
            command(transaction)
            wait = transaction.commit()
            if wait is None:
                return
            transaction.rollback()
            await self.drive(wait.__await__())

    async def write(self) -> None:
        opened, choices = self.opened, self.random
        while time.monotonic() < self.until:
            for _ in range(200):
                key = b"%06d" % choices.randrange(20_000)
                self.commits += 1
                if choices.random() < 0.2:
                    await self.run(lambda tx, key=key: tx.delete(key))
                    self.model.pop(key, None)
                else:
                    value = b"%d:" % self.commits + b"v" * choices.randrange(200)
                    await self.run(lambda tx, key=key, value=value: tx.put(key, value))
                    self.model[key] = value
            if choices.random() < 0.05:
                assert opened.store.flusher is not None
                opened.store.flusher.want()
            if choices.random() < 0.002:
                await self.run(lambda tx: tx.flush(0))
                self.model.clear()
            await asyncio.sleep(0.002)

    async def scan(self) -> None:
        while time.monotonic() < self.until:
            expected = dict(self.model)
            snapshot: Snapshot = self.opened.store.snapshot()
            try:
                start: bytes | None = b""
                found: list[tuple[bytes, bytes]] = []
                while start is not None:
                    page, start = await self.drive(snapshot.page(0, start, None, 500))
                    found += [(key, value_of(record)) for key, record in page]
                    if self.random.random() < 0.2:
                        await asyncio.sleep(self.random.random() * 0.05)
            finally:
                snapshot.close()
            assert found == sorted(expected.items())
            self.scans += 1
            self.rows += len(found)

    async def all(self) -> None:
        await asyncio.gather(self.write(), self.scan(), self.scan(), self.scan())


def test_scans_of_rocksdb_beside_writes_show_no_wrong_row(
    tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    soak = Soak(tmp_path, seed)
    soak.loop.run_until_complete(soak.all())
    flusher = soak.opened.store.flusher
    assert flusher is not None
    flushes = flusher.flushes
    views = soak.opened.store.views
    soak.opened.flush()
    soak.loop.run_until_complete(asyncio.sleep(0))
    assert views.version_bytes == 0
    assert len(soak.opened.store.snapshots) == 0
    soak.opened.close()
    soak.loop.close()
    with capsys.disabled():
        print(
            f" {soak.commits} commits, {flushes} flushes, {soak.scans} scans of {soak.rows} rows, 0 wrong (seed {seed})"
        )
    assert soak.scans > 2
