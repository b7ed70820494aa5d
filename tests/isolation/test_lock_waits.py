"""Who waits for whose locks, and who does not (T5, T6): plain commands, EXEC, optimistic COMMITs; and the queues."""

from __future__ import annotations

import pytest

from tests.support.doors import Client, Failure, House, begin, waiting

# plain commands

WRITES = (
    "SET k new",
    "DEL k",
    "DEL free k",
    "UNLINK free k",
    "APPEND k x",
    "GETDEL k",
    "GETEX k PERSIST",
    "EXPIRE k 100",
    "MSET free x k x",
    "MSETNX free x new x",
    "SETRANGE k 0 x",
    "RENAME k free2",
    "RENAME free k",
    "COPY free k REPLACE",
    "MOVE k 1",
    "DELRANGE k l",
    "FLUSHDB",
    "FLUSHALL",
    "SWAPDB 0 1",
    "SWAPDB 3 0",
)
FILLED = ("free", 1, "k", 2)
DONE = {"MSETNX free x new x"}  # writes nothing where a key is there, so it need not wait


def _fill(client: Client) -> None:
    client("MSET", *FILLED)
    client("EXPIRE", "k", 1000)


@pytest.mark.parametrize("lock", ["GET k", "LOCK k", "SET k mine", "RANGE a z", "DBSIZE"])
@pytest.mark.parametrize("command", WRITES)
def test_a_plain_write_waits_for_the_locks_on_what_it_writes(
    one: Client, other: Client, third: Client, lock: str, command: str
) -> None:
    _fill(third)
    begin(one)
    assert not isinstance(one(*lock.split()), Failure)
    other.send(*command.split())
    if command in DONE:
        assert other.reply() == 0
    else:
        assert other.waits(), f"{other.reply()!r}"
        assert third("MGET", "free", "k") == [b"1", b"2"]  # nothing of it has happened
        assert one("COMMIT") == b"OK"
        assert not isinstance(other.reply(), Failure)


def test_msetnx_waits_for_keys_that_are_not_there(one: Client, other: Client) -> None:
    begin(one)
    assert one("GET", "new") is None
    waiting(other, "MSETNX", "a", 1, "new", 2)
    one("SET", "new", "mine")
    one("COMMIT")
    assert other.reply() == 0  # it looks again
    assert other("GET", "a") is None


@pytest.mark.parametrize("command", ["SET other x", "DEL free", "RENAME free other", "COPY k other", "SETNX k x"])
def test_a_plain_write_does_not_wait_for_locks_on_what_it_only_reads_or_leaves(
    one: Client, other: Client, command: str
) -> None:
    _fill(other)
    begin(one)
    one("LOCK", "k")
    assert not isinstance(other(*command.split()), Failure)


@pytest.mark.parametrize("command", ["GET k", "MGET free k", "EXISTS k", "RANGE a z", "DBSIZE", "KEYS *", "RANDOMKEY"])
def test_plain_reads_never_wait(one: Client, other: Client, command: str) -> None:
    other("SET", "k", "old")
    begin(one)
    one("FLUSHDB")
    one("SET", "k", "new")
    before = other(*command.split())
    assert b"old" in str(before).encode() or before in (1, [b"k"], b"k")
    one("COMMIT")


def test_readers_of_snapshots_never_wait(one: Client, other: Client) -> None:
    other("SET", "k", "old")
    begin(one)
    one("FLUSHDB")
    one("SET", "k", "new")
    for mode in ("READONLY", "OPTIMISTIC"):
        other("BEGIN", mode)
        assert other("GET", "k") == b"old"
        assert other("RANGE", "", "") == [None, [b"k", b"old"]]
        assert other("DBSIZE") == 1
        assert other("COMMIT") == b"OK"


def test_an_exec_waits_for_all_that_it_writes_and_is_whole(one: Client, other: Client, third: Client) -> None:
    begin(one, third)
    one("LOCK", "a")
    third("LOCK", "b")
    other("MULTI")
    for words in (("SET", "a", 1), ("GET", "c"), ("SET", "b", 2)):
        assert other(*words) == b"QUEUED"
    waiting(other, "EXEC")
    one("SET", "c", 3)
    one("COMMIT")
    assert other.waits()
    third("COMMIT")
    assert other.reply() == [b"OK", b"3", b"OK"]


def test_an_exec_whose_watched_key_is_changed_while_it_waits_does_nothing(one: Client, other: Client) -> None:
    begin(one)
    one("LOCK", "k")
    other("WATCH", "w")
    other("MULTI")
    other("SET", "k", 1)
    waiting(other, "EXEC")
    one("SET", "w", 1)
    one("COMMIT")
    assert other.reply() is None
    assert other("GET", "k") is None


