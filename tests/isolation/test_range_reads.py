"""What transactions are told of ranges holds until they are committed."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from keyhaus.core.errors import Conflict
from keyhaus.store import optimistic
from keyhaus.store.lock_requests import Client
from tests.support.based import BasedStore
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


def test_a_flush_that_begins_while_a_long_range_is_validated_hides_nothing() -> None:
    it = BasedStore()
    for number in range(10):
        it.soon(it.put(b"%d" % number, b"before"))
    transaction = it.store.transactions.begin("optimistic", 0, Client())
    transaction.enter(False)
    transaction.page(b"", None, 100)
    it.soon(it.put(b"9", b"since"))
    transaction.enter(True)
    transaction.put(b"other", b"v")
    with patch.object(optimistic, "SLICE_KEYS", 1):
        looked_through = transaction.prepare()
        assert looked_through is not None
        it.begin_flush()
        it.settle()
        assert looked_through.fired
        with pytest.raises(Conflict):
            transaction.check_commit()
