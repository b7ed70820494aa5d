"""OPTIMISTIC transactions at their COMMIT: what they have read, in whatever way, must not have been changed since.

Also while a long range is looked through in slices. READONLY ones read at the same kind of snapshot, and commit always.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from keyhaus.core.errors import Error
from keyhaus.store.optimistic import SLICE_KEYS
from tests.support.sessions import Caller, Pending, Sessions

LONG = 3 * SLICE_KEYS  # more than two slices


@pytest.fixture
def bench() -> Sessions:
    return Sessions()


@pytest.fixture
def one(bench: Sessions) -> Caller:
    return bench.connect()


@pytest.fixture
def other(bench: Sessions) -> Caller:
    client = bench.connect()
    assert client("MSET", "b", 1, "d", 2, "f", 3) == "OK"
    return client


def play(one: Caller, other: Caller, reads: str, changes: str) -> bool:
    """Whether a transaction that reads so is committed where others do so before its COMMIT."""
    one("BEGIN", "OPTIMISTIC")
    for line in reads.split("; "):
        assert not isinstance(one(*line.split()), Error)
    for line in changes.split("; "):
        assert not isinstance(other(*line.split()), Error)
    reply = one("COMMIT")
    if reply == "OK":
        return True
    assert reply.code == "CONFLICT"
    one.raises("NOTX", "COMMIT")
    return False


@pytest.mark.parametrize(
    ("reads", "changes"),
    [
        ("GET b", "SET b 9"),
        ("GET b", "SET b 1"),  # the same value again is a change
        ("GET b", "DEL b"),
        ("GET a", "SET a 1"),
        ("GET a", "SET a 1; DEL a"),
        ("GET b", "RENAME b c"),
        ("EXISTS a b", "APPEND a x"),
        ("TTL b", "EXPIRE b 100"),
        ("INCR b", "INCR b"),
        ("SET a 1 NX", "SET a 2"),
        ("MSETNX a 1 c 2", "SET c 2"),
        ("GET b; SET b 2; GET b", "SET b 3"),
        ("COPY b b DB 1", "COPY d b DB 1"),  # of the other database it has read that there is no such key
        ("GETDEL b", "SET b 1"),
        ("DEL a b", "SET a 1"),
    ],
)
def test_a_key_that_was_read_and_changed_is_a_conflict(one: Caller, other: Caller, reads: str, changes: str) -> None:
    assert not play(one, other, reads, changes)


@pytest.mark.parametrize(
    ("reads", "changes"),
    [
        ("GET b", "SET c 1"),
        ("GET b", "GET b; EXISTS b"),
        ("SET b 2", "SET b 3"),  # nobody has read what it overwrites
        ("MSET b 2 a 1", "DEL b; SET a 2"),
        ("GET b", "SELECT 1; SET b 2; FLUSHDB; SELECT 0"),
        ("GET b", "DEL a"),  # deletes nothing
        ("GET b", "SET b 1 NX"),
        ("RANGE b d", "SET a 1; SET d 1; DEL f"),
        ("RANGE b d REV", "SET a 1; SET d 1; DEL f"),
        ("SET c 1; GET c", "SET b 1"),
    ],
)
def test_what_was_not_read_may_be_changed(one: Caller, other: Caller, reads: str, changes: str) -> None:
    assert play(one, other, reads, changes)


@pytest.mark.parametrize(
    ("reads", "changes"),
    [
        ("RANGE b d", "SET b 9"),
        ("RANGE b d", "SET c 9"),
        ("RANGE b d", "DEL b"),
        ("RANGE b d REV", "SET c 9"),
        ("RANGE g z", "SET h 1"),
        ("RANGE a z LIMIT 1", "SET b 9"),
        ("RANGE b d; RANGE d f", "SET e 9"),
        ("RANGE d f; RANGE b d; RANGE a b", "SET a 9"),
        ("RANGE a b; RANGE f g; RANGE c d", "SET cc 9"),
        ("KEYS b*", "SET z 1"),  # it has looked at all of them
        ("SCAN 0", "SET z 1"),
        ("RANDOMKEY", "SET z 1"),
        ("DBSIZE", "SET z 1"),
        ("DBSIZE", "DEL b"),
        ("DBSIZE", "SET z 1; DEL z"),
        ("DELRANGE b d", "SET c 9"),
        ("DELRANGE g z", "SET h 1"),
    ],
)
def test_a_range_that_was_read_and_changed_is_a_conflict(one: Caller, other: Caller, reads: str, changes: str) -> None:
    assert not play(one, other, reads, changes)


def test_a_page_that_was_not_read_may_be_changed(one: Caller, other: Caller) -> None:
    assert play(one, other, "RANGE a z LIMIT 1", "SET e 9; SET f 9")
    assert play(one, other, "RANGE a z REV LIMIT 1", "SET a 9; SET b 9")


def test_a_page_rests_on_the_key_behind_it(one: Caller, other: Caller) -> None:
    assert not play(one, other, "RANGE a z LIMIT 1", "DEL d")
    assert not play(one, other, "RANGE a z LIMIT 1", "SET c 9")


@pytest.mark.parametrize("reads", ["GET b", "GET a", "RANGE g z", "DBSIZE", "SET new 1", "FLUSHDB", "DEL a"])
@pytest.mark.parametrize("changes", ["FLUSHDB", "FLUSHALL", "SWAPDB 0 1", "SWAPDB 1 0", "SWAPDB 0 1; SWAPDB 0 1"])
def test_a_flush_or_a_swap_of_a_database_is_a_conflict_for_all_its_users(
    one: Caller, other: Caller, reads: str, changes: str
) -> None:
    assert not play(one, other, reads, changes)


@pytest.mark.parametrize("changes", ["SWAPDB 1 2", "SELECT 1; FLUSHDB; SELECT 0"])
def test_that_of_another_database_is_none(one: Caller, other: Caller, changes: str) -> None:
    assert play(one, other, "GET b; RANGE a z; SET new 1", changes)


def test_what_is_read_after_its_own_flush_is_nobodys_business(one: Caller, other: Caller) -> None:
    assert play(one, other, "FLUSHDB; GET b; RANGE a z; DBSIZE; SET c 1", "SET b 9; SET e 9")
    assert one("RANGE", "", "") == [None, [b"c", b"1"]]
    assert not play(one, other, "GET b; FLUSHDB", "SET b 9")


def test_of_two_that_read_each_others_writes_the_first_one_wins(bench: Sessions, one: Caller, other: Caller) -> None:
    for client in (one, other):
        client("BEGIN", "OPTIMISTIC")
        client("RANGE", "a", "z")
    one("SET", "c", 1)
    other("SET", "e", 1)
    assert other("COMMIT") == "OK"
    one.raises("CONFLICT", "COMMIT")


def test_an_interactive_commit_is_a_change_as_any(one: Caller, other: Caller) -> None:
    for mode in ("PESSIMISTIC", "OPTIMISTIC"):
        one("BEGIN", "OPTIMISTIC")
        one("RANGE", "a", "z")
        other("BEGIN", mode)
        other("DEL", "b")
        other("SET", "b", 1)
        assert other("COMMIT") == "OK"
        one.raises("CONFLICT", "COMMIT")


# snapshots


def test_a_readonly_one_is_committed_whatever_was_changed(one: Caller, other: Caller) -> None:
    one("BEGIN", "READONLY")
    one("GET", "b")
    other("MSET", "b", 9, "c", 9)
    assert one("RANGE", "", "") == [None, [b"b", b"1", b"d", b"2", b"f", b"3"]]
    other("FLUSHALL")
    other("SET", "b", 10)
    other("SWAPDB", 0, 1)
    assert one("RANGE", "", "") == [None, [b"b", b"1", b"d", b"2", b"f", b"3"]]
    assert one("DBSIZE") == 3
    assert one("RANDOMKEY") in (b"b", b"d", b"f")
    assert one("COMMIT") == "OK"
    assert one("DBSIZE") == 0


@pytest.mark.parametrize("mode", ["OPTIMISTIC", "READONLY"])
def test_a_snapshot_that_is_not_kept_any_longer_ends_it(mode: str) -> None:
    bench = Sessions(snapshot_max_ms=5000)
    for words in (("GET", "k"), ("COMMIT",)):
        one = bench.connect()
        number = one("BEGIN", mode)
        assert one("GET", "k") is None
        bench.pass_ms(5001)
        one.raises("SNAPSHOTTOOOLD", *words) if mode == "OPTIMISTIC" or words[0] == "GET" else one(*words)
        assert one("TRANSACTION", "STATUS", number) != b"open"


# long ranges, which are looked through in slices


class Long:
    """A transaction that has read a long range, or many keys, and whose COMMIT is taken turn by turn."""

    def __init__(self, bench: Sessions, *, by_key: bool = False) -> None:
        self.bench = bench
        self.one, self.other = bench.connect(), bench.connect()
        thousands = [[f"key:{number:05}" for number in range(at, at + 1000)] for at in range(0, LONG, 1000)]
        for keys in thousands:
            self.other("MSET", *(word for key in keys for word in (key, "x")))
        self.number = self.one("BEGIN", "OPTIMISTIC")
        if by_key:
            for keys in thousands:
                self.one("MGET", *keys)
        start: bytes | None = None if by_key else b"key:"
        while start is not None:
            start, _ = self.one("RANGE", start, "key;", "KEYS")
        assert self.one("SET", "done", "yes") == "OK"
        self.pending: Pending | None = None

    def begin_commit(self) -> None:
        pending = self.one.send("COMMIT")
        assert isinstance(pending, Pending), "it is looked through at once"
        self.pending = pending

    def turn(self) -> bool:
        """Whether there was anything to do for it."""
        assert self.pending is not None
        return not self.pending.done and self.bench.spawn.take_turn()

    def end(self) -> str:
        while self.turn():
            pass
        assert self.pending is not None
        assert self.pending.done
        assert self.bench.store.guards == []
        assert self.one("GET", "done") == (b"yes" if self.pending.reply == "OK" else None)
        return "OK" if self.pending.reply == "OK" else self.pending.reply.code


@pytest.mark.parametrize("by_key", [False, True])
def test_what_is_long_and_nobody_changes_is_committed(bench: Sessions, *, by_key: bool) -> None:
    it = Long(bench, by_key=by_key)
    it.begin_commit()
    assert it.end() == "OK"


def test_a_change_before_the_commit_is_found_in_a_long_range(bench: Sessions) -> None:
    for number in (0, SLICE_KEYS, LONG - 1):
        it = Long(bench)
        it.other("SET", f"key:{number:05}", "y")
        it.one.send("COMMIT")
        it.bench.settle()
        it.one.raises("NOTX", "COMMIT")
        assert it.one("TRANSACTION", "STATUS", it.number) == b"rolledback"
        assert bench.store.guards == []
        bench.connect()("FLUSHALL")


def turns_of_a_long_commit(*, by_key: bool = False) -> int:
    it = Long(Sessions(), by_key=by_key)
    it.begin_commit()
    turns = 0
    while it.turn():
        turns += 1
    return turns


CHANGES: dict[str, Callable[[Long], object]] = {
    "the first key": lambda it: it.other("SET", "key:00000", "y"),
    "the last key": lambda it: it.other("SET", f"key:{LONG - 1:05}", "y"),
    "a new key": lambda it: it.other("SET", "key:03000a", "y"),
    "a deletion": lambda it: it.other("DEL", "key:02500"),
    "a flush": lambda it: it.other("FLUSHDB"),
    "a swap": lambda it: it.other("SWAPDB", 0, 1),
    "exec": lambda it: (it.other("MULTI"), it.other("SET", "key:00001", "y"), it.other("EXEC")),
    "a transaction": lambda it: (it.other("BEGIN"), it.other("SET", "key:00001", "y"), it.other("COMMIT")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_any_two_slices_is_a_conflict(change: str) -> None:
    turns = turns_of_a_long_commit()
    assert turns > 2
    for at in range(0, turns, 2):
        it = Long(Sessions())
        it.begin_commit()
        for _ in range(at):
            assert it.turn()
        CHANGES[change](it)
        if change == "a swap":
            it.other("SWAPDB", 0, 1)
        assert it.end() == "CONFLICT", f"after {at} of {turns} turns"


@pytest.mark.parametrize("change", sorted({*CHANGES} - {"a new key"}))
def test_a_change_of_one_of_many_keys_between_any_two_slices_is_a_conflict(change: str) -> None:
    turns = turns_of_a_long_commit(by_key=True)
    assert turns > 2
    for at in range(turns):
        it = Long(Sessions(), by_key=True)
        it.begin_commit()
        for _ in range(at):
            assert it.turn()
        CHANGES[change](it)
        assert it.end() == "CONFLICT", f"after {at} of {turns} turns"


def test_what_is_changed_beside_the_range_between_two_slices_is_none() -> None:
    it = Long(Sessions())
    it.begin_commit()
    it.turn()
    it.other("MSET", "a", 1, "key;", 1, "key", 1)
    assert it.end() == "OK"


def test_what_expires_between_two_slices_is_a_conflict() -> None:
    it = Long(Sessions())
    it.one("ROLLBACK")
    it.other("PEXPIRE", "key:00007", 100)
    it.one("BEGIN", "OPTIMISTIC")
    it.one("RANGE", "", "", "KEYS")
    it.begin_commit()
    it.turn()
    it.bench.clock.ms += 100
    assert it.end() == "CONFLICT"


def test_kill_between_two_slices_fences_the_commit() -> None:
    it = Long(Sessions())
    it.begin_commit()
    it.turn()
    assert it.other("TRANSACTION", "STATUS", it.number) in (b"open", b"rolledback")
    assert it.other("TRANSACTION", "KILL", it.number) == b"rolledback"
    assert it.end() == "NOTX"


def test_a_client_that_goes_between_two_slices_leaves_no_guard() -> None:
    it = Long(Sessions())
    it.begin_commit()
    it.turn()
    assert it.bench.store.guards
    it.one.vanish()
    assert it.bench.store.guards == []
    it.bench.settle()
    assert it.other("GET", "done") is None
    assert it.other("TRANSACTION", "STATUS", it.number) == b"rolledback"


def test_a_lock_that_comes_between_two_slices_is_waited_for() -> None:
    it = Long(Sessions())
    holder = it.bench.connect()
    it.begin_commit()
    it.turn()
    holder("BEGIN")
    holder("LOCK", "done")
    it.bench.settle()
    assert it.pending is not None
    assert not it.pending.done
    holder("SET", "beside", 1)
    holder("COMMIT")
    assert it.end() == "OK"
