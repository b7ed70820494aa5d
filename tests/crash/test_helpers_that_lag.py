"""A base whose helpers answer late, early, in the wrong moment, or not at all: nothing wrong is read (S2, S3, S5).

The helpers do what the test lets them do, one call at a time; see tests/support/based.py.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from keyhaus.core.errors import Corruption, SnapshotTooOld, StorageError
from keyhaus.store import counts, flush
from keyhaus.store.record import value_of
from keyhaus.store.transaction import Transaction
from tests.support.based import BasedStore

HISTORIES = int(os.environ.get("KEYHAUS_HISTORIES", "600")) // 30


def world(**settings: Any) -> BasedStore:
    """A store whose base has `old`, `other` and `third`, and whose memory has nothing."""
    store = BasedStore(**settings)
    for key in (b"old", b"other", b"third"):
        store.until(store.put(key, b"1"))
    store.flush()
    assert store.store.spaces[0].records == {}
    store.forget_rows()
    return store


# S2: answers of a view


def test_an_answer_of_an_older_view_counts_for_that_view_only() -> None:
    """The helper lags: it tells what was there before a flush, after that flush."""
    it = world()
    cold = it.get(b"old")
    it.turns()
    assert list(it.base.asked) == ["get"]
    it.soon(it.put(b"old", b"2"))
    over = it.begin_flush()
    it.write_run()
    assert list(it.base.asked) == ["get", "ingest"]
    it.work(it.base)  # the row as it was before the write
    assert cold.result() == b"2", "what a newer memtable says hides the base"
    it.settle()
    assert over.fired
    assert it.until(it.get(b"old")) == b"2"
    assert it.rows() == {b"old": b"2", b"other": b"1", b"third": b"1"}


def test_a_reader_of_an_older_view_is_served_after_the_flush() -> None:
    it = world()
    snapshot = it.store.snapshot()
    it.until(it.put(b"old", b"2"))
    it.until(it.delete(b"other"))
    it.flush()
    it.until(it.put(b"third", b"3"))
    it.flush()
    rows, following = it.until(it.driven(snapshot.page(0, b"", None, 100)))
    assert [(key, record[8:]) for key, record in rows] == [(b"old", b"1"), (b"other", b"1"), (b"third", b"1")]
    assert following is None
    snapshot.close()


def test_a_helper_that_runs_ahead_is_asked_for_the_view_that_was_meant() -> None:
    """It has ingested, but the store has not heard of it: what is asked meanwhile is of the view before."""
    it = world()
    it.until(it.put(b"old", b"2"))
    it.begin_flush()
    it.write_run()
    assert it.spawn.work(it.base.worker)  # ingested; the answer is not heard
    snapshot = it.store.snapshot()
    newest = it.store.views.newest
    cold = it.get(b"other")
    deleted = it.delete(b"third")
    it.settle()
    assert it.store.views.newest == newest + 1
    assert cold.result() == b"1"
    assert deleted.result() == 1
    assert {args[0] for method, args in it.calls if method == "get"} >= {newest}
    rows, _ = it.until(it.driven(snapshot.page(0, b"", None, 100)))
    assert [(key, record[8:]) for key, record in rows] == [(b"old", b"2"), (b"other", b"1"), (b"third", b"1")]
    snapshot.close()
    assert it.rows() == {b"old": b"2", b"other": b"1"}


def test_a_sealed_memtable_stays_until_nobody_reads_an_older_view() -> None:
    it = world()
    snapshot = it.store.snapshot()
    it.until(it.put(b"old", b"2"))
    it.flush()
    space = it.store.spaces[0]
    assert len(space.retired) == 1
    assert it.store.views.retired_bytes > 0
    snapshot.close()
    it.settle()
    assert space.retired == []
    assert it.store.views.retired_bytes == 0
    assert ("release", (1,)) in it.calls


# S3: the row cache


def test_a_fill_that_arrives_after_a_flush_and_a_write_is_not_kept() -> None:
    """It was asked for in the view before the flush, and heard after a newer record has come and gone into the base."""
    it = world()
    it.soon(it.put(b"third", b"3"))
    it.begin_flush()
    it.write_run()
    cold = it.get(b"old")
    it.turns()
    assert list(it.base.asked) == ["ingest", "get"]
    it.work(it.base)
    it.soon(it.put(b"old", b"2"))
    it.work(it.base, len(it.base.asked))
    assert cold.result() == b"2"
    row = it.store.spaces[0].prefix + b"old"
    assert it.store.views.cache.peek(row) is None
    it.flush()
    assert it.until(it.get(b"old")) == b"2"
    assert it.store.views.cache.peek(row)[8:] == b"2"


def test_a_fill_that_arrives_after_a_write_is_not_kept() -> None:
    it = world()
    cold = it.get(b"old")
    it.turns()
    it.soon(it.put(b"old", b"2"))
    it.settle()
    assert cold.result() == b"2"
    assert it.store.views.cache.peek(it.store.spaces[0].prefix + b"old") is None


def test_an_ingest_replaces_or_drops_the_rows_of_its_run() -> None:
    it = world()
    for key in (b"old", b"other", b"gone"):
        it.until(it.get(key))
    space = it.store.spaces[0]
    cache = it.store.views.cache
    it.until(it.put(b"old", b"2"))
    it.until(it.delete(b"other"))
    it.until(it.put(b"gone", b"3"))
    it.flush()
    calls = len(it.calls)
    assert it.get(b"old").result() == b"2"
    assert it.get(b"other").result() is None
    assert it.get(b"gone").result() == b"3"
    assert [call for call in it.calls[calls:] if call[0] == "get"] == []
    assert cache.peek(space.prefix + b"other") == b""


def test_older_snapshots_go_round_the_row_cache() -> None:
    it = world()
    it.until(it.get(b"old"))
    snapshot = it.store.snapshot()
    it.until(it.put(b"old", b"2"))
    it.flush()
    assert it.until(it.get(b"old")) == b"2"
    record = it.until(it.driven(snapshot.get(0, b"old")))
    assert record[8:] == b"1"
    assert it.until(it.get(b"old")) == b"2"
    snapshot.close()


def test_a_gathered_value_that_the_cache_gave_up_is_still_there_for_its_command() -> None:
    """Two cold keys, and a cache that holds none of them: the command must not fetch them in turn for ever."""
    it = world(cache_bytes=0)
    asked = it.ask(lambda tx: [tx.get(key) for key in (b"old", b"other", b"third")])
    it.settle()
    assert [record[8:] for record in asked.result()] == [b"1"] * 3
    assert asked.waits <= 3
    assert len(it.store.views.cache) == 0


def test_what_was_gathered_is_looked_at_again_when_the_command_runs() -> None:
    """T8: between the fetch and the run another client has deleted, written, flushed."""
    it = world(cache_bytes=0)
    asked = it.ask(lambda tx: [tx.get(key) for key in (b"old", b"other", b"third")])
    it.turns()
    it.soon(it.put(b"old", b"2"))
    it.soon(it.ask(lambda tx: tx.delete(b"other")))
    it.settle()
    old, other, third = asked.result()
    assert (old[8:], other, third[8:]) == (b"2", None, b"1")


# A base that fails, or whose helper dies


ERRORS = (OSError(errno.EIO, "Input/output error"), Corruption("a block is damaged", "000012.sst", 4096))


@pytest.mark.parametrize("error", ERRORS, ids=["EIO", "damage"])
def test_what_could_not_be_read_is_an_error_and_no_absence(error: Exception) -> None:
    it = world(cache_bytes=0)
    it.fails = raises(error, "get", "page", "count")
    commands: list[Callable[[Transaction], Any]] = [
        lambda tx: tx.get(b"old"),
        lambda tx: [tx.get(b"old"), tx.get(b"never")],
        lambda tx: tx.page(b"", None, 10),
        lambda tx: tx.page(b"", None, 10, reverse=True),
        lambda tx: tx.keys(None, 1000),
        lambda tx: tx.random_key(),
    ]
    for command in commands:
        for atomic in (False, True):
            with pytest.raises(StorageError):
                it.until(it.ask(command, atomic=atomic))
    assert it.store.views.pinned() == 0
    it.put(b"old", b"2")  # blind, and the count can't be settled
    with pytest.raises(StorageError):
        it.until(it.count())
    it.fails = lambda helper, method: None
    assert it.until(it.count()) == 3
    assert it.rows() == {b"old": b"2", b"other": b"1", b"third": b"1"}


def raises(error: Exception, *methods: str) -> Callable[[str, str], None]:
    def fail(helper: str, method: str) -> None:
        if method in methods:
            raise error

    return fail


def test_reads_in_flight_are_answered_once_the_base_is_there_again() -> None:
    it = world(cache_bytes=0)
    asked = [it.get(b"old"), it.delete(b"other"), it.count(), it.ask(lambda tx: tx.page(b"", None, 10))]
    it.put(b"third", b"3")
    count = it.count()
    it.turns()
    it.base.lose()
    it.turns()
    more = it.get(b"third")
    old, gone, *_ = [it.until(one) for one in asked]
    assert (old, gone) == (b"1", 1)
    assert it.until(more) == b"3"
    assert it.until(count) in (2, 3)  # as of a moment before or after the delete
    assert it.store.ground is not None
    assert it.store.ground.restarts == 1
    assert it.rows() == {b"old": b"1", b"third": b"3"}


@pytest.mark.parametrize("executed", [False, True], ids=["before", "after"])
def test_a_base_that_dies_with_an_ingest_under_way_has_it_once(executed: bool) -> None:
    it = world(cache_bytes=0)
    snapshot = it.store.snapshot()
    it.soon(it.put(b"old", b"2"))
    it.soon(it.put(b"new", b"2"))
    it.soon(it.ask(lambda tx: tx.delete(b"other")))
    over = it.begin_flush()
    it.write_run()
    cold = it.get(b"third")
    it.turns()
    if executed:
        assert it.spawn.work(it.base.worker)
    it.base.lose()
    assert it.until(cold) == b"1"
    for _ in range(20):
        if over.fired:
            break
        it.spawn.ring()
        it.settle()
    assert over.fired
    assert it.until(it.count()) == 3
    after = {b"old": b"2", b"third": b"1", b"new": b"2"}
    assert it.rows() == after
    if executed:  # the version that it reads died with the process
        with pytest.raises(SnapshotTooOld):
            it.until(it.driven(snapshot.page(0, b"", None, 100)))
    else:
        rows, _ = it.until(it.driven(snapshot.page(0, b"", None, 100)))
        assert [(key, record[8:]) for key, record in rows] == [(b"old", b"1"), (b"other", b"1"), (b"third", b"1")]
    snapshot.close()
    it.settle()
    it.kill()
    assert it.rows() == after


@pytest.mark.parametrize("calls", [0, 1])
def test_a_run_writer_that_dies_is_started_again(calls: int) -> None:
    it = world()
    it.soon(it.put(b"old", b"2"))
    over = it.begin_flush()
    it.turns()
    it.work(it.run_writer, calls)
    it.run_writer.lose()
    it.settle()
    assert it.store.flusher is not None
    assert over.fired
    assert it.store.flusher.failures == 0
    assert it.until(it.get(b"old")) == b"2"
    it.kill()
    assert it.rows() == {b"old": b"2", b"other": b"1", b"third": b"1"}


def test_one_run_writer_writes_all_runs_each_with_its_own_rows() -> None:
    it = world()
    for value in (b"2", b"3", b"4"):
        it.until(it.put(b"old", value))
        it.until(it.put(value, value))
        it.flush()
    assert [helper.name for helper in it.spawn.helpers].count("run-writer") == 1
    it.until(it.ask(lambda tx: tx.delete(b"2")))
    it.flush()
    it.kill()
    assert it.rows() == {b"old": b"4", b"other": b"1", b"third": b"1", b"3": b"3", b"4": b"4"}


def test_a_run_writer_that_died_between_two_flushes_is_no_failure() -> None:
    it = world()
    it.until(it.put(b"old", b"2"))
    it.flush()
    it.run_writer.lose()
    it.until(it.put(b"old", b"3"))
    it.flush()
    assert it.store.flusher is not None
    assert it.store.flusher.failures == 0
    it.kill()
    assert it.rows() == {b"old": b"3", b"other": b"1", b"third": b"1"}


def test_a_run_writer_that_dies_again_is_a_failure() -> None:
    it = world()
    it.until(it.put(b"old", b"2"))
    it.flush()
    it.until(it.put(b"old", b"3"))
    it.begin_flush()
    for _ in range(2):
        it.turns()
        it.run_writer.lose()
    it.settle()
    assert it.store.flusher is not None
    assert it.store.flusher.failures == 1
    assert it.until(it.get(b"old")) == b"3"
    it.flush()
    assert it.store.flusher.failure == ""
    it.kill()
    assert it.rows() == {b"old": b"3", b"other": b"1", b"third": b"1"}


# S5: counts


def test_a_blind_overwrite_reads_no_disk() -> None:
    it = world(cache_bytes=0)
    calls = len(it.calls)
    for number in range(50):
        assert it.put(b"old", b"%d" % number).done
        assert it.put(b"new:%d" % number, b"v").done
    assert it.ask(lambda tx: tx.delete(b"third")).done
    it.turns()
    assert [call[0] for call in it.calls[calls:]] == []
    over = it.begin_flush()
    it.write_run()
    assert list(it.base.asked) == ["ingest"], "nothing is read before the ingest either"
    it.settle()
    assert over.fired


@pytest.mark.parametrize("flushed", [False, True], ids=["in memory", "flushed"])
def test_a_count_with_blind_overwrites_is_exact(flushed: bool) -> None:
    it = world(cache_bytes=0)
    for key in (b"old", b"old", b"other", b"new"):
        assert it.put(key, b"2").done
    assert it.ask(lambda tx: tx.delete(b"third")).done
    assert it.ask(lambda tx: tx.delete(b"never")).done
    if flushed:
        it.flush()
    assert it.until(it.count()) == 3
    it.settle()
    assert it.store.spaces[0].exact()
    assert it.store.spaces[0].count == 3


def test_a_count_begun_while_a_flushed_table_is_retired_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is in the newest view and its table still counts above it: its keys are not to be counted twice."""
    monkeypatch.setattr(flush, "SLICE_ROWS", 1)
    it = world()
    it.until(it.get(b"old"))
    it.store.spaces[0].inexact = True  # as after a restart that came before the blind keys were looked up
    for number in range(20):
        it.soon(it.put(b"new:%d" % number, b"v"))
    over = it.begin_flush()
    it.write_run()
    newest = it.store.views.newest
    it.spawn.work(it.base.worker)
    while it.store.views.newest == newest:
        it.spawn.turn()
    assert not over.fired
    assert it.store.spaces[0].sealed
    assert it.until(it.count()) == 23
    it.settle()
    assert it.until(it.count()) == 23