def test_a_plain_write_gets_through_though_one_of_its_keys_is_always_locked(
    one: Client, other: Client, third: Client
) -> None:
    holders = {"a": other, "b": third}
    begin(other, third)
    for key, holder in holders.items():
        holder("LOCK", key)
    waiting(one, "MSET", "a", 1, "b", 1)
    for _ in range(10):
        for key, holder in holders.items():
            holder("COMMIT")
            if not one.waits():
                assert one.reply() == b"OK"
                return
            begin(holder)
            holder.send("LOCK", key)
            if holder.waits():  # it holds what it has by now, and waits for the other one
                holders = {other_key: free for other_key, free in holders.items() if other_key != key}
                break
            assert holder.reply() == b"OK"
    raise AssertionError("it waits for ever")


# optimistic ones among locks


def test_an_optimistic_commit_waits_for_locks_and_then_validates(one: Client, other: Client) -> None:
    for changes in (False, True):
        begin(one)
        one("GET", "k")
        one("GET", "read")
        other("BEGIN", "OPTIMISTIC")
        other("GET", "read")
        other("SET", "k", "v")
        waiting(other, "COMMIT")
        if changes:
            one("SET", "read", 1)
        one("COMMIT")
        reply = other.reply()
        assert (reply.code == "CONFLICT") if changes else (reply == b"OK")


def test_an_optimistic_commit_does_not_wait_for_what_it_only_read(one: Client, other: Client) -> None:
    begin(one)
    one("LOCK", "k")
    other("BEGIN", "OPTIMISTIC")
    assert other("GET", "k") is None
    assert other("RANGE", "", "") == [None, []]
    other("SET", "l", 1)
    assert other("COMMIT") == b"OK"


# queues


def test_who_comes_first_is_served_first(house: House, one: Client) -> None:
    begin(one)
    one("LOCK", "k")
    queue = [house.connect() for _ in range(4)]
    begin(*queue)
    for client in queue:
        waiting(client, "LOCK", "k")
    one("COMMIT")
    for number, client in enumerate(queue):
        assert client.reply() == b"OK"
        for behind in queue[number + 1 :]:
            assert behind.waits()
        client("COMMIT")


def test_readers_do_not_keep_a_writer_waiting_for_ever(house: House, one: Client, other: Client) -> None:
    begin(one, other)
    one("GET", "k")
    waiting(other, "SET", "k", "v")
    late = [house.connect() for _ in range(3)]
    begin(*late)
    for client, words in zip(late, (("GET", "k"), ("RANGE", "a", "z"), ("GET", "k")), strict=True):
        waiting(client, *words)
    one("COMMIT")
    assert other.reply() == b"OK"
    assert all(client.waits() for client in late)
    other("COMMIT")
    assert [client.reply() for client in late] == [b"v", [None, [b"k", b"v"]], b"v"]


def test_a_plain_writer_is_not_kept_waiting_either(house: House, one: Client, other: Client) -> None:
    begin(one)
    one("GET", "k")
    waiting(other, "SET", "k", "v")
    late = house.connect()
    begin(late)
    waiting(late, "GET", "k")
    one("COMMIT")
    assert other.reply() == b"OK"
    assert late.reply() == b"v"


def test_who_has_gone_is_nobody_in_the_queue(one: Client, other: Client, third: Client) -> None:
    one("CONFIG", "SET", "lock-timeout", 0)
    begin(one, other, third)
    one("GET", "k")
    waiting(other, "SET", "k", 1)
    waiting(third, "GET", "k")
    other.vanish()
    assert third.reply() is None
    assert one("COMMIT") == b"OK"


def test_the_locks_of_one_that_has_gone_are_free(one: Client, other: Client) -> None:
    begin(one)
    one("MSET", "a", 1, "b", 2)
    waiting(other, "SET", "b", 3)
    one.vanish()
    assert other.reply() == b"OK"
    assert other("MGET", "a", "b") == [None, b"3"]


def test_the_locks_of_one_that_has_gone_while_it_waited_are_free(one: Client, other: Client, third: Client) -> None:
    one("CONFIG", "SET", "lock-timeout", 0)
    begin(one, other)
    one("LOCK", "a")
    other("LOCK", "b")
    waiting(other, "LOCK", "a")
    waiting(third, "SET", "b", 1)
    other.vanish()
    assert third.reply() == b"OK"
    assert one("COMMIT") == b"OK"
