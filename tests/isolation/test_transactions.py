"""What BEGIN, COMMIT, ROLLBACK, TX and TRANSACTION promise to a connection, one behaviour a test, at every door."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.support.doors import Client, Failure, House

ID = re.compile(rb"tx-[0-9a-hjkmnp-tv-z]{26}")
STRANGER = b"tx-01t6mmm800" + 16 * b"z"


def dead(one: Client, other: Client) -> bytes:
    """Lets the transaction of `one` die of a deadlock; its id. The other one's is rolled back."""
    assert other("BEGIN")
    number: bytes = one("BEGIN")
    assert other("LOCK", "first") == b"OK"
    assert one("LOCK", "second") == b"OK"
    other.send("LOCK", "second")
    assert other.waits()
    assert one.fails("LOCK", "first") == "DEADLOCK"
    assert other.reply() == b"OK"
    assert other("ROLLBACK") == b"OK"
    return number


# the current transaction


def test_begin_gives_an_id_and_what_follows_runs_inside(one: Client, other: Client) -> None:
    assert ID.fullmatch(one("BEGIN"))
    assert one("SET", "k", "v") == b"OK"
    assert one("GET", "k") == b"v"
    assert other("GET", "k") is None
    assert one("COMMIT") == b"OK"
    assert other("GET", "k") == b"v"


def test_rollback_leaves_nothing(one: Client, other: Client) -> None:
    one("BEGIN")
    one("MSET", "a", 1, "b", 2)
    assert one("ROLLBACK") == b"OK"
    assert other("DBSIZE") == 0
    assert one("GET", "a") is None


def test_a_second_begin_makes_the_new_one_current(one: Client, other: Client) -> None:
    first = one("BEGIN")
    one("SET", "a", "first")
    second = one("BEGIN")
    assert first != second
    one("SET", "b", "second")
    assert one("TX", first, "GET", "a") == b"first"
    assert one("COMMIT") == b"OK"
    assert other("MGET", "a", "b") == [None, b"second"]
    assert one("TX", first, "SET", "c", "first") == b"OK"
    assert one("COMMIT", first) == b"OK"
    assert other("MGET", "a", "c") == [b"first", b"first"]


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_after_the_end_of_the_current_one_none_is_current(one: Client, other: Client, end: str) -> None:
    one("BEGIN")
    one("BEGIN")
    assert one(end) == b"OK"
    assert one("SET", "k", "v") == b"OK"
    assert other("GET", "k") == b"v"
    assert one.fails(end) == "NOTX"


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_one_that_is_not_current_ends_by_its_id(one: Client, other: Client, end: str) -> None:
    parked = one("BEGIN")
    one("SET", "parked", 1)
    one("BEGIN")
    assert one(end, parked) == b"OK"
    one("SET", "current", 1)
    assert other("GET", "current") is None
    one("COMMIT")
    assert other("MGET", "parked", "current") == [b"1" if end == "COMMIT" else None, b"1"]


def test_the_current_one_ends_by_its_id_too(one: Client, other: Client) -> None:
    for end in ("COMMIT", "ROLLBACK"):
        assert one(end, one("BEGIN")) == b"OK"
        assert one("SET", "k", end) == b"OK"
        assert other("GET", "k") == end.encode()


def test_a_transaction_belongs_to_its_connection(one: Client, other: Client) -> None:
    number = one("BEGIN")
    one("SET", "k", "v")
    assert other.fails("TX", number, "GET", "k") == "NOTX"
    assert other.fails("COMMIT", number) == "NOTX"
    assert other.fails("ROLLBACK", number) == "NOTX"
    assert one("COMMIT") == b"OK"


@pytest.mark.parametrize("number", [STRANGER, b"tx-", b"nonsense", STRANGER.upper(), STRANGER + b"0"])
def test_an_id_that_is_none_is_notx(one: Client, number: bytes) -> None:
    for words in (("TX", number, "GET", "k"), ("COMMIT", number), ("ROLLBACK", number)):
        assert one.fails(*words) == "NOTX"


