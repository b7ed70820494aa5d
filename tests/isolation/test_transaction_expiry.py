"""Expiry and eviction beside transactions (T2): what was read alive must be alive at the end, what is locked is left.

Time is moved by hand. A key `k` ends 100 ms after each test has begun.
"""

from __future__ import annotations

from unittest.mock import patch

import pytest

from keyhaus.core.errors import Error, Poisoned
from keyhaus.core.limits import EVICTION_SLACK_BYTES, EVICTION_STEP_KEYS, SWEEP_KEYS_MAX
from tests.support.sessions import Caller, Pending, Sessions

WRITING = pytest.mark.parametrize("mode", ["PESSIMISTIC", "OPTIMISTIC"])


@pytest.fixture
def bench() -> Sessions:
    sessions = Sessions()
    client = sessions.connect()
    assert client("SET", "k", "v", "PX", 100) == "OK"
    assert client("SET", "stays", 1) == "OK"
    return sessions


@pytest.fixture
def one(bench: Sessions) -> Caller:
    return bench.connect()


@pytest.fixture
def other(bench: Sessions) -> Caller:
    return bench.connect()


def alone(bench: Sessions, milliseconds: int) -> None:
    """Time passes, and nothing happens meanwhile: nobody sweeps."""
    bench.clock.ms += milliseconds


# what was read alive


@WRITING
@pytest.mark.parametrize("swept", [False, True])
@pytest.mark.parametrize("writes", [False, True])
def test_what_was_read_alive_and_expires_is_a_conflict_at_commit(
    bench: Sessions, one: Caller, mode: str, swept: bool, writes: bool
) -> None:
    number = one("BEGIN", mode)
    assert one("GET", "k") == b"v"
    if writes:
        assert one("SET", "other", 1) == "OK"
    bench.pass_ms(99)
    assert one("GET", "stays") == b"1"
    (bench.pass_ms if swept else lambda ms: alone(bench, ms))(1)
    one.raises("CONFLICT", "COMMIT")
    assert one("TRANSACTION", "STATUS", number) == b"rolledback"
    assert one("GET", "other") is None


@WRITING
def test_it_is_a_conflict_at_the_next_command(bench: Sessions, one: Caller, mode: str) -> None:
    one("BEGIN", mode)
    assert one("GET", "k") == b"v"
    alone(bench, 100)
    one.raises("CONFLICT", "SET", "other", 1)
    assert "CONFLICT" in one.raises("NOTX", "GET", "other").message
    one.raises("NOTX", "COMMIT")


@WRITING
def test_a_transaction_that_ends_before_is_committed(bench: Sessions, one: Caller, mode: str) -> None:
    one("BEGIN", mode)
    assert one("GET", "k") == b"v"
    alone(bench, 99)
    assert one("SET", "other", 1) == "OK"
    assert one("COMMIT") == "OK"


@WRITING
@pytest.mark.parametrize(
    "read",
    ["RANGE a z", "RANGE a z REV KEYS", "KEYS *", "SCAN 0", "EXISTS k", "STRLEN k", "TTL k", "APPEND k x", "SET k w"],
)
def test_every_way_to_read_it_counts_and_a_blind_write_does_not(
    bench: Sessions, one: Caller, mode: str, read: str
) -> None:
    one("BEGIN", mode)
    assert not isinstance(one(*read.split()), Error)
    alone(bench, 100)
    if read == "SET k w":
        assert one("COMMIT") == "OK"
    else:
        one.raises("CONFLICT", "COMMIT")


@WRITING
def test_the_first_deadline_of_several_counts(bench: Sessions, one: Caller, other: Caller, mode: str) -> None:
    other("SET", "later", 1, "PX", 1000)
    one("BEGIN", mode)
    assert one("MGET", "later", "k", "stays") == [b"1", b"v", b"1"]
    alone(bench, 100)
    one.raises("CONFLICT", "COMMIT")


