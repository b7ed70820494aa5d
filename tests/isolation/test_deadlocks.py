"""Deadlocks (T5): who dies, who goes before, and that nobody waits for his own connection."""

from __future__ import annotations

import pytest

from tests.support.doors import Client, begin, waiting


def test_of_two_the_younger_one_dies_whoever_asks_last(one: Client, other: Client, third: Client) -> None:
    for older_asks_last in (True, False):
        begin(one, other)
        one("LOCK", "a")
        other("LOCK", "b")
        if older_asks_last:
            waiting(other, "LOCK", "a")
            assert one("LOCK", "b") == b"OK"
            assert other.reply().code == "DEADLOCK"
        else:
            waiting(one, "LOCK", "b")
            assert other.fails("LOCK", "a") == "DEADLOCK"
            assert one.reply() == b"OK"
        assert other.fails("GET", "x") == "NOTX"
        assert other.fails("ROLLBACK") == "NOTX"
        assert one("SET", "a", 1) == b"OK"
        assert one("COMMIT") == b"OK"


def test_a_deadlock_says_who_waits_for_whom(one: Client, other: Client) -> None:
    first, second = one("BEGIN"), other("BEGIN")
    one("LOCK", "a")
    other("LOCK", "b")
    waiting(one, "LOCK", "b")
    reply = other("LOCK", "a")
    assert reply.code == "DEADLOCK"
    for part in (first.decode(), second.decode(), "'a'", "'b'"):
        assert part in reply.message
    one.reply()


def test_of_three_in_a_ring_the_youngest_dies(one: Client, other: Client, third: Client) -> None:
    clients = (one, other, third)
    begin(*clients)
    for client, key in zip(clients, "abc", strict=True):
        client("LOCK", key)
    waiting(third, "LOCK", "a")
    waiting(one, "LOCK", "b")
    assert other("LOCK", "c") == b"OK"
    assert third.reply().code == "DEADLOCK"
    assert one.waits()
    other("COMMIT")
    assert one.reply() == b"OK"
    one("COMMIT")


def test_of_two_that_have_read_a_key_one_can_write_it(one: Client, other: Client) -> None:
    begin(one, other)
    one("GET", "k")
    other("GET", "k")
    waiting(other, "SET", "k", "younger")
    assert one("SET", "k", "older") == b"OK"
    assert other.reply().code == "DEADLOCK"
    assert one("COMMIT") == b"OK"
    assert one("GET", "k") == b"older"


def test_ranges_are_part_of_deadlocks(one: Client, other: Client) -> None:
    begin(one, other)
    one("RANGE", "a", "m")
    other("RANGE", "n", "z")
    waiting(one, "SET", "p", 1)
    assert other.fails("DELRANGE", "b", "c") == "DEADLOCK"
    assert one.reply() == b"OK"
    assert one("COMMIT") == b"OK"


def test_a_transaction_waits_for_whatever_its_connection_waits_for(one: Client, other: Client) -> None:
    one("BEGIN")
    one("LOCK", "a")
    one("BEGIN")
    one("ROLLBACK")  # none is current; the first one holds its lock
    other("BEGIN")
    other("LOCK", "b")
    waiting(one, "SET", "b", "plain")
    assert other.fails("LOCK", "a") == "DEADLOCK"  # since the connection that could free it waits for this one
    assert one.reply() == b"OK"


def test_a_plain_command_never_dies_but_the_parked_one_where_it_is_younger(one: Client, other: Client) -> None:
    other("BEGIN")
    parked = one("BEGIN")
    one("LOCK", "a")
    one("BEGIN")
    one("ROLLBACK")
    other("LOCK", "b")
    waiting(one, "SET", "b", "plain")
    assert other("LOCK", "a") == b"OK"
    assert one.waits()  # the plain command lives on
    assert other("TRANSACTION", "STATUS", parked) == b"rolledback"
    other("COMMIT")
    assert one.reply() == b"OK"


@pytest.mark.parametrize("command", ["GET k", "SET k v", "RANGE a z"])
def test_a_lock_of_another_one_of_the_same_connection_is_a_deadlock_at_once(one: Client, command: str) -> None:
    parked = one("BEGIN")
    one("LOCK", "k")
    one("BEGIN")
    assert one.fails(*command.split()) == "DEADLOCK"
    assert one.fails("COMMIT") == "NOTX"
    assert one("COMMIT", parked) == b"OK"  # it lives on


def test_so_it_is_for_a_plain_command_and_for_exec(one: Client, other: Client) -> None:
    parked = one("BEGIN")
    one("LOCK", "k")
    one("BEGIN")
    one("ROLLBACK")
    assert one("GET", "k") is None
    assert one.fails("SET", "k", "v") == "DEADLOCK"
    assert one.fails("FLUSHALL") == "DEADLOCK"
    one("MULTI")
    one("SET", "k", "v")
    assert one.fails("EXEC") == "DEADLOCK"
    assert one("SET", "l", "v") == b"OK"
    assert one("COMMIT", parked) == b"OK"
    assert one("SET", "k", "v") == b"OK"


def test_and_for_an_optimistic_commit(one: Client) -> None:
    parked = one("BEGIN")
    one("GET", "k")
    one("BEGIN", "OPTIMISTIC")
    one("SET", "k", "v")
    assert one.fails("COMMIT") == "DEADLOCK"
    assert one("SET", "l", 1) == b"OK"
    assert one("COMMIT", parked) == b"OK"


def test_a_plain_command_that_can_not_have_its_locks_keeps_none(one: Client, other: Client) -> None:
    one("BEGIN")
    one("LOCK", "k")
    one("BEGIN")
    one("ROLLBACK")
    for _ in range(4):
        assert one.fails("MSET", "a", 1, "k", 2) == "DEADLOCK"
    assert other("SET", "a", 3) == b"OK"
    waiting(other, "FLUSHDB")
    one("RESET")
    assert other.reply() == b"OK"


def test_a_place_in_a_queue_costs_nobody_its_life(one: Client, other: Client, third: Client) -> None:
    begin(one, other, third)
    one("GET", "a")
    third("LOCK", "b")
    waiting(other, "SET", "a", 1)  # for the reader
    waiting(third, "GET", "a")  # behind it
    # The reader asks for what the last one holds, who only waits in a queue: so that one goes before.
    one.send("GET", "b")
    assert third.reply() is None
    assert one.waits()
    third("COMMIT")
    assert one.reply() is None
    one("COMMIT")
    assert other.reply() == b"OK"
    assert other("COMMIT") == b"OK"


def test_who_holds_a_share_goes_before_those_who_wait_for_it(one: Client, other: Client, third: Client) -> None:
    begin(one, third)
    one("GET", "k")
    waiting(other, "SET", "k", "plain")
    waiting(third, "GET", "k")
    assert one("SET", "k", "mine") == b"OK"
    one("COMMIT")
    assert other.reply() == b"OK"
    assert third.reply() == b"plain"