def test_an_ended_one_is_notx(one: Client) -> None:
    for end in ("COMMIT", "ROLLBACK"):
        number = one("BEGIN")
        one(end)
        assert one.fails("TX", number, "GET", "k") == "NOTX"
        assert one.fails("COMMIT", number) == "NOTX"


@pytest.mark.parametrize(
    "command", ["PING", "BEGIN", "COMMIT", "MULTI", "SELECT 1", "FLUSHALL", "SWAPDB 0 1", "WAIT 0 0"]
)
def test_tx_takes_data_commands_only(one: Client, other: Client, command: str) -> None:
    number = one("BEGIN")
    assert one.fails("TX", number, *command.split()) == "ERR"
    assert one("TX", number, "SET", "k", "v") == b"OK"
    assert one("COMMIT") == b"OK"
    assert other("GET", "k") == b"v"


def test_a_transaction_stays_in_its_database(one: Client, other: Client) -> None:
    number = one("BEGIN")
    one("BEGIN")
    one("ROLLBACK")
    assert one("SELECT", 1) == b"OK"
    assert one("TX", number, "SET", "k", "v") == b"OK"
    assert one("COMMIT", number) == b"OK"
    assert other("GET", "k") == b"v"
    assert one("GET", "k") is None


@pytest.mark.parametrize("mode", ["PESSIMISTIC", "OPTIMISTIC", "READONLY"])
def test_what_is_not_there_is_not_looked_for_outside(one: Client, other: Client, mode: str) -> None:
    one("BEGIN", mode)
    if mode != "READONLY":
        one("FLUSHDB")
        one("SET", "mine", 1)
        assert one("SET", "mine", 2, "NX") is None
        assert one("GETDEL", "k") is None
    if mode != "PESSIMISTIC":
        other("SET", "k", "later")
    assert one("GET", "k") is None
    one("ROLLBACK")
    assert other("GET", "mine") is None
    assert other("GET", "k") == (b"later" if mode != "PESSIMISTIC" else None)


# what does not end it


def test_other_errors_leave_it_open_and_nothing_of_the_command(one: Client, other: Client) -> None:
    one("BEGIN")
    one("SET", "text", "abc")
    assert one.fails("INCR", "text") == "ERR"
    assert one.fails("SET", "k") == "ERR"
    assert one.fails("NONSENSE") == "ERR"
    assert one.fails("RENAME", "missing", "k") == "ERR"
    assert one("COMMIT") == b"OK"
    assert other("RANGE", "", "") == [None, [b"text", b"abc"]]


@pytest.mark.parametrize(
    "command",
    ["MULTI", "WATCH k", "SELECT 1", "FLUSHALL", "SWAPDB 0 1", "WAIT 0 0", "WAITAOF 0 0 0", "CHANGES AFTER 0"],
)
def test_what_would_slip_out_is_refused_and_it_lives_on(one: Client, other: Client, command: str) -> None:
    one("BEGIN")
    assert one.fails(*command.split()) == "ERR"
    assert one("SET", "k", "v") == b"OK"
    assert other("GET", "k") is None
    assert one("COMMIT") == b"OK"
    assert other("GET", "k") == b"v"
    assert not isinstance(one(*command.split()), Failure)


@pytest.mark.parametrize(
    "command", ["BEGIN", "COMMIT", "ROLLBACK", f"TX {STRANGER.decode()} GET k", "TRANSACTION LIST"]
)
def test_multi_refuses_it_when_it_is_queued(one: Client, command: str) -> None:
    one("MULTI")
    assert one.fails(*command.split()) == "ERR"
    assert one("SET", "k", "v") == b"QUEUED"
    assert one.fails("EXEC") == "EXECABORT"
    assert one("GET", "k") is None


