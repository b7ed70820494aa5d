"""The order of the journal's own jobs, step by step over the simulated scheduler."""

from __future__ import annotations

import random

import pytest

from keyhaus.core.errors import LimitExceeded, Poisoned
from keyhaus.core.settings import Settings
from keyhaus.journal import format as layout
from keyhaus.journal import recovery
from keyhaus.journal.journal import Journal
from keyhaus.store.store import Store
from keyhaus.store.transaction import Transaction
from tests.support.simulation import SimulatedDisk, SimulatedSpawn, SimulatedWorker


def _store(durability: str = "none") -> tuple[Store, SimulatedSpawn, Journal]:
    generator = random.Random(1)
    spawn = SimulatedSpawn(generator)
    settings = Settings(durability=durability, journal_segment_bytes=64 * 1024)
    store = Store.open(SimulatedDisk(generator), spawn, settings=settings)
    spawn.settle()
    assert store.journal is not None
    return store, spawn, store.journal


def _put(store: Store, key: bytes, value: bytes = b"v") -> None:
    transaction = Transaction(store)
    transaction.put(key, value)
    assert transaction.commit() is None


def _worker(spawn: SimulatedSpawn, name: str) -> SimulatedWorker:
    return next(worker for worker in spawn.workers if worker.name == name)


def _sync_under_way() -> tuple[Store, SimulatedSpawn, Journal]:
    """A store with `everysec` whose syncer has begun, and not ended."""
    store, spawn, journal = _store("everysec")
    _put(store, b"a")
    spawn.settle()
    while not _worker(spawn, "journal-syncer").jobs:
        assert spawn.ring()
        spawn.turn()
    return store, spawn, journal


def test_a_file_is_never_synced_by_two_threads_at_once() -> None:
    """Of two syncs that overlap the kernel tells only one of an error, and the other would be believed."""
    store, spawn, journal = _sync_under_way()
    _put(store, b"b")
    journal.demand(store.last)
    while spawn.turn():
        pass
    assert not _worker(spawn, "journal-writer").jobs
    spawn.settle()
    assert journal.synced == store.last


def test_a_segment_is_not_left_while_it_is_being_synced() -> None:
    store, spawn, journal = _sync_under_way()
    number = journal.manifest.segments[-1].number
    for step in range(40):
        transaction = Transaction(store)
        transaction.put(b"%d" % step, bytes(3000))
        if transaction.commit() is not None:
            break
        while spawn.turn() or spawn.work(_worker(spawn, "journal-writer")):
            pass
    else:
        pytest.fail("the segment never filled up")
    assert journal.manifest.segments[-1].number == number
    spawn.settle()
    _put(store, b"z", bytes(3000))
    spawn.settle()
    assert journal.poisoned is None
    assert journal.written == store.last


def test_one_waiter_that_fails_does_not_silence_the_others() -> None:
    store, spawn, journal = _store()
    heard: list[int] = []

    def fails() -> None:
        raise LimitExceeded("nothing", 1, 0)

    _put(store, b"a")
    journal.wait(fails)
    journal.wait(lambda: heard.append(journal.written))
    spawn.settle()
    assert heard == [store.last]


def test_a_failed_preparation_that_is_no_lack_of_room_poisons() -> None:
    generator = random.Random(1)
    disk, spawn = SimulatedDisk(generator), SimulatedSpawn(generator)
    store = Store.open(disk, spawn, settings=Settings(journal_segment_bytes=64 * 1024))
    disk.sync_failures = 1.0
    spawn.settle()
    assert store.poisoned is not None


def test_a_commit_that_fails_in_memory_poisons_and_gives_its_number_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    store, spawn, _ = _store()
    before = store.last

    def fails(key: bytes, record: bytes, expires: int) -> None:
        raise MemoryError

    monkeypatch.setattr("keyhaus.store.keyspace.Keyspace.put", lambda space, *args: fails(*args))
    with pytest.raises(MemoryError):
        _put(store, b"a")
    assert store.last == before + 1
    assert store.poisoned is not None
    spawn.settle()
    with pytest.raises(Poisoned):
        _put(store, b"b")


def test_idle_starts_leave_a_database_that_opens() -> None:
    """A base that covers every commit, and starts one after another: no jump is lost from the chain."""
    generator = random.Random(1)
    disk = SimulatedDisk(generator)
    base_seqno = 0
    for _ in range(5):
        spawn = SimulatedSpawn(generator)
        started = recovery.start(
            disk, generator.randbytes, lambda frame: None, segment_bytes=64 << 10, base_seqno=base_seqno
        )
        journal = Journal(disk, spawn, started, clock=lambda: 0, segment_bytes=64 << 10, max_bytes=1 << 40)
        if not base_seqno:
            journal.append(journal.last + 1, layout.frame(journal.last + 1, 0, []))
            journal.demand(journal.last)
            spawn.settle()
            base_seqno = journal.synced
        journal.release(base_seqno)
        spawn.settle()
        disk.kill()
