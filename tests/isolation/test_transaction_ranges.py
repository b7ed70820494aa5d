"""Ranges in a transaction (T3): they show its own writes in order, and nothing comes into what was read."""

from __future__ import annotations

import pytest

from tests.support.doors import Client, Failure, begin, waiting


def test_what_a_transaction_walks_over_has_its_own_writes_in_order(one: Client, other: Client) -> None:
    for mode in ("PESSIMISTIC", "OPTIMISTIC"):
        other("FLUSHDB")
        other("MSET", "b", 2, "d", 4, "f", 6)
        one("BEGIN", mode)
        one("MSET", "a", 1, "c", 3, "d", "four")
        one("DEL", "f")
        rows = [b"a", b"1", b"b", b"2", b"c", b"3", b"d", b"four"]
        assert one("RANGE", "", "") == [None, rows]
        assert one("RANGE", "", "", "REV", "KEYS") == [None, [b"d", b"c", b"b", b"a"]]
        assert one("RANGE", "b", "", "LIMIT", 2) == [b"d", [b"b", b"2", b"c", b"3"]]
        assert sorted(one("KEYS", "*")) == [b"a", b"b", b"c", b"d"]
        assert one("SCAN", 0, "COUNT", 100) == [b"0", [b"a", b"b", b"c", b"d"]]
        assert one("DBSIZE") == 4
        assert one("RANDOMKEY") in (b"a", b"b", b"c", b"d")
        assert one("DELRANGE", "b", "d") == 2
        assert one("DBSIZE") == 2
        assert other("DBSIZE") == 3
        assert one("COMMIT") == b"OK"
        assert other("RANGE", "", "") == [None, [b"a", b"1", b"d", b"four"]]


def test_its_own_flush_hides_all_that_was_there(one: Client, other: Client) -> None:
    for mode in ("PESSIMISTIC", "OPTIMISTIC"):
        other("MSET", "a", 1, "b", 2)
        one("BEGIN", mode)
        one("SET", "before", 1)
        one("FLUSHDB")
        assert one("DBSIZE") == 0
        assert one("MGET", "a", "before") == [None, None]
        assert one("RANDOMKEY") is None
        one("SET", "after", 1)
        assert one("DBSIZE") == 1
        assert one("KEYS", "*") == [b"after"]
        assert one("RANGE", "", "") == [None, [b"after", b"1"]]
        assert one("RANDOMKEY") == b"after"
        assert other("DBSIZE") == 2
        assert one("COMMIT") == b"OK"
        assert other("RANGE", "", "") == [None, [b"after", b"1"]]
        other("FLUSHDB")


def test_a_flush_that_was_rolled_back_never_was(one: Client, other: Client) -> None:
    other("SET", "k", "v")
    for mode in ("PESSIMISTIC", "OPTIMISTIC"):
        one("BEGIN", mode)
        one("FLUSHDB")
        one("SET", "k", "mine")
        one("ROLLBACK")
        assert one("GET", "k") == b"v"


@pytest.mark.parametrize(
    ("read", "inside", "beside"),
    [
        ("RANGE b d", "c", "d"),
        ("RANGE b d REV", "b", "d"),
        ("RANGE b b2 LIMIT 1", "b1", "c"),
        ("SCAN 0", "zzz", None),
        ("KEYS q*", "a", None),
        ("RANDOMKEY", "a", None),
        ("DBSIZE", "a", None),
        ("DELRANGE b d", "c", "a"),
    ],
)
def test_nothing_comes_into_a_range_that_was_read(
    one: Client, other: Client, third: Client, read: str, inside: str, beside: str | None
) -> None:
    begin(one)
    assert not isinstance(one(*read.split()), Failure)
    if beside is not None:
        assert third("SET", beside, 1) == b"OK"
    waiting(other, "SET", inside, 1)
    again = one(*read.split())
    assert one(*read.split()) == again
    assert one("COMMIT") == b"OK"
    assert other.reply() == b"OK"


def test_a_page_locks_what_it_has_shown(one: Client, other: Client, third: Client) -> None:
    other("MSET", "a", 1, "c", 3, "e", 5, "g", 7)
    begin(one)
    assert one("RANGE", "", "", "KEYS", "LIMIT", 2) == [b"e", [b"a", b"c"]]
    assert third("SET", "f", 1) == b"OK"
    waiting(other, "SET", "d", 1)
    assert one("RANGE", "", "", "KEYS", "REV", "LIMIT", 1) == [b"f\0", [b"g"]]
    assert one("COMMIT") == b"OK"
    assert other.reply() == b"OK"


def test_a_range_that_is_to_be_deleted_is_locked_exclusively(one: Client, other: Client, third: Client) -> None:
    begin(one, other, third)
    assert one("DELRANGE", "b", "d") == 0
    assert third("GET", "d") is None
    waiting(other, "GET", "c")
    assert one("COMMIT") == b"OK"
    assert other.reply() is None
    assert third("COMMIT") == b"OK"


def test_readers_share_keys_and_ranges(one: Client, other: Client, third: Client) -> None:
    third("SET", "k", "v")
    begin(one, other)
    for client in (one, other):
        assert client("GET", "k") == b"v"
        assert client("RANGE", "a", "z") == [None, [b"k", b"v"]]
        assert client("DBSIZE") == 1
    assert third("GET", "k") == b"v"
    waiting(third, "SET", "k", "w")
    one("COMMIT")
    assert third.waits()
    other("COMMIT")
    assert third.reply() == b"OK"


def test_a_flush_of_the_database_waits_for_its_users_and_they_for_it(one: Client, other: Client, third: Client) -> None:
    begin(one, other)
    one("GET", "missing")
    waiting(other, "FLUSHDB")
    assert third("SET", "k", "v") == b"OK"  # whoever keeps no lock keeps nobody waiting
    one("COMMIT")
    assert other.reply() == b"OK"
    waiting(third, "SET", "k", "w")
    assert other("RANGE", "", "") == [None, []]
    other("COMMIT")
    assert third.reply() == b"OK"
    assert third("RANGE", "", "") == [None, [b"k", b"w"]]


def test_locks_of_another_database_are_in_nobodys_way(one: Client, other: Client) -> None:
    begin(one)
    one("FLUSHDB")
    one("RANGE", "", "")
    other("SELECT", 1)
    assert other("SET", "k", "v") == b"OK"
    begin(other)
    assert other("DBSIZE") == 1
    waiting(other, "COPY", "k", "k", "DB", 0)
    assert one("COMMIT") == b"OK"
    assert other.reply() == 1
    assert other("COMMIT") == b"OK"
