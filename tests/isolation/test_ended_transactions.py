"""A transaction that ended by itself: whoever names it hears why, and takes note of it by naming it."""

from __future__ import annotations

import pytest

from tests.support.sessions import Caller, Sessions


@pytest.fixture
def sessions() -> Sessions:
    return Sessions()


def ended(sessions: Sessions) -> tuple[Caller, bytes]:
    """A client whose current transaction was idle for too long, and the id of that one."""
    client = sessions.connect()
    number = client("BEGIN", "TIMEOUT", 50)
    client("SET", "k", "v")
    sessions.pass_ms(1000)
    return client, number


def test_a_command_that_names_it_is_told_why(sessions: Sessions) -> None:
    client, number = ended(sessions)
    assert "TXTIMEOUT" in client.raises("NOTX", "TX", number, "GET", "k").message
    assert "TXTIMEOUT" in client.raises("NOTX", "GET", "k").message, "naming it in TX is no taking note"


@pytest.mark.parametrize("word", ["COMMIT", "ROLLBACK"])
def test_who_ends_it_by_its_name_takes_note_of_its_end(sessions: Sessions, word: str) -> None:
    client, number = ended(sessions)
    assert "TXTIMEOUT" in client.raises("NOTX", word, number).message
    assert client("GET", "k") is None
    assert "TXTIMEOUT" in client.raises("NOTX", word, number).message, "who names it again is told again"


def test_who_ends_another_one_takes_note_of_nothing(sessions: Sessions) -> None:
    client = sessions.connect()
    other = client("BEGIN")
    client("BEGIN", "TIMEOUT", 50)
    sessions.pass_ms(1000)
    assert client("ROLLBACK", other) == "OK"
    client.raises("NOTX", "GET", "k")


def test_the_end_of_a_parked_one_is_no_matter_of_plain_commands(sessions: Sessions) -> None:
    client, other = sessions.connect(), sessions.connect()
    other("BEGIN")
    other("SET", "b", "1")
    parked = client("BEGIN")
    client("BEGIN")
    client("COMMIT")
    client("TX", parked, "SET", "a", "1")
    other.send("GET", "a")
    client.raises("DEADLOCK", "TX", parked, "GET", "b")
    assert client("SET", "c", "1") == "OK"


def test_the_victim_of_its_own_request_takes_no_memory_any_more(sessions: Sessions) -> None:
    client, other = sessions.connect(), sessions.connect()
    other("BEGIN")
    other("SET", "b", "1")
    client("BEGIN")
    client("SET", "a", "1")
    other.send("GET", "a")
    client.raises("DEADLOCK", "GET", "b")
    sessions.settle()
    other("COMMIT")
    assert sessions.store.transactions.bytes == 0


# what is said


def test_a_bare_commit_names_those_that_are_open(sessions: Sessions) -> None:
    one = sessions.connect()
    first = one("BEGIN")
    one("BEGIN")
    assert one("COMMIT") == "OK"
    assert first.decode() in one.raises("NOTX", "COMMIT").message
    assert one("COMMIT", first) == "OK"
    assert "say BEGIN" in one.raises("NOTX", "COMMIT").message


def test_what_is_said_names_the_mistake(sessions: Sessions) -> None:
    one = sessions.connect()
    assert "26 letters" in one.raises("NOTX", "COMMIT", "NOW").message
    assert "TIMEOUT is in milliseconds" in one.raises("ERR", "BEGIN", "TIMEOUT", "abc").message
    one("BEGIN", "READONLY")
    assert "this one is READONLY" in one.raises("ERR", "LOCK", "k").message
    holder = one("BEGIN")
    one("SET", "k", 1)
    one("BEGIN")
    assert holder.decode() in one.raises("DEADLOCK", "SET", "k", 2).message


def test_a_rollback_of_what_has_ended_does_not_ask_for_a_rollback(sessions: Sessions) -> None:
    one, other = sessions.connect(), sessions.connect()
    number = one("BEGIN")
    other("TRANSACTION", "KILL", number)
    assert "say BEGIN or ROLLBACK" in one.raises("NOTX", "GET", "k").message
    told = one.raises("NOTX", "ROLLBACK").message
    assert told == "the transaction has ended (TRANSACTION KILL has ended it)"
    assert one.raises("NOTX", "COMMIT", number).message == told