def test_a_recount_before_a_flushed_table_is_retired_sees_what_was_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some blind keys of the run have been looked up already, the rest could not be: all is counted once more."""
    monkeypatch.setattr(counts, "STEP_KEYS", 1)
    monkeypatch.setattr(flush, "FOLLOW_ROWS", 1)
    it = world()
    for key in (b"old", b"other", b"third", *(b"new:%d" % number for number in range(40))):
        it.soon(it.put(key, b"2"))
    over = it.begin_flush()
    it.write_run()
    looked_up = 0

    def fail(helper: str, method: str) -> None:
        nonlocal looked_up
        looked_up += method == "get"
        if looked_up > 2 and method == "get":
            raise OSError(errno.EIO, "Input/output error")

    it.fails = fail
    while not it.store.spaces[0].inexact:
        it.spawn.turn()
        it.spawn.work(it.base.worker)
    assert not over.fired, "the table has to be there still"
    assert it.store.spaces[0].sealed
    asked = it.count()
    for _ in range(10):  # nothing goes on but the count
        it.spawn.work(it.base.worker)
        it.spawn.turn()
    it.fails = lambda helper, method: None
    assert it.until(asked) == 43
    it.settle()
    assert it.until(it.count()) == 43


@pytest.mark.parametrize("cache_bytes", [0, 6_000, 1 << 20])
def test_a_count_is_exact_whatever_it_meets(cache_bytes: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blind writes and counts at every stage of flushes, deaths of the helper, restarts: it is the number of keys."""
    # So small that every walk over a few keys takes several turns.
    monkeypatch.setattr(flush, "SLICE_ROWS", 2)
    monkeypatch.setattr(counts, "STEP_KEYS", 3)
    monkeypatch.setattr(counts, "COUNT_ROWS", 4)
    for number in range(HISTORIES):
        it = BasedStore(seed + number, cache_bytes=cache_bytes, databases=2)
        model: set[bytes] = set()
        for _ in range(150):
            step(it, model, f"{seed} + {number}")
        assert it.until(it.count()) == len(model), f"{seed} + {number}"
        assert set(it.rows()) == model, f"{seed} + {number}"


