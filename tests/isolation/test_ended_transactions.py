"""A current transaction that ended by itself: nothing of its client's commands slips out of it (T4)."""

from __future__ import annotations

import pytest

from tests.support.sessions import Caller, Sessions


@pytest.fixture
def sessions() -> Sessions:
    return Sessions()


def _killed(sessions: Sessions, caller: Caller) -> None:
    """The caller begins a transaction, which is ended from elsewhere."""
    assert sessions.connect()("TRANSACTION", "KILL", caller("BEGIN")) == b"rolledback"


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_the_end_of_another_transaction_lets_nothing_slip_out(sessions: Sessions, end: str) -> None:
    client = sessions.connect()
    older = client("BEGIN")
    client("SET", "older", "1")
    _killed(sessions, client)
    assert client(end, older) == "OK"
    client.raises("NOTX", "SET", "slipped", "1")
    client.raises("NOTX", end)
    assert client("MGET", "older", "slipped") == [b"1" if end == "COMMIT" else None, None]


@pytest.mark.parametrize("words", [("COMMIT",), ("ROLLBACK",), ("BEGIN",), ("RESET",)], ids=" ".join)
def test_the_client_takes_note(sessions: Sessions, words: tuple[str, ...]) -> None:
    client = sessions.connect()
    _killed(sessions, client)
    client.raises("NOTX", "GET", "a")
    client(*words)
    assert client("GET", "a") is None


def test_a_commit_by_name_of_the_current_transaction_that_fails_is_noted(sessions: Sessions) -> None:
    client = sessions.connect()
    number = client("BEGIN", "OPTIMISTIC")
    client("GET", "a")
    sessions.connect()("SET", "a", "1")
    client.raises("CONFLICT", "COMMIT", number)
    assert client("GET", "a") == b"1"