@WRITING
def test_to_overwrite_what_was_read_does_not_unread_it(bench: Sessions, one: Caller, mode: str) -> None:
    one("BEGIN", mode)
    assert one("GET", "k") == b"v"
    assert one("SET", "k", "w") == "OK"
    alone(bench, 100)
    one.raises("CONFLICT", "COMMIT")


@WRITING
def test_its_own_records_are_judged_by_each_command(bench: Sessions, one: Caller, other: Caller, mode: str) -> None:
    one("BEGIN", mode)
    one("SET", "mine", 1, "PX", 50)
    one("SET", "stays", 2)
    one("PEXPIRE", "stays", 1000)
    assert one("GET", "mine") == b"1"
    alone(bench, 50)
    assert one("GET", "mine") is None
    assert one("PTTL", "stays") == 950
    assert one("COMMIT") == "OK"
    assert other("MGET", "mine", "stays") == [None, b"2"]


@WRITING
def test_what_had_expired_when_it_was_read_is_not_there_and_no_conflict(
    bench: Sessions, one: Caller, mode: str
) -> None:
    alone(bench, 100)
    one("BEGIN", mode)
    before = bench.store.last
    assert one("GET", "k") is None
    assert bench.store.last == before + 1  # S6: what the answer rests on is a commit, which carries the time
    assert one.session.depends == bench.store.last
    assert one("RANGE", "", "") == [None, [b"stays", b"1"]]
    assert one("SET", "k", "new", "NX") == "OK"
    assert one("COMMIT") == "OK"
    assert one("GET", "k") == b"new"


def test_a_readonly_one_is_of_the_moment_of_its_begin(bench: Sessions, one: Caller) -> None:
    one("BEGIN", "READONLY")
    bench.pass_ms(100)
    assert one("GET", "k") == b"v"
    bench.pass_ms(1000)
    assert one("GET", "k") == b"v"
    assert one("RANGE", "", "") == [None, [b"k", b"v", b"stays", b"1"]]
    assert one("DBSIZE") == 2
    assert one("COMMIT") == "OK"
    assert one("DBSIZE") == 1


@pytest.mark.parametrize("swept", [False, True])
def test_an_optimistic_one_reads_what_was_alive_at_its_begin_and_is_refused(
    bench: Sessions, one: Caller, swept: bool
) -> None:
    one("BEGIN", "OPTIMISTIC")
    (bench.pass_ms if swept else lambda ms: alone(bench, ms))(200)
    assert one("GET", "k") == b"v"
    one.raises("CONFLICT", "GET", "stays")


def test_sweeping_is_a_later_commit_for_who_read_the_absence(bench: Sessions, one: Caller) -> None:
    for swept in (False, True):
        alone(bench, 100)
        one("BEGIN", "OPTIMISTIC")
        assert one("GET", "k") is None
        if swept:
            bench.pass_ms(500)
            one.raises("CONFLICT", "COMMIT")
        else:
            assert one("COMMIT") == "OK"


@WRITING
def test_an_expiry_that_can_not_be_committed_any_more_ends_the_transaction(
    bench: Sessions, one: Caller, other: Caller, mode: str
) -> None:
    number = one("BEGIN", mode)
    assert one("GET", "k") == b"v"
    alone(bench, 150)
    with patch.object(bench.store, "commit", side_effect=Poisoned("the disk has failed")):
        one.raises("POISONED", "COMMIT")
    assert other("TRANSACTION", "STATUS", number) == b"rolledback"
    assert one("GET", "stays") == b"1"
    assert one("SET", "k", "outside") == "OK"
    assert other("GET", "k") == b"outside"


# locked keys


@pytest.mark.parametrize("lock", ["LOCK k", "RANGE a z", "DBSIZE", "DELRANGE l m"])
def test_the_sweeper_passes_over_what_is_locked(bench: Sessions, one: Caller, other: Caller, lock: str) -> None:
    other("SET", "l", 1, "PX", 10_000)
    bench.pass_ms(50)
    one("BEGIN")
    assert not isinstance(one(*lock.split()), Error)
    bench.pass_ms(1000)
    locked = lock != "DELRANGE l m"
    assert other("DBSIZE") == 2 + locked
    if lock.startswith("RANGE"):
        one("ROLLBACK")
    else:
        assert one("COMMIT") == "OK"
    bench.pass_ms(1000)
    assert other("DBSIZE") == 2 - (lock == "DELRANGE l m")