def step(it: BasedStore, model: set[bytes], where: str) -> None:
    key = b"%d" % it.random.randrange(40)
    match it.random.choices(range(9), (30, 10, 5, 5, 5, 1, 1, 23, 20))[0]:
        case 0:
            it.soon(it.put(key, b"v"))
            model.add(key)
        case 1:
            it.soon(it.ask(lambda tx: tx.delete(key)))
            model.discard(key)
        case 2:
            it.begin_flush()
        case 3:
            assert (it.until(it.get(key)) is not None) == (key in model), where
        case 4:
            assert it.until(it.count()) == len(model), where
        case 5:
            it.synced()
            it.kill()
        case 6:
            it.base.lose()
        case 7:
            it.spawn.turn()
        case _:
            it.spawn.work(it.random.choice(it.spawn.workers))


# Bounds


def test_a_row_cache_that_is_turned_off_tells_nothing_stale() -> None:
    it = world()
    assert [it.until(it.get(key)) for key in (b"old", b"other")] == [b"1", b"1"]
    it.store.settings.put("cache-bytes", 0)
    it.until(it.put(b"old", b"2"))
    it.until(it.delete(b"other"))
    it.flush()
    it.store.settings.put("cache-bytes", 1 << 20)
    assert [it.until(it.get(key)) for key in (b"old", b"other")] == [b"2", None]
    assert it.until(it.count()) == 2


