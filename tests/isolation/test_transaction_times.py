"""How long transactions may be idle, wait for a lock, live, and be asked for; time is moved by hand."""

from __future__ import annotations

from typing import Any

import pytest

from keyhaus.core.errors import Error
from keyhaus.store.ordered import DEAL_STEP
from keyhaus.store.transactions import WATCH_MS
from tests.support.sessions import Caller, Pending, Sessions

STRANGER = "tx-01t6mmm800" + 16 * "z"  # as old as the clock at its begin


class Bench(Sessions):
    """Two clients more than the one whose transaction is looked at."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.one, self.other, self.third = self.connect(), self.connect(), self.connect()

    def lock(self, key: str) -> None:
        """Somebody else locks a key, for long."""
        if self.third.session.interaction.current is None:
            self.third("BEGIN", "TIMEOUT", 1_000_000)
        assert self.third("LOCK", key) == "OK"

    def waits(self, caller: Caller, *words: str | int) -> Pending:
        pending = caller.send(*words)
        self.settle()
        assert isinstance(pending, Pending)
        assert not pending.done, pending.reply
        return pending


def fails(reply: Any, code: str, reason: str = "") -> None:
    assert isinstance(reply, Error), reply
    assert reply.code == code, reply.message
    assert reason in reply.message


# idle


def test_an_idle_transaction_ends_and_frees_its_locks() -> None:
    bench = Bench()
    number = bench.one("BEGIN", "TIMEOUT", 1000)
    bench.one("SET", "k", "v")
    bench.pass_ms(999)
    assert bench.one("GET", "k") == b"v"
    bench.pass_ms(1000 + WATCH_MS)
    assert bench.other("SET", "k", "w") == "OK"
    fails(bench.one("GET", "k"), "NOTX", "TXTIMEOUT")
    fails(bench.one("COMMIT"), "NOTX", "TXTIMEOUT")
    assert bench.one("TRANSACTION", "STATUS", number) == b"rolledback"
    assert bench.one("GET", "k") == b"w"


def test_the_limit_of_the_server_counts_where_begin_names_none() -> None:
    bench = Bench(transaction_idle_ms=500)
    bench.one("BEGIN")
    bench.pass_ms(499)
    assert bench.one("GET", "k") is None
    bench.pass_ms(500 + WATCH_MS)
    fails(bench.one("GET", "k"), "NOTX", "TXTIMEOUT")


def test_what_is_used_is_not_idle() -> None:
    bench = Bench()
    parked = bench.one("BEGIN", "TIMEOUT", 1000)
    bench.one("BEGIN", "TIMEOUT", 100_000)
    for _ in range(5):
        bench.pass_ms(600)
        assert bench.one("TX", parked, "GET", "k") is None
    for _ in range(3):
        bench.pass_ms(600)
        assert bench.one("GET", "k") is None
    fails(bench.one("TX", parked, "GET", "k"), "NOTX")
    assert bench.one("GET", "k") is None


def test_to_wait_for_a_lock_is_not_idling() -> None:
    bench = Bench()
    bench.lock("k")
    bench.one("BEGIN", "TIMEOUT", 1000)
    pending = bench.waits(bench.one, "GET", "k")
    bench.pass_ms(5000)
    bench.third("ROLLBACK")
    bench.settle()
    assert pending.done
    assert pending.reply is None
    bench.pass_ms(999)
    assert bench.one("GET", "k") is None
    bench.pass_ms(1000 + WATCH_MS)
    fails(bench.one("GET", "k"), "NOTX", "TXTIMEOUT")


def test_a_commit_that_waits_is_not_idle() -> None:
    bench = Bench()
    bench.lock("k")
    bench.one("BEGIN", "OPTIMISTIC", "TIMEOUT", 1000)
    bench.one("SET", "k", "v")
    pending = bench.waits(bench.one, "COMMIT")
    bench.pass_ms(5000)
    bench.third("ROLLBACK")
    bench.settle()
    assert pending.reply == "OK"


def test_idle_time_begins_anew_after_a_wait() -> None:
    bench = Bench()
    bench.lock("k")
    bench.one("BEGIN", "TIMEOUT", WATCH_MS // 2)
    pending = bench.waits(bench.one, "GET", "k")
    bench.pass_ms(2 * WATCH_MS - 5)
    bench.third("ROLLBACK")
    bench.settle()
    assert pending.done
    bench.pass_ms(10)
    assert bench.one("GET", "k") is None
    bench.pass_ms(2 * WATCH_MS)
    fails(bench.one("GET", "k"), "NOTX", "TXTIMEOUT")


def test_idle_time_begins_when_the_last_reply_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    unread = [True]
    monkeypatch.setattr(bench.one.session, "has_unread", lambda: unread[0])
    bench.one("BEGIN", "TIMEOUT", 1000)
    bench.one("SET", "k", "v")
    bench.pass_ms(10_000)
    assert bench.one("GET", "k") == b"v"
    unread[0] = False
    bench.pass_ms(2000)
    fails(bench.one("GET", "k"), "NOTX", "TXTIMEOUT")


# waiting for a lock


def test_a_lock_that_is_not_to_be_had_ends_the_transaction() -> None:
    bench = Bench(lock_timeout=2000)
    bench.lock("k")
    number = bench.one("BEGIN")
    bench.one("SET", "mine", 1)
    pending = bench.waits(bench.one, "GET", "k")
    bench.pass_ms(1999)
    assert not pending.done
    bench.pass_ms(1)
    fails(pending.reply, "LOCKTIMEOUT", "'k'")
    assert bench.other("SET", "mine", 2) == "OK"
    fails(bench.one("GET", "mine"), "NOTX", "LOCKTIMEOUT")
    fails(bench.one("COMMIT"), "NOTX")
    assert bench.one("TRANSACTION", "STATUS", number) == b"rolledback"


def test_each_wait_has_its_own_time() -> None:
    bench = Bench(lock_timeout=2000)
    bench.lock("a")
    fourth = bench.connect()
    fourth("BEGIN", "TIMEOUT", 1_000_000)
    fourth("LOCK", "b")
    bench.one("BEGIN")
    pending = bench.waits(bench.one, "MGET", "a", "b")
    bench.pass_ms(1500)
    bench.third("ROLLBACK")
    bench.pass_ms(1500)
    assert not pending.done
    fourth("ROLLBACK")
    bench.settle()
    assert pending.reply == [None, None]


def test_a_command_by_its_id_that_gets_no_lock_ends_the_transaction() -> None:
    bench = Bench(lock_timeout=2000)
    bench.lock("k")
    number = bench.one("BEGIN")
    bench.one("SET", "mine", 1)
    bench.one("BEGIN")
    pending = bench.waits(bench.one, "TX", number, "GET", "k")
    bench.pass_ms(2000)
    fails(pending.reply, "LOCKTIMEOUT")
    assert bench.one("TRANSACTION", "STATUS", number) == b"rolledback"
    assert bench.other("SET", "mine", 2) == "OK"
    assert bench.one("GET", "mine") == b"2"  # the current one lives on


def test_a_commit_that_gets_no_lock_ends_the_transaction() -> None:
    bench = Bench(lock_timeout=2000)
    bench.lock("k")
    number = bench.one("BEGIN", "OPTIMISTIC")
    bench.one("SET", "k", "v")
    pending = bench.waits(bench.one, "COMMIT")
    bench.pass_ms(2000)
    fails(pending.reply, "LOCKTIMEOUT")
    assert bench.one("TRANSACTION", "STATUS", number) == b"rolledback"
    fails(bench.one("COMMIT"), "NOTX")
    bench.third("ROLLBACK")
    assert bench.one("GET", "k") is None


def test_a_plain_write_that_gets_no_lock_does_nothing() -> None:
    bench = Bench(lock_timeout=2000)
    bench.lock("k")
    pending = bench.waits(bench.one, "MSET", "a", 1, "k", 2)
    bench.pass_ms(2000)
    fails(pending.reply, "LOCKTIMEOUT")
    assert bench.one("SET", "a", 3) == "OK"
    bench.third("ROLLBACK")
    bench.pass_ms(2000)
    assert bench.one("MGET", "a", "k") == [b"3", None]


def test_an_exec_that_gets_no_lock_does_nothing() -> None:
    bench = Bench(lock_timeout=2000)
    bench.lock("k")
    bench.one("MULTI")
    bench.one("SET", "a", 1)
    bench.one("SET", "k", 1)
    pending = bench.waits(bench.one, "EXEC")
    bench.pass_ms(2000)
    fails(pending.reply, "LOCKTIMEOUT")
    fails(bench.one("EXEC"), "ERR", "EXEC without MULTI")
    assert bench.one("GET", "a") is None


def test_without_a_lock_timeout_a_wait_has_no_end() -> None:
    bench = Bench(lock_timeout=0, transaction_max_ms=100_000_000)
    bench.lock("k")
    pending = bench.waits(bench.one, "SET", "k", "v")
    for _ in range(6):
        bench.pass_ms(900_000)
        assert bench.third("GET", "k") is None
        assert not pending.done
    bench.third("COMMIT")
    bench.settle()
    assert pending.reply == "OK"


# age


def test_a_transaction_does_not_live_for_ever_however_it_is_used() -> None:
    bench = Bench(transaction_max_ms=5000)
    bench.one("BEGIN")
    for _ in range(49):
        bench.pass_ms(100)
        assert bench.one("SET", "k", "v") == "OK"
    bench.pass_ms(100)
    assert bench.other("SET", "k", "w") == "OK"
    fails(bench.one("SET", "k", "v"), "NOTX", "TXTIMEOUT")


@pytest.mark.parametrize("mode", ["PESSIMISTIC", "OPTIMISTIC"])
def test_what_waits_grows_old_too(mode: str) -> None:
    bench = Bench(transaction_max_ms=5000, lock_timeout=0)
    bench.pass_ms(1)
    bench.one("BEGIN", mode)
    bench.one("SET", "mine", 1)
    bench.pass_ms(4000)
    bench.lock("k")
    words: tuple[str, ...] = ("SET", "k", "v")
    if mode == "OPTIMISTIC":
        bench.one(*words)
        words = ("COMMIT",)
    pending = bench.waits(bench.one, *words)
    bench.pass_ms(1000 + WATCH_MS)
    fails(pending.reply, "TXTIMEOUT")
    fails(bench.one("COMMIT"), "NOTX")
    assert bench.other("SET", "mine", 2) == "OK"


@pytest.mark.parametrize("mode", ["PESSIMISTIC", "OPTIMISTIC"])
def test_a_commit_that_waits_for_something_else_than_a_lock_grows_old_too(mode: str) -> None:
    bench = Bench(transaction_max_ms=5000)
    bench.one("BEGIN", mode)
    bench.one("SET", "k", "v")
    bench.store.hold(bench, held=True)
    pending = bench.waits(bench.one, "COMMIT")
    bench.pass_ms(5000)
    bench.store.hold(bench, held=False)
    bench.settle()
    fails(pending.reply, "TXTIMEOUT")
    assert bench.one("GET", "k") is None


# KILL


@pytest.mark.parametrize("mode", ["PESSIMISTIC", "OPTIMISTIC"])
def test_kill_fences_a_commit_that_waits_for_something_else_than_a_lock(mode: str) -> None:
    bench = Bench()
    number = bench.one("BEGIN", mode)
    bench.one("SET", "k", "v")
    bench.store.hold(bench, held=True)
    pending = bench.waits(bench.one, "COMMIT")
    assert bench.other("TRANSACTION", "KILL", number) == b"rolledback"
    bench.store.hold(bench, held=False)
    bench.settle()
    fails(pending.reply, "NOTX", "KILL")
    assert bench.other("GET", "k") is None
    assert bench.other("TRANSACTION", "STATUS", number) == b"rolledback"


@pytest.mark.parametrize("mode", ["PESSIMISTIC", "OPTIMISTIC", "READONLY"])
@pytest.mark.parametrize("words", [("RANGE", "", ""), ("RANDOMKEY",), ("SCAN", 0)])
def test_kill_ends_a_command_that_waits_until_keys_are_in_order(mode: str, words: tuple[str, ...]) -> None:
    bench = Bench()
    keys = 2 * DEAL_STEP
    bench.other("MSET", *(word for number in range(keys) for word in (f"key:{number}", "x")))
    number = bench.one("BEGIN", mode)
    pending = bench.one.send(*words)
    assert isinstance(pending, Pending)
    assert bench.spawn.take_turn()
    assert not pending.done
    assert bench.other("TRANSACTION", "KILL", number) == b"rolledback"
    bench.settle()
    fails(pending.reply, "NOTX", "KILL")
    fails(bench.one("COMMIT"), "NOTX", "KILL")
    assert bench.one("SET", "k", "v") == "OK"


# outcomes


def test_an_outcome_is_known_for_its_time_and_then_expired() -> None:
    bench = Bench(transaction_outcome_ms=60_000, transaction_max_ms=10_000)
    committed = bench.one("BEGIN")
    bench.one("SET", "k", "v")
    seqno = bench.one("COMMIT", "WITHSEQNO")
    rolled_back = bench.one("BEGIN")
    bench.one("ROLLBACK")
    bench.pass_ms(69_000)
    assert bench.other("TRANSACTION", "STATUS", committed) == [b"committed", seqno]
    assert bench.other("TRANSACTION", "KILL", rolled_back) == b"rolledback"
    bench.pass_ms(2000)
    younger = bench.one("BEGIN")
    bench.one("ROLLBACK")
    for asked in ("STATUS", "KILL"):
        assert bench.other("TRANSACTION", asked, committed) == b"expired"
        assert bench.other("TRANSACTION", asked, rolled_back) == b"expired"
        assert bench.other("TRANSACTION", asked, younger) == b"rolledback"


def test_an_id_that_was_never_given_is_unknown_only_while_it_can_be_told() -> None:
    bench = Bench(transaction_outcome_ms=1000, transaction_max_ms=1000)
    assert bench.one("TRANSACTION", "STATUS", STRANGER) == b"unknown"
    bench.one("BEGIN")
    bench.one("ROLLBACK")
    bench.pass_ms(10_000)
    bench.one("BEGIN")
    assert bench.one("TRANSACTION", "STATUS", STRANGER) == b"expired"