def test_what_has_expired_behind_many_locked_keys_is_swept(bench: Sessions, one: Caller, other: Caller) -> None:
    bench.pass_ms(1000)
    before = other("DBSIZE")
    keys = [f"locked:{number}" for number in range(2 * SWEEP_KEYS_MAX + 1)]
    for key in keys:
        other("SET", key, 1, "PX", 1000)
    other("SET", "free", 1, "PX", 2000)
    one("BEGIN", "TIMEOUT", 1_000_000)
    one("LOCK", *keys)
    bench.pass_ms(3000)
    assert other("DBSIZE") == before + len(keys)
    one("SET", keys[0], "lives on")
    one("DEL", keys[1])
    assert one("COMMIT") == "OK"
    bench.pass_ms(1000)
    assert other("DBSIZE") == before + 1


def test_lazy_expiry_passes_over_what_is_locked(bench: Sessions, one: Caller, other: Caller) -> None:
    one("BEGIN")
    one("LOCK", "k")
    alone(bench, 150)
    for words in (("GET", "k"), ("MGET", "k", "k")):
        before = bench.store.last
        assert other(*words) in (None, [None, None])
        assert bench.store.last == before + 1  # an empty commit, which carries the time
        assert other.session.depends == bench.store.last
    other("MULTI")
    other("GET", "k")
    other("SET", "free", 1)
    assert other("EXEC") == [None, "OK"]
    assert other("DBSIZE") == 3
    assert one("GET", "k") is None
    assert one("COMMIT") == "OK"
    assert other("GET", "k") is None
    assert other("DBSIZE") == 2


def test_a_mapping_entry_that_is_locked_keeps_nobody_from_sweeping(bench: Sessions, one: Caller, other: Caller) -> None:
    one("BEGIN")
    one("GET", "stays")
    bench.pass_ms(1000)
    assert other("DBSIZE") == 1
    assert one("COMMIT") == "OK"


@pytest.mark.parametrize(
    "words", [("GET", "k"), ("MGET", "k", "stays"), ("EXISTS", "k"), ("RANGE", "", ""), ("KEYS", "*")]
)
def test_a_plain_read_of_what_has_expired_waits_for_nobody(
    bench: Sessions, one: Caller, other: Caller, words: tuple[str, ...]
) -> None:
    one("BEGIN")
    one("FLUSHDB")  # it locks the mapping entry
    alone(bench, 200)
    assert not isinstance(other.send(*words), Pending)


def test_a_write_to_what_has_expired_and_is_locked_waits(bench: Sessions, one: Caller, other: Caller) -> None:
    one("BEGIN")
    one("LOCK", "k")
    alone(bench, 150)
    pending = other.send("SET", "k", "new", "NX")
    bench.settle()
    assert isinstance(pending, Pending)
    assert not pending.done
    one("SET", "k", "mine")
    one("COMMIT")
    bench.settle()
    assert pending.done
    assert pending.reply is None
    assert other("GET", "k") == b"mine"


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "volatile-ttl"])
def test_eviction_passes_over_what_is_locked(policy: str) -> None:
    bench = Sessions(engine="memory", max_memory=300_000, max_memory_policy=policy)
    one, other, third = bench.connect(), bench.connect(), bench.connect()
    soon, late = (("PX", 1_000_000), ("PX", 2_000_000)) if policy == "volatile-ttl" else ((), ())
    for number in range(100):
        assert other("SET", f"old:{number:03}", "x" * 1000, *soon) == "OK"
    one("BEGIN", "TIMEOUT", 1_000_000)
    assert one("LOCK", *(f"old:{number:03}" for number in range(20))) == "OK"
    third("BEGIN", "TIMEOUT", 1_000_000)
    third("RANGE", "old:020", "old:040", "KEYS")
    for number in range(500):
        assert other("SET", f"new:{number:03}", "x" * 1000, *late) == "OK"
        bench.settle()
    kept = {number for number in range(100) if other("EXISTS", f"old:{number:03}")}
    assert kept >= set(range(40))
    assert len(kept) < 100