@pytest.mark.parametrize("reverse", [False, True])
def test_a_page_of_large_cold_values_ends_before_it_takes_much_memory(reverse: bool) -> None:
    it = BasedStore(cache_bytes=0, memtable_bytes=1 << 30, journal_segment_bytes=8 << 20)
    keys = [b"%04d" % number for number in range(60)]
    for key in keys:
        it.until(it.put(key, key * (1 << 18)))  # a megabyte
    it.flush()
    it.until(it.put(b"0001x", b"in memory"))
    it.until(it.put(b"0050x", b"in memory"))
    found: list[bytes] = []
    start, end = b"", None
    pages = 0
    while True:
        fetched: list[int] = []

        def command(
            tx: Transaction, start: bytes = start, end: bytes | None = end, fetched: list[int] = fetched
        ) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
            rows, following = tx.page(start, end, 10_000, reverse=reverse)
            fetched.append(sum(len(record) for _, record in rows))
            return [(key, value_of(record)[:4]) for key, record in rows], following

        rows, following = it.until(it.ask(command))
        assert fetched[-1] < 40 << 20
        found += [key for key, _ in rows]
        assert all(key.startswith(value) or value == b"in m" for key, value in rows)
        pages += 1
        if following is None:
            break
        start, end = (start, following) if reverse else (following, end)
    assert pages > 1
    assert found == sorted([*keys, b"0001x", b"0050x"], reverse=reverse)


