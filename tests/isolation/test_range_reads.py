"""What transactions are told of ranges holds until they are committed."""

from __future__ import annotations

import pytest

from tests.support.sessions import Caller, Sessions


@pytest.fixture
def sessions() -> Sessions:
    return Sessions()


@pytest.fixture
def client(sessions: Sessions) -> Caller:
    return sessions.connect()


@pytest.fixture
def other(sessions: Sessions) -> Caller:
    return sessions.connect()


@pytest.mark.parametrize("words", [("RANGE", "a", "", "LIMIT", "1"), ("RANGE", "", "d", "REV", "LIMIT", "1")])
def test_the_key_behind_a_page_stays_there_too(
    sessions: Sessions, client: Caller, other: Caller, words: tuple[str, ...]
) -> None:
    client("MSET", "a", "1", "b", "2", "c", "3")
    client("BEGIN")
    page = client(*words)
    waiting = other.send("DEL", "b")
    assert client(*words) == page
    client("COMMIT")
    sessions.settle()
    assert waiting.reply == 1


def test_the_key_behind_a_page_is_validated_too(client: Caller, other: Caller) -> None:
    client("MSET", "a", "1", "b", "2", "c", "3")
    client("BEGIN", "OPTIMISTIC")
    assert client("RANGE", "a", "", "LIMIT", "1") == [b"b", [b"a", b"1"]]
    client("SET", "d", "4")
    other("DEL", "b")
    client.raises("CONFLICT", "COMMIT")
