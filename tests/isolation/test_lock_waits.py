"""Who waits for whose locks, and who does not: plain commands, ranges, queues, deadlocks (T3, T5, T6), at each door."""

from __future__ import annotations

import pytest

from tests.support.doors import Client, Failure, House


@pytest.fixture
def one(house: House) -> Client:
    return house.connect()


@pytest.fixture
def other(house: House) -> Client:
    return house.connect()


@pytest.fixture
def third(house: House) -> Client:
    return house.connect()


def begin(*clients: Client) -> None:
    for client in clients:
        assert client("BEGIN").startswith(b"tx-")


def waiting(client: Client, *words: str | int) -> Client:
    """Sends a request that has to wait."""
    client.send(*words)
    assert client.waits(), f"{words} does not wait, but is answered {client.reply()!r}"
    return client


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


# inside a transaction


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


# deadlocks


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
