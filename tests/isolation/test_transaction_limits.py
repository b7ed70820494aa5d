"""How many transactions may be open, how many keys they may hold, and the numbers that are kept of them."""

from __future__ import annotations

from typing import Any

import pytest

from keyhaus.core import limits
from keyhaus.store.interactive import ENTRY_BYTES
from tests.support.sessions import Caller, Pending, Sessions

MODES = pytest.mark.parametrize("mode", ["PESSIMISTIC", "OPTIMISTIC"])


def numbers(bench: Sessions) -> dict[str, Any]:
    return bench.store.transactions.statistics()


def test_so_many_may_be_open_at_once() -> None:
    bench = Sessions(max_transactions=2)
    one, other = bench.connect(), bench.connect()
    one("BEGIN")
    first = one("BEGIN", "READONLY")
    assert "max-transactions" in other.raises("LIMIT", "BEGIN").message
    assert other("SET", "k", "v") == "OK"  # none has become current
    assert one("ROLLBACK") == "OK"
    assert other("BEGIN", "OPTIMISTIC")
    one.raises("NOTX", "TX", first, "GET", "k")
    other.vanish()
    assert one("BEGIN")


@MODES
@pytest.mark.parametrize(
    "steps",
    [
        "GET a; GET b; GET c; GET d",
        "MGET a b c d",
        "RANGE a b; RANGE c d; RANGE e f; RANGE g h",
        "GET a; RANGE c d; GET b; RANGE g h",
    ],
)
def test_who_holds_too_many_keys_and_ranges_ends(monkeypatch: pytest.MonkeyPatch, mode: str, steps: str) -> None:
    entries = 4 if mode == "PESSIMISTIC" else 3  # the mapping entry is locked too
    monkeypatch.setattr(limits, "TRANSACTION_READ_BYTES_MAX", entries * (ENTRY_BYTES + 2))
    bench = Sessions()
    one, other = bench.connect(), bench.connect()
    one("BEGIN", mode)
    *before, last = steps.split("; ")
    for step in before:
        for _ in range(3):  # what is held already counts once
            one(*step.split())
    assert "TRANSACTION_READ_BYTES_MAX" in one.raises("TXTOOLARGE", *last.split()).message
    one.raises("NOTX", "ROLLBACK")
    assert other("FLUSHDB") == "OK"
    assert numbers(bench)["transactions_bytes"] == numbers(bench)["lock_holders"] == 0


@MODES
def test_all_together_may_hold_only_so_many(mode: str) -> None:
    bench = Sessions(transactions_max_bytes=10 * (ENTRY_BYTES + 2))
    clients = [bench.connect() for _ in range(3)]
    for client in clients:
        client("BEGIN", mode)
    for client in clients[:2]:
        client("MGET", "a", "b", "c", "d")
    clients[2].raises("TXTOOLARGE", "MGET", "a", "b", "c", "d")
    assert clients[0]("COMMIT") == "OK"
    clients[2].raises("NOTX", "COMMIT")
    clients[2]("BEGIN", mode)
    assert clients[2]("MGET", "a", "b", "c", "d") == [None] * 4


def test_pages_that_touch_are_one_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TRANSACTION_READ_BYTES_MAX", 3 * (ENTRY_BYTES + 20))
    bench = Sessions()
    one = bench.connect()
    one("MSET", *(word for number in range(100) for word in (f"key:{number:02}", "x")))
    for mode in ("PESSIMISTIC", "OPTIMISTIC", "READONLY"):
        one("BEGIN", mode)
        start, seen = b"", 0
        while start is not None:
            start, found = one("RANGE", start, "", "KEYS", "LIMIT", 7)
            seen += len(found)
        assert seen == 100
        assert one("COMMIT") == "OK"


def test_ends_are_counted_by_their_causes() -> None:
    bench = Sessions(lock_timeout=1000, transaction_idle_ms=5000, max_transaction_bytes=1024)
    one, other = bench.connect(), bench.connect()

    def begin(*words: str) -> tuple[Caller, Caller]:
        one("BEGIN", *words)
        other("BEGIN", *words)
        return one, other

    begin()
    one("COMMIT")
    other("ROLLBACK")
    begin("OPTIMISTIC")
    one("INCR", "k")
    other("INCR", "k")
    one("COMMIT")
    other.raises("CONFLICT", "COMMIT")
    begin()
    one("LOCK", "a")
    other("LOCK", "b")
    assert isinstance(one.send("LOCK", "b"), Pending)
    other.raises("DEADLOCK", "LOCK", "a")
    bench.settle()
    one("ROLLBACK")
    begin()
    one("LOCK", "a")
    assert isinstance(other.send("LOCK", "a"), Pending)
    assert numbers(bench)["lock_waiters"] == 1
    bench.pass_ms(1000)
    other.raises("NOTX", "ROLLBACK")
    one.raises("TXTOOLARGE", "SET", "k", "x" * 2000)
    one("BEGIN")
    bench.pass_ms(5000)
    one.raises("NOTX", "COMMIT")
    found = numbers(bench)
    assert found["transactions_begun"] == 9
    assert found["transactions_committed"] == 2
    assert found["transactions_rolled_back"] == 7
    assert found["transactions_open"] == found["lock_holders"] == found["lock_waiters"] == 0
    causes = ("conflicts", "deadlocks", "lock_timeouts", "too_large", "timeouts")
    assert [found[f"transactions_{cause}"] for cause in causes] == [1, 1, 1, 1, 1]
    assert found["lock_waits"] == 3
    assert found["lock_wait_ms"] == 1000
    assert bench.store.locks.active == 0


def test_all_of_them_together_lock_so_many_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOCKED_RANGES_MAX", 3)
    bench = Sessions()
    one, other = bench.connect(), bench.connect()
    one("BEGIN")
    other("BEGIN")
    for start, end in (("a", "b"), ("c", "d")):
        one("RANGE", start, end)
    one("RANGE", "b", "c")  # joins the two, and takes the place of both
    other("RANGE", "e", "f")
    other("RANGE", "g", "h")
    assert "LOCKED_RANGES_MAX" in other.raises("TXTOOLARGE", "RANGE", "i", "j").message
    assert one("RANGE", "i", "j") == [None, []]  # what it held is free
    assert one("COMMIT") == "OK"
    assert bench.store.locks.ranges == 0
