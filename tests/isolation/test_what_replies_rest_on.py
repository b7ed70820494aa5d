"""What replies of transactions depend on, and what a COMMIT that was refused leaves behind."""

from __future__ import annotations

from typing import Any

import pytest

from keyhaus.core.errors import DiskFull
from keyhaus.store.transaction import Transaction
from tests.support.sessions import Sessions


@pytest.fixture
def sessions() -> Sessions:
    return Sessions()


def test_own_writes_depend_on_what_they_were_made_from(sessions: Sessions) -> None:
    one, other = sessions.connect(), sessions.connect()
    other("SET", "k", 5)
    seqno = sessions.store.last
    sessions.store.synced = seqno - 1
    one("BEGIN")
    assert one("INCR", "k") == 6
    assert one.session.depends == seqno
    assert one("GET", "k") == b"6"
    assert one.session.depends == seqno


def test_an_end_that_is_told_later_depends_on_what_caused_it(sessions: Sessions) -> None:
    one, other = sessions.connect(), sessions.connect()
    one("SET", "k", "v", "PX", 50)
    one("BEGIN")
    one("GET", "k")
    sessions.pass_ms(60)
    one.raises("CONFLICT", "GET", "other")
    other("SET", "later", 1)
    one.raises("NOTX", "GET", "k")
    assert 0 < one.session.depends < sessions.store.last


def test_a_conflict_for_an_expiry_carries_its_time(sessions: Sessions) -> None:
    """Else a clock that is set back after a crash would bring the record to life again (S6)."""
    one = sessions.connect()
    for ends in ("GET", "COMMIT"):
        one("SET", "k", "v", "PX", 50)
        one("BEGIN")
        one("GET", "k")
        sessions.clock.ms += 60  # nothing else happens
        before = sessions.store.last
        one.raises("CONFLICT", ends, *(("other",) if ends == "GET" else ()))
        assert sessions.store.last == before + 1
        assert one.session.depends == before + 1
        if ends == "GET":
            one.raises("NOTX", "ROLLBACK")


def test_a_refused_commit_forgets_its_validation(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = sessions.connect(), sessions.connect()
    for number in range(6000):
        other("SET", f"a{number:05}", 1)
    one("BEGIN", "OPTIMISTIC")
    assert len(one("RANGE", "a", "b", "KEYS")[1]) == 6000
    one("SET", "out", "made as z was not there")
    other("SET", "z", "late")
    commit, full = sessions.store.commit, [True]

    def refuse_once(transaction: Transaction) -> Any:
        if transaction.id is not None and full and full.pop():
            raise DiskFull("no room")
        return commit(transaction)

    monkeypatch.setattr(sessions.store, "commit", refuse_once)
    one.raises("DISKFULL", "COMMIT")
    assert not sessions.store.guards
    assert one("RANGE", "z", "") == [None, []]
    one.raises("CONFLICT", "COMMIT")
    assert other("GET", "out") is None


def test_keys_that_nobody_holds_are_not_kept(sessions: Sessions) -> None:
    one = sessions.connect()
    one("BEGIN")
    one("LOCK", "x")
    one("RANGE", "a", "b")
    one("ROLLBACK")
    for number in range(50):
        one("BEGIN")
        one("LOCK", b"%d" % number + bytes(1000))
        one("ROLLBACK")
    assert all(where.ordered is None and not where.keys for where in sessions.store.locks._databases.values())


def test_a_limit_on_memory_counts_for_commands_of_tx(sessions: Sessions) -> None:
    limited = Sessions(max_memory=200_000)
    one = limited.connect()
    number = one("BEGIN")
    refused = 0
    for place in range(100):
        reply = one("TX", number, "SET", f"k{place}", "x" * 5000)
        if reply != "OK":
            assert reply.code == "OOM"
            refused += 1
        else:
            assert one("COMMIT", number) == "OK"
            number = one("BEGIN")
    assert refused