@pytest.mark.parametrize("command", ["PING", "ECHO x", "TIME", "CLIENT ID", "INFO", "CONFIG GET port", "COMMAND COUNT"])
def test_what_is_about_connection_or_server_works_as_ever(one: Client, command: str) -> None:
    one("BEGIN")
    assert not isinstance(one(*command.split()), Failure)
    assert one("COMMIT") == b"OK"


def test_a_write_in_readonly_is_refused_and_it_lives_on(one: Client, other: Client) -> None:
    other("SET", "k", "v")
    one("BEGIN", "READONLY")
    other("SET", "k", "later")
    for words in (("SET", "k", "w"), ("DEL", "k"), ("FLUSHDB",), ("DELRANGE", "", ""), ("INCR", "n")):
        assert one.fails(*words) == "READONLY"
    assert one("GET", "k") == b"v"
    assert one("COMMIT") == b"OK"


@pytest.mark.parametrize("mode", ["", "OPTIMISTIC", "READONLY"])
def test_lock_is_for_pessimistic_ones(one: Client, mode: str) -> None:
    if mode:
        one("BEGIN", mode)
    assert one.fails("LOCK", "k") == "ERR"
    assert one("GET", "k") is None


@pytest.mark.parametrize(
    "words",
    [
        "SOMEHOW",
        "DURABILITY",
        "DURABILITY maybe",
        "TIMEOUT",
        "TIMEOUT 0",
        "TIMEOUT x",
        "OPTIMISTIC READONLY",
        "READONLY 5",
    ],
)
def test_begin_says_what_it_does_not_understand(one: Client, words: str) -> None:
    assert one.fails("BEGIN", *words.split()) == "ERR"
    assert one.fails("ROLLBACK") == "NOTX"


# what ends it


def test_after_an_end_by_error_nothing_slips_out(one: Client, other: Client) -> None:
    dead(one, other)
    for words in (("SET", "k", "v"), ("GET", "k"), ("DBSIZE",), ("MULTI",), ("FLUSHALL",)):
        reply = one(*words)
        assert isinstance(reply, Failure)
        assert reply.code == "NOTX"
        assert "DEADLOCK" in reply.message  # the reason
    assert one("PING") == b"PONG"
    assert other("DBSIZE") == 0


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_commit_and_rollback_take_note_of_the_end(one: Client, other: Client, end: str, named: bool) -> None:
    number = dead(one, other)
    reply = one(end, number) if named else one(end)
    assert isinstance(reply, Failure)
    assert reply.code == "NOTX"
    assert "DEADLOCK" in reply.message
    assert one("SET", "k", "v") == b"OK"
    assert other("GET", "k") == b"v"


def test_begin_takes_note_of_the_end(one: Client, other: Client) -> None:
    dead(one, other)
    assert ID.fullmatch(one("BEGIN"))
    assert one("SET", "k", "v") == b"OK"
    assert one("COMMIT") == b"OK"
    assert other("GET", "k") == b"v"


def test_reset_takes_note_of_the_end(one: Client, other: Client) -> None:
    dead(one, other)
    assert one("RESET") == b"RESET"
    assert one("SET", "k", "v") == b"OK"


def test_commands_of_another_one_take_no_note_of_the_end(one: Client, other: Client) -> None:
    parked = one("BEGIN")
    one("SET", "parked", "v")
    dead(one, other)
    assert one("TX", parked, "GET", "parked") == b"v"
    assert one.fails("GET", "k") == "NOTX"
    assert one("COMMIT", parked) == b"OK"
    assert one.fails("GET", "k") == "NOTX"
    assert one.fails("COMMIT") == "NOTX"
    assert one("GET", "parked") == b"v"


def test_the_end_of_one_that_is_not_current_is_told_to_its_own_commands_only(one: Client, other: Client) -> None:
    parked = one("BEGIN")
    one("LOCK", "second")
    one("BEGIN")
    one("ROLLBACK")
    other("BEGIN")
    other("LOCK", "first")
    one.send("TX", parked, "GET", "first")
    assert one.waits()
    assert other("TRANSACTION", "KILL", parked) == b"rolledback"
    assert one.reply().code == "NOTX"
    assert one.fails("TX", parked, "GET", "first") == "NOTX"
    assert one("SET", "k", "v") == b"OK"


