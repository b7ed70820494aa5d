"""Flushes that fail (C4, J2): no poison, nothing lost, tried again; whoever waits for one is told, and never hangs."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from keyhaus.core.errors import DiskFull, Poisoned, StorageError
from keyhaus.store import flush
from keyhaus.store.transaction import Transaction
from tests.support.based import Asked, BasedStore

MIB = 1 << 20
VALUE = b"v" * 60_000
FULL = OSError(errno.ENOSPC, "No space left on device")
BROKEN = OSError(errno.EIO, "Input/output error")


def failing(error: Exception, *methods: str) -> Callable[[str, str], None]:
    def fail(helper: str, method: str) -> None:
        if method in methods:
            raise error

    return fail


def small() -> BasedStore:
    return BasedStore(memtable_bytes=MIB, journal_segment_bytes=4 * MIB)


def fill_until_it_waits(it: BasedStore) -> tuple[list[bytes], Asked]:
    """Writes until one has to wait for a flush; what was accepted, and the one that waits."""
    accepted: list[bytes] = []
    for number in range(200):
        it.clock.ms += 1000  # slowing down is not what this is about
        asked = it.put(b"%d" % number, VALUE)
        it.turns()
        for _ in range(20):
            if asked.done or it.store.flusher is None or it.store.flusher.active_bytes() > flush.STOP_AT * MIB:
                break
            it.clock.ms += 60_000
            it.spawn.ring()
            it.turns()
        if not asked.done:
            return accepted, asked
        asked.result()
        accepted.append(b"%d" % number)
    raise AssertionError("nothing ever waited")


def everything_is_there(it: BasedStore, accepted: list[bytes]) -> None:
    assert sorted(it.rows()) == sorted(accepted)
    assert it.until(it.count()) == len(accepted)


@pytest.mark.parametrize("method", ["add", "finish", "ingest"])
@pytest.mark.parametrize("error", [FULL, BROKEN], ids=["ENOSPC", "EIO"])
def test_a_flush_that_fails_is_tried_again(method: str, error: OSError) -> None:
    it = small()
    it.soon(it.put(b"a", b"1"))
    it.fails = failing(error, method)
    over = it.begin_flush()
    it.settle()
    assert it.store.flusher is not None
    for _ in range(12):
        it.spawn.ring()
        it.settle()
    assert not over.fired
    assert it.store.flusher.failures > 1
    assert it.store.poisoned is None
    it.soon(it.put(b"b", b"2"))
    assert it.until(it.get(b"a")) == b"1"
    it.fails = lambda helper, method: None
    for _ in range(20):
        it.spawn.ring()
        it.settle()
    assert over.fired
    assert it.store.flusher.failure == ""
    everything_is_there(it, [b"a", b"b"])
    it.synced()
    it.power_cut()
    everything_is_there(it, [b"a", b"b"])


def test_whoever_waits_for_a_flush_that_the_disk_has_no_room_for_is_told() -> None:
    it = small()
    accepted, waiting = fill_until_it_waits(it)
    assert not waiting.done
    it.fails = failing(FULL, "finish")
    it.settle()
    with pytest.raises(DiskFull, match="No space left"):
        it.until(waiting)
    with pytest.raises(DiskFull, match="No space left"):
        it.until(it.put(b"more", VALUE))
    assert it.until(it.get(accepted[0])) == VALUE
    # A deletion is how room is made, so it is taken.
    assert it.until(it.delete(accepted.pop())) == 1
    it.fails = lambda helper, method: None
    for _ in range(30):
        it.spawn.ring()
        it.settle()
    it.until(it.put(b"more", VALUE))
    everything_is_there(it, [*accepted, b"more"])


@pytest.mark.parametrize("when", ["written", "failed"])
def test_whoever_waits_for_a_flush_when_the_journal_is_poisoned_is_told(when: str) -> None:
    it = small()
    _, waiting = fill_until_it_waits(it)
    if when == "failed":
        it.fails = failing(BROKEN, "finish")
    assert it.store.journal is not None
    it.store.journal.fail(BROKEN)
    with pytest.raises(Poisoned):
        it.until(waiting)
    with pytest.raises(Poisoned):
        it.until(it.put(b"more", VALUE))


def test_a_flush_that_fails_for_long_is_told_to_whoever_waits() -> None:
    """The base is damaged, say: a wait that may never end is no answer."""
    it = small()
    accepted, waiting = fill_until_it_waits(it)
    it.fails = failing(BROKEN, "finish")
    with pytest.raises(StorageError, match="Input/output error"):
        it.until(waiting)
    assert it.until(it.get(accepted[0])) == VALUE


def test_what_failed_attempts_have_written_takes_no_room() -> None:
    it = small()
    it.soon(it.put(b"a", b"1"))
    it.fails = failing(BROKEN, "ingest")
    it.begin_flush()
    for _ in range(12):
        it.settle()
        it.spawn.ring()
    assert len(it.disk.names("runs")) <= 1


def test_a_helper_that_can_not_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process, or no descriptor, is to be had for a while."""
    it = small()
    it.soon(it.put(b"a", b"1"))
    start = it.spawn.helper

    def none_left(*args: Any, **named: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(it.spawn, "helper", none_left)
    over = it.begin_flush()
    it.settle()
    it.base.lose()
    it.settle()
    for _ in range(10):
        it.spawn.ring()
        it.settle()
    assert not over.fired
    monkeypatch.setattr(it.spawn, "helper", start)
    for _ in range(20):
        it.spawn.ring()
        it.settle()
    assert over.fired
    everything_is_there(it, [b"a"])


def test_a_base_that_does_not_open_again_leaves_no_processes_behind() -> None:
    it = small()
    it.soon(it.put(b"a", b"1"))
    it.flush()
    it.fails = failing(BROKEN, "meta")
    cold = it.ask(lambda tx: tx.page(b"", None, 10))
    it.base.lose()
    with pytest.raises(StorageError, match="Input/output"):
        it.until(cold)
    for _ in range(30):
        it.settle()
        it.spawn.ring()
    living = [helper for helper in it.spawn.helpers if helper.name == "base" and not helper.lost]
    assert len(living) <= 1
    it.fails = lambda helper, method: None
    assert it.until(it.get(b"a")) == b"1"


def test_an_ingest_that_fails_makes_the_base_be_opened_again() -> None:
    """After an error RocksDB may take no further run until then, and may be found to hold the one that failed."""
    for held in (False, True):
        it = BasedStore(cache_bytes=0)
        it.until(it.put(b"a", b"1"))
        it.flush()
        it.soon(it.put(b"a", b"2"))
        it.soon(it.put(b"b", b"2"))
        refused: list[str] = []

        def refuse(helper: str, method: str, it: BasedStore = it, refused: list[str] = refused) -> None:
            life = len([one for one in it.spawn.helpers if one.name == "base"])
            if method == "ingest" and life == 1:
                refused.append(method)
                raise BROKEN

        if held:
            it.after = failing(BROKEN, "ingest")
        else:
            it.fails = refuse
        over = it.begin_flush()
        it.settle()
        it.after = lambda helper, method: None
        for _ in range(20):
            it.spawn.ring()
            it.settle()
        assert over.fired, f"it is never opened again ({held})"
        assert it.until(it.count()) == 2
        assert it.rows() == {b"a": b"2", b"b": b"2"}
        assert it.store.ground is not None
        assert it.store.ground.restarts == 1


def test_the_sweeper_that_may_not_commit_leaves_the_memtables_size_alone() -> None:
    it = small()
    for number in range(50):
        it.soon(it.put(b"%d" % number, b"v", expires=it.clock.ms + 1))
    assert it.store.journal is not None
    it.synced()
    assert it.store.flusher is not None
    before = it.store.flusher.active_bytes()
    it.store.journal.fail(BROKEN)
    for _ in range(30):
        it.clock.ms += 100
        it.spawn.ring()
        it.settle()
    assert it.store.flusher.active_bytes() == before


def test_nobody_waits_long_for_a_slot_after_a_large_commit() -> None:
    """A large commit at the very end of the room takes a slot of many seconds: those behind it do not wait for that."""
    it = small()
    assert it.store.flusher is not None
    it.until(it.put(b"first", VALUE))
    it.begin_flush()
    it.turns()
    number = 0
    while it.store.flusher.active_bytes() < 0.97 * flush.STOP_AT * MIB:
        it.clock.ms += 1000
        it.put(b"%d" % number, b"v" * 5_000)
        it.turns()
        number += 1
    it.clock.ms += 1000
    it.put(b"large", b"v" * 20_000)
    it.turns()
    transaction = Transaction(it.store)
    transaction.put(b"next", b"v")
    it.store.flusher.stall(transaction, 4 * MIB, False)
    behind = Transaction(it.store)
    it.store.flusher.stall(behind, 10, False)
    assert behind.slot - it.store.monotonic_ns() <= flush.SLOT_NS_MAX