def test_many_large_cold_rows_come_in_several_answers() -> None:
    it = BasedStore(cache_bytes=0, memtable_bytes=1 << 30, journal_segment_bytes=8 << 20)
    keys = [b"%04d" % number for number in range(40)]
    for key in keys:
        it.until(it.put(key, key * (1 << 18)))
    it.flush()
    answers: list[int] = []
    it.after = lambda helper, method: answers.append(1) if method == "get" else None
    found = it.until(it.ask(lambda tx: [tx.get(key) for key in keys]))
    assert [value_of(record)[:4] for record in found] == keys
    assert len(answers) > 1


def test_a_read_that_ends_the_helper_again_and_again_is_given_up() -> None:
    it = world(cache_bytes=0)

    def dies(helper: str, method: str) -> None:
        if method == "get":
            it.base.lose()

    it.fails = dies
    asked = it.get(b"old")
    for _ in range(30):
        it.settle()
        if asked.done:
            break
        assert it.spawn.ring()
    with pytest.raises(StorageError, match="its process ends over it"):
        asked.result()
    it.fails = lambda helper, method: None
    assert it.until(it.get(b"other")) == b"1"


def test_a_dropped_generation_counts_as_retained_while_a_snapshot_reaches_it() -> None:
    it = BasedStore(snapshot_max_bytes=1 << 20)
    for number in range(150):
        it.until(it.put(b"%d" % number, b"v" * 10_000))
    first = it.store.snapshot()
    it.until(it.ask(lambda tx: tx.flush(0)))
    it.settle()
    assert first.ended is not None, "it retains a megabyte and a half"
    assert it.store.snapshots.retained() == 0


def test_versions_that_go_with_their_table_are_retained_no_more() -> None:
    it = BasedStore()
    first = it.store.snapshot()
    for round_ in range(10):
        for number in range(20):
            it.until(it.put(b"%d" % number, b"%d" % round_ * 1000))
        second = it.store.snapshot()  # there is always one
        for number in range(20):
            it.until(it.put(b"%d" % number, b"again"))
        it.flush()
        first.close()
        first = second
        it.settle()
        assert it.store.snapshots.retained() < 100_000
    first.close()
    it.settle()
    assert it.store.snapshots.retained() == 0


def test_a_base_that_comes_back_older_is_refused() -> None:
    """The journal has given up what it had: to go on with it would bring old values back."""
    it = world(cache_bytes=0)
    ground = it.store.ground
    assert ground is not None and ground.meta is not None
    ground.meta = msgspec.structs.replace(ground.meta, seqno=ground.meta.seqno + 1)  # what there was before
    it.base.lose()
    asked = it.get(b"old")
    for _ in range(10):
        it.settle()
        if asked.done:
            break
        assert it.spawn.ring()
    with pytest.raises(StorageError, match="and now only up to"):
        asked.result()