def test_a_commit_that_fails_leaves_none_current(one: Client, other: Client) -> None:
    one("BEGIN", "OPTIMISTIC")
    one("GET", "k")
    other("SET", "k", "v")
    assert one.fails("COMMIT") == "CONFLICT"
    assert one("GET", "k") == b"v"
    assert one.fails("COMMIT") == "NOTX"


def test_reset_rolls_back(one: Client, other: Client) -> None:
    parked, current = one("BEGIN"), one("BEGIN")
    one("SET", "k", "v")
    assert one("RESET") == b"RESET"
    assert other("SET", "k", "w") == b"OK"
    assert other("TRANSACTION", "STATUS", parked) == b"rolledback"
    assert other("TRANSACTION", "STATUS", current) == b"rolledback"
    assert one("GET", "k") == b"w"


# how it ended


def test_withseqno_tells_the_commit(one: Client, other: Client) -> None:
    one("BEGIN")
    one("MSET", "a", 1, "b", 2)
    seqno = one("COMMIT", "WITHSEQNO")
    later = one("COMMIT", one("BEGIN"), "WITHSEQNO")
    assert later == seqno
    other("SET", "c", 3)
    number = one("BEGIN")
    one("SET", "d", 4)
    assert one("COMMIT", number, "WITHSEQNO") == seqno + 2
    (change,) = one("CHANGES", "AFTER", seqno - 1, "COUNT", 1)
    assert change[0] == seqno
    assert [operation[:3] for operation in change[2]] == [[b"put", 0, b"a"], [b"put", 0, b"b"]]


def test_the_seqno_of_a_readonly_one_is_its_begin(one: Client, other: Client) -> None:
    other("BEGIN")
    other("SET", "k", 1)
    seqno = other("COMMIT", "WITHSEQNO")
    one("BEGIN", "READONLY")
    other("SET", "k", 2)
    assert one("COMMIT", "WITHSEQNO") == seqno


def test_status_tells_what_became_of_it_on_any_connection(one: Client, other: Client) -> None:
    for mode in ("PESSIMISTIC", "OPTIMISTIC"):
        number = one("BEGIN", mode)
        one("SET", "k", "v")
        assert other("TRANSACTION", "STATUS", number) == b"open"
        seqno = one("COMMIT", "WITHSEQNO")
        assert other("TRANSACTION", "STATUS", number) == [b"committed", seqno]
        number = one("BEGIN", mode)
        one("ROLLBACK")
        assert other("TRANSACTION", "STATUS", number) == b"rolledback"


@pytest.mark.parametrize("mode", ["PESSIMISTIC", "OPTIMISTIC", "READONLY"])
def test_one_that_wrote_nothing_is_committed_too(house: House, one: Client, mode: str) -> None:
    number = one("BEGIN", mode)
    one("GET", "k")
    seqno = one("COMMIT", "WITHSEQNO")
    assert one("TRANSACTION", "STATUS", number) == [b"committed", seqno]


def test_status_of_an_id_that_was_never_given(one: Client) -> None:
    assert one("TRANSACTION", "STATUS", STRANGER) == b"unknown"
    assert one("TRANSACTION", "KILL", STRANGER) == b"unknown"
    assert one.fails("TRANSACTION", "STATUS", "tx-what") == "ERR"
    assert one.fails("TRANSACTION", "KILL", "tx-what") == "ERR"


def test_kill_ends_it_and_says_how_it_ended(one: Client, other: Client) -> None:
    number = one("BEGIN")
    one("SET", "k", "v")
    assert other("TRANSACTION", "KILL", number) == b"rolledback"
    assert other("SET", "k", "w") == b"OK"  # its locks are free
    reply = one("GET", "k")
    assert isinstance(reply, Failure)
    assert (reply.code, "KILL" in reply.message) == ("NOTX", True)
    assert one.fails("COMMIT") == "NOTX"
    number = one("BEGIN")
    one("SET", "k", "v")
    seqno = one("COMMIT", "WITHSEQNO")
    assert other("TRANSACTION", "KILL", number) == [b"committed", seqno]