def test_what_is_behind_many_locked_keys_is_evicted() -> None:
    bench = Sessions(engine="memory", max_memory=1_000_000, max_memory_policy="volatile-ttl")
    one, other = bench.connect(), bench.connect()
    locked = [f"locked:{number}" for number in range(3 * EVICTION_STEP_KEYS)]
    for key in locked:
        assert other("SET", key, "x" * 1000, "PX", 1_000_000) == "OK"
    one("BEGIN", "TIMEOUT", 1_000_000)
    assert one("LOCK", *locked) == "OK"
    for number in range(2000):
        pending = other.send("SET", f"new:{number:03}", "x" * 1000, "PX", 2_000_000)
        bench.settle()
        assert (pending.reply if isinstance(pending, Pending) else pending) == "OK"
    assert other("EXISTS", *locked) == len(locked)
    assert len(locked) < other("DBSIZE")
    assert bench.store.evictor.used() <= 1_000_000 + EVICTION_SLACK_BYTES
    assert one("COMMIT") == "OK"
    for number in range(1000):
        other("SET", f"more:{number:03}", "x" * 1000, "PX", 3_000_000)
        bench.settle()
    assert other("EXISTS", *locked) == 0


def test_many_small_locked_keys_do_not_hide_what_is_too_much() -> None:
    bench = Sessions(engine="memory", max_memory_policy="volatile-ttl")
    one, other = bench.connect(), bench.connect()
    locked = [f"locked:{number}" for number in range(1500)]
    for key in locked:
        assert other("SET", key, "x", "PX", 1_000_000) == "OK"
    one("BEGIN", "TIMEOUT", 1_000_000)
    assert one("LOCK", *locked) == "OK"
    for number in range(2000):
        other("SET", f"new:{number:03}", "x" * 1000, "PX", 2_000_000)
    bench.settings.put("max-memory", 1_000_000)
    bench.settle()
    assert bench.store.evictor.used() <= 1_000_000
    assert other("EXISTS", *locked) == len(locked)


def test_locked_keys_still_expire_where_the_limit_is_taken_away_amid_eviction() -> None:
    bench = Sessions(engine="memory", max_memory_policy="volatile-ttl")
    one, other = bench.connect(), bench.connect()
    locked = [f"locked:{number}" for number in range(3 * EVICTION_STEP_KEYS)]
    for key in locked:
        assert other("SET", key, "x", "PX", 1000) == "OK"
    one("BEGIN", "TIMEOUT", 1_000_000)
    assert one("LOCK", *locked) == "OK"
    bench.settings.put("max-memory", 1)
    bench.spawn.take_turn()
    bench.settings.put("max-memory", 0)
    assert one("ROLLBACK") == "OK"
    bench.pass_ms(3000)
    assert other("DBSIZE") == 0


def test_a_command_that_waits_for_memory_stays_in_its_transaction() -> None:
    bench = Sessions(engine="memory", max_memory=2_000_000, max_memory_policy="allkeys-lru")
    one, other = bench.connect(), bench.connect()
    for number in range(1000):
        assert other("SET", f"old:{number:03}", "x" * 1000) == "OK"
    one("BEGIN")
    assert one("SET", "k", 1) == "OK"
    assert other("SET", "large", "x" * 2_000_000) == "OK"
    pending = one.send("INCR", "k")
    assert isinstance(pending, Pending)
    bench.settle()
    assert pending.done
    assert pending.reply == 2
    assert other("GET", "k") is None
    assert one("COMMIT") == "OK"
    assert other("GET", "k") == b"2"
