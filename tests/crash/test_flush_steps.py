"""The process ends at a named step of a flush, with the real RocksDB and real helpers: a restart has everything once.

A child process writes, flushes, and kills itself at the step; what it could have told by then stands in a file.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import uvloop

from keyhaus.core.disk import OsDisk
from keyhaus.core.helper_process import HelperProcess
from keyhaus.core.settings import Settings
from keyhaus.core.wait import Wait
from keyhaus.server.spawn import LoopSpawn
from keyhaus.store.ground import Ground
from keyhaus.store.record import value_of
from keyhaus.store.snapshot import Snapshot
from keyhaus.store.store import Store
from keyhaus.store.transaction import Transaction

STEPS: Final = ("seal", "finish", "sync", "ingest", "retire", "release")
KEYS: Final = 3000
ROOT: Final = Path(__file__).parents[2]
OPTIONS: Final[dict[str, Any]] = {}


class Opened:
    """A store over real files, helpers and RocksDB, in a loop of its own."""

    def __init__(self, directory: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        spawn = LoopSpawn(loop)
        self.helpers: list[HelperProcess] = []
        start = spawn.helper

        def helper(*args: Any, **named: Any) -> HelperProcess:
            self.helpers.append(start(*args, **named))
            return self.helpers[-1]

        spawn.helper = helper  # type: ignore[method-assign]
        place = (str(directory), OPTIONS, 1 << 20)
        ground = Ground(spawn, "keyhaus.store.base:open_rocksdb", place)
        opened = loop.create_future()
        ground.open(opened.set_result)
        assert loop.run_until_complete(opened) is None
        settings = Settings(databases=3, journal_segment_bytes=64 << 10, journal_retain_bytes=0, cache_bytes=0)
        writer = ("keyhaus.store.runs:open_rocksdb", place)
        self.store = Store.open(OsDisk(directory), spawn, settings=settings, ground=ground, writer=writer)

    def wait(self, wait: Wait) -> None:
        future = self.loop.create_future()
        wait.on_fire(lambda: future.done() or future.set_result(None))
        self.loop.run_until_complete(asyncio.wait_for(future, 30))

    def drive(self, running: Any) -> Any:
        while True:
            try:
                wait = running.send(None)
            except StopIteration as stop:
                return stop.value
            self.wait(wait)

    def run(self, command: Any, database: int = 0) -> Any:
        transaction = Transaction(self.store, database)
        try:
            while True:
                transaction.begin()
                result = command(transaction)
                wait = transaction.gather() if transaction.needs else transaction.commit()
                if wait is None:
                    return result
                transaction.rollback()
                self.wait(wait)
        finally:
            transaction.let_go()

    def sync(self) -> None:
        journal = self.store.journal
        assert journal is not None
        journal.demand(self.store.last)
        while self.store.synced < self.store.last:
            moved = Wait()
            journal.wait(moved.fire)
            self.wait(moved)

    def flush(self) -> None:
        assert self.store.flusher is not None
        self.wait(self.store.flusher.want())

    def rows(self, database: int, source: Snapshot) -> dict[str, str]:
        found: dict[str, str] = {}
        start: bytes | None = b""
        while start is not None:
            page, start = self.drive(source.page(database, start, None, 500))
            for key, record in page:
                assert key.decode() not in found, "a row came twice"
                found[key.decode()] = value_of(record).decode()
        return found

    def everything(self) -> list[dict[str, str]]:
        snapshot = self.store.snapshot()
        try:
            return [self.rows(database, snapshot) for database in range(3)]
        finally:
            snapshot.close()

    def close(self) -> None:
        closed = self.loop.create_future()
        self.store.close(closed.set_result)
        assert self.loop.run_until_complete(asyncio.wait_for(closed, 30)) is None
        self.store.close_ground()
        for helper in self.helpers:  # an answer, or that it has ended
            ended = self.loop.create_future()
            helper.call("stats", (), lambda result, error, ended=ended: ended.set_result(None))
            self.loop.run_until_complete(asyncio.wait_for(ended, 30))


def child(directory: Path, step: str, pinned: bool) -> None:
    """Two flushes; at the step of the second this process is gone."""
    opened = Opened(directory, uvloop.new_event_loop())
    model: list[dict[str, str]] = [{}, {}, {}]

    def put(database: int, numbers: range, value: str) -> None:
        for at in range(0, len(numbers), 100):  # so that the journal rolls

            def command(transaction: Transaction, part: range = numbers[at : at + 100]) -> None:
                for number in part:
                    transaction.put(b"%05d" % number, value.encode())

            opened.run(command, database)
        model[database].update({f"{number:05}": value for number in numbers})

    put(0, range(KEYS), "first")
    put(1, range(KEYS), "first")
    opened.flush()
    opened.loop.run_until_complete(asyncio.sleep(0))
    snapshots = [opened.store.snapshot()] if pinned else []
    put(0, range(0, 2 * KEYS, 3), "second")  # blind, most of them
    opened.run(lambda tx: [tx.delete(b"%05d" % number) for number in range(0, KEYS, 7)])
    for number in range(0, KEYS, 7):
        model[0].pop(f"{number:05}", None)
    opened.run(lambda tx: tx.flush(1))
    model[1] = {}
    put(2, range(100), "third")
    opened.run(lambda tx: tx.swap(0, 2))
    model[0], model[2] = model[2], model[0]
    if pinned:
        snapshots.append(opened.store.snapshot())
    opened.sync()
    (directory / "model").write_text(json.dumps(model))
    assert opened.store.flusher is not None

    def reached(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    opened.store.flusher.on_step = reached
    opened.flush()
    raise AssertionError("the step never came")


@pytest.mark.parametrize("pinned", [False, True], ids=["alone", "with snapshots"])
@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_a_step_of_a_flush_leaves_everything_once(step: str, pinned: bool, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from tests.crash.test_flush_steps import child; "
        f"child(Path({str(tmp_path)!r}), {step!r}, {pinned})"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), *sys.path)))}
    ended = subprocess.run(
        (sys.executable, "-c", code), env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    model = json.loads((tmp_path / "model").read_text())
    loop = uvloop.new_event_loop()
    opened = Opened(tmp_path, loop)
    assert opened.everything() == model
    for database, rows in enumerate(model):
        assert opened.run(lambda tx: tx.count(), database) == len(rows)
    opened.flush()
    assert opened.everything() == model
    assert [opened.run(lambda tx: tx.count(), database) for database in range(3)] == [len(rows) for rows in model]
    opened.close()
    loop.close()


@pytest.mark.parametrize("step", ["seal", "finish", "sync"])
def test_the_run_outlives_a_base_that_ends_alone(step: str, tmp_path: Path) -> None:
    """The base is opened again while the run is written or waits for it: the flush need not begin anew."""
    loop = uvloop.new_event_loop()
    opened = Opened(tmp_path, loop)
    store = opened.store
    assert store.flusher is not None and store.ground is not None
    opened.run(lambda tx: [tx.put(b"%05d" % number, b"value") for number in range(KEYS)])
    base = opened.helpers[0]

    def reached(name: str) -> None:
        if name == step:
            base.kill()

    store.flusher.on_step = reached
    opened.flush()
    assert (store.ground.restarts, store.flusher.failures, store.flusher.flushes) == (1, 0, 1)
    assert opened.everything() == [{f"{number:05}": "value" for number in range(KEYS)}, {}, {}]
    opened.close()
    loop.close()