def test_kill_ends_one_that_waits_for_a_lock(one: Client, other: Client, house: House) -> None:
    other("BEGIN")
    other("LOCK", "k")
    number = one("BEGIN")
    one("LOCK", "l")
    one.send("GET", "k")
    assert one.waits()
    assert house.connect()("TRANSACTION", "KILL", number) == b"rolledback"
    assert one.reply().code == "NOTX"
    assert other("SET", "l", 1) == b"OK"


def test_kill_fences_a_commit_that_waits(one: Client, other: Client, house: House) -> None:
    other("BEGIN")
    other("GET", "k")
    number = one("BEGIN", "OPTIMISTIC")
    one("SET", "k", "v")
    one.send("COMMIT")
    assert one.waits()
    third = house.connect()
    assert third("TRANSACTION", "STATUS", number) == b"open"
    assert third("TRANSACTION", "KILL", number) == b"rolledback"
    assert one.reply().code == "NOTX"
    assert other("COMMIT") == b"OK"
    assert other("GET", "k") is None
    assert one("SET", "k", "w") == b"OK"


def test_list_tells_of_those_that_are_open(one: Client, other: Client) -> None:
    assert one("TRANSACTION", "LIST") == []
    holder, waiter = one("BEGIN"), other("BEGIN")
    one("SET", "k", "v")
    other.send("GET", "k")
    assert other.waits()
    rows = [dict(zip(row[::2], row[1::2], strict=True)) for row in one("TRANSACTION", "LIST")]
    assert [row[b"id"] for row in rows] == [holder, waiter]
    assert [row[b"mode"] for row in rows] == [b"pessimistic"] * 2
    assert [row[b"waits-for"] for row in rows] == [[], [holder]]
    assert [row[b"writes"] for row in rows] == [1, 0]
    assert [row[b"locks"] for row in rows] == [2, 1]  # its key, and the mapping entry above
    one("COMMIT")
    assert other.reply() == b"v"


# limits


@pytest.fixture
def small(house: House) -> Iterator[int]:
    """How many bytes a transaction may write while the test runs."""
    client = house.connect()
    before = client("CONFIG", "GET", "max-transaction-bytes")[1]
    assert client("CONFIG", "SET", "max-transaction-bytes", 1024) == b"OK"
    yield 1024
    assert client("CONFIG", "SET", "max-transaction-bytes", before) == b"OK"


@pytest.mark.parametrize("mode", ["PESSIMISTIC", "OPTIMISTIC"])
def test_what_is_too_large_is_refused_at_its_step(one: Client, other: Client, small: int, mode: str) -> None:
    one("BEGIN", mode)
    assert one("SET", "a", "x" * 600) == b"OK"
    assert one.fails("SET", "b", "x" * 600) == "TXTOOLARGE"
    assert one.fails("GET", "a") == "NOTX"
    assert one.fails("ROLLBACK") == "NOTX"
    assert other.fails("SET", "c", "x" * small) == "TXTOOLARGE"
    assert other("DBSIZE") == 0


@pytest.mark.parametrize("mode", ["PESSIMISTIC", "OPTIMISTIC"])
def test_what_was_not_too_large_at_any_step_is_committed(one: Client, small: int, mode: str) -> None:
    one("BEGIN", mode)
    steps = 0
    while (reply := one("SET", f"key:{steps:04}", "x")) == b"OK":
        steps += 1
        assert steps < small
    assert reply.code == "TXTOOLARGE"
    assert one.fails("ROLLBACK") == "NOTX"
    one("BEGIN", mode)
    for number in range(steps):
        assert one("SET", f"key:{number:04}", "x") == b"OK"
    assert one("COMMIT") == b"OK"
